//! The network of a model's file.

use super::bytes::{FileError, In, Out};
use super::vocabulary::Vocabulary;
use crate::codec::Vocab;

/// The numerics that the engine computes. Named in every model file and frame.
pub const NUMERICS: u32 = 0;
/// Elements that share one scale, in weights and activations.
pub const GROUP: usize = 64;
/// Largest weight, and key of attention. Four products with an activation fit 16 bits.
pub const WEIGHT_MAX: i8 = 64;
/// What is computed with the weights: for now there is one architecture, Llama.
pub const LLAMA: u32 = 0;
/// Flag of a network whose head is its embedding.
const TIED: u32 = 1;

/// Positions of the two rotation tables; they multiply to the period of positions.
pub const ROPE_STEPS: usize = 256;

/// Cosines and sines of rotary position embedding: angles of `p % 256` and of `p / 256 · 256`.
#[derive(Debug, Clone, PartialEq)]
pub struct Rope {
    /// `256 × head/2` cosines of small steps.
    pub cos_low: Vec<f32>,
    /// Their sines.
    pub sin_low: Vec<f32>,
    /// `256 × head/2` cosines of multiples of 256.
    pub cos_high: Vec<f32>,
    /// Their sines.
    pub sin_high: Vec<f32>,
}

impl Rope {
    /// The rotation of a position, by the addition theorem. Positions repeat after 65,536.
    #[inline(always)]
    pub fn at(&self, position: usize, cos: &mut [f32], sin: &mut [f32]) {
        let half = cos.len();
        let low = position % ROPE_STEPS * half;
        let high = position / ROPE_STEPS % ROPE_STEPS * half;
        for i in 0..half {
            let (cl, sl) = (self.cos_low[low + i], self.sin_low[low + i]);
            let (ch, sh) = (self.cos_high[high + i], self.sin_high[high + i]);
            cos[i] = ch * cl - sh * sl;
            sin[i] = sh * cl + ch * sl;
        }
    }
}

/// Hyper-parameters.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Hyper {
    /// Tokens with an embedding: all of the vocabulary.
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
    /// Added to the mean square in norms.
    pub eps: f32,
}

impl Hyper {
    /// Checks ranges, so that no later product of sizes overflows or surprises.
    pub fn check(&self) -> Result<(), FileError> {
        let within = FileError::within;
        within("vocabulary", self.vocab, 256, Vocab::SIZE_MAX as u32)?;
        within("hidden size", self.hidden, 16, 1 << 14)?;
        within("number of layers", self.layers, 1, 512)?;
        within("number of heads", self.heads, 1, 512)?;
        within("number of key-value heads", self.kv_heads, 1, self.heads)?;
        within("head size", self.head_dim, 16, 256)?;
        within("feed-forward size", self.feed_forward, 16, 1 << 16)?;
        within("window", self.window, 1, 1 << 15)?;
        within("number of sinks", self.sinks, 0, 256)?;
        within("start token", self.start, 0, self.vocab - 1)?;
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

/// A network as its file holds it.
#[derive(Debug, Clone)]
pub struct Network {
    /// Sizes.
    pub hyper: Hyper,
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

impl Matrix {
    fn write(&self, o: &mut Out) {
        o.floats(&self.scales);
        o.0.extend(self.values.iter().map(|v| *v as u8));
    }

    fn read(i: &mut In<'_>, rows: u32, columns: u32) -> Result<Self, FileError> {
        let (rows, columns) = (rows as usize, columns as usize);
        let scales = i.floats(rows * columns.div_ceil(GROUP))?;
        let values: Vec<i8> = i.take(rows * columns)?.iter().map(|v| *v as i8).collect();
        let most = values.iter().fold(0, |most, v| v.unsigned_abs().max(most));
        if most > WEIGHT_MAX.unsigned_abs() {
            return Err(FileError::Invalid(format!("{} has a weight of ±{most}", i.section)));
        }
        Ok(Self { rows, columns, values, scales })
    }
}

impl Network {
    pub(super) fn write(&self, o: &mut Out) {
        o.u32(LLAMA);
        o.u32(NUMERICS);
        let h = &self.hyper;
        for v in [h.hidden, h.layers, h.heads, h.kv_heads, h.head_dim, h.feed_forward] {
            o.u32(v);
        }
        for v in [h.window, h.sinks, h.start, h.eps.to_bits()] {
            o.u32(v);
        }
        o.u32(if self.head.is_none() { TIED } else { 0 });
        for t in [&self.rope.cos_low, &self.rope.sin_low, &self.rope.cos_high, &self.rope.sin_high]
        {
            o.floats(t);
        }
        self.embedding.write(o);
        for l in &self.layers {
            o.floats(&l.norm1);
            for m in [&l.query, &l.key, &l.value, &l.output] {
                m.write(o);
            }
            o.floats(&l.norm2);
            for m in [&l.gate, &l.up, &l.down] {
                m.write(o);
            }
        }
        o.floats(&self.norm);
        if let Some(m) = &self.head {
            m.write(o);
        }
        o.u16(self.golden.tokens.len() as u16);
        for t in &self.golden.tokens {
            o.u32(*t);
        }
        o.0.extend_from_slice(&self.golden.hash);
    }

    pub(super) fn read(i: &mut In<'_>, vocabulary: &Vocabulary) -> Result<Self, FileError> {
        i.section = "hyper-parameters";
        FileError::unless("architecture", i.u32()?, LLAMA)?;
        FileError::unless("numerics", i.u32()?, NUMERICS)?;
        let hyper = Hyper {
            vocab: vocabulary.tokenizer.len() as u32,
            hidden: i.u32()?,
            layers: i.u32()?,
            heads: i.u32()?,
            kv_heads: i.u32()?,
            head_dim: i.u32()?,
            feed_forward: i.u32()?,
            window: i.u32()?,
            sinks: i.u32()?,
            start: i.u32()?,
            eps: f32::from_bits(i.u32()?),
        };
        let flags = i.u32()?;
        if flags & !TIED != 0 {
            return Err(FileError::Invalid(format!("flags {flags:#x} are not known")));
        }
        hyper.check()?;
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
        let embedding = Matrix::read(i, h.vocab, h.hidden)?;
        let (q, kv) = (h.heads * h.head_dim, h.kv_heads * h.head_dim);
        let mut layers = Vec::new();
        for _ in 0..h.layers {
            layers.push(Layer {
                norm1: i.floats(width)?,
                query: Matrix::read(i, q, h.hidden)?,
                key: Matrix::read(i, kv, h.hidden)?,
                value: Matrix::read(i, kv, h.hidden)?,
                output: Matrix::read(i, h.hidden, q)?,
                norm2: i.floats(width)?,
                gate: Matrix::read(i, h.feed_forward, h.hidden)?,
                up: Matrix::read(i, h.feed_forward, h.hidden)?,
                down: Matrix::read(i, h.hidden, h.feed_forward)?,
            });
        }
        let norm = i.floats(width)?;
        let head = match flags & TIED {
            0 => Some(Matrix::read(i, h.vocab, h.hidden)?),
            _ => None,
        };
        i.section = "network's check vector";
        let n = i.u16()? as usize;
        let tokens: Vec<u32> = i.words(n)?.collect();
        if let Some(t) = tokens.iter().find(|t| **t >= h.vocab) {
            return Err(FileError::Invalid(format!("check vector has token {t}")));
        }
        let golden = Golden { tokens, hash: i.hash()? };
        Ok(Self { hyper, rope, embedding, layers, norm, head, golden })
    }

    /// Number of weights.
    pub fn parameters(&self) -> u64 {
        let layers = self.layers.iter().map(|l| {
            let all = [&l.query, &l.key, &l.value, &l.output, &l.gate, &l.up, &l.down];
            all.iter().map(|w| w.values.len()).sum::<usize>() + l.norm1.len() + l.norm2.len()
        });
        let ends = self.embedding.values.len() + self.head.as_ref().map_or(0, |h| h.values.len());
        (layers.sum::<usize>() + ends + self.norm.len()) as u64
    }
}
