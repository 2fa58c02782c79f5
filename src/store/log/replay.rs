//! From the log to the state: the last checkpoint, then every batch after it, in order.
//!
//! A batch that cannot be read is a *torn tail* if no later batch proves that it had been durable:
//! the log ends before it. Otherwise it is *rot*: it is logged and stepped over, never cut off.

use super::checkpoint;
use super::footer::{Line, summary};
use super::frame::{self, HEADER, Kind};
use super::record::{Batch, Record, unsqueeze};
use super::segments::{Segments, io_error, segment_path};
use super::superblock::{SEGMENT_HEADER, SegmentHeader};
use crate::store::api::{Result, StoreError};
use crate::store::index::base::Base;
use crate::store::index::memtable::Table;
use crate::store::index::state::State;
use crate::store::index::totals::Totals;
use crate::store::io::read_up_to;
use crate::types::{FrameRef, Ino};
use std::sync::Arc;

/// What is missing of a store's history.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Loss {
    /// No checkpoint has a root directory.
    pub namespace: bool,
    /// Batches are missing.
    pub batches: bool,
}

impl Loss {
    /// True if anything is missing.
    pub fn any(self) -> bool {
        self.namespace || self.batches
    }
}

/// Where the log ends and what had been reached there.
#[derive(Debug)]
pub struct End {
    /// Last segment.
    pub segment: u32,
    /// Its length up to the last good batch.
    pub len: u64,
    /// Frames of that segment.
    pub lines: Vec<Line>,
    /// Segment and offset up to which a later batch says that the log had been durable.
    pub vouched: (u32, u64),
    /// Last batch.
    pub seq: u64,
    /// Chain hash after it.
    pub chain: u64,
    /// Bytes of batches since the checkpoint.
    pub since_checkpoint: u64,
    /// Segment of the checkpoint.
    pub checkpoint: u32,
    /// Its length in bytes.
    pub checkpoint_len: u64,
    /// What is missing.
    pub loss: Loss,
}

/// A checkpoint that knows of no root directory. Nothing is replayed from it, but everything up to it
/// was durable.
struct Rootless {
    /// Segment and offset of the first batch after it.
    place: (u32, u64),
    seq: u64,
    chain: u64,
    totals: Totals,
}

/// Changes by batches kept in memory while replaying, before they are handed to the base. What the
/// checkpoint brought stays there anyway until the mount is up.
const OVERLAY_MAX: usize = 300_000;

/// A batch, or `None` if it is damaged. An error: nobody can tell, since it cannot be read.
pub fn read_batch(segments: &Segments, at: FrameRef) -> Result<Option<Batch>> {
    match segments.frame(at) {
        Ok((h, bytes)) if h.kind == Kind::Batch => {
            Ok(Batch::decode(h.meta.encoding, h.payload(&bytes), h.meta.plain_len))
        }
        Err(e @ StoreError::Io { .. }) => Err(e),
        _ => Ok(None),
    }
}

/// What the system fails to read may be whole: a store that is to be written to is not opened then,
/// since history would go on without it; nor is one behind a network, which may be back in a moment.
fn unless_unreadable(segments: &Segments, e: StoreError) -> Result<()> {
    log::error!("{e}");
    match e {
        StoreError::Io { .. } if segments.write || e.is_distant() => Err(e),
        _ => Ok(()),
    }
}

/// True if a segment begins with a checkpoint.
fn has_checkpoint(segments: &Segments, number: u32) -> Result<bool> {
    let read = || -> Result<_> {
        let Some(s) = segments.get(number) else { return Ok(None) };
        let bytes = read_up_to(&*s.blob, 0, SEGMENT_HEADER);
        Ok(SegmentHeader::decode(&bytes.map_err(|e| io_error("read", number, e))?))
    };
    let header = match read() {
        Ok(Some(h)) => Some(h),
        // An empty file was created just before a crash.
        _ if segments.heal(number).is_ok_and(|healed| healed) => read()?,
        first => first?,
    };
    Ok(header.is_some_and(|h| {
        h.checkpoint && h.number == number && frame::tag(&h.uuid) == segments.stamp.tag
    }))
}

/// Rebuilds the state over an empty `base`. `None` if no checkpoint has a root directory; with
/// `salvage`, what batches tell is applied to nothing then.
pub fn rebuild(
    segments: &Segments,
    base: &Arc<dyn Base>,
    salvage: bool,
) -> Result<Option<(State, End)>> {
    let mut rootless: Option<Rootless> = None;
    for (number, _) in segments.lens().into_iter().rev() {
        match has_checkpoint(segments, number) {
            Ok(true) => {}
            Ok(false) => continue,
            Err(e) => {
                unless_unreadable(segments, e)?;
                continue;
            }
        }
        match checkpoint::load(segments, number, base) {
            Ok((table, end, segment, offset)) => {
                let mut state = State::new(table, end.totals, segments.settings)?;
                if matches!(state.inode(Ino::ROOT), Ok(None)) {
                    log::error!("segment {number}: a checkpoint without a root directory");
                    rootless.get_or_insert(Rootless {
                        place: (segment, offset),
                        seq: end.seq,
                        chain: end.chain,
                        totals: state.totals,
                    });
                    continue;
                }
                let mut log_end = End {
                    segment,
                    len: offset,
                    lines: Vec::new(),
                    vouched: (number, 0),
                    seq: end.seq,
                    chain: end.chain,
                    since_checkpoint: 0,
                    checkpoint: number,
                    checkpoint_len: end.len,
                    loss: Loss::default(),
                };
                replay(segments, &mut state, &mut log_end, rootless.as_ref())?;
                return Ok(Some((state, log_end)));
            }
            Err(e @ StoreError::Index(_)) => return Err(e),
            Err(e) => {
                unless_unreadable(segments, e)?;
                log::error!("trying the checkpoint before");
            }
        }
    }
    if let Some(last) = rootless {
        return if salvage { from_nothing(segments, base, last).map(Some) } else { Ok(None) };
    }
    Err(StoreError::Refused(
        "no checkpoint of the log can be read: the store is damaged beyond this version's repair"
            .into(),
    ))
}

/// True if the last checkpoint has nothing in it, as far as its beginning tells.
pub fn ends_empty(segments: &Segments) -> bool {
    let first_part = |number| {
        let (lines, _) = summary(segments, number, SEGMENT_HEADER as u64).ok()?;
        let (h, bytes) = segments.frame(lines.first()?.frame).ok()?;
        unsqueeze(h.meta.encoding, h.payload(&bytes), h.meta.plain_len)
    };
    let numbers = segments.lens().into_iter().rev().map(|(n, _)| n);
    let last = numbers.into_iter().find(|n| matches!(has_checkpoint(segments, *n), Ok(true)));
    last.and_then(first_part).is_some_and(|pairs| pairs.is_empty())
}

/// What all batches of the log amount to without a checkpoint. No number is used twice.
fn from_nothing(segments: &Segments, base: &Arc<dyn Base>, last: Rootless) -> Result<(State, End)> {
    let Totals { last_ino, last_generation, last_cookie, .. } = last.totals;
    let totals = Totals { last_ino, last_generation, last_cookie, ..Totals::default() };
    let table = Table::over_nothing(Arc::clone(base));
    let mut state = State::new(table, totals, segments.settings)?;
    let first = segments.lens().first().map_or(1, |(n, _)| *n);
    let mut end = End {
        segment: first,
        len: SEGMENT_HEADER as u64,
        lines: Vec::new(),
        vouched: (first, 0),
        seq: 0,
        chain: 0,
        since_checkpoint: 0,
        checkpoint: first,
        checkpoint_len: 0,
        loss: Loss { namespace: true, batches: false },
    };
    replay(segments, &mut state, &mut end, Some(&last))?;
    Ok((state, end))
}

struct Found {
    at: FrameRef,
    seq: u64,
    durable: u64,
    /// What is in it, if it is kept.
    batch: Option<Batch>,
}

/// Batches of so many bytes together are kept from the first pass for the second: where speed counts,
/// and where memory does.
const KEEP: (usize, usize) = (64 << 20, 4 << 20);

fn replay(
    segments: &Segments,
    state: &mut State,
    end: &mut End,
    rootless: Option<&Rootless>,
) -> Result<()> {
    // First pass: where the batches are, and which of them are known to have been durable.
    let in_memory = state.table.base().is_volatile();
    let keep = if in_memory { KEEP.1 } else { KEEP.0 };
    let mut found = Vec::new();
    let mut kept = 0;
    let mut from = end.len;
    for (number, _) in segments.lens().into_iter().filter(|(n, _)| *n >= end.segment) {
        let (lines, _) = summary(segments, number, from)?;
        from = SEGMENT_HEADER as u64;
        for l in lines.into_iter().filter(|l| l.kind == Kind::Batch) {
            match read_batch(segments, l.frame) {
                Ok(Some(g)) => {
                    let (at, seq, durable) = (l.frame, g.seq, g.durable);
                    kept += g.changes.len();
                    let batch = (kept <= keep).then_some(g);
                    found.push(Found { at, seq, durable, batch });
                }
                Ok(None) => log::error!(
                    "{} offset {}: unreadable batch",
                    segment_path(l.frame.segment),
                    l.frame.offset
                ),
                Err(e) => unless_unreadable(segments, e)?,
            }
        }
    }
    let floor = rootless.map_or(0, |r| r.seq);
    let durable = found.iter().map(|f| f.durable).max().unwrap_or(0).max(floor);
    let loaded = state.table.waiting();
    for f in found {
        if f.seq <= end.seq {
            continue;
        }
        let batch = match f.batch.map_or_else(|| read_batch(segments, f.at), |g| Ok(Some(g))) {
            Ok(Some(batch)) => batch,
            Ok(None) => break,
            Err(e) => {
                unless_unreadable(segments, e)?;
                break;
            }
        };
        let follows = f.seq == end.seq + 1 && batch.prev == end.chain;
        if !follows {
            if end.seq >= durable {
                break;
            }
            end.loss.batches = true;
            log::error!(
                "the log has lost batches {} to {}: what they changed is as it was before",
                end.seq + 1,
                f.seq - 1
            );
        }
        let changes = batch.changes();
        if f.seq > durable && !frames_are_there(segments, &changes)? {
            break;
        }
        state.table.seq = f.seq;
        for change in changes {
            match change {
                Some(c) => state.apply(&c)?,
                None => log::error!("batch {}: a change that this version does not know", f.seq),
            }
        }
        end.seq = f.seq;
        end.chain = batch.chain();
        end.since_checkpoint += u64::from(f.at.len);
        end.segment = f.at.segment;
        end.len = u64::from(f.at.offset) + u64::from(f.at.len);
        if f.seq <= durable {
            end.vouched = (end.segment, end.len);
        }
        if in_memory {
            if state.table.is_loose() {
                state.table.pack()?;
            }
        } else if state.table.waiting() > loaded + OVERLAY_MAX {
            drain(state, f.seq)?;
        }
    }
    if in_memory && !segments.write {
        state.table.pack()?;
    }
    if let Some(r) = rootless {
        if end.seq < r.seq {
            log::error!("the log has lost batches {} to {}", end.seq + 1, r.seq);
            end.loss.batches = true;
            (end.seq, end.chain) = (r.seq, r.chain);
        }
        (end.segment, end.len) = (end.segment, end.len).max(r.place);
    }
    let (lines, _) = summary(segments, end.segment, SEGMENT_HEADER as u64)?;
    end.lines = lines.into_iter().filter(|l| u64::from(l.frame.offset) < end.len).collect();
    Ok(())
}

/// Hands all changes up to `seq` to the base.
fn drain(state: &mut State, seq: u64) -> Result<()> {
    let base = Arc::clone(state.table.base());
    let batch = state.table.ripe(seq, usize::MAX);
    base.write(&batch)?;
    state.table.settle(&batch, seq);
    Ok(())
}

/// True if every frame that the changes put into use is whole: the batch was not torn.
fn frames_are_there(segments: &Segments, changes: &[Option<Record>]) -> Result<bool> {
    let frames = changes.iter().flatten().filter_map(Record::frame);
    // What was evicted had long been durable, and whole.
    for f in frames.filter(|f| !segments.is_distant(f.segment)) {
        match segments.frame(f) {
            Ok(_) => {}
            Err(e) => return unless_unreadable(segments, e).map(|()| false),
        }
    }
    Ok(true)
}

/// The clean-shutdown record, if it is the very last thing in the log.
pub fn shutdown_record(segments: &Segments) -> Option<(Batch, Record, u32, u64)> {
    let (number, len) = segments.lens().pop()?;
    let find = |len: u64| {
        let blob = segments.get(number)?.blob;
        let at = len.checked_sub(HEADER as u64)?;
        let h = frame::Header::second(&read_up_to(&*blob, at, HEADER).ok()?)?;
        let start = len.checked_sub(h.frame_len().into())?;
        Some(FrameRef { segment: number, offset: start as u32, len: h.frame_len() })
    };
    let (place, len) = match find(len) {
        Some(place) => (place, len),
        // The file may have lost its end.
        None if segments.heal(number).is_ok_and(|h| h) => {
            let len = segments.get(number)?.len;
            (find(len)?, len)
        }
        None => return None,
    };
    let batch = read_batch(segments, place).ok()??;
    let last = batch.changes().pop()??;
    matches!(last, Record::Shutdown { .. }).then_some((batch, last, number, len))
}
