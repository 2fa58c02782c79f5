//! The engine and the model file, on a small random model made here.

#![allow(clippy::unwrap_used)]

mod tiny;

use lmfs::model::engine::{Llama, fingerprint};
use lmfs::model::network::Hyper;
use lmfs::model::{Input, Isa, Model, Session};
use std::path::Path;
use std::sync::Arc;
use tiny::{HYPER, Random, network};

fn tiny(window: u32) -> Model {
    tiny::model(Hyper { window, ..HYPER })
}

/// One that keeps its first positions beside a window of 40.
fn sinking() -> Model {
    tiny::model(Hyper { window: 40, sinks: 16, ..HYPER })
}

/// Distributions behind every token of every lane, fed `ahead` tokens of each lane a call.
fn distributions(
    engine: &Arc<Llama>,
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

/// A committed model file, its id, and the hash of its logits. A change of the last is a change of
/// the numerics version.
const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/tiny.model");
const ID: &str = "96f6a00221eeee732ccf394a5dc2fc8f8dbeaccb965bae76f22b0e9116313bde";
const LOGITS: &str = "7b51fbe446c0a6767dfc6722fd9e8a55981422a8352206e925a7200e298391ce";

/// Writes the committed file anew: `cargo test --test model_engine -- --ignored write`.
#[test]
#[ignore = "writes tests/data/tiny.model"]
fn write_the_committed_file() {
    let m = tiny::smallest();
    std::fs::write(FILE, m.to_bytes()).unwrap();
    println!("id {}", blake3::hash(&m.to_bytes()));
    println!("logits {}", blake3::Hash::from_bytes(network(&m).golden.hash));
}

#[test]
fn the_committed_file_gives_the_committed_logits() {
    let bytes = std::fs::read(Path::new(FILE)).unwrap();
    assert_eq!(blake3::hash(&bytes).to_hex().as_str(), ID);
    let m = Model::from_bytes(&bytes).unwrap();
    for isa in Isa::ALL.into_iter().filter(|i| i.available()) {
        let engine = tiny::engine_with(&m, isa);
        let hash = fingerprint(&engine, &network(&m).golden.tokens).unwrap();
        assert_eq!(hash.to_hex().as_str(), LOGITS, "{}", isa.name());
        assert_eq!(*hash.as_bytes(), network(&m).golden.hash);
    }
    assert_eq!(tiny::smallest().to_bytes(), bytes);
}

#[test]
fn all_instruction_sets_agree() {
    let m = tiny(100);
    for isa in Isa::ALL.into_iter().filter(|i| i.available()) {
        let engine = tiny::engine_with(&m, isa);
        let hash = fingerprint(&engine, &network(&m).golden.tokens).unwrap();
        assert_eq!(*hash.as_bytes(), network(&m).golden.hash, "{}", isa.name());
    }
}

#[test]
fn batches_threads_and_prefill_change_nothing() {
    // Windows shorter than the texts, so that the ring wraps.
    for model in [tiny(70), sinking()] {
        let engine = tiny::engine(&model);
        let mut r = Random(99);
        let texts: Vec<Vec<u32>> = [300, 1, 170, 64, 299].map(|n| r.tokens(n)).to_vec();
        let alone = |t| distributions(&engine, std::slice::from_ref(t), 1, 1);
        let want: Vec<_> = texts.iter().flat_map(alone).collect();
        for (ahead, threads) in [(1, 1), (1, 2), (3, 2), (17, 1), (64, 1), (64, 3), (200, 2)] {
            assert!(distributions(&engine, &texts, ahead, threads) == want, "{ahead} {threads}");
        }
    }
}

#[test]
fn sinks_matter_once_they_have_left_the_window() {
    let texts = [Random(3).tokens(250)];
    let run = |model| distributions(&tiny::engine(&model), &texts, 1, 1).remove(0);
    // Window and sinks of the one are as much as the other's window, while that holds all.
    let (with, without, less) = (run(sinking()), run(tiny(56)), run(tiny(40)));
    assert!(with[..56] == without[..56]);
    assert!((57..250).all(|t| with[t] != without[t] && with[t] != less[t]));
}

/// More sinks than a cache has slots at first: the slots behind them are not there yet.
#[test]
fn texts_shorter_than_the_sinks_see_all() {
    let texts = [Random(4).tokens(270)];
    let many = tiny::model(Hyper { window: 40, sinks: 256, ..HYPER });
    let run = |model| distributions(&tiny::engine(&model), &texts, 1, 1);
    assert!(run(many) == run(tiny(296)));
}

#[test]
fn sinks_give_the_known_logits() {
    let m = Model::from_bytes(&sinking().to_bytes()).unwrap();
    assert_eq!(network(&m).hyper.sinks, 16);
    let tokens = Random(8).tokens(200);
    for isa in Isa::ALL.into_iter().filter(|i| i.available()) {
        let engine = tiny::engine_with(&m, isa);
        let hash = fingerprint(&engine, &tokens).unwrap();
        assert_eq!(hash.to_hex().as_str(), SINKING, "{}", isa.name());
    }
}

/// Of random tokens behind the sinks and the window; golden as [`LOGITS`] is.
const SINKING: &str = "d29447b5c1e1fcb7f9ee8bc7efbd40138d3c56173444955db0a296c5cabf0698";

#[test]
fn cleared_lanes_start_anew() {
    let engine = tiny::engine(&tiny(50));
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
    assert_eq!(back.vocabulary.tree, m.vocabulary.tree);
    let parts = |m| (&network(m).layers, &network(m).golden);
    assert_eq!(parts(&back), parts(&m));
    assert_eq!(
        back.vocabulary.tokenizer.encode(b"the\xfftth"),
        m.vocabulary.tokenizer.encode(b"the\xfftth")
    );
}

/// Weights that outgrow the caches are shared out by rows; a tiny model is made to look like one.
#[test]
fn threads_that_share_rows_change_nothing() {
    // 2,100 tokens of one lane in one call are enough products to be shared.
    let engine = tiny::engine(&tiny(70));
    let tokens = Random(5).tokens(2100);
    let inputs: Vec<Input> = tokens.iter().map(|t| Input { lane: 0, token: *t }).collect();
    let run = |threads| {
        let mut s = Session::new(Arc::clone(&engine), 1, threads).unwrap();
        s.step(&inputs);
        (0..inputs.len()).map(|c| s.cumulative(c).to_vec()).collect::<Vec<_>>()
    };
    assert!(run(1) == run(3));
}

#[test]
fn outputs_that_are_not_wanted_change_nothing() {
    let engine = tiny::engine(&tiny(70));
    let mut r = Random(17);
    let inputs: Vec<Input> =
        r.tokens(150).iter().enumerate().map(|(i, t)| Input { lane: i % 3, token: *t }).collect();
    let mut all = Session::new(Arc::clone(&engine), 3, 1).unwrap();
    all.step(&inputs);
    let mut some = Session::new(Arc::clone(&engine), 3, 2).unwrap();
    some.step_some(&inputs, |c| c % 7 == 2);
    for c in (2..150).step_by(7) {
        assert_eq!(some.cumulative(c), all.cumulative(c), "{c}");
    }
    let mut fed = Session::new(engine, 3, 1).unwrap();
    fed.feed(&inputs[..149]);
    fed.step(&inputs[149..]);
    assert_eq!(fed.cumulative(0), all.cumulative(149));
}
