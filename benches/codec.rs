//! The codec of the `fast` tier, and its parts.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use lmfs::codec::{self, Predictor, bench as parts};
use std::hint::black_box;

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

criterion_group!(benches, speed, alone);
criterion_main!(benches);
