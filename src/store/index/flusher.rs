//! The thread that moves durable changes from memory into the index.

use super::base::{Base, Change};
use super::state::State;
use crate::store::worker::Worker;
use crate::store::{Store, lock};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLockWriteGuard};
use std::time::Duration;

/// Changes moved at a time.
const BATCH: usize = 20_000;
/// Changes looked at, or dropped, under one hold of the state's lock.
const STEP: usize = 1000;
/// Changes in memory from which on the thread is woken early.
const CROWD: usize = 100_000;
/// The thread looks this often.
const EVERY: Duration = Duration::from_secs(1);

/// The thread's side of a store.
#[derive(Debug, Default)]
pub struct Flusher {
    worker: Worker,
    broken: AtomicBool,
    /// One batch at a time: an older value must never follow a newer one into the index.
    pub(in crate::store) turn: Mutex<()>,
}

impl Flusher {
    /// Wakes the thread if many changes wait.
    pub fn nudge(&self, waiting: usize) {
        if waiting > CROWD {
            self.worker.wake();
        }
    }

    /// Ends the thread.
    pub fn stop(&self) {
        self.worker.stop();
    }
}

/// Starts the thread.
pub fn start(store: &Arc<Store>) {
    let started =
        store.flusher.worker.start("flusher", store, EVERY, false, |store| step(store) > 0);
    if let Err(e) = started {
        log::warn!("the index stays in memory: {e}");
    }
}

/// Moves one batch of durable changes; returns how many.
pub fn step(store: &Store) -> usize {
    if store.flusher.broken.load(Ordering::Relaxed) {
        return 0;
    }
    let _turn = lock(&store.flusher.turn);
    let durable = store.durable.load(Ordering::Acquire);
    let base: Arc<dyn Base> = Arc::clone(store.state().table.base());
    if base.is_volatile() {
        return 0;
    }
    let (mut batch, mut from) = (Vec::new(), None);
    loop {
        // Some at a time: others want the lock.
        batch.append(&mut store.state().table.ripe_after(&mut from, durable, STEP));
        if from.is_none() || batch.len() >= BATCH {
            break;
        }
    }
    if batch.is_empty() || !has_room(store, &batch) {
        return 0;
    }
    state_mut(store).table.begin_move();
    if let Err(e) = base.write(&batch) {
        log::error!("{e}");
        store.flusher.broken.store(true, Ordering::Relaxed);
        return 0;
    }
    for some in batch.chunks(STEP) {
        state_mut(store).table.settle(some, durable);
    }
    batch.len()
}

fn state_mut(store: &Store) -> RwLockWriteGuard<'_, State> {
    store.state.write().unwrap_or_else(PoisonError::into_inner)
}

/// True if the index finds room for a batch; until there is room, changes wait in memory.
fn has_room(store: &Store, batch: &[Change]) -> bool {
    let pair = |(k, v): &Change| k.len() + v.as_ref().map_or(0, Vec::len);
    store.segments.has_room_for_index(batch.iter().map(pair).sum::<usize>() as u64)
}

/// True if the index took all it was given.
pub fn is_whole(store: &Store) -> bool {
    !store.flusher.broken.load(Ordering::Relaxed)
}
