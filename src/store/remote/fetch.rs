//! Ranges of segments in the object store, through the cache; each page is held against the checksums of
//! the segment's sidecar before it is used.

use super::cache::{Cache, GRANULE, Key};
use super::error::{RemoteError, Result};
use super::manifest::{Object, Part};
use super::sealed::SealedStore;
use crate::store::lock;
use crate::store::log::frame::Stamp;
use crate::store::repair::ecc::pages;
use crate::store::repair::ecc::pages::PAGE;
use crate::store::repair::sidecar::Sidecar;
use lru::LruCache;
use std::collections::HashSet;
use std::num::NonZeroUsize;
use std::ops::Range;
use std::panic::resume_unwind;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, OnceLock, PoisonError};

/// Bytes asked for at a time where all of an object is wanted.
const STEP: u64 = 8 << 20;
/// Most granules that are read ahead: 8 MiB.
const AHEAD: u32 = 128;
/// A read that goes on this close behind the last one, in granules, goes on where it was.
const CLOSE: u32 = 16;
/// Segments whose checksums are kept in memory, 64 KiB each.
const TABLES: NonZeroUsize = NonZeroUsize::new(256).unwrap();

/// Checksums of the pages of a segment.
type Sums = Arc<Vec<u32>>;

/// See the module.
#[derive(Debug)]
pub struct Fetcher {
    store: Arc<dyn SealedStore>,
    cache: Cache,
    stamp: Stamp,
    sums: Mutex<LruCache<[u8; 32], Sums>>,
    /// What is being fetched right now, so that nobody else asks for it.
    under_way: Mutex<HashSet<Key>>,
    arrived: Condvar,
}

/// Where the reads of a segment have got to.
#[derive(Debug, Default)]
pub struct Course {
    next: u32,
    window: u32,
}

impl Course {
    /// How many granules to read beyond `granules`, which are about to be fetched.
    fn ahead(&mut self, first: u32, end: u32) -> u32 {
        let goes_on = first >= self.next && first - self.next <= CLOSE && end > 1;
        self.window = if goes_on { (self.window * 2).clamp(1, AHEAD) } else { 0 };
        self.next = end + self.window;
        self.window
    }
}

/// Checksums that are about to be needed, and perhaps to be fetched.
struct Due<'a> {
    fetcher: &'a Fetcher,
    part: &'a Part,
    sums: OnceLock<Option<Sums>>,
}

impl Due<'_> {
    fn get(&self) -> Result<Option<&Sums>> {
        if self.sums.get().is_none() {
            let sums = self.fetcher.sums(self.part)?;
            let _ = self.sums.set(sums);
        }
        Ok(self.sums.get().and_then(Option::as_ref))
    }

    /// Does something; meanwhile the checksums are fetched, if they have to be.
    fn beside<T>(&self, work: impl FnOnce() -> Result<T>) -> Result<(T, Option<&Sums>)> {
        if self.sums.get().is_some() || self.fetcher.has_sums(self.part) {
            return Ok((work()?, self.get()?));
        }
        let done = std::thread::scope(|scope| {
            let sums = scope.spawn(|| self.get().map(drop));
            let done = work();
            sums.join().unwrap_or_else(|p| resume_unwind(p)).and(done)
        })?;
        Ok((done, self.get()?))
    }
}

impl Fetcher {
    /// Reads segments of a store with this stamp.
    pub fn new(store: Arc<dyn SealedStore>, cache: Cache, stamp: Stamp) -> Self {
        Self {
            store,
            cache,
            stamp,
            sums: Mutex::new(LruCache::new(TABLES)),
            under_way: Mutex::default(),
            arrived: Condvar::new(),
        }
    }

    /// The cache.
    pub fn cache(&self) -> &Cache {
        &self.cache
    }

    /// All of an object, verified by its hash; kept in the cache if it is to be.
    pub fn whole(&self, object: &Object, keep: bool) -> Result<Vec<u8>> {
        if let Some(bytes) = self.cache.whole(object) {
            return Ok(bytes);
        }
        let bytes = whole(&*self.store, object)?;
        if keep {
            self.cache.put_whole(object, &bytes);
        }
        Ok(bytes)
    }

    /// True if the checksums of a segment's pages need not be fetched.
    fn has_sums(&self, part: &Part) -> bool {
        let hash = tables_of(part);
        let granules = u64::from(part.tables).div_ceil(GRANULE) as u32;
        lock(&self.sums).contains(&part.sidecar.hash)
            || (0..granules).all(|granule| self.cache.has(Key { hash, granule }))
    }

    /// Fetches what is about to be read, many ranges at a time. What fails is tried again by whoever reads.
    pub fn prefetch(&self, wanted: &[(Part, Range<u64>)]) {
        at_once(wanted, |(part, range)| {
            let len = range.end.saturating_sub(range.start) as usize;
            if let Err(e) = self.read(part, &Mutex::default(), range.start, len) {
                log::debug!("{}: {e}", part.object.name());
            }
        });
    }

    /// The checksums of a segment's pages. They are at the end of its sidecar; a damaged table is corrected
    /// by its code, and if that does not do, the first copy of it is had.
    fn sums(&self, part: &Part) -> Result<Option<Sums>> {
        let known = || lock(&self.sums).get(&part.sidecar.hash).map(Arc::clone);
        if let Some(sums) = known() {
            return Ok(Some(sums));
        }
        // One fetches them, others wait.
        let turn = Key { hash: tables_of(part), granule: u32::MAX };
        let mut busy = lock(&self.under_way);
        while busy.contains(&turn) {
            busy = self.arrived.wait(busy).unwrap_or_else(PoisonError::into_inner);
        }
        busy.insert(turn);
        drop(busy);
        let sums = known().map_or_else(|| self.load_sums(part), |sums| Ok(Some(sums)));
        lock(&self.under_way).remove(&turn);
        self.arrived.notify_all();
        sums
    }

    fn load_sums(&self, part: &Part) -> Result<Option<Sums>> {
        let pages = part.object.len.div_ceil(PAGE as u64) as usize;
        let read = |bytes| {
            let side = Sidecar::read(bytes, self.stamp, part.number.into());
            side.sums().filter(|sums| sums.len() == pages).map(Arc::new)
        };
        let range = part.sidecar.len.saturating_sub(part.tables.into())..part.sidecar.len;
        let hash = tables_of(part);
        let key = |granule| Key { hash, granule };
        let granules = u64::from(part.tables).div_ceil(GRANULE) as u32;
        let cached = || (0..granules).map(|g| self.cache.get(key(g))).collect::<Option<Vec<_>>>();
        if (0..granules).all(|g| self.cache.has(key(g)))
            && let Some(sums) = cached().and_then(|parts| read(parts.concat()))
        {
            lock(&self.sums).put(part.sidecar.hash, Arc::clone(&sums));
            return Ok(Some(sums));
        }
        let bytes = self.store.get_range(&part.sidecar.name(), range)?;
        let sums = match read(bytes.clone()) {
            Some(sums) => {
                self.keep_tables(part, &bytes);
                Some(sums)
            }
            None => read(self.store.get_range(&part.sidecar.name(), 0..part.sidecar.len)?),
        };
        match &sums {
            Some(sums) => drop(lock(&self.sums).put(part.sidecar.hash, Arc::clone(sums))),
            None => log::error!("{}: its checksums cannot be read", part.sidecar.name()),
        }
        Ok(sums)
    }

    /// Keeps the checksums of a segment's pages, which are known already: they are all that is read of the
    /// sidecar.
    pub fn keep_tables(&self, part: &Part, tables: &[u8]) {
        let key = tables_of(part);
        for (granule, bytes) in tables.chunks(GRANULE as usize).enumerate() {
            self.cache.put(Key { hash: key, granule: granule as u32 }, bytes);
        }
    }

    /// Bytes of a segment from `offset` on. What is not what its checksums say even when it is fetched
    /// again is returned as it is, and not kept: whoever reads frames can correct them.
    pub fn read(
        &self,
        part: &Part,
        course: &Mutex<Course>,
        offset: u64,
        len: usize,
    ) -> Result<Vec<u8>> {
        let end = part.object.len.min(offset + len as u64);
        if offset >= end {
            return Ok(Vec::new());
        }
        let due = Due { fetcher: self, part, sums: OnceLock::new() };
        let (first, last) = ((offset / GRANULE) as u32, ((end - 1) / GRANULE) as u32);
        let mut out = Vec::with_capacity((end - offset) as usize);
        let mut take = |granule: u32, bytes: &[u8]| {
            let at = u64::from(granule) * GRANULE;
            let from = offset.max(at) - at;
            let to = end.min(at + bytes.len() as u64) - at;
            out.extend_from_slice(&bytes[from as usize..to as usize]);
        };
        let mut granule = first;
        while granule <= last {
            if let Some(bytes) = self.cached(&due, granule)? {
                take(granule, &bytes);
                granule += 1;
                continue;
            }
            for bytes in self.fetch(&due, course, granule, last)? {
                if granule <= last {
                    take(granule, &bytes);
                }
                granule += 1;
            }
        }
        Ok(out)
    }

    /// True if these bytes of a granule are what the checksums say.
    fn is_good(part: &Part, sums: Option<&Sums>, granule: u32, bytes: &[u8]) -> bool {
        let at = u64::from(granule) * GRANULE;
        let first = (at / PAGE as u64) as usize;
        bytes.len() as u64 == GRANULE.min(part.object.len - at)
            && sums.is_some_and(|sums| {
                let now = pages::sums(bytes);
                sums.get(first..first + now.len()) == Some(&now[..])
            })
    }

    fn cached(&self, due: &Due<'_>, granule: u32) -> Result<Option<Vec<u8>>> {
        let key = Key { hash: due.part.object.hash, granule };
        let Some(bytes) = self.cache.get(key) else { return Ok(None) };
        if Self::is_good(due.part, due.get()?, granule, &bytes) {
            return Ok(Some(bytes));
        }
        log::warn!("cache: damaged part of {}, fetched again", due.part.object.name());
        self.cache.drop_damaged(key);
        Ok(None)
    }

    /// Fetches granules from `first` on, up to `last` or the next one that is cached, and some beyond if
    /// the reads go on one after another.
    fn fetch(
        &self,
        due: &Due<'_>,
        course: &Mutex<Course>,
        first: u32,
        last: u32,
    ) -> Result<Vec<Vec<u8>>> {
        let part = due.part;
        let key = |granule| Key { hash: part.object.hash, granule };
        let mut busy = lock(&self.under_way);
        if busy.contains(&key(first)) {
            while busy.contains(&key(first)) {
                busy = self.arrived.wait(busy).unwrap_or_else(PoisonError::into_inner);
            }
            drop(busy);
            // It is cached now, unless fetching it failed: then it is tried once more here.
            if let Some(bytes) = self.cached(due, first)? {
                return Ok(vec![bytes]);
            }
            busy = lock(&self.under_way);
        }
        let all = part.object.len.div_ceil(GRANULE) as u32;
        let room = (self.cache.capacity() / 4 / GRANULE) as u32;
        let ahead = lock(course).ahead(first, last + 1).min(room);
        let free = |g: &u32| !busy.contains(&key(*g)) && !self.cache.has(key(*g));
        let end = (last + 1 + ahead).min(all);
        let end = (first + 1..end).find(|g| !free(g)).unwrap_or(end);
        busy.extend((first..end).map(key));
        drop(busy);
        let fetched = self.granules(due, first, end);
        let mut busy = lock(&self.under_way);
        for g in first..end {
            busy.remove(&key(g));
        }
        drop(busy);
        self.arrived.notify_all();
        fetched
    }

    fn granules(&self, due: &Due<'_>, first: u32, end: u32) -> Result<Vec<Vec<u8>>> {
        let part = due.part;
        let name = part.object.name();
        let range = |first: u32, end: u32| {
            u64::from(first) * GRANULE..(u64::from(end) * GRANULE).min(part.object.len)
        };
        let (bytes, sums) = due.beside(|| self.store.get_range(&name, range(first, end)))?;
        let mut out = Vec::new();
        for (granule, bytes) in (first..end).zip(bytes.chunks(GRANULE as usize)) {
            let mut bytes = bytes.to_vec();
            let mut good = Self::is_good(part, sums, granule, &bytes);
            if !good && sums.is_some() {
                bytes = self.store.get_range(&name, range(granule, granule + 1))?;
                good = Self::is_good(part, sums, granule, &bytes);
                if !good {
                    log::error!("{name}: damaged at byte {}", u64::from(granule) * GRANULE);
                }
            }
            if good {
                self.cache.put(Key { hash: part.object.hash, granule }, &bytes);
            }
            out.push(bytes);
        }
        Ok(out)
    }
}

/// Requests that are made at a time where many are due.
const AT_ONCE: usize = 16;

/// Does something for each of some things, many at a time; the results in their order.
pub fn at_once<T: Sync, R: Send>(things: &[T], work: impl Fn(&T) -> R + Sync) -> Vec<R> {
    if things.len() < 2 {
        return things.iter().map(work).collect();
    }
    let next = AtomicUsize::new(0);
    let some = || {
        let mut done = Vec::new();
        while let Some((n, thing)) = {
            let n = next.fetch_add(1, Ordering::Relaxed);
            things.get(n).map(|thing| (n, thing))
        } {
            done.push((n, work(thing)));
        }
        done
    };
    let mut all: Vec<(usize, R)> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..AT_ONCE.min(things.len())).map(|_| scope.spawn(some)).collect();
        let ended = threads.into_iter().map(|t| t.join().unwrap_or_else(|p| resume_unwind(p)));
        ended.flatten().collect()
    });
    all.sort_by_key(|(n, _)| *n);
    all.into_iter().map(|(_, r)| r).collect()
}

/// Tables are objects of their own as far as the cache goes: by a name that no other bytes have.
fn tables_of(part: &Part) -> [u8; 32] {
    *blake3::hash(&[&part.sidecar.hash[..], b"tables"].concat()).as_bytes()
}

/// True if an object lies there with the bytes that it should have.
pub fn is_whole(store: &dyn SealedStore, object: &Object) -> Result<bool> {
    let (mut at, mut hash) = (0, blake3::Hasher::new());
    while at < object.len {
        let end = (at + STEP).min(object.len);
        match store.get_range(&object.name(), at..end) {
            Ok(bytes) => hash.update(&bytes),
            Err(RemoteError::NotFound(_) | RemoteError::Refused(_)) => return Ok(false),
            Err(e) => return Err(e),
        };
        at = end;
    }
    Ok(*hash.finalize().as_bytes() == object.hash)
}

/// All of an object, verified by its hash; fetched a second time if it is damaged.
pub fn whole(store: &dyn SealedStore, object: &Object) -> Result<Vec<u8>> {
    let fetch = || -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        while (bytes.len() as u64) < object.len {
            let at = bytes.len() as u64;
            bytes.extend(store.get_range(&object.name(), at..(at + STEP).min(object.len))?);
        }
        Ok(bytes)
    };
    let bytes = fetch()?;
    if object.is(&bytes) {
        return Ok(bytes);
    }
    let bytes = fetch()?;
    if object.is(&bytes) {
        return Ok(bytes);
    }
    let text = format!("{}: its bytes have another hash", object.name());
    Err(RemoteError::Refused(text))
}
