//! Repairing a file's bytes in memory: its frames each by its own code, its pages by the sidecar.

use super::scan::frames;
use super::sidecar::Sidecar;
use crate::store::log::frame::Header;
use std::ops::Range;

/// What repairing a file came to.
#[derive(Debug, Default)]
pub struct Rebuilt {
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

/// Repairs a file's bytes: frames from `from` on, pages by the sidecar. Bytes that were cut off the end
/// come back too, if the sidecar covers them.
pub fn file(bytes: &mut Vec<u8>, from: usize, tag: u64, sidecar: Option<&Sidecar>) -> Rebuilt {
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
    Rebuilt {
        whole: found.whole,
        frames: corrected as u64,
        pages: pages as u64,
        bad: found.bad,
        sidecar_hurt: differs,
    }
}
