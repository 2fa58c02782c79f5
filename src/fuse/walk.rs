//! Through a directory, from where the kernel stopped.

use crate::fs::{Fs, Result};
use crate::types::Ino;

/// Names fetched from the store at a time: about as many as one answer has room for.
pub const NAMES: usize = 256;
/// The same where attributes go with them.
pub const ENTRIES: usize = 32;

/// Hands a directory's entries after `offset` to `add` until it says that it is full: inode, cookie, type and
/// name.
pub fn walk(
    fs: &Fs,
    dir: Ino,
    offset: u64,
    at_once: usize,
    mut add: impl FnMut(Ino, u64, u32, &[u8]) -> Result<bool>,
) -> Result<()> {
    let attr = fs.getattr(dir)?;
    fs.dir_accessed(dir)?;
    if offset < 1 && add(dir, 1, libc::S_IFDIR, b".")? {
        return Ok(());
    }
    if offset < 2 && add(Ino(attr.parent.max(1)), 2, libc::S_IFDIR, b"..")? {
        return Ok(());
    }
    let mut after = offset.max(2);
    loop {
        let batch = fs.readdir(dir, after, at_once)?;
        for d in &batch {
            if add(d.ino, d.cookie, d.kind, &d.name)? {
                return Ok(());
            }
            after = d.cookie;
        }
        if batch.len() < at_once {
            return Ok(());
        }
    }
}
