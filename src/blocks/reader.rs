//! A block's plaintext, checked end to end: store, then decoder, then the plaintext's hash.

use super::cache::{Cache, CacheStats, Key, Landing, Lookup, Value};
use super::queue::{Urgency, WorkQueue};
use super::{ReadError, StoreModels};
use crate::block::{self, Lm, Primer, Show};
use crate::store::{Store, StoreError};
use crate::types::{Encoding, Extent, Frame, FrameRef};
use std::sync::{Arc, OnceLock};

/// The primer used last by somebody who reads block after block.
pub type LastPrimer = Option<(u64, Primer)>;

/// What becomes of a block that was read.
#[derive(Debug)]
pub enum Policy<'a> {
    /// It stays in the cache.
    Keep,
    /// It is read once, for work of which nobody waits for a block: it neither takes room in the
    /// cache nor does a reader ever wait for it, for the thread that decodes it may be an idle one.
    Once(&'a mut LastPrimer),
}

/// What trying to read came to.
#[derive(Debug)]
pub enum Attempt<T> {
    /// Here it is.
    Done(T),
    /// Another thread decodes a block or primer that is needed.
    Pending(Landing),
}

/// Reads the blocks of an open store: its frames, its primers, its models, and a cache of what was
/// decoded. All methods may be called from any thread; no lock is held while a block is read or
/// decoded.
#[derive(Debug)]
pub struct BlockReader {
    store: Arc<Store>,
    models: StoreModels,
    cache: Cache,
    workers: WorkQueue,
    /// For what has to come from an object store, so that nobody else waits for that; once it is needed.
    fetchers: OnceLock<WorkQueue>,
}

/// Blocks that are fetched from an object store at a time.
const FETCHERS: usize = 8;

impl BlockReader {
    /// For an open store, with a cache of so many bytes and so many decoding threads; `lm_gain` as in
    /// [`block::Tier`].
    ///
    /// # Errors
    /// A thread cannot be started.
    pub fn start(
        store: Arc<Store>,
        lm_gain: f64,
        cache_bytes: u64,
        threads: usize,
    ) -> Result<Arc<Self>, StoreError> {
        let failed = |source| StoreError::Io { what: "starting a thread".into(), source };
        let workers = WorkQueue::start("decode", threads).map_err(failed)?;
        let models = StoreModels::new(Arc::clone(&store), lm_gain);
        let (cache, fetchers) = (Cache::new(cache_bytes), OnceLock::new());
        Ok(Arc::new(Self { store, models, cache, workers, fetchers }))
    }

    /// The store.
    pub fn store(&self) -> &Arc<Store> {
        &self.store
    }

    /// Its models.
    pub fn models(&self) -> &StoreModels {
        &self.models
    }

    /// Figures of the cache.
    pub fn cache_stats(&self) -> CacheStats {
        self.cache.stats()
    }

    /// The decoding threads' queue.
    pub fn workers(&self) -> &WorkQueue {
        &self.workers
    }

    /// The queue of the threads that are to read blocks, distant ones or others.
    pub fn workers_for(&self, distant: bool) -> &WorkQueue {
        if !distant {
            return &self.workers;
        }
        if let Some(queue) = self.fetchers.get() {
            return queue;
        }
        match WorkQueue::start("fetch", FETCHERS) {
            Ok(queue) => self.fetchers.get_or_init(|| queue),
            Err(e) => {
                log::warn!("starting a thread: {e}");
                &self.workers
            }
        }
    }

    /// True if a block, or the primer that it needs, is not in the store any more but in its object store.
    pub fn is_distant(&self, extent: &Extent) -> bool {
        if !self.store.has_evicted() {
            return false;
        }
        let primer = || match extent.meta.primer {
            0 => None,
            id => self.store.primer(id).ok().flatten(),
        };
        self.store.is_evicted(extent.frame.segment)
            || primer().is_some_and(|at| self.store.is_evicted(at.segment))
    }

    /// A block's plaintext if it is in memory, at least its first `len` bytes.
    pub fn peek(&self, frame: FrameRef, len: usize) -> Option<Arc<Vec<u8>>> {
        self.cache.peek(frame, len)
    }

    /// True if decoding the block takes much longer than reading it: it needs a network, or a model
    /// that is not loaded yet.
    pub fn is_slow(&self, extent: &Extent) -> bool {
        extent.meta.encoding == Encoding::Lm && self.models.is_slow(extent.meta.model)
    }

    /// The plaintext of the whole block that an extent is of; decodes it on this thread unless it is
    /// in memory or about to be.
    ///
    /// # Errors
    /// It cannot be read, or is not what was written.
    pub fn read(&self, extent: &Extent, policy: Policy<'_>) -> Result<Arc<Vec<u8>>, ReadError> {
        match policy {
            Policy::Keep => loop {
                match self.attempt(extent, extent.meta.plain_len as usize, &mut || {})? {
                    Attempt::Done(plain) => return Ok(plain),
                    Attempt::Pending(landing) => self.cache.wait(landing),
                }
            },
            Policy::Once(last) => {
                if let Some(plain) = self.peek(extent.frame, extent.meta.plain_len as usize) {
                    return Ok(plain);
                }
                let known = last.as_ref().is_some_and(|(id, _)| *id == extent.meta.primer);
                if extent.meta.primer != 0 && !known {
                    let primer = self.decode_primer(extent.meta.primer, extent.frame)?;
                    *last = Some((extent.meta.primer, primer));
                }
                let primer = last.as_ref().filter(|_| extent.meta.primer != 0).map(|(_, p)| p);
                Ok(Arc::new(self.decode(extent, primer, &mut |_| {})?))
            }
        }
    }

    /// As [`Self::read`] with [`Policy::Keep`], but does not wait for another thread, and is content with the block's
    /// first `len` bytes if they are in memory. If it has to decode, it calls `early` whenever more of the
    /// block can be had by [`Self::peek`], and returns when there is all.
    pub fn attempt(
        &self,
        extent: &Extent,
        len: usize,
        early: &mut dyn FnMut(),
    ) -> Result<Attempt<Arc<Vec<u8>>>, ReadError> {
        let flight = match self.cache.look_up(Key::Frame(extent.frame), len) {
            Lookup::Here(Value::Plain(plain)) => return Ok(Attempt::Done(plain)),
            Lookup::Here(Value::Primer(_)) => return Err(ReadError::Other(extent.frame)),
            Lookup::Absent(flight) => flight,
            Lookup::UnderWay(landing) => return Ok(Attempt::Pending(landing)),
        };
        let primer = match extent.meta.primer {
            0 => None,
            id => match self.cached_primer(id, extent.frame)? {
                Attempt::Done(primer) => Some(primer),
                Attempt::Pending(landing) => return Ok(Attempt::Pending(landing)),
            },
        };
        let mut show = |head: &[u8]| {
            flight.show(head);
            early();
        };
        let plain = Arc::new(self.decode(extent, primer.as_ref(), &mut show)?);
        flight.land(Value::Plain(Arc::clone(&plain)));
        Ok(Attempt::Done(plain))
    }

    /// Calls `then` once what an attempt was refused for has been decoded, as far as it was asked for, or given up.
    pub fn when_landed(&self, landing: Landing, then: impl FnOnce() + Send + 'static) {
        self.cache.when_landed(landing, Box::new(then));
    }

    /// Has a block decoded that is likely to be wanted soon.
    pub fn read_ahead(self: &Arc<Self>, extent: Extent) {
        if !self.cache.announce(extent.frame) {
            return;
        }
        let reader = Arc::clone(self);
        let slow = self.is_slow(&extent);
        let distant = self.is_distant(&extent);
        self.workers_for(distant).run(Urgency::Ahead, slow, move || {
            reader.cache.announced(extent.frame);
            // A failure is reported by the read that needs the block.
            let _ = reader.attempt(&extent, extent.meta.plain_len as usize, &mut || {});
        });
    }

    /// The primer with this id, which `frame` was coded with, for whoever codes more with it.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub fn primer(&self, id: u64, frame: FrameRef) -> Result<Primer, ReadError> {
        loop {
            match self.cached_primer(id, frame)? {
                Attempt::Done(primer) => return Ok(primer),
                Attempt::Pending(landing) => self.cache.wait(landing),
            }
        }
    }

    fn cached_primer(&self, id: u64, frame: FrameRef) -> Result<Attempt<Primer>, ReadError> {
        match self.cache.look_up(Key::Primer(id), 0) {
            Lookup::Here(Value::Primer(primer)) => Ok(Attempt::Done(primer)),
            Lookup::Here(Value::Plain(_)) => Err(ReadError::NoPrimer { frame, primer: id }),
            Lookup::UnderWay(landing) => Ok(Attempt::Pending(landing)),
            Lookup::Absent(flight) => {
                let primer = self.store.beside(frame, || self.decode_primer(id, frame))?;
                flight.land(Value::Primer(primer.clone()));
                Ok(Attempt::Done(primer))
            }
        }
    }

    /// Reads and decodes the whole frame of `extent`; `primer` is the extent's, if it has one. What there is of it
    /// before is shown.
    fn decode(
        &self,
        extent: &Extent,
        primer: Option<&Primer>,
        show: Show<'_>,
    ) -> Result<Vec<u8>, ReadError> {
        let at = extent.frame;
        let plain = self.plain(extent, primer, show);
        match &plain {
            Ok(_) => self.store.note_whole(at),
            Err(e) if e.is_damage() => self.store.note_damaged(at),
            Err(_) => {}
        }
        plain
    }

    fn plain(
        &self,
        extent: &Extent,
        primer: Option<&Primer>,
        show: Show<'_>,
    ) -> Result<Vec<u8>, ReadError> {
        let at = extent.frame;
        let f = self.store.read_frame(at)?;
        if !extent.is_of(&f) {
            return Err(ReadError::Other(at));
        }
        let lm = self.model(&f)?;
        let (encoding, len) = (f.meta.encoding, f.meta.plain_len);
        let decoded = block::decode_showing(encoding, &f.payload, len, primer, lm.as_deref(), show);
        let bytes = decoded.map_err(|source| ReadError::Block { frame: at, source })?;
        if block::plain_hash(&bytes) == f.plain_hash { Ok(bytes) } else { Err(ReadError::Hash(at)) }
    }

    /// Reads, decodes and readies a primer.
    fn decode_primer(&self, id: u64, frame: FrameRef) -> Result<Primer, ReadError> {
        let place = || match self.store.primer(id)? {
            Some(at) => Ok(at),
            // It went with the last extent that named it.
            None if !self.store.is_live(frame) => Err(StoreError::Outdated(frame).into()),
            None => Err(ReadError::NoPrimer { frame, primer: id }),
        };
        let mut at = place()?;
        let f = loop {
            match self.store.read_frame(at) {
                Err(e @ StoreError::Outdated(_)) => match place()? {
                    // A forged store may say what is not so.
                    now if now == at => return Err(e.into()),
                    now => at = now,
                },
                f => break f?,
            }
        };
        let lm = self.model(&f)?;
        let primer = Primer::decode(f.meta.encoding, &f.payload, f.meta.plain_len, lm.as_ref())
            .map_err(|source| ReadError::Block { frame: at, source })?;
        let same = block::plain_hash(primer.plain()) == f.plain_hash;
        if same { Ok(primer) } else { Err(ReadError::Hash(at)) }
    }

    fn model(&self, f: &Frame) -> Result<Option<Arc<Lm>>, ReadError> {
        Ok(if f.meta.encoding == Encoding::Lm { Some(self.models.lm(f.meta.model)?) } else { None })
    }
}
