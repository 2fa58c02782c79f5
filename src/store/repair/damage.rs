//! What is known to be beyond repair, so that it is counted, tried and named once.

use crate::store::{Store, lock};
use crate::types::FrameRef;
use std::collections::BTreeSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Frames that are remembered. Of a store that has lost more, the rest are neither counted nor
/// passed over.
const MOST: usize = 100_000;

/// Kinds of trouble with a segment that are named once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Trouble {
    /// It holds bytes that are no whole frames.
    Frames,
    /// Its sidecar cannot be made.
    Unprotected,
    /// Its sidecar is there and cannot be opened.
    Sidecar,
}

/// What an open store knows of its damage.
#[derive(Debug, Default)]
pub struct Known {
    /// Segment and offset of frames beyond repair.
    frames: Mutex<BTreeSet<(u32, u32)>>,
    /// How many these are, for those who find none.
    count: AtomicUsize,
    named: Mutex<BTreeSet<(u32, Trouble)>>,
}

impl Known {
    fn change<T>(&self, f: impl FnOnce(&mut BTreeSet<(u32, u32)>) -> T) -> T {
        let mut frames = lock(&self.frames);
        let out = f(&mut frames);
        self.count.store(frames.len(), Ordering::Release);
        out
    }

    /// A frame is beyond repair; true if that is news.
    pub fn note(&self, f: FrameRef) -> bool {
        self.change(|frames| {
            let news = !frames.contains(&(f.segment, f.offset));
            if news && frames.len() < MOST {
                frames.insert((f.segment, f.offset));
            }
            news
        })
    }

    /// True if a frame is known to be beyond repair.
    pub fn has(&self, f: FrameRef) -> bool {
        self.count() > 0 && lock(&self.frames).contains(&(f.segment, f.offset))
    }

    /// A frame is whole.
    pub fn forget(&self, f: FrameRef) {
        if self.count() > 0 {
            self.change(|frames| frames.remove(&(f.segment, f.offset)));
        }
    }

    /// All that is beyond repair in a segment is this, as far as anyone knows.
    pub fn replace(&self, segment: u32, offsets: impl Iterator<Item = u32>) {
        self.change(|frames| {
            frames.retain(|(s, _)| *s != segment);
            frames.extend(offsets.map(|at| (segment, at)).take(MOST - frames.len().min(MOST)));
        });
    }

    /// Frames known to be beyond repair.
    pub fn count(&self) -> usize {
        self.count.load(Ordering::Acquire)
    }

    fn all(&self) -> Vec<(u32, u32)> {
        if self.count() == 0 { Vec::new() } else { lock(&self.frames).iter().copied().collect() }
    }

    /// True the first time: whoever asks says what is wrong then.
    pub fn is_news(&self, segment: u32, trouble: Trouble) -> bool {
        lock(&self.named).insert((segment, trouble))
    }

    /// The trouble is over.
    pub fn over(&self, segment: u32, trouble: Trouble) {
        lock(&self.named).remove(&(segment, trouble));
    }

    /// A segment is gone, or was repaired: what is wrong with it now is news.
    pub fn forget_segment(&self, segment: u32) {
        self.replace(segment, std::iter::empty());
        lock(&self.named).retain(|(s, _)| *s != segment);
    }
}

impl Store {
    /// A live frame turned out to be beyond repair. It is counted once, until it is read as it
    /// should be, repaired, found whole by a scrub, or not live any more.
    pub fn note_damaged(&self, f: FrameRef) {
        if self.is_live(f) {
            self.segments.known.note(f);
        }
    }

    /// True if something refers to a frame, or the index cannot tell.
    pub fn is_live(&self, f: FrameRef) -> bool {
        let live = self.view().frames(f.segment, f.offset, 1);
        live.map_or(true, |l| l.first().is_some_and(|(at, _)| at.offset == f.offset))
    }

    /// Live frames that are known to be beyond repair.
    pub(in crate::store) fn damaged_frames(&self) -> u64 {
        for (segment, offset) in self.segments.known.all() {
            let f = FrameRef { segment, offset, len: 0 };
            if !self.is_live(f) {
                self.segments.known.forget(f);
            }
        }
        self.segments.known.count() as u64
    }

    /// A frame was read and decoded.
    pub fn note_whole(&self, f: FrameRef) {
        self.segments.known.forget(f);
    }

    /// True if a frame is known to be beyond repair.
    pub fn is_damaged(&self, f: FrameRef) -> bool {
        self.segments.known.has(f)
    }
}
