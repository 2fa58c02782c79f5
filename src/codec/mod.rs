//! A token stream as binary decisions: each token is a path in a tree, each step of it a decision
//! whose probability adaptive experts propose and a mixer settles. Integers only: what one machine
//! coded, any machine decodes.

mod context;
mod counters;
mod matching;
mod mixer;
mod model;
mod range;
mod tables;
pub mod token_model;
mod vocab;

pub use model::Predictor;
pub use token_model::{Token, TokenModel};
pub use vocab::Vocab;

use range::{Decoder, Encoder};
pub use vocab::VOCAB;

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

/// Where decisions go to or come from.
trait Bits {
    /// Codes a decision that is 1 with probability `p1` / 65536. A coder is told which way it goes;
    /// a decoder finds out.
    fn pass(&mut self, p1: u32, bit: bool) -> bool;
}

/// A coder that also counts what the decisions should cost.
struct Counted {
    coder: Encoder,
    ideal: u64,
}

impl Bits for Counted {
    #[inline(always)]
    fn pass(&mut self, p1: u32, bit: bool) -> bool {
        self.coder.encode(bit, p1);
        self.ideal += tables::cost(if bit { p1 } else { 65536 - p1 });
        bit
    }
}

impl Bits for Decoder<'_> {
    #[inline(always)]
    fn pass(&mut self, p1: u32, _: bool) -> bool {
        self.decode(p1)
    }
}

/// Learning without coding.
struct Nowhere;

impl Bits for Nowhere {
    #[inline(always)]
    fn pass(&mut self, _: u32, bit: bool) -> bool {
        bit
    }
}

/// One token: first, where there is a good guess, whether it is right; else the path in the tree.
#[inline(always)]
fn pass<B: Bits>(
    bits: &mut B,
    predictor: &mut Predictor,
    vocab: &Vocab,
    lane: usize,
    known: Option<Token>,
) -> Token {
    predictor.begin(lane);
    let token = 'token: {
        if let Some(guess) = predictor.guess() {
            let p1 = predictor.predict(vocab, None, None);
            let right = bits.pass(p1, known == Some(guess));
            predictor.update(right);
            if right {
                break 'token guess;
            }
        }
        let path = known.map_or(&[][..], |t| vocab.path(t));
        let (mut node, mut depth) = (0, 0);
        loop {
            let p1 = predictor.predict(vocab, Some(node), None);
            let bit = bits.pass(p1, path.get(depth).is_some_and(|step| step.1));
            predictor.update(bit);
            match vocab.step(node, bit) {
                Ok(next) => node = next,
                Err(token) => break token,
            }
            depth += 1;
        }
    };
    predictor.end(token, vocab.bytes(token));
    token
}

#[inline(always)]
fn encode_any(text: &[u8], predictor: &mut Predictor) -> Coded {
    let vocab = &*VOCAB;
    let mut bits = Counted { coder: Encoder::default(), ideal: 0 };
    predictor.open(&[text.len()]);
    for token in vocab.cut(text) {
        pass(&mut bits, predictor, vocab, 0, Some(token));
    }
    Coded { bytes: bits.coder.finish(), ideal: bits.ideal }
}

#[inline(always)]
fn decode_any(code: &[u8], len: usize, predictor: &mut Predictor) -> Option<Vec<u8>> {
    let vocab = &*VOCAB;
    let mut bits = Decoder::new(code);
    let mut out = Vec::with_capacity(len);
    predictor.open(&[len]);
    while out.len() < len {
        let token = pass(&mut bits, predictor, vocab, 0, None);
        out.extend_from_slice(vocab.bytes(token));
    }
    (out.len() == len).then_some(out)
}

#[inline(always)]
fn train_any(text: &[u8], predictor: &mut Predictor) {
    let vocab = &*VOCAB;
    predictor.open(&[text.len()]);
    for token in vocab.cut(text) {
        pass(&mut Nowhere, predictor, vocab, 0, Some(token));
    }
}
