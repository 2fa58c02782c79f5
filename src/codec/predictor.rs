//! The experts, whatever stands beside them.

use super::experts::{Informed, Narrow, Wide};
use super::prior::Prior;
use super::start;
use super::token_model::Company;
use super::vocab::{VOCAB, Vocab};
use std::sync::Arc;

/// Version of what is coded, with a model or without one.
pub const ENGINE: u16 = 2;

/// All that coder and decoder learn in step. Cloning it is how a primer is used.
#[derive(Debug, Clone)]
pub enum Predictor {
    /// Eight contexts.
    Narrow(Box<Narrow>),
    /// Sixteen.
    Wide(Box<Wide>),
    /// Sixteen and a prior.
    Informed(Box<Informed>),
}

/// The same of whichever they are.
macro_rules! either {
    ($predictor:expr, $experts:ident => $result:expr) => {
        match $predictor {
            $crate::codec::Predictor::Narrow($experts) => $result,
            $crate::codec::Predictor::Wide($experts) => $result,
            $crate::codec::Predictor::Informed($experts) => $result,
        }
    };
}
pub(super) use either;

impl Default for Predictor {
    fn default() -> Self {
        Self::new(usize::MAX)
    }
}

impl Predictor {
    /// Knows nothing of the text, which will be `len` bytes long. Coder and decoder must say the
    /// same.
    pub fn new(len: usize) -> Self {
        Self::over(&VOCAB, len)
    }

    /// The same for another vocabulary.
    pub fn over(vocab: &Arc<Vocab>, len: usize) -> Self {
        Self::Narrow(Box::new(Narrow::new(vocab, len)))
    }

    /// The same beside the language model that the vocabulary is of.
    pub fn beside(vocab: &Arc<Vocab>, len: usize) -> Self {
        Self::Wide(Box::new(Wide::new(vocab, len)))
    }

    /// The same beside a prior, and maybe beside a network too.
    pub fn informed(vocab: &Arc<Vocab>, len: usize, prior: &Arc<Prior>, network: Company) -> Self {
        Self::Informed(Box::new(start::informed(vocab, len, prior, network)))
    }

    /// The vocabulary whose tokens it predicts.
    pub fn vocab(&self) -> &Arc<Vocab> {
        either!(self, experts => experts.vocab())
    }

    /// Memory held, in bytes.
    pub fn weight(&self) -> usize {
        either!(self, experts => experts.weight())
    }
}
