//! A token stream as binary decisions: each token is a path in a tree, each step of it a decision
//! whose probability adaptive experts propose and a mixer settles. Integers only: what one machine
//! coded, any machine decodes.

mod model;
mod range;
mod tables;
pub mod token_model;
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

/// Compiles a loop twice: for every processor of the architecture, and for those with AVX2. The
/// source is the same and all arithmetic is on integers, so the results are too.
macro_rules! multiversion {
    ($(#[$doc:meta])* $vis:vis fn $name:ident($($arg:ident: $ty:ty),*) -> $ret:ty = $body:ident) => {
        $(#[$doc])*
        $vis fn $name($($arg: $ty),*) -> $ret {
            #[cfg(target_arch = "x86_64")]
            if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("bmi2") {
                #[target_feature(enable = "avx2,bmi2")]
                fn wide($($arg: $ty),*) -> $ret {
                    $body($($arg),*)
                }
                // SAFETY: the processor has been asked for the features.
                return unsafe { wide($($arg),*) };
            }
            $body($($arg),*)
        }
    };
}

multiversion! {
    /// Codes `text`; the predictor learns it.
    pub fn encode(text: &[u8], predictor: &mut Predictor) -> Coded = encode_any
}

multiversion! {
    /// Decodes `len` bytes of text; `None` if the code does not end there.
    pub fn decode(code: &[u8], len: usize, predictor: &mut Predictor) -> Option<Vec<u8>> = decode_any
}

multiversion! {
    /// Lets the predictor learn `text` as if it had been coded.
    pub fn train(text: &[u8], predictor: &mut Predictor) -> () = train_any
}

#[inline(always)]
fn encode_any(text: &[u8], predictor: &mut Predictor) -> Coded {
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

#[inline(always)]
fn decode_any(code: &[u8], len: usize, predictor: &mut Predictor) -> Option<Vec<u8>> {
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

#[inline(always)]
fn train_any(text: &[u8], predictor: &mut Predictor) {
    for token in VOCAB.cut(text) {
        predictor.begin();
        for &(node, bit) in VOCAB.path(token) {
            predictor.predict(node);
            predictor.update(bit);
        }
        predictor.end(token, VOCAB.bytes(token));
    }
}
