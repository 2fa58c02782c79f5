//! Mending a file's bytes in memory: walking its frames wherever they can be found, correcting
//! each, and rebuilding pages from a sidecar.

use super::sidecar::Sidecar;
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
        match frame::mend(&mut bytes[at..at + len]) {
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

/// What mending a file came to.
#[derive(Debug, Default)]
pub struct Mended {
    /// Offsets and headers of frames that are whole now.
    pub whole: Vec<(usize, Header)>,
    /// Frames that had to be corrected.
    pub frames: u64,
    /// Pages that had to be rebuilt.
    pub pages: u64,
    /// What is still wrong.
    pub bad: Vec<(Range<usize>, String)>,
    /// The sidecar, or something in it, is not what it should be.
    pub sidecar_hurt: bool,
}

/// Mends a file's bytes: frames from `from` on, pages by the sidecar. Bytes that were cut off the end
/// come back too, if the sidecar covers them.
pub fn file(bytes: &mut Vec<u8>, from: usize, tag: u64, sidecar: Option<&Sidecar>) -> Mended {
    let covered = sidecar.map_or(0, Sidecar::covered) as usize;
    let len = bytes.len();
    let missing = covered.saturating_sub(len) as u64;
    if missing > 0 && sidecar.is_some_and(|s| missing <= s.spare()) {
        bytes.resize(covered, 0);
    }
    let mut pages = 0;
    let mut corrected = 0;
    if let Some(s) = sidecar {
        pages += s.rebuild(bytes).len();
        if !s.differing(bytes).is_empty() {
            // Too many pages are hit. Frames that can be corrected alone leave fewer.
            corrected += frames(bytes, from, tag).changed.len();
            pages += s.rebuild(bytes).len();
        }
    }
    let found = frames(bytes, from, tag);
    corrected += found.changed.len();
    let differs = sidecar.is_some_and(|s| s.hurt || !s.differing(bytes).is_empty());
    if covered > len && !found.bad.is_empty() {
        // What could not be brought back was never there, as far as anyone can tell.
        let end = found.whole.last().map_or(from, |(at, h)| at + h.frame_len() as usize);
        bytes.truncate(end.max(len));
    }
    Mended {
        whole: found.whole,
        frames: corrected as u64,
        pages: pages as u64,
        bad: found.bad,
        sidecar_hurt: differs,
    }
}
