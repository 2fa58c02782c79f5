//! Unpack, call, reply.

use super::caller::{is_in_group, kills_set_id, new_inode};
use super::reply::{
    Asked, attr_ttl, file_attr, kind, name_ttl, no_entry, reply_attr, reply_empty, reply_entry,
    reply_xattr, time,
};
use super::walk::{ENTRIES, NAMES, walk};
use crate::fs::{Fs, FsError, NewInode, RenameHow, SetAttr, SetHow};
use crate::types::Ino;
use fuser::{
    CopyFileRangeFlags, FileHandle, FopenFlags, Generation, INodeNo, InitFlags, IoctlFlags,
    KernelConfig, LockOwner, OpenFlags, PollEvents, PollFlags, PollNotifier, RenameFlags,
    ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry,
    ReplyIoctl, ReplyLseek, ReplyOpen, ReplyPoll, ReplyStatfs, ReplyWrite, ReplyXattr, Request,
    TimeOrNow, WriteFlags,
};
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

/// Largest read or write request in bytes.
const REQUEST_MAX: u32 = 1 << 20;

/// The file system as fuser sees it.
#[derive(Debug)]
pub struct Adaptor {
    fs: Arc<Fs>,
}

impl Adaptor {
    /// Serves `fs`.
    pub fn new(fs: Arc<Fs>) -> Self {
        Self { fs }
    }

    /// Runs a handler. One that panics drops its reply, which tells the kernel EIO.
    fn guarded(&self, what: &'static str, ino: INodeNo, handler: impl FnOnce(Asked)) {
        let ino = Ino(ino.0);
        let asked = Asked::new(&self.fs, what, ino);
        if catch_unwind(AssertUnwindSafe(|| handler(asked))).is_err() {
            self.fs.troubles().note_panic(what, ino);
        }
    }
}

fn ino(n: INodeNo) -> Ino {
    Ino(n.0)
}

impl fuser::Filesystem for Adaptor {
    /// Not asked for: `FUSE_ASYNC_DIO`. With it the kernel leaves old pages in its cache behind direct writes that
    /// complete later (Linux 6.18).
    fn init(&mut self, _req: &Request, config: &mut KernelConfig) -> io::Result<()> {
        for wish in [
            InitFlags::FUSE_DO_READDIRPLUS,
            InitFlags::FUSE_PARALLEL_DIROPS,
            InitFlags::FUSE_CACHE_SYMLINKS,
            InitFlags::FUSE_EXPORT_SUPPORT,
            InitFlags::FUSE_HANDLE_KILLPRIV_V2,
            // Access control lists; what a directory's default list says goes before the umask.
            InitFlags::FUSE_POSIX_ACL,
            InitFlags::FUSE_DONT_MASK,
        ] {
            // An older kernel does without.
            let _ = config.add_capabilities(wish);
        }
        if self.fs.follows() {
            // What it has of a file goes when size or time of the file turn out to be others.
            let _ = config.add_capabilities(InitFlags::FUSE_AUTO_INVAL_DATA);
            // Attributes that are not believed are of no use beside names.
            let _ = config.add_capabilities(InitFlags::FUSE_READDIRPLUS_AUTO);
        }
        let _ = config.set_max_write(REQUEST_MAX);
        let _ = config.set_max_readahead(REQUEST_MAX);
        let _ = config.set_max_background(64);
        Ok(())
    }

    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        self.guarded("lookup", parent, |asked| {
            match self.fs.lookup(ino(parent), name.as_bytes()) {
                Err(FsError::NotFound) => {
                    reply.entry(&name_ttl(&self.fs), &no_entry(), Generation(0));
                }
                result => reply_entry(&asked.named(name.as_bytes()), reply, result),
            }
        });
    }

    fn forget(&self, _: &Request, n: INodeNo, nlookup: u64) {
        self.guarded("forget", n, |_| self.fs.forget(ino(n), nlookup));
    }

    fn getattr(&self, _: &Request, n: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        self.guarded("getattr", n, |asked| reply_attr(&asked, reply, self.fs.entry(ino(n))));
    }

    fn setattr(
        &self,
        req: &Request,
        n: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _: Option<SystemTime>,
        _: Option<FileHandle>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<fuser::BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        self.guarded("setattr", n, |asked| {
            let (atime, mtime, privileged) = (atime.map(time), mtime.map(time), !kills_set_id(req));
            let set = SetAttr { mode, uid, gid, size, atime, mtime, privileged };
            reply_attr(&asked, reply, self.fs.setattr(ino(n), set));
        });
    }

    fn readlink(&self, _: &Request, n: INodeNo, reply: ReplyData) {
        self.guarded("readlink", n, |asked| match self.fs.readlink(ino(n)) {
            Ok(target) => reply.data(&target),
            Err(e) => reply.error(asked.errno(&e)),
        });
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
        self.guarded("mknod", parent, |asked| {
            let new = NewInode { rdev, ..new_inode(req, mode, umask) };
            reply_entry(
                &asked.named(name.as_bytes()),
                reply,
                self.fs.make(ino(parent), name.as_bytes(), new),
            );
        });
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
        self.guarded("mkdir", parent, |asked| {
            let new = new_inode(req, libc::S_IFDIR | (mode & 0o7777), umask);
            reply_entry(
                &asked.named(name.as_bytes()),
                reply,
                self.fs.make(ino(parent), name.as_bytes(), new),
            );
        });
    }

    fn unlink(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        self.guarded("unlink", parent, |asked| {
            reply_empty(
                &asked.named(name.as_bytes()),
                reply,
                self.fs.unlink(ino(parent), name.as_bytes()),
            );
        });
    }

    fn rmdir(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        self.guarded("rmdir", parent, |asked| {
            reply_empty(
                &asked.named(name.as_bytes()),
                reply,
                self.fs.rmdir(ino(parent), name.as_bytes()),
            );
        });
    }

    fn symlink(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        target: &Path,
        reply: ReplyEntry,
    ) {
        self.guarded("symlink", parent, |asked| {
            let new = new_inode(req, libc::S_IFLNK | 0o777, 0);
            let new = NewInode { target: Some(target.as_os_str().as_bytes()), ..new };
            reply_entry(
                &asked.named(name.as_bytes()),
                reply,
                self.fs.make(ino(parent), name.as_bytes(), new),
            );
        });
    }

    fn rename(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        newparent: INodeNo,
        newname: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        self.guarded("rename", parent, |asked| {
            let how = if flags.is_empty() {
                RenameHow::Replace
            } else if flags == RenameFlags::RENAME_NOREPLACE {
                RenameHow::NoReplace
            } else if flags == RenameFlags::RENAME_EXCHANGE {
                RenameHow::Exchange
            } else if flags == RenameFlags::RENAME_WHITEOUT {
                RenameHow::Whiteout { uid: req.uid(), gid: req.gid() }
            } else {
                return reply.error(fuser::Errno::EINVAL);
            };
            let (from, to) = (ino(parent), ino(newparent));
            reply_empty(
                &asked.named(name.as_bytes()),
                reply,
                self.fs.rename(from, name.as_bytes(), to, newname.as_bytes(), how),
            );
        });
    }

    fn link(&self, _: &Request, n: INodeNo, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        self.guarded("link", n, |asked| {
            reply_entry(
                &asked.named(name.as_bytes()),
                reply,
                self.fs.link(ino(n), ino(parent), name.as_bytes()),
            );
        });
    }

    fn open(&self, _: &Request, n: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        self.guarded("open", n, |asked| match self.fs.open_handle(ino(n)) {
            Ok(()) => reply.opened(FileHandle(0), FopenFlags::FOPEN_KEEP_CACHE),
            Err(e) => reply.error(asked.errno(&e)),
        });
    }

    fn create(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        _: i32,
        reply: ReplyCreate,
    ) {
        self.guarded("create", parent, |asked| {
            let new = new_inode(req, libc::S_IFREG | (mode & 0o7777), umask);
            let result = self.fs.make(ino(parent), name.as_bytes(), new);
            match result.and_then(|e| self.fs.open_handle(e.ino).map(|()| e)) {
                Ok(e) => reply.created(
                    &attr_ttl(&self.fs, &e),
                    &file_attr(&e),
                    Generation(0),
                    FileHandle(0),
                    FopenFlags::FOPEN_KEEP_CACHE,
                ),
                Err(e) => reply.error(asked.named(name.as_bytes()).errno(&e)),
            }
        });
    }

    fn read(
        &self,
        _: &Request,
        n: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        self.guarded("read", n, |asked| {
            self.fs.read(ino(n), offset, size.into(), move |result| match result {
                Ok(bytes) => reply.data(&bytes),
                Err(e) => reply.error(asked.errno(&e)),
            });
        });
    }

    fn write(
        &self,
        _: &Request,
        n: INodeNo,
        _: FileHandle,
        offset: u64,
        data: &[u8],
        write_flags: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        self.guarded("write", n, |asked| {
            let kill = write_flags.contains(WriteFlags::FUSE_WRITE_KILL_SUIDGID);
            match self.fs.write(ino(n), offset, data, kill) {
                Ok(()) => reply.written(data.len() as u32),
                Err(e) => reply.error(asked.errno(&e)),
            }
        });
    }

    fn flush(&self, _: &Request, n: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        self.guarded("flush", n, |asked| {
            self.fs.flush_then(ino(n), move |r| reply_empty(&asked, reply, r));
        });
    }

    fn release(
        &self,
        _: &Request,
        n: INodeNo,
        _: FileHandle,
        _: OpenFlags,
        _: Option<LockOwner>,
        _: bool,
        reply: ReplyEmpty,
    ) {
        self.guarded("release", n, |asked| reply_empty(&asked, reply, self.fs.release(ino(n))));
    }

    fn fsync(&self, _: &Request, n: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        self.guarded("fsync", n, |asked| {
            self.fs.fsync_then(ino(n), move |r| reply_empty(&asked, reply, r));
        });
    }

    fn fsyncdir(&self, _: &Request, n: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        // What the names lead to, too: the kernel has no request for syncfs(2) on this file system.
        self.guarded("fsyncdir", n, |asked| {
            self.fs.flush_all_then(move |r| reply_empty(&asked, reply, r));
        });
    }

    fn readdir(
        &self,
        _: &Request,
        n: INodeNo,
        _: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        self.guarded("readdir", n, |asked| {
            let result = walk(&self.fs, ino(n), offset, NAMES, |child, cookie, mode, name| {
                Ok(reply.add(INodeNo(child.0), cookie, kind(mode), OsStr::from_bytes(name)))
            });
            match result {
                Ok(()) => reply.ok(),
                Err(e) => reply.error(asked.errno(&e)),
            }
        });
    }

    fn opendir(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        // Names change through the kernel only, which drops what it keeps of a directory then.
        let flags = if self.fs.follows() {
            FopenFlags::empty()
        } else {
            FopenFlags::FOPEN_CACHE_DIR | FopenFlags::FOPEN_KEEP_CACHE
        };
        reply.opened(FileHandle(0), flags);
    }

    fn readdirplus(
        &self,
        _: &Request,
        n: INodeNo,
        _: FileHandle,
        offset: u64,
        mut reply: ReplyDirectoryPlus,
    ) {
        self.guarded("readdirplus", n, |asked| {
            let result = walk(&self.fs, ino(n), offset, ENTRIES, |child, cookie, _, name| {
                let e = match self.fs.entry(child) {
                    Ok(e) => e,
                    // Removed since the names were fetched.
                    Err(FsError::NotFound) => return Ok(false),
                    Err(e) => return Err(e),
                };
                let named = name != b"." && name != b"..";
                if named {
                    self.fs.learned(child);
                }
                let attr = file_attr(&e);
                let name = OsStr::from_bytes(name);
                let ttl = attr_ttl(&self.fs, &e);
                let full = reply.add(INodeNo(child.0), cookie, name, &ttl, &attr, Generation(0));
                if full && named {
                    self.fs.forget(child, 1);
                }
                Ok(full)
            });
            match result {
                Ok(()) => reply.ok(),
                Err(e) => reply.error(asked.errno(&e)),
            }
        });
    }

    fn statfs(&self, _: &Request, n: INodeNo, reply: ReplyStatfs) {
        const UNIT: u32 = 4096;
        self.guarded("statfs", n, |asked| match self.fs.statfs() {
            Ok(s) => {
                let units = |bytes: u64| bytes / u64::from(UNIT);
                let spare = u64::from(u32::MAX);
                let (total, free) = (units(s.total), units(s.free));
                let available = units(s.available);
                reply.statfs(total, free, available, s.inodes + spare, spare, UNIT, 255, UNIT);
            }
            Err(e) => reply.error(asked.errno(&e)),
        });
    }

    fn setxattr(
        &self,
        req: &Request,
        n: INodeNo,
        name: &OsStr,
        value: &[u8],
        flags: i32,
        _: u32,
        reply: ReplyEmpty,
    ) {
        self.guarded("setxattr", n, |asked| {
            let how = match flags & (libc::XATTR_CREATE | libc::XATTR_REPLACE) {
                libc::XATTR_CREATE => SetHow::Create,
                libc::XATTR_REPLACE => SetHow::Replace,
                _ => SetHow::Put,
            };
            let name = name.as_bytes();
            let set = if name.starts_with(b"system.posix_acl_") {
                self.fs.set_acl(ino(n), name, value, |a| is_in_group(req, a.gid))
            } else {
                self.fs.setxattr(ino(n), name, value, how)
            };
            reply_empty(&asked, reply, set);
        });
    }

    fn getxattr(&self, _: &Request, n: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        self.guarded("getxattr", n, |asked| {
            reply_xattr(&asked, reply, size, self.fs.getxattr(ino(n), name.as_bytes()));
        });
    }

    fn listxattr(&self, _: &Request, n: INodeNo, size: u32, reply: ReplyXattr) {
        self.guarded("listxattr", n, |asked| {
            reply_xattr(&asked, reply, size, self.fs.listxattr(ino(n)));
        });
    }

    fn removexattr(&self, _: &Request, n: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        self.guarded("removexattr", n, |asked| {
            reply_empty(&asked, reply, self.fs.removexattr(ino(n), name.as_bytes()));
        });
    }

    fn fallocate(
        &self,
        req: &Request,
        n: INodeNo,
        _: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        self.guarded("fallocate", n, |asked| {
            let kill = kills_set_id(req);
            reply_empty(&asked, reply, self.fs.fallocate(ino(n), offset, length, mode, kill));
        });
    }

    fn lseek(
        &self,
        _: &Request,
        n: INodeNo,
        _: FileHandle,
        offset: i64,
        whence: i32,
        reply: ReplyLseek,
    ) {
        self.guarded("lseek", n, |asked| {
            let data = match whence {
                libc::SEEK_DATA => true,
                libc::SEEK_HOLE => false,
                _ => return reply.error(fuser::Errno::EINVAL),
            };
            let result = match u64::try_from(offset) {
                Ok(offset) => self.fs.seek(ino(n), offset, data),
                Err(_) => Err(FsError::NoData),
            };
            match result {
                Ok(at) => reply.offset(at as i64),
                Err(e) => reply.error(asked.errno(&e)),
            }
        });
    }

    // Unanswered, fuser would log a warning each time: editors and ls ask.
    fn ioctl(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        _: IoctlFlags,
        _: u32,
        _: &[u8],
        _: u32,
        reply: ReplyIoctl,
    ) {
        reply.error(fuser::Errno::ENOTTY);
    }

    // The kernel then takes files to be always ready, and does not ask again.
    fn poll(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        _: PollNotifier,
        _: PollEvents,
        _: PollFlags,
        reply: ReplyPoll,
    ) {
        reply.error(fuser::Errno::ENOSYS);
    }

    fn copy_file_range(
        &self,
        req: &Request,
        ino_in: INodeNo,
        _: FileHandle,
        offset_in: u64,
        ino_out: INodeNo,
        _: FileHandle,
        offset_out: u64,
        len: u64,
        _: CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        self.guarded("copy_file_range", ino_in, |asked| {
            let (from, to) = ((ino(ino_in), offset_in), (ino(ino_out), offset_out));
            self.fs.copy_then(from, to, len, kills_set_id(req), move |result| match result {
                Ok(n) => reply.written(n as u32),
                Err(e) => reply.error(asked.errno(&e)),
            });
        });
    }
}
