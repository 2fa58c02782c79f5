//! Codes a text by a network's probabilities alone, to compare machines: what one coded, another must
//! decode. `portable hash MODEL`, `portable encode MODEL`, `portable decode MODEL` (standard input to
//! standard output). Coding predicts many tokens at once on two threads, decoding steps on one.

use lmfs::codec::Vocab;
use lmfs::model::engine::{Gated, Llama, fingerprint};
use lmfs::model::network::{Golden, Network};
use lmfs::model::{Engine, Input, Model, Session};
use std::error::Error;
use std::io::{Read, Write};
use std::sync::Arc;

/// Texts side by side.
const LANES: usize = 3;

/// A carry-less range coder (Subbotin 1999) of decisions, with 64 bits.
struct Range {
    low: u64,
    range: u64,
}

const TOP: u64 = 1 << 56;
const BOTTOM: u64 = 1 << 48;

impl Range {
    fn new() -> Self {
        Self { low: 0, range: u64::MAX }
    }

    /// Where the part for 1, which has the probability `p` of 65536, begins.
    fn parted(&self, p: u32) -> u64 {
        (self.range >> 16) * u64::from(65536 - p)
    }

    /// Narrows to one part; bytes that leave on the left are shifted out.
    fn narrow(&mut self, p: u32, bit: bool, mut shift: impl FnMut(u8)) {
        let parted = self.parted(p);
        if bit {
            self.low = self.low.wrapping_add(parted);
            self.range -= parted;
        } else {
            self.range = parted;
        }
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

/// What is used of a model.
struct Parts<E> {
    vocab: Arc<Vocab>,
    engine: Arc<E>,
    start: u32,
}

impl<E: Engine> Parts<E> {
    fn encode(&self, text: &[u8]) -> Result<Vec<u8>, Box<dyn Error>> {
        let tokens = self.vocab.cut(text);
        let mut session = Session::new(Arc::clone(&self.engine), LANES, 2)?;
        let before = |i: usize| if i < LANES { self.start } else { tokens[i - LANES].into() };
        let inputs: Vec<Input> =
            (0..tokens.len()).map(|i| Input { lane: i % LANES, token: before(i) }).collect();
        let mut out = (tokens.len() as u32).to_le_bytes().to_vec();
        let mut coder = Range::new();
        for (inputs, tokens) in inputs.chunks(200).zip(tokens.chunks(200)) {
            session.step(inputs);
            for (c, token) in tokens.iter().enumerate() {
                for (node, bit) in self.vocab.path(*token) {
                    let p = session.probability(c, *node, self.vocab.span(*node));
                    coder.narrow(p, *bit, |b| out.push(b));
                }
            }
        }
        out.extend_from_slice(&coder.low.to_be_bytes());
        Ok(out)
    }

    fn decode(&self, code: &[u8]) -> Result<Vec<u8>, Box<dyn Error>> {
        let (count, code) = code.split_at_checked(4).ok_or("no length")?;
        let count = u32::from_le_bytes(count.try_into()?) as usize;
        let mut code = code.iter().copied();
        let mut value = (0..8).fold(0, |v, _| v << 8 | u64::from(code.next().unwrap_or(0)));
        let mut session = Session::new(Arc::clone(&self.engine), LANES, 1)?;
        let mut coder = Range::new();
        let mut tokens: Vec<u16> = Vec::new();
        for i in 0..count {
            let token = if i < LANES { self.start } else { tokens[i - LANES].into() };
            session.step(&[Input { lane: i % LANES, token }]);
            let mut node = Ok(0);
            while let Ok(at) = node {
                let p = session.probability(0, at, self.vocab.span(at));
                let bit = value.wrapping_sub(coder.low) >= coder.parted(p);
                coder.narrow(p, bit, |_| {
                    value = value << 8 | u64::from(code.next().unwrap_or(0));
                });
                node = self.vocab.step(at, bit);
            }
            tokens.extend(node.err());
        }
        Ok(tokens.iter().flat_map(|t| self.vocab.bytes(*t).to_vec()).collect())
    }

    fn run(&self, command: &str, golden: &Golden) -> Result<(), Box<dyn Error>> {
        if command == "hash" {
            let hash = fingerprint(&self.engine, &golden.tokens)?;
            println!("{hash} {}", self.engine.isa().name());
            return Ok(());
        }
        let mut input = Vec::new();
        std::io::stdin().read_to_end(&mut input)?;
        let output = match command {
            "encode" => self.encode(&input)?,
            "decode" => self.decode(&input)?,
            other => return Err(format!("unknown command {other}").into()),
        };
        std::io::stdout().write_all(&output)?;
        Ok(())
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [command, model] = &args[..] else {
        return Err("usage: portable hash|encode|decode MODEL".into());
    };
    let Model { vocabulary, network, .. } = Model::from_bytes(&std::fs::read(model)?)?;
    let vocab = vocabulary.ready();
    match network.ok_or("the model has no network")? {
        Network::Llama(n) => {
            let engine = Arc::new(Llama::new(&n, &vocabulary.tree));
            Parts { vocab, engine, start: n.hyper.start }.run(command, &n.golden)
        }
        Network::Gated(n) => {
            let engine = Arc::new(Gated::new(&n));
            Parts { vocab, engine, start: n.sizes.start() }.run(command, &n.golden)
        }
    }
}
