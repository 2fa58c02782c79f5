//! Eight 32-bit integers at once: one for each context, or eight weights of the mixer. The plain way
//! defines the result; AVX2 only hurries it.

/// Numbers in a vector.
pub const WIDTH: usize = 8;
/// A vector in memory.
pub type Ints = [i32; WIDTH];
/// Twice as many 16-bit integers: inputs of the mixer, or their weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C, align(32))]
pub struct Shorts(pub [i16; 2 * WIDTH]);

impl Shorts {
    /// All of them 0.
    pub const ZERO: Self = Self([0; 2 * WIDTH]);

    /// Where [`Vector::pack`] puts number `i` of its first vector.
    pub const fn first(i: usize) -> usize {
        i + i / 4 * 4
    }

    /// Where [`Vector::pack`] puts number `i` of its second vector.
    pub const fn second(i: usize) -> usize {
        Self::first(i) + 4
    }
}

/// Slots per line of the table: a line is one cache line.
pub const LINE: usize = 16;

/// Counters that share a cache line.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(64))]
pub struct Line(pub [u32; LINE]);

/// Asks for what is likely to be needed soon; a matter of speed alone.
#[inline(always)]
pub fn prefetch<T>(what: &T) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: a prefetch touches nothing that the program can see, and every x86-64 processor
        // has it.
        unsafe { _mm_prefetch::<_MM_HINT_T0>((&raw const *what).cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = what;
}

/// A vector in registers. All arithmetic wraps.
pub trait Vector: Copy {
    /// From memory.
    fn load(from: &Ints) -> Self;
    /// To memory.
    fn store(self, to: &mut Ints);
    /// The same number eight times.
    fn splat(x: i32) -> Self;
    /// Sum.
    fn add(self, o: Self) -> Self;
    /// Difference.
    fn sub(self, o: Self) -> Self;
    /// Lower half of the product.
    fn mul(self, o: Self) -> Self;
    /// Bitwise and.
    fn and(self, o: Self) -> Self;
    /// Bitwise or.
    fn or(self, o: Self) -> Self;
    /// Bitwise exclusive or.
    fn xor(self, o: Self) -> Self;
    /// Lower of two signed numbers.
    fn min(self, o: Self) -> Self;
    /// Higher of two signed numbers.
    fn max(self, o: Self) -> Self;
    /// All bits where equal, else none.
    fn same(self, o: Self) -> Self;
    /// All bits where greater, signed, else none.
    fn above(self, o: Self) -> Self;
    /// `yes` where this has all bits, `no` where it has none.
    fn choose(self, yes: Self, no: Self) -> Self;
    /// Shifted to the left.
    fn shl<const N: i32>(self) -> Self;
    /// Shifted to the right, zeros coming in.
    fn shr<const N: i32>(self) -> Self;
    /// Shifted to the right, the sign coming in.
    fn sar<const N: i32>(self) -> Self;
    /// The bits of these numbers, which are below 2^24, as floats: an exact conversion.
    fn float_bits(self) -> Self;
    /// Sum of all eight.
    fn sum(self) -> i32;
    /// Both vectors' numbers, which fit 16 bits, at [`Shorts::first`] and [`Shorts::second`].
    fn pack(self, second: Self) -> Shorts;
    /// Sums of products of neighbours.
    fn products(a: &Shorts, b: &Shorts) -> Self;
    /// Adds x · by / 2^15, rounded, to each; all are cut to 16 bits.
    fn nudge(to: &mut Shorts, x: &Shorts, by: i16);
    /// Sums of all eight numbers of each of eight vectors.
    fn sums(all: [Self; WIDTH]) -> Self;
    /// A bit for each number that is below 0, the first one's lowest.
    fn signs(self) -> u32;
    /// Of ascending numbers, how many are below `than`.
    fn below(ascending: &Shorts, than: i16) -> usize;
    /// The first `n` of some words, each parted into its upper 12 bits and what its lower 4 choose of
    /// `values`; `end` and 0 in the places of the others.
    fn listed(words: &[u16; 2 * WIDTH], n: usize, values: &Shorts, end: i16) -> (Shorts, Shorts);
    /// Of the first `n` of some heads, the first one whose upper 12 bits are those of `head`: its lower
    /// 4 bits, and the sum of those before, where 0 counts as 2.
    fn headed(heads: &[u16; 2 * WIDTH], n: usize, head: u16) -> Option<(usize, usize)>;
    /// Sums of the numbers before each, which wrap.
    fn before(all: &Shorts) -> Shorts;
    /// Counters by their number in the table, modulo its size, which is a power of two.
    fn slots(lines: &[Line], at: Self) -> Self;
    /// Sets counters by their number, as [`Self::slots`]; of equal numbers the last one counts.
    fn put_slots(self, lines: &mut [Line], at: &Ints);
    /// Elements of a table modulo its size without the last one, which is never used.
    fn halves<const N: usize>(table: &[u16; N], at: Self) -> Self;
    /// The last of 16 ascending numbers that is not above `x`; all are below 2^15, and the first one is 0.
    fn rank(ascending: &[u16; 2 * WIDTH], x: u16) -> usize;
    /// Sets elements, as [`Self::halves`], to the lower halves of these numbers.
    fn put_halves<const N: usize>(self, table: &mut [u16; N], at: &Ints);

    /// Cut to a range.
    #[inline(always)]
    fn clamp(self, low: i32, high: i32) -> Self {
        self.max(Self::splat(low)).min(Self::splat(high))
    }

    /// As an array.
    #[inline(always)]
    fn lanes(self) -> Ints {
        let mut out = [0; WIDTH];
        self.store(&mut out);
        out
    }
}

/// For any processor.
#[derive(Debug, Clone, Copy)]
pub struct Plain(Ints);

impl Plain {
    #[inline(always)]
    fn with(self, o: Self, f: impl Fn(i32, i32) -> i32) -> Self {
        Self(std::array::from_fn(|i| f(self.0[i], o.0[i])))
    }
}

impl Vector for Plain {
    #[inline(always)]
    fn load(from: &Ints) -> Self {
        Self(*from)
    }
    #[inline(always)]
    fn store(self, to: &mut Ints) {
        *to = self.0;
    }
    #[inline(always)]
    fn splat(x: i32) -> Self {
        Self([x; WIDTH])
    }
    #[inline(always)]
    fn add(self, o: Self) -> Self {
        self.with(o, i32::wrapping_add)
    }
    #[inline(always)]
    fn sub(self, o: Self) -> Self {
        self.with(o, i32::wrapping_sub)
    }
    #[inline(always)]
    fn mul(self, o: Self) -> Self {
        self.with(o, i32::wrapping_mul)
    }
    #[inline(always)]
    fn and(self, o: Self) -> Self {
        self.with(o, |a, b| a & b)
    }
    #[inline(always)]
    fn or(self, o: Self) -> Self {
        self.with(o, |a, b| a | b)
    }
    #[inline(always)]
    fn xor(self, o: Self) -> Self {
        self.with(o, |a, b| a ^ b)
    }
    #[inline(always)]
    fn min(self, o: Self) -> Self {
        self.with(o, i32::min)
    }
    #[inline(always)]
    fn max(self, o: Self) -> Self {
        self.with(o, i32::max)
    }
    #[inline(always)]
    fn same(self, o: Self) -> Self {
        self.with(o, |a, b| -i32::from(a == b))
    }
    #[inline(always)]
    fn above(self, o: Self) -> Self {
        self.with(o, |a, b| -i32::from(a > b))
    }
    #[inline(always)]
    fn choose(self, yes: Self, no: Self) -> Self {
        Self(std::array::from_fn(|i| yes.0[i] & self.0[i] | no.0[i] & !self.0[i]))
    }
    #[inline(always)]
    fn shl<const N: i32>(self) -> Self {
        Self(self.0.map(|a| a << N))
    }
    #[inline(always)]
    fn shr<const N: i32>(self) -> Self {
        Self(self.0.map(|a| (a as u32 >> N) as i32))
    }
    #[inline(always)]
    fn sar<const N: i32>(self) -> Self {
        Self(self.0.map(|a| a >> N))
    }
    #[inline(always)]
    fn float_bits(self) -> Self {
        Self(self.0.map(|a| (a as f32).to_bits() as i32))
    }
    #[inline(always)]
    fn sum(self) -> i32 {
        self.0.iter().fold(0, |a, b| a.wrapping_add(*b))
    }
    #[inline(always)]
    fn pack(self, second: Self) -> Shorts {
        let mut all = Shorts::ZERO;
        for i in 0..WIDTH {
            all.0[Shorts::first(i)] = self.0[i] as i16;
            all.0[Shorts::second(i)] = second.0[i] as i16;
        }
        all
    }
    #[inline(always)]
    fn products(a: &Shorts, b: &Shorts) -> Self {
        let product = |i: usize| i32::from(a.0[i]) * i32::from(b.0[i]);
        Self(std::array::from_fn(|i| product(2 * i).wrapping_add(product(2 * i + 1))))
    }
    #[inline(always)]
    fn nudge(to: &mut Shorts, x: &Shorts, by: i16) {
        for (to, x) in to.0.iter_mut().zip(x.0) {
            let step = (((i32::from(x) * i32::from(by)) >> 14) + 1) >> 1;
            *to = to.saturating_add(step as i16);
        }
    }
    #[inline(always)]
    fn sums(all: [Self; WIDTH]) -> Self {
        Self(all.map(Self::sum))
    }
    #[inline(always)]
    fn signs(self) -> u32 {
        self.0.iter().enumerate().map(|(i, x)| u32::from(*x < 0) << i).sum()
    }
    #[inline(always)]
    fn below(ascending: &Shorts, than: i16) -> usize {
        ascending.0.iter().take_while(|x| **x < than).count()
    }
    #[inline(always)]
    fn listed(words: &[u16; 2 * WIDTH], n: usize, values: &Shorts, end: i16) -> (Shorts, Shorts) {
        let (mut upper, mut chosen) = (Shorts([end; 2 * WIDTH]), Shorts::ZERO);
        for (i, word) in words.iter().enumerate().take(n) {
            upper.0[i] = (word >> 4) as i16;
            chosen.0[i] = values.0[usize::from(word & 15)];
        }
        (upper, chosen)
    }
    #[inline(always)]
    fn headed(heads: &[u16; 2 * WIDTH], n: usize, head: u16) -> Option<(usize, usize)> {
        let i = heads.iter().take(n).position(|h| (h ^ head) >> 4 == 0)?;
        let length = |h: &u16| if h & 15 == 0 { 2 } else { usize::from(h & 15) };
        Some((usize::from(heads[i] & 15), heads[..i].iter().map(length).sum()))
    }
    #[inline(always)]
    fn before(all: &Shorts) -> Shorts {
        let mut sum = 0_i16;
        Shorts(all.0.map(|x| {
            let before = sum;
            sum = sum.wrapping_add(x);
            before
        }))
    }
    #[inline(always)]
    fn slots(lines: &[Line], at: Self) -> Self {
        let mask = lines.len() - 1;
        Self(at.0.map(|i| lines[(i as u32 >> 4) as usize & mask].0[(i & 15) as usize] as i32))
    }
    #[inline(always)]
    fn put_slots(self, lines: &mut [Line], at: &Ints) {
        let mask = lines.len() - 1;
        for (i, new) in at.iter().zip(self.0) {
            lines[(*i as u32 >> 4) as usize & mask].0[(i & 15) as usize] = new as u32;
        }
    }
    #[inline(always)]
    fn halves<const N: usize>(table: &[u16; N], at: Self) -> Self {
        const { assert!((N - 1).is_power_of_two()) };
        Self(at.0.map(|i| i32::from(table[i as usize & (N - 2)])))
    }
    #[inline(always)]
    fn rank(ascending: &[u16; 2 * WIDTH], x: u16) -> usize {
        // Four numbers to a word: of those that are not above, the highest bit stays.
        const ONES: u64 = 0x0001_0001_0001_0001;
        let x = (u64::from(x) * ONES) | (ONES << 15);
        let four = |i: usize| {
            let one = |k: usize| u64::from(ascending[4 * i + k]) << (16 * k);
            (x - (one(0) | one(1) | one(2) | one(3))) >> 15 & ONES
        };
        ((four(0) + four(1) + four(2) + four(3)).wrapping_mul(ONES) >> 48) as usize - 1
    }
    #[inline(always)]
    fn put_halves<const N: usize>(self, table: &mut [u16; N], at: &Ints) {
        for (i, new) in at.iter().zip(self.0) {
            table[*i as usize & (N - 2)] = new as u16;
        }
    }
}

/// For processors with AVX2: used only where they have been asked for it.
#[cfg(target_arch = "x86_64")]
pub use wide::Avx2;

#[cfg(target_arch = "x86_64")]
mod wide;

#[cfg(all(test, target_arch = "x86_64"))]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Every operation on some inputs.
    fn all<V: Vector>(a: &Ints, b: &Ints, lines: &[Line], table: &[u16; 65]) -> Vec<Ints> {
        let (x, y) = (V::load(a), V::load(b));
        let (mut put, mut halves) = (lines.to_vec(), *table);
        y.put_slots(&mut put, a);
        y.put_halves(&mut halves, a);
        let (x16, y16) = (x.shr::<17>().pack(y.shr::<17>()), y.sar::<16>().pack(x.sar::<16>()));
        let mut ascending = x16;
        ascending.0.sort_unstable();
        let words = y16.0.map(|i| i as u16);
        let n = a[0] as usize % 16;
        let (upper, chosen) = V::listed(&words, n, &x16, i16::MAX);
        let headed = V::headed(&words, n, words[b[0] as usize % 16]);
        let mut nudged = y16;
        V::nudge(&mut nudged, &x16, a[1] as i16);
        let shorts = [upper, chosen, V::before(&y16), nudged, x16, y16];
        let shorts = shorts.iter().flat_map(|s| [0, 8].map(|at| s.0[at..at + 8].to_vec()));
        let small = x.and(V::splat((1 << 24) - 1));
        let of = [
            V::splat(a[0]),
            x.add(y),
            x.sub(y),
            x.mul(y),
            x.and(y),
            x.or(y),
            x.xor(y),
            x.min(y),
            x.max(y),
            x.same(y),
            x.above(y),
            x.above(y).choose(x, y),
            x.shl::<5>(),
            x.shr::<5>(),
            x.sar::<5>(),
            x.clamp(-1000, 1000),
            small.float_bits(),
            V::slots(lines, x),
            V::halves(table, y),
            V::sums([x, y, x.add(y), x.sub(y), y, x, x.mul(y), x.xor(y)]),
            V::products(&x16, &y16),
        ];
        let (skipped, before) = headed.map_or((-1, -1), |(n, before)| (n as i32, before as i32));
        let numbers = [
            x.sum(),
            x.signs() as i32,
            V::below(&ascending, a[2] as i16) as i32,
            skipped,
            before,
            0,
            0,
            0,
        ];
        let put = put.iter().flat_map(|line| line.0.map(|n| n as i32));
        let put: Vec<i32> = put.chain(halves.map(i32::from)).collect();
        let lanes = |n: &[i32]| std::array::from_fn(|i| n.get(i).copied().unwrap_or(0));
        of.iter()
            .map(|v| v.lanes())
            .chain(shorts.map(|s| std::array::from_fn(|i| i32::from(s[i]))))
            .chain([numbers])
            .chain(put.chunks(WIDTH).map(lanes))
            .collect()
    }

    proptest! {
        #[test]
        fn wide_is_plain(a: Ints, b: Ints, equal: u8, bits in 0..4_u32) {
            let b = std::array::from_fn(|i| if equal >> i & 1 == 1 { a[i] } else { b[i] });
            let line = |n: u32| Line(std::array::from_fn(|i| n.wrapping_mul(0x9E37_79B9) + i as u32));
            let lines: Vec<Line> = (0..1 << bits).map(line).collect();
            let table = std::array::from_fn(|i| i as u16 * 997);
            if is_x86_feature_detected!("avx2") {
                prop_assert_eq!(all::<Avx2>(&a, &b, &lines, &table), all::<Plain>(&a, &b, &lines, &table));
            }
        }
    }
}
