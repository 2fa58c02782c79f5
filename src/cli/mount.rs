//! `lmfs mount`: serve in the foreground, or start a daemon that does and wait until it serves.

use super::options::{Options, RemoteOptions};
use super::output::{Say, outln};
use super::progress::meanwhile;
use super::{
    FAILED, Failure, Outcome, USAGE, config, dead, mounts, notify, output, syslog, turn, views,
};
use crate::control::Server;
use crate::fs::{Fs, FsOptions};
use crate::fuse::{self, Unmounter};
use crate::store::{OpenOptions, RemoteUse, Store, StoreError};
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// Arguments.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The store's directory, or with -o ro the URL of an archive in an object store
    #[arg(required_unless_present = "print_config", value_hint = clap::ValueHint::DirPath)]
    store: Option<PathBuf>,
    /// Empty directory to mount it on
    #[arg(required_unless_present = "print_config", value_hint = clap::ValueHint::DirPath)]
    dir: Option<PathBuf>,
    /// Stay in the foreground and tell systemd when ready
    #[arg(short, long)]
    foreground: bool,
    /// Mount options, separated by commas
    #[arg(short, value_name = "OPTS")]
    options: Vec<String>,
    /// Only print the settings that the mount would have, and where each comes from
    #[arg(long)]
    print_config: bool,
    /// Descriptor to which the daemon reports; internal
    #[arg(long, hide = true)]
    report_to: Option<i32>,
}

/// What the parent of a daemon gets to hear.
enum News<'a> {
    /// Something that took time or was put right.
    Note(&'a str),
    /// Requests are served.
    Ready,
}

/// Before each line of a [`News::Note`].
const NOTE: &str = "note: ";
/// The line that says [`News::Ready`].
const OK: &str = "ok";

/// How long closing may take after a signal when little is left to do.
const CLOSING_BASE: Duration = Duration::from_secs(15 * 60);
/// Bytes per second that the slowest of disks reads or writes meanwhile: a last checkpoint, the
/// sidecars of segments that have none yet.
const CLOSING_RATE: u64 = 256 << 10;
/// The log says this often that closing goes on.
const CLOSING_STEP: Duration = Duration::from_secs(10);

/// How long closing may take if it has to read or write so many bytes.
fn closing_max(bytes: u64) -> Duration {
    CLOSING_BASE.saturating_add(Duration::from_secs(bytes / CLOSING_RATE))
}

/// Runs it.
pub fn run(a: &Args, say: Say, level: log::LevelFilter) -> Outcome {
    let effective = config::effective(a.store.as_deref(), &a.options);
    let effective = match (effective, a.report_to) {
        (Ok(effective), _) => effective,
        (Err(e), to) => {
            if let Some(fd) = to {
                // SAFETY: the parent left us this descriptor for us alone.
                let mut pipe = File::from(unsafe { OwnedFd::from_raw_fd(fd) });
                let _ = writeln!(pipe, "{e}");
            }
            return Err(Failure::new(FAILED, e));
        }
    };
    let (Some(store), Some(dir), false) = (&a.store, &a.dir, a.print_config) else {
        outln!("{}", effective.print().trim_end());
        return Ok(());
    };
    let mut o = effective.options;
    o.log = o.log.max(level);
    match a.report_to {
        Some(fd) => {
            syslog::init(o.log);
            // SAFETY: the parent left us this descriptor for us alone.
            let pipe = unsafe { OwnedFd::from_raw_fd(fd) };
            report(File::from(pipe), store, dir, &o)
        }
        None if a.foreground || o.foreground => {
            output::log_to_stderr(o.log);
            serve(store, dir, &o, &mut |news| {
                if let News::Note(text) = news {
                    log::warn!("{text}");
                    notify::status(text);
                }
            })
        }
        None => meanwhile(say, "opening the store", || daemon(store, dir, &a.options)),
    }
}

/// Starts a daemon; returns once it serves, or with its complaint.
pub fn daemon(store: &Path, dir: &Path, options: &[String]) -> Outcome {
    let mut pipe = [0; 2];
    // SAFETY: the array has room for two descriptors.
    if unsafe { libc::pipe2(pipe.as_mut_ptr(), libc::O_CLOEXEC) } != 0 {
        return Err(std::io::Error::last_os_error().into());
    }
    // SAFETY: both were just made and belong to nobody else.
    let (read, write) = unsafe { (OwnedFd::from_raw_fd(pipe[0]), OwnedFd::from_raw_fd(pipe[1])) };
    let fd = write.as_raw_fd();
    let mut command = Command::new("/proc/self/exe");
    let store = if views::url(store).is_some() { store.to_owned() } else { absolute(store)? };
    command.arg0("lmfs").arg("mount").arg(store).arg(absolute(dir)?);
    for o in options {
        command.arg("-o").arg(o);
    }
    command.arg(format!("--report-to={fd}"));
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).current_dir("/");
    // SAFETY: only async-signal-safe calls between fork and exec.
    unsafe {
        command.pre_exec(move || {
            if libc::fcntl(fd, libc::F_SETFD, 0) < 0 {
                return Err(std::io::Error::last_os_error());
            }
            Ok(())
        });
    }
    let mut child = command.spawn()?;
    drop(write);
    let mut complaint = Vec::new();
    for line in BufReader::new(File::from(read)).lines() {
        let line = line?;
        match line.strip_prefix(NOTE) {
            Some(note) => eprintln!("lmfs: {note}"),
            None if line == OK => return Ok(()),
            None => complaint.push(line),
        }
    }
    let status = child.wait()?;
    let said = complaint.join("\n");
    match said.trim() {
        "" => Err(Failure::new(FAILED, format!("the daemon ended before it served ({status})"))),
        said => Err(Failure::new(FAILED, said)),
    }
}

fn absolute(path: &Path) -> Result<PathBuf, Failure> {
    Ok(std::path::absolute(path)?)
}

/// The daemon's side of [`daemon`].
fn report(mut pipe: File, store: &Path, dir: &Path, o: &Options) -> Outcome {
    let (mut pipe_done, mut pipe_notes) = (pipe.try_clone()?, Some(pipe.try_clone()?));
    let mut ready = || {
        // Only now: to whatever is not in its own process group, an automounter's directory is closed
        // until something is mounted there.
        // SAFETY: a plain system call.
        if unsafe { libc::setsid() } < 0 {
            log::warn!("setsid: {}", std::io::Error::last_os_error());
        }
        // A parent that went away does not matter any more.
        let _ = writeln!(pipe_done, "{OK}");
        // Its copies must be closed for the parent to see the end.
        for f in [&pipe, &pipe_done] {
            // SAFETY: redirects a descriptor that we own; it stays valid.
            unsafe { libc::dup2(libc::STDOUT_FILENO, f.as_raw_fd()) };
        }
    };
    let mut served = false;
    let result = serve(store, dir, o, &mut |news| match news {
        News::Note(text) => {
            log::warn!("{text}");
            if let Some(pipe) = &mut pipe_notes {
                let _ = writeln!(pipe, "{NOTE}{}", text.replace('\n', " "));
            }
        }
        News::Ready => {
            served = true;
            pipe_notes = None;
            ready();
        }
    });
    if let Err(f) = &result {
        if served {
            log::error!("{}", f.message);
        } else {
            let _ = writeln!(pipe, "{}", f.message);
        }
    }
    result
}

/// Refuses a mount point that would hide something.
fn check_dir(dir: &Path) -> Outcome {
    let shown = dir.display();
    if mounts::is_on_demand(dir) {
        return Ok(());
    }
    match std::fs::read_dir(dir).map(Iterator::count) {
        Ok(1..) => {
            Err(Failure::new(FAILED, format!("{shown} is not empty; mount on an empty directory")))
        }
        Ok(_) => Ok(()),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Err(Failure::new(
            FAILED,
            format!("{shown} does not exist; make it first: mkdir {shown}"),
        )),
        Err(e) if e.kind() == std::io::ErrorKind::NotADirectory => Err(Failure::new(
            FAILED,
            format!("{shown} is not a directory; mount on an empty directory"),
        )),
        Err(e) => Err(Failure::new(FAILED, format!("{shown}: {e}"))),
    }
}

/// Mounts and serves until unmounted.
fn serve(store: &Path, dir: &Path, o: &Options, tell: &mut dyn FnMut(News)) -> Outcome {
    // Whoever started us or asked us something may go away at any time; and ps is to show our name,
    // not that of the file in /proc that we were started by.
    // SAFETY: sets a signal's disposition, and this thread's name from a C string.
    unsafe {
        libc::signal(libc::SIGPIPE, libc::SIG_IGN);
        libc::prctl(libc::PR_SET_NAME, c"lmfs".as_ptr());
    }
    dead::clear(dir, &mut |text| tell(News::Note(text)))?;
    check_dir(dir)?;
    give_memory_back();
    let signals = block_signals();
    let path = store.canonicalize().unwrap_or_else(|_| store.to_owned());
    let inside = dir.canonicalize().is_ok_and(|d| d.starts_with(&path) || path.starts_with(&d));
    if inside {
        let text = format!("{} and {} lie in each other", store.display(), dir.display());
        return Err(Failure::new(FAILED, text));
    }
    let opened = notify::opening();
    let distant = views::url(store).is_some();
    let (_view, path, store) = if let Some(url) = views::url(store) {
        if !o.read_only {
            let text = format!("{url}: an archive in an object store is mounted with -o ro");
            return Err(Failure::new(USAGE, text));
        }
        let (view, store) = views::open(url, &o.remote)?;
        let dir = view.dir.clone();
        (Some(view), dir, store)
    } else {
        let options = OpenOptions { read_only: o.read_only };
        let store = turn::open(&path, &options, &mut |text| tell(News::Note(text)))?;
        attach(&store, o, tell)?;
        (None, path, store)
    };
    let refresh = if distant { o.remote.refresh } else { Duration::ZERO };
    let fs = Fs::open(store, FsOptions { refresh, ..o.fs.clone() })?;
    if let Err(f) = check_models(&fs, o) {
        fs.shutdown()?;
        return Err(f);
    }
    let mut server = None;
    let served = (|| -> Outcome {
        let session = fuse::mount(Arc::clone(&fs), dir, &o.fuse(path.clone().into()))?;
        // A read-only store may lie on a medium that cannot hold a socket.
        match Server::start(&fs) {
            Ok(s) => server = Some(Arc::new(s)),
            Err(e) => log::warn!("no control socket, so no status or settle while mounted: {e}"),
        }
        await_signal(signals, session.unmounter(), Arc::clone(&fs), server.clone());
        opened.store(true, Ordering::SeqCst);
        notify::serving(&fs);
        tell(News::Ready);
        log::info!("{} serves on {}", path.display(), dir.display());
        Ok(session.wait()?)
    })();
    opened.store(true, Ordering::SeqCst);
    if let Some(s) = &server {
        s.hang_up();
    }
    notify::closing(closing_max(fs.bytes_to_close()));
    let closed = fs.shutdown();
    if let Some(s) = &server {
        s.finish(Duration::from_secs(5));
    }
    served?;
    closed?;
    Ok(())
}

/// Has the store upload to its object store. What is wrong with that does not keep it from being mounted,
/// unless it was promised that what is synced is uploaded.
fn attach(store: &Arc<Store>, o: &Options, tell: &mut dyn FnMut(News)) -> Outcome {
    let RemoteOptions { timeout: patience, sync, cache_bytes: keep, .. } = o.remote;
    match store.attach_remote(&RemoteUse { patience, sync, keep }) {
        Ok(false) if o.remote.sync && !o.read_only => Err(Failure::new(
            USAGE,
            "mount option remote=sync: the store has no object store; name one with: lmfs remote set",
        )),
        Ok(_) => Ok(()),
        Err(e) if o.remote.sync => Err(e.into()),
        Err(e) => {
            tell(News::Note(&format!("nothing is uploaded: {e}")));
            Ok(())
        }
    }
}

/// Loads what new files will be coded with, before anything is; a model that was pinned but does
/// not run is only logged, for what it coded may be little.
fn check_models(fs: &Fs, o: &Options) -> Outcome {
    let pins = fs.blocks().models();
    if let Some(name) = o.fs.model.as_deref().filter(|m| *m != "off") {
        pins.tier(name)
            .map_err(|e| Failure::new(USAGE, format!("mount option model={name}: {e}")))?;
    }
    // One that was removed since nothing needs it is not missed.
    let there = fs.store().model_files()?;
    let needed = pins.missing::<StoreError>(|_| Ok(false))?;
    for (entry, _) in pins.list()? {
        if there.contains(&entry.id) || needed.iter().any(|m| m.id == entry.id) {
            let _ = pins.lm(entry.number);
        }
    }
    Ok(())
}

/// Has glibc give freed memory back to the system. By default the tables and blocks that come and
/// go (some megabytes each, from many threads) end up in heaps that hold on to twice what is in use.
fn give_memory_back() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    for (what, value) in [
        (libc::M_MMAP_THRESHOLD, 512 << 10),
        (libc::M_TRIM_THRESHOLD, 4 << 20),
        (libc::M_ARENA_MAX, 2),
    ] {
        // SAFETY: sets a number of the allocator; an unknown one is refused without effect.
        unsafe { libc::mallopt(what, value) };
    }
}

/// Blocks the signals that mean "stop" in all threads to come.
fn block_signals() -> libc::sigset_t {
    // SAFETY: sigemptyset initialises the set before it is used.
    unsafe {
        let mut set = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        for s in [libc::SIGTERM, libc::SIGINT, libc::SIGHUP] {
            libc::sigaddset(&raw mut set, s);
        }
        libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut());
        set
    }
}

/// Waits for a signal in a thread of its own, then unmounts. A mount that somebody still uses is
/// detached; what it holds is made durable, and after a while we go.
fn await_signal(
    set: libc::sigset_t,
    unmounter: Unmounter,
    fs: Arc<Fs>,
    server: Option<Arc<Server>>,
) {
    let wait = move || {
        loop {
            let mut signal = 0;
            // SAFETY: set and signal outlive the call.
            if unsafe { libc::sigwait(&raw const set, &raw mut signal) } != 0 {
                return;
            }
            if signal != libc::SIGHUP {
                break;
            }
        }
        let most = closing_max(fs.bytes_to_close());
        notify::closing(most);
        // The next mount of this store is to know that we are about to go.
        if let Some(s) = server {
            s.hang_up();
        }
        if let Err(e) = fs.flush_all() {
            log::error!("flush: {e}");
        }
        if let Err(e) = unmounter.unmount() {
            log::error!("unmount: {e}");
        }
        // The thread that serves closes the store and ends the process. Here it is only watched.
        drop(fs);
        for _ in 0..most.as_secs() / CLOSING_STEP.as_secs() {
            std::thread::sleep(CLOSING_STEP);
            log::info!("still closing the store");
        }
        log::error!("closing took more than {most:?}: given up; what was synced is safe");
        std::process::exit(FAILED.into());
    };
    if let Err(e) = std::thread::Builder::new().name("signals".into()).spawn(wait) {
        log::error!("signals are not handled: {e}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn closing_may_take_longer_where_more_is_left_to_do() {
        assert_eq!(closing_max(0), CLOSING_BASE);
        // A terabyte without sidecars, from a disk that is about to fail.
        assert!(closing_max(1 << 40) > Duration::from_secs(48 * 24 * 3600));
        assert!(closing_max(u64::MAX) > closing_max(1 << 40));
    }
}
