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
pub use view::View;

use super::context::Lane;
use super::token_model::Token;
use super::vector::{Ints, WIDTH};
use super::vocab::Vocab;
use table::{Marks, Table};

/// Kinds of contexts, one for each number of a vector.
pub const KINDS: usize = WIDTH;

/// A table for each kind of contexts.
#[derive(Debug)]
pub struct Prior {
    marks: Marks,
    tables: [Table; KINDS],
}

impl Prior {
    /// From the contexts of each kind, for a vocabulary; by a thread each.
    pub fn new(vocab: &Vocab, kinds: &[Contexts; KINDS]) -> Self {
        let marks = Marks::new(vocab);
        let tables = std::thread::scope(|scope| {
            let all = kinds.each_ref().map(|kind| scope.spawn(move || Table::new(kind, marks)));
            all.map(|t| t.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
        });
        Self { marks, tables }
    }

    /// Knows nothing.
    pub fn empty(vocab: &Vocab) -> Self {
        Self::new(vocab, &std::array::from_fn(|_| Contexts::new(0)))
    }

    /// The same with another table of one kind.
    pub fn set(&mut self, kind: usize, contexts: &Contexts) {
        self.tables[kind] = Table::new(contexts, self.marks);
    }

    /// Memory held, in bytes.
    pub fn weight(&self) -> usize {
        self.tables.iter().map(Table::weight).sum()
    }

    /// Asks for what looking at contexts will read.
    #[inline(always)]
    pub fn prefetch(&self, hashes: &[i32; KINDS]) {
        for (table, hash) in self.tables.iter().zip(hashes) {
            table.prefetch(*hash as u32);
        }
    }

    /// How often a leaf followed a context of this kind, how often any did, and how many different
    /// ones; `None` for an unknown context.
    pub fn share(&self, kind: usize, hash: u32, leaf: u16) -> Option<(u32, u32, u32)> {
        self.tables[kind].share(hash, leaf)
    }
}

/// Tells of each token of a text the hashes of its contexts, kind by kind, and its leaf.
pub fn walk(vocab: &Vocab, tokens: &[Token], mut tell: impl FnMut(&Ints, u16)) {
    let mut lane = Lane::default();
    for token in tokens {
        tell(&lane.prior_contexts(), vocab.leaf(*token) as u16);
        lane.pass::<1>(*token, vocab.bytes(*token));
    }
}

#[cfg(test)]
mod tests;
