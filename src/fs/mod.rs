//! POSIX meaning: namespace, inodes, byte ranges, dirty data, extended attributes.

mod error;

pub use crate::cache::CacheStats;
pub use error::{FsError, Result};

use crate::recode::{RecodeOptions, Recoder};
use crate::store::Store;
use crate::types::Ino;
use std::sync::Arc;
use std::time::Duration;

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
            recode: RecodeOptions { rest: Duration::from_secs(30), threads: 1, enabled: true },
        }
    }
}

/// An open file system.
#[derive(Debug)]
pub struct Fs {
    store: Arc<Store>,
    recoder: Arc<Recoder>,
}

impl Fs {
    /// Starts serving an open store.
    pub fn open(store: Arc<Store>, options: FsOptions) -> Result<Arc<Self>> {
        let recoder = Recoder::start(Arc::clone(&store), options.recode);
        Ok(Arc::new(Self { store, recoder }))
    }

    /// The store below.
    pub fn store(&self) -> &Arc<Store> {
        &self.store
    }

    /// The background coder.
    pub fn recoder(&self) -> &Arc<Recoder> {
        &self.recoder
    }

    /// Figures of the cache of decoded frames.
    pub fn cache_stats(&self) -> CacheStats {
        CacheStats::default()
    }

    /// Stages and syncs everything dirty.
    pub fn flush_all(&self) -> Result<()> {
        Ok(self.store.sync()?)
    }

    /// The inode that an absolute path within the file system names; follows no symbolic link.
    pub fn resolve(&self, path: &[u8]) -> Result<Ino> {
        let mut ino = Ino::ROOT;
        for name in path.split(|b| *b == b'/').filter(|n| !n.is_empty()) {
            ino = self.store.dirent(ino, name)?.ok_or(FsError::NotFound)?.ino;
        }
        Ok(ino)
    }

    /// Flushes, stops the background coder, deletes orphans, closes the store.
    pub fn shutdown(&self) -> Result<()> {
        self.flush_all()?;
        self.recoder.stop();
        Ok(self.store.close()?)
    }
}
