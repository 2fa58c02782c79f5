//! What models were measured to do on this machine: a file beside the registry's models.
//!
//! A model's own file cannot hold it: its id would change, and another machine would be told wrong. What
//! another machine or another version of the engine left there is passed over.

use super::registry::Registry;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::PathBuf;

/// The file's name.
const FILE: &str = "measured.json";

/// What one model was measured to do.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Measured {
    /// Its name then.
    pub name: String,
    /// Bits per byte of the text, headers included.
    pub bits_per_byte: f64,
    /// Bytes of text coded per second.
    pub encode_bytes_per_s: f64,
    /// Bytes of text decoded per second.
    pub decode_bytes_per_s: f64,
    /// Bytes of the text.
    pub text_bytes: u64,
    /// BLAKE3 of the text, in hexadecimal.
    pub text: String,
    /// Version of the coder.
    pub engine: u32,
}

/// The file's contents.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Figures {
    /// What measured them.
    machine: String,
    /// By the models' ids.
    models: BTreeMap<String, Measured>,
    #[serde(skip)]
    path: PathBuf,
}

/// Processor and number of cores, as far as the system tells.
fn machine() -> String {
    let cpu = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = cpu.lines().find(|line| line.starts_with("model name"));
    let name = name.and_then(|line| line.split_once(": "));
    let name = name.map_or(std::env::consts::ARCH, |(_, name)| name.trim());
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    format!("{name}, {cores} cores")
}

impl Figures {
    /// Those of a registry; none where there are none, or none that can be read.
    pub fn of(registry: &Registry) -> Self {
        let path = registry.dir().join(FILE);
        let machine = machine();
        let none = Self { machine: machine.clone(), models: BTreeMap::new(), path: path.clone() };
        match std::fs::read(&path) {
            Ok(bytes) => match serde_json::from_slice::<Self>(&bytes) {
                Ok(read) if read.machine == machine => Self { path, ..read },
                Ok(_) => none,
                Err(e) => {
                    log::warn!("{}: {e}; measure anew: lmfs model bench", path.display());
                    none
                }
            },
            Err(_) => none,
        }
    }

    /// Of the model with this id, by this version of the coder.
    pub fn get(&self, id: &str, engine: u32) -> Option<&Measured> {
        self.models.get(id).filter(|m| m.engine == engine)
    }

    /// Keeps figures, whole or not at all.
    ///
    /// # Errors
    /// The system's, and the file's name.
    pub fn keep(&mut self, id: &str, measured: Measured) -> Result<(), (PathBuf, io::Error)> {
        self.models.insert(id.to_owned(), measured);
        self.write().map_err(|e| (self.path.clone(), e))
    }

    fn write(&self) -> io::Result<()> {
        let dir = self.path.parent().ok_or(io::ErrorKind::NotFound)?;
        std::fs::create_dir_all(dir)?;
        let partial = dir.join(format!(".{FILE}.{}", std::process::id()));
        let written = std::fs::File::create(&partial).and_then(|mut file| {
            file.write_all(&serde_json::to_vec_pretty(self)?)?;
            file.sync_all()?;
            std::fs::rename(&partial, &self.path)
        });
        if written.is_err() {
            let _ = std::fs::remove_file(&partial);
        }
        written
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_of_one_machine_and_one_engine() {
        let dir = tempfile::tempdir().unwrap();
        let registry = Registry::at(&dir.path().join("models"));
        let measured = Measured {
            name: "a".into(),
            bits_per_byte: 1.5,
            encode_bytes_per_s: 1e6,
            decode_bytes_per_s: 2e6,
            text_bytes: 10,
            text: "00".into(),
            engine: 2,
        };
        let mut f = Figures::of(&registry);
        assert_eq!(f.get("id", 2), None);
        f.keep("id", measured.clone()).unwrap();
        f.keep("other", measured.clone()).unwrap();
        let read = Figures::of(&registry);
        assert_eq!((read.get("id", 2), read.get("id", 3)), (Some(&measured), None));
        assert!(read.get("other", 2).is_some());
        assert!(registry.list().unwrap().is_empty());
        let path = registry.dir().join(FILE);
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, text.replace(&machine(), "another")).unwrap();
        assert_eq!(Figures::of(&registry).get("id", 2), None);
        // Half a file is none, and is replaced.
        std::fs::write(&path, &text[..text.len() / 2]).unwrap();
        let mut f = Figures::of(&registry);
        assert_eq!(f.get("id", 2), None);
        f.keep("id", measured).unwrap();
        assert!(Figures::of(&registry).get("id", 2).is_some());
        // A registry that cannot be written to is named.
        let file = dir.path().join("file");
        std::fs::write(&file, b"").unwrap();
        let mut f = Figures::of(&Registry::at(&file));
        let (path, _) = f.keep("id", read.get("id", 2).unwrap().clone()).unwrap_err();
        assert_eq!(path, file.join(FILE));
    }
}
