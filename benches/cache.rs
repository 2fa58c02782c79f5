//! Reads through the file system: frames in the cache, and frames that must be decoded.

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use lmfs::fs::{Fs, FsOptions, NewInode};
use lmfs::store::{Ecc, MkfsOptions, OpenOptions, Store};
use lmfs::types::Ino;
use std::hint::black_box;

const LEN: u64 = 1 << 20;

fn reads(c: &mut Criterion) {
    let dir = tempfile::tempdir().expect("scratch directory");
    let path = dir.path().join("store");
    let mkfs = MkfsOptions { block_size: None, model: "fast".into(), ecc: Ecc::None };
    Store::create(&path, &mkfs).expect("mkfs");
    let open = |cache_bytes| {
        let store = Store::open(&path, &OpenOptions::default()).expect("store");
        Fs::open(store, FsOptions { cache_bytes, ..FsOptions::default() }).expect("file system")
    };
    let text: Vec<u8> =
        (0..LEN).map(|i| b"the quick brown fox\n"[(i * i / 7 % 20) as usize]).collect();
    let make = |fs: &Fs| {
        let new = NewInode::of(libc::S_IFREG | 0o644);
        let ino = fs.make(Ino::ROOT, b"f", new).expect("create").ino;
        fs.write(ino, 0, &text, false).expect("write");
        fs.flush(ino).expect("stage");
        ino
    };
    let fs = open(64 << 20);
    let ino = make(&fs);
    let mut group = c.benchmark_group("read");
    group.throughput(Throughput::Bytes(LEN));
    group.bench_function("cached", |b| {
        b.iter(|| black_box(fs.read_now(ino, 0, LEN).expect("read")));
    });
    fs.shutdown().expect("shutdown");
    drop(fs);
    // A cache that holds nothing: every read decodes.
    let fs = open(1);
    group.bench_function("staged, not cached", |b| {
        b.iter_batched(
            || (),
            |()| black_box(fs.read_now(ino, 0, LEN).expect("read")),
            BatchSize::SmallInput,
        );
    });
    group.finish();
    fs.shutdown().expect("shutdown");
}

criterion_group!(benches, reads);
criterion_main!(benches);
