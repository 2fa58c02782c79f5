//! Files in memory under a store.

use crate::store::io::{Blob, Volume};
use crate::store::lock;
use std::collections::BTreeMap;
use std::io::{Error, ErrorKind, Result as IoResult};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

/// Files in memory that can lose what was not synced, run full, and fail.
#[derive(Debug, Default)]
pub struct MemVolume {
    pub files: Mutex<BTreeMap<String, Arc<MemBlob>>>,
    /// The names as of the last sync of the directory.
    synced: Mutex<BTreeMap<String, Arc<MemBlob>>>,
    full: AtomicBool,
}

#[derive(Debug, Default)]
pub struct MemBlob {
    pub inner: Mutex<MemInner>,
    pub fail_sync: AtomicBool,
    /// Writes beyond what is allocated fail.
    full: AtomicBool,
    /// Room cannot be allocated ahead, as on some file systems.
    pub no_allocate: AtomicBool,
}

#[derive(Debug, Default, Clone)]
pub struct MemInner {
    pub bytes: Vec<u8>,
    synced: Vec<u8>,
    /// Writes since the last sync.
    pending: Vec<(usize, Vec<u8>)>,
    allocated: usize,
}

impl Volume for MemVolume {
    fn create(&self, path: &str) -> IoResult<Arc<dyn Blob>> {
        let blob = Arc::new(MemBlob::default());
        lock(&self.files).insert(path.into(), Arc::clone(&blob));
        Ok(blob)
    }
    fn open(&self, path: &str, _write: bool) -> IoResult<Arc<dyn Blob>> {
        let files = lock(&self.files);
        let blob = files.get(path).ok_or_else(|| Error::from(ErrorKind::NotFound))?;
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
        let blob = files.remove(from).ok_or_else(|| Error::from(ErrorKind::NotFound))?;
        files.insert(to.into(), blob);
        Ok(())
    }
    fn remove(&self, path: &str) -> IoResult<()> {
        let gone = lock(&self.files).remove(path);
        gone.map(drop).ok_or_else(|| Error::from(ErrorKind::NotFound))
    }
    fn sync_dir(&self, _dir: &str) -> IoResult<()> {
        *lock(&self.synced) = lock(&self.files).clone();
        Ok(())
    }
    fn free_bytes(&self) -> IoResult<u64> {
        Ok(if self.full.load(Ordering::SeqCst) { 0 } else { 1 << 40 })
    }
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
        let mut inner = lock(&self.inner);
        let end = offset as usize + data.len();
        if self.full.load(Ordering::SeqCst) && end > inner.allocated {
            return Err(Error::from_raw_os_error(libc::ENOSPC));
        }
        if inner.bytes.len() < end {
            inner.bytes.resize(end, 0);
        }
        inner.bytes[offset as usize..end].copy_from_slice(data);
        inner.pending.push((offset as usize, data.to_vec()));
        Ok(())
    }
    fn sync(&self) -> IoResult<()> {
        if self.fail_sync.load(Ordering::SeqCst) {
            return Err(Error::from_raw_os_error(libc::EIO));
        }
        let mut inner = lock(&self.inner);
        inner.synced = inner.bytes.clone();
        inner.pending.clear();
        Ok(())
    }
    fn truncate(&self, len: u64) -> IoResult<()> {
        let mut inner = lock(&self.inner);
        inner.bytes.resize(len as usize, 0);
        inner.allocated = len as usize;
        Ok(())
    }
    fn len(&self) -> IoResult<u64> {
        Ok(lock(&self.inner).bytes.len() as u64)
    }
    fn allocate(&self, end: u64) -> IoResult<()> {
        if self.no_allocate.load(Ordering::SeqCst) {
            return Ok(());
        }
        if self.full.load(Ordering::SeqCst) {
            return Err(Error::from_raw_os_error(libc::ENOSPC));
        }
        lock(&self.inner).allocated = end as usize;
        Ok(())
    }
}

impl MemVolume {
    /// What a power loss may leave: of the writes and names not synced, those that `keep` says, torn at 512
    /// bytes where it says.
    pub fn crashed(&self, mut keep: impl FnMut() -> u8) -> Arc<Self> {
        // Names created or removed since their directory was synced may be there or not.
        let (now, then) = (lock(&self.files), lock(&self.synced));
        let mut files = BTreeMap::new();
        for (path, blob) in now.iter().chain(then.iter()) {
            let sure = now.contains_key(path) && then.contains_key(path);
            if sure || !keep().is_multiple_of(2) {
                files.insert(path.clone(), Arc::clone(blob));
            }
        }
        let mut survive = |b: &MemBlob| {
            let inner = lock(&b.inner);
            let mut bytes = inner.synced.clone();
            for (at, data) in &inner.pending {
                for (n, sector) in data.chunks(512).enumerate() {
                    if !keep().is_multiple_of(4) {
                        let from = at + n * 512;
                        if bytes.len() < from + sector.len() {
                            bytes.resize(from + sector.len(), 0);
                        }
                        bytes[from..from + sector.len()].copy_from_slice(sector);
                    }
                }
            }
            let inner = MemInner { synced: bytes.clone(), bytes, ..MemInner::default() };
            Arc::new(MemBlob { inner: Mutex::new(inner), ..MemBlob::default() })
        };
        let files: BTreeMap<_, _> = files.iter().map(|(k, b)| (k.clone(), survive(b))).collect();
        Arc::new(Self {
            synced: Mutex::new(files.clone()),
            files: Mutex::new(files),
            ..Self::default()
        })
    }

    pub fn set_full(&self, full: bool) {
        self.full.store(full, Ordering::SeqCst);
        for b in lock(&self.files).values() {
            b.full.store(full, Ordering::SeqCst);
        }
    }
}
