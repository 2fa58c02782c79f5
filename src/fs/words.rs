//! Where in a file words may be, as far as the filters of its blocks say. Nothing is decoded.

use super::{Fs, Result};
use crate::block;
use crate::types::{Extent, Frame, Ino};
use std::ops::Range;

/// A stretch of a file, and which of the words it may have.
struct Stretch {
    range: Range<u64>,
    has: Vec<bool>,
}

impl Fs {
    /// Ranges of a file, in order, in which each line lies that has all of these words (in lower case).
    pub fn may_hold(&self, ino: Ino, words: &[Vec<u8>]) -> Result<Vec<Range<u64>>> {
        self.flush(ino)?;
        let size = self.getattr(ino)?.size;
        let mut all: Vec<Stretch> = Vec::new();
        let mut before: Option<Frame> = None;
        let mut at = 0;
        for e in self.store.extents(ino) {
            let e = e?;
            if e.off >= size {
                break;
            }
            if e.off > at {
                all.push(Stretch { range: at..e.off, has: vec![true; words.len()] });
                before = None;
            }
            at = e.end();
            let frame = self.whole(&e);
            let filter = frame.as_ref().and_then(filter_of);
            let mut has: Vec<bool> =
                words.iter().map(|w| filter.is_none_or(|f| f.may_hold(w))).collect();
            if let (Some(this), Some(last)) = (filter, before.as_ref().and_then(filter_of)) {
                for n in (0..words.len()).filter(|n| last.ends_in(&this, &words[*n])) {
                    has[n] = true;
                    if let Some(s) = all.last_mut() {
                        s.has[n] = true;
                    }
                }
            }
            all.push(Stretch { range: e.off..at, has });
            before = frame;
        }
        if at < size {
            all.push(Stretch { range: at..size, has: vec![true; words.len()] });
        }
        Ok(lines_with_all(&all))
    }

    /// The frame of an extent that is all of it.
    fn whole(&self, e: &Extent) -> Option<Frame> {
        let whole = e.frame_off == 0 && e.len == u64::from(e.meta.plain_len) && !e.meta.staged;
        // Whoever reads the block says what is wrong with it.
        if whole { self.store.read_frame(e.frame).ok().filter(|f| e.is_of(f)) } else { None }
    }
}

fn filter_of(frame: &Frame) -> Option<block::words::Filter<'_>> {
    block::filter_of(frame.meta.encoding, &frame.payload)
}

/// Stretches that a line with all words may touch. A line lies in two stretches at most, for one that has
/// no newline has no filter, and so all words.
fn lines_with_all(all: &[Stretch]) -> Vec<Range<u64>> {
    let mut out: Vec<Range<u64>> = Vec::new();
    for (k, this) in all.iter().enumerate() {
        let near = &all[k.saturating_sub(1)..(k + 2).min(all.len())];
        if !(0..this.has.len()).all(|n| near.iter().any(|s| s.has[n])) {
            continue;
        }
        match out.last_mut() {
            Some(last) if last.end == this.range.start => last.end = this.range.end,
            _ => out.push(this.range.clone()),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_may_share_a_line() {
        let all: Vec<Stretch> = [[1, 0], [0, 0], [0, 0], [1, 0], [0, 1], [0, 0], [0, 0], [1, 1]]
            .iter()
            .zip(0..)
            .map(|(has, k)| Stretch {
                range: k * 10..(k + 1) * 10,
                has: has.iter().map(|h| *h == 1).collect(),
            })
            .collect();
        assert_eq!(lines_with_all(&all), [30..50, 60..80]);
        assert_eq!(lines_with_all(&[]), []);
    }
}
