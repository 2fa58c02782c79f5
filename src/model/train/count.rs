//! One pass over the corpus: the followers of one kind of contexts, and what knowing them saves.

use super::spool::{ONE, Spool};
use crate::codec::prior::{Prior, count_code};
use std::io;

/// Followers that came less often are not looked at.
const LEAST: u32 = 2;
/// Parts of a bit in which costs are counted.
const BIT: u32 = 64;

/// Contexts with the followers that save bits.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Found {
    pub hashes: Vec<u32>,
    /// Where each context's followers end.
    pub ends: Vec<u32>,
    /// Leaf << 4 | code of the count.
    pub followers: Vec<u16>,
    /// Bits that each follower saves in the corpus.
    pub saved: Vec<u32>,
}

impl Found {
    /// Adds contexts whose hashes are above those before.
    pub(super) fn append(&mut self, part: Self) {
        let before = self.followers.len() as u32;
        self.hashes.extend(part.hashes);
        self.ends.extend(part.ends.iter().map(|end| before + end));
        self.followers.extend(part.followers);
        self.saved.extend(part.saved);
    }
}

/// log2 in parts of a bit, rounded down; of 0 that of 1.
fn log2(x: u64) -> u32 {
    let whole = x.max(1).ilog2();
    let mut m = if whole > 31 { x >> (whole - 31) } else { x.max(1) << (31 - whole) };
    let mut digits = 0;
    for _ in 0..BIT.ilog2() {
        m = (m * m) >> 31;
        digits <<= 1;
        if m >= 1 << 32 {
            m >>= 1;
            digits |= 1;
        }
    }
    whole * BIT + digits
}

/// The probability of a leaf, which was `p` by the kinds before, corrected by one more kind: the more,
/// the oftener its context was seen, and with the fewer followers (Witten and Bell 1991).
pub(super) fn corrected(prior: &Prior, kind: usize, hash: u32, leaf: u16, p: u32) -> u32 {
    let Some((own, all, different)) = prior.share(kind, hash, leaf) else { return p };
    let others = u64::from(different) + 1;
    let p = (u64::from(own) * ONE + others * u64::from(p)) / (u64::from(all) + others);
    p.clamp(1, ONE - 1) as u32
}

/// Contexts of one kind whose hashes fall into `parts` ranges, of as many of these as the spool has files,
/// from `first` on; a thread for each. Followers that save less than `least` bits are left out.
pub(super) fn count(
    spool: &Spool<'_>,
    kind: usize,
    first: usize,
    parts: usize,
    least: u64,
) -> io::Result<Vec<Found>> {
    std::thread::scope(|scope| {
        let one = |part| scope.spawn(move || count_part(spool, kind, part, parts, least));
        let all: Vec<_> = (first..first + spool.shards()).map(one).collect();
        let join = |t: std::thread::ScopedJoinHandle<'_, io::Result<_>>| {
            t.join().map_err(|_| io::Error::other("a thread panicked"))?
        };
        all.into_iter().map(join).collect()
    })
}

/// Contexts of one range.
fn count_part(
    spool: &Spool<'_>,
    kind: usize,
    part: usize,
    parts: usize,
    least: u64,
) -> io::Result<Found> {
    let mut keys: Vec<u64> = Vec::with_capacity(spool.tokens as usize / parts);
    spool.each(|hashes, leaf, p| {
        let hash = hashes[kind] as u32;
        if (u64::from(hash) * parts as u64) >> 32 == part as u64 {
            let cost = 32 * BIT - log2(p.into());
            keys.push(u64::from(hash) << 32 | u64::from(leaf) << 16 | u64::from(cost));
        }
    })?;
    keys.sort_unstable();
    let mut found = Found::default();
    for context in keys.chunk_by(|a, b| a >> 32 == b >> 32) {
        if context.len() < LEAST as usize {
            continue;
        }
        let begin = found.followers.len();
        let all = log2(context.len() as u64 * 2);
        for same in context.chunk_by(|a, b| a >> 16 == b >> 16) {
            let n = same.len() as u32;
            if n < LEAST {
                continue;
            }
            let before: u64 = same.iter().map(|key| key & 0xffff).sum();
            // Half of one less than were seen: who has been seen n times may not come again.
            let own = u64::from(n) * u64::from(all - log2(2 * u64::from(n) - 1));
            let saved = before.saturating_sub(own) / u64::from(BIT);
            if saved >= least {
                let leaf = (same[0] >> 16) as u16;
                found.followers.push(leaf << 4 | count_code(n));
                found.saved.push(saved.min(u64::from(u32::MAX)) as u32);
            }
        }
        if found.followers.len() > begin {
            found.hashes.push((context[0] >> 32) as u32);
            found.ends.push(found.followers.len() as u32);
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn log2_is_the_logarithm() {
        for x in (1..2000_u64).chain([1 << 31, (1 << 32) - 1, 1 << 40]) {
            let want = (x as f64).log2() * f64::from(BIT);
            let got = f64::from(log2(x));
            assert!((want - 1.01..=want).contains(&got), "{x}: {got}, not {want}");
        }
    }
}
