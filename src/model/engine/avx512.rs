//! The kernel's twin for AVX-512 with VNNI, equal to [`super::kernel::Scalar`] bit for bit.
//!
//! One `vpdpbusd` does 16 rows × 4 inputs. The functions stand in a macro, so that the tests can run
//! them on any CPU with plain Rust in the place of the instructions.

use super::kernel::{Column, GROUP_BYTES, Kernel, MAX_COLUMNS, MAX_POSITIONS, Outputs, Packed};
use super::kernel::{QUAD_BYTES, ROWS};
use super::math::{GROUP, WEIGHT_MAX};
#[allow(clippy::wildcard_imports)] // Dozens of intrinsics.
use std::arch::x86_64::*;
use std::ops::Range;

/// AVX-512 with VNNI.
pub struct Avx512Vnni;

macro_rules! kernels {
    ($(#[$features:meta])?) => {
        /// Four bytes 16 times over.
        #[inline]
        $(#[$features])?
        unsafe fn quad(p: *const i8) -> __m512i {
            // SAFETY: the caller vouches for four readable bytes; the read is unaligned.
            unsafe { _mm512_set1_epi32(p.cast::<i32>().read_unaligned()) }
        }

        /// `B` blocks of rows for `C` columns.
        #[inline]
        $(#[$features])?
        unsafe fn rows<const C: usize, const B: usize>(
            w: &Packed,
            block: usize,
            x: &[Column],
            out: Outputs,
        ) {
            assert!(x.len() == C && block + B <= w.blocks());
            assert!(x.iter().all(|c| c.values.len() >= w.groups * GROUP));
            assert!(x.iter().all(|c| c.scales.len() >= w.groups));
            assert!(x.iter().all(|c| c.offsets.len() >= w.groups * GROUP / 4));
            assert!(w.weights.len() == w.blocks() * w.groups * GROUP_BYTES);
            assert!(w.scales.len() == w.rows * w.groups);
            let mut sums = [[_mm512_setzero_ps(); B]; C];
            for g in 0..w.groups {
                let mut acc = [[_mm512_setzero_si512(); B]; C];
                for c in 0..C {
                    acc[c] = [_mm512_set1_epi32(x[c].offsets[g * GROUP / 4]); B];
                }
                let at: [usize; B] = std::array::from_fn(|b| (block + b) * w.groups + g);
                for q in 0..GROUP / 4 {
                    // SAFETY: the assertions bound all reads.
                    unsafe {
                        let mut weights = [_mm512_setzero_si512(); B];
                        for b in 0..B {
                            let from = at[b] * GROUP_BYTES + q * QUAD_BYTES;
                            weights[b] = _mm512_loadu_si512(w.weights.as_ptr().add(from).cast());
                        }
                        for c in 0..C {
                            let a = quad(x[c].values.as_ptr().add(g * GROUP + q * 4));
                            for b in 0..B {
                                acc[c][b] = _mm512_dpbusd_epi32(acc[c][b], weights[b], a);
                            }
                        }
                    }
                }
                for b in 0..B {
                    // SAFETY: the assertions bound the read.
                    let ws = unsafe { _mm512_loadu_ps(w.scales.as_ptr().add(at[b] * ROWS)) };
                    for c in 0..C {
                        let t = _mm512_mul_ps(_mm512_cvtepi32_ps(acc[c][b]), ws);
                        let t = _mm512_mul_ps(t, _mm512_set1_ps(x[c].scales[g]));
                        sums[c][b] = _mm512_add_ps(sums[c][b], t);
                    }
                }
            }
            for (c, sums) in sums.iter().enumerate() {
                for (b, sum) in sums.iter().enumerate() {
                    // SAFETY: the caller vouches for room for all rows of each column.
                    unsafe {
                        _mm512_storeu_ps(out.at.add(c * out.stride + (block + b) * ROWS), *sum);
                    }
                }
            }
        }

        #[inline]
        $(#[$features])?
        unsafe fn linear<const C: usize>(
            w: &Packed,
            blocks: Range<usize>,
            x: &[Column],
            out: Outputs,
        ) {
            let mut block = blocks.start;
            // Two blocks at a time hide the latency of few columns; more do not fit the registers.
            while C <= 6 && block + 2 <= blocks.end {
                // SAFETY: this function's own requirements.
                unsafe { rows::<C, 2>(w, block, x, out) };
                block += 2;
            }
            while block < blocks.end {
                // SAFETY: this function's own requirements.
                unsafe { rows::<C, 1>(w, block, x, out) };
                block += 1;
            }
        }

        $(#[$features])?
        pub(super) unsafe fn linear_any(
            w: &Packed,
            blocks: Range<usize>,
            x: &[Column],
            out: Outputs,
        ) {
            // SAFETY: this function's own requirements.
            unsafe {
                match x.len() {
                    0 => {}
                    1 => linear::<1>(w, blocks, x, out),
                    2 => linear::<2>(w, blocks, x, out),
                    3 => linear::<3>(w, blocks, x, out),
                    4 => linear::<4>(w, blocks, x, out),
                    5 => linear::<5>(w, blocks, x, out),
                    6 => linear::<6>(w, blocks, x, out),
                    7 => linear::<7>(w, blocks, x, out),
                    MAX_COLUMNS => linear::<MAX_COLUMNS>(w, blocks, x, out),
                    n => unreachable!("{n} columns in one call"),
                }
            }
        }

        $(#[$features])?
        pub(super) unsafe fn keys(keys: &[u8], x: &[Column], out: &mut [i32], stride: usize) {
            let d = x[0].values.len();
            assert!(d.is_multiple_of(8) && keys.len().is_multiple_of(d * ROWS));
            assert!(x.iter().all(|c| c.values.len() == d));
            assert!(out.len() >= (x.len() - 1) * stride + keys.len() / d);
            for block in 0..keys.len() / (d * ROWS) {
                for (c, query) in x.iter().enumerate() {
                    let mut even = _mm512_set1_epi32(query.offsets[0]);
                    let mut odd = _mm512_setzero_si512();
                    for i in (0..d / 4).step_by(2) {
                        // SAFETY: the assertions bound all reads.
                        unsafe {
                            let k = keys.as_ptr().add(block * ROWS * d + i * QUAD_BYTES);
                            let q = query.values.as_ptr().add(i * 4);
                            let k0 = _mm512_loadu_si512(k.cast());
                            let k1 = _mm512_loadu_si512(k.add(QUAD_BYTES).cast());
                            even = _mm512_dpbusd_epi32(even, k0, quad(q));
                            odd = _mm512_dpbusd_epi32(odd, k1, quad(q.add(4)));
                        }
                    }
                    let sum = _mm512_add_epi32(even, odd);
                    // SAFETY: the assertions bound the write.
                    unsafe {
                        let to = out.as_mut_ptr().add(c * stride + block * ROWS);
                        _mm512_storeu_si512(to.cast(), sum);
                    }
                }
            }
        }

        /// `Q` queries over the same values.
        #[inline]
        $(#[$features])?
        unsafe fn values<const Q: usize>(
            values: &[i8],
            p: &[i16],
            stride: usize,
            d: usize,
            out: &mut [i32],
        ) {
            let slots = values.len() / d;
            assert!(d.is_multiple_of(ROWS) && slots.is_multiple_of(ROWS) && slots <= MAX_POSITIONS);
            assert!(p.len() >= (Q - 1) * stride + slots && out.len() >= Q * d);
            let even = [0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30];
            // SAFETY: 64 bytes each.
            let (even, odd) = unsafe {
                let odd = even.map(|i: i32| i + 1);
                (_mm512_loadu_si512(even.as_ptr().cast()), _mm512_loadu_si512(odd.as_ptr().cast()))
            };
            for first in (0..d).step_by(ROWS) {
                let mut acc = [[_mm512_setzero_si512(); 2]; Q];
                for t in (0..slots).step_by(4) {
                    // SAFETY: the assertions bound all reads.
                    unsafe {
                        let block = t / ROWS * ROWS * d + first * ROWS + t % ROWS * ROWS;
                        let v = values.as_ptr().add(block);
                        let v0 = _mm512_cvtepi8_epi16(_mm256_loadu_si256(v.cast()));
                        let v1 = _mm512_cvtepi8_epi16(_mm256_loadu_si256(v.add(32).cast()));
                        for q in 0..Q {
                            let p = p.as_ptr().add(q * stride + t).cast::<i64>().read_unaligned();
                            let p = _mm512_set1_epi64(p);
                            acc[q][0] = _mm512_dpwssd_epi32(acc[q][0], v0, p);
                            acc[q][1] = _mm512_dpwssd_epi32(acc[q][1], v1, p);
                        }
                    }
                }
                for (q, acc) in acc.iter().enumerate() {
                    // Each value has two neighbouring sums.
                    let e = _mm512_permutex2var_epi32(acc[0], even, acc[1]);
                    let o = _mm512_permutex2var_epi32(acc[0], odd, acc[1]);
                    let sum = _mm512_add_epi32(e, o);
                    // SAFETY: first + 16 ≤ d.
                    unsafe {
                        _mm512_storeu_si512(out.as_mut_ptr().add(q * d + first).cast(), sum);
                    }
                }
            }
        }

        $(#[$features])?
        pub(super) unsafe fn values_any(
            cached: &[i8],
            p: &[i16],
            stride: usize,
            d: usize,
            out: &mut [i32],
        ) {
            for (p, out) in p.chunks(stride * 4).zip(out.chunks_mut(d * 4)) {
                // SAFETY: this function's own requirement.
                unsafe {
                    match out.len() / d {
                        1 => values::<1>(cached, p, stride, d, out),
                        2 => values::<2>(cached, p, stride, d, out),
                        3 => values::<3>(cached, p, stride, d, out),
                        _ => values::<4>(cached, p, stride, d, out),
                    }
                }
            }
        }
    };
}

kernels!(#[target_feature(enable = "avx2,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]);

/// −offset times the sum of the values, in the first place.
#[inline(always)]
fn sum_offset(values: &[i8], out: &mut [i32]) {
    out[0] = -i32::from(WEIGHT_MAX) * values.iter().map(|v| i32::from(*v)).sum::<i32>();
}

impl Kernel for Avx512Vnni {
    #[inline(always)]
    unsafe fn offsets(values: &[i8], out: &mut [i32]) {
        sum_offset(values, out);
    }
    #[inline(always)]
    unsafe fn linear(w: &Packed, blocks: Range<usize>, columns: &[Column], out: Outputs) {
        // SAFETY: the caller vouches for the instruction set and for `out`.
        unsafe { linear_any(w, blocks, columns, out) }
    }
    #[inline(always)]
    unsafe fn keys(cached: &[u8], queries: &[Column], out: &mut [i32], stride: usize) {
        // SAFETY: the caller vouches for the instruction set.
        unsafe { keys(cached, queries, out, stride) }
    }
    #[inline(always)]
    unsafe fn values(cached: &[i8], p: &[i16], stride: usize, d: usize, out: &mut [i32]) {
        // SAFETY: the caller vouches for the instruction set.
        unsafe { values_any(cached, p, stride, d, out) }
    }
}

/// The same functions with plain Rust for instructions, after Intel's "Intrinsics Guide".
#[cfg(test)]
#[allow(clippy::used_underscore_items, reason = "they stand for intrinsics of these names")]
pub(super) mod emulated {
    use super::{Column, GROUP, GROUP_BYTES, Kernel, MAX_COLUMNS, MAX_POSITIONS, Outputs, Packed};
    use super::{QUAD_BYTES, ROWS, Range, sum_offset};
    use std::array::from_fn;

    #[allow(non_camel_case_types)]
    #[derive(Clone, Copy)]
    struct __m512i([i32; 16]);
    #[allow(non_camel_case_types)]
    #[derive(Clone, Copy)]
    struct __m512([f32; 16]);
    #[allow(non_camel_case_types)]
    #[derive(Clone, Copy)]
    struct __m256i([i8; 32]);

    fn _mm512_setzero_si512() -> __m512i {
        __m512i([0; 16])
    }
    fn _mm512_setzero_ps() -> __m512 {
        __m512([0.0; 16])
    }
    fn _mm512_set1_epi32(v: i32) -> __m512i {
        __m512i([v; 16])
    }
    fn _mm512_set1_epi64(v: i64) -> __m512i {
        __m512i(from_fn(|i| (v >> (i % 2 * 32)) as i32))
    }
    fn _mm512_set1_ps(v: f32) -> __m512 {
        __m512([v; 16])
    }
    unsafe fn _mm512_loadu_si512(p: *const __m512i) -> __m512i {
        unsafe { p.read_unaligned() }
    }
    unsafe fn _mm512_storeu_si512(p: *mut __m512i, v: __m512i) {
        unsafe { p.write_unaligned(v) }
    }
    unsafe fn _mm512_loadu_ps(p: *const f32) -> __m512 {
        unsafe { p.cast::<__m512>().read_unaligned() }
    }
    unsafe fn _mm512_storeu_ps(p: *mut f32, v: __m512) {
        unsafe { p.cast::<__m512>().write_unaligned(v) }
    }
    unsafe fn _mm256_loadu_si256(p: *const __m256i) -> __m256i {
        unsafe { p.read_unaligned() }
    }
    fn _mm512_dpbusd_epi32(acc: __m512i, a: __m512i, b: __m512i) -> __m512i {
        __m512i(from_fn(|i| {
            let (a, b) = (a.0[i].to_le_bytes(), b.0[i].to_le_bytes());
            (0..4).fold(acc.0[i], |s, j| s.wrapping_add(i32::from(a[j]) * i32::from(b[j] as i8)))
        }))
    }
    fn _mm512_dpwssd_epi32(acc: __m512i, a: __m512i, b: __m512i) -> __m512i {
        __m512i(from_fn(|i| {
            let half = |v: i32, j: usize| i32::from((v >> (j * 16)) as i16);
            (0..2).fold(acc.0[i], |s, j| s.wrapping_add(half(a.0[i], j) * half(b.0[i], j)))
        }))
    }
    fn _mm512_cvtepi8_epi16(v: __m256i) -> __m512i {
        __m512i(from_fn(|i| {
            let wide = |v: i8| u32::from(i16::from(v) as u16);
            (wide(v.0[2 * i]) | wide(v.0[2 * i + 1]) << 16) as i32
        }))
    }
    fn _mm512_permutex2var_epi32(a: __m512i, index: __m512i, b: __m512i) -> __m512i {
        __m512i(
            index.0.map(|i| if i & 16 == 0 { a.0[i as usize & 15] } else { b.0[i as usize & 15] }),
        )
    }
    fn _mm512_cvtepi32_ps(v: __m512i) -> __m512 {
        __m512(v.0.map(|v| v as f32))
    }
    fn _mm512_mul_ps(a: __m512, b: __m512) -> __m512 {
        __m512(from_fn(|i| a.0[i] * b.0[i]))
    }
    fn _mm512_add_ps(a: __m512, b: __m512) -> __m512 {
        __m512(from_fn(|i| a.0[i] + b.0[i]))
    }
    fn _mm512_add_epi32(a: __m512i, b: __m512i) -> __m512i {
        __m512i(from_fn(|i| a.0[i].wrapping_add(b.0[i])))
    }

    kernels!();

    pub struct Emulated;

    impl Kernel for Emulated {
        unsafe fn offsets(values: &[i8], out: &mut [i32]) {
            sum_offset(values, out);
        }
        unsafe fn linear(w: &Packed, blocks: Range<usize>, x: &[Column], out: Outputs) {
            unsafe { linear_any(w, blocks, x, out) }
        }
        unsafe fn keys(cached: &[u8], queries: &[Column], out: &mut [i32], stride: usize) {
            unsafe { keys(cached, queries, out, stride) }
        }
        unsafe fn values(cached: &[i8], p: &[i16], stride: usize, d: usize, out: &mut [i32]) {
            unsafe { values_any(cached, p, stride, d, out) }
        }
    }
}
