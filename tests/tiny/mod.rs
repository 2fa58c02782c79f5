//! A small random model, the same on every machine.

use lmfs::codec::prior::{Contexts, KINDS};
use lmfs::model::engine::{self, fingerprint};
use lmfs::model::network::{GROUP, ROPE_STEPS, Rope, WEIGHT_MAX};
use lmfs::model::network::{
    Gated, GatedLayer, Golden, Hyper, Layer, Llama, Matrix, Network, Sizes,
};
use lmfs::model::tokenizer::{Merge, PreTokenizer};
use lmfs::model::{Blocks, Counted, Isa, Manifest, Model, Tokenizer, Tree, Vocabulary};
use std::sync::Arc;

/// A reproducible generator (xorshift64).
pub struct Random(pub u64);

#[allow(dead_code)]
impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
    /// From 0 to 1.
    pub fn unit(&mut self) -> f32 {
        (self.next() >> 40) as f32 / 16_777_216.0
    }
    pub fn matrix(&mut self, rows: u32, columns: u32) -> Matrix {
        let (rows, columns) = (rows as usize, columns as usize);
        let most = i64::from(WEIGHT_MAX);
        Matrix {
            rows,
            columns,
            values: (0..rows * columns)
                .map(|_| ((self.next() % (2 * most as u64 + 1)) as i64 - most) as i8)
                .collect(),
            scales: (0..rows * columns.div_ceil(GROUP)).map(|_| self.unit() / 100.0).collect(),
        }
    }
    pub fn vector(&mut self, n: u32) -> Vec<f32> {
        (0..n).map(|_| 0.5 + self.unit()).collect()
    }
    pub fn tokens(&mut self, n: usize) -> Vec<u32> {
        (0..n).map(|_| (self.next() % 260) as u32).collect()
    }
}

/// Four heads of 16, two key-value heads, widths that are no multiples of a group.
pub const HYPER: Hyper = Hyper {
    vocab: 260,
    hidden: 48,
    layers: 2,
    heads: 4,
    kv_heads: 2,
    head_dim: 16,
    feed_forward: 80,
    sinks: 0,
    window: 100,
    start: 259,
    eps: 1e-5,
};

/// A model of these sizes with 260 tokens.
pub fn model(h: Hyper) -> Model {
    let mut r = Random(0x1234_5678_9abc_def1);
    let mut tokens: Vec<Vec<u8>> = (0..=255_u8).map(|b| vec![b]).collect();
    tokens.extend([b"th".to_vec(), b"the".to_vec(), b" t".to_vec(), Vec::new()]);
    let merges = vec![
        Merge { left: 116, right: 104, result: 256 },
        Merge { left: 256, right: 101, result: 257 },
        Merge { left: 32, right: 116, result: 258 },
    ];
    let weights: Vec<(u32, u64)> = (0..259).map(|t| (t, r.next() % 1000)).collect();
    let half = ROPE_STEPS * h.head_dim as usize / 2;
    let mut table = || (0..half).map(|_| r.unit() * 2.0 - 1.0).collect();
    let rope = Rope { cos_low: table(), sin_low: table(), cos_high: table(), sin_high: table() };
    let (q, kv) = (h.heads * h.head_dim, h.kv_heads * h.head_dim);
    let layers = (0..h.layers)
        .map(|_| Layer {
            norm1: r.vector(h.hidden),
            query: r.matrix(q, h.hidden),
            key: r.matrix(kv, h.hidden),
            value: r.matrix(kv, h.hidden),
            output: r.matrix(h.hidden, q),
            norm2: r.vector(h.hidden),
            gate: r.matrix(h.feed_forward, h.hidden),
            up: r.matrix(h.feed_forward, h.hidden),
            down: r.matrix(h.hidden, h.feed_forward),
        })
        .collect();
    let vocabulary = Vocabulary {
        tokenizer: Tokenizer::new(PreTokenizer::Gpt2, &tokens, merges).unwrap(),
        tree: Tree::huffman(&weights),
    };
    let mut n = Llama {
        hyper: h,
        rope,
        embedding: r.matrix(260, h.hidden),
        layers,
        norm: r.vector(h.hidden),
        head: Some(r.matrix(260, h.hidden)),
        golden: Golden { tokens: (0..40).collect(), hash: [0; 32] },
    };
    let engine = Arc::new(engine::Llama::with_isa(&n, &vocabulary.tree, Isa::Scalar).unwrap());
    n.golden.hash = *fingerprint(&engine, &n.golden.tokens).unwrap().as_bytes();
    Model {
        manifest: Manifest { name: "tiny".into(), ..Manifest::default() },
        blocks: Blocks { unit: 4096, lanes: 4 },
        vocabulary,
        prior: None,
        network: Some(Network::Llama(n)),
    }
}

/// Sizes of a gated network for 260 tokens, of which 259 are leaves; widths that are no multiples of a group.
#[allow(dead_code)]
pub const SIZES: Sizes =
    Sizes { tokens: 260, nodes: 258, hidden: 48, inner: 80, layers: 2, eps: 1e-5 };

/// [`both`] with a gated network in place of the other.
#[allow(dead_code)]
pub fn gated() -> Model {
    let s = SIZES;
    let mut r = Random(0x0bad_cafe_1234_5678);
    let layers = (0..s.layers)
        .map(|_| GatedLayer {
            norm: r.vector(s.hidden),
            shift: r.vector(s.hidden),
            input: r.matrix(3 * s.inner, s.hidden),
            keep: r.vector(s.inner),
            output: r.matrix(s.hidden, s.inner),
        })
        .collect();
    let mut n = Gated {
        sizes: s,
        embedding: r.matrix(s.tokens + 1, s.hidden),
        layers,
        norm: r.vector(s.hidden),
        nodes: r.matrix(s.nodes, s.hidden),
        bias: r.vector(s.nodes),
        golden: Golden { tokens: (221..261).rev().collect(), hash: [0; 32] },
    };
    let engine = Arc::new(engine::Gated::with_isa(&n, Isa::Scalar).unwrap());
    n.golden.hash = *fingerprint(&engine, &n.golden.tokens).unwrap().as_bytes();
    Model { network: Some(Network::Gated(n)), ..both() }
}

/// The network of a model that has one.
#[allow(dead_code)]
pub fn network(m: &Model) -> &Llama {
    match m.network.as_ref().unwrap() {
        Network::Llama(n) => n,
        Network::Gated(_) => panic!("a gated network"),
    }
}

/// Ready to run on an instruction set.
#[allow(dead_code)]
pub fn engine_with(m: &Model, isa: Isa) -> Arc<engine::Llama> {
    Arc::new(engine::Llama::with_isa(network(m), &m.vocabulary.tree, isa).unwrap())
}

/// The same on the best one.
#[allow(dead_code)]
pub fn engine(m: &Model) -> Arc<engine::Llama> {
    engine_with(m, Isa::best())
}

/// The smallest one that has everything: the committed file.
#[allow(dead_code)]
pub fn smallest() -> Model {
    model(Hyper { hidden: 32, heads: 2, kv_heads: 1, feed_forward: 48, window: 30, ..HYPER })
}

/// The same with a prior beside the network: a few contexts of each kind.
#[allow(dead_code)]
pub fn both() -> Model {
    let mut kinds: [Contexts; KINDS] = std::array::from_fn(|_| Contexts::new(8));
    for (k, kind) in kinds.iter_mut().enumerate() {
        for n in 0..8_u32 {
            kind.push(n << 29 | k as u32, &[n as u16 * 16, n as u16 * 64 + 531, 4000]);
        }
    }
    let m = smallest();
    Model { prior: Some(Counted::new(&m.vocabulary.ready(), kinds)), ..m }
}
