//! A table in little memory: pairs in key order, packed into compressed blocks. It never changes.
//!
//! A store that is opened without an index on disk has its namespace here, and what changed since
//! in the overlay above.

use super::base::{Base, Pair, Pairs};
use crate::store::api::{Result, StoreError};
use lru::LruCache;
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, PoisonError};

/// Bytes of a block before it is compressed; a larger pair has one for itself.
const BLOCK: usize = 16 << 10;
/// Blocks kept as they were.
const KEPT: usize = 64;

#[derive(Debug)]
struct Block {
    first: Box<[u8]>,
    /// Length before compression.
    len: u32,
    squeezed: Box<[u8]>,
}

/// The pairs.
pub struct Packed {
    blocks: Vec<Block>,
    pairs: usize,
    kept: Mutex<LruCache<usize, Arc<Vec<u8>>>>,
}

impl std::fmt::Debug for Packed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} pairs in {} blocks", self.pairs, self.blocks.len())
    }
}

/// Takes pairs in key order.
#[derive(Debug, Default)]
pub struct Packer {
    blocks: Vec<Block>,
    pairs: usize,
    /// The block being filled: for each pair how much of the key before it begins with, the lengths of
    /// the rest and of the value (u32 each), the rest, the value.
    open: Vec<u8>,
    first: Vec<u8>,
    last: Vec<u8>,
}

impl Packer {
    /// Adds a pair; false if its key is not above the last one.
    pub fn push(&mut self, key: &[u8], value: &[u8]) -> Result<bool> {
        if self.pairs > 0 && key <= &self.last[..] {
            return Ok(false);
        }
        let shared = if self.open.is_empty() {
            self.first = key.to_vec();
            0
        } else {
            self.last.iter().zip(key).take_while(|(a, b)| a == b).count()
        };
        for n in [shared, key.len() - shared, value.len()] {
            self.open.extend_from_slice(&(n as u32).to_le_bytes());
        }
        self.open.extend_from_slice(&key[shared..]);
        self.open.extend_from_slice(value);
        self.last.clear();
        self.last.extend_from_slice(key);
        self.pairs += 1;
        if self.open.len() >= BLOCK {
            self.seal()?;
        }
        Ok(true)
    }

    fn seal(&mut self) -> Result<()> {
        if self.open.is_empty() {
            return Ok(());
        }
        let squeezed = zstd::bulk::compress(&self.open, 1)
            .map_err(|e| StoreError::Index(format!("compressing: {e}")))?;
        self.blocks.push(Block {
            first: std::mem::take(&mut self.first).into(),
            len: self.open.len() as u32,
            squeezed: squeezed.into(),
        });
        self.open.clear();
        Ok(())
    }

    /// All that was added.
    pub fn finish(mut self) -> Result<Packed> {
        self.seal()?;
        self.blocks.shrink_to_fit();
        let most = NonZeroUsize::new(KEPT).unwrap_or(NonZeroUsize::MIN);
        let kept = Mutex::new(LruCache::new(most));
        Ok(Packed { blocks: self.blocks, pairs: self.pairs, kept })
    }
}

/// The pairs of a block's bytes with `lo <= key`, and `key < hi` if there is one.
fn within(bytes: &[u8], lo: &[u8], hi: Option<&[u8]>) -> Option<Vec<Pair>> {
    let mut rest = bytes;
    let mut take = |n: usize| {
        let (head, tail) = rest.split_at_checked(n)?;
        rest = tail;
        Some(head)
    };
    let (mut key, mut out) = (Vec::new(), Vec::new());
    while let Some(lens) = take(12) {
        let len = |at: usize| Some(u32::from_le_bytes(lens.get(at..at + 4)?.try_into().ok()?));
        key.truncate(len(0)? as usize);
        key.extend_from_slice(take(len(4)? as usize)?);
        let value = take(len(8)? as usize)?;
        if hi.is_some_and(|hi| key.as_slice() >= hi) {
            break;
        }
        if key.as_slice() >= lo {
            out.push((key.clone(), value.to_vec()));
        }
    }
    Some(out)
}

impl Packed {
    /// How many pairs there are.
    pub fn len(&self) -> usize {
        self.pairs
    }

    /// A block's bytes.
    fn block(&self, n: usize) -> Result<Arc<Vec<u8>>> {
        let kept = || self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(bytes) = kept().get(&n) {
            return Ok(Arc::clone(bytes));
        }
        let bad = |e: std::io::Error| StoreError::Index(format!("a block in memory: {e}"));
        let b = &self.blocks[n];
        let bytes = Arc::new(zstd::bulk::decompress(&b.squeezed, b.len as usize).map_err(bad)?);
        kept().put(n, Arc::clone(&bytes));
        Ok(bytes)
    }

    fn some(&self, n: usize, lo: &[u8], hi: Option<&[u8]>) -> Result<Vec<Pair>> {
        let unreadable = || StoreError::Index("a block in memory is unreadable".into());
        within(&self.block(n)?, lo, hi).ok_or_else(unreadable)
    }

    /// The block that a key is in, if it is in any.
    fn place(&self, key: &[u8]) -> usize {
        self.blocks.partition_point(|b| *b.first <= *key).saturating_sub(1)
    }
}

impl Base for Packed {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>> {
        if self.blocks.is_empty() {
            return Ok(None);
        }
        let next = [key, &[0]].concat();
        let found = self.some(self.place(key), key, Some(&next))?;
        Ok(found.into_iter().next().map(|(_, v)| v))
    }

    fn range<'a>(&'a self, lo: &[u8], hi: &[u8]) -> Pairs<'a> {
        let (lo, hi) = (lo.to_vec(), hi.to_vec());
        let end = self.blocks.partition_point(|b| *b.first < *hi);
        let blocks = self.place(&lo)..end;
        Box::new(blocks.flat_map(move |n| match self.some(n, &lo, Some(&hi)) {
            Ok(pairs) => pairs.into_iter().map(Ok).collect::<Vec<_>>(),
            Err(e) => vec![Err(e)],
        }))
    }

    fn write(&self, _changes: &[(Vec<u8>, Option<Vec<u8>>)]) -> Result<()> {
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
