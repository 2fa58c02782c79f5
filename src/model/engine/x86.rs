//! The kernels' twins for x86-64. Equal to [`super::kernel::Scalar`] bit for bit: tests compare.

use super::kernel::{Column, GROUP_BYTES, Kernel, MAX_COLUMNS, Packed, ROWS};
use super::math::GROUP;
use std::arch::x86_64::*;
use std::ops::Range;

/// AVX-512 with VNNI: one `vpdpbusd` does 16 rows × 4 inputs.
pub struct Avx512Vnni;

/// Four activations as one broadcast operand.
#[inline(always)]
unsafe fn quad(p: *const i8) -> i32 {
    // SAFETY: the caller vouches for four readable bytes; the read is unaligned.
    unsafe { p.cast::<i32>().read_unaligned() }
}

#[inline]
#[target_feature(enable = "avx2,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
unsafe fn linear_avx512<const C: usize>(
    w: &Packed,
    blocks: Range<usize>,
    columns: &[Column],
    out: &mut [f32],
    stride: usize,
) {
    assert!(columns.len() == C && columns.iter().all(|c| c.values.len() >= w.groups * GROUP));
    assert!(columns.iter().all(|c| c.scales.len() >= w.groups && c.offsets.len() >= w.groups));
    assert!(out.len() >= (C - 1) * stride + w.rows);
    assert!(blocks.end * ROWS <= w.rows);
    assert!(w.weights.len() == w.rows / ROWS * w.groups * GROUP_BYTES);
    assert!(w.scales.len() == w.rows * w.groups);
    let a: [*const i8; C] = std::array::from_fn(|c| columns[c].values.as_ptr());
    let scale: [*const f32; C] = std::array::from_fn(|c| columns[c].scales.as_ptr());
    let offset: [*const i32; C] = std::array::from_fn(|c| columns[c].offsets.as_ptr());
    // SAFETY: the assertions above bound every offset used below; all accesses are unaligned ones.
    unsafe {
        let mut weights = w.weights.as_ptr().add(blocks.start * w.groups * GROUP_BYTES);
        let mut scales = w.scales.as_ptr().add(blocks.start * w.groups * ROWS);
        for block in blocks {
            let mut sums = [_mm512_setzero_ps(); C];
            for g in 0..w.groups {
                let mut acc: [__m512i; C] = [_mm512_setzero_si512(); C];
                for c in 0..C {
                    acc[c] = _mm512_set1_epi32(*offset[c].add(g));
                }
                for q in 0..GROUP / 4 {
                    let wq = _mm512_loadu_si512(weights.add(q * 64).cast());
                    for c in 0..C {
                        let aq = _mm512_set1_epi32(quad(a[c].add(g * GROUP + q * 4)));
                        acc[c] = _mm512_dpbusd_epi32(acc[c], wq, aq);
                    }
                }
                let ws = _mm512_loadu_ps(scales);
                for c in 0..C {
                    let t = _mm512_mul_ps(_mm512_cvtepi32_ps(acc[c]), ws);
                    let t = _mm512_mul_ps(t, _mm512_set1_ps(*scale[c].add(g)));
                    sums[c] = _mm512_add_ps(sums[c], t);
                }
                weights = weights.add(GROUP_BYTES);
                scales = scales.add(ROWS);
            }
            for (c, sum) in sums.iter().enumerate() {
                _mm512_storeu_ps(out.as_mut_ptr().add(c * stride + block * ROWS), *sum);
            }
        }
    }
}

#[target_feature(enable = "avx2,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
unsafe fn linear_any_avx512(
    w: &Packed,
    blocks: Range<usize>,
    columns: &[Column],
    out: &mut [f32],
    stride: usize,
) {
    // SAFETY: same requirements as this function's own.
    unsafe {
        match columns.len() {
            0 => {}
            1 => linear_avx512::<1>(w, blocks, columns, out, stride),
            2 => linear_avx512::<2>(w, blocks, columns, out, stride),
            3 => linear_avx512::<3>(w, blocks, columns, out, stride),
            4 => linear_avx512::<4>(w, blocks, columns, out, stride),
            5 => linear_avx512::<5>(w, blocks, columns, out, stride),
            6 => linear_avx512::<6>(w, blocks, columns, out, stride),
            7 => linear_avx512::<7>(w, blocks, columns, out, stride),
            MAX_COLUMNS => linear_avx512::<8>(w, blocks, columns, out, stride),
            n => unreachable!("{n} columns in one call"),
        }
    }
}

#[inline]
#[target_feature(enable = "avx2,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
unsafe fn keys_avx512(keys: &[u8], q: &[i8], offset: i32, out: &mut [i32; ROWS]) {
    assert!(keys.len() == q.len() * ROWS && q.len().is_multiple_of(8));
    // SAFETY: the assertion bounds all accesses.
    unsafe {
        let mut even = _mm512_set1_epi32(offset);
        let mut odd = _mm512_setzero_si512();
        for i in (0..q.len() / 4).step_by(2) {
            let k = keys.as_ptr().add(i * 64);
            let q = q.as_ptr().add(i * 4);
            even =
                _mm512_dpbusd_epi32(even, _mm512_loadu_si512(k.cast()), _mm512_set1_epi32(quad(q)));
            odd = _mm512_dpbusd_epi32(
                odd,
                _mm512_loadu_si512(k.add(64).cast()),
                _mm512_set1_epi32(quad(q.add(4))),
            );
        }
        _mm512_storeu_si512(out.as_mut_ptr().cast(), _mm512_add_epi32(even, odd));
    }
}

#[inline]
#[target_feature(enable = "avx2,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
unsafe fn values_avx512(values: &[i8], p: &[u8], high: &mut [i32], low: &mut [i32]) {
    let d = high.len();
    let quads = p.len() / 8;
    assert!(d.is_multiple_of(ROWS) && low.len() == d && values.len() >= quads * 4 * d);
    // SAFETY: the assertion bounds all accesses.
    unsafe {
        for first in (0..d).step_by(ROWS) {
            let mut h = _mm512_loadu_si512(high.as_ptr().add(first).cast());
            let mut l = _mm512_loadu_si512(low.as_ptr().add(first).cast());
            for t in 0..quads {
                let v = _mm512_loadu_si512(values.as_ptr().add(t * 4 * d + first * 4).cast());
                let p = p.as_ptr().add(t * 8).cast::<i8>();
                h = _mm512_dpbusd_epi32(h, _mm512_set1_epi32(quad(p)), v);
                l = _mm512_dpbusd_epi32(l, _mm512_set1_epi32(quad(p.add(4))), v);
            }
            _mm512_storeu_si512(high.as_mut_ptr().add(first).cast(), h);
            _mm512_storeu_si512(low.as_mut_ptr().add(first).cast(), l);
        }
    }
}

impl Kernel for Avx512Vnni {
    const NAME: &'static str = "avx512-vnni";

    #[inline(always)]
    unsafe fn linear(
        w: &Packed,
        blocks: Range<usize>,
        columns: &[Column],
        out: &mut [f32],
        stride: usize,
    ) {
        // SAFETY: the caller vouches for the instruction set.
        unsafe { linear_any_avx512(w, blocks, columns, out, stride) }
    }
    #[inline(always)]
    unsafe fn keys(keys: &[u8], q: &[i8], offset: i32, out: &mut [i32; ROWS]) {
        // SAFETY: the caller vouches for the instruction set.
        unsafe { keys_avx512(keys, q, offset, out) }
    }
    #[inline(always)]
    unsafe fn values(values: &[i8], p: &[u8], high: &mut [i32], low: &mut [i32]) {
        // SAFETY: the caller vouches for the instruction set.
        unsafe { values_avx512(values, p, high, low) }
    }
}

/// AVX2: bytes widened to 16 bits, `vpmaddwd` (its byte cousin `vpmaddubsw` saturates).
pub struct Avx2;

/// Four signed bytes as 16-bit integers, four times over.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn wide_quad(p: *const i8) -> __m256i {
    // SAFETY: the caller vouches for four readable bytes.
    unsafe { _mm256_cvtepi8_epi16(_mm_set1_epi32(quad(p))) }
}

/// Sums neighbouring pairs of two vectors of (row, half) sums into 8 row sums in row order.
#[inline]
#[target_feature(enable = "avx2")]
fn join(a: __m256i, b: __m256i) -> __m256i {
    _mm256_permute4x64_epi64::<0b11_01_10_00>(_mm256_hadd_epi32(a, b))
}

#[inline]
#[target_feature(enable = "avx2")]
unsafe fn linear_avx2<const C: usize>(
    w: &Packed,
    blocks: Range<usize>,
    columns: &[Column],
    out: &mut [f32],
    stride: usize,
) {
    assert!(columns.len() == C && columns.iter().all(|c| c.values.len() >= w.groups * GROUP));
    assert!(columns.iter().all(|c| c.scales.len() >= w.groups && c.offsets.len() >= w.groups));
    assert!(out.len() >= (C - 1) * stride + w.rows);
    assert!(blocks.end * ROWS <= w.rows);
    assert!(w.weights.len() == w.rows / ROWS * w.groups * GROUP_BYTES);
    assert!(w.scales.len() == w.rows * w.groups);
    // SAFETY: the assertions above bound every offset used below; all accesses are unaligned ones.
    unsafe {
        for block in blocks {
            // Two halves of 8 rows, so that the accumulators fit the registers.
            for half in 0..2 {
                let mut sums = [_mm256_setzero_ps(); C];
                for g in 0..w.groups {
                    let at = block * w.groups + g;
                    let weights = w.weights.as_ptr().add(at * GROUP_BYTES + half * 32);
                    let mut acc = [[_mm256_setzero_si256(); 2]; C];
                    for q in 0..GROUP / 4 {
                        let w = weights.add(q * 64);
                        let w0 = _mm256_cvtepu8_epi16(_mm_loadu_si128(w.cast()));
                        let w1 = _mm256_cvtepu8_epi16(_mm_loadu_si128(w.add(16).cast()));
                        for c in 0..C {
                            let a = wide_quad(columns[c].values.as_ptr().add(g * GROUP + q * 4));
                            acc[c][0] = _mm256_add_epi32(acc[c][0], _mm256_madd_epi16(w0, a));
                            acc[c][1] = _mm256_add_epi32(acc[c][1], _mm256_madd_epi16(w1, a));
                        }
                    }
                    let ws = _mm256_loadu_ps(w.scales.as_ptr().add(at * ROWS + half * 8));
                    for c in 0..C {
                        let offset = _mm256_set1_epi32(columns[c].offsets[g]);
                        let i = _mm256_add_epi32(join(acc[c][0], acc[c][1]), offset);
                        let t = _mm256_mul_ps(_mm256_cvtepi32_ps(i), ws);
                        let t = _mm256_mul_ps(t, _mm256_set1_ps(columns[c].scales[g]));
                        sums[c] = _mm256_add_ps(sums[c], t);
                    }
                }
                for (c, sum) in sums.iter().enumerate() {
                    let at = c * stride + block * ROWS + half * 8;
                    _mm256_storeu_ps(out.as_mut_ptr().add(at), *sum);
                }
            }
        }
    }
}

#[target_feature(enable = "avx2")]
unsafe fn linear_any_avx2(
    w: &Packed,
    blocks: Range<usize>,
    columns: &[Column],
    out: &mut [f32],
    stride: usize,
) {
    let mut at = 0;
    for part in columns.chunks(4) {
        let out = &mut out[at * stride..];
        // SAFETY: same requirements as this function's own.
        unsafe {
            match part.len() {
                1 => linear_avx2::<1>(w, blocks.clone(), part, out, stride),
                2 => linear_avx2::<2>(w, blocks.clone(), part, out, stride),
                3 => linear_avx2::<3>(w, blocks.clone(), part, out, stride),
                _ => linear_avx2::<4>(w, blocks.clone(), part, out, stride),
            }
        }
        at += part.len();
    }
}

#[inline]
#[target_feature(enable = "avx2")]
unsafe fn keys_avx2(keys: &[u8], q: &[i8], offset: i32, out: &mut [i32; ROWS]) {
    assert!(keys.len() == q.len() * ROWS && q.len().is_multiple_of(4));
    // SAFETY: the assertion bounds all accesses.
    unsafe {
        let mut acc = [_mm256_setzero_si256(); 4];
        for i in 0..q.len() / 4 {
            let q = wide_quad(q.as_ptr().add(i * 4));
            for (part, acc) in acc.iter_mut().enumerate() {
                let k = _mm_loadu_si128(keys.as_ptr().add(i * 64 + part * 16).cast());
                *acc = _mm256_add_epi32(*acc, _mm256_madd_epi16(_mm256_cvtepu8_epi16(k), q));
            }
        }
        let o = _mm256_set1_epi32(offset);
        let out = out.as_mut_ptr();
        _mm256_storeu_si256(out.cast(), _mm256_add_epi32(join(acc[0], acc[1]), o));
        _mm256_storeu_si256(out.add(8).cast(), _mm256_add_epi32(join(acc[2], acc[3]), o));
    }
}

#[inline]
#[target_feature(enable = "avx2")]
unsafe fn values_avx2(values: &[i8], p: &[u8], high: &mut [i32], low: &mut [i32]) {
    let d = high.len();
    let quads = p.len() / 8;
    assert!(d.is_multiple_of(8) && low.len() == d && values.len() >= quads * 4 * d);
    // SAFETY: the assertion bounds all accesses.
    unsafe {
        for first in (0..d).step_by(8) {
            let mut h = [_mm256_setzero_si256(); 2];
            let mut l = [_mm256_setzero_si256(); 2];
            for t in 0..quads {
                let v = values.as_ptr().add(t * 4 * d + first * 4);
                let ph = _mm256_cvtepu8_epi16(_mm_set1_epi32(quad(p.as_ptr().add(t * 8).cast())));
                let pl =
                    _mm256_cvtepu8_epi16(_mm_set1_epi32(quad(p.as_ptr().add(t * 8 + 4).cast())));
                for part in 0..2 {
                    let v = _mm256_cvtepi8_epi16(_mm_loadu_si128(v.add(part * 16).cast()));
                    h[part] = _mm256_add_epi32(h[part], _mm256_madd_epi16(v, ph));
                    l[part] = _mm256_add_epi32(l[part], _mm256_madd_epi16(v, pl));
                }
            }
            for (sum, out) in [(h, &mut *high), (l, &mut *low)] {
                let at = out.as_mut_ptr().add(first).cast::<__m256i>();
                let old = _mm256_loadu_si256(at);
                _mm256_storeu_si256(at, _mm256_add_epi32(old, join(sum[0], sum[1])));
            }
        }
    }
}

impl Kernel for Avx2 {
    const NAME: &'static str = "avx2";

    #[inline(always)]
    unsafe fn linear(
        w: &Packed,
        blocks: Range<usize>,
        columns: &[Column],
        out: &mut [f32],
        stride: usize,
    ) {
        // SAFETY: the caller vouches for the instruction set.
        unsafe { linear_any_avx2(w, blocks, columns, out, stride) }
    }
    #[inline(always)]
    unsafe fn keys(keys: &[u8], q: &[i8], offset: i32, out: &mut [i32; ROWS]) {
        // SAFETY: the caller vouches for the instruction set.
        unsafe { keys_avx2(keys, q, offset, out) }
    }
    #[inline(always)]
    unsafe fn values(values: &[i8], p: &[u8], high: &mut [i32], low: &mut [i32]) {
        // SAFETY: the caller vouches for the instruction set.
        unsafe { values_avx2(values, p, high, low) }
    }
}

#[cfg(test)]
mod tests {
    use super::super::kernel::{Isa, Scalar};
    use super::*;

    /// A small reproducible generator (xorshift64).
    struct Random(u64);

    impl Random {
        fn next(&mut self) -> u64 {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            self.0
        }
        /// Integers in ±127: random, or one of the extremes.
        fn integers(&mut self, n: usize, extreme: bool) -> Vec<i8> {
            (0..n)
                .map(|_| match (extreme, self.next() % 255) {
                    (true, r) => [-127, 127, 0][(r % 3) as usize],
                    (false, r) => (r as i64 - 127) as i8,
                })
                .collect()
        }
        fn scales(&mut self, n: usize) -> Vec<f32> {
            let all = [1.0, -0.0, 3.4e38, 1e-40, 0.37, 1e-20, 7.5e-3];
            (0..n).map(|_| all[(self.next() % 7) as usize]).collect()
        }
    }

    fn bits(v: &[f32]) -> Vec<u32> {
        v.iter().map(|f| if f.is_nan() { 1 } else { f.to_bits() }).collect()
    }

    #[test]
    fn products_are_those_of_the_definition() {
        let mut r = Random(88172645463325252);
        for round in 0..60 {
            let extreme = round % 3 == 0;
            let rows = (1 + r.next() as usize % 5) * ROWS;
            let groups = 1 + r.next() as usize % 4;
            let w = r.integers(rows * groups * GROUP, extreme);
            let packed = Packed::new(rows, groups * GROUP, &w, &r.scales(rows * groups));
            for n in 1..=MAX_COLUMNS {
                let values: Vec<_> = (0..n).map(|_| r.integers(groups * GROUP, extreme)).collect();
                let scales: Vec<_> = (0..n).map(|_| r.scales(groups)).collect();
                let offsets: Vec<Vec<i32>> = values
                    .iter()
                    .map(|v| {
                        let sum = |g: &[i8]| -128 * g.iter().map(|x| i32::from(*x)).sum::<i32>();
                        v.chunks(GROUP).map(sum).collect()
                    })
                    .collect();
                let columns: Vec<Column> = (0..n)
                    .map(|c| Column {
                        values: &values[c],
                        scales: &scales[c],
                        offsets: &offsets[c],
                    })
                    .collect();
                let blocks = 0..rows / ROWS;
                let mut want = vec![0.0; n * rows];
                // SAFETY: plain Rust; the others only where the CPU has them.
                unsafe { Scalar::linear(&packed, blocks.clone(), &columns, &mut want, rows) };
                let mut got = vec![0.0; n * rows];
                if Isa::Avx2.available() {
                    unsafe { Avx2::linear(&packed, blocks.clone(), &columns, &mut got, rows) };
                    assert_eq!(bits(&got), bits(&want));
                }
                if Isa::Avx512Vnni.available() {
                    got.fill(0.0);
                    unsafe { Avx512Vnni::linear(&packed, blocks, &columns, &mut got, rows) };
                    assert_eq!(bits(&got), bits(&want));
                }
            }
        }
    }

    #[test]
    fn attention_sums_are_those_of_the_definition() {
        let mut r = Random(2463534242);
        for round in 0..100 {
            let extreme = round % 3 == 0;
            let d = (1 + r.next() as usize % 16) * 16;
            let q = r.integers(d, extreme);
            let keys: Vec<u8> =
                r.integers(d * ROWS, extreme).iter().map(|k| (i32::from(*k) + 128) as u8).collect();
            let slots = (1 + r.next() as usize % 40) * 4;
            let values = r.integers(slots * d, extreme);
            let p: Vec<u8> =
                (0..slots * 2).map(|_| if extreme { 255 } else { r.next() as u8 }).collect();
            let run = |isa: Isa| {
                let mut dots = [0; ROWS];
                let (mut high, mut low) = (vec![3; d], vec![-4; d]);
                // SAFETY: asked only for what the CPU has.
                unsafe {
                    match isa {
                        Isa::Scalar => {
                            Scalar::keys(&keys, &q, -77, &mut dots);
                            Scalar::values(&values, &p, &mut high, &mut low);
                        }
                        Isa::Avx2 => {
                            Avx2::keys(&keys, &q, -77, &mut dots);
                            Avx2::values(&values, &p, &mut high, &mut low);
                        }
                        Isa::Avx512Vnni => {
                            Avx512Vnni::keys(&keys, &q, -77, &mut dots);
                            Avx512Vnni::values(&values, &p, &mut high, &mut low);
                        }
                    }
                }
                (dots, high, low)
            };
            let want = run(Isa::Scalar);
            for isa in Isa::ALL.into_iter().filter(|i| i.available()) {
                assert_eq!(run(isa), want, "{}", isa.name());
            }
        }
    }
}
