//! Eviction: sealed segments that lie in the object store too need not take room here.
//!
//! A segment goes only once its copy there was read back and has the hash that the newest manifest gives, and
//! the bytes here have it as well: the only good copy is never dropped. What opening a store reads, the last
//! checkpoint and all after it, stays; so a store opens without a request. The least recently read go first.

use super::blobs::Origin;
use super::bundle;
use super::error::RemoteError;
use super::fetch;
use super::link::Attached;
use super::manifest::{Object, Part};
use super::sealed::SealedStore;
use crate::store::api::{Result, StoreError};
use crate::store::log::segments::{Segment, Side, segment_path};
use crate::store::{Store, lock};
use crate::types::FrameRef;
use serde::{Deserialize, Serialize};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// A checkpoint is written if it lets so many times its own length go.
const TIMES: u64 = 4;

/// What was evicted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Evicted {
    /// Segments that are no longer here.
    pub segments: u64,
    /// The room that they took, with their sidecars.
    pub bytes: u64,
    /// What sealed segments, and the cache of what is there only, take now.
    pub left_bytes: u64,
}

/// What segments that are evicted come to, in bytes.
#[derive(Debug, Clone, Copy, Default)]
pub(in crate::store) struct There {
    /// With their sidecars.
    pub takes: u64,
    /// What nothing refers to.
    pub dead: u64,
}

/// A sealed segment that is here.
#[derive(Debug, Clone, Copy)]
struct Here {
    number: u32,
    /// Its bytes and its sidecar's.
    takes: u64,
    /// Its copy in the object store, if the newest manifest names one.
    part: Option<Part>,
}

impl Store {
    /// Evicts segments until what is sealed here, and the cache of what is not, take `keep` bytes at most, as
    /// far as that is possible. `watch` is told how many bytes of how many went, and ends it by saying false.
    pub fn evict(&self, keep: u64, watch: &mut dyn FnMut(u64, u64) -> bool) -> Result<Evicted> {
        let mut out = Evicted::default();
        let Some(tier) = &self.tier else { return Ok(out) };
        let cached = || tier.source.cache().map_or(0, |c| c.used);
        let sum = |some: &[Here]| some.iter().map(|h| h.takes).sum::<u64>();
        let mut here = self.sealed_here();
        let takes = sum(&here);
        out.left_bytes = takes + cached();
        let over = out.left_bytes.saturating_sub(keep);
        here.retain(|h| h.part.is_some());
        if over == 0 || here.is_empty() {
            return Ok(out);
        }
        let awake = self.remote.worker.idlers().awake();
        let (first, len) = *lock(&self.checkpoint);
        let (before, behind): (Vec<Here>, Vec<Here>) = here.iter().partition(|h| h.number < first);
        let first = if sum(&before) < over && sum(&behind) >= TIMES * len.max(1) {
            self.renew_checkpoint()?;
            lock(&self.checkpoint).0
        } else if before.is_empty() {
            return Ok(out);
        } else {
            // The checkpoint must be durable before anything goes that only it makes dispensable.
            self.commit(&lock(&self.sync))?;
            first
        };
        drop(awake);
        here.retain(|h| h.number < first);
        self.segments.by_last_use(&mut here, |h| h.number);
        let mut failed = None;
        for h in here {
            let Some(part) = h.part else { continue };
            if !watch(out.bytes, over) {
                return Err(StoreError::Stopped);
            }
            if out.bytes >= over {
                break;
            }
            match self.evict_one(&part) {
                Ok(true) => {
                    out.segments += 1;
                    out.bytes += h.takes;
                }
                Ok(false) => {}
                // One that is damaged stays, until it was repaired; the others may go.
                Err(e @ StoreError::Refused(_)) => failed = Some(e),
                Err(e) => return Err(e),
            }
        }
        out.left_bytes = takes.saturating_sub(out.bytes) + cached();
        failed.map_or(Ok(out), Err)
    }

    /// As [`Self::evict`], where it may not be known yet what lies in the object store.
    pub fn evict_now(&self, keep: u64, watch: &mut dyn FnMut(u64, u64) -> bool) -> Result<Evicted> {
        super::upload::ready(self)?;
        self.evict(keep, watch)
    }

    /// Sealed and durable segments that are here.
    fn sealed_here(&self) -> Vec<Here> {
        let parts: HashMap<u32, Part> = match &*lock(&self.remote.attached) {
            Some(Attached { newest: Some(m), fenced: None, .. }) => {
                m.parts.iter().map(|p| (p.number, *p)).collect()
            }
            _ => HashMap::new(),
        };
        let sidecars = lock(&self.segments.sidecars).clone();
        let last = (self.synced.load(Ordering::Acquire) >> 32) as u32;
        let lens = self.segments.lens().into_iter();
        let there: HashSet<u32> =
            self.tier.iter().flat_map(|t| t.parts()).map(|p| p.number).collect();
        lens.filter(|(n, _)| *n < last && !there.contains(n))
            .map(|(number, len)| Here {
                number,
                takes: len + sidecars.get(&number).map_or(0, |s| s.len),
                part: parts.get(&number).filter(|p| p.object.len == len).copied(),
            })
            .collect()
    }

    /// Checks both copies of a segment, and lets the one here go; false if it went by itself.
    fn evict_one(&self, part: &Part) -> Result<bool> {
        let Some(tier) = &self.tier else { return Ok(false) };
        let store = tier.source.store()?;
        let refuse = |why: &str| {
            let file = segment_path(part.number);
            Err(StoreError::Refused(format!("{file}: {why}, so it is not evicted")))
        };
        let bytes = match bundle::verified(&self.segments, part.number, part.object.len) {
            Err(_) if self.segments.get(part.number).is_none() => return Ok(false),
            bytes => bytes?,
        };
        if !part.object.is(&bytes) {
            return refuse("it differs from what was uploaded");
        }
        // What is damaged there is replaced, and read back again.
        if !fetch::is_whole(&*store, &part.object)? {
            store.put(&part.object.name(), &bytes)?;
            if !fetch::is_whole(&*store, &part.object)? {
                return refuse("its copy in the object store is damaged");
            }
        }
        let sidecar = self.sidecar_there(&*store, part, bytes)?;
        let Some(sidecar) = sidecar else {
            return refuse("its sidecar in the object store is damaged");
        };
        if !self.let_go(part)? {
            return Ok(false);
        }
        // The next read of it needs them.
        let tables = sidecar.len().saturating_sub(part.tables as usize);
        tier.source.fetcher()?.keep_tables(part, &sidecar[tables..]);
        Ok(true)
    }

    /// The sidecar of a segment as it lies in the object store, made anew there if it has to be.
    fn sidecar_there(
        &self,
        store: &dyn SealedStore,
        part: &Part,
        bytes: Vec<u8>,
    ) -> Result<Option<Vec<u8>>> {
        let get = |object: &Object| match fetch::whole(store, object) {
            Err(RemoteError::Refused(_) | RemoteError::NotFound(_)) => Ok(None),
            bytes => bytes.map(Some),
        };
        if let Some(sidecar) = get(&part.sidecar)? {
            return Ok(Some(sidecar));
        }
        let made = bundle::bundle(self.segments.ecc, self.segments.stamp, part.number, bytes)?;
        if made.part != *part {
            return Ok(None);
        }
        store.put(&part.sidecar.name(), &made.sidecar)?;
        Ok(get(&part.sidecar)?)
    }

    /// Drops the files of a segment whose copy is good; false if it went by itself, or may not go any more.
    fn let_go(&self, part: &Part) -> Result<bool> {
        let Some(tier) = &self.tier else { return Ok(false) };
        let segments = &self.segments;
        let _awake = self.remote.worker.idlers().awake();
        let mut attached = lock(&self.remote.attached);
        let Some(a) = attached.as_mut() else { return Ok(false) };
        let named = a.newest.as_ref().is_some_and(|m| m.parts.contains(part));
        if a.fenced.is_some() || !named {
            return Ok(false);
        }
        if !a.home.evicts {
            a.home.evicts = true;
            a.home.write(&*segments.volume)?;
        }
        // Nobody may repair it or make its sidecar meanwhile.
        let _healing = lock(&segments.healing);
        let side = Side { covered: part.object.len, len: part.sidecar.len };
        let mut covered = None;
        let gone = segments.displace(part.number, || {
            tier.enter(&[*part])?;
            covered = lock(&segments.sidecars).insert(part.number, side).map(|s| s.covered);
            Ok(Segment { blob: tier.segment(*part), len: part.object.len })
        })?;
        if gone {
            tier.drop_files(part, covered);
            lock(&segments.hopeless).remove(&part.number);
            log::debug!("{}: evicted", segment_path(part.number));
        }
        Ok(gone)
    }

    /// What segments that are not here come to.
    pub(in crate::store) fn stored_there(&self) -> There {
        let parts = self.tier.as_ref().map_or_else(Vec::new, |t| t.parts());
        let live = Arc::clone(&self.state().totals.live);
        parts.iter().fold(There::default(), |sum, p| {
            let live = live.get(&p.number).copied().unwrap_or(0);
            There {
                takes: sum.takes + p.object.len + p.sidecar.len,
                dead: sum.dead + p.object.len.saturating_sub(live),
            }
        })
    }

    /// Does something; meanwhile a frame that has to be fetched comes into the cache.
    pub fn beside<T>(&self, frame: FrameRef, work: impl FnOnce() -> T) -> T {
        if !self.segments.is_distant(frame.segment) {
            return work();
        }
        std::thread::scope(|scope| {
            // Whoever wants it asks for it again, and is told what is wrong.
            let fetched = scope.spawn(|| drop(self.segments.read(frame)));
            let done = work();
            let _ = fetched.join();
            done
        })
    }

    /// True if a segment lies in the object store only.
    pub fn is_evicted(&self, number: u32) -> bool {
        self.view.is_none() && self.segments.is_distant(number)
    }

    /// True if any segment does.
    pub fn has_evicted(&self) -> bool {
        self.tier.as_ref().is_some_and(|t| !t.is_empty())
    }

    /// How many segments lie in the object store only, and their bytes.
    pub fn evicted(&self) -> (u64, u64) {
        let parts = self.tier.as_ref().map_or_else(Vec::new, |t| t.parts());
        (parts.len() as u64, parts.iter().map(|p| p.object.len).sum())
    }
}
