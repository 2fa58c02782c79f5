//! Fixed-width little-endian values: how a model's file is written and read.

use super::tokenizer::TokenizerError;

/// Why a model file is refused.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// It does not start like a model file.
    #[error("not an lmfs model file")]
    Magic,
    /// Another version wrote it.
    #[error(
        "model file {what} {found} is not known to this version (it knows {known}): {}",
        if found > known { "use a newer lmfs" } else { "make the model anew with this one" }
    )]
    Version {
        /// Which number: format, architecture or numerics.
        what: &'static str,
        /// In the file.
        found: u32,
        /// The one of this build.
        known: u32,
    },
    /// It ends too early.
    #[error("model file ends inside {0}")]
    Truncated(&'static str),
    /// Something in it cannot be.
    #[error("model file is damaged or hostile: {0}")]
    Invalid(String),
    /// Its tokenizer cannot work.
    #[error("model file's tokenizer: {0}")]
    Tokenizer(#[from] TokenizerError),
}

impl FileError {
    /// Only the known version of something will do.
    pub(super) fn unless(what: &'static str, found: u32, known: u32) -> Result<(), Self> {
        if found == known { Ok(()) } else { Err(Self::Version { what, found, known }) }
    }

    /// Only numbers within bounds will do.
    pub(super) fn within(name: &str, v: u32, low: u32, high: u32) -> Result<(), Self> {
        if (low..=high).contains(&v) {
            Ok(())
        } else {
            Err(Self::Invalid(format!("{name} is {v}, not within {low}..={high}")))
        }
    }
}

/// Appends values.
#[derive(Default)]
pub(super) struct Out(pub(super) Vec<u8>);

impl Out {
    pub(super) fn u16(&mut self, v: u16) {
        self.0.extend_from_slice(&v.to_le_bytes());
    }

    pub(super) fn u32(&mut self, v: u32) {
        self.0.extend_from_slice(&v.to_le_bytes());
    }

    pub(super) fn text(&mut self, s: &str) {
        let cut = (0..=s.len().min(65_535)).rev().find(|i| s.is_char_boundary(*i)).unwrap_or(0);
        self.u16(cut as u16);
        self.0.extend_from_slice(&s.as_bytes()[..cut]);
    }

    pub(super) fn floats(&mut self, v: &[f32]) {
        for f in v {
            self.u32(f.to_bits());
        }
    }
}

/// Reads what [`Out`] wrote, never past the end.
pub(super) struct In<'a> {
    pub(super) rest: &'a [u8],
    /// What is being read, for errors.
    pub(super) section: &'static str,
}

impl<'a> In<'a> {
    pub(super) fn take(&mut self, n: usize) -> Result<&'a [u8], FileError> {
        let (head, rest) =
            self.rest.split_at_checked(n).ok_or(FileError::Truncated(self.section))?;
        self.rest = rest;
        Ok(head)
    }

    pub(super) fn u8(&mut self) -> Result<u8, FileError> {
        Ok(self.take(1)?[0])
    }

    pub(super) fn u16(&mut self) -> Result<u16, FileError> {
        let b = self.take(2)?;
        Ok(u16::from_le_bytes([b[0], b[1]]))
    }

    pub(super) fn u32(&mut self) -> Result<u32, FileError> {
        let b = self.take(4)?;
        Ok(u32::from_le_bytes([b[0], b[1], b[2], b[3]]))
    }

    pub(super) fn words(
        &mut self,
        n: usize,
    ) -> Result<impl Iterator<Item = u32> + use<'a>, FileError> {
        let bytes = n.checked_mul(4).ok_or(FileError::Truncated(self.section))?;
        let b = self.take(bytes)?;
        Ok(b.chunks_exact(4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]])))
    }

    pub(super) fn text(&mut self) -> Result<String, FileError> {
        let n = self.u16()? as usize;
        let section = self.section;
        String::from_utf8(self.take(n)?.to_vec())
            .map_err(|_| FileError::Invalid(format!("{section} is not UTF-8")))
    }

    pub(super) fn floats(&mut self, n: usize) -> Result<Vec<f32>, FileError> {
        let v: Vec<f32> = self.words(n)?.map(f32::from_bits).collect();
        if v.iter().all(|f| f.is_finite()) {
            Ok(v)
        } else {
            Err(FileError::Invalid(format!("{} has a number that is not finite", self.section)))
        }
    }

    pub(super) fn hash(&mut self) -> Result<[u8; 32], FileError> {
        let mut hash = [0; 32];
        hash.copy_from_slice(self.take(32)?);
        Ok(hash)
    }
}
