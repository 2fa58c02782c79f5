//! The prior of a model's file.

use super::bytes::{FileError, In, Out};
use super::vocabulary::Vocabulary;
use crate::codec::prior::{Contexts, KINDS, LEAVES, Prior};
use crate::codec::{self, Company, Predictor, Vocab};
use std::sync::Arc;

/// What a prior codes to see that it does here what it did where it was made.
const SAMPLE: &[u8] = b"2024-02-29T12:00:01Z host app[42]: INFO request from 10.0.0.7 took 17 ms\n\
The quick brown fox jumps over the lazy dog, and nobody asked why it should have been otherwise.\n\
    for (i, x) in self.items.iter().enumerate() { if x.is_none() { return Err(i); } }\n\
\xe6\x96\x87\xe4\xbb\xb6\xe7\xb3\xbb\xe7\xbb\x9f\xe6\x98\xaf\xe4\xb8\x80\xe7\xa7\x8d\xe6\x96\xb9\xe6\xb3\x95\xe3\x80\x82\n";

/// What was counted: a prior as training makes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Counted {
    /// The contexts of each kind.
    pub kinds: [Contexts; KINDS],
    /// Hash of the sample's code where this was counted.
    check: [u8; 32],
}

/// Hash of the sample's code.
fn fingerprint(vocab: &Arc<Vocab>, prior: &Arc<Prior>) -> [u8; 32] {
    let mut predictor = Predictor::informed(vocab, SAMPLE.len(), prior, Company::None);
    *blake3::hash(&codec::encode(SAMPLE, 1, &mut predictor, None).bytes).as_bytes()
}

impl Counted {
    /// From the contexts of each kind, counted over this vocabulary.
    pub fn new(vocab: &Arc<Vocab>, kinds: [Contexts; KINDS]) -> Self {
        let check = fingerprint(vocab, &Arc::new(Prior::new(vocab, &kinds)));
        Self { kinds, check }
    }

    /// True if a prior can be for a vocabulary of so many tokens.
    pub fn fits(vocabulary: &Vocabulary) -> bool {
        vocabulary.tokenizer.len() <= LEAVES
    }

    /// Ready to code.
    ///
    /// # Errors
    /// It computes something else here than where it was counted.
    pub fn ready(&self, vocab: &Arc<Vocab>) -> Result<Arc<Prior>, FileError> {
        let prior = Arc::new(Prior::new(vocab, &self.kinds));
        if fingerprint(vocab, &prior) == self.check {
            return Ok(prior);
        }
        let what = "the check text is not coded as where the model was made";
        Err(FileError::Invalid(what.into()))
    }

    /// Contexts, and followers of all of them.
    pub fn size(&self) -> (usize, usize) {
        self.kinds.iter().fold((0, 0), |(c, f), k| (c + k.len(), f + k.followers()))
    }

    pub(super) fn write(&self, o: &mut Out) {
        for kind in &self.kinds {
            let packed = kind.pack();
            o.u32(packed.len() as u32);
            o.0.extend(packed);
        }
        o.0.extend(self.check);
    }

    pub(super) fn read(i: &mut In<'_>, vocabulary: &Vocabulary) -> Result<Self, FileError> {
        if !Self::fits(vocabulary) {
            let what = format!("a prior is for vocabularies of at most {LEAVES} tokens");
            return Err(FileError::Invalid(what));
        }
        i.section = "prior";
        let mut packed = Vec::with_capacity(KINDS);
        for _ in 0..KINDS {
            let n = i.u32()? as usize;
            packed.push(i.take(n)?);
        }
        i.section = "prior's check vector";
        let check = i.hash()?;
        let kinds = std::thread::scope(|scope| {
            let unpack = |packed| move || Contexts::unpack(packed);
            let all: Vec<_> = packed.into_iter().map(|p| scope.spawn(unpack(p))).collect();
            all.into_iter().map(|t| t.join().ok().flatten()).collect::<Option<Vec<_>>>()
        });
        let kinds = kinds
            .and_then(|kinds| kinds.try_into().ok())
            .ok_or_else(|| FileError::Invalid("the prior's table".into()))?;
        Ok(Self { kinds, check })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::tokenizer::PreTokenizer;
    use crate::model::{Blocks, Manifest, Model, Tokenizer, Tree};

    fn small() -> Model {
        let mut kinds: [Contexts; KINDS] = std::array::from_fn(|_| Contexts::new(40));
        for (k, kind) in kinds.iter_mut().enumerate() {
            for n in 0..40_u32 {
                kind.push(n << 26 | k as u32, &[n as u16 * 16, n as u16 * 32 + 19, 65_000]);
            }
        }
        let vocabulary = Vocabulary::built_in();
        Model {
            manifest: Manifest { name: "small".into(), ..Manifest::default() },
            blocks: Blocks::ALONE,
            prior: Some(Counted::new(&vocabulary.ready(), kinds)),
            vocabulary,
            network: None,
        }
    }

    #[test]
    fn what_is_written_is_read() {
        let bytes = small().to_bytes();
        let model = Model::from_bytes(&bytes).unwrap();
        assert_eq!(model.manifest.name, "small");
        assert_eq!((&model.prior, model.parameters()), (&small().prior, 120 * KINDS as u64));
        let prior = model.prior.as_ref().unwrap();
        assert_eq!(prior.size(), (40 * KINDS, 120 * KINDS));
        assert!(prior.ready(&model.vocabulary.ready()).is_ok());
        assert_eq!(model.to_bytes(), bytes);
    }

    #[test]
    fn damaged_files_are_refused() {
        let bytes = small().to_bytes();
        for cut in (0..bytes.len()).step_by(977) {
            assert!(Model::from_bytes(&bytes[..cut]).is_err(), "{cut}");
        }
        // In the tables, another prior is what a flipped bit makes: its code of the sample tells.
        for at in (bytes.len() - 700..bytes.len()).step_by(7) {
            let mut other = bytes.clone();
            other[at] ^= 4;
            // Contexts that the sample does not have may differ unseen; the file's id tells those.
            if let Ok(read) = Model::from_bytes(&other)
                && read.prior.as_ref().unwrap().ready(&read.vocabulary.ready()).is_ok()
            {
                assert_ne!(blake3::hash(&other), blake3::hash(&bytes));
                assert_eq!(read.manifest.name, "small");
            }
        }
        let mut other = bytes.clone();
        *other.last_mut().unwrap() ^= 1;
        let read = Model::from_bytes(&other).unwrap();
        let e = read.prior.unwrap().ready(&read.vocabulary.ready()).unwrap_err();
        assert!(e.to_string().contains("check text"), "{e}");
        assert!(Model::from_bytes(&[&bytes[..], b"x"].concat()).is_err());
        // A vocabulary that leaves do not tell apart.
        let mut tokens: Vec<Vec<u8>> = (0..=255_u8).map(|b| vec![b]).collect();
        tokens.extend((0..LEAVES as u16).map(|n| n.to_le_bytes().to_vec()));
        let mut other = small();
        let weights: Vec<_> = (0..tokens.len() as u32).map(|t| (t, 1)).collect();
        other.vocabulary = Vocabulary {
            tokenizer: Tokenizer::new(PreTokenizer::Longest, &tokens, Vec::new()).unwrap(),
            tree: Tree::huffman(&weights),
        };
        let e = Model::from_bytes(&other.to_bytes()).unwrap_err().to_string();
        assert!(e.contains("at most 4096 tokens"), "{e}");
        // Other formats, older and newer, other parts, and none.
        for (at, v, what) in [(8, 0, "anew"), (8, 7, "newer"), (12, 5, "newer"), (12, 0, "neither")]
        {
            let mut other = bytes.clone();
            other[at] = v;
            let e = Model::from_bytes(&other).unwrap_err().to_string();
            assert!(e.contains(what), "{e}");
        }
    }
}
