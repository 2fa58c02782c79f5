//! A prior at rest. `docs/format.md` has the layout. One description serves both ways: see
//! [`super::nibble`].

use super::contexts::{BITS_MAX, CHECK_BITS, Contexts, LEAVES};
use super::keys;
use super::nibble::{After, CELLS, Cells, Pass, Reader, Writer};
use crate::codec::multiversion;
use crate::codec::vector::Vector;
use std::hint::select_unpredictable;

/// Contexts of one kind, at most.
const CONTEXTS_MAX: usize = 1 << 24;
/// Followers for each byte, at most: no table needs so few bits for one, and so forged ones take no more
/// memory than their length lets expect.
const FOLLOWERS_MAX: usize = 4;
/// Followers that are believed in any case.
const FEW: usize = 4096;

/// Ints of the numbers of followers, by turns.
const NUMBER_LANES: usize = 2;
/// Ints of one half of the followers: for each part of a leaf, and for the count.
const PARTS: usize = 4;
const LANES: usize = NUMBER_LANES + 2 * PARTS;
/// Numbers before the codes: B, contexts, followers, low bits of a gap, bytes of keys; words of each lane.
const HEAD: usize = 5 + LANES;

/// Classes of numbers of followers.
const CLASSES: usize = 10;
/// Stands for the upper part of the leaf before, and for the count before, where there is none.
const NONE: usize = 16;

/// Where the distributions of each sort begin. A number of followers: alone, and its three parts.
const NUMBER: usize = 0;
/// Upper four bits of a leaf: by the upper six of the one before, and how many are to come.
const UPPER: usize = NUMBER + 1 + 1 + 16 + 256;
/// Middle ones: by the upper ones, the middle ones of the leaf before if they could be these, else its
/// upper ones, and how many are to come.
const MIDDLE: usize = UPPER + (NONE + 1) * CLASSES * 4;
/// Lower ones: by those above, and the lower ones of the leaf before if they could be these, else
/// whether the upper ones are the same, and roughly how many are to come.
const LOWER: usize = MIDDLE + 16 * (16 + NONE + 1) * CLASSES;
/// Count: by the number of followers and the count before.
const COUNT: usize = LOWER + 256 * (16 + 8);
const _: () = assert!(COUNT + CLASSES * (NONE + 1) <= CELLS);

/// Turns of the followers' lanes in which everything is learnt: of the first ones, a share and no fewer
/// than some. By then one knows enough, and is faster.
const SCHOOL: (usize, usize) = (4, 1 << 15);

/// A class of a number from 1 to [`LEAVES`]: 1, 2, 3, below 8, 16, 32, 64, 128, 256, and above.
#[inline(always)]
fn class(n: usize) -> usize {
    const CLASS: [u8; 2 * LEAVES] = {
        let mut all = [0; 2 * LEAVES];
        let mut n = 1;
        while n < all.len() {
            let class = if n < 4 { n - 1 } else { n.ilog2() as usize + 1 };
            all[n] = if class < CLASSES { class } else { CLASSES - 1 } as u8;
            n += 1;
        }
        all
    };
    usize::from(CLASS[n % CLASS.len()])
}

/// The number of a context's followers: less one if that is below 15, or 15 and what it is above 16 in
/// three parts.
#[inline(always)]
fn number(p: &mut impl Pass, cells: &mut Cells, lane: usize, n: u32) -> u32 {
    let mut pass =
        |cell, n| p.pass(lane, cells, NUMBER + cell, n, After { refill: true, learn: true });
    let first = pass(0, n.wrapping_sub(1).min(15));
    if first < 15 {
        return first + 1;
    }
    let rest = n.wrapping_sub(16);
    let upper = pass(1, rest >> 8 & 15);
    let middle = pass(2 + upper as usize, rest >> 4 & 15);
    let lower = pass(18 + (upper << 4 | middle) as usize, rest & 15);
    (upper << 8 | middle << 4 | lower) + 16
}

/// A way through contexts, one follower at a time.
#[derive(Debug)]
struct Walk<'a> {
    /// The first one's lane.
    lane: usize,
    ends: std::slice::Iter<'a, u32>,
    /// Number of the next follower.
    at: usize,
    /// How many its context has from there on.
    left: usize,
    /// Where the distributions of counts begin for so many followers as it has.
    counts: usize,
    /// Leaf of the follower before; with [`NONE`] for the upper part, and negative, if there is none.
    last: i32,
    /// Code of its count, or [`NONE`].
    count: usize,
    /// Leaves were not ascending.
    bad: bool,
}

impl<'a> Walk<'a> {
    fn new(lane: usize, ends: &'a [u32], at: usize) -> Self {
        Self { lane, ends: ends.iter(), at, left: 0, counts: 0, last: 0, count: 0, bad: false }
    }

    #[inline(always)]
    fn step(&mut self, p: &mut impl Pass, cells: &mut Cells, followers: &mut [u16], after: After) {
        if self.left == 0 {
            let end = self.ends.next().map_or(0, |end| *end as usize);
            self.left = end.saturating_sub(self.at);
            self.counts = COUNT + class(self.left) * (NONE + 1);
            (self.last, self.count) = (-(NONE as i32) << 8, NONE);
        }
        if let Some(follower) = followers.get_mut(self.at) {
            self.follower(p, cells, follower, after);
        }
        self.at += 1;
        self.left = self.left.saturating_sub(1);
    }

    #[expect(clippy::needless_bitwise_bool, reason = "without a branch")]
    #[inline(always)]
    fn follower(&mut self, p: &mut impl Pass, cells: &mut Cells, follower: &mut u16, after: After) {
        let mut pass =
            |part, cell, n: u16| p.pass(self.lane + part, cells, cell, u32::from(n & 15), after);
        let class = class(self.left);
        let (leaf, last) = (*follower >> 4, self.last);
        let (a, b, c) =
            ((last >> 8 & 31) as usize, (last >> 4 & 15) as usize, (last & 15) as usize);

        let upper = pass(0, UPPER + (a * CLASSES + class) * 4 + b / 4, leaf >> 8) as usize;
        let same = upper == a;
        let by = select_unpredictable(same, b, 16 + a);
        let cell = MIDDLE + upper * ((16 + NONE + 1) * CLASSES) + (by * CLASSES + class);
        let middle = pass(1, cell, leaf >> 4) as usize;
        let other = 16 + class.min(3) + 4 * usize::from(same);
        let by = select_unpredictable(same & (middle == b), c, other);
        let lower = pass(2, LOWER + (upper << 4 | middle) * (16 + 8) + by, leaf);
        let count = pass(3, self.counts + self.count, *follower);

        let leaf = (upper << 8 | middle << 4) as i32 | lower as i32;
        self.bad |= leaf <= last;
        (self.last, self.count) = (leaf, count as usize);
        *follower = (leaf << 4) as u16 | count as u16;
    }
}

/// Two steps of each of two walks. Spelt out, so that what follows a number is known when this is compiled.
#[inline(always)]
fn turn(
    p: &mut impl Pass,
    cells: &mut Cells,
    [a, b]: [&mut Walk<'_>; 2],
    followers: &mut [u16],
    learn: bool,
) {
    a.step(p, cells, followers, After { refill: false, learn });
    b.step(p, cells, followers, After { refill: false, learn });
    a.step(p, cells, followers, After { refill: true, learn });
    b.step(p, cells, followers, After { refill: true, learn });
}

/// All followers: those of the first contexts, which have half of them or a little less, by turns with
/// those of the others. False if leaves are not ascending.
#[inline(always)]
fn follow(p: &mut impl Pass, cells: &mut Cells, ends: &[u32], followers: &mut [u16]) -> bool {
    let split = ends.partition_point(|end| *end as usize <= followers.len() / 2);
    let (first, others) = ends.split_at(split);
    let cut = first.last().map_or(0, |end| *end as usize);
    let rest = followers.len() - cut;
    let mut a = Walk::new(NUMBER_LANES, first, 0);
    let mut b = Walk::new(NUMBER_LANES + PARTS, others, cut);
    let pairs = cut.min(rest) / 2;
    let school = pairs.min((pairs / SCHOOL.0).max(SCHOOL.1));
    for _ in 0..school {
        turn(p, cells, [&mut a, &mut b], followers, true);
    }
    for _ in school..pairs {
        turn(p, cells, [&mut a, &mut b], followers, false);
    }
    for (walk, len) in [(&mut a, cut), (&mut b, rest)] {
        for i in 2 * pairs..len {
            walk.step(p, cells, followers, After { refill: i % 2 == 1, learn: false });
        }
    }
    !a.bad && !b.bad
}

impl Contexts {
    /// The contexts at rest.
    pub fn pack(&self) -> Vec<u8> {
        let (mut writer, mut cells) = (Writer::<LANES>::new(), Cells::new());
        for (i, (_, followers)) in self.iter().enumerate() {
            number(&mut writer, &mut cells, i % NUMBER_LANES, followers.len() as u32);
        }
        follow(&mut writer, &mut cells, &self.ends, &mut self.followers.clone());
        let codes = writer.finish();
        let split = keys::best_split(&self.keys);
        let keys = keys::pack(&self.keys, split);
        let counts = [self.len() as u32, self.followers() as u32, split, keys.len() as u32];
        let head =
            [self.bits].into_iter().chain(counts).chain(codes.iter().map(|c| c.len() as u32));
        let mut out: Vec<u8> = head.flat_map(u32::to_le_bytes).collect();
        out.extend(keys);
        out.extend(codes.iter().flatten().flat_map(|word| word.to_le_bytes()));
        out
    }

    /// Reverses [`Self::pack`]; `None` for what cannot be. Takes memory in proportion to `bytes` only,
    /// but for a megabyte.
    pub fn unpack(bytes: &[u8]) -> Option<Self> {
        unpack(bytes)
    }
}

multiversion! {
    fn unpack(bytes: &[u8]) -> Option<Contexts> = unpack_any
}

#[inline(always)]
pub(super) fn unpack_any<V: Vector>(bytes: &[u8]) -> Option<Contexts> {
    let (head, mut rest) = bytes.split_first_chunk::<{ 4 * HEAD }>()?;
    let mut take = |n: usize| {
        let (taken, others) = rest.split_at_checked(n)?;
        rest = others;
        Some(taken)
    };
    let head: [u32; HEAD] = std::array::from_fn(|i| {
        u32::from_le_bytes([head[4 * i], head[4 * i + 1], head[4 * i + 2], head[4 * i + 3]])
    });
    let ([bits, len, count, split, key_bytes], words) = head.split_first_chunk()?;
    let (len, count) = (*len as usize, *count as usize);
    let keys = take(*key_bytes as usize)?;
    let mut codes = [&[][..]; LANES];
    for (code, words) in codes.iter_mut().zip(words) {
        *code = take(4 * *words as usize)?.as_chunks().0;
    }
    let much = count > FEW + FOLLOWERS_MAX * bytes.len() || len > count.min(CONTEXTS_MAX);
    if much || *bits > BITS_MAX || !rest.is_empty() {
        return None;
    }
    let keys = keys::unpack(keys, len, *split, 1 << (bits + CHECK_BITS))?;
    let (mut reader, mut cells) = (Reader::<V, LANES>::new(codes), Cells::new());
    let (mut ends, mut end) = (Vec::with_capacity(len), 0);
    for i in 0..len {
        let n = number(&mut reader, &mut cells, i % NUMBER_LANES, 0) as usize;
        end += n;
        if n > LEAVES || end > count {
            return None;
        }
        ends.push(end as u32);
    }
    let mut followers = vec![0; count];
    let good = end == count && follow(&mut reader, &mut cells, &ends, &mut followers);
    (good && reader.ended()).then_some(Contexts { bits: *bits, keys, ends, followers })
}
