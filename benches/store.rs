//! The store: appending, syncing, creating, rebuilding. `cargo bench --bench store`.
//!
//! Beside criterion's figures for single calls it prints rates of whole runs: streaming to the
//! point where it is durable, creates, and the rebuild of a lost index. `cargo bench --bench store --
//! rebuild 1000000` does only the last, with so many files. The store lies below `LMFS_BENCH_DIR`, or
//! the directory for temporary files.

use criterion::{Criterion, Throughput, criterion_group};
use lmfs::store::{Ecc, MkfsOptions, OpenOptions, Record, Store, Txn};
use lmfs::types::{Attr, Frame, FrameMeta, Ino, Time};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

type Outcome = Result<(), Box<dyn std::error::Error>>;

fn place() -> std::io::Result<tempfile::TempDir> {
    let dir = std::env::var_os("LMFS_BENCH_DIR").map_or_else(std::env::temp_dir, PathBuf::from);
    tempfile::tempdir_in(dir)
}

fn open(dir: &Path) -> lmfs::store::Result<Arc<Store>> {
    Store::open(dir, &OpenOptions::default())
}

fn fresh(dir: &Path) -> lmfs::store::Result<Arc<Store>> {
    let options = MkfsOptions { block_size: None, model: "fast".into(), ecc: Ecc::Standard };
    Store::create(dir, &options)?;
    open(dir)
}

fn frame(store: &Store, ino: Ino, off: u64, payload: Vec<u8>) -> Txn {
    let frame = Frame {
        ino,
        off,
        meta: FrameMeta {
            staged: true,
            shared: false,
            plain_len: payload.len() as u32,
            generation: store.next_generation(),
            ..FrameMeta::default()
        },
        plain_hash: 0,
        payload,
    };
    Txn::default().map(frame)
}

fn create(store: &Store, name: String) -> lmfs::store::Result<Ino> {
    let (ino, t) = (store.next_ino(), Time::default());
    let attr = Attr {
        mode: libc::S_IFREG | 0o644,
        uid: 0,
        gid: 0,
        nlink: 1,
        rdev: 0,
        size: 0,
        atime: t,
        mtime: t,
        ctime: t,
        btime: t,
        parent: 0,
    };
    let name = name.into_bytes();
    let dirent = Record::PutDirent { parent: Ino::ROOT, name, ino, kind: libc::S_IFREG };
    store.append(vec![Record::PutInode(ino, attr), dirent].into())?;
    Ok(ino)
}

fn streaming(mib: u64, piece: usize) -> Outcome {
    let dir = place()?;
    let store = fresh(dir.path())?;
    let ino = create(&store, "a".into())?;
    let began = Instant::now();
    for n in 0..(mib << 20) / piece as u64 {
        store.append(frame(&store, ino, n * piece as u64, vec![n as u8; piece]))?;
    }
    let handed = began.elapsed().as_secs_f64();
    store.sync()?;
    let durable = began.elapsed().as_secs_f64();
    let (a, b) = (mib as f64 / handed, mib as f64 / durable);
    println!(
        "stream {mib} MiB in {} KiB frames: {a:.0} MiB/s appended, {b:.0} MiB/s durable",
        piece >> 10
    );
    Ok(store.close()?)
}

/// Processor time that this process has had, in seconds: other load does not count.
fn processor_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or("").split_whitespace().collect();
    let ticks = |n: usize| fields.get(n).and_then(|f| f.parse::<f64>().ok()).unwrap_or(0.0);
    (ticks(11) + ticks(12)) / 100.0
}

/// Creates `n` files of one small frame each, then reopens in all the ways there are.
fn many_files(n: u32) -> Outcome {
    let dir = place()?;
    let store = fresh(dir.path())?;
    let began = Instant::now();
    for i in 0..n {
        let name = format!("file-{i}");
        if store.dirent(Ino::ROOT, name.as_bytes())?.is_none() {
            let ino = create(&store, name)?;
            store.append(frame(&store, ino, 0, vec![7; 100]))?;
        }
        if i % 5000 == 0 {
            store.sync()?;
        }
    }
    store.sync()?;
    println!(
        "{n} creates with 100 bytes each: {:.0}/s",
        f64::from(n) / began.elapsed().as_secs_f64()
    );
    let began = Instant::now();
    store.close()?;
    drop(store);
    println!("close: {:.2} s", began.elapsed().as_secs_f64());
    let began = Instant::now();
    let store = open(dir.path())?;
    println!("open with index: {:.3} s", began.elapsed().as_secs_f64());
    drop(store);
    for what in ["what the mount left", "the cleaned log"] {
        // What the log amounts to needs no index; the mount can be used from then on.
        for entry in std::fs::read_dir(dir.path())? {
            let entry = entry?;
            let index = entry.file_name().to_string_lossy().starts_with("index");
            if index && entry.file_type()?.is_dir() {
                std::fs::remove_dir_all(entry.path())?;
            }
        }
        for read_only in [true, false] {
            let (began, busy) = (Instant::now(), processor_seconds());
            let store = Store::open(dir.path(), &OpenOptions { read_only })?;
            let s = began.elapsed().as_secs_f64();
            let busy = processor_seconds() - busy;
            println!(
                "open from {what}, {}: {s:.2} s, {:.0} inodes/s; {busy:.2} s of processor time, {:.0} inodes/s of it",
                if read_only { "in memory" } else { "rebuilding the index" },
                f64::from(n) / s,
                f64::from(n) / busy
            );
            if !read_only {
                store.clean(0)?;
                let at = Instant::now();
                store.close()?;
                println!("close: {:.2} s", at.elapsed().as_secs_f64());
            }
        }
    }
    Ok(())
}

fn calls(c: &mut Criterion) {
    let run = |c: &mut Criterion| -> Outcome {
        let dir = place()?;
        let store = fresh(dir.path())?;
        let ino = create(&store, "a".into())?;
        let mut group = c.benchmark_group("store");
        group.sample_size(20);
        let mut off = 0;
        for len in [4096usize, 131_072] {
            group.throughput(Throughput::Bytes(len as u64));
            group.bench_function(format!("append {len}"), |b| {
                b.iter(|| {
                    off = (off + len as u64) % (256 << 20);
                    store.append(frame(&store, ino, off, vec![1; len])).map(drop)
                });
            });
        }
        group.throughput(Throughput::Elements(1));
        let mut n = 0u64;
        group.bench_function("create", |b| {
            b.iter(|| {
                n += 1;
                create(&store, n.to_string()).map(drop)
            });
        });
        group.bench_function("append 4096 and sync", |b| {
            b.iter(|| {
                store.append(frame(&store, ino, 0, vec![1; 4096])).and_then(|_| store.sync())
            });
        });
        let at = store.extents_in(ino, 0, 1)?;
        if let Some(e) = at.first() {
            group.bench_function("look up and read a frame", |b| {
                b.iter(|| {
                    store.extents_in(ino, 0, 1).and_then(|_| store.read_frame(e.frame)).map(drop)
                });
            });
        }
        group.finish();
        Ok(store.close()?)
    };
    if let Err(e) = run(c) {
        eprintln!("store: {e}");
        std::process::exit(1);
    }
}

criterion_group!(benches, calls);

fn main() {
    let args: Vec<String> = std::env::args().collect();
    if let Some(at) = args.iter().position(|a| a == "rebuild") {
        let n = args.get(at + 1).and_then(|n| n.parse().ok()).unwrap_or(1_000_000);
        if let Err(e) = many_files(n) {
            eprintln!("store: {e}");
            std::process::exit(1);
        }
        return;
    }
    // `cargo test` runs benches with --test: then small runs only.
    let small = std::env::args().any(|a| a == "--test");
    let runs = || -> Outcome {
        let (mib, files) = if small { (16, 1000) } else { (1024, 200_000) };
        streaming(mib, 128 << 10)?;
        streaming(mib, 1 << 20)?;
        many_files(files)
    };
    if let Err(e) = runs() {
        eprintln!("store: {e}");
        std::process::exit(1);
    }
    benches();
}
