//! Exact inference of the Llama family.
//!
//! Integers where anything is summed in bulk, IEEE single precision in one written order where not:
//! the same bits on every CPU, for every batch and number of threads. See `docs/engine.md`.

mod attention;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod batch;
mod forward;
pub mod kernel;
#[cfg(test)]
mod kernel_tests;
mod math;
mod session;
mod softmax;
mod team;

pub use kernel::Isa;
#[cfg(feature = "import")]
pub(super) use math::exp;
pub use session::{Input, Session};
pub use softmax::TOTAL_BITS;

use super::network::{GROUP, Hyper, Matrix, Network, Rope};
use super::tree::Tree;
use attention::Reach;
use kernel::{Packed, Row};

/// Why a model does not run.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The CPU lacks the instruction set asked for.
    #[error("this CPU has no {0}")]
    NoIsa(&'static str),
    /// A thread could not be started.
    #[error("cannot start an engine thread: {0}")]
    Thread(std::io::Error),
    /// It panicked.
    #[error("the engine panicked; nothing that it computed is used")]
    Panicked,
    /// This CPU or build computes something else than the model's file says it must.
    #[error(
        "model {name} fails its golden check: computed {got}, the file says {want}; nothing coded with it can be read on this machine with this version"
    )]
    Golden {
        /// Name of the model.
        name: String,
        /// BLAKE3 of what was computed.
        got: blake3::Hash,
        /// BLAKE3 in the file.
        want: blake3::Hash,
    },
}

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

/// A network in memory, packed for the kernels. Immutable and shared by all sessions.
#[derive(Debug)]
pub struct Engine {
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

/// Row `i` of a matrix.
fn row(m: &Matrix, i: usize) -> Row<'_> {
    let groups = m.columns.div_ceil(GROUP);
    Row {
        values: &m.values[i * m.columns..(i + 1) * m.columns],
        scales: &m.scales[i * groups..(i + 1) * groups],
    }
}

/// Packs the rows of several matrices over the same inputs, one behind the other.
fn stack(parts: &[&Matrix]) -> Packed {
    let rows = parts.iter().map(|m| m.rows).sum();
    Packed::new(rows, parts[0].columns, |mut i| {
        let mut part = 0;
        while i >= parts[part].rows {
            i -= parts[part].rows;
            part += 1;
        }
        row(parts[part], i)
    })
}

impl Engine {
    /// Packs a network for this CPU's best instruction set, without checking it. It will tell the
    /// tree's leaves apart.
    pub fn new(network: &Network, tree: &Tree) -> Self {
        Self::build(network, tree, Isa::best())
    }

    /// Packs a network for an instruction set.
    pub fn with_isa(network: &Network, tree: &Tree, isa: Isa) -> Result<Self, EngineError> {
        if isa.available() {
            Ok(Self::build(network, tree, isa))
        } else {
            Err(EngineError::NoIsa(isa.name()))
        }
    }

    fn build(network: &Network, tree: &Tree, isa: Isa) -> Self {
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

    /// Instruction set in use.
    pub fn isa(&self) -> Isa {
        self.isa
    }

    /// Number of leaves of the coding tree.
    pub fn leaves(&self) -> usize {
        self.hyper.vocab
    }

    /// Bytes of the weights in memory.
    pub fn bytes(&self) -> usize {
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
}

/// BLAKE3 of the bits of all logits (leaf order, little-endian) behind each of `tokens`.
pub fn fingerprint(
    engine: &std::sync::Arc<Engine>,
    tokens: &[u32],
) -> Result<blake3::Hash, EngineError> {
    let mut session = Session::new(std::sync::Arc::clone(engine), 1, 1)?;
    let mut hash = blake3::Hasher::new();
    let mut bytes = Vec::new();
    for chunk in tokens.chunks(Session::AHEAD) {
        let inputs: Vec<Input> = chunk.iter().map(|t| Input { lane: 0, token: *t }).collect();
        session.step_logits(&inputs);
        for c in 0..inputs.len() {
            bytes.clear();
            for v in session.logits(c) {
                // All not-a-numbers hash alike: their bits are not defined.
                let bits = if v.is_nan() { f32::NAN.to_bits() } else { v.to_bits() };
                bytes.extend_from_slice(&bits.to_le_bytes());
            }
            hash.update(&bytes);
        }
    }
    Ok(hash.finalize())
}

/// True if this thread's SSE unit neither flushes denormals nor rounds otherwise than to nearest.
#[cfg(target_arch = "x86_64")]
#[allow(deprecated)]
pub(crate) fn floats_are_strict() -> bool {
    // FTZ, rounding mode (2 bits), DAZ.
    const MASK: u32 = 0x8000 | 0x6000 | 0x0040;
    // SAFETY: reading MXCSR has no effect; SSE is part of x86-64.
    unsafe { std::arch::x86_64::_mm_getcsr() & MASK == 0 }
}

/// Other architectures: a denormal must survive a multiplication.
#[cfg(not(target_arch = "x86_64"))]
pub(crate) fn floats_are_strict() -> bool {
    std::hint::black_box(f32::MIN_POSITIVE) * std::hint::black_box(0.5) != 0.0
}

#[cfg(all(target_arch = "x86", not(target_feature = "sse2")))]
compile_error!("x87 arithmetic rounds differently: lmfs needs SSE2");
