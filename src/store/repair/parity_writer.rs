//! The thread that gives segments their sidecars: whole ones once they are sealed and durable, the
//! one being written again and again as it grows.

use super::damage::Trouble;
use super::ecc::pages::STRIPE_BYTES;
use super::read_repair::{differing, read_range};
use super::sidecar::{self, Part, Sidecar};
use super::{rebuild, scan};
use crate::store::api::{Ecc, Result, StoreError};
use crate::store::io::put_file;
use crate::store::log::segments::{
    Segments, Side, io_error, segment_path, sidecar_name, sidecar_path,
};
use crate::store::log::superblock::{SEGMENT_HEADER, SegmentHeader};
use crate::store::{Store, lock};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// The thread looks this often.
pub const EVERY: Duration = Duration::from_secs(10);

impl Segments {
    /// Bytes of all sidecars.
    pub fn sidecar_bytes(&self) -> u64 {
        lock(&self.sidecars).values().map(|s| s.len).sum()
    }

    /// Forgets and deletes a segment's sidecar.
    pub fn drop_sidecar(&self, number: u32) {
        let Some(side) = lock(&self.sidecars).remove(&number) else { return };
        if self.write
            && let Err(e) = self.volume.remove(&sidecar_path(number, side.covered))
        {
            log::warn!("{}", io_error("remove the sidecar of", number, e));
        }
    }

    /// Deletes sidecars that cover more than there is, after the log was cut, and those that a larger
    /// one stands in for. Durable on return: one that came back after other bytes were appended would
    /// have the old ones restored.
    pub fn drop_stale_sidecars(&self) -> Result<()> {
        let keep = |number: &u32, side: &mut Side| {
            self.get(*number).is_some_and(|s| s.len >= side.covered)
        };
        let kept = {
            let mut sidecars = lock(&self.sidecars);
            sidecars.retain(keep);
            sidecars.clone()
        };
        let names = self
            .volume
            .list("segments")
            .map_err(|source| StoreError::Io { what: "list segments".into(), source })?;
        let mut dropped = false;
        for (number, covered) in names.iter().filter_map(|name| sidecar_name(name)) {
            if kept.get(&number).is_some_and(|side| side.covered == covered) {
                continue;
            }
            match self.volume.remove(&sidecar_path(number, covered)) {
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
                Err(e) => return Err(io_error("remove the sidecar of", number, e)),
                Ok(()) => dropped = true,
            }
        }
        if dropped { self.sync_names() } else { Ok(()) }
    }

    /// True if a segment has a sidecar that covers its first `len` bytes, or needs none.
    pub fn is_protected(&self, number: u32, len: u64) -> bool {
        self.ecc == Ecc::None || lock(&self.sidecars).get(&number).is_some_and(|s| s.covered >= len)
    }

    /// Has the next sidecar made from the segment's bytes alone.
    pub fn forget_parts(&self) {
        *lock(&self.parts) = (0, Vec::new());
    }

    /// Makes the sidecar of the first `len` bytes of a segment, where a frame must end. Its name is
    /// durable once the names are synced.
    pub fn protect(&self, number: u32, len: u64) -> Result<()> {
        self.make_sidecar(number, len, true)
    }

    /// The same where what the old sidecar covers is damaged beyond repair, and all that lives is whole
    /// without it. The old one goes only once the new one is there.
    pub fn protect_anew(&self, number: u32, len: u64) -> Result<()> {
        self.make_sidecar(number, len, false)
    }

    fn make_sidecar(&self, number: u32, len: u64, checks_old: bool) -> Result<()> {
        let _turn = lock(&self.healing);
        let Some(segment) = self.get(number) else { return Ok(()) };
        let fail = |why: String| StoreError::Io {
            what: format!("making the sidecar of {}", segment_path(number)),
            source: std::io::Error::other(why),
        };
        let mut parts = lock(&self.parts);
        let mut known = SEGMENT_HEADER;
        if parts.0 == number && checks_old {
            let covered = lock(&self.sidecars).get(&number).map_or(0, |s| s.covered as usize);
            known = known.max(covered);
        } else {
            *parts = (number, Vec::new());
        }
        // Whole stripes that were protected before stay as they are, and are not read again.
        parts.1.truncate(known.min(len as usize) / STRIPE_BYTES);
        let done = parts.1.len() * STRIPE_BYTES;
        let (mut bytes, unreadable) = read_range(&*segment.blob, done, len as usize);
        if unreadable {
            return Err(fail("it cannot be read".into()));
        }
        // What an older sidecar covers must be what it was: parity of bytes that rotted meanwhile
        // would make the rot permanent.
        let old = if checks_old { self.sidecar(number)? } else { None };
        if let Some(old) = old.map(|s| s.after(parts.1.len())) {
            if self.verify(number, done, &mut bytes, &old).map_err(fail)? {
                self.known.forget_segment(number);
            }
        }
        // What no sidecar covered yet is checked by its frames alone.
        let found = scan::frames(&mut bytes, known.saturating_sub(done), self.stamp.tag);
        for (at, h) in found.whole.iter().filter(|(at, _)| found.changed.contains(at)) {
            let end = at + h.frame_len() as usize;
            self.restore(number, done, &bytes, std::slice::from_ref(&(*at..end)));
        }
        // No frame vouches for the header; what it says follows from the first frame.
        if done == 0
            && SegmentHeader::decode(&bytes).is_none()
            && let Some(header) = self.header_before(number, &bytes)
        {
            bytes[..SEGMENT_HEADER].copy_from_slice(&header);
            let all = 0..SEGMENT_HEADER;
            self.restore(number, 0, &bytes, std::slice::from_ref(&all));
        }
        if let Some((at, why)) = found.bad.first()
            && self.known.is_news(number, Trouble::Frames)
        {
            let (start, end) = (done + at.start, done + at.end);
            log::warn!("{}: {why} at {start}..{end}", segment_path(number));
        }
        let whole = len as usize / STRIPE_BYTES;
        let mut all: Vec<Part> = parts.1.clone();
        for (n, stripe) in bytes.chunks(STRIPE_BYTES).enumerate() {
            let number_of = (parts.1.len() + n) as u64;
            let part = sidecar::part(self.ecc, self.stamp, number.into(), number_of, stripe);
            all.push(part.map_err(fail)?);
        }
        parts.1 = all[..whole].to_vec();
        drop(parts);
        let bytes = sidecar::join(&all);
        let path = sidecar_path(number, len);
        let made = put_file(&*self.volume, &path, &bytes);
        made.map_err(|e| io_error("write the sidecar of", number, e))?;
        let side = Side { covered: len, len: bytes.len() as u64 };
        let old = lock(&self.sidecars).insert(number, side);
        if let Some(old) = old.filter(|o| o.covered != len) {
            // A crash must not take both.
            self.sync_names()?;
            if let Err(e) = self.volume.remove(&sidecar_path(number, old.covered)) {
                log::warn!("{}", io_error("remove the old sidecar of", number, e));
            }
        }
        if self.get(number).is_none() {
            // It was deleted meanwhile.
            self.drop_sidecar(number);
        }
        Ok(())
    }
}

impl Segments {
    /// Holds a segment's bytes from `done` on against the sidecar that covers them, and repairs them
    /// where they lie; true if it had to. An error if some are neither what the sidecar says nor whole
    /// frames.
    fn verify(
        &self,
        number: u32,
        done: usize,
        bytes: &mut Vec<u8>,
        old: &Sidecar,
    ) -> std::result::Result<bool, String> {
        if old.covered() > bytes.len() as u64 {
            return Err("it is shorter than its sidecar says".into());
        }
        if old.differing(bytes).is_empty() {
            return Ok(false);
        }
        let before = bytes.clone();
        let first = if done == 0 { SEGMENT_HEADER } else { 0 };
        let whole = rebuild::file(bytes, first, self.stamp.tag, Some(old));
        let left = old.differing(bytes).len();
        if left > 0 && (done > 0 || !whole.bad.is_empty()) {
            return Err(format!("{left} pages of it are damaged beyond repair; the old one stays"));
        }
        log::warn!("{} frames corrected, {} pages rebuilt", whole.frames, whole.pages);
        self.repaired.fetch_add((whole.frames + whole.pages).max(1), Ordering::Relaxed);
        self.restore(number, done, bytes, &differing(&before, bytes));
        Ok(true)
    }

    /// Writes what was repaired of the bytes from `done` on. Should it get lost before the next sync, the
    /// next reader repairs it as well.
    fn restore(&self, number: u32, done: usize, bytes: &[u8], runs: &[Range<usize>]) {
        let Some(segment) = self.get(number).filter(|_| self.write) else { return };
        for run in runs {
            let at = (done + run.start) as u64;
            if let Err(e) = self.correct(number, &segment, &bytes[run.clone()], at) {
                log::warn!("what was repaired is not written: {e}");
            }
        }
    }
}

/// Gives every durable segment its sidecar, the last one as far as it is durable. Segments that get
/// none are named in the log, each once; the error is that of the first, after all others were tried. What
/// was put right in them is durable on return: nobody else may look at it before the power fails.
pub fn protect_all(store: &Store) -> Result<()> {
    let segments = &store.segments;
    let (mut result, mut made) = (Ok(()), false);
    for (number, len) in segments.lens_before(store.synced.load(Ordering::Acquire)) {
        if !segments.is_protected(number, len) {
            made = true;
            let protected = segments.protect(number, len);
            match &protected {
                Ok(()) => segments.known.over(number, Trouble::Unprotected),
                Err(e) if segments.known.is_news(number, Trouble::Unprotected) => {
                    log::warn!("{e}");
                }
                Err(_) => {}
            }
            result = result.and(protected);
        }
    }
    if made && let Err(e) = segments.sync_names() {
        log::warn!("{e}");
        return result.and(Err(e));
    }
    result.and(store.sync_corrected())
}

/// Starts the thread, unless segments have no sidecars here.
pub fn start(store: &Arc<Store>) {
    if store.segments.ecc == Ecc::None {
        return;
    }
    let started = store.parity_writer.start("parity", store, EVERY, true, |store| {
        // What fails is named there.
        let _ = protect_all(store);
        false
    });
    if let Err(e) = started {
        log::warn!("segments get their sidecars at unmount only: {e}");
    }
}
