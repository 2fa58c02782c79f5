//! Checking and repairing all that lies under the store, piece by piece.

use super::read_repair::differing;
use super::report::{Checked, SegmentCheck};
use crate::store::api::{Ecc, Result, StoreError};
use crate::store::io::write_file;
use crate::store::log::record::Record;
use crate::store::log::replay;
use crate::store::log::segments::len_before;
use crate::store::log::superblock::{self, FILES};
use crate::store::{Store, lock};
use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

impl Store {
    /// Numbers of all segments, and of those that are missing though something in them lives.
    pub fn segment_numbers(&self) -> Vec<u32> {
        let mut all: Vec<u32> = self.segments.lens().into_iter().map(|(n, _)| n).collect();
        let state = self.state();
        all.extend(state.totals.live.iter().filter(|(_, bytes)| **bytes > 0).map(|(n, _)| *n));
        all.sort_unstable();
        all.dedup();
        all
    }

    /// Bytes of a segment that are durable.
    fn settled_len(&self, number: u32) -> u64 {
        let len = self.segments.get(number).map_or(0, |s| s.len);
        len_before(self.synced.load(Ordering::Acquire), number, len)
    }

    /// Checks every frame and page of what is durable of a segment. With `repair`, what can be put
    /// right is, and is durable on return.
    ///
    /// # Errors
    /// `Closing` if repair was asked for and the store is closed: nothing was repaired then.
    pub fn check_segment(&self, number: u32, repair: bool) -> Result<SegmentCheck> {
        let segments = &self.segments;
        let repair = repair && !self.read_only;
        if repair && self.closed.load(Ordering::Acquire) {
            return Err(StoreError::Closing);
        }
        let len = self.settled_len(number);
        let mut out = SegmentCheck::default();
        let mut whole = BTreeMap::new();
        if len > 0 {
            let turn = lock(&segments.healing);
            let e = match segments.examine(number, len) {
                // The cleaner deleted it meanwhile.
                Err(_) if segments.get(number).is_none() => return Ok(out),
                e => e?,
            };
            let changed = !differing(&e.before, &e.now).is_empty();
            let patches = segments.get(number).map_or(0, |s| s.blob.patches());
            let protected = segments.is_protected(number, len);
            // Where the store is open for writing, a segment gets its sidecar in time.
            let sealed = number < (self.synced.load(Ordering::Acquire) >> 32) as u32;
            let missing = !protected && sealed;
            let side_hurt = e.found.sidecar_hurt || (missing && self.read_only);
            if repair {
                segments.adopt(number, &e)?;
                if !segments.is_distant(number) {
                    segments.write_patches(number)?;
                }
                if let Err(e) = segments.sync_corrected(number) {
                    self.writer().fail(&e.to_string());
                    return Err(e);
                }
            }
            drop(turn);
            whole.extend(e.found.whole.iter().map(|(at, h)| (*at as u32, h.frame_len())));
            // What cannot be read now may be another time; then the parity is still needed.
            let renew = segments.ecc != Ecc::None && !e.unreadable;
            if repair && renew && (side_hurt || missing || (changed && !protected)) {
                segments.forget_parts();
                let mut made = segments.protect(number, self.settled_len(number));
                let live = self.view().frames(number, 0, usize::MAX)?;
                if made.is_err() && live.iter().all(|(f, _)| whole.contains_key(&f.offset)) {
                    // What is beyond repair is dead: the old sidecar guards nothing of it.
                    made = segments.protect_anew(number, self.settled_len(number));
                }
                // One that cannot be made leaves the old one where it is, and damage to report.
                if let Err(e) = made.and_then(|()| segments.sync_names()) {
                    ::log::warn!("{e}");
                }
            }
            let old = lock(&self.checkpoint).0;
            out.log_lost = number >= old && !e.found.bad.is_empty();
            out.checked = Checked {
                bytes: len,
                frames: whole.len() as u64,
                pages: e.pages,
                damaged_frames: e.found.frames,
                damaged_pages: e.found.pages + patches,
                damaged: changed || patches > 0 || side_hurt || e.unreadable,
            };
        }
        let state = self.view();
        for (f, live) in state.frames(number, 0, usize::MAX)? {
            let end = u64::from(f.offset) + u64::from(f.len);
            let new = end > len && segments.get(number).is_some();
            if !new && whole.get(&f.offset) != Some(&f.len) {
                let begins = state.begins_in(f, &live)?;
                out.lost.extend(begins.into_iter().map(|(ino, off)| (f, ino, off)));
            }
        }
        segments.known.replace(number, out.lost.iter().map(|(f, ..)| f.offset));
        Ok(out)
    }

    /// Checks the superblock and its copies; returns how many are not as they should be.
    pub fn check_superblocks(&self, repair: bool) -> Result<u64> {
        let want = superblock::encode(&self.superblock);
        let volume = &self.segments.volume;
        let mut wrong = 0;
        for file in FILES {
            let bytes = volume
                .open(file, false)
                .and_then(|b| crate::store::io::read_up_to(&*b, 0, want.len() + 1));
            if bytes.is_ok_and(|b| b == want) {
                continue;
            }
            wrong += 1;
            log::warn!("{file}: damaged");
            if repair && !self.read_only {
                let written = write_file(&**volume, file, &want);
                written
                    .map_err(|source| StoreError::Io { what: format!("write {file}"), source })?;
            }
        }
        if repair && !self.read_only {
            // Whoever wrote one anew may have been killed before its name was durable.
            let synced = volume.sync_dir(".");
            synced.map_err(|source| StoreError::Io { what: "fsync the store".into(), source })?;
        }
        Ok(wrong)
    }

    /// Writes a checkpoint of the namespace, so that no record of the log before is needed again.
    pub fn renew_checkpoint(&self) -> Result<()> {
        {
            let mut w = self.writer();
            self.write_checkpoint(&mut w)?;
        }
        self.commit(&lock(&self.sync))
    }

    /// True once the store was closed, or is about to be.
    pub fn is_closing(&self) -> bool {
        self.closed.load(Ordering::Acquire) || self.winding_up.load(Ordering::Acquire)
    }

    /// True if the index had to be made anew when the store was opened for writing.
    pub fn index_was_rebuilt(&self) -> bool {
        self.index_rebuilt
    }

    /// False if the log's last word vouches for an index that is not there as it was left.
    pub fn index_is_whole(&self) -> bool {
        match replay::shutdown_record(&self.segments) {
            Some((_, Record::Shutdown { index, digest, .. }, ..)) => {
                let dir = crate::store::index::disk::place(&self.path, &index);
                dir.is_some_and(|dir| {
                    crate::store::index::disk::digest(&dir).is_ok_and(|d| d == digest)
                })
            }
            _ => true,
        }
    }

    /// Where a scrub that was interrupted goes on: the number of the first segment not done.
    pub fn scrub_position(&self) -> u32 {
        let text = self
            .segments
            .volume
            .open(POSITION, false)
            .and_then(|b| crate::store::io::read_up_to(&*b, 0, 16));
        let parse = |t: Vec<u8>| String::from_utf8(t).ok()?.trim().parse().ok();
        text.ok().and_then(parse).unwrap_or(0)
    }

    /// Notes where a scrub is; `None` when it is done.
    pub fn set_scrub_position(&self, next: Option<u32>) {
        if self.read_only {
            return;
        }
        let volume = &self.segments.volume;
        let noted = match next {
            Some(n) => write_file(&**volume, POSITION, format!("{n}\n").as_bytes()),
            None => match volume.remove(POSITION) {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(e),
                _ => Ok(()),
            },
        };
        if let Err(e) = noted {
            log::warn!("{POSITION}: {e}");
        }
    }
}

/// The file that says where a scrub is.
const POSITION: &str = "scrub.position";
