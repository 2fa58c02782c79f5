//! Decoded frames, least recently used first out, bounded in bytes; one flight per frame.

use lru::LruCache;
use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// What the cache did so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CacheStats {
    /// Bytes it may hold.
    pub capacity: u64,
    /// Bytes it holds.
    pub used: u64,
    /// Look-ups that found the value, or a flight that was to bring it.
    pub hits: u64,
    /// Look-ups that had to make it.
    pub misses: u64,
}

/// A value's size in bytes.
pub trait Weight {
    /// Memory held.
    fn weight(&self) -> u64;
}

impl Weight for Vec<u8> {
    fn weight(&self) -> u64 {
        self.capacity() as u64
    }
}

impl Weight for crate::block::Primer {
    fn weight(&self) -> u64 {
        Self::weight(self) as u64
    }
}

/// One making of a value that others wait for.
#[derive(Debug)]
struct Flight<V, E> {
    done: Mutex<Option<Result<Arc<V>, E>>>,
    landed: Condvar,
}

#[derive(Debug)]
struct Inner<K: Hash + Eq, V, E> {
    values: LruCache<K, Arc<V>>,
    flights: HashMap<K, Arc<Flight<V, E>>>,
    stats: CacheStats,
}

/// A cache from `K` to `V`; making a value may fail with `E`, which is not kept.
#[derive(Debug)]
pub struct Cache<K: Hash + Eq, V, E> {
    inner: Mutex<Inner<K, V, E>>,
}

fn lock<T>(m: &Mutex<T>) -> MutexGuard<'_, T> {
    m.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Ends a flight even if making the value panics.
struct Landing<'a, K: Hash + Eq + Copy, V: Weight, E: Clone> {
    cache: &'a Cache<K, V, E>,
    key: K,
    flight: Arc<Flight<V, E>>,
    otherwise: Option<E>,
}

impl<K: Hash + Eq + Copy, V: Weight, E: Clone> Landing<'_, K, V, E> {
    fn land(&mut self, result: Result<Arc<V>, E>) {
        self.otherwise = None;
        self.cache.end_flight(self.key, &self.flight, result);
    }
}

impl<K: Hash + Eq + Copy, V: Weight, E: Clone> Drop for Landing<'_, K, V, E> {
    fn drop(&mut self) {
        if let Some(e) = self.otherwise.take() {
            self.cache.end_flight(self.key, &self.flight, Err(e));
        }
    }
}

impl<K: Hash + Eq + Copy, V: Weight, E: Clone> Cache<K, V, E> {
    /// A cache of at most `capacity` bytes. A larger value is handed out but not kept.
    pub fn new(capacity: u64) -> Self {
        let stats = CacheStats { capacity, ..CacheStats::default() };
        let inner = Inner { values: LruCache::unbounded(), flights: HashMap::new(), stats };
        Self { inner: Mutex::new(inner) }
    }

    /// The value, if it is there now.
    pub fn get(&self, key: K) -> Option<Arc<V>> {
        let mut inner = lock(&self.inner);
        let found = inner.values.get(&key).cloned();
        inner.stats.hits += u64::from(found.is_some());
        found
    }

    /// True if the value is there or on its way; counts as nothing.
    pub fn has(&self, key: K) -> bool {
        let inner = lock(&self.inner);
        inner.values.contains(&key) || inner.flights.contains_key(&key)
    }

    /// The value; made by `make` unless it is there or being made. `lost` is what those who wait
    /// are told should `make` panic.
    pub fn get_or(
        &self,
        key: K,
        lost: E,
        make: impl FnOnce() -> Result<V, E>,
    ) -> Result<Arc<V>, E> {
        let flight = {
            let mut inner = lock(&self.inner);
            if let Some(v) = inner.values.get(&key).cloned() {
                inner.stats.hits += 1;
                return Ok(v);
            }
            if let Some(f) = inner.flights.get(&key).cloned() {
                inner.stats.hits += 1;
                drop(inner);
                let mut done = lock(&f.done);
                loop {
                    if let Some(r) = &*done {
                        return r.clone();
                    }
                    done = f.landed.wait(done).unwrap_or_else(PoisonError::into_inner);
                }
            }
            inner.stats.misses += 1;
            let f = Arc::new(Flight { done: Mutex::new(None), landed: Condvar::new() });
            inner.flights.insert(key, Arc::clone(&f));
            f
        };
        let mut landing = Landing { cache: self, key, flight, otherwise: Some(lost) };
        let result = make().map(Arc::new);
        landing.land(result.clone());
        result
    }

    fn end_flight(&self, key: K, flight: &Flight<V, E>, result: Result<Arc<V>, E>) {
        {
            let mut inner = lock(&self.inner);
            inner.flights.remove(&key);
            if let Ok(v) = &result {
                let weight = v.weight();
                if weight <= inner.stats.capacity {
                    if let Some(old) = inner.values.put(key, Arc::clone(v)) {
                        inner.stats.used -= old.weight();
                    }
                    inner.stats.used += weight;
                    while inner.stats.used > inner.stats.capacity {
                        let Some((_, old)) = inner.values.pop_lru() else { break };
                        inner.stats.used -= old.weight();
                    }
                }
            }
        }
        *lock(&flight.done) = Some(result);
        flight.landed.notify_all();
    }

    /// Figures.
    pub fn stats(&self) -> CacheStats {
        lock(&self.inner).stats
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU32, Ordering};

    type Bytes = Cache<u32, Vec<u8>, &'static str>;

    #[test]
    fn stays_within_its_bytes_and_drops_the_oldest() {
        let c = Bytes::new(100);
        for k in 0..4 {
            c.get_or(k, "", || Ok(vec![0; 30])).unwrap();
            c.get(0);
        }
        assert!(c.get(0).is_some() && c.get(1).is_none() && c.get(3).is_some());
        assert!(c.stats().used <= 100);
        assert_eq!(c.get_or(9, "", || Ok(vec![0; 101])).unwrap().len(), 101);
        assert!(c.get(9).is_none());
    }

    #[test]
    fn many_askers_share_one_flight() {
        let c = Bytes::new(1000);
        let made = AtomicU32::new(0);
        std::thread::scope(|s| {
            for _ in 0..8 {
                s.spawn(|| {
                    let v = c.get_or(1, "", || {
                        made.fetch_add(1, Ordering::SeqCst);
                        std::thread::sleep(std::time::Duration::from_millis(30));
                        Ok(vec![7])
                    });
                    assert_eq!(*v.unwrap(), [7]);
                });
            }
        });
        assert_eq!(made.load(Ordering::SeqCst), 1);
        assert_eq!(c.stats().misses, 1);
    }

    #[test]
    fn a_failure_or_a_panic_frees_the_flight() {
        let c = Bytes::new(1000);
        assert_eq!(c.get_or(1, "lost", || Err("bad")), Err("bad"));
        let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            c.get_or(1, "lost", || panic!("on purpose"))
        }));
        assert!(panicked.is_err());
        assert_eq!(*c.get_or(1, "lost", || Ok(vec![1])).unwrap(), [1]);
    }
}
