//! The cleaner: live frames move out of mostly dead segments, which are then deleted.
//!
//! A move is an ordinary change in the log. A segment is deleted only when nothing in it lives and
//! a durable checkpoint lies behind it, so that no replay needs it.

use super::api::{CleanReport, Result, StoreError};
use crate::store::log::frame::{self, Kind};
use crate::store::log::record::Record;
use crate::store::log::writer::RESERVE;
use crate::store::{Store, lock};
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// What is moved under one hold of the writer's lock.
#[derive(Debug, Clone, Copy)]
pub struct Batch {
    /// Frames at most.
    pub frames: usize,
    /// Their bytes, unless a single one has more.
    pub bytes: usize,
}

/// A segment in the object store has to be fetched to be emptied: less than this share of it, in percent, is
/// left where it is.
const DISTANT_PERCENT: u32 = 50;

/// For whoever waits for the cleaner.
const BATCH: Batch = Batch { frames: 32, bytes: 8 << 20 };

/// Moves what lives out of segments with more dead in them than `dead_percent`, and deletes those.
/// `watch(done, total)` is told how many bytes of them are empty, and ends it by saying false.
pub fn clean(
    store: &Store,
    dead_percent: u32,
    watch: &mut dyn FnMut(u64, u64) -> bool,
) -> Result<CleanReport> {
    let _wanted = store.cleaner.give_way();
    let _turn = lock(&store.cleaning);
    let watch = RefCell::new(watch);
    let go_on = |done, total| {
        if store.is_closing() {
            return Err(StoreError::Closing);
        }
        if watch.borrow_mut()(done, total) { Ok(()) } else { Err(StoreError::Stopped) }
    };
    run(store, dead_percent, Some(dead_percent.max(DISTANT_PERCENT)), &|| false, &go_on)
}

/// Makes room until `want` bytes are free, if what is dead may yield it. Bounded in time: who writes
/// waits for it.
pub fn make_room(store: &Store, want: u64) {
    const PATIENCE: Duration = Duration::from_secs(8);
    const AGAIN: Duration = Duration::from_secs(10);
    if store.read_only() {
        return;
    }
    let little = store.segments.little();
    let _wanted = store.cleaner.give_way();
    let mut vain = lock(&store.cleaning);
    *lock(&store.free) = None;
    let dead = || store.stats().map_or(0, |s| s.dead_here());
    let before = dead();
    let known = |(at, dead): &(Instant, u64)| at.elapsed() < AGAIN && before < dead + little;
    if store.usable_bytes() >= want || before < little || vain.as_ref().is_some_and(known) {
        return;
    }
    let began = Instant::now();
    let enough = || {
        *lock(&store.free) = None;
        // More than asked for, so that not every write has to clean.
        store.usable_bytes() >= want + store.segments.headroom / 2 || began.elapsed() > PATIENCE
    };
    // Closing may need the room, too. What is dead elsewhere makes none here.
    if let Err(e) = run(store, 2, None, &enough, &|_, _| Ok(())) {
        ::log::debug!("making room: {e}");
    }
    *lock(&store.free) = None;
    *vain = (store.usable_bytes() < want).then(|| (Instant::now(), dead()));
}

/// Cleans until there is nothing more to do, or `enough`: segments here with more dead in them than
/// `dead_percent`, and those in the object store with more than `distant_percent`, if any. Fails once `go_on` does, with nothing
/// undone of what was moved; it is told how many bytes of how many in segments to be emptied are done.
///
/// Segments with the least in them come first. As many are emptied at a time as find room; then a
/// checkpoint lets them go, and the room they leave takes the next.
fn run(
    store: &Store,
    dead_percent: u32,
    distant_percent: Option<u32>,
    enough: &dyn Fn() -> bool,
    go_on: &dyn Fn(u64, u64) -> Result<()>,
) -> Result<CleanReport> {
    if store.read_only() {
        return Err(StoreError::ReadOnly);
    }
    let total = || store.segments.lens().iter().map(|(_, n)| n).sum::<u64>();
    let mut report = CleanReport { before_bytes: total(), ..CleanReport::default() };
    let mut victims = victims(store, dead_percent, distant_percent);
    leave_behind(store, &mut victims)?;
    let (mut full, mut emptied) = (None, false);
    let lens: HashMap<u32, u64> = store.segments.lens().into_iter().collect();
    let len = |number: &u32| lens.get(number).copied().unwrap_or(0);
    let (all, mut done) = (victims.iter().map(len).sum(), 0);
    let mut todo = victims.into_iter().peekable();
    while let Some(number) = todo.peek().copied() {
        go_on(done, all)?;
        if !fits(store, number) {
            // What was emptied makes room for this one; if nothing was, no other fits either.
            if !emptied {
                break;
            }
            store.renew_checkpoint()?;
            emptied = false;
            if enough() {
                break;
            }
            continue;
        }
        let moved = Cell::new(0);
        let within = |bytes| {
            moved.set(moved.get() + bytes);
            go_on(done + moved.get().min(len(&number)), all)
        };
        match empty(store, number, BATCH, &within) {
            Ok(n) => report.moved_frames += n,
            // What was emptied by then is not for nothing.
            Err(e) if e.is_distant() || matches!(e, StoreError::NoSpace { .. }) => {
                full = Some(e);
                break;
            }
            Err(e) => return Err(e),
        }
        emptied = true;
        done += len(&number);
        todo.next();
    }
    if emptied || full.is_some() {
        match store.renew_checkpoint() {
            Err(e @ StoreError::NoSpace { .. }) => full = Some(e),
            renewed => renewed?,
        }
    }
    report.after_bytes = total();
    match full {
        Some(e) if report.after_bytes >= report.before_bytes => Err(e),
        _ => Ok(report),
    }
}

/// What is moved must not go into a segment that is to be emptied: the writer leaves it. Where there is
/// no room for another, that one is none of `victims`.
pub fn leave_behind(store: &Store, victims: &mut Vec<u32>) -> Result<()> {
    let _awake = store.cleaner.awake();
    let mut w = store.writer();
    w.admits()?;
    let current = w.number();
    if victims.contains(&current) {
        w.close_batch(store.durable.load(Ordering::Acquire))?;
        match w.roll(false) {
            Err(StoreError::NoSpace { .. }) => victims.retain(|n| *n != current),
            rolled => rolled?,
        }
    }
    Ok(())
}

/// True if a segment's live frames, and the checkpoint after them, find room.
pub fn fits(store: &Store, number: u32) -> bool {
    /// For batches, footers and sidecars.
    const SLACK: u64 = if cfg!(test) { 256 << 10 } else { 1 << 20 };
    let live = store.state().totals.live.get(&number).copied().unwrap_or(0);
    if live == 0 {
        return true;
    }
    let checkpoint = lock(&store.checkpoint).1;
    // The rest of what is set aside is the checkpoint's.
    let aside = store.segments.aside.load(Ordering::Relaxed).min(RESERVE);
    let free = store.segments.volume.free_bytes().unwrap_or(u64::MAX).saturating_add(aside);
    let free = free.saturating_sub(store.promised.held());
    live + live / 16 + checkpoint + checkpoint / 4 + SLACK <= free
}

/// Segments whose dead share exceeds the threshold, those with the least in them first.
fn victims(store: &Store, dead_percent: u32, distant_percent: Option<u32>) -> Vec<u32> {
    let state = store.state();
    let live = |n: &u32| state.totals.live.get(n).copied().unwrap_or(0);
    let dead_share = |(number, len): &(u32, u64)| {
        let distant = store.is_evicted(*number);
        let percent = if distant { distant_percent } else { Some(dead_percent) };
        let dead = len - live(number).min(*len);
        percent.is_some_and(|percent| dead * 100 > len * u64::from(percent))
    };
    let mut out: Vec<u32> =
        store.segments.lens().into_iter().filter(dead_share).map(|(n, _)| n).collect();
    out.sort_by_key(live);
    out
}

/// Moves all live frames of a segment; damaged ones stay, and the segment with them. `go_on` is called
/// after so many bytes were moved, and ends it where it fails.
pub fn empty(
    store: &Store,
    number: u32,
    most: Batch,
    go_on: &dyn Fn(u64) -> Result<()>,
) -> Result<u64> {
    let (mut from, mut moved, mut bytes_moved) = (0, 0, 0);
    loop {
        go_on(std::mem::take(&mut bytes_moved))?;
        {
            let _awake = store.cleaner.awake();
            let mut w = store.writer();
            w.admits()?;
            if w.number() == number {
                w.close_batch(store.durable.load(Ordering::Acquire))?;
                w.roll(false)?;
            }
        }
        let mut batch = store.view().frames(number, from, most.frames)?;
        let mut sum = 0;
        batch.retain(|(f, _)| {
            let first = sum == 0;
            sum += f.len as usize;
            first || sum <= most.bytes
        });
        let Some((last, _)) = batch.last() else { return Ok(moved) };
        from = last.offset + 1;
        // They are read before the writer's lock is taken: what is in a segment stays as it is.
        let mut read = Vec::with_capacity(batch.len());
        for (frame, live) in batch {
            let bytes = store.segments.frame(frame).map(|(_, mut bytes)| {
                // Parity that is damaged must not be copied as it is.
                let whole = frame::repair(&mut bytes);
                debug_assert!(whole.is_ok());
                bytes
            });
            match bytes {
                Ok(bytes) => read.push((frame, live, bytes)),
                Err(_) if !store.is_live(frame) => {}
                // The others in it cannot be had either.
                Err(e) if e.is_distant() => return Err(e),
                Err(e) => {
                    // A disk that does not answer may do so the next time.
                    let news = match e {
                        StoreError::Damaged { .. } => store.segments.known.note(frame),
                        _ => true,
                    };
                    if news {
                        ::log::error!("inode {} offset {}: not moved: {e}", live.ino, live.off);
                    }
                }
            }
        }
        let _awake = store.cleaner.awake();
        let mut w = store.writer();
        w.admits()?;
        for (frame, live, bytes) in read {
            let mut draft = store.draft(&w);
            if draft.frames(number, frame.offset, 1)?.first().is_none_or(|(f, _)| *f != frame) {
                // Nothing refers to it any more.
                continue;
            }
            w.ensure(bytes.len() as u64 + 64, true)?;
            let kind = if live.primer == 0 { Kind::Data } else { Kind::Primer };
            if w.batch_is_full(64) {
                w.close_batch(store.durable.load(Ordering::Acquire))?;
            }
            let to = w.append(kind, &bytes)?;
            bytes_moved += bytes.len() as u64;
            store.segments.flow.moved.fetch_add(bytes.len() as u64, Ordering::Relaxed);
            let record = Record::Move { from: frame, to };
            draft.table.seq = w.seq + 1;
            w.log(&record);
            if let Err(e) = draft.apply(&record) {
                w.fail(&e.to_string());
                return Err(e);
            }
            store.publish(&mut w, draft);
            moved += 1;
        }
    }
}
