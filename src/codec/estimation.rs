//! Secondary estimation: what has come of probabilities like this one under a context.

use super::tables::{LIMIT, TABLES};
use super::vector::prefetch;

/// Cells of a curve, one cache line.
const CELLS: usize = 32;
/// Logit between two cells, times 256, rounded up.
const STEP: i32 = (2 * LIMIT * 256).div_euclid(CELLS as i32 - 1) + 1;
/// Each observation moves a cell by 2^-this of the error.
const RATE: u32 = 5;

/// A curve from probability to probability.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(64))]
struct Curve([u16; CELLS]);

/// A curve for each context.
#[derive(Debug, Clone)]
pub struct Estimation {
    curves: Vec<Curve>,
    /// Of the decision under way.
    curve: usize,
    cell: usize,
}

impl Estimation {
    /// Believes all probabilities at first.
    pub fn new(contexts: usize) -> Self {
        let curve = std::array::from_fn(|i| TABLES.squash(((i as i32 * STEP) >> 8) - LIMIT) as u16);
        Self { curves: vec![Curve(curve); contexts], curve: 0, cell: 0 }
    }

    /// Memory held, in bytes.
    pub fn weight(&self) -> usize {
        2 * CELLS * self.curves.len()
    }

    /// Shows all probabilities, of 65536, and takes what is answered.
    pub fn each_cell(&mut self, visit: &mut impl FnMut(i32) -> i32) {
        for cell in self.curves.iter_mut().flat_map(|curve| &mut curve.0) {
            *cell = visit((*cell).into()).clamp(1, 65535) as u16;
        }
    }

    /// Chooses the context.
    #[inline(always)]
    pub fn choose(&mut self, context: usize) {
        self.curve = context;
        prefetch(&self.curves[context]);
    }

    /// Probability of 65536 of what has the logit `x` by itself.
    #[inline(always)]
    pub fn refine(&mut self, x: i32) -> i32 {
        let x = (x + LIMIT) * 256;
        let low = x / STEP;
        // Of 256.
        let part = (x - low * STEP) / (STEP / 256);
        let at = (low as usize).min(CELLS - 2);
        let curve = &self.curves[self.curve].0;
        let (a, b) = (i32::from(curve[at]), i32::from(curve[at + 1]));
        self.cell = at + usize::from(part > 128);
        (a * (256 - part) + b * part) >> 8
    }

    /// Learns how the decision went.
    #[inline(always)]
    pub fn update(&mut self, bit: bool) {
        let target = if bit { 65535 } else { 0 };
        let cell = &mut self.curves[self.curve].0[self.cell % CELLS];
        *cell = (i32::from(*cell) + ((target - i32::from(*cell)) >> RATE)) as u16;
    }
}
