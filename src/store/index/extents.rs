//! Extents in the table: what maps bytes of files, what unmaps them, and who is asked for them.

use super::cuts;
use super::state::{Live, State, add, after, bad, key, key2, tail_u64};
use crate::store::api::Result;
use crate::store::log::record::{In, Out, Record};
use crate::store::sweep::STEP;
use crate::types::{Extent, Ino};
use std::ops::Range;

/// The keys of extents that begin in a range: the first, and the one after all.
fn extent_keys(ino: Ino, range: &Range<u64>) -> (Vec<u8>, Vec<u8>) {
    let end = range.end;
    let hi = if end == u64::MAX { after(b'e', ino.0) } else { key2(b'e', ino.0, end) };
    (key2(b'e', ino.0, range.start), hi)
}

impl State {
    /// Enters an extent and all that it refers to. The range must be free.
    fn add_extent(&mut self, ino: Ino, e: &Extent) -> Result<()> {
        let fresh = Live {
            len: e.frame.len,
            refs: 1,
            staged: e.meta.staged,
            shared: e.meta.shared,
            primer: 0,
            model: e.meta.model,
            ino: if e.meta.shared { Ino(0) } else { ino },
            off: if e.meta.shared { 0 } else { e.off.saturating_sub(e.frame_off.into()) },
            plain_len: e.meta.plain_len,
            used: e.len as u32,
        };
        self.hold(e.frame, fresh)?;
        self.own(ino, e);
        self.name_primer(e.meta.primer, true)?;
        if e.meta.staged {
            self.stage(ino, e.len, true)?;
        }
        add(&mut self.totals.logical, e.len);
        self.totals.last_generation = self.totals.last_generation.max(e.meta.generation);
        let mut o = Out::default();
        o.extent(e);
        self.table.put(key2(b'e', ino.0, e.off), o.0);
        Ok(())
    }

    fn drop_extent(&mut self, ino: Ino, e: &Extent) -> Result<()> {
        self.table.del(key2(b'e', ino.0, e.off));
        self.disown(ino, e);
        self.totals.logical = self.totals.logical.saturating_sub(e.len);
        if e.meta.staged {
            self.stage(ino, e.len, false)?;
        }
        self.name_primer(e.meta.primer, false)?;
        self.release(e.frame, e.len)
    }

    pub(in crate::store) fn put_extent(&mut self, ino: Ino, e: &Extent) -> Result<()> {
        // The primer must not go with an old extent if the new one names it too.
        self.name_primer(e.meta.primer, true)?;
        self.punch(ino, e.off, e.len)?;
        self.add_extent(ino, e)?;
        self.name_primer(e.meta.primer, false)
    }

    /// Unmaps a range.
    pub(in crate::store) fn punch(&mut self, ino: Ino, off: u64, len: u64) -> Result<()> {
        let range = off..off.saturating_add(len);
        self.unmap(ino, &range)?;
        if self.cuts.is_empty() {
            return Ok(());
        }
        for cut in self.cuts.touching(ino, &range) {
            self.end_cut(ino, cut.start);
            self.begin_cut(ino, &(cut.start..cut.end.min(range.start)));
            self.begin_cut(ino, &(cut.start.max(range.end)..cut.end));
        }
        Ok(())
    }

    fn begin_cut(&mut self, ino: Ino, range: &Range<u64>) {
        if range.is_empty() {
            return;
        }
        self.cuts.insert(ino, range);
        let mut o = Out::default();
        o.u64(range.end);
        self.table.put(key2(cuts::LETTER, ino.0, range.start), o.0);
    }

    fn end_cut(&mut self, ino: Ino, off: u64) {
        self.cuts.remove(ino, off);
        self.table.del(key2(cuts::LETTER, ino.0, off));
    }

    /// Notes that a range reads as a hole from now on; its extents go later.
    pub(in crate::store) fn cut(&mut self, ino: Ino, mut range: Range<u64>) -> Result<()> {
        if range.is_empty() {
            return Ok(());
        }
        // No extent may reach across a bound.
        for at in [range.start, range.end] {
            let before = self.table.last(&key(b'e', ino.0), &key2(b'e', ino.0, at))?;
            let Some((_, v)) = before else { continue };
            let e = In(&v).extent().ok_or_else(|| bad("extent"))?;
            if e.end() > at {
                self.unmap(ino, &(e.off.max(range.start)..e.end().min(range.end)))?;
            }
        }
        for other in self.cuts.touching(ino, &range) {
            self.end_cut(ino, other.start);
            range = range.start.min(other.start)..range.end.max(other.end);
        }
        self.begin_cut(ino, &range);
        Ok(())
    }

    /// The change that goes before another, or in place of it, because that one would take too many
    /// extents at once.
    pub fn instead(&self, record: &Record) -> Result<Option<Record>> {
        let (ino, off, len) = match record {
            Record::Punch { ino, off, len } => (*ino, *off, *len),
            Record::DelInode(ino) => (*ino, 0, u64::MAX),
            _ => return Ok(None),
        };
        let (lo, hi) = extent_keys(ino, &(off..off.saturating_add(len)));
        let many = self.table.scan(&lo, &hi, STEP + 1)?.len() > STEP;
        Ok(many.then_some(Record::Cut { ino, off, len }))
    }

    /// The change that removes the last `max` extents of a range that was cut.
    pub fn next_sweep(&self, max: usize) -> Result<Option<Record>> {
        let Some((ino, range)) = self.cuts.last() else { return Ok(None) };
        let (lo, hi) = extent_keys(ino, &range);
        let some = self.table.scan_back(&lo, &hi, max)?;
        let first = some.last().filter(|_| some.len() == max);
        let off = first.map_or(range.start, |(k, _)| tail_u64(k).max(range.start));
        Ok(Some(Record::Punch { ino, off, len: range.end - off }))
    }

    /// Removes all extents of a range.
    fn unmap(&mut self, ino: Ino, range: &Range<u64>) -> Result<()> {
        let (off, end) = (range.start, range.end);
        for e in self.mapped_in(ino, range, usize::MAX)? {
            // Pieces first, so that what both refer to lives on.
            let (head, tail) = (off.saturating_sub(e.off), e.end().saturating_sub(end));
            let mut pieces = Vec::new();
            if head > 0 {
                pieces.push(Extent { len: head, ..e });
            }
            if tail > 0 {
                let cut = e.len - tail;
                let frame_off = e.frame_off + cut as u32;
                pieces.push(Extent { off: end, len: tail, frame_off, ..e });
            }
            if pieces.is_empty() {
                self.drop_extent(ino, &e)?;
                continue;
            }
            self.name_primer(e.meta.primer, true)?;
            let held = self.hold_again(e.frame)?;
            self.drop_extent(ino, &e)?;
            for p in &pieces {
                self.add_extent(ino, p)?;
            }
            if held {
                self.release(e.frame, 0)?;
            }
            self.name_primer(e.meta.primer, false)?;
        }
        Ok(())
    }

    /// At most `max` extents that overlap a range, in order.
    pub fn extents_in(&self, ino: Ino, range: Range<u64>, max: usize) -> Result<Vec<Extent>> {
        let mut out = Vec::new();
        for part in self.cuts.outside(ino, range) {
            if out.len() < max {
                out.append(&mut self.mapped_in(ino, &part, max - out.len())?);
            }
        }
        Ok(out)
    }

    /// The same, with those that were cut and have not gone yet.
    pub(in crate::store) fn mapped_in(
        &self,
        ino: Ino,
        range: &Range<u64>,
        max: usize,
    ) -> Result<Vec<Extent>> {
        let extent = |v: &[u8]| In(v).extent().ok_or_else(|| bad("extent"));
        let mut out = Vec::new();
        if range.is_empty() {
            return Ok(out);
        }
        let (from, hi) = extent_keys(ino, range);
        if let Some((_, v)) = self.table.last(&key(b'e', ino.0), &from)? {
            let e = extent(&v)?;
            if e.end() > range.start {
                out.push(e);
            }
        }
        if out.len() < max {
            for (_, v) in self.table.scan(&from, &hi, max - out.len())? {
                out.push(extent(&v)?);
            }
        }
        Ok(out)
    }
}
