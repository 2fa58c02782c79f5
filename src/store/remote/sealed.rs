//! What an object store has to do for an archive, and a directory that does it.

use super::error::{RemoteError, Result};
use std::fmt::Debug;
use std::io::{self, Write};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

/// An object in a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Its name below the archive's URL.
    pub name: String,
    /// Its length in bytes.
    pub bytes: u64,
    /// When it was written, by the store's clock.
    pub modified: SystemTime,
}

/// Objects by name. They appear whole or not at all, and once written they do not change.
pub trait SealedStore: Send + Sync + Debug {
    /// All of an object.
    fn get(&self, name: &str) -> Result<Vec<u8>>;
    /// These bytes of an object, all of them.
    fn get_range(&self, name: &str, range: Range<u64>) -> Result<Vec<u8>>;
    /// Writes an object, in place of whatever has its name.
    fn put(&self, name: &str, bytes: &[u8]) -> Result<()>;
    /// Writes an object that must not exist; `Exists` if it does.
    fn put_if_absent(&self, name: &str, bytes: &[u8]) -> Result<()>;
    /// Deletes an object; it may be gone already.
    fn delete(&self, name: &str) -> Result<()>;
    /// All objects whose names begin with a directory's name and a slash.
    fn list(&self, dir: &str) -> Result<Vec<Listed>>;
    /// The URL, for messages: without credentials.
    fn url(&self) -> String;
}

/// Objects as files below a directory.
#[derive(Debug)]
pub struct DirStore {
    root: PathBuf,
    /// Makes names of files that are being written unique in this process.
    written: AtomicU64,
}

impl DirStore {
    /// The objects below `root`, which is made when something is written.
    pub fn new(root: &Path) -> Self {
        Self { root: root.to_owned(), written: AtomicU64::new(0) }
    }

    fn fail(&self, name: &str, e: &io::Error) -> RemoteError {
        let path = self.root.join(name).display().to_string();
        match e.kind() {
            io::ErrorKind::NotFound => RemoteError::NotFound(path),
            io::ErrorKind::AlreadyExists => RemoteError::Exists(path),
            io::ErrorKind::PermissionDenied
            | io::ErrorKind::NotADirectory
            | io::ErrorKind::ReadOnlyFilesystem => RemoteError::Refused(format!("{path}: {e}")),
            _ => RemoteError::Unavailable(format!("{path}: {e}")),
        }
    }

    /// Writes a durable file under a passing name, then gives it its own by `name_it`.
    fn write(
        &self,
        name: &str,
        bytes: &[u8],
        name_it: impl Fn(&Path, &Path) -> io::Result<()>,
    ) -> Result<()> {
        let path = self.root.join(name);
        let dir = path.parent().unwrap_or(&self.root);
        let number = self.written.fetch_add(1, Ordering::Relaxed);
        let passing = dir.join(format!(".{}.{number}.tmp", std::process::id()));
        let write = || {
            std::fs::create_dir_all(dir)?;
            let mut file = std::fs::File::create(&passing)?;
            file.write_all(bytes)?;
            file.sync_all()?;
            name_it(&passing, &path)?;
            std::fs::File::open(dir)?.sync_all()
        };
        let written = write();
        // After a rename it has gone.
        let _ = std::fs::remove_file(&passing);
        written.map_err(|e| self.fail(name, &e))
    }
}

impl SealedStore for DirStore {
    fn get(&self, name: &str) -> Result<Vec<u8>> {
        std::fs::read(self.root.join(name)).map_err(|e| self.fail(name, &e))
    }

    fn get_range(&self, name: &str, range: Range<u64>) -> Result<Vec<u8>> {
        let read = || {
            let file = std::fs::File::open(self.root.join(name))?;
            let there = file.metadata()?.len();
            if range.end > there {
                return Ok(Err(there));
            }
            let mut bytes = vec![0; (range.end - range.start) as usize];
            file.read_exact_at(&mut bytes, range.start)?;
            Ok(Ok(bytes))
        };
        match read() {
            Ok(Ok(bytes)) => Ok(bytes),
            Ok(Err(there)) => Err(RemoteError::Refused(format!(
                "{}: it has {there} bytes, {} were expected at least",
                self.root.join(name).display(),
                range.end
            ))),
            Err(e) => Err(self.fail(name, &e)),
        }
    }

    fn put(&self, name: &str, bytes: &[u8]) -> Result<()> {
        self.write(name, bytes, |from, to| std::fs::rename(from, to))
    }

    fn put_if_absent(&self, name: &str, bytes: &[u8]) -> Result<()> {
        // A link fails where the name is taken; a rename would replace it.
        self.write(name, bytes, |from, to| std::fs::hard_link(from, to))
    }

    fn delete(&self, name: &str) -> Result<()> {
        match std::fs::remove_file(self.root.join(name)) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(self.fail(name, &e)),
            _ => Ok(()),
        }
    }

    fn list(&self, dir: &str) -> Result<Vec<Listed>> {
        let entries = match std::fs::read_dir(self.root.join(dir)) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.map_err(|e| self.fail(dir, &e))?,
        };
        let mut out = Vec::new();
        for entry in entries {
            let entry = entry.map_err(|e| self.fail(dir, &e))?;
            let name = entry.file_name().to_string_lossy().into_owned();
            // What is being written, or was when its writer ended, is no object.
            if name.starts_with('.') {
                continue;
            }
            let Ok(meta) = entry.metadata() else { continue };
            let modified = meta.modified().map_err(|e| self.fail(dir, &e))?;
            out.push(Listed { name: format!("{dir}/{name}"), bytes: meta.len(), modified });
        }
        out.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(out)
    }

    fn url(&self) -> String {
        self.root.display().to_string()
    }
}
