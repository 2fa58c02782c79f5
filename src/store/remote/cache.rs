//! A cache of parts of objects on the local disk, by last use. It vouches for nothing: whoever reads from
//! it verifies what comes, and drops what is damaged.
//!
//! An object's parts lie in one sparse file at their own offsets, so a part that is dropped becomes a hole
//! and its room is free. After a restart the files' data say what is there.

use super::manifest::Object;
use crate::store::lock;
use lru::LruCache;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::num::NonZeroUsize;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

/// Bytes of a part; a multiple of the pages that sidecars know of.
pub const GRANULE: u64 = 64 << 10;
/// Files that are kept open.
const OPEN: NonZeroUsize = NonZeroUsize::new(128).unwrap();
/// What a cache in memory holds. Each object in it takes a descriptor.
const IN_MEMORY: u64 = 16 << 20;
/// The least that a cache has room for: a fetch and what is read beside it.
pub const LEAST: u64 = 16 << 20;

/// A part of an object: its number, from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Key {
    /// The object's hash.
    pub hash: [u8; 32],
    /// Which part.
    pub granule: u32,
}

/// What the cache holds and how it fares.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CacheFigures {
    /// Bytes that it may hold.
    pub capacity: u64,
    /// Bytes that it holds.
    pub used: u64,
    /// Parts that were there when they were wanted.
    pub hits: u64,
    /// Parts that were not.
    pub misses: u64,
    /// Parts that were damaged, and dropped.
    pub damaged: u64,
}

#[derive(Debug)]
struct Inner {
    parts: LruCache<Key, u32>,
    used: u64,
    /// How many parts of each object there are.
    counts: HashMap<[u8; 32], u32>,
    files: LruCache<[u8; 32], Arc<File>>,
}

/// See the module.
#[derive(Debug)]
pub struct Cache {
    /// `None`: it is in memory.
    dir: Option<PathBuf>,
    capacity: u64,
    inner: Mutex<Inner>,
    hits: AtomicU64,
    misses: AtomicU64,
    damaged: AtomicU64,
}

fn hex(hash: &[u8; 32]) -> String {
    blake3::Hash::from_bytes(*hash).to_hex().to_string()
}

/// The stretches of a file that have data.
fn extents(file: &File) -> io::Result<Vec<(u64, u64)>> {
    let seek = |from: u64, whence| {
        // SAFETY: a plain system call on an open descriptor.
        match unsafe { libc::lseek(file.as_raw_fd(), from as libc::off_t, whence) } {
            -1 => match io::Error::last_os_error() {
                e if e.raw_os_error() == Some(libc::ENXIO) => Ok(None),
                e => Err(e),
            },
            at => Ok(Some(at as u64)),
        }
    };
    let (mut out, mut at) = (Vec::new(), 0);
    while let Some(start) = seek(at, libc::SEEK_DATA)? {
        at = seek(start, libc::SEEK_HOLE)?.unwrap_or(start + 1);
        out.push((start, at));
    }
    Ok(out)
}

impl Cache {
    fn with(dir: Option<PathBuf>, capacity: u64, inner: Inner) -> Self {
        Self {
            dir,
            capacity,
            inner: Mutex::new(inner),
            hits: AtomicU64::new(0),
            misses: AtomicU64::new(0),
            damaged: AtomicU64::new(0),
        }
    }

    /// A small cache that goes with the process.
    pub fn in_memory() -> Self {
        let inner = Inner {
            parts: LruCache::unbounded(),
            used: 0,
            counts: HashMap::new(),
            files: LruCache::unbounded(),
        };
        Self::with(None, IN_MEMORY, inner)
    }

    /// The cache in a directory, with what is left there from before.
    pub fn open(dir: &Path, capacity: u64) -> io::Result<Self> {
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
        let inner = Inner {
            parts: LruCache::unbounded(),
            used: 0,
            counts: HashMap::new(),
            files: LruCache::new(OPEN),
        };
        let cache = Self::with(Some(dir.to_owned()), capacity.max(LEAST), inner);
        for entry in std::fs::read_dir(dir)? {
            let entry = entry?;
            let name = entry.file_name();
            let Some(hash) = name.to_str().and_then(|n| blake3::Hash::from_hex(n).ok()) else {
                continue;
            };
            if let Err(e) = cache.find(*hash.as_bytes()) {
                log::warn!("{}: {e}", entry.path().display());
            }
        }
        cache.shrink(&mut lock(&cache.inner));
        Ok(cache)
    }

    /// Enters the parts of an object that its file has data of.
    fn find(&self, hash: [u8; 32]) -> io::Result<()> {
        let mut inner = lock(&self.inner);
        let file = self.file(&mut inner, hash)?;
        let end = file.metadata()?.len();
        for (start, stop) in extents(&file)? {
            for granule in start / GRANULE..stop.div_ceil(GRANULE) {
                let len = GRANULE.min(end - granule * GRANULE) as u32;
                Self::enter(&mut inner, Key { hash, granule: granule as u32 }, len);
            }
        }
        if !inner.counts.contains_key(&hash) {
            inner.files.pop(&hash);
            self.remove_file(&hash)?;
        }
        Ok(())
    }

    fn file(&self, inner: &mut Inner, hash: [u8; 32]) -> io::Result<Arc<File>> {
        if let Some(file) = inner.files.get(&hash) {
            return Ok(Arc::clone(file));
        }
        let file = match &self.dir {
            Some(dir) => {
                let mut options = std::fs::OpenOptions::new();
                options.read(true).write(true).create(true).truncate(false).mode(0o600);
                options.custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK);
                options.open(dir.join(hex(&hash)))?
            }
            None => rustix::fs::memfd_create("lmfs", rustix::fs::MemfdFlags::CLOEXEC)?.into(),
        };
        let file = Arc::new(file);
        inner.files.put(hash, Arc::clone(&file));
        Ok(file)
    }

    fn remove_file(&self, hash: &[u8; 32]) -> io::Result<()> {
        self.dir.as_ref().map_or(Ok(()), |dir| std::fs::remove_file(dir.join(hex(hash))))
    }

    fn enter(inner: &mut Inner, key: Key, len: u32) {
        inner.used += u64::from(len);
        match inner.parts.put(key, len) {
            Some(old) => inner.used -= u64::from(old),
            None => *inner.counts.entry(key.hash).or_default() += 1,
        }
    }

    /// Makes a hole where a part was, or removes the file with its last part.
    fn erase(&self, inner: &mut Inner, key: Key, len: u32) {
        inner.used -= u64::from(len);
        let left = inner.counts.entry(key.hash).or_insert(1);
        *left -= 1;
        let gone = if *left == 0 {
            inner.counts.remove(&key.hash);
            inner.files.pop(&key.hash);
            self.remove_file(&key.hash)
        } else {
            self.file(inner, key.hash).and_then(|file| {
                let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
                let (at, len) = (u64::from(key.granule) * GRANULE, GRANULE);
                // SAFETY: a plain system call on an open descriptor.
                match unsafe {
                    libc::fallocate(file.as_raw_fd(), mode, at as libc::off_t, len as libc::off_t)
                } {
                    0 => Ok(()),
                    _ => Err(io::Error::last_os_error()),
                }
            })
        };
        if let Err(e) = gone {
            log::debug!("cache: {e}");
        }
    }

    fn shrink(&self, inner: &mut Inner) {
        while inner.used > self.capacity {
            let Some((key, len)) = inner.parts.pop_lru() else { break };
            self.erase(inner, key, len);
        }
    }

    /// A part as it lies here, unverified.
    pub fn get(&self, key: Key) -> Option<Vec<u8>> {
        let read = || {
            let (file, len) = {
                let mut inner = lock(&self.inner);
                let len = *inner.parts.get(&key)?;
                (self.file(&mut inner, key.hash).ok()?, len)
            };
            let mut bytes = vec![0; len as usize];
            file.read_exact_at(&mut bytes, u64::from(key.granule) * GRANULE).ok()?;
            Some(bytes)
        };
        let found = read();
        let count = if found.is_some() { &self.hits } else { &self.misses };
        count.fetch_add(1, Ordering::Relaxed);
        found
    }

    /// True if a part is here, whatever its state.
    pub fn has(&self, key: Key) -> bool {
        lock(&self.inner).parts.contains(&key)
    }

    /// Keeps a part, of verified bytes. What cannot be kept is fetched again the next time.
    pub fn put(&self, key: Key, bytes: &[u8]) {
        let mut inner = lock(&self.inner);
        let written = self
            .file(&mut inner, key.hash)
            .and_then(|f| f.write_all_at(bytes, u64::from(key.granule) * GRANULE));
        match written {
            Ok(()) => {
                Self::enter(&mut inner, key, bytes.len() as u32);
                self.shrink(&mut inner);
            }
            Err(e) => log::debug!("cache: {e}"),
        }
    }

    /// Drops a part that turned out to be damaged.
    pub fn drop_damaged(&self, key: Key) {
        self.damaged.fetch_add(1, Ordering::Relaxed);
        let mut inner = lock(&self.inner);
        if let Some(len) = inner.parts.pop(&key) {
            self.erase(&mut inner, key, len);
        }
    }

    /// All of an object, if all of it is here and has its hash.
    pub fn whole(&self, object: &Object) -> Option<Vec<u8>> {
        let granules = object.len.div_ceil(GRANULE) as u32;
        let key = |granule| Key { hash: object.hash, granule };
        if (0..granules).any(|g| !self.has(key(g))) {
            return None;
        }
        let mut bytes = Vec::new();
        for granule in 0..granules {
            bytes.extend_from_slice(&self.get(key(granule))?);
        }
        if object.is(&bytes) {
            return Some(bytes);
        }
        for granule in 0..granules {
            self.drop_damaged(key(granule));
        }
        None
    }

    /// Keeps all of an object, unless it would push most of everything else out.
    pub fn put_whole(&self, object: &Object, bytes: &[u8]) {
        if object.len > self.capacity / 2 {
            return;
        }
        for (granule, part) in bytes.chunks(GRANULE as usize).enumerate() {
            self.put(Key { hash: object.hash, granule: granule as u32 }, part);
        }
    }

    /// Drops everything.
    #[cfg(test)]
    pub fn clear(&self) {
        let mut inner = lock(&self.inner);
        while let Some((key, len)) = inner.parts.pop_lru() {
            self.erase(&mut inner, key, len);
        }
    }

    /// Bytes that it may hold.
    pub fn capacity(&self) -> u64 {
        self.capacity
    }

    /// Figures for `status`.
    pub fn figures(&self) -> CacheFigures {
        CacheFigures {
            capacity: self.capacity,
            used: lock(&self.inner).used,
            hits: self.hits.load(Ordering::Relaxed),
            misses: self.misses.load(Ordering::Relaxed),
            damaged: self.damaged.load(Ordering::Relaxed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(n: u8, granule: u32) -> Key {
        Key { hash: [n; 32], granule }
    }

    fn disk(dir: &Path) -> u64 {
        use std::os::unix::fs::MetadataExt;
        let files = std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().metadata().unwrap());
        files.map(|m| m.blocks() * 512).sum()
    }

    #[test]
    fn the_last_used_stay_and_the_disk_holds_no_more() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::open(dir.path(), LEAST).unwrap();
        let part = |n: u32| vec![n as u8; GRANULE as usize];
        let most = (LEAST / GRANULE) as u32;
        for n in 0..most {
            cache.put(key(1, n), &part(n));
        }
        assert_eq!(cache.get(key(1, 0)), Some(part(0)));
        for n in 0..most / 2 {
            cache.put(key(2, n), &part(n));
        }
        assert!(cache.has(key(1, 0)) && !cache.has(key(1, 1)) && cache.has(key(1, most - 1)));
        assert_eq!(cache.figures().used, LEAST);
        assert!(disk(dir.path()) <= LEAST + (1 << 20), "{}", disk(dir.path()));
        drop(cache);
        let again = Cache::open(dir.path(), LEAST).unwrap();
        assert_eq!(again.get(key(1, 0)), Some(part(0)));
        assert_eq!(again.get(key(2, 3)), Some(part(3)));
        assert_eq!(again.get(key(1, 1)), None);
        assert_eq!(again.figures().used, LEAST);
    }

    #[test]
    fn a_whole_object_is_here_only_if_it_has_its_hash() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::open(dir.path(), LEAST).unwrap();
        let bytes: Vec<u8> = (0..200_000u32).map(|i| (i.wrapping_mul(i) >> 5) as u8).collect();
        let object = Object::of(&bytes);
        assert_eq!(cache.whole(&object), None);
        cache.put_whole(&object, &bytes);
        assert!(cache.whole(&object).as_ref() == Some(&bytes));
        let file = dir.path().join(hex(&object.hash));
        let file = std::fs::OpenOptions::new().write(true).open(file).unwrap();
        file.write_all_at(b"!", 150_000).unwrap();
        assert_eq!(cache.whole(&object), None);
        assert_eq!(
            (cache.figures().used, cache.has(Key { hash: object.hash, granule: 0 })),
            (0, false)
        );
    }
}
