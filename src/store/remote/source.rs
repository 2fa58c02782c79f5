//! Where evicted segments are read from: the object store that the file `remote` names, through a cache. It is
//! connected when the first of them is wanted, so a store opens without.

use super::blobs::Origin;
use super::cache::{Cache, CacheFigures, LEAST};
use super::error::{RemoteError, Result};
use super::fetch::Fetcher;
use super::home::Home;
use super::open::{self, PATIENCE};
use super::steady::Steady;
use crate::store::io::Volume;
use crate::store::lock;
use crate::store::log::frame::Stamp;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Directory of the cache in a store.
const CACHE: &str = "cache";
/// What it may hold, unless somebody says otherwise.
const CACHE_BYTES: u64 = 1 << 30;

/// See the module.
#[derive(Debug)]
pub struct Source {
    local: Arc<dyn Volume>,
    stamp: Stamp,
    /// Where the cache is; `None`: in memory.
    dir: Option<PathBuf>,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    patience: Duration,
    cache_bytes: u64,
    store: Option<Arc<Steady>>,
    fetcher: Option<Arc<Fetcher>>,
}

impl Source {
    /// The source of the store in a directory. Who opens it for reading only is not alone, and leaves the
    /// cache there alone.
    pub fn new(path: &Path, local: Arc<dyn Volume>, stamp: Stamp, write: bool) -> Self {
        let dir = path.join(CACHE);
        let is_link = dir.symlink_metadata().is_ok_and(|m| m.is_symlink());
        let inner =
            Inner { patience: PATIENCE, cache_bytes: CACHE_BYTES, store: None, fetcher: None };
        let dir = (write && !is_link).then_some(dir);
        Self { local, stamp, dir, inner: Mutex::new(inner) }
    }

    /// Says how long answers are waited for, and how much the cache may hold.
    pub fn configure(&self, patience: Duration, cache_bytes: Option<u64>) {
        let mut inner = lock(&self.inner);
        let cache_bytes = cache_bytes.map_or(inner.cache_bytes, |n| n.max(LEAST));
        if (patience, cache_bytes) != (inner.patience, inner.cache_bytes) {
            *inner = Inner { patience, cache_bytes, store: None, fetcher: None };
        }
    }

    /// Connects anew the next time: the archive may be elsewhere now.
    pub fn forget(&self) {
        let mut inner = lock(&self.inner);
        (inner.store, inner.fetcher) = (None, None);
    }

    /// Asks this object store from now on.
    #[cfg(test)]
    pub fn replace(&self, store: Arc<Steady>) {
        let mut inner = lock(&self.inner);
        (inner.store, inner.fetcher) = (Some(store), None);
    }

    /// The object store.
    pub fn store(&self) -> Result<Arc<Steady>> {
        self.store_of(&mut lock(&self.inner))
    }

    fn store_of(&self, inner: &mut Inner) -> Result<Arc<Steady>> {
        if let Some(store) = &inner.store {
            return Ok(Arc::clone(store));
        }
        let refuse = |text: String| RemoteError::Refused(text);
        let home = Home::read_place(&*self.local).map_err(|e| refuse(e.to_string()))?;
        let Some(home) = home else {
            return Err(refuse(
                "segments of the store lie in an object store only, and the file that names it is gone: \
                 name it again with: lmfs remote set STORE URL"
                    .into(),
            ));
        };
        let store = open::open(&home.url, inner.patience)?;
        inner.store = Some(Arc::clone(&store));
        Ok(store)
    }

    /// Figures of the cache, if anything was read through it.
    pub fn cache(&self) -> Option<CacheFigures> {
        lock(&self.inner).fetcher.as_ref().map(|f| f.cache().figures())
    }
}

impl Origin for Source {
    fn fetcher(&self) -> Result<Arc<Fetcher>> {
        let mut inner = lock(&self.inner);
        if let Some(fetcher) = &inner.fetcher {
            return Ok(Arc::clone(fetcher));
        }
        let store = self.store_of(&mut inner)?;
        let cache = match &self.dir {
            Some(dir) => Cache::open(dir, inner.cache_bytes).unwrap_or_else(|e| {
                log::warn!(
                    "{}: {e}; what is read from the object store is kept in memory",
                    dir.display()
                );
                Cache::in_memory()
            }),
            None => Cache::in_memory(),
        };
        let fetcher = Arc::new(Fetcher::new(store as _, cache, self.stamp));
        inner.fetcher = Some(Arc::clone(&fetcher));
        Ok(fetcher)
    }
}
