//! The cleaner: live frames move out of mostly dead segments, which are then deleted.
//!
//! A move is an ordinary change in the log. A segment is deleted only when nothing in it lives and
//! a durable checkpoint lies behind it, so that no replay needs it.

use super::api::{CleanReport, Result, StoreError};
use super::frame::Kind;
use super::record::Change;
use super::{Store, lock};
use std::sync::PoisonError;
use std::sync::atomic::Ordering;

/// Frames moved under one hold of the writer's lock.
const BATCH: usize = 32;

pub fn clean(store: &Store, dead_percent: u32) -> Result<CleanReport> {
    if store.read_only() {
        return Err(StoreError::ReadOnly);
    }
    let total = || store.segments.lens().iter().map(|(_, n)| n).sum::<u64>();
    let mut report = CleanReport { before_bytes: total(), ..CleanReport::default() };
    let victims = victims(store, dead_percent);
    if victims.is_empty() {
        report.after_bytes = report.before_bytes;
        return Ok(report);
    }
    // On a full disk what is dead goes first; that makes room for moving the rest.
    let mut full = None;
    for _ in 0..2 {
        let moved: Result<u64> = victims.iter().map(|n| empty(store, *n)).sum();
        full = match moved {
            Ok(n) => {
                report.moved_frames += n;
                None
            }
            Err(e @ StoreError::NoSpace { .. }) => Some(e),
            Err(e) => return Err(e),
        };
        store.renew_checkpoint()?;
        if full.is_none() {
            break;
        }
    }
    report.after_bytes = total();
    match full {
        Some(e) if report.after_bytes >= report.before_bytes => Err(e),
        _ => Ok(report),
    }
}

/// Segments whose dead share exceeds the threshold, those with the least in them first. The one being written counts too: a checkpoint
/// seals it.
fn victims(store: &Store, dead_percent: u32) -> Vec<u32> {
    let state = store.state();
    let dead_share = |(number, len): &(u32, u64)| {
        let live = state.totals.live.get(number).copied().unwrap_or(0).min(*len);
        (len - live) * 100 > len * u64::from(dead_percent)
    };
    let mut out: Vec<u32> =
        store.segments.lens().into_iter().filter(dead_share).map(|(n, _)| n).collect();
    out.sort_by_key(|n| state.totals.live.get(n).copied().unwrap_or(0));
    out
}

/// Moves all live frames of a segment; damaged ones stay, and the segment with them.
fn empty(store: &Store, number: u32) -> Result<u64> {
    let (mut from, mut moved) = (0, 0);
    loop {
        let mut w = lock(&store.writer);
        w.admits()?;
        if w.number() == number {
            w.close_group(store.durable.load(Ordering::Acquire))?;
            w.roll(false)?;
        }
        let batch = store.state().frames(number, from, BATCH)?;
        let Some((last, _)) = batch.last() else { return Ok(moved) };
        from = last.offset + 1;
        for (frame, live) in batch {
            let bytes = match store.segments.frame(frame) {
                Ok((_, bytes)) => bytes,
                Err(e) => {
                    ::log::error!("inode {} offset {}: not moved: {e}", live.ino, live.off);
                    continue;
                }
            };
            w.ensure(bytes.len() as u64 + 64, false)?;
            let kind = if live.primer == 0 { Kind::Data } else { Kind::Primer };
            if w.group_is_full(64) {
                w.close_group(store.durable.load(Ordering::Acquire))?;
            }
            let to = w.append(kind, &bytes)?;
            let change = Change::Move { from: frame, to };
            let mut state = store.state.write().unwrap_or_else(PoisonError::into_inner);
            state.table.seq = w.seq + 1;
            w.log(&change);
            if let Err(e) = state.apply(&change) {
                drop(state);
                w.fail(&e.to_string());
                return Err(e);
            }
            moved += 1;
        }
    }
}
