//! The only room that knows fuser: mounting, serving, unmounting.

mod adaptor;
mod errno;
mod pool;

use crate::fs::Fs;
use adaptor::Adaptor;
use fuser::{Config, MountOption, SessionACL};
use std::ffi::CString;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;

/// How to mount.
#[derive(Debug, Clone)]
pub struct MountOptions {
    /// Nothing may be changed.
    pub read_only: bool,
    /// All users may use the mount, within the permissions.
    pub allow_other: bool,
    /// Root may use it besides the mounting user.
    pub allow_root: bool,
    /// The kernel checks permission bits.
    pub default_permissions: bool,
    /// Threads that take requests.
    pub threads: usize,
    /// What /proc/mounts shows as the source.
    pub source: String,
    /// Further options by name: `nosuid`, `nodev`, `noexec`, `dirsync`, `dev`, `suid`, `exec`.
    pub extra: Vec<String>,
}

/// Why a mount did not come about.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    /// The kernel's device is missing.
    #[error(
        "/dev/fuse is missing: load the kernel module (modprobe fuse), or give the container the device"
    )]
    NoDevice,
    /// Not allowed to mount.
    #[error(
        "no permission to mount on {dir}: {detail}; be root, or install fusermount3 (package fuse3)"
    )]
    Permission {
        /// The mount point.
        dir: String,
        /// The system's words.
        detail: String,
    },
    /// The mount point will not do.
    #[error("{dir}: {detail}")]
    Dir {
        /// The mount point.
        dir: String,
        /// What is wrong with it.
        detail: String,
    },
    /// Anything else.
    #[error("cannot mount on {dir}: {source}")]
    Failed {
        /// The mount point.
        dir: String,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
}

/// A mounted file system that serves.
#[derive(Debug)]
pub struct Session {
    dir: PathBuf,
    thread: JoinHandle<io::Result<()>>,
}

/// Unmounts from another thread.
#[derive(Debug, Clone)]
pub struct Unmounter {
    dir: PathBuf,
}

/// Mounts `fs` on `dir`; on return the kernel's greeting was answered and requests are served.
pub fn mount(fs: Arc<Fs>, dir: &Path, options: &MountOptions) -> Result<Session, MountError> {
    let shown = dir.display().to_string();
    let bad_dir = |detail: String| MountError::Dir { dir: shown.clone(), detail };
    let dir = dir.canonicalize().map_err(|e| bad_dir(e.to_string()))?;
    if !dir.is_dir() {
        return Err(bad_dir("not a directory".into()));
    }
    if !Path::new("/dev/fuse").exists() {
        return Err(MountError::NoDevice);
    }
    let failed = |source: io::Error| match source.kind() {
        io::ErrorKind::PermissionDenied => {
            MountError::Permission { dir: shown.clone(), detail: source.to_string() }
        }
        // Without rights fuser turns to fusermount3, which may not be there, or may refuse.
        _ if is_user() => MountError::Permission {
            dir: shown.clone(),
            detail: source.to_string().trim().to_owned(),
        },
        _ => MountError::Failed { dir: shown.clone(), source },
    };
    let decoders = fs.decode_threads();
    let adaptor = Adaptor::new(fs, decoders).map_err(failed)?;
    let session = fuser::Session::new(adaptor, &dir, &config(options)).map_err(failed)?;
    let thread = std::thread::Builder::new()
        .name("fuse".into())
        .spawn(move || session.run())
        .map_err(failed)?;
    Ok(Session { dir, thread })
}

fn is_user() -> bool {
    // SAFETY: no preconditions.
    unsafe { libc::geteuid() != 0 }
}

fn config(options: &MountOptions) -> Config {
    let mut c = Config::default();
    c.n_threads = Some(options.threads.max(1));
    c.acl = match (options.allow_other, options.allow_root) {
        (true, _) => SessionACL::All,
        (false, true) => SessionACL::RootAndOwner,
        (false, false) => SessionACL::Owner,
    };
    let mut m = vec![
        MountOption::FSName(options.source.replace(',', "\\,")),
        MountOption::Subtype("lmfs".into()),
        if options.read_only { MountOption::RO } else { MountOption::RW },
    ];
    if options.default_permissions {
        m.push(MountOption::DefaultPermissions);
    }
    for name in &options.extra {
        m.push(match name.as_str() {
            "nosuid" => MountOption::NoSuid,
            "suid" => MountOption::Suid,
            "nodev" => MountOption::NoDev,
            "dev" => MountOption::Dev,
            "noexec" => MountOption::NoExec,
            "exec" => MountOption::Exec,
            "dirsync" => MountOption::DirSync,
            other => MountOption::CUSTOM(other.into()),
        });
    }
    c.mount_options = m;
    c
}

impl Session {
    /// Something that can unmount while [`Self::wait`] waits.
    pub fn unmounter(&self) -> Unmounter {
        Unmounter { dir: self.dir.clone() }
    }

    /// Serves until somebody unmounts.
    pub fn wait(self) -> Result<(), MountError> {
        let dir = || self.dir.display().to_string();
        match self.thread.join() {
            Ok(Ok(())) => Ok(()),
            // What a connection says that was cut by an unmount.
            Ok(Err(e)) if matches!(e.raw_os_error(), Some(libc::ENODEV | libc::ENOENT)) => Ok(()),
            Ok(Err(source)) => Err(MountError::Failed { dir: dir(), source }),
            Err(_) => Err(MountError::Failed {
                dir: dir(),
                source: io::Error::other("the session panicked"),
            }),
        }
    }
}

impl Unmounter {
    /// Unmounts; a busy mount is detached: it goes when its last user does.
    pub fn unmount(&self) -> io::Result<()> {
        match unmount(&self.dir) {
            Err(e) if e.raw_os_error() == Some(libc::EBUSY) => {
                log::warn!("{}: busy, detached", self.dir.display());
                unmount_with(&self.dir, libc::MNT_DETACH)
            }
            r => r,
        }
    }
}

/// Unmounts a directory; EBUSY if somebody uses it.
pub fn unmount(dir: &Path) -> io::Result<()> {
    unmount_with(dir, 0)
}

fn unmount_with(dir: &Path, flags: i32) -> io::Result<()> {
    let path = CString::new(dir.as_os_str().as_bytes())?;
    // SAFETY: the path is a NUL-terminated string that outlives the call.
    if unsafe { libc::umount2(path.as_ptr(), flags) } == 0 {
        return Ok(());
    }
    let e = io::Error::last_os_error();
    if e.raw_os_error() != Some(libc::EPERM) {
        return Err(e);
    }
    // Not root: the setuid helper may.
    let mut command = std::process::Command::new("fusermount3");
    command.arg("-u").args((flags & libc::MNT_DETACH != 0).then_some("-z")).arg("--").arg(dir);
    let out = command.output()?;
    let said = String::from_utf8_lossy(&out.stderr);
    match out.status.success() {
        true => Ok(()),
        false if said.contains("busy") => Err(io::Error::from_raw_os_error(libc::EBUSY)),
        false => Err(io::Error::other(said.trim().to_owned())),
    }
}
