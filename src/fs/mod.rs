//! What POSIX means: names, inodes, handles, data, extended attributes. Knows nothing of FUSE.
//!
//! The store holds all that is staged; this layer adds what is not: dirty data, and the size and
//! times that go with them, of inodes in use (see `node`).
//!
//! Lock order: `names` → a node's state (by ascending inode, when two) → `nodes` → the store. No
//! lock is held across a decode or an fsync.

mod data;
mod dirty;
mod name;
mod node;
mod read;
#[cfg(test)]
mod tests;
mod xattr;

pub use name::{NewInode, SetAttr};
pub use read::ReadPlan;
pub use xattr::Coding;

use crate::block::Primer;
use crate::cache::{Cache, CacheStats};
use crate::fetch::FetchError;
use crate::recode::{RecodeOptions, Recoder};
use crate::store::{Store, StoreError};
use crate::types::{Attr, FrameRef, Ino};
use node::Node;
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Longest name, in bytes.
pub const NAME_MAX: usize = 255;
/// Largest file size: what the format can address.
pub const SIZE_MAX: u64 = (1 << 47) - 1;

/// Why a request was refused. [`crate::fuse`] maps each to one errno.
#[derive(Debug, Clone, thiserror::Error)]
pub enum FsError {
    /// No such name or inode.
    #[error("no such file or directory")]
    NotFound,
    /// The name is taken.
    #[error("file exists")]
    Exists,
    /// A directory was needed.
    #[error("not a directory")]
    NotDir,
    /// Not for directories.
    #[error("is a directory")]
    IsDir,
    /// The directory has names in it.
    #[error("directory not empty")]
    NotEmpty,
    /// Longer than [`NAME_MAX`].
    #[error("name too long")]
    NameTooLong,
    /// An argument makes no sense.
    #[error("invalid argument")]
    Invalid,
    /// Beyond [`SIZE_MAX`].
    #[error("file too large")]
    TooLarge,
    /// The inode has as many names as can be counted.
    #[error("too many links")]
    TooManyLinks,
    /// No such extended attribute.
    #[error("no such attribute")]
    NoAttribute,
    /// An extended attribute is too large.
    #[error("attribute too large")]
    AttributeTooLarge,
    /// Nothing of this kind is supported.
    #[error("not supported")]
    NotSupported,
    /// Not allowed.
    #[error("operation not permitted")]
    NotPermitted,
    /// No data or hole at or after the offset.
    #[error("no such offset")]
    NoSuchOffset,
    /// The mount is read-only.
    #[error("read-only file system")]
    ReadOnly,
    /// No room in the store.
    #[error("{0}")]
    NoSpace(String),
    /// Damage or a failing store: the text, already logged, says what.
    #[error("{0}")]
    Io(String),
}

impl From<StoreError> for FsError {
    fn from(e: StoreError) -> Self {
        match e {
            StoreError::NoSpace { .. } => Self::NoSpace(e.to_string()),
            StoreError::ReadOnly => Self::ReadOnly,
            StoreError::Conflict
            | StoreError::Damaged { .. }
            | StoreError::InUse { .. }
            | StoreError::Refused(_)
            | StoreError::Index(_)
            | StoreError::Io { .. } => Self::Io(e.to_string()),
        }
    }
}

impl From<FetchError> for FsError {
    fn from(e: FetchError) -> Self {
        match e {
            FetchError::Store(e) => e.into(),
            e => Self::Io(e.to_string()),
        }
    }
}

/// Result of a file-system operation.
pub type Result<T> = std::result::Result<T, FsError>;

/// How the file system behaves.
#[derive(Debug, Clone)]
pub struct FsOptions {
    /// Bytes of decoded frames and primers kept.
    pub cache_bytes: u64,
    /// What is written is durable after this long at the latest.
    pub commit: Duration,
    /// Close means durable.
    pub sync: bool,
    /// Reading does not touch access times.
    pub noatime: bool,
    /// Threads that decode.
    pub decode_threads: usize,
    /// Model for new files, in place of the store's own.
    pub model: Option<String>,
    /// The background coder.
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
            recode: RecodeOptions { rest: Duration::from_secs(30), threads: 1, enabled: true },
        }
    }
}

/// Figures for statfs(2); blocks of 4,096 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StatFs {
    /// Size of the file system, in blocks.
    pub blocks: u64,
    /// Free blocks.
    pub free: u64,
    /// Inodes in use.
    pub files: u64,
}

/// A file system over a store.
#[derive(Debug)]
pub struct Fs {
    store: Arc<Store>,
    recoder: Arc<Recoder>,
    options: FsOptions,
    /// Held while names change.
    names: Mutex<()>,
    nodes: Mutex<HashMap<Ino, Arc<Node>>>,
    /// Dirty bytes of all nodes.
    dirty_bytes: AtomicU64,
    frames: Cache<FrameRef, Vec<u8>, FsError>,
    primers: Cache<u64, Primer, FsError>,
    committer: Committer,
    closed: AtomicBool,
}

#[derive(Debug, Default)]
struct Committer {
    stop: Mutex<bool>,
    bell: Condvar,
    thread: Mutex<Option<JoinHandle<()>>>,
}

fn lock<T>(m: &Mutex<T>) -> MutexGuard<'_, T> {
    m.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Fs {
    /// Brings a store to life: removes orphans, starts the committer and the background coder.
    pub fn open(store: Arc<Store>, options: FsOptions) -> Result<Arc<Self>> {
        let recoder = Recoder::start(Arc::clone(&store), options.recode.clone());
        // An eighth for primers: each serves many blocks.
        let primer_bytes = options.cache_bytes / 8;
        let this = Arc::new(Self {
            frames: Cache::new(options.cache_bytes - primer_bytes),
            primers: Cache::new(primer_bytes),
            store,
            recoder,
            options,
            names: Mutex::new(()),
            nodes: Mutex::default(),
            dirty_bytes: AtomicU64::new(0),
            committer: Committer::default(),
            closed: AtomicBool::new(false),
        });
        if !this.store.read_only() {
            for ino in this.store.orphans()? {
                this.delete_inode(ino)?;
            }
            let weak = Arc::downgrade(&this);
            let run = move || {
                let mut last = Instant::now();
                loop {
                    let Some(fs) = weak.upgrade() else { return };
                    if !fs.commit_round(&mut last) {
                        return;
                    }
                }
            };
            let thread = std::thread::Builder::new().name("commit".into()).spawn(run);
            let thread = thread.map_err(|e| FsError::Io(format!("no committer: {e}")))?;
            *lock(&this.committer.thread) = Some(thread);
        }
        Ok(this)
    }

    /// The store below.
    pub fn store(&self) -> &Arc<Store> {
        &self.store
    }

    /// The background coder.
    pub fn recoder(&self) -> &Arc<Recoder> {
        &self.recoder
    }

    /// Threads that decode for readers.
    pub fn decode_threads(&self) -> usize {
        self.options.decode_threads
    }

    /// Figures of the caches together.
    pub fn cache_stats(&self) -> CacheStats {
        let (a, b) = (self.frames.stats(), self.primers.stats());
        CacheStats {
            capacity: a.capacity + b.capacity,
            used: a.used + b.used,
            hits: a.hits,
            misses: a.misses,
        }
    }

    /// Waits for the next commit; false when there is to be none any more.
    fn commit_round(&self, last: &mut Instant) -> bool {
        {
            let stop = lock(&self.committer.stop);
            if *stop {
                return false;
            }
            let wait = self.options.commit.min(Duration::from_secs(1));
            let (stop, _) = self
                .committer
                .bell
                .wait_timeout(stop, wait)
                .unwrap_or_else(PoisonError::into_inner);
            if *stop {
                return false;
            }
        }
        if last.elapsed() >= self.options.commit {
            *last = Instant::now();
            if let Err(e) = self.flush_all() {
                log::error!("commit: {e}");
            }
        }
        true
    }

    /// Stages everything dirty and makes it durable.
    pub fn flush_all(&self) -> Result<()> {
        if self.store.read_only() {
            return Ok(());
        }
        let nodes: Vec<_> = lock(&self.nodes).values().cloned().collect();
        let mut failed = None;
        for node in nodes {
            if let Err(e) = self.stage(&node) {
                log::error!("inode {}: not staged: {e}", node.ino);
                failed = Some(e);
            }
        }
        self.store.sync()?;
        failed.map_or(Ok(()), Err)
    }

    /// Looks a path up from the root; symbolic links are not followed.
    pub fn resolve(&self, path: &[u8]) -> Result<Ino> {
        let mut ino = Ino::ROOT;
        for name in path.split(|b| *b == b'/').filter(|n| !n.is_empty() && *n != b".") {
            ino = self.store.dirent(ino, name)?.ok_or(FsError::NotFound)?.ino;
        }
        Ok(ino)
    }

    /// Flushes, stops the background threads, deletes orphans, closes the store.
    pub fn shutdown(&self) -> Result<()> {
        if self.closed.swap(true, Ordering::SeqCst) {
            return Ok(());
        }
        *lock(&self.committer.stop) = true;
        self.committer.bell.notify_all();
        let thread = lock(&self.committer.thread).take();
        if let Some(t) = thread
            && t.thread().id() != std::thread::current().id()
            && t.join().is_err()
        {
            log::error!("the committer panicked");
        }
        self.recoder.stop();
        let flushed = self.flush_all();
        if !self.store.read_only() {
            for ino in self.store.orphans()? {
                self.delete_inode(ino)?;
            }
        }
        self.store.close()?;
        flushed
    }

    fn delete_inode(&self, ino: Ino) -> Result<()> {
        let ops = vec![crate::store::Op::DelInode(ino)];
        self.store.append(crate::store::Txn { ops, ..crate::store::Txn::default() })?;
        Ok(())
    }

    /// Attributes as they are now, unstaged writes included.
    pub fn getattr(&self, ino: Ino) -> Result<Attr> {
        if let Some(node) = self.active(ino) {
            let state = lock(&node.state);
            if let Some(a) = state.attr {
                return Ok(a);
            }
        }
        self.store.inode(ino)?.ok_or(FsError::NotFound)
    }

    /// 512-byte blocks that st_blocks shows: all of a file but its holes, uncompressed.
    pub fn blocks(&self, ino: Ino, attr: &Attr) -> u64 {
        // Small files are rarely sparse, and counting extents costs time.
        if !attr.is_file() || attr.size < 1 << 20 {
            return attr.size.div_ceil(512);
        }
        let dirty = self.active(ino).map_or(0, |n| lock(&n.state).dirty.bytes());
        let extents = self.store.extents_in(ino, 0, u64::MAX).unwrap_or_default();
        let staged: u64 = extents.iter().map(|e| e.len).sum();
        (staged + dirty).min(attr.size).div_ceil(512)
    }

    /// Figures for statfs(2).
    pub fn statfs(&self) -> Result<StatFs> {
        const BLOCK: u64 = 4096;
        let stats = self.store.stats()?;
        let free = self.store.free_bytes();
        let blocks = (stats.stored_bytes + free) / BLOCK;
        Ok(StatFs { blocks, free: free / BLOCK, files: stats.inodes })
    }
}
