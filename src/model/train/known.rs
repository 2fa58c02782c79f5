//! What a prior knows: its contexts of one kind, with their followers.

use super::TrainError;
use crate::codec::prior::{Followers, LEAVES, Prior, count_code};

/// Bits of a key beyond those that choose a bucket, and contexts of a bucket, as in a prior's tables. What
/// is found is held against the number of contexts, so a wrong guess is noticed.
const CHECK_BITS: u32 = 10;
const BUCKET: usize = 4;
/// Most bits of a key.
const KEY_BITS: u32 = 32;
/// Keys that are asked for at first, in so many stretches, to learn how long keys are.
const SAMPLE: [u64; 2] = [1 << 20, 1 << 6];

/// Contexts by their keys, the hashes' first bits, ascending.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Known {
    /// Bits of a key.
    pub bits: u32,
    pub keys: Vec<u32>,
    /// Where each context's followers end.
    pub ends: Vec<u32>,
    /// Leaf << 4 | code of the count.
    pub followers: Vec<u16>,
}

/// Bits of a key where there are so many contexts.
pub(super) fn key_bits(contexts: usize) -> u32 {
    let buckets = (contexts / BUCKET).max(1).next_power_of_two().ilog2();
    (buckets + CHECK_BITS).min(KEY_BITS)
}

/// Appends leaves and counts of all that followed a context.
fn list(prior: &Prior, kind: usize, f: &Followers, into: &mut Vec<u16>) {
    let mut least = 0;
    for n in 0..f.len() {
        // The highest leaf that n others are before.
        let (mut low, mut high) = (least, LEAVES as u16);
        while high - low > 1 {
            let mid = low.midpoint(high);
            if prior.part(kind, f, mid).2 > n { high = mid } else { low = mid }
        }
        let (own, ..) = prior.share(kind, f, low);
        into.push(low << 4 | count_code(own));
        least = low + 1;
    }
}

impl Known {
    /// The `len` contexts of one kind. A prior answers for a context, but has no list of them: it is asked
    /// for every key that there can be, a few ns each, by as many threads.
    pub(super) fn of(
        prior: &Prior,
        kind: usize,
        len: usize,
        threads: usize,
    ) -> Result<Self, TrainError> {
        // Tables have at least as many contexts for a bucket as they had when they were counted.
        let bits = (CHECK_BITS..=key_bits(len)).rev().find(|bits| {
            let all = 1_u64 << bits;
            let [keys, stretches] = SAMPLE.map(|n| n.min(all));
            let found: usize = (0..stretches)
                .map(|i| i * (all / stretches))
                .map(|from| Self::range(prior, kind, *bits, from, keys / stretches).keys.len())
                .sum();
            let about = found as f64 * all as f64 / keys as f64;
            (0.6..1.5).contains(&(about / len as f64))
        });
        if len == 0 {
            return Ok(Self { bits: CHECK_BITS, ..Self::default() });
        }
        let bits = bits.ok_or(TrainError::Prior)?;
        let part = (1_u64 << bits).div_ceil(threads as u64);
        let parts = std::thread::scope(|scope| {
            let one = |n| scope.spawn(move || Self::range(prior, kind, bits, n * part, part));
            let all: Vec<_> = (0..threads as u64).map(one).collect();
            let join = |t: std::thread::ScopedJoinHandle<'_, _>| t.join().ok();
            all.into_iter().map(join).collect::<Option<Vec<_>>>()
        });
        let mut all = Self { bits, ..Self::default() };
        for part in parts.ok_or(TrainError::Prior)? {
            let before = all.followers.len() as u32;
            all.keys.extend(part.keys);
            all.ends.extend(part.ends.iter().map(|end| before + end));
            all.followers.extend(part.followers);
        }
        // Of several contexts with one key only the first is ever found.
        if all.keys.len() > len || all.keys.len() < len - len / 4 {
            return Err(TrainError::Prior);
        }
        Ok(all)
    }

    fn range(prior: &Prior, kind: usize, bits: u32, from: u64, keys: u64) -> Self {
        let mut all = Self { bits, ..Self::default() };
        let mut f = Followers::default();
        for key in from..(from + keys).min(1 << bits) {
            prior.look(kind, (key << (KEY_BITS - bits)) as u32, &mut f);
            if !f.is_empty() {
                all.keys.push(key as u32);
                list(prior, kind, &f, &mut all.followers);
                all.ends.push(all.followers.len() as u32);
            }
        }
        all
    }

    /// Each context's key and followers.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u32, &[u16])> {
        let starts = std::iter::once(&0).chain(&self.ends);
        let lists = starts.zip(&self.ends).map(|(a, b)| &self.followers[*a as usize..*b as usize]);
        self.keys.iter().copied().zip(lists)
    }
}
