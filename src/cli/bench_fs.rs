//! `lmfs bench fs`: what programs get from a mount.

use super::output::{Say, outln};
use super::progress::{Progress, Unit};
use super::{FAILED, Failure, Outcome, mounts, output, target};
use crate::control::{self, Request};
use serde::Serialize;
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const MIB: usize = 1 << 20;
/// The file that is written and read in sequence.
const STREAM: usize = 256 * MIB;
/// The file that is coded, then read cold: one half in sequence, one at random.
const CODED: usize = 16 * MIB;
const PAGE: usize = 4096;
const SMALL_FILES: usize = 5000;

/// Arguments.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Directory in which to work, on a mounted lmfs; 300 MB are written and deleted again
    #[arg(value_hint = clap::ValueHint::DirPath)]
    dir: PathBuf,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// MB are 10^6 bytes. "Warm" is decoded and in memory, "cold" has to be decoded.
#[derive(Debug, Default, Serialize)]
struct Report {
    seq_write_mb_s: f64,
    seq_read_warm_mb_s: f64,
    seq_read_cold_mb_s: f64,
    rand_read_warm_p99_us: f64,
    rand_read_cold_p99_ms: f64,
    creates_per_s: f64,
    stats_per_s: f64,
    unlinks_per_s: f64,
    fsync_p50_ms: f64,
}

/// Lines of a made-up log, always the same.
fn log_text(len: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(len + 128);
    let mut x: u64 = 1;
    let mut n = 0;
    while out.len() < len {
        // Knuth's MMIX generator; its upper bits are good.
        x = x.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        n += x >> 62;
        let (who, what) = (["sshd", "cron", "nginx", "kernel"], ["opened", "closed", "refused"]);
        let line = format!(
            "{:05} host{} {}[{}]: session {} for user {} from 10.0.{}.{}\n",
            n,
            x >> 61,
            who[(x >> 59 & 3) as usize],
            x >> 50 & 0xfff,
            what[(x >> 40 & 0xff) as usize % 3],
            x >> 36 & 15,
            x >> 28 & 7,
            x >> 20 & 0xff
        );
        out.extend_from_slice(line.as_bytes());
    }
    out.truncate(len);
    out
}

/// Removes the working directory at the end, however that comes.
struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Makes the kernel forget a file's pages, so that reads reach the daemon.
fn forget(file: &File, advice: i32) {
    // SAFETY: plain system call on an open descriptor; advice only.
    unsafe { libc::posix_fadvise(file.as_raw_fd(), 0, 0, advice) };
}

fn mb_s(bytes: usize, took: Duration) -> f64 {
    bytes as f64 / 1e6 / took.as_secs_f64().max(1e-9)
}

fn percentile(mut times: Vec<Duration>, percent: usize) -> Duration {
    times.sort_unstable();
    let at = (times.len() * percent).div_ceil(100).saturating_sub(1);
    times.get(at).copied().unwrap_or_default()
}

fn read_through(file: &File, len: usize) -> std::io::Result<Duration> {
    let mut buffer = vec![0; MIB];
    let began = Instant::now();
    for at in (0..len).step_by(MIB) {
        file.read_exact_at(&mut buffer, at as u64)?;
    }
    Ok(began.elapsed())
}

fn stream(dir: &Path, r: &mut Report) -> std::io::Result<()> {
    let text = log_text(8 * MIB);
    let path = dir.join("stream");
    let mut file = OpenOptions::new().read(true).write(true).create_new(true).open(path)?;
    let began = Instant::now();
    for _ in 0..STREAM / text.len() {
        for part in text.chunks(MIB) {
            file.write_all(part)?;
        }
    }
    file.sync_all()?;
    r.seq_write_mb_s = mb_s(STREAM, began.elapsed());
    // A part that fits any cache: once to fill it, once to measure.
    let warm = 64 * MIB;
    read_through(&file, warm)?;
    r.seq_read_warm_mb_s = mb_s(warm, read_through(&file, warm)?);
    forget(&file, libc::POSIX_FADV_RANDOM);
    let mut page = [0; PAGE];
    let mut times = Vec::new();
    for i in 0..2000 {
        forget(&file, libc::POSIX_FADV_DONTNEED);
        let at = (i * 7919) % (warm / PAGE) * PAGE;
        let began = Instant::now();
        file.read_exact_at(&mut page, at as u64)?;
        times.push(began.elapsed());
    }
    r.rand_read_warm_p99_us = percentile(times, 99).as_secs_f64() * 1e6;
    Ok(())
}

fn cold(dir: &Path, r: &mut Report) -> Result<(), Failure> {
    let path = dir.join("coded");
    let mut file = OpenOptions::new().read(true).write(true).create_new(true).open(&path)?;
    file.write_all(&log_text(CODED))?;
    file.sync_all()?;
    let Some(found) = mounts::of(&path)? else {
        return Err(Failure::new(FAILED, format!("{}: no longer mounted", path.display())));
    };
    // Frames that settling just made are in no cache.
    let settle = Request::Settle { paths: vec![target::by_inode(&found, &path)?] };
    control::request(&found.mount.store, &settle, &mut |_, _| {})?;
    forget(&file, libc::POSIX_FADV_DONTNEED);
    let half = CODED / 2;
    r.seq_read_cold_mb_s = mb_s(half, read_through(&file, half)?);
    forget(&file, libc::POSIX_FADV_RANDOM);
    let mut page = [0; PAGE];
    let mut times = Vec::new();
    // One page in each 128 KiB, out of order.
    let blocks = half / (128 << 10);
    for i in 0..blocks {
        let at = half + (i * 29 + 11) % blocks * (128 << 10);
        let began = Instant::now();
        file.read_exact_at(&mut page, at as u64)?;
        times.push(began.elapsed());
    }
    r.rand_read_cold_p99_ms = percentile(times, 99).as_secs_f64() * 1e3;
    Ok(())
}

fn names(dir: &Path, r: &mut Report) -> std::io::Result<()> {
    let name = |n: usize| dir.join(format!("small{n}"));
    let rate = |began: Instant| SMALL_FILES as f64 / began.elapsed().as_secs_f64();
    let began = Instant::now();
    for n in 0..SMALL_FILES {
        File::create(name(n))?.write_all(b"a small file\n")?;
    }
    r.creates_per_s = rate(began);
    let began = Instant::now();
    for n in 0..SMALL_FILES {
        std::fs::metadata(name(n))?;
    }
    r.stats_per_s = rate(began);
    let began = Instant::now();
    for n in 0..SMALL_FILES {
        std::fs::remove_file(name(n))?;
    }
    r.unlinks_per_s = rate(began);
    let mut file = File::create(dir.join("synced"))?;
    let mut times = Vec::new();
    for _ in 0..100 {
        file.write_all(b"a line that must not be lost\n")?;
        let began = Instant::now();
        file.sync_all()?;
        times.push(began.elapsed());
    }
    r.fsync_p50_ms = percentile(times, 50).as_secs_f64() * 1e3;
    let mut back = String::new();
    File::open(dir.join("synced"))?.read_to_string(&mut back)?;
    Ok(())
}

/// Runs it.
pub fn run(a: &Args, say: Say) -> Outcome {
    let shown = a.dir.display();
    if mounts::of(&a.dir)?.is_none() {
        return Err(Failure::new(FAILED, format!("{shown}: not on a mounted lmfs")));
    }
    let scratch = Scratch(a.dir.join(format!("bench.{}", std::process::id())));
    std::fs::create_dir(&scratch.0)
        .map_err(|e| Failure::new(FAILED, format!("{}: {e}", scratch.0.display())))?;
    let mut r = Report::default();
    let progress = Progress::new(say, "measuring", Unit::Steps);
    progress.at(0, 3);
    stream(&scratch.0, &mut r)?;
    progress.at(1, 3);
    cold(&scratch.0, &mut r)?;
    progress.at(2, 3);
    names(&scratch.0, &mut r)?;
    drop(progress);
    if a.json {
        return output::json(&r);
    }
    let line = |name: &str, value: f64, unit: &str| outln!("{name:<26}{value:>10.1} {unit}");
    line("sequential write + fsync", r.seq_write_mb_s, "MB/s");
    line("sequential read, warm", r.seq_read_warm_mb_s, "MB/s");
    line("sequential read, cold", r.seq_read_cold_mb_s, "MB/s");
    line("random 4 KiB, warm, p99", r.rand_read_warm_p99_us, "us");
    line("random 4 KiB, cold, p99", r.rand_read_cold_p99_ms, "ms");
    line("creates", r.creates_per_s, "per second");
    line("stats", r.stats_per_s, "per second");
    line("unlinks", r.unlinks_per_s, "per second");
    line("fsync, median", r.fsync_p50_ms, "ms");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_nearest_ranks() {
        let ms = |n: u64| Duration::from_millis(n);
        let times: Vec<_> = (1..=200).rev().map(ms).collect();
        assert_eq!(percentile(times.clone(), 50), ms(100));
        assert_eq!(percentile(times, 99), ms(198));
        assert_eq!(percentile(Vec::new(), 99), ms(0));
    }

    #[test]
    fn the_log_is_always_the_same() {
        assert_eq!(log_text(5000).len(), 5000);
        assert_eq!(log_text(5000), log_text(6000)[..5000]);
    }
}
