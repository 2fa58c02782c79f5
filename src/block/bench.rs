//! Coding a file in independent blocks as the background coder does, and measuring it.

use super::{BlockError, Encoded, Primer, Tier, candidates, decode, looks_like_text, raw};
use std::time::Instant;

/// What coding one file came to.
#[derive(Debug, Clone, Default)]
pub struct Measured {
    /// Bytes of the file.
    pub bytes: u64,
    /// Payloads and their headers, the primer's too.
    pub coded_bytes: u64,
    /// Whole frames: second headers and parity too.
    pub frame_bytes: u64,
    /// −Σ log2 p of the arithmetic-coded payloads, or the payload's bits for other forms.
    pub ideal_bits: f64,
    /// Seconds of encoding: primer and choice of encoding, but not the proofs, which cost as decoding.
    pub encode_s: f64,
    /// Seconds of decoding.
    pub decode_s: f64,
    /// Seconds from a cold start to the first block.
    pub first_block_s: f64,
    /// Everything decoded to what it was.
    pub roundtrip: bool,
}

/// Codes `plain` in blocks of `block` bytes, decodes, compares. `header` is the length of a frame's
/// first header, `frame` that of the whole frame of a payload of so many bytes.
pub fn measure(
    plain: &[u8],
    block: usize,
    tier: &Tier,
    header: u64,
    frame: impl Fn(usize) -> u64,
) -> Result<Measured, BlockError> {
    let mut m = Measured { bytes: plain.len() as u64, roundtrip: true, ..Measured::default() };
    let primed = plain.len() > block && plain.len() > Primer::LEN && looks_like_text(plain);
    let began = Instant::now();
    let made = if primed { Some(Primer::code(plain[..Primer::LEN].to_vec(), tier)?) } else { None };
    let primer = made.as_ref().map(|(p, _)| p);
    let mut coded = Vec::new();
    for part in plain.chunks(block) {
        coded.push((part, candidates(part, primer, tier)?));
    }
    m.encode_s = began.elapsed().as_secs_f64();
    let lm = primer.map_or(tier.lm.as_deref(), Primer::lm);
    // The measured decoding is proof enough: what does not come back makes the run fail.
    let frames: Vec<(&[u8], Encoded)> = coded
        .into_iter()
        .map(|(part, c)| (part, c.into_iter().next().unwrap_or_else(|| raw(part))))
        .collect();
    for e in made.iter().map(|(_, e)| e).chain(frames.iter().map(|(_, e)| e)) {
        m.coded_bytes += e.payload.len() as u64 + header;
        m.frame_bytes += frame(e.payload.len());
        m.ideal_bits += e.ideal as f64 / 65536.0;
    }
    let began = Instant::now();
    // A cold read makes the primer first.
    let cold = match &made {
        Some((p, e)) => {
            let cold =
                Primer::decode(e.encoding, &e.payload, p.plain().len() as u32, tier.lm.as_ref())?;
            m.roundtrip &= cold.plain() == p.plain();
            Some(cold)
        }
        None => None,
    };
    for (n, (part, e)) in frames.iter().enumerate() {
        let primer = cold.as_ref().filter(|_| e.primed);
        let back = decode(e.encoding, &e.payload, part.len() as u32, primer, lm);
        m.roundtrip &= back.is_ok_and(|b| b == *part);
        if n == 0 {
            m.first_block_s = began.elapsed().as_secs_f64();
        }
    }
    m.decode_s = began.elapsed().as_secs_f64();
    Ok(m)
}
