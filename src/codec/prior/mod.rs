//! The prior: an n-gram language model over the vocabulary. For each context that the training text
//! had often enough, which tokens followed and how often. Read-only; all threads share it.
//!
//! The contexts are hashed, and of several kinds (see [`super::context::Lane::prior_contexts`]), each
//! with a table of its own.

mod contexts;
mod keys;
mod nibble;
mod pack;
mod table;
mod view;

pub use contexts::{COUNTS, Contexts, LEAVES, count_code};
pub use table::Followers;
pub use view::View;

use super::context::Lane;
use super::token_model::Token;
use super::vector::{Lanes, WIDTH};
use super::vocab::Vocab;
use table::Table;

/// Kinds of contexts, one for each number of a vector.
pub const KINDS: usize = WIDTH;

/// A table for each kind of contexts.
#[derive(Debug)]
pub struct Prior {
    tables: [Table; KINDS],
}

impl Prior {
    /// From the contexts of each kind.
    pub fn new(kinds: &[Contexts; KINDS]) -> Self {
        Self { tables: std::array::from_fn(|k| Table::new(&kinds[k])) }
    }

    /// Knows nothing.
    pub fn empty() -> Self {
        Self::new(&std::array::from_fn(|_| Contexts::new(0)))
    }

    /// The same with another table of one kind.
    pub fn set(&mut self, kind: usize, contexts: &Contexts) {
        self.tables[kind] = Table::new(contexts);
    }

    /// Memory held, in bytes.
    pub fn weight(&self) -> usize {
        self.tables.iter().map(Table::weight).sum()
    }

    /// Asks for what [`Self::look`] will read: first where the contexts' buckets are, then those.
    #[inline(always)]
    pub fn prefetch(&self, hashes: &[i32; KINDS]) {
        for (table, hash) in self.tables.iter().zip(hashes) {
            table.prefetch(*hash as u32);
        }
        for (table, hash) in self.tables.iter().zip(hashes) {
            table.prefetch_bucket(*hash as u32);
        }
    }

    /// What followed a context of this kind in the training text.
    #[inline(always)]
    pub fn look(&self, kind: usize, hash: u32, into: &mut Followers) {
        self.tables[kind].look(hash, into);
    }

    /// How often a leaf followed, how often any did, and how many different ones.
    pub fn share(&self, kind: usize, f: &Followers, leaf: u16) -> (u32, u32, u32) {
        let (before, rest, _) = self.part(kind, f, leaf);
        let (_, after, _) = self.part(kind, f, leaf + 1);
        (rest - after, before + rest, f.len() as u32)
    }

    /// Of the followers that are left, how often those before leaf `mid` came, how often the others,
    /// and where they part.
    #[inline(always)]
    pub fn part(&self, kind: usize, f: &Followers, mid: u16) -> (u32, u32, usize) {
        self.tables[kind].part(f, mid)
    }
}

/// Tells of each token of a text the hashes of its contexts, kind by kind, and its leaf.
pub fn walk(vocab: &Vocab, tokens: &[Token], mut tell: impl FnMut(&Lanes, u16)) {
    let mut lane = Lane::default();
    for token in tokens {
        tell(&lane.prior_contexts(), vocab.leaf(*token) as u16);
        lane.pass::<1>(*token, vocab.bytes(*token));
    }
}

#[cfg(test)]
mod tests;
