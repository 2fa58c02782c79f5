//! Telling systemd how we are (sd_notify(3)'s protocol: a datagram to $NOTIFY_SOCKET).

use super::output::size;
use crate::fs::Fs;
use crate::types::Ino;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

/// systemd is told this often that opening or closing goes on, and what waits for coding.
const STEP: Duration = Duration::from_secs(10);
/// For how long after that it is to wait, in microseconds.
const MORE: u64 = 60_000_000;
/// Opening reads at most a log's end and an index; what takes longer hangs.
const OPENING_MAX: Duration = Duration::from_secs(30 * 60);

/// Sends a state such as `READY=1`; does nothing outside systemd.
pub fn notify(state: &str) {
    let Some(name) = std::env::var_os("NOTIFY_SOCKET") else { return };
    let send = || {
        let address = match name.as_bytes().strip_prefix(b"@") {
            Some(abstract_name) => SocketAddr::from_abstract_name(abstract_name)?,
            None => SocketAddr::from_pathname(&name)?,
        };
        UnixDatagram::unbound()?.send_to_addr(state.as_bytes(), &address)
    };
    if let Err(e) = send() {
        log::warn!("cannot notify {}: {e}", name.display());
    }
}

/// One line of status.
pub fn status(text: &str) {
    notify(&format!("STATUS={}", text.replace('\n', " ")));
}

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) {
    if std::env::var_os("NOTIFY_SOCKET").is_none() {
        return;
    }
    if let Err(e) = std::thread::Builder::new().name(name.into()).spawn(work) {
        log::warn!("systemd is not told how we are: {e}");
    }
}

/// Asks for time until the flag that it returns is set, or `most` has passed.
fn ask_for_time(what: &'static str, most: Duration) -> Arc<AtomicBool> {
    let done = Arc::<AtomicBool>::default();
    let ours = Arc::clone(&done);
    spawn("notify", move || {
        let began = Instant::now();
        while began.elapsed() < most && !ours.load(Ordering::SeqCst) {
            notify(&format!("STATUS={what}\nEXTEND_TIMEOUT_USEC={MORE}"));
            std::thread::sleep(STEP);
        }
    });
    done
}

/// The store is being opened until the flag is set.
pub fn opening() -> Arc<AtomicBool> {
    ask_for_time("opening the store", OPENING_MAX)
}

/// The store is being closed, which takes at most so long, until the process ends.
pub fn closing(most: Duration) {
    notify("STOPPING=1");
    ask_for_time("closing the store", most);
}

/// How often systemd wants to hear that we live.
fn watchdog() -> Option<Duration> {
    let number = |name: &str| std::env::var(name).ok()?.parse::<u64>().ok();
    let ours = number("WATCHDOG_PID").is_none_or(|p| p == u64::from(std::process::id()));
    number("WATCHDOG_USEC").filter(|_| ours).map(Duration::from_micros)
}

/// The mount serves. From now on systemd hears what waits for coding, and that the file system still
/// answers: looking at the root takes the locks that requests take, and waits for no disk.
pub fn serving(fs: &Arc<Fs>) {
    notify("READY=1");
    let fs: Weak<Fs> = Arc::downgrade(fs);
    let step = watchdog().map_or(STEP, |w| (w / 3).min(STEP));
    spawn("watchdog", move || {
        let mut last = String::new();
        while let Some(fs) = fs.upgrade() {
            if fs.store().is_closing() {
                return;
            }
            let answered = fs.getattr(Ino::ROOT).is_ok();
            let s = fs.recoder().status();
            drop(fs);
            let text = match s.pending_blocks {
                0 => "serving".to_owned(),
                n => format!("serving; {n} blocks, {}, wait for coding", size(s.backlog_bytes)),
            };
            if text != last {
                status(&text);
                last = text;
            }
            if answered {
                notify("WATCHDOG=1");
            }
            std::thread::sleep(step);
        }
    });
}
