//! A table in little memory: pairs in key order, packed into compressed leaves. It never changes.
//!
//! A store that is opened without an index on disk has its namespace here, and what changed since
//! in the overlay above.

use super::base::{Base, Change, Pairs};
use super::leaf::{Filling, Leaf, Squeezed};
use crate::store::api::{Result, StoreError};
use lru::LruCache;
use std::num::NonZeroUsize;
use std::sync::{Mutex, PoisonError};

/// Bytes of a leaf before it is compressed; a larger pair has one for itself.
const SIZE: usize = 16 << 10;
/// Leaves kept as they were.
const KEPT: usize = 64;

/// The pairs.
pub struct Packed {
    /// Each with its first key.
    leaves: Vec<(Box<[u8]>, Squeezed)>,
    pairs: usize,
    kept: Mutex<LruCache<usize, Leaf>>,
}

impl std::fmt::Debug for Packed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} pairs in {} leaves", self.pairs, self.leaves.len())
    }
}

/// Takes pairs in key order.
#[derive(Debug, Default)]
pub struct Packer {
    leaves: Vec<(Box<[u8]>, Squeezed)>,
    pairs: usize,
    open: Filling,
    first: Vec<u8>,
}

impl Packer {
    /// Adds a pair; false if its key is not above the last one.
    pub fn push(&mut self, key: &[u8], value: &[u8]) -> Result<bool> {
        if self.pairs > 0 && key <= self.open.last() {
            return Ok(false);
        }
        if self.open.is_empty() {
            self.first = key.to_vec();
        }
        self.open.push(key, value);
        self.pairs += 1;
        if self.open.len() >= SIZE {
            self.seal()?;
        }
        Ok(true)
    }

    fn seal(&mut self) -> Result<()> {
        if !self.open.is_empty() {
            let first = std::mem::take(&mut self.first).into();
            self.leaves.push((first, self.open.squeeze()?));
        }
        Ok(())
    }

    /// All that was added.
    pub fn finish(mut self) -> Result<Packed> {
        self.seal()?;
        self.leaves.shrink_to_fit();
        let most = NonZeroUsize::new(KEPT).unwrap_or(NonZeroUsize::MIN);
        let kept = Mutex::new(LruCache::new(most));
        Ok(Packed { leaves: self.leaves, pairs: self.pairs, kept })
    }
}

impl Packed {
    /// How many pairs there are.
    pub fn len(&self) -> usize {
        self.pairs
    }

    fn leaf(&self, n: usize) -> Result<Leaf> {
        let kept = || self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(leaf) = kept().get(&n) {
            return Ok(leaf.clone());
        }
        let (_, squeezed) = &self.leaves[n];
        let leaf = Leaf::of(&squeezed.bytes, squeezed.len as usize)?;
        kept().put(n, leaf.clone());
        Ok(leaf)
    }

    /// The leaf that a key is in, if it is in any.
    fn place(&self, key: &[u8]) -> usize {
        self.leaves.partition_point(|(first, _)| **first <= *key).saturating_sub(1)
    }
}

impl Base for Packed {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>> {
        if self.leaves.is_empty() {
            return Ok(None);
        }
        Ok(self.leaf(self.place(key))?.get(key))
    }

    fn range<'a>(&'a self, lo: &[u8], hi: &[u8]) -> Pairs<'a> {
        let (lo, hi) = (lo.to_vec(), hi.to_vec());
        let end = self.leaves.partition_point(|(first, _)| **first < *hi);
        let leaves = self.place(&lo)..end;
        Box::new(leaves.flat_map(move |n| match self.leaf(n) {
            Ok(leaf) => leaf.within(&lo, &hi).map(Ok).collect::<Vec<_>>(),
            Err(e) => vec![Err(e)],
        }))
    }

    fn write(&self, _changes: &[Change]) -> Result<()> {
        Err(StoreError::Index("it is in memory and does not change".into()))
    }

    fn flush(&self) -> Result<()> {
        Ok(())
    }

    fn is_volatile(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::index::base::Pair;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    fn packed(map: &BTreeMap<Vec<u8>, Vec<u8>>) -> Packed {
        let mut packer = Packer::default();
        for (k, v) in map {
            assert!(packer.push(k, v).unwrap());
            assert!(!packer.push(k, v).unwrap());
        }
        packer.finish().unwrap()
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

        #[test]
        fn it_reads_like_a_map(
            map in prop::collection::btree_map(
                prop::collection::vec(0u8..3, 0..6),
                prop::collection::vec(any::<u8>(), 0..3000), 0..60),
            asked in prop::collection::vec(
                (prop::collection::vec(0u8..3, 0..6), prop::collection::vec(0u8..3, 0..6)), 20)
        ) {
            let packed = packed(&map);
            prop_assert_eq!(packed.len(), map.len());
            for (lo, hi) in asked {
                prop_assert_eq!(packed.get(&lo).unwrap(), map.get(&lo).cloned());
                let hi = hi.max(lo.clone());
                let want: Vec<Pair> =
                    map.range(lo.clone()..hi.clone()).map(|(k, v)| (k.clone(), v.clone())).collect();
                let mut got: Vec<Pair> =
                    packed.range(&lo, &hi).collect::<Result<_>>().unwrap();
                prop_assert_eq!(&got, &want);
                got = packed.range(&lo, &hi).rev().collect::<Result<_>>().unwrap();
                got.reverse();
                prop_assert_eq!(&got, &want);
            }
        }
    }
}
