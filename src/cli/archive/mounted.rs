//! The tree of a mounted store, by ordinary system calls.

use super::super::Failure;
use super::{Bytes, Tree, about};
use crate::types::{Attr, Ino, Time};
use rustix::fs::SeekFrom;
use std::fs;
use std::io;
use std::ops::Range;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

/// Longest list of names, and longest value, of extended attributes.
const XATTR_MAX: usize = 64 << 10;

pub struct Mounted(PathBuf);

impl Mounted {
    pub fn new(dir: PathBuf) -> Self {
        Self(dir)
    }
}

impl Tree for Mounted {
    fn get(&self, path: &Path) -> Result<(Ino, Attr), Failure> {
        let m = fs::symlink_metadata(self.0.join(path)).map_err(|e| about(path, e))?;
        let time = |sec, nsec| Time { sec, nsec: nsec as u32 };
        let attr = Attr {
            mode: m.mode(),
            uid: m.uid(),
            gid: m.gid(),
            nlink: m.nlink() as u32,
            rdev: m.rdev() as u32,
            size: m.size(),
            atime: time(m.atime(), m.atime_nsec()),
            mtime: time(m.mtime(), m.mtime_nsec()),
            ctime: time(m.ctime(), m.ctime_nsec()),
            btime: Time::default(),
            parent: 0,
        };
        Ok((Ino(m.ino()), attr))
    }

    fn names(&self, path: &Path) -> Result<Vec<PathBuf>, Failure> {
        let list = || -> io::Result<Vec<PathBuf>> {
            fs::read_dir(self.0.join(path))?.map(|e| Ok(e?.file_name().into())).collect()
        };
        let mut names = list().map_err(|e| about(path, e))?;
        names.sort();
        Ok(names)
    }

    fn link(&self, path: &Path) -> Result<PathBuf, Failure> {
        fs::read_link(self.0.join(path)).map_err(|e| about(path, e))
    }

    fn xattrs(&self, path: &Path) -> Result<Vec<(String, Vec<u8>)>, Failure> {
        let at = self.0.join(path);
        let mut names = vec![0; XATTR_MAX];
        let n = rustix::fs::llistxattr(&at, &mut names[..]).map_err(|e| about(path, e))?;
        let mut out = Vec::new();
        for name in names[..n].split(|b| *b == 0).filter(|n| !n.is_empty()) {
            let mut value = vec![0; XATTR_MAX];
            let n = rustix::fs::lgetxattr(&at, name, &mut value[..]).map_err(|e| about(path, e))?;
            value.truncate(n);
            out.push((String::from_utf8_lossy(name).into_owned(), value));
        }
        Ok(out)
    }

    fn open(&self, path: &Path) -> Result<Box<dyn Bytes + '_>, Failure> {
        Ok(Box::new(File(fs::File::open(self.0.join(path)).map_err(|e| about(path, e))?)))
    }
}

struct File(fs::File);

impl Bytes for File {
    fn read(&mut self, off: u64, len: usize) -> io::Result<Vec<u8>> {
        let mut out = vec![0; len];
        let mut n = 0;
        while n < len {
            match self.0.read_at(&mut out[n..], off + n as u64)? {
                0 => break,
                more => n += more,
            }
        }
        out.truncate(n);
        Ok(out)
    }

    fn data(&mut self, off: u64) -> io::Result<Option<Range<u64>>> {
        let start = match rustix::fs::seek(&self.0, SeekFrom::Data(off)) {
            Err(rustix::io::Errno::NXIO) => return Ok(None),
            at => at?,
        };
        Ok(Some(start..rustix::fs::seek(&self.0, SeekFrom::Hole(start))?))
    }
}
