//! Why a block cannot be read.

use crate::block::BlockError;
use crate::models::ModelError;
use crate::store::StoreError;
use crate::types::FrameRef;

/// Why a frame's plaintext cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The store could not hand out the frame.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Its payload does not decode.
    #[error("frame at segment {} offset {}: {source}", .frame.segment, .frame.offset)]
    Block {
        /// The frame.
        frame: FrameRef,
        /// What the decoder said.
        #[source]
        source: BlockError,
    },
    /// It decodes, but not to what was written.
    #[error("frame at segment {} offset {}: plaintext hash differs", .0.segment, .0.offset)]
    Hash(FrameRef),
    /// It is whole, but not the one that the extent means.
    #[error("frame at segment {} offset {}: it holds something else", .0.segment, .0.offset)]
    Other(FrameRef),
    /// The primer it was coded with is not in the store.
    #[error("frame at segment {} offset {}: primer {primer} is missing", .frame.segment, .frame.offset)]
    NoPrimer {
        /// The frame.
        frame: FrameRef,
        /// The primer's id.
        primer: u64,
    },
    /// The language model it was coded with does not run.
    #[error(transparent)]
    Model(Box<ModelError>),
}

impl From<ModelError> for ReadError {
    fn from(e: ModelError) -> Self {
        Self::Model(Box::new(e))
    }
}

impl ReadError {
    /// True if the frame that was asked for is not what it should be; the store tells of damage that
    /// it finds by itself.
    pub(super) fn is_damage(&self) -> bool {
        let corrupt = |source: &BlockError| matches!(source, BlockError::Corrupt(_));
        match self {
            Self::Block { source, .. } => corrupt(source),
            Self::Hash(_) | Self::Other(_) => true,
            _ => false,
        }
    }
}
