//! What a model's file holds beside its vocabulary: a network or a prior.

use super::file::{self, FileError, MAGIC, Manifest, Model};
use super::prior::{self, PriorModel};

/// A model of either kind.
#[derive(Debug)]
pub enum Parts {
    /// A network, with its tokenizer.
    Network(Box<Model>),
    /// A prior.
    Prior(PriorModel),
}

impl Parts {
    /// Reads a canonical file of either kind.
    ///
    /// # Errors
    /// As [`Model::from_bytes`] and [`PriorModel::from_bytes`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, FileError> {
        let format = bytes.strip_prefix(&MAGIC).and_then(|rest| rest.first_chunk());
        match format.map(|f| u32::from_le_bytes(*f)) {
            Some(prior::VERSION) => Ok(Self::Prior(PriorModel::from_bytes(bytes)?)),
            Some(found) if found > prior::VERSION => {
                Err(FileError::Version { what: "format", found, known: prior::VERSION })
            }
            _ => Ok(Self::Network(Box::new(Model::from_bytes(bytes)?))),
        }
    }

    /// What it is and where it comes from.
    pub fn manifest(&self) -> &Manifest {
        match self {
            Self::Network(model) => &model.manifest,
            Self::Prior(model) => &model.manifest,
        }
    }

    /// Version of the engine's numerics.
    pub fn numerics(&self) -> u32 {
        match self {
            Self::Network(_) => super::engine::NUMERICS,
            Self::Prior(_) => 0,
        }
    }

    /// Weights of the network, or counts of the prior.
    pub fn parameters(&self) -> u64 {
        match self {
            Self::Network(model) => file::parameters(model),
            Self::Prior(model) => model.followers as u64,
        }
    }
}
