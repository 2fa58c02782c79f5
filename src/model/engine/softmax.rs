//! From logits to integer probabilities.

use super::math::{exp, top, truncate};

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
}
