//! Exact inference of networks.
//!
//! Integers where anything is summed in bulk, IEEE single precision in one written order where not:
//! the same bits on every CPU, for every batch and number of threads. See `docs/engine.md`.
//!
//! A [`Session`] leads lanes through an [`Engine`], which is one architecture with its weights.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod batch;
mod gated;
pub mod kernel;
#[cfg(test)]
mod kernel_tests;
mod llama;
mod math;
mod session;
mod team;
mod work;

pub use crate::cpu::Isa;
pub use gated::Gated;
pub use llama::{Llama, TOTAL_BITS};
#[cfg(feature = "import")]
pub(super) use math::exp;
pub use session::Session;
pub use work::{Input, Job, Want, Work};

use super::network::{GROUP, Matrix};
use kernel::{Packed, Row};
use std::fmt::Debug;
use std::sync::Arc;

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

/// An architecture with its weights, packed for the kernels. Immutable and shared by all sessions.
///
/// A lane's results depend on that lane's tokens alone: not on the other columns of a pass, nor on how many
/// members run it.
pub trait Engine: Debug + Send + Sync + 'static {
    /// What a lane remembers of its text.
    type State: Debug + Default + Send + Sync;
    /// Working memory of passes, and their results.
    type Memory: Debug + Default + Send + Sync;

    /// Instruction set in use.
    fn isa(&self) -> Isa;

    /// Bytes of the weights in memory.
    fn bytes(&self) -> usize;

    /// Tokens that may be fed: those below.
    fn tokens(&self) -> usize;

    /// Back to the start of text; the memory may be kept.
    fn clear(&self, state: &mut Self::State);

    /// Memory of a lane's state, in bytes.
    fn state_bytes(state: &Self::State) -> usize;

    /// Feeds the columns of `work`: prepares a job and has `run` run it by `members` members, numbered from 0.
    fn pass(
        &self,
        memory: &mut Self::Memory,
        work: Work<'_, Self::State>,
        members: usize,
        run: &mut dyn FnMut(&Job<'_>),
    );

    /// Probability of 65536, from 1 to 65535, that the decision at `node` of the coding tree is 1, behind the column
    /// that has the row `output` of the results. Below the node are the leaves `span[0]..span[2]`, parted at `span[1]`.
    fn probability(&self, memory: &Self::Memory, output: usize, node: u16, span: [usize; 3])
    -> u32;

    /// The leaf that it thinks likeliest there, if it knows.
    fn likeliest(&self, memory: &Self::Memory, output: usize) -> Option<usize>;

    /// Appends all logits of the row `output` of the last results, computed for [`Want::Logits`].
    fn logits(&self, memory: &Self::Memory, output: usize, all: &mut Vec<f32>);
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

/// BLAKE3 of the bits of all logits (little-endian) behind each of `tokens`.
pub fn fingerprint<E: Engine>(
    engine: &Arc<E>,
    tokens: &[u32],
) -> Result<blake3::Hash, EngineError> {
    let mut session = Session::new(Arc::clone(engine), 1, 1)?;
    let mut hash = blake3::Hasher::new();
    let (mut logits, mut bytes) = (Vec::new(), Vec::new());
    for chunk in tokens.chunks(Session::<E>::AHEAD) {
        let inputs: Vec<Input> = chunk.iter().map(|t| Input { lane: 0, token: *t }).collect();
        session.step_logits(&inputs);
        for c in 0..inputs.len() {
            logits.clear();
            session.logits(c, &mut logits);
            bytes.clear();
            for v in &logits {
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
