//! Files in memory under a store, with a record of everything that was done to them.

use crate::store::io::{Blob, Volume};
use crate::store::lock;
use std::collections::BTreeMap;
use std::io::{Error, ErrorKind, Result as IoResult};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

/// Something that was done to a volume. Files go by number: names come and go.
#[derive(Debug, Clone)]
pub enum Event {
    Create(String, usize),
    Rename(String, String, usize),
    Remove(String),
    SyncDir(String),
    Write(usize, u64, Vec<u8>),
    Truncate(usize, u64),
    Sync(usize),
    /// A sync of a file failed: what was on its way there is given up, though it can be read back
    /// for now.
    SyncFailed(usize),
    /// A bit of what is on the medium turned over.
    Rot(usize, u64, u8),
    /// Bytes of what is on the medium became zeros.
    Lose(usize, u64, usize),
    /// Not of the volume: the test was here.
    Mark(usize),
}

/// Files in memory that remember how they came about, run full, and fail.
#[derive(Debug, Default)]
pub struct MemVolume {
    pub files: Mutex<BTreeMap<String, Arc<MemBlob>>>,
    events: Arc<Mutex<Vec<Event>>>,
    numbers: AtomicUsize,
    room: Arc<Room>,
}

/// Bytes that files take, and may take.
#[derive(Debug)]
struct Room {
    used: AtomicU64,
    limit: AtomicU64,
    /// What is written over something needs room of its own, until the old is free.
    copies: AtomicBool,
}

impl Default for Room {
    fn default() -> Self {
        let limit = AtomicU64::new(1 << 40);
        Self { used: AtomicU64::new(0), limit, copies: AtomicBool::new(false) }
    }
}

impl Room {
    /// A file that took `before` bytes takes `after`.
    fn change(&self, before: usize, after: usize) -> IoResult<()> {
        let (before, after) = (before as u64, after as u64);
        let used = self.used.load(Ordering::SeqCst);
        if after > before && used + after - before > self.limit.load(Ordering::SeqCst) {
            return Err(Error::from_raw_os_error(libc::ENOSPC));
        }
        self.used.store(used + after - before, Ordering::SeqCst);
        Ok(())
    }

    /// Something is written over these many bytes.
    fn replace(&self, bytes: usize) -> IoResult<()> {
        if self.copies.load(Ordering::SeqCst) {
            self.change(0, bytes)?;
            self.change(bytes, 0)?;
        }
        Ok(())
    }
}

#[derive(Debug, Default)]
pub struct MemBlob {
    number: usize,
    pub inner: Mutex<MemInner>,
    events: Arc<Mutex<Vec<Event>>>,
    room: Arc<Room>,
    pub fail_sync: AtomicBool,
    /// Room cannot be allocated ahead, as on some file systems.
    pub no_allocate: AtomicBool,
}

#[derive(Debug, Default, Clone)]
pub struct MemInner {
    pub bytes: Vec<u8>,
    allocated: usize,
}

impl MemInner {
    fn takes(&self) -> usize {
        self.allocated.max(self.bytes.len())
    }
}

impl MemVolume {
    /// A volume with these files, all of them durable.
    pub fn with(files: BTreeMap<String, Vec<u8>>) -> Self {
        let volume = Self::default();
        for (path, bytes) in files {
            let blob = volume.enter(&path);
            volume.room.used.fetch_add(bytes.len() as u64, Ordering::SeqCst);
            lock(&blob.inner).bytes = bytes;
        }
        volume
    }

    /// What was done since the volume was made.
    pub fn events(&self) -> Vec<Event> {
        lock(&self.events).clone()
    }

    /// Enters a mark into the record.
    pub fn mark(&self, n: usize) {
        lock(&self.events).push(Event::Mark(n));
    }

    /// Turns a bit over, in the file and on the medium.
    pub fn rot(&self, path: &str, at: u64, bit: u8) {
        let files = lock(&self.files);
        let blob = &files[path];
        let mut events = lock(&self.events);
        lock(&blob.inner).bytes[at as usize] ^= 1 << bit;
        events.push(Event::Rot(blob.number, at, bit));
    }

    /// Bytes become zeros, in the file and on the medium.
    pub fn lose(&self, path: &str, at: u64, len: u64) {
        let files = lock(&self.files);
        let blob = &files[path];
        let mut events = lock(&self.events);
        let (at, len) = (at as usize, len as usize);
        lock(&blob.inner).bytes[at..at + len].fill(0);
        events.push(Event::Lose(blob.number, at as u64, len));
    }

    fn enter(&self, path: &str) -> Arc<MemBlob> {
        let number = self.numbers.fetch_add(1, Ordering::SeqCst);
        let events = Arc::clone(&self.events);
        let room = Arc::clone(&self.room);
        let blob = Arc::new(MemBlob { number, events, room, ..MemBlob::default() });
        lock(&self.files).insert(path.into(), Arc::clone(&blob));
        blob
    }

    /// Without room for another byte, or with as much as one likes.
    pub fn set_full(&self, full: bool) {
        let limit = if full { self.room.used.load(Ordering::SeqCst) } else { 1 << 40 };
        self.room.limit.store(limit, Ordering::SeqCst);
    }

    /// Copies on write, as some file systems do.
    pub fn set_copies(&self) {
        self.room.copies.store(true, Ordering::SeqCst);
    }

    /// Room for so many bytes in all.
    pub fn set_limit(&self, bytes: u64) {
        self.room.limit.store(bytes, Ordering::SeqCst);
    }

    /// Bytes that files take.
    pub fn used(&self) -> u64 {
        self.room.used.load(Ordering::SeqCst)
    }

    /// Bytes that the disk has left.
    pub fn free(&self) -> u64 {
        self.free_bytes().unwrap()
    }

    /// Room for so many bytes more.
    pub fn set_free(&self, bytes: u64) {
        self.room.limit.store(self.room.used.load(Ordering::SeqCst) + bytes, Ordering::SeqCst);
    }
}

fn missing() -> Error {
    Error::from_raw_os_error(libc::ENOENT)
}

impl Volume for MemVolume {
    fn create(&self, path: &str) -> IoResult<Arc<dyn Blob>> {
        if lock(&self.files).contains_key(path) {
            return Err(ErrorKind::AlreadyExists.into());
        }
        let blob = self.enter(path);
        lock(&self.events).push(Event::Create(path.into(), blob.number));
        Ok(blob)
    }
    fn open(&self, path: &str, _write: bool) -> IoResult<Arc<dyn Blob>> {
        let files = lock(&self.files);
        let blob = files.get(path).ok_or_else(missing)?;
        Ok(Arc::clone(blob) as Arc<dyn Blob>)
    }
    fn list(&self, dir: &str) -> IoResult<Vec<String>> {
        let prefix = format!("{dir}/");
        let files = lock(&self.files);
        Ok(files.keys().filter_map(|k| k.strip_prefix(&prefix).map(String::from)).collect())
    }
    fn mkdir(&self, _dir: &str) -> IoResult<()> {
        Ok(())
    }
    fn rename(&self, from: &str, to: &str) -> IoResult<()> {
        let mut files = lock(&self.files);
        let blob = files.remove(from).ok_or_else(missing)?;
        if let Some(old) = files.get(to) {
            self.room.change(lock(&old.inner).takes(), 0)?;
        }
        lock(&self.events).push(Event::Rename(from.into(), to.into(), blob.number));
        files.insert(to.into(), blob);
        Ok(())
    }
    fn remove(&self, path: &str) -> IoResult<()> {
        let gone = lock(&self.files).remove(path).ok_or_else(missing)?;
        self.room.change(lock(&gone.inner).takes(), 0)?;
        lock(&self.events).push(Event::Remove(path.into()));
        Ok(())
    }
    fn sync_dir(&self, dir: &str) -> IoResult<()> {
        lock(&self.events).push(Event::SyncDir(dir.into()));
        Ok(())
    }
    fn free_bytes(&self) -> IoResult<u64> {
        let used = self.room.used.load(Ordering::SeqCst);
        Ok(self.room.limit.load(Ordering::SeqCst).saturating_sub(used))
    }
}

/// Changes a file's bytes as a write does.
pub fn put(bytes: &mut Vec<u8>, at: usize, data: &[u8]) {
    let end = at + data.len();
    if bytes.len() < end {
        bytes.resize(end, 0);
    }
    bytes[at..end].copy_from_slice(data);
}

impl Blob for MemBlob {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> IoResult<usize> {
        let inner = lock(&self.inner);
        let from = (offset as usize).min(inner.bytes.len());
        let n = buf.len().min(inner.bytes.len() - from);
        buf[..n].copy_from_slice(&inner.bytes[from..from + n]);
        Ok(n)
    }
    fn write_at(&self, data: &[u8], offset: u64) -> IoResult<()> {
        if data.is_empty() {
            return Ok(());
        }
        let mut events = lock(&self.events);
        let mut inner = lock(&self.inner);
        let end = offset as usize + data.len();
        self.room.replace(inner.bytes.len().min(end).saturating_sub(offset as usize))?;
        self.room.change(inner.takes(), inner.takes().max(end))?;
        put(&mut inner.bytes, offset as usize, data);
        events.push(Event::Write(self.number, offset, data.to_vec()));
        Ok(())
    }
    fn sync(&self) -> IoResult<()> {
        if self.fail_sync.load(Ordering::SeqCst) {
            lock(&self.events).push(Event::SyncFailed(self.number));
            return Err(Error::from_raw_os_error(libc::EIO));
        }
        lock(&self.events).push(Event::Sync(self.number));
        Ok(())
    }
    fn truncate(&self, len: u64) -> IoResult<()> {
        let mut events = lock(&self.events);
        let mut inner = lock(&self.inner);
        if inner.bytes.len() != len as usize {
            events.push(Event::Truncate(self.number, len));
        }
        self.room.change(inner.takes(), len as usize)?;
        inner.bytes.resize(len as usize, 0);
        inner.allocated = len as usize;
        Ok(())
    }
    fn len(&self) -> IoResult<u64> {
        Ok(lock(&self.inner).bytes.len() as u64)
    }
    fn allocate(&self, end: u64) -> IoResult<()> {
        let mut inner = lock(&self.inner);
        if self.no_allocate.load(Ordering::SeqCst) || inner.allocated >= end as usize {
            return Ok(());
        }
        self.room.change(inner.takes(), inner.takes().max(end as usize))?;
        inner.allocated = end as usize;
        Ok(())
    }
}
