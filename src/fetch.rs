//! A frame's plaintext, checked end to end: store, then block, then the plaintext hash.

use crate::block::{self, BlockError, Lm, Primer};
use crate::models::{ModelError, Pins};
use crate::store::{Frame, Store, StoreError};
use crate::types::{Extent, Form, FrameRef};
use std::sync::Arc;

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

impl From<ModelError> for FetchError {
    fn from(e: ModelError) -> Self {
        Self::Model(Box::new(e))
    }
}

impl FetchError {
    /// True if the frame that was asked for is not what it should be; the store tells of damage that
    /// it finds by itself.
    fn is_damage(&self) -> bool {
        let corrupt = |source: &BlockError| matches!(source, BlockError::Corrupt(_));
        match self {
            Self::Block { source, .. } => corrupt(source),
            Self::Hash(_) | Self::Other(_) => true,
            _ => false,
        }
    }
}

/// An open store and the models that its frames need.
#[derive(Debug)]
pub struct Fetcher {
    store: Arc<Store>,
    pins: Pins,
}

impl Fetcher {
    /// For an open store; `lm_gain` as in [`block::Tier`].
    pub fn new(store: Arc<Store>, lm_gain: f64) -> Self {
        let pins = Pins::new(Arc::clone(&store), lm_gain);
        Self { store, pins }
    }

    /// The store.
    pub fn store(&self) -> &Arc<Store> {
        &self.store
    }

    /// Its models.
    pub fn pins(&self) -> &Pins {
        &self.pins
    }

    /// Reads and decodes the whole frame of `extent`; `primer` must be the extent's, if it has one.
    pub fn frame(&self, extent: &Extent, primer: Option<&Primer>) -> Result<Vec<u8>, FetchError> {
        let at = extent.frame;
        let plain = self.plain(extent, primer);
        match &plain {
            Ok(_) => self.store.note_whole(at),
            Err(e) if e.is_damage() => self.store.note_damaged(at),
            Err(_) => {}
        }
        plain
    }

    fn plain(&self, extent: &Extent, primer: Option<&Primer>) -> Result<Vec<u8>, FetchError> {
        let at = extent.frame;
        let f = self.store.read_frame(at)?;
        let begins = extent.off.checked_sub(u64::from(extent.frame_off));
        if f.generation != extent.generation
            || f.plain_len != extent.plain_len
            || f.form != extent.form
            || begins != Some(f.off)
        {
            return Err(FetchError::Other(at));
        }
        let lm = self.model(&f)?;
        let bytes = block::decode(f.form, &f.payload, f.plain_len, primer, lm.as_deref())
            .map_err(|source| FetchError::Block { frame: at, source })?;
        if block::plain_hash(&bytes) == f.plain_hash {
            Ok(bytes)
        } else {
            Err(FetchError::Hash(at))
        }
    }

    /// Reads, decodes and readies the primer with this id, which `frame` was coded with.
    pub fn primer(&self, id: u64, frame: FrameRef) -> Result<Primer, FetchError> {
        let at = self.store.primer(id)?.ok_or(FetchError::NoPrimer { frame, primer: id })?;
        let f = self.store.read_frame(at)?;
        let lm = self.model(&f)?;
        let primer = Primer::decode(f.form, &f.payload, f.plain_len, lm.as_ref())
            .map_err(|source| FetchError::Block { frame: at, source })?;
        let same = block::plain_hash(primer.plain()) == f.plain_hash;
        if same { Ok(primer) } else { Err(FetchError::Hash(at)) }
    }

    fn model(&self, f: &Frame) -> Result<Option<Arc<Lm>>, FetchError> {
        Ok(if f.form == Form::Lm { Some(self.pins.lm(f.model)?) } else { None })
    }
}
