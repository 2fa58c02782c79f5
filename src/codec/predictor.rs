//! The experts of every version of the engine.

use super::model::{Narrow, Wide};
use super::vocab::{VOCAB, Vocab};
use std::sync::Arc;

/// Version of what is coded beside a language model: 0 with [`Narrow`], 1 with [`Wide`] experts. Without
/// a model, the experts are narrow in every version.
pub const ENGINE: u16 = 1;

/// All that coder and decoder learn in step. Cloning it is how a primer is used.
#[derive(Debug, Clone)]
pub enum Predictor {
    /// Eight contexts.
    Narrow(Box<Narrow>),
    /// Sixteen.
    Wide(Box<Wide>),
}

/// The same of whichever they are.
macro_rules! either {
    ($predictor:expr, $experts:ident => $result:expr) => {
        match $predictor {
            $crate::codec::Predictor::Narrow($experts) => $result,
            $crate::codec::Predictor::Wide($experts) => $result,
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
        Self::Narrow(Box::new(Narrow::new(vocab, len, false)))
    }

    /// The same beside the language model that the vocabulary is of, in a version of the engine, at
    /// most [`ENGINE`].
    pub fn beside(vocab: &Arc<Vocab>, len: usize, engine: u16) -> Self {
        match engine {
            0 => Self::Narrow(Box::new(Narrow::new(vocab, len, true))),
            _ => Self::Wide(Box::new(Wide::new(vocab, len))),
        }
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
