//! kill -9 of a mounted store, again and again: what fsync acknowledged is there, everything else is
//! a state that it had, and `lmfs fsck` finds nothing wrong but parity that is still to be made.
//!
//! What was acknowledged is noted here, outside of the store. `LMFS_CRASH_ROUNDS=200` makes it as
//! many rounds, `LMFS_CRASH_SEED` chooses others.

#![allow(clippy::unwrap_used)]

mod dice;

use dice::Dice;
use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

const LMFS: &str = env!("CARGO_BIN_EXE_lmfs");

impl Dice {
    /// Bytes that code well, or not at all.
    fn bytes(&mut self, len: usize) -> Vec<u8> {
        if self.below(3) == 0 {
            return (0..len).map(|_| self.next() as u8).collect();
        }
        let mut out = Vec::with_capacity(len + 80);
        while out.len() < len {
            let (a, b) = (self.below(40), self.below(1 << 20));
            out.extend_from_slice(
                format!("node{a:02} request {b} served, connection kept\n").as_bytes(),
            );
        }
        out.truncate(len);
        out
    }
}

/// A file at one moment: nothing, or length and hash.
type Moment = Option<(u64, [u8; 32])>;

fn moment(bytes: Option<&[u8]>) -> Moment {
    bytes.map(|b| (b.len() as u64, *blake3::hash(b).as_bytes()))
}

/// What a file was, and from where on a crash may leave it.
#[derive(Debug)]
struct Past {
    moments: Vec<Moment>,
    acknowledged: usize,
    now: Option<Vec<u8>>,
}

impl Past {
    fn new(now: Option<Vec<u8>>) -> Self {
        Self { moments: vec![moment(now.as_deref())], acknowledged: 0, now }
    }
    fn becomes(&mut self, now: Option<Vec<u8>>) {
        self.moments.push(moment(now.as_deref()));
        self.now = now;
    }
    /// Bytes are about to change: whether they did is not known until the call returns.
    fn may_become(&mut self, now: Option<&[u8]>) {
        self.moments.push(moment(now));
    }
    fn is_durable(&mut self) {
        self.acknowledged = self.moments.len() - 1;
    }

    /// Writes `part` at `at`. A write that begins within a page which the kernel does not hold reaches
    /// the file system as two, the first up to the page's end, so it is two here from the outset: a
    /// crash may come between them.
    fn write(&mut self, file: &File, part: &[u8], at: usize) -> io::Result<()> {
        let (head, tail) = part.split_at(part.len().min(PAGE - at % PAGE));
        for (part, at) in [(head, at), (tail, at + head.len())] {
            if part.is_empty() {
                continue;
            }
            let mut bytes = self.now.clone().unwrap_or_default();
            bytes.resize(bytes.len().max(at + part.len()), 0);
            bytes[at..at + part.len()].copy_from_slice(part);
            self.may_become(Some(&bytes));
            file.write_all_at(part, at as u64)?;
            self.becomes(Some(bytes));
        }
        Ok(())
    }
}

/// Bytes of a page of the kernel's.
const PAGE: usize = 4096;

/// The names of one writer, which nobody else touches.
type Names = BTreeMap<String, Past>;

fn read(path: &Path) -> Option<Vec<u8>> {
    match std::fs::read(path) {
        Ok(bytes) => Some(bytes),
        Err(e) if e.kind() == io::ErrorKind::NotFound => None,
        Err(e) => panic!("{}: {e}", path.display()),
    }
}

/// One thing done to a file; an error is the daemon's death.
fn step(dir: &Path, names: &mut Names, dice: &mut Dice) -> io::Result<()> {
    let all: Vec<String> = names.keys().cloned().collect();
    let name = all[dice.below(all.len() as u64) as usize].clone();
    let path = dir.join(&name);
    let past = names.get_mut(&name).unwrap();
    let len = 1 + dice.below(90_000) as usize;
    let open = || OpenOptions::new().write(true).create(true).truncate(false).open(&path);
    let file = match dice.below(10) {
        0..4 => {
            let at = past.now.as_ref().map_or(0, Vec::len);
            if at > 600_000 {
                return Ok(());
            }
            if past.now.is_none() {
                past.may_become(Some(&[]));
            }
            let file = open()?;
            past.write(&file, &dice.bytes(len), at)?;
            file
        }
        4 | 5 => {
            let size = past.now.as_ref().map_or(0, Vec::len);
            if size == 0 {
                return Ok(());
            }
            let at = dice.below(size as u64) as usize;
            let file = open()?;
            past.write(&file, &dice.bytes(len.min(size - at)), at)?;
            file
        }
        6 => {
            past.may_become(Some(&[]));
            let file = File::create(&path)?;
            past.becomes(Some(Vec::new()));
            past.write(&file, &dice.bytes(len), 0)?;
            file
        }
        // Written beside, then renamed into place: old or new, never in between.
        7 => {
            let bytes = dice.bytes(len);
            let beside = dir.join(format!("{name}.tmp"));
            let file = File::create(&beside)?;
            file.write_all_at(&bytes, 0)?;
            past.may_become(Some(&bytes));
            std::fs::rename(&beside, &path)?;
            past.becomes(Some(bytes));
            file
        }
        8 => {
            if past.now.is_some() {
                past.may_become(None);
                std::fs::remove_file(&path)?;
                past.becomes(None);
            }
            return Ok(());
        }
        // fsync of a directory makes everything durable.
        _ => {
            File::open(dir)?.sync_all()?;
            names.values_mut().for_each(Past::is_durable);
            return Ok(());
        }
    };
    if dice.below(3) == 0 {
        file.sync_all()?;
        past.is_durable();
    }
    Ok(())
}

struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    fn store(&self) -> PathBuf {
        self.dir.path().join("s")
    }
    fn mnt(&self) -> PathBuf {
        self.dir.path().join("mnt")
    }
    fn mounted(&self) -> bool {
        let mounts = std::fs::read_to_string("/proc/mounts").unwrap();
        mounts.contains(self.mnt().to_str().unwrap())
    }
    fn unmount(&self) {
        while self.mounted() {
            let _ = Command::new("umount").arg("-l").arg(self.mnt()).output();
        }
    }
    /// A daemon in the foreground, serving.
    fn mount(&self, options: &str) -> Child {
        let mut daemon = Command::new(LMFS)
            .args(["-q", "mount", "-f"])
            .args([self.store(), self.mnt()])
            .args(["-o", options])
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let began = Instant::now();
        while !self.mounted() {
            std::thread::sleep(Duration::from_millis(5));
            assert!(daemon.try_wait().unwrap().is_none(), "the daemon ended");
            assert!(began.elapsed().as_secs() < 120, "no mount");
        }
        daemon
    }
    /// Checks the store that nobody uses: the exit code, and what was said.
    fn checked(&self, args: &[&str]) -> (i32, String) {
        let mut c = Command::new(LMFS);
        let out = c.arg(args[0]).arg(self.store()).args(&args[1..]).arg("--json").output().unwrap();
        let said = [out.stdout, out.stderr].concat();
        (out.status.code().unwrap(), String::from_utf8_lossy(&said).into_owned())
    }
    fn finds_nothing(&self, args: &[&str], when: &str) {
        let (code, said) = self.checked(args);
        assert_eq!(code, 0, "{args:?} {when}: {said}");
    }
    /// After a crash a sidecar may be missing, which the next user of the store makes; nothing else.
    fn lacks_sidecars_at_most(&self, when: &str) {
        let (code, said) = self.checked(&["fsck", "--repair"]);
        let none = ["damaged_frames", "damaged_pages"].map(|what| format!("\"{what}\": 0"));
        let empty = ["namespace", "unrecoverable"].map(|what| format!("\"{what}\": []"));
        let fine = none.iter().chain(&empty).all(|text| said.contains(text));
        assert!(matches!(code, 0 | 1) && fine, "fsck {when}: code {code}, {said}");
    }
    fn lmfs(&self, args: &[&str], dir: &Path) -> Child {
        let mut c = Command::new(LMFS);
        c.arg(args[0]).arg(dir).args(&args[1..]).stdout(Stdio::null()).stderr(Stdio::null());
        c.spawn().unwrap()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.unmount();
    }
}

/// Compares what is there with what may be; history goes on from there. Counts what was at risk and
/// what of it was lost.
fn check(dir: &Path, names: &mut Names, tally: &mut Tally, round: u64) {
    for (name, past) in names.iter_mut() {
        let bytes = read(&dir.join(name));
        let got = moment(bytes.as_deref());
        let allowed = &past.moments[past.acknowledged..];
        let at = allowed.iter().rposition(|m| *m == got);
        let len = bytes.as_ref().map(Vec::len);
        assert!(at.is_some(), "round {round}: {name} has {len:?} bytes, of {:?}", sizes(allowed));
        tally.acknowledged += u64::from(past.acknowledged > 0);
        tally.at_risk += u64::from(allowed.len() > 1);
        tally.lost += u64::from(at != Some(allowed.len() - 1));
        *past = Past::new(bytes);
        let _ = std::fs::remove_file(dir.join(format!("{name}.tmp")));
    }
}

fn sizes(moments: &[Moment]) -> Vec<Option<u64>> {
    moments.iter().map(|m| m.map(|(len, _)| len)).collect()
}

#[derive(Debug, Default)]
struct Tally {
    /// Files with something acknowledged, with something not acknowledged, and with the latter gone.
    acknowledged: u64,
    at_risk: u64,
    lost: u64,
    steps: u64,
    commands: u64,
}

#[test]
fn kill_9_loses_nothing_that_fsync_acknowledged() {
    if !Path::new("/dev/fuse").exists() {
        println!("skipped: /dev/fuse is missing");
        return;
    }
    let number = |name: &str, default| {
        std::env::var(name).ok().and_then(|v| v.parse().ok()).unwrap_or(default)
    };
    let (rounds, seed) = (number("LMFS_CRASH_ROUNDS", 10u64), number("LMFS_CRASH_SEED", 1));
    let mut dice = Dice(seed * 2 + 1);
    let place = Place { dir: tempfile::tempdir().unwrap() };
    std::fs::create_dir(place.mnt()).unwrap();
    assert!(place.lmfs(&["mkfs"], &place.store()).wait().unwrap().success());
    let mut writers: Vec<Names> =
        (0..2).map(|w| (0..8).map(|n| (format!("w{w}-{n}"), Past::new(None))).collect()).collect();
    let mut tally = Tally::default();
    for round in 0..rounds {
        let rest = ["rest=0,commit=1", "rest=1,commit=1", "rest=0,commit=5"][(round % 3) as usize];
        let mut daemon = place.mount(rest);
        let mnt = place.mnt();
        for names in &mut writers {
            check(&mnt, names, &mut tally, round);
        }
        let stop = AtomicBool::new(false);
        let life = Duration::from_millis(100 + dice.below(1100));
        let seeds = [dice.next() | 1, dice.next() | 1];
        let mut helpers = Vec::new();
        std::thread::scope(|s| {
            let (mnt, stop) = (&mnt, &stop);
            let work = |(names, seed): (&mut Names, u64)| {
                let mut dice = Dice(seed);
                let mut steps = 0;
                while !stop.load(Ordering::Relaxed) && step(mnt, names, &mut dice).is_ok() {
                    steps += 1;
                }
                steps
            };
            let threads: Vec<_> =
                writers.iter_mut().zip(seeds).map(|w| s.spawn(move || work(w))).collect();
            let began = Instant::now();
            while began.elapsed() < life {
                let command: &[&str] = match dice.below(4) {
                    0 => &["gc"],
                    1 => &["scrub", "--repair"],
                    2 => &["recode", "--model", "fast"],
                    _ => &["settle"],
                };
                helpers.push(place.lmfs(command, mnt));
                tally.commands += 1;
                let pause = Duration::from_millis(50 + dice.below(300));
                std::thread::sleep(pause.min(life.saturating_sub(began.elapsed())));
            }
            daemon.kill().unwrap();
            daemon.wait().unwrap();
            stop.store(true, Ordering::Relaxed);
            place.unmount();
            tally.steps += threads.into_iter().map(|t| t.join().unwrap()).sum::<u64>();
        });
        for mut h in helpers {
            let _ = h.kill();
            h.wait().unwrap();
        }
        let when = format!("in round {round}, after the crash");
        place.lacks_sidecars_at_most(&when);
        place.finds_nothing(&["fsck"], &when);
    }
    let mut daemon = place.mount("recode=off");
    for names in &mut writers {
        check(&place.mnt(), names, &mut tally, rounds);
    }
    let unmounted = place.lmfs(&["umount"], &place.mnt()).wait().unwrap();
    assert!(unmounted.success() && daemon.wait().unwrap().success());
    for args in [&["fsck"][..], &["scrub", "--decode"]] {
        place.finds_nothing(args, "at the end");
    }
    println!("{rounds} rounds: {tally:?}");
    assert!(
        tally.at_risk > rounds && tally.acknowledged > rounds,
        "nothing was at risk: {tally:?}"
    );
}
