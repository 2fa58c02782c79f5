//! Integer products: the definition, and the choice of a faster twin.
//!
//! A linear layer's weights lie in blocks of 16 rows. Inside a block the input runs in groups of
//! [`GROUP`] that share a scale; a group is made of quads; a quad holds, for each of the 16 rows,
//! 4 consecutive inputs: 64 bytes. Weights are within ±[`WEIGHT_MAX`] and stored with that added
//! (unsigned), activations are signed and within ±[`VALUE_MAX`]:
//!
//! `out[row] = Σ_groups ((f32(Σ_group w·a) · weight_scale) · activation_scale)`, groups in order.
//!
//! The inner sum is an exact integer below 2²⁴ in size, so only the order of the groups matters.
//! The two ranges are chosen so that four products fit 16 bits: AVX2 has no wider product of bytes.

use super::math::{GROUP, WEIGHT_MAX};
use std::ops::Range;

/// Rows of a weight block.
pub const ROWS: usize = 16;
/// Bytes of a block's group of weights.
pub const GROUP_BYTES: usize = ROWS * GROUP;
/// Bytes of one quad of 16 rows.
pub const QUAD_BYTES: usize = ROWS * 4;
/// Columns that one call of [`Kernel::linear`] takes, and queries that one of [`Kernel::keys`].
pub const MAX_COLUMNS: usize = 8;
/// Positions that one call of [`Kernel::values`] takes: as many products of 15 and 8 bits fit 32.
pub const MAX_POSITIONS: usize = 512;

/// Weights of a linear layer, packed for the kernels.
#[derive(Debug, Clone)]
pub struct Packed {
    /// Rows (outputs), a multiple of 16.
    pub rows: usize,
    /// Groups of inputs.
    pub groups: usize,
    /// `rows/16 × groups × GROUP_BYTES` bytes as described above.
    pub weights: Vec<u8>,
    /// `rows/16 × groups × 16` scales.
    pub scales: Vec<f32>,
}

/// Where a packed row comes from.
#[derive(Debug, Clone, Copy)]
pub struct Row<'a> {
    /// Signed weights.
    pub values: &'a [i8],
    /// A scale per group.
    pub scales: &'a [f32],
}

impl Packed {
    /// Packs `rows` rows of `inputs` weights; `row(i)` is output `i`. Uses all processors.
    pub fn new<'a>(rows: usize, inputs: usize, row: impl Fn(usize) -> Row<'a> + Sync) -> Self {
        let groups = inputs.div_ceil(GROUP);
        let blocks = rows.div_ceil(ROWS);
        let mut weights = vec![WEIGHT_MAX as u8; blocks * groups * GROUP_BYTES];
        let mut scales = vec![0.0_f32; blocks * groups * ROWS];
        let pack = |first: usize, weights: &mut [u8], scales: &mut [f32]| {
            let parts = weights
                .chunks_exact_mut(groups * GROUP_BYTES)
                .zip(scales.chunks_exact_mut(groups * ROWS));
            for (block, (w, s)) in parts.enumerate() {
                let out = (first + block) * ROWS;
                for lane in 0..ROWS.min(rows - out) {
                    let row = row(out + lane);
                    // Quads run through the groups without a gap, for a group is whole quads.
                    for (to, from) in w.chunks_exact_mut(QUAD_BYTES).zip(row.values.chunks(4)) {
                        for (to, from) in to[lane * 4..].iter_mut().zip(from) {
                            *to = from.wrapping_add(WEIGHT_MAX) as u8;
                        }
                    }
                    for (to, from) in s.chunks_exact_mut(ROWS).zip(row.scales) {
                        to[lane] = *from;
                    }
                }
            }
        };
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let share = blocks.div_ceil(threads).max(1);
        if threads == 1 || weights.len() < 1 << 20 {
            pack(0, &mut weights, &mut scales);
        } else {
            std::thread::scope(|scope| {
                let parts = weights
                    .chunks_mut(share * groups * GROUP_BYTES)
                    .zip(scales.chunks_mut(share * groups * ROWS));
                for (i, (w, s)) in parts.enumerate() {
                    let pack = &pack;
                    scope.spawn(move || pack(i * share, w, s));
                }
            });
        }
        Self { rows: blocks * ROWS, groups, weights, scales }
    }

    /// Blocks of 16 rows.
    pub fn blocks(&self) -> usize {
        self.rows / ROWS
    }
}

/// One column of quantised activations, or one query.
#[derive(Debug, Clone, Copy)]
pub struct Column<'a> {
    /// Integers within ±[`VALUE_MAX`](super::math::VALUE_MAX), a multiple of 16.
    pub values: &'a [i8],
    /// One scale a group.
    pub scales: &'a [f32],
    /// What [`Kernel::offsets`] says about the values, one for 4 of them.
    pub offsets: &'a [i32],
}

/// Where [`Kernel::linear`] writes: a row of outputs for each column.
#[derive(Debug, Clone, Copy)]
pub struct Outputs {
    /// First output of the first column.
    pub at: *mut f32,
    /// Distance of two columns.
    pub stride: usize,
}

/// The products that differ by instruction set, all with the same results.
pub trait Kernel {
    /// Undoes the weights' offset: what this kernel wants to know about `values`, which are a group
    /// or a query. Opaque to all others.
    ///
    /// # Safety
    /// The CPU must have the kernel's instruction set.
    unsafe fn offsets(values: &[i8], out: &mut [i32]);

    /// `out[c][row] = W · column c` for the rows of some blocks of 16 and up to [`MAX_COLUMNS`]
    /// columns.
    ///
    /// # Safety
    /// The CPU must have the kernel's instruction set. `out` must have room for `w.rows` outputs of
    /// each column, and nobody else may use those of `blocks` meanwhile.
    unsafe fn linear(w: &Packed, blocks: Range<usize>, columns: &[Column], out: Outputs);

    /// Dot products of up to [`MAX_COLUMNS`] queries with cached keys, 16 at a time:
    /// `out[q][t] = Σ_d (key[t][d] − WEIGHT_MAX) · query[q][d]`. Keys lie in blocks of `d/4` quads of
    /// 16 keys × 4 values; rows of `out` are `stride` apart.
    ///
    /// # Safety
    /// The CPU must have the kernel's instruction set.
    unsafe fn keys(keys: &[u8], queries: &[Column], out: &mut [i32], stride: usize);

    /// `out[q][d] = Σ_t v[t][d] · p[q][t]` over at most [`MAX_POSITIONS`] positions. `values` holds
    /// for 16 positions `d/16` panels of 4 quads of 16 elements × 4 positions; `p`, below 2¹⁵, has a
    /// row for each query, `stride` apart; `out` has as many rows of `d`.
    ///
    /// # Safety
    /// The CPU must have the kernel's instruction set.
    unsafe fn values(values: &[i8], p: &[i16], stride: usize, d: usize, out: &mut [i32]);
}

/// The definition.
pub struct Scalar;

/// 16 rows' sums of one run of quads.
#[inline(always)]
fn dots(quads: &[u8], values: &[i8]) -> [i32; ROWS] {
    let mut acc = [0; ROWS];
    for (quad, a) in quads.chunks_exact(QUAD_BYTES).zip(values.chunks_exact(4)) {
        for (acc, w) in acc.iter_mut().zip(quad.chunks_exact(4)) {
            for i in 0..4 {
                *acc += (i32::from(w[i]) - i32::from(WEIGHT_MAX)) * i32::from(a[i]);
            }
        }
    }
    acc
}

impl Kernel for Scalar {
    #[inline(always)]
    unsafe fn offsets(_: &[i8], _: &mut [i32]) {}

    #[inline(always)]
    unsafe fn linear(w: &Packed, blocks: Range<usize>, columns: &[Column], out: Outputs) {
        assert!(blocks.end <= w.blocks());
        for (c, column) in columns.iter().enumerate() {
            for block in blocks.clone() {
                let mut sums = [0.0_f32; ROWS];
                for g in 0..w.groups {
                    let at = block * w.groups + g;
                    let acc = dots(
                        &w.weights[at * GROUP_BYTES..(at + 1) * GROUP_BYTES],
                        &column.values[g * GROUP..(g + 1) * GROUP],
                    );
                    let scales = &w.scales[at * ROWS..(at + 1) * ROWS];
                    for ((sum, acc), scale) in sums.iter_mut().zip(acc).zip(scales) {
                        *sum += ((acc as f32) * scale) * column.scales[g];
                    }
                }
                // SAFETY: the caller vouches for room; the block is one of the packed ones.
                unsafe {
                    let to = out.at.add(c * out.stride + block * ROWS);
                    to.copy_from_nonoverlapping(sums.as_ptr(), ROWS);
                }
            }
        }
    }

    #[inline(always)]
    unsafe fn keys(keys: &[u8], queries: &[Column], out: &mut [i32], stride: usize) {
        for (query, out) in queries.iter().zip(out.chunks_mut(stride)) {
            let blocks = keys.chunks_exact(ROWS * query.values.len());
            for (block, out) in blocks.zip(out.chunks_exact_mut(ROWS)) {
                out.copy_from_slice(&dots(block, query.values));
            }
        }
    }

    #[inline(always)]
    unsafe fn values(values: &[i8], p: &[i16], stride: usize, d: usize, out: &mut [i32]) {
        out.fill(0);
        for (p, out) in p.chunks(stride).zip(out.chunks_exact_mut(d)) {
            for (block, p) in values.chunks_exact(ROWS * d).zip(p.chunks_exact(ROWS)) {
                let panels = block.chunks_exact(ROWS * ROWS);
                for (panel, out) in panels.zip(out.chunks_exact_mut(ROWS)) {
                    for (quad, p) in panel.chunks_exact(QUAD_BYTES).zip(p.chunks_exact(4)) {
                        for (o, v) in out.iter_mut().zip(quad.chunks_exact(4)) {
                            for i in 0..4 {
                                *o += i32::from(v[i]) * i32::from(p[i]);
                            }
                        }
                    }
                }
            }
        }
    }
}
