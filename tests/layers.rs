//! The direction of imports: every `crate::` path in the sources against a table, and the foreign
//! crates that only one layer may know.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// What each layer may use of the others. Nothing upwards.
const MAY_USE: &[(&str, &[&str])] = &[
    ("types", &[]),
    ("codec", &[]),
    ("model", &["codec", "types"]),
    ("block", &["codec", "model", "types"]),
    ("store", &["block", "types"]),
    ("fetch", &["block", "model", "store", "types"]),
    ("cache", &["block", "fetch", "model", "store", "types"]),
    ("recode", &["block", "fetch", "model", "store", "types"]),
    ("fs", &["block", "cache", "fetch", "model", "recode", "store", "types"]),
    ("fuse", &["fetch", "fs", "store", "types"]),
    ("control", &["block", "fetch", "fs", "model", "recode", "store", "types"]),
    ("cli", &["block", "control", "fetch", "fs", "fuse", "model", "recode", "store", "types"]),
];

/// Foreign crates with one home.
const HOMES: &[(&str, &str)] = &[
    ("fuser", "fuse"),
    ("sled", "store"),
    ("candle_core", "model"),
    ("candle_nn", "model"),
    ("candle_transformers", "model"),
    ("clap", "cli"),
    ("indicatif", "cli"),
];

fn sources(dir: &Path, out: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).expect("read the sources").flatten() {
        let path = entry.path();
        if path.is_dir() {
            sources(&path, out);
        } else if path.extension().is_some_and(|e| e == "rs") {
            out.push(path);
        }
    }
}

/// Each file's layer, name and text without comments and its unit tests.
fn files() -> Vec<(String, String, String)> {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut paths = Vec::new();
    sources(&src, &mut paths);
    let file = |path: PathBuf| {
        let below = path.strip_prefix(&src).expect("below src").to_string_lossy().into_owned();
        let layer = below.split('/').next().unwrap_or_default().trim_end_matches(".rs").to_owned();
        let text = std::fs::read_to_string(&path).expect("read a source");
        let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
        let code = code.lines().filter(|l| !l.trim_start().starts_with("//"));
        (layer, below, code.collect::<Vec<_>>().join("\n"))
    };
    paths.into_iter().map(file).filter(|f| !f.1.contains("tests")).collect()
}

fn names_after<'a>(text: &'a str, prefix: &'a str) -> impl Iterator<Item = &'a str> {
    let end = |s: &'a str| s.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(s.len());
    text.match_indices(prefix).map(move |(at, _)| {
        let rest = &text[at + prefix.len()..];
        &rest[..end(rest)]
    })
}

#[test]
fn imports_go_one_way() {
    let mut wrong = BTreeSet::new();
    for (layer, file, text) in files() {
        if layer == "main" || layer == "lib" {
            continue;
        }
        let Some((_, allowed)) = MAY_USE.iter().find(|(name, _)| *name == layer) else {
            wrong.insert(format!("{file}: layer {layer} is not in the table"));
            continue;
        };
        for used in names_after(&text, "crate::") {
            if used != layer && !allowed.contains(&used) {
                wrong.insert(format!("{file} uses crate::{used}"));
            }
        }
        assert!(!text.contains("use crate::{"), "{file}: import layers one by one");
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn each_foreign_crate_stays_in_its_room() {
    let mut wrong = Vec::new();
    let mut seen = BTreeSet::new();
    for (layer, file, text) in files() {
        for &(name, home) in HOMES {
            if text.contains(&format!("{name}::")) {
                seen.insert(name);
                if layer != home {
                    wrong.push(format!("{file} uses {name}, which only src/{home} may"));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    // The search itself works: these are certainly used.
    assert!(seen.contains("fuser") && seen.contains("sled"), "{seen:?}");
}

#[test]
fn the_codec_counts_in_integers() {
    for (layer, file, text) in files() {
        if layer == "codec" {
            for float in ["f32", "f64"] {
                assert!(!text.contains(float), "{file} uses {float}");
            }
        }
    }
}
