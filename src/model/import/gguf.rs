//! GGUF files, alone or inside a wheel or zip.

use super::{ImportError, Source, vocabulary};
use crate::model::file::Manifest;
use crate::model::network::Hyper;
use crate::model::tokenizer::PreTokenizer;
use candle_core::Device;
use candle_core::quantized::gguf_file::{Content, Value};
use std::collections::HashMap;
use std::io::{Read, Seek};

/// Largest GGUF taken out of a zip.
const MOST_BYTES: u64 = 8 << 30;

/// Finds the one GGUF of a zip and reads it.
pub fn read_zip(file: std::fs::File, name: &str) -> Result<Source, ImportError> {
    let zip_error = |e: zip::result::ZipError| ImportError::Io {
        what: name.into(),
        error: std::io::Error::other(e),
    };
    let mut zip = zip::ZipArchive::new(file).map_err(zip_error)?;
    let names: Vec<String> = zip
        .file_names()
        .filter_map(|n| n.ok().filter(|n| n.ends_with(".gguf")).map(String::from))
        .collect();
    let [inner] = &names[..] else {
        return Err(ImportError::Format(format!("{name} ({} GGUF files inside)", names.len())));
    };
    let mut bytes = Vec::new();
    let entry = zip.by_name(inner).map_err(zip_error)?;
    entry
        .take(MOST_BYTES)
        .read_to_end(&mut bytes)
        .map_err(|error| ImportError::Io { what: inner.clone(), error })?;
    read(&mut std::io::Cursor::new(bytes), inner)
}

struct Meta<'a>(&'a HashMap<String, Value>);

impl Meta<'_> {
    fn text(&self, key: &str) -> Option<&str> {
        self.0.get(key).and_then(|v| v.to_string().ok()).map(String::as_str)
    }
    fn number(&self, key: &str) -> Result<u32, ImportError> {
        let v = self.0.get(key).ok_or_else(|| ImportError::Missing(key.into()))?;
        let v = match v {
            Value::U64(v) => u32::try_from(*v).ok(),
            Value::I32(v) => u32::try_from(*v).ok(),
            v => v.to_u32().ok(),
        };
        v.ok_or_else(|| ImportError::Missing(format!("{key} as a number")))
    }
    fn float(&self, key: &str) -> Option<f64> {
        let v = self.0.get(key)?;
        v.to_f32().map(f64::from).or_else(|_| v.to_f64()).ok()
    }
    fn list(&self, key: &str) -> Result<&[Value], ImportError> {
        let v = self.0.get(key).and_then(|v| v.to_vec().ok());
        v.map(Vec::as_slice).ok_or_else(|| ImportError::Missing(key.into()))
    }
}

/// Hugging Face's name of a GGUF tensor.
fn name_of(gguf: &str) -> Option<String> {
    let base = gguf.strip_suffix(".weight")?;
    let name = match base {
        "token_embd" => "model.embed_tokens".to_string(),
        "output_norm" => "model.norm".to_string(),
        "output" => "lm_head".to_string(),
        _ => {
            let (layer, part) = base.strip_prefix("blk.")?.split_once('.')?;
            let part = match part {
                "attn_norm" => "input_layernorm",
                "attn_q" => "self_attn.q_proj",
                "attn_k" => "self_attn.k_proj",
                "attn_v" => "self_attn.v_proj",
                "attn_output" => "self_attn.o_proj",
                "ffn_norm" => "post_attention_layernorm",
                "ffn_gate" => "mlp.gate_proj",
                "ffn_up" => "mlp.up_proj",
                "ffn_down" => "mlp.down_proj",
                _ => return None,
            };
            format!("model.layers.{layer}.{part}")
        }
    };
    Some(name + ".weight")
}

/// GGUF files hold rotated pairs next to each other; the engine wants halves.
fn halves(rows: &[f32], heads: usize, head_dim: usize) -> Vec<f32> {
    let columns = rows.len() / (heads * head_dim).max(1);
    let mut out = vec![0.0; rows.len()];
    if columns == 0 {
        return out;
    }
    for (r, row) in rows.chunks_exact(columns).enumerate().take(heads * head_dim) {
        let (head, i) = (r / head_dim, r % head_dim);
        let to = head * head_dim + i % 2 * (head_dim / 2) + i / 2;
        out[to * columns..(to + 1) * columns].copy_from_slice(row);
    }
    out
}

/// Reads a GGUF file.
pub fn read<R: Read + Seek>(file: &mut R, name: &str) -> Result<Source, ImportError> {
    let candle = |what: &str| {
        let what = what.to_string();
        move |error| ImportError::Candle { what, error }
    };
    let content = Content::read(file).map_err(candle(name))?;
    let meta = Meta(&content.metadata);
    let unsupported = |what, value: &str, supported| {
        Err(ImportError::Unsupported { what, value: value.into(), supported })
    };
    let architecture = meta.text("general.architecture").unwrap_or("none");
    if architecture != "llama" {
        return unsupported("architecture", architecture, "llama");
    }
    if let Some(scaling) = meta.text("llama.rope.scaling.type").filter(|s| *s != "none") {
        return unsupported("rope scaling", scaling, "none");
    }
    let model = meta.text("tokenizer.ggml.model").unwrap_or("none");
    if model != "gpt2" {
        return unsupported("tokenizer model", model, "gpt2 (byte-level BPE)");
    }
    let kind = match meta.text("tokenizer.ggml.pre").unwrap_or("gpt-2") {
        "smollm" => PreTokenizer::Digits,
        "gpt-2" => PreTokenizer::Gpt2,
        other => return unsupported("pre-tokenizer", other, "gpt-2, smollm"),
    };
    let names: Vec<String> = meta
        .list("tokenizer.ggml.tokens")?
        .iter()
        .map(|t| t.to_string().cloned())
        .collect::<Result<_, _>>()
        .map_err(candle("tokenizer.ggml.tokens"))?;
    // Types: 1 normal, 3 control, 4 user-defined; only normal ones are coded.
    let types = meta.list("tokenizer.ggml.token_type").unwrap_or_default();
    let normal = |i: usize| types.get(i).is_none_or(|t| t.to_i32().is_ok_and(|t| t == 1));
    // Training texts are parted by end-of-text; a chat model's own start token opens a dialogue.
    let start = match names.iter().position(|n| n == "<|endoftext|>") {
        Some(i) => i as u32,
        None => meta.number("tokenizer.ggml.bos_token_id")?,
    };
    let tokens = names
        .iter()
        .enumerate()
        .map(|(i, n)| if normal(i) { vocabulary::bytes_of(n) } else { Ok(Vec::new()) })
        .collect::<Result<_, _>>()?;
    let merges: Vec<(String, String)> = meta
        .list("tokenizer.ggml.merges")?
        .iter()
        .filter_map(|m| m.to_string().ok()?.split_once(' ').map(|(l, r)| (l.into(), r.into())))
        .collect();
    let v = vocabulary::build(kind, tokens, &merges, start)?;

    let hidden = meta.number("llama.embedding_length")?;
    let heads = meta.number("llama.attention.head_count")?.max(1);
    let (window, sinks) = super::reach(meta.number("llama.context_length")?);
    let hyper = Hyper {
        vocab: v.tokens.len() as u32,
        hidden,
        layers: meta.number("llama.block_count")?,
        heads,
        kv_heads: meta.number("llama.attention.head_count_kv").unwrap_or(heads),
        head_dim: meta.number("llama.attention.key_length").unwrap_or(hidden / heads),
        feed_forward: meta.number("llama.feed_forward_length")?,
        window,
        sinks,
        start,
        eps: meta.float("llama.attention.layer_norm_rms_epsilon").unwrap_or(1e-5) as f32,
    };
    hyper.check()?;
    let mut tensors = HashMap::new();
    let mut all: Vec<&String> = content.tensor_infos.keys().collect();
    all.sort();
    for gguf_name in all {
        let Some(hf) = name_of(gguf_name) else {
            return unsupported("tensor", gguf_name, "those of a plain Llama");
        };
        let tensor = content
            .tensor(file, gguf_name, &Device::Cpu)
            .and_then(|t| t.dequantize(&Device::Cpu))
            .and_then(|t| t.flatten_all())
            .and_then(|t| t.to_vec1::<f32>())
            .map_err(candle(gguf_name))?;
        let d = hyper.head_dim as usize;
        let tensor = if hf.ends_with("q_proj.weight") {
            halves(&tensor, heads as usize, d)
        } else if hf.ends_with("k_proj.weight") {
            halves(&tensor, hyper.kv_heads as usize, d)
        } else {
            tensor
        };
        tensors.insert(hf, tensor);
    }
    let short = name.rsplit('/').next().unwrap_or(name);
    Ok(Source {
        manifest: Manifest {
            name: meta.text("general.name").unwrap_or(short).into(),
            version: meta.text("general.version").unwrap_or("1").into(),
            licence: meta.text("general.license").unwrap_or("unknown").into(),
            source: format!("GGUF {short}"),
        },
        blocks: super::blocks(&hyper),
        hyper,
        theta: meta.float("llama.rope.freq_base").unwrap_or(10_000.0),
        kind: v.kind,
        tokens: v.tokens,
        merges: v.merges,
        tensors,
    })
}
