//! Mounts whose daemon has died: the kernel keeps them until somebody unmounts them, and answers
//! `ENOTCONN` to everything.

use super::{FAILED, Failure, mounts};
use crate::fuse;
use std::ffi::CString;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

/// Dead mounts on top of each other; each restart that did not clear its own has left one.
const LAYERS: usize = 100;
/// A daemon that is being killed has its requests aborted first, and is dead some moments later.
const DYING: Duration = Duration::from_millis(50);

/// True if a mount point's daemon has died.
pub fn is_dead(dir: &Path) -> bool {
    let Ok(path) = CString::new(dir.as_os_str().as_bytes()) else { return false };
    loop {
        // SAFETY: a valid C string, and room for the answer, which all zeros is a valid value of.
        let error = unsafe {
            let mut out: libc::statfs = std::mem::zeroed();
            match libc::statfs(path.as_ptr(), &raw mut out) {
                0 => return false,
                _ => io::Error::last_os_error(),
            }
        };
        match error.raw_os_error() {
            Some(libc::ENOTCONN) => return true,
            Some(libc::ECONNABORTED) => std::thread::sleep(DYING),
            _ => return false,
        }
    }
}

/// Removes the mounts of killed daemons from a mount point, if they are ours; says which.
pub fn clear(dir: &Path, say: &mut dyn FnMut(&str)) -> Result<(), Failure> {
    let shown = dir.display();
    for _ in 0..LAYERS {
        if mounts::is_on_demand(dir) || !is_dead(dir) {
            return Ok(());
        }
        let found = mounts::place(dir, true).map_err(|_| mounts::dead(dir))?;
        if !found.is_mount_point() {
            return Err(mounts::dead(dir));
        }
        let m = &found.release();
        if !m.is_lmfs() {
            let kind = m.kind.display();
            let text = format!(
                "{shown}: what is mounted there ({kind}) is not lmfs's, and its daemon has died; if it is \
                 not needed, remove it: umount -l {shown}"
            );
            return Err(Failure::new(FAILED, text));
        }
        fuse::detach(&m.dir).map_err(|e| {
            let text = format!(
                "{shown}: a mount of {} whose daemon has died is still there, and cannot be removed: {e}; \
                 whoever mounted it, or root, can: umount -l {shown}",
                m.store.display()
            );
            Failure::new(FAILED, text)
        })?;
        say(&format!("removed the mount of {} on {shown}: its daemon had died", m.store.display()));
    }
    let text = format!("{shown}: more than {LAYERS} dead mounts lie on it; remove them: umount -l");
    Err(Failure::new(FAILED, text))
}
