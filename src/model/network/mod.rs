//! The network of a model's file: what is computed with its weights is its architecture's.

mod gated;
mod llama;
mod matrix;

pub use gated::{Gated, Layer as GatedLayer, Sizes};
pub use llama::{Hyper, Layer, Llama, ROPE_STEPS, Rope};
pub use matrix::Matrix;

use super::bytes::{FileError, In, Out};
use super::vocabulary::Vocabulary;

/// The numerics that the engine computes. Named in every model file and frame.
pub const NUMERICS: u32 = 0;
/// Elements that share one scale, in weights and activations.
pub const GROUP: usize = 64;
/// Largest weight, and key of attention. Four products with an activation fit 16 bits.
pub const WEIGHT_MAX: i8 = 64;
/// Architectures, as files number them.
const LLAMA: u32 = 0;
const GATED: u32 = 1;

/// A network as its file holds it.
#[derive(Debug, Clone)]
pub enum Network {
    /// Says how likely each token is.
    Llama(Llama),
    /// Says how decisions differ from what the experts foresee.
    Gated(Gated),
}

/// Tokens, and the hash of what the engine must compute for them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Golden {
    /// Input, from the start token.
    pub tokens: Vec<u32>,
    /// See [`super::engine::fingerprint`].
    pub hash: [u8; 32],
}

impl Golden {
    fn write(&self, o: &mut Out) {
        o.u16(self.tokens.len() as u16);
        for t in &self.tokens {
            o.u32(*t);
        }
        o.0.extend_from_slice(&self.hash);
    }

    /// Reads one of tokens below `tokens`.
    fn read(i: &mut In<'_>, tokens: u32) -> Result<Self, FileError> {
        i.section = "network's check vector";
        let n = i.u16()? as usize;
        let given: Vec<u32> = i.words(n)?.collect();
        if let Some(t) = given.iter().find(|t| **t >= tokens) {
            return Err(FileError::Invalid(format!("check vector has token {t}")));
        }
        Ok(Self { tokens: given, hash: i.hash()? })
    }
}

impl Network {
    pub(super) fn write(&self, o: &mut Out) {
        let architecture = match self {
            Self::Llama(_) => LLAMA,
            Self::Gated(_) => GATED,
        };
        o.u32(architecture);
        o.u32(NUMERICS);
        match self {
            Self::Llama(n) => n.write(o),
            Self::Gated(n) => n.write(o),
        }
    }

    pub(super) fn read(i: &mut In<'_>, vocabulary: &Vocabulary) -> Result<Self, FileError> {
        i.section = "hyper-parameters";
        let architecture = i.u32()?;
        let numerics = i.u32()?;
        FileError::unless("numerics", numerics, NUMERICS)?;
        let tokens = vocabulary.tokenizer.len() as u32;
        match architecture {
            LLAMA => Llama::read(i, tokens).map(Self::Llama),
            GATED => Gated::read(i, tokens, vocabulary.tree.nodes().len() as u32).map(Self::Gated),
            found => Err(FileError::Version { what: "architecture", found, known: GATED }),
        }
    }

    /// Number of weights.
    pub fn parameters(&self) -> u64 {
        match self {
            Self::Llama(n) => n.parameters(),
            Self::Gated(n) => n.parameters(),
        }
    }

    /// Its name.
    pub fn architecture(&self) -> &'static str {
        match self {
            Self::Llama(_) => "llama",
            Self::Gated(_) => "gated",
        }
    }
}
