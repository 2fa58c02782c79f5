//! Ascending keys: the gaps between them in Golomb's code with a power of two (Rice 1979), which is
//! within a thirtieth of a bit a key of the best, as hashes are evenly spread.

/// Largest number of low bits of a gap.
pub(super) const SPLIT_MAX: u32 = 31;
/// Zeros that are looked at at once.
const ZEROS: u32 = 32;

fn gaps(keys: &[u32]) -> impl Iterator<Item = u32> {
    keys.iter().scan(0, |last, key| Some(key.wrapping_sub(std::mem::replace(last, *key))))
}

/// The number of low bits that makes the code shortest.
pub(super) fn best_split(keys: &[u32]) -> u32 {
    let bits =
        |split: &u32| gaps(keys).map(|g| u64::from(g >> split) + u64::from(*split)).sum::<u64>();
    (0..=SPLIT_MAX).min_by_key(bits).unwrap_or(0)
}

/// Each gap as zeros for what is above the low bits, a one, and the low bits; bits of a byte from the
/// lowest one on.
pub(super) fn pack(keys: &[u32], split: u32) -> Vec<u8> {
    let (mut out, mut held, mut bits) = (Vec::new(), 0_u64, 0);
    let mut push = |value: u64, n: u32| {
        held |= value << bits;
        bits += n;
        while bits >= 8 {
            out.push(held as u8);
            held >>= 8;
            bits -= 8;
        }
    };
    for gap in gaps(keys) {
        let mut zeros = gap >> split;
        while zeros >= ZEROS {
            push(0, ZEROS);
            zeros -= ZEROS;
        }
        push(1 << zeros, zeros + 1);
        push(u64::from(gap & ((1 << split) - 1)), split);
    }
    if bits > 0 {
        out.push(held as u8);
    }
    out
}

/// Bits from a place on, 57 at least; zeros behind the end.
#[inline(always)]
fn peek(code: &[u8], at: usize) -> u64 {
    let rest = code.get(at / 8..).unwrap_or_default();
    let word = rest.first_chunk().copied().unwrap_or_else(|| {
        let mut word = [0; 8];
        for (to, from) in word.iter_mut().zip(rest) {
            *to = *from;
        }
        word
    });
    u64::from_le_bytes(word) >> (at % 8)
}

/// Reverses [`pack`] for `n` keys below `limit`, which is at most 2^32; `None` for what cannot be.
/// Takes memory in proportion to `code` only.
pub(super) fn unpack(code: &[u8], n: usize, split: u32, limit: u64) -> Option<Vec<u32>> {
    // A key has one bit at least.
    if n > 8 * code.len() || split > SPLIT_MAX {
        return None;
    }
    let mut keys = Vec::with_capacity(n);
    let (mut at, mut key) = (0, 0_u64);
    for _ in 0..n {
        let (mut bits, mut high) = (peek(code, at), 0_u64);
        while bits as u32 == 0 {
            at += ZEROS as usize;
            high += u64::from(ZEROS);
            if at > 8 * code.len() {
                return None;
            }
            bits = peek(code, at);
        }
        high += u64::from(bits.trailing_zeros());
        if high > limit >> split {
            return None;
        }
        at += bits.trailing_zeros() as usize + 1;
        key += high << split | peek(code, at) & ((1 << split) - 1);
        at += split as usize;
        if key >= limit {
            return None;
        }
        keys.push(key as u32);
    }
    (at.div_ceil(8) == code.len() && peek(code, at) == 0).then_some(keys)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn keys_come_back(mut keys: Vec<u32>, shift in 0..32_u32, split in 0..=SPLIT_MAX) {
            for key in &mut keys {
                *key >>= shift;
            }
            keys.sort_unstable();
            let largest = u64::from(keys.last().copied().unwrap_or(0));
            // Not so few that a gap's zeros fill the memory.
            let split = split.max(20_u32.saturating_sub(shift));
            for split in [split, best_split(&keys)] {
                let code = pack(&keys, split);
                let back = unpack(&code, keys.len(), split, largest + 1);
                prop_assert_eq!(back.as_ref(), Some(&keys));
                if !keys.is_empty() {
                    prop_assert_eq!(unpack(&code, keys.len(), split, largest), None);
                    prop_assert_eq!(unpack(&code[..code.len() - 1], keys.len(), split, 1 << 32), None);
                }
                let longer = [&code[..], &[0]].concat();
                prop_assert_eq!(unpack(&longer, keys.len(), split, 1 << 32), None);
            }
        }

        #[test]
        fn any_code_is_read_or_refused(code: Vec<u8>, n in 0..5000_usize, split in 0..40_u32) {
            if let Some(keys) = unpack(&code, n, split, 1 << 32) {
                prop_assert_eq!(pack(&keys, split), code);
            }
        }
    }

    #[test]
    fn even_spread_costs_what_it_must() {
        let keys: Vec<u32> = (0..20_000_u32).map(|i| i.wrapping_mul(0x9e37_79b1) >> 7).collect();
        let mut keys = keys;
        keys.sort_unstable();
        let bits = 8.0 * pack(&keys, best_split(&keys)).len() as f64 / 20_000.0;
        // log2(2^25 / 20,000) is 10.7.
        assert!((11.0..12.4).contains(&bits), "{bits}");
    }
}
