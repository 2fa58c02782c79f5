//! Checkpoints: what an interrupted training goes on from.
//!
//! One file, written beside the old one and renamed over it, so that there is always a whole one:
//! magic, a key of what is trained on what, seconds and steps so far, weights, BLAKE3 of it all.

use std::io::Write;
use std::path::{Path, PathBuf};

const MAGIC: [u8; 8] = *b"LMFSTUN0";

/// How far training has come.
#[derive(Debug, Clone, PartialEq)]
pub struct State {
    /// Stands for base, corpus and settings: another key is another training.
    pub key: [u8; 32],
    /// Seconds trained.
    pub seconds: f64,
    /// Steps taken.
    pub steps: u64,
    /// All weights one behind the other.
    pub weights: Vec<f32>,
}

impl State {
    fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(4 * self.weights.len() + 96);
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(&self.key);
        out.extend_from_slice(&self.seconds.to_bits().to_le_bytes());
        out.extend_from_slice(&self.steps.to_le_bytes());
        out.extend_from_slice(&(self.weights.len() as u64).to_le_bytes());
        for w in &self.weights {
            out.extend_from_slice(&w.to_bits().to_le_bytes());
        }
        let hash = blake3::hash(&out);
        out.extend_from_slice(hash.as_bytes());
        out
    }

    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (body, hash) = bytes.split_at_checked(bytes.len().checked_sub(32)?)?;
        if blake3::hash(body).as_bytes() != hash {
            return None;
        }
        let (head, weights) = body.split_at_checked(64)?;
        let number = |at: usize| Some(u64::from_le_bytes(*head.get(at..)?.first_chunk()?));
        if head.first_chunk() != Some(&MAGIC) || number(56)? != weights.len() as u64 / 4 {
            return None;
        }
        let weights = weights.chunks_exact(4);
        Some(Self {
            key: *head.get(8..)?.first_chunk()?,
            seconds: f64::from_bits(number(40)?),
            steps: number(48)?,
            weights: weights.map(|w| f32::from_le_bytes([w[0], w[1], w[2], w[3]])).collect(),
        })
    }

    /// The checkpoint in this file, if there is a whole one.
    pub fn load(path: &Path) -> Option<Self> {
        let bytes = std::fs::read(path).ok()?;
        let state = Self::from_bytes(&bytes);
        if state.is_none() {
            log::warn!("{}: not a whole checkpoint; it is not used", path.display());
        }
        state
    }

    /// Puts the checkpoint in the place of the old one, or leaves the old one as it is.
    pub fn save(&self, path: &Path) -> std::io::Result<()> {
        let mut partial = path.as_os_str().to_owned();
        partial.push(".new");
        let partial = PathBuf::from(partial);
        let written = std::fs::File::create(&partial).and_then(|mut f| {
            f.write_all(&self.to_bytes())?;
            f.sync_all()?;
            std::fs::rename(&partial, path)
        });
        if written.is_err() {
            let _ = std::fs::remove_file(&partial);
        }
        written
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state() -> State {
        State {
            key: [7; 32],
            seconds: 61.5,
            steps: 40,
            weights: vec![1.0, -0.25, f32::MIN_POSITIVE],
        }
    }

    #[test]
    fn a_state_comes_back_and_a_torn_one_does_not() {
        let bytes = state().to_bytes();
        assert_eq!(State::from_bytes(&bytes), Some(state()));
        for cut in 0..bytes.len() {
            assert_eq!(State::from_bytes(&bytes[..cut]), None);
        }
        for at in 0..bytes.len() {
            let mut bad = bytes.clone();
            bad[at] ^= 4;
            assert_eq!(State::from_bytes(&bad), None);
        }
    }

    #[test]
    fn what_cannot_be_written_leaves_the_old_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state");
        state().save(&path).unwrap();
        // The new one's place is taken by a directory.
        let partial = format!("{}.new", path.display());
        std::fs::create_dir(&partial).unwrap();
        assert!(State { steps: 41, ..state() }.save(&path).is_err());
        assert_eq!(State::load(&path), Some(state()));
    }
}
