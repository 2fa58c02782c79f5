//! Vocabularies of other formats: the printable spelling of bytes, Hugging Face's tokenizer.json.

use super::ImportError;
use crate::model::tokenizer::{Merge, PreTokenizer};
use serde_json::Value;
use std::collections::HashMap;

/// A vocabulary as sources give it.
#[derive(Debug)]
pub struct Vocabulary {
    pub kind: PreTokenizer,
    /// Bytes of each token; empty for special ones.
    pub tokens: Vec<Vec<u8>>,
    pub merges: Vec<Merge>,
}

/// The byte that a character of GPT-2's printable alphabet stands for.
fn byte_of(c: char) -> Option<u8> {
    let printable = |b: u32| matches!(b, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff);
    let c = c as u32;
    if c < 256 {
        return printable(c).then_some(c as u8);
    }
    (0..256_u32).filter(|b| !printable(*b)).nth((c - 256) as usize).map(|b| b as u8)
}

/// Bytes of a token in that alphabet.
pub fn bytes_of(token: &str) -> Result<Vec<u8>, ImportError> {
    token.chars().map(byte_of).collect::<Option<_>>().ok_or_else(|| ImportError::Unsupported {
        what: "token",
        value: token.into(),
        supported: "byte-level BPE",
    })
}

/// Completes a vocabulary: merges by name, and a token for each byte that lacks one, which takes the
/// place of a special token (never `start`), since those are never coded, or of a rare one.
pub fn build(
    kind: PreTokenizer,
    mut tokens: Vec<Vec<u8>>,
    merges: &[(String, String)],
    start: u32,
) -> Result<Vocabulary, ImportError> {
    let mut seen = [false; 256];
    for t in &tokens {
        if let [b] = t[..] {
            seen[b as usize] = true;
        }
    }
    let mut parts: HashMap<Vec<u8>, u32> = HashMap::new();
    let mut list = Vec::with_capacity(merges.len());
    for (l, r) in merges {
        let (l, r) = (bytes_of(l)?, bytes_of(r)?);
        for part in [&l, &r] {
            *parts.entry(part.clone()).or_default() += 1;
        }
        list.push((l, r));
    }
    for b in (0..=255_u8).filter(|b| !seen[*b as usize]) {
        let special =
            tokens.iter().enumerate().position(|(i, t)| t.is_empty() && i != start as usize);
        // Without special tokens: the rarest token that no merge builds upon.
        let free =
            special.or_else(|| tokens.iter().rposition(|t| t.len() > 1 && !parts.contains_key(t)));
        let free =
            free.ok_or_else(|| ImportError::Missing(format!("a token for byte {b:#04x}")))?;
        list.retain(|(l, r)| {
            let joined = [&l[..], r].concat();
            joined != tokens[free]
        });
        tokens[free] = vec![b];
    }
    let mut ids: HashMap<&[u8], u32> = HashMap::new();
    for (id, t) in tokens.iter().enumerate().filter(|(_, t)| !t.is_empty()) {
        ids.entry(t).or_insert(id as u32);
    }
    let mut merges = Vec::with_capacity(list.len());
    for (l, r) in list {
        let get = |b: &[u8]| {
            ids.get(b).copied().ok_or_else(|| {
                ImportError::Missing(format!("token {:?} of a merge", String::from_utf8_lossy(b)))
            })
        };
        merges.push(Merge { left: get(&l)?, right: get(&r)?, result: get(&[l, r].concat())? });
    }
    Ok(Vocabulary { kind, tokens, merges })
}

fn text<'a>(v: &'a Value, key: &str) -> &'a str {
    v[key].as_str().unwrap_or("none")
}

/// The pre-tokenizer of a tokenizer.json, if it is one of ours.
fn pre_tokenizer(v: &Value) -> Result<PreTokenizer, ImportError> {
    let byte_level = |v: &Value| {
        text(v, "type") == "ByteLevel"
            && v["add_prefix_space"] != Value::Bool(true)
            && v["use_regex"] != Value::Bool(false)
    };
    if byte_level(v) {
        return Ok(PreTokenizer::Gpt2);
    }
    if let Some([first, second]) = v["pretokenizers"].as_array().map(Vec::as_slice)
        && text(first, "type") == "Digits"
        && first["individual_digits"] == Value::Bool(true)
        && byte_level(second)
    {
        return Ok(PreTokenizer::Digits);
    }
    Err(ImportError::Unsupported {
        what: "pre-tokenizer",
        value: v.to_string(),
        supported: "ByteLevel, alone or behind Digits(individual_digits)",
    })
}

/// Reads a tokenizer.json.
pub fn from_json(json: &Value, vocab: u32, start: u32) -> Result<Vocabulary, ImportError> {
    let model = &json["model"];
    if text(model, "type") != "BPE" {
        return Err(ImportError::Unsupported {
            what: "tokenizer model",
            value: text(model, "type").into(),
            supported: "BPE",
        });
    }
    if !json["normalizer"].is_null() {
        return Err(ImportError::Unsupported {
            what: "normalizer",
            value: json["normalizer"].to_string(),
            supported: "none",
        });
    }
    let kind = pre_tokenizer(&json["pre_tokenizer"])?;
    let mut tokens = vec![Vec::new(); vocab as usize];
    let entries = model["vocab"].as_object().ok_or_else(|| ImportError::Missing("vocab".into()))?;
    let special: Vec<u64> = json["added_tokens"]
        .as_array()
        .map(|a| a.iter().filter_map(|t| t["id"].as_u64()).collect())
        .unwrap_or_default();
    for (name, id) in entries {
        let id = id.as_u64().unwrap_or(u64::MAX);
        if special.contains(&id) {
            continue;
        }
        let slot = tokens.get_mut(id as usize).ok_or_else(|| ImportError::Unsupported {
            what: "token number",
            value: id.to_string(),
            supported: "below vocab_size",
        })?;
        *slot = bytes_of(name)?;
    }
    let merges: Option<Vec<(String, String)>> = model["merges"].as_array().and_then(|a| {
        a.iter()
            .map(|m| match (m.as_str(), m.as_array().map(Vec::as_slice)) {
                (Some(s), _) => s.split_once(' ').map(|(l, r)| (l.into(), r.into())),
                (_, Some([l, r])) => Some((l.as_str()?.into(), r.as_str()?.into())),
                _ => None,
            })
            .collect()
    });
    let merges = merges.ok_or_else(|| ImportError::Missing("merges".into()))?;
    build(kind, tokens, &merges, start)
}
