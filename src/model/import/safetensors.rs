//! Hugging Face directories: config.json, tokenizer.json, model.safetensors.

use super::{ImportError, Source, vocabulary};
use crate::model::file::Manifest;
use crate::model::network::Hyper;
use candle_core::{DType, Device};
use serde_json::Value;
use std::collections::HashMap;
use std::path::Path;

pub(super) fn load(dir: &Path, name: &str) -> Result<Vec<u8>, ImportError> {
    let path = dir.join(name);
    std::fs::read(&path)
        .map_err(|error| ImportError::Io { what: path.display().to_string(), error })
}

pub(super) fn json(dir: &Path, name: &str) -> Result<Value, ImportError> {
    serde_json::from_slice(&load(dir, name)?).map_err(|e| ImportError::Io {
        what: dir.join(name).display().to_string(),
        error: e.into(),
    })
}

pub(super) fn unsupported(
    what: &'static str,
    value: &Value,
    supported: &'static str,
) -> ImportError {
    ImportError::Unsupported { what, value: value.to_string(), supported }
}

/// All weights in single precision, row by row, and what file they are from.
pub(super) fn tensors(dir: &Path) -> Result<(HashMap<String, Vec<f32>>, String), ImportError> {
    let candle = |error| ImportError::Candle { what: "model.safetensors".into(), error };
    let bytes = load(dir, "model.safetensors")?;
    let loaded = candle_core::safetensors::load_buffer(&bytes, &Device::Cpu).map_err(candle)?;
    let mut tensors = HashMap::new();
    for (name, t) in loaded {
        let values = t
            .to_dtype(DType::F32)
            .and_then(|t| t.flatten_all())
            .and_then(|t| t.to_vec1())
            .map_err(|error| ImportError::Candle { what: name.clone(), error })?;
        tensors.insert(name, values);
    }
    Ok((tensors, format!("safetensors {}", blake3::hash(&bytes).to_hex())))
}

/// Reads a directory.
pub fn read(dir: &Path) -> Result<Source, ImportError> {
    let config = json(dir, "config.json")?;
    if config["model_type"] != "llama" {
        return Err(unsupported("architecture", &config["model_type"], "llama, lmfs-gated"));
    }
    if !config["rope_scaling"].is_null() {
        return Err(unsupported("rope_scaling", &config["rope_scaling"], "none"));
    }
    if !matches!(config["hidden_act"].as_str(), None | Some("silu")) {
        return Err(unsupported("activation", &config["hidden_act"], "silu"));
    }
    for bias in ["attention_bias", "mlp_bias"] {
        if config[bias] == Value::Bool(true) {
            return Err(unsupported("bias", &Value::from(bias), "none"));
        }
    }
    let number = |key: &str| -> Result<u32, ImportError> {
        let v = config[key].as_u64().and_then(|v| u32::try_from(v).ok());
        v.ok_or_else(|| ImportError::Missing(format!("{key} of config.json")))
    };
    let hidden = number("hidden_size")?;
    let heads = number("num_attention_heads")?.max(1);
    let start = number("bos_token_id").unwrap_or(0);
    let (window, sinks) = super::reach(number("max_position_embeddings")?);
    let hyper = Hyper {
        vocab: number("vocab_size")?,
        hidden,
        layers: number("num_hidden_layers")?,
        heads,
        kv_heads: number("num_key_value_heads").unwrap_or(heads),
        head_dim: number("head_dim").unwrap_or(hidden / heads),
        feed_forward: number("intermediate_size")?,
        window,
        sinks,
        start,
        eps: config["rms_norm_eps"].as_f64().unwrap_or(1e-5) as f32,
    };
    hyper.check()?;
    let v = vocabulary::from_json(&json(dir, "tokenizer.json")?, hyper.vocab, start)?;
    let (mut tensors, source) = tensors(dir)?;
    if config["tie_word_embeddings"] == Value::Bool(true) {
        tensors.remove("lm_head.weight");
    }
    let name = dir.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    Ok(Source {
        manifest: Manifest {
            source,
            name,
            version: "1".into(),
            licence: config["license"].as_str().unwrap_or("unknown").into(),
        },
        blocks: super::blocks(&hyper),
        hyper,
        theta: config["rope_theta"].as_f64().unwrap_or(10_000.0),
        kind: v.kind,
        tokens: v.tokens,
        merges: v.merges,
        tensors,
    })
}
