//! A token stream as binary decisions: each token is a path in a tree, each step of it a decision
//! whose probability adaptive experts propose and a mixer settles. Integers only: what one machine
//! coded, any machine decodes.

mod context;
mod counters;
mod estimation;
mod experts;
pub mod learning;
mod matching;
mod mixer;
mod predictor;
pub mod prior;
mod range;
mod start;
mod sure;
mod tables;
pub mod token_model;
mod tree;
mod vector;
mod vocab;

use predictor::either;
pub use predictor::{ENGINE, Predictor};
pub use token_model::{Company, Token, TokenModel};
pub use tree::{Child, lexicographic};
pub use vocab::{Cut, Trie, VOCAB, Vocab};

use experts::Experts;
use range::{Decoder, Encoder};
use std::sync::Arc;
use vector::Vector;

/// Most lanes of a text.
pub const LANES_MAX: usize = 32;
/// A cut between lanes is moved forward to the end of a line that is at most this near, in bytes.
const NEAR: usize = 512;

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
            if $crate::cpu::Isa::best() >= $crate::cpu::Isa::Avx2 {
                #[target_feature(enable = "avx2,bmi1,bmi2")]
                fn wide($($arg: $ty),*) -> $ret {
                    $body::<$crate::codec::vector::Avx2>($($arg),*)
                }
                // SAFETY: the processor has the features.
                return unsafe { wide($($arg),*) };
            }
            $body::<$crate::codec::vector::Plain>($($arg),*)
        }
    };
}

pub(crate) use multiversion;

pub mod bench;

multiversion! {
    /// Codes `text`, cut into `lanes` pieces; the predictor learns it. `lm` must have the tree of the
    /// predictor's vocabulary.
    pub fn encode(text: &[u8], lanes: usize, predictor: &mut Predictor, lm: Lm<'_>) -> Coded
        = encode_any
}

multiversion! {
    /// Decodes `len` bytes of text; `None` if the code is not that of such a text.
    pub fn decode_watched(
        code: &[u8],
        len: usize,
        predictor: &mut Predictor,
        lm: Lm<'_>,
        watch: Watch<'_>
    ) -> Option<Vec<u8>>
        = decode_any
}

/// Told of the text while it is decoded, if in one lane: once at first, and then whenever it has become as long as the
/// answer was.
pub type Watch<'a> = &'a mut dyn FnMut(&[u8]) -> usize;

/// As [`decode_watched`], but nobody does.
pub fn decode(code: &[u8], len: usize, predictor: &mut Predictor, lm: Lm<'_>) -> Option<Vec<u8>> {
    decode_watched(code, len, predictor, lm, &mut |_| usize::MAX)
}

multiversion! {
    /// Lets the predictor learn `text` as if it had been coded.
    pub fn train(text: &[u8], predictor: &mut Predictor) -> () = train_any
}

multiversion! {
    /// What each token of a text costs, one after another; the predictor learns it.
    pub fn costs(text: &[u8], predictor: &mut Predictor) -> Vec<Cost> = costs_any
}

multiversion! {
    /// Probability of 65536 that each decision of a text is 1, path after path, by experts that guess no
    /// token; the predictor learns the text.
    pub fn trace(text: &[u8], predictor: &mut Predictor) -> Vec<u16> = trace_any
}

/// What a token costs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cost {
    /// Its length in bytes.
    pub len: u32,
    /// −Σ log2 p of its decisions, in units of 2^-16 bits.
    pub bits: u64,
}

/// A language model, or none.
pub type Lm<'a> = Option<&'a mut dyn TokenModel>;

/// Where decisions go to or come from.
trait Bits {
    /// Codes a decision that is 1 with probability `p1` / 65536. A coder is told which way it goes;
    /// a decoder finds out.
    fn pass(&mut self, p1: u32, bit: bool) -> bool;
}

/// A coder that also counts what the decisions should cost.
struct Counted {
    coder: Encoder,
    ideal: tables::Ideal,
}

impl Bits for Counted {
    #[inline(always)]
    fn pass(&mut self, p1: u32, bit: bool) -> bool {
        self.coder.encode(bit, p1);
        self.ideal.pass(p1, bit)
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

impl Bits for tables::Ideal {
    #[inline(always)]
    fn pass(&mut self, p1: u32, bit: bool) -> bool {
        self.add(if bit { p1 } else { 65536 - p1 });
        bit
    }
}

/// Keeping what was foreseen.
#[derive(Default)]
struct Foreseen(Vec<u16>);

impl Bits for Foreseen {
    #[inline(always)]
    fn pass(&mut self, p1: u32, bit: bool) -> bool {
        self.0.push(p1 as u16);
        bit
    }
}

/// One token: first, where there is a good guess, whether it is right; else the path in the tree. A guess that
/// is next to certain is asked about before anything else is made ready.
#[inline(always)]
fn pass<B: Bits, V: Vector, const C: usize, const I: usize, const S: usize>(
    bits: &mut B,
    experts: &mut Experts<C, I, S>,
    vocab: &Vocab,
    lane: usize,
    known: Option<Token>,
    lm: Option<&dyn TokenModel>,
) -> Token {
    experts.begin(lane);
    if let Some(guess) = experts.sure() {
        let p1 = experts.venture(guess);
        let right = bits.pass(p1, known == Some(guess));
        experts.ventured(guess, right);
        if right {
            experts.end(guess, vocab.bytes(guess));
            return guess;
        }
    }
    experts.ready::<V>();
    if let Some(leaf) = lm.and_then(|lm| lm.likeliest(lane)) {
        experts.foretell(vocab.at(leaf));
    }
    let token = 'token: {
        if let Some(guess) = experts.guess() {
            let p1 = experts.predict::<V>(vocab, None, None);
            let right = bits.pass(p1, known == Some(guess));
            experts.update::<V>(right);
            if right {
                break 'token guess;
            }
        }
        let path = known.map_or(&[][..], |t| vocab.path(t));
        let (mut node, mut depth) = (0, 0);
        loop {
            let said = lm.map(|lm| lm.probability(lane, node, vocab.span(node)));
            let p1 = experts.predict::<V>(vocab, Some(node), said);
            let bit = bits.pass(p1, path.get(depth).is_some_and(|step| step.1));
            experts.update::<V>(bit);
            match vocab.step(node, bit) {
                Ok(next) => node = next,
                Err(token) => break token,
            }
            depth += 1;
        }
    };
    experts.end(token, vocab.bytes(token));
    token
}

/// Cuts a text into at most `lanes` pieces of about the same length, at ends of lines if some are
/// near. At least one piece; none is empty unless the text is.
fn pieces(text: &[u8], lanes: usize) -> Vec<&[u8]> {
    let lanes = lanes.clamp(1, LANES_MAX).min(text.len().max(1));
    let mut pieces = Vec::with_capacity(lanes);
    let mut rest = text;
    for left in (1..=lanes).rev() {
        let mut at = rest.len() / left;
        if left > 1 {
            let near = &rest[at..rest.len().min(at + NEAR)];
            let room = rest.len() - at - (left - 1);
            if let Some(end) = near.iter().position(|b| *b == b'\n').filter(|end| *end < room) {
                at += end + 1;
            }
        }
        let (piece, after) = rest.split_at(at);
        pieces.push(piece);
        rest = after;
    }
    pieces
}

#[inline(always)]
fn encode_any<V: Vector>(
    text: &[u8],
    lanes: usize,
    predictor: &mut Predictor,
    lm: Lm<'_>,
) -> Coded {
    either!(predictor, experts => encode_with::<V, _, _, _>(text, lanes, experts, lm))
}

#[inline(always)]
fn encode_with<V: Vector, const C: usize, const I: usize, const S: usize>(
    text: &[u8],
    lanes: usize,
    experts: &mut Experts<C, I, S>,
    mut lm: Lm<'_>,
) -> Coded {
    let vocab = Arc::clone(experts.vocab());
    let vocab = &*vocab;
    let pieces = pieces(text, lanes);
    let mut bytes = vec![pieces.len() as u8];
    for piece in &pieces[..pieces.len() - 1] {
        bytes.extend_from_slice(&(piece.len() as u32).to_le_bytes()[..3]);
    }
    let rooms: Vec<usize> = pieces.iter().map(|p| p.len()).collect();
    let tokens: Vec<Vec<Token>> = pieces.iter().map(|p| vocab.cut(p)).collect();
    let longest = tokens.iter().map(Vec::len).max().unwrap_or(0);
    let mut bits = Counted { coder: Encoder::default(), ideal: tables::Ideal::default() };
    experts.open(&rooms);
    if let Some(lm) = &mut lm {
        lm.reset(pieces.len());
        lm.foresee(&tokens);
    }
    let mut step = vec![None; pieces.len()];
    for at in 0..longest {
        for (lane, tokens) in tokens.iter().enumerate() {
            step[lane] = tokens.get(at).copied();
            if step[lane].is_some() {
                pass::<_, V, _, _, _>(&mut bits, experts, vocab, lane, step[lane], lm.as_deref());
            }
        }
        if let Some(lm) = &mut lm {
            lm.advance(&step);
        }
    }
    bytes.extend(bits.coder.finish());
    Coded { bytes, ideal: bits.ideal.bits() }
}

/// Reads the lanes' lengths in bytes; they add up to `len`.
fn lanes_of(code: &[u8], len: usize) -> Option<(Vec<usize>, &[u8])> {
    let (lanes, mut code) = code.split_first()?;
    let lanes = usize::from(*lanes);
    if lanes == 0 || lanes > LANES_MAX {
        return None;
    }
    let mut rooms = Vec::with_capacity(lanes);
    let mut left = len;
    for _ in 1..lanes {
        let ([a, b, c], rest) = code.split_first_chunk()?;
        code = rest;
        let room = u32::from_le_bytes([*a, *b, *c, 0]) as usize;
        left = left.checked_sub(room)?;
        rooms.push(room);
    }
    rooms.push(left);
    Some((rooms, code))
}

#[inline(always)]
fn decode_any<V: Vector>(
    code: &[u8],
    len: usize,
    predictor: &mut Predictor,
    lm: Lm<'_>,
    watch: Watch<'_>,
) -> Option<Vec<u8>> {
    either!(predictor, experts => decode_with::<V, _, _, _>(code, len, experts, lm, watch))
}

#[inline(always)]
fn decode_with<V: Vector, const C: usize, const I: usize, const S: usize>(
    code: &[u8],
    len: usize,
    experts: &mut Experts<C, I, S>,
    mut lm: Lm<'_>,
    watch: Watch<'_>,
) -> Option<Vec<u8>> {
    let vocab = Arc::clone(experts.vocab());
    let vocab = &*vocab;
    let (rooms, code) = lanes_of(code, len)?;
    let mut bits = Decoder::new(code);
    experts.open(&rooms);
    if let Some(lm) = &mut lm {
        lm.reset(rooms.len());
    }
    let mut out: Vec<Vec<u8>> = rooms.iter().map(|n| Vec::with_capacity(*n)).collect();
    let mut step = vec![None; rooms.len()];
    let mut told_at = if rooms.len() == 1 { watch(&[]) } else { usize::MAX };
    loop {
        let mut ended = true;
        for lane in 0..rooms.len() {
            step[lane] = None;
            if out[lane].len() < rooms[lane] {
                ended = false;
                let token =
                    pass::<_, V, _, _, _>(&mut bits, experts, vocab, lane, None, lm.as_deref());
                step[lane] = Some(token);
                out[lane].extend_from_slice(vocab.bytes(token));
            }
        }
        if ended {
            break;
        }
        if out[0].len() >= told_at {
            told_at = watch(&out[0]);
        }
        if let Some(lm) = &mut lm {
            lm.advance(&step);
        }
    }
    let whole = out.iter().zip(&rooms).all(|(o, n)| o.len() == *n);
    whole.then(|| out.concat())
}

#[inline(always)]
fn train_any<V: Vector>(text: &[u8], predictor: &mut Predictor) {
    either!(predictor, experts => follow::<_, V, _, _, _>(&mut Nowhere, text, experts));
}

#[inline(always)]
fn trace_any<V: Vector>(text: &[u8], predictor: &mut Predictor) -> Vec<u16> {
    let mut foreseen = Foreseen::default();
    either!(predictor, experts => follow::<_, V, _, _, _>(&mut foreseen, text, experts));
    foreseen.0
}

/// Passes all decisions of a text, which the experts learn.
#[inline(always)]
fn follow<B: Bits, V: Vector, const C: usize, const I: usize, const S: usize>(
    bits: &mut B,
    text: &[u8],
    experts: &mut Experts<C, I, S>,
) {
    let vocab = Arc::clone(experts.vocab());
    let vocab = &*vocab;
    experts.open(&[text.len()]);
    for token in vocab.cut(text) {
        pass::<_, V, _, _, _>(bits, experts, vocab, 0, Some(token), None);
    }
}

#[inline(always)]
fn costs_any<V: Vector>(text: &[u8], predictor: &mut Predictor) -> Vec<Cost> {
    either!(predictor, experts => costs_with::<V, _, _, _>(text, experts))
}

#[inline(always)]
fn costs_with<V: Vector, const C: usize, const I: usize, const S: usize>(
    text: &[u8],
    experts: &mut Experts<C, I, S>,
) -> Vec<Cost> {
    let vocab = Arc::clone(experts.vocab());
    let vocab = &*vocab;
    experts.open(&[text.len()]);
    let cost = |token| {
        let mut bits = tables::Ideal::default();
        pass::<_, V, _, _, _>(&mut bits, experts, vocab, 0, Some(token), None);
        Cost { len: vocab.bytes(token).len() as u32, bits: bits.bits() }
    };
    vocab.cut(text).into_iter().map(cost).collect()
}

#[cfg(test)]
mod tests;
