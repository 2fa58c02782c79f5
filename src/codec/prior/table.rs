//! Contexts of one kind where they are looked up: buckets of a few contexts, which lie together.

use super::contexts::{CHECK_BITS, COUNTS, Contexts, LEAVES};
use crate::codec::vector::prefetch;

/// Followers of a context that lie in its bucket, at most; longer lists lie apart.
const NEAR: usize = 15;

/// Leaves between two entries of a long list's skips.
const STRIDE: usize = LEAVES / SKIPS;
/// Entries of a long list's skips: half a cache line.
const SKIPS: usize = 16;

/// The table.
#[derive(Debug)]
pub(super) struct Table {
    /// log2 of the number of buckets.
    bits: u32,
    /// Where each bucket begins in `words`; one more at the end.
    starts: Vec<u32>,
    /// Contexts of a bucket: check << 4 | n and n followers; or, with n = 0, the number of a long list
    /// in two words.
    words: Vec<u16>,
    /// Where each long list begins in `leaves` and `sums`; one more at the end.
    lists: Vec<u32>,
    /// Of each long list, how many followers come before every [`STRIDE`]th leaf.
    skips: Vec<[u16; SKIPS]>,
    leaves: Vec<u16>,
    /// Counts of the followers before, in each list; one more at its end.
    sums: Vec<u32>,
}

/// What may follow under one context, narrowed down as decisions are made.
#[derive(Debug, Clone)]
pub struct Followers {
    leaves: [u16; NEAR],
    sums: [u32; NEAR + 1],
    /// Number of the long list and where it begins; `usize::MAX` if the followers are here.
    list: usize,
    begin: usize,
    from: usize,
    to: usize,
}

impl Default for Followers {
    fn default() -> Self {
        Self { leaves: [0; NEAR], sums: [0; NEAR + 1], list: usize::MAX, begin: 0, from: 0, to: 0 }
    }
}

impl Followers {
    /// Goes on with one side of a decision, which was parted at `at`.
    #[inline(always)]
    pub fn narrow(&mut self, at: usize, right: bool) {
        if right {
            self.from = at;
        } else {
            self.to = at;
        }
    }

    /// How many are left.
    #[inline(always)]
    pub fn len(&self) -> usize {
        self.to - self.from
    }

    /// There are none, or none are left.
    #[inline(always)]
    pub fn is_empty(&self) -> bool {
        self.from == self.to
    }
}

impl Table {
    pub(super) fn new(contexts: &Contexts) -> Self {
        let mut new = Self {
            bits: contexts.bits,
            starts: Vec::with_capacity((1 << contexts.bits) + 1),
            words: Vec::with_capacity(contexts.len() + contexts.followers()),
            lists: vec![0],
            skips: Vec::new(),
            leaves: Vec::new(),
            sums: Vec::new(),
        };
        for (key, followers) in contexts.iter() {
            let bucket = (key >> CHECK_BITS) as usize;
            while new.starts.len() <= bucket {
                new.starts.push(new.words.len() as u32);
            }
            let head = (key & ((1 << CHECK_BITS) - 1)) << 4;
            if followers.len() <= NEAR {
                new.words.push(head as u16 | followers.len() as u16);
                new.words.extend_from_slice(followers);
            } else {
                let list = new.lists.len() as u32 - 1;
                new.words.extend([head as u16, list as u16, (list >> 16) as u16]);
                let before =
                    |leaf: usize| followers.partition_point(|f| usize::from(f >> 4) < leaf);
                new.skips.push(std::array::from_fn(|i| before(i * STRIDE) as u16));
                let mut sum = 0;
                for f in followers {
                    new.leaves.push(f >> 4);
                    new.sums.push(sum);
                    sum += COUNTS[usize::from(f & 15)];
                }
                new.leaves.push(u16::MAX);
                new.sums.push(sum);
                new.lists.push(new.leaves.len() as u32);
            }
        }
        new.starts.resize((1 << new.bits) + 1, new.words.len() as u32);
        new
    }

    pub(super) fn weight(&self) -> usize {
        4 * (self.starts.len() + self.lists.len() + self.sums.len())
            + 2 * (self.words.len() + self.leaves.len() + SKIPS * self.skips.len())
    }

    #[inline(always)]
    fn key(&self, hash: u32) -> u32 {
        hash >> (32 - self.bits - CHECK_BITS)
    }

    #[inline(always)]
    pub(super) fn prefetch(&self, hash: u32) {
        prefetch(&self.starts[(self.key(hash) >> CHECK_BITS) as usize]);
    }

    #[inline(always)]
    pub(super) fn prefetch_bucket(&self, hash: u32) {
        let start = self.starts[(self.key(hash) >> CHECK_BITS) as usize];
        if let Some(word) = self.words.get(start as usize) {
            prefetch(word);
        }
    }

    #[inline(always)]
    pub(super) fn look(&self, hash: u32, into: &mut Followers) {
        let key = self.key(hash);
        let bucket = (key >> CHECK_BITS) as usize;
        let check = key & ((1 << CHECK_BITS) - 1);
        (into.list, into.from, into.to) = (usize::MAX, 0, 0);
        let mut words = &self.words[self.starts[bucket] as usize..self.starts[bucket + 1] as usize];
        while let Some((head, rest)) = words.split_first() {
            let n = usize::from(head & 15);
            let found = u32::from(head >> 4) == check;
            if !found {
                words = rest.get(if n == 0 { 2 } else { n }..).unwrap_or_default();
            } else if let (0, [low, high, ..]) = (n, rest) {
                let list = usize::from(*low) | usize::from(*high) << 16;
                into.list = list;
                into.begin = self.lists[list] as usize;
                into.to = self.lists[list + 1] as usize - into.begin - 1;
                prefetch(&self.skips[list]);
                prefetch(&self.sums[into.begin]);
                prefetch(&self.sums[into.begin + into.to]);
                return;
            } else {
                let mut sum = 0;
                for (i, f) in rest.iter().take(n).enumerate() {
                    into.leaves[i] = f >> 4;
                    into.sums[i] = sum;
                    sum += COUNTS[usize::from(f & 15)];
                }
                into.sums[n] = sum;
                into.to = n;
                return;
            }
        }
    }

    #[inline(always)]
    pub(super) fn part(&self, f: &Followers, mid: u16) -> (u32, u32, usize) {
        let (mut at, mut to) = (f.from, f.to);
        let (leaves, sums) = if f.list == usize::MAX {
            (&f.leaves[..], &f.sums[..])
        } else {
            let skips = &self.skips[f.list];
            let step = usize::from(mid) / STRIDE;
            if let Some(skip) = skips.get(step) {
                at = at.max(usize::from(*skip)).min(to);
            }
            if let Some(skip) = skips.get(step + 1) {
                to = to.min(usize::from(*skip)).max(at);
            }
            (&self.leaves[f.begin..], &self.sums[f.begin..])
        };
        while to - at > 4 {
            let half = at.midpoint(to);
            if leaves[half] < mid {
                at = half + 1;
            } else {
                to = half;
            }
        }
        // Most lists are short by now.
        while at < to && leaves[at] < mid {
            at += 1;
        }
        (sums[at] - sums[f.from], sums[f.to] - sums[at], at)
    }
}
