//! `lmfs umount`: unmount, then wait until the daemon has closed the store.

use super::mounts::{self, Mount};
use super::output::Say;
use super::{FAILED, Failure, Outcome, dead};
use crate::control::{self, Request};
use crate::fuse;
use std::collections::HashSet;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

/// Arguments.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Where the store is mounted
    #[arg(value_hint = clap::ValueHint::DirPath)]
    dir: PathBuf,
}

/// What takes longer says what it waits for.
const PATIENCE: Duration = Duration::from_secs(1);
const STEP: Duration = Duration::from_millis(10);

/// Runs it.
pub fn run(a: &Args, say: Say) -> Outcome {
    unmount(&a.dir, false, say)
}

/// The lmfs that is mounted at a directory. Nothing of it is held open.
fn mounted_at(dir: &Path) -> Result<Mount, Failure> {
    let shown = dir.display();
    let found = match mounts::place(dir, true) {
        Ok(found) => found,
        Err(e) if e.raw_os_error() == Some(libc::ENOTCONN) => return Err(mounts::dead(dir)),
        Err(e) => return Err(Failure::new(FAILED, format!("{shown}: {e}"))),
    };
    if !found.mount.is_lmfs() {
        return Err(Failure::new(FAILED, format!("{shown}: no lmfs is mounted there")));
    }
    if !found.is_mount_point() {
        let top = found.mount.dir.display();
        let text =
            format!("{shown} lies in the lmfs mounted on {top}; unmount that: lmfs umount {top}");
        return Err(Failure::new(FAILED, text));
    }
    Ok(found.release())
}

/// Unmounts what is mounted on `dir`, and waits until its store is closed unless it is mounted
/// elsewhere too. `lazy`: in use or not, and without waiting.
pub fn unmount(dir: &Path, lazy: bool, say: Say) -> Outcome {
    let shown = dir.display();
    let m = mounted_at(dir)?;
    let dead = patiently(say, "the daemon does not answer", || dead::is_dead(&m.dir));
    let other = |o: &Mount| o.device == m.device && o.id != m.id;
    let elsewhere = || mounts::all().into_iter().find(other);
    if elsewhere().is_none() && !dead {
        // What cannot be written is told now, while the data are still reachable through the mount.
        let flush = || control::request(&m.store, &Request::Flush, &mut |_, _| {});
        match patiently(say, "what was written is being made durable", flush) {
            Ok(_) | Err(control::ControlError::NotMounted) => {}
            Err(e) => return Err(Failure::new(FAILED, format!("{shown}: not unmounted: {e}"))),
        }
    }
    let unmounted = if lazy || dead { fuse::detach(&m.dir) } else { fuse::unmount(&m.dir) };
    unmounted.map_err(|e| match e.raw_os_error() {
        Some(libc::EBUSY) => Failure::new(
            FAILED,
            format!("{shown} is busy{}; close what is open there and try again", users(&m.dir)),
        ),
        _ => Failure::new(FAILED, format!("{shown}: {e}")),
    })?;
    match elsewhere() {
        Some(o) => {
            say.line(&format!(
                "{shown} is unmounted; the file system is still mounted on {}",
                o.dir.display()
            ));
            Ok(())
        }
        None if lazy => Ok(()),
        None => wait_closed(&m, say),
    }
}

/// Says what is being waited for once it has taken a while.
fn patiently<T>(say: Say, what: &str, work: impl FnOnce() -> T) -> T {
    std::thread::scope(|s| {
        let (done, ended) = channel::<()>();
        s.spawn(move || {
            if ended.recv_timeout(PATIENCE) == Err(RecvTimeoutError::Timeout) {
                say.aside(&format!("waiting: {what}"));
            }
        });
        let result = work();
        drop(done);
        result
    })
}

/// Waits until nobody holds the store's lock.
fn wait_closed(m: &Mount, say: Say) -> Outcome {
    let Ok(lock) = File::open(m.store.join("lock")) else { return Ok(()) };
    let (began, mut said) = (Instant::now(), String::new());
    let mut next = PATIENCE;
    // A shared lock comes when the daemon's exclusive one, or a reader's, lets it.
    loop {
        // SAFETY: plain system call on an open descriptor.
        if unsafe { libc::flock(lock.as_raw_fd(), libc::LOCK_SH | libc::LOCK_NB) } == 0 {
            return Ok(());
        }
        if began.elapsed() >= next {
            next += PATIENCE;
            let now = waits_for(m);
            if now != said {
                say.aside(&format!("waiting: {now}"));
                said = now;
            }
        }
        std::thread::sleep(STEP);
    }
}

/// Why a store is not closed yet.
fn waits_for(m: &Mount) -> String {
    let own = std::fs::read_link("/proc/self/ns/mnt").ok();
    let mut looked_at: HashSet<Option<PathBuf>> = HashSet::from([own]);
    let mut holders = Vec::new();
    for pid in processes() {
        let namespace = std::fs::read_link(format!("/proc/{pid}/ns/mnt")).ok();
        if namespace.is_none() || !looked_at.insert(namespace) {
            continue;
        }
        let same = |o: &Mount| o.is_lmfs() && o.device == m.device && o.store == m.store;
        if mounts::seen_by(&pid.to_string()).iter().any(same) {
            holders.push(name(pid));
        }
    }
    if !holders.is_empty() {
        return format!(
            "it is still mounted in the mount namespace of {}; it ends with those processes, or with: \
             nsenter -t PID -m umount {}",
            holders.join(", "),
            m.dir.display()
        );
    }
    let pid = std::fs::read_to_string(m.store.join("lock")).unwrap_or_default();
    match pid.trim().parse() {
        Ok(pid) => format!("{} writes what is left and closes {}", name(pid), m.store.display()),
        Err(_) => format!("{} is being closed", m.store.display()),
    }
}

fn processes() -> impl Iterator<Item = u32> {
    let all = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    all.filter_map(|p| p.file_name().to_str()?.parse().ok())
}

/// What to call a process.
fn name(pid: u32) -> String {
    let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    format!("{} ({pid})", name.trim())
}

/// Processes that have something open below a directory, as far as /proc tells.
fn users(dir: &Path) -> String {
    let mut found = Vec::new();
    for pid in processes() {
        let path = PathBuf::from(format!("/proc/{pid}"));
        let links = ["cwd", "root", "exe"].map(|l| path.join(l)).into_iter();
        let open = std::fs::read_dir(path.join("fd")).into_iter().flatten().flatten();
        let mut all = links.chain(open.map(|f| f.path()));
        if all.any(|l| std::fs::read_link(l).is_ok_and(|t| t.starts_with(dir))) {
            found.push(name(pid));
        }
    }
    if found.is_empty() { String::new() } else { format!(": used by {}", found.join(", ")) }
}
