//! Fixed-point functions: squash, stretch, log2. Integers only, built once, the same everywhere.
//!
//! A probability is 16 bits: `p / 65536` that the bit is 1, from 1 to 65535. Its logit is in units
//! of 1/256: `stretch(p) = 256 ln(p / (65536 - p))`, and `squash` is its inverse.

use std::sync::LazyLock;

/// Largest logit.
pub const LIMIT: i32 = 2900;

/// e^(-1/256) in units of 2^-62.
const STEP: u64 = 4_593_706_758_521_714_574;

/// The tables.
#[derive(Debug)]
pub struct Tables {
    squash: Vec<u16>,
    stretch: Vec<i16>,
    coarse: Box<[i16; 4096]>,
}

/// The tables of this process.
pub static TABLES: LazyLock<Tables> = LazyLock::new(Tables::new);

impl Tables {
    fn new() -> Self {
        // decay[k] = e^(-k/256) in 2^-62.
        let mut decay = 1_u64 << 62;
        let mut upper = Vec::with_capacity(LIMIT as usize + 1);
        for _ in 0..=LIMIT {
            let one = 1_u128 << 62;
            let p = (65536 * one + (one + u128::from(decay)) / 2) / (one + u128::from(decay));
            upper.push(p.min(65535) as u16);
            decay = ((u128::from(decay) * u128::from(STEP)) >> 62) as u64;
        }
        let lower = upper.iter().skip(1).rev().map(|p| (65536 - u32::from(*p)).max(1) as u16);
        let squash: Vec<u16> = lower.chain(upper.iter().copied()).collect();
        let mut stretch = vec![0; 65536];
        let mut x = 0;
        for (p, s) in stretch.iter_mut().enumerate() {
            while x + 1 < squash.len() && usize::from(squash[x]) < p {
                x += 1;
            }
            *s = (x as i32 - LIMIT) as i16;
        }
        let mut coarse = Box::new([0; 4096]);
        for (i, c) in coarse.iter_mut().enumerate() {
            *c = stretch[i * 16 + 8];
        }
        Self { squash, stretch, coarse }
    }

    /// Probability of a logit, which is cut to the limits.
    #[inline(always)]
    pub fn squash(&self, x: i32) -> i32 {
        i32::from(self.squash[(x.clamp(-LIMIT, LIMIT) + LIMIT) as usize])
    }

    /// Logit of a probability's upper 12 bits: less exact, but the table stays in the first cache.
    #[inline(always)]
    pub fn stretch_coarse(&self, p: u32) -> i32 {
        i32::from(self.coarse[(p >> 4 & 0xfff) as usize])
    }

    /// Logit of a probability.
    #[inline(always)]
    pub fn stretch(&self, p: u16) -> i32 {
        i32::from(self.stretch[usize::from(p)])
    }
}

/// −log2(p / 65536) in units of 2^-16 bits, rounded down at the 16th binary digit.
pub fn cost(p: u32) -> u64 {
    // Binary digits of log2 by squaring a mantissa in [1, 2), 31 bits wide.
    let p = u64::from(p.clamp(1, 65536));
    let whole = 63 - p.leading_zeros() as u64;
    let mut m = (p << 31) >> whole;
    let mut digits = 0;
    for _ in 0..16 {
        m = (m * m) >> 31;
        digits <<= 1;
        if m >= 1 << 32 {
            m >>= 1;
            digits |= 1;
        }
    }
    (16 << 16) - (whole << 16) - digits
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn squash_and_stretch_are_the_logistic_pair() {
        let t = &TABLES;
        for x in -LIMIT..=LIMIT {
            let want = 65536.0 / (1.0 + (-f64::from(x) / 256.0).exp());
            let got = f64::from(t.squash(x));
            assert!((got - want).abs() <= 1.0, "{x}: {got} {want}");
        }
        for p in 1..=65535_u16 {
            let back = t.squash(t.stretch(p)) - i32::from(p);
            assert!(back.abs() <= 65, "{p}");
        }
    }

    #[test]
    fn cost_is_the_information_content() {
        for p in (1..=65536).step_by(7) {
            let want = (65536.0 / f64::from(p)).log2() * 65536.0;
            assert!((cost(p) as f64 - want).abs() < 4.0, "{p}");
        }
    }
}
