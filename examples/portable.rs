//! Codes a text by a model's probabilities alone, to compare machines: what one coded, another must
//! decode. `portable hash MODEL`, `portable encode MODEL`, `portable decode MODEL` (standard input to
//! standard output). Coding predicts many tokens at once on two threads, decoding steps on one.

use lmfs::model::engine::{TOTAL_BITS, fingerprint};
use lmfs::model::{Engine, Input, Model, Network, Session, Vocabulary};
use std::error::Error;
use std::io::{Read, Write};
use std::sync::Arc;

/// Texts side by side.
const LANES: usize = 3;
/// A carry-less range coder (Subbotin 1999) with 64 bits.
const TOP: u64 = 1 << 56;
const BOTTOM: u64 = 1 << 48;

/// What is used of a model.
struct Parts {
    vocabulary: Vocabulary,
    network: Network,
}

struct Range {
    low: u64,
    range: u64,
}

impl Range {
    fn new() -> Self {
        Self { low: 0, range: u64::MAX }
    }
    /// Narrows to `[from, to)` of 2^31 and returns how many bytes leave on the left.
    fn narrow(&mut self, from: u32, to: u32, mut shift: impl FnMut(u8)) {
        self.range >>= TOTAL_BITS;
        self.low = self.low.wrapping_add(u64::from(from) * self.range);
        self.range *= u64::from(to - from);
        loop {
            if self.low ^ self.low.wrapping_add(self.range) >= TOP {
                if self.range >= BOTTOM {
                    return;
                }
                self.range = self.low.wrapping_neg() & (BOTTOM - 1);
            }
            shift((self.low >> 56) as u8);
            self.low <<= 8;
            self.range <<= 8;
        }
    }
}

fn encode(model: &Parts, engine: &Arc<Engine>, text: &[u8]) -> Result<Vec<u8>, Box<dyn Error>> {
    let tokens = model.vocabulary.tokenizer.encode(text);
    let mut leaf_of = vec![0; model.vocabulary.tokenizer.len()];
    for (leaf, token) in model.vocabulary.tree.leaves().iter().enumerate() {
        leaf_of[*token as usize] = leaf;
    }
    let mut session = Session::new(Arc::clone(engine), LANES, 2)?;
    let mut inputs = Vec::new();
    for (i, _) in tokens.iter().enumerate() {
        let token = if i < LANES { model.network.hyper.start } else { tokens[i - LANES] };
        inputs.push(Input { lane: i % LANES, token });
    }
    let mut out = (tokens.len() as u32).to_le_bytes().to_vec();
    let mut coder = Range::new();
    for (inputs, tokens) in inputs.chunks(200).zip(tokens.chunks(200)) {
        session.step(inputs);
        for (c, token) in tokens.iter().enumerate() {
            let (p, leaf) = (session.cumulative(c), leaf_of[*token as usize]);
            coder.narrow(p[leaf], p[leaf + 1], |b| out.push(b));
        }
    }
    out.extend_from_slice(&coder.low.to_be_bytes());
    Ok(out)
}

fn decode(model: &Parts, engine: &Arc<Engine>, code: &[u8]) -> Result<Vec<u8>, Box<dyn Error>> {
    let (count, code) = code.split_at_checked(4).ok_or("no length")?;
    let count = u32::from_le_bytes(count.try_into()?) as usize;
    let mut code = code.iter().copied();
    let mut value = (0..8).fold(0, |v, _| v << 8 | u64::from(code.next().unwrap_or(0)));
    let mut session = Session::new(Arc::clone(engine), LANES, 1)?;
    let mut coder = Range::new();
    let mut tokens: Vec<u32> = Vec::new();
    for i in 0..count {
        let token = if i < LANES { model.network.hyper.start } else { tokens[i - LANES] };
        session.step(&[Input { lane: i % LANES, token }]);
        let p = session.cumulative(0);
        let at = (value.wrapping_sub(coder.low) / (coder.range >> TOTAL_BITS)).min(1 << TOTAL_BITS);
        let leaf = p.partition_point(|c| u64::from(*c) <= at) - 1;
        let leaf = leaf.min(p.len() - 2);
        coder.narrow(p[leaf], p[leaf + 1], |_| {
            value = value << 8 | u64::from(code.next().unwrap_or(0));
        });
        tokens.push(model.vocabulary.tree.leaves()[leaf]);
    }
    Ok(model.vocabulary.tokenizer.decode(&tokens))
}

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [command, model] = &args[..] else {
        return Err("usage: portable hash|encode|decode MODEL".into());
    };
    let Model { vocabulary, network, .. } = Model::from_bytes(&std::fs::read(model)?)?;
    let model = Parts { vocabulary, network: network.ok_or("the model has no network")? };
    let engine = Arc::new(Engine::new(&model.network, &model.vocabulary.tree));
    if command == "hash" {
        let hash = fingerprint(&engine, &model.network.golden.tokens)?;
        println!("{hash} {}", engine.isa().name());
        return Ok(());
    }
    let mut input = Vec::new();
    std::io::stdin().read_to_end(&mut input)?;
    let output = match command.as_str() {
        "encode" => encode(&model, &engine, &input)?,
        "decode" => decode(&model, &engine, &input)?,
        other => return Err(format!("unknown command {other}").into()),
    };
    std::io::stdout().write_all(&output)?;
    Ok(())
}
