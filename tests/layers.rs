//! Imports go one way, as `docs/ARCHITECTURE.md` says, foreign crates have one module each, and no files
//! import each other in a circle.

#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

const TOP: &str = env!("CARGO_MANIFEST_DIR");

/// A module, whom it may import, and the foreign crates that only it may name.
#[derive(Debug, PartialEq, Eq)]
struct Module {
    name: String,
    may: Vec<String>,
    alone: Vec<String>,
}

/// What stands between commas.
fn list(cell: &str) -> Vec<String> {
    cell.split(',').map(|n| n.trim().to_owned()).filter(|n| !n.is_empty()).collect()
}

/// The rows of the tables that begin with a column called "module".
fn modules(text: &str) -> Vec<Module> {
    let mut out = Vec::new();
    let mut head: Option<Vec<String>> = None;
    for line in text.lines() {
        let Some(row) = line.strip_prefix('|').and_then(|l| l.strip_suffix('|')) else {
            head = None;
            continue;
        };
        let cells: Vec<String> = row.split('|').map(|c| c.trim().to_owned()).collect();
        match &head {
            None => head = Some(cells),
            Some(head) if head[0] == "module" && !cells[0].starts_with("---") => {
                let cell = |name: &str| {
                    let at = head.iter().position(|h| h == name);
                    at.map(|at| list(&cells[at])).unwrap_or_default()
                };
                let module = Module {
                    name: cells[0].clone(),
                    may: cell("may import"),
                    alone: cell("alone knows"),
                };
                out.push(module);
            }
            Some(_) => {}
        }
    }
    out
}

/// A file's place among the modules, and its code without comments and unit tests.
struct Source {
    place: Vec<String>,
    code: String,
}

fn sources() -> Vec<Source> {
    fn walk(dir: &Path, out: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(&path, out);
            } else if path.extension().is_some_and(|e| e == "rs") {
                out.push(path);
            }
        }
    }
    let top = Path::new(TOP).join("src");
    let mut paths = Vec::new();
    walk(&top, &mut paths);
    let source = |path: PathBuf| {
        let text = std::fs::read_to_string(&path).unwrap();
        let text = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
        let code: Vec<&str> = text.lines().map(|l| l.split("//").next().unwrap()).collect();
        let below = path.strip_prefix(&top).unwrap().with_extension("");
        let mut place: Vec<String> = below.iter().map(|c| c.to_str().unwrap().to_owned()).collect();
        if place.last().is_some_and(|l| l == "mod") {
            place.pop();
        }
        Source { place, code: code.join("\n") }
    };
    paths.into_iter().map(source).filter(|s| s.place != ["lib"]).collect()
}

/// The paths in a tree of imports: `a::{b, c::d}` is `a::b` and `a::c::d`.
fn paths(tree: &str) -> Vec<Vec<String>> {
    let tree = tree.trim();
    if let Some(group) = tree.strip_prefix('{') {
        let (mut depth, mut from, mut out) = (0, 0, Vec::new());
        for (i, c) in group.char_indices() {
            match c {
                '{' => depth += 1,
                '}' | ',' if depth == 0 => {
                    out.extend(paths(&group[from..i]));
                    from = i + 1;
                    if c == '}' {
                        break;
                    }
                }
                '}' => depth -= 1,
                _ => {}
            }
        }
        return out;
    }
    let n = tree.find(|c: char| !(c.is_alphanumeric() || c == '_' || c == '*'));
    let (name, rest) = tree.split_at(n.unwrap_or(tree.len()));
    if name.is_empty() {
        return Vec::new();
    }
    match rest.trim_start().strip_prefix("::").map(paths) {
        Some(below) if !below.is_empty() => {
            let with = |p: Vec<String>| [vec![name.to_owned()], p].concat();
            below.into_iter().map(with).collect()
        }
        _ => vec![vec![name.to_owned()]],
    }
}

/// What a file names of the crate, from its root.
fn names(source: &Source) -> Vec<Vec<String>> {
    let mut out = Vec::new();
    for start in ["crate::", "super::", "self::"] {
        for (at, _) in source.code.match_indices(start) {
            let before = source.code[..at].chars().next_back();
            if !before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':') {
                out.extend(paths(&source.code[at..]));
            }
        }
    }
    let absolute = |path: Vec<String>| {
        let up = path.iter().take_while(|n| *n == "super").count();
        let base = source.place.len().saturating_sub(up);
        match path[0].as_str() {
            "crate" => path[1..].to_vec(),
            "self" => [&source.place[..], &path[1..]].concat(),
            _ => [&source.place[..base], &path[up..]].concat(),
        }
    };
    out.into_iter().map(absolute).collect()
}

#[test]
fn imports_go_one_way() {
    let modules =
        modules(&std::fs::read_to_string(Path::new(TOP).join("docs/ARCHITECTURE.md")).unwrap());
    assert!(modules.len() > 15, "{modules:?}");
    let sources = sources();
    assert!(sources.len() > 100);
    let mut wrong = Vec::new();
    for s in &sources {
        let here = s.place.join("/");
        let module = modules.iter().find(|r| r.name == s.place[0]);
        let module = module.unwrap_or_else(|| panic!("{} is no module of the table", s.place[0]));
        for name in names(s).iter().filter_map(|n| n.first()) {
            let known = modules.iter().any(|r| r.name == *name);
            if known && *name != module.name && !module.may.contains(name) {
                wrong.push(format!("{here} imports {name}"));
            }
        }
        for owner in &modules {
            let inside = here == owner.name || here.starts_with(&format!("{}/", owner.name));
            for krate in owner.alone.iter().filter(|_| !inside) {
                if s.code.contains(&format!("{krate}::"))
                    || s.code.contains(&format!("use {krate}"))
                {
                    wrong.push(format!("{here} names {krate}"));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Files that import each other, directly or through others. A file may name those that it is inside.
fn circles(imports: &BTreeMap<String, BTreeSet<String>>) -> Vec<String> {
    // What leads nowhere is taken away until only circles, and what leads to them, are left.
    let mut left = imports.clone();
    loop {
        let dead: Vec<String> = left
            .iter()
            .filter(|(_, to)| !to.iter().any(|t| left.contains_key(t)))
            .map(|(from, _)| from.clone())
            .collect();
        if dead.is_empty() {
            break;
        }
        for d in dead {
            left.remove(&d);
        }
    }
    let reached = |from: &String| {
        let (mut seen, mut todo) = (BTreeSet::new(), vec![from]);
        while let Some(next) = todo.pop() {
            for to in left.get(next).into_iter().flatten().filter(|t| left.contains_key(*t)) {
                if seen.insert(to) {
                    todo.push(to);
                }
            }
        }
        seen.contains(from)
    };
    left.keys().filter(|from| reached(from)).cloned().collect()
}

#[test]
fn no_files_import_each_other_in_a_circle() {
    let sources = sources();
    let tests = |s: &&Source| !s.place.iter().any(|p| p == "tests" || p == "hostile");
    let all: BTreeSet<Vec<String>> =
        sources.iter().filter(tests).map(|s| s.place.clone()).collect();
    let file = |name: &[String]| {
        (1..=name.len())
            .rev()
            .map(|n| &name[..n])
            .find(|p| all.contains(*p))
            .map(<[String]>::to_vec)
    };
    let mut imports: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for s in sources.iter().filter(tests) {
        let mut named: BTreeSet<Vec<String>> = names(s).iter().filter_map(|n| file(n)).collect();
        // A module's root says `mod x;` and then names `x` without a prefix.
        for child in all.iter().filter(|c| c.len() == s.place.len() + 1 && c.starts_with(&s.place))
        {
            let name = child.last().unwrap();
            if s.code.contains(&format!("{name}::")) {
                named.insert(child.clone());
            }
        }
        named.retain(|n| !s.place.starts_with(n));
        imports.insert(s.place.join("/"), named.iter().map(|n| n.join("/")).collect());
    }
    let circles = circles(&imports);
    let list = |c: &String| format!("{c}: {:?}", imports[c]);
    assert!(circles.is_empty(), "{}", circles.iter().map(list).collect::<Vec<_>>().join("\n"));
}

#[test]
fn the_checks_themselves_see_what_is_wrong() {
    let source = |place: &str, code: &str| Source {
        place: place.split('/').map(str::to_owned).collect(),
        code: code.to_owned(),
    };
    let s = source("a/b", "use crate::{c::{d, e}, f};\nuse super::g::H;\nlet x = self::i();");
    let found: Vec<String> = names(&s).iter().map(|n| n.join("::")).collect();
    assert_eq!(found, ["c::d", "c::e", "f", "a::g::H", "a::b::i"]);
    let table =
        "| module | what | may import | alone knows |\n|---|---|---|---|\n| a | x | b, c | k |\n";
    let a = Module { name: "a".into(), may: vec!["b".into(), "c".into()], alone: vec!["k".into()] };
    assert_eq!(modules(table), [a]);
    let edge = |from: &str, to: &[&str]| {
        (from.to_owned(), to.iter().map(|t| (*t).to_owned()).collect::<BTreeSet<_>>())
    };
    let graph = [edge("a", &["b"]), edge("b", &["c"]), edge("c", &["b"]), edge("d", &["a"])];
    assert_eq!(circles(&graph.into_iter().collect()), ["b", "c"]);
}
