//! All kernels against the definition, on random and extreme inputs.

use super::kernel::{Column, Kernel, MAX_COLUMNS, Outputs, Packed, Row, Scalar};
use super::math::{GROUP, VALUE_MAX, WEIGHT_MAX};
use crate::cpu::Isa;

/// A small reproducible generator (xorshift64).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
    fn below(&mut self, n: usize) -> usize {
        self.next() as usize % n
    }
    /// Integers within ±most: random, or one of the extremes.
    fn integers(&mut self, n: usize, most: i8, extreme: bool) -> Vec<i8> {
        let (sign, most) = (self.next() % 3, i64::from(most));
        (0..n)
            .map(|_| match (extreme, self.next()) {
                (false, r) => (r % (2 * most as u64 + 1)) as i64 - most,
                // All alike is what saturates sums; mixed is what cancels.
                (true, _) if sign == 0 => most,
                (true, _) if sign == 1 => -most,
                (true, r) => [-most, most, 0][(r % 3) as usize],
            })
            .map(|v| v as i8)
            .collect()
    }
    fn scales(&mut self, n: usize) -> Vec<f32> {
        let all = [1.0, -0.0, 3.4e38, 1e-40, 0.37, 1e-20, 7.5e-3];
        (0..n).map(|_| all[self.below(7)]).collect()
    }
}

fn bits(v: &[f32]) -> Vec<u32> {
    v.iter().map(|f| if f.is_nan() { 1 } else { f.to_bits() }).collect()
}

/// Quantised columns with what kernel `K` wants to know about them.
struct Columns {
    values: Vec<Vec<i8>>,
    scales: Vec<Vec<f32>>,
    offsets: Vec<Vec<i32>>,
}

impl Columns {
    fn new(r: &mut Random, n: usize, inputs: usize, extreme: bool) -> Self {
        Self {
            values: (0..n).map(|_| r.integers(inputs, VALUE_MAX, extreme)).collect(),
            scales: (0..n).map(|_| r.scales(inputs.div_ceil(GROUP))).collect(),
            offsets: vec![vec![0; inputs / 4]; n],
        }
    }
    /// For groups of `group` values.
    fn prepare<K: Kernel>(&mut self, group: usize) -> Vec<Column<'_>> {
        for (v, o) in self.values.iter().zip(&mut self.offsets) {
            for (v, o) in v.chunks(group).zip(o.chunks_mut(group / 4)) {
                // SAFETY: called for kernels that this CPU has.
                unsafe { K::offsets(v, o) };
            }
        }
        (0..self.values.len())
            .map(|c| Column {
                values: &self.values[c],
                scales: &self.scales[c],
                offsets: &self.offsets[c],
            })
            .collect()
    }
}

fn linear<K: Kernel>(w: &Packed, x: &mut Columns) -> Vec<u32> {
    let stride = w.rows + 3;
    let mut out = vec![0.0; x.values.len() * stride];
    let columns = x.prepare::<K>(GROUP);
    let to = Outputs { at: out.as_mut_ptr(), stride };
    // In two calls, as two threads would.
    let half = w.blocks() / 2;
    // SAFETY: called for kernels that this CPU has; `out` has room for all columns.
    unsafe {
        K::linear(w, 0..half, &columns, to);
        K::linear(w, half..w.blocks(), &columns, to);
    }
    bits(&out)
}

/// Keys, queries, values, weights; queries by head size.
struct Attention {
    d: usize,
    slots: usize,
    keys: Vec<u8>,
    queries: Columns,
    values: Vec<i8>,
    weights: Vec<i16>,
}

impl Attention {
    fn new(r: &mut Random, extreme: bool) -> Self {
        let (d, n) = ((1 + r.below(16)) * 16, 1 + r.below(MAX_COLUMNS));
        let slots = (1 + r.below(32)) * 16;
        let keys = r.integers(d * slots, WEIGHT_MAX, extreme);
        Self {
            d,
            slots,
            keys: keys.iter().map(|k| k.wrapping_add(WEIGHT_MAX) as u8).collect(),
            queries: Columns::new(r, n, d, extreme),
            values: r.integers(d * slots, VALUE_MAX, extreme),
            weights: (0..n * slots)
                .map(|_| if extreme { i16::MAX } else { (r.next() & 0x7fff) as i16 })
                .collect(),
        }
    }
    fn run<K: Kernel>(&mut self) -> (Vec<i32>, Vec<i32>) {
        let n = self.queries.values.len();
        let stride = self.slots + 5;
        let mut products = vec![7; n * stride];
        let mut sums = vec![9; n * self.d];
        let queries = self.queries.prepare::<K>(self.d);
        let weights: Vec<i16> = self
            .weights
            .chunks(self.slots)
            .flat_map(|w| w.iter().copied().chain([-1; 5]))
            .collect();
        // SAFETY: called for kernels that this CPU has.
        unsafe {
            K::keys(&self.keys, &queries, &mut products, stride);
            K::values(&self.values, &weights, stride, self.d, &mut sums);
        }
        (products, sums)
    }
}

fn compare<K: Kernel>(name: &str) {
    let mut r = Random(88172645463325252);
    for round in 0..60 {
        let extreme = round % 3 == 0;
        let (rows, inputs) = (1 + r.below(90), 1 + r.below(4 * GROUP));
        let (groups, w) = (inputs.div_ceil(GROUP), r.integers(rows * inputs, WEIGHT_MAX, extreme));
        let scales = r.scales(rows * groups);
        let packed = Packed::new(rows, inputs, |i| Row {
            values: &w[i * inputs..(i + 1) * inputs],
            scales: &scales[i * groups..(i + 1) * groups],
        });
        for n in 1..=MAX_COLUMNS {
            let mut x = Columns::new(&mut r, n, groups * GROUP, extreme);
            let want = linear::<Scalar>(&packed, &mut x);
            assert_eq!(linear::<K>(&packed, &mut x), want, "{name}, {n} columns");
        }
    }
    for round in 0..100 {
        let mut a = Attention::new(&mut r, round % 3 == 0);
        let want = a.run::<Scalar>();
        assert!(a.run::<K>() == want, "{name}");
    }
}

#[test]
fn the_definition_is_the_plain_sum() {
    let mut r = Random(2463534242);
    let (rows, inputs) = (19, GROUP + 16);
    let w = r.integers(rows * inputs, WEIGHT_MAX, false);
    let scales: Vec<f32> = (0..rows * 2).map(|i| i as f32 / 64.0).collect();
    let packed = Packed::new(rows, inputs, |i| Row {
        values: &w[i * inputs..(i + 1) * inputs],
        scales: &scales[i * 2..i * 2 + 2],
    });
    let mut x = Columns::new(&mut r, 1, 2 * GROUP, false);
    x.scales[0] = vec![0.5, 0.25];
    let got = linear::<Scalar>(&packed, &mut x);
    for row in 0..rows {
        let mut want = 0.0_f32;
        for g in 0..2 {
            let range = g * GROUP..((g + 1) * GROUP).min(inputs);
            let sum: i32 =
                range.map(|k| i32::from(w[row * inputs + k]) * i32::from(x.values[0][k])).sum();
            want += sum as f32 * scales[row * 2 + g] * x.scales[0][g];
        }
        assert_eq!(got[row], want.to_bits());
    }
}

#[cfg(target_arch = "x86_64")]
#[test]
fn avx2_is_the_definition() {
    if Isa::Avx2.available() {
        compare::<super::avx2::Avx2>("avx2");
    }
}

#[cfg(target_arch = "x86_64")]
#[test]
fn avx512_is_the_definition() {
    compare::<super::avx512::emulated::Emulated>("avx512-vnni, emulated");
    if Isa::Avx512Vnni.available() {
        compare::<super::avx512::Avx512Vnni>("avx512-vnni");
    }
}
