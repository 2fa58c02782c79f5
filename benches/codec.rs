//! The codec of the `fast` tier. With `LMFS_CORPUS` a directory of text files, also prints the table
//! of docs/codec.md: bits per byte and the latency of a first block, by primer and block size.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use lmfs::codec::{self, Predictor, bench as parts};
use std::hint::black_box;
use std::time::Instant;

/// Bytes counted for each frame's header.
const HEADER: usize = 48;

fn log(bytes: usize) -> Vec<u8> {
    let mut out = Vec::new();
    let mut seed = 7_u32;
    while out.len() < bytes {
        seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let (a, b) = (seed >> 24, seed >> 8 & 0xffff);
        let line = format!(
            "Nov 25 09:{:02}:{:02} host sshd[{b}]: Failed password for root from 10.0.{}.{a} port {b} ssh2\n",
            a / 5,
            a % 60,
            a / 3
        );
        out.extend_from_slice(line.as_bytes());
    }
    out.truncate(bytes);
    out
}

fn speed(c: &mut Criterion) {
    let text = log(128 << 10);
    let coded = codec::encode(&text, 1, &mut Predictor::new(text.len()), None).bytes;
    let mut group = c.benchmark_group("codec");
    group.throughput(Throughput::Bytes(text.len() as u64)).sample_size(10);
    group.bench_function("encode", |b| {
        b.iter(|| codec::encode(black_box(&text), 1, &mut Predictor::new(text.len()), None));
    });
    group.bench_function("decode", |b| {
        b.iter(|| {
            codec::decode(black_box(&coded), text.len(), &mut Predictor::new(text.len()), None)
        });
    });
    group.bench_function("clone a primer", |b| {
        let primed = Predictor::default();
        b.iter(|| black_box(primed.clone()));
    });
    group.finish();
}

/// The range coder and the mixer by themselves, in decisions per second.
fn alone(c: &mut Criterion) {
    const DECISIONS: u32 = 100_000;
    let decisions: Vec<(bool, u32)> = (0..DECISIONS)
        .map(|i| {
            let p1 = 1 + i.wrapping_mul(0x9E37_79B9) % 65_535;
            (i.wrapping_mul(0x85EB_CA6B) >> 16 < p1, p1)
        })
        .collect();
    let code = parts::encode(&decisions);
    let mut group = c.benchmark_group("parts");
    group.throughput(Throughput::Elements(DECISIONS.into())).sample_size(20);
    group
        .bench_function("range coder, encode", |b| b.iter(|| parts::encode(black_box(&decisions))));
    group.bench_function("range coder, decode", |b| {
        b.iter(|| parts::decode(black_box(&code), black_box(&decisions)));
    });
    group.bench_function("mixer, mix and learn", |b| b.iter(|| parts::mix(black_box(DECISIONS))));
    group.finish();
}

/// Bytes and coded bytes of a text, primer included, and seconds of a cold first block.
fn code(text: &[u8], primer: usize, block: usize) -> (usize, f64) {
    let primed = primer > 0 && text.len() > block;
    let mut ready = Predictor::default();
    let mut coded = 0;
    let mut sample = Vec::new();
    if primed {
        let plain = &text[..primer];
        sample = codec::encode(plain, 1, &mut Predictor::default(), None).bytes;
        coded += sample.len() + HEADER;
        codec::train(plain, &mut ready);
    }
    let mut first = Vec::new();
    for (n, part) in text.chunks(block).enumerate() {
        let code = codec::encode(part, 1, &mut ready.clone(), None).bytes;
        coded += code.len() + HEADER;
        if n == 0 {
            first = code;
        }
    }
    let began = Instant::now();
    let mut cold = Predictor::default();
    if primed {
        let plain = codec::decode(&sample, primer, &mut Predictor::default(), None);
        codec::train(&plain.expect("the primer decodes"), &mut cold);
    }
    let back = codec::decode(&first, text.len().min(block), &mut cold, None);
    assert!(back.is_some_and(|b| text.starts_with(&b)));
    (coded, began.elapsed().as_secs_f64())
}

fn table(_: &mut Criterion) {
    let Some(dir) = std::env::var_os("LMFS_CORPUS") else { return };
    let mut files: Vec<_> =
        std::fs::read_dir(dir).expect("LMFS_CORPUS").map(|e| e.expect("entry").path()).collect();
    files.retain(|f| f.is_file());
    files.sort();
    let texts: Vec<Vec<u8>> = files.iter().map(|f| std::fs::read(f).expect("text")).collect();
    let bytes: usize = texts.iter().map(Vec::len).sum();
    println!("primer KiB | block KiB | bits per byte | first block, worst, ms");
    for primer in [0, 16, 32, 64, 128] {
        for block in [64, 128] {
            let (mut coded, mut worst) = (0, 0.0_f64);
            for text in &texts {
                let (c, s) = code(text, primer << 10, block << 10);
                coded += c;
                worst = worst.max(s);
            }
            let bpb = coded as f64 * 8.0 / bytes as f64;
            println!("{primer} | {block} | {bpb:.4} | {:.0}", worst * 1e3);
        }
    }
}

criterion_group!(benches, speed, alone, table);
criterion_main!(benches);
