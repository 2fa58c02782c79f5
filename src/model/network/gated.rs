//! Gated linear recurrences beside experts: a small network that corrects what the experts foresee.
//!
//! Layers of one kind, of width `hidden`, with a memory of `inner` numbers each:
//!
//! ```text
//! x      = norm(h)
//! x      = x + shift · (x of the token before - x)
//! a,z,g  = in · x
//! f      = sigmoid(a + keep)
//! memory = f · memory + (1 - f) · z
//! h      = h + out · (memory · silu(g))
//! ```
//!
//! (Gates that depend on the input alone: Bradbury et al. 2016, "Quasi-recurrent neural networks"; Feng et al. 2024,
//! "Were RNNs all we needed?". The shift: Peng et al. 2023, "RWKV".) Into the first goes the token's vector. Behind
//! the last, each decision of the coding tree has a vector, whose product with norm(h), and a bias, is the logit
//! that is added to the experts' (a hierarchical softmax: Morin and Bengio 2005).

use super::{FileError, Golden, In, Matrix, Out};

/// Sizes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sizes {
    /// Tokens; the one that starts every lane comes behind them.
    pub tokens: u32,
    /// Inner nodes of the coding tree.
    pub nodes: u32,
    /// Width of the residual stream.
    pub hidden: u32,
    /// Numbers of a layer's memory.
    pub inner: u32,
    /// Layers.
    pub layers: u32,
    /// Added to the mean square in norms.
    pub eps: f32,
}

/// Weights of one layer.
#[derive(Debug, Clone, PartialEq)]
pub struct Layer {
    /// Its norm.
    pub norm: Vec<f32>,
    /// How much of the token before it sees, by input.
    pub shift: Vec<f32>,
    /// What memory and output gate take in: rows of forgetting, of values, of gates.
    pub input: Matrix,
    /// Added to forgetting's rows.
    pub keep: Vec<f32>,
    /// Output projection.
    pub output: Matrix,
}

/// One as its file holds it.
#[derive(Debug, Clone)]
pub struct Gated {
    /// Sizes.
    pub sizes: Sizes,
    /// A row for each token, and one for the start of a lane.
    pub embedding: Matrix,
    /// Layers.
    pub layers: Vec<Layer>,
    /// Last norm.
    pub norm: Vec<f32>,
    /// A row for each node of the coding tree, as [`crate::codec::Vocab`] numbers them.
    pub nodes: Matrix,
    /// A number for each node.
    pub bias: Vec<f32>,
    /// Check vector.
    pub golden: Golden,
}

impl Sizes {
    /// Token that starts every lane.
    pub fn start(&self) -> u32 {
        self.tokens
    }

    /// Checks ranges, so that no later product of sizes overflows or surprises.
    pub fn check(&self) -> Result<(), FileError> {
        let within = FileError::within;
        within("hidden size", self.hidden, 16, 1 << 12)?;
        within("inner size", self.inner, 16, 1 << 14)?;
        within("number of layers", self.layers, 1, 128)?;
        for (name, v) in [("hidden size", self.hidden), ("inner size", self.inner)] {
            if !v.is_multiple_of(16) {
                return Err(FileError::Invalid(format!("{name} {v} is not a multiple of 16")));
            }
        }
        if !(self.eps.is_finite() && self.eps > 0.0) {
            return Err(FileError::Invalid(format!("norm epsilon is {}", self.eps)));
        }
        Ok(())
    }
}

impl Gated {
    pub(super) fn write(&self, o: &mut Out) {
        let s = &self.sizes;
        for v in [s.hidden, s.inner, s.layers, s.eps.to_bits()] {
            o.u32(v);
        }
        self.embedding.write(o);
        for l in &self.layers {
            o.floats(&l.norm);
            o.floats(&l.shift);
            l.input.write(o);
            o.floats(&l.keep);
            l.output.write(o);
        }
        o.floats(&self.norm);
        self.nodes.write(o);
        o.floats(&self.bias);
        self.golden.write(o);
    }

    /// Reads one for so many tokens and nodes.
    pub(super) fn read(i: &mut In<'_>, tokens: u32, nodes: u32) -> Result<Self, FileError> {
        let (hidden, inner, layers) = (i.u32()?, i.u32()?, i.u32()?);
        let eps = f32::from_bits(i.u32()?);
        let sizes = Sizes { tokens, nodes, hidden, inner, layers, eps };
        sizes.check()?;
        i.section = "tensors";
        let width = hidden as usize;
        let embedding = Matrix::read(i, tokens + 1, hidden)?;
        let layers = (0..layers)
            .map(|_| {
                Ok(Layer {
                    norm: i.floats(width)?,
                    shift: i.floats(width)?,
                    input: Matrix::read(i, 3 * inner, hidden)?,
                    keep: i.floats(inner as usize)?,
                    output: Matrix::read(i, hidden, inner)?,
                })
            })
            .collect::<Result<_, FileError>>()?;
        let norm = i.floats(width)?;
        let nodes = Matrix::read(i, nodes, hidden)?;
        let bias = i.floats(nodes.rows)?;
        let golden = Golden::read(i, tokens + 1)?;
        Ok(Self { sizes, embedding, layers, norm, nodes, bias, golden })
    }

    /// Number of weights.
    pub fn parameters(&self) -> u64 {
        let layers = self.layers.iter().map(|l| {
            let matrices = l.input.values.len() + l.output.values.len();
            matrices + l.norm.len() + l.shift.len() + l.keep.len()
        });
        let ends = self.embedding.values.len() + self.nodes.values.len() + self.bias.len();
        (layers.sum::<usize>() + ends + self.norm.len()) as u64
    }
}
