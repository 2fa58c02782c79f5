//! Grouped-query attention over a quantised cache of keys and values.
//!
//! Keys and values are 8-bit integers with one scale a head vector, written once, in place, in a
//! ring of positions. Scores are integer dot products; the softmax weights times the values' scales
//! become 16-bit integers, so that the sum over positions is an integer too: no result depends on
//! the order of positions, on the ring's size or on what else is being computed.

use super::kernel::{Kernel, ROWS};
use super::math::{exp, quantise, top, truncate};

/// Slots that a cache grows by.
const PAGE: usize = 64;
/// Positions of one lane that one call may add: they are kept beyond the window.
pub const AHEAD: usize = 64;
/// Fixed-point one of the softmax denominator.
const ONE: f32 = 16_777_216.0;

/// Keys and values of one lane, one layer, one key-value head.
#[derive(Debug, Clone, Default)]
pub struct Cache {
    /// Per 16 slots: `head/4` quads of 16 keys × 4 values, with 128 added.
    keys: Vec<u8>,
    /// Per 4 slots: `head` × 4 values.
    values: Vec<i8>,
    key_scales: Vec<f32>,
    value_scales: Vec<f32>,
}

impl Cache {
    /// Forgets everything, keeps the memory.
    pub fn clear(&mut self) {
        self.keys.clear();
        self.values.clear();
        self.key_scales.clear();
        self.value_scales.clear();
    }

    /// Bytes in use.
    pub fn bytes(&self) -> usize {
        self.keys.capacity()
            + self.values.capacity()
            + 4 * (self.key_scales.capacity() + self.value_scales.capacity())
    }

    /// Slots of a ring for a window.
    pub fn ring(window: usize) -> usize {
        (window + AHEAD).next_multiple_of(PAGE)
    }

    /// Quantises and writes the key and value of a position.
    #[inline(always)]
    pub fn write(&mut self, position: usize, window: usize, key: &[f32], value: &[f32]) {
        let d = key.len();
        let slot = position % Self::ring(window);
        if slot >= self.key_scales.len() {
            let slots = self.key_scales.len() + PAGE;
            self.keys.resize(slots * d, 128);
            self.values.resize(slots * d, 0);
            self.key_scales.resize(slots, 0.0);
            self.value_scales.resize(slots, 0.0);
        }
        let mut q = [0_i8; 256];
        let q = &mut q[..d];
        self.key_scales[slot] = quantise(key, q);
        let block = &mut self.keys[slot / ROWS * ROWS * d..][..ROWS * d];
        for (quad, q) in block.chunks_exact_mut(ROWS * 4).zip(q.chunks_exact(4)) {
            let at = slot % ROWS * 4;
            for i in 0..4 {
                quad[at + i] = (i32::from(q[i]) + 128) as u8;
            }
        }
        self.value_scales[slot] = quantise(value, q);
        let block = &mut self.values[slot / 4 * 4 * d..][..4 * d];
        for (v, q) in block.chunks_exact_mut(4).zip(q) {
            v[slot % 4] = *q;
        }
    }
}

/// Working memory of [`attend`].
#[derive(Debug, Default)]
pub struct Scratch {
    scores: Vec<f32>,
    weights: Vec<u8>,
    high: Vec<i32>,
    low: Vec<i32>,
}

/// Attention of one rotated query head at `position` over the last `window` positions.
/// `query` and `out`: one head's length, a multiple of 16 up to 256.
///
/// # Safety
/// The CPU must have the kernel's instruction set.
#[inline(always)]
pub unsafe fn attend<K: Kernel>(
    cache: &Cache,
    position: usize,
    window: usize,
    query: &[f32],
    s: &mut Scratch,
    out: &mut [f32],
) {
    let d = query.len();
    let ring = Cache::ring(window);
    let live = (position + 1).min(window);
    let first = (position + 1 - live) % ring;
    // The live slots: a run, and where the ring wraps a second run from slot 0.
    let runs = [(first, (first + live).min(ring)), (0, (first + live).saturating_sub(ring))];

    let mut q = [0_i8; 256];
    let q = &mut q[..d];
    let q_scale = quantise(query, q) * (1.0 / (d as f32).sqrt());
    let offset = -128 * q.iter().map(|v| i32::from(*v)).sum::<i32>();

    let slots = cache.key_scales.len();
    if s.scores.len() < slots {
        s.scores.resize(slots, 0.0);
        s.weights.resize(slots * 2, 0);
    }
    let mut best = f32::MIN;
    for (from, to) in runs {
        if from >= to {
            continue;
        }
        for block in from / ROWS..to.div_ceil(ROWS) {
            let mut dots = [0_i32; ROWS];
            // SAFETY: the caller vouches for the instruction set.
            unsafe {
                K::keys(
                    &cache.keys[block * ROWS * d..(block + 1) * ROWS * d],
                    q,
                    offset,
                    &mut dots,
                );
            }
            let range = block * ROWS..(block + 1) * ROWS;
            let scales = &cache.key_scales[range.clone()];
            for ((score, dot), scale) in s.scores[range].iter_mut().zip(dots).zip(scales) {
                *score = ((dot as f32) * scale) * q_scale;
            }
        }
        best = top(&s.scores[from..to], best, |v| v);
    }
    // Scores become softmax numerators times value scales; the denominator is a sum of integers.
    let mut total = 0_i64;
    let mut peak = 0.0_f32;
    for (from, to) in runs {
        if from >= to {
            continue;
        }
        let scores = &mut s.scores[from..to];
        for v in scores.iter_mut() {
            *v = exp(*v - best);
        }
        for v in scores.iter() {
            total += i64::from(truncate(v * ONE, 0.0, ONE));
        }
        for (v, scale) in scores.iter_mut().zip(&cache.value_scales[from..to]) {
            *v *= scale;
        }
        peak = top(scores, peak, |v| v);
    }
    if peak == 0.0 || total == 0 {
        out.fill(0.0);
        return;
    }
    let inv = 65535.0 / peak;
    s.high.clear();
    s.high.resize(d, 0);
    s.low.clear();
    s.low.resize(d, 0);
    for (from, to) in runs {
        if from >= to {
            continue;
        }
        let (a, b) = (from / 4 * 4, to.next_multiple_of(4));
        s.scores[a..from].fill(0.0);
        s.scores[to..b].fill(0.0);
        let weights = &mut s.weights[..(b - a) * 2];
        for (w, v) in weights.chunks_exact_mut(8).zip(s.scores[a..b].chunks_exact(4)) {
            for i in 0..4 {
                let p = truncate(v[i] * inv, 0.0, 65535.0);
                w[i] = (p >> 8) as u8;
                w[4 + i] = p as u8;
            }
        }
        // SAFETY: the caller vouches for the instruction set.
        unsafe {
            K::values(&cache.values[a * d..b * d], weights, &mut s.high, &mut s.low);
        }
    }
    let scale = (peak / 65535.0) / ((total as f32) / ONE);
    for ((o, h), l) in out.iter_mut().zip(&s.high).zip(&s.low) {
        *o = ((*h as f32) * 256.0 + (*l as f32)) * scale;
    }
}
