//! A store and its object store, as the rest of the program sees them.

use super::gc::Collected;
use super::link::{Attached, RemoteStatus, RemoteUse};
use super::manifest::Part;
use super::pull::Pulled;
use super::scrub::{RemoteScrubbed, Source};
use super::upload::{self, Uploaded};
use super::view::View;
use super::{bundle, gc, home, lineage, open, pull, scrub};
use crate::store::api::{Result, StoreError};
use crate::store::{Store, lock};
use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// How often the background looks whether a segment was sealed.
const EVERY: Duration = if cfg!(test) { Duration::from_millis(50) } else { Duration::from_secs(2) };
/// After a failure it tries again so much later.
const AGAIN: Duration =
    if cfg!(test) { Duration::from_millis(50) } else { Duration::from_secs(30) };
/// What nobody needs in the object store is deleted this often, while there are uploads.
const COLLECT_EVERY: Duration = Duration::from_secs(6 * 3600);
/// More than this is not uploaded when a store is closed: who unmounts waits for it.
const AT_CLOSE: u64 = 1 << 30;
/// A last segment of this many bytes is sealed rather than uploaded again and again as it grows.
const SEAL: u64 = 4 << 20;

impl Store {
    /// Opens an archive in an object store for reading. `dir` holds the cache, and what goes with a mount.
    pub fn open_url(
        url: &str,
        dir: &Path,
        cache_bytes: u64,
        patience: Duration,
    ) -> Result<Arc<Self>> {
        let store = open::open(&open::canonical(url)?, patience)?;
        let view = Arc::new(View::open(store, &dir.join("parts"), cache_bytes)?);
        crate::store::open::open_view(dir, view)
    }

    /// Uploads from now on in the background what is sealed, if the store has an object store, and reads
    /// from there what is not here any more.
    pub fn attach_remote(self: &Arc<Self>, how: &RemoteUse) -> Result<bool> {
        if let Some(tier) = &self.tier {
            // Half of the room at most goes to parts of segments, whole ones have the rest.
            tier.source.configure(how.patience, how.keep.map(|n| n / 2));
        }
        if self.read_only || !upload::attach(self, how.patience)? {
            return Ok(false);
        }
        self.remote.sync.fetch_or(how.sync, Ordering::AcqRel);
        if let Some(keep) = how.keep {
            self.remote.keep.store(keep.max(1), Ordering::Release);
        }
        self.remote.position.store(0, Ordering::Release);
        if self.remote.started.swap(true, Ordering::AcqRel) {
            return Ok(true);
        }
        let started = self.remote.worker.start("upload", self, EVERY, true, |store| {
            store.upload_sealed();
            store.keep_within();
            false
        });
        started.map_err(|source| StoreError::Io { what: "starting a thread".into(), source })?;
        Ok(true)
    }

    /// Names the object store that the archive lies in as well.
    pub fn set_remote(&self, url: &str, patience: Duration) -> Result<()> {
        upload::set(self, url, patience)
    }

    /// Has the object store known for one command.
    pub fn use_remote(&self, patience: Duration) -> Result<()> {
        if upload::attach(self, patience)? {
            return Ok(());
        }
        Err(upload::none_named(&self.path))
    }

    /// Uploads everything that is durable, the last segment as far as it goes.
    pub fn push(&self, watch: &mut dyn FnMut(u64, u64) -> bool) -> Result<Uploaded> {
        upload::push(self, watch)
    }

    /// Has the background upload everything soon.
    pub fn push_soon(&self) {
        self.remote.position.store(0, Ordering::Release);
        self.remote.worker.wake();
    }

    /// Puts right, from the object store, what is missing or damaged in a store that is not open.
    /// With `all`, brings back what was evicted, too.
    pub fn pull(
        path: &Path,
        patience: Duration,
        all: bool,
        watch: &mut dyn FnMut(u64, u64),
    ) -> Result<Pulled> {
        let _lock = crate::store::open::take_lock(path, false)?;
        pull::pull(path, patience, all, watch)
    }

    /// The object store, and with it that nothing is uploaded meanwhile.
    fn remote_turn<T>(&self, work: impl FnOnce(&Attached) -> Result<T>) -> Result<T> {
        match &*lock(&self.remote.attached) {
            Some(a) => match &a.fenced {
                Some(e) => Err(e.clone().into()),
                None => work(a),
            },
            None => Err(upload::none_named(&self.path)),
        }
    }

    /// Deletes from the object store what no manifest needs that was the newest one within the grace period.
    pub fn collect_remote(
        &self,
        grace: Duration,
        watch: &mut dyn FnMut(u64, u64) -> bool,
    ) -> Result<Collected> {
        self.remote_turn(|a| Ok(gc::collect(&*a.store, grace, &upload::unique(self), watch)?))
    }

    /// Checks every byte that the newest manifest names. With `repair`, replaces what is damaged.
    pub fn scrub_remote(
        &self,
        repair: bool,
        watch: &mut dyn FnMut(u64, u64) -> bool,
    ) -> Result<RemoteScrubbed> {
        self.remote_turn(|a| scrub::scrub(&*a.store, &Here(self), repair, watch))
    }

    /// What there is to say of the object store, if there is one.
    pub fn remote_status(&self) -> Result<Option<RemoteStatus>> {
        if let Some(view) = &self.view {
            let m = view.manifest();
            let requests = view.requests();
            return Ok(Some(RemoteStatus {
                url: view.url(),
                manifest: Some(m.number),
                epoch: Some(m.epoch),
                uploaded_bytes: m.parts.iter().map(|p| p.object.len).sum(),
                gets_per_mib: super::link::per_mib(requests.gets, requests.read_bytes),
                requests,
                cache: Some(view.cache()),
                ..RemoteStatus::default()
            }));
        }
        let there_only_bytes = self.evicted().1;
        let cache = self.tier.as_ref().and_then(|t| t.source.cache());
        if let Some(status) = self.remote.status(&self.durable_here()) {
            return Ok(Some(RemoteStatus { there_only_bytes, cache, ..status }));
        }
        // Nobody is connected; what is kept in the store can be told.
        Ok(home::Home::read(&*self.segments.volume)?.map(|home| RemoteStatus {
            url: home.url,
            manifest: home.last.map(|m| m.number),
            there_only_bytes,
            cache,
            ..RemoteStatus::default()
        }))
    }

    /// As [`Self::remote_status`]; where nobody is connected, the object store is asked.
    pub fn ask_remote(&self, patience: Duration) -> Result<Option<RemoteStatus>> {
        if self.view.is_some() || lock(&self.remote.known).store.is_some() {
            return self.remote_status();
        }
        let Some(home) = home::Home::read(&*self.segments.volume)? else { return Ok(None) };
        let store = open::open(&home.url, patience)?;
        let mut out = RemoteStatus { url: home.url.clone(), ..RemoteStatus::default() };
        let mut there = HashMap::new();
        if let Some(found) = lineage::newest(&*store)? {
            if home.knows(&found.mark) {
                let m = lineage::whole(&*store, found.packed, &mut HashMap::new())?;
                (out.manifest, out.epoch) = (Some(m.number), Some(m.epoch));
                there = m.parts.iter().map(|p| (p.number, p.object.len)).collect();
            } else {
                out.error = Some("the archive went on elsewhere: another writer took over".into());
            }
        }
        for (n, len) in self.here(self.segments.lens()) {
            let both = there.get(&n).copied().unwrap_or(0).min(len);
            out.both_bytes += both;
            out.here_only_bytes += len - both;
        }
        out.there_only_bytes = self.evicted().1;
        out.uploaded_bytes = there.values().sum();
        out.requests = store.requests();
        Ok(Some(out))
    }

    /// Those of some segments that are here.
    fn here(&self, mut lens: Vec<(u32, u64)>) -> Vec<(u32, u64)> {
        lens.retain(|(n, _)| !self.segments.is_distant(*n));
        lens
    }

    /// Numbers of segments that are here and how much of them is durable.
    fn durable_here(&self) -> Vec<(u32, u64)> {
        self.here(self.segments.lens_before(self.synced.load(Ordering::Acquire)))
    }

    /// Evicts what finds no room, if there is a limit.
    fn keep_within(&self) {
        let keep = self.remote.keep.load(Ordering::Acquire);
        if keep == 0 {
            return;
        }
        // Nothing finds less room than it did the last time.
        let cached = self.tier.as_ref().and_then(|t| t.source.cache()).map_or(0, |c| c.used);
        let manifest = lock(&self.remote.known).manifest.map_or(0, |(number, _)| number);
        let now = (self.synced.load(Ordering::Acquire) >> 32, cached, manifest);
        if lock(&self.remote.known).looked == Some(now) {
            return;
        }
        let worker = &self.remote.worker;
        match self.evict(keep, &mut |_, _| !worker.is_stopping()) {
            Ok(e) if e.segments > 0 => {
                log::info!("{} segments evicted, {} bytes", e.segments, e.bytes);
            }
            Ok(_) => lock(&self.remote.known).looked = Some(now),
            Err(StoreError::Stopped | StoreError::Closing) => {}
            Err(e) => {
                self.remote.say("evict", &e);
                if !worker.is_stopping() {
                    worker.rest(AGAIN);
                }
            }
        }
    }

    /// One look of the background.
    fn upload_sealed(&self) {
        let sealed = |position: u64| position >> 32;
        let durable = self.synced.load(Ordering::Acquire);
        let uploaded = self.remote.position.load(Ordering::Acquire);
        if sealed(durable) <= sealed(uploaded) && uploaded > 0 {
            return;
        }
        let worker = &self.remote.worker;
        match self.push(&mut |_, _| !worker.is_stopping()) {
            Ok(_) => self.collect_now_and_then(),
            Err(StoreError::Stopped) => {}
            Err(e) => {
                self.remote.say("upload", &e);
                if !worker.is_stopping() {
                    worker.rest(AGAIN);
                }
            }
        }
    }

    /// Each upload leaves the end of the log as it was before, for one: once in a while that goes.
    fn collect_now_and_then(&self) {
        {
            let mut known = lock(&self.remote.known);
            let last = known.collected.get_or_insert_with(Instant::now);
            if last.elapsed() < COLLECT_EVERY {
                return;
            }
            *last = Instant::now();
        }
        let worker = &self.remote.worker;
        match self.collect_remote(gc::GRACE, &mut |_, _| !worker.is_stopping()) {
            Ok(c) => log::info!("object store: {} objects deleted, {} bytes", c.objects, c.bytes),
            Err(e) => self.remote.say("upload", &e),
        }
    }

    /// With `remote=sync`: uploads what was just made durable.
    pub(in crate::store) fn upload_synced(&self) -> Result<()> {
        if !self.remote.sync.load(Ordering::Acquire) {
            return Ok(());
        }
        let want = self.synced.load(Ordering::Acquire);
        if want & 0xffff_ffff > SEAL {
            self.seal()?;
        }
        if self.remote.position.load(Ordering::Acquire) < want {
            self.push(&mut |_, _| true)?;
        }
        Ok(())
    }

    /// Ends the last segment, so that it never changes again, and begins another.
    fn seal(&self) -> Result<()> {
        {
            let mut w = self.writer();
            w.admits()?;
            w.close_batch(self.durable.load(Ordering::Acquire))?;
            w.roll(false)?;
        }
        self.commit(&lock(&self.sync))
    }

    /// After the store's last word: uploads it, if that takes no long time.
    pub(in crate::store) fn upload_at_close(&self) {
        if lock(&self.remote.known).store.is_none() {
            return;
        }
        let left = |store: &Self| {
            store.remote.status(&store.durable_here()).map_or(0, |s| s.here_only_bytes)
        };
        if left(self) > AT_CLOSE {
            log::warn!(
                "{} bytes are in this store only; upload them with: lmfs remote push",
                left(self)
            );
            return;
        }
        if let Err(e) = self.push(&mut |_, _| true) {
            log::warn!("{} bytes are in this store only: {e}", left(self));
        }
    }
}

/// Right bytes from the store itself.
struct Here<'a>(&'a Store);

impl Source for Here<'_> {
    fn segment(&self, part: &Part) -> Option<(Vec<u8>, Vec<u8>)> {
        let segments = &self.0.segments;
        let mut bytes = bundle::verified(segments, part.number, part.object.len).ok()?;
        bytes.truncate(part.object.len as usize);
        let b = bundle::bundle(segments.ecc, segments.stamp, part.number, bytes).ok()?;
        Some((b.bytes, b.sidecar))
    }

    fn model(&self, id: &[u8; 32]) -> Option<(Vec<u8>, Vec<u8>)> {
        let (_, bytes, sidecar) = bundle::model(self.0, id).ok()?;
        Some((bytes, sidecar))
    }
}
