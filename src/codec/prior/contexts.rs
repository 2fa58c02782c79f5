//! Contexts of one kind in the order of their hashes, with their followers: what training makes and
//! a model's file holds.

/// Most leaves of a vocabulary that a prior can be for.
pub const LEAVES: usize = 1 << 12;
/// What a count's code stands for.
pub const COUNTS: [u32; 16] = [1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 64, 128, 256, 512, 1024, 4096];
/// Bits of a key beyond those that choose its bucket: one in so many unknown contexts is mistaken for
/// one in the bucket.
pub(super) const CHECK_BITS: u32 = 10;
/// Contexts of a bucket, about.
const BUCKET: usize = 4;
/// Bits that choose a bucket, at most.
pub(super) const BITS_MAX: u32 = 32 - CHECK_BITS;

/// The code of a count, which is at least 1: of the largest that is not above it.
pub fn count_code(n: u32) -> u16 {
    (COUNTS.partition_point(|c| *c <= n).max(1) - 1) as u16
}

/// The contexts of one kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Contexts {
    /// log2 of the number of buckets.
    pub(super) bits: u32,
    /// The hashes' first bits, ascending.
    pub(super) keys: Vec<u32>,
    /// Where each context's followers end.
    pub(super) ends: Vec<u32>,
    /// Leaf << 4 | code of the count, ascending in each context.
    pub(super) followers: Vec<u16>,
}

impl Contexts {
    /// None yet, and room for about `count`.
    pub fn new(count: usize) -> Self {
        let bits = (count / BUCKET).max(1).next_power_of_two().ilog2().min(BITS_MAX);
        Self { bits, keys: Vec::new(), ends: Vec::new(), followers: Vec::new() }
    }

    /// None yet, and as much room as another has.
    pub fn like(other: &Self) -> Self {
        Self { bits: other.bits, ..Self::new(0) }
    }

    /// How many of a hash's first bits tell contexts apart: its key.
    pub fn key_bits(&self) -> u32 {
        self.bits + CHECK_BITS
    }

    /// Adds a context whose hash is not below those before; what follows it is ascending. One that
    /// nothing follows says nothing and is left out.
    pub fn push(&mut self, hash: u32, followers: &[u16]) {
        if followers.is_empty() {
            return;
        }
        self.keys.push(hash >> (32 - self.bits - CHECK_BITS));
        self.followers.extend_from_slice(followers);
        self.ends.push(self.followers.len() as u32);
    }

    /// Number of contexts.
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// True if there are none.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// Number of followers.
    pub fn followers(&self) -> usize {
        self.followers.len()
    }

    /// Each context's key and followers.
    pub fn iter(&self) -> impl Iterator<Item = (u32, &[u16])> {
        let starts = std::iter::once(&0).chain(&self.ends);
        let lists = starts.zip(&self.ends).map(|(a, b)| &self.followers[*a as usize..*b as usize]);
        self.keys.iter().copied().zip(lists)
    }
}
