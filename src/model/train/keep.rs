//! Which contexts and followers are worth their memory.

use super::count::Found;
use crate::codec::prior::{Contexts, KINDS};

/// Bytes that a context takes in the table, its share of the buckets included.
const CONTEXT: u64 = 3;
/// Bytes that a follower takes.
const FOLLOWER: u64 = 2;
/// Parts in which bits saved for a byte are counted.
const PARTS: u64 = 16;

/// The best so far, of all kinds.
#[derive(Debug)]
pub(super) struct Kept {
    memory: u64,
    /// Bits, in [`PARTS`], that each byte must save. Only ever rises.
    price: u64,
    kinds: [Found; KINDS],
}

/// Bytes of what is kept of `found` at a price; the rest is told to `keep` as well.
fn prune(found: &Found, price: u64, mut keep: impl FnMut(u32, &[u16], &[u32])) -> u64 {
    let mut bytes = 0;
    let mut begin = 0;
    let (mut followers, mut saved) = (Vec::new(), Vec::new());
    for (hash, end) in found.hashes.iter().zip(&found.ends) {
        let end = *end as usize;
        followers.clear();
        saved.clear();
        for i in begin..end {
            if u64::from(found.saved[i]) * PARTS >= FOLLOWER * price {
                followers.push(found.followers[i]);
                saved.push(found.saved[i]);
            }
        }
        begin = end;
        let room = CONTEXT + FOLLOWER * followers.len() as u64;
        let all: u64 = saved.iter().map(|s| u64::from(*s)).sum();
        if !followers.is_empty() && all * PARTS >= room * price {
            bytes += room;
            keep(*hash, &followers, &saved);
        }
    }
    bytes
}

impl Kept {
    /// Bits for a byte, in parts, that are asked for at first: of a text that the model is for in general,
    /// and of the very text that it is for.
    pub(super) const DEAR: u64 = 2 * PARTS;
    pub(super) const CHEAP: u64 = PARTS / 8;

    /// Nothing yet, and later what fits `memory` bytes.
    pub(super) fn new(memory: usize, price: u64) -> Self {
        let kinds = std::array::from_fn(|_| Found::default());
        Self { memory: memory as u64, price, kinds }
    }

    /// Adds contexts of a kind whose hashes are above those before.
    pub(super) fn add(&mut self, kind: usize, found: &Found) {
        let own = &mut self.kinds[kind];
        prune(found, self.price, |hash, followers, saved| {
            own.hashes.push(hash);
            own.followers.extend_from_slice(followers);
            own.saved.extend_from_slice(saved);
            own.ends.push(own.followers.len() as u32);
        });
        let bytes = |kept: &Self, price| -> u64 {
            kept.kinds.iter().map(|k| prune(k, price, |_, _, _| {})).sum()
        };
        if bytes(self, self.price) <= self.memory {
            return;
        }
        // The lowest price at which all fits.
        let (mut low, mut high) = (self.price, self.price * 2);
        while bytes(self, high) > self.memory {
            (low, high) = (high, high * 2);
        }
        while high - low > 1 {
            let mid = low.midpoint(high);
            if bytes(self, mid) > self.memory { low = mid } else { high = mid }
        }
        self.price = high;
        for kind in &mut self.kinds {
            let mut new = Found::default();
            prune(kind, high, |hash, followers, saved| {
                new.hashes.push(hash);
                new.followers.extend_from_slice(followers);
                new.saved.extend_from_slice(saved);
                new.ends.push(new.followers.len() as u32);
            });
            *kind = new;
        }
    }

    /// What is kept of a kind, by its hashes.
    pub(super) fn found(&self, kind: usize) -> &Found {
        &self.kinds[kind]
    }

    /// What is kept of a kind.
    pub(super) fn contexts(&self, kind: usize) -> Contexts {
        let found = &self.kinds[kind];
        let mut contexts = Contexts::new(found.hashes.len());
        let mut begin = 0;
        for (hash, end) in found.hashes.iter().zip(&found.ends) {
            contexts.push(*hash, &found.followers[begin..*end as usize]);
            begin = *end as usize;
        }
        contexts
    }
}
