//! The reference: candle-transformers' Llama in single precision, on the same source.

use super::{ImportError, Source};
use crate::model::engine::{self, Engine, Input, Session};
use crate::model::network;
use crate::model::vocabulary::Vocabulary;
use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use candle_transformers::models::llama::{Cache, Config, Llama};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

/// Reference and exact engine side by side.
#[derive(Debug, Clone)]
pub struct Report {
    /// Tokens judged.
    pub tokens: usize,
    /// Bits per byte of the reference.
    pub reference_bpb: f64,
    /// Bits per byte of the exact engine.
    pub exact_bpb: f64,
    /// Largest difference of a logit, in units of the reference's standard deviation of logits.
    pub worst_logit: f64,
    /// Root mean square of the differences, in the same units.
    pub mean_logit: f64,
    /// Tokens per second of the engine, one lane token by token.
    pub tokens_per_s: f64,
    /// Bytes of weights in memory.
    pub bytes: usize,
}

/// Tokens of a window, at most.
const WINDOW: usize = 511;

/// Bits that `logits` (in `leaves` order) spend on `leaf`.
fn bits(logits: &[f32], leaf: usize) -> f64 {
    let top = logits.iter().fold(f32::MIN, |a, b| a.max(*b));
    let sum: f64 = logits.iter().map(|l| f64::from(l - top).exp()).sum();
    (sum.ln() - f64::from(logits[leaf] - top)) / std::f64::consts::LN_2
}

/// Runs both on the start of `text`, at most `most` tokens of it, in windows of 511 that each begin
/// a text.
pub fn compare(
    source: &Source,
    vocabulary: &Vocabulary,
    network: &network::Llama,
    text: &[u8],
    most: usize,
) -> Result<Report, ImportError> {
    let candle = |error| ImportError::Candle { what: "the reference".into(), error };
    let h = source.hyper;
    let mut tokens = vocabulary.tokenizer.encode(text);
    tokens.truncate(most);
    let begun = |w: &[u32]| [&[h.start], w].concat();
    let windows: Vec<Vec<u32>> =
        tokens.chunks(WINDOW.min(h.window as usize - 1)).map(begun).collect();
    let leaves = vocabulary.tree.leaves();
    let leaf_of: HashMap<u32, usize> = leaves.iter().enumerate().map(|(i, t)| (*t, i)).collect();

    let logits = reference(source, &windows).map_err(candle)?;
    let engine = Arc::new(engine::Llama::new(network, &vocabulary.tree));
    let mut session = Session::new(Arc::clone(&engine), 1, 1)?;
    let mut r = Report {
        tokens: tokens.len(),
        reference_bpb: 0.0,
        exact_bpb: 0.0,
        worst_logit: 0.0,
        mean_logit: 0.0,
        tokens_per_s: 0.0,
        bytes: engine.bytes(),
    };
    let mut bytes = 0;
    let mut seconds = 0.0;
    let mut exact = Vec::new();
    for (window, logits) in windows.iter().zip(&logits) {
        session.clear(0);
        for (next, logits) in window.windows(2).zip(logits) {
            let start = Instant::now();
            session.step_logits(&[Input { lane: 0, token: next[0] }]);
            seconds += start.elapsed().as_secs_f64();
            exact.clear();
            session.logits(0, &mut exact);
            let want: Vec<f32> = leaves.iter().map(|t| logits[*t as usize]).collect();
            let n = want.len() as f64;
            let mean = want.iter().map(|v| f64::from(*v)).sum::<f64>() / n;
            let deviation =
                (want.iter().map(|v| (f64::from(*v) - mean).powi(2)).sum::<f64>() / n).sqrt();
            let mut squares = 0.0;
            for (a, b) in exact.iter().zip(&want) {
                let d = f64::from(a - b).abs() / deviation;
                r.worst_logit = r.worst_logit.max(d);
                squares += d * d;
            }
            r.mean_logit += squares / n;
            r.reference_bpb += bits(&want, leaf_of[&next[1]]);
            r.exact_bpb += bits(&exact, leaf_of[&next[1]]);
            bytes += vocabulary.tokenizer.token(next[1]).len();
        }
    }
    r.reference_bpb /= bytes as f64;
    r.exact_bpb /= bytes as f64;
    r.mean_logit = (r.mean_logit / r.tokens as f64).sqrt();
    r.tokens_per_s = r.tokens as f64 / seconds;
    Ok(r)
}

/// Logits of candle-transformers' Llama behind every token of texts.
pub fn reference(source: &Source, texts: &[Vec<u32>]) -> candle_core::Result<Vec<Vec<Vec<f32>>>> {
    let h = source.hyper;
    let dev = Device::Cpu;
    let (q, kv) = (h.heads * h.head_dim, h.kv_heads * h.head_dim);
    let mut map = HashMap::new();
    for (name, v) in &source.tensors {
        let rows = match name.rsplit('.').nth(1).unwrap_or_default() {
            "q_proj" => q,
            "k_proj" | "v_proj" => kv,
            "gate_proj" | "up_proj" => h.feed_forward,
            "o_proj" | "down_proj" => h.hidden,
            "embed_tokens" | "lm_head" => h.vocab,
            _ => 0,
        } as usize;
        let t = if rows == 0 {
            Tensor::from_slice(v, v.len(), &dev)?
        } else {
            Tensor::from_slice(v, (rows, v.len() / rows), &dev)?
        };
        map.insert(name.clone(), t);
    }
    let config = Config {
        hidden_size: h.hidden as usize,
        intermediate_size: h.feed_forward as usize,
        vocab_size: h.vocab as usize,
        num_hidden_layers: h.layers as usize,
        num_attention_heads: h.heads as usize,
        num_key_value_heads: h.kv_heads as usize,
        use_flash_attn: false,
        rms_norm_eps: f64::from(h.eps),
        rope_theta: source.theta as f32,
        bos_token_id: None,
        eos_token_id: None,
        rope_scaling: None,
        max_position_embeddings: h.window as usize,
        tie_word_embeddings: !source.tensors.contains_key("lm_head.weight"),
    };
    let llama = Llama::load(VarBuilder::from_tensors(map, DType::F32, &dev), &config)?;
    let mut out = Vec::new();
    for text in texts {
        let mut cache = Cache::new(true, DType::F32, &config, &dev)?;
        let mut logits = Vec::new();
        for (i, t) in text.iter().enumerate() {
            let input = Tensor::from_slice(&[*t], (1, 1), &dev)?;
            logits.push(llama.forward(&input, i, &mut cache)?.flatten_all()?.to_vec1()?);
        }
        out.push(logits);
    }
    Ok(out)
}
