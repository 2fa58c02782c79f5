//! Runs of pairs in key order, and how they are packed into few bytes.
//!
//! Of each pair: how much of the key before it begins with, the lengths of the rest and of the value (u32
//! each), the rest, the value. Neighbours have much in common, so that zstd makes little of them.

use super::base::Pair;
use crate::block::pack::{pack, unpack};
use crate::store::api::{Result, StoreError};
use std::sync::Arc;

/// Bytes before a pair's key and value.
const LENGTHS: usize = 12;

/// A run that is being filled.
#[derive(Debug, Default)]
pub struct Filling {
    bytes: Vec<u8>,
    last: Vec<u8>,
}

impl Filling {
    /// Adds a pair; its key must be above the last one.
    pub fn push(&mut self, key: &[u8], value: &[u8]) {
        let shared = if self.bytes.is_empty() {
            0
        } else {
            self.last.iter().zip(key).take_while(|(a, b)| a == b).count()
        };
        for n in [shared, key.len() - shared, value.len()] {
            self.bytes.extend_from_slice(&(n as u32).to_le_bytes());
        }
        self.bytes.extend_from_slice(&key[shared..]);
        self.bytes.extend_from_slice(value);
        self.last.clear();
        self.last.extend_from_slice(key);
    }

    /// True if nothing was added.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Bytes before compression.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// The key that was added last.
    pub fn last(&self) -> &[u8] {
        &self.last
    }

    /// Compresses the run, and begins another.
    pub fn squeeze(&mut self) -> Result<Squeezed> {
        let bytes = std::mem::take(&mut self.bytes);
        let squeezed = pack(&bytes).map_err(|e| StoreError::Index(format!("compressing: {e}")))?;
        Ok(Squeezed { len: bytes.len() as u32, bytes: squeezed.into() })
    }
}

/// A compressed run.
#[derive(Debug)]
pub struct Squeezed {
    /// Length before compression.
    pub len: u32,
    /// A zstd frame.
    pub bytes: Box<[u8]>,
}

/// A run that can be read.
#[derive(Debug, Clone)]
pub struct Leaf(Arc<Run>);

#[derive(Debug, Default)]
struct Run {
    /// Each key and its value, one behind the other.
    bytes: Vec<u8>,
    /// Where in `bytes` the key and the value of each pair end.
    ends: Vec<(u32, u32)>,
}

impl Run {
    /// Takes the pairs of a [`Filling`]; nothing if they are none.
    fn parse(packed: &[u8]) -> Option<Self> {
        let mut run = Self { bytes: Vec::with_capacity(packed.len() * 2), ends: Vec::new() };
        let (mut rest, mut last) = (packed, 0..0);
        while let Some((lengths, tail)) = rest.split_first_chunk::<LENGTHS>() {
            let len = |n: usize| u32::from_le_bytes([n, n + 1, n + 2, n + 3].map(|i| lengths[i]));
            let (shared, suffix, value) = (len(0), len(4), len(8));
            let from = run.bytes.len();
            let before = last.start..last.start + shared as usize;
            if before.end > last.end || suffix as usize > tail.len() {
                return None;
            }
            let (suffix, tail) = tail.split_at(suffix as usize);
            let (value, tail) = tail.split_at_checked(value as usize)?;
            run.bytes.extend_from_within(before);
            run.bytes.extend_from_slice(suffix);
            let key = from..run.bytes.len();
            if !run.ends.is_empty() && run.bytes[key.clone()] <= run.bytes[last] {
                return None;
            }
            run.bytes.extend_from_slice(value);
            run.ends.push((u32::try_from(key.end).ok()?, u32::try_from(run.bytes.len()).ok()?));
            (rest, last) = (tail, key);
        }
        rest.is_empty().then_some(run)
    }

    fn pair(&self, n: usize) -> (&[u8], &[u8]) {
        let from = n.checked_sub(1).map_or(0, |before| self.ends[before].1);
        let (key, value) = self.ends[n];
        (&self.bytes[from as usize..key as usize], &self.bytes[key as usize..value as usize])
    }

    /// How many keys are below this one.
    fn rank(&self, key: &[u8]) -> usize {
        let (mut low, mut high) = (0, self.ends.len());
        while low < high {
            let mid = low.midpoint(high);
            if self.pair(mid).0 < key {
                low = mid + 1;
            } else {
                high = mid;
            }
        }
        low
    }
}

impl Leaf {
    /// The run of `len` bytes in a zstd frame.
    pub fn of(squeezed: &[u8], len: usize) -> Result<Self> {
        let bad = |e: std::io::Error| StoreError::Index(format!("a compressed leaf: {e}"));
        let packed = unpack(squeezed, len).map_err(bad)?;
        let run = Run::parse(&packed);
        Ok(Self(Arc::new(run.ok_or_else(|| StoreError::Index("a leaf is unreadable".into()))?)))
    }

    /// One without pairs.
    pub fn empty() -> Self {
        Self(Arc::new(Run::default()))
    }

    /// Its pairs with `lo <= key < hi`.
    pub fn within(&self, lo: &[u8], hi: &[u8]) -> Within {
        let pairs = self.0.rank(lo)..self.0.rank(hi);
        Within { leaf: self.clone(), pairs }
    }

    /// All its pairs.
    pub fn pairs(&self) -> impl DoubleEndedIterator<Item = (&[u8], &[u8])> {
        (0..self.0.ends.len()).map(|n| self.0.pair(n))
    }

    /// The value under a key.
    pub fn get(&self, key: &[u8]) -> Option<Vec<u8>> {
        let n = self.0.rank(key);
        let (found, value) = (n < self.0.ends.len()).then(|| self.0.pair(n))?;
        (found == key).then(|| value.to_vec())
    }
}

/// Pairs of a range in a leaf.
#[derive(Debug)]
pub struct Within {
    leaf: Leaf,
    pairs: std::ops::Range<usize>,
}

impl Within {
    fn pair(&self, n: usize) -> Pair {
        let (key, value) = self.leaf.0.pair(n);
        (key.to_vec(), value.to_vec())
    }
}

impl Iterator for Within {
    type Item = Pair;

    fn next(&mut self) -> Option<Pair> {
        self.pairs.next().map(|n| self.pair(n))
    }
}

impl DoubleEndedIterator for Within {
    fn next_back(&mut self) -> Option<Pair> {
        self.pairs.next_back().map(|n| self.pair(n))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes that no run is made of end in an error, not in a panic.
    #[test]
    fn forged_bytes_are_an_error() {
        let mut run = Filling::default();
        run.push(b"one", b"1");
        run.push(b"onto", b"22");
        let packed = run.bytes.clone();
        let whole = run.squeeze().unwrap();
        let leaf = Leaf::of(&whole.bytes, whole.len as usize).unwrap();
        assert_eq!(leaf.get(b"onto"), Some(b"22".to_vec()));
        assert_eq!(leaf.get(b"on"), None);
        assert_eq!(leaf.pairs().rev().map(|p| p.0).collect::<Vec<_>>(), [&b"onto"[..], b"one"]);
        let first = LENGTHS + "one1".len();
        for at in 0..packed.len() {
            assert_eq!(Run::parse(&packed[..at]).is_some(), at == 0 || at == first, "{at}");
            let mut bytes = packed.clone();
            bytes[at] = 0xff;
            // A byte of a length is one too many; others are another key or value.
            let is_length = at % first < LENGTHS;
            assert!(!is_length || Run::parse(&bytes).is_none(), "{at}");
        }
        // Keys in the wrong order.
        let backwards =
            [&packed[first..first + 8], &[3, 0, 0, 0], b"onx", b"333", &packed[..first]];
        assert!(Run::parse(&backwards.concat()).is_none());
        assert!(Leaf::of(&whole.bytes[..4], 100).is_err());
    }
}
