//! POSIX meaning: namespace, inodes, byte ranges, dirty data, extended attributes.

mod acl;
mod attr;
#[cfg(test)]
mod coding_tests;
mod data;
mod dirty;
mod error;
#[cfg(any(test, fuzzing))]
pub mod hostile;
mod names;
mod node;
mod read;
#[cfg(test)]
mod tests;
mod troubles;
#[cfg(test)]
mod waits_tests;
mod words;
mod xattr;

pub use crate::blocks::CacheStats;
pub use attr::{SetAttr, StatFs};
pub use error::{FsError, Result};
pub use names::{Entry, NewInode, RenameHow};
pub use xattr::{Coding, SetHow};

use crate::block::Tier;
use crate::blocks::{BlockReader, WorkQueue};
use crate::recode::{RecodeOptions, Recoder};
use crate::store::{Record, Store, StoreError};
use crate::types::{FrameRef, Ino};
use node::{Held, Nodes};
use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;
use troubles::Troubles;

/// Largest file in bytes.
pub const MAX_SIZE: u64 = 1 << 47;

/// How a file system is served.
#[derive(Debug, Clone)]
pub struct FsOptions {
    /// Bytes of decoded frames kept in memory.
    pub cache_bytes: u64,
    /// Dirty data are committed at the latest after this time.
    pub commit: Duration,
    /// Closing a file makes it durable.
    pub sync: bool,
    /// Reading does not change access times.
    pub noatime: bool,
    /// Threads that decode and reply.
    pub decode_threads: usize,
    /// Model of new files where no directory says otherwise.
    pub model: Option<String>,
    /// The language model is used for a block only where it saves at least this much, in percent.
    pub lm_gain: f64,
    /// Dead space is given back in the background.
    pub clean: bool,
    /// How often an archive that somebody else writes is looked at for what is new; never if zero.
    pub refresh: Duration,
    /// The background coder's options.
    pub recode: RecodeOptions,
}

impl Default for FsOptions {
    fn default() -> Self {
        Self {
            cache_bytes: 256 << 20,
            commit: Duration::from_secs(5),
            sync: false,
            noatime: false,
            decode_threads: 2,
            model: None,
            lm_gain: Tier::LM_GAIN,
            clean: true,
            refresh: Duration::ZERO,
            recode: RecodeOptions { rest: Duration::from_secs(30), threads: 1, enabled: true },
        }
    }
}

/// What the kernel still knows.
#[derive(Debug, Default)]
struct Known {
    /// Lookups not yet forgotten.
    lookups: HashMap<Ino, u64>,
    /// Inodes without a name, to be deleted once nobody uses them.
    orphans: HashSet<Ino>,
}

/// An open file system.
#[derive(Debug)]
pub struct Fs {
    store: Arc<Store>,
    blocks: Arc<BlockReader>,
    recoder: Arc<Recoder>,
    options: FsOptions,
    nodes: Nodes,
    /// Held while names change.
    names: Mutex<()>,
    known: Mutex<Known>,
    /// Memory of all dirty data.
    dirty_bytes: AtomicU64,
    /// Threads that wait for `fdatasync`, so that requests do not.
    syncers: WorkQueue,
    /// Nothing is changed any more: the last flush is under way, or over.
    closing: AtomicBool,
    stop: Arc<Stop>,
    committer: Mutex<Option<std::thread::JoinHandle<()>>>,
    /// Damaged frames that were reported already.
    reported: Mutex<HashSet<FrameRef>>,
    /// The shared frame after the last one that was read.
    next_shared: Mutex<Option<FrameRef>>,
    troubles: Troubles,
}

/// Tells the committer to end.
#[derive(Debug, Default)]
struct Stop {
    flag: Mutex<bool>,
    bell: Condvar,
}

impl Stop {
    fn now(&self) {
        *lock(&self.flag) = true;
        self.bell.notify_all();
    }

    /// Waits at most `tick`; true if it is time to end.
    fn within(&self, tick: Duration) -> bool {
        let flag = lock(&self.flag);
        let wait = self.bell.wait_timeout_while(flag, tick, |stop| !*stop);
        *wait.unwrap_or_else(PoisonError::into_inner).0
    }
}

fn lock<T>(m: &Mutex<T>) -> MutexGuard<'_, T> {
    m.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Fs {
    /// Starts serving an open store.
    pub fn open(store: Arc<Store>, options: FsOptions) -> Result<Arc<Self>> {
        let thread = |source| StoreError::Io { what: "starting a thread".into(), source };
        let (gain, cache, threads) = (options.lm_gain, options.cache_bytes, options.decode_threads);
        let blocks = BlockReader::start(Arc::clone(&store), gain, cache, threads)?;
        let syncers = WorkQueue::start("sync", 4).map_err(thread)?;
        if !store.read_only() {
            let orphans = store.orphans()?;
            for ino in orphans {
                store.append(Record::DelInode(ino).into())?;
            }
        }
        let recoder = Recoder::start(Arc::clone(&blocks), options.recode.clone());
        if options.clean {
            store.clean_in_background();
        }
        let fs = Arc::new(Self {
            store,
            blocks,
            recoder,
            options,
            nodes: Nodes::default(),
            names: Mutex::default(),
            known: Mutex::default(),
            dirty_bytes: AtomicU64::new(0),
            syncers,
            closing: AtomicBool::new(false),
            stop: Arc::default(),
            committer: Mutex::default(),
            reported: Mutex::default(),
            next_shared: Mutex::default(),
            troubles: Troubles::default(),
        });
        let weak = Arc::downgrade(&fs);
        let stop = Arc::clone(&fs.stop);
        let tick = (fs.options.commit / 2).max(Duration::from_millis(10));
        let handle = std::thread::Builder::new()
            .name("commit".into())
            .spawn(move || commit_regularly(&weak, &stop, tick))
            .map_err(thread)?;
        *lock(&fs.committer) = Some(handle);
        if !fs.options.refresh.is_zero() {
            let (weak, stop) = (Arc::downgrade(&fs), Arc::clone(&fs.stop));
            // The rest of the time is for fetching what is new.
            let tick = fs.options.refresh.mul_f64(0.75).max(Duration::from_millis(10));
            std::thread::Builder::new()
                .name("follow".into())
                .spawn(move || follow_regularly(&weak, &stop, tick))
                .map_err(thread)?;
        }
        Ok(fs)
    }

    /// True if somebody else changes files: what the kernel remembers may be out of date any time, and of
    /// two states it must not show a mixture.
    pub fn follows(&self) -> bool {
        !self.options.refresh.is_zero()
    }

    /// Goes on to what somebody else has written since; true if there was anything.
    pub fn follow(&self) -> Result<bool> {
        let Some(changed) = self.store.follow()? else { return Ok(false) };
        for ino in self.nodes.inos().into_iter().filter(|ino| changed.may_be(*ino)) {
            let Ok(node) = self.hold(ino) else { continue };
            let attr = self.store.inode(ino)?;
            let mut s = node.state();
            match attr {
                Some(attr) => (s.attr, s.stored_size) = (attr, attr.size),
                None => s.gone = true,
            }
            (s.mapped, s.mappings) = (None, s.mappings + 1);
        }
        Ok(true)
    }

    /// The store below.
    pub fn store(&self) -> &Arc<Store> {
        &self.store
    }

    /// The store's blocks, decoded.
    pub fn blocks(&self) -> &BlockReader {
        &self.blocks
    }

    /// The background coder.
    pub fn recoder(&self) -> &Arc<Recoder> {
        &self.recoder
    }

    /// Failures that were answered to the kernel.
    pub fn troubles(&self) -> &Troubles {
        &self.troubles
    }

    /// Figures of the cache of decoded frames.
    pub fn cache_stats(&self) -> CacheStats {
        self.blocks.cache_stats()
    }

    /// Stages and syncs everything dirty.
    pub fn flush_all(&self) -> Result<()> {
        if self.store.read_only() {
            return Ok(());
        }
        self.stage_all()?;
        Ok(self.store.sync()?)
    }

    /// The inode that an absolute path within the file system names; follows no symbolic link.
    pub fn resolve(&self, path: &[u8]) -> Result<Ino> {
        let mut ino = Ino::ROOT;
        for name in path.split(|b| *b == b'/').filter(|n| !n.is_empty()) {
            ino = self.find(ino, name)?;
        }
        Ok(ino)
    }

    /// Takes no more changes, ends commands under way, flushes, stops the background coder, deletes
    /// orphans and closes the store. Each is done whatever came of those before; the first error is
    /// returned.
    pub fn shutdown(&self) -> Result<()> {
        self.closing.store(true, Ordering::SeqCst);
        self.store.wind_up();
        self.recoder.cancel();
        self.stop.now();
        if let Some(handle) = lock(&self.committer).take() {
            // A panic there was logged by the panic hook; the flush below is what counts.
            let _ = handle.join();
        }
        let mut flushed = self.flush_all();
        // A write that had begun before may have come after; there are no others.
        for _ in 0..3 {
            if flushed.is_ok() && self.dirty_bytes.load(Ordering::Relaxed) > 0 {
                flushed = self.flush_all();
            }
        }
        self.recoder.stop();
        let reaped = self.reap_all();
        let closed = self.store.close();
        flushed.and(reaped)?;
        Ok(closed?)
    }

    /// Deletes all inodes without a name.
    fn reap_all(&self) -> Result<()> {
        if self.store.read_only() {
            return Ok(());
        }
        for ino in self.store.orphans()? {
            self.store.append(Record::DelInode(ino).into())?;
        }
        Ok(())
    }

    /// Bytes that [`Self::shutdown`] has to read or write, roughly.
    pub fn bytes_to_close(&self) -> u64 {
        self.store.bytes_to_close().saturating_add(self.dirty_bytes.load(Ordering::Relaxed))
    }

    fn hold(&self, ino: Ino) -> Result<Held<'_>> {
        self.nodes.hold(&self.store, ino)
    }

    fn writable(&self) -> Result<()> {
        if self.store.read_only() {
            return Err(StoreError::ReadOnly.into());
        }
        if self.closing.load(Ordering::SeqCst) {
            return Err(StoreError::Closing.into());
        }
        Ok(())
    }

    /// The kernel learned of an inode by a reply.
    pub fn learned(&self, ino: Ino) {
        *lock(&self.known).lookups.entry(ino).or_default() += 1;
    }

    /// The kernel dropped `n` lookups of an inode.
    pub fn forget(&self, ino: Ino, n: u64) {
        let mut known = lock(&self.known);
        let left = match known.lookups.get_mut(&ino) {
            Some(count) => {
                *count = count.saturating_sub(n);
                *count
            }
            None => 0,
        };
        if left == 0 {
            known.lookups.remove(&ino);
            let orphan = known.orphans.contains(&ino);
            drop(known);
            if orphan {
                self.reap(ino);
            }
        }
    }

    /// Deletes an inode that has no name, once no handle and no lookup is left.
    fn reap(&self, ino: Ino) {
        let result = (|| {
            let node = self.hold(ino)?;
            let _stage = lock(&node.stage);
            let mut s = node.state();
            {
                let known = lock(&self.known);
                if s.open > 0 || s.gone || s.attr.nlink > 0 || known.lookups.contains_key(&ino) {
                    return Ok(());
                }
            }
            self.store.append(Record::DelInode(ino).into())?;
            s.gone = true;
            self.account(s.dirty.memory(), 0);
            s.dirty = dirty::Dirty::default();
            s.reserved.clear();
            lock(&self.known).orphans.remove(&ino);
            Ok::<_, FsError>(())
        })();
        match result {
            Ok(()) | Err(FsError::NotFound) => {}
            Err(e) => log::error!("inode {ino}: not deleted until the next mount: {e}"),
        }
    }

    /// Notes that a node's dirty memory changed.
    fn account(&self, before: u64, after: u64) {
        if after >= before {
            self.dirty_bytes.fetch_add(after - before, Ordering::Relaxed);
        } else {
            self.dirty_bytes.fetch_sub(before - after, Ordering::Relaxed);
        }
    }
}

impl Drop for Fs {
    fn drop(&mut self) {
        self.stop.now();
        self.recoder.stop();
    }
}

/// Holds the file system only while it looks.
fn follow_regularly(fs: &Weak<Fs>, stop: &Stop, tick: Duration) {
    let mut said = String::new();
    while !stop.within(tick) {
        let Some(fs) = fs.upgrade() else { return };
        let e = match fs.follow() {
            Ok(_) => String::new(),
            // Who asks the server says when it is away.
            Err(FsError::Store(StoreError::Remote(e))) if e.may_pass() => continue,
            Err(e) => e.to_string(),
        };
        if !e.is_empty() && e != said {
            log::error!("what is new is not shown: {e}");
        }
        said = e;
    }
}

/// Holds the file system only while it commits, so that dropping it elsewhere ends it.
fn commit_regularly(fs: &Weak<Fs>, stop: &Stop, tick: Duration) {
    while !stop.within(tick) {
        let Some(fs) = fs.upgrade() else { return };
        if let Err(e) = fs.flush_all() {
            log::error!("periodic commit: {e}");
        }
    }
}
