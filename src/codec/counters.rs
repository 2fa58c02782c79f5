//! Counters: how often a decision went right under a context, and what such a count is worth.

use super::tables::TABLES;
use super::vector::{Ints, LINE, Line, Vector, WIDTH, prefetch};

/// Observations are counted up to this.
pub const SEEN_MAX: i32 = 31;
/// Bits of a slot that tell whose it is.
const CHECK: i32 = 0x3fe0;
/// Largest probability of a slot.
const P_MAX: i32 = (1 << 18) - 1;
/// Where each context's steps begin in [`RATES`].
pub mod haste {
    use super::{Ints, WIDTH};

    /// All counters forget slowly.
    pub const NONE: Ints = [0; WIDTH];
    /// All but the first two forget fast.
    pub const MOST: Ints = [0, 0, 32, 32, 32, 32, 32, 32];
}
/// 32768 / (n + 1.5): the step of a counter that saw n decisions; first that of those which forget
/// slowly, then that of the others.
static RATES: [u16; 65] = {
    let mut r = [0; 65];
    let mut n = 0;
    while n < 64 {
        let seen = if n < 32 {
            n
        } else if n < 40 {
            n - 32
        } else {
            8
        };
        r[n] = ((2 * 65536) / (2 * seen + 3) / 2) as u16;
        n += 1;
    }
    r
};

/// A counter: probability (18 bits), check (9; not where it has a place of its own), observations (5).
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

    /// After one more observation; forgets slowly.
    #[inline(always)]
    pub fn learned(self, bit: bool) -> Self {
        let target = if bit { P_MAX } else { 0 };
        let (p, n) = (self.p() as i32, self.0 as i32 & SEEN_MAX);
        // |target − p| · rate stays below 2^31 after these shifts.
        let step = ((target - p) >> 2) * i32::from(RATES[n as usize]);
        let p = (p + (step >> 13)).clamp(1, P_MAX) as u32;
        Self(p << 14 | (n + 1).min(SEEN_MAX) as u32)
    }
}

/// Bits of a line's number for short texts, at least.
const LINE_BITS: u32 = 8;

/// Counters under hashed contexts, in lines of one cache line each.
#[derive(Debug, Clone)]
pub struct Table {
    lines: Vec<Line>,
    haste: Ints,
}

/// The counters of one decision, one for each context.
#[derive(Debug, Clone, Copy, Default)]
pub struct Found {
    /// Their numbers in the table.
    at: Ints,
    /// Their values.
    pub slots: Ints,
}

impl Table {
    /// For a text of `len` bytes, as many lines as it has bytes, at most 2 to the power of `most`:
    /// short texts are given small tables, which cost less to make.
    pub fn new(len: usize, most: u32, haste: Ints) -> Self {
        let bits = (len.max(1).ilog2()).clamp(LINE_BITS, most);
        Self { lines: vec![Line([Slot::NEW.0; LINE]); 1 << bits], haste }
    }

    /// Memory held, in bytes.
    pub fn weight(&self) -> usize {
        4 * LINE * self.lines.len()
    }

    /// Finds or makes the counters of a decision. `lines` chooses the lines, `keys` the places in
    /// them. Without branches: what they hit cannot be foreseen.
    #[inline(always)]
    pub fn find<V: Vector>(&self, lines: V, keys: V) -> Found {
        let first = lines.shl::<4>().or(keys.and(V::splat(15)));
        let second = first.xor(V::splat(1));
        let a = V::slots(&self.lines, first);
        let b = V::slots(&self.lines, second);
        let (check_mask, seen) = (V::splat(CHECK), V::splat(SEEN_MAX));
        let check = keys.shr::<3>().and(check_mask);
        let hit_a = a.and(check_mask).same(check);
        let hit_b = b.and(check_mask).same(check);
        // The second if it is the decision's, or neither is and it has seen less.
        let less = a.and(seen).above(b.and(seen));
        let take_b = hit_a.choose(V::splat(0), hit_b.or(less));
        let old = take_b.choose(b, a);
        let new = check.or(V::splat(Slot::NEW.0 as i32));
        Found {
            at: take_b.choose(second, first).lanes(),
            slots: hit_a.or(hit_b).choose(old, new).lanes(),
        }
    }

    /// Asks for a line that is likely to be needed soon; a matter of speed alone.
    #[inline(always)]
    pub fn prefetch(&self, line: u32) {
        prefetch(&self.lines[line as usize & (self.lines.len() - 1)]);
    }

    /// The counters learn how the decision went.
    #[inline(always)]
    pub fn learn<V: Vector>(&mut self, found: &Found, bit: bool) {
        let slots = V::load(&found.slots);
        let seen = slots.and(V::splat(SEEN_MAX));
        let rates = V::halves(&RATES, seen.add(V::load(&self.haste)));
        let p = slots.shr::<14>();
        // |target − p| · rate stays below 2^31 after these shifts.
        let target = V::splat(if bit { P_MAX } else { 0 });
        let step = target.sub(p).sar::<2>().mul(rates).sar::<13>();
        let p = p.add(step).clamp(1, P_MAX).shl::<14>();
        let seen = seen.add(V::splat(1)).min(V::splat(SEEN_MAX));
        let new = p.or(slots.and(V::splat(CHECK))).or(seen);
        new.put_slots(&mut self.lines, &found.at);
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

/// Cells for each context.
const CELLS: usize = 1024;
/// Each observation moves a cell by 2^-this of the error, rounded.
const WORTH_RATE: i32 = 8;
/// Kinds of counts that are told apart: 64 steps of the odds, 16 classes of how much was seen.
const STEPS: i32 = 64;

/// What the counts of each context have been worth so far (an indirect model).
#[derive(Debug, Clone)]
pub struct Worth {
    cells: Box<[u16; CELLS * WIDTH + 1]>,
}

/// An estimate for each context.
#[derive(Debug, Clone, Copy, Default)]
pub struct Estimates {
    at: Ints,
    /// Probabilities of 65536.
    pub p: Ints,
}

/// The cells of counters, without their contexts' parts. Logarithms to the base 2, in halves, are
/// read from the bits of the numbers as floats.
#[inline(always)]
fn cells<V: Vector>(slots: V) -> V {
    const BIAS: i32 = 64;
    let p = slots.shr::<14>();
    let with = p.add(V::splat(BIAS)).float_bits().shr::<22>();
    let without = V::splat((1 << 18) + BIAS).sub(p).float_bits().shr::<22>();
    let step = with.sub(without).add(V::splat(STEPS / 2));
    let seen = slots.and(V::splat(SEEN_MAX)).add(V::splat(1));
    let class = seen.float_bits().shr::<22>().sub(V::splat(1_f32.to_bits() as i32 >> 22));
    class.shl::<6>().or(step)
}

impl Default for Worth {
    fn default() -> Self {
        let mut cells = Box::new([32768; CELLS * WIDTH + 1]);
        for (i, c) in cells.iter_mut().enumerate() {
            // 2^(step/2) to 1.
            let step = i as i32 % STEPS - STEPS / 2;
            *c = TABLES.squash(step * 887 / 10).clamp(1, 65535) as u16;
        }
        Self { cells }
    }
}

impl Worth {
    /// Memory held, in bytes.
    pub const WEIGHT: usize = 2 * CELLS * WIDTH;

    /// What the counters of a decision are worth.
    #[inline(always)]
    pub fn of<V: Vector>(&self, slots: &Ints) -> Estimates {
        let at = cells(V::load(slots)).add(V::load(&OWN));
        Estimates { at: at.lanes(), p: V::halves(&self.cells, at).lanes() }
    }

    /// What counts are worth: how often a decision went left, and how often right.
    #[inline(always)]
    pub fn of_counts<V: Vector>(&self, left: V, right: V) -> Estimates {
        /// What is added to 8 times a count, so that a single one says something and none is no 0.
        const BIAS: i32 = 3;
        let most = V::splat(1 << 20);
        let (left, right) = (left.min(most), right.min(most));
        let halves = |n: V| n.shl::<3>().add(V::splat(BIAS)).float_bits().shr::<22>();
        let step = halves(right).sub(halves(left)).clamp(-STEPS / 2, STEPS / 2 - 1);
        let all = left.add(right).add(V::splat(1)).float_bits().shr::<23>();
        let class = all.sub(V::splat(1_f32.to_bits() as i32 >> 23)).min(V::splat(15));
        let at = class.shl::<6>().or(step.add(V::splat(STEPS / 2))).add(V::load(&OWN));
        Estimates { at: at.lanes(), p: V::halves(&self.cells, at).lanes() }
    }

    /// One more observation.
    #[inline(always)]
    pub fn learn<V: Vector>(&mut self, e: &Estimates, bit: bool) {
        let p = V::load(&e.p);
        let target = V::splat(if bit { 65535 } else { 0 });
        let half = V::splat(1 << (WORTH_RATE - 1));
        p.add(target.sub(p).add(half).sar::<WORTH_RATE>()).put_halves(&mut self.cells, &e.at);
    }
}

/// Where each context's cells begin.
const OWN: Ints = {
    let mut own = [0; WIDTH];
    let mut i = 0;
    while i < WIDTH {
        own[i] = (i * CELLS) as i32;
        i += 1;
    }
    own
};

/// Tells nodes apart in hashes.
#[inline(always)]
pub fn salt_of(node: u16) -> u32 {
    u32::from(node).wrapping_mul(0x9E37_79B1)
}

/// The lines of the table for the contexts and the node that begins a group.
#[inline(always)]
pub fn lines<V: Vector>(contexts: &Ints, salt: u32) -> V {
    let h = V::load(contexts).xor(V::splat(salt as i32)).mul(V::splat(0x85EB_CA6B_u32 as i32));
    h.xor(h.shr::<15>())
}
