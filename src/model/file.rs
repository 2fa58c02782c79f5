//! The canonical model file: one byte string for one model. Specified in `docs/format.md`, section 9.
//!
//! Reading trusts nothing: every size is checked against the bytes that are there before memory is
//! taken for it.

use super::bytes::{FileError, In, Out};
use super::network::Network;
use super::prior::Counted;
use super::vocabulary::Vocabulary;

/// First bytes of a model file.
pub const MAGIC: [u8; 8] = *b"LMFSMODL";
/// Format of the file.
pub const VERSION: u32 = 2;
/// Bits of the parts that a file has beside its vocabulary.
const PRIOR: u32 = 1;
const NETWORK: u32 = 2;

/// What a model is and where it comes from.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Manifest {
    /// Name, as users say it.
    pub name: String,
    /// Version of the model.
    pub version: String,
    /// Licence (SPDX expression where known).
    pub licence: String,
    /// What it was imported from.
    pub source: String,
}

/// How a text is cut for coding, where nobody says otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Blocks {
    /// Bytes of a block.
    pub unit: u32,
    /// Lanes of a block; without a network there is one.
    pub lanes: u32,
}

impl Blocks {
    /// What suits a model without a network.
    pub const ALONE: Self = Self { unit: 256 << 10, lanes: 1 };

    /// Checks ranges: blocks that no container takes would be written and never read.
    pub fn check(self) -> Result<(), FileError> {
        FileError::within("unit", self.unit, 1 << 10, 4 << 20)?;
        FileError::within("number of lanes", self.lanes, 1, 256)
    }
}

/// A model as its file holds it, and as training makes it: a vocabulary, and at least one of the
/// other parts.
#[derive(Debug, Clone)]
pub struct Model {
    /// Name, version, licence, source.
    pub manifest: Manifest,
    /// How a text is cut for coding.
    pub blocks: Blocks,
    /// Tokens and coding tree, which the other parts are for.
    pub vocabulary: Vocabulary,
    /// What was counted.
    pub prior: Option<Counted>,
    /// What was trained.
    pub network: Option<Network>,
}

impl Manifest {
    fn write(&self, o: &mut Out) {
        for s in [&self.name, &self.version, &self.licence, &self.source] {
            o.text(s);
        }
    }

    fn read(i: &mut In<'_>) -> Result<Self, FileError> {
        i.section = "manifest";
        Ok(Self { name: i.text()?, version: i.text()?, licence: i.text()?, source: i.text()? })
    }
}

impl Model {
    /// The file's bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut o = Out::default();
        o.0.extend_from_slice(&MAGIC);
        o.u32(VERSION);
        let prior = if self.prior.is_some() { PRIOR } else { 0 };
        let network = if self.network.is_some() { NETWORK } else { 0 };
        o.u32(prior | network);
        self.manifest.write(&mut o);
        o.u32(self.blocks.unit);
        o.u32(self.blocks.lanes);
        self.vocabulary.write(&mut o);
        if let Some(prior) = &self.prior {
            prior.write(&mut o);
        }
        if let Some(network) = &self.network {
            network.write(&mut o);
        }
        o.0
    }

    /// Reads a file's bytes, on several cores. Never panics; takes memory in proportion to `bytes` only.
    /// That it computes here what it must is another matter: see [`Counted::ready`] and
    /// [`super::engine::fingerprint`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, FileError> {
        let mut i = In { rest: bytes, section: "header" };
        if i.take(8).ok() != Some(&MAGIC) {
            return Err(FileError::Magic);
        }
        FileError::unless("format", i.u32()?, VERSION)?;
        let parts = i.u32()?;
        if parts == 0 {
            return Err(FileError::Invalid("neither a prior nor a network".into()));
        }
        if parts & !(PRIOR | NETWORK) != 0 {
            return Err(FileError::Version { what: "parts", found: parts, known: PRIOR | NETWORK });
        }
        let manifest = Manifest::read(&mut i)?;
        i.section = "blocks";
        let blocks = Blocks { unit: i.u32()?, lanes: i.u32()? };
        blocks.check()?;
        let vocabulary = Vocabulary::read(&mut i)?;
        let prior = match parts & PRIOR {
            0 => None,
            _ => Some(Counted::read(&mut i, &vocabulary)?),
        };
        let network = match parts & NETWORK {
            0 => None,
            _ => Some(Network::read(&mut i, &vocabulary)?),
        };
        if prior.is_none() && matches!(network, Some(Network::Gated(_))) {
            return Err(FileError::Invalid(
                "a gated network without a prior to stand beside".into(),
            ));
        }
        if !i.rest.is_empty() {
            return Err(FileError::Invalid(format!("{} bytes behind its end", i.rest.len())));
        }
        Ok(Self { manifest, blocks, vocabulary, prior, network })
    }

    /// Counts of the prior and weights of the network.
    pub fn parameters(&self) -> u64 {
        self.prior.as_ref().map_or(0, |p| p.size().1 as u64)
            + self.network.as_ref().map_or(0, Network::parameters)
    }
}
