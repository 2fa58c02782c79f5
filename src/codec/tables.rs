//! Fixed-point functions: squash, stretch, log2. Integers only, built once, the same everywhere.
//!
//! A probability is 16 bits: `p / 65536` that the bit is 1, from 1 to 65535. Its logit is in units
//! of 1/256: `stretch(p) = 256 ln(p / (65536 - p))`, and `squash` is its inverse.

use super::vector::Vector;

/// Largest logit.
pub const LIMIT: i32 = 2900;

/// e^(-1/256) in units of 2^-62.
const STEP: u64 = 4_593_706_758_521_714_574;

/// Logits within the limits.
const SIZE: usize = 2 * LIMIT as usize + 1;
/// Room for them, and one more that is never read, see [`Vector::halves`].
const ROOM: usize = SIZE.next_power_of_two() + 1;

/// The tables.
#[derive(Debug)]
pub struct Tables {
    squash: [u16; ROOM],
    stretch: [i16; 65536],
    /// Of 4096; one more that is never read, see [`Vector::halves`].
    coarse: [u16; 4097],
}

/// Computed by the compiler, so that no check stands before a look-up.
pub static TABLES: Tables = Tables::new();

impl Tables {
    #[expect(clippy::large_stack_arrays, reason = "the compiler's stack, not ours")]
    const fn new() -> Self {
        let mut squash = [0; ROOM];
        // decay = e^(-k/256) in 2^-62.
        let one = 1_u128 << 62;
        let mut decay = one;
        let mut k = 0;
        while k <= LIMIT as usize {
            let sum = one + decay;
            let p = (65536 * one + sum / 2) / sum;
            let p = if p > 65535 { 65535 } else { p as u32 };
            squash[LIMIT as usize + k] = p as u16;
            squash[LIMIT as usize - k] = (65536 - p) as u16;
            decay = (decay * STEP as u128) >> 62;
            k += 1;
        }
        squash[LIMIT as usize] = 32768;
        let mut stretch = [0; 65536];
        let (mut p, mut x) = (0, 0);
        while p < 65536 {
            while x + 1 < SIZE && (squash[x] as usize) < p {
                x += 1;
            }
            stretch[p] = (x as i32 - LIMIT) as i16;
            p += 1;
        }
        let mut coarse = [0; 4097];
        let mut i = 0;
        while i < 4096 {
            coarse[i] = stretch[i * 16 + 8] as u16;
            i += 1;
        }
        Self { squash, stretch, coarse }
    }

    /// Probability of a logit, which is cut to the limits.
    #[inline(always)]
    pub fn squash(&self, x: i32) -> i32 {
        i32::from(self.squash[(x.clamp(-LIMIT, LIMIT) + LIMIT) as usize])
    }

    /// The same for several, which are within the limits.
    #[inline(always)]
    pub fn squash_all<V: Vector>(&self, x: V) -> V {
        V::halves(&self.squash, x.add(V::splat(LIMIT)))
    }

    /// Logit of a probability's upper 12 bits: less exact, but the table stays in the first cache.
    #[inline(always)]
    pub fn stretch_coarse(&self, p: u32) -> i32 {
        i32::from(self.coarse[(p >> 4 & 0xfff) as usize] as i16)
    }

    /// The same for all contexts.
    #[inline(always)]
    pub fn stretch_all<V: Vector>(&self, p: V) -> V {
        V::halves(&self.coarse, p.shr::<4>()).shl::<16>().sar::<16>()
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

/// −Σ log2 p as a running product, so that the logarithm is taken once.
#[derive(Debug, Clone, Copy)]
pub struct Ideal {
    /// The product is `mantissa` / 2^(47 + shifts), with the mantissa in [2^47, 2^48).
    mantissa: u64,
    shifts: u64,
}

impl Default for Ideal {
    fn default() -> Self {
        Self { mantissa: 1 << 47, shifts: 0 }
    }
}

impl Ideal {
    /// One more decision, of probability `p` / 65536.
    #[inline(always)]
    pub fn add(&mut self, p: u32) {
        // Below 2^64, at least 2^47.
        let product = self.mantissa * u64::from(p);
        let up = product.leading_zeros();
        self.mantissa = (product << up) >> 16;
        self.shifts += u64::from(up);
    }

    /// The sum, in units of 2^-16 bits.
    pub fn bits(self) -> u64 {
        // The mantissa's upper 17 bits are in [2^16, 2^17): take the logarithm of half of it.
        let fraction = (1 << 16) - cost((self.mantissa >> 32) as u32);
        (self.shifts << 16) - fraction
    }
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
    fn ideal_is_the_sum_of_costs() {
        let (mut ideal, mut sum) = (Ideal::default(), 0.0);
        for i in 0..100_000_u32 {
            let p = (i * 40_503 % 65_535 + 1).clamp(1, 65_535);
            ideal.add(p);
            sum -= (f64::from(p) / 65536.0).log2();
        }
        assert!((ideal.bits() as f64 / 65536.0 - sum).abs() < 0.01);
    }

    #[test]
    fn cost_is_the_information_content() {
        for p in (1..=65536).step_by(7) {
            let want = (65536.0 / f64::from(p)).log2() * 65536.0;
            assert!((cost(p) as f64 - want).abs() < 4.0, "{p}");
        }
    }
}
