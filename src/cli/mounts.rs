//! The lmfs mounts that there are, and which one a path lies in.
//!
//! A path is opened with `O_PATH`, and the kernel says in which mount it ended up: through symbolic
//! links, bind mounts and whatever is mounted over something else. That asks no daemon, so it works
//! where one hangs or has died, as long as the path is a mount point itself.

use super::{FAILED, Failure};
use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// The type that our mounts have.
const KIND: &[u8] = b"fuse.lmfs";

/// A mount, as mountinfo tells of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Mount {
    /// The kernel's number for it.
    pub id: u64,
    /// The file system's device number, as it stands there: the same for all its mounts.
    pub device: OsString,
    /// Which part of the file system is mounted; `/` for all of it.
    pub root: PathBuf,
    /// Where.
    pub dir: PathBuf,
    /// Type of the file system.
    pub kind: OsString,
    /// Its source; of an lmfs, the store's directory.
    pub store: PathBuf,
}

impl Mount {
    /// True for ours.
    pub fn is_lmfs(&self) -> bool {
        self.kind.as_encoded_bytes() == KIND
    }
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
    PathBuf::from(OsString::from_vec(out))
}

/// All mounts in a mountinfo file's text, in its order.
fn parse(text: &[u8]) -> Vec<Mount> {
    let entry = |line: &[u8]| {
        let fields: Vec<&[u8]> = line.split(|b| *b == b' ').collect();
        let dash = fields.iter().position(|f| *f == b"-")?;
        Some(Mount {
            id: std::str::from_utf8(fields.first()?).ok()?.parse().ok()?,
            device: OsString::from_vec(fields.get(2)?.to_vec()),
            root: unescape(fields.get(3)?),
            dir: unescape(fields.get(4)?),
            kind: unescape(fields.get(dash + 1)?).into_os_string(),
            store: unescape(fields.get(dash + 2)?),
        })
    };
    text.split(|b| *b == b'\n').filter_map(entry).collect()
}

/// All mounts that a process sees, of any type; none if it has gone, or we may not look.
pub fn seen_by(process: &str) -> Vec<Mount> {
    std::fs::read(format!("/proc/{process}/mountinfo")).map(|t| parse(&t)).unwrap_or_default()
}

/// All lmfs mounts that this process sees.
pub fn all() -> Vec<Mount> {
    seen_by("self").into_iter().filter(Mount::is_lmfs).collect()
}

/// A path that is open, and the mount that it lies in.
#[derive(Debug)]
pub struct Place {
    file: File,
    /// The mount.
    pub mount: Mount,
    /// The path without links, as this process sees it.
    pub path: PathBuf,
}

impl Place {
    /// True if it is the mount's own directory, not something below.
    pub fn is_mount_point(&self) -> bool {
        self.path == self.mount.dir
    }

    /// Closes it, so that it does not keep the mount busy.
    pub fn release(self) -> Mount {
        self.mount
    }

    /// Its inode number; asks the daemon.
    pub fn inode(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.ino())
    }
}

fn open(path: &Path, flags: i32) -> io::Result<Place> {
    let flags = flags | libc::O_PATH;
    let file = std::fs::OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    let fd = file.as_raw_fd();
    let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{fd}"))?;
    let id = info.lines().find_map(|l| l.strip_prefix("mnt_id:")?.trim().parse::<u64>().ok());
    // Below a changed root directory, mountinfo hides the mount that this lies in; it is none that we
    // could do anything about.
    let mount = seen_by("self").into_iter().find(|m| Some(m.id) == id).unwrap_or_default();
    let path = std::fs::read_link(format!("/proc/self/fd/{fd}"))?;
    Ok(Place { file, mount, path })
}

/// Where a path leads, whatever the file system. A symbolic link on an lmfs is meant itself, others
/// are followed. What is mounted on demand is mounted, unless `quietly`.
pub fn place(path: &Path, quietly: bool) -> io::Result<Place> {
    let mut found = open(path, libc::O_NOFOLLOW)?;
    if !found.mount.is_lmfs() && found.file.metadata().is_ok_and(|m| m.is_symlink()) {
        found = open(path, 0)?;
    }
    if found.mount.kind == "autofs" && !quietly {
        found = open(path, libc::O_DIRECTORY)?;
    }
    Ok(found)
}

/// True for a mount point of automount(8)'s or systemd's, where nothing is mounted yet: looking into it
/// waits for the mount, which whoever is to mount there must not.
pub fn is_on_demand(dir: &Path) -> bool {
    place(dir, true).is_ok_and(|p| p.mount.kind == "autofs" && p.is_mount_point())
}

/// The lmfs that a path lies in; `None` if it lies in none, or is not there. What is there and
/// cannot be reached is an error.
pub fn of(path: &Path) -> Result<Option<Place>, Failure> {
    match place(path, false) {
        Ok(p) => Ok(Some(p).filter(|p| p.mount.is_lmfs())),
        Err(e) => match e.raw_os_error() {
            Some(libc::ENOENT | libc::ENOTDIR) => Ok(None),
            Some(libc::ENOTCONN | libc::ECONNABORTED) => Err(dead(path)),
            _ => Err(Failure::new(FAILED, format!("{}: {e}", path.display()))),
        },
    }
}

/// What to say of a path whose daemon has died.
pub fn dead(path: &Path) -> Failure {
    let whole = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let above = |m: &Mount| whole.starts_with(&m.dir);
    let dir = all().into_iter().rev().find(above).map_or(whole.clone(), |m| m.dir);
    Failure::new(
        FAILED,
        format!(
            "{}: the daemon of this mount has died; mount it again (lmfs mount STORE {dir}), or remove \
             it (lmfs umount {dir})",
            path.display(),
            dir = dir.display()
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mountinfo_is_read_with_its_escapes() {
        let text = b"36 35 0:31 /sub /a\\040b rw,nosuid shared:1 - fuse.lmfs /st\\134ore rw\n\
            37 35 0:32 / /other\\377 rw - fuse.sshfs host rw\n";
        let m = parse(text);
        assert_eq!((m[0].id, m[0].device.as_os_str()), (36, "0:31".as_ref()));
        assert_eq!((m[0].root.as_path(), m[0].dir.as_path()), ("/sub".as_ref(), "/a b".as_ref()));
        assert_eq!(m[0].store.as_path(), Path::new("/st\\ore"));
        assert!(m[0].is_lmfs() && !m[1].is_lmfs());
        assert_eq!(m[1].dir.as_os_str().as_encoded_bytes(), b"/other\xff");
    }

    #[test]
    fn a_place_is_where_links_lead() {
        let dir = tempfile::tempdir().unwrap();
        let whole = dir.path().canonicalize().unwrap();
        std::os::unix::fs::symlink(&whole, dir.path().join("link")).unwrap();
        let found = place(&dir.path().join("link"), false).unwrap();
        assert_eq!(found.path, whole);
        assert!(of(&dir.path().join("none")).unwrap().is_none());
    }
}
