//! The engine and the model file, on a small random model made here.

#![allow(clippy::unwrap_used)]

mod tiny;

use lmfs::model::engine::fingerprint;
use lmfs::model::{Engine, Input, Isa, Model, Session};
use proptest::prelude::*;
use std::sync::Arc;

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
    let hash = blake3::Hash::from_bytes(tiny::model(100).golden.hash);
    assert_eq!(hash.to_hex().as_str(), KNOWN);
}

const KNOWN: &str = "36d1657e6ce37d7fa0d88a521413099aee7dc9191db465521e39b44783a0b7b8";

#[test]
fn all_instruction_sets_agree() {
    let m = tiny::model(100);
    for isa in Isa::ALL.into_iter().filter(|i| i.available()) {
        let engine = Arc::new(Engine::with_isa(&m, isa).unwrap());
        let hash = fingerprint(&engine, &m.golden.tokens).unwrap();
        assert_eq!(*hash.as_bytes(), m.golden.hash, "{}", isa.name());
    }
}

#[test]
fn batches_threads_and_prefill_change_nothing() {
    // A window shorter than the texts, so that the ring wraps.
    let engine = Arc::new(Engine::new(&tiny::model(70)));
    let mut r = tiny::Random(99);
    let texts: Vec<Vec<u32>> = [300, 1, 170, 64, 299].map(|n| r.tokens(n)).to_vec();
    let want: Vec<_> =
        texts.iter().flat_map(|t| distributions(&engine, std::slice::from_ref(t), 1, 1)).collect();
    for (ahead, threads) in [(1, 1), (1, 2), (3, 2), (17, 1), (64, 1), (64, 3)] {
        assert!(distributions(&engine, &texts, ahead, threads) == want, "{ahead} {threads}");
    }
}

#[test]
fn cleared_lanes_start_anew() {
    let engine = Arc::new(Engine::new(&tiny::model(50)));
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
    let m = tiny::model(100);
    let bytes = m.to_bytes();
    let back = Model::from_bytes(&bytes).unwrap();
    assert_eq!(back.to_bytes(), bytes);
    assert_eq!((&back.tree, &back.layers, &back.golden), (&m.tree, &m.layers, &m.golden));
    assert_eq!(back.tokenizer.encode(b"the\xfftth"), m.tokenizer.encode(b"the\xfftth"));
}

#[test]
fn cut_files_are_refused() {
    let bytes = tiny::model(100).to_bytes();
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
        let mut bytes = tiny::model(100).to_bytes();
        bytes[at..at + 4].copy_from_slice(&with);
        if let Ok(m) = Model::from_bytes(&bytes) {
            let engine = Arc::new(Engine::new(&m));
            fingerprint(&engine, &m.golden.tokens).unwrap();
        }
    }
}
