//! Walking the frames of a file's bytes in memory, wherever they can be found, and correcting each.

use crate::store::log::frame::{self, HEADER, Header, ours};
use std::ops::Range;

/// What a walk over frames found.
#[derive(Debug, Default)]
pub struct Found {
    /// Frames that are whole now: offset and header.
    pub whole: Vec<(usize, Header)>,
    /// Offsets of those that had to be corrected.
    pub changed: Vec<usize>,
    /// Stretches that are no frame, or one that cannot be corrected.
    pub bad: Vec<(Range<usize>, String)>,
}

/// Walks frames from `from` on, whose metadata carry `tag`, and corrects them in place.
pub fn frames(bytes: &mut [u8], from: usize, tag: u64) -> Found {
    let mut out = Found::default();
    let mut at = from;
    while at < bytes.len() {
        let len = match here(bytes, at, tag) {
            Ok(len) => len,
            Err(next) => {
                let gap = at..next;
                at = next;
                out.bad.push((gap, "no frame here".into()));
                continue;
            }
        };
        match frame::repair(&mut bytes[at..at + len]) {
            Ok((h, changed)) => {
                out.whole.push((at, h));
                if changed {
                    out.changed.push(at);
                }
            }
            Err(why) => out.bad.push((at..at + len, why)),
        }
        at += len;
    }
    out
}

/// Length of the frame that begins at `at`, or where the next one begins.
fn here(bytes: &[u8], at: usize, tag: u64) -> Result<usize, usize> {
    let good = |h: &Header| ours(h, tag);
    let fits = |h: &Header| at + h.frame_len() as usize <= bytes.len();
    if let Some(h) = Header::first(&bytes[at..]).filter(good).filter(fits) {
        return Ok(h.frame_len() as usize);
    }
    for next in at + 1..bytes.len().saturating_sub(HEADER - 1) {
        if Header::first(&bytes[next..]).is_some_and(|h| good(&h)) {
            return Err(next);
        }
        if let Some(h) = Header::second(&bytes[next..]).filter(good) {
            let end = next + HEADER;
            let start = end.checked_sub(h.frame_len() as usize);
            return if start == Some(at) { Ok(end - at) } else { Err(end) };
        }
    }
    Err(bytes.len())
}
