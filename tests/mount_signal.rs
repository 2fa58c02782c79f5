//! SIGTERM to a daemon whose mount is in use: the store is closed as it should be.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

const LMFS: &str = env!("CARGO_BIN_EXE_lmfs");
/// Beyond this, something waits for something else.
const LONG: Duration = Duration::from_secs(3 * 60);

struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        let place = Self { dir: tempfile::tempdir().unwrap() };
        std::fs::create_dir(place.mnt()).unwrap();
        let mut mkfs = Command::new(LMFS);
        mkfs.args(["-q", "mkfs", "--model", "fast"]).arg(place.store());
        assert!(mkfs.status().unwrap().success());
        place
    }

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
            assert!(began.elapsed() < LONG, "no mount");
        }
        daemon
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        while self.mounted() {
            let _ = Command::new("umount").arg("-l").arg(self.mnt()).output();
        }
    }
}

fn terminate(daemon: &Child) {
    // SAFETY: a signal to a child that was not waited for yet.
    unsafe { libc::kill(daemon.id() as libc::pid_t, libc::SIGTERM) };
}

fn ended(mut daemon: Child) -> ExitStatus {
    let began = Instant::now();
    loop {
        match daemon.try_wait().unwrap() {
            Some(status) => return status,
            None if began.elapsed() > LONG => {
                daemon.kill().unwrap();
                panic!("the daemon does not end");
            }
            None => std::thread::sleep(Duration::from_millis(20)),
        }
    }
}

/// Everything that a clean close leaves: an index with its seal, and sidecars to the end of each
/// segment.
fn check_closed(store: &Path) {
    let names = |dir: &Path| -> Vec<(String, u64)> {
        let all = std::fs::read_dir(dir).unwrap().flatten();
        let one = |e: std::fs::DirEntry| {
            (e.file_name().into_string().unwrap(), e.metadata().unwrap().len())
        };
        all.map(one).collect()
    };
    let top: Vec<String> = names(store).into_iter().map(|(n, _)| n).collect();
    assert!(top.iter().any(|n| n == "index") && top.iter().any(|n| n == "index.seal"), "{top:?}");
    assert!(!top.iter().any(|n| n == "control.sock"), "{top:?}");
    let files = names(&store.join("segments"));
    let mut segments = 0;
    for (name, len) in &files {
        let Some(number) = name.strip_suffix(".seg") else { continue };
        let sidecar = format!("{number}.{len:08x}.par");
        assert!(files.iter().any(|(n, _)| *n == sidecar), "no {sidecar}: {files:?}");
        segments += 1;
    }
    assert!(segments > 0);
    let fsck = Command::new(LMFS).args(["fsck", "--json"]).arg(store).output().unwrap();
    let said = String::from_utf8_lossy(&fsck.stdout).into_owned();
    assert_eq!(fsck.status.code(), Some(0), "{said}");
}

/// Writes and syncs files until the mount is gone; notes what was durable.
fn write_on(mnt: &Path, who: usize, durable: &Mutex<BTreeMap<String, Vec<u8>>>, done: &AtomicU64) {
    // Held open all the time, so that the mount is busy; names are found in it even when it is
    // detached.
    let Ok(dir) = File::open(mnt) else { return };
    let mnt = PathBuf::from(format!("/proc/self/fd/{}", dir.as_raw_fd()));
    let Ok(mut open) = File::create(mnt.join(format!("log{who}"))) else { return };
    for n in 0.. {
        let name = format!("w{who}-{n}");
        let text = format!("writer {who} file {n}: request served, connection kept\n").repeat(500);
        let mut step = || {
            open.write_all(text.as_bytes())?;
            let mut f = File::create(mnt.join(&name))?;
            f.write_all(text.as_bytes())?;
            if n % 3 == 0 {
                f.sync_all()?;
                durable.lock().unwrap().insert(name.clone(), text.clone().into_bytes());
            }
            std::io::Result::Ok(())
        };
        if step().is_err() {
            return;
        }
        done.fetch_add(1, Ordering::Relaxed);
    }
}

#[test]
fn a_busy_mount_is_closed_cleanly_on_a_signal() {
    if !Path::new("/dev/fuse").exists() {
        println!("skipped: no /dev/fuse");
        return;
    }
    let place = Place::new();
    let daemon = place.mount("rest=0.1,commit=1");
    let (durable, done) = (Mutex::new(BTreeMap::new()), AtomicU64::new(0));
    let status = std::thread::scope(|s| {
        for who in 0..3 {
            let (mnt, durable, done) = (place.mnt(), &durable, &done);
            s.spawn(move || write_on(&mnt, who, durable, done));
        }
        let began = Instant::now();
        while done.load(Ordering::Relaxed) < 60 && began.elapsed() < LONG {
            std::thread::sleep(Duration::from_millis(20));
        }
        terminate(&daemon);
        ended(daemon)
    });
    assert_eq!(status.code(), Some(0));
    assert!(!place.mounted());
    assert_eq!(std::fs::read_dir(place.mnt()).unwrap().count(), 0);
    check_closed(&place.store());
    let daemon = place.mount("recode=off");
    let durable = durable.into_inner().unwrap();
    assert!(durable.len() > 10);
    for (name, bytes) in durable {
        assert!(std::fs::read(place.mnt().join(&name)).unwrap() == bytes, "{name}");
    }
    terminate(&daemon);
    assert_eq!(ended(daemon).code(), Some(0));
    check_closed(&place.store());
}

/// A settle under way does not hold the daemon up, and is told why it ended.
#[test]
fn a_settle_is_told_that_the_store_is_being_closed() {
    if !Path::new("/dev/fuse").exists() {
        println!("skipped: no /dev/fuse");
        return;
    }
    let place = Place::new();
    let daemon = place.mount("recode=off");
    let line = |n: u64| format!("{n} request {:x} served\n", n.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let text: String = (0..800_000).map(line).collect();
    std::fs::write(place.mnt().join("a"), &text).unwrap();
    let settle = Command::new(LMFS)
        .arg("settle")
        .arg(place.mnt())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    std::thread::sleep(Duration::from_millis(1500));
    terminate(&daemon);
    assert_eq!(ended(daemon).code(), Some(0));
    let settled = settle.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&settled.stderr).into_owned();
    assert!(!settled.status.success() && said.contains("the store is being closed"), "{said}");
    check_closed(&place.store());
}
