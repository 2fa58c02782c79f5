//! Staged text, which waits to be coded: of each inode, and of all.

use super::state::{State, add, bad, key};
use super::totals::Waiting;
use crate::store::api::Result;
use crate::store::log::record::{In, Out};
use crate::types::{Ino, MODEL_XATTR, OFF};

/// The staged extents of an inode: the value under `s`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Staged {
    extents: u64,
    bytes: u64,
    /// They wait to be coded: the file has a name, and a model.
    wait: bool,
}

impl Staged {
    fn encode(self) -> Vec<u8> {
        let mut o = Out::default();
        o.u64(self.extents).u64(self.bytes).u8(u8::from(self.wait));
        o.0
    }

    fn decode(v: &[u8]) -> Option<Self> {
        let mut i = In(v);
        Some(Self { extents: i.u64()?, bytes: i.u64()?, wait: i.u8()? != 0 })
    }

    fn waiting(self, block: u32) -> Waiting {
        let bytes = if self.wait { self.bytes } else { 0 };
        Waiting { bytes, blocks: bytes.div_ceil(block.into()) }
    }
}

impl State {
    fn staged(&self, ino: Ino) -> Result<Option<Staged>> {
        let v = self.table.get(&key(b's', ino.0))?;
        v.map(|v| Staged::decode(&v).ok_or_else(|| bad("count of staged extents"))).transpose()
    }

    fn set_staged(&mut self, ino: Ino, old: Staged, new: Staged) {
        let block = self.settings.block;
        let (less, more) = (old.waiting(block), new.waiting(block));
        let sum = &mut self.totals.waiting;
        sum.bytes = sum.bytes.saturating_sub(less.bytes);
        sum.blocks = sum.blocks.saturating_sub(less.blocks);
        add(&mut sum.bytes, more.bytes);
        add(&mut sum.blocks, more.blocks);
        let k = key(b's', ino.0);
        if new.extents == 0 {
            self.table.del(k);
        } else {
            self.table.put(k, new.encode());
        }
    }

    /// Counts a staged extent of so many bytes that comes, or goes.
    pub(in crate::store) fn stage(&mut self, ino: Ino, len: u64, comes: bool) -> Result<()> {
        let old = match self.staged(ino)? {
            Some(old) => old,
            None => Staged { wait: self.is_coded(ino)?, ..Staged::default() },
        };
        let (extents, bytes) = if comes {
            (old.extents.saturating_add(1), old.bytes.saturating_add(len))
        } else {
            (old.extents.saturating_sub(1), old.bytes.saturating_sub(len))
        };
        self.set_staged(ino, old, Staged { extents, bytes, ..old });
        Ok(())
    }

    /// True if a file is to be coded.
    fn is_coded(&self, ino: Ino) -> Result<bool> {
        Ok(self.xattr(ino, MODEL_XATTR)?.map_or(!self.settings.off, |model| model != OFF))
    }

    /// Counts an inode's staged extents as waiting or not, as its model says now.
    pub(in crate::store) fn count_by_model(&mut self, ino: Ino) -> Result<()> {
        if let Some(old) = self.staged(ino)? {
            let wait = self.is_coded(ino)?;
            self.set_staged(ino, old, Staged { wait, ..old });
        }
        Ok(())
    }

    /// The staged extents of an inode that goes wait for nothing.
    pub(in crate::store) fn count_as_gone(&mut self, ino: Ino) -> Result<()> {
        if let Some(old) = self.staged(ino)? {
            self.set_staged(ino, old, Staged { wait: false, ..old });
        }
        Ok(())
    }
}
