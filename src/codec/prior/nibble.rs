//! Numbers of four bits, each under a distribution of its context that is learnt on the way, coded by
//! range asymmetric numeral systems (Duda 2013) with 64-bit states. There are several lanes, codes of
//! their own, so that a processor can have a number of each under way at once.

use crate::codec::vector::Vector;
use std::array;
use std::hint::select_unpredictable;
use std::marker::PhantomData;

/// Different numbers.
const N: usize = 16;
/// Shares are multiples of 2^-15.
const SCALE: u32 = 15;
const WHOLE: u16 = 1 << SCALE;
/// What a lane's state is at least when it is looked at for more bits; it begins and ends with this.
const LOW: u64 = 1 << 32;
/// How much a count says beside what is presumed of a number that has not come yet.
const WEIGHT: u32 = 8;
/// Counts are halved when their sum gets here, so that 16 bits hold them until the next time.
const FULL: u32 = 1 << 15;

/// Room for distributions; a power of two.
pub(super) const CELLS: usize = 1 << 14;

/// Half a cache line.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(32))]
struct Row([u16; N]);

/// The distributions, by the number of their context.
#[derive(Debug)]
pub(super) struct Cells {
    /// Where each number's share begins; the first one at 0.
    starts: Box<[Row; CELLS]>,
    /// How often each number came.
    counts: Box<[Row; CELLS]>,
    /// Numbers until the shares are made anew.
    left: Box<[u16; CELLS]>,
}

fn boxed<T: Copy>(all: T) -> Box<[T; CELLS]> {
    let Ok(boxed) = vec![all; CELLS].try_into() else { unreachable!("so many were made") };
    boxed
}

impl Cells {
    pub(super) fn new() -> Self {
        let even = Row(array::from_fn(|i| i as u16 * (WHOLE / N as u16)));
        Self { starts: boxed(even), counts: boxed(Row([0; N])), left: boxed(1) }
    }

    /// Start and length of a number's share.
    #[inline(always)]
    fn share(&self, cell: usize, n: usize) -> (u32, u32) {
        let starts = &self.starts[cell % CELLS].0;
        let start = u32::from(starts[n % N]);
        // The first one begins at 0, which is where the last one ends.
        let end = u32::from(starts[(n + 1) % N]);
        (start, end.wrapping_sub(start) & u32::from(WHOLE - 1))
    }

    #[inline(always)]
    fn learn(&mut self, cell: usize, n: usize) {
        self.counts[cell % CELLS].0[n % N] += 1;
        let left = &mut self.left[cell % CELLS];
        *left -= 1;
        if *left == 0 {
            self.renew(cell % CELLS);
        }
    }

    /// Makes a cell's shares from its counts.
    #[inline(never)]
    fn renew(&mut self, cell: usize) {
        let (starts, counts) = (&mut self.starts[cell].0, &mut self.counts[cell].0);
        let sum_of = |counts: &[u16; N]| counts.iter().map(|c| u32::from(*c)).sum::<u32>();
        let mut sum = sum_of(counts);
        if sum >= FULL {
            *counts = counts.map(|c| c.div_ceil(2));
            sum = sum_of(counts);
        }
        // Each share is at least 1.
        let scale = (u32::from(WHOLE - N as u16) << 16) / (WEIGHT * sum + N as u32);
        let mut below = 0;
        for (i, (start, count)) in starts.iter_mut().zip(counts).enumerate() {
            *start = i as u16 + ((below * scale) >> 16) as u16;
            below += WEIGHT * u32::from(*count) + 1;
        }
        self.left[cell] = (sum / 2).max(1) as u16;
    }
}

/// What becomes of a lane and a cell after a number.
#[derive(Debug, Clone, Copy)]
pub(super) struct After {
    /// The lane looks for more bits: after every number, or after every other one.
    pub refill: bool,
    /// The cell learns the number.
    pub learn: bool,
}

/// Where numbers go to or come from.
pub(super) trait Pass {
    /// A number of a lane, under a cell. A writer is told the number, a reader finds out.
    fn pass(&mut self, lane: usize, cells: &mut Cells, cell: usize, n: u32, after: After) -> u32;
}

/// Keeps the numbers' shares, since a code is written from its last number to the first.
#[derive(Debug)]
pub(super) struct Writer<const LANES: usize>([Vec<Share>; LANES]);

/// Start and length of a share, and whether a refill follows.
type Share = (u16, u16, bool);

impl<const LANES: usize> Writer<LANES> {
    pub(super) fn new() -> Self {
        Self(array::from_fn(|_| Vec::new()))
    }

    /// The lanes' codes, in words.
    pub(super) fn finish(self) -> [Vec<u32>; LANES] {
        self.0.map(|shares| code(&shares))
    }
}

fn code(mut shares: &[Share]) -> Vec<u32> {
    let (mut state, mut words) = (LOW, Vec::new());
    while let Some((last, rest)) = shares.split_last() {
        // The one before belongs to it if the reader does not refill between them.
        let before = rest.last().filter(|share| !share.2);
        let length = u64::from(last.1) * before.map_or(u64::from(WHOLE), |b| u64::from(b.1));
        if state >= length << (64 - 2 * SCALE) {
            words.push(state as u32);
            state >>= 32;
        }
        for (start, length, _) in [Some(last), before].into_iter().flatten() {
            let (start, length) = (u64::from(*start), u64::from(*length));
            state = (state / length) << SCALE | (state % length + start);
        }
        shares = &rest[..rest.len() - usize::from(before.is_some())];
    }
    words.extend([state as u32, (state >> 32) as u32]);
    words.reverse();
    words
}

impl<const LANES: usize> Pass for Writer<LANES> {
    #[inline(always)]
    fn pass(&mut self, lane: usize, cells: &mut Cells, cell: usize, n: u32, after: After) -> u32 {
        let (start, length) = cells.share(cell, n as usize);
        self.0[lane].push((start as u16, length as u16, after.refill));
        if after.learn {
            cells.learn(cell, n as usize);
        }
        n
    }
}

/// Reads numbers from codes of any words; past their ends it reads zeros.
#[derive(Debug)]
pub(super) struct Reader<'a, V, const LANES: usize>([Lane<'a>; LANES], PhantomData<V>);

#[derive(Debug, Clone, Copy)]
struct Lane<'a> {
    state: u64,
    words: &'a [[u8; 4]],
    /// The word that comes next.
    at: usize,
}

impl Lane<'_> {
    #[inline(always)]
    fn word(&self) -> u64 {
        self.words.get(self.at).map_or(0, |word| u64::from(u32::from_le_bytes(*word)))
    }
}

impl<'a, V: Vector, const LANES: usize> Reader<'a, V, LANES> {
    pub(super) fn new(codes: [&'a [[u8; 4]]; LANES]) -> Self {
        let begin = |words| {
            let mut lane = Lane { state: 0, words, at: 0 };
            for _ in 0..2 {
                lane.state = lane.state << 32 | lane.word();
                lane.at += 1;
            }
            lane
        };
        Self(codes.map(begin), PhantomData)
    }

    /// True if the codes were read to their ends, and end as a writer's do.
    pub(super) fn ended(&self) -> bool {
        self.0.iter().all(|lane| lane.state == LOW && lane.at == lane.words.len())
    }
}

impl<V: Vector, const LANES: usize> Pass for Reader<'_, V, LANES> {
    #[inline(always)]
    fn pass(&mut self, lane: usize, cells: &mut Cells, cell: usize, _: u32, after: After) -> u32 {
        let lane = &mut self.0[lane];
        let at = lane.state as u32 & u32::from(WHOLE - 1);
        let n = V::rank(&cells.starts[cell % CELLS].0, at as u16);
        let (start, length) = cells.share(cell, n);
        // A share is less than the whole: this does not grow.
        let state = u64::from(length) * (lane.state >> SCALE) + u64::from(at.wrapping_sub(start));
        if after.refill {
            let few = state < LOW;
            let more = state << 32 | lane.word();
            // Nobody can foretell it, and a wrong guess costs more than both ways.
            lane.state = select_unpredictable(few, more, state);
            lane.at += usize::from(few);
        } else {
            lane.state = state;
        }
        if after.learn {
            cells.learn(cell, n);
        }
        n as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::vector::Plain;
    use proptest::prelude::*;

    /// Passes numbers through lanes 0 and 1: lane 0 is refilled each time, lane 1 every other time.
    fn through(p: &mut impl Pass, numbers: &mut [(u16, u8)], school: usize) -> Cells {
        let mut cells = Cells::new();
        for (i, (cell, n)) in numbers.iter_mut().enumerate() {
            let after = After { refill: i % 2 == 0 || i % 4 == 3, learn: i < school };
            *n = p.pass(i % 2, &mut cells, usize::from(*cell), u32::from(*n), after) as u8;
        }
        cells
    }

    fn bytes(words: &[u32]) -> Vec<[u8; 4]> {
        words.iter().map(|w| w.to_le_bytes()).collect()
    }

    proptest! {
        #[test]
        fn numbers_come_back(
            numbers in proptest::collection::vec((0..3_u16, 0..16_u8), 0..3000),
            school: usize,
        ) {
            let mut writer = Writer::<2>::new();
            through(&mut writer, &mut numbers.clone(), school % 4000);
            let codes = writer.finish().map(|words| bytes(&words));
            let mut reader = Reader::<Plain, 2>::new([&codes[0], &codes[1]]);
            let mut back: Vec<_> = numbers.iter().map(|(cell, _)| (*cell, 0)).collect();
            through(&mut reader, &mut back, school % 4000);
            prop_assert_eq!(&back, &numbers);
            prop_assert!(reader.ended());
            for cut in [&codes[0][..codes[0].len() - 1], &[&codes[0][..], &[[0; 4]]].concat()] {
                let mut reader = Reader::<Plain, 2>::new([cut, &codes[1]]);
                through(&mut reader, &mut numbers.clone(), school % 4000);
                prop_assert!(!reader.ended());
            }
        }
    }

    #[test]
    fn shares_are_whole_however_long_one_learns() {
        let mut cells = Cells::new();
        for i in 0..300_000_usize {
            cells.learn(5, if i % 1000 == 0 { i / 1000 % N } else { 3 });
            if i.is_power_of_two() || i % 10_007 == 0 {
                let lengths: Vec<_> = (0..N).map(|n| cells.share(5, n).1).collect();
                assert_eq!(lengths.iter().sum::<u32>(), u32::from(WHOLE), "{i}");
                assert!(lengths.iter().all(|l| *l > 0), "{i}: {lengths:?}");
            }
        }
        assert!(cells.share(5, 3).1 > 32_000, "nearly always 3");
    }

    #[test]
    fn what_comes_often_costs_little() {
        let mut writer = Writer::<2>::new();
        let mut numbers: Vec<_> = (0..8000).map(|i| (0, if i % 16 == 0 { 9 } else { 2 })).collect();
        through(&mut writer, &mut numbers, 8000);
        let bits = 32 * writer.finish().iter().map(Vec::len).sum::<usize>();
        // Their entropy is 2,698 bits.
        assert!((2650..2950).contains(&bits), "{bits}");
    }
}
