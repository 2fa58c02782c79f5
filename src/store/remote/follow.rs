//! Following an archive that somebody else writes: from one manifest to the next.
//!
//! The batches that the newer manifest has more are applied one after another, so each moment's state is one
//! that was. Where they do not follow on what is here, since segments between were deleted, the state is
//! made anew from the newest checkpoint.

use super::manifest::Manifest;
use super::view::{Reached, View};
use crate::store::api::{Result, StoreError};
use crate::store::index::base::{Base, NoBase};
use crate::store::log::footer::summary;
use crate::store::log::frame::Kind;
use crate::store::log::record::{Batch, Record};
use crate::store::log::replay::{self, read_batch};
use crate::store::log::segments::{Segment, Side};
use crate::store::log::superblock::SEGMENT_HEADER;
use crate::store::{Store, lock};
use crate::types::{FrameRef, Ino};
use std::collections::HashSet;
use std::sync::{Arc, PoisonError};

/// What differs from the state before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Changed {
    /// These inodes, at most.
    Inodes(HashSet<Ino>),
    /// Perhaps everything.
    All,
}

impl Changed {
    /// True if an inode may have changed.
    pub fn may_be(&self, ino: Ino) -> bool {
        match self {
            Self::Inodes(some) => some.contains(&ino),
            Self::All => true,
        }
    }
}

/// A batch and where it lies.
type Found = (FrameRef, Batch);

impl Store {
    /// Goes on to the newest manifest of an archive that is read from an object store; `None` if there is
    /// nothing new.
    pub fn follow(&self) -> Result<Option<Changed>> {
        let Some(view) = &self.view else { return Ok(None) };
        let _turn = lock(&view.following);
        let Some(m) = view.look()? else { return Ok(None) };
        self.know(view, &m);
        view.tell(&self.segments, &m);
        view.show(m.clone());
        let reached = *lock(&view.reached);
        let changed = if let Some(batches) = self.batches_after(&m, reached)? {
            Changed::Inodes(self.go_on(view, batches)?)
        } else {
            self.begin_anew(view)?;
            Changed::All
        };
        // What the new state needs is all there; the rest may be gone any time.
        for (number, _) in self.segments.lens() {
            if m.parts.binary_search_by_key(&number, |p| p.number).is_err() {
                self.segments.forget(number);
            }
        }
        Ok(Some(changed))
    }

    /// Makes a manifest's segments known, beside those that there are.
    fn know(&self, view: &View, m: &Manifest) {
        for p in &m.parts {
            let len = p.object.len;
            if self.segments.get(p.number).is_some_and(|s| s.len == len) {
                continue;
            }
            self.segments.put(p.number, Segment { blob: view.segment(*p), len });
            let side = Side { covered: len, len: p.sidecar.len };
            lock(&self.segments.sidecars).insert(p.number, side);
        }
    }

    /// The batches behind what was reached, if each follows on the one before.
    fn batches_after(&self, m: &Manifest, reached: Reached) -> Result<Option<Vec<Found>>> {
        let mut out = Vec::new();
        let (mut seq, mut chain) = (reached.seq, reached.chain);
        for p in m.parts.iter().filter(|p| p.number >= reached.segment) {
            let known = if p.number == reached.segment { reached.len } else { 0 };
            let from = known.max(SEGMENT_HEADER as u64);
            let (lines, _) = summary(&self.segments, p.number, from)?;
            for l in lines.into_iter().filter(|l| l.kind == Kind::Batch) {
                let Some(batch) = read_batch(&self.segments, l.frame)? else { return Ok(None) };
                if batch.seq <= seq {
                    continue;
                }
                if batch.seq != seq + 1 || batch.prev != chain {
                    return Ok(None);
                }
                (seq, chain) = (batch.seq, batch.chain());
                out.push((l.frame, batch));
            }
        }
        Ok(Some(out))
    }

    fn go_on(&self, view: &View, batches: Vec<Found>) -> Result<HashSet<Ino>> {
        let mut changed = HashSet::new();
        for (at, batch) in batches {
            let changes = batch.changes();
            let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
            state.table.seq = batch.seq;
            for change in changes {
                match change {
                    Some(c) => {
                        changed.extend(inode(&c));
                        state.apply(&c)?;
                    }
                    None => {
                        log::error!(
                            "batch {}: a change that this version does not know",
                            batch.seq
                        );
                    }
                }
            }
            if state.table.is_loose() {
                state.table.pack()?;
            }
            *lock(&view.reached) = Reached {
                seq: batch.seq,
                chain: batch.chain(),
                segment: at.segment,
                len: u64::from(at.offset) + u64::from(at.len),
            };
        }
        Ok(changed)
    }

    fn begin_anew(&self, view: &View) -> Result<()> {
        let base: Arc<dyn Base> = Arc::new(NoBase);
        let Some((state, end)) = replay::rebuild(&self.segments, &base, false)? else {
            return Err(StoreError::Refused(format!("{}: its namespace is lost", view.url())));
        };
        *self.state.write().unwrap_or_else(PoisonError::into_inner) = state;
        *lock(&view.reached) =
            Reached { seq: end.seq, chain: end.chain, segment: end.segment, len: end.len };
        Ok(())
    }
}

/// The inode that a change is about.
fn inode(change: &Record) -> Option<Ino> {
    match change {
        Record::PutInode(ino, _)
        | Record::DelInode(ino)
        | Record::PutSymlink(ino, _)
        | Record::PutXattr(ino, ..)
        | Record::DelXattr(ino, ..)
        | Record::PutExtent(ino, _)
        | Record::Punch { ino, .. }
        | Record::Cut { ino, .. } => Some(*ino),
        Record::PutDirent { parent, .. }
        | Record::DelDirent { parent, .. }
        | Record::RenameDirent { parent, .. } => Some(*parent),
        _ => None,
    }
}
