//! What an open store knows of its object store.

use super::cache::CacheFigures;
use super::error::RemoteError;
use super::home::Home;
use super::lineage::Runs;
use super::manifest::Manifest;
use super::open::PATIENCE;
use super::steady::{Requests, Steady};
use crate::store::api::StoreError;
use crate::store::lock;
use crate::store::worker::Worker;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// The object store, and how far this store has got with it. Held while something is uploaded.
#[derive(Debug)]
pub struct Attached {
    /// The object store.
    pub store: Arc<Steady>,
    /// What is kept of it in the store.
    pub home: Home,
    /// The newest manifest, once it is known to be in line with this store.
    pub newest: Option<Manifest>,
    /// This process's epoch, once it has written a manifest.
    pub epoch: Option<u64>,
    /// The newest manifest's runs.
    pub runs: Runs,
    /// Another writer took over.
    pub fenced: Option<RemoteError>,
}

/// What can be told without waiting for an upload.
#[derive(Debug, Default)]
pub struct Known {
    /// The object store.
    pub store: Option<Arc<Steady>>,
    /// Number and epoch of the newest manifest.
    pub manifest: Option<(u64, u64)>,
    /// Bytes of each segment that are in it.
    pub lens: BTreeMap<u32, u64>,
    /// When the last upload ended well.
    pub uploaded: Option<Instant>,
    /// Why the last one did not.
    pub error: Option<String>,
    /// When there was last nothing to evict: the log's last segment, bytes of the cache, the newest manifest.
    pub looked: Option<(u64, u64, u64)>,
    /// When what nobody needs was last deleted there, or the first upload was.
    pub collected: Option<Instant>,
}

/// How a store uses its object store.
#[derive(Debug, Clone, Copy)]
pub struct RemoteUse {
    /// How long answers are waited for.
    pub patience: Duration,
    /// What `sync` made durable is uploaded when it returns.
    pub sync: bool,
    /// What sealed segments, and the cache of those that are there only, may take here: those that do not
    /// find room are evicted. `None`: none are.
    pub keep: Option<u64>,
}

impl Default for RemoteUse {
    fn default() -> Self {
        Self { patience: PATIENCE, sync: false, keep: None }
    }
}

/// See the module.
#[derive(Debug, Default)]
pub struct Link {
    /// `None`: the store has no object store, or has nothing to do with it now.
    pub attached: Mutex<Option<Attached>>,
    /// Held for moments, and never while something else is waited for.
    pub known: Mutex<Known>,
    /// Uploads in the background.
    pub worker: Worker,
    /// Segment (upper half) and how much of it (lower half) up to which everything is uploaded.
    pub position: AtomicU64,
    /// What is synced is to be uploaded, too.
    pub sync: AtomicBool,
    /// What sealed segments and the cache may take in the store, if there is a limit; 0: there is none.
    pub keep: AtomicU64,
    /// The worker runs.
    pub started: AtomicBool,
    /// What the log said last of uploads that fail, and when.
    said: Mutex<Option<(String, Instant)>>,
}

/// What `status` says of an object store.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct RemoteStatus {
    /// Where it is.
    pub url: String,
    /// Number of the newest manifest, if one is known.
    pub manifest: Option<u64>,
    /// The epoch of its writer.
    pub epoch: Option<u64>,
    /// Bytes of segments that are in it.
    pub uploaded_bytes: u64,
    /// Bytes of segments that are in this store only.
    pub here_only_bytes: u64,
    /// Bytes of segments that are in the object store only.
    pub there_only_bytes: u64,
    /// Bytes of segments that are in both.
    pub both_bytes: u64,
    /// Seconds since the last upload ended well, in this process.
    pub uploaded_s_ago: Option<u64>,
    /// Why the last one did not.
    pub error: Option<String>,
    /// What was asked of the object store by this process.
    pub requests: Requests,
    /// Requests for each MiB that was read.
    pub gets_per_mib: Option<f64>,
    /// Requests for each MiB that was written.
    pub puts_per_mib: Option<f64>,
    /// The cache of what is read from there.
    pub cache: Option<CacheFigures>,
}

/// Requests for each MiB; `None` where nothing was moved.
pub fn per_mib(requests: u64, bytes: u64) -> Option<f64> {
    (bytes > 0).then(|| requests as f64 * f64::from(1 << 20) / bytes as f64)
}

impl Link {
    /// Says in the log why an upload, or an eviction, failed, unless it did already, not long ago. What the network does is
    /// said by whoever asks it.
    pub fn say(&self, what: &str, e: &StoreError) {
        const SAID_EVERY: Duration = Duration::from_secs(3600);
        if matches!(e, StoreError::Remote(e) if e.may_pass()) {
            return;
        }
        let text = e.to_string();
        let mut said = lock(&self.said);
        let old = |(t, at): &(String, Instant)| *t == text && at.elapsed() < SAID_EVERY;
        if !said.as_ref().is_some_and(old) {
            log::error!("{what}: {text}");
            *said = Some((text, Instant::now()));
        }
    }

    /// What there is to tell; `lens` of the store's segments that are here, as far as they are durable.
    pub fn status(&self, lens: &[(u32, u64)]) -> Option<RemoteStatus> {
        let known = lock(&self.known);
        let store = known.store.as_ref()?;
        let requests = store.requests();
        let there = |n: u32| known.lens.get(&n).copied().unwrap_or(0);
        Some(RemoteStatus {
            url: super::sealed::SealedStore::url(&**store),
            manifest: known.manifest.map(|(n, _)| n),
            epoch: known.manifest.map(|(_, e)| e),
            uploaded_bytes: known.lens.values().sum(),
            here_only_bytes: lens.iter().map(|(n, len)| len.saturating_sub(there(*n))).sum(),
            there_only_bytes: 0,
            both_bytes: lens.iter().map(|(n, len)| there(*n).min(*len)).sum(),
            uploaded_s_ago: known.uploaded.map(|at| at.elapsed().as_secs()),
            error: known.error.clone(),
            gets_per_mib: per_mib(requests.gets, requests.read_bytes),
            puts_per_mib: per_mib(requests.puts, requests.written_bytes),
            requests,
            cache: None,
        })
    }
}
