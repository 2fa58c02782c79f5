//! The file layer under the store: the few calls it makes, behind traits, so that tests can drop,
//! tear and fail them.

use rustix::fs::{AtFlags, Mode, OFlags};
use std::fmt::Debug;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
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
    /// True if a file is not here, but lies in an object store.
    fn is_distant(&self, _path: &str) -> bool {
        false
    }
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
    /// Number of pages that are right in memory only: they could not be written when they were repaired.
    fn patches(&self) -> u64 {
        0
    }
    /// Writes those pages.
    fn write_patches(&self) -> io::Result<()> {
        Ok(())
    }
}

/// Reads exactly `len` bytes at `offset`, or as many as there are. A forged length takes no memory
/// that the file does not fill.
pub fn read_up_to(blob: &dyn Blob, offset: u64, len: usize) -> io::Result<Vec<u8>> {
    const BELIEVED: usize = 1 << 20;
    let len = if len > BELIEVED {
        len.min(usize::try_from(blob.len()?.saturating_sub(offset)).unwrap_or(usize::MAX))
    } else {
        len
    };
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

/// The operating system's files below a directory, which may come from anywhere: nothing in it is
/// reached through a symbolic link, and only regular files are opened.
#[derive(Debug)]
pub struct OsVolume {
    root: PathBuf,
}

impl OsVolume {
    /// The tree at `root`.
    pub fn new(root: &Path) -> Self {
        Self { root: root.to_owned() }
    }

    /// A directory below the root.
    fn dir(&self, path: &str) -> io::Result<OwnedFd> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        // The root itself is the user's choice.
        let mut fd = rustix::fs::open(&self.root, flags, Mode::empty())?;
        for part in path.split('/').filter(|p| *p != ".") {
            fd = rustix::fs::openat(&fd, part, flags | OFlags::NOFOLLOW, Mode::empty())?;
        }
        Ok(fd)
    }

    /// The directory in which a path's last part is, and that part.
    fn at<'a>(&self, path: &'a str) -> io::Result<(OwnedFd, &'a str)> {
        let (dir, name) = path.rsplit_once('/').unwrap_or((".", path));
        Ok((self.dir(dir)?, name))
    }

    fn file(&self, path: &str, flags: OFlags) -> io::Result<Arc<dyn Blob>> {
        let (dir, name) = self.at(path)?;
        // A pipe or a device must not make us wait.
        let flags = flags | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(&dir, name, flags, Mode::RUSR | Mode::WUSR)?;
        let file = File::from(fd);
        if file.metadata()?.is_file() {
            Ok(Arc::new(file))
        } else {
            Err(io::Error::new(io::ErrorKind::InvalidData, "not a regular file"))
        }
    }
}

impl Volume for OsVolume {
    fn create(&self, path: &str) -> io::Result<Arc<dyn Blob>> {
        self.file(path, OFlags::RDWR | OFlags::CREATE | OFlags::EXCL)
    }

    fn open(&self, path: &str, write: bool) -> io::Result<Arc<dyn Blob>> {
        self.file(path, if write { OFlags::RDWR } else { OFlags::RDONLY })
    }

    fn list(&self, dir: &str) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in rustix::fs::Dir::new(self.dir(dir)?)? {
            match entry?.file_name().to_str() {
                Ok("." | "..") | Err(_) => {}
                Ok(name) => names.push(name.to_owned()),
            }
        }
        names.sort();
        Ok(names)
    }

    fn mkdir(&self, dir: &str) -> io::Result<()> {
        let (parent, name) = self.at(dir)?;
        match rustix::fs::mkdirat(&parent, name, Mode::RWXU) {
            Err(rustix::io::Errno::EXIST) => self.dir(dir).map(drop),
            made => Ok(made?),
        }
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let ((dir, from), (to_dir, to)) = (self.at(from)?, self.at(to)?);
        Ok(rustix::fs::renameat(&dir, from, &to_dir, to)?)
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        let (dir, name) = self.at(path)?;
        Ok(rustix::fs::unlinkat(&dir, name, AtFlags::empty())?)
    }

    fn sync_dir(&self, dir: &str) -> io::Result<()> {
        Ok(rustix::fs::fsync(self.dir(dir)?)?)
    }

    fn free_bytes(&self) -> io::Result<u64> {
        let s = rustix::fs::statvfs(&self.root)?;
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

/// A file's new content under a name that appears whole or not at all; durable on return.
pub fn write_file(volume: &dyn Volume, path: &str, bytes: &[u8]) -> io::Result<()> {
    put_file(volume, path, bytes)?;
    volume.sync_dir(path.rsplit_once('/').map_or(".", |(dir, _)| dir))
}

/// As [`write_file`], but the name is durable only once its directory was synced.
pub fn put_file(volume: &dyn Volume, path: &str, bytes: &[u8]) -> io::Result<()> {
    let temporary = format!("{path}.tmp");
    let make = || {
        if let Err(e) = volume.remove(&temporary)
            && e.kind() != io::ErrorKind::NotFound
        {
            return Err(e);
        }
        let blob = volume.create(&temporary)?;
        blob.write_at(bytes, 0)?;
        blob.sync()?;
        volume.rename(&temporary, path)
    };
    let made = make();
    if made.is_err() {
        let _ = volume.remove(&temporary);
    }
    made
}
