//! Logistic mixing (Mahoney 2005): logits weighted, summed, and the weights moved down the slope of
//! the coding cost. Two layers: several weight sets, each chosen by its own context, then one mixer
//! over their outputs.

use super::tables::{LIMIT, TABLES};

/// Inputs of the first layer, a multiple of a vector's width.
pub const INPUTS: usize = 32;
/// Weight sets of the first layer.
pub const SETS: usize = 5;
/// Inputs of the second layer, padded.
const OUTS: usize = 8;
/// 1.0 as a weight.
pub const ONE: i32 = 1 << 16;
/// Weights are kept within ± this, so that no product overflows.
const WEIGHT_MAX: i32 = (1 << 19) - 1;

/// Both layers.
#[derive(Debug, Clone)]
pub struct Mixer {
    first: Vec<[i32; INPUTS]>,
    second: Vec<[i32; OUTS]>,
    /// Where each set's weights begin in `first`.
    starts: [usize; SETS],
    chosen: [usize; SETS],
    last: usize,
    outs: [i32; OUTS],
    p: i32,
    probabilities: [i32; SETS],
    /// Decisions so far, for the learning rate.
    seen: u32,
}

/// Σ w·x / 65536 of terms cut to 24 bits.
#[inline(always)]
fn dot<const N: usize>(w: &[i32; N], x: &[i32; N]) -> i32 {
    let mut sum = 0_i32;
    for i in 0..N {
        sum = sum.wrapping_add(w[i].wrapping_mul(x[i]) >> 8);
    }
    sum >> 8
}

/// w += x · err / 2^14, rounded.
#[inline(always)]
fn learn<const N: usize>(w: &mut [i32; N], x: &[i32; N], err: i32) {
    for i in 0..N {
        let step = (x[i].wrapping_mul(err) + (1 << 13)) >> 14;
        w[i] = (w[i] + step).clamp(-WEIGHT_MAX, WEIGHT_MAX);
    }
}

impl Mixer {
    /// `sizes` tells how many contexts each set has; `finals` the same for the second layer.
    pub fn new(initial: &[i32; INPUTS], sizes: [usize; SETS], finals: usize) -> Self {
        let mut starts = [0; SETS];
        let mut at = 0;
        for (s, n) in starts.iter_mut().zip(sizes) {
            *s = at;
            at += n;
        }
        let mut second = [0; OUTS];
        second[..SETS].fill(ONE / SETS as i32);
        Self {
            first: vec![*initial; at],
            second: vec![second; finals],
            starts,
            chosen: [0; SETS],
            last: 0,
            outs: [0; OUTS],
            p: 32768,
            probabilities: [0; SETS],
            seen: 0,
        }
    }

    /// Mixes; returns the logit.
    #[inline(always)]
    pub fn mix(&mut self, inputs: &[i32; INPUTS], contexts: &[usize; SETS], last: usize) -> i32 {
        for k in 0..SETS {
            let at = self.starts[k] + contexts[k];
            self.chosen[k] = at;
            self.outs[k] = dot(&self.first[at], inputs).clamp(-LIMIT, LIMIT);
            self.probabilities[k] = TABLES.squash(self.outs[k]);
        }
        self.last = last;
        let logit = dot(&self.second[last], &self.outs).clamp(-LIMIT, LIMIT);
        self.p = TABLES.squash(logit);
        logit
    }

    /// Learns how the decision went.
    #[inline(always)]
    pub fn update(&mut self, inputs: &[i32; INPUTS], bit: bool) {
        let target = if bit { 65535 } else { 0 };
        // Steep at first.
        let boost = 2 + (2048 / (256 + self.seen)) as i32;
        self.seen = (self.seen + 1).min(1 << 16);
        for k in 0..SETS {
            let err = ((target - self.probabilities[k]) * RATE * boost) >> 7;
            learn(&mut self.first[self.chosen[k]], inputs, err);
        }
        let err = ((target - self.p) * RATE_LAST) >> 7;
        learn(&mut self.second[self.last], &self.outs, err);
    }

    /// Memory held, in bytes.
    pub fn weight(&self) -> usize {
        4 * (self.first.len() * INPUTS + self.second.len() * OUTS)
    }
}

/// Learning rates.
const RATE: i32 = 6;
const RATE_LAST: i32 = 2;
