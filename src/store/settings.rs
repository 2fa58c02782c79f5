//! What a store was made with, for those who keep sums over it.

use super::api::{Ecc, Superblock};
use super::repair::ecc::rs::Code;
use crate::types::OFF;

/// What the sums over a table depend on.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// Error-correcting code of frames.
    pub code: Code,
    /// Bytes of a block.
    pub block: u32,
    /// Files without a model of their own are kept uncoded.
    pub off: bool,
}

impl Settings {
    /// Those of a store.
    pub fn of(superblock: &Superblock) -> Self {
        Self {
            code: code(superblock.ecc),
            block: superblock.block_size.max(1),
            off: superblock.model.as_bytes() == OFF,
        }
    }
}

/// The error-correcting code of frames at a level.
pub fn code(ecc: Ecc) -> Code {
    match ecc {
        Ecc::None => Code::None,
        Ecc::Standard => Code::Two,
        Ecc::Archival => Code::Four,
    }
}
