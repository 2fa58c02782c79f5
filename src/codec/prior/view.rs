//! What the prior says of one token's decisions, and what its word has been worth so far.

use super::table::{Far, Followers, List, NONE};
use super::{KINDS, Prior};
use crate::codec::counters::{Estimates, Worth};
use crate::codec::tables::TABLES;
use crate::codec::vector::{Ints, Shorts, Vector, WIDTH};
use std::sync::Arc;

/// The prior as the experts see it.
#[derive(Debug, Clone)]
pub struct View {
    prior: Option<Arc<Prior>>,
    worth: Worth,
    estimates: Estimates,
    // Of the token under way, for each kind:
    /// The followers, where they are few.
    lists: [List; KINDS],
    /// Where they are many, and a bit for each such kind.
    far: [Far; KINDS],
    many: u32,
    /// Counts of the followers before those that are left, and through them.
    low: Ints,
    high: Ints,
    // Of the decision at hand:
    /// Counts of the followers before where it parts them.
    parted: Ints,
    /// Where it parts those that are many.
    at: [usize; KINDS],
}

/// The numbers of the bits that are set.
#[inline(always)]
fn each(mut bits: u32) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        let k = bits.trailing_zeros() as usize;
        bits &= bits.wrapping_sub(1);
        (k < KINDS).then_some(k)
    })
}

impl View {
    /// Of a prior, or of none.
    pub fn new(prior: Option<Arc<Prior>>) -> Self {
        Self {
            prior,
            worth: Worth::default(),
            estimates: Estimates::default(),
            lists: [NONE; KINDS],
            far: [Far::default(); KINDS],
            many: 0,
            low: [0; WIDTH],
            high: [0; WIDTH],
            parted: [0; WIDTH],
            at: [0; KINDS],
        }
    }

    /// Memory held, in bytes; the prior is others' as well.
    pub const WEIGHT: usize = Worth::WEIGHT;

    /// Asks for what [`Self::begin`] will read.
    #[inline(always)]
    pub fn prefetch(&self, hashes: &Ints) {
        if let Some(prior) = &self.prior {
            prior.prefetch(hashes);
        }
    }

    /// Before a token, in contexts with these hashes.
    #[inline(always)]
    pub fn begin<V: Vector>(&mut self, hashes: &Ints) {
        let Some(prior) = &self.prior else { return };
        self.many = 0;
        for (k, hash) in hashes.iter().enumerate() {
            [self.low[k], self.high[k]] = match prior.tables[k].look::<V>(*hash as u32) {
                Followers::Near(words, n) => {
                    self.lists[k] = List::new::<V>(words, n);
                    [0, self.lists[k].sum(n)]
                }
                Followers::Far(list) => {
                    self.at[k] = list;
                    self.many |= 1 << k;
                    [0, 0]
                }
            };
        }
        // Their lists have been asked for above.
        for k in each(self.many) {
            (self.far[k], self.high[k]) = prior.tables[k].all(self.at[k]);
        }
    }

    /// The highest kind that has followers left, plus one; 0 for none.
    #[inline(always)]
    pub fn highest<V: Vector>(&self) -> usize {
        let left = V::load(&self.low).sub(V::load(&self.high)).signs();
        (u32::BITS - left.leading_zeros()) as usize
    }

    /// Counts of the followers before leaf `mid`.
    #[inline(always)]
    fn part<V: Vector>(&mut self, mid: u16) -> V {
        for k in 0..KINDS {
            self.parted[k] = self.lists[k].before::<V>(mid);
        }
        if let Some(prior) = &self.prior {
            for k in each(self.many) {
                (self.at[k], self.parted[k]) =
                    prior.tables[k].part::<V>(&self.far[k], self.low[k], mid);
            }
        }
        V::load(&self.parted)
    }

    /// Counts of the followers that are left, before leaf `mid` and the others.
    #[inline(always)]
    pub(super) fn sides<V: Vector>(&mut self, mid: u16) -> [V; 2] {
        let parted = self.part::<V>(mid);
        [parted.sub(V::load(&self.low)), V::load(&self.high).sub(parted)]
    }

    /// Inputs for a decision between the leaves before `mid` and the others that are left. Decisions go
    /// down the coding tree.
    #[inline(always)]
    pub fn predict<V: Vector>(&mut self, mid: u16) -> Shorts {
        let [left, right] = self.sides::<V>(mid);
        self.inputs(left, right)
    }

    /// Inputs for the decision whether the leaf comes, the first of a token; it takes nothing away.
    #[inline(always)]
    pub fn ask<V: Vector>(&mut self, leaf: u16) -> Shorts {
        let before = self.part::<V>(leaf);
        let own = self.part::<V>(leaf + 1).sub(before);
        self.inputs(V::load(&self.high).sub(V::load(&self.low)).sub(own), own)
    }

    #[inline(always)]
    fn inputs<V: Vector>(&mut self, left: V, right: V) -> Shorts {
        self.estimates = self.worth.of_counts(left, right);
        let p = V::load(&self.estimates.p);
        TABLES.stretch_all(p).pack(p.sub(V::splat(32768)).sar::<5>())
    }

    /// Learns how the decision went.
    #[inline(always)]
    pub fn learn<V: Vector>(&mut self, bit: bool) {
        self.worth.learn::<V>(&self.estimates, bit);
    }

    /// Follows the decision that [`Self::predict`] was about.
    #[inline(always)]
    pub fn narrow<V: Vector>(&mut self, bit: bool) {
        if bit {
            self.low = self.parted;
        } else {
            self.high = self.parted;
        }
        let Some(prior) = &self.prior else { return };
        for k in each(self.many) {
            prior.tables[k].narrow(&mut self.far[k], self.at[k], bit);
            if let Some(list) = prior.tables[k].near::<V>(&self.far[k]) {
                self.lists[k] = list;
                self.many &= !(1 << k);
                [self.low[k], self.high[k]] = [0, self.high[k] - self.low[k]];
            }
        }
    }
}
