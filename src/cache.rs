//! LRU of decoded frames, single flight.

/// Figures of the cache, in bytes and lookups.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CacheStats {
    /// Bytes it may hold.
    pub capacity: u64,
    /// Bytes it holds.
    pub used: u64,
    /// Lookups answered from memory.
    pub hits: u64,
    /// Lookups that had to decode.
    pub misses: u64,
}
