//! Extended attributes, real ones and those that lmfs answers itself.

use super::{Fs, FsError, Result, lock};
use crate::store::Op;
use crate::types::{Attr, Extent, Form, Ino, Time};
use std::collections::BTreeMap;

/// Governs how a file is coded from now on; inherited from the directory at creation.
pub const MODEL: &[u8] = crate::recode::MODEL_XATTR;
const RATIO: &[u8] = b"user.lmfs.ratio";
const CODED_SIZE: &[u8] = b"user.lmfs.coded_size";
const CODECS: &[u8] = b"user.lmfs.codecs";
/// Largest value.
const VALUE_MAX: usize = 64 << 10;
/// Largest name.
const NAME_MAX: usize = 255;

/// How a file is stored.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Coding {
    /// Bytes of its frames; of a frame that is used in part, that part.
    pub coded_size: u64,
    /// Frames by codec.
    pub codecs: BTreeMap<String, u64>,
    /// Bytes not staged yet.
    pub dirty: u64,
}

/// The codec's name of an extent.
fn codec(e: &Extent, models: &BTreeMap<u16, String>) -> String {
    match e.form {
        _ if e.staged => "staged".into(),
        Form::Raw => "raw".into(),
        Form::Zstd => "zstd".into(),
        Form::Fast => "fast".into(),
        Form::Lm => models.get(&e.model).cloned().unwrap_or_else(|| format!("model {}", e.model)),
    }
}

impl Fs {
    /// How a file is stored now.
    pub fn coding(&self, ino: Ino) -> Result<Coding> {
        let models = self.store.models()?.into_iter().map(|m| (m.number, m.name)).collect();
        let mut c = Coding::default();
        for e in self.store.extents_in(ino, 0, u64::MAX)? {
            let share = u128::from(e.frame.len) * u128::from(e.len);
            c.coded_size += share.div_ceil(u128::from(e.plain_len.max(1))) as u64;
            *c.codecs.entry(codec(&e, &models)).or_default() += 1;
        }
        if let Some(node) = self.active(ino) {
            c.dirty = lock(&node.state).dirty.bytes();
        }
        Ok(c)
    }

    fn virtual_value(&self, ino: Ino, name: &[u8], attr: &Attr) -> Result<Option<Vec<u8>>> {
        if !matches!(name, RATIO | CODED_SIZE | CODECS) {
            return Ok(None);
        }
        if !attr.is_file() {
            return Err(FsError::NoAttribute);
        }
        let c = self.coding(ino)?;
        let text = match name {
            CODED_SIZE => c.coded_size.to_string(),
            RATIO => {
                let hundredths = (attr.size * 100).checked_div(c.coded_size).unwrap_or(100);
                format!("{}.{:02}", hundredths / 100, hundredths % 100)
            }
            _ => {
                let list: Vec<_> = c.codecs.iter().map(|(k, n)| format!("{k}:{n}")).collect();
                list.join(" ")
            }
        };
        Ok(Some(text.into_bytes()))
    }

    /// Value of an extended attribute.
    pub fn getxattr(&self, ino: Ino, name: &[u8]) -> Result<Vec<u8>> {
        if name.starts_with(b"system.") {
            return Err(FsError::NotSupported);
        }
        // Asked before every write; nothing else starts so.
        if name.starts_with(b"user.lmfs.") {
            let attr = self.getattr(ino)?;
            if let Some(v) = self.virtual_value(ino, name, &attr)? {
                return Ok(v);
            }
        }
        self.store.xattr(ino, name)?.ok_or(FsError::NoAttribute)
    }

    /// Names of extended attributes, each followed by a NUL.
    pub fn listxattr(&self, ino: Ino) -> Result<Vec<u8>> {
        let mut out = Vec::new();
        for name in self.store.xattrs(ino)? {
            out.extend_from_slice(&name);
            out.push(0);
        }
        Ok(out)
    }

    /// Sets an extended attribute, with the flags of setxattr(2).
    pub fn setxattr(&self, ino: Ino, name: &[u8], value: &[u8], flags: i32) -> Result<()> {
        if self.store.read_only() {
            return Err(FsError::ReadOnly);
        }
        if name.starts_with(b"system.") {
            return Err(FsError::NotSupported);
        }
        if matches!(name, RATIO | CODED_SIZE | CODECS) {
            return Err(FsError::NotPermitted);
        }
        if name.len() > NAME_MAX {
            return Err(FsError::NameTooLong);
        }
        if value.len() > VALUE_MAX {
            return Err(FsError::AttributeTooLarge);
        }
        if name == MODEL && !self.knows_model(value) {
            return Err(FsError::Invalid);
        }
        let _names = lock(&self.names);
        let there = self.store.xattr(ino, name)?.is_some();
        if there && flags & libc::XATTR_CREATE != 0 {
            return Err(FsError::Exists);
        }
        if !there && flags & libc::XATTR_REPLACE != 0 {
            return Err(FsError::NoAttribute);
        }
        self.change_xattr(ino, Op::PutXattr(ino, name.to_vec(), value.to_vec()))?;
        if name == MODEL {
            self.recoder.touch(ino);
        }
        Ok(())
    }

    /// Removes an extended attribute.
    pub fn removexattr(&self, ino: Ino, name: &[u8]) -> Result<()> {
        if self.store.read_only() {
            return Err(FsError::ReadOnly);
        }
        let _names = lock(&self.names);
        if self.store.xattr(ino, name)?.is_none() {
            return Err(FsError::NoAttribute);
        }
        self.change_xattr(ino, Op::DelXattr(ino, name.to_vec()))
    }

    fn change_xattr(&self, ino: Ino, op: Op) -> Result<()> {
        self.with_node(ino, |s| {
            let mut a = self.attr_of(ino, s)?;
            a.ctime = Time::now();
            s.attr = Some(a);
            s.attr_dirty = true;
            self.stage_state(ino, s, vec![op])
        })
    }

    /// True for a model that files may be coded with.
    fn knows_model(&self, name: &[u8]) -> bool {
        name == crate::recode::MODEL_OFF
            || name == b"fast"
            || self.store.models().is_ok_and(|m| m.iter().any(|m| m.name.as_bytes() == name))
    }
}
