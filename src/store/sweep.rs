//! What was cut out of files goes, some extents at a time, so that nobody waits for long.
//!
//! A step is an ordinary change in the log, from the end of a range backwards. A crash between two
//! steps leaves a smaller range to the next mount.

use super::api::Result;
use crate::store::index::flusher;
use crate::store::{Store, lock};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// Extents that go under one hold of the locks. A change that would take more leaves them to the
/// sweeper.
pub const STEP: usize = if cfg!(test) { 2 } else { 1024 };
/// Changes that wait for the index beyond which the sweeper waits too.
const CROWD: usize = 150_000;
/// The thread looks this often for what it could not finish.
const EVERY: Duration = Duration::from_secs(10);

/// Starts the thread.
pub fn start(store: &Arc<Store>) {
    if let Err(e) = store.sweeper.start("sweeper", store, EVERY, false, work) {
        log::warn!("what is cut out of large files keeps its room: {e}");
    }
    if !store.state().cuts.is_empty() {
        store.sweeper.wake();
    }
}

/// One step, and a pause for others; true if more is left.
fn work(store: &Store) -> bool {
    /// The longest pause.
    const PAUSE: Duration = Duration::from_millis(50);
    let began = Instant::now();
    match step(store, STEP) {
        Ok(true) => {}
        Ok(false) => return false,
        Err(e) => {
            log::debug!("sweeping: {e}");
            return false;
        }
    }
    std::thread::sleep(began.elapsed().min(PAUSE));
    while store.state().table.waiting() > CROWD && flusher::is_whole(store) {
        if store.sync().is_err() || flusher::step(store) == 0 {
            break;
        }
    }
    true
}

/// Removes at most `max` extents of what was cut. False if nothing is left of it.
pub fn step(store: &Store, max: usize) -> Result<bool> {
    if store.state().cuts.is_empty() {
        return Ok(false);
    }
    let mut w = lock(&store.writer);
    w.admits()?;
    let mut draft = store.draft(&w);
    let Some(change) = draft.next_sweep(max)? else { return Ok(false) };
    w.ensure(64, true)?;
    if w.batch_is_full(64) {
        w.close_batch(store.durable.load(Ordering::Acquire))?;
    }
    // Half of a change must not become durable.
    let applied = catch_unwind(AssertUnwindSafe(|| {
        draft.table.seq = w.seq + 1;
        draft.apply(&change)
    }));
    match applied {
        Ok(Ok(())) => {}
        Ok(Err(e)) => {
            w.fail(&e.to_string());
            return Err(e);
        }
        Err(panic) => {
            w.fail("a panic while sweeping");
            resume_unwind(panic);
        }
    }
    w.log(&change);
    store.publish(&mut w, draft);
    Ok(true)
}

/// Sweeps now, for so long at most: somebody wants the room that it makes.
pub fn hurry(store: &Store, at_most: Duration) {
    /// Lets others have the locks.
    const PAUSE: Duration = Duration::from_micros(200);
    let began = Instant::now();
    while began.elapsed() < at_most && matches!(step(store, STEP), Ok(true)) {
        std::thread::sleep(PAUSE);
    }
}
