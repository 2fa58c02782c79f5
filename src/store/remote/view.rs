//! An archive in an object store as a volume that is read and never written: for machines that have nothing
//! of it but the URL.

use super::blobs::{Bytes, Connected, SegmentBlob, WholeBlob, never_written};
use super::cache::{Cache, CacheFigures};
use super::error::RemoteError;
use super::fetch::Fetcher;
use super::lineage::{self, Found, Runs};
use super::manifest::{Manifest, Object, Part, Place};
use super::sealed::SealedStore;
use super::steady::{Requests, Steady};
use crate::store::api::{Result, StoreError};
use crate::store::io::{Blob, Volume};
use crate::store::lock;
use crate::store::log::footer::{kind_of, summary};
use crate::store::log::frame::Kind;
use crate::store::log::segments::{Segments, segment_path, sidecar_path};
use crate::store::log::superblock::{self, SEGMENT_HEADER};
use crate::store::models::model_paths;
use crate::types::FrameRef;
use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

/// See the module.
#[derive(Debug)]
pub struct View {
    store: Arc<Steady>,
    origin: Arc<Connected>,
    manifest: RwLock<Arc<Manifest>>,
    runs: Mutex<Runs>,
    /// Held while the store goes on to a newer manifest.
    pub following: Mutex<()>,
    /// How far the store's state has come.
    pub reached: Mutex<Reached>,
    /// How often a newer manifest was looked for in vain since manifests were last listed.
    in_vain: AtomicU32,
}

/// The last batch of the log that a state contains.
#[derive(Debug, Clone, Copy, Default)]
pub struct Reached {
    /// Its number.
    pub seq: u64,
    /// The chain hash after it.
    pub chain: u64,
    /// The segment in which it ends.
    pub segment: u32,
    /// Where.
    pub len: u64,
}

/// The next manifest is asked for by its number, which costs a tenth of a listing. After so many times in vain
/// manifests are listed: whoever looked away for long may have missed some that are deleted.
const LIST_AFTER: u32 = 10;

impl View {
    /// The archive as its newest manifest has it, with a cache of so many bytes in a directory.
    pub fn open(store: Arc<Steady>, cache_dir: &Path, cache_bytes: u64) -> Result<Self> {
        let url = store.url();
        let Some(found) = lineage::newest(&*store)? else {
            let text = format!("{url}: no archive is there (no manifest)");
            return Err(RemoteError::Refused(text).into());
        };
        let mut runs = Runs::new();
        let manifest = lineage::whole(&*store, found.packed, &mut runs)?;
        let sb = superblock::decode(&manifest.superblock, &url)?;
        let cache = Cache::open(cache_dir, cache_bytes).map_err(|source| StoreError::Io {
            what: format!("open the cache {}", cache_dir.display()),
            source,
        })?;
        let stamp = super::bundle::stamp(&sb.uuid, sb.ecc);
        let fetcher = Arc::new(Fetcher::new(Arc::clone(&store) as _, cache, stamp));
        Ok(Self {
            store,
            origin: Arc::new(Connected(fetcher)),
            manifest: RwLock::new(Arc::new(manifest)),
            runs: Mutex::new(runs),
            following: Mutex::default(),
            reached: Mutex::default(),
            in_vain: AtomicU32::new(0),
        })
    }

    /// What is shown.
    pub fn manifest(&self) -> Arc<Manifest> {
        Arc::clone(&self.manifest.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// A newer manifest, if there is one; it is shown only once [`Self::show`] says so.
    pub fn look(&self) -> Result<Option<Manifest>> {
        let now = self.manifest().number;
        let due = self.in_vain.load(Ordering::Relaxed) >= LIST_AFTER;
        let found: Option<Found> = if due {
            lineage::newest(&*self.store)?.filter(|f| f.mark.number > now)
        } else {
            lineage::after(&*self.store, now)?
        };
        if due || found.is_some() {
            self.in_vain.store(0, Ordering::Relaxed);
        } else {
            self.in_vain.fetch_add(1, Ordering::Relaxed);
        }
        let Some(found) = found else { return Ok(None) };
        Ok(Some(lineage::whole(&*self.store, found.packed, &mut lock(&self.runs))?))
    }

    /// Has in the cache what opening reads: the newest checkpoint and all frames of the log's own behind it.
    /// One after another they would take long.
    pub fn warm(&self, segments: &Segments) {
        /// Frames that are closer than this are fetched together, up to so many bytes.
        const CLOSE: u64 = 256 << 10;
        const MOST: u64 = 4 << 20;
        let m = self.manifest();
        self.tell(segments, &m);
        let fetcher = &self.origin.0;
        let behind = m.parts.partition_point(|p| p.number < m.checkpoint);
        let parts = &m.parts[behind..];
        let ends = |p: &Part| {
            let len = p.object.len;
            [(*p, 0..1), (*p, len.saturating_sub(1)..len)]
        };
        let ends: Vec<_> = parts.iter().flat_map(ends).collect();
        fetcher.prefetch(&ends);
        let mut left = fetcher.cache().capacity() / 2;
        let mut wanted: Vec<(Part, Range<u64>)> = Vec::new();
        for part in parts {
            let Ok((lines, _)) = summary(segments, part.number, SEGMENT_HEADER as u64) else {
                return;
            };
            for line in lines.iter().filter(|l| !matches!(l.kind, Kind::Data | Kind::Primer)) {
                let start = u64::from(line.frame.offset);
                let end = start + u64::from(line.frame.len);
                if left < u64::from(line.frame.len) {
                    break;
                }
                left -= u64::from(line.frame.len);
                match wanted.last_mut() {
                    Some((p, range))
                        if p == part && start <= range.end + CLOSE && end - range.start <= MOST =>
                    {
                        range.end = end;
                    }
                    _ => wanted.push((*part, start..end)),
                }
            }
        }
        fetcher.prefetch(&wanted);
    }

    /// Says what the manifest knows of the last segment, which has no footer.
    pub fn tell(&self, segments: &Segments, m: &Manifest) {
        let Some(last) = m.parts.last().filter(|_| !m.tail.is_empty()) else { return };
        let frame = |f: &Place| {
            let frame = FrameRef { segment: last.number, offset: f.offset, len: f.len };
            Some((frame, kind_of(f.kind)?))
        };
        if let Some(frames) = m.tail.iter().map(frame).collect() {
            segments.tell(last.number, last.object.len, frames);
        }
    }

    /// Shows a manifest from now on. What was opened before stays what it was.
    pub fn show(&self, manifest: Manifest) {
        *self.manifest.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(manifest);
    }

    /// The URL.
    pub fn url(&self) -> String {
        self.store.url()
    }

    /// What was asked of the object store.
    pub fn requests(&self) -> Requests {
        self.store.requests()
    }

    /// Figures of the cache.
    pub fn cache(&self) -> CacheFigures {
        self.origin.0.cache().figures()
    }

    /// Empties the cache.
    #[cfg(test)]
    pub fn forget(&self) {
        self.origin.0.cache().clear();
    }

    /// A segment of a manifest, to be read.
    pub fn segment(&self, part: Part) -> Arc<dyn Blob> {
        Arc::new(SegmentBlob::new(Arc::clone(&self.origin) as _, part))
    }

    fn whole(&self, object: Object, keep: bool) -> Arc<dyn Blob> {
        Arc::new(WholeBlob::new(Arc::clone(&self.origin) as _, object, keep))
    }
}

impl Volume for View {
    fn create(&self, _: &str) -> io::Result<Arc<dyn Blob>> {
        never_written()
    }

    fn open(&self, path: &str, write: bool) -> io::Result<Arc<dyn Blob>> {
        if write {
            return never_written();
        }
        let m = self.manifest();
        if superblock::FILES.contains(&path) {
            return Ok(Arc::new(Bytes(m.superblock.clone())));
        }
        if let Some(number) = path.strip_prefix("segments/").and_then(|n| n.get(..8)?.parse().ok())
            && let Ok(at) = m.parts.binary_search_by_key(&number, |p: &Part| p.number)
        {
            let part = m.parts[at];
            if path == segment_path(number) {
                return Ok(self.segment(part));
            }
            if path == sidecar_path(number, part.object.len) {
                return Ok(self.whole(part.sidecar, false));
            }
        }
        for model in &m.models {
            let (file, sidecar) = model_paths(&model.id);
            if path == file {
                return Ok(self.whole(model.object, true));
            }
            if path == sidecar && model.sidecar.len > 0 {
                return Ok(self.whole(model.sidecar, false));
            }
        }
        Err(io::ErrorKind::NotFound.into())
    }

    fn list(&self, dir: &str) -> io::Result<Vec<String>> {
        let m = self.manifest();
        let paths: Vec<String> = match dir {
            "segments" => {
                let of = |p: &Part| [segment_path(p.number), sidecar_path(p.number, p.object.len)];
                m.parts.iter().flat_map(of).collect()
            }
            "models" => m.models.iter().map(|m| model_paths(&m.id).0).collect(),
            _ => return Err(io::ErrorKind::NotFound.into()),
        };
        let name = |p: String| p.rsplit('/').next().map(str::to_owned);
        Ok(paths.into_iter().filter_map(name).collect())
    }

    fn mkdir(&self, _: &str) -> io::Result<()> {
        never_written()
    }
    fn rename(&self, _: &str, _: &str) -> io::Result<()> {
        never_written()
    }
    fn remove(&self, _: &str) -> io::Result<()> {
        never_written()
    }
    fn sync_dir(&self, _: &str) -> io::Result<()> {
        Ok(())
    }
    fn free_bytes(&self) -> io::Result<u64> {
        Ok(0)
    }
    fn is_distant(&self, _: &str) -> bool {
        true
    }
}
