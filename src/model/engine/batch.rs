//! Working memory of the forward pass: rows that several threads fill, each its own.

use super::kernel::{Column, Kernel, MAX_COLUMNS, Outputs, Packed, ROWS};
use super::math::{GROUP, VALUE_MAX, quantise};
use std::marker::PhantomData;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Bytes of weights that stay in the first-level cache while all columns pass over them.
const TILE_BYTES: usize = 16 << 10;

/// A row of `width` elements for each column.
#[derive(Debug)]
pub struct Grid<T> {
    data: Vec<T>,
    width: usize,
}

impl<T> Default for Grid<T> {
    fn default() -> Self {
        Self { data: Vec::new(), width: 0 }
    }
}

impl<T: Clone + Default> Grid<T> {
    /// Makes room, and hands out the rows.
    pub fn rows(&mut self, rows: usize, width: usize) -> View<'_, T> {
        self.width = width;
        if self.data.len() < rows * width {
            self.data.resize(rows * width, T::default());
        }
        View::new(&mut self.data, width)
    }

    /// What was written last.
    pub fn row(&self, row: usize) -> &[T] {
        &self.data[row * self.width..(row + 1) * self.width]
    }
}

/// Rows that may be written from several threads.
#[derive(Debug)]
pub struct View<'a, T> {
    at: *mut T,
    len: usize,
    width: usize,
    owner: PhantomData<&'a mut [T]>,
}

impl<T> Clone for View<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<T> Copy for View<'_, T> {}

// SAFETY: it stands for a `&mut [T]`; whoever takes the same element in two threads breaks the
// promise made to `part`.
unsafe impl<T: Send> Send for View<'_, T> {}
// SAFETY: as above.
unsafe impl<T: Send + Sync> Sync for View<'_, T> {}

impl<'a, T> View<'a, T> {
    /// All of `data` in rows of `width`.
    pub fn new(data: &'a mut [T], width: usize) -> Self {
        Self { at: data.as_mut_ptr(), len: data.len(), width, owner: PhantomData }
    }

    /// Without the first rows.
    pub fn skip(self, rows: usize) -> Self {
        let n = (rows * self.width).min(self.len);
        // SAFETY: at most one past the end.
        Self { at: unsafe { self.at.add(n) }, len: self.len - n, ..self }
    }

    /// Part of a row.
    ///
    /// # Safety
    /// Nobody else may use these elements while the result lives.
    #[inline(always)]
    pub unsafe fn part(self, row: usize, part: Range<usize>) -> &'a mut [T] {
        assert!(part.start <= part.end && part.end <= self.width);
        assert!((row + 1) * self.width <= self.len);
        // SAFETY: within the data, as just checked; the caller vouches that it is not shared.
        unsafe {
            std::slice::from_raw_parts_mut(self.at.add(row * self.width + part.start), part.len())
        }
    }

    /// A row.
    ///
    /// # Safety
    /// Nobody else may use it while the result lives.
    #[inline(always)]
    pub unsafe fn row(self, row: usize) -> &'a mut [T] {
        // SAFETY: as this function's own.
        unsafe { self.part(row, 0..self.width) }
    }

    /// A row that nobody writes.
    ///
    /// # Safety
    /// Nobody may write to it while the result lives.
    #[inline(always)]
    pub unsafe fn read(self, row: usize) -> &'a [T] {
        // SAFETY: as this function's own.
        unsafe { self.part(row, 0..self.width) }
    }
}

/// Quantised activations of a batch.
#[derive(Debug, Default)]
pub struct Activations {
    values: Grid<i8>,
    scales: Grid<f32>,
    offsets: Grid<i32>,
}

impl Activations {
    /// Room for `columns` columns of at most `inputs`.
    pub fn rows(&mut self, columns: usize, inputs: usize) -> Quantised<'_> {
        let groups = inputs.div_ceil(GROUP);
        Quantised {
            values: self.values.rows(columns, groups * GROUP),
            scales: self.scales.rows(columns, groups),
            offsets: self.offsets.rows(columns, groups * GROUP / 4),
        }
    }
}

/// [`Activations`] in use.
#[derive(Debug, Clone, Copy)]
pub struct Quantised<'a> {
    values: View<'a, i8>,
    scales: View<'a, f32>,
    offsets: View<'a, i32>,
}

impl Quantised<'_> {
    /// Quantises column `c`, padding its last group with zeros.
    ///
    /// # Safety
    /// The CPU must have the kernel's instruction set, and nobody else may use the column meanwhile.
    #[inline(always)]
    pub unsafe fn set<K: Kernel>(&self, c: usize, x: &[f32]) {
        // SAFETY: as this function's own.
        unsafe {
            let (values, scales) = (self.values.row(c), self.scales.row(c));
            let offsets = self.offsets.row(c);
            for (g, x) in x.chunks(GROUP).enumerate() {
                let q = &mut values[g * GROUP..(g + 1) * GROUP];
                q[x.len()..].fill(0);
                scales[g] = quantise(x, &mut q[..x.len()], VALUE_MAX);
                K::offsets(q, &mut offsets[g * GROUP / 4..(g + 1) * GROUP / 4]);
            }
        }
    }
}

impl<'a> Quantised<'a> {
    /// Column `c`, and its scales.
    ///
    /// # Safety
    /// Nobody may write to it while the result lives.
    #[inline(always)]
    pub unsafe fn read(&self, c: usize) -> (&'a [i8], &'a [f32]) {
        // SAFETY: as this function's own.
        unsafe { (self.values.read(c), self.scales.read(c)) }
    }
}

/// Work of one phase that members take piece by piece, each as fast as its processor lets it: which
/// of them does what changes no result.
#[derive(Debug, Default)]
pub struct Pile(AtomicUsize);

impl Pile {
    /// Full again. Nobody may be taking from it.
    pub fn refill(&mut self) {
        *self.0.get_mut() = 0;
    }

    /// Things of `total`, one by one, until none is left.
    #[inline(always)]
    pub fn each(&self, total: usize) -> impl Iterator<Item = usize> + '_ {
        std::iter::from_fn(move || self.take(1, total).next())
    }

    /// The next `n` of `total` things, or what is left; none at the end.
    #[inline(always)]
    fn take(&self, n: usize, total: usize) -> Range<usize> {
        let from = self.0.fetch_add(n, Ordering::Relaxed).min(total);
        from..(from + n).min(total)
    }
}

/// `out[c] = W · column c` for `n` columns, tile by tile: what a member of `size` gets of the rows.
///
/// # Safety
/// The CPU must have the kernel's instruction set; nobody may write the columns, nor use the outputs,
/// meanwhile.
#[inline(always)]
pub unsafe fn linear<K: Kernel>(
    w: &Packed,
    x: Quantised,
    n: usize,
    out: View<f32>,
    pile: &Pile,
    size: usize,
) {
    /// Pieces for each member: so much smaller is what the last one keeps the others waiting for.
    const PIECES: usize = 4;
    assert!(out.width == w.rows && n * w.rows <= out.len);
    let tile = (TILE_BYTES / (w.groups * GROUP * ROWS)).max(1);
    let piece = w.blocks().div_ceil(if size == 1 { 1 } else { PIECES * size });
    let mut mine = 0..0;
    loop {
        if mine.is_empty() {
            mine = pile.take(piece, w.blocks());
            if mine.is_empty() {
                break;
            }
        }
        let (from, to) = (mine.start, (mine.start + tile).min(mine.end));
        let mut first = 0;
        while first < n {
            // Even shares: 12 columns run as 6 + 6 rather than 8 + 4.
            let left = n - first;
            let m = left.div_ceil(left.div_ceil(MAX_COLUMNS));
            // SAFETY: the caller vouches for the columns and the instruction set; there is room
            // for n rows of outputs, and a piece is one member's.
            unsafe {
                let columns: [Column; MAX_COLUMNS] = std::array::from_fn(|i| {
                    let c = (first + i).min(n - 1);
                    Column {
                        values: x.values.read(c),
                        scales: x.scales.read(c),
                        offsets: x.offsets.read(c),
                    }
                });
                let out = Outputs { at: out.at.add(first * w.rows), stride: w.rows };
                K::linear(w, from..to, &columns[..m], out);
            }
            first += m;
        }
        mine.start = to;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_thing_of_a_pile_is_taken_once() {
        let mut pile = Pile::default();
        for _ in 0..20 {
            let taken: Vec<AtomicUsize> = (0..1003).map(|_| AtomicUsize::new(0)).collect();
            std::thread::scope(|scope| {
                let take = |n: usize| loop {
                    let some = pile.take(n, taken.len());
                    if some.is_empty() {
                        break;
                    }
                    for i in some {
                        taken[i].fetch_add(1, Ordering::Relaxed);
                    }
                };
                scope.spawn(move || take(7));
                scope.spawn(move || take(1));
            });
            assert!(taken.iter().all(|t| t.load(Ordering::Relaxed) == 1));
            assert!(pile.each(taken.len()).next().is_none());
            pile.refill();
            assert_eq!(pile.each(3).collect::<Vec<_>>(), [0, 1, 2]);
            pile.refill();
        }
    }
}
