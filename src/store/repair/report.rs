//! What checks say of a store.

use crate::types::{FrameRef, Ino};

/// What a look at a file of the store came to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Checked {
    /// Bytes looked at.
    pub bytes: u64,
    /// Frames found whole, or made so.
    pub frames: u64,
    /// Pages that its sidecar knows of.
    pub pages: u64,
    /// Frames that had to be corrected.
    pub damaged_frames: u64,
    /// Pages that had to be rebuilt.
    pub damaged_pages: u64,
    /// Anything was not as it should be, the sidecar included; put right if that was asked for.
    pub damaged: bool,
}

/// What a look at a segment came to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SegmentCheck {
    /// The file.
    pub checked: Checked,
    /// Records of the log are lost that opening without the index would need.
    pub log_lost: bool,
    /// Live frames beyond repair: owner and offset in its file.
    pub lost: Vec<(FrameRef, Ino, u64)>,
}

/// Something wrong with the namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The inode.
    pub ino: Ino,
    /// What is wrong.
    pub reason: String,
}
