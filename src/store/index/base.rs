//! What the memtable lies over: a persistent ordered map, or something in its place.

use crate::store::api::{Result, StoreError};
use std::fmt::Debug;

/// A key and its value.
pub type Pair = (Vec<u8>, Vec<u8>);
/// A key and its new value; `None` removes it.
pub type Change = (Vec<u8>, Option<Vec<u8>>);
/// Pairs in key order, from either end.
pub type Pairs<'a> = Box<dyn DoubleEndedIterator<Item = Result<Pair>> + 'a>;

/// A persistent ordered map.
pub trait Base: Send + Sync + Debug {
    /// The value under a key.
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>>;
    /// Pairs with `lo <= key < hi`.
    fn range<'a>(&'a self, lo: &[u8], hi: &[u8]) -> Pairs<'a>;
    /// Applies changes, in this order.
    fn write(&self, changes: &[Change]) -> Result<()>;
    /// Hands everything to the operating system.
    fn flush(&self) -> Result<()>;
    /// True if it keeps nothing.
    fn is_volatile(&self) -> bool {
        false
    }
}

/// Nothing below: the whole namespace is in memory.
#[derive(Debug)]
pub struct NoBase;

impl Base for NoBase {
    fn get(&self, _key: &[u8]) -> Result<Option<Vec<u8>>> {
        Ok(None)
    }
    fn range<'a>(&'a self, _lo: &[u8], _hi: &[u8]) -> Pairs<'a> {
        Box::new(std::iter::empty())
    }
    fn write(&self, _changes: &[Change]) -> Result<()> {
        Ok(())
    }
    fn flush(&self) -> Result<()> {
        Ok(())
    }
    fn is_volatile(&self) -> bool {
        true
    }
}

/// In place of a base that was closed: there is an answer to nothing, rather than a namespace of no
/// names.
#[derive(Debug)]
pub struct ClosedBase;

impl Base for ClosedBase {
    fn get(&self, _key: &[u8]) -> Result<Option<Vec<u8>>> {
        Err(StoreError::Closing)
    }
    fn range<'a>(&'a self, _lo: &[u8], _hi: &[u8]) -> Pairs<'a> {
        Box::new(std::iter::once(Err(StoreError::Closing)))
    }
    fn write(&self, _changes: &[Change]) -> Result<()> {
        Err(StoreError::Closing)
    }
    fn flush(&self) -> Result<()> {
        Ok(())
    }
    fn is_volatile(&self) -> bool {
        true
    }
}
