//! Extended attributes, among them lmfs' own.

use super::acl::{self, Acl};
use super::{Fs, FsError, Result};
use crate::recode::{INDEX_WORDS, INDEX_XATTR};
use crate::store::{Record, StoreError};
use crate::types::{Attr, Encoding, Ino, MODEL_XATTR, OFF, Time};
use std::collections::{BTreeMap, HashSet};
use std::fmt::Write as _;

/// Longest value in bytes, as Linux has it.
const VALUE_MAX: usize = 64 << 10;

/// Whether an extended attribute may or must be there before it is set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SetHow {
    /// Either.
    Put,
    /// It must not be there.
    Create,
    /// It must be there.
    Replace,
}

/// How a file's bytes are held.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Coding {
    /// Bytes that are not holes, staged or coded.
    pub mapped: u64,
    /// The file's share of its frames, in bytes.
    pub coded_size: u64,
    /// Frames by codec; those not coded yet count as `staged`.
    pub codecs: BTreeMap<String, u64>,
    /// Bytes in memory that are not staged yet.
    pub dirty: u64,
}

fn check(name: &[u8]) -> Result<()> {
    if name.len() > 255 {
        return Err(FsError::NameTooLong);
    }
    let known = [&b"user."[..], b"trusted.", b"security."].iter().any(|p| name.starts_with(p));
    if known || is_acl(name) { Ok(()) } else { Err(FsError::NotSupported) }
}

fn is_acl(name: &[u8]) -> bool {
    matches!(name, acl::ACCESS | acl::DEFAULT)
}

fn is_virtual(name: &[u8]) -> bool {
    matches!(name, b"user.lmfs.ratio" | b"user.lmfs.coded_size" | b"user.lmfs.codecs")
}

impl Fs {
    /// Value of an extended attribute.
    pub fn getxattr(&self, ino: Ino, name: &[u8]) -> Result<Vec<u8>> {
        check(name)?;
        if is_virtual(name) {
            return self.virtual_xattr(ino, name);
        }
        self.store.xattr(ino, name)?.ok_or(FsError::NoAttr)
    }

    /// Names of all extended attributes, each ended by a NUL.
    pub fn listxattr(&self, ino: Ino) -> Result<Vec<u8>> {
        let mut out = Vec::new();
        for name in self.store.xattrs(ino)? {
            out.extend_from_slice(&name);
            out.push(0);
        }
        Ok(out)
    }

    /// Sets an extended attribute.
    pub fn setxattr(&self, ino: Ino, name: &[u8], value: &[u8], how: SetHow) -> Result<()> {
        self.writable()?;
        check(name)?;
        if value.len() > VALUE_MAX {
            return Err(FsError::AttrTooBig);
        }
        if is_virtual(name) {
            return Err(FsError::NotPermitted("this attribute is computed"));
        }
        if name == MODEL_XATTR {
            self.check_model(value)?;
        }
        if name == INDEX_XATTR && value != INDEX_WORDS && value != OFF {
            return Err(FsError::Invalid("user.lmfs.index is words or off"));
        }
        match (how, self.store.xattr(ino, name)?.is_some()) {
            (SetHow::Create, true) => return Err(FsError::Exists),
            (SetHow::Replace, false) => return Err(FsError::NoAttr),
            _ => {}
        }
        let put = Record::PutXattr(ino, name.to_vec(), value.to_vec());
        self.change_xattr(ino, |_| Ok(Some(put)))?;
        if name == MODEL_XATTR {
            self.recoder.touch(ino);
        }
        Ok(())
    }

    /// Removes an extended attribute.
    pub fn removexattr(&self, ino: Ino, name: &[u8]) -> Result<()> {
        self.writable()?;
        check(name)?;
        if is_virtual(name) {
            return Err(FsError::NotPermitted("this attribute is computed"));
        }
        self.store.xattr(ino, name)?.ok_or(FsError::NoAttr)?;
        self.change_xattr(ino, |_| Ok(Some(Record::DelXattr(ino, name.to_vec()))))
    }

    /// The list that governs access, if it says more than the mode.
    pub(super) fn access_acl(&self, ino: Ino) -> Result<Option<Acl>> {
        Ok(self.store.xattr(ino, acl::ACCESS)?.as_deref().and_then(Acl::decode))
    }

    /// Sets an access control list; `keeps_set_gid` if that may leave the set-group-id bit, which it
    /// may not for who is not in the file's group.
    pub fn set_acl(
        &self,
        ino: Ino,
        name: &[u8],
        value: &[u8],
        keeps_set_gid: impl Fn(&Attr) -> bool,
    ) -> Result<()> {
        self.writable()?;
        let acl = Acl::decode(value).ok_or(FsError::Invalid("not an access control list"))?;
        let had = self.store.xattr(ino, name)?.is_some();
        let put = || Record::PutXattr(ino, name.to_vec(), acl.encode());
        self.change_xattr(ino, |attr| {
            match (name == acl::DEFAULT, attr.file_type()) {
                (_, libc::S_IFLNK) => return Err(FsError::NotSupported),
                (true, libc::S_IFDIR) => return Ok(Some(put())),
                (true, _) => {
                    return Err(FsError::NotPermitted("only a directory has a default list"));
                }
                (false, _) => {}
            }
            attr.mode = attr.mode & !0o777 | acl.mode();
            if !keeps_set_gid(attr) {
                attr.mode &= !libc::S_ISGID;
            }
            // A list that says no more than the mode is not kept.
            if acl.is_minimal() {
                Ok(had.then(|| Record::DelXattr(ino, name.to_vec())))
            } else {
                Ok(Some(put()))
            }
        })
    }

    /// Changes an attribute; `change` may also change what the inode is otherwise.
    fn change_xattr(
        &self,
        ino: Ino,
        change: impl FnOnce(&mut Attr) -> Result<Option<Record>>,
    ) -> Result<()> {
        let node = self.hold(ino)?;
        let mut s = node.state();
        let mut attr = s.attr;
        let record = change(&mut attr)?;
        attr.ctime = Time::now();
        let inode = Record::PutInode(ino, s.durable(attr));
        self.store.append(record.into_iter().chain([inode]).collect::<Vec<_>>().into())?;
        s.attr = attr;
        Ok(())
    }

    /// A model must be one that this store can code with, or `off`.
    fn check_model(&self, value: &[u8]) -> Result<()> {
        let known = |name: &str| self.blocks.models().knows(name);
        if value == OFF || std::str::from_utf8(value).is_ok_and(known) {
            return Ok(());
        }
        log::warn!(
            "user.lmfs.model: no model {:?} (lmfs model list shows those there are)",
            String::from_utf8_lossy(value)
        );
        Err(FsError::Invalid("no such model in this store"))
    }

    /// Governs all at or below an inode by a model, as if each had been told so; `files` are those
    /// that it holds.
    pub fn govern(&self, ino: Ino, model: &[u8], files: &mut Vec<Ino>) -> Result<()> {
        self.writable()?;
        let default = model == self.store.superblock().model.as_bytes();
        // A forged store may have directories in a circle.
        let (mut stack, mut seen) = (vec![ino], HashSet::new());
        while let Some(at) = stack.pop() {
            if !seen.insert(at) {
                continue;
            }
            let attr = self.getattr(at)?;
            if attr.is_file() {
                files.push(at);
            } else if attr.is_dir() {
                stack.extend(self.readdir(at, 2, usize::MAX)?.into_iter().map(|d| d.ino));
            } else {
                continue;
            }
            let old = self.store.xattr(at, MODEL_XATTR)?;
            let record = match old {
                Some(_) if default => Record::DelXattr(at, MODEL_XATTR.to_vec()),
                Some(m) if m == model => continue,
                None if default => continue,
                _ => Record::PutXattr(at, MODEL_XATTR.to_vec(), model.to_vec()),
            };
            self.change_xattr(at, |_| Ok(Some(record)))?;
        }
        Ok(())
    }

    /// A file or directory that this model governs, so that what is written there will need it.
    pub fn governed_by(&self, model: &str) -> Result<Option<Vec<u8>>> {
        let default = self.store.superblock().model == model;
        let option = self.options.model.as_deref() == Some(model);
        let (mut stack, mut seen) = (vec![(Ino::ROOT, b"/".to_vec())], HashSet::new());
        while let Some((at, path)) = stack.pop() {
            if !seen.insert(at) {
                continue;
            }
            let attr = match self.getattr(at) {
                Err(FsError::NotFound) => continue,
                attr => attr?,
            };
            if !attr.is_dir() && !attr.is_file() {
                continue;
            }
            match self.store.xattr(at, MODEL_XATTR)? {
                Some(own) if own == model.as_bytes() => return Ok(Some(path)),
                // New files below get what the mount option says, or else the store's own.
                None if default || (option && attr.is_dir()) => return Ok(Some(path)),
                _ => {}
            }
            if attr.is_dir() {
                for d in self.readdir(at, 2, usize::MAX)? {
                    let gap: &[u8] = if path.ends_with(b"/") { b"" } else { b"/" };
                    stack.push((d.ino, [&path[..], gap, &d.name[..]].concat()));
                }
            }
        }
        Ok(None)
    }

    /// How a file's bytes are held.
    pub fn coding(&self, ino: Ino) -> Result<Coding> {
        let mut stats = Coding::default();
        let models = self.store.models()?;
        let (mut last, mut primer) = (None, 0);
        for e in self.store.extents(ino) {
            let e = e?;
            stats.mapped += e.len;
            // A file's blocks have one primer, but for a moment while they are coded anew.
            if e.meta.primer != 0 && std::mem::replace(&mut primer, e.meta.primer) != e.meta.primer
            {
                let at = self.store.primer(primer)?;
                stats.coded_size += at.map_or(0, |at| u64::from(at.len));
            }
            stats.coded_size += u64::from(e.frame.len) * e.len / u64::from(e.meta.plain_len.max(1));
            if last.replace(e.frame) == Some(e.frame) {
                continue;
            }
            let codec = match e.meta.encoding {
                _ if e.meta.staged => "staged",
                Encoding::Raw => "raw",
                Encoding::Zstd => "zstd",
                Encoding::Fast => "fast",
                Encoding::Lm => models
                    .iter()
                    .find(|m| m.number == e.meta.model)
                    .map_or("lm", |m| m.name.as_str()),
            };
            *stats.codecs.entry(codec.to_owned()).or_default() += 1;
        }
        stats.dirty = self.hold(ino)?.shown().dirty;
        Ok(stats)
    }

    /// Ranges of a file whose frames do not pass their checks (their payloads are not decoded).
    pub fn damaged(&self, ino: Ino) -> Result<Vec<(u64, u64)>> {
        let mut bad = Vec::new();
        for e in self.store.extents(ino) {
            let e = e?;
            if !matches!(self.store.read_frame(e.frame), Ok(_) | Err(StoreError::Outdated(_))) {
                bad.push((e.off, e.len));
            }
        }
        Ok(bad)
    }

    fn virtual_xattr(&self, ino: Ino, name: &[u8]) -> Result<Vec<u8>> {
        if !self.getattr(ino)?.is_file() {
            return Err(FsError::NoAttr);
        }
        let stats = self.coding(ino)?;
        let mut out = String::new();
        // Writing to a string cannot fail.
        let _ = match name {
            b"user.lmfs.ratio" => {
                write!(out, "{:.2}", stats.mapped as f64 / stats.coded_size.max(1) as f64)
            }
            b"user.lmfs.coded_size" => write!(out, "{}", stats.coded_size),
            _ => {
                let parts: Vec<_> = stats.codecs.iter().map(|(k, n)| format!("{k}:{n}")).collect();
                write!(out, "{}", parts.join(" "))
            }
        };
        Ok(out.into_bytes())
    }
}
