//! Integer products: the definition, and the choice of a faster twin.
//!
//! A linear layer's weights lie in blocks of 16 rows. Inside a block the input runs in groups of
//! 64 that share a scale; a group is 16 quads; a quad holds, for each of the 16 rows, 4 consecutive
//! inputs: 64 bytes, one vector register. Weights are stored with 128 added (unsigned), activations
//! are signed, and every column brings −128·Σ activations per group to undo the offset:
//!
//! `out[row] = Σ_groups ((f32(Σ_64 w·a) · weight_scale) · activation_scale)`, groups in order.
//!
//! The inner sum is an exact integer below 2²⁴ in size, so only the order of the groups matters.

use super::math::GROUP;
use std::ops::Range;

/// Rows of a weight block.
pub const ROWS: usize = 16;
/// Bytes of a block's group of weights.
pub const GROUP_BYTES: usize = ROWS * GROUP;
/// Columns that one call of [`Kernel::linear`] takes.
pub const MAX_COLUMNS: usize = 8;

/// Weights of a linear layer, packed for the kernels.
#[derive(Debug, Clone)]
pub struct Packed {
    /// Rows (outputs), a multiple of 16.
    pub rows: usize,
    /// Groups of 64 inputs.
    pub groups: usize,
    /// `rows/16 × groups × 1024` bytes as described above.
    pub weights: Vec<u8>,
    /// `rows/16 × groups × 16` scales.
    pub scales: Vec<f32>,
}

impl Packed {
    /// Packs `rows` rows of `inputs` signed weights with `inputs / 64` (rounded up) scales each.
    pub fn new(rows: usize, inputs: usize, weights: &[i8], scales: &[f32]) -> Self {
        Self::reordered(rows, inputs, weights, scales, |row| row)
    }

    /// Packs like [`Packed::new`]; output `i` is source row `source(i)`.
    pub fn reordered(
        rows: usize,
        inputs: usize,
        weights: &[i8],
        scales: &[f32],
        source: impl Fn(usize) -> usize,
    ) -> Self {
        let groups = inputs.div_ceil(GROUP);
        let blocks = rows.div_ceil(ROWS);
        let mut w = vec![128_u8; blocks * groups * GROUP_BYTES];
        let mut s = vec![0.0_f32; blocks * groups * ROWS];
        for out in 0..rows {
            let row = source(out);
            let (block, lane) = (out / ROWS, out % ROWS);
            for (k, v) in weights[row * inputs..(row + 1) * inputs].iter().enumerate() {
                let (group, quad, byte) = (k / GROUP, k % GROUP / 4, k % 4);
                w[(block * groups + group) * GROUP_BYTES + (quad * ROWS + lane) * 4 + byte] =
                    (i32::from(*v) + 128) as u8;
            }
            for group in 0..groups {
                s[(block * groups + group) * ROWS + lane] = scales[row * groups + group];
            }
        }
        Self { rows: blocks * ROWS, groups, weights: w, scales: s }
    }
}

/// One column of quantised activations.
#[derive(Debug, Clone, Copy)]
pub struct Column<'a> {
    /// `groups × 64` integers in ±127.
    pub values: &'a [i8],
    /// One scale a group.
    pub scales: &'a [f32],
    /// −128 · sum of the group's integers.
    pub offsets: &'a [i32],
}

/// The products that differ by instruction set, all with the same results.
pub trait Kernel {
    /// Name for reports.
    const NAME: &'static str;

    /// `out[c][row] = W · column c` for the rows of some blocks of 16 and up to [`MAX_COLUMNS`] columns; `stride` is the distance of
    /// two columns in `out`.
    ///
    /// # Safety
    /// The CPU must have the kernel's instruction set.
    unsafe fn linear(
        w: &Packed,
        blocks: Range<usize>,
        columns: &[Column],
        out: &mut [f32],
        stride: usize,
    );

    /// Dot products of one head with 16 cached keys: `out[t] = Σ_d (key[t][d] − 128) · q[d]`.
    /// `keys` holds `d/4` quads of 16 keys × 4 values; `offset` is −128·Σ q.
    ///
    /// # Safety
    /// The CPU must have the kernel's instruction set.
    unsafe fn keys(keys: &[u8], q: &[i8], offset: i32, out: &mut [i32; ROWS]);

    /// `high[d] += Σ_t v[t][d] · (p[t] >> 8)`, `low[d] += Σ_t v[t][d] · (p[t] & 255)` for the
    /// positions of `p`, a multiple of 4. `values` holds per 4 positions `d` × 4 values.
    ///
    /// # Safety
    /// The CPU must have the kernel's instruction set.
    unsafe fn values(values: &[i8], p: &[u8], high: &mut [i32], low: &mut [i32]);
}

/// The definition.
pub struct Scalar;

impl Kernel for Scalar {
    const NAME: &'static str = "scalar";

    #[inline(always)]
    unsafe fn linear(
        w: &Packed,
        blocks: Range<usize>,
        columns: &[Column],
        out: &mut [f32],
        stride: usize,
    ) {
        for (c, column) in columns.iter().enumerate() {
            for block in blocks.clone() {
                let mut sums = [0.0_f32; ROWS];
                for g in 0..w.groups {
                    let at = block * w.groups + g;
                    let mut acc = [column.offsets[g]; ROWS];
                    let quads =
                        w.weights[at * GROUP_BYTES..(at + 1) * GROUP_BYTES].chunks_exact(64);
                    let a = column.values[g * GROUP..(g + 1) * GROUP].chunks_exact(4);
                    for (quad, a) in quads.zip(a) {
                        for (acc, w) in acc.iter_mut().zip(quad.chunks_exact(4)) {
                            for i in 0..4 {
                                *acc += i32::from(w[i]) * i32::from(a[i]);
                            }
                        }
                    }
                    let scales = &w.scales[at * ROWS..(at + 1) * ROWS];
                    for ((sum, acc), scale) in sums.iter_mut().zip(acc).zip(scales) {
                        *sum += ((acc as f32) * scale) * column.scales[g];
                    }
                }
                let at = c * stride + block * ROWS;
                out[at..at + ROWS].copy_from_slice(&sums);
            }
        }
    }

    #[inline(always)]
    unsafe fn keys(keys: &[u8], q: &[i8], offset: i32, out: &mut [i32; ROWS]) {
        *out = [offset; ROWS];
        for (quad, q) in keys.chunks_exact(64).zip(q.chunks_exact(4)) {
            for (o, k) in out.iter_mut().zip(quad.chunks_exact(4)) {
                for i in 0..4 {
                    *o += i32::from(k[i]) * i32::from(q[i]);
                }
            }
        }
    }

    #[inline(always)]
    unsafe fn values(values: &[i8], p: &[u8], high: &mut [i32], low: &mut [i32]) {
        let d = high.len();
        for (block, p) in values.chunks_exact(4 * d).zip(p.chunks_exact(8)) {
            for ((v, h), l) in block.chunks_exact(4).zip(high.iter_mut()).zip(low.iter_mut()) {
                for i in 0..4 {
                    *h += i32::from(v[i]) * i32::from(p[i]);
                    *l += i32::from(v[i]) * i32::from(p[4 + i]);
                }
            }
        }
    }
}

/// Instruction sets with a kernel of their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Isa {
    /// Plain Rust.
    Scalar,
    /// AVX2.
    Avx2,
    /// AVX-512 F, BW, VL, DQ and VNNI.
    Avx512Vnni,
}

impl Isa {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Scalar, Self::Avx2, Self::Avx512Vnni];

    /// The best one of this CPU.
    pub fn best() -> Self {
        *Self::ALL.iter().rev().find(|i| i.available()).unwrap_or(&Self::Scalar)
    }

    /// True where this CPU has it.
    pub fn available(self) -> bool {
        #[cfg(target_arch = "x86_64")]
        return match self {
            Self::Scalar => true,
            Self::Avx2 => is_x86_feature_detected!("avx2"),
            Self::Avx512Vnni => {
                is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512vl")
                    && is_x86_feature_detected!("avx512dq")
                    && is_x86_feature_detected!("avx512vnni")
            }
        };
        #[cfg(not(target_arch = "x86_64"))]
        return self == Self::Scalar;
    }

    /// Name for reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Scalar => "scalar",
            Self::Avx2 => "avx2",
            Self::Avx512Vnni => "avx512-vnni",
        }
    }
}
