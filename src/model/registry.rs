//! The user's models: canonical files in one directory, found by name or id.

use super::bytes::FileError;
use super::file::{Manifest, Model};
use crate::codec::ENGINE;
use std::path::{Path, PathBuf};

/// Ending of a model's file.
const ENDING: &str = "lmfsmodel";
/// Names that mean something else.
pub const RESERVED: [&str; 2] = ["fast", "off"];

/// Why the registry does not do what it was asked for.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// A system call failed.
    #[error("{}: {source}", .path.display())]
    Io {
        /// File or directory.
        path: PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
    /// A model file is refused.
    #[error("{}: {source}", .path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: FileError,
    },
    /// There is no such model.
    #[error(
        "no model '{name}' in {}; there are: {known}. Get one with: lmfs model import FILE --name {name}",
        .dir.display()
    )]
    Unknown {
        /// What was asked for.
        name: String,
        /// The registry's directory.
        dir: PathBuf,
        /// Names of what is there.
        known: String,
    },
    /// The name cannot be used.
    #[error("'{0}' cannot be a model's name: use letters, digits, '.', '_', '-', not fast or off")]
    Name(String),
    /// The name belongs to another model.
    #[error(
        "there is another model '{0}'; remove it first (lmfs model rm {0}), or choose another name"
    )]
    Taken(String),
}

/// A model in the registry.
#[derive(Debug, Clone)]
pub struct Listed {
    /// BLAKE3 of the file.
    pub id: blake3::Hash,
    /// Name, licence, source.
    pub manifest: Manifest,
    /// Counts of its prior and weights of its network.
    pub parameters: u64,
    /// Length of the file.
    pub bytes: u64,
    /// Version of what is coded with it here.
    pub engine: u32,
}

/// One directory of models.
#[derive(Debug, Clone)]
pub struct Registry {
    dir: PathBuf,
}

impl Registry {
    /// `$LMFS_MODELS`, or `lmfs/models` where the user's data are kept.
    pub fn of_user() -> Self {
        let set = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
        let data = || set("XDG_DATA_HOME").or_else(|| set("HOME").map(|h| h.join(".local/share")));
        let dir = set("LMFS_MODELS").unwrap_or_else(|| {
            data().unwrap_or_else(|| PathBuf::from("/var/lib")).join("lmfs/models")
        });
        Self { dir }
    }

    /// A registry in this directory.
    pub fn at(dir: &Path) -> Self {
        Self { dir: dir.to_owned() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.join(format!("{name}.{ENDING}"))
    }

    /// All models, by name, and what is wrong with those that are refused.
    pub fn list(&self) -> Result<Vec<Result<Listed, RegistryError>>, RegistryError> {
        let io = |source| RegistryError::Io { path: self.dir.clone(), source };
        let entries = match std::fs::read_dir(&self.dir) {
            Ok(entries) => entries,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(e) => return Err(io(e)),
        };
        let mut paths = Vec::new();
        for entry in entries {
            let path = entry.map_err(io)?.path();
            if path.extension().is_some_and(|e| e == ENDING) {
                paths.push(path);
            }
        }
        paths.sort();
        Ok(paths.iter().map(|p| Ok(describe(&read(p)?, p)?.0)).collect())
    }

    /// The canonical file of the model with this name, or whose id begins so (8 digits at least).
    pub fn find(&self, name: &str) -> Result<Vec<u8>, RegistryError> {
        if is_name(name) && self.path(name).exists() {
            return read(&self.path(name));
        }
        let listed: Vec<Listed> = self.list()?.into_iter().flatten().collect();
        let id = |l: &&Listed| name.len() >= 8 && l.id.to_hex().starts_with(name);
        if let Some(l) = listed.iter().find(id) {
            return read(&self.path(&l.manifest.name));
        }
        let known: Vec<&str> = ["fast", "base"]
            .into_iter()
            .chain(listed.iter().map(|l| l.manifest.name.as_str()))
            .collect();
        Err(RegistryError::Unknown {
            name: name.to_owned(),
            dir: self.dir.clone(),
            known: known.join(", "),
        })
    }

    /// Keeps a model under its own name.
    pub fn add(&self, bytes: &[u8]) -> Result<Listed, RegistryError> {
        let (listed, _) = describe(bytes, Path::new("the model"))?;
        let name = &listed.manifest.name;
        if !is_name(name) {
            return Err(RegistryError::Name(name.clone()));
        }
        let path = self.path(name);
        if path.exists() {
            return if read(&path)? == bytes {
                Ok(listed)
            } else {
                Err(RegistryError::Taken(name.clone()))
            };
        }
        let io = |source| RegistryError::Io { path: path.clone(), source };
        std::fs::create_dir_all(&self.dir).map_err(io)?;
        // Whole or not there at all.
        let partial = self.dir.join(format!(".{name}.{}", std::process::id()));
        let written = std::fs::write(&partial, bytes)
            .and_then(|()| std::fs::File::open(&partial)?.sync_all())
            .and_then(|()| std::fs::rename(&partial, &path));
        if written.is_err() {
            let _ = std::fs::remove_file(&partial);
        }
        written.map_err(io)?;
        Ok(listed)
    }

    /// True if there is a file for a model of this name, whole or not.
    pub fn has(&self, name: &str) -> bool {
        is_name(name) && self.path(name).exists()
    }

    /// Its directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Makes its directory, if there is none.
    pub fn make(&self) -> Result<(), RegistryError> {
        std::fs::create_dir_all(&self.dir)
            .map_err(|source| RegistryError::Io { path: self.dir.clone(), source })
    }

    /// A file for work in progress on a model of this name; never listed as a model.
    pub fn workspace(&self, name: &str) -> Result<PathBuf, RegistryError> {
        self.make()?;
        Ok(self.dir.join(format!(".{name}.tuning")))
    }

    /// Deletes a model.
    pub fn remove(&self, name: &str) -> Result<(), RegistryError> {
        let (listed, _) = describe(&self.find(name)?, Path::new(name))?;
        let path = self.path(&listed.manifest.name);
        std::fs::remove_file(&path).map_err(|source| RegistryError::Io { path, source })
    }
}

/// True for what may be a model's name (and so a file's).
pub fn is_name(name: &str) -> bool {
    let fits = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
    !name.is_empty()
        && name.len() <= 64
        && name.bytes().all(fits)
        && !name.starts_with(['.', '-'])
        && !RESERVED.contains(&name)
}

fn read(path: &Path) -> Result<Vec<u8>, RegistryError> {
    std::fs::read(path).map_err(|source| RegistryError::Io { path: path.to_owned(), source })
}

/// What a canonical file holds.
pub fn describe(bytes: &[u8], path: &Path) -> Result<(Listed, Model), RegistryError> {
    let model = Model::from_bytes(bytes)
        .map_err(|source| RegistryError::File { path: path.to_owned(), source })?;
    let listed = Listed {
        id: blake3::hash(bytes),
        parameters: model.parameters(),
        bytes: bytes.len() as u64,
        engine: ENGINE.into(),
        manifest: model.manifest.clone(),
    };
    Ok((listed, model))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_names_of_files() {
        for good in ["base", "smollm2-135m", "a.b_c"] {
            assert!(is_name(good), "{good}");
        }
        for bad in ["", "fast", "off", "../x", ".hidden", "a/b", "-rf", "a b", &"x".repeat(65)] {
            assert!(!is_name(bad), "{bad}");
        }
    }

    #[test]
    fn what_is_not_there_is_named_with_what_is() {
        let dir = tempfile::tempdir().unwrap();
        let r = Registry::at(&dir.path().join("none"));
        assert!(r.list().unwrap().is_empty());
        let e = r.find("huge").unwrap_err().to_string();
        assert!(
            e.contains("'huge'") && e.contains("fast") && e.contains("lmfs model import"),
            "{e}"
        );
        std::fs::write(dir.path().join(format!("bad.{ENDING}")), b"nonsense").unwrap();
        let r = Registry::at(dir.path());
        assert!(matches!(r.list().unwrap()[..], [Err(RegistryError::File { .. })]));
        assert!(matches!(r.add(b"nonsense"), Err(RegistryError::File { .. })));
    }
}
