//! Attributes: what stat shows and what chmod, chown, truncate and utimens change.

use super::acl;
use super::names::Entry;
use super::node::{Node, NodeState};
use super::{Fs, FsError, MAX_SIZE, Result};
use crate::store::Record;
use crate::types::{Attr, Ino, Time};

/// Attributes to be set; `None` stays as it is.
#[derive(Debug, Clone, Copy, Default)]
pub struct SetAttr {
    /// Permission bits.
    pub mode: Option<u32>,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// Size in bytes.
    pub size: Option<u64>,
    /// Last access.
    pub atime: Option<Time>,
    /// Last change of content.
    pub mtime: Option<Time>,
    /// The caller may keep set-id bits when it truncates.
    pub privileged: bool,
}

/// Figures for statfs, in bytes and inodes.
#[derive(Debug, Clone, Copy)]
pub struct StatFs {
    /// Used and free.
    pub total: u64,
    /// Free, what is kept for the log and the cleaner included.
    pub free: u64,
    /// What files can still take.
    pub available: u64,
    /// Inodes in use.
    pub inodes: u64,
}

/// Takes away set-user-id, and set-group-id where the group may execute.
pub(super) fn drop_set_id(attr: &mut Attr) {
    if attr.is_dir() {
        return;
    }
    attr.mode &= !libc::S_ISUID;
    if attr.mode & libc::S_IXGRP != 0 {
        attr.mode &= !libc::S_ISGID;
    }
}

impl Fs {
    /// Attributes as they are now.
    pub fn getattr(&self, ino: Ino) -> Result<Attr> {
        match self.nodes.attr(ino) {
            Some(attr) => Ok(attr),
            None => Ok(self.store.inode(ino)?.ok_or(FsError::NotFound)?),
        }
    }

    /// What the kernel wants to know of an inode.
    pub fn entry(&self, ino: Ino) -> Result<Entry> {
        /// A file that changes all the time gets the last count.
        const TRIES: usize = 4;
        let node = self.hold(ino)?;
        let mut tries = 0;
        loop {
            let s = node.shown();
            if s.gone {
                return Err(FsError::NotFound);
            }
            if !s.attr.is_file() || s.attr.size == 0 {
                return Ok(Entry { ino, attr: s.attr, mapped: 0 });
            }
            let stored = match s.mapped {
                Some(n) => n,
                None if s.stored_size == 0 => 0,
                None => self.store.mapped_bytes(ino)?,
            };
            tries += 1;
            if s.mapped.is_none() {
                if node.shown().mappings != s.mappings && tries < TRIES {
                    continue;
                }
                node.note_mapped(s.mappings, stored);
            }
            // An overwrite counts twice until it is staged; never more than the file has bytes.
            let mapped = (stored + s.dirty).min(s.attr.size);
            return Ok(Entry { ino, attr: s.attr, mapped });
        }
    }

    /// Changes attributes.
    pub fn setattr(&self, ino: Ino, set: SetAttr) -> Result<Entry> {
        self.writable()?;
        let node = self.hold(ino)?;
        if let Some(size) = set.size {
            self.truncate(&node, size, set.privileged)?;
        }
        let mut s = node.state();
        if s.gone {
            return Err(FsError::NotFound);
        }
        let mut attr = s.attr;
        if set.uid.is_some() || set.gid.is_some() {
            drop_set_id(&mut attr);
        }
        if let Some(mode) = set.mode {
            attr.mode = attr.file_type() | (mode & 0o7777);
        }
        attr.uid = set.uid.unwrap_or(attr.uid);
        attr.gid = set.gid.unwrap_or(attr.gid);
        attr.atime = set.atime.unwrap_or(attr.atime);
        attr.mtime = set.mtime.unwrap_or(attr.mtime);
        if attr != s.attr || set.size.is_none() {
            attr.ctime = Time::now();
            let mut records = vec![Record::PutInode(ino, s.durable(attr))];
            if let Some(mode) = set.mode
                && let Some(mut acl) = self.access_acl(ino)?
            {
                acl.set_mode(mode);
                records.push(Record::PutXattr(ino, acl::ACCESS.to_vec(), acl.encode()));
            }
            self.store.append(records.into())?;
            s.attr = attr;
        }
        drop(s);
        self.entry(ino)
    }

    fn truncate(&self, node: &Node, size: u64, privileged: bool) -> Result<()> {
        if size > MAX_SIZE {
            return Err(FsError::TooBig);
        }
        self.cut(node, |s| {
            match s.attr.file_type() {
                libc::S_IFREG => {}
                libc::S_IFDIR => return Err(FsError::IsDir),
                _ => return Err(FsError::Invalid("not a regular file")),
            }
            if !privileged {
                drop_set_id(&mut s.attr);
            }
            let gone = (size < s.attr.size).then_some((size, u64::MAX));
            s.attr.size = size;
            Ok(gone)
        })
    }

    /// Access time by the `relatime` rule: only if it says something new, or is a day old.
    pub(super) fn accessed(&self, s: &mut NodeState) {
        const DAY: i64 = 86_400;
        if self.options.noatime || self.store.read_only() || s.gone {
            return;
        }
        let (a, now) = (&mut s.attr, Time::now());
        if a.atime <= a.mtime || a.atime <= a.ctime || now.sec - a.atime.sec >= DAY {
            a.atime = now;
            s.attr_dirty = true;
        }
    }

    /// A directory was read.
    pub fn dir_accessed(&self, ino: Ino) -> Result<()> {
        let node = self.hold(ino)?;
        self.accessed(&mut node.state());
        Ok(())
    }

    /// Figures of the whole file system.
    pub fn statfs(&self) -> Result<StatFs> {
        let stats = self.store.stats()?;
        let free = self.store.free_bytes();
        // What is dead is as good as free.
        let free = free.saturating_add(stats.dead_here());
        let available = self.store.writable_bytes()?.min(free);
        let used = stats.stored_bytes.saturating_sub(stats.dead_here());
        Ok(StatFs { total: free.saturating_add(used), free, available, inodes: stats.inodes })
    }
}
