//! Logistic mixing (Mahoney 2005): logits weighted, summed, and the weights moved down the slope of
//! the coding cost. Two layers: several weight sets, each chosen by its own context, then one mixer
//! over their outputs.

use super::tables::{LIMIT, TABLES};
use super::vector::{Lanes, Vector, WIDTH};

/// Vectors of inputs of the first layer.
pub const INPUTS: usize = 3;
/// Inputs of the first layer.
pub type Inputs = [Lanes; INPUTS];
/// Weight sets of the first layer.
pub const SETS: usize = 3;
/// 1.0 as a weight.
pub const ONE: i32 = 1 << 16;
/// Weights are kept within ± this, so that no product overflows.
const WEIGHT_MAX: i32 = (1 << 19) - 1;

/// Both layers.
#[derive(Debug, Clone)]
pub struct Mixer {
    first: Vec<Inputs>,
    second: Vec<[Lanes; 1]>,
    /// Where each set's weights begin in `first`.
    starts: [usize; SETS],
    chosen: [usize; SETS],
    last: usize,
    outs: [Lanes; 1],
    p: i32,
    probabilities: [i32; SETS],
    /// Decisions so far, for the learning rate.
    seen: u32,
}

/// Σ w·x / 65536 of terms cut to 24 bits.
#[inline(always)]
fn dot<V: Vector, const N: usize>(w: &[Lanes; N], x: &[Lanes; N]) -> i32 {
    let mut sum = V::splat(0);
    for (w, x) in w.iter().zip(x) {
        sum = sum.add(V::load(w).mul(V::load(x)).sar::<8>());
    }
    sum.sum() >> 8
}

/// w += x · err / 2^14, rounded.
#[inline(always)]
fn learn<V: Vector, const N: usize>(w: &mut [Lanes; N], x: &[Lanes; N], err: i32) {
    let (err, half) = (V::splat(err), V::splat(1 << 13));
    for (w, x) in w.iter_mut().zip(x) {
        let step = V::load(x).mul(err).add(half).sar::<14>();
        V::load(w).add(step).clamp(-WEIGHT_MAX, WEIGHT_MAX).store(w);
    }
}

impl Mixer {
    /// `sizes` tells how many contexts each set has; `finals` the same for the second layer.
    pub fn new(initial: &Inputs, sizes: [usize; SETS], finals: usize) -> Self {
        let mut starts = [0; SETS];
        let mut at = 0;
        for (s, n) in starts.iter_mut().zip(sizes) {
            *s = at;
            at += n;
        }
        let mut second = [0; WIDTH];
        second[..SETS].fill(ONE / SETS as i32);
        Self {
            first: vec![*initial; at],
            second: vec![[second]; finals],
            starts,
            chosen: [0; SETS],
            last: 0,
            outs: [[0; WIDTH]],
            p: 32768,
            probabilities: [0; SETS],
            seen: 0,
        }
    }

    /// Mixes; returns the logit.
    #[inline(always)]
    pub fn mix<V: Vector>(
        &mut self,
        inputs: &Inputs,
        contexts: &[usize; SETS],
        last: usize,
    ) -> i32 {
        for k in 0..SETS {
            let at = self.starts[k] + contexts[k];
            self.chosen[k] = at;
            self.outs[0][k] = dot::<V, _>(&self.first[at], inputs).clamp(-LIMIT, LIMIT);
            self.probabilities[k] = TABLES.squash(self.outs[0][k]);
        }
        self.last = last;
        let logit = dot::<V, _>(&self.second[last], &self.outs).clamp(-LIMIT, LIMIT);
        self.p = TABLES.squash(logit);
        logit
    }

    /// Learns how the decision went.
    #[inline(always)]
    pub fn update<V: Vector>(&mut self, inputs: &Inputs, bit: bool) {
        let target = if bit { 65535 } else { 0 };
        // Steep at first.
        let mut boost = 2;
        if self.seen < STEEP {
            boost += (2048 / (256 + self.seen)) as i32;
            self.seen += 1;
        }
        for k in 0..SETS {
            let err = ((target - self.probabilities[k]) * RATE * boost) >> 7;
            learn::<V, _>(&mut self.first[self.chosen[k]], inputs, err);
        }
        let err = ((target - self.p) * RATE_LAST) >> 7;
        learn::<V, _>(&mut self.second[self.last], &self.outs, err);
    }

    /// Memory held, in bytes.
    pub fn weight(&self) -> usize {
        4 * (self.first.len() * INPUTS * WIDTH + self.second.len() * WIDTH)
    }
}

/// Decisions during which weights move faster.
const STEEP: u32 = 2048 - 256;
/// Learning rates.
const RATE: i32 = 28;
const RATE_LAST: i32 = 4;
