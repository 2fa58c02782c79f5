//! Element-wise arithmetic of the engine: the one definition for every CPU.
//!
//! Only IEEE additions, subtractions, multiplications, divisions and square roots in a written
//! order, which are exact everywhere; sums run over 16 interleaved partial sums that a fixed tree
//! joins, so that compilers may vectorise them without changing a bit. All functions are inlined
//! into the instruction-set specific copies of the forward pass.

pub use crate::model::network::{GROUP, WEIGHT_MAX};

/// Columns of the fixed summation tree.
pub const SUM_WAYS: usize = 16;
/// 1.5·2²³: adding and subtracting it rounds to the nearest integer, ties to even.
const ROUND: f32 = 12_582_912.0;
/// Largest activation, query and value.
pub const VALUE_MAX: i8 = 127;
const _: () = assert!(4 * WEIGHT_MAX as i32 * VALUE_MAX as i32 <= i16::MAX as i32);

/// Nearest integer, ties to even, for |x| < 2²².
#[inline(always)]
fn round(x: f32) -> f32 {
    (x + ROUND) - ROUND
}

/// Truncates to an integer within `low..=high`, which fit an i32; what is no number gives `low`.
/// Unlike `as`, compilers turn it into the conversion that vector units have, and these comparisons
/// into their maximum and minimum.
#[inline(always)]
pub fn truncate(x: f32, low: f32, high: f32) -> i32 {
    let x = if x > low { x } else { low };
    let x = if x < high { x } else { high };
    debug_assert!((-2_147_483_648.0..2_147_483_648.0).contains(&x));
    // SAFETY: x is a number between the limits, within an i32.
    unsafe { x.to_int_unchecked() }
}

/// The larger one; the first where they do not compare.
#[inline(always)]
pub fn max(a: f32, b: f32) -> f32 {
    if b > a { b } else { a }
}

/// e^x to about 2 ulp; x is clamped to [-87, 88].
///
/// 2^n · 2^f with |f| ≤ ½ and the degree-6 Taylor polynomial of 2^f in Horner form.
#[inline(always)]
#[allow(clippy::excessive_precision, clippy::unreadable_literal)]
pub fn exp(x: f32) -> f32 {
    let x = if x < -87.0 { -87.0 } else { x };
    let x = if x > 88.0 { 88.0 } else { x };
    let y = x * std::f32::consts::LOG2_E;
    let shifted = y + ROUND;
    let n = shifted - ROUND;
    let f = y - n;
    let mut p = 1.540_353e-4_f32;
    p = p * f + 1.333_355_8e-3;
    p = p * f + 9.618_129e-3;
    p = p * f + 5.550_410_9e-2;
    p = p * f + 0.240_226_51;
    p = p * f + std::f32::consts::LN_2;
    p = p * f + 1.0;
    // The low bits of `shifted` hold n as an integer; 2^n is its biased exponent.
    let exponent = shifted.to_bits().wrapping_sub(ROUND.to_bits()).wrapping_add(127);
    p * f32::from_bits(exponent << 23)
}

/// x · sigmoid(x).
#[inline(always)]
pub fn silu(x: f32) -> f32 {
    x / (1.0 + exp(-x))
}

/// Sum of squares in the fixed order.
#[inline(always)]
pub fn sum_squares(x: &[f32]) -> f32 {
    let mut ways = [0.0_f32; SUM_WAYS];
    let mut chunks = x.chunks_exact(SUM_WAYS);
    for c in &mut chunks {
        for (w, v) in ways.iter_mut().zip(c) {
            *w += v * v;
        }
    }
    for (w, v) in ways.iter_mut().zip(chunks.remainder()) {
        *w += v * v;
    }
    join(&mut ways, |a, b| a + b)
}

/// Joins partial results by the fixed tree.
#[inline(always)]
pub fn join(ways: &mut [f32; SUM_WAYS], f: impl Fn(f32, f32) -> f32) -> f32 {
    let mut half = SUM_WAYS / 2;
    while half > 0 {
        for i in 0..half {
            ways[i] = f(ways[i], ways[i + half]);
        }
        half /= 2;
    }
    ways[0]
}

/// Root-mean-square norm: `out[i] = x[i] · (1 / sqrt(mean(x²) + eps)) · weight[i]`
/// (Zhang & Sennrich 2019, "Root Mean Square Layer Normalization").
#[inline(always)]
pub fn rms_norm(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
    let mean = sum_squares(x) / x.len() as f32;
    let inv = 1.0 / (mean + eps).sqrt();
    for ((o, v), w) in out.iter_mut().zip(x).zip(weight) {
        *o = (v * inv) * w;
    }
}

/// The largest of `f` over `x`, and `least`.
#[inline(always)]
pub fn top(x: &[f32], least: f32, f: impl Fn(f32) -> f32) -> f32 {
    let mut ways = [least; SUM_WAYS];
    let mut chunks = x.chunks_exact(SUM_WAYS);
    for c in &mut chunks {
        for i in 0..SUM_WAYS {
            ways[i] = max(ways[i], f(c[i]));
        }
    }
    for (w, v) in ways.iter_mut().zip(chunks.remainder()) {
        *w = max(*w, f(*v));
    }
    join(&mut ways, max)
}

/// Quantises `x` to integers within ±`most` and returns the scale: `x ≈ q · scale`.
#[inline(always)]
pub fn quantise(x: &[f32], q: &mut [i8], most: i8) -> f32 {
    let most = f32::from(most);
    let amax = top(x, 0.0, f32::abs);
    if amax == 0.0 {
        q.fill(0);
        return 0.0;
    }
    let inv = most / amax;
    for (o, v) in q.iter_mut().zip(x) {
        *o = truncate(round(v * inv), -most, most) as i8;
    }
    amax / most
}

/// What quantised numbers stand for, one scale per [`GROUP`].
#[inline(always)]
pub fn dequantise(values: &[i8], scales: &[f32], out: &mut [f32]) {
    for ((x, v), scale) in out.chunks_mut(GROUP).zip(values.chunks(GROUP)).zip(scales) {
        x.iter_mut().zip(v).for_each(|(x, v)| *x = f32::from(*v) * scale);
    }
}

/// Adds one by one.
#[inline(always)]
pub fn add(x: &mut [f32], y: &[f32]) {
    x.iter_mut().zip(y).for_each(|(x, y)| *x += y);
}

/// Rotates one head by position, pairing element i with i + half (the "neox" layout that Hugging
/// Face Llama files use). `cos`, `sin`: half of the head's length.
#[inline(always)]
pub fn rotate(head: &mut [f32], cos: &[f32], sin: &[f32]) {
    let (a, b) = head.split_at_mut(head.len() / 2);
    for (((x, y), c), s) in a.iter_mut().zip(b).zip(cos).zip(sin) {
        let (u, v) = (*x, *y);
        *x = u * c - v * s;
        *y = v * c + u * s;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_close_to_the_real_one() {
        for i in -8700..=8800 {
            let x = i as f32 / 100.0;
            let want = f64::from(x).exp();
            let got = f64::from(exp(x));
            assert!((got - want).abs() <= want * 1e-5, "exp({x}) = {got}, not {want}");
        }
        assert_eq!(exp(0.0).to_bits(), 1.0_f32.to_bits());
        assert!(exp(-1e30) > 0.0 && exp(f32::INFINITY).is_finite());
    }

    #[test]
    fn known_bits() {
        // Golden: any change of these is a change of the numerics version.
        assert_eq!(exp(-1.0).to_bits(), 0x3ebc_5ab2);
        assert_eq!(silu(1.5).to_bits(), 0x3f9c_f96b);
    }

    #[test]
    fn quantising_survives_strange_numbers() {
        let mut q = [0_i8; 4];
        for v in [f32::NAN, f32::INFINITY, f32::MIN_POSITIVE / 8.0, 0.0, -f32::MAX] {
            quantise(&[v, 1.0, -v, 0.0], &mut q, 127);
        }
        assert!((quantise(&[1.0, -2.0, 0.5, 0.0], &mut q, 127) - 2.0 / 127.0).abs() < 1e-9);
        assert_eq!(q, [64, -127, 32, 0]);
    }
}
