//! What was decoded: frames and primers, the least recently used go first, bounded in bytes. What is
//! being decoded is known, too, so that nobody decodes it a second time meanwhile; and of a long block its head is here
//! before the rest.

use crate::block::Primer;
use crate::types::FrameRef;
use lru::LruCache;
use serde::{Deserialize, Serialize};
use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// What the cache of decoded blocks holds, in bytes, and what it was worth, in lookups.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
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

/// What is decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Key {
    /// A block, by its frame.
    Frame(FrameRef),
    /// A primer, by its id.
    Primer(u64),
}

/// What it was decoded to.
#[derive(Debug, Clone)]
pub enum Value {
    /// A block's plaintext, or its first bytes.
    Plain(Arc<Vec<u8>>),
    /// A primer, ready.
    Primer(Primer),
}

impl Value {
    /// True if it holds so many bytes; a primer is whole.
    fn holds(&self, len: usize) -> bool {
        match self {
            Self::Plain(p) => p.len() >= len,
            Self::Primer(_) => true,
        }
    }

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

/// Called when a flight has brought what its owner needs, or is over.
type Waiter = Box<dyn FnOnce() + Send>;

struct State {
    entries: LruCache<Key, Value>,
    stats: CacheStats,
    /// Being decoded by somebody, and who is to be told of it: of so many bytes.
    flights: HashMap<Key, Vec<(usize, Waiter)>>,
    /// Queued to be read ahead.
    announced: HashSet<FrameRef>,
}

/// Decoded frames and primers of one store.
pub struct Cache {
    state: Mutex<State>,
    landed: Condvar,
}

impl fmt::Debug for Cache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.stats().fmt(f)
    }
}

/// The right and the duty to decode something. It is over when this is dropped, also when the decoder
/// fails or panics: then the next one tries.
#[derive(Debug)]
pub struct Flight<'a>(&'a Cache, Key);

/// Somebody else's flight, and how many bytes of what it brings are waited for.
#[derive(Debug, Clone, Copy)]
pub struct Landing(Key, usize);

/// What asking for something came to.
#[derive(Debug)]
pub enum Lookup<'a> {
    /// Here it is.
    Here(Value),
    /// It is the caller's to decode.
    Absent(Flight<'a>),
    /// Somebody decodes it.
    UnderWay(Landing),
}

impl Flight<'_> {
    /// Keeps what was decoded.
    pub fn land(self, value: Value) {
        self.0.insert(self.1, value);
    }

    /// Keeps a block's first bytes, the rest of which is still under way.
    pub fn show(&self, head: &[u8]) {
        let value = Value::Plain(Arc::new(head.to_vec()));
        self.0.insert(self.1, value);
        let served = match self.0.state().flights.get_mut(&self.1) {
            Some(waiters) => waiters.extract_if(.., |(need, _)| *need <= head.len()).collect(),
            None => Vec::new(),
        };
        self.0.landed.notify_all();
        for (_, waiter) in served {
            waiter();
        }
    }
}

impl Drop for Flight<'_> {
    fn drop(&mut self) {
        let waiters = self.0.state().flights.remove(&self.1);
        self.0.landed.notify_all();
        waiters.into_iter().flatten().for_each(|(_, waiter)| waiter());
    }
}

impl Cache {
    /// A cache of at most `capacity` bytes.
    pub fn new(capacity: u64) -> Self {
        let stats = CacheStats { capacity, ..CacheStats::default() };
        let entries = LruCache::unbounded();
        let (flights, announced) = (HashMap::new(), HashSet::new());
        let state = Mutex::new(State { entries, stats, flights, announced });
        Self { state, landed: Condvar::new() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Figures.
    pub fn stats(&self) -> CacheStats {
        self.state().stats
    }

    /// A frame's plaintext, if its first `len` bytes are here already.
    pub fn peek(&self, frame: FrameRef, len: usize) -> Option<Arc<Vec<u8>>> {
        let mut s = self.state();
        match s.entries.get(&Key::Frame(frame)) {
            Some(Value::Plain(p)) if p.len() >= len => {
                let p = Arc::clone(p);
                s.stats.hits += 1;
                Some(p)
            }
            _ => None,
        }
    }

    /// What is here, at least `len` bytes; else the right to decode it, or whom to wait for.
    pub fn look_up(&self, key: Key, len: usize) -> Lookup<'_> {
        let mut s = self.state();
        if let Some(v) = s.entries.get(&key).filter(|v| v.holds(len)) {
            let v = v.clone();
            s.stats.hits += 1;
            return Lookup::Here(v);
        }
        if s.flights.contains_key(&key) {
            return Lookup::UnderWay(Landing(key, len));
        }
        s.flights.insert(key, Vec::new());
        s.stats.misses += 1;
        Lookup::Absent(Flight(self, key))
    }

    /// Waits until a flight has brought what is needed, or is over.
    pub fn wait(&self, Landing(key, len): Landing) {
        let mut s = self.state();
        while s.flights.contains_key(&key) && !s.entries.peek(&key).is_some_and(|v| v.holds(len)) {
            s = self.landed.wait(s).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Calls `waiter` when [`Self::wait`] would end, without a lock held; at once if it would.
    pub fn when_landed(&self, Landing(key, len): Landing, waiter: Waiter) {
        let mut s = self.state();
        if !s.entries.peek(&key).is_some_and(|v| v.holds(len))
            && let Some(waiters) = s.flights.get_mut(&key)
        {
            waiters.push((len, waiter));
            return;
        }
        drop(s);
        waiter();
    }

    /// Notes that a frame is queued to be read ahead; false if it is here, or about to be.
    pub fn announce(&self, frame: FrameRef) -> bool {
        let key = Key::Frame(frame);
        let mut s = self.state();
        !s.entries.contains(&key) && !s.flights.contains_key(&key) && s.announced.insert(frame)
    }

    /// The frame is queued no more.
    pub fn announced(&self, frame: FrameRef) {
        self.state().announced.remove(&frame);
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

    fn frame(n: u32) -> FrameRef {
        FrameRef { segment: 1, offset: n, len: 1 }
    }

    fn value(len: usize) -> Value {
        Value::Plain(Arc::new(vec![0; len]))
    }

    /// Has `make` run unless the value is here or on its way.
    fn get(cache: &Cache, key: Key, make: impl Fn() -> Option<Value>) -> Option<Value> {
        loop {
            match cache.look_up(key, 1) {
                Lookup::Here(value) => return Some(value),
                Lookup::Absent(flight) => {
                    let value = make()?;
                    flight.land(value.clone());
                    return Some(value);
                }
                Lookup::UnderWay(landing) => cache.wait(landing),
            }
        }
    }

    #[test]
    fn stays_within_its_bytes_and_drops_the_oldest() {
        let cache = Cache::new(4000);
        for n in 0..10 {
            get(&cache, Key::Frame(frame(n)), || Some(value(900))).unwrap();
            assert!(cache.stats().used <= 4000);
        }
        assert!(cache.peek(frame(9), 1).is_some() && cache.peek(frame(0), 1).is_none());
        assert_eq!(cache.stats().misses, 10);
    }

    #[test]
    fn concurrent_lookups_share_one_decode() {
        let (cache, made) = (Cache::new(1 << 20), AtomicU32::new(0));
        std::thread::scope(|s| {
            for _ in 0..8 {
                s.spawn(|| {
                    get(&cache, Key::Frame(frame(1)), || {
                        made.fetch_add(1, Ordering::SeqCst);
                        std::thread::sleep(std::time::Duration::from_millis(20));
                        Some(value(10))
                    })
                });
            }
        });
        assert_eq!(made.load(Ordering::SeqCst), 1);
    }

    #[test]
    fn a_failed_flight_is_tried_again() {
        let cache = Cache::new(1 << 20);
        assert!(get(&cache, Key::Frame(frame(1)), || None).is_none());
        assert!(get(&cache, Key::Frame(frame(1)), || Some(value(1))).is_some());
    }

    #[test]
    fn who_waits_for_a_flight_is_told_once_it_is_over() {
        let (cache, told) = (Cache::new(1 << 20), Arc::new(AtomicU32::new(0)));
        let tell = |told: &Arc<AtomicU32>| -> Waiter {
            let told = Arc::clone(told);
            Box::new(move || {
                told.fetch_add(1, Ordering::SeqCst);
            })
        };
        let Lookup::Absent(flight) = cache.look_up(Key::Primer(1), 0) else {
            panic!("here already")
        };
        let Lookup::UnderWay(landing) = cache.look_up(Key::Primer(1), 0) else {
            panic!("not begun")
        };
        cache.when_landed(landing, tell(&told));
        assert_eq!(told.load(Ordering::SeqCst), 0);
        drop(flight);
        assert_eq!(told.load(Ordering::SeqCst), 1);
        cache.when_landed(landing, tell(&told));
        assert_eq!(told.load(Ordering::SeqCst), 2);
    }

    #[test]
    fn whoever_needs_a_head_only_is_told_when_it_is_there() {
        let (cache, told) = (Cache::new(1 << 20), Arc::new(Mutex::new(Vec::new())));
        let key = Key::Frame(frame(1));
        let Lookup::Absent(flight) = cache.look_up(key, 4) else { panic!("here already") };
        for need in [4, 5, 9] {
            let Lookup::UnderWay(landing) = cache.look_up(key, need) else { panic!("not begun") };
            let told = Arc::clone(&told);
            cache.when_landed(landing, Box::new(move || told.lock().unwrap().push(need)));
        }
        assert!(cache.peek(frame(1), 1).is_none());
        flight.show(&[7; 4]);
        assert_eq!(*told.lock().unwrap(), [4]);
        assert_eq!(*cache.peek(frame(1), 4).unwrap(), [7; 4]);
        assert!(cache.peek(frame(1), 5).is_none());
        assert!(matches!(cache.look_up(key, 4), Lookup::Here(_)));
        let Lookup::UnderWay(landing) = cache.look_up(key, 5) else {
            panic!("it is decoded again")
        };
        flight.show(&[7; 8]);
        cache.wait(landing);
        assert_eq!(*told.lock().unwrap(), [4, 5]);
        flight.land(value(10));
        assert_eq!(*told.lock().unwrap(), [4, 5, 9]);
        assert!(cache.peek(frame(1), 10).is_some());
        // One that comes to nothing leaves its head, and the rest to whoever needs it.
        let key = Key::Frame(frame(2));
        let Lookup::Absent(flight) = cache.look_up(key, 9) else { panic!("here already") };
        flight.show(&[7; 4]);
        drop(flight);
        assert!(cache.peek(frame(2), 4).is_some());
        assert!(matches!(cache.look_up(key, 9), Lookup::Absent(_)));
    }
}
