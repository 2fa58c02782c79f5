//! From logits to integer probabilities.

use crate::model::engine::math::{exp, top, truncate};

/// Probabilities sum to 2 to this power.
pub const TOTAL_BITS: u32 = 31;

/// Fixed-point one of the numerators.
const ONE: f32 = 1_073_741_824.0;

/// Turns logits into cumulative integer probabilities: `out[0] = 0`, `out[n] = 2^31`, strictly
/// increasing, so symbol i has probability `(out[i+1] − out[i]) / 2^31 > 0`.
///
/// Numerators are integers, so the sum has no order; the scaling is a fixed-point product.
/// `out` has one element more than `logits`, which are at most 2^20.
#[inline(always)]
pub fn cumulate(logits: &[f32], out: &mut [u32]) {
    let n = logits.len();
    assert!(n > 0 && n <= 1 << 20 && out.len() == n + 1);
    let top = top(logits, logits[0], |v| v);
    let mut total = 0_u64;
    for (o, v) in out.iter_mut().zip(logits) {
        *o = truncate(exp(*v - top) * ONE, 0.0, ONE) as u32;
    }
    for o in &out[..n] {
        total += u64::from(*o);
    }
    if total == 0 {
        // Only if no logit is a number: uniform.
        out[..n].fill(1);
        total = n as u64;
    }
    // Each symbol gets 1; the rest of 2^31 is shared out by rounding down the running sum.
    let share = (((1_u64 << TOTAL_BITS) - n as u64) << 32) / total;
    // total ≥ 2^30 or = n, and share · total < 2^63.
    let mut sum = 0_u64;
    for (i, o) in out[..n].iter_mut().enumerate() {
        let e = u64::from(*o);
        *o = ((sum * share) >> 32) as u32 + i as u32;
        sum += e;
    }
    out[n] = 1 << TOTAL_BITS;
}

/// Probability (of 65536, from 1 to 65535) of going right at a node over the leaves `[from, to)`
/// that is parted at `mid`.
#[inline]
pub fn node_probability(cumulative: &[u32], [from, mid, to]: [usize; 3]) -> u32 {
    let all = u64::from(cumulative[to].saturating_sub(cumulative[from])).max(1);
    let right = u64::from(cumulative[to].saturating_sub(cumulative[mid]));
    (((right << 16) + all / 2) / all).clamp(1, 65535) as u32
}

/// The likeliest leaf, the first one of several.
#[inline(always)]
pub fn likeliest(cumulative: &[u32]) -> usize {
    let (mut best, mut most) = (0, 0);
    for (leaf, pair) in cumulative.windows(2).enumerate() {
        let p = pair[1].wrapping_sub(pair[0]);
        if p > most {
            (best, most) = (leaf, p);
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_symbol_has_a_share(logits in prop::collection::vec(prop::num::f32::ANY, 1..300)) {
            let mut out = vec![0; logits.len() + 1];
            cumulate(&logits, &mut out);
            prop_assert_eq!(out[0], 0);
            prop_assert_eq!(out[logits.len()], 1 << TOTAL_BITS);
            prop_assert!(out.windows(2).all(|w| w[0] < w[1]));
        }
    }

    #[test]
    fn shares_are_the_softmax() {
        let logits: Vec<f32> = (0..1000).map(|i| ((i * 37) % 101) as f32 / 7.0).collect();
        let mut out = vec![0; 1001];
        cumulate(&logits, &mut out);
        let sum: f64 = logits.iter().map(|l| f64::from(*l).exp()).sum();
        for (l, w) in logits.iter().zip(out.windows(2)) {
            let (want, got) = (f64::from(*l).exp() / sum, f64::from(w[1] - w[0]) / 2_f64.powi(31));
            assert!((want - got).abs() < want * 1e-4 + 2e-9, "{want} {got}");
        }
    }

    #[test]
    fn a_node_splits_the_mass_below_it() {
        let c = [0, 1 << 29, 1 << 30, 1 << 31];
        assert_eq!(node_probability(&c, [0, 2, 3]), 32768);
        assert_eq!(node_probability(&c, [0, 1, 2]), 32768);
        assert_eq!(node_probability(&c, [0, 1, 3]), 49152);
        assert_eq!(node_probability(&[0, 1, 1 << 31], [0, 1, 2]), 65535);
        assert_eq!(likeliest(&[0, 1, 5, 9, 10]), 1);
    }
}
