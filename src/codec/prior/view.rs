//! What the prior says of one token's decisions, and what its word has been worth so far.

use super::{Followers, KINDS, Prior};
use crate::codec::counters::{Estimates, Worth};
use crate::codec::tables::TABLES;
use crate::codec::vector::{Lanes, Shorts, Vector, WIDTH};
use std::sync::Arc;

/// The prior as the experts see it.
#[derive(Debug, Clone)]
pub struct View {
    prior: Option<Arc<Prior>>,
    worth: Worth,
    estimates: Estimates,
    // Of the token under way:
    followers: [Followers; KINDS],
    /// Kinds with followers left, a bit each.
    live: u32,
    /// Where the decision at hand parts them.
    parted: [usize; KINDS],
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
            followers: std::array::from_fn(|_| Followers::default()),
            live: 0,
            parted: [0; KINDS],
        }
    }

    /// Memory held, in bytes; the prior is others' as well.
    pub const WEIGHT: usize = Worth::WEIGHT;

    /// Before a token, in contexts with these hashes.
    #[inline(always)]
    pub fn begin(&mut self, hashes: &Lanes) {
        let Some(prior) = &self.prior else { return };
        prior.prefetch(hashes);
        self.live = 0;
        for (k, hash) in hashes.iter().enumerate() {
            prior.look(k, *hash as u32, &mut self.followers[k]);
            self.live |= u32::from(!self.followers[k].is_empty()) << k;
        }
    }

    /// The highest kind that has followers left, plus one; 0 for none.
    #[inline(always)]
    pub fn highest(&self) -> usize {
        (u32::BITS - self.live.leading_zeros()) as usize
    }

    /// Inputs for a decision between the leaves before `mid` and the others that are left.
    #[inline(always)]
    pub fn predict<V: Vector>(&mut self, mid: u16) -> Shorts {
        let (mut left, mut right) = ([0; WIDTH], [0; WIDTH]);
        if let Some(prior) = &self.prior {
            for k in each(self.live) {
                let (l, r, at) = prior.part(k, &self.followers[k], mid);
                (left[k], right[k]) = (l as i32, r as i32);
                self.parted[k] = at;
            }
        }
        self.inputs::<V>(&left, &right)
    }

    /// Inputs for the decision whether the leaf comes; it takes nothing away.
    #[inline(always)]
    pub fn ask<V: Vector>(&mut self, leaf: u16) -> Shorts {
        let (mut others, mut own) = ([0; WIDTH], [0; WIDTH]);
        if let Some(prior) = &self.prior {
            for k in each(self.live) {
                let f = &self.followers[k];
                let (before, rest, _) = prior.part(k, f, leaf);
                let (_, after, _) = prior.part(k, f, leaf + 1);
                (others[k], own[k]) = ((before + after) as i32, (rest - after) as i32);
            }
        }
        self.inputs::<V>(&others, &own)
    }

    #[inline(always)]
    fn inputs<V: Vector>(&mut self, left: &Lanes, right: &Lanes) -> Shorts {
        self.estimates = self.worth.of_counts::<V>(left, right);
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
    pub fn narrow(&mut self, bit: bool) {
        for k in each(self.live) {
            self.followers[k].narrow(self.parted[k], bit);
            self.live &= !(u32::from(self.followers[k].is_empty()) << k);
        }
    }
}
