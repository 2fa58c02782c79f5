//! The few types every layer shares. Imports nothing of ours.

use std::fmt;

/// The extended attribute that names the model that codes a file.
pub const MODEL_XATTR: &[u8] = b"user.lmfs.model";
/// The value of an attribute of ours that does without: a file is kept uncoded, or has no filters.
pub const OFF: &[u8] = b"off";

/// Inode number. Never reused within a store; 1 is the root directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ino(pub u64);

impl Ino {
    /// The root directory.
    pub const ROOT: Self = Self(1);
}

impl fmt::Display for Ino {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A point in time: seconds since the epoch (may be negative) and nanoseconds (`0..1_000_000_000`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Time {
    /// Seconds since 1970-01-01 UTC.
    pub sec: i64,
    /// Nanoseconds within the second.
    pub nsec: u32,
}

impl Time {
    /// The wall clock now.
    pub fn now() -> Self {
        let d =
            std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        Self { sec: d.as_secs() as i64, nsec: d.subsec_nanos() }
    }
}

/// What an inode is, apart from its names, extents and extended attributes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attr {
    /// File type and permission bits, as in `st_mode`.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Names of the inode; 0 for an orphan (unlinked but open).
    pub nlink: u32,
    /// Device number, for device nodes.
    pub rdev: u32,
    /// Size in bytes.
    pub size: u64,
    /// Last access.
    pub atime: Time,
    /// Last change of content.
    pub mtime: Time,
    /// Last change of anything.
    pub ctime: Time,
    /// Birth.
    pub btime: Time,
    /// For directories: the parent (needed for `..` and for rename's loop check); else 0.
    pub parent: u64,
}

impl Attr {
    /// Those of something that this user makes now; for a directory, in the root.
    pub fn made_now(mode: u32) -> Self {
        let now = Time::now();
        Self {
            mode,
            // SAFETY: these calls have no preconditions.
            uid: unsafe { libc::getuid() },
            // SAFETY: as above.
            gid: unsafe { libc::getgid() },
            nlink: 1,
            rdev: 0,
            size: 0,
            atime: now,
            mtime: now,
            ctime: now,
            btime: now,
            parent: if mode & libc::S_IFMT == libc::S_IFDIR { Ino::ROOT.0 } else { 0 },
        }
    }

    /// The `S_IFMT` part of the mode.
    pub fn file_type(&self) -> u32 {
        self.mode & libc::S_IFMT
    }
    /// True for a directory.
    pub fn is_dir(&self) -> bool {
        self.file_type() == libc::S_IFDIR
    }
    /// True for a regular file.
    pub fn is_file(&self) -> bool {
        self.file_type() == libc::S_IFREG
    }
}

/// How a frame's payload was made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Encoding {
    /// The bytes themselves.
    #[default]
    Raw = 0,
    /// A zstd frame.
    Zstd = 1,
    /// Experts and arithmetic coder, no language model.
    Fast = 2,
    /// Language model, experts and arithmetic coder.
    Lm = 3,
}

impl Encoding {
    /// The encoding with this number on disk, if it is known to this version.
    pub fn from_u8(v: u8) -> Option<Self> {
        Some(match v {
            0 => Self::Raw,
            1 => Self::Zstd,
            2 => Self::Fast,
            3 => Self::Lm,
            _ => return None,
        })
    }
}

/// Where a frame lies: segment number, byte offset in it, bytes from first header to second, inclusive.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FrameRef {
    /// Segment number.
    pub segment: u32,
    /// Byte offset of the frame's first header in the segment file.
    pub offset: u32,
    /// Length of the whole frame in bytes.
    pub len: u32,
}

impl FrameRef {
    /// In a transaction: its frame of this number, which has no place yet. No frame is empty.
    pub fn unplaced(number: usize) -> Self {
        Self { segment: 0, offset: number as u32, len: 0 }
    }

    /// The number of a frame that has no place yet, in a transaction of so many.
    pub fn number_in(&self, frames: usize) -> Option<usize> {
        let number = self.offset as usize;
        (self.len == 0 && number < frames).then_some(number)
    }
}

/// What a frame of a file's bytes says of them: in its header, and in every extent that it holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct FrameMeta {
    /// How the payload was made.
    pub encoding: Encoding,
    /// True for what a write left behind (raw or zstd-1), false once the background coder chose.
    pub staged: bool,
    /// Several files have a part of it, one behind the other: it is no inode's, and says whose they are.
    pub shared: bool,
    /// The store's number of the language model that it was coded with; 0 for none.
    pub model: u16,
    /// Length of the plaintext in bytes.
    pub plain_len: u32,
    /// Content generation: the store-wide number of the write that made the content.
    pub generation: u64,
    /// The primer that it was coded with, or that it is; 0 for none.
    pub primer: u64,
}

/// A file's part of a shared frame: its first bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Share {
    /// Inode.
    pub ino: Ino,
    /// The generation of its content.
    pub generation: u64,
    /// Length in bytes, at least 1.
    pub len: u32,
}

/// A frame of a file's bytes: to be appended, or as read and checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// Inode that owns it; 0 if it is shared.
    pub ino: Ino,
    /// Offset in the file of its first byte; 0 if it is shared.
    pub off: u64,
    /// What its header says of it.
    pub meta: FrameMeta,
    /// First 8 bytes (little-endian) of the plaintext's BLAKE3 hash.
    pub plain_hash: u64,
    /// The coded bytes.
    pub payload: Vec<u8>,
}

/// A run of a file's bytes and the frame that holds them.
///
/// Extents of one inode never overlap; a gap between them is a hole and reads as zeros. A newer
/// extent cuts what it covers out of older ones, so an extent may be a *piece* of its frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// First byte in the file.
    pub off: u64,
    /// Length in bytes, at least 1.
    pub len: u64,
    /// The frame that holds it.
    pub frame: FrameRef,
    /// Offset of the extent's first byte in the frame's plaintext.
    pub frame_off: u32,
    /// What the frame's header says of it.
    pub meta: FrameMeta,
}

impl Extent {
    /// One past the last byte in the file.
    pub fn end(&self) -> u64 {
        self.off + self.len
    }

    /// True if it was made with this frame. In a shared one its generation is that of its part.
    pub fn is_of(&self, frame: &Frame) -> bool {
        if frame.meta.shared {
            return self.meta == FrameMeta { generation: self.meta.generation, ..frame.meta };
        }
        let begins = self.off.checked_sub(self.frame_off.into());
        self.meta == frame.meta && begins == Some(frame.off)
    }

    /// The piece of it that lies in `[off, off + len)`, if there is any.
    pub fn within(&self, off: u64, len: u64) -> Option<Self> {
        let (from, to) = (self.off.max(off), self.end().min(off.saturating_add(len)));
        (from < to).then(|| Self {
            off: from,
            len: to - from,
            frame_off: self.frame_off.saturating_add((from - self.off) as u32),
            ..*self
        })
    }
}
