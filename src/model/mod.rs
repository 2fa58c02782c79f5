//! Language models: canonical files, tokenizer, exact engine, import, training.
//!
//! A model is one content-addressed file ([`file`]), whose id is the BLAKE3 of its bytes. It holds a
//! [`vocabulary`] and, for it, a [`prior`], which [`train`] counts, or a [`network`], which [`engine`] runs
//! with the same bits on every machine and [`import`] makes from other formats, or both.

mod bytes;
pub mod corpus;
pub mod engine;
pub mod file;
#[cfg(feature = "import")]
pub mod import;
pub mod measured;
pub mod network;
pub mod prior;
pub mod registry;
pub mod texts;
pub mod tokenizer;
pub mod train;
pub mod tree;
#[cfg(feature = "import")]
pub mod tune;
pub mod vocabulary;

pub use bytes::FileError;
pub use corpus::{Corpus, CorpusError};
pub use engine::{Engine, EngineError, Input, Isa, Session};
pub use file::{Blocks, Manifest, Model};
pub use network::Network;
pub use prior::Counted;
pub use registry::{Registry, RegistryError};
pub use tokenizer::Tokenizer;
pub use tree::Tree;
pub use vocabulary::Vocabulary;
