//! Import of small made-up sources, and the exact engine against candle-transformers' Llama.

#![allow(clippy::unwrap_used)]

mod tiny;

use candle_core::quantized::gguf_file::{self, Value};
use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{Device, Tensor};
use lmfs::model::import::{self, ImportError, SAMPLE, oracle};
use lmfs::model::network::{Llama, Matrix};
use lmfs::model::{Model, engine, engine::fingerprint, tune};
use proptest::prelude::*;
use serde_json::json;
use std::collections::HashMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use tiny::Random;

const HIDDEN: usize = 256;
const HEADS: usize = 4;
const KV_HEADS: usize = 2;
const HEAD: usize = 64;
const LAYERS: usize = 2;
const VOCAB: usize = 262;

/// GPT-2's printable spelling of a byte.
fn spelling(b: u8) -> String {
    let printable = |b: u8| matches!(b, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff);
    let c = if printable(b) {
        u32::from(b)
    } else {
        256 + (0..b).filter(|b| !printable(*b)).count() as u32
    };
    char::from_u32(c).unwrap().to_string()
}

/// Token 0 is special, then the bytes, then merges.
fn vocabulary() -> (Vec<String>, Vec<String>) {
    let mut tokens = vec!["<|endoftext|>".to_string()];
    tokens.extend((0..=255).map(spelling));
    let merges: Vec<String> = ["t h", "th e", "i n", "Ġ a", "e r"].map(String::from).to_vec();
    tokens.extend(merges.iter().map(|m| m.replace(' ', "")));
    assert_eq!(tokens.len(), VOCAB);
    (tokens, merges)
}

/// Hugging Face's names, GGUF's names, and shapes.
fn shapes(tied: bool) -> Vec<(String, String, Vec<usize>)> {
    let mut all = vec![
        ("model.embed_tokens".to_string(), "token_embd".to_string(), vec![VOCAB, HIDDEN]),
        ("model.norm".into(), "output_norm".into(), vec![HIDDEN]),
    ];
    if !tied {
        all.push(("lm_head".into(), "output".into(), vec![VOCAB, HIDDEN]));
    }
    let (q, kv) = (HEADS * HEAD, KV_HEADS * HEAD);
    for l in 0..LAYERS {
        for (hf, gguf, shape) in [
            ("input_layernorm", "attn_norm", vec![HIDDEN]),
            ("self_attn.q_proj", "attn_q", vec![q, HIDDEN]),
            ("self_attn.k_proj", "attn_k", vec![kv, HIDDEN]),
            ("self_attn.v_proj", "attn_v", vec![kv, HIDDEN]),
            ("self_attn.o_proj", "attn_output", vec![HIDDEN, q]),
            ("post_attention_layernorm", "ffn_norm", vec![HIDDEN]),
            ("mlp.gate_proj", "ffn_gate", vec![256, HIDDEN]),
            ("mlp.up_proj", "ffn_up", vec![256, HIDDEN]),
            ("mlp.down_proj", "ffn_down", vec![HIDDEN, 256]),
        ] {
            all.push((format!("model.layers.{l}.{hf}"), format!("blk.{l}.{gguf}"), shape));
        }
    }
    all
}

/// Weights that make a model with opinions: scores and logits of some size.
fn tensor(r: &mut Random, shape: &[usize]) -> Tensor {
    let n = shape.iter().product();
    let v: Vec<f32> = if shape.len() == 1 {
        (0..n).map(|_| 0.8 + 0.4 * r.unit()).collect()
    } else {
        // Sums of uniform numbers are bell-shaped, as trained weights are.
        (0..n).map(|_| ((0..4).map(|_| r.unit()).sum::<f32>() - 2.0) * 0.2).collect()
    };
    Tensor::from_vec(v, shape, &Device::Cpu).unwrap()
}

fn write_json(dir: &Path, name: &str, v: &serde_json::Value) {
    std::fs::write(dir.join(name), serde_json::to_vec(v).unwrap()).unwrap();
}

fn config() -> serde_json::Value {
    json!({
        "model_type": "llama", "hidden_size": HIDDEN, "intermediate_size": 256,
        "num_hidden_layers": LAYERS, "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS, "head_dim": HEAD, "vocab_size": VOCAB,
        "max_position_embeddings": 512, "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
        "hidden_act": "silu", "tie_word_embeddings": false, "bos_token_id": 0,
        "license": "CC0-1.0"
    })
}

fn tokenizer() -> serde_json::Value {
    let (tokens, merges) = vocabulary();
    let vocab: HashMap<&str, usize> =
        tokens.iter().enumerate().map(|(i, t)| (t.as_str(), i)).collect();
    json!({
        "normalizer": null,
        "added_tokens": [{"id": 0, "content": "<|endoftext|>"}],
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
            {"type": "Digits", "individual_digits": true},
            {"type": "ByteLevel", "add_prefix_space": false, "use_regex": true}]},
        "model": {"type": "BPE", "vocab": vocab, "merges": merges}
    })
}

/// A Hugging Face directory.
fn directory(dir: &Path, config: &serde_json::Value, tokenizer: &serde_json::Value) {
    write_json(dir, "config.json", config);
    write_json(dir, "tokenizer.json", tokenizer);
    let mut r = Random(4711);
    let tensors: HashMap<String, Tensor> = shapes(config["tie_word_embeddings"] == true)
        .into_iter()
        .map(|(hf, _, shape)| (hf + ".weight", tensor(&mut r, &shape)))
        .collect();
    candle_core::safetensors::save(&tensors, dir.join("model.safetensors")).unwrap();
}

fn metadata() -> Vec<(String, Value)> {
    let (tokens, merges) = vocabulary();
    let strings = |v: Vec<String>| Value::Array(v.into_iter().map(Value::String).collect());
    let types = (0..VOCAB).map(|i| Value::I32(if i == 0 { 3 } else { 1 })).collect();
    [
        ("general.architecture", Value::String("llama".into())),
        ("general.name", Value::String("tiny".into())),
        ("llama.embedding_length", Value::U32(HIDDEN as u32)),
        ("llama.attention.head_count", Value::U32(HEADS as u32)),
        ("llama.attention.head_count_kv", Value::U32(KV_HEADS as u32)),
        ("llama.block_count", Value::U32(LAYERS as u32)),
        ("llama.feed_forward_length", Value::U32(256)),
        ("llama.context_length", Value::U32(512)),
        ("llama.attention.layer_norm_rms_epsilon", Value::F32(1e-5)),
        ("tokenizer.ggml.model", Value::String("gpt2".into())),
        ("tokenizer.ggml.pre", Value::String("smollm".into())),
        ("tokenizer.ggml.tokens", strings(tokens)),
        ("tokenizer.ggml.merges", strings(merges)),
        ("tokenizer.ggml.token_type", Value::Array(types)),
        ("tokenizer.ggml.bos_token_id", Value::U32(0)),
    ]
    .map(|(k, v)| (k.to_string(), v))
    .to_vec()
}

/// A GGUF file whose matrices have the type `kind`.
fn gguf(path: &Path, kind: GgmlDType, meta: &[(String, Value)], more: Option<&str>) {
    let mut r = Random(4711);
    let mut tensors: Vec<(String, QTensor)> = shapes(true)
        .into_iter()
        .map(|(_, name, shape)| {
            let t = tensor(&mut r, &shape);
            let kind = if shape.len() == 1 { GgmlDType::F32 } else { kind };
            (name + ".weight", QTensor::quantize(&t, kind).unwrap())
        })
        .collect();
    if let Some(name) = more {
        let t = tensor(&mut r, &[HIDDEN]);
        tensors.push((name.into(), QTensor::quantize(&t, GgmlDType::F32).unwrap()));
    }
    let meta: Vec<(&str, &Value)> = meta.iter().map(|(k, v)| (k.as_str(), v)).collect();
    let tensors: Vec<(&str, &QTensor)> = tensors.iter().map(|(k, v)| (k.as_str(), v)).collect();
    gguf_file::write(&mut std::fs::File::create(path).unwrap(), &meta, &tensors).unwrap();
}

/// Converts, checks the check vector and that the result is the same each time.
fn convert(path: &Path) -> Model {
    let source = import::read(path).unwrap();
    let bytes = source.convert().unwrap().to_bytes();
    assert!(import::read(path).unwrap().convert().unwrap().to_bytes() == bytes);
    let m = Model::from_bytes(&bytes).unwrap();
    let n = network(&m);
    let engine = Arc::new(engine::Llama::new(n, &m.vocabulary.tree));
    let hash = fingerprint(&engine, &n.golden.tokens).unwrap();
    assert_eq!(*hash.as_bytes(), n.golden.hash);
    m
}

fn network(m: &Model) -> &Llama {
    tiny::network(m)
}

/// Logits within 0.15 of their standard deviation in the root mean square, 1.5 at worst; bits per byte
/// within 1%.
fn matches_the_reference(path: &Path, model: &Model) {
    let source = import::read(path).unwrap();
    let r = oracle::compare(&source, &model.vocabulary, network(model), SAMPLE.as_bytes(), 200)
        .unwrap();
    assert!(r.mean_logit < 0.15 && r.worst_logit < 1.5, "{r:?}");
    assert!((r.exact_bpb / r.reference_bpb - 1.0).abs() < 0.01, "{r:?}");
}

/// The message with which a source is refused.
fn refusal(path: &Path) -> String {
    match import::read(path).and_then(|s| s.convert()) {
        Err(e @ (ImportError::Unsupported { .. } | ImportError::Candle { .. })) => e.to_string(),
        Err(e) => panic!("refused as {e}"),
        Ok(_) => panic!("not refused"),
    }
}

#[test]
fn directories_are_imported_with_and_without_a_head() {
    for tied in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let mut config = config();
        config["tie_word_embeddings"] = json!(tied);
        directory(dir.path(), &config, &tokenizer());
        let m = convert(dir.path());
        let n = network(&m);
        assert_eq!(n.head.is_none(), tied);
        assert_eq!((n.hyper.hidden, n.hyper.kv_heads, n.hyper.start), (256, 2, 0));
        assert_eq!(m.manifest.licence, "CC0-1.0");
        matches_the_reference(dir.path(), &m);
    }
}

#[test]
fn every_tensor_type_is_imported() {
    let dir = tempfile::tempdir().unwrap();
    let exact = dir.path().join("f32.gguf");
    gguf(&exact, GgmlDType::F32, &metadata(), None);
    let exact = convert(&exact);
    // Largest relative error of a weight matrix, by what the type keeps.
    for (kind, most) in [
        (GgmlDType::F16, 0.02),
        (GgmlDType::BF16, 0.02),
        (GgmlDType::Q8_0, 0.02),
        (GgmlDType::Q5_0, 0.1),
        (GgmlDType::Q5_1, 0.1),
        (GgmlDType::Q4_0, 0.15),
        (GgmlDType::Q4_1, 0.15),
        (GgmlDType::Q6K, 0.05),
        (GgmlDType::Q5K, 0.1),
        (GgmlDType::Q4K, 0.15),
        (GgmlDType::Q3K, 0.3),
        (GgmlDType::Q2K, 0.5),
    ] {
        let path = dir.path().join(format!("{kind:?}.gguf"));
        gguf(&path, kind, &metadata(), None);
        let m = convert(&path);
        let floats = |m: &Model| -> Vec<f32> {
            let m = &network(m).layers[1].query;
            let values = m.values.chunks(64).zip(&m.scales);
            values.flat_map(|(v, s)| v.iter().map(move |v| f32::from(*v) * s)).collect()
        };
        let (a, b) = (floats(&exact), floats(&m));
        let square = |v: &mut dyn Iterator<Item = f32>| v.map(|v| v * v).sum::<f32>().sqrt();
        let error =
            square(&mut a.iter().zip(&b).map(|(a, b)| a - b)) / square(&mut a.iter().copied());
        assert!(error < most, "{kind:?}: {error}");
        matches_the_reference(&path, &m);
    }
}

#[test]
fn a_wheel_is_its_gguf() {
    let dir = tempfile::tempdir().unwrap();
    let inner = dir.path().join("model.gguf");
    gguf(&inner, GgmlDType::Q8_0, &metadata(), None);
    let wheel = |name: &str, files: &[&str]| -> PathBuf {
        let path = dir.path().join(name);
        let mut zip = zip::ZipWriter::new(std::fs::File::create(&path).unwrap());
        for f in files {
            zip.start_file(*f, zip::write::SimpleFileOptions::default()).unwrap();
            zip.write_all(&std::fs::read(&inner).unwrap()).unwrap();
        }
        zip.finish().unwrap();
        path
    };
    let one = convert(&wheel("one.whl", &["pkg/model.gguf"]));
    assert_eq!(one.to_bytes(), convert(&inner).to_bytes());
    assert!(import::read(&wheel("two.whl", &["a.gguf", "b.gguf"])).is_err());
    assert!(import::read(&wheel("none.whl", &["readme.txt"])).is_err());
}

#[test]
fn what_is_not_supported_is_named() {
    for (key, value, name) in [
        ("model_type", json!("mamba"), "mamba"),
        ("hidden_act", json!("gelu"), "gelu"),
        ("attention_bias", json!(true), "attention_bias"),
        ("rope_scaling", json!({"type": "yarn"}), "yarn"),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let mut config = config();
        config[key] = value;
        directory(dir.path(), &config, &tokenizer());
        assert!(refusal(dir.path()).contains(name), "{name}");
    }
    for (pointer, value, name) in [
        ("/model/type", json!("Unigram"), "Unigram"),
        ("/pre_tokenizer/type", json!("Whitespace"), "Whitespace"),
        ("/normalizer", json!({"type": "NFC"}), "NFC"),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let mut tokenizer = tokenizer();
        *tokenizer.pointer_mut(pointer).unwrap() = value;
        if name == "Whitespace" {
            tokenizer["pre_tokenizer"] = json!({"type": "Whitespace"});
        }
        directory(dir.path(), &config(), &tokenizer);
        assert!(refusal(dir.path()).contains(name), "{name}");
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("bad.gguf");
    for (key, name) in [
        ("general.architecture", "qwen2"),
        ("tokenizer.ggml.model", "llama"),
        ("tokenizer.ggml.pre", "deepseek-coder"),
        ("llama.rope.scaling.type", "longrope"),
    ] {
        let mut meta = metadata();
        meta.retain(|(k, _)| k != key);
        meta.push((key.into(), Value::String(name.into())));
        gguf(&path, GgmlDType::Q8_0, &meta, None);
        assert!(refusal(&path).contains(name), "{name}");
    }
    gguf(&path, GgmlDType::Q8_0, &metadata(), Some("blk.0.attn_q.bias"));
    assert!(refusal(&path).contains("attn_q.bias"));
}

/// A tensor type that candle does not know (IQ2_XXS, 16) is refused with its tensor's or its own name.
#[test]
fn unknown_tensor_types_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("iq.gguf");
    gguf(&path, GgmlDType::Q8_0, &metadata(), None);
    let mut bytes = std::fs::read(&path).unwrap();
    let name = b"token_embd.weight";
    let at = bytes.windows(name.len()).position(|w| w == name).unwrap() + name.len();
    // Number of dimensions, two dimensions, then the type.
    let at = at + 4 + 16;
    assert_eq!(bytes[at..at + 4], 8_u32.to_le_bytes());
    bytes[at..at + 4].copy_from_slice(&16_u32.to_le_bytes());
    std::fs::write(&path, bytes).unwrap();
    let message = refusal(&path);
    assert!(message.contains("16"), "{message}");
}

/// A vocabulary as imports make it.
fn imported() -> &'static Model {
    static MODEL: OnceLock<Model> = OnceLock::new();
    MODEL.get_or_init(|| {
        let dir = tempfile::tempdir().unwrap();
        directory(dir.path(), &config(), &tokenizer());
        import::read(dir.path()).unwrap().convert().unwrap()
    })
}

proptest! {
    #[test]
    fn any_bytes_come_back(text in prop::collection::vec(any::<u8>(), 0..3000)) {
        let t = &imported().vocabulary.tokenizer;
        let tokens = t.encode(&text);
        prop_assert_eq!(t.decode(&tokens), text);
        prop_assert!(tokens.iter().all(|t| imported().vocabulary.tree.leaves().contains(t)));
    }
}

/// The differentiable model that tuning uses computes what the reference does with its weights.
#[test]
fn the_differentiable_model_matches_the_reference() {
    for tied in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let mut config = config();
        config["tie_word_embeddings"] = json!(tied);
        directory(dir.path(), &config, &tokenizer());
        let mut source = import::read(dir.path()).unwrap();
        let converted = source.convert().unwrap();
        let (vocabulary, model) = (&converted.vocabulary, network(&converted));
        let mut set = |name: String, m: &Matrix| {
            source.tensors.insert(name + ".weight", tune::dequantise(m)).unwrap();
        };
        set("model.embed_tokens".into(), &model.embedding);
        if let Some(head) = &model.head {
            set("lm_head".into(), head);
        }
        for (i, l) in model.layers.iter().enumerate() {
            for (name, m) in [
                ("self_attn.q_proj", &l.query),
                ("self_attn.k_proj", &l.key),
                ("self_attn.v_proj", &l.value),
                ("self_attn.o_proj", &l.output),
                ("mlp.gate_proj", &l.gate),
                ("mlp.up_proj", &l.up),
                ("mlp.down_proj", &l.down),
            ] {
                set(format!("model.layers.{i}.{name}"), m);
            }
        }
        let targets = vocabulary.tokenizer.encode(&SAMPLE.as_bytes()[..400]);
        let inputs: Vec<u32> =
            std::iter::once(0).chain(targets[..targets.len() - 1].iter().copied()).collect();
        let logits = oracle::reference(&source, std::slice::from_ref(&inputs)).unwrap().remove(0);
        let llama = tune::Llama::new(vocabulary, model, inputs.len()).unwrap();
        let losses = llama.losses(&inputs, targets.clone(), inputs.len()).unwrap();
        for ((logits, target), loss) in
            logits.iter().zip(&targets).zip(losses.to_vec1::<f32>().unwrap())
        {
            // The special token, number 0, has no share.
            let sum: f64 = logits[1..].iter().map(|l| f64::from(*l).exp()).sum();
            let want = sum.ln() - f64::from(logits[*target as usize]);
            assert!((f64::from(loss) - want).abs() < 1e-3 * want.max(1.0), "{loss} {want}");
        }
    }
}

/// A gated network for the tokens of `base`, as training/ writes it.
fn gated_directory(dir: &Path, layers: u32, without: &str) {
    let (hidden, inner) = (16, 32);
    let config = json!({
        "model_type": "lmfs-gated", "hidden_size": hidden, "inner_size": inner, "num_layers": layers,
        "norm_eps": 1e-5, "license": "CC0-1.0",
    });
    std::fs::write(dir.join("config.json"), config.to_string()).unwrap();
    let mut r = Random(9);
    let mut tensors = HashMap::new();
    let mut add = |name: String, shape: &[usize]| {
        let values: Vec<f32> = (0..shape.iter().product()).map(|_| r.unit() - 0.5).collect();
        if name != without {
            tensors.insert(name, Tensor::from_vec(values, shape, &Device::Cpu).unwrap());
        }
    };
    add("embedding".into(), &[4097, hidden]);
    for i in 0..layers {
        add(format!("layers.{i}.norm"), &[hidden]);
        add(format!("layers.{i}.shift"), &[hidden]);
        add(format!("layers.{i}.input"), &[3 * inner, hidden]);
        add(format!("layers.{i}.keep"), &[inner]);
        add(format!("layers.{i}.output"), &[hidden, inner]);
    }
    add("norm".into(), &[hidden]);
    add("nodes".into(), &[4095, hidden]);
    add("bias".into(), &[4095]);
    candle_core::safetensors::save(&tensors, dir.join("model.safetensors")).unwrap();
}

#[test]
fn gated_networks_are_imported_beside_a_prior() {
    let base = Model::from_bytes(lmfs::models::EMBEDDED[0].1).unwrap();
    let dir = tempfile::tempdir().unwrap();
    gated_directory(dir.path(), 2, "");
    assert!(import::gated::is(dir.path()));
    let m = import::gated::convert(dir.path(), &base).unwrap();
    // Blocks of what takes so much longer to decode are shorter.
    assert_eq!(m.manifest.licence, "CC0-1.0");
    assert!(m.blocks.unit < base.blocks.unit);
    let bytes = m.to_bytes();
    assert!(import::gated::convert(dir.path(), &base).unwrap().to_bytes() == bytes);
    // It codes, so what it computes here is what its file says.
    let lm = lmfs::block::Lm::load(&bytes).unwrap();
    assert!(lm.is_slow() && lm.without_network().is_some());
    // What is missing is named.
    let refused = |m: Result<Model, ImportError>| m.unwrap_err().to_string();
    let alone = tiny::smallest();
    assert!(refused(import::gated::convert(dir.path(), &alone)).contains("prior"));
    let other = tempfile::tempdir().unwrap();
    gated_directory(other.path(), 2, "layers.1.keep");
    assert!(refused(import::gated::convert(other.path(), &base)).contains("layers.1.keep"));
    gated_directory(other.path(), 0, "");
    assert!(refused(import::gated::convert(other.path(), &base)).contains("layers"));
    // A Llama's directory is none.
    let llama = tempfile::tempdir().unwrap();
    directory(llama.path(), &config(), &tokenizer());
    assert!(!import::gated::is(llama.path()));
}
