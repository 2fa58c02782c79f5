//! A frame's plaintext, checked end to end: store, then block, then the plaintext hash.

use crate::block::{self, BlockError, Primer};
use crate::store::{Store, StoreError};
use crate::types::{Extent, FrameRef};

/// Why a frame's plaintext cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
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
    /// The primer it was coded with is not in the store.
    #[error("frame at segment {} offset {}: primer {primer} is missing", .frame.segment, .frame.offset)]
    NoPrimer {
        /// The frame.
        frame: FrameRef,
        /// The primer's id.
        primer: u64,
    },
}

/// Reads and decodes the whole frame of `extent`; `primer` must be the extent's, if it has one.
pub fn frame(
    store: &Store,
    extent: &Extent,
    primer: Option<&Primer>,
) -> Result<Vec<u8>, FetchError> {
    plain(store, extent.frame, primer)
}

/// Reads, decodes and readies the primer with this id, which `frame` was coded with.
pub fn primer(store: &Store, id: u64, frame: FrameRef) -> Result<Primer, FetchError> {
    let at = store.primer(id)?.ok_or(FetchError::NoPrimer { frame, primer: id })?;
    let f = store.read_frame(at)?;
    let primer = Primer::decode(f.form, &f.payload, f.plain_len)
        .map_err(|source| FetchError::Block { frame: at, source })?;
    let same = block::plain_hash(primer.plain()) == f.plain_hash;
    if same { Ok(primer) } else { Err(FetchError::Hash(at)) }
}

fn plain(store: &Store, at: FrameRef, primer: Option<&Primer>) -> Result<Vec<u8>, FetchError> {
    let f = store.read_frame(at)?;
    let bytes = block::decode(f.form, &f.payload, f.plain_len, primer)
        .map_err(|source| FetchError::Block { frame: at, source })?;
    if block::plain_hash(&bytes) == f.plain_hash { Ok(bytes) } else { Err(FetchError::Hash(at)) }
}
