//! The end of a log that was not closed.

use super::replay;
use super::segments::{Segment, Segments, io_error};
use crate::store::api::{Result, StoreError};
use crate::store::lock;
use std::sync::Arc;

/// Cuts off what a crash left behind the last good batch, and makes durable what is left: whoever
/// ended without a sync may have left it in the system's memory only. After a sync that failed the
/// system may take that for written although it is not, so it is written again. If there is no room for
/// that, the place (segment, offset) from which on the log may not be durable.
pub fn cut(segments: &Segments, end: &replay::End) -> Result<Option<(u32, u64)>> {
    for (number, len) in segments.lens() {
        // What was evicted is whole, and not to be written.
        if segments.is_distant(number) {
            continue;
        }
        if number > end.segment {
            log::warn!("segment {number}: {len} bytes after the last whole batch, dropped");
            segments.remove(number)?;
            continue;
        }
        let Some(s) = segments.get(number) else { continue };
        if number == end.segment {
            if len > end.len {
                log::warn!(
                    "segment {number}: {} bytes after the last whole batch, dropped",
                    len - end.len
                );
            }
            s.blob.truncate(end.len).map_err(|e| io_error("truncate", number, e))?;
            segments.put(number, Segment { blob: Arc::clone(&s.blob), len: end.len });
        }
    }
    let from = vouched(segments, end);
    let older = segments.lens().into_iter().map(|(n, _)| n).filter(|n| *n < from.0);
    for number in older.filter(|n| !segments.is_distant(*n)) {
        if let Some(s) = segments.get(number) {
            s.blob.sync().map_err(|e| io_error("fdatasync", number, e))?;
        }
    }
    let doubtful = match segments.write_again(from) {
        Err(StoreError::NoSpace { detail, .. }) => {
            log::warn!("no room to write the end of the log again: {detail}");
            Some(from)
        }
        written => written.map(|()| None)?,
    };
    segments.sync_names()?;
    Ok(doubtful)
}

/// Up to where (segment, offset) the log had been durable, by the word of a later batch or of a sidecar,
/// which is only made of what is.
fn vouched(segments: &Segments, end: &replay::End) -> (u32, u64) {
    let sidecars = lock(&segments.sidecars);
    let covered = sidecars.iter().map(|(n, side)| (*n, side.covered));
    let real = covered.filter(|(n, len)| segments.get(*n).is_some_and(|s| *len <= s.len));
    real.fold(end.vouched, Ord::max)
}
