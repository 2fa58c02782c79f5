//! Bytes written but not yet in the store: windows of one file, each with the ranges that count.

use std::collections::BTreeMap;
use std::ops::Range;

/// Bytes of file per window, and the most that one staged frame holds. Windows are aligned to it.
pub const WINDOW: u64 = 128 << 10;

#[derive(Debug, Default)]
struct Window {
    /// Bytes from the window's start; what no range covers means nothing.
    bytes: Vec<u8>,
    /// Ranges of `bytes` that were written: sorted, apart from each other.
    ranges: Vec<Range<usize>>,
}

impl Window {
    /// Bytes in ranges.
    fn covered(&self) -> u64 {
        self.ranges.iter().map(|r| r.len() as u64).sum()
    }

    fn write(&mut self, at: usize, data: &[u8]) {
        let end = at + data.len();
        if self.bytes.len() < at {
            self.bytes.resize(at, 0);
        }
        let over = data.len().min(self.bytes.len() - at);
        self.bytes[at..at + over].copy_from_slice(&data[..over]);
        self.bytes.extend_from_slice(&data[over..]);
        let mut new = at..end;
        let first = self.ranges.partition_point(|r| r.end < new.start);
        let last = self.ranges.partition_point(|r| r.start <= new.end);
        if first < last {
            new.start = new.start.min(self.ranges[first].start);
            new.end = new.end.max(self.ranges[last - 1].end);
        }
        self.ranges.splice(first..last, [new]);
    }

    fn cut(&mut self, gone: &Range<usize>) {
        let pieces = self
            .ranges
            .iter()
            .flat_map(|r| [r.start..r.end.min(gone.start), r.start.max(gone.end)..r.end]);
        self.ranges = pieces.filter(|r| r.start < r.end).collect();
    }
}

/// Written ranges of one file.
#[derive(Debug, Default)]
pub struct Dirty {
    windows: BTreeMap<u64, Window>,
    /// Memory held by the windows' bytes.
    memory: u64,
    /// Number of ranges.
    count: usize,
    /// Bytes in ranges.
    bytes: u64,
}

/// Splits a range at window boundaries: (window start, first byte in window, length).
fn windows(off: u64, len: u64) -> impl Iterator<Item = (u64, usize, usize)> {
    let end = off + len;
    let mut at = off;
    std::iter::from_fn(move || {
        if at >= end {
            return None;
        }
        let start = at / WINDOW * WINDOW;
        let n = (start + WINDOW).min(end) - at;
        let item = (start, (at - start) as usize, n as usize);
        at += n;
        Some(item)
    })
}

impl Dirty {
    /// True if nothing was written.
    pub fn is_empty(&self) -> bool {
        self.windows.is_empty()
    }

    /// Bytes of memory held.
    pub fn memory(&self) -> u64 {
        self.memory
    }

    /// Number of ranges; each becomes a frame.
    pub fn count(&self) -> usize {
        self.count
    }

    /// Bytes that were written and count.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Puts `data` at `off`.
    pub fn write(&mut self, off: u64, mut data: &[u8]) {
        for (start, at, n) in windows(off, data.len() as u64) {
            let w = self.windows.entry(start).or_default();
            let (bytes, count, covered) = (w.bytes.len(), w.ranges.len(), w.covered());
            let (head, rest) = data.split_at(n);
            w.write(at, head);
            self.memory += (w.bytes.len() - bytes) as u64;
            self.count = self.count + w.ranges.len() - count;
            self.bytes = self.bytes + w.covered() - covered;
            data = rest;
        }
    }

    /// Forgets `[off, end)`.
    pub fn cut(&mut self, off: u64, end: u64) {
        let first = off / WINDOW * WINDOW;
        let mut empty = Vec::new();
        for (&start, w) in self.windows.range_mut(first..end.max(first)) {
            let from = off.saturating_sub(start).min(WINDOW) as usize;
            let (count, covered) = (w.ranges.len(), w.covered());
            w.cut(&(from..(end - start).min(WINDOW) as usize));
            self.count = self.count + w.ranges.len() - count;
            self.bytes = self.bytes + w.covered() - covered;
            if w.ranges.is_empty() {
                empty.push(start);
            }
        }
        for start in empty {
            if let Some(w) = self.windows.remove(&start) {
                self.memory -= w.bytes.len() as u64;
            }
        }
    }

    /// The written ranges in order: offset in the file and bytes.
    pub fn ranges(&self) -> impl Iterator<Item = (u64, &[u8])> {
        self.ranges_from(0)
    }

    /// The written ranges in order that end above `off`.
    pub fn ranges_from(&self, off: u64) -> impl Iterator<Item = (u64, &[u8])> {
        self.windows
            .range(off / WINDOW * WINDOW..)
            .flat_map(|(start, w)| {
                w.ranges.iter().map(move |r| (start + r.start as u64, &w.bytes[r.clone()]))
            })
            .filter(move |(at, b)| at + b.len() as u64 > off)
    }

    /// Lays what was written over `out`, which holds the file's bytes from `off` on.
    pub fn overlay(&self, off: u64, out: &mut [u8]) {
        let end = off + out.len() as u64;
        for (at, bytes) in self.ranges_from(off).take_while(|(at, _)| *at < end) {
            let from = at.max(off);
            let to = (at + bytes.len() as u64).min(end);
            out[(from - off) as usize..(to - off) as usize]
                .copy_from_slice(&bytes[(from - at) as usize..(to - at) as usize]);
        }
    }

    /// True if `[off, end)` was written in full.
    pub fn covers(&self, off: u64, end: u64) -> bool {
        let mut at = off;
        for (start, bytes) in self.ranges_from(off) {
            if start > at || at >= end {
                break;
            }
            at = start + bytes.len() as u64;
        }
        at >= end
    }

    /// Lays `older` below: what was written here stays.
    pub fn put_below(&mut self, mut older: Self) {
        for (off, bytes) in self.ranges() {
            older.write(off, bytes);
        }
        *self = older;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn behaves_like_an_array_of_options(ops in prop::collection::vec(
            (any::<bool>(), 0u64..300_000, 1usize..150_000, any::<u8>()), 1..12)) {
            let mut model = vec![None::<u8>; 600_000];
            let mut dirty = Dirty::default();
            for (write, off, len, byte) in ops {
                let range = off as usize..off as usize + len;
                if write {
                    dirty.write(off, &vec![byte; len]);
                    model[range].fill(Some(byte));
                } else {
                    dirty.cut(off, off + len as u64);
                    model[range].fill(None);
                }
            }
            let mut seen = vec![None; model.len()];
            for (off, bytes) in dirty.ranges() {
                for (i, b) in bytes.iter().enumerate() {
                    seen[off as usize + i] = Some(*b);
                }
            }
            prop_assert!(seen == model);
            prop_assert_eq!(dirty.bytes(), seen.iter().flatten().count() as u64);
            let mut out = vec![7; 200_000];
            dirty.overlay(50_000, &mut out);
            for (i, b) in out.iter().enumerate() {
                prop_assert_eq!(*b, model[50_000 + i].unwrap_or(7));
            }
        }
    }
}
