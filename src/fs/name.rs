//! Names: create, remove, rename, link; and the attributes that users set.

use super::xattr::MODEL;
use super::{Fs, FsError, NAME_MAX, Result, lock};
use crate::store::{Dirent, Op, Txn};
use crate::types::{Attr, Ino, Time};

/// Most names that an inode may have.
const LINK_MAX: u32 = 1_000_000_000;
/// Longest target of a symbolic link.
const TARGET_MAX: usize = 4095;

/// What the caller asks setattr to change.
#[derive(Debug, Clone, Copy, Default)]
pub struct SetAttr {
    /// Permission bits.
    pub mode: Option<u32>,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// Size.
    pub size: Option<u64>,
    /// Last access.
    pub atime: Option<Time>,
    /// Last change of content.
    pub mtime: Option<Time>,
}

/// A new inode, as its creator wants it.
#[derive(Debug, Clone, Copy)]
pub struct NewInode {
    /// Type and permission bits, the umask already applied.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group, unless the directory has its set-group-id bit.
    pub gid: u32,
    /// Device number.
    pub rdev: u32,
}

fn check_name(name: &[u8]) -> Result<()> {
    match name {
        b"" | b"." | b".." => Err(FsError::Invalid),
        n if n.len() > NAME_MAX => Err(FsError::NameTooLong),
        n if n.contains(&b'/') || n.contains(&0) => Err(FsError::Invalid),
        _ => Ok(()),
    }
}

impl Fs {
    fn writable(&self) -> Result<()> {
        if self.store.read_only() { Err(FsError::ReadOnly) } else { Ok(()) }
    }

    fn dir(&self, ino: Ino) -> Result<Attr> {
        let a = self.getattr(ino)?;
        if a.is_dir() { Ok(a) } else { Err(FsError::NotDir) }
    }

    fn find(&self, parent: Ino, name: &[u8]) -> Result<Option<Dirent>> {
        Ok(self.store.dirent(parent, name)?)
    }

    /// Looks up a name.
    pub fn lookup(&self, parent: Ino, name: &[u8]) -> Result<(Ino, Attr)> {
        if name.len() > NAME_MAX {
            return Err(FsError::NameTooLong);
        }
        let ino = match name {
            b"." => parent,
            b".." => Ino(self.dir(parent)?.parent),
            _ => self.find(parent, name)?.ok_or(FsError::NotFound)?.ino,
        };
        Ok((ino, self.getattr(ino)?))
    }

    /// Names of a directory with a cookie above `after`. Cookies 1 and 2 are `.` and `..`.
    pub fn readdir(&self, ino: Ino, after: u64, max: usize) -> Result<Vec<Dirent>> {
        let attr = self.dir(ino)?;
        let mut out = Vec::new();
        for (cookie, name, ino) in [(1, ".", ino), (2, "..", Ino(attr.parent))] {
            if after < cookie {
                out.push(Dirent { name: name.into(), ino, kind: libc::S_IFDIR, cookie });
            }
        }
        if attr.nlink > 0 {
            out.extend(self.store.dirents(ino, after.max(2), max)?);
        }
        Ok(out)
    }

    /// Sets attributes.
    pub fn setattr(&self, ino: Ino, set: &SetAttr) -> Result<Attr> {
        self.writable()?;
        // Directories change under the lock of names too.
        let _names = lock(&self.names);
        self.with_node(ino, |s| {
            let more = match set.size {
                Some(size) => self.resize(ino, s, size)?,
                None => Vec::new(),
            };
            let mut a = self.attr_of(ino, s)?;
            if let Some(mode) = set.mode {
                a.mode = a.mode & libc::S_IFMT | mode & 0o7777;
            }
            a.uid = set.uid.unwrap_or(a.uid);
            a.gid = set.gid.unwrap_or(a.gid);
            a.atime = set.atime.unwrap_or(a.atime);
            a.mtime = set.mtime.unwrap_or(a.mtime);
            a.ctime = Time::now();
            s.attr = Some(a);
            s.attr_dirty = true;
            self.stage_state(ino, s, more)?;
            Ok(a)
        })
    }

    /// An inode's change to its attributes as an op, staging what is dirty first, so that no
    /// attribute gets ahead of the data it belongs to.
    fn change_attr(&self, ino: Ino, change: impl FnOnce(&mut Attr)) -> Result<(Attr, Op)> {
        self.with_node(ino, |s| {
            if !s.dirty.is_empty() {
                self.stage_state(ino, s, Vec::new())?;
            }
            let mut a = self.attr_of(ino, s)?;
            change(&mut a);
            Ok((a, Op::PutInode(ino, a)))
        })
    }

    /// Appends a change of names and makes nodes in use see their new attributes.
    fn commit(&self, ops: Vec<Op>) -> Result<()> {
        let changed: Vec<(Ino, Attr)> = ops
            .iter()
            .filter_map(|op| match op {
                Op::PutInode(i, a) => Some((*i, *a)),
                _ => None,
            })
            .collect();
        self.store.append(Txn { ops, ..Txn::default() })?;
        for (ino, new) in changed {
            if let Some(node) = self.active(ino) {
                let mut s = lock(&node.state);
                if let Some(a) = &mut s.attr {
                    // Writes may have moved size and times on meanwhile.
                    (a.nlink, a.parent) = (new.nlink, new.parent);
                    a.ctime = a.ctime.max(new.ctime);
                    a.mtime = a.mtime.max(new.mtime);
                }
                drop(s);
                self.put_node(node);
            }
        }
        Ok(())
    }

    fn touch_dir(&self, dir: Ino, links: i32) -> Result<Op> {
        let (_, op) = self.change_attr(dir, |a| {
            a.mtime = Time::now();
            a.ctime = a.mtime;
            a.nlink = a.nlink.saturating_add_signed(links);
        })?;
        Ok(op)
    }

    fn new_inode(&self, parent: Ino, dir: &Attr, new: NewInode) -> (Ino, Attr) {
        let now = Time::now();
        let is_dir = new.mode & libc::S_IFMT == libc::S_IFDIR;
        let inherit = dir.mode & libc::S_ISGID != 0;
        let sgid = if inherit && is_dir { libc::S_ISGID } else { 0 };
        let attr = Attr {
            mode: new.mode | sgid,
            uid: new.uid,
            gid: if inherit { dir.gid } else { new.gid },
            nlink: if is_dir { 2 } else { 1 },
            rdev: new.rdev,
            size: 0,
            atime: now,
            mtime: now,
            ctime: now,
            btime: now,
            parent: if is_dir { parent.0 } else { 0 },
        };
        (self.store.next_ino(), attr)
    }

    /// Makes a file of any type but a symbolic link. With `open`, it is opened too.
    pub fn create(
        &self,
        parent: Ino,
        name: &[u8],
        new: NewInode,
        open: bool,
    ) -> Result<(Ino, Attr)> {
        self.make(parent, name, new, None, open)
    }

    /// Makes a symbolic link.
    pub fn symlink(
        &self,
        parent: Ino,
        name: &[u8],
        target: &[u8],
        uid: u32,
        gid: u32,
    ) -> Result<(Ino, Attr)> {
        if target.len() > TARGET_MAX {
            return Err(FsError::NameTooLong);
        }
        let new = NewInode { mode: libc::S_IFLNK | 0o777, uid, gid, rdev: 0 };
        self.make(parent, name, new, Some(target), false)
    }

    fn make(
        &self,
        parent: Ino,
        name: &[u8],
        new: NewInode,
        target: Option<&[u8]>,
        open: bool,
    ) -> Result<(Ino, Attr)> {
        self.writable()?;
        check_name(name)?;
        let _names = lock(&self.names);
        let dir = self.dir(parent)?;
        if dir.nlink == 0 {
            return Err(FsError::NotFound);
        }
        if self.find(parent, name)?.is_some() {
            return Err(FsError::Exists);
        }
        let (ino, mut attr) = self.new_inode(parent, &dir, new);
        let is_dir = attr.is_dir();
        let mut ops = Vec::with_capacity(4);
        if let Some(t) = target {
            attr.size = t.len() as u64;
            ops.push(Op::PutSymlink(ino, t.to_vec()));
        }
        ops.push(Op::PutInode(ino, attr));
        if (attr.is_file() || is_dir)
            && let Some(model) = self.store.xattr(parent, MODEL)?
        {
            ops.push(Op::PutXattr(ino, MODEL.to_vec(), model));
        }
        ops.push(Op::PutDirent { parent, name: name.to_vec(), ino, kind: attr.file_type() });
        ops.push(self.touch_dir(parent, i32::from(is_dir))?);
        self.commit(ops)?;
        if open {
            self.open_inode(ino)?;
        }
        Ok((ino, attr))
    }

    /// Target of a symbolic link.
    pub fn readlink(&self, ino: Ino) -> Result<Vec<u8>> {
        self.store.symlink(ino)?.ok_or(FsError::Invalid)
    }

    /// The ops that take one name off an inode; without any it is deleted, or kept as an orphan
    /// while it is open.
    fn drop_link(&self, ino: Ino) -> Result<Op> {
        self.with_node(ino, |s| {
            let a = self.attr_of(ino, s)?;
            let nlink = if a.is_dir() { 0 } else { a.nlink.saturating_sub(1) };
            if nlink == 0 && s.opens == 0 {
                self.forget_dirty(s);
                s.attr = None;
                return Ok(Op::DelInode(ino));
            }
            if !s.dirty.is_empty() {
                self.stage_state(ino, s, Vec::new())?;
            }
            let mut a = self.attr_of(ino, s)?;
            a.nlink = nlink;
            a.ctime = Time::now();
            Ok(Op::PutInode(ino, a))
        })
    }

    /// Removes a name that is not a directory's.
    pub fn unlink(&self, parent: Ino, name: &[u8]) -> Result<()> {
        self.writable()?;
        let _names = lock(&self.names);
        let d = self.find(parent, name)?.ok_or(FsError::NotFound)?;
        if d.kind == libc::S_IFDIR {
            return Err(FsError::IsDir);
        }
        let gone = Op::DelDirent { parent, name: name.to_vec() };
        let ops = vec![gone, self.drop_link(d.ino)?, self.touch_dir(parent, 0)?];
        self.commit(ops)
    }

    fn is_empty(&self, dir: Ino) -> Result<bool> {
        Ok(self.store.dirents(dir, 0, 1)?.is_empty())
    }

    /// Removes an empty directory.
    pub fn rmdir(&self, parent: Ino, name: &[u8]) -> Result<()> {
        self.writable()?;
        match name {
            b"." => return Err(FsError::Invalid),
            b".." => return Err(FsError::NotEmpty),
            _ => {}
        }
        let _names = lock(&self.names);
        let d = self.find(parent, name)?.ok_or(FsError::NotFound)?;
        if d.kind != libc::S_IFDIR {
            return Err(FsError::NotDir);
        }
        if !self.is_empty(d.ino)? {
            return Err(FsError::NotEmpty);
        }
        let gone = Op::DelDirent { parent, name: name.to_vec() };
        let ops = vec![gone, self.drop_link(d.ino)?, self.touch_dir(parent, -1)?];
        self.commit(ops)
    }

    /// Gives an inode one more name.
    pub fn link(&self, ino: Ino, parent: Ino, name: &[u8]) -> Result<Attr> {
        self.writable()?;
        check_name(name)?;
        let _names = lock(&self.names);
        let dir = self.dir(parent)?;
        let a = self.getattr(ino)?;
        if a.is_dir() {
            return Err(FsError::NotPermitted);
        }
        if a.nlink == 0 || dir.nlink == 0 {
            return Err(FsError::NotFound);
        }
        if a.nlink >= LINK_MAX {
            return Err(FsError::TooManyLinks);
        }
        if self.find(parent, name)?.is_some() {
            return Err(FsError::Exists);
        }
        let (attr, put) = self.change_attr(ino, |a| {
            a.nlink += 1;
            a.ctime = Time::now();
        })?;
        let entry = Op::PutDirent { parent, name: name.to_vec(), ino, kind: attr.file_type() };
        self.commit(vec![put, entry, self.touch_dir(parent, 0)?])?;
        Ok(attr)
    }

    /// True if `dir` is `top` or lies below it.
    fn is_below(&self, dir: Ino, top: Ino) -> Result<bool> {
        let mut at = dir;
        loop {
            if at == top {
                return Ok(true);
            }
            if at == Ino::ROOT {
                return Ok(false);
            }
            let up = Ino(self.dir(at)?.parent);
            if up == at {
                return Ok(false);
            }
            at = up;
        }
    }

    /// Renames, with the flags of renameat2(2). What was there is replaced atomically; the file's
    /// own unstaged data go into the log before.
    pub fn rename(
        &self,
        parent: Ino,
        name: &[u8],
        new_parent: Ino,
        new_name: &[u8],
        flags: u32,
    ) -> Result<()> {
        self.writable()?;
        if flags & !(libc::RENAME_NOREPLACE | libc::RENAME_EXCHANGE) != 0 {
            return Err(FsError::Invalid);
        }
        let exchange = flags & libc::RENAME_EXCHANGE != 0;
        check_name(new_name)?;
        let _names = lock(&self.names);
        let old = self.find(parent, name)?.ok_or(FsError::NotFound)?;
        let target = self.find(new_parent, new_name)?;
        if self.dir(new_parent)?.nlink == 0 {
            return Err(FsError::NotFound);
        }
        let is_dir = old.kind == libc::S_IFDIR;
        if is_dir && self.is_below(new_parent, old.ino)? {
            return Err(FsError::Invalid);
        }
        match &target {
            None if exchange => return Err(FsError::NotFound),
            Some(_) if flags & libc::RENAME_NOREPLACE != 0 => return Err(FsError::Exists),
            Some(t) if t.ino == old.ino => return Ok(()),
            _ => {}
        }
        let across = parent != new_parent;
        let mut ops = Vec::with_capacity(7);
        let mut links = (0, 0);
        let now = Time::now();
        let (_, moved) = self.change_attr(old.ino, |a| {
            a.ctime = now;
            if is_dir {
                a.parent = new_parent.0;
            }
        })?;
        let entry = |parent, name: &[u8], d: &Dirent| Op::PutDirent {
            parent,
            name: name.to_vec(),
            ino: d.ino,
            kind: d.kind,
        };
        if let Some(t) = &target {
            let t_is_dir = t.kind == libc::S_IFDIR;
            if exchange {
                if t_is_dir && self.is_below(parent, t.ino)? {
                    return Err(FsError::Invalid);
                }
                let (_, other) = self.change_attr(t.ino, |a| {
                    a.ctime = now;
                    if t_is_dir {
                        a.parent = parent.0;
                    }
                })?;
                ops.push(other);
                ops.push(entry(parent, name, t));
                links = (i32::from(t_is_dir) - i32::from(is_dir), 0);
                links.1 = -links.0;
            } else {
                match (is_dir, t_is_dir) {
                    (true, false) => return Err(FsError::NotDir),
                    (false, true) => return Err(FsError::IsDir),
                    (true, true) if !self.is_empty(t.ino)? => return Err(FsError::NotEmpty),
                    _ => {}
                }
                ops.push(self.drop_link(t.ino)?);
                links = (-i32::from(is_dir), i32::from(is_dir) - i32::from(t_is_dir));
            }
        } else if is_dir {
            links = (-1, 1);
        }
        if !exchange {
            ops.push(Op::DelDirent { parent, name: name.to_vec() });
        }
        ops.push(entry(new_parent, new_name, &old));
        ops.push(moved);
        if across {
            ops.push(self.touch_dir(parent, links.0)?);
            ops.push(self.touch_dir(new_parent, links.1)?);
        } else {
            ops.push(self.touch_dir(parent, links.0 + links.1)?);
        }
        self.commit(ops)
    }
}
