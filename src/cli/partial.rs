//! The output file that is not whole yet: whatever ends the program, it goes.

use std::fs::{File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Its name beside the one that it will have; at most one at a time.
static PARTIAL: Mutex<Option<PathBuf>> = Mutex::new(None);

fn partial() -> MutexGuard<'static, Option<PathBuf>> {
    PARTIAL.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Has a signal that ends the program remove the file first. To be called before there are other
/// threads: each of them must leave these signals to the one that is started here.
pub fn guard() {
    // SAFETY: the set is initialised before it is used; plain calls on the calling thread.
    let set = unsafe {
        let mut set = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        for s in [libc::SIGTERM, libc::SIGINT, libc::SIGHUP, libc::SIGQUIT, libc::SIGXCPU] {
            let mut old: libc::sigaction = std::mem::zeroed();
            libc::sigaction(s, std::ptr::null(), &raw mut old);
            // One that nohup(1) has turned off stays so.
            if old.sa_sigaction != libc::SIG_IGN {
                libc::sigaddset(&raw mut set, s);
            }
        }
        libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut());
        set
    };
    let wait = move || {
        let mut signal = 0;
        // SAFETY: set and signal outlive the call.
        if unsafe { libc::sigwait(&raw const set, &raw mut signal) } != 0 {
            return;
        }
        // Held to the end: nothing gets its name any more.
        let path = partial();
        if let Some(path) = &*path {
            let _ = std::fs::remove_file(path);
        }
        // SAFETY: ends the process as the signal does by default.
        unsafe {
            libc::signal(signal, libc::SIG_DFL);
            libc::pthread_sigmask(libc::SIG_UNBLOCK, &raw const set, std::ptr::null_mut());
            libc::raise(signal);
        }
    };
    if std::thread::Builder::new().name("signals".into()).spawn(wait).is_err() {
        // SAFETY: as above; signals end the program as if nothing had been asked.
        unsafe { libc::pthread_sigmask(libc::SIG_UNBLOCK, &raw const set, std::ptr::null_mut()) };
    }
}

/// A new file in a directory, under a name that nobody takes for a result.
pub fn make(dir: &Path) -> io::Result<(File, PathBuf)> {
    let mut taken = io::Error::from(io::ErrorKind::AlreadyExists);
    for n in 0..100 {
        let path = dir.join(format!(".{}-{n}.lmfs-partial", std::process::id()));
        let mut known = partial();
        match OpenOptions::new().write(true).create_new(true).open(&path) {
            Ok(file) => {
                *known = Some(path.clone());
                return Ok((file, path));
            }
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => taken = e,
            Err(e) => return Err(e),
        }
    }
    Err(taken)
}

/// Has `work` give the file its name; it is removed if that fails.
pub fn finish<E>(path: &Path, work: impl FnOnce() -> Result<(), E>) -> Result<(), E> {
    let mut known = partial();
    let done = work();
    if done.is_err() {
        let _ = std::fs::remove_file(path);
    }
    *known = None;
    done
}
