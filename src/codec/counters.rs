//! Counters: how often a decision went right under a context, and what such a count is worth.

use super::tables::{LIMIT, TABLES};

/// Slots per line of the table: a line is one cache line.
const LINE: usize = 16;
/// Observations are counted up to this.
pub const SEEN_MAX: u32 = 31;
/// 65536 / (n + 1.5): the step of a counter that saw n decisions.
const fn rates(limit: u32) -> [u32; 32] {
    let mut r = [0; 32];
    let mut n = 0;
    while n < 32 {
        let seen = if n < limit { n } else { limit };
        r[n as usize] = (2 * 65536) / (2 * seen + 3);
        n += 1;
    }
    r
}

/// Steps of counters that forget slowly.
pub const SLOW: [u32; 32] = rates(31);
/// Steps of counters that forget fast.
pub const FAST: [u32; 32] = rates(12);

/// A counter: probability (18 bits), check (9), observations (5).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Slot(pub u32);

impl Slot {
    /// Has seen nothing.
    pub const NEW: Self = Self(1 << 31);

    /// Probability that the decision is 1, of 2^18.
    #[inline(always)]
    pub fn p(self) -> u32 {
        self.0 >> 14
    }

    /// Observations, up to [`SEEN_MAX`]; 0 for none.
    #[inline(always)]
    pub fn seen(self) -> u32 {
        self.0 & 31
    }

    /// After one more observation.
    #[inline(always)]
    pub fn learned(self, bit: bool, rates: &[u32; 32]) -> Self {
        let target = if bit { (1 << 18) - 1 } else { 0 };
        let (p, n) = (self.p() as i32, self.seen());
        // |target − p| · rate stays below 2^34: halve both.
        let step = ((target - p) >> 2) * (rates[n as usize] >> 1) as i32;
        let p = (p + (step >> 13)).clamp(1, (1 << 18) - 1) as u32;
        Self(p << 14 | self.0 & 0x3fe0 | (n + 1).min(SEEN_MAX))
    }
}

/// Bits of a line's number: for short texts, and at most.
const LINE_BITS: (u32, u32) = (8, 16);

/// Counters under hashed contexts, in lines of one cache line each.
#[derive(Debug, Clone)]
pub struct Table {
    lines: Vec<[Slot; LINE]>,
}

/// Where a slot is in the table.
#[derive(Debug, Clone, Copy, Default)]
pub struct Place {
    line: u32,
    slot: u32,
}

impl Table {
    /// For a text of `len` bytes: short ones are given small tables, which cost less to make.
    pub fn new(len: usize) -> Self {
        let bits = (len.max(1).ilog2()).clamp(LINE_BITS.0, LINE_BITS.1);
        Self { lines: vec![[Slot::NEW; LINE]; 1 << bits] }
    }

    /// Memory held, in bytes.
    pub fn weight(&self) -> usize {
        4 * LINE * self.lines.len()
    }

    /// True if it is as large as tables get.
    pub fn is_full_size(&self) -> bool {
        self.lines.len() == 1 << LINE_BITS.1
    }

    /// Finds or makes the slot for a decision. `line` is the hash that chooses the line, `key` the
    /// one that chooses the slot in it. Without branches: what they hit cannot be foreseen.
    #[inline(always)]
    pub fn find(&self, line: u32, key: u32) -> (Place, Slot) {
        let check = key >> 3 & 0x3fe0;
        let slots = &self.lines[line as usize & (self.lines.len() - 1)];
        let first = key & 15;
        let (a, b) = (slots[first as usize], slots[(first ^ 1) as usize]);
        let hit_a = a.0 & 0x3fe0 == check;
        let hit_b = b.0 & 0x3fe0 == check;
        let take_b = !hit_a & (hit_b | (b.seen() < a.seen()));
        let old = if take_b { b } else { a };
        let slot = if hit_a | hit_b { old } else { Slot(Slot::NEW.0 | check) };
        (Place { line, slot: first ^ u32::from(take_b) }, slot)
    }

    /// Asks for a line that is likely to be needed soon; a matter of speed alone.
    #[inline(always)]
    pub fn prefetch(&self, line: u32) {
        #[cfg(target_arch = "x86_64")]
        {
            use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
            let line = &raw const self.lines[line as usize & (self.lines.len() - 1)];
            // SAFETY: a prefetch touches nothing that the program can see, and every x86-64
            // processor has it.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(line.cast()) };
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = line;
    }

    /// Changes a slot.
    #[inline(always)]
    pub fn set(&mut self, at: Place, slot: Slot) {
        let number = at.line as usize & (self.lines.len() - 1);
        let line = &mut self.lines[number];
        line[(at.slot & 15) as usize] = slot;
    }
}

/// An adaptive probability: 22 bits, observations in the low 10.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Adaptive(u32);

impl Adaptive {
    /// Starts at `p` of 65536 as if it had seen `seen` decisions.
    pub const fn new(p: u32, seen: u32) -> Self {
        Self(p << 16 | seen)
    }

    /// Probability of 65536.
    #[inline(always)]
    pub fn p(self) -> u32 {
        self.0 >> 16
    }

    /// After one more observation, which counts 1 / (n + 1.5), at least about 1 / `limit`.
    #[inline(always)]
    pub fn learned(self, bit: bool, limit: u32) -> Self {
        let (p, n) = ((self.0 >> 10) as i32, self.0 & 1023);
        let target = if bit { (1 << 22) - 1 } else { 0 };
        let step = ((target - p) >> 3) * DIVISORS[(n & 255) as usize];
        let p = (p + (step >> 10)).clamp(64, (1 << 22) - 64) as u32;
        Self(p << 10 | if n < limit { n + 1 } else { n })
    }
}

/// 8192 / (n + 1.5).
static DIVISORS: [i32; 256] = {
    let mut d = [0; 256];
    let mut n = 0;
    while n < 256 {
        d[n] = 16384 / (2 * n as i32 + 3);
        n += 1;
    }
    d
};

/// Counts are told apart by this many steps of their logit, and by classes of how much they saw.
const STEPS: usize = 32;

static CLASS: [u8; 32] = [
    0, 0, 1, 2, 3, 4, 5, 5, 6, 6, 6, 7, 7, 7, 7, 8, 8, 8, 8, 8, 8, 8, 8, 9, 9, 9, 9, 9, 9, 9, 9, 10,
];

/// Each observation moves a cell by 2^-this of the error.
const WORTH_RATE: u32 = 6;

/// Cells for each kind of context.
const CELLS: usize = 512;

/// What the counts of each kind of context have been worth so far (an indirect model).
#[derive(Debug, Clone)]
pub struct Worth<const N: usize> {
    cells: Box<[[u16; CELLS]; N]>,
}

impl<const N: usize> Default for Worth<N> {
    fn default() -> Self {
        let mut cells = [32768; CELLS];
        for (i, c) in cells.iter_mut().enumerate() {
            let logit = (2 * (i % STEPS) as i32 - 31) * LIMIT / 32;
            *c = TABLES.squash(logit) as u16;
        }
        Self { cells: Box::new([cells; N]) }
    }
}

impl<const N: usize> Worth<N> {
    /// Memory held, in bytes.
    pub const WEIGHT: usize = 2 * CELLS * N;

    /// The cell for a counter.
    #[inline(always)]
    pub fn cell(slot: Slot) -> usize {
        let logit = TABLES.stretch_coarse(slot.p() >> 2);
        let step = ((logit + LIMIT) as u32 * 23) >> 12;
        CLASS[slot.seen() as usize] as usize * STEPS + (step as usize).min(STEPS - 1)
    }

    /// Probability of 65536.
    #[inline(always)]
    pub fn p(&self, kind: usize, cell: usize) -> u32 {
        u32::from(self.cells[kind][cell & (CELLS - 1)])
    }

    /// One more observation.
    #[inline(always)]
    pub fn learn(&mut self, kind: usize, cell: usize, bit: bool) {
        let c = &mut self.cells[kind][cell & (CELLS - 1)];
        let target = if bit { 65535 } else { 0 };
        *c = (i32::from(*c) + ((target - i32::from(*c)) >> WORTH_RATE)) as u16;
    }
}
