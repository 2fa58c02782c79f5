//! Language models: canonical files, tokenizer, exact engine, import.
//!
//! A model is one content-addressed file ([`file`]); its id is the BLAKE3 of its bytes. [`engine`]
//! runs it with the same bits on every machine; [`import`] makes it from other formats.

pub mod engine;
pub mod file;
#[cfg(feature = "import")]
pub mod import;
pub mod registry;
pub mod tokenizer;
pub mod tree;
#[cfg(feature = "import")]
pub mod tune;

pub use engine::{Engine, EngineError, Input, Isa, Session};
pub use file::{FileError, Model};
pub use registry::{Registry, RegistryError};
pub use tokenizer::Tokenizer;
pub use tree::Tree;
