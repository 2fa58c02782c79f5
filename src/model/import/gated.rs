//! Gated networks, as training/ writes them: config.json and model.safetensors.

use super::{GOLDEN_TOKENS, ImportError, LANES, SAMPLE, UNIT, quantise, safetensors, vector};
use crate::model::engine::{self, fingerprint};
use crate::model::file::{Blocks, Manifest, Model};
use crate::model::network::{Gated, GatedLayer, Golden, Matrix, Network, Sizes};
use std::path::Path;
use std::sync::Arc;

/// What config.json calls the architecture.
const TYPE: &str = "lmfs-gated";

/// True if a directory holds such a network.
pub fn is(dir: &Path) -> bool {
    dir.is_dir() && safetensors::json(dir, "config.json").is_ok_and(|c| c["model_type"] == TYPE)
}

/// The network of a directory beside the prior of `beside`, on top of which it was trained.
///
/// # Errors
/// The directory holds no such network, or it is for another vocabulary.
pub fn convert(dir: &Path, beside: &Model) -> Result<Model, ImportError> {
    let config = safetensors::json(dir, "config.json")?;
    let number = |key: &str| -> Result<u32, ImportError> {
        let v = config[key].as_u64().and_then(|v| u32::try_from(v).ok());
        v.ok_or_else(|| ImportError::Missing(format!("{key} of config.json")))
    };
    if beside.prior.is_none() {
        let name = &beside.manifest.name;
        return Err(ImportError::Missing(format!(
            "a prior to stand beside, which {name} has not,"
        )));
    }
    let tokens = beside.vocabulary.tokenizer.len() as u32;
    let s = Sizes {
        tokens,
        nodes: beside.vocabulary.tree.nodes().len() as u32,
        hidden: number("hidden_size")?,
        inner: number("inner_size")?,
        layers: number("num_layers")?,
        eps: config["norm_eps"].as_f64().unwrap_or(1e-5) as f32,
    };
    s.check()?;
    let (tensors, source) = safetensors::tensors(dir)?;
    let vector = |name: &str, n: u32| vector(&tensors, name, n);
    let matrix = |name: &str, rows: u32, columns: u32| -> Result<Matrix, ImportError> {
        Ok(quantise(&vector(name, rows * columns)?, rows as usize, columns as usize))
    };
    let layer = |i: u32| -> Result<GatedLayer, ImportError> {
        let name = |n: &str| format!("layers.{i}.{n}");
        Ok(GatedLayer {
            norm: vector(&name("norm"), s.hidden)?,
            shift: vector(&name("shift"), s.hidden)?,
            input: matrix(&name("input"), 3 * s.inner, s.hidden)?,
            keep: vector(&name("keep"), s.inner)?,
            output: matrix(&name("output"), s.hidden, s.inner)?,
        })
    };
    let mut network = Gated {
        sizes: s,
        embedding: matrix("embedding", tokens + 1, s.hidden)?,
        layers: (0..s.layers).map(layer).collect::<Result<_, _>>()?,
        norm: vector("norm", s.hidden)?,
        nodes: matrix("nodes", s.nodes, s.hidden)?,
        bias: vector("bias", s.nodes)?,
        golden: Golden { tokens: Vec::new(), hash: [0; 32] },
    };
    let mut tokens = vec![s.start()];
    tokens.extend(beside.vocabulary.tokenizer.encode(SAMPLE.as_bytes()));
    tokens.truncate(GOLDEN_TOKENS);
    let hash = *fingerprint(&Arc::new(engine::Gated::new(&network)), &tokens)?.as_bytes();
    network.golden = Golden { tokens, hash };
    let name = dir.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    let licence = config["license"].as_str().unwrap_or("unknown").into();
    Ok(Model {
        manifest: Manifest { source, name, version: "1".into(), licence },
        blocks: Blocks { unit: UNIT, lanes: LANES },
        network: Some(Network::Gated(network)),
        ..beside.clone()
    })
}
