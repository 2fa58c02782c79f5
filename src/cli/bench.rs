//! `lmfs bench`.

use super::output::{Say, outln};
use super::progress::{Progress, Unit};
use super::{FAILED, Failure, Outcome, mkfs, output};
use crate::block::{self, Tier, bench};
use crate::models;
use crate::store::{Ecc, FRAME_HEADER, frame_len};
use serde::Serialize;
use std::path::PathBuf;
use std::sync::Arc;

/// Arguments.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// Encode, decode and compare files in independent blocks
    Codec(CodecArgs),
    /// Write, read and make files in a mounted directory
    Fs(super::bench_fs::Args),
}

#[derive(Debug, clap::Args)]
struct CodecArgs {
    /// Files
    #[arg(required = true, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    files: Vec<PathBuf>,
    /// Model
    #[arg(short, long, default_value = models::DEFAULT)]
    model: String,
    /// Bytes per block (K, M)
    #[arg(short, long, value_name = "SIZE")]
    block_size: Option<String>,
    /// Lanes per block, instead of the model's own
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=64))]
    lanes: Option<u32>,
    /// Percent that the language model must save to be used, as the mount option
    #[arg(long, value_name = "PERCENT", default_value_t = Tier::LM_GAIN)]
    lm_gain: f64,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Default, Serialize)]
struct Row {
    file: String,
    bytes: u64,
    coded_bytes: u64,
    frame_bytes: u64,
    bpb: f64,
    ideal_bits: f64,
    encode_bytes_per_s: f64,
    decode_bytes_per_s: f64,
    first_block_ms: f64,
    roundtrip: bool,
}

#[derive(Debug, Serialize)]
struct Report {
    model: String,
    engine: u16,
    isa: &'static str,
    block_size: u32,
    lanes: u32,
    threads: u32,
    files: Vec<Row>,
    total: Row,
}

fn row(file: String, m: &bench::Measured) -> Row {
    Row {
        file,
        bytes: m.bytes,
        coded_bytes: m.coded_bytes,
        frame_bytes: m.frame_bytes,
        bpb: m.coded_bytes as f64 * 8.0 / (m.bytes as f64).max(1.0),
        ideal_bits: m.ideal_bits,
        encode_bytes_per_s: m.bytes as f64 / m.encode_s.max(1e-9),
        decode_bytes_per_s: m.bytes as f64 / m.decode_s.max(1e-9),
        first_block_ms: m.first_block_s * 1e3,
        roundtrip: m.roundtrip,
    }
}

/// Runs it.
pub fn run(a: &Args, say: Say) -> Outcome {
    let a = match &a.what {
        What::Codec(a) => a,
        What::Fs(a) => return super::bench_fs::run(a, say),
    };
    let mut tier = Tier { lm_gain: a.lm_gain, ..mkfs::tier(&a.model)? };
    let block_size = match &a.block_size {
        Some(t) => mkfs::block_size(t)?,
        None => tier.unit(),
    };
    if let (Some(lm), Some(lanes)) = (&tier.lm, a.lanes) {
        tier.lm = Some(Arc::new(lm.in_lanes(lanes as usize, block_size)));
    }
    let lanes = tier.lm.as_ref().map_or(1, |lm| lm.lanes() as u32);
    let isa = tier.lm.as_ref().map_or("", |lm| lm.isa());
    let threads = match &tier.lm {
        Some(lm) if lm.is_slow() => {
            std::thread::available_parallelism().map_or(1, |n| n.get() as u32)
        }
        _ => 1,
    };
    let mut sum = bench::Measured { roundtrip: true, ..bench::Measured::default() };
    let (engine, model) = (block::ENGINE, a.model.clone());
    let none = row("total".into(), &sum);
    let mut report =
        Report { model, engine, isa, block_size, lanes, threads, files: Vec::new(), total: none };
    if !a.json {
        print_head(&report);
    }
    let len = |p: &PathBuf| p.metadata().map_or(0, |m| m.len());
    let all: u64 = a.files.iter().map(len).sum();
    let progress = Progress::new(say, "measuring", Unit::Bytes);
    progress.at(0, all);
    for path in &a.files {
        let name = path.display().to_string();
        let plain =
            std::fs::read(path).map_err(|e| Failure::new(FAILED, format!("{name}: {e}")))?;
        let frame = |payload| frame_len(Ecc::Standard, payload);
        let m = bench::measure(&plain, block_size as usize, &tier, FRAME_HEADER as u64, frame)?;
        sum.bytes += m.bytes;
        sum.coded_bytes += m.coded_bytes;
        sum.frame_bytes += m.frame_bytes;
        sum.ideal_bits += m.ideal_bits;
        sum.encode_s += m.encode_s;
        sum.decode_s += m.decode_s;
        sum.first_block_s = sum.first_block_s.max(m.first_block_s);
        sum.roundtrip &= m.roundtrip;
        progress.at(sum.bytes, all.max(sum.bytes));
        let row = row(name, &m);
        if !a.json {
            progress.apart(|| print_row(&row));
        }
        report.files.push(row);
    }
    drop(progress);
    report.total = row("total".into(), &sum);
    let whole = report.total.roundtrip;
    if a.json {
        output::json(&report)?;
    } else {
        print_row(&report.total);
    }
    if whole { Ok(()) } else { Err(Failure::new(FAILED, "a file did not come back as it was")) }
}

fn print_head(r: &Report) {
    outln!(
        "model {}{}, blocks of {}, {} lanes, {} threads; the proof by decoding is not part of encoding",
        r.model,
        if r.isa.is_empty() { String::new() } else { format!(" ({})", r.isa) },
        output::size(r.block_size.into()),
        r.lanes,
        r.threads
    );
    outln!(
        "{:>9} {:>9} {:>6} {:>9} {:>9} {:>8}  file",
        "bytes",
        "coded",
        "bpb",
        "enc kB/s",
        "dec kB/s",
        "1st ms"
    );
}

fn print_row(f: &Row) {
    outln!(
        "{:>9} {:>9} {:>6.3} {:>9.1} {:>9.1} {:>8.1}  {}{}",
        f.bytes,
        f.coded_bytes,
        f.bpb,
        f.encode_bytes_per_s / 1e3,
        f.decode_bytes_per_s / 1e3,
        f.first_block_ms,
        f.file,
        if f.roundtrip { "" } else { "  FAILED" }
    );
}
