//! Files, as clients name them.

use crate::fs::{Fs, FsError};
use crate::types::Ino;
use serde::{Deserialize, Serialize};
use std::fmt;

/// A file that a client asks about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FileName {
    /// By its inode number, which its mount tells.
    Inode {
        /// The number.
        inode: u64,
        /// What messages call it.
        shown: String,
    },
    /// By its path from the file system's root, in bytes.
    Path(Vec<u8>),
}

impl FileName {
    /// The inode that it names.
    pub fn find(&self, fs: &Fs) -> Result<Ino, FsError> {
        match self {
            Self::Inode { inode, .. } => {
                fs.getattr(Ino(*inode))?;
                Ok(Ino(*inode))
            }
            Self::Path(path) => fs.resolve(path),
        }
    }
}

impl fmt::Display for FileName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Inode { shown, .. } => f.write_str(shown),
            Self::Path(path) => f.write_str(&String::from_utf8_lossy(path)),
        }
    }
}
