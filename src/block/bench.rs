//! Coding a file in independent blocks as the background coder does, and measuring it.

use super::{Primer, candidates, decode, looks_like_text, prove, ready};
use crate::codec;
use crate::types::Form;
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
    /// Seconds of encoding: primer and choice of form, but not the proof, which costs as decoding.
    pub encode_s: f64,
    /// Seconds of decoding.
    pub decode_s: f64,
    /// Seconds from a cold start to the first block.
    pub first_block_s: f64,
    /// Everything decoded to what it was.
    pub roundtrip: bool,
}

/// Codes `plain` in blocks of `block` bytes, decodes, compares. `header` and `frame` are the bytes
/// of a frame's first header and of all that a frame adds to its payload.
pub fn measure(plain: &[u8], block: usize, header: u64, frame: u64) -> Measured {
    let mut m = Measured { bytes: plain.len() as u64, roundtrip: true, ..Measured::default() };
    let primed = plain.len() > block && plain.len() > Primer::LEN && looks_like_text(plain);
    let began = Instant::now();
    let primer = primed.then(|| Primer::new(plain[..Primer::LEN].to_vec()));
    let mut coded = Vec::new();
    if let Some(p) = &primer {
        coded.push((p.plain(), None, candidates(p.plain(), None)));
    }
    let used = coded.len();
    for part in plain.chunks(block) {
        coded.push((part, primer.as_ref(), candidates(part, primer.as_ref())));
    }
    m.encode_s = began.elapsed().as_secs_f64();
    let frames: Vec<_> =
        coded.into_iter().map(|(part, primer, c)| (part, prove(part, c, primer))).collect();
    for (part, e) in &frames {
        m.coded_bytes += e.payload.len() as u64 + header;
        m.frame_bytes += e.payload.len() as u64 + frame;
        m.ideal_bits += if e.form == Form::Fast {
            let primer = primer.as_ref().filter(|_| e.primed);
            codec::encode(part, 1, &mut ready(primer, part.len()), None).ideal as f64 / 65536.0
        } else {
            e.payload.len() as f64 * 8.0
        };
    }
    let began = Instant::now();
    // A cold read makes the primer first.
    let cold = frames
        .first()
        .filter(|_| primed)
        .map(|(plain, e)| Primer::decode(e.form, &e.payload, plain.len() as u32));
    for (n, (part, e)) in frames.iter().skip(used).enumerate() {
        let primer = cold.as_ref().and_then(|c| c.as_ref().ok()).filter(|_| e.primed);
        let back = decode(e.form, &e.payload, part.len() as u32, primer);
        m.roundtrip &= back.is_ok_and(|b| b == *part);
        if n == 0 {
            m.first_block_s = began.elapsed().as_secs_f64();
        }
    }
    m.decode_s = began.elapsed().as_secs_f64();
    m
}
