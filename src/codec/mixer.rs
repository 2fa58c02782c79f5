//! Logistic mixing (Mahoney 2005): logits weighted, summed, and the weights moved down the slope of
//! the coding cost. Two layers: several weight sets, each chosen by its own context, then one mixer
//! over their outputs, or the mean of two that are chosen by different contexts.

use super::tables::{LIMIT, TABLES};
use super::vector::{Ints, Shorts, Vector, WIDTH};

/// Inputs of the first layer, or their weights, for `C` vectors of contexts.
#[derive(Debug, Clone, Copy)]
pub struct Inputs<const C: usize> {
    /// Logits of what the contexts' counters are worth, and how far the same are from a half, as
    /// probabilities; as [`Vector::pack`] orders them.
    pub counted: [Shorts; C],
    /// Those that do not come from counters.
    pub rest: Shorts,
}

impl<const C: usize> Inputs<C> {
    /// All of them 0.
    pub const ZERO: Self = Self { counted: [Shorts::ZERO; C], rest: Shorts::ZERO };
}
/// 1.0 as a weight of the first layer.
pub const ONE: i32 = 1 << 14;
/// 1.0 as a weight of the second layer.
const UNIT: i32 = 1 << 16;
/// Weights of the second layer are kept within ± this, so that no product overflows.
const WEIGHT_MAX: i32 = (1 << 19) - 1;

/// Errors below this move no weights: it would be by next to nothing, and most errors are.
const SLIGHT: i32 = 32;

/// Decisions are counted up to this.
const SEEN_MAX: u32 = 1 << 20;

/// Learning rates of the layers.
#[derive(Debug, Clone, Copy)]
pub struct Rates {
    /// Of the first, in the end.
    pub first: i32,
    /// How many times more that is at first, in addition.
    pub boost: u32,
    /// Decisions after which half of the boost is gone.
    pub decay: u32,
    /// Of the second.
    pub second: i32,
}

/// A mixer of the second layer.
#[derive(Debug, Clone)]
struct Final {
    weights: Vec<Ints>,
    chosen: usize,
    p: i32,
}

/// Both layers: `S` weight sets over `C` vectors of contexts, and one or two over the sets.
#[derive(Debug, Clone)]
pub struct Mixer<const C: usize, const S: usize> {
    first: Vec<Inputs<C>>,
    second: Final,
    /// The second one, if any.
    other: Option<Final>,
    rates: Rates,
    /// Where each set's weights begin in `first`.
    starts: [usize; S],
    chosen: [usize; S],
    outs: Ints,
    probabilities: Ints,
    /// Decisions so far, for the learning rate.
    seen: u32,
}

/// w·x / 256, lane by lane.
#[inline(always)]
fn times<V: Vector>(w: &Ints, x: &Ints) -> V {
    V::load(w).mul(V::load(x)).sar::<8>()
}

/// w·x / 256, by eight partial sums: up to 7 vectors of products, whose sums fit 31 bits.
#[inline(always)]
fn dot<V: Vector, const C: usize>(w: &Inputs<C>, x: &Inputs<C>) -> V {
    let mut sum = V::products(&w.rest, &x.rest);
    for k in 0..C {
        sum = sum.add(V::products(&w.counted[k], &x.counted[k]));
    }
    sum.sar::<8>()
}

/// w += x · err / 2^14, rounded.
#[inline(always)]
fn learn<V: Vector>(w: &mut Ints, x: &Ints, err: i32) {
    let step = V::load(x).mul(V::splat(err)).add(V::splat(1 << 13)).sar::<14>();
    V::load(w).add(step).clamp(-WEIGHT_MAX, WEIGHT_MAX).store(w);
}

impl Final {
    /// The logit of the first layer's outputs, in a context.
    #[inline(always)]
    fn mix<V: Vector>(&mut self, outs: &Ints, context: usize) -> i32 {
        self.chosen = context;
        let sum = times::<V>(&self.weights[context], outs).sum() >> 8;
        let logit = sum.clamp(-LIMIT, LIMIT);
        self.p = TABLES.squash(logit);
        logit
    }

    #[inline(always)]
    fn update<V: Vector>(&mut self, outs: &Ints, target: i32, rate: i32) {
        let err = ((target - self.p) * rate) >> 7;
        if err.abs() >= SLIGHT / 2 {
            learn::<V>(&mut self.weights[self.chosen], outs, err);
        }
    }

    fn weight(&self) -> usize {
        size_of::<Ints>() * self.weights.len()
    }
}

impl<const C: usize, const S: usize> Mixer<C, S> {
    /// `sizes` tells how many contexts each set has; `finals` the same for the second layer, where the
    /// second number may be 0.
    pub fn new(initial: &Inputs<C>, sizes: [usize; S], finals: [usize; 2], rates: Rates) -> Self {
        const { assert!(S <= WIDTH) };
        let mut starts = [0; S];
        let mut at = 0;
        for (s, n) in starts.iter_mut().zip(sizes) {
            *s = at;
            at += n;
        }
        let mut even = [0; WIDTH];
        even[..S].fill(UNIT / S as i32);
        let [second, other] = finals.map(|n| Final { weights: vec![even; n], chosen: 0, p: 32768 });
        Self {
            first: vec![*initial; at],
            second,
            other: (finals[1] > 0).then_some(other),
            rates,
            starts,
            chosen: [0; S],
            outs: [0; WIDTH],
            probabilities: [0; WIDTH],
            seen: 0,
        }
    }

    /// Mixes; returns the logit.
    #[inline(always)]
    pub fn mix<V: Vector>(
        &mut self,
        inputs: &Inputs<C>,
        contexts: &[usize; S],
        finals: [usize; 2],
    ) -> i32 {
        let mut sums = [V::splat(0); WIDTH];
        for k in 0..S {
            let at = self.starts[k] + contexts[k];
            self.chosen[k] = at;
            sums[k] = dot::<V, C>(&self.first[at], inputs);
        }
        // In units of 1/[`ONE`] so far, of which `dot` took 8 bits.
        let outs = V::sums(sums).sar::<6>().clamp(-LIMIT, LIMIT);
        TABLES.squash_all(outs).store(&mut self.probabilities);
        outs.store(&mut self.outs);
        let logit = self.second.mix::<V>(&self.outs, finals[0]);
        match &mut self.other {
            Some(other) => (logit + other.mix::<V>(&self.outs, finals[1])) >> 1,
            None => logit,
        }
    }

    /// Learns how the decision went.
    #[inline(always)]
    pub fn update<V: Vector>(&mut self, inputs: &Inputs<C>, bit: bool) {
        let target = if bit { 65535 } else { 0 };
        // Steep at first. In 32nds; the product of rate and error stays below 2^30.
        let Rates { first, boost, decay, .. } = self.rates;
        let times = 32 + (32 * boost * decay / (decay + self.seen)) as i32;
        self.seen = (self.seen + 1).min(SEEN_MAX);
        let rate = V::splat(first * times);
        let errs = V::splat(target).sub(V::load(&self.probabilities)).mul(rate).sar::<12>();
        let errs = errs.clamp(-32767, 32767).lanes();
        for k in 0..S {
            let err = errs[k] as i16;
            if i32::from(err).abs() < SLIGHT {
                continue;
            }
            let weights = &mut self.first[self.chosen[k]];
            V::nudge(&mut weights.rest, &inputs.rest, err);
            for c in 0..C {
                V::nudge(&mut weights.counted[c], &inputs.counted[c], err);
            }
        }
        self.second.update::<V>(&self.outs, target, self.rates.second);
        if let Some(other) = &mut self.other {
            other.update::<V>(&self.outs, target, self.rates.second);
        }
    }

    /// Shows the weights of some sets of the first layer, then those of the second, and takes what is answered, within
    /// their bounds.
    pub fn each_weight(&mut self, sets: &[usize], visit: &mut impl FnMut(i32) -> i32) {
        for set in sets {
            let end = self.starts.get(set + 1).copied().unwrap_or(self.first.len());
            for row in &mut self.first[self.starts[*set]..end] {
                for weight in row.counted.iter_mut().chain([&mut row.rest]).flat_map(|s| &mut s.0) {
                    *weight = visit((*weight).into()).clamp(-32768, 32767) as i16;
                }
            }
        }
        for layer in [Some(&mut self.second), self.other.as_mut()].into_iter().flatten() {
            for weight in layer.weights.iter_mut().flatten() {
                *weight = visit(*weight).clamp(-WEIGHT_MAX, WEIGHT_MAX);
            }
        }
    }

    /// Memory held, in bytes.
    pub fn weight(&self) -> usize {
        size_of::<Inputs<C>>() * self.first.len()
            + self.second.weight()
            + self.other.as_ref().map_or(0, Final::weight)
    }
}
