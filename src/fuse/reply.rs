//! Times, attributes and results in the kernel's terms.

use super::errno::errno;
use crate::fs::{Entry, Fs, FsError};
use crate::types::{Ino, Time};
use fuser::{
    Errno, FileAttr, FileType, Generation, INodeNo, ReplyAttr, ReplyEmpty, ReplyEntry, ReplyXattr,
    TimeOrNow,
};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// What the kernel asked for, to be named should it fail.
#[derive(Debug, Clone)]
pub struct Asked {
    fs: Arc<Fs>,
    what: &'static str,
    ino: Ino,
    /// A name in the inode that the operation is about.
    name: Option<Vec<u8>>,
}

impl Asked {
    /// An operation on an inode.
    pub fn new(fs: &Arc<Fs>, what: &'static str, ino: Ino) -> Self {
        Self { fs: Arc::clone(fs), what, ino, name: None }
    }

    /// It is about this name in a directory.
    #[must_use]
    pub fn named(&self, name: &[u8]) -> Self {
        Self { name: Some(name.to_vec()), ..self.clone() }
    }

    /// The error number of how it ended. What is out of the ordinary is logged and counted.
    pub fn errno(&self, e: &FsError) -> Errno {
        self.fs.troubles().note(self.what, self.ino, self.name.as_deref(), e);
        errno(e)
    }
}

/// How long the kernel may believe names and attributes where nobody else changes them.
const TTL: Duration = Duration::from_secs(86_400);

/// How long the kernel may believe an inode's attributes. Writes of others take set-id bits away,
/// and the replies to them cannot say so: a mode with such bits is asked for each time, by execve(2)
/// too.
pub fn attr_ttl(fs: &Fs, e: &Entry) -> Duration {
    let bits = if e.attr.is_file() { libc::S_ISUID | libc::S_ISGID } else { 0 };
    if e.attr.mode & bits == 0 { name_ttl(fs) } else { Duration::ZERO }
}

/// How long the kernel may believe a name, or that there is none.
pub fn name_ttl(fs: &Fs) -> Duration {
    if fs.follows() { Duration::ZERO } else { TTL }
}

fn to_system_time(t: Time) -> SystemTime {
    /// Further away the conversions overflow; no file of this store's making is.
    const FAR: i64 = 1 << 40;
    let sub = Duration::from_nanos(t.nsec.min(999_999_999).into());
    let whole = Duration::from_secs(t.sec.clamp(-FAR, FAR).unsigned_abs());
    if t.sec >= 0 { UNIX_EPOCH + whole + sub } else { UNIX_EPOCH - whole + sub }
}

/// Undoes fuser's conversion: before the epoch it subtracts the nanoseconds, too.
fn from_system_time(t: SystemTime) -> Time {
    match t.duration_since(UNIX_EPOCH) {
        Ok(d) => Time { sec: d.as_secs() as i64, nsec: d.subsec_nanos() },
        Err(e) => {
            let d = e.duration();
            Time { sec: (d.as_secs() as i64).wrapping_neg(), nsec: d.subsec_nanos() }
        }
    }
}

/// A time to be set.
pub fn time(t: TimeOrNow) -> Time {
    match t {
        TimeOrNow::Now => Time::now(),
        TimeOrNow::SpecificTime(t) => from_system_time(t),
    }
}

/// The `S_IFMT` bits of a mode as fuser has them.
pub fn kind(mode: u32) -> FileType {
    match mode & libc::S_IFMT {
        libc::S_IFDIR => FileType::Directory,
        libc::S_IFLNK => FileType::Symlink,
        libc::S_IFIFO => FileType::NamedPipe,
        libc::S_IFSOCK => FileType::Socket,
        libc::S_IFCHR => FileType::CharDevice,
        libc::S_IFBLK => FileType::BlockDevice,
        _ => FileType::RegularFile,
    }
}

/// An inode as `stat` shows it.
pub fn file_attr(e: &Entry) -> FileAttr {
    let a = &e.attr;
    FileAttr {
        ino: INodeNo(e.ino.0),
        size: a.size,
        blocks: e.mapped.div_ceil(512),
        atime: to_system_time(a.atime),
        mtime: to_system_time(a.mtime),
        ctime: to_system_time(a.ctime),
        crtime: to_system_time(a.btime),
        kind: kind(a.mode),
        perm: (a.mode & 0o7777) as u16,
        nlink: a.nlink,
        uid: a.uid,
        gid: a.gid,
        rdev: a.rdev,
        blksize: 4096,
        flags: 0,
    }
}

/// "No such name", which the kernel may remember, too.
pub fn no_entry() -> FileAttr {
    let attr = crate::types::Attr {
        mode: libc::S_IFREG,
        uid: 0,
        gid: 0,
        nlink: 0,
        rdev: 0,
        size: 0,
        atime: Time::default(),
        mtime: Time::default(),
        ctime: Time::default(),
        btime: Time::default(),
        parent: 0,
    };
    file_attr(&Entry { ino: Ino(0), attr, mapped: 0 })
}

/// Answers with an inode that a name leads to.
pub fn reply_entry(asked: &Asked, reply: ReplyEntry, result: crate::fs::Result<Entry>) {
    match result {
        Ok(e) => {
            let (attr, name) = (attr_ttl(&asked.fs, &e), name_ttl(&asked.fs));
            reply.entry_with_ttls(&attr, &name, &file_attr(&e), Generation(0));
        }
        Err(e) => reply.error(asked.errno(&e)),
    }
}

/// Answers with attributes.
pub fn reply_attr(asked: &Asked, reply: ReplyAttr, result: crate::fs::Result<Entry>) {
    match result {
        Ok(e) => reply.attr(&attr_ttl(&asked.fs, &e), &file_attr(&e)),
        Err(e) => reply.error(asked.errno(&e)),
    }
}

/// Answers that it is done.
pub fn reply_empty(asked: &Asked, reply: ReplyEmpty, result: crate::fs::Result<()>) {
    match result {
        Ok(()) => reply.ok(),
        Err(e) => reply.error(asked.errno(&e)),
    }
}

/// Answers with a value, or with its size if no room is offered.
pub fn reply_xattr(
    asked: &Asked,
    reply: ReplyXattr,
    size: u32,
    result: crate::fs::Result<Vec<u8>>,
) {
    match result {
        Ok(v) if size == 0 => reply.size(v.len() as u32),
        Ok(v) if v.len() > size as usize => reply.error(fuser::Errno::ERANGE),
        Ok(v) => reply.data(&v),
        Err(e) => reply.error(asked.errno(&e)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_survive_fusers_conversion() {
        for (sec, nsec) in [(0, 0), (1, 999_999_999), (-1, 0), (-5, 1), (1 << 33, 7)] {
            let t = Time { sec, nsec };
            // What fuser makes of a time from the kernel.
            let sub = Duration::new(sec.unsigned_abs(), nsec);
            let from_kernel = if sec >= 0 { UNIX_EPOCH + sub } else { UNIX_EPOCH - sub };
            assert_eq!(from_system_time(from_kernel), t);
            // What it needs to be told to give the kernel the same again.
            let d = match to_system_time(t).duration_since(UNIX_EPOCH) {
                Ok(d) => (d.as_secs() as i64, d.subsec_nanos()),
                Err(e) => match (e.duration().as_secs() as i64, e.duration().subsec_nanos()) {
                    (s, 0) => (-s, 0),
                    (s, n) => (-s - 1, 1_000_000_000 - n),
                },
            };
            assert_eq!(d, (sec, nsec));
        }
    }

    #[test]
    fn no_time_is_too_far_away() {
        for sec in [i64::MIN, i64::MAX, 0] {
            let t = to_system_time(Time { sec, nsec: u32::MAX });
            assert!(t.duration_since(UNIX_EPOCH).is_ok() || sec < 0);
        }
    }
}
