//! The code within a frame: Reed–Solomon words over bytes, interleaved, that find and correct
//! errors nobody pointed out.
//!
//! Payload and parity are laid out in rows of as many bytes as there are words; a word is a column.
//! So neighbouring bytes belong to different words, and all words are computed side by side.

use super::gf::{self, double, mul, power};
#[cfg(target_arch = "x86_64")]
use crate::cpu::Isa;
use std::sync::OnceLock;

/// Symbols of a word.
const WORD: usize = 255;
/// Most parity rows of any code.
const MOST: usize = 8;

/// Which code a frame has; byte 31 of its header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(u8)]
pub enum Code {
    /// No parity.
    #[default]
    None = 0,
    /// RS(255, 251): corrects 2 wrong bytes of each word.
    Two = 1,
    /// RS(255, 247): corrects 4 wrong bytes of each word.
    Four = 2,
}

/// The errors are too many.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TooMany;

impl Code {
    /// The code with this number, if it is known.
    pub fn from_u8(v: u8) -> Option<Self> {
        Some(match v {
            0 => Self::None,
            1 => Self::Two,
            2 => Self::Four,
            _ => return None,
        })
    }

    /// Parity bytes of a word.
    fn rows(self) -> usize {
        match self {
            Self::None => 0,
            Self::Two => 4,
            Self::Four => 8,
        }
    }

    fn columns(self, payload: usize) -> usize {
        payload.div_ceil(WORD - self.rows())
    }

    /// Parity bytes of a payload.
    pub fn parity_len(self, payload: usize) -> usize {
        self.rows() * self.columns(payload)
    }

    /// Parity bytes among so many of payload and parity.
    pub fn parity_in(self, both: usize) -> usize {
        self.rows() * both.div_ceil(WORD)
    }

    /// The parity of a payload.
    pub fn parity(self, payload: &[u8]) -> Vec<u8> {
        let (rows, cols) = (self.rows(), self.columns(payload.len()));
        if rows == 0 || cols == 0 {
            return Vec::new();
        }
        let zeros = vec![0; rows * cols];
        let sums = syndromes(rows, cols, payload, &zeros);
        // The parity that brings every syndrome to zero.
        let products = products(self);
        let mut out = vec![0; rows * cols];
        for (row, by) in out.chunks_mut(cols).zip(products.chunks(rows)) {
            for (sum, by) in sums.chunks(cols).zip(by) {
                for (o, s) in row.iter_mut().zip(sum) {
                    *o ^= by[usize::from(*s)];
                }
            }
        }
        out
    }

    /// True if payload and parity belong together.
    pub fn holds(self, payload: &[u8], parity: &[u8]) -> bool {
        let (rows, cols) = (self.rows(), self.columns(payload.len()));
        let none = || cols == 0 || syndromes(rows, cols, payload, parity).iter().all(|s| *s == 0);
        parity.len() == rows * cols && none()
    }

    /// Corrects payload and parity in place; returns how many bytes were wrong. Beyond what the code
    /// can do it says so, or does harm: a checksum has the last word.
    pub fn correct(self, payload: &mut [u8], parity: &mut [u8]) -> Result<usize, TooMany> {
        let (rows, cols) = (self.rows(), self.columns(payload.len()));
        if rows * cols == 0 || parity.len() != rows * cols {
            return Err(TooMany);
        }
        let sums = syndromes(rows, cols, payload, parity);
        let data_rows = payload.len().div_ceil(cols);
        let mut wrong = 0;
        for col in 0..cols {
            let mut s = [0; MOST];
            for (k, v) in s[..rows].iter_mut().enumerate() {
                *v = sums[k * cols + col];
            }
            if s == [0; MOST] {
                continue;
            }
            for (row, value) in locate(rows, data_rows + rows, &s).ok_or(TooMany)? {
                let byte = match row.checked_sub(data_rows) {
                    None => payload.get_mut(row * cols + col),
                    Some(p) => parity.get_mut(p * cols + col),
                };
                *byte.ok_or(TooMany)? ^= value;
                wrong += 1;
            }
        }
        Ok(wrong)
    }
}

/// For each parity row and each syndrome, the multiples of what that syndrome adds to that row.
fn products(code: Code) -> &'static [[u8; 256]] {
    static TWO: OnceLock<Vec<[u8; 256]>> = OnceLock::new();
    static FOUR: OnceLock<Vec<[u8; 256]>> = OnceLock::new();
    let n = code.rows();
    let make = || {
        // Columns of the inverse of the matrix that takes parity rows to syndromes.
        let column = |unit: usize| {
            let mut m = [[0; MOST]; MOST];
            for (k, row) in m[..n].iter_mut().enumerate() {
                for (j, v) in row[..n].iter_mut().enumerate() {
                    *v = power(k * (n - 1 - j));
                }
            }
            let mut right = [0; MOST];
            right[unit] = 1;
            gf::solve(n, &mut m, &mut right);
            right
        };
        let inverse: Vec<[u8; MOST]> = (0..n).map(column).collect();
        let multiples = |x: u8| std::array::from_fn(|i| mul(x, i as u8));
        (0..n).flat_map(|j| inverse.iter().map(move |c| multiples(c[j]))).collect()
    };
    if code == Code::Four { FOUR.get_or_init(make) } else { TWO.get_or_init(make) }
}

/// Syndrome k of a word is the value of its polynomial at 2^k, first row highest: one row of them
/// after the other.
fn syndromes(rows: usize, cols: usize, payload: &[u8], parity: &[u8]) -> Vec<u8> {
    let mut sums = vec![0; rows * cols];
    #[cfg(target_arch = "x86_64")]
    if Isa::best() >= Isa::Avx2 {
        // SAFETY: the CPU has AVX2.
        unsafe { absorb_avx2(&mut sums, cols, payload, parity) };
        return sums;
    }
    absorb(&mut sums, cols, payload, parity);
    sums
}

/// The same code, compiled for wider vectors.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn absorb_avx2(sums: &mut [u8], cols: usize, payload: &[u8], parity: &[u8]) {
    absorb(sums, cols, payload, parity);
}

#[inline(always)]
fn absorb(sums: &mut [u8], cols: usize, payload: &[u8], parity: &[u8]) {
    /// Columns at a time, so that their syndromes stay in the nearest cache.
    const TILE: usize = 2048;
    let mut last = vec![0; cols];
    let whole = payload.len() / cols * cols;
    last[..payload.len() - whole].copy_from_slice(&payload[whole..]);
    let short = if whole < payload.len() { &last[..] } else { &[] };
    let rows = sums.len() / cols;
    for from in (0..cols).step_by(TILE) {
        let to = (from + TILE).min(cols);
        let all = payload[..whole].chunks(cols).chain(short.chunks(cols));
        for row in all.chain(parity.chunks(cols)) {
            for (four, part) in sums.chunks_mut(4 * cols).enumerate().take(rows / 4) {
                let (a, rest) = part.split_at_mut(cols);
                let (b, rest) = rest.split_at_mut(cols);
                let (c, d) = rest.split_at_mut(cols);
                let parts =
                    [&mut a[from..to], &mut b[from..to], &mut c[from..to], &mut d[from..to]];
                if four == 0 {
                    step::<0>(parts, &row[from..to]);
                } else {
                    step::<4>(parts, &row[from..to]);
                }
            }
        }
    }
}

/// Takes one row into the syndromes from `K` on.
#[inline(always)]
fn step<const K: usize>([a, b, c, d]: [&mut [u8]; 4], row: &[u8]) {
    let n = row.len();
    let (a, b, c, d) = (&mut a[..n], &mut b[..n], &mut c[..n], &mut d[..n]);
    for i in 0..n {
        let x = row[i];
        a[i] = raise::<K>(a[i]) ^ x;
        b[i] = double(raise::<K>(b[i])) ^ x;
        c[i] = double(double(raise::<K>(c[i]))) ^ x;
        d[i] = double(double(double(raise::<K>(d[i])))) ^ x;
    }
}

/// `x` times 2 to the power of `K`, which is 0 or 4.
#[inline(always)]
fn raise<const K: usize>(x: u8) -> u8 {
    if K == 4 { double(double(double(double(x)))) } else { x }
}

/// Rows and values of a word's errors from its syndromes (Berlekamp–Massey, then trial of all
/// rows); `None` if they are too many.
fn locate(parity: usize, rows: usize, s: &[u8; MOST]) -> Option<Vec<(usize, u8)>> {
    let (mut c, mut b) = ([0u8; MOST + 1], [0u8; MOST + 1]);
    (c[0], b[0]) = (1, 1);
    let (mut count, mut shift, mut last) = (0, 1, 1);
    for n in 0..parity {
        let gap = (1..=count).fold(s[n], |d, i| d ^ mul(c[i], s[n - i]));
        if gap == 0 {
            shift += 1;
            continue;
        }
        let before = c;
        let factor = gf::div(gap, last);
        for i in 0..=MOST.checked_sub(shift)? {
            c[i + shift] ^= mul(factor, b[i]);
        }
        if 2 * count <= n {
            count = n + 1 - count;
            (b, last, shift) = (before, gap, 1);
        } else {
            shift += 1;
        }
    }
    if count == 0 || count > parity / 2 {
        return None;
    }
    let is_wrong = |row: &usize| {
        // The row's locator is 2^(rows-1-row); roots are the inverses.
        let inverse = 255 - (rows - 1 - row) % 255;
        c[..=count].iter().enumerate().fold(0, |v, (i, x)| v ^ mul(*x, power(i * inverse))) == 0
    };
    let found: Vec<usize> = (0..rows).filter(is_wrong).collect();
    if found.len() != count {
        return None;
    }
    let locator = |row: usize, k: usize| power((rows - 1 - row) * k);
    let (mut m, mut values) = ([[0; MOST]; MOST], *s);
    for (k, line) in m[..count].iter_mut().enumerate() {
        for (v, row) in line.iter_mut().zip(&found) {
            *v = locator(*row, k);
        }
    }
    if !gf::solve(count, &mut m, &mut values) {
        return None;
    }
    let explained = (0..parity).all(|k| {
        let sum = found.iter().zip(&values).fold(0, |v, (r, x)| v ^ mul(*x, locator(*r, k)));
        sum == s[k]
    });
    explained.then(|| found.into_iter().zip(values).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::tests::hex;

    /// Bytes that look random, the same each time.
    fn noise(n: usize, seed: u32) -> Vec<u8> {
        let mut x = seed | 1;
        let mut next = || {
            x ^= x << 13;
            x ^= x >> 17;
            x ^= x << 5;
            (x >> 11) as u8
        };
        (0..n).map(|_| next()).collect()
    }

    #[test]
    fn golden_parity() {
        assert_eq!(hex(&Code::Two.parity(b"lmfs")), "aedbcdac");
        assert_eq!(hex(&Code::Four.parity(b"lmfs")), "2fa126b3ea275c9e");
    }

    #[test]
    fn no_bytes_need_no_parity() {
        for code in [Code::None, Code::Two, Code::Four] {
            assert!(code.parity(&[]).is_empty());
            assert!(code.holds(&[], &[]) && !code.holds(&[], &[0; 4]));
            assert_eq!(code.correct(&mut [], &mut []), Err(TooMany));
        }
    }

    /// Parity by polynomial division, for one word.
    fn slow(code: Code, word: &[u8]) -> Vec<u8> {
        let n = code.rows();
        let mut g = vec![1u8];
        for k in 0..n {
            let mut next = vec![0; g.len() + 1];
            for (i, c) in g.iter().enumerate() {
                next[i] ^= c;
                next[i + 1] ^= mul(*c, power(k));
            }
            g = next;
        }
        let mut rest = word.to_vec();
        rest.resize(word.len() + n, 0);
        for i in 0..word.len() {
            let f = rest[i];
            for (j, c) in g.iter().enumerate() {
                rest[i + j] ^= mul(f, *c);
            }
        }
        rest[word.len()..].to_vec()
    }

    #[test]
    fn parity_is_the_remainder_of_division() {
        for code in [Code::Two, Code::Four] {
            for n in [1, 4, 100, 255 - code.rows()] {
                let word = noise(n, n as u32);
                assert_eq!(code.parity(&word), slow(code, &word), "{code:?} {n}");
            }
        }
    }

    #[test]
    fn no_payload_has_no_parity() {
        for code in [Code::None, Code::Two, Code::Four] {
            assert!(code.parity(&[]).is_empty());
            assert!(code.holds(&[], &[]) && !code.holds(&[], &[1]));
            assert_eq!(code.correct(&mut [], &mut []), Err(TooMany));
        }
    }

    #[test]
    fn lengths_can_be_told_from_the_sum() {
        for code in [Code::None, Code::Two, Code::Four] {
            for n in (0..3000).chain([65_536, 1 << 20, 0xff_ffff]) {
                let parity = code.parity_len(n);
                assert_eq!(code.parity_in(n + parity), parity, "{code:?} {n}");
            }
        }
    }

    #[test]
    fn what_the_code_promises_is_corrected() {
        for (code, most) in [(Code::Two, 2), (Code::Four, 4)] {
            for n in [1, 3, 250, 251, 252, 1000, 5000] {
                let good = noise(n, n as u32);
                let parity = code.parity(&good);
                assert!(code.holds(&good, &parity));
                let cols = code.columns(n);
                for seed in 1..40u32 {
                    let (mut bad, mut p) = (good.clone(), parity.clone());
                    // Up to `most` errors in every word, anywhere in it.
                    for col in 0..cols {
                        let rows = (n - col).div_ceil(cols);
                        for e in noise(most * 3, seed * 977 + col as u32).chunks(3) {
                            let row = usize::from(e[0]) % (rows + code.rows());
                            match row.checked_sub(rows) {
                                None => bad[row * cols + col] ^= e[1],
                                Some(r) => p[r * cols + col] ^= e[2],
                            }
                        }
                    }
                    let wrong = !code.holds(&bad, &p);
                    assert_eq!(code.correct(&mut bad, &mut p).map(|w| w > 0), Ok(wrong));
                    assert!(bad == good && p == parity, "{code:?} {n} {seed}");
                }
            }
        }
    }

    #[test]
    fn a_run_of_wrong_bytes_spreads_over_the_words() {
        let good = noise(65_536, 5);
        let (mut bad, mut parity) = (good.clone(), Code::Two.parity(&good));
        for b in &mut bad[30_000..30_500] {
            *b ^= 0xa5;
        }
        assert_eq!(Code::Two.correct(&mut bad, &mut parity), Ok(500));
        assert!(bad == good);
    }

    #[test]
    fn too_many_errors_are_mostly_noticed_and_never_crash() {
        let good = noise(2510, 3);
        let parity = Code::Two.parity(&good);
        let mut noticed = 0;
        for seed in 1..200u32 {
            let mut bad = good.clone();
            for e in noise(80, seed * 7919).chunks(2) {
                bad[usize::from(e[0]) * 9 % 2510] ^= e[1];
            }
            let mut p = parity.clone();
            noticed += usize::from(Code::Two.correct(&mut bad, &mut p).is_err());
        }
        assert!(noticed > 150, "{noticed}");
    }

    #[cfg(target_arch = "x86_64")]
    #[test]
    fn wide_and_narrow_vectors_agree() {
        for n in [1, 251, 252, 4000, 70_000] {
            let (data, cols) = (noise(n, 9), Code::Four.columns(n));
            let parity = noise(8 * cols, 10);
            let mut narrow = vec![0; 8 * cols];
            absorb(&mut narrow, cols, &data, &parity);
            assert!(syndromes(8, cols, &data, &parity) == narrow);
        }
    }
}
