//! Counting a corpus into a prior: which tokens follow which contexts, and how often.
//!
//! Kind by kind, from those that say least: every token of the corpus is listed with the hash of its
//! context and with what it costs by the kinds before; sorted by hash, that gives for each follower of
//! each context the bits that knowing it would save (entropy pruning: Stolcke 1998). Those that save most
//! for the memory they take are kept. Integers only, and the order of the work does not matter: the same
//! texts give the same prior on every machine and with any number of threads.

mod adapt;
mod count;
mod keep;
mod spool;

use crate::codec::prior::{Contexts, KINDS, Prior};
use count::{corrected, count};
use keep::Kept;
use std::io;
use std::ops::RangeInclusive;

pub use adapt::Adapting;
pub use spool::Spool;

/// Training takes this many times the table's memory, and [`Training::LEAST`] more.
pub const MULTIPLE: usize = 16;

/// What cannot be trained on.
#[derive(Debug, thiserror::Error)]
pub enum TrainError {
    /// The corpus is no text, or too little.
    #[error("the corpus has {0} bytes of text; at least {least} are needed",
        least = Training::CORPUS_MIN)]
    TooLittle(u64),
    /// The tokens could not be kept in a file.
    #[error("{0}")]
    Spool(#[from] io::Error),
}

/// How to train.
#[derive(Debug, Clone, Copy)]
pub struct Training {
    /// Memory of the table, in bytes.
    pub memory: usize,
}

/// How far it is.
#[derive(Debug, Clone, Copy)]
pub struct Progress {
    /// Passes over the corpus that are done.
    pub done: usize,
    /// Passes in all.
    pub all: usize,
}

impl Training {
    /// Least bytes of text.
    pub const CORPUS_MIN: u64 = 10_000;
    /// Memory of the counting, in bytes, however small the table.
    pub const LEAST: usize = 256 << 20;

    /// Parts in which the contexts of a kind are counted, so that their keys take at most `room` bytes.
    fn parts(spool: &Spool<'_>, room: usize) -> usize {
        let threads = spool.shards();
        let room = room / threads / size_of::<u64>();
        // As many parts for each thread, or threads would wait.
        (spool.tokens as usize).div_ceil(room).max(1).next_multiple_of(threads)
    }

    /// Counts what was spooled, with a thread for each of its files; `tell` is told now and then.
    ///
    /// # Errors
    /// Too little text, or the spool's file cannot be read.
    pub fn run(
        &self,
        spool: &mut Spool<'_>,
        tell: &mut dyn FnMut(Progress),
    ) -> Result<[Contexts; KINDS], TrainError> {
        let threads = ready(spool)?;
        let parts = Self::parts(spool, MULTIPLE * self.memory + Self::LEAST);
        let mut kept = Kept::new(self.memory, Kept::DEAR);
        let mut prior = Prior::empty(spool.vocab());
        let mut done = 0;
        let all = KINDS * (parts + threads);
        for kind in 0..KINDS {
            for first in (0..parts).step_by(threads) {
                for part in count(spool, kind, first, parts, 1)? {
                    kept.add(kind, &part);
                }
                done += threads;
                tell(Progress { done, all });
            }
            // What the next kinds would save counts from what this one knows.
            prior.set(kind, &kept.contexts(kind));
            correct(spool, &prior, kind..=kind)?;
            done += threads;
            tell(Progress { done, all });
        }
        Ok(std::array::from_fn(|k| kept.contexts(k)))
    }
}

/// Everything spooled can be read, and is enough to count; returns the number of threads.
fn ready(spool: &mut Spool<'_>) -> Result<usize, TrainError> {
    spool.flush()?;
    if spool.bytes < Training::CORPUS_MIN {
        return Err(TrainError::TooLittle(spool.bytes));
    }
    Ok(spool.shards())
}

/// Corrects each token's probability by some kinds of a prior's contexts.
fn correct(spool: &mut Spool<'_>, prior: &Prior, kinds: RangeInclusive<usize>) -> io::Result<()> {
    spool.revise(|hashes, leaf, p| {
        kinds.clone().fold(p, |p, k| corrected(prior, k, hashes[k] as u32, leaf, p))
    })
}

#[cfg(test)]
mod tests;
