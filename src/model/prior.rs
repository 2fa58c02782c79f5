//! The file of a model whose only part beside its vocabulary is a prior. Specified in
//! `docs/format.md`, section 9.

use super::file::{FileError, In, MAGIC, Manifest, Out};
use crate::codec::prior::{Contexts, KINDS, LEAVES, Prior};
use crate::codec::{self, Predictor, Vocab};
use std::ops::Range;
use std::sync::Arc;

/// Format of a file that holds a prior.
pub const VERSION: u32 = 1;
/// Bytes of a block of a model with a prior.
pub const UNIT: u32 = 128 << 10;

/// What a prior codes to see that it does here what it did where it was made.
const SAMPLE: &[u8] = b"2024-02-29T12:00:01Z host app[42]: INFO request from 10.0.0.7 took 17 ms\n\
The quick brown fox jumps over the lazy dog, and nobody asked why it should have been otherwise.\n\
    for (i, x) in self.items.iter().enumerate() { if x.is_none() { return Err(i); } }\n\
\xe6\x96\x87\xe4\xbb\xb6\xe7\xb3\xbb\xe7\xbb\x9f\xe6\x98\xaf\xe4\xb8\x80\xe7\xa7\x8d\xe6\x96\xb9\xe6\xb3\x95\xe3\x80\x82\n";

/// A model with a prior, ready to code.
#[derive(Debug, Clone)]
pub struct PriorModel {
    /// Name, version, licence, source.
    pub manifest: Manifest,
    /// Its tokens and coding tree.
    pub vocab: Arc<Vocab>,
    /// What it knows.
    pub prior: Arc<Prior>,
    /// Contexts, and followers of all of them.
    pub size: (usize, usize),
}

/// Hash of the sample's code.
fn fingerprint(vocab: &Arc<Vocab>, prior: &Arc<Prior>) -> [u8; 32] {
    let mut predictor = Predictor::informed(vocab, SAMPLE.len(), prior);
    *blake3::hash(&codec::encode(SAMPLE, 1, &mut predictor, None).bytes).as_bytes()
}

/// The bytes of a file of a prior over the vocabulary whose file's bytes are given; `None` if it is no
/// vocabulary.
pub fn to_bytes(
    manifest: &Manifest,
    vocabulary: &[u8],
    kinds: &[Contexts; KINDS],
) -> Option<Vec<u8>> {
    let vocab = Vocab::from_bytes(vocabulary)?;
    let mut o = Out::default();
    o.0.extend_from_slice(&MAGIC);
    o.u32(VERSION);
    manifest.write(&mut o);
    o.u32(vocabulary.len() as u32);
    o.0.extend_from_slice(vocabulary);
    for kind in kinds {
        let packed = kind.pack();
        o.u32(packed.len() as u32);
        o.0.extend(packed);
    }
    o.0.extend(fingerprint(&vocab, &Arc::new(Prior::new(&vocab, kinds))));
    Some(o.0)
}

/// What a file holds, as training makes it.
#[derive(Debug)]
pub struct Unpacked {
    /// What the model says of itself.
    pub manifest: Manifest,
    /// Tokens and tree.
    pub vocab: Arc<Vocab>,
    /// Where the file has them.
    pub vocabulary: Range<usize>,
    /// The contexts of each kind.
    pub kinds: [Contexts; KINDS],
    /// Hash of the sample's code where the file was made.
    check: [u8; 32],
}

impl Unpacked {
    /// Reads a file's bytes, on several cores. Never panics; takes memory in proportion to `bytes`
    /// only.
    ///
    /// # Errors
    /// The file is none, or damaged.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, FileError> {
        let invalid = |what: &str| FileError::Invalid(what.into());
        let mut i = In { rest: bytes, section: "header" };
        if i.take(8).ok() != Some(&MAGIC) {
            return Err(FileError::Magic);
        }
        let found = i.u32()?;
        if found != VERSION {
            return Err(FileError::Version { what: "format", found, known: VERSION });
        }
        let manifest = Manifest::read(&mut i)?;
        i.section = "vocabulary";
        let n = i.u32()? as usize;
        let begin = bytes.len() - i.rest.len();
        let vocabulary = begin..begin.saturating_add(n);
        let vocab = Vocab::from_bytes(i.take(n)?).ok_or_else(|| invalid("vocabulary"))?;
        if vocab.size() > LEAVES {
            return Err(invalid("a prior is for vocabularies of at most 4,096 tokens"));
        }
        i.section = "prior";
        let mut packed = Vec::with_capacity(KINDS);
        for _ in 0..KINDS {
            let n = i.u32()? as usize;
            packed.push(i.take(n)?);
        }
        i.section = "check vector";
        let mut check = [0; 32];
        check.copy_from_slice(i.take(32)?);
        if !i.rest.is_empty() {
            return Err(FileError::Invalid(format!("{} bytes behind its end", i.rest.len())));
        }
        let kinds = std::thread::scope(|scope| {
            let unpack = |packed| move || Contexts::unpack(packed);
            let all: Vec<_> = packed.into_iter().map(|p| scope.spawn(unpack(p))).collect();
            all.into_iter().map(|t| t.join().ok().flatten()).collect::<Option<Vec<_>>>()
        });
        let kinds = kinds
            .and_then(|kinds| kinds.try_into().ok())
            .ok_or_else(|| invalid("the prior's table"))?;
        Ok(Self { manifest, vocab, vocabulary, kinds, check })
    }
}

impl PriorModel {
    /// Reads a file's bytes, as [`Unpacked::from_bytes`].
    ///
    /// # Errors
    /// The file is none, damaged, or computes something else here than where it was made.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, FileError> {
        let Unpacked { manifest, vocab, kinds, check, .. } = Unpacked::from_bytes(bytes)?;
        let prior = Arc::new(Prior::new(&vocab, &kinds));
        if fingerprint(&vocab, &prior) != check {
            let what = "the check text is not coded as where the model was made";
            return Err(FileError::Invalid(what.into()));
        }
        let size = kinds.iter().fold((0, 0), |(c, f), k| (c + k.len(), f + k.followers()));
        Ok(Self { manifest, vocab, prior, size })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::EMBEDDED;

    fn small() -> Vec<u8> {
        let mut kinds: [Contexts; KINDS] = std::array::from_fn(|_| Contexts::new(40));
        for (k, kind) in kinds.iter_mut().enumerate() {
            for n in 0..40_u32 {
                kind.push(n << 26 | k as u32, &[n as u16 * 16, n as u16 * 32 + 19, 65_000]);
            }
        }
        to_bytes(&Manifest { name: "small".into(), ..Manifest::default() }, EMBEDDED, &kinds)
            .unwrap()
    }

    #[test]
    fn what_is_written_is_read() {
        let bytes = small();
        let model = PriorModel::from_bytes(&bytes).unwrap();
        assert_eq!(model.manifest.name, "small");
        assert_eq!(model.size, (40 * KINDS, 120 * KINDS));
        assert_eq!(&bytes[Unpacked::from_bytes(&bytes).unwrap().vocabulary], EMBEDDED);
        assert!(Arc::ptr_eq(&model.vocab, &codec::VOCAB));
    }

    #[test]
    fn damaged_files_are_refused() {
        let bytes = small();
        for cut in (0..bytes.len()).step_by(977) {
            assert!(PriorModel::from_bytes(&bytes[..cut]).is_err(), "{cut}");
        }
        // In the tables, another prior is what a flipped bit makes: its code of the sample tells.
        for at in (bytes.len() - 700..bytes.len()).step_by(7) {
            let mut other = bytes.clone();
            other[at] ^= 4;
            // Contexts that the sample does not have may differ unseen; the file's id tells those.
            if let Ok(read) = PriorModel::from_bytes(&other) {
                assert_ne!(blake3::hash(&other), blake3::hash(&bytes));
                assert_eq!(read.manifest.name, "small");
            }
        }
        assert!(PriorModel::from_bytes(&[&bytes[..], b"x"].concat()).is_err());
        let mut later = bytes;
        later[8] = 7;
        assert!(matches!(PriorModel::from_bytes(&later), Err(FileError::Version { .. })));
    }
}
