//! The thread that moves durable changes from memory into the index.

use super::table::Base;
use super::{Store, lock};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError, Weak};
use std::thread::JoinHandle;
use std::time::Duration;

/// Changes moved at a time.
const BATCH: usize = 20_000;
/// Changes in memory from which on the thread is woken early.
const CROWD: usize = 100_000;
/// The thread looks this often.
const EVERY: Duration = Duration::from_secs(1);

/// The waiting side of a thread that is told to go on or to stop.
#[derive(Debug, Default)]
pub struct Bell {
    rung: Mutex<bool>,
    sound: Condvar,
}

impl Bell {
    /// Wakes whoever waits, or will.
    pub fn ring(&self) {
        *lock(&self.rung) = true;
        self.sound.notify_all();
    }

    /// Waits for a ring, but not for ever.
    pub fn wait(&self, at_most: Duration) {
        let mut rung = lock(&self.rung);
        if !*rung {
            (rung, _) =
                self.sound.wait_timeout(rung, at_most).unwrap_or_else(PoisonError::into_inner);
        }
        *rung = false;
    }
}

/// The thread's handle.
#[derive(Debug, Default)]
pub struct Indexer {
    bell: Arc<Bell>,
    stop: Arc<AtomicBool>,
    broken: Arc<AtomicBool>,
    /// One batch at a time: an older value must never follow a newer one into the index.
    turn: Mutex<()>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Indexer {
    /// Starts the thread; it ends with the store, or at [`Self::stop`].
    pub fn start(&self, store: &Arc<Store>) {
        let weak: Weak<Store> = Arc::downgrade(store);
        let (bell, stop) = (Arc::clone(&self.bell), Arc::clone(&self.stop));
        let run = move || {
            while !stop.load(Ordering::SeqCst) {
                bell.wait(EVERY);
                let Some(store) = weak.upgrade() else { return };
                store.segments.forget_gone();
                while !stop.load(Ordering::SeqCst) && step(&store) > 0 {}
            }
        };
        match std::thread::Builder::new().name("indexer".into()).spawn(run) {
            Ok(h) => *lock(&self.thread) = Some(h),
            Err(e) => log::warn!("the index stays in memory: {e}"),
        }
    }

    /// Wakes the thread if many changes wait.
    pub fn nudge(&self, waiting: usize) {
        if waiting > CROWD {
            self.bell.ring();
        }
    }

    /// Ends the thread.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::SeqCst);
        self.bell.ring();
        let handle = lock(&self.thread).take();
        if let Some(h) = handle
            && h.thread().id() != std::thread::current().id()
            && h.join().is_err()
        {
            log::error!("the indexer panicked");
        }
    }
}

/// Moves one batch of durable changes; returns how many.
pub fn step(store: &Store) -> usize {
    if store.indexer.broken.load(Ordering::Relaxed) {
        return 0;
    }
    let _turn = lock(&store.indexer.turn);
    let durable = store.durable.load(Ordering::Acquire);
    let (base, batch): (Arc<dyn Base>, _) = {
        let state = store.state();
        if state.table.base().is_volatile() {
            return 0;
        }
        (Arc::clone(state.table.base()), state.table.ripe(durable, BATCH))
    };
    if batch.is_empty() {
        return 0;
    }
    if let Err(e) = base.write(&batch) {
        log::error!("{e}");
        store.indexer.broken.store(true, Ordering::Relaxed);
        return 0;
    }
    let mut state = store.state.write().unwrap_or_else(PoisonError::into_inner);
    state.table.settle(&batch, durable);
    batch.len()
}

/// True if the index took all it was given.
pub fn is_whole(store: &Store) -> bool {
    !store.indexer.broken.load(Ordering::Relaxed)
}
