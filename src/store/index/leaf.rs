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
pub struct Leaf(Arc<Vec<u8>>);

impl Leaf {
    /// The run of `len` bytes in a zstd frame.
    pub fn of(squeezed: &[u8], len: usize) -> Result<Self> {
        let bad = |e: std::io::Error| StoreError::Index(format!("a compressed leaf: {e}"));
        Ok(Self(Arc::new(unpack(squeezed, len).map_err(bad)?)))
    }

    /// Its pairs with `lo <= key < hi`, one by one.
    pub fn within(&self, lo: &[u8], hi: &[u8]) -> Within {
        Within { leaf: self.clone(), at: 0, key: Vec::new(), lo: lo.to_vec(), hi: hi.to_vec() }
    }

    /// The value under a key.
    pub fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>> {
        let next = [key, &[0]].concat();
        Ok(self.within(key, &next).next().transpose()?.map(|(_, value)| value))
    }
}

/// Pairs of a range in a leaf. After an error there is nothing more.
#[derive(Debug)]
pub struct Within {
    leaf: Leaf,
    at: usize,
    key: Vec<u8>,
    lo: Vec<u8>,
    hi: Vec<u8>,
}

impl Within {
    /// Steps over one pair, and tells where its value lies.
    fn step(&mut self) -> Option<std::ops::Range<usize>> {
        let rest = self.leaf.0.get(self.at..)?;
        let len =
            |at: usize| Some(u32::from_le_bytes(rest.get(at..at + 4)?.try_into().ok()?) as usize);
        let (shared, suffix, value) = (len(0)?, len(4)?, len(8)?);
        let key = rest.get(LENGTHS..LENGTHS.checked_add(suffix)?)?;
        let from = self.at + LENGTHS + suffix;
        let to = from.checked_add(value).filter(|to| *to <= self.leaf.0.len())?;
        self.key.truncate(shared);
        self.key.extend_from_slice(key);
        self.at = to;
        Some(from..to)
    }
}

impl Iterator for Within {
    type Item = Result<Pair>;

    fn next(&mut self) -> Option<Self::Item> {
        while self.at < self.leaf.0.len() {
            let Some(value) = self.step() else {
                self.at = self.leaf.0.len();
                return Some(Err(StoreError::Index("a leaf is unreadable".into())));
            };
            if self.key < self.lo {
                continue;
            }
            if self.key < self.hi {
                return Some(Ok((self.key.clone(), self.leaf.0[value].to_vec())));
            }
            self.at = self.leaf.0.len();
        }
        None
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
        let whole = run.squeeze().unwrap();
        let leaf = Leaf::of(&whole.bytes, whole.len as usize).unwrap();
        assert_eq!(leaf.get(b"onto").unwrap(), Some(b"22".to_vec()));
        assert_eq!(leaf.get(b"on").unwrap(), None);
        for at in 0..leaf.0.len() {
            let cut = Leaf(Arc::new(leaf.0[..at].to_vec()));
            let _ = cut.within(&[], &[0xff]).count();
            let mut bytes = leaf.0.to_vec();
            bytes[at] = 0xff;
            let _ = Leaf(Arc::new(bytes)).within(&[], &[0xff]).count();
        }
        let cut = Leaf(Arc::new(leaf.0[..20].to_vec()));
        assert!(cut.within(&[], &[0xff]).any(|p| p.is_err()));
        assert!(Leaf::of(&whole.bytes[..4], 100).is_err());
    }
}
