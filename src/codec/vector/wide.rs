//! [`Vector`] in AVX2's registers: the same results as the plain way, sooner.

use super::{Ints, Line, Shorts, Vector};
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
    fn load(from: &Ints) -> Self {
        // SAFETY: AVX2 is there; `from` is as long as a register.
        Self(unsafe { _mm256_loadu_si256(from.as_ptr().cast()) })
    }

    #[inline(always)]
    fn store(self, to: &mut Ints) {
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
            let half =
                _mm_add_epi64(_mm256_castsi256_si128(sums), _mm256_extracti128_si256::<1>(sums));
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
    fn put_slots(self, lines: &mut [Line], at: &Ints) {
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
    fn put_halves<const N: usize>(self, table: &mut [u16; N], at: &Ints) {
        const { assert!((N - 1).is_power_of_two() && N < 1 << 30) };
        let at = Self::load(at).and(Self::splat((N - 2) as i32)).lanes();
        for (i, new) in at.into_iter().zip(self.lanes()) {
            // SAFETY: the mask keeps each number below N − 1.
            unsafe { *table.as_mut_ptr().add(i as usize) = new as u16 };
        }
    }
}
