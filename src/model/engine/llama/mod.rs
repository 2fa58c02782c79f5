//! The Llama family.

mod attention;
mod forward;
mod softmax;

pub use softmax::TOTAL_BITS;

use super::kernel::Packed;
use super::{Engine, EngineError, Job, Session, Work, row, stack};
use crate::cpu::Isa;
use crate::model::network::{self, Hyper, Rope};
use crate::model::tree::Tree;
use attention::{Cache, Reach};
use forward::{Memory, Pass};
use softmax::{likeliest, node_probability};

/// One transformer layer, ready to run.
#[derive(Debug)]
struct Layer {
    norm1: Vec<f32>,
    /// Queries, keys, values.
    qkv: Packed,
    out: Packed,
    norm2: Vec<f32>,
    /// Gate rows, then up rows.
    gate_up: Packed,
    down: Packed,
}

/// One, packed for the kernels.
#[derive(Debug)]
pub struct Llama {
    isa: Isa,
    hyper: RunHyper,
    rope: Rope,
    embedding: Vec<i8>,
    embedding_scales: Vec<f32>,
    layers: Vec<Layer>,
    norm: Vec<f32>,
    /// Rows in leaf order.
    head: Packed,
}

/// The sizes that the forward pass needs.
#[derive(Debug, Clone, Copy)]
struct RunHyper {
    /// Tokens with an embedding.
    tokens: usize,
    /// Leaves: tokens that can be coded.
    vocab: usize,
    hidden: usize,
    layers: usize,
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
    feed_forward: usize,
    reach: Reach,
    eps: f32,
}

impl Llama {
    /// Packs a network for this CPU's best instruction set, without checking it. It will tell the
    /// tree's leaves apart.
    pub fn new(network: &network::Llama, tree: &Tree) -> Self {
        Self::build(network, tree, Isa::best())
    }

    /// Packs a network for an instruction set.
    pub fn with_isa(network: &network::Llama, tree: &Tree, isa: Isa) -> Result<Self, EngineError> {
        if isa.available() {
            Ok(Self::build(network, tree, isa))
        } else {
            Err(EngineError::NoIsa(isa.name()))
        }
    }

    fn build(network: &network::Llama, tree: &Tree, isa: Isa) -> Self {
        let h: &Hyper = &network.hyper;
        let layers = network
            .layers
            .iter()
            .map(|l| Layer {
                norm1: l.norm1.clone(),
                qkv: stack(&[&l.query, &l.key, &l.value]),
                out: stack(&[&l.output]),
                norm2: l.norm2.clone(),
                gate_up: stack(&[&l.gate, &l.up]),
                down: stack(&[&l.down]),
            })
            .collect();
        let head = network.head.as_ref().unwrap_or(&network.embedding);
        let leaves = tree.leaves();
        Self {
            isa,
            hyper: RunHyper {
                tokens: h.vocab as usize,
                vocab: leaves.len(),
                hidden: h.hidden as usize,
                layers: h.layers as usize,
                heads: h.heads as usize,
                kv_heads: h.kv_heads as usize,
                head_dim: h.head_dim as usize,
                feed_forward: h.feed_forward as usize,
                reach: Reach { window: h.window as usize, sinks: h.sinks as usize },
                eps: h.eps,
            },
            rope: network.rope.clone(),
            embedding: network.embedding.values.clone(),
            embedding_scales: network.embedding.scales.clone(),
            layers,
            norm: network.norm.clone(),
            head: Packed::new(leaves.len(), head.columns, |i| row(head, leaves[i] as usize)),
        }
    }

    /// Number of leaves of the coding tree.
    pub fn leaves(&self) -> usize {
        self.hyper.vocab
    }
}

/// Keys and values of a lane.
#[derive(Debug, Default)]
pub struct State {
    /// `layers × kv_heads`.
    caches: Vec<Cache>,
}

impl Engine for Llama {
    type State = State;
    type Memory = Memory;

    fn isa(&self) -> Isa {
        self.isa
    }

    fn bytes(&self) -> usize {
        let packed = |p: &Packed| p.weights.len() + 4 * p.scales.len();
        self.embedding.len()
            + 4 * self.embedding_scales.len()
            + packed(&self.head)
            + self
                .layers
                .iter()
                .map(|l| packed(&l.qkv) + packed(&l.out) + packed(&l.gate_up) + packed(&l.down))
                .sum::<usize>()
    }

    fn tokens(&self) -> usize {
        self.hyper.tokens
    }

    fn clear(&self, state: &mut State) {
        state.caches.resize_with(self.hyper.layers * self.hyper.kv_heads, Cache::default);
        state.caches.iter_mut().for_each(Cache::clear);
    }

    fn state_bytes(state: &State) -> usize {
        state.caches.iter().map(Cache::bytes).sum()
    }

    fn pass(
        &self,
        memory: &mut Memory,
        work: Work<'_, State>,
        members: usize,
        run: &mut dyn FnMut(&Job<'_>),
    ) {
        let pass = Pass::new(self, memory, work, members);
        run(&|me, barrier| pass.run(me, barrier));
    }

    fn probability(&self, memory: &Memory, output: usize, _: u16, span: [usize; 3]) -> u32 {
        node_probability(memory.cumulative.row(output), span)
    }

    fn likeliest(&self, memory: &Memory, output: usize) -> Option<usize> {
        Some(likeliest(memory.cumulative.row(output)))
    }

    fn logits(&self, memory: &Memory, output: usize, all: &mut Vec<f32>) {
        all.extend_from_slice(&memory.logits.row(output)[..self.hyper.vocab]);
    }
}

impl Session<Llama> {
    /// Cumulative probabilities behind input `column` of the last [`Session::step`], in leaf order:
    /// `vocabulary + 1` integers from 0 to 2^31, strictly increasing.
    pub fn cumulative(&self, column: usize) -> &[u32] {
        let (memory, output) = self.result(column);
        memory.cumulative.row(output)
    }
}
