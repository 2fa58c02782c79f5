//! The file layer under the store: the few calls it makes, behind traits, so that tests can drop,
//! tear and fail them.

use std::fmt::Debug;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A directory tree of files. Paths are relative to its root.
pub trait Volume: Send + Sync + Debug {
    /// Creates a file that must not exist, open for reading and writing.
    fn create(&self, path: &str) -> io::Result<Arc<dyn Blob>>;
    /// Opens an existing file.
    fn open(&self, path: &str, write: bool) -> io::Result<Arc<dyn Blob>>;
    /// Names in a directory.
    fn list(&self, dir: &str) -> io::Result<Vec<String>>;
    /// Creates a directory, mode 0700; it may exist.
    fn mkdir(&self, dir: &str) -> io::Result<()>;
    /// Gives a file another name in the same directory, in place of whatever has it.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    /// Removes a file.
    fn remove(&self, path: &str) -> io::Result<()>;
    /// Makes the names in a directory durable.
    fn sync_dir(&self, dir: &str) -> io::Result<()>;
    /// Bytes that this user may still write.
    fn free_bytes(&self) -> io::Result<u64>;
}

/// A file.
pub trait Blob: Send + Sync + Debug {
    /// Reads up to `buf.len()` bytes at `offset`; fewer only at the end of the file.
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize>;
    /// Writes all of `data` at `offset`.
    fn write_at(&self, data: &[u8], offset: u64) -> io::Result<()>;
    /// Makes data and length durable (`fdatasync`).
    fn sync(&self) -> io::Result<()>;
    /// Cuts or extends the file.
    fn truncate(&self, len: u64) -> io::Result<()>;
    /// Length in bytes.
    fn len(&self) -> io::Result<u64>;
    /// Makes sure that writes up to `end` find room, without changing the length.
    fn allocate(&self, end: u64) -> io::Result<()>;
}

/// Reads exactly `len` bytes at `offset`, or as many as there are.
pub fn read_up_to(blob: &dyn Blob, offset: u64, len: usize) -> io::Result<Vec<u8>> {
    let mut out = vec![0; len];
    let mut at = 0;
    while at < len {
        match blob.read_at(&mut out[at..], offset + at as u64)? {
            0 => break,
            n => at += n,
        }
    }
    out.truncate(at);
    Ok(out)
}

/// The operating system's files below a directory.
#[derive(Debug)]
pub struct OsVolume {
    root: PathBuf,
}

impl OsVolume {
    /// The tree at `root`.
    pub fn new(root: &Path) -> Self {
        Self { root: root.to_owned() }
    }
}

impl Volume for OsVolume {
    fn create(&self, path: &str) -> io::Result<Arc<dyn Blob>> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .mode(0o600)
            .custom_flags(libc::O_NOFOLLOW)
            .open(self.root.join(path))?;
        Ok(Arc::new(file))
    }

    fn open(&self, path: &str, write: bool) -> io::Result<Arc<dyn Blob>> {
        let file = OpenOptions::new()
            .read(true)
            .write(write)
            .custom_flags(libc::O_NOFOLLOW)
            .open(self.root.join(path))?;
        Ok(Arc::new(file))
    }

    fn list(&self, dir: &str) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in std::fs::read_dir(self.root.join(dir))? {
            if let Ok(name) = entry?.file_name().into_string() {
                names.push(name);
            }
        }
        names.sort();
        Ok(names)
    }

    fn mkdir(&self, dir: &str) -> io::Result<()> {
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(self.root.join(dir))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        std::fs::rename(self.root.join(from), self.root.join(to))
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        std::fs::remove_file(self.root.join(path))
    }

    fn sync_dir(&self, dir: &str) -> io::Result<()> {
        File::open(self.root.join(dir))?.sync_all()
    }

    fn free_bytes(&self) -> io::Result<u64> {
        let dir = File::open(&self.root)?;
        let mut s = std::mem::MaybeUninit::<libc::statvfs>::uninit();
        // SAFETY: the descriptor is open and the buffer is large enough; it is read only on success.
        let s = unsafe {
            if libc::fstatvfs(dir.as_raw_fd(), s.as_mut_ptr()) != 0 {
                return Err(io::Error::last_os_error());
            }
            s.assume_init()
        };
        Ok(s.f_bavail * s.f_frsize)
    }
}

impl Blob for File {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        FileExt::read_at(self, buf, offset)
    }

    fn write_at(&self, data: &[u8], offset: u64) -> io::Result<()> {
        self.write_all_at(data, offset)
    }

    fn sync(&self) -> io::Result<()> {
        self.sync_data()
    }

    fn truncate(&self, len: u64) -> io::Result<()> {
        self.set_len(len)
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }

    fn allocate(&self, end: u64) -> io::Result<()> {
        let start = Blob::len(self)?.min(end);
        if start == end {
            return Ok(());
        }
        // SAFETY: plain system call on an open descriptor.
        let r = unsafe {
            libc::fallocate(
                self.as_raw_fd(),
                libc::FALLOC_FL_KEEP_SIZE,
                start as libc::off_t,
                (end - start) as libc::off_t,
            )
        };
        match r {
            0 => Ok(()),
            _ => match io::Error::last_os_error() {
                // No such thing on this file system: writes will tell.
                e if matches!(e.raw_os_error(), Some(libc::EOPNOTSUPP | libc::ENOSYS)) => Ok(()),
                e => Err(e),
            },
        }
    }
}
