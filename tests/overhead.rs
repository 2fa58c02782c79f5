//! What error correction adds to a store of coded frames, and what two stores of the same frames
//! with different levels take. `-- --nocapture` shows the table.

#![allow(clippy::unwrap_used)]

use lmfs::store::{Ecc, MkfsOptions, OpenOptions, Store, Txn};
use lmfs::types::{Encoding, Frame, FrameMeta, Ino};
use std::path::Path;

/// Bytes of all files below a directory, models and index apart.
fn taken(dir: &Path) -> u64 {
    let mut sum = 0;
    for entry in std::fs::read_dir(dir).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name();
        let apart = name.to_str().is_some_and(|n| n.starts_with("index") || n == "models");
        let m = entry.metadata().unwrap();
        sum += match m.is_dir() {
            true if !apart => taken(&entry.path()),
            true => 0,
            false => m.len(),
        };
    }
    sum
}

/// Bytes that a store takes, and of them coded ones, with `mib` MiB of frames as a coder of logs
/// (about 3 KB) or of prose (about 20 KB) leaves them.
fn store(ecc: Ecc, mib: u64, payload: u64) -> (u64, u64) {
    let place = tempfile::tempdir().unwrap();
    let dir = place.path();
    Store::create(dir, &MkfsOptions { block_size: None, model: "fast".into(), ecc }).unwrap();
    let store = Store::open(dir, &OpenOptions::default()).unwrap();
    let mut x = 5_u64;
    let mut noise = || {
        x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        x >> 24
    };
    let (mut sum, mut off) = (0, 0);
    while sum < mib << 20 {
        let len = payload * 3 / 4 + noise() % (payload / 2);
        sum += len;
        let frame = Frame {
            ino: Ino(2),
            off,
            meta: FrameMeta {
                encoding: Encoding::Fast,
                plain_len: 65536,
                generation: 1,
                ..FrameMeta::default()
            },
            plain_hash: noise(),
            payload: (0..len).map(|_| noise() as u8).collect(),
        };
        off += 65536;
        store.append(Txn::default().map(frame)).unwrap();
    }
    store.close().unwrap();
    (taken(dir), store.stats().unwrap().coded_bytes)
}

#[test]
fn parity_takes_no_more_than_promised() {
    println!("| MiB coded | bytes per frame | standard | archival |\n|---|---|---|---|");
    for (mib, payload) in [(16, 3000), (16, 20_000), (24, 8000)] {
        let (none, coded) = store(Ecc::None, mib, payload);
        assert!(coded >= mib << 20);
        let more = |ecc| (store(ecc, mib, payload).0 - none) as f64 / coded as f64 * 100.0;
        let (standard, archival) = (more(Ecc::Standard), more(Ecc::Archival));
        println!("| {mib} | {payload} | {standard:.2}% | {archival:.2}% |");
        assert!(standard <= 8.0 && archival <= 25.0, "{standard} {archival}");
    }
}
