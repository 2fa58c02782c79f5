//! Language models: canonical files, tokenizer, exact engine, import, training.
//!
//! A model is one content-addressed file, whose id is the BLAKE3 of its bytes. It holds a network
//! ([`file`]), which [`engine`] runs with the same bits on every machine and [`import`] makes from other
//! formats; or a prior ([`prior`]), which [`train`] counts.

pub mod corpus;
pub mod engine;
pub mod file;
#[cfg(feature = "import")]
pub mod import;
pub mod measured;
pub mod parts;
pub mod prior;
pub mod registry;
pub mod texts;
pub mod tokenizer;
pub mod train;
pub mod tree;
#[cfg(feature = "import")]
pub mod tune;

pub use corpus::{Corpus, CorpusError};
pub use engine::{Engine, EngineError, Input, Isa, Session};
pub use file::{FileError, Model};
pub use parts::Parts;
pub use prior::PriorModel;
pub use registry::{Registry, RegistryError};
pub use tokenizer::Tokenizer;
pub use tree::Tree;
