//! What quantisation costs in bits per byte: `cargo bench --bench quantisation -- SOURCE TEXT…`.
//!
//! Runs SOURCE in single precision with weights and activations rounded as an integer engine would
//! round them, for several ranges and numbers of inputs that share a scale. The engine's own
//! choice is in docs/design.md, figures in docs/benchmarks.md.

#![allow(clippy::unwrap_used)]

use candle_core::{Device, Result, Tensor};
use lmfs::model::import::{self, Source};
use std::collections::HashMap;
use std::path::Path;

/// Largest integer of weights, activations, queries, keys and values (0: not quantised), and
/// the inputs that share a scale (0: the whole row).
#[derive(Clone, Copy, Default)]
struct Scheme {
    weights: u16,
    activations: u16,
    query: u16,
    key: u16,
    value: u16,
    group: usize,
}

/// Rounds to `levels` integers either side of zero with a scale per `group` of a row.
fn rounded(values: &[f32], columns: usize, group: usize, levels: u16) -> Vec<f32> {
    if levels == 0 {
        return values.to_vec();
    }
    let levels = f32::from(levels);
    let mut out = Vec::with_capacity(values.len());
    for row in values.chunks_exact(columns) {
        for g in row.chunks(if group == 0 { columns } else { group }) {
            let top = g.iter().fold(0.0_f32, |a, v| a.max(v.abs()));
            let inv = if top == 0.0 { 0.0 } else { levels / top };
            // Adding and subtracting 1.5·2²³ rounds to the nearest integer.
            let round = |v: f32| (v + 12_582_912.0) - 12_582_912.0;
            out.extend(g.iter().map(|v| round(v * inv) * (top / levels)));
        }
    }
    out
}

fn round_tensor(t: &Tensor, group: usize, levels: u16) -> Result<Tensor> {
    let columns = *t.dims().last().unwrap();
    let v = t.flatten_all()?.to_vec1::<f32>()?;
    Tensor::from_vec(rounded(&v, columns, group, levels), t.shape(), &Device::Cpu)
}

struct Net<'a> {
    source: &'a Source,
    scheme: Scheme,
    /// Rounded matrices, transposed.
    weights: HashMap<String, Tensor>,
}

impl<'a> Net<'a> {
    fn new(source: &'a Source, scheme: Scheme) -> Result<Self> {
        let h = source.hyper;
        let mut weights = HashMap::new();
        for (name, v) in &source.tensors {
            let columns = match name.rsplit('.').nth(1).unwrap_or_default() {
                "q_proj" | "k_proj" | "v_proj" | "gate_proj" | "up_proj" | "embed_tokens"
                | "lm_head" => h.hidden,
                "o_proj" => h.heads * h.head_dim,
                "down_proj" => h.feed_forward,
                _ => continue,
            } as usize;
            let v = rounded(v, columns, scheme.group, scheme.weights);
            let t =
                Tensor::from_vec(v, (source.tensors[name].len() / columns, columns), &Device::Cpu)?;
            weights.insert(name.clone(), t.t()?.contiguous()?);
        }
        if let Some(e) = weights.get("model.embed_tokens.weight").cloned() {
            weights.entry("lm_head.weight".into()).or_insert(e);
        }
        Ok(Self { source, scheme, weights })
    }

    fn linear(&self, x: &Tensor, name: &str) -> Result<Tensor> {
        round_tensor(x, self.scheme.group, self.scheme.activations)?.matmul(&self.weights[name])
    }

    fn norm(&self, x: &Tensor, name: &str) -> Result<Tensor> {
        let w = &self.source.tensors[name];
        let w = Tensor::from_slice(w, w.len(), &Device::Cpu)?;
        let mean = x.sqr()?.mean_keepdim(1)?;
        x.broadcast_div(&(mean + f64::from(self.source.hyper.eps))?.sqrt()?)?.broadcast_mul(&w)
    }

    fn rotate(&self, x: &Tensor) -> Result<Tensor> {
        let d = self.source.hyper.head_dim as usize;
        let mut v = x.flatten_all()?.to_vec1::<f32>()?;
        let width = x.dim(1)?;
        for (p, row) in v.chunks_exact_mut(width).enumerate() {
            for head in row.chunks_exact_mut(d) {
                for i in 0..d / 2 {
                    let f = self.source.theta.powf(-2.0 * i as f64 / d as f64);
                    let (s, c) = (p as f64 * f).sin_cos();
                    let (s, c) = (s as f32, c as f32);
                    let (a, b) = (head[i], head[i + d / 2]);
                    (head[i], head[i + d / 2]) = (a * c - b * s, b * c + a * s);
                }
            }
        }
        Tensor::from_vec(v, x.shape(), &Device::Cpu)
    }

    /// Logits behind each token.
    fn logits(&self, tokens: &[u32]) -> Result<Tensor> {
        let (h, s) = (self.source.hyper, self.scheme);
        let n = tokens.len();
        let (d, heads, kv) = (h.head_dim as usize, h.heads as usize, h.kv_heads as usize);
        let ids = Tensor::from_slice(tokens, n, &Device::Cpu)?;
        let mut x =
            self.weights["model.embed_tokens.weight"].t()?.contiguous()?.index_select(&ids, 0)?;
        let mask: Vec<f32> =
            (0..n * n).map(|i| if i % n > i / n { f32::NEG_INFINITY } else { 0.0 }).collect();
        let mask = Tensor::from_vec(mask, (n, n), &Device::Cpu)?;
        for l in 0..h.layers {
            let name = |p: &str| format!("model.layers.{l}.{p}.weight");
            let y = self.norm(&x, &name("input_layernorm"))?;
            let q = self.rotate(&self.linear(&y, &name("self_attn.q_proj"))?)?;
            let k = self.rotate(&self.linear(&y, &name("self_attn.k_proj"))?)?;
            let v = self.linear(&y, &name("self_attn.v_proj"))?;
            let mut outs = Vec::new();
            for head in 0..heads {
                let at = head / (heads / kv) * d;
                let q = round_tensor(&q.narrow(1, head * d, d)?.contiguous()?, 0, s.query)?;
                let k = round_tensor(&k.narrow(1, at, d)?.contiguous()?, 0, s.key)?;
                let v = round_tensor(&v.narrow(1, at, d)?.contiguous()?, 0, s.value)?;
                let scores = ((q.matmul(&k.t()?.contiguous()?)? / (d as f64).sqrt())? + &mask)?;
                outs.push(candle_nn::ops::softmax(&scores, 1)?.matmul(&v)?);
            }
            let y = Tensor::cat(&outs, 1)?;
            x = (x + self.linear(&y, &name("self_attn.o_proj"))?)?;
            let y = self.norm(&x, &name("post_attention_layernorm"))?;
            let gate = self.linear(&y, &name("mlp.gate_proj"))?.silu()?;
            let y = (gate * self.linear(&y, &name("mlp.up_proj"))?)?;
            x = (x + self.linear(&y, &name("mlp.down_proj"))?)?;
        }
        self.linear(&self.norm(&x, "model.norm.weight")?, "lm_head.weight")
    }
}

/// Bits that the net spends on each text's tokens, in pieces of its window.
fn bits(net: &Net, texts: &[Vec<u32>]) -> Result<f64> {
    let mut bits = 0.0;
    let window = net.source.hyper.window.min(512) as usize;
    for text in texts {
        for piece in text.chunks(window - 1) {
            let mut tokens = vec![net.source.hyper.start];
            tokens.extend_from_slice(piece);
            let logits = net.logits(&tokens[..piece.len()])?;
            for (row, next) in logits.to_vec2::<f32>()?.iter().zip(piece) {
                let top = row.iter().fold(f32::MIN, |a, b| a.max(*b));
                let sum: f64 = row.iter().map(|l| f64::from(l - top).exp()).sum();
                bits += (sum.ln() - f64::from(row[*next as usize] - top)) / std::f64::consts::LN_2;
            }
        }
    }
    Ok(bits)
}

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    let Some((source, texts)) = args.split_first().filter(|a| !a.1.is_empty()) else {
        println!("usage: cargo bench --bench quantisation -- SOURCE TEXT...");
        return Ok(());
    };
    let source = import::read(Path::new(source)).unwrap();
    let tokenizer = source.convert().unwrap().vocabulary.tokenizer;
    let texts: Vec<Vec<u8>> = texts
        .iter()
        .map(|p| std::fs::read(p).unwrap())
        .map(|t| t[..t.len().min(32 << 10)].to_vec())
        .collect();
    let bytes: usize = texts.iter().map(Vec::len).sum();
    let texts: Vec<Vec<u32>> = texts.iter().map(|t| tokenizer.encode(t)).collect();
    let exact = bits(&Net::new(&source, Scheme::default())?, &texts)? / bytes as f64;
    println!("{bytes} bytes; single precision: {exact:.5} bpb");
    println!("| weights ± | activations ± | query, key, value ± | scale per | bpb | worse by |");
    println!("|---|---|---|---|---|---|");
    let plain =
        Scheme { weights: 127, activations: 127, query: 127, key: 127, value: 127, group: 64 };
    let mut all = Vec::new();
    for activations in [127, 32767] {
        for group in [32, 64, 128, 0] {
            all.push(Scheme { activations, group, ..plain });
        }
    }
    for (weights, activations) in [(64, 127), (78, 104), (90, 91), (64, 63)] {
        for group in [32, 64, 128] {
            all.push(Scheme { weights, activations, group, ..plain });
        }
    }
    for (query, key, value) in [(127, 64, 127), (90, 90, 127), (64, 63, 127), (0, 0, 0)] {
        all.push(Scheme { query, key, value, ..plain });
    }
    for s in all {
        let bpb = bits(&Net::new(&source, s)?, &texts)? / bytes as f64;
        let group = if s.group == 0 { "row".into() } else { s.group.to_string() };
        println!(
            "| {} | {} | {}, {}, {} | {group} | {bpb:.5} | {:.3}% |",
            s.weights,
            s.activations,
            s.query,
            s.key,
            s.value,
            (bpb / exact - 1.0) * 100.0
        );
    }
    Ok(())
}
