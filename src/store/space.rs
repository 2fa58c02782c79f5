//! Room under the store: what is free, and what is promised to writers.

use super::api::{Result, StoreError};
use super::gc;
use super::sweep;
use crate::store::{Store, lock};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Room promised by [`Store::reserve`]; given back when dropped.
#[derive(Debug)]
pub struct Reservation {
    bytes: u64,
    sum: Arc<AtomicU64>,
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.sum.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

impl Store {
    /// Free bytes of the file system under the store, less what is reserved; a moment old at most.
    pub fn free_bytes(&self) -> u64 {
        let mut cached = lock(&self.free);
        let now = std::time::Instant::now();
        let free = match *cached {
            Some((at, free)) if now.duration_since(at).as_millis() < 50 => free,
            _ => {
                let free = self.segments.volume.free_bytes().unwrap_or(u64::MAX);
                *cached = Some((now, free));
                free
            }
        };
        free.saturating_sub(self.reserved.load(Ordering::Relaxed))
    }

    /// Makes sure that `bytes` of payload (plus their overhead) will find room.
    pub fn reserve(&self, bytes: u64) -> Result<Reservation> {
        let bytes = bytes + bytes / 16 + 4096;
        // Kept free for the log itself and for the cleaner.
        let want = bytes + self.segments.headroom + self.segments.sidecars_due();
        if self.free_bytes() < want {
            sweep::hurry(self, std::time::Duration::from_secs(4));
            gc::make_room(self, want);
        }
        if self.free_bytes() < want {
            return Err(StoreError::NoSpace {
                path: self.path.display().to_string(),
                detail: format!("{bytes} bytes to be written"),
            });
        }
        self.reserved.fetch_add(bytes, Ordering::Relaxed);
        Ok(Reservation { bytes, sum: Arc::clone(&self.reserved) })
    }
}
