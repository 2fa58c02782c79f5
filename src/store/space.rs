//! Room under the store: what is free, and what is promised to writers.

use super::api::{Result, StoreError};
use super::gc;
use super::sweep;
use crate::store::log::writer::RESERVE;
use crate::store::{Store, lock};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Bytes that free space must be reduced by, since it does not show them yet.
#[derive(Debug, Default)]
pub struct Promised {
    /// Reserved, and still to be written.
    held: AtomicU64,
    /// Given back since free space was last looked at: written, for all that is known.
    spent: AtomicU64,
}

impl Promised {
    /// Bytes reserved, and still to be written.
    pub fn held(&self) -> u64 {
        self.held.load(Ordering::Relaxed)
    }
}

/// Room promised by [`Store::reserve`]; given back when dropped.
#[derive(Debug)]
pub struct Reservation {
    bytes: u64,
    promised: Arc<Promised>,
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.promised.spent.fetch_add(self.bytes, Ordering::Relaxed);
        self.promised.held.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

impl Store {
    /// Free bytes of the file system under the store, less what is reserved; a moment old at most.
    pub fn free_bytes(&self) -> u64 {
        self.looked().0
    }

    /// Free bytes and those that the log holds for what may come, less the reserve: so a full disk
    /// takes as much whether or not that is set aside at the moment, and the cleaner has it besides
    /// what writers leave.
    pub(super) fn usable_bytes(&self) -> u64 {
        let (free, aside) = self.looked();
        let aside = aside.saturating_sub(RESERVE);
        free.saturating_add(aside.min(self.segments.headroom / 2))
    }

    /// Free bytes, and what the log held when they were counted.
    fn looked(&self) -> (u64, u64) {
        let mut cached = lock(&self.free);
        let now = std::time::Instant::now();
        let (free, aside) = match *cached {
            Some((at, free, aside)) if now.duration_since(at).as_millis() < 50 => (free, aside),
            _ => {
                self.promised.spent.store(0, Ordering::Relaxed);
                // What the log takes or gives back meanwhile must not count twice.
                let before = self.segments.aside.load(Ordering::Relaxed);
                let free = self.segments.volume.free_bytes().unwrap_or(u64::MAX);
                let aside = before.min(self.segments.aside.load(Ordering::Relaxed));
                *cached = Some((now, free, aside));
                (free, aside)
            }
        };
        let Promised { held, spent } = &*self.promised;
        let promised = held.load(Ordering::Relaxed) + spent.load(Ordering::Relaxed);
        (free.saturating_sub(promised), aside)
    }

    /// Bytes of files that will find room, roughly: bytes that do not squeeze, in whole blocks. What is
    /// dead counts as free, since it is cleaned when it is wanted.
    pub fn writable_bytes(&self) -> Result<u64> {
        /// Bytes of a frame, and of many.
        const FRAME: u64 = 128 << 10;
        const MANY: u64 = 8 << 20;
        let segments = &self.segments;
        let dead = self.stats()?.dead_here();
        // Cleaning needs room itself, and does not get the last bit.
        let dead = if dead < segments.little() { 0 } else { dead - dead / 16 };
        let kept = segments.headroom + segments.sidecars_lacking();
        let room = self.usable_bytes().saturating_add(dead).saturating_sub(kept);
        let frames = MANY / FRAME * super::frame_len(self.superblock.ecc, FRAME as usize);
        let takes = frames + segments.sidecar_of(frames);
        Ok((u128::from(room) * u128::from(MANY) / u128::from(takes.max(1))) as u64)
    }

    /// Makes sure that `bytes` of payload (plus their overhead) will find room. Cleans for it if it has
    /// to.
    pub fn reserve(&self, bytes: u64) -> Result<Reservation> {
        // Kept free for the log itself, for coding and for the cleaner.
        let keep = self.segments.headroom + self.segments.sidecars_due();
        self.promise(bytes, keep, true)
    }

    /// The same for a block that is coded. That sets free what it takes, and more, once the cleaner has
    /// been there: so it may use a quarter of the room that writers leave. The rest is enough for the
    /// cleaner to move what lives in any one segment. `clean`: whether to clean for it.
    pub fn reserve_to_code(&self, bytes: u64, clean: bool) -> Result<Reservation> {
        self.promise(bytes, self.segments.headroom / 4 * 3, clean)
    }

    fn promise(&self, bytes: u64, keep: u64, clean: bool) -> Result<Reservation> {
        let bytes = bytes + bytes / 16 + 4096;
        let want = bytes + keep;
        if clean && self.usable_bytes() < want {
            sweep::hurry(self, std::time::Duration::from_secs(4));
            gc::make_room(self, want);
        }
        if self.usable_bytes() < want {
            return Err(StoreError::NoSpace {
                path: self.path.display().to_string(),
                detail: format!("{bytes} bytes to be written"),
            });
        }
        self.promised.held.fetch_add(bytes, Ordering::Relaxed);
        Ok(Reservation { bytes, promised: Arc::clone(&self.promised) })
    }
}
