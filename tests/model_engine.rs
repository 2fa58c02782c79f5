//! The engine and the model file, on a small random model made here.

#![allow(clippy::unwrap_used)]

use lmfs::model::engine::{GROUP, ROPE_STEPS, Rope, fingerprint};
use lmfs::model::file::{Golden, Hyper, Layer, Manifest, Matrix};
use lmfs::model::tokenizer::{Merge, PreTokenizer};
use lmfs::model::{Engine, Input, Isa, Model, Session, Tokenizer, Tree};
use proptest::prelude::*;
use std::sync::Arc;

/// A reproducible generator (xorshift64).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
    fn unit(&mut self) -> f32 {
        (self.next() >> 40) as f32 / 16_777_216.0
    }
    fn matrix(&mut self, rows: u32, columns: u32) -> Matrix {
        let (rows, columns) = (rows as usize, columns as usize);
        Matrix {
            rows,
            columns,
            values: (0..rows * columns)
                .map(|_| (self.next() % 255) as i8)
                .map(|v| v.max(-127))
                .collect(),
            scales: (0..rows * columns.div_ceil(GROUP)).map(|_| self.unit() / 200.0).collect(),
        }
    }
    fn vector(&mut self, n: u32) -> Vec<f32> {
        (0..n).map(|_| 0.5 + self.unit()).collect()
    }
    fn tokens(&mut self, n: usize) -> Vec<u32> {
        (0..n).map(|_| (self.next() % 260) as u32).collect()
    }
}

fn tiny(window: u32) -> Model {
    let mut r = Random(0x1234_5678_9abc_def1);
    let mut tokens: Vec<Vec<u8>> = (0..=255_u8).map(|b| vec![b]).collect();
    tokens.extend([b"th".to_vec(), b"the".to_vec(), b" t".to_vec(), Vec::new()]);
    let merges = vec![
        Merge { left: 116, right: 104, result: 256 },
        Merge { left: 256, right: 101, result: 257 },
        Merge { left: 32, right: 116, result: 258 },
    ];
    let weights: Vec<(u32, u64)> = (0..259).map(|t| (t, r.next() % 1000)).collect();
    let h = Hyper {
        vocab: 260,
        hidden: 48,
        layers: 2,
        heads: 4,
        kv_heads: 2,
        head_dim: 16,
        feed_forward: 80,
        window,
        start: 259,
        unit: 4096,
        lanes: 4,
        eps: 1e-5,
    };
    let mut table = || (0..ROPE_STEPS * 8).map(|_| r.unit() * 2.0 - 1.0).collect();
    let rope = Rope { cos_low: table(), sin_low: table(), cos_high: table(), sin_high: table() };
    let layers = (0..2)
        .map(|_| Layer {
            norm1: r.vector(48),
            query: r.matrix(64, 48),
            key: r.matrix(32, 48),
            value: r.matrix(32, 48),
            output: r.matrix(48, 64),
            norm2: r.vector(48),
            gate: r.matrix(80, 48),
            up: r.matrix(80, 48),
            down: r.matrix(48, 80),
        })
        .collect();
    let mut m = Model {
        manifest: Manifest { name: "tiny".into(), ..Manifest::default() },
        hyper: h,
        tokenizer: Tokenizer::new(PreTokenizer::Gpt2, &tokens, merges).unwrap(),
        tree: Tree::huffman(&weights),
        rope,
        embedding: r.matrix(260, 48),
        layers,
        norm: r.vector(48),
        head: Some(r.matrix(260, 48)),
        golden: Golden { tokens: (0..40).collect(), hash: [0; 32] },
    };
    let engine = Arc::new(Engine::with_isa(&m, Isa::Scalar).unwrap());
    m.golden.hash = *fingerprint(&engine, &m.golden.tokens).unwrap().as_bytes();
    m
}

/// Distributions behind every token of every lane, fed `ahead` tokens of each lane a call.
fn distributions(
    engine: &Arc<Engine>,
    texts: &[Vec<u32>],
    ahead: usize,
    threads: usize,
) -> Vec<Vec<Vec<u32>>> {
    let mut session = Session::new(Arc::clone(engine), texts.len(), threads).unwrap();
    let mut out = vec![Vec::new(); texts.len()];
    let longest = texts.iter().map(Vec::len).max().unwrap_or(0);
    for from in (0..longest).step_by(ahead) {
        let mut inputs = Vec::new();
        for (lane, text) in texts.iter().enumerate() {
            let end = (from + ahead).min(text.len());
            inputs.extend(
                text.get(from..end).unwrap_or_default().iter().map(|t| Input { lane, token: *t }),
            );
        }
        session.step(&inputs);
        for (c, input) in inputs.iter().enumerate() {
            out[input.lane].push(session.cumulative(c).to_vec());
        }
    }
    out
}

#[test]
fn known_logits() {
    // Golden: a change of this is a change of the numerics version.
    let hash = blake3::Hash::from_bytes(tiny(100).golden.hash);
    assert_eq!(hash.to_hex().as_str(), KNOWN);
}

const KNOWN: &str = "36d1657e6ce37d7fa0d88a521413099aee7dc9191db465521e39b44783a0b7b8";

#[test]
fn all_instruction_sets_agree() {
    let m = tiny(100);
    for isa in Isa::ALL.into_iter().filter(|i| i.available()) {
        let engine = Arc::new(Engine::with_isa(&m, isa).unwrap());
        let hash = fingerprint(&engine, &m.golden.tokens).unwrap();
        assert_eq!(*hash.as_bytes(), m.golden.hash, "{}", isa.name());
    }
}

#[test]
fn batches_threads_and_prefill_change_nothing() {
    // A window shorter than the texts, so that the ring wraps.
    let engine = Arc::new(Engine::new(&tiny(70)));
    let mut r = Random(99);
    let texts: Vec<Vec<u32>> = [300, 1, 170, 64, 299].map(|n| r.tokens(n)).to_vec();
    let want: Vec<_> =
        texts.iter().flat_map(|t| distributions(&engine, std::slice::from_ref(t), 1, 1)).collect();
    for (ahead, threads) in [(1, 1), (1, 2), (3, 2), (17, 1), (64, 1), (64, 3)] {
        assert!(distributions(&engine, &texts, ahead, threads) == want, "{ahead} {threads}");
    }
}

#[test]
fn cleared_lanes_start_anew() {
    let engine = Arc::new(Engine::new(&tiny(50)));
    let mut s = Session::new(engine, 2, 1).unwrap();
    s.step(&[Input { lane: 1, token: 7 }]);
    let first = s.cumulative(0).to_vec();
    s.step(&[Input { lane: 1, token: 7 }]);
    assert_ne!(s.cumulative(0), first);
    s.clear(1);
    s.step(&[Input { lane: 1, token: 7 }]);
    assert_eq!(s.cumulative(0), first);
}

#[test]
fn what_is_read_is_what_was_written() {
    let m = tiny(100);
    let bytes = m.to_bytes();
    let back = Model::from_bytes(&bytes).unwrap();
    assert_eq!(back.to_bytes(), bytes);
    assert_eq!((&back.tree, &back.layers, &back.golden), (&m.tree, &m.layers, &m.golden));
    assert_eq!(back.tokenizer.encode(b"the\xfftth"), m.tokenizer.encode(b"the\xfftth"));
}

#[test]
fn cut_files_are_refused() {
    let bytes = tiny(100).to_bytes();
    for n in (0..bytes.len()).step_by(13).chain([bytes.len() - 1]) {
        assert!(Model::from_bytes(&bytes[..n]).is_err());
    }
    let mut long = bytes;
    long.push(0);
    assert!(Model::from_bytes(&long).is_err());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn hostile_files_do_no_harm(at in 0..3000_usize, with in any::<[u8; 4]>()) {
        let mut bytes = tiny(100).to_bytes();
        bytes[at..at + 4].copy_from_slice(&with);
        if let Ok(m) = Model::from_bytes(&bytes) {
            let engine = Arc::new(Engine::new(&m));
            fingerprint(&engine, &m.golden.tokens).unwrap();
        }
    }
}
