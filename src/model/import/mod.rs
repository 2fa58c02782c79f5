//! Makes canonical model files from other formats.
//!
//! Everything that ends up in the file is computed with IEEE operations in a fixed order, so that
//! the same source gives the same id on every machine.

pub mod gated;
mod gguf;
pub mod oracle;
mod rope;
mod safetensors;
mod vocabulary;

use super::bytes::FileError;
use super::engine::{self, EngineError, Input, Session, fingerprint};
use super::file::{Blocks, Manifest, Model};
use super::network::{GROUP, WEIGHT_MAX};
use super::network::{Golden, Hyper, Layer, Llama, Matrix, Network};
use super::tokenizer::{Merge, PreTokenizer, Tokenizer, TokenizerError};
use super::tree::Tree;
use super::vocabulary::Vocabulary;
use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

/// Text of several kinds that imports are judged by.
pub const SAMPLE: &str = include_str!("sample.txt");
/// Tokens of a model's check vector.
const GOLDEN_TOKENS: usize = 48;

/// Lanes of a default block. Fewer make smaller code and take longer: with four of a gated network it is 0.5%
/// smaller and takes a third longer to decode.
const LANES: u32 = 8;
/// Bytes of such a block. Without a network they are [`Blocks::ALONE`]; with one they take many times as long to
/// decode.
const UNIT: u32 = 128 << 10;

/// What blocks a model of these sizes gets. Large models are for archives that are hardly read: they get
/// lanes twice as long, and each cold read takes twice as long.
fn blocks(h: &Hyper) -> Blocks {
    const LARGE: f64 = 32e6;
    // Nothing is checked yet: no size may overflow.
    let [hidden, layers, vocab] = [h.hidden, h.layers, h.vocab].map(f64::from);
    let heads = 2.0 * f64::from(h.head_dim) * (f64::from(h.heads) + f64::from(h.kv_heads));
    let parameters = hidden * (vocab + layers * (heads + 3.0 * f64::from(h.feed_forward)));
    Blocks { unit: if parameters < LARGE { UNIT } else { 2 * UNIT }, lanes: LANES }
}

/// Window and sinks of a model that was trained on texts of `context` tokens. A longer window is paid
/// for in memory and time with each token; what it sees beyond this is worth little. Models of whole
/// texts rest on the first tokens, and say much less without them.
fn reach(context: u32) -> (u32, u32) {
    const MOST_WINDOW: u32 = 1024;
    const SINKS: u32 = 16;
    if context > MOST_WINDOW { (MOST_WINDOW, SINKS) } else { (context, 0) }
}

/// Why something is not imported.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// Reading failed.
    #[error("cannot read {what}: {error}")]
    Io {
        /// File.
        what: String,
        /// Cause.
        error: std::io::Error,
    },
    /// candle could not read it.
    #[error("cannot read {what}: {error}")]
    Candle {
        /// File or tensor.
        what: String,
        /// Cause.
        error: candle_core::Error,
    },
    /// Not one of the known formats.
    #[error(
        "{0} is neither a GGUF file, a safetensors directory, nor a wheel or zip with one GGUF"
    )]
    Format(String),
    /// A feature that the engine does not have.
    #[error("{what} {value:?} is not supported (supported: {supported})")]
    Unsupported {
        /// Kind of feature.
        what: &'static str,
        /// Its value in the source.
        value: String,
        /// What would do.
        supported: &'static str,
    },
    /// Something is not there.
    #[error("{0} is missing")]
    Missing(String),
    /// A tensor of another shape than the hyper-parameters say.
    #[error("tensor {name} has {found} elements, not {want}")]
    Shape {
        /// Its name.
        name: String,
        /// Elements found.
        found: usize,
        /// Elements that it must have.
        want: usize,
    },
    /// A weight that is infinite or not a number.
    #[error("tensor {0} has a weight that is not finite")]
    NotFinite(String),
    /// The vocabulary cannot work.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// The sizes cannot work.
    #[error(transparent)]
    File(#[from] FileError),
    /// The engine refuses.
    #[error(transparent)]
    Engine(#[from] EngineError),
}

/// What the formats have in common: a Llama in single precision, by Hugging Face's tensor names.
pub struct Source {
    /// Name, licence, source.
    pub manifest: Manifest,
    /// The defaults, unless somebody chooses others.
    pub blocks: Blocks,
    /// Sizes.
    pub hyper: Hyper,
    /// Base of the rotation frequencies.
    pub theta: f64,
    kind: PreTokenizer,
    tokens: Vec<Vec<u8>>,
    merges: Vec<Merge>,
    /// Row-major weights by name.
    pub tensors: HashMap<String, Vec<f32>>,
}

/// Reads a GGUF file, a safetensors directory, or a zip (wheel) with one GGUF.
pub fn read(path: &Path) -> Result<Source, ImportError> {
    let name = path.display().to_string();
    let io = |error| ImportError::Io { what: name.clone(), error };
    if path.is_dir() {
        return safetensors::read(path);
    }
    let mut file = std::fs::File::open(path).map_err(io)?;
    let mut magic = [0_u8; 4];
    std::io::Read::read_exact(&mut file, &mut magic).map_err(io)?;
    match &magic {
        b"GGUF" => {
            std::io::Seek::rewind(&mut file).map_err(io)?;
            gguf::read(&mut std::io::BufReader::new(file), &name)
        }
        b"PK\x03\x04" => gguf::read_zip(file, &name),
        _ => Err(ImportError::Format(name)),
    }
}

/// Quantises to ±[`WEIGHT_MAX`] with a scale per [`GROUP`] inputs.
pub(super) fn quantise(values: &[f32], rows: usize, columns: usize) -> Matrix {
    let mut m = Matrix {
        rows,
        columns,
        values: Vec::with_capacity(values.len()),
        scales: Vec::with_capacity(rows * columns.div_ceil(GROUP)),
    };
    let most = f32::from(WEIGHT_MAX);
    for row in values.chunks_exact(columns) {
        for group in row.chunks(GROUP) {
            let amax = group.iter().fold(0.0_f32, |a, v| a.max(v.abs()));
            let scale = amax / most;
            m.scales.push(scale);
            m.values.extend(group.iter().map(|v| {
                if scale > 0.0 { (v / scale).round().clamp(-most, most) as i8 } else { 0 }
            }));
        }
    }
    m
}

/// A tensor's elements, of which there must be `n`.
fn vector(
    tensors: &HashMap<String, Vec<f32>>,
    name: &str,
    n: u32,
) -> Result<Vec<f32>, ImportError> {
    let v = tensors.get(name).ok_or_else(|| ImportError::Missing(format!("tensor {name}")))?;
    if v.len() != n as usize {
        return Err(ImportError::Shape { name: name.into(), found: v.len(), want: n as usize });
    }
    if v.iter().any(|f| !f.is_finite()) {
        return Err(ImportError::NotFinite(name.into()));
    }
    Ok(v.clone())
}

impl Source {
    fn vector(&self, name: &str, n: u32) -> Result<Vec<f32>, ImportError> {
        vector(&self.tensors, name, n)
    }

    fn matrix(&self, name: &str, rows: u32, columns: u32) -> Result<Matrix, ImportError> {
        let v = self.vector(name, rows * columns)?;
        Ok(quantise(&v, rows as usize, columns as usize))
    }

    /// Makes the model: quantises, builds tables and coding tree, computes the check vector.
    pub fn convert(&self) -> Result<Model, ImportError> {
        let h = self.hyper;
        h.check()?;
        self.blocks.check()?;
        let tokenizer = Tokenizer::new(self.kind, &self.tokens, self.merges.clone())?;
        let (q, kv) = (h.heads * h.head_dim, h.kv_heads * h.head_dim);
        let layers = (0..h.layers)
            .map(|i| {
                let name = |n: &str| format!("model.layers.{i}.{n}.weight");
                Ok(Layer {
                    norm1: self.vector(&name("input_layernorm"), h.hidden)?,
                    query: self.matrix(&name("self_attn.q_proj"), q, h.hidden)?,
                    key: self.matrix(&name("self_attn.k_proj"), kv, h.hidden)?,
                    value: self.matrix(&name("self_attn.v_proj"), kv, h.hidden)?,
                    output: self.matrix(&name("self_attn.o_proj"), h.hidden, q)?,
                    norm2: self.vector(&name("post_attention_layernorm"), h.hidden)?,
                    gate: self.matrix(&name("mlp.gate_proj"), h.feed_forward, h.hidden)?,
                    up: self.matrix(&name("mlp.up_proj"), h.feed_forward, h.hidden)?,
                    down: self.matrix(&name("mlp.down_proj"), h.hidden, h.feed_forward)?,
                })
            })
            .collect::<Result<_, ImportError>>()?;
        let head = if self.tensors.contains_key("lm_head.weight") {
            Some(self.matrix("lm_head.weight", h.vocab, h.hidden)?)
        } else {
            None
        };
        // Earlier tokens of a BPE vocabulary are the more frequent ones: Zipf's law to start with.
        let zipf: Vec<(u32, u64)> = (0..h.vocab)
            .filter(|t| !tokenizer.token(*t).is_empty())
            .map(|t| (t, (1 << 32) / (u64::from(t) + 64)))
            .collect();
        let mut network = Llama {
            hyper: h,
            rope: rope::tables(h.head_dim as usize, self.theta),
            embedding: self.matrix("model.embed_tokens.weight", h.vocab, h.hidden)?,
            layers,
            norm: self.vector("model.norm.weight", h.hidden)?,
            head,
            golden: Golden { tokens: Vec::new(), hash: [0; 32] },
        };
        let mut vocabulary = Vocabulary { tree: Tree::huffman(&zipf), tokenizer };
        let weights = mean_distribution(&vocabulary, &network)?;
        let tokens: Vec<(u32, u64, &[u8])> =
            weights.iter().map(|(t, w)| (*t, *w, vocabulary.tokenizer.token(*t))).collect();
        let tree = Tree::lexicographic(&tokens).unwrap_or_else(|| Tree::huffman(&weights));
        vocabulary.tree = tree;
        let mut tokens = vec![h.start];
        tokens.extend(vocabulary.tokenizer.encode(SAMPLE.as_bytes()));
        tokens.truncate(GOLDEN_TOKENS);
        let engine = Arc::new(engine::Llama::new(&network, &vocabulary.tree));
        let hash = *fingerprint(&engine, &tokens)?.as_bytes();
        network.golden = Golden { tokens, hash };
        Ok(Model {
            manifest: self.manifest.clone(),
            blocks: self.blocks,
            vocabulary,
            prior: None,
            network: Some(Network::Llama(network)),
        })
    }
}

/// Each token's weight for the coding tree: its mean probability under the model over the sample,
/// plus a share by Zipf's law for what the sample does not touch.
fn mean_distribution(
    vocabulary: &Vocabulary,
    network: &Llama,
) -> Result<Vec<(u32, u64)>, ImportError> {
    let engine = Arc::new(engine::Llama::new(network, &vocabulary.tree));
    let mut session = Session::new(engine, 1, 1)?;
    let leaves = vocabulary.tree.leaves();
    let mut weights: Vec<u64> =
        leaves.iter().map(|t| (1_u64 << 38) / (u64::from(*t) + 64)).collect();
    let mut tokens = vec![network.hyper.start];
    tokens.extend(vocabulary.tokenizer.encode(SAMPLE.as_bytes()));
    for chunk in tokens.chunks(16) {
        let inputs: Vec<Input> = chunk.iter().map(|t| Input { lane: 0, token: *t }).collect();
        session.step(&inputs);
        for c in 0..inputs.len() {
            for (w, p) in weights.iter_mut().zip(session.cumulative(c).windows(2)) {
                *w += u64::from(p[1] - p[0]);
            }
        }
    }
    let mut list: Vec<(u32, u64)> = leaves.iter().copied().zip(weights).collect();
    list.sort_unstable_by_key(|l| l.0);
    Ok(list)
}
