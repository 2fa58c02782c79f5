//! The canonical model file: one byte string for one model. Specified in `docs/format.md`, section 9.
//!
//! Reading trusts nothing: every size is checked against the bytes that are there before memory is
//! taken for it.

use super::engine::{GROUP, NUMERICS, ROPE_STEPS, Rope, WEIGHT_MAX};
use super::tokenizer::{Merge, PreTokenizer, Tokenizer, TokenizerError};
use super::tree::Tree;

/// First bytes of a model file.
pub const MAGIC: [u8; 8] = *b"LMFSMODL";
/// Format of a file that holds a network; that of one with a prior is in [`super::prior`].
pub const VERSION: u32 = 0;
/// Flag of a model whose head is its embedding.
const TIED: u32 = 1;
/// Flag of a model with sinks, whose number follows.
const SINKS: u32 = 2;

/// Why a model file is refused.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// It does not start like a model file.
    #[error("not an lmfs model file")]
    Magic,
    /// A later version wrote it.
    #[error(
        "model file {what} {found} is not known to this version (it knows {known}): use a newer lmfs"
    )]
    Version {
        /// Which number: format or numerics.
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

/// Hyper-parameters.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Hyper {
    /// Tokens with an embedding.
    pub vocab: u32,
    /// Width of the residual stream.
    pub hidden: u32,
    /// Layers.
    pub layers: u32,
    /// Query heads.
    pub heads: u32,
    /// Key-value heads; divides `heads`.
    pub kv_heads: u32,
    /// Width of a head: a multiple of 16, at most 256.
    pub head_dim: u32,
    /// Width of the feed-forward layer.
    pub feed_forward: u32,
    /// Positions that attention sees, its own included.
    pub window: u32,
    /// First positions of a lane that it sees as well, however old: a multiple of 16, up to 256.
    pub sinks: u32,
    /// Token that starts every lane.
    pub start: u32,
    /// Bytes of a default block.
    pub unit: u32,
    /// Lanes of a default block.
    pub lanes: u32,
    /// Added to the mean square in norms.
    pub eps: f32,
}

impl Hyper {
    /// Checks ranges, so that no later product of sizes overflows or surprises.
    pub fn check(&self) -> Result<(), FileError> {
        let within = |name: &str, v: u32, low: u32, high: u32| {
            if (low..=high).contains(&v) {
                Ok(())
            } else {
                Err(FileError::Invalid(format!("{name} is {v}, not within {low}..={high}")))
            }
        };
        within("vocabulary", self.vocab, 256, 1 << 16)?;
        within("hidden size", self.hidden, 16, 1 << 14)?;
        within("number of layers", self.layers, 1, 512)?;
        within("number of heads", self.heads, 1, 512)?;
        within("number of key-value heads", self.kv_heads, 1, self.heads)?;
        within("head size", self.head_dim, 16, 256)?;
        within("feed-forward size", self.feed_forward, 16, 1 << 16)?;
        within("window", self.window, 1, 1 << 15)?;
        within("number of sinks", self.sinks, 0, 256)?;
        within("start token", self.start, 0, self.vocab - 1)?;
        within("unit", self.unit, 1 << 10, 4 << 20)?;
        within("number of lanes", self.lanes, 1, 256)?;
        for (name, v) in [
            ("head size", self.head_dim),
            ("hidden size", self.hidden),
            ("number of sinks", self.sinks),
        ] {
            if !v.is_multiple_of(16) {
                return Err(FileError::Invalid(format!("{name} {v} is not a multiple of 16")));
            }
        }
        if !self.feed_forward.is_multiple_of(16) {
            let v = self.feed_forward;
            return Err(FileError::Invalid(format!("feed-forward size {v} is no multiple of 16")));
        }
        if !self.heads.is_multiple_of(self.kv_heads) {
            return Err(FileError::Invalid("key-value heads do not divide heads".into()));
        }
        if !(self.eps.is_finite() && self.eps > 0.0) {
            return Err(FileError::Invalid(format!("norm epsilon is {}", self.eps)));
        }
        Ok(())
    }
}

/// A matrix of 8-bit integers; each run of 64 in a row shares a scale.
#[derive(Debug, Clone, PartialEq)]
pub struct Matrix {
    /// Outputs.
    pub rows: usize,
    /// Inputs.
    pub columns: usize,
    /// Row-major integers within ±[`WEIGHT_MAX`].
    pub values: Vec<i8>,
    /// `columns/64` (rounded up) scales a row.
    pub scales: Vec<f32>,
}

/// Weights of one layer.
#[derive(Debug, Clone, PartialEq)]
pub struct Layer {
    /// Norm before attention.
    pub norm1: Vec<f32>,
    /// Query projection.
    pub query: Matrix,
    /// Key projection.
    pub key: Matrix,
    /// Value projection.
    pub value: Matrix,
    /// Attention's output projection.
    pub output: Matrix,
    /// Norm before the feed-forward layer.
    pub norm2: Vec<f32>,
    /// Gate projection.
    pub gate: Matrix,
    /// Up projection.
    pub up: Matrix,
    /// Down projection.
    pub down: Matrix,
}

/// Tokens, and the hash of what the engine must compute for them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Golden {
    /// Input, from the start token.
    pub tokens: Vec<u32>,
    /// See [`super::engine::fingerprint`].
    pub hash: [u8; 32],
}

/// A model as its file holds it.
#[derive(Debug, Clone)]
pub struct Model {
    /// Name, version, licence, source.
    pub manifest: Manifest,
    /// Sizes.
    pub hyper: Hyper,
    /// Vocabulary and merges.
    pub tokenizer: Tokenizer,
    /// Coding tree.
    pub tree: Tree,
    /// Rotation tables.
    pub rope: Rope,
    /// Token embeddings.
    pub embedding: Matrix,
    /// Layers.
    pub layers: Vec<Layer>,
    /// Last norm.
    pub norm: Vec<f32>,
    /// Output projection; none if it is the embedding.
    pub head: Option<Matrix>,
    /// Check vector.
    pub golden: Golden,
}

/// Appends fixed-width little-endian values.
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
    fn floats(&mut self, v: &[f32]) {
        for f in v {
            self.u32(f.to_bits());
        }
    }
    fn matrix(&mut self, m: &Matrix) {
        self.floats(&m.scales);
        self.0.extend(m.values.iter().map(|v| *v as u8));
    }
}

/// Reads what [`Out`] wrote, never past the end.
pub(super) struct In<'a> {
    pub(super) rest: &'a [u8],
    pub(super) section: &'static str,
}

impl<'a> In<'a> {
    pub(super) fn take(&mut self, n: usize) -> Result<&'a [u8], FileError> {
        let (head, rest) =
            self.rest.split_at_checked(n).ok_or(FileError::Truncated(self.section))?;
        self.rest = rest;
        Ok(head)
    }
    fn u8(&mut self) -> Result<u8, FileError> {
        Ok(self.take(1)?[0])
    }
    fn u16(&mut self) -> Result<u16, FileError> {
        let b = self.take(2)?;
        Ok(u16::from_le_bytes([b[0], b[1]]))
    }
    pub(super) fn u32(&mut self) -> Result<u32, FileError> {
        let b = self.take(4)?;
        Ok(u32::from_le_bytes([b[0], b[1], b[2], b[3]]))
    }
    fn words(&mut self, n: usize) -> Result<impl Iterator<Item = u32> + use<'a>, FileError> {
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
    fn floats(&mut self, n: usize) -> Result<Vec<f32>, FileError> {
        let v: Vec<f32> = self.words(n)?.map(f32::from_bits).collect();
        if v.iter().all(|f| f.is_finite()) {
            Ok(v)
        } else {
            Err(FileError::Invalid(format!("{} has a number that is not finite", self.section)))
        }
    }
    fn matrix(&mut self, rows: u32, columns: u32) -> Result<Matrix, FileError> {
        let (rows, columns) = (rows as usize, columns as usize);
        let scales = self.floats(rows * columns.div_ceil(GROUP))?;
        let values: Vec<i8> = self.take(rows * columns)?.iter().map(|v| *v as i8).collect();
        let most = values.iter().fold(0, |most, v| v.unsigned_abs().max(most));
        if most > WEIGHT_MAX.unsigned_abs() {
            return Err(FileError::Invalid(format!("{} has a weight of ±{most}", self.section)));
        }
        Ok(Matrix { rows, columns, values, scales })
    }
}

impl Manifest {
    pub(super) fn write(&self, o: &mut Out) {
        for s in [&self.name, &self.version, &self.licence, &self.source] {
            o.text(s);
        }
    }

    pub(super) fn read(i: &mut In<'_>) -> Result<Self, FileError> {
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
        o.u32(NUMERICS);
        self.manifest.write(&mut o);
        let h = &self.hyper;
        for v in [h.vocab, h.hidden, h.layers, h.heads, h.kv_heads, h.head_dim, h.feed_forward] {
            o.u32(v);
        }
        for v in [h.window, h.start, h.unit, h.lanes, h.eps.to_bits()] {
            o.u32(v);
        }
        let sinks = if h.sinks > 0 { SINKS } else { 0 };
        o.u32(if self.head.is_none() { TIED } else { 0 } | sinks);
        if h.sinks > 0 {
            o.u32(h.sinks);
        }
        o.0.push(self.tokenizer.kind() as u8);
        for id in 0..h.vocab {
            o.u16(self.tokenizer.token(id).len() as u16);
        }
        for id in 0..h.vocab {
            o.0.extend_from_slice(self.tokenizer.token(id));
        }
        o.u32(self.tokenizer.merges().len() as u32);
        for m in self.tokenizer.merges() {
            o.u32(m.left);
            o.u32(m.right);
            o.u32(m.result);
        }
        o.u32(self.tree.leaves().len() as u32);
        for t in self.tree.leaves() {
            o.u32(*t);
        }
        let shape = self.tree.shape();
        for bits in shape.chunks(8) {
            o.0.push(bits.iter().enumerate().fold(0, |b, (i, bit)| b | u8::from(*bit) << i));
        }
        for t in [&self.rope.cos_low, &self.rope.sin_low, &self.rope.cos_high, &self.rope.sin_high]
        {
            o.floats(t);
        }
        o.matrix(&self.embedding);
        for l in &self.layers {
            o.floats(&l.norm1);
            for m in [&l.query, &l.key, &l.value, &l.output] {
                o.matrix(m);
            }
            o.floats(&l.norm2);
            for m in [&l.gate, &l.up, &l.down] {
                o.matrix(m);
            }
        }
        o.floats(&self.norm);
        if let Some(m) = &self.head {
            o.matrix(m);
        }
        o.u16(self.golden.tokens.len() as u16);
        for t in &self.golden.tokens {
            o.u32(*t);
        }
        o.0.extend_from_slice(&self.golden.hash);
        o.0
    }

    /// Reads a file's bytes. Never panics; takes memory in proportion to `bytes` only.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, FileError> {
        let mut i = In { rest: bytes, section: "header" };
        if i.take(8).ok() != Some(&MAGIC) {
            return Err(FileError::Magic);
        }
        for (what, known) in [("format", VERSION), ("numerics", NUMERICS)] {
            let found = i.u32()?;
            if found != known {
                return Err(FileError::Version { what, found, known });
            }
        }
        let manifest = Manifest::read(&mut i)?;
        i.section = "hyper-parameters";
        let mut hyper = Hyper {
            vocab: i.u32()?,
            hidden: i.u32()?,
            layers: i.u32()?,
            heads: i.u32()?,
            kv_heads: i.u32()?,
            head_dim: i.u32()?,
            feed_forward: i.u32()?,
            window: i.u32()?,
            sinks: 0,
            start: i.u32()?,
            unit: i.u32()?,
            lanes: i.u32()?,
            eps: f32::from_bits(i.u32()?),
        };
        let flags = i.u32()?;
        if flags & !(TIED | SINKS) != 0 {
            return Err(FileError::Invalid(format!("flags {flags:#x} are not known")));
        }
        let tied = flags & TIED != 0;
        if flags & SINKS != 0 {
            hyper.sinks = i.u32()?;
            if hyper.sinks == 0 {
                return Err(FileError::Invalid("no sinks, but their flag".into()));
            }
        }
        hyper.check()?;
        let tokenizer = Self::read_tokenizer(&mut i, &hyper)?;
        let tree = Self::read_tree(&mut i, &tokenizer)?;
        i.section = "rotation tables";
        let steps = ROPE_STEPS * hyper.head_dim as usize / 2;
        let rope = Rope {
            cos_low: i.floats(steps)?,
            sin_low: i.floats(steps)?,
            cos_high: i.floats(steps)?,
            sin_high: i.floats(steps)?,
        };
        i.section = "tensors";
        let (h, width) = (&hyper, hyper.hidden as usize);
        let embedding = i.matrix(h.vocab, h.hidden)?;
        let (q, kv) = (h.heads * h.head_dim, h.kv_heads * h.head_dim);
        let mut layers = Vec::new();
        for _ in 0..h.layers {
            layers.push(Layer {
                norm1: i.floats(width)?,
                query: i.matrix(q, h.hidden)?,
                key: i.matrix(kv, h.hidden)?,
                value: i.matrix(kv, h.hidden)?,
                output: i.matrix(h.hidden, q)?,
                norm2: i.floats(width)?,
                gate: i.matrix(h.feed_forward, h.hidden)?,
                up: i.matrix(h.feed_forward, h.hidden)?,
                down: i.matrix(h.hidden, h.feed_forward)?,
            });
        }
        let norm = i.floats(width)?;
        let head = if tied { None } else { Some(i.matrix(h.vocab, h.hidden)?) };
        i.section = "check vector";
        let n = i.u16()? as usize;
        let tokens: Vec<u32> = i.words(n)?.collect();
        if let Some(t) = tokens.iter().find(|t| **t >= h.vocab) {
            return Err(FileError::Invalid(format!("check vector has token {t}")));
        }
        let mut hash = [0; 32];
        hash.copy_from_slice(i.take(32)?);
        if !i.rest.is_empty() {
            return Err(FileError::Invalid(format!("{} bytes behind its end", i.rest.len())));
        }
        let golden = Golden { tokens, hash };
        Ok(Self { manifest, hyper, tokenizer, tree, rope, embedding, layers, norm, head, golden })
    }

    fn read_tokenizer(i: &mut In, h: &Hyper) -> Result<Tokenizer, FileError> {
        i.section = "vocabulary";
        let kind = i.u8()?;
        let kind = PreTokenizer::from_u8(kind)
            .ok_or_else(|| FileError::Invalid(format!("pre-tokenizer {kind} is not known")))?;
        let lengths: Vec<usize> = i
            .take(h.vocab as usize * 2)?
            .chunks_exact(2)
            .map(|b| u16::from_le_bytes([b[0], b[1]]) as usize)
            .collect();
        let tokens: Vec<Vec<u8>> =
            lengths.iter().map(|n| i.take(*n).map(<[u8]>::to_vec)).collect::<Result<_, _>>()?;
        i.section = "merges";
        let n = i.u32()? as usize;
        let words: Vec<u32> =
            i.words(n.checked_mul(3).ok_or(FileError::Truncated(i.section))?)?.collect();
        let merges = words
            .chunks_exact(3)
            .map(|m| Merge { left: m[0], right: m[1], result: m[2] })
            .collect();
        Ok(Tokenizer::new(kind, &tokens, merges)?)
    }

    fn read_tree(i: &mut In, t: &Tokenizer) -> Result<Tree, FileError> {
        i.section = "coding tree";
        let n = i.u32()? as usize;
        if n > t.len() {
            return Err(FileError::Invalid(format!("coding tree has {n} leaves")));
        }
        let leaves: Vec<u32> = i.words(n)?.collect();
        let mut seen = vec![false; t.len()];
        for leaf in &leaves {
            match seen.get_mut(*leaf as usize) {
                Some(s) if !*s && !t.token(*leaf).is_empty() => *s = true,
                _ => return Err(FileError::Invalid(format!("coding tree has leaf {leaf}"))),
            }
        }
        if let Some(id) = (0..t.len()).find(|id| !seen[*id] && !t.token(*id as u32).is_empty()) {
            return Err(FileError::Invalid(format!("coding tree lacks token {id}")));
        }
        let count = (2 * n).saturating_sub(1);
        let bytes = i.take(count.div_ceil(8))?;
        let bits: Vec<bool> = (0..count).map(|b| bytes[b / 8] >> (b % 8) & 1 == 1).collect();
        if !count.is_multiple_of(8) && bytes[count / 8] >> (count % 8) != 0 {
            return Err(FileError::Invalid("coding tree has bits behind its end".into()));
        }
        Tree::from_shape(&bits, leaves)
            .ok_or_else(|| FileError::Invalid("coding tree is no full binary tree".into()))
    }
}

/// Number of weights.
pub(super) fn parameters(m: &Model) -> u64 {
    let layers = m.layers.iter().map(|l| {
        let all = [&l.query, &l.key, &l.value, &l.output, &l.gate, &l.up, &l.down];
        all.iter().map(|w| w.values.len()).sum::<usize>() + l.norm1.len() + l.norm2.len()
    });
    let ends = m.embedding.values.len() + m.head.as_ref().map_or(0, |h| h.values.len());
    (layers.sum::<usize>() + ends + m.norm.len()) as u64
}
