//! The tree of a store that is not mounted, read in this process; nothing of the store is changed.

use super::super::Failure;
use super::super::options::{Options, RemoteOptions};
use super::super::views::{self, View};
use super::{Bytes, Tree, about};
use crate::fs::{Fs, FsError};
use crate::store::{OpenOptions, Store, StoreError};
use crate::types::{Attr, Ino};
use std::ffi::OsString;
use std::io;
use std::ops::Range;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};

/// The file system, and what is held while an archive at a URL is read.
pub struct Offline(Arc<Fs>, #[allow(dead_code, reason = "held for its lock")] Option<View>);

impl Offline {
    pub fn open(store: &Path) -> Result<Self, StoreError> {
        Self::over(Store::open(store, &OpenOptions { read_only: true })?, None)
    }

    /// The tree of an archive at a URL.
    pub fn at(url: &str) -> Result<Self, Failure> {
        let (view, store) = views::open(url, &RemoteOptions::default())?;
        Ok(Self::over(store, Some(view))?)
    }

    fn over(store: Arc<Store>, view: Option<View>) -> Result<Self, StoreError> {
        match Fs::open(store, Options::offline()) {
            Ok(fs) => Ok(Self(fs, view)),
            Err(FsError::Store(e)) => Err(e),
            Err(e) => Err(StoreError::Refused(e.to_string())),
        }
    }

    fn ino(&self, path: &Path) -> Result<Ino, Failure> {
        self.0.resolve(path.as_os_str().as_bytes()).map_err(|e| about(path, e))
    }
}

impl Drop for Offline {
    fn drop(&mut self) {
        // Read-only: there is nothing that could be lost.
        let _ = self.0.shutdown();
    }
}

impl Tree for Offline {
    fn get(&self, path: &Path) -> Result<(Ino, Attr), Failure> {
        let ino = self.ino(path)?;
        Ok((ino, self.0.getattr(ino).map_err(|e| about(path, e))?))
    }

    fn names(&self, path: &Path) -> Result<Vec<PathBuf>, Failure> {
        let ino = self.ino(path)?;
        let entries = self.0.readdir(ino, 2, usize::MAX).map_err(|e| about(path, e))?;
        let mut names: Vec<_> =
            entries.into_iter().map(|d| PathBuf::from(OsString::from_vec(d.name))).collect();
        names.sort();
        Ok(names)
    }

    fn link(&self, path: &Path) -> Result<PathBuf, Failure> {
        let target = self.0.readlink(self.ino(path)?).map_err(|e| about(path, e))?;
        Ok(OsString::from_vec(target).into())
    }

    fn xattrs(&self, path: &Path) -> Result<Vec<(String, Vec<u8>)>, Failure> {
        let ino = self.ino(path)?;
        let names = self.0.listxattr(ino).map_err(|e| about(path, e))?;
        let mut out = Vec::new();
        for name in names.split(|b| *b == 0).filter(|n| !n.is_empty()) {
            let value = self.0.getxattr(ino, name).map_err(|e| about(path, e))?;
            out.push((String::from_utf8_lossy(name).into_owned(), value));
        }
        Ok(out)
    }

    fn open(&self, path: &Path) -> Result<Box<dyn Bytes + '_>, Failure> {
        Ok(Box::new(File { fs: &self.0, ino: self.ino(path)? }))
    }
}

struct File<'a> {
    fs: &'a Arc<Fs>,
    ino: Ino,
}

impl Bytes for File<'_> {
    fn read(&mut self, off: u64, len: usize) -> io::Result<Vec<u8>> {
        // As the kernel asks: what follows is decoded ahead, on all cores.
        let (answer, answered) = mpsc::channel();
        self.fs.read(self.ino, off, len as u64, move |bytes| {
            let _ = answer.send(bytes);
        });
        let bytes = answered.recv().map_err(io::Error::other)?;
        bytes.map_err(io::Error::other)
    }

    fn data(&mut self, off: u64) -> io::Result<Option<Range<u64>>> {
        let start = match self.fs.seek(self.ino, off, true) {
            Err(FsError::NoData) => return Ok(None),
            at => at.map_err(io::Error::other)?,
        };
        Ok(Some(start..self.fs.seek(self.ino, start, false).map_err(io::Error::other)?))
    }
}
