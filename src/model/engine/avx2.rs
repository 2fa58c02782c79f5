//! The kernel's twin for AVX2, equal to [`super::kernel::Scalar`] bit for bit.
//!
//! `vpmaddubsw` multiplies bytes and adds two neighbours into 16 bits, where two of its results
//! still fit (see [`super::kernel`]) once the weights' offset is undone; then `vpmaddwd` with ones
//! widens. Adding the correction first may wrap, which the sum undoes.

use super::kernel::{Column, GROUP_BYTES, Kernel, MAX_COLUMNS, MAX_POSITIONS, Outputs, Packed};
use super::kernel::{QUAD_BYTES, ROWS};
use super::math::{GROUP, WEIGHT_MAX};
#[allow(clippy::wildcard_imports)] // Dozens of intrinsics.
use std::arch::x86_64::*;
use std::ops::Range;

/// AVX2.
pub struct Avx2;

/// Columns of one pass over the weights: as many as the registers hold sums of.
const AT_ONCE: usize = 4;

/// What a pass over a tile of weights fetches into the cache meanwhile, a part for each 128 bytes of
/// the tile: all of what follows the tile if it is the only pass, half of it if there is another, so
/// that memory never rests.
#[derive(Debug, Clone, Copy)]
struct Ahead {
    at: *const u8,
    /// Bytes for each 128 of the tile: 64 or 128.
    rate: usize,
}

impl Ahead {
    /// While `bytes` of a tile are used.
    #[inline(always)]
    fn skip(self, bytes: usize) -> Self {
        Self { at: self.at.wrapping_add(bytes * self.rate / 128), ..self }
    }

    #[inline(always)]
    fn fetch(self) {
        // SAFETY: a prefetch of any address is harmless.
        unsafe {
            _mm_prefetch::<_MM_HINT_T0>(self.at.cast());
            _mm_prefetch::<_MM_HINT_T0>(self.at.wrapping_add(self.rate - 64).cast());
        }
    }
}

/// Four bytes eight times over.
#[inline(always)]
unsafe fn quad<T>(p: *const T) -> __m256i {
    // SAFETY: the caller vouches for four readable bytes; the read is unaligned.
    unsafe { _mm256_set1_epi32(p.cast::<i32>().read_unaligned()) }
}

/// Sums of 2 × 8 rows over `quads` quads, an even number, for `C` columns.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn dots<const C: usize>(
    w: *const u8,
    quads: usize,
    values: &[*const i8; C],
    offsets: &[*const i32; C],
    from: usize,
    ahead: Ahead,
) -> [[__m256i; 2]; C] {
    let ones = _mm256_set1_epi16(1);
    let mut acc = [[_mm256_setzero_si256(); 2]; C];
    for q in (0..quads).step_by(2) {
        // SAFETY: the caller vouches for `quads` quads of weights, and as many of values and
        // offsets behind `from`.
        unsafe {
            let w = w.add(q * QUAD_BYTES);
            ahead.skip(q * QUAD_BYTES).fetch();
            let w0 = [_mm256_loadu_si256(w.cast()), _mm256_loadu_si256(w.add(32).cast())];
            let w1 = [_mm256_loadu_si256(w.add(64).cast()), _mm256_loadu_si256(w.add(96).cast())];
            for c in 0..C {
                let offset = quad(offsets[c].add(from + q));
                let a0 = quad(values[c].add((from + q) * 4));
                let a1 = quad(values[c].add((from + q) * 4 + 4));
                for r in 0..2 {
                    let sum = _mm256_add_epi16(offset, _mm256_maddubs_epi16(w0[r], a0));
                    let sum = _mm256_add_epi16(sum, _mm256_maddubs_epi16(w1[r], a1));
                    acc[c][r] = _mm256_add_epi32(acc[c][r], _mm256_madd_epi16(sum, ones));
                }
            }
        }
    }
    acc
}

#[inline]
#[target_feature(enable = "avx2")]
unsafe fn linear<const C: usize>(
    w: &Packed,
    blocks: Range<usize>,
    x: &[Column],
    out: Outputs,
    ahead: Ahead,
) {
    assert!(x.len() == C && blocks.end <= w.blocks());
    assert!(x.iter().all(|c| c.values.len() >= w.groups * GROUP && c.scales.len() >= w.groups));
    assert!(x.iter().all(|c| c.offsets.len() >= w.groups * GROUP / 4));
    assert!(w.weights.len() == w.blocks() * w.groups * GROUP_BYTES);
    assert!(w.scales.len() == w.rows * w.groups);
    let values: [*const i8; C] = std::array::from_fn(|c| x[c].values.as_ptr());
    let offsets: [*const i32; C] = std::array::from_fn(|c| x[c].offsets.as_ptr());
    let scales: [*const f32; C] = std::array::from_fn(|c| x[c].scales.as_ptr());
    for block in blocks.clone() {
        let mut sums = [[_mm256_setzero_ps(); 2]; C];
        for g in 0..w.groups {
            let at = block * w.groups + g;
            // SAFETY: the assertions bound all reads.
            unsafe {
                let weights = w.weights.as_ptr().add(at * GROUP_BYTES);
                let ahead = ahead.skip((at - blocks.start * w.groups) * GROUP_BYTES);
                let acc = dots::<C>(weights, GROUP / 4, &values, &offsets, g * GROUP / 4, ahead);
                let ws = w.scales.as_ptr().add(at * ROWS);
                let ws = [_mm256_loadu_ps(ws), _mm256_loadu_ps(ws.add(8))];
                for c in 0..C {
                    let scale = _mm256_set1_ps(*scales[c].add(g));
                    for r in 0..2 {
                        let t = _mm256_mul_ps(_mm256_cvtepi32_ps(acc[c][r]), ws[r]);
                        sums[c][r] = _mm256_add_ps(sums[c][r], _mm256_mul_ps(t, scale));
                    }
                }
            }
        }
        for (c, sum) in sums.iter().enumerate() {
            // SAFETY: the caller vouches for room for all rows of each column.
            unsafe {
                let to = out.at.add(c * out.stride + block * ROWS);
                _mm256_storeu_ps(to, sum[0]);
                _mm256_storeu_ps(to.add(8), sum[1]);
            }
        }
    }
}

#[inline]
#[target_feature(enable = "avx2")]
unsafe fn keys<const C: usize>(keys: &[u8], x: &[Column], out: &mut [i32], stride: usize) {
    let d = x[0].values.len();
    assert!(x.len() == C && d.is_multiple_of(16) && keys.len().is_multiple_of(d * ROWS));
    assert!(x.iter().all(|c| c.values.len() == d && c.offsets.len() >= d / 4));
    assert!(out.len() >= (C - 1) * stride + keys.len() / d);
    let values: [*const i8; C] = std::array::from_fn(|c| x[c].values.as_ptr());
    let offsets: [*const i32; C] = std::array::from_fn(|c| x[c].offsets.as_ptr());
    for block in 0..keys.len() / (d * ROWS) {
        // SAFETY: the assertions bound all accesses.
        unsafe {
            let keys = keys.as_ptr().add(block * ROWS * d);
            let ahead = Ahead { at: keys.wrapping_add(4096), rate: 128 };
            let acc = dots::<C>(keys, d / 4, &values, &offsets, 0, ahead);
            for (c, acc) in acc.iter().enumerate() {
                let to = out.as_mut_ptr().add(c * stride + block * ROWS);
                _mm256_storeu_si256(to.cast(), acc[0]);
                _mm256_storeu_si256(to.add(8).cast(), acc[1]);
            }
        }
    }
}

/// `Q` queries over the same values, `H` halves of a panel (8 elements each) at a time.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn values<const Q: usize, const H: usize>(
    values: &[i8],
    p: &[i16],
    stride: usize,
    d: usize,
    out: &mut [i32],
) {
    let slots = values.len() / d;
    assert!(d.is_multiple_of(ROWS) && slots.is_multiple_of(ROWS) && slots <= MAX_POSITIONS);
    assert!(p.len() >= (Q - 1) * stride + slots && out.len() >= Q * d);
    for first in (0..d).step_by(8 * H) {
        let mut acc = [[[_mm256_setzero_si256(); 2]; H]; Q];
        let panel = first / ROWS * ROWS * ROWS + first % ROWS * 4;
        for t in (0..slots).step_by(4) {
            // SAFETY: the assertions bound all accesses.
            unsafe {
                let quad = values.as_ptr().add(t / ROWS * ROWS * d + panel + t % ROWS * ROWS);
                let mut v = [[_mm256_setzero_si256(); 2]; H];
                for h in 0..H {
                    for r in 0..2 {
                        let bytes = _mm_loadu_si128(quad.add(h * 32 + r * 16).cast());
                        v[h][r] = _mm256_cvtepi8_epi16(bytes);
                    }
                }
                for (q, acc) in acc.iter_mut().enumerate() {
                    let p = p.as_ptr().add(q * stride + t).cast::<i64>().read_unaligned();
                    let p = _mm256_set1_epi64x(p);
                    for h in 0..H {
                        for r in 0..2 {
                            let product = _mm256_madd_epi16(v[h][r], p);
                            acc[h][r] = _mm256_add_epi32(acc[h][r], product);
                        }
                    }
                }
            }
        }
        for (q, acc) in acc.iter().enumerate() {
            for (h, acc) in acc.iter().enumerate() {
                // Each value has two neighbouring sums, in the order 0 1 4 5 2 3 6 7 after `hadd`.
                let sum = _mm256_hadd_epi32(acc[0], acc[1]);
                let sum = _mm256_permute4x64_epi64::<0b11_01_10_00>(sum);
                let to = q * d + first + h * 8;
                // SAFETY: first + 8 · H ≤ d.
                unsafe { _mm256_storeu_si256(out.as_mut_ptr().add(to).cast(), sum) };
            }
        }
    }
}

/// Per two quads, twice: −offset times the values that meet in each of the two 16-bit sums.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn offsets(values: &[i8], out: &mut [i32]) {
    assert!(values.len().is_multiple_of(16) && out.len() * 4 >= values.len());
    let weight = _mm_set1_epi8(WEIGHT_MAX);
    for i in (0..values.len()).step_by(16) {
        // SAFETY: the assertion bounds both accesses.
        unsafe {
            let v = _mm_loadu_si128(values.as_ptr().add(i).cast());
            let pairs = _mm_maddubs_epi16(weight, v);
            let sums = _mm_add_epi16(pairs, _mm_shuffle_epi32::<0b10_11_00_01>(pairs));
            let minus = _mm_sub_epi16(_mm_setzero_si128(), sums);
            _mm_storeu_si128(out.as_mut_ptr().add(i / 4).cast(), minus);
        }
    }
}

/// Cuts `n` columns into even shares of at most [`AT_ONCE`]: (first, number).
#[inline(always)]
fn shares(n: usize) -> impl Iterator<Item = (usize, usize)> {
    debug_assert!(n <= MAX_COLUMNS);
    let count = n.div_ceil(AT_ONCE).max(1);
    (0..count).map(move |i| (i * n / count, (i + 1) * n / count - i * n / count))
}

#[target_feature(enable = "avx2")]
unsafe fn linear_any(w: &Packed, blocks: Range<usize>, columns: &[Column], out: Outputs) {
    let tile = blocks.len() * w.groups * GROUP_BYTES;
    let next = w.weights.as_ptr().wrapping_add(blocks.end * w.groups * GROUP_BYTES);
    for (first, n) in shares(columns.len()) {
        let (x, b) = (&columns[first..first + n], blocks.clone());
        let ahead = match (n == columns.len(), first) {
            (true, _) => Ahead { at: next, rate: 128 },
            (false, 0) => Ahead { at: next, rate: 64 },
            (false, _) => Ahead { at: next.wrapping_add(tile / 2), rate: 64 },
        };
        // SAFETY: this function's own requirements.
        unsafe {
            let out = Outputs { at: out.at.add(first * out.stride), ..out };
            match n {
                0 => {}
                1 => linear::<1>(w, b, x, out, ahead),
                2 => linear::<2>(w, b, x, out, ahead),
                3 => linear::<3>(w, b, x, out, ahead),
                _ => linear::<4>(w, b, x, out, ahead),
            }
        }
    }
}

#[target_feature(enable = "avx2")]
unsafe fn keys_any(cached: &[u8], queries: &[Column], out: &mut [i32], stride: usize) {
    for (first, n) in shares(queries.len()) {
        let (x, out) = (&queries[first..first + n], &mut out[first * stride..]);
        // SAFETY: this function's own requirement.
        unsafe {
            match n {
                0 => {}
                1 => keys::<1>(cached, x, out, stride),
                2 => keys::<2>(cached, x, out, stride),
                3 => keys::<3>(cached, x, out, stride),
                _ => keys::<4>(cached, x, out, stride),
            }
        }
    }
}

#[target_feature(enable = "avx2")]
unsafe fn values_any(cached: &[i8], p: &[i16], stride: usize, d: usize, out: &mut [i32]) {
    for (first, n) in shares(out.len() / d) {
        let (p, out) = (&p[first * stride..], &mut out[first * d..]);
        // SAFETY: this function's own requirement.
        unsafe {
            match n {
                0 => {}
                1 => values::<1, 2>(cached, p, stride, d, out),
                2 => values::<2, 2>(cached, p, stride, d, out),
                3 => values::<3, 1>(cached, p, stride, d, out),
                _ => values::<4, 1>(cached, p, stride, d, out),
            }
        }
    }
}

impl Kernel for Avx2 {
    #[inline(always)]
    unsafe fn offsets(values: &[i8], out: &mut [i32]) {
        // SAFETY: the caller vouches for the instruction set.
        unsafe { offsets(values, out) }
    }
    #[inline(always)]
    unsafe fn linear(w: &Packed, blocks: Range<usize>, columns: &[Column], out: Outputs) {
        // SAFETY: the caller vouches for the instruction set and for `out`.
        unsafe { linear_any(w, blocks, columns, out) }
    }
    #[inline(always)]
    unsafe fn keys(keys: &[u8], queries: &[Column], out: &mut [i32], stride: usize) {
        // SAFETY: the caller vouches for the instruction set.
        unsafe { keys_any(keys, queries, out, stride) }
    }
    #[inline(always)]
    unsafe fn values(values: &[i8], p: &[i16], stride: usize, d: usize, out: &mut [i32]) {
        // SAFETY: the caller vouches for the instruction set.
        unsafe { values_any(values, p, stride, d, out) }
    }
}
