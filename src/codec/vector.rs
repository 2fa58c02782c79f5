//! Eight 32-bit integers at once: one for each context, or eight weights of the mixer. The plain way
//! defines the result; AVX2 only hurries it.

use super::counters::Line;

/// Numbers in a vector.
pub const WIDTH: usize = 8;
/// A vector in memory.
pub type Lanes = [i32; WIDTH];
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
    fn load(from: &Lanes) -> Self;
    /// To memory.
    fn store(self, to: &mut Lanes);
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
    fn put_slots(self, lines: &mut [Line], at: &Lanes);
    /// Elements of a table modulo its size without the last one, which is never used.
    fn halves<const N: usize>(table: &[u16; N], at: Self) -> Self;
    /// The last of 16 ascending numbers that is not above `x`; all are below 2^15, and the first one is 0.
    fn rank(ascending: &[u16; 2 * WIDTH], x: u16) -> usize;
    /// Sets elements, as [`Self::halves`], to the lower halves of these numbers.
    fn put_halves<const N: usize>(self, table: &mut [u16; N], at: &Lanes);

    /// Cut to a range.
    #[inline(always)]
    fn clamp(self, low: i32, high: i32) -> Self {
        self.max(Self::splat(low)).min(Self::splat(high))
    }

    /// As an array.
    #[inline(always)]
    fn lanes(self) -> Lanes {
        let mut out = [0; WIDTH];
        self.store(&mut out);
        out
    }
}

/// For any processor.
#[derive(Debug, Clone, Copy)]
pub struct Plain(Lanes);

impl Plain {
    #[inline(always)]
    fn with(self, o: Self, f: impl Fn(i32, i32) -> i32) -> Self {
        Self(std::array::from_fn(|i| f(self.0[i], o.0[i])))
    }
}

impl Vector for Plain {
    #[inline(always)]
    fn load(from: &Lanes) -> Self {
        Self(*from)
    }
    #[inline(always)]
    fn store(self, to: &mut Lanes) {
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
    fn put_slots(self, lines: &mut [Line], at: &Lanes) {
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
    fn put_halves<const N: usize>(self, table: &mut [u16; N], at: &Lanes) {
        for (i, new) in at.iter().zip(self.0) {
            table[*i as usize & (N - 2)] = new as u16;
        }
    }
}

/// For processors with AVX2: used only where they have been asked for it.
#[cfg(target_arch = "x86_64")]
pub use wide::Avx2;

#[cfg(target_arch = "x86_64")]
mod wide {
    use super::{Lanes, Line, Shorts, Vector};
    use std::arch::x86_64::*;

    /// A register.
    #[derive(Debug, Clone, Copy)]
    pub struct Avx2(__m256i);

    /// Operations that are one instruction on registers.
    macro_rules! instructions {
        ($($name:ident($($o:ident),*) = $instruction:ident;)*) => {
            $(
                #[inline(always)]
                fn $name(self, $($o: Self),*) -> Self {
                    // SAFETY: `Avx2` is used only after the processor was asked for AVX2.
                    Self(unsafe { $instruction(self.0, $($o.0),*) })
                }
            )*
        };
    }

    /// Shifts by a constant.
    macro_rules! shifts {
        ($($name:ident = $instruction:ident;)*) => {
            $(
                #[inline(always)]
                fn $name<const N: i32>(self) -> Self {
                    // SAFETY: `Avx2` is used only after the processor was asked for AVX2.
                    Self(unsafe { $instruction::<N>(self.0) })
                }
            )*
        };
    }

    impl Vector for Avx2 {
        instructions! {
            add(o) = _mm256_add_epi32;
            sub(o) = _mm256_sub_epi32;
            mul(o) = _mm256_mullo_epi32;
            and(o) = _mm256_and_si256;
            or(o) = _mm256_or_si256;
            xor(o) = _mm256_xor_si256;
            min(o) = _mm256_min_epi32;
            max(o) = _mm256_max_epi32;
            same(o) = _mm256_cmpeq_epi32;
            above(o) = _mm256_cmpgt_epi32;
        }
        shifts! {
            shl = _mm256_slli_epi32;
            shr = _mm256_srli_epi32;
            sar = _mm256_srai_epi32;
        }

        #[inline(always)]
        fn rank(ascending: &[u16; 16], x: u16) -> usize {
            // SAFETY: as above; an array is read as it lies.
            let above = unsafe {
                let all = _mm256_loadu_si256(ascending.as_ptr().cast());
                _mm256_movemask_epi8(_mm256_cmpgt_epi16(all, _mm256_set1_epi16(x as i16)))
            };
            // Two bits for each number.
            above.trailing_zeros() as usize / 2 - 1
        }

        #[inline(always)]
        fn load(from: &Lanes) -> Self {
            // SAFETY: AVX2 is there; `from` is as long as a register.
            Self(unsafe { _mm256_loadu_si256(from.as_ptr().cast()) })
        }

        #[inline(always)]
        fn store(self, to: &mut Lanes) {
            // SAFETY: AVX2 is there; `to` is as long as a register.
            unsafe { _mm256_storeu_si256(to.as_mut_ptr().cast(), self.0) }
        }

        #[inline(always)]
        fn splat(x: i32) -> Self {
            // SAFETY: AVX2 is there.
            Self(unsafe { _mm256_set1_epi32(x) })
        }

        #[inline(always)]
        fn choose(self, yes: Self, no: Self) -> Self {
            // SAFETY: AVX2 is there.
            Self(unsafe { _mm256_blendv_epi8(no.0, yes.0, self.0) })
        }

        #[inline(always)]
        fn float_bits(self) -> Self {
            // SAFETY: AVX2 is there. Numbers below 2^24 convert exactly in any rounding mode.
            Self(unsafe { _mm256_castps_si256(_mm256_cvtepi32_ps(self.0)) })
        }

        #[inline(always)]
        fn sum(self) -> i32 {
            // SAFETY: AVX2 is there.
            unsafe {
                let half = _mm_add_epi32(
                    _mm256_castsi256_si128(self.0),
                    _mm256_extracti128_si256::<1>(self.0),
                );
                let pair = _mm_add_epi32(half, _mm_shuffle_epi32::<0b01_00_11_10>(half));
                let one = _mm_add_epi32(pair, _mm_shuffle_epi32::<0b10_11_00_01>(pair));
                _mm_cvtsi128_si32(one)
            }
        }

        #[inline(always)]
        fn pack(self, second: Self) -> Shorts {
            let mut all = Shorts::ZERO;
            // SAFETY: AVX2 is there; `all` is as long as a register and aligned for one.
            unsafe {
                _mm256_store_si256((&raw mut all).cast(), _mm256_packs_epi32(self.0, second.0));
            }
            all
        }

        #[inline(always)]
        fn products(a: &Shorts, b: &Shorts) -> Self {
            // SAFETY: AVX2 is there; both are as long as a register and aligned for one.
            unsafe {
                let a = _mm256_load_si256((&raw const *a).cast());
                Self(_mm256_madd_epi16(a, _mm256_load_si256((&raw const *b).cast())))
            }
        }

        #[inline(always)]
        fn nudge(to: &mut Shorts, x: &Shorts, by: i16) {
            // SAFETY: AVX2 is there; both are as long as a register and aligned for one.
            unsafe {
                let x = _mm256_load_si256((&raw const *x).cast());
                let step = _mm256_mulhrs_epi16(x, _mm256_set1_epi16(by));
                let old = _mm256_load_si256((&raw const *to).cast());
                _mm256_store_si256((&raw mut *to).cast(), _mm256_adds_epi16(old, step));
            }
        }

        #[inline(always)]
        fn sums(all: [Self; 8]) -> Self {
            let [a, b, c, d, e, f, g, h] = all.map(|v| v.0);
            // SAFETY: AVX2 is there.
            unsafe {
                let ad = _mm256_hadd_epi32(_mm256_hadd_epi32(a, b), _mm256_hadd_epi32(c, d));
                let eh = _mm256_hadd_epi32(_mm256_hadd_epi32(e, f), _mm256_hadd_epi32(g, h));
                let low = _mm256_permute2x128_si256::<0x20>(ad, eh);
                Self(_mm256_add_epi32(low, _mm256_permute2x128_si256::<0x31>(ad, eh)))
            }
        }

        #[inline(always)]
        fn signs(self) -> u32 {
            // SAFETY: AVX2 is there.
            unsafe { _mm256_movemask_ps(_mm256_castsi256_ps(self.0)) as u32 }
        }

        #[inline(always)]
        fn below(ascending: &Shorts, than: i16) -> usize {
            // SAFETY: AVX2 is there; `ascending` is as long as a register and aligned for one.
            let below = unsafe {
                let all = _mm256_load_si256((&raw const *ascending).cast());
                _mm256_movemask_epi8(_mm256_cmpgt_epi16(_mm256_set1_epi16(than), all)) as u32
            };
            // Two bits each.
            (!u64::from(below)).trailing_zeros() as usize / 2
        }

        #[inline(always)]
        fn listed(words: &[u16; 16], n: usize, values: &Shorts, end: i16) -> (Shorts, Shorts) {
            let (mut upper, mut chosen) = (Shorts::ZERO, Shorts::ZERO);
            // SAFETY: AVX2 is there; `words` is as long as a register, and so are the others, which are
            // aligned for one.
            unsafe {
                let low = _mm256_set1_epi16(0xff);
                let values = _mm256_load_si256((&raw const *values).cast());
                // The values' bytes, each half of them in both halves of a register.
                let bytes = |of: __m256i| {
                    let packed = _mm256_packus_epi16(of, of);
                    _mm256_permute4x64_epi64::<0b10_00_10_00>(packed)
                };
                let lows = bytes(_mm256_and_si256(values, low));
                let highs = bytes(_mm256_srli_epi16::<8>(values));
                let words = _mm256_loadu_si256(words.as_ptr().cast());
                let code = _mm256_and_si256(words, _mm256_set1_epi16(15));
                let high = _mm256_slli_epi16::<8>(_mm256_shuffle_epi8(highs, code));
                let value =
                    _mm256_or_si256(_mm256_and_si256(_mm256_shuffle_epi8(lows, code), low), high);
                let place = _mm256_setr_epi16(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
                let inside = _mm256_cmpgt_epi16(_mm256_set1_epi16(n as i16), place);
                let leaf = _mm256_srli_epi16::<4>(words);
                let all = _mm256_blendv_epi8(_mm256_set1_epi16(end), leaf, inside);
                _mm256_store_si256((&raw mut upper).cast(), all);
                _mm256_store_si256((&raw mut chosen).cast(), _mm256_and_si256(value, inside));
            }
            (upper, chosen)
        }

        #[inline(always)]
        fn headed(heads: &[u16; 16], n: usize, head: u16) -> Option<(usize, usize)> {
            // SAFETY: AVX2 is there; `heads` is as long as a register.
            unsafe {
                let all = _mm256_loadu_si256(heads.as_ptr().cast());
                let other = _mm256_xor_si256(all, _mm256_set1_epi16(head as i16));
                let zero = _mm256_setzero_si256();
                let same = _mm256_cmpeq_epi16(_mm256_srli_epi16::<4>(other), zero);
                // Two bits each.
                let same = u64::from(_mm256_movemask_epi8(same) as u32) & ((1 << (2 * n)) - 1);
                if same == 0 {
                    return None;
                }
                let i = same.trailing_zeros() as usize / 2;
                let length = _mm256_and_si256(all, _mm256_set1_epi16(15));
                let none = _mm256_cmpeq_epi16(length, zero);
                let length = _mm256_sub_epi16(length, _mm256_add_epi16(none, none));
                let place = _mm256_setr_epi16(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
                let inside = _mm256_cmpgt_epi16(_mm256_set1_epi16(i as i16), place);
                let sums = _mm256_sad_epu8(_mm256_and_si256(length, inside), zero);
                let half = _mm_add_epi64(
                    _mm256_castsi256_si128(sums),
                    _mm256_extracti128_si256::<1>(sums),
                );
                let sum = _mm_cvtsi128_si32(_mm_add_epi64(half, _mm_srli_si128::<8>(half)));
                Some((usize::from(heads[i] & 15), sum as usize))
            }
        }

        #[inline(always)]
        fn before(all: &Shorts) -> Shorts {
            let mut sums = Shorts::ZERO;
            // SAFETY: AVX2 is there; both are as long as a register and aligned for one.
            unsafe {
                let all = _mm256_load_si256((&raw const *all).cast());
                // Of each half by itself, then the first half's last is added to the second half.
                let mut sum = _mm256_add_epi16(all, _mm256_slli_si256::<2>(all));
                sum = _mm256_add_epi16(sum, _mm256_slli_si256::<4>(sum));
                sum = _mm256_add_epi16(sum, _mm256_slli_si256::<8>(sum));
                let first = _mm256_permute2x128_si256::<0x08>(sum, sum);
                let last = _mm256_shuffle_epi8(first, _mm256_set1_epi16(0x0f0e));
                sum = _mm256_sub_epi16(_mm256_add_epi16(sum, last), all);
                _mm256_store_si256((&raw mut sums).cast(), sum);
            }
            sums
        }

        #[inline(always)]
        fn slots(lines: &[Line], at: Self) -> Self {
            debug_assert!(lines.len().is_power_of_two() && lines.len() < 1 << 26);
            let at = at.and(Self::splat((lines.len() * 16 - 1) as i32));
            // SAFETY: AVX2 is there; the mask keeps each index below the number of slots, which is
            // a power of two below 2^30 (see `Table::new`).
            Self(unsafe { _mm256_i32gather_epi32::<4>(lines.as_ptr().cast(), at.0) })
        }

        #[inline(always)]
        fn put_slots(self, lines: &mut [Line], at: &Lanes) {
            debug_assert!(lines.len().is_power_of_two() && lines.len() < 1 << 26);
            let at = Self::load(at).and(Self::splat((lines.len() * 16 - 1) as i32)).lanes();
            let slots = lines.as_mut_ptr().cast::<u32>();
            for (i, new) in at.into_iter().zip(self.lanes()) {
                // SAFETY: the mask keeps each number below that of all slots, see `slots`.
                unsafe { *slots.add(i as usize) = new as u32 };
            }
        }

        #[inline(always)]
        fn halves<const N: usize>(table: &[u16; N], at: Self) -> Self {
            const { assert!((N - 1).is_power_of_two() && N < 1 << 30) };
            let at = at.and(Self::splat((N - 2) as i32));
            // SAFETY: AVX2 is there. Each index is at most N − 2, and four bytes are read: that
            // element and the one after it.
            let got = Self(unsafe { _mm256_i32gather_epi32::<2>(table.as_ptr().cast(), at.0) });
            got.and(Self::splat(0xffff))
        }

        #[inline(always)]
        fn put_halves<const N: usize>(self, table: &mut [u16; N], at: &Lanes) {
            const { assert!((N - 1).is_power_of_two() && N < 1 << 30) };
            let at = Self::load(at).and(Self::splat((N - 2) as i32)).lanes();
            for (i, new) in at.into_iter().zip(self.lanes()) {
                // SAFETY: the mask keeps each number below N − 1.
                unsafe { *table.as_mut_ptr().add(i as usize) = new as u16 };
            }
        }
    }
}

#[cfg(all(test, target_arch = "x86_64"))]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Every operation on some inputs.
    fn all<V: Vector>(a: &Lanes, b: &Lanes, lines: &[Line], table: &[u16; 65]) -> Vec<Lanes> {
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
        fn wide_is_plain(a: Lanes, b: Lanes, equal: u8, bits in 0..4_u32) {
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
