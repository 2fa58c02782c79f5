//! A frame's payload: bytes in, bytes out, no I/O.
//!
//! Chooses the smallest admissible form for a block, and proves it by decoding before it is used.

use crate::codec::{self, Predictor};
use crate::types::Form;
use std::sync::Arc;

pub mod bench;
pub mod container;
pub mod lm;

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
    predictor: Arc<Predictor>,
}

impl Primer {
    /// Bytes sampled from the head of a file of more than one block; 0 would mean no primers.
    pub const LEN: usize = 64 << 10;

    /// Primes the experts with `plain` (costs its coding time once).
    pub fn new(plain: Vec<u8>) -> Self {
        // As large as for a block: it serves whole blocks.
        let mut predictor = Predictor::default();
        codec::train(&plain, &mut predictor);
        Self { plain: plain.into(), predictor: Arc::new(predictor) }
    }

    /// The same from the sample's payload, in one pass where the form allows: decoding teaches the
    /// experts what training would.
    pub fn decode(form: Form, payload: &[u8], plain_len: u32) -> Result<Self, BlockError> {
        if form != Form::Fast {
            return Ok(Self::new(decode(form, payload, plain_len, None)?));
        }
        let mut predictor = Predictor::new(plain_len as usize);
        let plain = decode_fast(payload, plain_len, &mut predictor)?;
        if predictor.is_full_size() {
            Ok(Self { plain: plain.into(), predictor: Arc::new(predictor) })
        } else {
            Ok(Self::new(plain))
        }
    }

    /// The sample.
    pub fn plain(&self) -> &[u8] {
        &self.plain
    }

    /// Memory it holds, in bytes, for the cache's accounting.
    pub fn weight(&self) -> usize {
        self.plain.len() + self.predictor.weight()
    }
}

/// Experts in the state that coder and decoder of a block begin with.
fn ready(primer: Option<&Primer>, len: usize) -> Predictor {
    primer.map_or_else(|| Predictor::new(len), |p| (*p.predictor).clone())
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

/// Level of zstd for rested blocks that are not text.
const ZSTD_LEVEL: i32 = 9;

/// Forms that a rested block may take, smallest first; raw, which always may, is not among them.
fn candidates(plain: &[u8], primer: Option<&Primer>) -> Vec<Encoded> {
    let mut candidates = Vec::new();
    if looks_like_text(plain) {
        let payload = codec::encode(plain, 1, &mut ready(primer, plain.len()), None).bytes;
        candidates.push(Encoded { form: Form::Fast, primed: primer.is_some(), payload });
    }
    if let Ok(payload) = zstd::bulk::compress(plain, ZSTD_LEVEL) {
        candidates.push(Encoded { form: Form::Zstd, primed: false, payload });
    }
    candidates.retain(|c| c.payload.len() < plain.len());
    candidates.sort_by_key(|c| c.payload.len());
    candidates
}

/// The first candidate that decodes to the block, else the block itself.
fn prove(plain: &[u8], candidates: Vec<Encoded>, primer: Option<&Primer>) -> Encoded {
    let proven = |c: &Encoded| {
        let primer = primer.filter(|_| c.primed);
        let same =
            decode(c.form, &c.payload, plain.len() as u32, primer).is_ok_and(|back| back == plain);
        if !same {
            log::error!("a block coded as {:?} did not decode to itself; not used", c.form);
        }
        same
    };
    candidates.into_iter().find(proven).unwrap_or_else(|| Encoded {
        form: Form::Raw,
        primed: false,
        payload: plain.to_vec(),
    })
}

/// Codes a rested block in the smallest admissible form (raw, zstd, fast). Verified by decoding.
pub fn encode(plain: &[u8], primer: Option<&Primer>) -> Encoded {
    prove(plain, candidates(plain, primer), primer)
}

/// Decodes a payload of `plain_len` bytes of plaintext. Never panics, whatever the bytes. A `fast`
/// payload must be given the primer that it was coded with, if any.
pub fn decode(
    form: Form,
    payload: &[u8],
    plain_len: u32,
    primer: Option<&Primer>,
) -> Result<Vec<u8>, BlockError> {
    let len = plain_len as usize;
    let bytes = match form {
        Form::Raw => payload.to_vec(),
        Form::Zstd => {
            zstd::bulk::decompress(payload, len).map_err(|e| BlockError::Corrupt(e.to_string()))?
        }
        Form::Fast => decode_fast(payload, plain_len, &mut ready(primer, len))?,
        Form::Lm => return Err(BlockError::UnknownForm(form as u8)),
    };
    if bytes.len() == len {
        Ok(bytes)
    } else {
        Err(BlockError::Corrupt(format!("{} bytes, not {plain_len}", bytes.len())))
    }
}

fn decode_fast(payload: &[u8], len: u32, predictor: &mut Predictor) -> Result<Vec<u8>, BlockError> {
    codec::decode(payload, len as usize, predictor, None)
        .ok_or_else(|| BlockError::Corrupt("the code does not end with the block".into()))
}

/// A cheap look at a sample: is text modelling likely to pay? Text has few control characters, and
/// noise does not shrink.
pub fn looks_like_text(plain: &[u8]) -> bool {
    const SAMPLE: usize = 4096;
    let middle = plain.len() / 2;
    let ends =
        [&plain[..plain.len().min(SAMPLE)], &plain[middle..(middle + SAMPLE).min(plain.len())]];
    let (mut odd, mut all) = (0, 0);
    for part in ends {
        let control = |b: &&u8| **b < 32 && !matches!(**b, b'\n' | b'\t' | b'\r' | 0x0c | 0x1b);
        odd += part.iter().filter(control).count();
        all += part.len();
    }
    odd * 20 <= all
}

/// The plaintext hash that frames carry: first 8 bytes, little-endian, of its BLAKE3.
pub fn plain_hash(plain: &[u8]) -> u64 {
    let h = blake3::hash(plain);
    let mut b = [0; 8];
    b.copy_from_slice(&h.as_bytes()[..8]);
    u64::from_le_bytes(b)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(bytes: usize) -> Vec<u8> {
        let line = |i: u32| format!("{i} user-{} logged in from 10.0.0.{}\n", i % 7, i * i % 251);
        (0..).flat_map(|i| line(i).into_bytes()).take(bytes).collect()
    }

    #[test]
    fn a_primer_is_the_same_from_its_sample_and_from_its_payload() {
        let block = text(Primer::LEN + 40_000)[Primer::LEN..].to_vec();
        for len in [Primer::LEN, 20_000] {
            let sample = text(len);
            let made = Primer::new(sample.clone());
            let stored = encode(&sample, None);
            assert_eq!(stored.form, Form::Fast);
            let read = Primer::decode(stored.form, &stored.payload, len as u32).unwrap();
            let coded = encode(&block, Some(&made));
            assert!(coded.primed && coded.form == Form::Fast);
            let back = decode(coded.form, &coded.payload, block.len() as u32, Some(&read));
            assert!(back.unwrap() == block);
        }
    }

    #[test]
    fn noise_stays_raw() {
        let mut seed = 1_u64;
        let noise: Vec<u8> = std::iter::repeat_with(|| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (seed >> 56) as u8
        })
        .take(100_000)
        .collect();
        let coded = encode(&noise, None);
        assert_eq!((coded.form, coded.payload.len()), (Form::Raw, noise.len()));
    }
}
