//! The engine by itself: `cargo bench --bench engine -- SOURCE [TEXT…]`.
//!
//! Imports SOURCE (see `lmfs model import`) and compares it with the reference, unless it is a model
//! file already; then measures tokens per second by instruction set, lanes and threads, at the start
//! of a text and behind 512 tokens (two threads share the rows of a large model in 1 and 7 lanes, and
//! have lanes of their own in 8 and more), and the bits per byte of the model alone on each TEXT by lanes,
//! in blocks of the model's unit.

#![allow(clippy::unwrap_used)]

use lmfs::model::engine::{Gated, Llama, TOTAL_BITS};
use lmfs::model::import::{self, SAMPLE, oracle};
use lmfs::model::network::{Golden, Network};
use lmfs::model::{Engine, Input, Isa, Model, Session};
use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

/// A session of `lanes` lanes that have read `context` tokens.
fn session<E: Engine>(engine: &Arc<E>, lanes: usize, threads: usize, context: usize) -> Session<E> {
    let mut session = Session::new(Arc::clone(engine), lanes, threads).unwrap();
    for from in (0..context).step_by(8) {
        let inputs: Vec<Input> = (0..lanes)
            .flat_map(|lane| (from..from + 8).map(move |s| Input { lane, token: token(s, lane) }))
            .collect();
        session.feed(&inputs);
    }
    session
}

fn token(step: usize, lane: usize) -> u32 {
    ((step * 31 + lane * 7) % 200 + 20) as u32
}

/// Steps of all lanes of a session for about half a second; tokens per second of the clock.
fn rate<E: Engine>(session: &mut Session<E>, lanes: usize) -> f64 {
    let start = Instant::now();
    let mut steps = 0;
    while steps < 3 || start.elapsed().as_secs_f64() < 0.5 {
        let inputs: Vec<Input> =
            (0..lanes).map(|lane| Input { lane, token: token(steps, lane) }).collect();
        session.step(&inputs);
        steps += 1;
    }
    (steps * lanes) as f64 / start.elapsed().as_secs_f64()
}

/// Best of three [`rate`]s.
fn together<E: Engine>(engine: &Arc<E>, lanes: usize, threads: usize, context: usize) -> f64 {
    let mut session = session(engine, lanes, threads, context);
    (0..3).map(|_| rate(&mut session, lanes)).fold(0.0, f64::max)
}

/// Two blocks at a time, a thread each: best of three sums of their rates.
fn apart<E: Engine>(engine: &Arc<E>, lanes: usize, context: usize) -> f64 {
    let mut sessions: Vec<Session<E>> =
        (0..2).map(|_| session(engine, lanes, 1, context)).collect();
    let sum = |sessions: &mut Vec<Session<E>>| {
        std::thread::scope(|scope| {
            let rates: Vec<_> =
                sessions.iter_mut().map(|s| scope.spawn(move || rate(s, lanes))).collect();
            rates.into_iter().map(|r| r.join().unwrap()).sum::<f64>()
        })
    };
    (0..3).map(|_| sum(&mut sessions)).fold(0.0, f64::max)
}

/// Bits per byte of the model alone on `text`, cut into units of `lanes` lanes.
fn bits_per_byte(engine: &Arc<Llama>, model: &Model, start: u32, text: &[u8], lanes: usize) -> f64 {
    let leaf: HashMap<u32, usize> =
        model.vocabulary.tree.leaves().iter().enumerate().map(|(i, t)| (*t, i)).collect();
    let mut bits = 0.0;
    for unit in text.chunks(model.blocks.unit as usize) {
        let mut session = Session::new(Arc::clone(engine), lanes, 2).unwrap();
        let texts: Vec<Vec<u32>> = unit
            .chunks(unit.len().div_ceil(lanes))
            .map(|lane| {
                let mut t = vec![start];
                t.extend(model.vocabulary.tokenizer.encode(lane));
                t
            })
            .collect();
        let longest = texts.iter().map(Vec::len).max().unwrap_or(0);
        let ahead = 64 / lanes.min(64);
        for from in (0..longest - 1).step_by(ahead) {
            let mut inputs = Vec::new();
            let mut next = Vec::new();
            for (lane, t) in texts.iter().enumerate() {
                for i in from..(from + ahead).min(t.len() - 1) {
                    inputs.push(Input { lane, token: t[i] });
                    next.push(leaf[&t[i + 1]]);
                }
            }
            session.step(&inputs);
            for (c, leaf) in next.iter().enumerate() {
                let p = session.cumulative(c);
                bits += f64::from(TOTAL_BITS) - f64::from(p[leaf + 1] - p[*leaf]).log2();
            }
        }
    }
    bits / text.len() as f64
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    let Some((source, texts)) = args.split_first() else {
        println!("usage: cargo bench --bench engine -- SOURCE [TEXT...]");
        return;
    };
    let path = Path::new(source);
    let source = (path.extension() != Some("lmfsmodel".as_ref())).then(|| {
        let start = Instant::now();
        let source = import::read(path).unwrap();
        let imported = source.convert().unwrap().to_bytes();
        println!("import {:.2} s", start.elapsed().as_secs_f64());
        (source, imported)
    });
    let bytes = source.as_ref().map_or_else(|| std::fs::read(path).unwrap(), |s| s.1.clone());
    println!("file {} bytes, id {}", bytes.len(), blake3::hash(&bytes));
    let start = Instant::now();
    let model = Model::from_bytes(&bytes).unwrap();
    match model.network.as_ref().expect("a model with a network") {
        Network::Llama(network) => {
            let tree = &model.vocabulary.tree;
            let engine = checked(Llama::new(network, tree), &network.golden);
            if let Some((source, _)) = &source {
                let text = SAMPLE.as_bytes();
                let compared = oracle::compare(source, &model.vocabulary, network, text, 600);
                println!("{:#?}", compared.unwrap());
            }
            tokenizer(&model);
            rates(|isa| Llama::with_isa(network, tree, isa).unwrap());
            for path in texts {
                alone(&engine, &model, network.hyper.start, path);
            }
        }
        Network::Gated(network) => {
            checked(Gated::new(network), &network.golden);
            rates(|isa| Gated::with_isa(network, isa).unwrap());
        }
    }
    println!("{:.3} s in all", start.elapsed().as_secs_f64());
}

/// An engine that computes what its file says.
fn checked<E: Engine>(engine: E, golden: &Golden) -> Arc<E> {
    let engine = Arc::new(engine);
    println!("{} bytes of weights", engine.bytes());
    let start = Instant::now();
    let got = lmfs::model::engine::fingerprint(&engine, &golden.tokens).unwrap();
    assert_eq!(*got.as_bytes(), golden.hash);
    println!("golden check {:.3} s", start.elapsed().as_secs_f64());
    engine
}

fn tokenizer(model: &Model) {
    let start = Instant::now();
    let text = SAMPLE.repeat(200);
    let n = model.vocabulary.tokenizer.encode(text.as_bytes()).len();
    let s = start.elapsed().as_secs_f64();
    println!(
        "tokenizer {:.1} MB/s, {:.2} bytes/token",
        text.len() as f64 / s / 1e6,
        text.len() as f64 / n as f64
    );
}

/// Tokens per second by instruction set, lanes and threads.
fn rates<E: Engine>(engine: impl Fn(Isa) -> E) {
    for isa in Isa::ALL.into_iter().filter(|i| i.available()) {
        let engine = Arc::new(engine(isa));
        let name = isa.name();
        if isa != Isa::best() {
            println!("{name:12} 1 thread, 8 lanes: {:8.0} tokens/s", together(&engine, 8, 1, 0));
            continue;
        }
        for (context, lanes) in [(0, 1), (0, 7), (0, 8), (0, 16), (0, 32), (512, 1), (512, 8)] {
            println!(
                "{name:12} behind {context:3} tokens {lanes:2} lanes: {:6.0} tokens/s on 1 thread, {:6.0} on 2; two such blocks at a time {:6.0}",
                together(&engine, lanes, 1, context),
                together(&engine, lanes, 2, context),
                apart(&engine, lanes, context),
            );
        }
    }
}

/// What a text takes by the model alone.
fn alone(engine: &Arc<Llama>, model: &Model, begin: u32, path: &str) {
    let text = std::fs::read(path).unwrap();
    let text = &text[..text.len().min(256 << 10)];
    for lanes in [1, 8, 16, 32] {
        let start = Instant::now();
        let bpb = bits_per_byte(engine, model, begin, text, lanes);
        let s = start.elapsed().as_secs_f64();
        println!("{path} {lanes} lanes: {bpb:.4} bpb, {:.0} bytes/s", text.len() as f64 / s);
    }
}
