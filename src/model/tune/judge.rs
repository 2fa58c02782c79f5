//! What a network alone spends on text, by the exact engine.

use super::TuneError;
use crate::model::engine::{Input, Llama, Session, TOTAL_BITS};
use crate::model::network;
use crate::model::vocabulary::Vocabulary;
use std::sync::Arc;

/// Bytes that are read from the start token on, about as many as a lane of a block.
const LANE: usize = 4 << 10;
/// Lanes side by side.
const LANES: usize = 32;

/// Bits per byte of `texts` under the network alone: the integers that would be coded with.
pub fn bits_per_byte(
    vocabulary: &Vocabulary,
    network: &network::Llama,
    texts: &[Vec<u8>],
    threads: usize,
) -> Result<f64, TuneError> {
    let Vocabulary { tokenizer, tree } = vocabulary;
    let mut leaf_of = vec![usize::MAX; tokenizer.len()];
    for (leaf, token) in tree.leaves().iter().enumerate() {
        leaf_of[*token as usize] = leaf;
    }
    let pieces: Vec<&[u8]> = texts.iter().flat_map(|t| t.chunks(LANE)).collect();
    let lanes = LANES.min(pieces.len().max(1));
    const AHEAD: usize = Session::<Llama>::AHEAD;
    let mut session = Session::new(Arc::new(Llama::new(network, tree)), lanes, threads)?;
    let mut bits = 0.0;
    for group in pieces.chunks(lanes) {
        let texts: Vec<Vec<u32>> = group.iter().map(|p| tokenizer.encode(p)).collect();
        (0..lanes).for_each(|l| session.clear(l));
        let longest = texts.iter().map(Vec::len).max().unwrap_or(0);
        for at in (0..longest).step_by(AHEAD) {
            let (mut inputs, mut targets) = (Vec::new(), Vec::new());
            for (lane, text) in texts.iter().enumerate() {
                for i in at..text.len().min(at + AHEAD) {
                    let token = if i == 0 { network.hyper.start } else { text[i - 1] };
                    inputs.push(Input { lane, token });
                    targets.push(leaf_of[text[i] as usize]);
                }
            }
            session.step(&inputs);
            for (column, leaf) in targets.into_iter().enumerate() {
                let p = session.cumulative(column);
                bits += f64::from(TOTAL_BITS) - f64::from(p[leaf + 1] - p[leaf]).log2();
            }
        }
    }
    Ok(bits / pieces.iter().map(|p| p.len() as f64).sum::<f64>().max(1.0))
}
