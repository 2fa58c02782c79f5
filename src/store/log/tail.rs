//! The end of a log that was not closed.

use super::replay;
use super::segments::{Segment, Segments, io_error};
use crate::store::api::Result;
use crate::store::io::{Blob, read_up_to};
use std::io;
use std::sync::Arc;

/// Cuts off what a crash left behind the last good batch, and makes durable what is left: whoever
/// ended without a sync may have left it in the system's memory only. After a sync that failed the
/// system may take that for written although it is not, so it is written again.
pub fn cut(segments: &Segments, end: &replay::End) -> Result<()> {
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
        if number >= end.vouched.0 {
            let from = if number == end.vouched.0 { end.vouched.1 } else { 0 };
            let to = if number == end.segment { end.len } else { len };
            write_again(&*s.blob, from, to).map_err(|e| io_error("write", number, e))?;
        }
        s.blob.sync().map_err(|e| io_error("fdatasync", number, e))?;
    }
    segments.sync_names()
}

/// Writes a part of a file as it is. Without room for that, it stays as it is.
fn write_again(blob: &dyn Blob, from: u64, end: u64) -> io::Result<()> {
    const STEP: u64 = 1 << 20;
    let mut at = from;
    while at < end {
        let bytes = read_up_to(blob, at, STEP.min(end - at) as usize)?;
        if bytes.is_empty() {
            break;
        }
        match blob.write_at(&bytes, at) {
            Err(e) if e.raw_os_error() == Some(libc::ENOSPC) => {
                log::warn!("the end of the log is not written again: {e}");
                break;
            }
            written => written?,
        }
        at += bytes.len() as u64;
    }
    Ok(())
}
