//! Unpack, call, reply.

use super::errno::errno;
use super::pool::Pool;
use crate::fs::{Fs, FsError, NewInode, SetAttr};
use crate::types::{Attr, Ino, Time};
use fuser::{
    AccessFlags, CopyFileRangeFlags, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags,
    Generation, INodeNo, InitFlags, KernelConfig, LockOwner, OpenFlags, RenameFlags, ReplyAttr,
    ReplyCreate, ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyLseek,
    ReplyOpen, ReplyStatfs, ReplyWrite, ReplyXattr, Request, TimeOrNow, WriteFlags,
};
use std::collections::HashMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The kernel may trust names and attributes this long: nobody else changes them.
const TTL: Duration = Duration::from_secs(60);
/// Names handed out per call.
const DIR_BATCH: usize = 512;
/// Decoded ahead of a sequential reader, in bytes.
const AHEAD: u64 = 512 << 10;
/// Largest write taken in one request.
const MAX_WRITE: u32 = 1 << 20;

/// The file system as fuser wants it.
#[derive(Debug)]
pub struct Adaptor {
    fs: Arc<Fs>,
    pool: Arc<Pool>,
    handles: AtomicU64,
    /// Where each open file's last read ended.
    cursors: Mutex<HashMap<u64, u64>>,
}

fn ino(i: INodeNo) -> Ino {
    Ino(i.0)
}

fn system_time(t: Time) -> SystemTime {
    let whole = Duration::from_secs(t.sec.unsigned_abs());
    let base = if t.sec < 0 { UNIX_EPOCH - whole } else { UNIX_EPOCH + whole };
    base + Duration::from_nanos(t.nsec.into())
}

fn time(t: TimeOrNow) -> Time {
    match t {
        TimeOrNow::Now => Time::now(),
        TimeOrNow::SpecificTime(t) => match t.duration_since(UNIX_EPOCH) {
            Ok(d) => Time { sec: d.as_secs() as i64, nsec: d.subsec_nanos() },
            Err(e) => {
                let d = e.duration();
                let (sec, nsec) = (d.as_secs() as i64, d.subsec_nanos());
                match nsec {
                    0 => Time { sec: -sec, nsec: 0 },
                    n => Time { sec: -sec - 1, nsec: 1_000_000_000 - n },
                }
            }
        },
    }
}

fn kind(mode: u32) -> FileType {
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

/// Runs a handler; a panic in it is EIO and a log line, and the thread lives on.
fn guarded<T>(what: &str, work: impl FnOnce() -> Result<T, FsError>) -> Result<T, Errno> {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(Ok(v)) => Ok(v),
        Ok(Err(e)) => {
            if matches!(e, FsError::Io(_) | FsError::NoSpace(_)) {
                log::error!("{what}: {e}");
            }
            Err(errno(&e))
        }
        Err(_) => {
            log::error!("{what}: panicked; the request fails with EIO");
            Err(Errno::EIO)
        }
    }
}

macro_rules! answer {
    ($reply:ident, $result:expr, $ok:pat => $send:expr) => {
        match $result {
            Ok($ok) => $send,
            Err(e) => $reply.error(e),
        }
    };
}

impl Adaptor {
    /// Over a file system; `threads` decode.
    pub fn new(fs: Arc<Fs>, threads: usize) -> std::io::Result<Self> {
        let pool = Arc::new(Pool::new(threads)?);
        Ok(Self { fs, pool, handles: AtomicU64::new(1), cursors: Mutex::default() })
    }

    fn file_attr(&self, ino: Ino, a: &Attr) -> FileAttr {
        FileAttr {
            ino: INodeNo(ino.0),
            size: a.size,
            blocks: self.fs.blocks(ino, a),
            atime: system_time(a.atime),
            mtime: system_time(a.mtime),
            ctime: system_time(a.ctime),
            crtime: system_time(a.btime),
            kind: kind(a.mode),
            perm: (a.mode & 0o7777) as u16,
            nlink: a.nlink,
            uid: a.uid,
            gid: a.gid,
            rdev: a.rdev,
            blksize: 128 << 10,
            flags: 0,
        }
    }

    fn handle(&self) -> FileHandle {
        FileHandle(self.handles.fetch_add(1, Ordering::Relaxed))
    }

    fn entry(&self, reply: ReplyEntry, made: Result<(Ino, Attr), Errno>) {
        answer!(reply, made, (i, a) => reply.entry(&TTL, &self.file_attr(i, &a), Generation(0)));
    }

    /// Decodes what a sequential reader will want next.
    fn read_ahead(&self, fh: FileHandle, i: Ino, off: u64, end: u64) {
        let sequential = {
            let mut cursors = self.cursors.lock().unwrap_or_else(PoisonError::into_inner);
            cursors.insert(fh.0, end) == Some(off)
        };
        if !sequential {
            return;
        }
        for extent in self.fs.ahead(i, end, AHEAD) {
            let fs = Arc::clone(&self.fs);
            self.pool.run(move || fs.prefetch(i, &extent));
        }
    }
}

impl Filesystem for Adaptor {
    fn init(&mut self, _req: &Request, config: &mut KernelConfig) -> std::io::Result<()> {
        let wanted = [
            InitFlags::FUSE_ATOMIC_O_TRUNC,
            InitFlags::FUSE_PARALLEL_DIROPS,
            InitFlags::FUSE_DO_READDIRPLUS,
            InitFlags::FUSE_READDIRPLUS_AUTO,
            InitFlags::FUSE_CACHE_SYMLINKS,
            InitFlags::FUSE_ASYNC_DIO,
        ];
        for flag in wanted {
            // A kernel without it does without it.
            let _ = config.add_capabilities(flag);
        }
        let _ = config.set_max_write(MAX_WRITE);
        let _ = config.set_max_readahead(1 << 20);
        let _ = config.set_max_background(64);
        let _ = config.set_time_granularity(Duration::from_nanos(1));
        Ok(())
    }

    fn lookup(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let r = guarded("lookup", || self.fs.lookup(ino(parent), name.as_bytes()));
        self.entry(reply, r);
    }

    fn getattr(&self, _req: &Request, i: INodeNo, _fh: Option<FileHandle>, reply: ReplyAttr) {
        let r = guarded("getattr", || self.fs.getattr(ino(i)));
        answer!(reply, r, a => reply.attr(&TTL, &self.file_attr(ino(i), &a)));
    }

    fn setattr(
        &self,
        _req: &Request,
        i: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        _fh: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<fuser::BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let (atime, mtime) = (atime.map(time), mtime.map(time));
        let set = SetAttr { mode, uid, gid, size, atime, mtime };
        let r = guarded("setattr", || self.fs.setattr(ino(i), &set));
        answer!(reply, r, a => reply.attr(&TTL, &self.file_attr(ino(i), &a)));
    }

    fn readlink(&self, _req: &Request, i: INodeNo, reply: ReplyData) {
        let r = guarded("readlink", || self.fs.readlink(ino(i)));
        answer!(reply, r, target => reply.data(&target));
    }

    fn mknod(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        rdev: u32,
        reply: ReplyEntry,
    ) {
        let mode = mode & !(umask & 0o777);
        let new = NewInode { mode, uid: req.uid(), gid: req.gid(), rdev };
        let r = guarded("mknod", || self.fs.create(ino(parent), name.as_bytes(), new, false));
        self.entry(reply, r);
    }

    fn mkdir(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        reply: ReplyEntry,
    ) {
        let mode = libc::S_IFDIR | mode & 0o7777 & !(umask & 0o777);
        let new = NewInode { mode, uid: req.uid(), gid: req.gid(), rdev: 0 };
        let r = guarded("mkdir", || self.fs.create(ino(parent), name.as_bytes(), new, false));
        self.entry(reply, r);
    }

    fn unlink(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let r = guarded("unlink", || self.fs.unlink(ino(parent), name.as_bytes()));
        answer!(reply, r, () => reply.ok());
    }

    fn rmdir(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let r = guarded("rmdir", || self.fs.rmdir(ino(parent), name.as_bytes()));
        answer!(reply, r, () => reply.ok());
    }

    fn symlink(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        target: &Path,
        reply: ReplyEntry,
    ) {
        let target = target.as_os_str().as_bytes();
        let r = guarded("symlink", || {
            self.fs.symlink(ino(parent), name.as_bytes(), target, req.uid(), req.gid())
        });
        self.entry(reply, r);
    }

    fn rename(
        &self,
        _req: &Request,
        parent: INodeNo,
        name: &OsStr,
        new_parent: INodeNo,
        new_name: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let r = guarded("rename", || {
            let (from, to) = (ino(parent), ino(new_parent));
            self.fs.rename(from, name.as_bytes(), to, new_name.as_bytes(), flags.bits())
        });
        answer!(reply, r, () => reply.ok());
    }

    fn link(&self, _req: &Request, i: INodeNo, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let r =
            guarded("link", || Ok((ino(i), self.fs.link(ino(i), ino(parent), name.as_bytes())?)));
        self.entry(reply, r);
    }

    fn open(&self, _req: &Request, i: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let r = guarded("open", || {
            self.fs.open_inode(ino(i))?;
            if flags.0 & libc::O_TRUNC != 0 {
                self.fs.setattr(ino(i), &SetAttr { size: Some(0), ..SetAttr::default() })?;
            }
            Ok(())
        });
        answer!(reply, r, () => reply.opened(self.handle(), FopenFlags::FOPEN_KEEP_CACHE));
    }

    fn read(
        &self,
        _req: &Request,
        i: INodeNo,
        fh: FileHandle,
        off: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let i = ino(i);
        let planned = guarded("read", || {
            let plan = self.fs.read(i, off, size)?;
            self.fs.touch_atime(i);
            Ok((plan.ready(&self.fs), plan))
        });
        match planned {
            Err(e) => reply.error(e),
            Ok((Some(bytes), _)) => reply.data(&bytes),
            Ok((None, plan)) => {
                let fs = Arc::clone(&self.fs);
                self.pool.run(move || {
                    let r = guarded("read", || plan.complete(&fs));
                    answer!(reply, r, bytes => reply.data(&bytes));
                });
            }
        }
        self.read_ahead(fh, i, off, off + u64::from(size));
    }

    fn write(
        &self,
        _req: &Request,
        i: INodeNo,
        _fh: FileHandle,
        off: u64,
        data: &[u8],
        _write_flags: WriteFlags,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let r = guarded("write", || self.fs.write(ino(i), off, data));
        answer!(reply, r, () => reply.written(data.len() as u32));
    }

    fn flush(
        &self,
        _req: &Request,
        i: INodeNo,
        _fh: FileHandle,
        _lock_owner: LockOwner,
        reply: ReplyEmpty,
    ) {
        let r = guarded("flush", || self.fs.flush(ino(i)));
        answer!(reply, r, () => reply.ok());
    }

    fn release(
        &self,
        _req: &Request,
        i: INodeNo,
        fh: FileHandle,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        self.cursors.lock().unwrap_or_else(PoisonError::into_inner).remove(&fh.0);
        let r = guarded("release", || self.fs.release(ino(i)));
        answer!(reply, r, () => reply.ok());
    }

    fn fsync(
        &self,
        _req: &Request,
        i: INodeNo,
        _fh: FileHandle,
        _datasync: bool,
        reply: ReplyEmpty,
    ) {
        let r = guarded("fsync", || self.fs.fsync(ino(i)));
        answer!(reply, r, () => reply.ok());
    }

    fn opendir(&self, _req: &Request, i: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        let r = guarded("opendir", || self.fs.open_inode(ino(i)));
        answer!(reply, r, () => reply.opened(self.handle(), FopenFlags::empty()));
    }

    fn readdir(
        &self,
        _req: &Request,
        i: INodeNo,
        _fh: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        let r = guarded("readdir", || self.fs.readdir(ino(i), offset, DIR_BATCH));
        answer!(reply, r, entries => {
            for d in entries {
                let name = OsStr::from_bytes(&d.name);
                if reply.add(INodeNo(d.ino.0), d.cookie, kind(d.kind), name) {
                    break;
                }
            }
            reply.ok();
        });
    }

    fn readdirplus(
        &self,
        _req: &Request,
        i: INodeNo,
        _fh: FileHandle,
        offset: u64,
        mut reply: ReplyDirectoryPlus,
    ) {
        let r = guarded("readdirplus", || self.fs.readdir(ino(i), offset, DIR_BATCH));
        answer!(reply, r, entries => {
            for d in entries {
                // A name that went meanwhile is left out.
                let Ok(a) = self.fs.getattr(d.ino) else { continue };
                let attr = self.file_attr(d.ino, &a);
                let name = OsStr::from_bytes(&d.name);
                if reply.add(INodeNo(d.ino.0), d.cookie, name, &TTL, &attr, Generation(0)) {
                    break;
                }
            }
            reply.ok();
        });
    }

    fn releasedir(
        &self,
        _req: &Request,
        i: INodeNo,
        _fh: FileHandle,
        _flags: OpenFlags,
        reply: ReplyEmpty,
    ) {
        let r = guarded("releasedir", || self.fs.release(ino(i)));
        answer!(reply, r, () => reply.ok());
    }

    fn fsyncdir(
        &self,
        _req: &Request,
        i: INodeNo,
        _fh: FileHandle,
        _datasync: bool,
        reply: ReplyEmpty,
    ) {
        let r = guarded("fsyncdir", || self.fs.fsync(ino(i)));
        answer!(reply, r, () => reply.ok());
    }

    fn statfs(&self, _req: &Request, _ino: INodeNo, reply: ReplyStatfs) {
        let r = guarded("statfs", || self.fs.statfs());
        let namelen = crate::fs::NAME_MAX as u32;
        answer!(reply, r, s => {
            // Inodes are numbers: as many as there are blocks to hold what they need.
            reply.statfs(s.blocks, s.free, s.free, s.files + s.free, s.free, 4096, namelen, 4096);
        });
    }

    fn setxattr(
        &self,
        _req: &Request,
        i: INodeNo,
        name: &OsStr,
        value: &[u8],
        flags: i32,
        _position: u32,
        reply: ReplyEmpty,
    ) {
        let r = guarded("setxattr", || self.fs.setxattr(ino(i), name.as_bytes(), value, flags));
        answer!(reply, r, () => reply.ok());
    }

    fn getxattr(&self, _req: &Request, i: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        let r = guarded("getxattr", || self.fs.getxattr(ino(i), name.as_bytes()));
        answer!(reply, r, value => sized(&value, size, reply));
    }

    fn listxattr(&self, _req: &Request, i: INodeNo, size: u32, reply: ReplyXattr) {
        let r = guarded("listxattr", || self.fs.listxattr(ino(i)));
        answer!(reply, r, names => sized(&names, size, reply));
    }

    fn removexattr(&self, _req: &Request, i: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let r = guarded("removexattr", || self.fs.removexattr(ino(i), name.as_bytes()));
        answer!(reply, r, () => reply.ok());
    }

    fn access(&self, _req: &Request, _ino: INodeNo, _mask: AccessFlags, reply: ReplyEmpty) {
        // Asked only without default_permissions: everybody who can reach the mount may.
        reply.ok();
    }

    fn create(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        _flags: i32,
        reply: ReplyCreate,
    ) {
        let mode = libc::S_IFREG | mode & 0o7777 & !(umask & 0o777);
        let new = NewInode { mode, uid: req.uid(), gid: req.gid(), rdev: 0 };
        let r = guarded("create", || self.fs.create(ino(parent), name.as_bytes(), new, true));
        answer!(reply, r, (i, a) => {
            let attr = self.file_attr(i, &a);
            let flags = FopenFlags::FOPEN_KEEP_CACHE;
            reply.created(&TTL, &attr, Generation(0), self.handle(), flags);
        });
    }

    fn fallocate(
        &self,
        _req: &Request,
        i: INodeNo,
        _fh: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        let r = guarded("fallocate", || self.fs.fallocate(ino(i), mode, offset, length));
        answer!(reply, r, () => reply.ok());
    }

    fn lseek(
        &self,
        _req: &Request,
        i: INodeNo,
        _fh: FileHandle,
        offset: i64,
        whence: i32,
        reply: ReplyLseek,
    ) {
        let r = guarded("lseek", || {
            let off = u64::try_from(offset).map_err(|_| FsError::NoSuchOffset)?;
            match whence {
                libc::SEEK_DATA => self.fs.seek(ino(i), off, true),
                libc::SEEK_HOLE => self.fs.seek(ino(i), off, false),
                _ => Err(FsError::Invalid),
            }
        });
        answer!(reply, r, at => reply.offset(at as i64));
    }

    fn copy_file_range(
        &self,
        _req: &Request,
        ino_in: INodeNo,
        _fh_in: FileHandle,
        off_in: u64,
        ino_out: INodeNo,
        _fh_out: FileHandle,
        off_out: u64,
        len: u64,
        _flags: CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        // Long copies go in parts, so that no request lasts long.
        const MOST: u64 = 16 << 20;
        let fs = Arc::clone(&self.fs);
        self.pool.run(move || {
            let r = guarded("copy_file_range", || {
                fs.copy_range(ino(ino_in), off_in, ino(ino_out), off_out, len.min(MOST))
            });
            answer!(reply, r, n => reply.written(n as u32));
        });
    }
}

fn sized(value: &[u8], size: u32, reply: ReplyXattr) {
    if size == 0 {
        reply.size(value.len() as u32);
    } else if value.len() > size as usize {
        reply.error(Errno::ERANGE);
    } else {
        reply.data(value);
    }
}
