//! A small filter of the words of a block, so that a search need not decode a block that cannot hold what
//! it looks for.
//!
//! A word is a longest run of ASCII letters, digits and `_`; upper case counts as lower. The filter is a
//! Golomb-coded set (Putze, Sanders, Singler: Cache-, Hash- and Space-Efficient Bloom Filters, 2007): the
//! hashes of n distinct words, as numbers below 64 n, sorted, as the differences between them in Rice
//! code. One in 64 of other words is taken for one of the block's; none of its own is missed.

use std::collections::BTreeSet;

/// Longest word that is kept, in bytes. Who looks for a longer one is told that it may be there.
pub const WORD_MAX: usize = 64;
/// Low bits of a difference: of 2^6 other words one is taken for the block's.
const LOW: u32 = 6;
/// Bytes before the edges: the number of words.
const COUNT: usize = 4;

/// True for bytes that words are made of.
pub fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

/// Words of a text that are not too long, in lower case.
fn words(plain: &[u8]) -> impl Iterator<Item = Vec<u8>> {
    let runs = plain.split(|b| !is_word(*b));
    runs.filter(|w| !w.is_empty() && w.len() <= WORD_MAX).map(<[u8]>::to_ascii_lowercase)
}

/// Where a word of `n` stands among the numbers below `n` times 64.
fn place(word: &[u8], n: u32) -> u64 {
    let hash = blake3::hash(word);
    let mut first = [0; 8];
    first.copy_from_slice(&hash.as_bytes()[..8]);
    let range = u128::from(n) << LOW;
    ((u128::from(u64::from_le_bytes(first)) * range) >> 64) as u64
}

/// Bits, the first one lowest in its byte.
#[derive(Default)]
struct Bits {
    bytes: Vec<u8>,
    used: usize,
}

impl Bits {
    fn put(&mut self, bit: bool) {
        if self.used.is_multiple_of(8) {
            self.bytes.push(0);
        }
        if let Some(last) = self.bytes.last_mut() {
            *last |= u8::from(bit) << (self.used % 8);
        }
        self.used += 1;
    }
}

/// The filter of a block's words. `None` if a search must look into the block in any case: it has no
/// newline, so that a line is longer than it, is all one word, or is not text, since it has NUL bytes.
pub fn filter(plain: &[u8]) -> Option<Vec<u8>> {
    let first = plain.iter().position(|b| !is_word(*b))?;
    let last = plain.iter().rposition(|b| !is_word(*b))?;
    if !plain.contains(&b'\n') || plain.contains(&0) {
        return None;
    }
    let distinct: BTreeSet<_> = words(plain).collect();
    let n = u32::try_from(distinct.len()).ok()?;
    let mut out = n.to_le_bytes().to_vec();
    for edge in [&plain[..first], &plain[last + 1..]] {
        // A word that such a piece is part of is too long to be looked for.
        let edge = if edge.len() <= WORD_MAX { edge } else { &[] };
        out.push(edge.len() as u8);
        out.extend(edge.to_ascii_lowercase());
    }
    let places: BTreeSet<u64> = distinct.iter().map(|w| place(w, n)).collect();
    let (mut bits, mut before) = (Bits::default(), 0);
    for at in places {
        let step = at - before;
        before = at;
        (0..step >> LOW).for_each(|_| bits.put(true));
        bits.put(false);
        (0..LOW).for_each(|n| bits.put(step >> n & 1 == 1));
    }
    // Ones to the end: no further word begins there.
    while !bits.used.is_multiple_of(8) {
        bits.put(true);
    }
    out.extend(bits.bytes);
    Some(out)
}

/// A block's filter, as it was stored.
#[derive(Debug, Clone, Copy)]
pub struct Filter<'a> {
    count: u32,
    /// The beginning and the end of the block, as far as they may be parts of words.
    edges: (&'a [u8], &'a [u8]),
    bits: &'a [u8],
}

impl<'a> Filter<'a> {
    /// Reads one; `None` if it is none. What is forged costs time in proportion to its length at most.
    pub fn read(bytes: &'a [u8]) -> Option<Self> {
        let (count, rest) = bytes.split_first_chunk::<COUNT>()?;
        let edge = |bytes: &'a [u8]| -> Option<(&'a [u8], &'a [u8])> {
            let (len, rest) = bytes.split_first()?;
            rest.split_at_checked(usize::from(*len))
        };
        let (begin, rest) = edge(rest)?;
        let (end, bits) = edge(rest)?;
        Some(Self { count: u32::from_le_bytes(*count), edges: (begin, end), bits })
    }

    /// False for a word in lower case that the block does not have, nor a part of at its edges.
    pub fn may_hold(&self, word: &[u8]) -> bool {
        if word.is_empty() || word.len() > WORD_MAX {
            return true;
        }
        let want = place(word, self.count);
        let mut bits = self.bits.iter().flat_map(|b| (0..8).map(move |n| b >> n & 1));
        let mut at = 0_u64;
        loop {
            let mut high = 0_u64;
            loop {
                match bits.next() {
                    Some(1) => high += 1,
                    Some(_) => break,
                    None => return false,
                }
            }
            let mut low = 0;
            for n in 0..LOW {
                let Some(bit) = bits.next() else { return false };
                low |= u64::from(bit) << n;
            }
            at += high << LOW | low;
            if at >= want {
                return at == want;
            }
        }
    }

    /// True if the block's end and the beginning of the one behind it make the word.
    pub fn ends_in(&self, next: &Self, word: &[u8]) -> bool {
        let (end, begin) = (self.edges.1, next.edges.0);
        end.len() + begin.len() == word.len() && word.starts_with(end) && word.ends_with(begin)
    }
}

/// Bytes behind a filter: its length.
const LENGTH: usize = 4;

/// A payload that ends in a filter: what comes before it, and the filter.
pub fn split(payload: &[u8]) -> Option<(&[u8], &[u8])> {
    let (rest, len) = payload.split_last_chunk::<LENGTH>()?;
    let at = rest.len().checked_sub(u32::from_le_bytes(*len) as usize)?;
    Some(rest.split_at(at))
}

/// Appends a filter to a payload; see [`split`].
pub fn append(payload: &mut Vec<u8>, filter: &[u8]) {
    payload.extend_from_slice(filter);
    payload.extend((filter.len() as u32).to_le_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(lines: u32) -> Vec<u8> {
        let line = |n: u32| format!("Job-{n} of user_{} took {}ms\n", n % 50, n * 7919 % 9973);
        (0..lines).map(line).collect::<String>().into_bytes()
    }

    #[test]
    fn every_word_is_found_and_few_others() {
        let plain = text(3000);
        let stored = filter(&plain).unwrap();
        let f = Filter::read(&stored).unwrap();
        assert!(words(&plain).all(|w| f.may_hold(&w)));
        let others = (0..10_000).map(|n| format!("other{n}"));
        let taken = others.filter(|w| f.may_hold(w.as_bytes())).count();
        assert!((80..260).contains(&taken), "{taken} of 10000, 156 expected");
        let distinct: BTreeSet<_> = words(&plain).collect();
        assert!(stored.len() < distinct.len(), "less than 8 bits a word");
        assert!(f.may_hold(&[b'x'; 65]), "too long to be known");
    }

    #[test]
    fn words_across_edges_are_found() {
        let plain = b"one two thr\nee four fi";
        for cut in 0..=plain.len() {
            let (a, b) = (&plain[..cut], &plain[cut..]);
            let (Some(x), Some(y)) = (filter(a), filter(b)) else { continue };
            let (x, y) = (Filter::read(&x).unwrap(), Filter::read(&y).unwrap());
            for word in words(plain) {
                assert!(x.may_hold(&word) || y.may_hold(&word) || x.ends_in(&y, &word));
            }
        }
        let (a, b) = (filter(b"x\nAb").unwrap(), filter(b"cD e\n").unwrap());
        let (a, b) = (Filter::read(&a).unwrap(), Filter::read(&b).unwrap());
        assert!(a.ends_in(&b, b"abcd") && !a.ends_in(&b, b"abc") && !b.ends_in(&a, b"abcd"));
    }

    #[test]
    fn what_must_be_looked_at_has_none() {
        for plain in [&b""[..], b"word", b"one line", b"a\n\0b"] {
            assert_eq!(filter(plain), None);
        }
        assert!(!Filter::read(&filter(b"\n").unwrap()).unwrap().may_hold(b"a"));
    }

    #[test]
    fn bytes_are_golden() {
        let stored = filter(b"GET /a HTTP\nget").unwrap();
        let want = [3, 0, 0, 0, 3, b'g', b'e', b't', 3, b'g', b'e', b't'];
        assert_eq!(stored[..want.len()], want);
        assert_eq!(stored[want.len()..], [122, 129, 227]);
        let mut payload = b"code".to_vec();
        append(&mut payload, &stored);
        assert_eq!(split(&payload), Some((&b"code"[..], &stored[..])));
    }

    #[test]
    fn forged_filters_do_no_harm() {
        let stored = filter(&text(40)).unwrap();
        for n in 0..stored.len() {
            for bytes in [&stored[..n], &stored[n..]] {
                let _ = Filter::read(bytes).map(|f| f.may_hold(b"user_1"));
                let _ = split(bytes);
            }
            let mut forged = stored.clone();
            forged[n] ^= 0xff;
            let _ = Filter::read(&forged).map(|f| f.may_hold(b"user_1"));
        }
    }
}
