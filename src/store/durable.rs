//! Making the log durable, its checkpoints, and what ends both.

use super::api::{Result, StoreError};
use crate::store::log::checkpoint;
use crate::store::log::segments;
use crate::store::log::writer::Writer;
use crate::store::{Store, lock};
use std::sync::MutexGuard;
use std::sync::atomic::Ordering;

impl Store {
    /// The log's writer, for the caller alone.
    ///
    /// A panic under the writer's lock, the state's or that of a sync leaves half of a change, or a
    /// sync of which nobody knows how it ended. The standard library marks such a lock; from then on
    /// the store takes no writes, as after a sync that failed.
    pub(super) fn writer(&self) -> MutexGuard<'_, Writer> {
        let mut w = lock(&self.writer);
        if self.writer.is_poisoned() || self.sync.is_poisoned() || self.state.is_poisoned() {
            w.fail("a panic in the middle of a change");
        }
        w
    }

    /// Makes all that was appended before this call durable; concurrent calls share the work.
    pub fn sync(&self) -> Result<()> {
        if self.read_only {
            return Ok(());
        }
        let target = {
            let w = self.writer();
            w.usable()?;
            w.seq + u64::from(w.has_changes())
        };
        if self.durable.load(Ordering::Acquire) < target {
            let turn = lock(&self.sync);
            if self.durable.load(Ordering::Acquire) >= target {
                self.writer().usable()?;
            } else {
                self.commit(&turn)?;
            }
        }
        self.sync_corrected()?;
        self.upload_synced()
    }

    /// Makes durable what was put right on the way.
    pub(super) fn sync_corrected(&self) -> Result<()> {
        let corrected = lock(&self.segments.corrected).clone();
        let synced = corrected.into_iter().try_for_each(|n| self.segments.sync_corrected(n));
        synced.inspect_err(|e| self.writer().fail(&e.to_string()))
    }

    /// Closes the batch, makes the whole log durable, then deletes what a checkpoint left behind.
    pub(super) fn commit(&self, _turn: &MutexGuard<'_, ()>) -> Result<()> {
        let (seq, position, blobs, dead) = {
            let mut w = self.writer();
            w.usable()?;
            w.close_batch(self.durable.load(Ordering::Acquire))?;
            w.flush()?;
            w.write_again()?;
            // Chosen here, while all that has happened is about to become durable: a segment that
            // only a later change empties must not go before that change is safe.
            let prune = self.prune.swap(false, Ordering::AcqRel);
            let dead = if prune { self.dead_segments() } else { Vec::new() };
            (w.seq, w.position(), w.unsynced(), dead)
        };
        for (number, blob) in blobs {
            if let Err(e) = blob.sync() {
                let e = segments::io_error("fdatasync", number, e);
                self.writer().fail(&e.to_string());
                return Err(e);
            }
        }
        self.writer().note_synced((position >> 32) as u32);
        self.durable.store(seq, Ordering::Release);
        self.synced.store(position, Ordering::Release);
        self.delete(&dead);
        let checkpoint = lock(&self.checkpoint).1;
        self.writer().fill_reserve(checkpoint);
        Ok(())
    }

    /// Deletes dead segments. What fails is tried again after the next mount: it is no matter of
    /// whoever wanted something to be durable.
    fn delete(&self, dead: &[u32]) {
        for number in dead {
            match self.segments.remove_unpinned(*number) {
                Ok(true) => {}
                // The next sync tries again.
                Ok(false) => self.prune.store(true, Ordering::Release),
                Err(e) => log::warn!("{e}"),
            }
        }
        if !dead.is_empty()
            && let Err(e) = self.segments.sync_names()
        {
            log::warn!("{e}");
        }
    }

    pub(super) fn checkpoint_if_due(&self, w: &mut Writer) -> Result<()> {
        /// Bytes of batches after which a checkpoint is worth its while.
        const DUE: u64 = 16 << 20;
        let batches = &self.segments.flow.batches;
        if batches.load(Ordering::Relaxed) > DUE.max(lock(&self.checkpoint).1) {
            match self.write_checkpoint(w) {
                // The change itself is in; the next one tries again.
                Err(StoreError::NoSpace { detail, .. }) => {
                    log::warn!("no room for a checkpoint of the namespace ({detail})");
                    batches.store(0, Ordering::Relaxed);
                }
                r => return r,
            }
        }
        Ok(())
    }

    pub(super) fn write_checkpoint(&self, w: &mut Writer) -> Result<()> {
        w.admits()?;
        w.close_batch(self.durable.load(Ordering::Acquire))?;
        let segment = w.number() + 1;
        let len = checkpoint::write(w, &self.state, &self.live)?;
        self.segments.flow.batches.store(0, Ordering::Relaxed);
        *lock(&self.checkpoint) = (segment, len);
        self.prune.store(true, Ordering::Release);
        Ok(())
    }

    /// Segments before the last checkpoint in which nothing lives.
    fn dead_segments(&self) -> Vec<u32> {
        let before = lock(&self.checkpoint).0;
        let state = self.state();
        let live = |n: u32| state.totals.live.get(&n).copied().unwrap_or(0);
        let lens = self.segments.lens().into_iter();
        lens.map(|(n, _)| n).filter(|n| *n < before && live(*n) == 0).collect()
    }
}
