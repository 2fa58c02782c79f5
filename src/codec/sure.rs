//! Guesses that are next to certain: one decision says whether the token comes, under a few contexts of
//! whole tokens. Nothing else is looked at for it, and nothing else learns from it but the matches.

use super::context::{Lane, hash};
use super::counters::Adaptive;
use super::tables::{LIMIT, TABLES};
use super::token_model::Token;

/// Contexts of a guess.
const INPUTS: usize = 6;
/// Bits of a context's number.
const BITS: u32 = 12;
/// What a context says of guesses before it has seen any, of 65536, as if it had seen so many.
const PRESUMED: Adaptive = Adaptive::new(64000, 2);
/// Observations that a context remembers.
const MEMORY: u32 = 250;
/// 1.0 as a weight.
const ONE: i32 = 1 << 16;
/// Weights are kept within ± this.
const WEIGHT_MAX: i32 = 1 << 19;
/// How fast weights learn, in 16ths.
const RATE: i32 = 6;

/// Where a match stands: how good it has been, and whether the other one expects nothing, the same token,
/// or another.
#[derive(Debug, Clone, Copy, Default)]
pub struct Standing {
    /// Below [`Self::GRADES`].
    pub grade: usize,
    /// Below [`Self::OTHERS`].
    pub other: usize,
}

impl Standing {
    /// Grades of matches.
    pub const GRADES: usize = 256;
    /// What the other match may say.
    pub const OTHERS: usize = 3;
}

/// How often such guesses have been right.
#[derive(Debug, Clone)]
pub struct Sure {
    cells: Vec<Adaptive>,
    /// By standing.
    weights: Vec<[i32; INPUTS]>,
    // Of the guess under way:
    at: [usize; INPUTS],
    logits: [i32; INPUTS],
    chosen: usize,
    p: i32,
}

impl Sure {
    /// Knows nothing; with no memory of its own unless `used`.
    pub fn new(used: bool) -> Self {
        let (cells, weights) =
            if used { (INPUTS << BITS, Standing::GRADES * Standing::OTHERS) } else { (0, 0) };
        Self {
            cells: vec![PRESUMED; cells],
            weights: vec![[ONE / 5; INPUTS]; weights],
            at: [0; INPUTS],
            logits: [0; INPUTS],
            chosen: 0,
            p: 32768,
        }
    }

    /// Memory held, in bytes.
    pub fn weight(&self) -> usize {
        size_of::<Adaptive>() * self.cells.len() + 4 * INPUTS * self.weights.len()
    }

    /// Probability of 65536, from 1 to 65535, that the token comes next in the lane.
    #[inline(always)]
    pub fn predict(&mut self, lane: &Lane, token: Token, standing: Standing) -> u32 {
        self.chosen = standing.grade * Standing::OTHERS + standing.other;
        let number = u32::from(token);
        let before = lane.recent.map(u32::from);
        let above = u32::from(lane.above_token == token);
        let pair = hash(number, before[0]);
        let contexts = [
            (self.chosen as u32) << (32 - BITS),
            pair,
            hash(pair, lane.template()),
            hash(hash(number, lane.coarse_place() as u32), above),
            hash(hash(pair, before[1]), before[2]),
            hash(lane.template(), lane.pos as u32 * 4 + above),
        ];
        let weights = &self.weights[self.chosen];
        let mut sum = 0;
        for (i, context) in contexts.into_iter().enumerate() {
            self.at[i] = i << BITS | (context >> (32 - BITS)) as usize;
            self.logits[i] = TABLES.stretch(self.cells[self.at[i]].p() as u16);
            // Weights below 2^19, logits below 2^12: the sum of six fits.
            sum += ((weights[i] >> 2) * self.logits[i]) >> 6;
        }
        let logit = (sum >> 8).clamp(-LIMIT, LIMIT);
        self.p = TABLES.squash(logit);
        self.p as u32
    }

    /// Learns whether it came.
    #[inline(always)]
    pub fn update(&mut self, came: bool) {
        let err = ((if came { 65535 } else { 0 } - self.p) * RATE) >> 4;
        let weights = &mut self.weights[self.chosen];
        for i in 0..INPUTS {
            let step = (self.logits[i] * err + (1 << 13)) >> 14;
            weights[i] = (weights[i] + step).clamp(-WEIGHT_MAX, WEIGHT_MAX);
            let cell = &mut self.cells[self.at[i]];
            *cell = cell.learned(came, MEMORY);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_kept_its_word_is_believed_more() {
        let lane = Lane::default();
        let good = Standing { grade: 9, other: 1 };
        let bad = Standing { grade: 10, other: 2 };
        let mut sure = Sure::new(true);
        let first = sure.predict(&lane, 7, good);
        for _ in 0..200 {
            for (token, standing, came) in [(7, good, true), (8, bad, false)] {
                let p = sure.predict(&lane, token, standing);
                assert!((1..65536).contains(&p));
                sure.update(came);
            }
        }
        assert!(sure.predict(&lane, 7, good) > first.max(64_000));
        assert!(sure.predict(&lane, 8, bad) < 2000);
    }

    #[test]
    fn grades_and_weights_are_within_their_bounds() {
        let lane = Lane::default();
        let mut sure = Sure::new(true);
        for i in 0..2000 {
            // All that can be told apart, the highest numbers too.
            let standing = Standing { grade: i % Standing::GRADES, other: i % Standing::OTHERS };
            let p = sure.predict(&lane, Token::MAX, standing);
            assert!((1..65536).contains(&p));
            sure.update(i % 3 > 0);
        }
    }
}
