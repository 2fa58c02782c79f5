//! Grouped-query attention over a quantised cache of keys and values.
//!
//! Keys and values are 8-bit integers with one scale a head vector, written once, in place, in a
//! ring of positions. Scores are integer dot products; the softmax weights times the values' scales
//! become 15-bit integers, so that the sum over positions is an integer too: no result depends on
//! the order of positions, on the ring's size or on what else is being computed.
//!
//! Models may keep their first positions for ever beside the window ("sinks": Xiao et al. 2023,
//! "Efficient Streaming Language Models with Attention Sinks"): those that learnt to rest on them lose
//! their way when they are gone. Sinks never seem farther away than the window reaches.

use crate::model::engine::kernel::{Column, Kernel, MAX_COLUMNS, MAX_POSITIONS, ROWS};
use crate::model::engine::math::{
    SUM_WAYS, VALUE_MAX, WEIGHT_MAX, exp, join, max, quantise, top, truncate,
};
use crate::model::engine::work::AHEAD;

/// Slots that a cache grows by.
const PAGE: usize = 64;
/// Widest head.
pub const MAX_HEAD: usize = 256;
/// Fixed-point one of the softmax denominator: the largest window's terms fit 32 bits, for each of
/// the 16 ways that they are summed.
const ONE: f32 = 1_048_576.0;
/// Largest weight of a position.
const WEIGHT_ONE: f32 = 32767.0;

/// Which positions attention sees, and where a cache has them: sinks in the first slots, all others in
/// a ring behind them.
#[derive(Debug, Clone, Copy)]
pub struct Reach {
    /// Newest positions, the query's own included.
    pub window: usize,
    /// First positions of the text that are seen as well, however old: a multiple of 16.
    pub sinks: usize,
}

impl Reach {
    /// Slots of the ring: positions that one pass adds are kept beyond the window.
    fn ring(self) -> usize {
        (self.window + AHEAD).next_multiple_of(PAGE)
    }

    /// Slot of a position.
    fn slot(self, position: usize) -> usize {
        match position.checked_sub(self.sinks) {
            None => position,
            Some(p) => self.sinks + p % self.ring(),
        }
    }

    /// Where a query at `position` stands for the sinks.
    pub fn near_sinks(self, position: usize) -> usize {
        position.min(self.sinks + self.window - 1)
    }

    /// The slots that a query at `position` sees, and how many they are: the sinks', a run of the ring,
    /// and where that wraps a second one.
    fn runs(self, position: usize) -> ([Run; 3], usize) {
        let seen = position + 1;
        let first = self.sinks.max(seen.saturating_sub(self.window));
        let recent = seen.saturating_sub(first);
        let (start, end) = (first - self.sinks, self.sinks + self.ring());
        let from = self.sinks + start % self.ring();
        let sinks = Run::new(0, seen.min(self.sinks), 0);
        let a = Run::new(from, (from + recent).min(end), sinks.len());
        let b = Run::new(
            self.sinks,
            self.sinks + (from + recent).saturating_sub(end),
            sinks.len() + a.len(),
        );
        ([sinks, a, b], sinks.to + recent)
    }
}

/// Keys and values of one lane, one layer, one key-value head.
#[derive(Debug, Clone, Default)]
pub struct Cache {
    /// Per 16 slots: `head/4` quads of 16 keys × 4 values, with the weights' offset added.
    keys: Vec<u8>,
    /// Per 16 slots: `head/16` panels of 4 quads of 16 elements × 4 slots.
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

    /// Quantises and writes the key and value of a position.
    #[inline(always)]
    pub fn write(&mut self, position: usize, reach: Reach, key: &[f32], value: &[f32]) {
        let d = key.len();
        let slot = reach.slot(position);
        if slot >= self.key_scales.len() {
            let slots = self.key_scales.len() + PAGE;
            self.keys.resize(slots * d, WEIGHT_MAX as u8);
            self.values.resize(slots * d, 0);
            self.key_scales.resize(slots, 0.0);
            self.value_scales.resize(slots, 0.0);
        }
        let mut q = [0_i8; MAX_HEAD];
        let q = &mut q[..d];
        self.key_scales[slot] = quantise(key, q, WEIGHT_MAX);
        let block = &mut self.keys[slot / ROWS * ROWS * d..][..ROWS * d];
        for (quad, q) in block.chunks_exact_mut(ROWS * 4).zip(q.chunks_exact(4)) {
            let at = slot % ROWS * 4;
            for i in 0..4 {
                quad[at + i] = q[i].wrapping_add(WEIGHT_MAX) as u8;
            }
        }
        self.value_scales[slot] = quantise(value, q, VALUE_MAX);
        let block = &mut self.values[slot / ROWS * ROWS * d..][..ROWS * d];
        for (panel, q) in block.chunks_exact_mut(ROWS * ROWS).zip(q.chunks_exact(ROWS)) {
            let quad = &mut panel[slot % ROWS / 4 * ROWS * 4..][..ROWS * 4];
            for (v, q) in quad.chunks_exact_mut(4).zip(q) {
                v[slot % 4] = *q;
            }
        }
    }
}

/// Working memory of [`attend`].
#[derive(Debug, Default)]
pub struct Scratch {
    /// Queries as the sinks see them.
    pub from_sinks: Vec<f32>,
    query: Vec<i8>,
    offsets: Vec<i32>,
    dots: Vec<i32>,
    scores: Vec<f32>,
    weights: Vec<i16>,
    piece: Vec<i32>,
    sums: Vec<i32>,
    wide: Vec<i64>,
}

/// A run of live slots `from..to`, which may be none, the whole blocks `first..last` around it, and
/// where the scores of `first` are.
#[derive(Debug, Clone, Copy)]
struct Run {
    from: usize,
    to: usize,
    first: usize,
    last: usize,
    at: usize,
}

impl Run {
    fn new(from: usize, to: usize, at: usize) -> Self {
        // Slots of which none is live may not be there yet.
        let (from, to) = if from < to { (from, to) } else { (0, 0) };
        Self { from, to, first: from / ROWS * ROWS, last: to.next_multiple_of(ROWS), at }
    }
    fn len(&self) -> usize {
        self.last - self.first
    }
}

/// Attention of rotated queries at `position` over what `reach` says. `queries` and `out`: heads of
/// `d` elements, a multiple of 16 up to 256; up to [`MAX_COLUMNS`] of them. `from_sinks`: the same
/// queries where [`Reach::near_sinks`] sees them; none if that is where they are.
///
/// # Safety
/// The CPU must have the kernel's instruction set.
#[inline(always)]
pub unsafe fn attend<K: Kernel>(
    cache: &Cache,
    position: usize,
    reach: Reach,
    d: usize,
    queries: &[f32],
    from_sinks: &[f32],
    s: &mut Scratch,
    out: &mut [f32],
) {
    let n = queries.len() / d;
    let (runs, live) = reach.runs(position);
    let stride = runs.iter().map(Run::len).sum();

    s.dots.resize(n * stride, 0);
    s.scores.resize(n * stride, 0.0);
    s.weights.resize(n * stride, 0);
    // SAFETY: the caller vouches for the instruction set, here and below.
    let scales = unsafe {
        let (sinks, others) = runs.split_at(1);
        let scales = score::<K>(cache, others, d, queries, s, stride);
        let queries = if from_sinks.is_empty() { queries } else { from_sinks };
        [score::<K>(cache, sinks, d, queries, s, stride), scales, scales]
    };
    let mut units = [0.0_f32; MAX_COLUMNS];
    for i in 0..n {
        let row = i * stride..(i + 1) * stride;
        let (scores, weights) = (&mut s.scores[row.clone()], &mut s.weights[row.clone()]);
        let scales = scales.map(|s| s[i]);
        units[i] = weigh(cache, &runs, scales, &s.dots[row], scores, weights);
    }
    s.sums.clear();
    s.sums.resize(n * d, 0);
    s.piece.resize(n * d, 0);
    s.wide.clear();
    for r in &runs {
        for from in (r.first..r.last).step_by(MAX_POSITIONS) {
            let to = (from + MAX_POSITIONS).min(r.last);
            let values = &cache.values[from * d..to * d];
            let weights = &s.weights[r.at + from - r.first..];
            unsafe { K::values(values, weights, stride, d, &mut s.piece) };
            if live <= MAX_POSITIONS {
                s.sums.iter_mut().zip(&s.piece).for_each(|(a, b)| *a += b);
            } else {
                s.wide.resize(n * d, 0);
                s.wide.iter_mut().zip(&s.piece).for_each(|(a, b)| *a += i64::from(*b));
            }
        }
    }
    for (i, out) in out.chunks_exact_mut(d).enumerate() {
        let row = i * d..(i + 1) * d;
        if s.wide.is_empty() {
            out.iter_mut().zip(&s.sums[row]).for_each(|(o, v)| *o = *v as f32 * units[i]);
        } else {
            out.iter_mut().zip(&s.wide[row]).for_each(|(o, v)| *o = *v as f32 * units[i]);
        }
    }
}

/// Products of queries with the keys of some runs, into `s.dots`. Returns what the products of each
/// query are to be multiplied with, beside the keys' scales.
///
/// # Safety
/// The CPU must have the kernel's instruction set.
#[inline(always)]
unsafe fn score<K: Kernel>(
    cache: &Cache,
    runs: &[Run],
    d: usize,
    queries: &[f32],
    s: &mut Scratch,
    stride: usize,
) -> [f32; MAX_COLUMNS] {
    let n = queries.len() / d;
    let mut scales = [0.0_f32; MAX_COLUMNS];
    if runs.iter().all(|r| r.len() == 0) {
        return scales;
    }
    s.query.resize(n * d, 0);
    s.offsets.resize(n * d / 4, 0);
    let root = 1.0 / (d as f32).sqrt();
    for (i, query) in queries.chunks_exact(d).enumerate() {
        let q = &mut s.query[i * d..(i + 1) * d];
        scales[i] = quantise(query, q, VALUE_MAX) * root;
        // SAFETY: the caller vouches for the instruction set, here and below.
        unsafe { K::offsets(q, &mut s.offsets[i * d / 4..(i + 1) * d / 4]) };
    }
    let columns: [Column; MAX_COLUMNS] = std::array::from_fn(|i| {
        let i = i.min(n - 1);
        Column {
            values: &s.query[i * d..(i + 1) * d],
            scales: &[],
            offsets: &s.offsets[i * d / 4..(i + 1) * d / 4],
        }
    });
    for r in runs.iter().filter(|r| r.len() > 0) {
        let keys = &cache.keys[r.first * d..r.last * d];
        unsafe { K::keys(keys, &columns[..n], &mut s.dots[r.at..], stride) };
    }
    scales
}

/// One query's products with the keys to weights of the values. Returns what a weight of 1 is.
#[inline(always)]
fn weigh(
    cache: &Cache,
    runs: &[Run; 3],
    scales: [f32; 3],
    dots: &[i32],
    scores: &mut [f32],
    weights: &mut [i16],
) -> f32 {
    let mut best = f32::MIN;
    for (r, scale) in runs.iter().zip(scales) {
        let part = r.at..r.at + r.len();
        let keys = &cache.key_scales[r.first..r.last];
        for ((score, dot), key) in scores[part.clone()].iter_mut().zip(&dots[part]).zip(keys) {
            *score = ((*dot as f32) * key) * scale;
        }
        best = top(&scores[r.at + r.from - r.first..r.at + r.to - r.first], best, |v| v);
    }
    for v in scores.iter_mut() {
        *v = exp(*v - best);
    }
    for r in runs {
        let part = &mut scores[r.at..r.at + r.len()];
        part[..r.from - r.first].fill(0.0);
        part[r.to - r.first..].fill(0.0);
    }
    // The denominator is a sum of integers, the peak a maximum: they have no order.
    let (mut sums, mut peaks) = ([0_u32; SUM_WAYS], [0.0_f32; SUM_WAYS]);
    for r in runs {
        let part = scores[r.at..r.at + r.len()].chunks_exact_mut(SUM_WAYS);
        let scales = cache.value_scales[r.first..r.last].chunks_exact(SUM_WAYS);
        for (part, scales) in part.zip(scales) {
            for i in 0..SUM_WAYS {
                sums[i] += truncate(part[i] * ONE + 0.5, 0.0, ONE) as u32;
                part[i] *= scales[i];
                peaks[i] = max(peaks[i], part[i]);
            }
        }
    }
    let total = sums.iter().map(|s| u64::from(*s)).sum::<u64>();
    let peak = join(&mut peaks, max);
    if peak == 0.0 || total == 0 {
        weights.fill(0);
        return 0.0;
    }
    let inv = WEIGHT_ONE / peak;
    for (w, v) in weights.iter_mut().zip(scores.iter()) {
        *w = truncate(v * inv + 0.5, 0.0, WEIGHT_ONE) as i16;
    }
    (peak / WEIGHT_ONE) / ((total as f32) / ONE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_sees_the_sinks_and_the_window() {
        for (window, sinks) in [(1, 0), (40, 0), (64, 16), (40, 16), (100, 48), (1000, 32)] {
            let reach = Reach { window, sinks };
            let mut slots = vec![usize::MAX; sinks + reach.ring()];
            for position in 0..2500 {
                slots[reach.slot(position)] = position;
                let (runs, live) = reach.runs(position);
                let mut seen: Vec<usize> =
                    runs.iter().flat_map(|r| slots[r.from..r.to].iter().copied()).collect();
                seen.sort_unstable();
                let want: Vec<usize> =
                    (0..=position).filter(|p| *p < sinks || p + window > position).collect();
                assert_eq!(seen, want, "{reach:?} {position}");
                assert_eq!(live, want.len());
                // Each has a place of its own for its scores.
                assert_eq!((runs[0].at, runs[1].at), (0, runs[0].len()));
                assert_eq!(runs[2].at, runs[0].len() + runs[1].len());
                assert!(reach.near_sinks(position) <= position);
            }
        }
    }
}
