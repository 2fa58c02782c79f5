//! The engine by itself: `cargo bench --bench engine -- SOURCE [TEXT…]`.
//!
//! Imports SOURCE (see `lmfs model import`), compares it with the reference, then measures tokens
//! per second by instruction set, lanes and threads, and the bits per byte of the model alone on
//! each TEXT by lanes, in blocks of the model's unit.

#![allow(clippy::unwrap_used)]

use lmfs::model::engine::TOTAL_BITS;
use lmfs::model::import::{self, SAMPLE, oracle};
use lmfs::model::{Engine, Input, Isa, Model, Session};
use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

/// Processor time of this thread, in seconds: steady where the wall clock is not.
fn processor_seconds() -> f64 {
    let mut t = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `t` is a valid place for the answer.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut t) };
    t.tv_sec as f64 + t.tv_nsec as f64 / 1e9
}

/// Best of a few runs of `steps` steps of `lanes` columns, in tokens per second of the clock, and of
/// the calling thread's processor time.
fn rate(engine: &Arc<Engine>, lanes: usize, threads: usize, steps: usize) -> (f64, f64) {
    let (mut best, mut best_cpu) = (0.0_f64, 0.0_f64);
    for _ in 0..3 {
        let mut session = Session::new(Arc::clone(engine), lanes, threads).unwrap();
        let (start, cpu) = (Instant::now(), processor_seconds());
        for s in 0..steps {
            let inputs: Vec<Input> = (0..lanes)
                .map(|lane| Input { lane, token: ((s * 31 + lane * 7) % 200 + 20) as u32 })
                .collect();
            session.step(&inputs);
        }
        let n = (steps * lanes) as f64;
        best = best.max(n / start.elapsed().as_secs_f64());
        best_cpu = best_cpu.max(n / (processor_seconds() - cpu));
    }
    (best, best_cpu)
}

/// Bits per byte of the model alone on `text`, cut into units of `lanes` lanes.
fn bits_per_byte(engine: &Arc<Engine>, model: &Model, text: &[u8], lanes: usize) -> f64 {
    let leaf: HashMap<u32, usize> =
        model.tree.leaves().iter().enumerate().map(|(i, t)| (*t, i)).collect();
    let mut bits = 0.0;
    for unit in text.chunks(model.hyper.unit as usize) {
        let mut session = Session::new(Arc::clone(engine), lanes, 2).unwrap();
        let texts: Vec<Vec<u32>> = unit
            .chunks(unit.len().div_ceil(lanes))
            .map(|lane| {
                let mut t = vec![model.hyper.start];
                t.extend(model.tokenizer.encode(lane));
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
    let start = Instant::now();
    let source = import::read(Path::new(source)).unwrap();
    let imported = source.convert().unwrap();
    println!("import {:.2} s", start.elapsed().as_secs_f64());
    let bytes = imported.to_bytes();
    println!("file {} bytes, id {}", bytes.len(), blake3::hash(&bytes));
    let start = Instant::now();
    let model = Model::from_bytes(&bytes).unwrap();
    let engine = Arc::new(Engine::new(&model));
    println!("load {:.3} s, {} bytes of weights", start.elapsed().as_secs_f64(), engine.bytes());
    let start = Instant::now();
    let got = lmfs::model::engine::fingerprint(&engine, &model.golden.tokens).unwrap();
    assert_eq!(*got.as_bytes(), model.golden.hash);
    println!("golden check {:.3} s", start.elapsed().as_secs_f64());
    let r = oracle::compare(&source, &model, SAMPLE.as_bytes(), 600).unwrap();
    println!("{r:#?}");
    let start = Instant::now();
    let text = SAMPLE.repeat(200);
    let n = model.tokenizer.encode(text.as_bytes()).len();
    let s = start.elapsed().as_secs_f64();
    println!(
        "tokenizer {:.1} MB/s, {:.2} bytes/token",
        text.len() as f64 / s / 1e6,
        text.len() as f64 / n as f64
    );
    for isa in Isa::ALL.into_iter().filter(|i| i.available()) {
        let engine = Arc::new(Engine::with_isa(&model, isa).unwrap());
        for threads in [1, 2] {
            for lanes in [1, 8, 16, 32, 64] {
                if isa != Isa::best() && (lanes != 8 || threads != 1) {
                    continue;
                }
                let work = if isa == Isa::Scalar {
                    20
                } else {
                    400_000_000 / (engine.bytes() * lanes) + 20
                };
                let (wall, cpu) = rate(&engine, lanes, threads, work);
                println!(
                    "{:12} {threads} threads {lanes:3} lanes {wall:10.0} tokens/s {cpu:10.0} per processor second",
                    isa.name()
                );
            }
        }
    }
    for path in texts {
        let text = std::fs::read(path).unwrap();
        let text = &text[..text.len().min(256 << 10)];
        for lanes in [1, 8, 16, 32] {
            let start = Instant::now();
            let bpb = bits_per_byte(&engine, &model, text, lanes);
            let s = start.elapsed().as_secs_f64();
            println!("{path} {lanes} lanes: {bpb:.4} bpb, {:.0} bytes/s", text.len() as f64 / s);
        }
    }
}
