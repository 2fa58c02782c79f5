//! The background cleaner: space comes back by itself.
//!
//! What is wholly dead is deleted once a checkpoint lies behind it; one is written if what it sets
//! free is worth it. Other segments are emptied where it pays, as in log-structured file systems
//! (Rosenblum and Ousterhout, 1992): of a segment of which a part `u` lives, `1 + u` is read and
//! written to free `1 - u`, and the longer nothing in it has changed, the longer the gain will last.
//! Once `age * (1 - u) / (1 + u)` is large enough, what lives in it moves. Nothing moves out of
//! segments of which less than a quarter is dead, so at most three bytes are written for each one
//! that is freed. On a disk that is nearly full the age does not count, and less has to be dead.
//!
//! Everybody else comes first: what is moved under one hold of the writer's lock is little, there are
//! pauses, longer ones while others read and write, and whoever wants to clean at once gets the turn.

use super::api::{CleanerStatus, Result, StoreError};
use super::gc::{self, Batch};
use super::worker::Worker;
use crate::priority::{self, Awake};
use crate::store::{Store, lock};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// The thread looks this often.
const EVERY: Duration = Duration::from_secs(5);
/// Seconds that a segment's age, weighed by `(1 - u) / (1 + u)`, must reach.
const WORTH: f64 = 10.0;
/// Less than this share of a segment, in percent, is left where it is: usually, and if room is scarce.
const DEAD_PERCENT: (u64, u64) = (25, 10);
/// Less is not worth the while.
const LITTLE: u64 = if cfg!(test) { 32 << 10 } else { 1 << 20 };
/// A checkpoint for what is dead must free so many times its own length: usually, and while others
/// write, who have to wait for it.
const TIMES: (u64, u64) = (4, 16);
/// Bytes moved in a second while nobody else reads or writes, and while somebody does.
const RATE: (u64, u64) = (16 << 20, 4 << 20);
/// What is moved under one hold of the writer's lock.
const BATCH: Batch = Batch { frames: 32, bytes: 512 << 10 };

/// The cleaner's side of a store.
#[derive(Debug, Default)]
pub struct Cleaner {
    worker: Worker,
    on: AtomicBool,
    busy: AtomicBool,
    /// How many want to clean at once.
    wanted: AtomicU64,
    /// What was found at the last look. Held for moments only.
    seen: Mutex<Seen>,
}

#[derive(Debug, Default)]
struct Seen {
    segments: BTreeMap<u32, Known>,
    /// Bytes that others had appended by then.
    appended: u64,
}

/// What is known of a segment.
#[derive(Debug, Clone, Copy)]
struct Known {
    live: u64,
    /// Since when as much lives in it.
    since: Duration,
    /// It was emptied as far as could be.
    tried: bool,
}

/// A segment as it is now.
#[derive(Debug, Clone, Copy)]
struct Segment {
    number: u32,
    len: u64,
    /// Bytes of live frames.
    live: u64,
    /// Bytes of the last checkpoint that lie in it.
    checkpoint: u64,
    known: Known,
}

impl Segment {
    fn alive(&self) -> u64 {
        (self.live + self.checkpoint).min(self.len)
    }

    fn dead(&self) -> u64 {
        self.len - self.alive()
    }

    /// The weighed age, in seconds.
    fn worth(&self, now: Duration) -> f64 {
        let u = self.alive() as f64 / (self.len as f64).max(1.0);
        now.saturating_sub(self.known.since).as_secs_f64() * (1.0 - u) / (1.0 + u)
    }
}

/// Somebody wants to clean at once, while this lives.
#[derive(Debug)]
pub struct Wanted<'a>(&'a AtomicU64);

impl Drop for Wanted<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Cleaner {
    /// Has the thread give way to whoever calls this.
    pub fn give_way(&self) -> Wanted<'_> {
        self.wanted.fetch_add(1, Ordering::SeqCst);
        if self.busy.load(Ordering::Relaxed) {
            self.worker.idlers().rouse();
            self.worker.wake();
        }
        Wanted(&self.wanted)
    }

    /// The calling thread holds something that others wait for: if it is the cleaner's, it is no
    /// idle one meanwhile.
    pub fn awake(&self) -> Awake<'_> {
        self.worker.idlers().awake()
    }

    /// Ends the thread.
    pub fn stop(&self) {
        self.worker.stop();
    }
}

impl Store {
    /// Has dead space given back in the background from now on.
    pub fn clean_in_background(self: &Arc<Self>) {
        if self.read_only() {
            return;
        }
        match self.cleaner.worker.start("cleaner", self, EVERY, false, work) {
            Ok(()) => self.cleaner.on.store(true, Ordering::Relaxed),
            Err(e) => log::warn!("dead space stays until it is wanted: {e}"),
        }
    }

    /// What the cleaner does, and what all cleaning came to.
    pub fn cleaner_status(&self) -> CleanerStatus {
        let flow = &self.segments.flow;
        let moved = flow.moved.load(Ordering::Relaxed);
        CleanerStatus {
            on: self.cleaner.on.load(Ordering::Relaxed),
            busy: self.cleaner.busy.load(Ordering::Relaxed),
            written_bytes: flow.appended.load(Ordering::Relaxed).saturating_sub(moved),
            moved_bytes: moved,
            freed_bytes: flow.freed.load(Ordering::Relaxed),
        }
    }
}

/// One look, at idle priority where there is a way back from it.
fn work(store: &Store) -> bool {
    let cleaner = &store.cleaner;
    let _idle = priority::may_raise().then(|| cleaner.worker.idlers().enter());
    let began = Instant::now();
    let pace = Pace { store, last: Mutex::new((began, others(store))) };
    match step(store, store.opened.elapsed(), &|moved| pace.rest(moved)) {
        Ok(()) | Err(StoreError::Closing) => {}
        Err(e) => log::debug!("cleaning: {e}"),
    }
    cleaner.busy.store(false, Ordering::Relaxed);
    false
}

/// Counts what others than the cleaner do.
fn others(store: &Store) -> u64 {
    let flow = &store.segments.flow;
    let moved = flow.moved.load(Ordering::Relaxed);
    flow.appended.load(Ordering::Relaxed).saturating_sub(moved) + flow.reads.load(Ordering::Relaxed)
}

/// Pauses between batches.
struct Pace<'a> {
    store: &'a Store,
    /// When the last pause ended, and what others had done by then.
    last: Mutex<(Instant, u64)>,
}

impl Pace<'_> {
    /// After so many bytes were moved. Fails if others want the turn, or the store is being closed.
    fn rest(&self, moved: u64) -> Result<()> {
        /// The longest pause.
        const PAUSE: Duration = Duration::from_secs(1);
        let cleaner = &self.store.cleaner;
        let go_on = || {
            let over = self.store.is_closing()
                || cleaner.worker.is_stopping()
                || cleaner.wanted.load(Ordering::SeqCst) > 0;
            if over { Err(StoreError::Closing) } else { Ok(()) }
        };
        go_on()?;
        let mut last = lock(&self.last);
        if moved > 0 {
            let quiet = others(self.store) == last.1;
            let rate = if quiet { RATE.0 } else { RATE.1 };
            let least = Duration::from_micros(moved * 1_000_000 / rate);
            let worked = last.0.elapsed();
            cleaner.worker.rest((worked * 3).max(least.saturating_sub(worked)).min(PAUSE));
        }
        *last = (Instant::now(), others(self.store));
        go_on()
    }
}

/// One look at the store, at `now` since it was opened, and what follows from it. `rest` is called
/// after so many bytes were moved; once it fails, this fails too, with nothing undone of what was
/// moved.
pub fn step(store: &Store, now: Duration, rest: &dyn Fn(u64) -> Result<()>) -> Result<()> {
    if store.read_only() {
        return Ok(());
    }
    let _turn = lock(&store.cleaning);
    let (segments, quiet) = look(store, now);
    let scarce = store.segments.is_scarce();
    let mut victims = choose(store, &segments, now, scarce);
    if !victims.is_empty() {
        store.cleaner.busy.store(true, Ordering::Relaxed);
        gc::leave_behind(store, &mut victims)?;
    }
    for number in victims {
        rest(0)?;
        if !gc::fits(store, number) {
            continue;
        }
        gc::empty(store, number, BATCH, rest)?;
        if let Some(known) = lock(&store.cleaner.seen).segments.get_mut(&number) {
            known.tried = true;
        }
    }
    release(store, now, scarce, quiet)
}

/// All segments as they are; and whether nobody has written since the last look.
fn look(store: &Store, now: Duration) -> (Vec<Segment>, bool) {
    let (first, mut left) = *lock(&store.checkpoint);
    let live = Arc::clone(&store.state().totals.live);
    let lens = store.segments.lens();
    let flow = &store.segments.flow;
    let appended = flow.appended.load(Ordering::Relaxed) - flow.moved.load(Ordering::Relaxed);
    let mut seen = lock(&store.cleaner.seen);
    let old = std::mem::take(&mut seen.segments);
    let mut out = Vec::with_capacity(lens.len());
    for (number, len) in lens {
        let live = live.get(&number).copied().unwrap_or(0);
        let new = Known { live, since: now, tried: false };
        let known = old.get(&number).copied().filter(|k| k.live == live).unwrap_or(new);
        seen.segments.insert(number, known);
        let checkpoint = if number < first { 0 } else { left.min(len) };
        left -= checkpoint;
        out.push(Segment { number, len, live, checkpoint, known });
    }
    let quiet = std::mem::replace(&mut seen.appended, appended) == appended;
    (out, quiet)
}

/// Segments out of which it pays to move what lives, the best first.
fn choose(store: &Store, segments: &[Segment], now: Duration, scarce: bool) -> Vec<u32> {
    let (percent, little) =
        if scarce { (DEAD_PERCENT.1, store.segments.little()) } else { (DEAD_PERCENT.0, LITTLE) };
    let pays = |s: &&Segment| {
        s.live > 0
            && !s.known.tried
            // It would have to be fetched, for no room here.
            && !store.is_evicted(s.number)
            && s.dead() * 100 >= s.len * percent
            && (scarce || s.worth(now) >= WORTH)
    };
    let mut chosen: Vec<&Segment> = segments.iter().filter(pays).collect();
    if chosen.iter().map(|s| s.dead()).sum::<u64>() < little {
        return Vec::new();
    }
    if scarce {
        // What frees most for what it takes: there may not be room for all.
        chosen.sort_by_key(|s| s.alive());
    } else {
        chosen.sort_by(|a, b| b.worth(now).total_cmp(&a.worth(now)));
    }
    chosen.iter().map(|s| s.number).collect()
}

/// Deletes what is wholly dead, if need be after a checkpoint; gives back what is allocated ahead.
fn release(store: &Store, now: Duration, scarce: bool, quiet: bool) -> Result<()> {
    let (segments, _) = look(store, now);
    let (checkpoint, len) = *lock(&store.checkpoint);
    let dead = || segments.iter().filter(|s| s.live == 0);
    let gain: u64 = dead().map(Segment::dead).sum();
    let enough = match (scarce, quiet) {
        (true, _) => store.segments.little().max(len),
        (_, true) => LITTLE.max(len * TIMES.0),
        _ => LITTLE.max(len * TIMES.1),
    };
    let _awake = store.cleaner.awake();
    if gain >= enough {
        store.renew_checkpoint()?;
    } else if dead().any(|s| s.number < checkpoint) {
        store.prune.store(true, Ordering::Release);
        store.commit(&lock(&store.sync))?;
    }
    if quiet {
        store.writer().trim_ahead();
    }
    Ok(())
}
