//! `lmfs scrub` on a mounted store, through the program and the kernel: what it finds and repairs,
//! what it says of the rest, how it goes on after an interruption. Needs /dev/fuse, and says so
//! where it has none.

#![allow(clippy::unwrap_used)]

use lmfs::fs::{Fs, FsOptions, NewInode};
use lmfs::recode::RecodeOptions;
use lmfs::store::{Ecc, MkfsOptions, OpenOptions, Store};
use lmfs::types::{Extent, Ino};
use serde_json::Value;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const LMFS: &str = env!("CARGO_BIN_EXE_lmfs");
/// Bytes of each file.
const LEN: usize = 400_000;
const FILES: [&str; 4] = ["a", "b", "c", "d"];

/// Exit code and JSON answer.
fn lmfs(args: &[&str]) -> (i32, Value) {
    let out = Command::new("timeout").args(["60", LMFS]).args(args).output().unwrap();
    let answer = serde_json::from_slice(&out.stdout).unwrap_or_default();
    (out.status.code().unwrap(), answer)
}

fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut x = seed | 1;
    let mut next = || {
        x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (x >> 56) as u8
    };
    (0..len).map(|_| next()).collect()
}

fn content(file: usize) -> Vec<u8> {
    noise(file as u64 * 77, LEN)
}

struct Place {
    dir: tempfile::TempDir,
    /// Extents of each file.
    extents: Vec<Vec<Extent>>,
    daemon: Option<Child>,
}

impl Place {
    /// A store with each file in a segment of its own; `None` where nothing can be mounted.
    fn new() -> Option<Self> {
        if !Path::new("/dev/fuse").exists() {
            println!("skipped: /dev/fuse is missing");
            return None;
        }
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("mnt")).unwrap();
        let s = dir.path().join("s");
        let options = MkfsOptions { block_size: None, model: "off".into(), ecc: Ecc::Standard };
        Store::create(&s, &options).unwrap();
        let store = Store::open(&s, &OpenOptions::default()).unwrap();
        let day = Duration::from_secs(86_400);
        let recode = RecodeOptions { rest: day, threads: 1, enabled: false };
        let fs =
            Fs::open(store, FsOptions { commit: day, recode, ..FsOptions::default() }).unwrap();
        let new = NewInode::of(libc::S_IFREG | 0o644);
        let mut extents = Vec::new();
        for (n, name) in FILES.iter().enumerate() {
            let ino = fs.make(Ino::ROOT, name.as_bytes(), new).unwrap().ino;
            fs.write(ino, 0, &content(n), false).unwrap();
            fs.flush_all().unwrap();
            extents.push(fs.store().extents_in(ino, 0, u64::MAX).unwrap());
            fs.store().renew_checkpoint().unwrap();
        }
        fs.shutdown().unwrap();
        let segment = |e: &Vec<Extent>| e[0].frame.segment;
        assert!(extents.windows(2).all(|w| segment(&w[0]) < segment(&w[1])));
        Some(Self { dir, extents, daemon: None })
    }

    fn text(&self, name: &str) -> String {
        self.dir.path().join(name).to_str().unwrap().to_owned()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn file(&self, name: &str) -> std::fs::File {
        std::fs::File::open(self.path("mnt").join(name)).unwrap()
    }

    fn mount(&mut self) {
        let log = std::fs::File::options().create(true).append(true).open(self.path("log"));
        let child = Command::new(LMFS)
            .args(["mount", "-f", &self.text("s"), &self.text("mnt"), "-o", "recode=off"])
            .stderr(log.unwrap())
            .stdout(Stdio::null())
            .spawn();
        self.daemon = Some(child.unwrap());
        wait_for(|| self.path("s/control.sock").exists());
    }

    fn unmount(&mut self) {
        assert_eq!(lmfs(&["umount", &self.text("mnt")]).0, 0);
        assert!(self.daemon.take().unwrap().wait().unwrap().success());
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.path("log")).unwrap()
    }

    /// The segment of a file, hit by `hit`.
    fn hurt(&self, file: usize, hit: impl FnOnce(&mut [u8], &Extent)) {
        let e = &self.extents[file][0];
        let path = self.path(&format!("s/segments/{:08}.seg", e.frame.segment));
        let mut bytes = std::fs::read(&path).unwrap();
        hit(&mut bytes, e);
        std::fs::write(path, bytes).unwrap();
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.path("mnt")).output();
        if let Some(mut child) = self.daemon.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn wait_for(ready: impl Fn() -> bool) {
    let began = Instant::now();
    while !ready() {
        assert!(began.elapsed() < Duration::from_secs(30), "it does not come");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn count(v: &Value, key: &str) -> u64 {
    v[key].as_u64().unwrap()
}

#[test]
fn damage_is_repaired_once_and_what_is_lost_is_named() {
    let Some(mut p) = Place::new() else { return };
    let mnt = p.text("mnt");
    p.mount();
    assert_eq!(lmfs(&["scrub", &mnt, "--json"]).0, 0);
    // One wrong bit in c's segment; more than its parity rebuilds in b's.
    p.hurt(2, |bytes, e| bytes[e.frame.offset as usize + 1000] ^= 4);
    p.hurt(1, |bytes, e| {
        let at = e.frame.offset as usize + 5000;
        bytes[at..at + 90_000].fill(0);
    });
    let (code, found) = lmfs(&["scrub", &mnt, "--json"]);
    assert_eq!((code, found["repaired"].as_bool()), (4, Some(false)), "{found}");
    let lost = found["unrecoverable"].clone();
    assert!(!lost.as_array().unwrap().is_empty());
    for l in lost.as_array().unwrap() {
        let (offset, block) = (count(l, "offset"), count(l, "block"));
        let (at, size) = (p.extents[1][0].off, lmfs(&["status", &mnt, "--json"]).1);
        assert_eq!((l["path"].as_str(), block), (Some("/b"), offset / count(&size, "block_size")));
        assert!(offset >= at && offset < LEN as u64 && !l["reason"].as_str().unwrap().is_empty());
    }
    assert!(p.log().contains("/b: inode"));

    let (code, found) = lmfs(&["scrub", &mnt, "--repair", "--json"]);
    assert_eq!(code, 4, "{found}");
    assert!(count(&found, "repaired_frames") + count(&found, "repaired_pages") > 0, "{found}");
    assert_eq!(found["unrecoverable"], lost);
    // One line for the repair, and the counters know of it and of what is lost.
    let c = format!("segments/{:08}.seg", p.extents[2][0].frame.segment);
    let lines = |log: &str| {
        let repair =
            |l: &&str| l.contains(&c) && (l.contains("corrected") || l.contains("rebuilt"));
        log.lines().filter(repair).count()
    };
    assert_eq!(lines(&p.log()), 1, "{}", p.log());
    let status = lmfs(&["status", &mnt, "--json"]).1;
    assert!(count(&status, "repaired") > 0 && count(&status, "unrecoverable") > 0, "{status}");

    // Once more: nothing is left to repair, what is lost is the same.
    let (code, found) = lmfs(&["scrub", &mnt, "--repair", "--json"]);
    assert_eq!((code, &found["unrecoverable"]), (4, &lost), "{found}");
    assert_eq!(count(&found, "repaired_frames") + count(&found, "repaired_pages"), 0, "{found}");
    assert_eq!(lines(&p.log()), 1);

    // stat names the ranges; reads fail there and nowhere else.
    let (code, stat) = lmfs(&["stat", &p.text("mnt/b"), &p.text("mnt/c"), "--json"]);
    assert_eq!((code, &stat[1]["damaged"]), (0, &serde_json::json!([])), "{stat}");
    let ranges: Vec<(u64, u64)> = stat[0]["damaged"]
        .as_array()
        .unwrap()
        .iter()
        .map(|d| (count(d, "offset"), count(d, "length")))
        .collect();
    let offsets: Vec<u64> = lost.as_array().unwrap().iter().map(|l| count(l, "offset")).collect();
    assert_eq!(ranges.iter().map(|r| r.0).collect::<Vec<_>>(), offsets);
    let bad: u64 = ranges.iter().map(|r| r.1).sum();
    assert!(bad > 0 && bad < LEN as u64, "{ranges:?}");
    let (b, want) = (p.file("b"), content(1));
    let mut failed = 0;
    for at in (0..LEN).step_by(4096) {
        let mut buf = [0; 4096];
        let end = (at + 4096).min(LEN);
        let hit = ranges.iter().any(|(o, n)| (at as u64) < o + n && (end as u64) > *o);
        match b.read_at(&mut buf, at as u64) {
            Ok(n) => assert!(!hit && buf[..n] == want[at..at + n] && at + n == end, "{at}"),
            Err(e) => {
                assert!(hit && e.raw_os_error() == Some(libc::EIO), "{at} {e}");
                failed += 1;
            }
        }
    }
    assert!(failed > 0);
    drop(b);
    for (n, name) in FILES.iter().enumerate().filter(|(n, _)| *n != 1) {
        assert!(std::fs::read(p.path("mnt").join(name)).unwrap() == content(n), "{name}");
    }

    // Written anew, it is whole again; offline too, and for fsck.
    std::fs::write(p.path("mnt/b"), "new").unwrap();
    let (code, found) = lmfs(&["scrub", &mnt, "--repair", "--decode", "--json"]);
    assert!(matches!(code, 0 | 1), "{code} {found}");
    assert_eq!(lmfs(&["scrub", &mnt, "--repair"]).0, 0);
    p.unmount();
    let s = p.text("s");
    for command in ["fsck", "scrub"] {
        assert!(matches!(lmfs(&[command, &s, "--repair"]).0, 0 | 1), "{command}");
        let (code, found) = lmfs(&[command, &s, "--repair", "--json"]);
        assert_eq!(code, 0, "{command} {found}");
    }
}

#[test]
fn a_read_heals_with_one_line_and_one_count() {
    let Some(mut p) = Place::new() else { return };
    p.hurt(3, |bytes, e| bytes[e.frame.offset as usize + 1000] ^= 4);
    let before = std::fs::read(
        p.path("s/segments").join(format!("{:08}.seg", p.extents[3][0].frame.segment)),
    );
    p.mount();
    assert!(std::fs::read(p.path("mnt/d")).unwrap() == content(3));
    let log = p.log();
    assert_eq!(log.lines().filter(|l| l.contains("corrected")).count(), 1, "{log}");
    let status = lmfs(&["status", &p.text("mnt"), "--json"]).1;
    assert_eq!(count(&status, "repaired"), 1);
    assert_eq!(lmfs(&["scrub", &p.text("mnt")]).0, 0);
    p.unmount();
    let name = format!("{:08}.seg", p.extents[3][0].frame.segment);
    assert!(std::fs::read(p.path("s/segments").join(name)).unwrap() != before.unwrap());
}

#[test]
fn an_interrupted_scrub_goes_on_where_it_was() {
    let Some(mut p) = Place::new() else { return };
    let mnt = p.text("mnt");
    p.mount();
    let position = p.path("s/scrub.position");
    let rate = (LEN / 2).to_string();
    let mut scrub = Command::new(LMFS)
        .args(["scrub", &mnt, "--throttle", &rate])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    // The first segment is nearly empty; wait for one with a file.
    let done =
        || std::fs::read_to_string(&position).ok().and_then(|t| t.trim().parse::<u32>().ok());
    wait_for(|| done().is_some_and(|n| n > 2));
    p.unmount();
    assert_eq!(scrub.wait().unwrap().code(), Some(8));
    let reached = done().unwrap();
    assert!(reached <= 4, "{reached}: it was over before it was interrupted");
    // What it has read is not read again, what is left is.
    p.hurt(0, |bytes, e| bytes[e.frame.offset as usize + 1000] ^= 4);
    p.hurt(3, |bytes, e| bytes[e.frame.offset as usize + 1000] ^= 4);
    p.mount();
    let (code, found) = lmfs(&["scrub", &mnt, "--json"]);
    assert_eq!((code, found["resumed"].as_bool()), (4, Some(true)), "{found}");
    assert_eq!(count(&found, "damaged_frames") + count(&found, "damaged_pages"), 1, "{found}");
    assert!(!position.exists());
    let (code, found) = lmfs(&["scrub", &mnt, "--repair", "--json"]);
    assert_eq!((code, found["resumed"].as_bool()), (1, Some(false)), "{found}");
    // A mark of an earlier one does not matter to one that begins anew.
    std::fs::write(&position, "4\n").unwrap();
    let (code, found) = lmfs(&["scrub", &mnt, "--restart", "--json"]);
    assert_eq!((code, found["resumed"].as_bool()), (0, Some(false)), "{found}");
    p.unmount();
}

#[test]
fn a_throttled_scrub_takes_its_time() {
    let Some(mut p) = Place::new() else { return };
    p.mount();
    let began = Instant::now();
    assert_eq!(lmfs(&["scrub", &p.text("mnt"), "--throttle", "800K"]).0, 0);
    let least = (FILES.len() * LEN) as f64 / (800 << 10) as f64;
    assert!(began.elapsed().as_secs_f64() > least, "{:?}", began.elapsed());
    p.unmount();
}

#[test]
fn a_mounted_store_has_the_same_exit_codes() {
    let Some(mut p) = Place::new() else { return };
    let (s, mnt) = (p.text("s"), p.text("mnt"));
    p.mount();
    assert_eq!(lmfs(&["scrub", &mnt]).0, 0);
    p.hurt(0, |bytes, e| bytes[e.frame.offset as usize + 1000] ^= 4);
    assert_eq!(lmfs(&["scrub", &mnt]).0, 4);
    // The store's own path leads to the daemon as well.
    assert_eq!(lmfs(&["scrub", &s, "--repair"]).0, 1);
    assert_eq!(lmfs(&["scrub", &mnt, "--repair"]).0, 0);
    assert_eq!(lmfs(&["fsck", &s]).0, 8);
    assert_eq!(lmfs(&["scrub", &mnt, "--throttle", "much"]).0, 16);
    p.unmount();
    assert_eq!(lmfs(&["scrub", &mnt]).0, 8);
}
