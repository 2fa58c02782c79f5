//! `lmfs scrub` and `lmfs fsck` on a store that nobody uses: what they find, what they repair, how
//! they end.

#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::process::Command;

/// Exit code and JSON answer.
fn lmfs(args: &[&str]) -> (i32, serde_json::Value) {
    let out = Command::new(env!("CARGO_BIN_EXE_lmfs")).args(args).output().unwrap();
    let answer = serde_json::from_slice(&out.stdout).unwrap_or_default();
    (out.status.code().unwrap(), answer)
}

fn flip(path: &Path, at: usize) {
    let mut bytes = std::fs::read(path).unwrap();
    bytes[at] ^= 0x10;
    std::fs::write(path, bytes).unwrap();
}

#[test]
fn damage_is_found_then_repaired_then_gone() {
    let place = tempfile::tempdir().unwrap();
    let dir = place.path().join("s");
    let store = dir.to_str().unwrap();
    assert_eq!(lmfs(&["mkfs", store]).0, 0);
    let hits = [
        (dir.join("superblock"), 20),
        (dir.join("superblock.2"), 100),
        // The segment's header, a frame's header, its payload.
        (dir.join("segments/00000001.seg"), 17),
        (dir.join("segments/00000001.seg"), 70),
        (dir.join("segments/00000001.seg"), 64 + 48 + 5),
    ];
    for command in ["scrub", "fsck"] {
        assert_eq!(lmfs(&[command, store]).0, 0, "{command}");
        for (path, at) in &hits {
            flip(path, *at);
            let here = format!("{command} {} {at}", path.display());
            let (code, found) = lmfs(&[command, store, "--json"]);
            assert_eq!((code, found["repaired"].as_bool()), (4, Some(false)), "{here}: {found}");
            let (code, found) = lmfs(&[command, store, "--repair", "--json"]);
            assert_eq!((code, found["repaired"].as_bool()), (1, Some(true)), "{here}: {found}");
            assert_eq!(found["unrecoverable"], serde_json::json!([]), "{here}");
            let (code, found) = lmfs(&[command, store, "--repair", "--json"]);
            assert_eq!(code, 0, "{here}: {found}");
            assert_eq!(lmfs(&[command, store]).0, 0, "{here}");
        }
    }
    let index = dir.join("index");
    assert!(index.exists());
    let db = std::fs::read_dir(&index).unwrap().map(|e| e.unwrap().path()).find(|p| p.is_file());
    flip(&db.unwrap(), 3);
    assert_eq!(lmfs(&["fsck", store]).0, 4);
    let (code, found) = lmfs(&["fsck", store, "--repair", "--json"]);
    assert_eq!((code, found["index_rebuilt"].as_bool()), (1, Some(true)), "{found}");
    assert_eq!(lmfs(&["fsck", store, "--repair"]).0, 0);
    let (code, found) = lmfs(&["fsck", store, "--rebuild-index", "--json"]);
    assert_eq!((code, found["index_rebuilt"].as_bool()), (0, Some(true)), "{found}");
}

#[test]
fn wrong_usage_and_no_store_have_codes_of_their_own() {
    for command in ["scrub", "fsck"] {
        assert_eq!(lmfs(&[command]).0, 16);
        assert_eq!(lmfs(&[command, "--no-such-option", "x"]).0, 16);
        assert_eq!(lmfs(&[command, "/nowhere/at/all"]).0, 8);
    }
}
