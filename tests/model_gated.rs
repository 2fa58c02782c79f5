//! Gated networks: the engine on a small random one made here, against a plain reference, and beside the experts.

#![allow(clippy::unwrap_used)]

mod tiny;

use lmfs::block::{Lm, Tier, decode, encode};
use lmfs::model::engine::{Gated, fingerprint};
use lmfs::model::network::{self, Matrix, Network};
use lmfs::model::{Input, Isa, Model, Session};
use lmfs::types::Encoding;
use std::path::Path;
use std::sync::Arc;
use tiny::{Random, SIZES};

/// A committed model file, its id, and the hash of its logits. A change of the last is a change of
/// the numerics version.
const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/gated.model");
const ID: &str = "cf966b11a208a2e88277b57bdec736f4abae12c98196676ec13a0b67cdc17ab1";
const LOGITS: &str = "603056ff18fb3deaaebe9d8a06b4d3a73f8e3cc7a6856d9e5b48f0f68a4d5c46";

fn network(m: &Model) -> &network::Gated {
    match m.network.as_ref().unwrap() {
        Network::Gated(n) => n,
        Network::Llama(_) => panic!("a Llama"),
    }
}

/// Writes the committed file anew: `cargo test --test model_gated -- --ignored write`.
#[test]
#[ignore = "writes tests/data/gated.model"]
fn write_the_committed_file() {
    let m = tiny::gated();
    std::fs::write(FILE, m.to_bytes()).unwrap();
    println!("id {}", blake3::hash(&m.to_bytes()));
    println!("logits {}", blake3::Hash::from_bytes(network(&m).golden.hash));
}

#[test]
fn the_committed_file_gives_the_committed_logits() {
    let bytes = std::fs::read(Path::new(FILE)).unwrap();
    assert_eq!(blake3::hash(&bytes).to_hex().as_str(), ID);
    let m = Model::from_bytes(&bytes).unwrap();
    let n = network(&m);
    for isa in Isa::ALL.into_iter().filter(|i| i.available()) {
        let engine = Arc::new(Gated::with_isa(n, isa).unwrap());
        let hash = fingerprint(&engine, &n.golden.tokens).unwrap();
        assert_eq!(hash.to_hex().as_str(), LOGITS, "{}", isa.name());
        assert_eq!(*hash.as_bytes(), n.golden.hash);
    }
    assert_eq!(tiny::gated().to_bytes(), bytes);
}

/// Probabilities of all decisions behind every token of every lane, fed `ahead` tokens of each lane a call.
fn probabilities(
    engine: &Arc<Gated>,
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
            let some = text.get(from..end).unwrap_or_default();
            inputs.extend(some.iter().map(|t| Input { lane, token: *t }));
        }
        session.step(&inputs);
        for (c, input) in inputs.iter().enumerate() {
            let all = (0..SIZES.nodes).map(|n| session.probability(c, n as u16, [0, 1, 2]));
            out[input.lane].push(all.collect());
        }
    }
    out
}

#[test]
fn batches_threads_and_prefill_change_nothing() {
    let engine = Arc::new(Gated::new(network(&tiny::gated())));
    let mut r = Random(99);
    let texts: Vec<Vec<u32>> = [300, 1, 170, 64, 299].map(|n| r.tokens(n)).to_vec();
    let alone = |t| probabilities(&engine, std::slice::from_ref(t), 1, 1);
    let want: Vec<_> = texts.iter().flat_map(alone).collect();
    for (ahead, threads) in [(1, 1), (1, 2), (3, 2), (17, 1), (64, 1), (64, 3), (200, 2)] {
        assert!(probabilities(&engine, &texts, ahead, threads) == want, "{ahead} {threads}");
    }
}

/// Members that share a pass: a tiny model is made to look like a large one by a long text.
#[test]
fn threads_that_share_a_pass_change_nothing() {
    let engine = Arc::new(Gated::new(network(&tiny::gated())));
    let texts = [Random(5).tokens(2100)];
    assert!(probabilities(&engine, &texts, 2100, 1) == probabilities(&engine, &texts, 2100, 3));
}

#[test]
fn cleared_lanes_start_anew() {
    let engine = Arc::new(Gated::new(network(&tiny::gated())));
    let mut s = Session::new(engine, 2, 1).unwrap();
    let mut step = |clear: bool| {
        if clear {
            s.clear(1);
        }
        s.step(&[Input { lane: 1, token: 7 }]);
        (0..9).map(|n| s.probability(0, n, [0, 1, 2])).collect::<Vec<_>>()
    };
    let first = step(false);
    assert_ne!(step(false), first);
    assert_eq!(step(true), first);
}

fn product(m: &Matrix, x: &[f64]) -> Vec<f64> {
    let groups = m.columns.div_ceil(network::GROUP);
    let row = |i: usize| {
        let of = |j: usize| {
            f64::from(m.values[i * m.columns + j])
                * f64::from(m.scales[i * groups + j / network::GROUP])
        };
        (0..m.columns).map(|j| of(j) * x[j]).sum()
    };
    (0..m.rows).map(row).collect()
}

fn normed(x: &[f64], weight: &[f32]) -> Vec<f64> {
    let mean = x.iter().map(|v| v * v).sum::<f64>() / x.len() as f64;
    let inverse = 1.0 / (mean + f64::from(SIZES.eps)).sqrt();
    x.iter().zip(weight).map(|(v, w)| v * inverse * f64::from(*w)).collect()
}

/// The network in double precision, without quantised activations: logits of all nodes behind each token.
fn reference(n: &network::Gated, tokens: &[u32]) -> Vec<Vec<f64>> {
    let sigmoid = |v: f64| 1.0 / (1.0 + (-v).exp());
    let (hidden, inner) = (SIZES.hidden as usize, SIZES.inner as usize);
    let mut states = vec![(vec![0.0; hidden], vec![0.0; inner]); n.layers.len()];
    let mut out = Vec::new();
    for token in tokens {
        let mut one = vec![0.0; n.embedding.rows];
        one[*token as usize] = 1.0;
        let transposed = |j: usize| {
            let at = *token as usize * hidden + j;
            let scales = hidden.div_ceil(network::GROUP);
            let scale = n.embedding.scales[*token as usize * scales + j / network::GROUP];
            f64::from(n.embedding.values[at]) * f64::from(scale)
        };
        let mut h: Vec<f64> = (0..hidden).map(transposed).collect();
        for (layer, (before, memory)) in n.layers.iter().zip(&mut states) {
            let x = normed(&h, &layer.norm);
            let shifted: Vec<f64> = (0..hidden)
                .map(|i| x[i] + f64::from(layer.shift[i]) * (before[i] - x[i]))
                .collect();
            *before = x;
            let input = product(&layer.input, &shifted);
            let gated: Vec<f64> = (0..inner)
                .map(|i| {
                    let f = sigmoid(input[i] + f64::from(layer.keep[i]));
                    memory[i] = f * memory[i] + (1.0 - f) * input[inner + i];
                    let g = input[2 * inner + i];
                    memory[i] * g * sigmoid(g)
                })
                .collect();
            let output = product(&layer.output, &gated);
            h.iter_mut().zip(output).for_each(|(h, o)| *h += o);
        }
        let all = product(&n.nodes, &normed(&h, &n.norm));
        out.push(all.iter().zip(&n.bias).map(|(v, b)| v + f64::from(*b)).collect());
    }
    out
}

/// Logits differ from those of double precision by what 8 bits of activations cost.
#[test]
fn the_engine_computes_the_network() {
    let m = tiny::gated();
    let n = network(&m);
    let tokens = [vec![SIZES.start()], Random(12).tokens(120)].concat();
    let mut session = Session::new(Arc::new(Gated::new(n)), 1, 1).unwrap();
    let inputs: Vec<Input> = tokens.iter().map(|t| Input { lane: 0, token: *t }).collect();
    session.step_logits(&inputs);
    let (mut squares, mut differences) = (0.0, 0.0);
    for (c, want) in reference(n, &tokens).iter().enumerate() {
        let mut got = Vec::new();
        session.logits(c, &mut got);
        assert_eq!(got.len(), want.len());
        let mean = want.iter().sum::<f64>() / want.len() as f64;
        for (got, want) in got.iter().zip(want) {
            squares += (want - mean).powi(2);
            differences += (f64::from(*got) - want).powi(2);
        }
    }
    let ratio = (differences / squares).sqrt();
    assert!(ratio < 0.05, "{ratio}");
}

#[test]
fn what_is_coded_beside_experts_comes_back() {
    let lm = Lm::load(&tiny::gated().to_bytes()).unwrap();
    let alone = lm.without_network().unwrap();
    let text: Vec<u8> =
        (0..900_u32).flat_map(|i| format!("{i} the {} th\n", i * i % 91).into_bytes()).collect();
    let coded = |lm: &Arc<Lm>| {
        let tier = Tier { lm: Some(Arc::clone(lm)), lm_gain: -1e9, ..Tier::FAST };
        let coded = encode(&text, None, &tier).unwrap();
        assert_eq!(coded.encoding, Encoding::Lm);
        coded.payload
    };
    let (with, without) = (coded(&lm), coded(&alone));
    assert_ne!(with, without);
    for payload in [&with, &without] {
        let back = decode(Encoding::Lm, payload, text.len() as u32, None, Some(&lm));
        assert!(back.unwrap() == text);
    }
    // Weights are random: the experts soon trust it little.
    assert!(with.len() < without.len() * 5 / 4, "{} {}", with.len(), without.len());
}
