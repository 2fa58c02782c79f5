//! Rotation tables from IEEE double arithmetic alone.

use crate::model::network::{ROPE_STEPS, Rope};
use std::f64::consts::{LN_2, PI};

/// Natural logarithm of x ≥ 1, by the series of artanh.
fn ln(mut x: f64) -> f64 {
    let mut n = 0.0;
    while x > 1.5 {
        x /= 2.0;
        n += LN_2;
    }
    let z = (x - 1.0) / (x + 1.0);
    let (mut term, mut sum) = (z, 0.0);
    for k in 0..40 {
        sum += term / f64::from(2 * k + 1);
        term *= z * z;
    }
    n + 2.0 * sum
}

/// e^-x for x ≥ 0: Taylor's series of a small part, squared.
fn exp_minus(x: f64) -> f64 {
    let small = -x / 1024.0;
    let (mut term, mut sum) = (1.0, 0.0);
    for k in 1..20 {
        sum += term;
        term *= small / f64::from(k);
    }
    for _ in 0..10 {
        sum *= sum;
    }
    sum
}

/// Cosine and sine of x ≥ 0 by Taylor's series.
fn cos_sin(x: f64) -> (f64, f64) {
    let turns = (x / (2.0 * PI)) as u64 as f64;
    let x = x - turns * (2.0 * PI);
    let x = if x > PI { x - 2.0 * PI } else { x };
    let (mut cos, mut sin, mut term) = (0.0, 0.0, 1.0);
    for k in 1..32 {
        match k % 4 {
            1 => cos += term,
            2 => sin += term,
            3 => cos -= term,
            _ => sin -= term,
        }
        term *= x / f64::from(k);
    }
    (cos, sin)
}

/// Tables for one head size and base of frequencies.
pub fn tables(head_dim: usize, theta: f64) -> Rope {
    let half = head_dim / 2;
    let log = ln(theta);
    let frequencies: Vec<f64> =
        (0..half).map(|i| exp_minus(log * (i as f64) / (half as f64))).collect();
    let table = |step: f64| -> (Vec<f32>, Vec<f32>) {
        (0..ROPE_STEPS)
            .flat_map(|p| frequencies.iter().map(move |f| cos_sin(p as f64 * step * f)))
            .map(|(c, s)| (c as f32, s as f32))
            .unzip()
    };
    let (cos_low, sin_low) = table(1.0);
    let (cos_high, sin_high) = table(ROPE_STEPS as f64);
    Rope { cos_low, sin_low, cos_high, sin_high }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn series_agree_with_the_library() {
        for i in 0..5000 {
            let x = f64::from(i) * 13.07;
            let (c, s) = cos_sin(x);
            assert!((c - x.cos()).abs() < 1e-9 && (s - x.sin()).abs() < 1e-9, "{x}");
            let x = f64::from(i) / 300.0;
            assert!((exp_minus(x) - (-x).exp()).abs() < 1e-12);
            assert!((ln(1.0 + x) - x.ln_1p()).abs() < 1e-12);
        }
        assert!((ln(100_000.0) - 100_000_f64.ln()).abs() < 1e-12);
    }
}
