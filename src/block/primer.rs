//! Primers: what the experts know of a file before its blocks.

use super::{BlockError, Encoded, Lm, Tier, code, coder, decode, experts, prove, uncode};
use crate::codec::{self, Predictor};
use crate::types::Encoding;
use std::sync::Arc;

/// A sample of a file that readies the experts for its blocks. Immutable; cheap to clone.
#[derive(Debug, Clone)]
pub struct Primer {
    plain: Arc<[u8]>,
    predictor: Arc<Predictor>,
    lm: Option<Arc<Lm>>,
}

impl Primer {
    /// Bytes sampled from the head of a file of more than one block; 0 would mean no primers.
    pub const LEN: usize = 64 << 10;

    /// Readies the experts with `plain`, and returns its coded form, proven. Where the language
    /// model earns its time on the sample, it does on the file: then the primer's blocks are coded
    /// with it.
    pub fn make(plain: Vec<u8>, tier: &Tier) -> Result<(Self, Encoded), BlockError> {
        let (primer, coded) = Self::code(plain, tier)?;
        let coded = prove(&primer.plain, vec![coded], None, primer.lm.as_deref())?;
        if coded.encoding == Encoding::Raw {
            return Ok((Self::from_plain(primer.plain.to_vec()), coded));
        }
        Ok((primer, coded))
    }

    /// The first half of [`Self::make`], without the proof.
    pub(super) fn code(plain: Vec<u8>, tier: &Tier) -> Result<(Self, Encoded), BlockError> {
        let attempt = |lm: Option<&Arc<Lm>>| {
            let mut predictor = experts(lm.map(|lm| &**lm), plain.len());
            let coded = code(&plain, &mut predictor, lm.map(|lm| &**lm))?;
            Ok::<_, BlockError>((predictor, coded, lm.cloned()))
        };
        let chosen = match &tier.lm {
            Some(lm) if lm.is_slow() => {
                let other = lm.without_network();
                let (with, without) = (attempt(Some(lm))?, attempt(other.as_ref())?);
                let earns = tier.earns(with.1.payload.len(), without.1.payload.len());
                if earns { with } else { without }
            }
            own => attempt(own.as_ref())?,
        };
        let (predictor, coded, lm) = chosen;
        Ok((Self { plain: plain.into(), predictor: Arc::new(predictor), lm }, coded))
    }

    fn from_plain(plain: Vec<u8>) -> Self {
        let mut predictor = experts(None, plain.len());
        codec::train(&plain, &mut predictor);
        Self { plain: plain.into(), predictor: Arc::new(predictor), lm: None }
    }

    /// The same from the sample's payload: decoding teaches the experts what coding did.
    pub fn decode(
        encoding: Encoding,
        payload: &[u8],
        plain_len: u32,
        lm: Option<&Arc<Lm>>,
    ) -> Result<Self, BlockError> {
        if plain_len as usize > Self::LEN {
            return Err(BlockError::Corrupt(format!("a primer of {plain_len} bytes")));
        }
        let lm = lm.filter(|_| encoding == Encoding::Lm);
        if !matches!(encoding, Encoding::Fast | Encoding::Lm) {
            return Ok(Self::from_plain(decode(encoding, payload, plain_len, None, None)?));
        }
        if encoding == Encoding::Lm && lm.is_none() {
            return Err(BlockError::NoModel);
        }
        let other = coder(payload, lm.map(|lm| &**lm));
        let lm = other.as_ref().or(lm);
        let used = lm.map(|lm| &**lm);
        let mut predictor = experts(used, plain_len as usize);
        let plain = uncode(payload, plain_len, &mut predictor, used, &mut |_| usize::MAX)?;
        Ok(Self { plain: plain.into(), predictor: Arc::new(predictor), lm: lm.cloned() })
    }

    /// The sample.
    pub fn plain(&self) -> &[u8] {
        &self.plain
    }

    /// The language model that its blocks are coded with.
    pub fn lm(&self) -> Option<&Lm> {
        self.lm.as_deref()
    }

    /// Experts in the state that coder and decoder of a block begin with.
    pub(super) fn ready(&self) -> Predictor {
        (*self.predictor).clone()
    }

    /// Memory it holds, in bytes, for the cache's accounting.
    pub fn weight(&self) -> usize {
        self.plain.len() + self.predictor.weight()
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::encode;
    use super::*;

    pub fn text(bytes: usize) -> Vec<u8> {
        let line = |i: u32| format!("{i} user-{} logged in from 10.0.0.{}\n", i % 7, i * i % 251);
        (0..).flat_map(|i| line(i).into_bytes()).take(bytes).collect()
    }

    #[test]
    fn a_primer_is_the_same_from_its_sample_and_from_its_payload() {
        let block = text(Primer::LEN + 40_000)[Primer::LEN..].to_vec();
        for len in [Primer::LEN, 20_000] {
            let (made, stored) = Primer::make(text(len), &Tier::FAST).unwrap();
            assert_eq!(stored.encoding, Encoding::Fast);
            let read = Primer::decode(stored.encoding, &stored.payload, len as u32, None).unwrap();
            let coded = encode(&block, Some(&made), &Tier::FAST).unwrap();
            assert!(coded.primed && coded.encoding == Encoding::Fast);
            let back =
                decode(coded.encoding, &coded.payload, block.len() as u32, Some(&read), None)
                    .unwrap();
            assert!(back == block);
        }
    }

    #[test]
    fn a_block_goes_on_from_a_primer_that_it_begins_with() {
        let all = text(Primer::LEN + 30_000);
        let (primer, stored) = Primer::make(all[..Primer::LEN].to_vec(), &Tier::FAST).unwrap();
        for len in [Primer::LEN, Primer::LEN + 1, all.len()] {
            let coded = encode(&all[..len], Some(&primer), &Tier::FAST).unwrap();
            assert!(coded.primed && coded.payload.len() < stored.payload.len());
            let read = |len: usize| {
                decode(coded.encoding, &coded.payload, len as u32, Some(&primer), None)
            };
            assert!(read(len).unwrap() == all[..len]);
            assert!(read(Primer::LEN - 1).is_err());
            let (encoding, payload) = (coded.encoding, &coded.payload);
            assert!(decode(encoding, payload, len as u32, None, None).is_err());
        }
    }

    #[test]
    fn a_primer_longer_than_any_is_refused() {
        let (_, stored) = Primer::make(text(Primer::LEN), &Tier::FAST).unwrap();
        let decode = |len: u32| Primer::decode(stored.encoding, &stored.payload, len, None);
        assert!(decode(Primer::LEN as u32).is_ok());
        assert!(matches!(decode(Primer::LEN as u32 + 1), Err(BlockError::Corrupt(_))));
    }
}
