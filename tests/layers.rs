//! Imports go one way, and foreign crates have one room each.

#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};

/// Each layer and the layers that it may import.
const ALLOWED: [(&str, &[&str]); 15] = [
    ("types", &[]),
    ("priority", &[]),
    // For tests only.
    ("logged", &[]),
    ("codec", &[]),
    ("model", &["codec", "types"]),
    ("block", &["codec", "model", "types"]),
    ("store", &["block", "logged", "priority", "types"]),
    ("models", &["block", "model", "store"]),
    ("blocks", &["block", "models", "store", "types"]),
    ("recode", &["block", "blocks", "priority", "store", "types"]),
    ("fs", &["block", "blocks", "logged", "recode", "store", "types"]),
    ("fuse", &["blocks", "fs", "types", "recode", "store"]),
    ("control", &["block", "blocks", "fs", "recode", "store", "types"]),
    (
        "cli",
        &[
            "block", "blocks", "codec", "control", "fs", "fuse", "model", "models", "recode",
            "store", "types",
        ],
    ),
    ("main", &[]),
];

/// Foreign crates and the only layer that may name them.
const ROOMS: [(&str, &str); 5] = [
    ("fuser", "fuse"),
    ("sled", "store"),
    ("candle_core", "model"),
    ("candle_nn", "model"),
    ("candle_transformers", "model"),
];

fn sources(dir: &Path, out: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, out);
        } else if path.extension().is_some_and(|e| e == "rs") {
            out.push(path);
        }
    }
}

fn layer(path: &Path) -> String {
    let below = path.strip_prefix(concat!(env!("CARGO_MANIFEST_DIR"), "/src")).unwrap();
    let first = below.components().next().unwrap().as_os_str().to_str().unwrap();
    first.trim_end_matches(".rs").to_owned()
}

/// The code of a file without comments.
fn code(path: &Path) -> String {
    let text = std::fs::read_to_string(path).unwrap();
    text.lines().map(|l| l.split("//").next().unwrap_or("")).collect::<Vec<_>>().join("\n")
}

/// Layers named as `crate::x` or in `crate::{x, …}`.
fn imports(code: &str) -> Vec<String> {
    let word = |s: &str| -> String {
        s.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect()
    };
    let mut out = Vec::new();
    for part in code.split("crate::").skip(1) {
        match part.strip_prefix('{') {
            Some(group) => {
                let mut depth = 0;
                let mut at_name = true;
                for (i, c) in group.char_indices() {
                    match c {
                        '{' => depth += 1,
                        '}' if depth == 0 => break,
                        '}' => depth -= 1,
                        ',' if depth == 0 => at_name = true,
                        c if at_name && !c.is_whitespace() => {
                            out.push(word(&group[i..]));
                            at_name = false;
                        }
                        _ => {}
                    }
                }
            }
            None => out.push(word(part)),
        }
    }
    out
}

#[test]
fn imports_go_one_way() {
    let mut files = Vec::new();
    sources(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/src")), &mut files);
    assert!(files.len() > 20);
    let mut wrong = Vec::new();
    for path in files {
        let here = layer(&path);
        if here == "lib" {
            continue;
        }
        let allowed = ALLOWED.iter().find(|(l, _)| *l == here).map(|(_, a)| *a);
        let allowed = allowed.unwrap_or_else(|| panic!("layer {here} is not in the table"));
        let code = code(&path);
        for name in imports(&code) {
            let known = ALLOWED.iter().any(|(l, _)| *l == name);
            if known && name != here && !allowed.contains(&name.as_str()) {
                wrong.push(format!("{} imports {name}", path.display()));
            }
        }
        for (krate, room) in ROOMS {
            if here != room
                && (code.contains(&format!("{krate}::")) || code.contains(&format!("use {krate}")))
            {
                wrong.push(format!("{} names {krate}", path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_check_itself_sees_upward_imports() {
    assert_eq!(imports("use crate::{a::{b, c}, d};\ncrate::e::f()"), ["a", "d", "e"]);
}
