//! What `ls`, `cat`, `export` and `import` work on: the tree of an archive, through its mount where it
//! has one, else in this process.

pub mod cat;
pub mod export;
pub mod import;
pub mod ls;
mod mounted;
mod offline;

use super::target::{self, Target};
use super::{FAILED, Failure, mounts, views};
use crate::store::StoreError;
use crate::types::{Attr, Ino};
use std::ops::Range;
use std::path::{Path, PathBuf};

/// Something in an archive. Paths are relative to the archive's root; no symbolic link is followed.
pub trait Tree {
    /// What a path names.
    fn get(&self, path: &Path) -> Result<(Ino, Attr), Failure>;
    /// The names in a directory, in the order of their bytes.
    fn names(&self, path: &Path) -> Result<Vec<PathBuf>, Failure>;
    /// The target of a symbolic link.
    fn link(&self, path: &Path) -> Result<PathBuf, Failure>;
    /// Extended attributes: names and values.
    fn xattrs(&self, path: &Path) -> Result<Vec<(String, Vec<u8>)>, Failure>;
    /// A regular file, to be read.
    fn open(&self, path: &Path) -> Result<Box<dyn Bytes + '_>, Failure>;
}

/// The bytes of a file.
pub trait Bytes {
    /// Up to `len` bytes from `off` on; less means the end.
    fn read(&mut self, off: u64, len: usize) -> std::io::Result<Vec<u8>>;
    /// The next run of bytes at or after `off` that are not a hole.
    fn data(&mut self, off: u64) -> std::io::Result<Option<Range<u64>>>;
}

/// Bytes read at a time.
const CHUNK: usize = 1 << 20;

/// A failure that names what it is about.
fn about(path: &Path, e: impl std::fmt::Display) -> Failure {
    Failure::new(FAILED, format!("{}: {e}", path.display()))
}

/// The archive that a STORE|DIR argument names.
fn tree(at: &Path) -> Result<Box<dyn Tree>, Failure> {
    if let Some(url) = views::url(at) {
        return Ok(Box::new(offline::Offline::at(url)?));
    }
    let Target { store, mount } = target::of(at)?;
    if let Some(mount) = mount.as_ref().filter(|_| views::url_of(&store).is_some()) {
        return Ok(Box::new(mounted::Mounted::new(mount.dir.clone())));
    }
    match offline::Offline::open(&store) {
        Ok(tree) => Ok(Box::new(tree)),
        Err(e) if matches!(e, StoreError::InUse { .. }) => {
            let mount = mount.or_else(|| mounts::all().into_iter().find(|m| m.store == store));
            Ok(Box::new(mounted::Mounted::new(mount.ok_or(e)?.dir)))
        }
        Err(e) => Err(e.into()),
    }
}

/// A path as people give it, relative to the root: `/etc/../a` and `a` are the same.
fn relative(path: &Path) -> Result<PathBuf, Failure> {
    use std::path::Component::{CurDir, Normal, ParentDir, Prefix, RootDir};
    let mut out = PathBuf::new();
    for part in path.components() {
        match part {
            Normal(name) => out.push(name),
            ParentDir if out.pop() => {}
            ParentDir => return Err(about(path, "leads out of the archive")),
            RootDir | CurDir | Prefix(_) => {}
        }
    }
    Ok(out)
}
