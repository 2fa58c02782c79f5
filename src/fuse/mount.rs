//! Mounting and unmounting.

use super::adaptor::Adaptor;
use super::helper;
use crate::fs::Fs;
use crate::priority;
use fuser::{Config, SessionACL};
use std::ffi::{CString, OsString};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

const DEVICE: &str = "/dev/fuse";

/// How to mount.
#[derive(Debug, Clone, Default)]
#[allow(clippy::struct_excessive_bools)] // Each is one independent mount option.
pub struct MountOptions {
    /// No change at all.
    pub read_only: bool,
    /// Other users may look in, subject to the mode bits.
    pub allow_other: bool,
    /// Root may look in.
    pub allow_root: bool,
    /// The kernel checks mode bits.
    pub default_permissions: bool,
    /// Threads that take requests; at least 4 are started.
    pub threads: usize,
    /// What `/proc/mounts` shows as the source.
    pub source: OsString,
    /// Flags for the kernel: `nosuid`, `nodev`, `noexec`, `dirsync`, their opposites, `nosymfollow`.
    pub extra: Vec<String>,
}

/// Why mounting failed; the text names the thing and the remedy.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    /// No FUSE device.
    #[error(
        "/dev/fuse is missing: load the kernel module (modprobe fuse), or give the container the device (--device /dev/fuse)"
    )]
    NoDevice,
    /// The kernel or fusermount3 said no.
    #[error("no permission to mount at {}: {reason}", .dir.display())]
    NoPermission {
        /// Mount point.
        dir: PathBuf,
        /// What to do about it.
        reason: String,
    },
    /// The mount point is not a directory.
    #[error("{} is not a directory: name an empty directory", .0.display())]
    NotADirectory(PathBuf),
    /// A system call failed.
    #[error("{what}: {source}")]
    Io {
        /// What was being done.
        what: String,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
}

/// The mount and its end, shared by the session and whoever unmounts it.
#[derive(Debug)]
struct Shared {
    dir: PathBuf,
    /// How the session ended, once it has.
    ended: Mutex<Option<io::Result<()>>>,
    end: Condvar,
    /// The requests have ended: nothing of ours is mounted any more.
    gone: AtomicBool,
}

impl Shared {
    fn finish(&self, result: io::Result<()>) {
        let mut ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        ended.get_or_insert(result);
        self.end.notify_all();
    }
}

/// A mounted file system.
#[derive(Debug)]
pub struct Session {
    shared: Arc<Shared>,
}

/// Unmounts a session from another thread.
#[derive(Debug, Clone)]
pub struct Unmounter {
    shared: Arc<Shared>,
}

fn io_error(what: impl Into<String>, source: io::Error) -> MountError {
    MountError::Io { what: what.into(), source }
}

/// Mounts at `dir`, which the caller has found empty, and which is not looked at here: a mount point
/// that is mounted on demand would wait for us. Returns once the kernel has been answered and requests are served.
pub fn mount(fs: Arc<Fs>, dir: &Path, options: &MountOptions) -> Result<Session, MountError> {
    let what = |verb: &str| format!("{verb} {}", dir.display());
    let dir = dir.canonicalize().map_err(|e| io_error(what("looking at"), e))?;
    if !Path::new(DEVICE).exists() {
        return Err(MountError::NoDevice);
    }
    // SAFETY: no arguments, cannot fail.
    let device = if unsafe { libc::geteuid() } == 0 {
        mount_directly(&dir, options)?
    } else {
        helper::mount(&dir, &helper_options(options))
            .map_err(|e| MountError::NoPermission { dir: dir.clone(), reason: e.to_string() })?
    };
    let acl = if options.allow_root { SessionACL::RootAndOwner } else { SessionACL::All };
    let mut config = Config::default();
    config.n_threads = Some(options.threads.max(4));
    let session = fuser::Session::from_fd(Adaptor::new(fs), device, acl, config).map_err(|e| {
        // Nobody will serve it.
        let _ = detach(&dir);
        io_error("answering the kernel", e)
    })?;
    let shared = Arc::new(Shared {
        dir,
        ended: Mutex::new(None),
        end: Condvar::new(),
        gone: AtomicBool::new(false),
    });
    let ours = Arc::clone(&shared);
    std::thread::Builder::new()
        .name("session".into())
        .spawn(move || {
            // Its threads answer requests, mostly within microseconds, and somebody waits for each.
            priority::prompt();
            let result = session.run();
            ours.gone.store(true, Ordering::SeqCst);
            ours.finish(result);
        })
        .map_err(|e| io_error("starting a thread", e))?;
    Ok(Session { shared })
}

impl Session {
    /// Blocks until it is unmounted, by whomever; or until [`Unmounter::unmount`] had to detach a
    /// busy mount and its users have not gone within some seconds.
    pub fn wait(self) -> Result<(), MountError> {
        let mut ended = self.shared.ended.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some(result) = ended.take() {
                return result.map_err(|e| io_error("serving requests", e));
            }
            ended = self.shared.end.wait(ended).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// A handle to unmount it with from another thread.
    pub fn unmounter(&self) -> Unmounter {
        Unmounter { shared: Arc::clone(&self.shared) }
    }
}

impl Unmounter {
    /// Unmounts. A busy mount is detached: nobody new gets in, and after a while of grace
    /// [`Session::wait`] returns even if somebody still has files open.
    pub fn unmount(&self) -> io::Result<()> {
        const GRACE: Duration = Duration::from_secs(5);
        if self.shared.gone.load(Ordering::SeqCst) {
            return Ok(());
        }
        match unmount(&self.shared.dir) {
            Err(e) if e.raw_os_error() == Some(libc::EBUSY) => {}
            result => return result,
        }
        log::warn!("{} is busy: detached; open files end soon", self.shared.dir.display());
        detach(&self.shared.dir)?;
        let shared = Arc::clone(&self.shared);
        std::thread::spawn(move || {
            std::thread::sleep(GRACE);
            shared.finish(Ok(()));
        });
        Ok(())
    }
}

/// Unmounts whatever is mounted at `dir`; fails with `EBUSY` while it is in use.
pub fn unmount(dir: &Path) -> io::Result<()> {
    match umount(dir, 0) {
        Err(e) if e.raw_os_error() == Some(libc::EPERM) => helper::unmount(dir, false),
        result => result,
    }
}

/// Takes a mount away, in use or not; whoever uses it keeps what is open.
pub fn detach(dir: &Path) -> io::Result<()> {
    match umount(dir, libc::MNT_DETACH) {
        Err(e) if e.raw_os_error() == Some(libc::EPERM) => helper::unmount(dir, true),
        result => result,
    }
}

fn c_string(s: &std::ffi::OsStr) -> io::Result<CString> {
    CString::new(s.as_bytes()).map_err(|e| io::Error::new(io::ErrorKind::InvalidInput, e))
}

fn umount(dir: &Path, flags: i32) -> io::Result<()> {
    let path = c_string(dir.as_os_str())?;
    // SAFETY: a system call with a valid C string.
    match unsafe { libc::umount2(path.as_ptr(), flags | libc::UMOUNT_NOFOLLOW) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Symbolic links are not followed; the kernel knows it from 5.10 on.
const MS_NOSYMFOLLOW: libc::c_ulong = 256;

/// Flags of mount(2) by the names of mount(8), and whether the name sets or clears it.
const FLAGS: [(&str, libc::c_ulong, bool); 10] = [
    ("nosuid", libc::MS_NOSUID, true),
    ("suid", libc::MS_NOSUID, false),
    ("nodev", libc::MS_NODEV, true),
    ("dev", libc::MS_NODEV, false),
    ("noexec", libc::MS_NOEXEC, true),
    ("exec", libc::MS_NOEXEC, false),
    ("noatime", libc::MS_NOATIME, true),
    ("dirsync", libc::MS_DIRSYNC, true),
    ("nosymfollow", MS_NOSYMFOLLOW, true),
    ("sync", libc::MS_SYNCHRONOUS, true),
];

fn kernel_flags(options: &MountOptions) -> libc::c_ulong {
    let mut flags = libc::MS_NOSUID | libc::MS_NODEV;
    for name in &options.extra {
        for (_, flag, on) in FLAGS.iter().filter(|(n, _, _)| n == name) {
            flags = if *on { flags | flag } else { flags & !flag };
        }
    }
    if options.read_only {
        flags |= libc::MS_RDONLY;
    }
    flags
}

/// Changes what the kernel checks (`ro`, `nosuid` and the like) of what is mounted at `dir`.
pub fn remount(dir: &Path, options: &MountOptions) -> io::Result<()> {
    let target = c_string(dir.as_os_str())?;
    let flags = kernel_flags(options) | libc::MS_REMOUNT;
    let none = std::ptr::null();
    // SAFETY: a system call with a valid C string; a remount needs neither source, type nor data.
    match unsafe { libc::mount(none, target.as_ptr(), none, flags, none.cast()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Opens the device and mounts it, as root may.
fn mount_directly(dir: &Path, options: &MountOptions) -> Result<OwnedFd, MountError> {
    let denied = |reason: &str| MountError::NoPermission {
        dir: dir.to_path_buf(),
        reason: format!("{reason}; in a container, give it CAP_SYS_ADMIN and {DEVICE}"),
    };
    let device = std::fs::OpenOptions::new().read(true).write(true).open(DEVICE);
    let device = device.map_err(|e| match e.raw_os_error() {
        Some(libc::ENOENT | libc::ENODEV | libc::ENXIO) => MountError::NoDevice,
        Some(libc::EPERM | libc::EACCES) => denied("/dev/fuse cannot be opened"),
        _ => io_error(format!("opening {DEVICE}"), e),
    })?;
    let flags = kernel_flags(options);
    // SAFETY: no arguments, cannot fail.
    let (uid, gid) = unsafe { (libc::getuid(), libc::getgid()) };
    let mut data = format!("fd={},rootmode=40000,user_id={uid},group_id={gid}", device.as_raw_fd());
    if options.default_permissions {
        data.push_str(",default_permissions");
    }
    if options.allow_other || options.allow_root {
        data.push_str(",allow_other");
    }
    let bad = |e| io_error("mounting", e);
    let (source, target) =
        (c_string(&options.source).map_err(bad)?, c_string(dir.as_os_str()).map_err(bad)?);
    let data = c_string(data.as_ref()).map_err(bad)?;
    // SAFETY: a system call with valid C strings that outlive it.
    let result = unsafe {
        libc::mount(
            source.as_ptr(),
            target.as_ptr(),
            c"fuse.lmfs".as_ptr(),
            flags,
            data.as_ptr().cast(),
        )
    };
    if result == 0 {
        return Ok(device.into());
    }
    let e = io::Error::last_os_error();
    Err(match e.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => denied("the kernel does not allow mounting"),
        Some(libc::ENODEV) => MountError::NoDevice,
        Some(libc::ENOTDIR) => MountError::NotADirectory(dir.to_path_buf()),
        _ => io_error(format!("mounting at {}", dir.display()), e),
    })
}

/// The same for `fusermount3`, which knows the options by name.
fn helper_options(options: &MountOptions) -> OsString {
    let mut source = b"fsname=".to_vec();
    for b in options.source.as_bytes() {
        if b"\\,".contains(b) {
            source.push(b'\\');
        }
        source.push(*b);
    }
    let mut o = vec![String::from("subtype=lmfs")];
    o.push(if options.read_only { "ro" } else { "rw" }.into());
    if options.default_permissions {
        o.push("default_permissions".into());
    }
    if options.allow_other || options.allow_root {
        o.push("allow_other".into());
    }
    let known = |n: &&String| FLAGS.iter().any(|(f, _, _)| f == n);
    o.extend(options.extra.iter().filter(known).cloned());
    source.extend(format!(",{}", o.join(",")).as_bytes());
    OsString::from_vec(source)
}
