//! A frame's payload: bytes in, bytes out, no I/O.
//!
//! Chooses the smallest admissible encoding for a block, and proves it by decoding before it is used.

use crate::codec::{self, Predictor, Watch};
use crate::model::{Blocks, EngineError};
use crate::types::Encoding;
use std::borrow::Cow;
use std::sync::Arc;

pub mod bench;
pub mod container;
pub mod heads;
mod lanes;
pub mod lm;
#[cfg(test)]
pub mod mutate;
pub mod pack;
mod primer;
pub mod trace;
pub mod words;

pub use crate::codec::{Cost, ENGINE};
pub use heads::Show;
pub use lm::{Lm, LmError, ModelId};
pub use primer::Primer;
pub use trace::trace;

use heads::Heads;
use pack::{pack, unpack};

/// Bytes per block of the `fast` tier.
pub const FAST_BLOCK: u32 = Blocks::ALONE.unit;

/// What can go wrong with a payload.
#[derive(Debug, thiserror::Error)]
pub enum BlockError {
    /// The payload does not decode to what its header promises.
    #[error("payload does not decode: {0}")]
    Corrupt(String),
    /// The payload was coded with a primer that was not given.
    #[error("payload needs primer {0}")]
    NoPrimer(u64),
    /// The payload was coded with a language model that was not given.
    #[error("payload needs a language model")]
    NoModel,
    /// Whoever wanted it coded has changed its mind; see [`Lm::until`].
    #[error("stopped")]
    Stopped,
    /// The language model does not run.
    #[error(transparent)]
    Engine(Box<EngineError>),
}

impl From<EngineError> for BlockError {
    fn from(e: EngineError) -> Self {
        Self::Engine(Box::new(e))
    }
}

/// What rested blocks are coded with.
#[derive(Debug, Clone)]
pub struct Tier {
    /// The language model; none for the experts alone.
    pub lm: Option<Arc<Lm>>,
    /// The language model is used only where it saves at least this share of what the experts alone
    /// need, in percent: decoding with it costs many times theirs.
    pub lm_gain: f64,
    /// Modelled blocks get a filter of their words; see [`words`].
    pub words: bool,
}

impl Tier {
    /// Default of [`Tier::lm_gain`].
    pub const LM_GAIN: f64 = 3.0;
    /// The experts alone.
    pub const FAST: Self = Self { lm: None, lm_gain: Self::LM_GAIN, words: false };

    /// With a language model.
    pub fn with(lm: Arc<Lm>) -> Self {
        Self { lm: Some(lm), ..Self::FAST }
    }

    /// Bytes of a block, unless somebody says otherwise.
    pub fn unit(&self) -> u32 {
        self.lm.as_ref().map_or(FAST_BLOCK, |lm| lm.unit())
    }

    /// True if `lm` bytes instead of `fast` ones are worth the language model's time.
    fn earns(&self, lm: usize, fast: usize) -> bool {
        (lm as f64) * 100.0 <= (fast as f64) * (100.0 - self.lm_gain)
    }
}

/// A payload and how it was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Encoded {
    /// The encoding chosen.
    pub encoding: Encoding,
    /// True if decoding needs the primer that was given.
    pub primed: bool,
    /// The coded bytes.
    pub payload: Vec<u8>,
    /// What the payload should have cost, in units of 2^-16 bits: −Σ log2 p if it was
    /// arithmetic-coded.
    pub ideal: u64,
}

impl Encoded {
    fn plain(encoding: Encoding, payload: Vec<u8>) -> Self {
        let ideal = (payload.len() as u64 * 8) << 16;
        Self { encoding, primed: false, payload, ideal }
    }
}

/// Codes what a write left behind, quickly: zstd-1 or raw. Verified.
pub fn stage(plain: &[u8]) -> Encoded {
    match pack(plain) {
        Ok(z) if z.len() < plain.len() => match unpack(&z, plain.len()) {
            Ok(back) if back == plain => Encoded::plain(Encoding::Zstd, z),
            _ => Encoded::plain(Encoding::Raw, plain.to_vec()),
        },
        _ => Encoded::plain(Encoding::Raw, plain.to_vec()),
    }
}

/// Level of zstd for rested blocks that are not text.
const ZSTD_LEVEL: i32 = 9;
/// zstd is tried where the experts need more than this share of the plaintext: one of so many.
const ZSTD_SHARE: usize = 3;
/// Bytes of an unprimed block that tell whether the language model earns its time.
const JUDGED: usize = 8 << 10;

/// Experts that know nothing yet, for a text of `len` bytes.
fn experts(lm: Option<&Lm>, len: usize) -> Predictor {
    match lm {
        Some(lm) => lm.experts(len),
        None => Predictor::new(len),
    }
}

/// What each token of a text costs by a model, without its network if it has one.
pub fn costs(plain: &[u8], tier: &Tier) -> Vec<Cost> {
    let lm = tier.lm.as_deref();
    let alone = lm.and_then(Lm::without_network);
    let known = alone.as_deref().or(lm).filter(|lm| !lm.is_slow());
    codec::costs(plain, &mut experts(known, plain.len()))
}

/// In a modelled payload's first byte: the block begins with the primer's plaintext, and the code is
/// that of the rest.
const CONTINUES: u8 = 0x80;

/// In the same byte: a filter of the block's words stands at the end.
const FILTERED: u8 = 0x40;
/// The same byte's other bits are the number of lanes; none stand for one that was coded with the model's
/// prior alone, although it has a network.
const LANES: u8 = 0x3f;

/// A modelled payload without its filter.
fn without_filter(payload: &[u8]) -> Result<Cow<'_, [u8]>, BlockError> {
    if payload.first().is_none_or(|first| first & FILTERED == 0) {
        return Ok(payload.into());
    }
    let split = words::split(payload).filter(|(code, _)| !code.is_empty());
    let (code, _) = split.ok_or_else(|| BlockError::Corrupt("its filter has no end".into()))?;
    let mut code = code.to_vec();
    code[0] &= !FILTERED;
    Ok(code.into())
}

/// The filter of a block's words, if its payload has one.
pub fn filter_of(encoding: Encoding, payload: &[u8]) -> Option<words::Filter<'_>> {
    let modelled = matches!(encoding, Encoding::Fast | Encoding::Lm);
    payload.first().filter(|first| modelled && **first & FILTERED != 0)?;
    words::Filter::read(words::split(payload)?.1)
}

/// What a payload of a language model was coded with: the model, or its prior alone.
fn coder(payload: &[u8], lm: Option<&Lm>) -> Option<Arc<Lm>> {
    let alone = payload.first().is_some_and(|first| first & LANES == 0);
    lm.filter(|_| alone)?.without_network()
}

/// Codes with experts that learn it; with a language model in lanes.
fn code(plain: &[u8], predictor: &mut Predictor, lm: Option<&Lm>) -> Result<Encoded, BlockError> {
    let (encoding, mut coded) = match lm {
        None => (Encoding::Fast, codec::encode(plain, 1, predictor, None)),
        Some(lm) => {
            let lanes = lm.lanes_of(plain.len());
            (Encoding::Lm, lm.code(|model| codec::encode(plain, lanes, predictor, model))?)
        }
    };
    if lm.is_some_and(Lm::is_without_network) {
        coded.bytes[0] = 0;
    }
    Ok(Encoded { encoding, primed: false, payload: coded.bytes, ideal: coded.ideal })
}

/// Reverses [`code`], and leaves the experts in the same state.
fn uncode(
    payload: &[u8],
    plain_len: u32,
    predictor: &mut Predictor,
    lm: Option<&Lm>,
    watch: Watch<'_>,
) -> Result<Vec<u8>, BlockError> {
    let len = plain_len as usize;
    let mut own;
    let mut payload = payload;
    if let Some(first) = payload.first().filter(|_| lm.is_some_and(Lm::is_without_network)) {
        if first & LANES != 0 {
            return Err(BlockError::Corrupt("it was coded with the model's network".into()));
        }
        own = payload.to_vec();
        own[0] = 1;
        payload = &own;
    }
    let bytes = match lm {
        None => codec::decode_watched(payload, len, predictor, None, watch),
        Some(lm) => {
            lm.code(|model| codec::decode_watched(payload, len, predictor, model, watch))?
        }
    };
    bytes.ok_or_else(|| BlockError::Corrupt("the code does not end with the block".into()))
}

/// True for a modelled payload, without its filter, of one lane.
fn is_in_one_lane(payload: &[u8]) -> bool {
    payload.first().is_some_and(|first| first & LANES <= 1)
}

/// The arithmetic-coded form of a block, with the checks of its heads.
fn modelled(plain: &[u8], primer: Option<&Primer>, tier: &Tier) -> Result<Encoded, BlockError> {
    let mut coded = arithmetic(plain, primer, tier)?;
    if is_in_one_lane(&coded.payload) {
        heads::append(&mut coded.payload, plain);
    }
    Ok(coded)
}

/// The code alone, as the block's primer says or else the tier.
fn arithmetic(plain: &[u8], primer: Option<&Primer>, tier: &Tier) -> Result<Encoded, BlockError> {
    if let Some(primer) = primer {
        // What the primer holds is not coded again.
        let rest = plain.strip_prefix(primer.plain());
        let given = |own: &Lm| tier.lm.as_deref().filter(|lm| lm.is(own)).map(|lm| lm.as_of(own));
        let coder = primer.lm().map(|own| given(own).unwrap_or_else(|| own.clone()));
        let mut coded = code(rest.unwrap_or(plain), &mut primer.ready(), coder.as_ref())?;
        if rest.is_some() {
            coded.payload[0] |= CONTINUES;
        }
        return Ok(Encoded { primed: true, ..coded });
    }
    let alone = |part: &[u8], lm: Option<&Lm>| code(part, &mut experts(lm, part.len()), lm);
    let lm = match tier.lm.as_deref() {
        Some(lm) if lm.is_slow() => lm,
        // No slower to decode than it is worth.
        own => return alone(plain, own),
    };
    let other = lm.without_network();
    let other = other.as_deref();
    let fast = alone(plain, other)?;
    if plain.len() > 2 * JUDGED {
        let part = &plain[..JUDGED];
        let (with, without) = (alone(part, Some(lm))?, alone(part, other)?);
        if !tier.earns(with.payload.len(), without.payload.len()) {
            return Ok(fast);
        }
    }
    let with = alone(plain, Some(lm))?;
    Ok(if tier.earns(with.payload.len(), fast.payload.len()) { with } else { fast })
}

/// Reverses [`modelled`].
fn unmodelled(
    payload: &[u8],
    plain_len: u32,
    primer: Option<&Primer>,
    lm: Option<&Lm>,
    show: Show<'_>,
) -> Result<Vec<u8>, BlockError> {
    let (payload, checks) = if is_in_one_lane(payload) {
        heads::split(payload, plain_len as usize)
            .ok_or_else(|| BlockError::Corrupt("too short for its checks".into()))?
    } else {
        (payload, &[][..])
    };
    let continued = primer.filter(|_| payload.first().is_some_and(|first| first & CONTINUES != 0));
    let mut heads = Heads::new(checks, continued.map_or(&[], Primer::plain), show);
    let watch = &mut |text: &[u8]| heads.seen(text);
    let Some(primer) = primer else {
        let other = coder(payload, lm);
        let lm = other.as_deref().or(lm);
        let mut predictor = experts(lm, plain_len as usize);
        return uncode(payload, plain_len, &mut predictor, lm, watch);
    };
    let own = match (primer.lm(), lm) {
        (Some(own), Some(lm)) => own.is(lm),
        (own, lm) => own.is_none() && lm.is_none(),
    };
    if !own {
        return Err(BlockError::Corrupt("its primer is of another model".into()));
    }
    let lm = primer.lm().zip(lm).map(|(own, lm)| lm.as_of(own));
    let lm = lm.as_ref();
    if continued.is_none() {
        return uncode(payload, plain_len, &mut primer.ready(), lm, watch);
    }
    let mut bytes = primer.plain().to_vec();
    let left = plain_len
        .checked_sub(bytes.len() as u32)
        .ok_or_else(|| BlockError::Corrupt("shorter than its primer".into()))?;
    let mut code = payload.to_vec();
    code[0] &= !CONTINUES;
    bytes.extend(uncode(&code, left, &mut primer.ready(), lm, watch)?);
    Ok(bytes)
}

/// Forms that a rested block may take, smallest first; raw, which always may, is not among them.
fn candidates(
    plain: &[u8],
    primer: Option<&Primer>,
    tier: &Tier,
) -> Result<Vec<Encoded>, BlockError> {
    let mut candidates = Vec::new();
    if looks_like_text(plain) {
        let mut coded = modelled(plain, primer, tier)?;
        if tier.words
            && let Some(filter) = words::filter(plain)
        {
            coded.payload[0] |= FILTERED;
            words::append(&mut coded.payload, &filter);
        }
        candidates.push(coded);
    }
    if candidates.first().is_none_or(|c| c.payload.len() * ZSTD_SHARE > plain.len())
        && let Ok(payload) = zstd::bulk::compress(plain, ZSTD_LEVEL)
    {
        candidates.push(Encoded::plain(Encoding::Zstd, payload));
    }
    candidates.retain(|c| c.payload.len() < plain.len());
    candidates.sort_by_key(|c| c.payload.len());
    Ok(candidates)
}

/// The first candidate that decodes to the block, else the block itself.
fn prove(
    plain: &[u8],
    candidates: Vec<Encoded>,
    primer: Option<&Primer>,
    lm: Option<&Lm>,
) -> Result<Encoded, BlockError> {
    for c in candidates {
        let primer = primer.filter(|_| c.primed);
        match decode(c.encoding, &c.payload, plain.len() as u32, primer, lm) {
            Ok(back) if back == plain => return Ok(c),
            Err(BlockError::Stopped) => return Err(BlockError::Stopped),
            _ => {
                log::error!("a block coded as {:?} did not decode to itself; not used", c.encoding);
            }
        }
    }
    Ok(raw(plain))
}

/// The encoding that any block may take.
fn raw(plain: &[u8]) -> Encoded {
    Encoded::plain(Encoding::Raw, plain.to_vec())
}

/// Codes a rested block in the smallest admissible encoding (raw, zstd, fast, with a language model).
/// Verified by decoding. A block with a primer is coded with what the primer was made with.
pub fn encode(plain: &[u8], primer: Option<&Primer>, tier: &Tier) -> Result<Encoded, BlockError> {
    let lm = primer.map_or(tier.lm.as_deref(), Primer::lm);
    prove(plain, candidates(plain, primer, tier)?, primer, lm)
}

/// Decodes a payload of `plain_len` bytes of plaintext. Never panics, whatever the bytes. `primer`
/// and `lm` must be those that it was coded with, if any.
pub fn decode(
    encoding: Encoding,
    payload: &[u8],
    plain_len: u32,
    primer: Option<&Primer>,
    lm: Option<&Lm>,
) -> Result<Vec<u8>, BlockError> {
    decode_showing(encoding, payload, plain_len, primer, lm, &mut |_| {})
}

/// The same; where that takes long, the block's heads are shown as soon as they are there.
pub fn decode_showing(
    encoding: Encoding,
    payload: &[u8],
    plain_len: u32,
    primer: Option<&Primer>,
    lm: Option<&Lm>,
    show: Show<'_>,
) -> Result<Vec<u8>, BlockError> {
    let len = plain_len as usize;
    let bytes = match encoding {
        Encoding::Raw => payload.to_vec(),
        Encoding::Zstd => unpack(payload, len).map_err(|e| BlockError::Corrupt(e.to_string()))?,
        Encoding::Fast => unmodelled(&without_filter(payload)?, plain_len, primer, None, show)?,
        Encoding::Lm => {
            let lm = lm.ok_or(BlockError::NoModel)?;
            unmodelled(&without_filter(payload)?, plain_len, primer, Some(lm), show)?
        }
    };
    if bytes.len() == len {
        Ok(bytes)
    } else {
        Err(BlockError::Corrupt(format!("{} bytes, not {plain_len}", bytes.len())))
    }
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

    #[test]
    fn a_block_with_a_filter_is_the_same_block() {
        let line = |n: u32| format!("{n} session {} opened\n", n * 7919 % 997);
        let plain = (0..2000).map(line).collect::<String>().into_bytes();
        let without = encode(&plain, None, &Tier::FAST).unwrap();
        let with = encode(&plain, None, &Tier { words: true, ..Tier::FAST }).unwrap();
        assert_eq!(with.encoding, without.encoding);
        let (code, filter) = words::split(&with.payload).unwrap();
        assert_eq!(code[1..], without.payload[1..]);
        assert!(filter.len() * 20 < plain.len(), "{} of {}", filter.len(), plain.len());
        let back = decode(with.encoding, &with.payload, plain.len() as u32, None, None);
        assert!(back.unwrap() == plain);
        let found = filter_of(with.encoding, &with.payload).unwrap();
        assert!(found.may_hold(b"session") && !found.may_hold(b"closed"));
        assert!(filter_of(without.encoding, &without.payload).is_none());
        // What is cut off is no panic.
        for n in 0..with.payload.len() {
            let _ = filter_of(with.encoding, &with.payload[..n]);
            if n < 50 || n + 50 > code.len() {
                let cut = decode(with.encoding, &with.payload[..n], plain.len() as u32, None, None);
                assert!(cut.is_err());
            }
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
        let coded = encode(&noise, None, &Tier::FAST).unwrap();
        assert_eq!((coded.encoding, coded.payload.len()), (Encoding::Raw, noise.len()));
    }
}
