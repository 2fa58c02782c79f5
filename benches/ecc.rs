//! What error correction costs: `cargo bench --bench ecc`.
//!
//! Each figure is taken with and without it, in turns; what counts is the best of the turns. Coding
//! is counted in processor time; writing, which waits for the medium, by the clock too. The stores lie
//! below `LMFS_BENCH_DIR`, or the directory for temporary files.

use lmfs::block::{self, Tier};
use lmfs::store::{Ecc, MkfsOptions, OpenOptions, Store, Txn};
use lmfs::types::{Encoding, Frame, FrameMeta, FrameRef, Ino};
use std::fmt::Write as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

const BLOCK: usize = 128 << 10;
const LEVELS: [Ecc; 3] = [Ecc::None, Ecc::Standard, Ecc::Archival];

struct Place {
    _dir: tempfile::TempDir,
    store: Arc<Store>,
}

fn fresh(ecc: Ecc) -> Outcome<Place> {
    let at = std::env::var_os("LMFS_BENCH_DIR").map_or_else(std::env::temp_dir, PathBuf::from);
    let dir = tempfile::tempdir_in(at)?;
    Store::create(dir.path(), &MkfsOptions { block_size: None, model: "fast".into(), ecc })?;
    let store = Store::open(dir.path(), &OpenOptions::default())?;
    Ok(Place { _dir: dir, store })
}

/// Seconds of processor time: of the calling thread, or of all.
fn cpu(clock: libc::clockid_t) -> f64 {
    let mut t = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the structure outlives the call.
    unsafe { libc::clock_gettime(clock, &raw mut t) };
    t.tv_sec as f64 + t.tv_nsec as f64 / 1e9
}

const MINE: libc::clockid_t = libc::CLOCK_THREAD_CPUTIME_ID;
const ALL: libc::clockid_t = libc::CLOCK_PROCESS_CPUTIME_ID;

fn text(len: usize) -> Vec<u8> {
    let words = ["connection", "closed", "by", "peer", "timeout", "retry", "block", "served"];
    let (mut out, mut x) = (String::new(), 1_u64);
    let mut dice = |n: u64| {
        x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (x >> 33) % n
    };
    while out.len() < len {
        let _ = write!(out, "{} node{:02} ", 1_700_000_000 + out.len() as u64, dice(40));
        for _ in 0..3 + dice(6) {
            out.push_str(words[dice(8) as usize]);
            out.push(' ');
        }
        let _ = writeln!(out, "id={:x}", dice(1 << 30));
    }
    out.truncate(len);
    out.into_bytes()
}

fn append(
    store: &Store,
    off: u64,
    encoding: Encoding,
    plain: &[u8],
    payload: Vec<u8>,
) -> Outcome<FrameRef> {
    let frame = Frame {
        ino: Ino(2),
        off,
        meta: FrameMeta {
            encoding,
            staged: encoding == Encoding::Raw,
            shared: false,
            plain_len: plain.len() as u32,
            generation: store.next_generation(),
            ..FrameMeta::default()
        },
        plain_hash: block::plain_hash(plain),
        payload,
    };
    Ok(store.append(Txn::default().map(frame))?[0])
}

/// Seconds, level by level, to encode text blocks and append them, and to read and decode them: the
/// sum of each block's least of some turns. The levels take turns block by block, so that whatever
/// else the processor does meets all of them. Sidecars are made in the background and not counted
/// here: they are a matter of the payload's size, see what closing costs.
fn coding(turns: usize, plain: &[u8]) -> Outcome<[[f64; 2]; 3]> {
    let places = [fresh(LEVELS[0])?, fresh(LEVELS[1])?, fresh(LEVELS[2])?];
    let mut sums = [[0.0; 2]; 3];
    for (n, part) in plain.chunks(BLOCK).enumerate() {
        let mut best = [[f64::MAX; 2]; 3];
        for _ in 0..turns {
            for (place, best) in places.iter().zip(&mut best) {
                let began = cpu(MINE);
                let e = block::encode(part, None, &Tier::FAST)?;
                let at = append(&place.store, (n * BLOCK) as u64, e.encoding, part, e.payload)?;
                best[0] = best[0].min(cpu(MINE) - began);
                place.store.sync()?;
                let began = cpu(MINE);
                let f = place.store.read_frame(at)?;
                let back =
                    block::decode(f.meta.encoding, &f.payload, f.meta.plain_len, None, None)?;
                if block::plain_hash(&back) != f.plain_hash || back != part {
                    return Err("a block did not come back".into());
                }
                best[1] = best[1].min(cpu(MINE) - began);
            }
        }
        for (sum, best) in sums.iter_mut().zip(best) {
            sum.iter_mut().zip(best).for_each(|(s, b)| *s += b);
        }
    }
    Ok(sums)
}

/// Seconds, by the clock and of processor time, to write `mib` MiB of incompressible frames with an
/// fdatasync after each MiB, and to close the store.
fn staging(ecc: Ecc, mib: usize) -> Outcome<[f64; 3]> {
    let p = fresh(ecc)?;
    let mut x = 1_u64;
    let mut noise = || {
        x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        x.to_le_bytes()
    };
    let bytes: Vec<u8> = std::iter::repeat_with(&mut noise).take(BLOCK / 8).flatten().collect();
    let (began, used) = (Instant::now(), cpu(ALL));
    for n in 0..mib * 8 {
        append(&p.store, (n * BLOCK) as u64, Encoding::Raw, &bytes, bytes.clone())?;
        if n % 8 == 7 {
            p.store.sync()?;
        }
    }
    let (written, used) = (began.elapsed().as_secs_f64(), cpu(ALL) - used);
    let began = Instant::now();
    p.store.close()?;
    Ok([written, used, began.elapsed().as_secs_f64()])
}

/// The least of each figure over some turns, level by level.
fn turns<const N: usize>(
    turns: usize,
    run: impl Fn(Ecc) -> Outcome<[f64; N]>,
) -> Outcome<[[f64; N]; 3]> {
    let mut best = [[f64::MAX; N]; 3];
    for _ in 0..turns {
        for (level, best) in LEVELS.iter().zip(&mut best) {
            for (b, now) in best.iter_mut().zip(run(*level)?) {
                *b = b.min(now);
            }
        }
    }
    Ok(best)
}

fn row(what: &str, mib: f64, seconds: [f64; 3]) {
    let none = seconds[0];
    let cell = |s: f64| {
        let more = (s / none - 1.0) * 100.0;
        format!("{:.2} ({more:+.1}%)", mib / s)
    };
    println!("| {what} | {:.2} | {} | {} |", mib / none, cell(seconds[1]), cell(seconds[2]));
}

fn main() {
    // `cargo test` runs benches with --test: then small runs only.
    let small = std::env::args().any(|a| a == "--test");
    let (times, coded, raw) = if small { (1, 1, 4) } else { (7, 1, 64) };
    let run = || -> Outcome<()> {
        println!("MiB/s (and what the time is more than without)");
        println!("| | none | standard | archival |\n|---|---|---|---|");
        let plain = text(coded << 20);
        let c = coding(times, &plain)?;
        row("encode text and append it", coded as f64, [c[0][0], c[1][0], c[2][0]]);
        row("read it and decode", coded as f64, [c[0][1], c[1][1], c[2][1]]);
        let s = turns(times, |ecc| staging(ecc, raw))?;
        row("write and sync noise, by the clock", raw as f64, [s[0][0], s[1][0], s[2][0]]);
        row("the same, processor time", raw as f64, [s[0][1], s[1][1], s[2][1]]);
        row("close the store then", raw as f64, [s[0][2], s[1][2], s[2][2]]);
        Ok(())
    };
    if let Err(e) = run() {
        eprintln!("ecc: {e}");
        std::process::exit(1);
    }
}
