//! What a DIR|STORE argument means.

use super::{FAILED, Failure};
use crate::control::{self, ControlError, Request};
use crate::fs::Fs;
use crate::store::{OpenOptions, Store};
use std::ffi::OsStr;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A mounted lmfs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mounted {
    /// The store's directory.
    pub store: PathBuf,
    /// Where it is mounted.
    pub dir: PathBuf,
}

/// Undoes the octal escapes of mountinfo.
fn unescape(text: &[u8]) -> PathBuf {
    let mut out = Vec::with_capacity(text.len());
    let mut i = 0;
    while i < text.len() {
        let octal = text.get(i + 1..i + 4).filter(|_| text[i] == b'\\');
        let code = octal.and_then(|o| u8::from_str_radix(std::str::from_utf8(o).ok()?, 8).ok());
        if let Some(c) = code {
            out.push(c);
            i += 4;
        } else {
            out.push(text[i]);
            i += 1;
        }
    }
    PathBuf::from(std::ffi::OsString::from_vec(out))
}

/// All lmfs mounts in a mountinfo file's text, in its order.
fn mounts_in(text: &[u8]) -> Vec<Mounted> {
    let entry = |line: &[u8]| {
        let fields: Vec<&[u8]> = line.split(|b| *b == b' ').collect();
        let dash = fields.iter().position(|f| *f == b"-")?;
        if *fields.get(dash + 1)? != b"fuse.lmfs" {
            return None;
        }
        Some(Mounted { dir: unescape(fields.get(4)?), store: unescape(fields.get(dash + 2)?) })
    };
    text.split(|b| *b == b'\n').filter_map(entry).collect()
}

/// All lmfs mounts that this process sees.
pub fn mounts() -> Vec<Mounted> {
    std::fs::read("/proc/self/mountinfo").map(|t| mounts_in(&t)).unwrap_or_default()
}

/// The absolute form of a path whose last part is not followed or even looked at: a hung mount
/// must not hang us.
pub fn absolute(path: &Path) -> PathBuf {
    let whole = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    match (whole.parent().and_then(|p| p.canonicalize().ok()), whole.file_name()) {
        (Some(parent), Some(name)) if name != OsStr::new("..") => parent.join(name),
        _ => whole.canonicalize().unwrap_or(whole),
    }
}

/// The mount that a path lies in, and the path below it.
pub fn mount_of(path: &Path) -> Option<(Mounted, PathBuf)> {
    let path = absolute(path);
    let mut all = mounts();
    all.sort_by_key(|m| m.dir.as_os_str().len());
    let m = all.into_iter().rev().find(|m| path.starts_with(&m.dir))?;
    let below = path.strip_prefix(&m.dir).ok()?.to_owned();
    Some((m, below))
}

/// The store that a DIR|STORE argument names.
pub fn store_of(path: &Path) -> PathBuf {
    match mount_of(path) {
        Some((m, _)) => m.store,
        None => path.canonicalize().unwrap_or_else(|_| path.to_owned()),
    }
}

/// Runs a request on a mounted store through its daemon, on an unmounted one right here.
pub fn run(
    path: &Path,
    request: &Request,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<serde_json::Value, Failure> {
    let store = store_of(path);
    match control::request(&store, request, progress) {
        Err(ControlError::NotMounted) => offline(&store, request, progress),
        r => Ok(r?),
    }
}

fn offline(
    path: &Path,
    request: &Request,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<serde_json::Value, Failure> {
    let read_only = match request {
        Request::Status | Request::Stat { .. } => true,
        Request::Scrub(o) => !o.repair,
        _ => false,
    };
    let store = Store::open(path, &OpenOptions { read_only })?;
    let fs: Arc<Fs> = Fs::open(store, super::options::Options::offline())?;
    let answer = control::answer(&fs, request, progress, None);
    let closed = fs.shutdown();
    let value = answer.map_err(|e| Failure::new(FAILED, e))?;
    closed?;
    Ok(value)
}

/// A path as the control protocol wants it.
pub fn inner(path: &Path) -> String {
    String::from_utf8_lossy(path.as_os_str().as_bytes()).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mountinfo_is_read_with_its_escapes() {
        let text = b"36 35 0:31 / /a\\040b rw,nosuid shared:1 - fuse.lmfs /st\\134ore rw\n\
            37 35 0:32 / /other rw - fuse.sshfs host rw\n";
        let m = mounts_in(text);
        assert_eq!(m, [Mounted { store: "/st\\ore".into(), dir: "/a b".into() }]);
    }
}
