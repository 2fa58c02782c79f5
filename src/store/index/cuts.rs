//! Ranges of files that read as holes although their extents are still there.
//!
//! Cutting a range of very many extents is one small change: it notes the range here. The extents go
//! step by step behind it, see [`super::sweep`]. No extent reaches across the bound of such a range.

use super::memtable::Table;
use crate::store::api::Result;
use crate::store::log::record::In;
use crate::types::Ino;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

/// What keys of these ranges begin with.
pub const LETTER: u8 = b't';

/// The ranges, apart from each other, by inode and first byte. Copies share them until one changes.
#[derive(Debug, Clone, Default)]
pub struct Cuts(Arc<BTreeMap<(u64, u64), u64>>);

impl Cuts {
    /// Those of a table. What no writer makes is left out.
    pub fn load(table: &Table) -> Result<Self> {
        let mut cuts = Self::default();
        for (k, v) in table.scan(&[LETTER], &[LETTER + 1], usize::MAX)? {
            let number = |at: usize| Some(u64::from_be_bytes(k.get(at..at + 8)?.try_into().ok()?));
            if let (Some(ino), Some(off), Some(end)) = (number(1), number(9), In(&v).u64())
                && off < end
            {
                Arc::make_mut(&mut cuts.0).insert((ino, off), end);
            }
        }
        Ok(cuts)
    }

    /// True if there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The last range of all.
    pub fn last(&self) -> Option<(Ino, Range<u64>)> {
        let ((ino, off), end) = self.0.last_key_value()?;
        Some((Ino(*ino), *off..*end))
    }

    /// Enters a range. It must not overlap another.
    pub fn insert(&mut self, ino: Ino, range: &Range<u64>) {
        Arc::make_mut(&mut self.0).insert((ino.0, range.start), range.end);
    }

    /// Takes out the range that begins there.
    pub fn remove(&mut self, ino: Ino, off: u64) {
        Arc::make_mut(&mut self.0).remove(&(ino.0, off));
    }

    /// Ranges that overlap or touch this one, in order.
    pub fn touching(&self, ino: Ino, range: &Range<u64>) -> Vec<Range<u64>> {
        let from = |(_, off): (&(u64, u64), &u64)| *off;
        let before = self.0.range((ino.0, 0)..(ino.0, range.start)).next_back();
        let first = before.filter(|p| from(*p) >= range.start);
        let inside = self.0.range((ino.0, range.start)..=(ino.0, range.end));
        first.into_iter().chain(inside).map(|((_, off), end)| *off..*end).collect()
    }

    /// What of a range is in none of these.
    pub fn outside(&self, ino: Ino, range: Range<u64>) -> Vec<Range<u64>> {
        if self.is_empty() {
            return vec![range];
        }
        let (mut out, mut at) = (Vec::new(), range.start);
        for cut in self.touching(ino, &range) {
            if at < cut.start {
                out.push(at..cut.start.min(range.end));
            }
            at = at.max(cut.end);
        }
        if at < range.end {
            out.push(at..range.end);
        }
        out
    }

    /// True if a byte is in one of these.
    pub fn covers(&self, ino: Ino, off: u64) -> bool {
        let before = self.0.range((ino.0, 0)..=(ino.0, off)).next_back();
        before.is_some_and(|(_, end)| off < *end)
    }

    /// True if all of a file is.
    pub fn is_whole(&self, ino: Ino) -> bool {
        self.0.get(&(ino.0, 0)) == Some(&u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_a_range_are_inside_or_outside() {
        let mut cuts = Cuts::default();
        let (a, b) = (Ino(1), Ino(2));
        cuts.insert(a, &(10..20));
        cuts.insert(a, &(30..u64::MAX));
        let one = |range: Range<u64>| vec![range];
        assert_eq!(cuts.outside(a, 0..100), [0..10, 20..30]);
        assert_eq!(cuts.outside(a, 12..18), []);
        assert_eq!(cuts.outside(a, 15..25), one(20..25));
        assert_eq!(cuts.outside(a, 0..10), one(0..10));
        assert_eq!(cuts.outside(b, 0..100), one(0..100));
        assert_eq!(cuts.touching(a, &(20..30)), [10..20, 30..u64::MAX]);
        assert_eq!(cuts.touching(a, &(21..29)), []);
        assert!(cuts.covers(a, 10) && !cuts.covers(a, 20) && cuts.covers(a, 1 << 40));
        assert!(!cuts.covers(b, 10) && !cuts.is_whole(a));
        cuts.remove(a, 10);
        assert_eq!(cuts.last(), Some((a, 30..u64::MAX)));
    }
}
