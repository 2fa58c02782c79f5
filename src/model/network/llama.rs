//! Llama (Touvron et al. 2023): attention over a window of tokens, and a distribution over all of them.

use super::{FileError, Golden, In, Matrix, Out};
use crate::codec::Vocab;

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

/// One as its file holds it.
#[derive(Debug, Clone)]
pub struct Llama {
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

impl Llama {
    pub(super) fn write(&self, o: &mut Out) {
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
        self.golden.write(o);
    }

    /// Reads one for so many tokens.
    pub(super) fn read(i: &mut In<'_>, vocab: u32) -> Result<Self, FileError> {
        let hyper = Hyper {
            vocab,
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
        let golden = Golden::read(i, h.vocab)?;
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
