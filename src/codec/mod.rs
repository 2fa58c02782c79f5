//! Token stream to bits and back: tree, mixer, experts, match model, range coder. Integers only.

pub mod token_model;

pub use token_model::{Token, TokenModel};
