//! Where is searched: files and directories of a mount, read through it, or of a store that is not mounted, read
//! in this process.

use super::super::options::Options;
use super::super::{mounts, target};
use crate::control::{FileName, Request, StatEntry};
use crate::fs::{Fs, FsOptions};
use crate::store::{OpenOptions, Store, StoreError};
use crate::types::{Extent, Ino};
use serde::de::DeserializeOwned;
use std::collections::HashMap;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::ops::Range;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

/// Least bytes read at a time: a block of the models that come with the program.
const CHUNK_MIN: u64 = 128 << 10;
/// Most.
const CHUNK_MAX: u64 = 4 << 20;
/// Decoded blocks kept in memory while a store is searched: those that two chunks share, and those that were
/// looked at to find a time.
const CACHE: u64 = 64 << 20;

/// Something in an archive.
#[derive(Clone)]
pub enum Place {
    /// A path in a mount.
    Mounted(PathBuf, u64),
    /// An inode of a store that is not mounted.
    Stored(Arc<Fs>, Ino),
}

/// What a place is.
pub struct Look {
    /// `S_IFMT` bits of its mode.
    pub kind: u32,
    /// Size in bytes.
    pub size: u64,
    /// Last change: seconds since 1970.
    pub changed: i64,
    /// A number that is its own in its archive.
    pub inode: u64,
}

impl Place {
    /// What it is; a symbolic link in a mount is followed if `follow`.
    pub fn look(&self, follow: bool) -> io::Result<Look> {
        match self {
            Self::Mounted(path, _) => {
                let m = if follow { fs::metadata(path)? } else { fs::symlink_metadata(path)? };
                let kind = m.mode() & libc::S_IFMT;
                Ok(Look { kind, size: m.size(), changed: m.mtime(), inode: m.ino() })
            }
            Self::Stored(fs, ino) => {
                let a = fs.getattr(*ino).map_err(io::Error::other)?;
                let kind = a.file_type();
                Ok(Look { kind, size: a.size, changed: a.mtime.sec, inode: ino.0 })
            }
        }
    }

    /// Names in a directory and what they stand for, in the order in which the directory has them.
    pub fn below(&self) -> io::Result<Vec<(OsString, Self)>> {
        match self {
            Self::Mounted(path, chunk) => fs::read_dir(path)?
                .map(|entry| {
                    let name = entry?.file_name();
                    let place = Self::Mounted(path.join(&name), *chunk);
                    Ok((name, place))
                })
                .collect(),
            Self::Stored(fs, ino) => {
                let entries = fs.readdir(*ino, 2, usize::MAX).map_err(io::Error::other)?;
                let place = |ino| Self::Stored(Arc::clone(fs), ino);
                Ok(entries
                    .into_iter()
                    .map(|d| (OsString::from_vec(d.name), place(d.ino)))
                    .collect())
            }
        }
    }

    /// Bytes to be read at a time: no block is smaller, as far as is known.
    pub fn chunk(&self) -> u64 {
        match self {
            Self::Mounted(_, chunk) => *chunk,
            Self::Stored(fs, _) => bounded(fs.store().superblock().block_size.into()),
        }
    }

    /// A regular file, to be read.
    pub fn open(&self) -> io::Result<Source> {
        Ok(match self {
            Self::Mounted(path, _) => {
                let file = File::open(path)?;
                // What is not asked for is not to be decoded. It is no more than advice.
                let _ = rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::Random);
                Source::Mounted(file, path.clone(), OnceLock::new())
            }
            Self::Stored(fs, ino) => Source::Stored(Arc::clone(fs), *ino),
        })
    }
}

fn bounded(block: u64) -> u64 {
    block.clamp(CHUNK_MIN, CHUNK_MAX)
}

/// A file; any number of threads may read it at once.
pub enum Source {
    /// Of a mount, its path, and where it is damaged, once somebody has asked.
    Mounted(File, PathBuf, OnceLock<Vec<(u64, u64)>>),
    /// Of a store that is not mounted.
    Stored(Arc<Fs>, Ino),
}

/// A run of bytes, or what is wrong with those from one offset to another.
pub type Part = Result<Vec<u8>, (u64, u64, String)>;

impl Source {
    /// Up to `len` bytes from `off` on; less means the end.
    pub fn read(&self, off: u64, len: u64) -> io::Result<Vec<u8>> {
        match self {
            Self::Mounted(file, _, _) => {
                let mut out = vec![0; len as usize];
                let mut n = 0;
                while n < out.len() {
                    match file.read_at(&mut out[n..], off + n as u64) {
                        Ok(0) => break,
                        Ok(more) => n += more,
                        Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                        Err(e) => return Err(e),
                    }
                }
                out.truncate(n);
                Ok(out)
            }
            Self::Stored(fs, ino) => fs.read_now(*ino, off, len).map_err(io::Error::other),
        }
    }

    /// The same, with what can be read around what cannot.
    pub fn parts(&self, off: u64, len: u64) -> Vec<Part> {
        if let Ok(bytes) = self.read(off, len) {
            return vec![Ok(bytes)];
        }
        let end = off + len;
        let mut cuts = self.cuts(off, len);
        cuts.retain(|c| off < *c && *c < end);
        cuts.extend([off, end]);
        cuts.sort_unstable();
        cuts.dedup();
        let mut parts: Vec<Part> = Vec::new();
        for (from, to) in cuts.iter().zip(&cuts[1..]) {
            match self.read(*from, to - from) {
                Ok(bytes) => match parts.last_mut() {
                    Some(Ok(before)) => before.extend(bytes),
                    _ => parts.push(Ok(bytes)),
                },
                Err(e) => parts.push(Err((*from, *to, e.to_string()))),
            }
        }
        parts
    }

    /// Ranges in which each line lies that has all of these words; `None` for all of the file.
    pub fn held(&self, words: &[Vec<u8>]) -> Option<Vec<Range<u64>>> {
        match self {
            Self::Mounted(_, path, _) => {
                let text = |w: &Vec<u8>| String::from_utf8_lossy(w).into_owned();
                let words = words.iter().map(text).collect();
                let ranges: Vec<(u64, u64)> = ask(path, |path| Request::Words { path, words })?;
                Some(ranges.into_iter().map(|(start, end)| start..end).collect())
            }
            Self::Stored(fs, ino) => fs.may_hold(*ino, words).ok(),
        }
    }

    /// Where something else begins: a block, or what can be read.
    fn cuts(&self, off: u64, len: u64) -> Vec<u64> {
        match self {
            Self::Mounted(_, path, damage) => {
                let damage = damage.get_or_init(|| damaged(path).unwrap_or_default());
                damage.iter().flat_map(|(from, to)| [*from, *to]).collect()
            }
            Self::Stored(fs, ino) => {
                let extents: Vec<Extent> =
                    fs.store().extents_in(*ino, off, len).unwrap_or_default();
                extents.iter().flat_map(|e| [e.off, e.end()]).collect()
            }
        }
    }
}

/// Asks the daemon of a mount about a file in it.
fn ask<T: DeserializeOwned>(path: &Path, request: impl FnOnce(FileName) -> Request) -> Option<T> {
    let found = mounts::of(path).ok()??;
    let file = target::by_inode(&found, path).ok()?;
    let at = target::Target::from(found.release());
    serde_json::from_value(at.run(&request(file), &mut |_, _| {}).ok()?).ok()
}

/// What of a file in a mount its daemon knows to be damaged: from, to.
fn damaged(path: &Path) -> Option<Vec<(u64, u64)>> {
    let request = |file| Request::Stat { paths: vec![file], recurse: false };
    let entries: Vec<StatEntry> = ask(path, request)?;
    let all = entries.iter().flat_map(|e| &e.damaged);
    Some(all.map(|d| (d.offset, d.offset + d.length)).collect())
}

/// Finds what the arguments name; a store is opened once.
#[derive(Default)]
pub struct Archives {
    open: HashMap<PathBuf, Arc<Fs>>,
    /// Bytes to be read at a time from mounts, by their devices.
    chunks: HashMap<OsString, u64>,
}

impl Archives {
    /// What a path names: something in a mount, a store, or a path in a store that is not mounted.
    pub fn find(&mut self, path: &Path) -> Result<Place, String> {
        let shown = path.display();
        if let Some(found) = mounts::of(path).map_err(|f| f.message)? {
            let chunk = self.chunk(found.release());
            return Ok(Place::Mounted(path.to_owned(), chunk));
        }
        // The store is the path, or above what is no path outside of it.
        let above = path.ancestors().find(|a| a.symlink_metadata().is_ok());
        let above = above.filter(|a| a.join("superblock").is_file());
        let Some(store) = above else {
            return Err(match path.metadata() {
                Ok(_) => format!("{shown}: neither on a mounted lmfs nor a store"),
                Err(e) => format!("{shown}: {}", said(&e)),
            });
        };
        let inner = path.strip_prefix(store).unwrap_or(Path::new(""));
        let whole = store.canonicalize().unwrap_or_else(|_| store.to_owned());
        let fs = match self.open.get(&whole) {
            Some(fs) => Arc::clone(fs),
            None => match open(&whole) {
                Ok(fs) => {
                    self.open.insert(whole, Arc::clone(&fs));
                    fs
                }
                Err(e @ StoreError::InUse { .. }) => {
                    let mount = mounts::all().into_iter().find(|m| m.store == whole);
                    let mount = mount.ok_or_else(|| format!("{shown}: {e}"))?;
                    let dir = mount.dir.join(inner);
                    let chunk = self.chunk(mount);
                    return Ok(Place::Mounted(dir, chunk));
                }
                Err(e) => return Err(format!("{shown}: {e}")),
            },
        };
        let ino = fs.resolve(inner.as_os_str().as_bytes()).map_err(|e| format!("{shown}: {e}"))?;
        Ok(Place::Stored(fs, ino))
    }

    fn chunk(&mut self, mount: mounts::Mount) -> u64 {
        if let Some(known) = self.chunks.get(&mount.device) {
            return *known;
        }
        let device = mount.device.clone();
        let status = target::Target::from(mount).run(&Request::Status, &mut |_, _| {});
        let block = status.ok().and_then(|s| s["block_size"].as_u64());
        let chunk = bounded(block.unwrap_or(CHUNK_MIN));
        self.chunks.insert(device, chunk);
        chunk
    }
}

impl Drop for Archives {
    fn drop(&mut self) {
        for fs in self.open.values() {
            // Open for reading only: there is nothing that could be lost.
            let _ = fs.shutdown();
        }
    }
}

fn open(store: &Path) -> Result<Arc<Fs>, StoreError> {
    let store = Store::open(store, &OpenOptions { read_only: true })?;
    let options = FsOptions { cache_bytes: CACHE, ..Options::offline() };
    Fs::open(store, options).map_err(|e| match e {
        crate::fs::FsError::Store(e) => e,
        e => StoreError::Refused(e.to_string()),
    })
}

/// An error as other tools say it, without its number.
pub fn said(e: &io::Error) -> String {
    let text = e.to_string();
    text.split_once(" (os error").map_or(text.clone(), |(t, _)| t.to_owned())
}
