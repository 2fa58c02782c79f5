//! What a store of many files takes in memory when it is opened without its index.

#![allow(clippy::unwrap_used)]

use lmfs::store::{Ecc, MkfsOptions, OpenOptions, Record, Store, StoreError, Txn};
use lmfs::types::{Attr, Frame, FrameMeta, Ino, Time};
use std::path::Path;
use std::process::Command;

/// Names the store to a child process, which opens it and says what that took.
const STORE: &str = "LMFS_OPEN_MEMORY";

fn fill(store: &Store, files: u64) {
    let parent = Ino::ROOT;
    for chunk in (0..files).collect::<Vec<_>>().chunks(500) {
        let mut txn = Txn::default();
        for n in chunk {
            let (ino, now) = (store.next_ino(), Time::now());
            let attr = Attr {
                mode: libc::S_IFREG | 0o644,
                uid: 1000,
                gid: 1000,
                nlink: 1,
                rdev: 0,
                size: 7,
                atime: now,
                mtime: now,
                ctime: now,
                btime: now,
                parent: 0,
            };
            let bytes = format!("{n:07}").into_bytes();
            let hash = blake3::hash(&bytes);
            let name = format!("some-file-{n}.log").into_bytes();
            let generation = store.next_generation();
            let frame = Frame {
                ino,
                off: 0,
                meta: FrameMeta { staged: true, plain_len: 7, generation, ..FrameMeta::default() },
                plain_hash: u64::from_le_bytes(hash.as_bytes()[..8].try_into().unwrap()),
                payload: bytes,
            };
            let named = Record::PutDirent { parent, name, ino, kind: libc::S_IFREG };
            txn = txn.then(Record::PutInode(ino, attr)).then(named).map(frame);
        }
        store.append(txn).unwrap();
    }
}

/// A figure of this process in bytes.
fn memory(key: &str) -> u64 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = text.lines().find(|l| l.starts_with(key)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() << 10
}

/// Opens a store read-only in a process of its own: bytes that it took while opening, and after.
fn opening(dir: &Path) -> (u64, u64) {
    let mut child = Command::new(std::env::current_exe().unwrap());
    child.args(["--exact", "a_child_opens_a_store", "--nocapture"]).env(STORE, dir);
    let said = String::from_utf8(child.output().unwrap().stdout).unwrap();
    let line = said.lines().find_map(|l| l.split_once("took ")).unwrap_or_else(|| panic!("{said}"));
    let (peak, kept) = line.1.split_once(' ').unwrap();
    (peak.parse().unwrap(), kept.parse().unwrap())
}

#[test]
fn a_child_opens_a_store() {
    let Some(dir) = std::env::var_os(STORE) else { return };
    let before = memory("VmRSS:");
    let began = std::time::Instant::now();
    let store = loop {
        match Store::open(Path::new(&dir), &OpenOptions { read_only: true }) {
            // Its last user's threads are on their way out.
            Err(StoreError::InUse { .. }) if began.elapsed().as_secs() < 60 => {}
            opened => break opened.unwrap(),
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
    };
    let took = began.elapsed();
    let (peak, kept) = (memory("VmHWM:") - before, memory("VmRSS:") - before);
    let files = store.stats().unwrap().files;
    // All is there.
    let mut seen = 0;
    let mut after = 2;
    loop {
        let some = store.dirents(Ino::ROOT, after, 1000).unwrap();
        let Some(last) = some.last() else { break };
        after = last.cookie;
        for d in some {
            assert_eq!(store.inode(d.ino).unwrap().unwrap().size, 7);
            assert_eq!(store.extents_in(d.ino, 0, 7).unwrap().len(), 1);
            seen += 1;
        }
    }
    assert_eq!(seen, files);
    let looked = began.elapsed().saturating_sub(took);
    println!("opened in {took:?}, looked at {seen} files in {looked:?}");
    println!("took {peak} {kept}");
}

/// Bytes for each of so many files at the peak, and after opening; for a store that was left cleanly,
/// and for one whose user was killed.
fn measure(files: u64) -> [(u64, u64); 2] {
    [false, true].map(|killed| {
        let dir = tempfile::tempdir().unwrap();
        let options = MkfsOptions { block_size: None, model: "fast".into(), ecc: Ecc::Standard };
        Store::create(dir.path(), &options).unwrap();
        let store = Store::open(dir.path(), &OpenOptions::default()).unwrap();
        fill(&store, files);
        store.sync().unwrap();
        if !killed {
            store.close().unwrap();
        }
        drop(store);
        let (peak, kept) = opening(dir.path());
        let found = (peak / files, kept / files);
        println!("{files} files, killed: {killed}: {found:?} bytes a file at the peak and after");
        found
    })
}

#[test]
fn opening_without_an_index_takes_little_memory() {
    for (peak, kept) in measure(50_000) {
        // A third of it or more is the same for any number of files.
        assert!(peak < 900 && kept < 900, "{peak} {kept}");
    }
}

#[test]
#[ignore = "prints figures"]
fn figures_for_many_files() {
    measure(300_000);
}
