//! A token stream as binary decisions: each token is a path in a tree, each step of it a decision
//! whose probability adaptive experts propose and a mixer settles. Integers only: what one machine
//! coded, any machine decodes.

mod model;
mod range;
mod tables;
mod vocab;

pub use model::Predictor;

use range::{Decoder, Encoder};
use vocab::{Token, VOCAB};

/// A coded text and what it should have cost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Coded {
    /// The code.
    pub bytes: Vec<u8>,
    /// −Σ log2 p of all decisions, in units of 2^-16 bits.
    pub ideal: u64,
}

/// Codes `text`; the predictor learns it.
pub fn encode(text: &[u8], predictor: &mut Predictor) -> Coded {
    let mut coder = Encoder::default();
    let mut ideal = 0;
    for token in VOCAB.cut(text) {
        predictor.begin();
        for &(node, bit) in VOCAB.path(token) {
            let p1 = predictor.predict(node);
            coder.encode(bit, p1);
            ideal += tables::cost(if bit { p1 } else { 65536 - p1 });
            predictor.update(bit);
        }
        predictor.end(token, VOCAB.bytes(token));
    }
    Coded { bytes: coder.finish(), ideal }
}

/// Decodes `len` bytes of text; `None` if the code does not end there.
pub fn decode(code: &[u8], len: usize, predictor: &mut Predictor) -> Option<Vec<u8>> {
    let mut coder = Decoder::new(code);
    let mut out = Vec::with_capacity(len);
    while out.len() < len {
        predictor.begin();
        let mut node = 0;
        let token: Token = loop {
            let p1 = predictor.predict(node);
            let bit = coder.decode(p1);
            predictor.update(bit);
            match VOCAB.step(node, bit) {
                Ok(next) => node = next,
                Err(token) => break token,
            }
        };
        let bytes = VOCAB.bytes(token);
        out.extend_from_slice(bytes);
        predictor.end(token, bytes);
    }
    (out.len() == len).then_some(out)
}

/// Lets the predictor learn `text` as if it had been coded.
pub fn train(text: &[u8], predictor: &mut Predictor) {
    for token in VOCAB.cut(text) {
        predictor.begin();
        for &(node, bit) in VOCAB.path(token) {
            predictor.predict(node);
            predictor.update(bit);
        }
        predictor.end(token, VOCAB.bytes(token));
    }
}
