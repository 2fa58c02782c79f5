//! What the store takes and gives: errors, options, figures.

use super::remote::error::RemoteError;
use crate::types::{FrameRef, Ino};
use serde::{Deserialize, Serialize};

/// What can go wrong in the store.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The file system under the store has no room.
    #[error("no space left for the store {path}: {detail}")]
    NoSpace {
        /// The store's directory.
        path: String,
        /// What was being written.
        detail: String,
    },
    /// The guard of a transaction no longer holds: somebody else changed the range first.
    #[error("the range changed while it was being rewritten")]
    Conflict,
    /// Nothing refers to the frame any more: it was moved, or what it held was replaced. Whoever
    /// learned its place earlier asks for the place again.
    #[error("the frame at segment {} offset {} is no longer in use", .0.segment, .0.offset)]
    Outdated(FrameRef),
    /// A frame, or what it names, is damaged or missing.
    #[error("damaged frame at segment {segment} offset {offset}: {reason}")]
    Damaged {
        /// Segment number.
        segment: u32,
        /// Byte offset.
        offset: u32,
        /// What is wrong with it.
        reason: String,
    },
    /// A model file is damaged beyond repair.
    #[error("damaged model file {id}: {reason}")]
    DamagedModel {
        /// Its name: BLAKE3 of its bytes, in hexadecimal.
        id: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Another process has the store open.
    #[error(
        "{path} is in use by process {pid}; unmount it there first (lmfs umount), or use its mount point"
    )]
    InUse {
        /// The store's directory.
        path: String,
        /// The other process; 0 if unknown.
        pid: u32,
    },
    /// Not a store at all, or one this version cannot read; the text says which and the remedy.
    #[error("{0}")]
    Refused(String),
    /// It lies on a medium that takes no writes.
    #[error("{path} lies on a read-only medium: nothing of it can be changed")]
    ReadOnlyMedium {
        /// The store's directory.
        path: String,
    },
    /// The store was opened read-only.
    #[error("the store is open read-only")]
    ReadOnly,
    /// The index failed while in use; a remount rebuilds it from the log.
    #[error("the index failed: {0}; mount the store again to rebuild it")]
    Index(String),
    /// Nothing new is begun, and what takes long is given up.
    #[error("the store is being closed")]
    Closing,
    /// Whoever asked for it, or somebody else, wants no more of it.
    #[error("it was stopped")]
    Stopped,
    /// The object store, or what lies in it, does not let it be done.
    #[error(transparent)]
    Remote(#[from] RemoteError),
    /// A system call failed.
    #[error("{what}: {source}")]
    Io {
        /// What was being done, with the path.
        what: String,
        /// The system's answer.
        #[source]
        source: std::io::Error,
    },
}

impl StoreError {
    /// True if the object store does not let it be had now: what cannot be read is not lost.
    pub fn is_distant(&self) -> bool {
        match self {
            Self::Remote(_) => true,
            Self::Io { source, .. } => is_distant(source),
            _ => false,
        }
    }
}

/// True if it is the object store that an answer of a file comes from.
pub fn is_distant(e: &std::io::Error) -> bool {
    matches!(e.get_ref(), Some(inner) if inner.is::<RemoteError>())
}

/// Result of a store operation.
pub type Result<T> = std::result::Result<T, StoreError>;

/// Error-correction level of a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Ecc {
    /// Checksums only.
    None = 0,
    /// The default level.
    Standard = 1,
    /// For media that rot.
    Archival = 2,
}

/// What mkfs fixes for the life of a store.
#[derive(Debug, Clone)]
pub struct MkfsOptions {
    /// Bytes per block, `None` for the model's own.
    pub block_size: Option<u32>,
    /// Default model by name (`fast` or `off` so far).
    pub model: String,
    /// Error-correction level.
    pub ecc: Ecc,
}

/// How to open a store.
#[derive(Debug, Clone, Default)]
pub struct OpenOptions {
    /// No write to the store at all; the index is kept in memory.
    pub read_only: bool,
}

/// A name in a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dirent {
    /// The name: 1 to 255 bytes, any but `/` and NUL.
    pub name: Vec<u8>,
    /// The inode it names.
    pub ino: Ino,
    /// The `S_IFMT` bits of the inode's mode.
    pub kind: u32,
    /// Position in the directory: unique in it, stable while the entry lives, above 2.
    pub cookie: u64,
}

/// A language model that frames of this store may name. Immutable once put.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelEntry {
    /// The store's number for it, from 1.
    pub number: u16,
    /// BLAKE3 of the model's canonical file.
    pub id: [u8; 32],
    /// Version of the engine's numerics that frames were coded with.
    pub engine: u16,
    /// Name it goes by.
    pub name: String,
}

/// Figures of a store, in bytes unless said otherwise.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoreStats {
    /// Inodes that are not directories.
    pub files: u64,
    /// Inodes of any kind.
    pub inodes: u64,
    /// Sum of all extents' lengths (plaintext, holes not counted).
    pub logical_bytes: u64,
    /// All bytes under STORE but models and index.
    pub stored_bytes: u64,
    /// Live frames (headers included, parity not) chosen by the background coder, primers too.
    pub coded_bytes: u64,
    /// Live frames (headers included, parity not) left by writes.
    pub staged_bytes: u64,
    /// The last checkpoint of the namespace, and the batches since.
    pub meta_bytes: u64,
    /// Error-correcting parity: in live frames, and sidecars of segments.
    pub parity_bytes: u64,
    /// Bytes in segments that nothing refers to.
    pub dead_bytes: u64,
    /// Those of them that are in the object store only.
    #[serde(default)]
    pub dead_there_bytes: u64,
    /// Frames and pages repaired since the store was opened.
    pub repaired: u64,
    /// Live frames known to be damaged beyond repair, 100,000 at most.
    pub unrecoverable: u64,
    /// Live data frames.
    pub frames: u64,
}

impl StoreStats {
    /// Bytes here that nothing refers to.
    pub fn dead_here(&self) -> u64 {
        self.dead_bytes.saturating_sub(self.dead_there_bytes)
    }

    /// All that something refers to. A forged checkpoint may claim any totals, so the sum stops at
    /// the largest number.
    pub fn live_bytes(&self) -> u64 {
        let parts = [self.coded_bytes, self.staged_bytes, self.meta_bytes, self.parity_bytes];
        parts.into_iter().fold(0, u64::saturating_add)
    }
}

/// What the cleaner did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CleanReport {
    /// Bytes in segments before.
    pub before_bytes: u64,
    /// Bytes in segments after.
    pub after_bytes: u64,
    /// Frames moved.
    pub moved_frames: u64,
}

/// What the background cleaner does, and what all cleaning came to since the store was opened.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CleanerStatus {
    /// It looks after the store.
    pub on: bool,
    /// It moves something at the moment.
    pub busy: bool,
    /// Bytes appended to the log by others.
    pub written_bytes: u64,
    /// Bytes moved, by the cleaner and by commands.
    pub moved_bytes: u64,
    /// Bytes of segments that were deleted.
    pub freed_bytes: u64,
}

/// What the superblock says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Superblock {
    /// Format version.
    pub format: u32,
    /// Random identity, 16 bytes.
    pub uuid: [u8; 16],
    /// Bytes per block.
    pub block_size: u32,
    /// Error-correction level.
    pub ecc: Ecc,
    /// Default model's name.
    pub model: String,
}
