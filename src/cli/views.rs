//! Where this machine keeps what belongs to an archive that is read from a URL: a directory of its own with
//! the cache, and with the control socket while it is mounted.

use super::options::RemoteOptions;
use super::{FAILED, Failure};
use crate::store::{Store, canonical_url, is_url};
use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The file that says of which archive a directory is.
const URL: &str = "url";
/// What the cache of a view may hold, unless somebody says otherwise.
const CACHE_BYTES: u64 = 1 << 30;
/// Mounts of one archive on one machine by one user at a time.
const MOST: u32 = 64;

/// A directory that nobody else uses meanwhile.
#[derive(Debug)]
pub struct View {
    /// The directory.
    pub dir: PathBuf,
    /// Held for its lock.
    _lock: File,
}

fn root() -> Result<PathBuf, Failure> {
    let absolute =
        |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|p| p.is_absolute());
    let base = absolute("XDG_CACHE_HOME").or_else(|| absolute("HOME").map(|h| h.join(".cache")));
    match base {
        Some(base) => Ok(base.join("lmfs")),
        // A daemon that the system starts has neither.
        // SAFETY: no arguments, cannot fail.
        None if unsafe { libc::geteuid() } == 0 => Ok("/var/cache/lmfs".into()),
        None => Err(Failure::new(FAILED, "no directory for the cache: set XDG_CACHE_HOME or HOME")),
    }
}

/// Takes a directory for the archive at `url`; the first that is free, so that a cache is found again.
pub fn take(url: &str) -> Result<View, Failure> {
    let url = canonical_url(url)?;
    let root = root()?;
    let name = blake3::hash(url.as_bytes()).to_hex();
    for n in 0..MOST {
        let dir =
            root.join(if n == 0 { name[..16].into() } else { format!("{}.{n}", &name[..16]) });
        let about = |e: std::io::Error| Failure::new(FAILED, format!("{}: {e}", dir.display()));
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&dir).map_err(about)?;
        let mut options = std::fs::OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let lock = options.open(dir.join("view.lock")).map_err(about)?;
        // SAFETY: plain system call on an open descriptor.
        if unsafe { libc::flock(lock.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) } == 0 {
            std::fs::write(dir.join(URL), format!("{url}\n")).map_err(about)?;
            return Ok(View { dir, _lock: lock });
        }
    }
    Err(Failure::new(FAILED, format!("{url} is in use {MOST} times by this user already")))
}

/// The URL that an argument is, where a store could stand as well.
pub fn url(at: &Path) -> Option<&str> {
    at.to_str().filter(|text| is_url(text))
}

/// Opens the archive at a URL for reading.
pub fn open(url: &str, o: &RemoteOptions) -> Result<(View, Arc<Store>), Failure> {
    let view = take(url)?;
    let cache_bytes = o.cache_bytes.unwrap_or(CACHE_BYTES);
    let store = Store::open_url(url, &view.dir, cache_bytes, o.timeout)?;
    Ok((view, store))
}

/// The URL that a directory is a view of, if it is one.
pub fn url_of(dir: &Path) -> Option<String> {
    let is_view = dir.join("view.lock").exists();
    let text = std::fs::read_to_string(dir.join(URL)).ok().filter(|_| is_view)?;
    Some(text.trim_end().to_owned())
}
