//! Policy: which runs of an inode's bytes the background coder takes now.
//!
//! A *run* is a maximal stretch of extents without a hole, cut at block boundaries. A run waits
//! when any part of it is staged. It is taken once all its staged parts have rested; a run that
//! ends inside its block at the end of the file (a *tail*) is likely to grow, so it must have
//! rested longer, unless small writes have shattered it.

use crate::types::Extent;

/// Pieces in a tail beyond which it is coded after the ordinary rest: fewer, larger frames.
const SHATTERED: usize = 32;

/// Content generations at or below these have rested.
#[derive(Debug, Clone, Copy)]
pub struct Rested {
    /// Rested long enough for a whole block.
    pub block: u64,
    /// Rested long enough for a tail.
    pub tail: u64,
    /// What is coded already is to be coded again.
    pub again: bool,
}

impl Rested {
    /// Everything has rested: what `settle` wants.
    pub const ALL: Self = Self { block: u64::MAX, tail: u64::MAX, again: false };
    /// The same for what is coded already: what `recode` wants.
    pub const AGAIN: Self = Self { again: true, ..Self::ALL };
}

/// A run of bytes to be coded as one frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    /// First byte in the file.
    pub off: u64,
    /// Length in bytes, at most a block.
    pub len: u64,
    /// The extents that overlap it, whole: what the swap is guarded by.
    pub extents: Vec<Extent>,
}

impl Run {
    /// The generation of its newest bytes.
    pub fn generation(&self) -> u64 {
        self.extents.iter().map(|e| e.meta.generation).max().unwrap_or(0)
    }
}

/// Data that have not rested yet: what rests the shortest counts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Young {
    /// There are none.
    #[default]
    None,
    /// Tails only.
    Tail,
    /// A whole block.
    Block,
}

/// Plans one inode: `extents` are all of its extents in order, `size` its size, `block` the unit. Hands the runs to code
/// now to `each`, in file order; says what has to rest before more can be coded.
pub fn plan<E>(
    extents: impl Iterator<Item = Result<Extent, E>>,
    size: u64,
    block: u64,
    rested: Rested,
    mut each: impl FnMut(Run) -> Result<(), E>,
) -> Result<Young, E> {
    let mut young = Young::None;
    // The run at hand: it begins at `start`, in the first of these.
    let (mut start, mut parts) = (0, Vec::<Extent>::new());
    let mut consider = |parts: &[Extent], start: u64, end: u64| {
        if !rested.again && !parts.iter().any(|e| e.meta.staged) {
            return Ok(());
        }
        let is_tail = !end.is_multiple_of(block) && end >= size && parts.len() <= SHATTERED;
        let bar = if is_tail { rested.tail } else { rested.block };
        let staged = parts.iter().filter(|e| e.meta.staged);
        if staged.map(|e| e.meta.generation).max().unwrap_or(0) <= bar {
            return each(Run { off: start, len: end - start, extents: parts.to_vec() });
        }
        young = young.max(if is_tail { Young::Tail } else { Young::Block });
        Ok(())
    };
    for e in extents {
        let e = e?;
        if let Some(last) = parts.last().filter(|last| last.end() != e.off) {
            consider(&parts, start, last.end())?;
            parts.clear();
        }
        if parts.is_empty() {
            start = e.off;
        }
        parts.push(e);
        // It may reach into the next block, and further.
        while e.end() / block > start / block {
            let limit = (start / block + 1) * block;
            consider(&parts, start, limit)?;
            parts.clear();
            if e.end() == limit {
                break;
            }
            start = limit;
            parts.push(e);
        }
    }
    if let Some(last) = parts.last() {
        consider(&parts, start, last.end())?;
    }
    Ok(young)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{FrameMeta, FrameRef};

    const BLOCK: u64 = 100;

    fn extent(off: u64, len: u64, staged: bool, generation: u64) -> Extent {
        Extent {
            off,
            len,
            frame: FrameRef { segment: 1, offset: off as u32, len: len as u32 },
            frame_off: 0,
            meta: FrameMeta { staged, plain_len: len as u32, generation, ..FrameMeta::default() },
        }
    }

    /// Offset, length and number of extents of the runs that are ready, and what has to rest.
    fn planned(extents: &[Extent], size: u64, rested: Rested) -> (Vec<(u64, u64, usize)>, Young) {
        let mut runs = Vec::new();
        let young = plan(extents.iter().copied().map(Ok), size, BLOCK, rested, |r| {
            runs.push((r.off, r.len, r.extents.len()));
            Ok::<_, ()>(())
        });
        (runs, young.unwrap())
    }

    fn runs(extents: &[Extent], size: u64, rested: Rested) -> Vec<(u64, u64, usize)> {
        planned(extents, size, rested).0
    }

    #[test]
    fn one_large_extent_is_cut_at_blocks() {
        let e = [extent(30, 250, true, 1)];
        assert_eq!(runs(&e, 280, Rested::ALL), [(30, 70, 1), (100, 100, 1), (200, 80, 1)]);
    }

    #[test]
    fn holes_end_runs_and_neighbours_join() {
        let e = [extent(0, 10, true, 1), extent(10, 20, false, 2), extent(50, 10, true, 3)];
        assert_eq!(runs(&e, 60, Rested::ALL), [(0, 30, 2), (50, 10, 1)]);
    }

    #[test]
    fn coded_blocks_are_left_alone() {
        let e = [extent(0, 100, false, 1), extent(100, 100, true, 2)];
        assert_eq!(runs(&e, 200, Rested::ALL), [(100, 100, 1)]);
    }

    #[test]
    fn young_data_waits_and_tails_wait_longer() {
        let e = [extent(0, 100, true, 5), extent(100, 50, true, 5)];
        let planned = |block| planned(&e, 150, Rested { block, tail: 4, again: false });
        assert_eq!(planned(4), (vec![], Young::Block));
        assert_eq!(planned(5), (vec![(0, 100, 1)], Young::Tail));
    }

    #[test]
    fn a_shattered_tail_rests_like_a_block() {
        let e: Vec<_> = (0..40).map(|i| extent(i, 1, true, i)).collect();
        assert_eq!(runs(&e, 40, Rested { block: 50, tail: 0, again: false }), [(0, 40, 40)]);
    }
}
