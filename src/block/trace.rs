//! What the experts foresee of texts: what a network is trained on top of.

use super::{Lm, Primer};
use crate::codec::{self, Company};

/// A piece of a text that is cut into tokens by itself, and the probability of 65536 that each decision of them is 1,
/// path after path.
pub type Piece<'a> = (&'a [u8], Vec<u16>);

/// The experts learn the texts one after another; of a longer text each block on its own behind the text's first,
/// as blocks are coded with a primer.
pub fn trace<'a>(texts: &'a [Vec<u8>], lm: &Lm) -> Vec<Vec<Piece<'a>>> {
    let len: usize = texts.iter().map(|t| t.len().min(Primer::LEN)).sum();
    let mut experts = lm.experts_in(Company::Correcting, len);
    let mut trace = |text: &'a Vec<u8>| {
        let (head, rest) = text.split_at(Primer::LEN.min(text.len()));
        let mut pieces = vec![(head, codec::trace(head, &mut experts))];
        for block in rest.chunks(lm.unit() as usize) {
            pieces.push((block, codec::trace(block, &mut experts.clone())));
        }
        pieces
    };
    texts.iter().map(&mut trace).collect()
}
