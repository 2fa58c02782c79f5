//! The namespace: names come, go and move. One lock serialises all changes of names.

use super::acl::{self, Acl};
use super::node::{Held, StateGuard};
use super::{Fs, FsError, Result, lock};
use crate::recode::INDEX_XATTR;
use crate::store::{Dirent, Record};
use crate::types::{Attr, Ino, MODEL_XATTR, Time};
use std::collections::HashSet;

/// Most names of one inode; directories have as many subdirectories as they like.
const LINK_MAX: u32 = 65_000;

/// An inode as told to the kernel.
#[derive(Debug, Clone, Copy)]
pub struct Entry {
    /// Its number.
    pub ino: Ino,
    /// Its attributes.
    pub attr: Attr,
    /// Bytes that are not holes.
    pub mapped: u64,
}

/// What a new inode is to be.
#[derive(Debug, Clone, Copy)]
pub struct NewInode<'a> {
    /// Type and permission bits as asked for.
    pub mode: u32,
    /// Permission bits that it does not get, unless the directory's default list says what it gets.
    pub umask: u32,
    /// Device number.
    pub rdev: u32,
    /// Owner.
    pub uid: u32,
    /// Group, unless the directory hands down its own.
    pub gid: u32,
    /// Target, for a symbolic link.
    pub target: Option<&'a [u8]>,
}

impl NewInode<'_> {
    /// One of this type, with these permissions whatever the umask, that belongs to the superuser.
    pub const fn of(mode: u32) -> Self {
        Self { mode, umask: 0, rdev: 0, uid: 0, gid: 0, target: None }
    }
}

/// What to do about a name that is there already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RenameHow {
    /// Replace it.
    Replace,
    /// Fail.
    NoReplace,
    /// Swap the two.
    Exchange,
    /// Replace it, and leave a whiteout (a character device 0/0, for the upper layer of an overlay)
    /// of this user and group under the old name.
    Whiteout {
        /// User.
        uid: u32,
        /// Group.
        gid: u32,
    },
}

/// Several locked inodes and their attributes to be.
struct Edit<'a> {
    parts: Vec<(Ino, StateGuard<'a>, Attr)>,
}

impl<'a> Edit<'a> {
    /// `held` in ascending order.
    fn begin(held: &'a [Held<'_>]) -> Self {
        let lock = |n: &'a Held<'_>| {
            let s = n.state();
            let attr = s.attr;
            (n.ino, s, attr)
        };
        Self { parts: held.iter().map(lock).collect() }
    }

    fn attr(&mut self, ino: Ino) -> Result<&mut Attr> {
        let part = self.parts.iter_mut().find(|p| p.0 == ino);
        part.map(|p| &mut p.2).ok_or(FsError::NotFound)
    }

    /// A directory that is not removed.
    fn dir(&mut self, ino: Ino) -> Result<&mut Attr> {
        let attr = self.attr(ino)?;
        match attr {
            a if !a.is_dir() => Err(FsError::NotDir),
            a if a.nlink == 0 => Err(FsError::NotFound),
            a => Ok(a),
        }
    }

    fn commit(mut self, fs: &Fs, mut records: Vec<Record>) -> Result<()> {
        for (ino, s, attr) in &self.parts {
            if *attr != s.attr {
                records.push(Record::PutInode(*ino, s.durable(*attr)));
            }
        }
        fs.store.append(records.into())?;
        for (_, s, attr) in &mut self.parts {
            s.attr = *attr;
        }
        Ok(())
    }
}

fn check_name(name: &[u8]) -> Result<()> {
    if name.len() > 255 {
        return Err(FsError::NameTooLong);
    }
    if name.is_empty()
        || name == b"."
        || name == b".."
        || name.iter().any(|b| matches!(b, 0 | b'/'))
    {
        return Err(FsError::Invalid("name"));
    }
    Ok(())
}

fn touched(attr: &mut Attr, now: Time) {
    attr.mtime = now;
    attr.ctime = now;
}

impl Fs {
    /// The inode that a name stands for.
    pub fn find(&self, parent: Ino, name: &[u8]) -> Result<Ino> {
        if name.len() > 255 {
            return Err(FsError::NameTooLong);
        }
        match name {
            b"." => Ok(parent),
            b".." => Ok(Ino(self.getattr(parent)?.parent)),
            _ => Ok(self.store.dirent(parent, name)?.ok_or(FsError::NotFound)?.ino),
        }
    }

    /// Looks a name up; counts as one lookup.
    pub fn lookup(&self, parent: Ino, name: &[u8]) -> Result<Entry> {
        let entry = self.entry(self.find(parent, name)?)?;
        self.learned(entry.ino);
        Ok(entry)
    }

    fn hold_all(&self, inos: &[Ino]) -> Result<Vec<Held<'_>>> {
        let mut inos = inos.to_vec();
        inos.sort_unstable();
        inos.dedup();
        inos.into_iter().map(|i| self.hold(i)).collect()
    }

    /// Makes an inode and its name; counts as one lookup.
    pub fn make(&self, parent: Ino, name: &[u8], new: NewInode<'_>) -> Result<Entry> {
        self.writable()?;
        check_name(name)?;
        let _names = lock(&self.names);
        if self.store.dirent(parent, name)?.is_some() {
            return Err(FsError::Exists);
        }
        let now = Time::now();
        let held = self.hold_all(&[parent])?;
        let mut edit = Edit::begin(&held);
        let dir = edit.dir(parent)?;
        let is_dir = new.mode & libc::S_IFMT == libc::S_IFDIR;
        let is_link = new.mode & libc::S_IFMT == libc::S_IFLNK;
        let default = if is_link { None } else { self.store.xattr(parent, acl::DEFAULT)? };
        let inherited = default.as_deref().and_then(Acl::decode).map(|d| d.inherit(new.mode));
        let masked = new.mode & !(new.umask & 0o777);
        let mut attr = Attr {
            mode: inherited.as_ref().map_or(masked, |(_, mode)| *mode),
            uid: new.uid,
            gid: new.gid,
            nlink: if is_dir { 2 } else { 1 },
            rdev: new.rdev,
            size: new.target.map_or(0, |t| t.len() as u64),
            atime: now,
            mtime: now,
            ctime: now,
            btime: now,
            parent: if is_dir { parent.0 } else { 0 },
        };
        if dir.mode & libc::S_ISGID != 0 {
            attr.gid = dir.gid;
            if is_dir {
                attr.mode |= libc::S_ISGID;
            }
        }
        touched(dir, now);
        dir.nlink += u32::from(is_dir);
        let ino = self.store.next_ino();
        let kind = attr.file_type();
        let mut records = vec![Record::PutInode(ino, attr)];
        if let Some((acl, _)) = inherited.filter(|(acl, _)| !acl.is_minimal()) {
            records.push(Record::PutXattr(ino, acl::ACCESS.to_vec(), acl.encode()));
        }
        if let Some(default) = default.filter(|_| is_dir) {
            records.push(Record::PutXattr(ino, acl::DEFAULT.to_vec(), default));
        }
        if let Some(target) = new.target {
            records.push(Record::PutSymlink(ino, target.to_vec()));
        }
        if is_dir || attr.is_file() {
            let inherited = self.store.xattr(parent, MODEL_XATTR)?;
            let default = || self.options.model.as_ref().map(|m| m.as_bytes().to_vec());
            let wish = inherited.or_else(|| if is_dir { None } else { default() });
            if let Some(model) = wish
                && (is_dir || model != self.store.superblock().model.as_bytes())
            {
                records.push(Record::PutXattr(ino, MODEL_XATTR.to_vec(), model));
            }
            if let Some(index) = self.store.xattr(parent, INDEX_XATTR)? {
                records.push(Record::PutXattr(ino, INDEX_XATTR.to_vec(), index));
            }
        }
        records.push(Record::PutDirent { parent, name: name.to_vec(), ino, kind });
        edit.commit(self, records)?;
        self.learned(ino);
        Ok(Entry { ino, attr, mapped: 0 })
    }

    /// A symbolic link's target.
    pub fn readlink(&self, ino: Ino) -> Result<Vec<u8>> {
        self.store.symlink(ino)?.ok_or(FsError::Invalid("not a symbolic link"))
    }

    /// Removes a name of something that is not a directory.
    pub fn unlink(&self, parent: Ino, name: &[u8]) -> Result<()> {
        self.remove(parent, name, false)
    }

    /// Removes an empty directory.
    pub fn rmdir(&self, parent: Ino, name: &[u8]) -> Result<()> {
        self.remove(parent, name, true)
    }

    fn remove(&self, parent: Ino, name: &[u8], dir: bool) -> Result<()> {
        self.writable()?;
        check_name(name)?;
        let names = lock(&self.names);
        let ino = self.find(parent, name)?;
        let held = self.hold_all(&[parent, ino])?;
        let mut edit = Edit::begin(&held);
        let attr = *edit.attr(ino)?;
        match (attr.is_dir(), dir) {
            (true, false) => return Err(FsError::IsDir),
            (false, true) => return Err(FsError::NotDir),
            _ => {}
        }
        let orphan = self.drop_name(&mut edit, parent, ino, Time::now())?;
        edit.commit(self, vec![Record::DelDirent { parent, name: name.to_vec() }])?;
        if orphan {
            lock(&self.known).orphans.insert(ino);
        }
        drop((held, names));
        if orphan {
            self.reap(ino);
        }
        Ok(())
    }

    /// Takes one name of `ino` in `parent` away; true if it was the last.
    fn drop_name(&self, edit: &mut Edit<'_>, parent: Ino, ino: Ino, now: Time) -> Result<bool> {
        let is_dir = edit.attr(ino)?.is_dir();
        if is_dir && !self.store.dirents(ino, 0, 1)?.is_empty() {
            return Err(FsError::NotEmpty);
        }
        let dir = edit.dir(parent)?;
        touched(dir, now);
        if is_dir {
            dir.nlink = dir.nlink.saturating_sub(1);
        }
        let attr = edit.attr(ino)?;
        attr.ctime = now;
        attr.nlink = if is_dir { 0 } else { attr.nlink.saturating_sub(1) };
        Ok(attr.nlink == 0)
    }

    /// Gives an inode another name; counts as one lookup.
    pub fn link(&self, ino: Ino, parent: Ino, name: &[u8]) -> Result<Entry> {
        self.writable()?;
        check_name(name)?;
        let names = lock(&self.names);
        if self.store.dirent(parent, name)?.is_some() {
            return Err(FsError::Exists);
        }
        let held = self.hold_all(&[parent, ino])?;
        let mut edit = Edit::begin(&held);
        let now = Time::now();
        let attr = edit.attr(ino)?;
        match attr {
            a if a.is_dir() => return Err(FsError::NotPermitted("a directory has one name")),
            a if a.nlink == 0 => return Err(FsError::NotFound),
            a if a.nlink >= LINK_MAX => return Err(FsError::TooManyLinks),
            _ => {}
        }
        attr.nlink += 1;
        attr.ctime = now;
        let kind = attr.file_type();
        touched(edit.dir(parent)?, now);
        edit.commit(self, vec![Record::PutDirent { parent, name: name.to_vec(), ino, kind }])?;
        drop((held, names));
        let entry = self.entry(ino)?;
        self.learned(ino);
        Ok(entry)
    }

    /// Moves a name. Data of the source are staged first, so that what replaces is complete.
    pub fn rename(
        &self,
        from: Ino,
        from_name: &[u8],
        to: Ino,
        to_name: &[u8],
        how: RenameHow,
    ) -> Result<()> {
        self.writable()?;
        check_name(from_name)?;
        check_name(to_name)?;
        let names = lock(&self.names);
        let src = self.store.dirent(from, from_name)?.ok_or(FsError::NotFound)?;
        let dst = self.store.dirent(to, to_name)?;
        match (how, &dst) {
            (RenameHow::NoReplace, Some(_)) => return Err(FsError::Exists),
            (RenameHow::Exchange, None) => return Err(FsError::NotFound),
            _ => {}
        }
        if dst.as_ref().is_some_and(|d| d.ino == src.ino) {
            return Ok(());
        }
        self.check_loop(&src, to)?;
        if let (RenameHow::Exchange, Some(d)) = (how, &dst) {
            self.check_loop(d, from)?;
        }
        if dst.is_some() && src.kind == libc::S_IFREG {
            self.stage(&*self.hold(src.ino)?)?;
        }
        let mut inos = vec![from, to, src.ino];
        inos.extend(dst.as_ref().map(|d| d.ino));
        let held = self.hold_all(&inos)?;
        let mut edit = Edit::begin(&held);
        let now = Time::now();
        let mut records = Vec::new();
        let mut orphan = None;
        if let (Some(d), RenameHow::Replace | RenameHow::Whiteout { .. }) = (&dst, how) {
            match (src.kind == libc::S_IFDIR, d.kind == libc::S_IFDIR) {
                (true, false) => return Err(FsError::NotDir),
                (false, true) => return Err(FsError::IsDir),
                _ => {}
            }
            if self.drop_name(&mut edit, to, d.ino, now)? {
                orphan = Some(d.ino);
            }
        }
        let mut entry = put(to, to_name, &src);
        if let (Some(d), RenameHow::Exchange) = (&dst, how) {
            records.push(put(from, from_name, d));
            moved(&mut edit, d, to, from, now)?;
        } else if let RenameHow::Whiteout { uid, gid } = how {
            let attr = Attr { uid, gid, ..Attr::made_now(libc::S_IFCHR) };
            let ino = self.store.next_ino();
            let (name, kind) = (from_name.to_vec(), libc::S_IFCHR);
            records.push(Record::PutInode(ino, attr));
            records.push(Record::PutDirent { parent: from, name, ino, kind });
        } else if from == to {
            let (from, name) = (from_name.to_vec(), to_name.to_vec());
            entry = Record::RenameDirent { parent: to, from, name, ino: src.ino, kind: src.kind };
        } else {
            records.push(Record::DelDirent { parent: from, name: from_name.to_vec() });
        }
        records.push(entry);
        moved(&mut edit, &src, from, to, now)?;
        touched(edit.dir(from)?, now);
        touched(edit.dir(to)?, now);
        edit.commit(self, records)?;
        if let Some(ino) = orphan {
            lock(&self.known).orphans.insert(ino);
        }
        drop((held, names));
        if let Some(ino) = orphan {
            self.reap(ino);
        }
        Ok(())
    }

    /// A directory must not move below itself.
    fn check_loop(&self, moving: &Dirent, into: Ino) -> Result<()> {
        if moving.kind != libc::S_IFDIR {
            return Ok(());
        }
        let (mut at, mut seen) = (into, HashSet::new());
        while at != moving.ino {
            if at == Ino::ROOT {
                return Ok(());
            }
            if !seen.insert(at) {
                return Err(FsError::Invalid("the directories above lead in a circle"));
            }
            at = Ino(self.getattr(at)?.parent);
        }
        Err(FsError::Invalid("a directory cannot move below itself"))
    }

    /// Names of a directory in cookie order, those with a cookie above `after`, at most `max`.
    pub fn readdir(&self, ino: Ino, after: u64, max: usize) -> Result<Vec<Dirent>> {
        Ok(self.store.dirents(ino, after, max)?)
    }
}

fn put(parent: Ino, name: &[u8], d: &Dirent) -> Record {
    Record::PutDirent { parent, name: name.to_vec(), ino: d.ino, kind: d.kind }
}

/// What moved from one directory to another.
fn moved(edit: &mut Edit<'_>, d: &Dirent, from: Ino, to: Ino, now: Time) -> Result<()> {
    let is_dir = d.kind == libc::S_IFDIR;
    let attr = edit.attr(d.ino)?;
    attr.ctime = now;
    if is_dir && from != to {
        attr.parent = to.0;
        let old = edit.dir(from)?;
        old.nlink = old.nlink.saturating_sub(1);
        edit.dir(to)?.nlink += 1;
    }
    Ok(())
}
