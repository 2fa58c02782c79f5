//! LRU of decoded frames and primers, bounded in bytes, single flight.

use crate::block::Primer;
use crate::fetch::{FetchError, Fetcher};
use crate::types::{Extent, FrameRef};
use lru::LruCache;
use std::collections::HashSet;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// Figures of the cache, in bytes and lookups.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CacheStats {
    /// Bytes it may hold.
    pub capacity: u64,
    /// Bytes it holds.
    pub used: u64,
    /// Lookups answered from memory.
    pub hits: u64,
    /// Lookups that had to decode.
    pub misses: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Key {
    Frame(FrameRef),
    Primer(u64),
}

#[derive(Debug, Clone)]
enum Value {
    Plain(Arc<Vec<u8>>),
    Primer(Primer),
}

impl Value {
    fn weight(&self) -> u64 {
        /// What an entry costs besides its bytes.
        const ENTRY: u64 = 128;
        ENTRY
            + match self {
                Self::Plain(p) => p.capacity() as u64,
                Self::Primer(p) => p.weight() as u64,
            }
    }
}

#[derive(Debug)]
struct State {
    entries: LruCache<Key, Value>,
    stats: CacheStats,
    /// Being decoded by somebody.
    flights: HashSet<Key>,
}

/// Decoded frames of one store.
#[derive(Debug)]
pub struct Cache {
    state: Mutex<State>,
    landed: Condvar,
}

/// Ends a flight, also when the decoder panics.
struct Flight<'a>(&'a Cache, Key);

impl Drop for Flight<'_> {
    fn drop(&mut self) {
        self.0.state().flights.remove(&self.1);
        self.0.landed.notify_all();
    }
}

impl Cache {
    /// A cache of at most `capacity` bytes.
    pub fn new(capacity: u64) -> Self {
        let stats = CacheStats { capacity, ..CacheStats::default() };
        let entries = LruCache::unbounded();
        let state = Mutex::new(State { entries, stats, flights: HashSet::new() });
        Self { state, landed: Condvar::new() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Figures.
    pub fn stats(&self) -> CacheStats {
        self.state().stats
    }

    /// A frame's plaintext, if it is here already.
    pub fn peek(&self, frame: FrameRef) -> Option<Arc<Vec<u8>>> {
        let mut s = self.state();
        match s.entries.get(&Key::Frame(frame)) {
            Some(Value::Plain(p)) => {
                let p = Arc::clone(p);
                s.stats.hits += 1;
                Some(p)
            }
            _ => None,
        }
    }

    /// True if a frame is here or about to be.
    pub fn expects(&self, frame: FrameRef) -> bool {
        let key = Key::Frame(frame);
        let s = self.state();
        s.entries.contains(&key) || s.flights.contains(&key)
    }

    /// A frame's plaintext; decodes it unless it is here or on its way.
    pub fn frame(&self, fetcher: &Fetcher, extent: &Extent) -> Result<Arc<Vec<u8>>, FetchError> {
        let decode = || {
            let primer = match extent.primer {
                0 => None,
                id => Some(self.primer(fetcher, id, extent.frame)?),
            };
            Ok(Value::Plain(Arc::new(fetcher.frame(extent, primer.as_ref())?)))
        };
        match self.get(Key::Frame(extent.frame), decode)? {
            Value::Plain(p) => Ok(p),
            Value::Primer(_) => Err(FetchError::Hash(extent.frame)),
        }
    }

    fn primer(&self, fetcher: &Fetcher, id: u64, frame: FrameRef) -> Result<Primer, FetchError> {
        let ready = || Ok(Value::Primer(fetcher.primer(id, frame)?));
        match self.get(Key::Primer(id), ready)? {
            Value::Primer(p) => Ok(p),
            Value::Plain(_) => Err(FetchError::NoPrimer { frame, primer: id }),
        }
    }

    /// No lock is held while `make` runs. A failure is not kept: the next one tries again.
    fn get(
        &self,
        key: Key,
        make: impl FnOnce() -> Result<Value, FetchError>,
    ) -> Result<Value, FetchError> {
        let mut s = self.state();
        loop {
            if let Some(v) = s.entries.get(&key) {
                let v = v.clone();
                s.stats.hits += 1;
                return Ok(v);
            }
            if s.flights.insert(key) {
                break;
            }
            s = self.landed.wait(s).unwrap_or_else(PoisonError::into_inner);
        }
        s.stats.misses += 1;
        drop(s);
        let flight = Flight(self, key);
        let value = make()?;
        self.insert(key, value.clone());
        drop(flight);
        Ok(value)
    }

    fn insert(&self, key: Key, value: Value) {
        let mut s = self.state();
        let weight = value.weight();
        if weight > s.stats.capacity {
            return;
        }
        s.stats.used += weight;
        if let Some(old) = s.entries.put(key, value) {
            s.stats.used -= old.weight();
        }
        while s.stats.used > s.stats.capacity {
            let Some((_, old)) = s.entries.pop_lru() else { break };
            s.stats.used -= old.weight();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU32, Ordering};

    fn key(n: u32) -> Key {
        Key::Frame(FrameRef { segment: 1, offset: n, len: 1 })
    }

    fn value(len: usize) -> Value {
        Value::Plain(Arc::new(vec![0; len]))
    }

    #[test]
    fn stays_within_its_bytes_and_drops_the_oldest() {
        let cache = Cache::new(4000);
        for n in 0..10 {
            cache.get(key(n), || Ok(value(900))).unwrap();
            assert!(cache.stats().used <= 4000);
        }
        assert!(cache.expects(FrameRef { segment: 1, offset: 9, len: 1 }));
        assert!(!cache.expects(FrameRef { segment: 1, offset: 0, len: 1 }));
        assert_eq!(cache.stats().misses, 10);
    }

    #[test]
    fn concurrent_lookups_share_one_decode() {
        let (cache, made) = (Cache::new(1 << 20), AtomicU32::new(0));
        std::thread::scope(|s| {
            for _ in 0..8 {
                s.spawn(|| {
                    cache.get(key(1), || {
                        made.fetch_add(1, Ordering::SeqCst);
                        std::thread::sleep(std::time::Duration::from_millis(20));
                        Ok(value(10))
                    })
                });
            }
        });
        assert_eq!(made.load(Ordering::SeqCst), 1);
    }

    #[test]
    fn a_failed_flight_is_tried_again() {
        let cache = Cache::new(1 << 20);
        let frame = FrameRef { segment: 1, offset: 1, len: 1 };
        assert!(cache.get(key(1), || Err(FetchError::Hash(frame))).is_err());
        assert!(cache.get(key(1), || Ok(value(1))).is_ok());
    }
}
