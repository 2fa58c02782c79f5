//! Running sums over the table, and their form in checkpoints and clean-shutdown records.

use crate::store::log::record::{In, Out};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Text that waits to be coded.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Waiting {
    /// Bytes.
    pub bytes: u64,
    /// As many blocks as each file's bytes fill.
    pub blocks: u64,
}

/// Sums over the table; kept with it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Totals {
    /// Inodes that are not directories.
    pub files: u64,
    /// Inodes.
    pub inodes: u64,
    /// Sum of extents' lengths.
    pub logical: u64,
    /// Live coded frames, without their parity.
    pub coded: u64,
    /// Live staged frames, without their parity.
    pub staged: u64,
    /// Parity in live frames.
    pub parity: u64,
    /// Live frames.
    pub frames: u64,
    /// Text that waits to be coded.
    pub waiting: Waiting,
    /// Live frames by the language model that decodes them.
    pub models: BTreeMap<u16, u64>,
    /// Highest number used for an inode or a primer.
    pub last_ino: u64,
    /// Highest content generation.
    pub last_generation: u64,
    /// Highest directory cookie.
    pub last_cookie: u64,
    /// Live bytes by segment, as of the last [`Self::fold`]. Copies share it.
    pub live: Arc<BTreeMap<u32, u64>>,
    /// Those of segments that have changed since in a copy.
    pub(in crate::store) fresh: BTreeMap<u32, u64>,
}

impl Totals {
    /// Live bytes of a segment, to be changed. Only what changes is copied.
    pub fn live_mut(&mut self, segment: u32) -> &mut u64 {
        if Arc::get_mut(&mut self.live).is_some() {
            self.fold();
            return Arc::make_mut(&mut self.live).entry(segment).or_default();
        }
        let now = self.live.get(&segment).copied().unwrap_or_default();
        self.fresh.entry(segment).or_insert(now)
    }

    /// Puts what has changed into [`Self::live`].
    pub fn fold(&mut self) {
        if !self.fresh.is_empty() {
            let fresh = std::mem::take(&mut self.fresh);
            Arc::make_mut(&mut self.live).extend(fresh);
        }
    }

    /// For the checkpoint's end and the clean-shutdown record.
    pub fn encode(&self, o: &mut Out) {
        o.u64(self.files).u64(self.inodes).u64(self.logical).u64(self.coded).u64(self.staged);
        o.u64(self.parity).u64(self.frames).u64(self.last_ino).u64(self.last_generation);
        let mut all = self.clone();
        all.fold();
        o.u64(self.last_cookie).u32(all.live.len() as u32);
        for (s, n) in &*all.live {
            o.u32(*s).u64(*n);
        }
        o.u64(self.waiting.bytes).u64(self.waiting.blocks).u32(self.models.len() as u32);
        for (m, n) in &self.models {
            o.u16(*m).u64(*n);
        }
    }

    /// Reads them back.
    pub fn decode(i: &mut In<'_>) -> Option<Self> {
        let mut t = Self {
            files: i.u64()?,
            inodes: i.u64()?,
            logical: i.u64()?,
            coded: i.u64()?,
            staged: i.u64()?,
            parity: i.u64()?,
            frames: i.u64()?,
            last_ino: i.u64()?,
            last_generation: i.u64()?,
            last_cookie: i.u64()?,
            ..Self::default()
        };
        for _ in 0..i.u32()? {
            Arc::make_mut(&mut t.live).insert(i.u32()?, i.u64()?);
        }
        t.waiting = Waiting { bytes: i.u64()?, blocks: i.u64()? };
        for _ in 0..i.u32()? {
            t.models.insert(i.u16()?, i.u64()?);
        }
        Some(t)
    }
}
