//! `lmfs umount`: unmount, then wait until the daemon has closed the store.

use super::{FAILED, Failure, Outcome, target};
use crate::control::{self, Request};
use crate::fuse;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Arguments.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Where the store is mounted
    dir: PathBuf,
}

/// Runs it.
pub fn run(a: &Args) -> Outcome {
    let shown = a.dir.display();
    let dir = target::absolute(&a.dir);
    let Some(m) = target::mounts().into_iter().rev().find(|m| m.dir == dir) else {
        return Err(Failure::new(FAILED, format!("{shown}: no lmfs is mounted there")));
    };
    // What cannot be written is told now, while the data are still reachable through the mount.
    match control::request(&m.store, &Request::Flush, &mut |_, _| {}) {
        Ok(_) | Err(control::ControlError::NotMounted) => {}
        Err(e) => return Err(Failure::new(FAILED, format!("{shown}: not unmounted: {e}"))),
    }
    fuse::unmount(&m.dir).map_err(|e| match e.raw_os_error() {
        Some(libc::EBUSY) => Failure::new(
            FAILED,
            format!("{shown} is busy{}; close what is open there and try again", users(&m.dir)),
        ),
        _ => Failure::new(FAILED, format!("{shown}: {e}")),
    })?;
    wait_closed(&m.store)
}

/// Waits until nobody holds the store's lock.
fn wait_closed(store: &Path) -> Outcome {
    let Ok(file) = std::fs::File::open(store.join("lock")) else { return Ok(()) };
    // A shared lock comes when the daemon's exclusive one, or a reader's, lets it.
    loop {
        // SAFETY: plain system call on an open descriptor.
        if unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_SH | libc::LOCK_NB) } == 0 {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Processes that have something open below a directory, as far as /proc tells.
fn users(dir: &Path) -> String {
    let mut found = Vec::new();
    for process in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let path = process.path();
        let Some(pid) = path.file_name().and_then(|n| n.to_str()?.parse::<u32>().ok()) else {
            continue;
        };
        let links = ["cwd", "root", "exe"].map(|l| path.join(l)).into_iter();
        let open = std::fs::read_dir(path.join("fd")).into_iter().flatten().flatten();
        let mut all = links.chain(open.map(|f| f.path()));
        if all.any(|l| std::fs::read_link(l).is_ok_and(|t| t.starts_with(dir))) {
            let name = std::fs::read_to_string(path.join("comm")).unwrap_or_default();
            found.push(format!("{} ({pid})", name.trim()));
        }
    }
    if found.is_empty() { String::new() } else { format!(": used by {}", found.join(", ")) }
}
