//! The Llama as candle differentiates it, in single precision, from and to what a model's file holds.

use super::TuneError;
use super::ops::{CausalSoftmax, CrossEntropy, Heads, RmsNorm, Rotation, SwiGlu};
use crate::model::engine::{self, fingerprint};
use crate::model::import::quantise;
use crate::model::network::GROUP;
use crate::model::network::{self, Golden, Hyper, Layer, Matrix};
use crate::model::vocabulary::Vocabulary;
use candle_core::{Device, Result, Tensor, Var};
use std::sync::Arc;

/// Weights of one layer. Matrices lie as (inputs, outputs).
struct Block {
    norm1: Var,
    query: Var,
    key: Var,
    value: Var,
    output: Var,
    norm2: Var,
    gate: Var,
    up: Var,
    down: Var,
}

impl Block {
    fn vars(&self) -> [&Var; 9] {
        [
            &self.norm1,
            &self.query,
            &self.key,
            &self.value,
            &self.output,
            &self.norm2,
            &self.gate,
            &self.up,
            &self.down,
        ]
    }
}

/// A model whose weights can be moved.
pub struct Llama {
    hyper: Hyper,
    embedding: Var,
    blocks: Vec<Block>,
    norm: Var,
    head: Option<Var>,
    rotation: Arc<Rotation>,
    special: Arc<[u32]>,
}

/// The weights that a matrix of integers stands for, row-major.
pub fn dequantise(m: &Matrix) -> Vec<f32> {
    let groups = m.columns.div_ceil(GROUP);
    let rows = m.values.chunks_exact(m.columns).zip(m.scales.chunks_exact(groups));
    rows.flat_map(|(row, scales)| {
        row.chunks(GROUP).zip(scales).flat_map(|(v, s)| v.iter().map(move |v| f32::from(*v) * s))
    })
    .collect()
}

fn vector(v: &[f32]) -> Result<Var> {
    Var::from_slice(v, v.len(), &Device::Cpu)
}

fn matrix(m: &Matrix) -> Result<Var> {
    let rows = Tensor::from_vec(dequantise(m), (m.rows, m.columns), &Device::Cpu)?;
    Var::from_tensor(&rows.t()?.contiguous()?)
}

fn packed(v: &Var) -> Result<Matrix> {
    let (columns, rows) = v.dims2()?;
    let values: Vec<f32> = v.t()?.contiguous()?.flatten_all()?.to_vec1()?;
    Ok(quantise(&values, rows, columns))
}

impl Llama {
    /// A network's weights, for sequences of at most `positions` tokens.
    pub fn new(vocabulary: &Vocabulary, m: &network::Llama, positions: usize) -> Result<Self> {
        let blocks = m
            .layers
            .iter()
            .map(|l| {
                Ok(Block {
                    norm1: vector(&l.norm1)?,
                    query: matrix(&l.query)?,
                    key: matrix(&l.key)?,
                    value: matrix(&l.value)?,
                    output: matrix(&l.output)?,
                    norm2: vector(&l.norm2)?,
                    gate: matrix(&l.gate)?,
                    up: matrix(&l.up)?,
                    down: matrix(&l.down)?,
                })
            })
            .collect::<Result<_>>()?;
        let half = m.hyper.head_dim as usize / 2;
        let mut rotation =
            Rotation { half, cos: vec![0.0; positions * half], sin: vec![0.0; positions * half] };
        let rows = rotation.cos.chunks_exact_mut(half).zip(rotation.sin.chunks_exact_mut(half));
        for (p, (cos, sin)) in rows.enumerate() {
            m.rope.at(p, cos, sin);
        }
        let e = &m.embedding;
        let embedding = Tensor::from_vec(dequantise(e), (e.rows, e.columns), &Device::Cpu)?;
        let special = |t: &u32| vocabulary.tokenizer.token(*t).is_empty();
        Ok(Self {
            hyper: m.hyper,
            embedding: Var::from_tensor(&embedding)?,
            blocks,
            norm: vector(&m.norm)?,
            head: m.head.as_ref().map(matrix).transpose()?,
            rotation: Arc::new(rotation),
            special: (0..m.hyper.vocab).filter(special).collect(),
        })
    }

    /// All weights, in an order of their own.
    pub fn vars(&self) -> Vec<Var> {
        let mut all = vec![&self.embedding];
        all.extend(self.blocks.iter().flat_map(Block::vars));
        all.push(&self.norm);
        all.extend(&self.head);
        all.into_iter().cloned().collect()
    }

    /// What each of `targets` costs, in nats, given the `inputs` before it: sequences of
    /// `positions` tokens one behind the other.
    pub fn losses(&self, inputs: &[u32], targets: Vec<u32>, positions: usize) -> Result<Tensor> {
        let h = &self.hyper;
        let (heads, shared, width) = (h.heads as usize, h.kv_heads as usize, h.head_dim as usize);
        let sequences = inputs.len() / positions;
        let apart = |heads, rotated: bool| Heads {
            positions,
            heads,
            width,
            rotation: rotated.then(|| Arc::clone(&self.rotation)),
            back: false,
        };
        let norm = |x: &Tensor, w: &Var| x.apply_op2(w, RmsNorm { eps: h.eps });
        let ids = Tensor::from_slice(inputs, inputs.len(), &Device::Cpu)?;
        let mut x = self.embedding.index_select(&ids, 0)?;
        // Query heads that share a key head stand together as rows of one product.
        let grouped = (sequences * shared, heads / shared * positions, width);
        for b in &self.blocks {
            let y = norm(&x, &b.norm1)?;
            let query = y.matmul(&b.query)?.apply_op1(apart(heads, true))?.reshape(grouped)?;
            let key = y.matmul(&b.key)?.apply_op1(apart(shared, true))?;
            let value = y.matmul(&b.value)?.apply_op1(apart(shared, false))?;
            let scale = 1.0 / (width as f32).sqrt();
            let weights = query.matmul(&key.t()?)?.apply_op1(CausalSoftmax { scale })?;
            let y = weights.matmul(&value)?.reshape((sequences * heads, positions, width))?;
            let y = y.apply_op1(Heads { back: true, ..apart(heads, false) })?;
            x = (x + y.matmul(&b.output)?)?;
            let y = norm(&x, &b.norm2)?;
            let y = y.matmul(&b.gate)?.apply_op2(&y.matmul(&b.up)?, SwiGlu)?;
            x = (x + y.matmul(&b.down)?)?;
        }
        let x = norm(&x, &self.norm)?;
        let logits = match &self.head {
            Some(head) => x.matmul(head)?,
            None => x.matmul(&self.embedding.t()?)?,
        };
        logits.apply_op1(CrossEntropy { targets, special: Arc::clone(&self.special) })
    }

    /// The network of these weights: sizes are those of `base`, over the same vocabulary.
    pub fn to_network(
        &self,
        vocabulary: &Vocabulary,
        base: &network::Llama,
    ) -> std::result::Result<network::Llama, TuneError> {
        for v in self.vars() {
            if !v.sqr()?.sum_all()?.to_scalar::<f32>()?.is_finite() {
                return Err(TuneError::Diverged);
            }
        }
        let layers = self
            .blocks
            .iter()
            .map(|b| {
                Ok(Layer {
                    norm1: b.norm1.to_vec1()?,
                    query: packed(&b.query)?,
                    key: packed(&b.key)?,
                    value: packed(&b.value)?,
                    output: packed(&b.output)?,
                    norm2: b.norm2.to_vec1()?,
                    gate: packed(&b.gate)?,
                    up: packed(&b.up)?,
                    down: packed(&b.down)?,
                })
            })
            .collect::<Result<_>>()?;
        let e = &base.embedding;
        let embedding: Vec<f32> = self.embedding.flatten_all()?.to_vec1()?;
        let mut network = network::Llama {
            hyper: base.hyper,
            rope: base.rope.clone(),
            embedding: quantise(&embedding, e.rows, e.columns),
            layers,
            norm: self.norm.to_vec1()?,
            head: self.head.as_ref().map(packed).transpose()?,
            golden: Golden { tokens: base.golden.tokens.clone(), hash: [0; 32] },
        };
        let engine = Arc::new(engine::Llama::new(&network, &vocabulary.tree));
        network.golden.hash = *fingerprint(&engine, &network.golden.tokens)?.as_bytes();
        Ok(network)
    }
}
