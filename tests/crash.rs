//! kill -9 in the middle of writing: every byte that was fsynced is there, the rest is a state that
//! was. `LMFS_CRASH_ROUNDS` says how many rounds (default 4).

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Files that only grow; byte `at` of file `id` is always the same.
const GROWING: usize = 4;
/// Files that are replaced by rename; each version has its own bytes and length.
const REPLACED: usize = 3;

/// xorshift64*: enough to choose what to do next.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % sides
    }
}

/// Half of the files are text, half noise, so that all forms of frames take part.
fn byte(id: usize, at: u64) -> u8 {
    let noise = (at ^ (id as u64) << 40).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56;
    if id.is_multiple_of(2) {
        noise as u8
    } else {
        b"time host service[pid]: what happened\n"[(at % 38) as usize]
            ^ u8::from((at / 38).is_multiple_of(7))
    }
}

fn version_bytes(id: usize, version: u64) -> Vec<u8> {
    let len = 1000 + (version * 7919 + id as u64) % 200_000;
    let head = format!("{version:016}\n").into_bytes();
    head.into_iter().chain((0..len).map(|at| byte(id, at + version))).collect()
}

/// What must be there after a crash, and what may.
#[derive(Default, Clone, Copy)]
struct Promise {
    durable: u64,
    attempted: u64,
}

#[derive(Default)]
struct Manifest {
    growing: [Promise; GROWING],
    replaced: [Promise; REPLACED],
}

struct Mount {
    daemon: Child,
    dir: PathBuf,
}

impl Mount {
    fn new(store: &Path, dir: &Path) -> Self {
        let mut daemon = Command::new(env!("CARGO_BIN_EXE_lmfs"))
            .args(["mount", "-f", "-o", "commit=1,rest=0.3,recode_threads=1,log=error"])
            .args([store, dir])
            .stdin(Stdio::null())
            .spawn()
            .expect("start the daemon");
        let began = Instant::now();
        loop {
            let mounts = fs::read_to_string("/proc/self/mountinfo").expect("mountinfo");
            if mounts.contains(&format!(" {} ", dir.display()))
                && store.join("control.sock").exists()
            {
                break;
            }
            let ended = daemon.try_wait().expect("wait");
            assert!(ended.is_none(), "the daemon ended with {ended:?} before it served");
            assert!(began.elapsed() < Duration::from_secs(60), "no mount after a minute");
            std::thread::sleep(Duration::from_millis(10));
        }
        Self { daemon, dir: dir.to_owned() }
    }

    fn kill(&mut self) {
        self.daemon.kill().expect("kill -9");
        self.daemon.wait().expect("wait");
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = self.daemon.kill();
        let _ = self.daemon.wait();
        let _ = Command::new("umount").arg("-l").arg(&self.dir).stderr(Stdio::null()).status();
    }
}

fn grow(dir: &Path, id: usize, p: &mut Promise, dice: &mut Dice) -> io::Result<()> {
    let mut file = OpenOptions::new().create(true).append(true).open(dir.join(format!("g{id}")))?;
    let at = file.metadata()?.len();
    let n = 1 + dice.roll(150_000);
    let bytes: Vec<u8> = (at..at + n).map(|i| byte(id, i)).collect();
    p.attempted = p.attempted.max(at + n);
    file.write_all(&bytes)?;
    if dice.roll(3) == 0 {
        file.sync_all()?;
        p.durable = at + n;
    }
    Ok(())
}

fn replace(dir: &Path, id: usize, p: &mut Promise, dice: &mut Dice) -> io::Result<()> {
    let (new, name) = (dir.join(format!("r{id}.new")), dir.join(format!("r{id}")));
    let version = p.attempted + 1;
    p.attempted = version;
    let mut file = File::create(&new)?;
    file.write_all(&version_bytes(id, version))?;
    fs::rename(new, name)?;
    // Both ways to make it last.
    match dice.roll(4) {
        0 => file.sync_all()?,
        1 => File::open(dir)?.sync_all()?,
        _ => return Ok(()),
    }
    p.durable = version;
    Ok(())
}

/// Writes until the mount fails.
fn write(dir: &Path, m: &mut Manifest, dice: &mut Dice, stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        let done = if dice.roll(3) > 0 {
            let id = dice.roll(GROWING as u64) as usize;
            grow(dir, id, &mut m.growing[id], dice)
        } else {
            let id = dice.roll(REPLACED as u64) as usize;
            replace(dir, id, &mut m.replaced[id], dice)
        };
        if done.is_err() {
            return;
        }
    }
}

/// Checks all promises; returns how many bytes or versions were lost that nobody promised.
fn verify(dir: &Path, m: &mut Manifest) -> u64 {
    let mut lost = 0;
    for (id, p) in m.growing.iter_mut().enumerate() {
        let bytes = fs::read(dir.join(format!("g{id}"))).unwrap_or_default();
        let len = bytes.len() as u64;
        assert!(len >= p.durable, "g{id}: {len} bytes, but {} were fsynced", p.durable);
        assert!(len <= p.attempted, "g{id}: {len} bytes, but only {} were written", p.attempted);
        let wrong = bytes.iter().zip(0..).position(|(b, at)| *b != byte(id, at));
        assert_eq!(wrong, None, "g{id}: wrong byte");
        lost += p.attempted - len;
        *p = Promise { durable: len, attempted: len };
    }
    for (id, p) in m.replaced.iter_mut().enumerate() {
        let bytes = fs::read(dir.join(format!("r{id}"))).unwrap_or_default();
        let version = match bytes.get(..16) {
            Some(head) => std::str::from_utf8(head).ok().and_then(|h| h.parse().ok()),
            None => Some(0),
        };
        let version: u64 = version.unwrap_or_else(|| panic!("r{id}: garbled"));
        assert!(version >= p.durable, "r{id}: version {version}, but {} was fsynced", p.durable);
        assert!(version <= p.attempted, "r{id}: version {version} was never written");
        let whole = if version == 0 { Vec::new() } else { version_bytes(id, version) };
        assert!(bytes == whole, "r{id}: version {version} is not complete");
        lost += p.attempted - version;
        *p = Promise { durable: version, attempted: version };
    }
    lost
}

#[test]
fn kill_9_loses_nothing_that_was_fsynced() {
    if !Path::new("/dev/fuse").exists() {
        eprintln!("skipped: no /dev/fuse");
        return;
    }
    let rounds: u64 =
        std::env::var("LMFS_CRASH_ROUNDS").ok().and_then(|r| r.parse().ok()).unwrap_or(4);
    let scratch = tempfile::tempdir().expect("scratch directory");
    let (store, dir) = (scratch.path().join("store"), scratch.path().join("mnt"));
    fs::create_dir(&dir).expect("mkdir");
    let made = Command::new(env!("CARGO_BIN_EXE_lmfs")).args(["-q", "mkfs"]).arg(&store).status();
    assert!(made.expect("mkfs").success());
    let mut manifest = Manifest::default();
    let mut dice = Dice(0x1234_5678_9abc_def1);
    let (mut lost, mut interrupted) = (0, 0);
    for round in 0..rounds {
        let mut mount = Mount::new(&store, &dir);
        lost += verify(&dir, &mut manifest);
        let stop = AtomicBool::new(false);
        let delay = Duration::from_millis(100 + dice.roll(1500));
        std::thread::scope(|scope| {
            let writer = scope.spawn(|| write(&dir, &mut manifest, &mut dice, &stop));
            std::thread::sleep(delay);
            interrupted += u32::from(!writer.is_finished());
            mount.kill();
            stop.store(true, Ordering::Relaxed);
        });
        drop(mount);
        eprintln!("round {round}: killed after {delay:?}");
    }
    let mount = Mount::new(&store, &dir);
    lost += verify(&dir, &mut manifest);
    drop(mount);
    // Otherwise nothing was at risk.
    assert!(interrupted > 0, "no round was killed while the writer wrote");
    let durable: u64 = manifest.growing.iter().map(|p| p.durable).sum();
    assert!(durable > 0);
    eprintln!("{rounds} rounds: {durable} bytes there, {lost} unpromised bytes and versions lost");
    assert!(lost > 0 || rounds < 10, "nothing was ever at risk");
}
