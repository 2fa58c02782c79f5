//! What one client does to a tree of its own, on the mount and in a directory of the local file system: both must answer
//! the same.

use super::dice::Dice;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::Path;

/// Files are not longer.
const SIZE: u64 = 300_000;

/// What is done to paths under a root.
#[derive(Debug)]
pub enum Op {
    Write {
        path: String,
        off: u64,
        bytes: Vec<u8>,
        sync: bool,
    },
    Append {
        path: String,
        bytes: Vec<u8>,
    },
    /// Through a shared map, where the file has these bytes.
    Map {
        path: String,
        off: u64,
        bytes: Vec<u8>,
    },
    /// Other bytes take the file's place: a new file, renamed over it.
    Replace {
        path: String,
        bytes: Vec<u8>,
    },
    Truncate {
        path: String,
        len: u64,
    },
    Punch {
        path: String,
        off: u64,
        len: u64,
    },
    CopyRange {
        from: String,
        to: String,
        off: u64,
        len: u64,
        at: u64,
    },
    /// Past the page cache.
    Read {
        path: String,
        off: u64,
        len: u64,
    },
    Create {
        path: String,
    },
    Mkdir {
        path: String,
    },
    Symlink {
        path: String,
        to: String,
    },
    Link {
        from: String,
        to: String,
    },
    Rename {
        from: String,
        to: String,
    },
    Unlink {
        path: String,
    },
    Rmdir {
        path: String,
    },
    Chmod {
        path: String,
        mode: u32,
    },
    Stat {
        path: String,
    },
    List {
        path: String,
    },
}

/// What an operation answered: bytes, or the words that describe it.
type Answer = Vec<u8>;

fn path(dice: &mut Dice) -> String {
    let dir = ["", "a/", "b/", "a/c/"][dice.below(4) as usize];
    let name = ["f", "g", "h", "a", "b", "c"][dice.below(6) as usize];
    format!("{dir}{name}")
}

/// Text that a coder makes something of, or bytes that none does.
fn bytes(dice: &mut Dice) -> Vec<u8> {
    let most = [40, 5_000, 150_000][dice.below(3) as usize];
    let len = 1 + dice.below(most) as usize;
    if dice.below(4) == 0 {
        return (0..len).map(|_| dice.next() as u8).collect();
    }
    let mut text = Vec::new();
    while text.len() < len {
        let line = format!(
            "{} client said {} of {}\n",
            dice.below(100),
            dice.below(9),
            dice.below(1 << 30)
        );
        text.extend_from_slice(line.as_bytes());
    }
    text.truncate(len);
    text
}

impl Op {
    pub fn any(dice: &mut Dice) -> Self {
        let (off, len) = (dice.below(SIZE / 2), 1 + dice.below(SIZE / 2));
        let path = path(dice);
        match dice.below(28) {
            0..4 => Self::Write {
                path,
                off: off * dice.below(2),
                bytes: bytes(dice),
                sync: dice.below(4) == 0,
            },
            4..7 => Self::Append { path, bytes: bytes(dice) },
            7 => Self::Map { path, off, bytes: bytes(dice) },
            8..10 => Self::Replace { path, bytes: bytes(dice) },
            10 => Self::Truncate { path, len },
            11 => Self::Punch { path, off, len },
            12 => Self::CopyRange {
                from: path,
                to: self::path(dice),
                off,
                len,
                at: dice.below(SIZE / 2),
            },
            13..17 => Self::Read { path, off: off * dice.below(2), len },
            17 => Self::Create { path },
            18 | 19 => Self::Mkdir { path },
            20 => Self::Symlink { path, to: self::path(dice) },
            21 => Self::Link { from: path, to: self::path(dice) },
            22 | 23 => Self::Rename { from: path, to: self::path(dice) },
            24 => Self::Unlink { path },
            25 => Self::Rmdir { path },
            26 => Self::Chmod { path, mode: 0o600 | dice.below(0o200) as u32 },
            _ if dice.below(2) == 0 => Self::Stat { path },
            _ => Self::List { path: ["", "a", "b", "a/c"][dice.below(4) as usize].into() },
        }
    }

    /// Does it under `root`.
    pub fn run(&self, root: &Path) -> io::Result<Answer> {
        let at = |path: &String| root.join(path);
        let done = |()| Vec::new();
        match self {
            Self::Write { path, off, bytes, sync } => {
                let file =
                    OpenOptions::new().write(true).create(true).truncate(false).open(at(path))?;
                file.write_all_at(bytes, *off)?;
                if *sync { file.sync_all().map(done) } else { Ok(Vec::new()) }
            }
            Self::Append { path, bytes } => {
                let mut file = OpenOptions::new().append(true).open(at(path))?;
                if file.metadata()?.len() > SIZE {
                    return Ok(Vec::new());
                }
                file.write_all(bytes).map(done)
            }
            Self::Map { path, off, bytes } => {
                let file = OpenOptions::new().read(true).write(true).open(at(path))?;
                let len = (bytes.len() as u64).min(file.metadata()?.len().saturating_sub(*off));
                map(&file, *off, &bytes[..len as usize]).map(done)
            }
            Self::Replace { path, bytes } => {
                let new = root.join("new");
                fs::write(&new, bytes)?;
                fs::rename(&new, at(path)).map(done)
            }
            Self::Truncate { path, len } => {
                OpenOptions::new().write(true).open(at(path))?.set_len(*len).map(done)
            }
            Self::Punch { path, off, len } => {
                let file = OpenOptions::new().write(true).open(at(path))?;
                punch(&file, *off, *len).map(done)
            }
            Self::CopyRange { from, to, off, len, at: place } => {
                let (from, to) =
                    (File::open(at(from))?, OpenOptions::new().write(true).open(at(to))?);
                copy_range(&from, *off, &to, *place, *len).map(done)
            }
            Self::Read { path, off, len } => {
                let file = File::open(at(path))?;
                // SAFETY: an open file and no memory; a file that is dirty keeps its pages.
                unsafe { libc::posix_fadvise(file.as_raw_fd(), 0, 0, libc::POSIX_FADV_DONTNEED) };
                let mut bytes = vec![0; *len as usize];
                let mut n = 0;
                while n < bytes.len() {
                    match file.read_at(&mut bytes[n..], off + n as u64)? {
                        0 => break,
                        more => n += more,
                    }
                }
                bytes.truncate(n);
                Ok(bytes)
            }
            Self::Create { path } => File::create_new(at(path)).map(|_| Vec::new()),
            Self::Mkdir { path } => fs::create_dir(at(path)).map(done),
            Self::Symlink { path, to } => symlink(to, at(path)).map(done),
            Self::Link { from, to } => fs::hard_link(at(from), at(to)).map(done),
            Self::Rename { from, to } => fs::rename(at(from), at(to)).map(done),
            Self::Unlink { path } => fs::remove_file(at(path)).map(done),
            Self::Rmdir { path } => fs::remove_dir(at(path)).map(done),
            Self::Chmod { path, mode } => {
                fs::set_permissions(at(path), Permissions::from_mode(*mode)).map(done)
            }
            Self::Stat { path } => stat(&at(path)),
            Self::List { path } => list(&at(path)),
        }
    }
}

/// What is the same on every file system: of directories not the size.
fn stat(path: &Path) -> io::Result<Answer> {
    let m = path.symlink_metadata()?;
    let (size, links) = if m.is_dir() { (0, 0) } else { (m.len(), m.nlink()) };
    Ok(format!("{:o} {}:{} {size} {links}", m.mode(), m.uid(), m.gid()).into_bytes())
}

fn list(path: &Path) -> io::Result<Answer> {
    let entry = |e: io::Result<fs::DirEntry>| {
        let e = e?;
        Ok(format!("{} {:?}", e.file_name().display(), e.file_type()?))
    };
    let mut names = fs::read_dir(path)?.map(entry).collect::<io::Result<Vec<_>>>()?;
    names.sort_unstable();
    Ok(names.join("\n").into_bytes())
}

fn map(file: &File, off: u64, bytes: &[u8]) -> io::Result<()> {
    if bytes.is_empty() {
        return Ok(());
    }
    let len = off as usize + bytes.len();
    let access = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: a new map of `len` bytes, all within the file, which nobody shortens meanwhile; it is written to
    // within its length, and given back.
    unsafe {
        let at =
            libc::mmap(std::ptr::null_mut(), len, access, libc::MAP_SHARED, file.as_raw_fd(), 0);
        if at == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        std::ptr::copy_nonoverlapping(
            bytes.as_ptr(),
            at.cast::<u8>().add(off as usize),
            bytes.len(),
        );
        let synced = libc::msync(at, len, libc::MS_SYNC);
        libc::munmap(at, len);
        if synced == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }
}

fn punch(file: &File, off: u64, len: u64) -> io::Result<()> {
    let how = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
    // SAFETY: an open file and numbers.
    let done = unsafe { libc::fallocate(file.as_raw_fd(), how, off as i64, len as i64) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn copy_range(from: &File, mut off: u64, to: &File, mut at: u64, mut len: u64) -> io::Result<()> {
    while len > 0 {
        let (mut from_off, mut to_off) = (off as i64, at as i64);
        // SAFETY: open files, and offsets that outlive the call.
        let n = unsafe {
            let (from, to) = (from.as_raw_fd(), to.as_raw_fd());
            libc::copy_file_range(from, &raw mut from_off, to, &raw mut to_off, len as usize, 0)
        };
        match n {
            0 => break,
            n if n < 0 => return Err(io::Error::last_os_error()),
            n => (off, at, len) = (off + n as u64, at + n as u64, len - n as u64),
        }
    }
    Ok(())
}

/// The first difference between two trees, or nothing.
pub fn difference(a: &Path, b: &Path) -> io::Result<Option<String>> {
    if (stat(a)?, list(a).ok()) != (stat(b)?, list(b).ok()) {
        return Ok(Some(format!("{} and {}", a.display(), b.display())));
    }
    let kind = a.symlink_metadata()?.file_type();
    if kind.is_dir() {
        for entry in fs::read_dir(a)? {
            let name = entry?.file_name();
            if let Some(found) = difference(&a.join(&name), &b.join(&name))? {
                return Ok(Some(found));
            }
        }
        return Ok(None);
    }
    let same = if kind.is_symlink() {
        fs::read_link(a)? == fs::read_link(b)?
    } else {
        fs::read(a)? == fs::read(b)?
    };
    Ok((!same).then(|| format!("the content of {} and {}", a.display(), b.display())))
}
