//! Shared frames in the table: whose their parts are, and which of them are hardly used any more.

use super::base::Pair;
use super::state::{Live, State, after, bad, key, key_place, key2, tail_u64};
use crate::store::Store;
use crate::store::api::Result;
use crate::store::log::record::Out;
use crate::types::{Extent, FrameRef, Ino};
use std::collections::BTreeSet;

fn key_owner(f: FrameRef, ino: Ino, off: u64) -> Vec<u8> {
    let mut k = key_place(b'w', f.segment, f.offset);
    k.extend_from_slice(&ino.0.to_be_bytes());
    k.extend_from_slice(&off.to_be_bytes());
    k
}

/// True if files refer to less than half of a shared frame.
fn is_thin(l: &Live) -> bool {
    l.shared && l.used < l.plain_len / 2
}

impl State {
    /// Notes whose an extent of a shared frame is.
    pub(super) fn own(&mut self, ino: Ino, e: &Extent) {
        if e.meta.shared {
            self.table.put(key_owner(e.frame, ino, e.off), Vec::new());
        }
    }

    /// Forgets it.
    pub(super) fn disown(&mut self, ino: Ino, e: &Extent) {
        if e.meta.shared {
            self.table.del(key_owner(e.frame, ino, e.off));
        }
    }

    /// Inodes and offsets of the extents of a shared frame.
    fn owners(&self, f: FrameRef) -> Result<Vec<(Ino, u64)>> {
        let place = u64::from(f.segment) << 32 | u64::from(f.offset);
        let pairs = self.table.scan(&key(b'w', place), &after(b'w', place), usize::MAX)?;
        let owner = |(k, _): Pair| {
            let ino = k.get(9..17).map(tail_u64)?;
            (k.len() == 25).then(|| (Ino(ino), tail_u64(&k)))
        };
        pairs.into_iter().map(|p| owner(p).ok_or_else(|| bad("owner of a frame"))).collect()
    }

    /// Inode and offset of what begins in a frame; for a shared one, of each part.
    pub fn begins_in(&self, f: FrameRef, l: &Live) -> Result<Vec<(Ino, u64)>> {
        if l.shared { self.owners(f) } else { Ok(vec![(l.ino, l.off)]) }
    }

    /// Enters the new place of a frame in its extents.
    pub(super) fn relocate_shared(&mut self, l: &Live, from: FrameRef, to: FrameRef) -> Result<()> {
        for (ino, off) in self.owners(from)? {
            for e in self.mapped_in(ino, &(off..off.saturating_add(1)), 1)? {
                self.relocate_extent(ino, &e, from, to);
            }
        }
        self.note_thin(from, Some(l), None);
        self.note_thin(to, None, Some(l));
        Ok(())
    }

    /// Enters the new place of an extent's frame, if that is the one that moves.
    pub(super) fn relocate_extent(&mut self, ino: Ino, e: &Extent, from: FrameRef, to: FrameRef) {
        if e.frame != from {
            return;
        }
        let moved = Extent { frame: to, ..*e };
        self.disown(ino, e);
        self.own(ino, &moved);
        let mut o = Out::default();
        o.extent(&moved);
        self.table.put(key2(b'e', ino.0, e.off), o.0);
    }

    /// Keeps the list of thin frames: what a frame was, and what it is.
    pub(super) fn note_thin(&mut self, f: FrameRef, was: Option<&Live>, is: Option<&Live>) {
        let key = || key_place(b'h', f.segment, f.offset);
        match (was.is_some_and(is_thin), is.is_some_and(is_thin)) {
            (false, true) => self.table.put(key(), Vec::new()),
            (true, false) => self.table.del(key()),
            _ => {}
        }
    }
}

impl Store {
    /// Inode and offset of what begins in a live frame: several, if it is shared.
    pub fn begins_in(&self, frame: FrameRef) -> Result<Vec<(Ino, u64)>> {
        let state = self.view();
        let found = state.frames(frame.segment, frame.offset, 1)?;
        let live = found.first().filter(|(at, _)| *at == frame);
        live.map_or(Ok(Vec::new()), |(at, l)| state.begins_in(*at, l))
    }

    /// An extent of the shared frame that begins with one of the next inodes after those of this one.
    pub fn shared_after(&self, frame: FrameRef) -> Result<Option<Extent>> {
        /// Inodes looked at: some files between are no text, or were removed.
        const NEXT: u64 = 8;
        let state = self.view();
        let Some((last, _)) = state.owners(frame)?.pop() else { return Ok(None) };
        for ino in (1..=NEXT).map(|n| Ino(last.0.saturating_add(n))) {
            let first = state.mapped_in(ino, &(0..1), 1)?;
            if let Some(e) = first.into_iter().find(|e| e.meta.shared && e.frame != frame) {
                return Ok(Some(e));
            }
        }
        Ok(None)
    }

    /// Inodes with parts of shared frames of which less than half is left: of some of these frames, after the
    /// place `from`, which goes on with them, and is 0 again at the end.
    pub fn thinly_held(&self, from: &mut u64) -> Result<Vec<Ino>> {
        /// Frames at a time.
        const SOME: usize = 16;
        let state = self.view();
        let lo = key(b'h', from.saturating_add(1));
        let some = state.table.scan(&lo, &[b'h' + 1], SOME)?;
        *from = some.last().filter(|_| some.len() == SOME).map_or(0, |(k, _)| tail_u64(k));
        let mut inos = BTreeSet::new();
        for (k, _) in some {
            let place = tail_u64(&k);
            let f = FrameRef { segment: (place >> 32) as u32, offset: place as u32, len: 0 };
            inos.extend(state.owners(f)?.into_iter().map(|(ino, _)| ino));
        }
        Ok(inos.into_iter().collect())
    }
}
