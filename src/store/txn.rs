//! Transactions: frames to append and log records that put them into use, all at once or not at all.

use super::api::{Result, StoreError};
use crate::store::log::frame::{Header, Kind, MAX_LEN, MAX_U40, MAX_U48, Stamp};
use crate::store::log::record::Record;
use crate::store::log::shares;
use crate::types::{Extent, Frame, FrameMeta, FrameRef, Ino, Share};

/// Compare-and-swap: the transaction is applied only if the extents that overlap the range are
/// exactly these, in this order, as far as they lie in it.
#[derive(Debug, Clone)]
pub struct Guard {
    /// Inode.
    pub ino: Ino,
    /// First byte.
    pub off: u64,
    /// Length in bytes.
    pub len: u64,
    /// What [`super::Store::extents_in`] said when the rewriting began.
    pub expect: Vec<Extent>,
}

impl Guard {
    /// True if these extents are in the range what was expected. What lies outside may have changed:
    /// a frame of several blocks is coded block by block.
    pub(super) fn holds(&self, found: &[Extent]) -> bool {
        let inside = |e: &Extent| e.within(self.off, self.len);
        found.iter().filter_map(inside).eq(self.expect.iter().filter_map(inside))
    }
}

/// One atomic change of the store.
#[derive(Debug, Clone, Default)]
pub struct Txn {
    /// Applied in order. Those that name a frame come from [`Self::map`] and [`Self::primer`].
    records: Vec<Record>,
    frames: Vec<(Kind, Frame)>,
    guards: Vec<Guard>,
}

impl From<Vec<Record>> for Txn {
    fn from(records: Vec<Record>) -> Self {
        Self { records, ..Self::default() }
    }
}

impl From<Record> for Txn {
    fn from(record: Record) -> Self {
        vec![record].into()
    }
}

impl Txn {
    /// Then this.
    #[must_use]
    pub fn then(mut self, record: Record) -> Self {
        self.records.push(record);
        self
    }

    /// Then append a frame and map all of its plaintext at its own offset, in place of what is there.
    #[must_use]
    pub fn map(mut self, frame: Frame) -> Self {
        let extent = Extent {
            off: frame.off,
            len: frame.meta.plain_len.into(),
            frame: FrameRef::unplaced(self.frames.len()),
            frame_off: 0,
            meta: frame.meta,
        };
        self.records.push(Record::PutExtent(frame.ino, extent));
        self.frames.push((Kind::Data, frame));
        self
    }

    /// Then append a frame that belongs to no inode, and map its plaintext, part by part, to the beginnings of
    /// files.
    #[must_use]
    pub fn share(mut self, mut frame: Frame, shares: &[Share]) -> Self {
        frame.meta.shared = true;
        (frame.ino, frame.off) = (Ino(0), 0);
        let place = FrameRef::unplaced(self.frames.len());
        let mut frame_off = 0;
        for share in shares {
            let len = share.len.into();
            let meta = FrameMeta { generation: share.generation, ..frame.meta };
            let extent = Extent { off: 0, len, frame: place, frame_off, meta };
            self.records.push(Record::PutExtent(share.ino, extent));
            frame_off += share.len;
        }
        frame.payload = shares::join(shares, &frame.payload);
        self.frames.push((Kind::Data, frame));
        self
    }

    /// Then append a frame and keep it as the primer of this id, from [`super::Store::next_ino`].
    #[must_use]
    pub fn primer(mut self, id: u64, mut frame: Frame) -> Self {
        frame.meta.primer = id;
        let place = FrameRef::unplaced(self.frames.len());
        self.records.push(Record::PutPrimer { id, ino: frame.ino, frame: place });
        self.frames.push((Kind::Primer, frame));
        self
    }

    /// Only if this holds, too.
    #[must_use]
    pub fn only_if(mut self, guard: Guard) -> Self {
        self.guards.push(guard);
        self
    }

    /// What has to hold.
    pub(super) fn guards(&self) -> &[Guard] {
        &self.guards
    }

    /// The frames of files' data.
    pub(super) fn data(&self) -> impl Iterator<Item = &Frame> {
        self.frames.iter().filter(|(kind, _)| *kind == Kind::Data).map(|(_, f)| f)
    }

    /// True if it keeps this primer.
    pub(super) fn brings_primer(&self, id: u64) -> bool {
        self.frames.iter().any(|(kind, f)| *kind == Kind::Primer && f.meta.primer == id)
    }

    /// True if it can only make room.
    pub(super) fn frees(&self) -> bool {
        let frees = |r: &Record| {
            use Record::{DelDirent, DelInode, DelXattr, Punch, RenameDirent};
            let of_names = matches!(r, DelDirent { .. } | RenameDirent { .. });
            of_names || matches!(r, DelInode(_) | DelXattr(..) | Punch { .. })
        };
        self.frames.is_empty() && self.records.iter().any(frees)
    }

    /// An upper bound on what its records take in a batch, in bytes.
    pub(super) fn record_bytes(&self) -> usize {
        self.records.iter().map(Record::max_len).sum()
    }

    /// Refuses what only the store itself may log, a frame of no bytes, and what the format cannot
    /// hold.
    pub(super) fn check(&self) -> Result<()> {
        let own = |r: &&Record| {
            use Record::{Cut, Move, Shutdown};
            let places = r.frame().is_some_and(|f| f.number_in(self.frames.len()).is_none());
            places || matches!(r, Shutdown { .. } | Cut { .. } | Move { .. })
        };
        if let Some(r) = self.records.iter().find(own) {
            return Err(StoreError::Refused(format!("not for a transaction: {r:?}")));
        }
        if let Some((_, f)) = self.frames.iter().find(|(_, f)| f.meta.plain_len == 0) {
            return Err(StoreError::Refused(format!("inode {}: a frame of no bytes", f.ino)));
        }
        Ok(())
    }

    /// The frames as they are written.
    pub(super) fn encode_frames(&self, stamp: Stamp) -> Result<Vec<(Kind, Vec<u8>)>> {
        let encode = |(kind, f): &(Kind, Frame)| Ok((*kind, encode(stamp, *kind, f)?));
        self.frames.iter().map(encode).collect()
    }

    /// The records, once its frames lie where `places` says.
    pub(super) fn placed(self, places: &[FrameRef]) -> impl Iterator<Item = Record> {
        self.records.into_iter().map(|r| r.placed(places))
    }
}

/// The frame of a file's data, or a primer, as it is written.
pub(super) fn encode(stamp: Stamp, kind: Kind, f: &Frame) -> Result<Vec<u8>> {
    let fits = f.payload.len() <= MAX_LEN
        && f.meta.plain_len as usize <= MAX_LEN
        && f.ino.0 <= MAX_U40
        && f.meta.generation <= MAX_U40
        && f.meta.primer <= MAX_U40
        && f.off <= MAX_U48;
    if !fits {
        return Err(StoreError::Refused(format!(
            "inode {} offset {}: beyond the limits of the format",
            f.ino, f.off
        )));
    }
    let header = Header {
        kind,
        payload_len: 0,
        ino: f.ino.0,
        off: f.off,
        meta: f.meta,
        code: stamp.code,
        plain_hash: f.plain_hash,
        payload_crc: 0,
    };
    Ok(header.frame(&f.payload))
}
