//! Log records as they stand in a batch's payload, and the fields that index values are made of.

use super::frame::MAX_U48;
use crate::block::pack::{pack, unpack};
use crate::store::api::ModelEntry;
use crate::types::{Attr, Encoding, Extent, FrameMeta, FrameRef, Ino, Time};

/// A log record, one change of state: what a transaction holds, what is logged, and all that replay
/// knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Record {
    /// Create or replace attributes.
    PutInode(Ino, Attr),
    /// Remove an inode and all it has.
    DelInode(Ino),
    /// Set a symbolic link's target.
    PutSymlink(Ino, Vec<u8>),
    /// Create or replace a name.
    PutDirent {
        /// Directory.
        parent: Ino,
        /// Name.
        name: Vec<u8>,
        /// What it names.
        ino: Ino,
        /// `S_IFMT` bits.
        kind: u32,
    },
    /// Remove a name.
    DelDirent {
        /// Directory.
        parent: Ino,
        /// Name.
        name: Vec<u8>,
    },
    /// Change a name within a directory, in place of what has the new one. What readdir(3) has passed stays passed.
    RenameDirent {
        /// Directory.
        parent: Ino,
        /// Old name.
        from: Vec<u8>,
        /// New name.
        name: Vec<u8>,
        /// What it names.
        ino: Ino,
        /// `S_IFMT` bits.
        kind: u32,
    },
    /// Set an extended attribute.
    PutXattr(Ino, Vec<u8>, Vec<u8>),
    /// Remove an extended attribute.
    DelXattr(Ino, Vec<u8>),
    /// Map a new frame, in place of what is there.
    PutExtent(Ino, Extent),
    /// Keep a new frame as a primer.
    PutPrimer {
        /// Its id.
        id: u64,
        /// Owner.
        ino: Ino,
        /// Where it lies.
        frame: FrameRef,
    },
    /// Enter a model.
    PutModel(ModelEntry),
    /// Unmap a range.
    Punch {
        /// Inode.
        ino: Ino,
        /// First byte.
        off: u64,
        /// Length.
        len: u64,
    },
    /// A range reads as a hole from now on; its extents go with later punches.
    Cut {
        /// Inode.
        ino: Ino,
        /// First byte.
        off: u64,
        /// Length.
        len: u64,
    },
    /// The cleaner copied a live frame.
    Move {
        /// Old place.
        from: FrameRef,
        /// New place; same length.
        to: FrameRef,
    },
    /// The store was closed: the index files had this digest.
    Shutdown {
        /// Directory of the index.
        index: String,
        /// BLAKE3 over names, lengths and bytes of its files.
        digest: [u8; 32],
        /// Bytes of batches since the last checkpoint.
        since_checkpoint: u64,
        /// Segment and length in bytes of the last checkpoint.
        checkpoint: (u32, u64),
        /// The totals, see [`crate::store::index::totals::Totals::encode`].
        totals: Vec<u8>,
    },
}

/// Appends fixed-width little-endian fields.
#[derive(Debug, Default)]
pub struct Out(pub Vec<u8>);

impl Out {
    /// One byte.
    pub fn u8(&mut self, v: u8) -> &mut Self {
        self.0.push(v);
        self
    }
    /// Two bytes.
    pub fn u16(&mut self, v: u16) -> &mut Self {
        self.0.extend_from_slice(&v.to_le_bytes());
        self
    }
    /// Four bytes.
    pub fn u32(&mut self, v: u32) -> &mut Self {
        self.0.extend_from_slice(&v.to_le_bytes());
        self
    }
    /// Eight bytes.
    pub fn u64(&mut self, v: u64) -> &mut Self {
        self.0.extend_from_slice(&v.to_le_bytes());
        self
    }
    /// Length (4 bytes), then the bytes.
    pub fn bytes(&mut self, v: &[u8]) -> &mut Self {
        self.u32(v.len() as u32);
        self.0.extend_from_slice(v);
        self
    }
    /// Segment, offset, length: 12 bytes.
    pub fn frame(&mut self, f: FrameRef) -> &mut Self {
        self.u32(f.segment).u32(f.offset).u32(f.len)
    }
    fn time(&mut self, t: Time) -> &mut Self {
        self.u64(t.sec as u64).u32(t.nsec)
    }
    /// Attributes: 84 bytes.
    pub fn attr(&mut self, a: &Attr) -> &mut Self {
        self.u32(a.mode).u32(a.uid).u32(a.gid).u32(a.nlink).u32(a.rdev).u64(a.size);
        self.time(a.atime).time(a.mtime).time(a.ctime).time(a.btime).u64(a.parent)
    }
    /// An extent: 56 bytes.
    pub fn extent(&mut self, e: &Extent) -> &mut Self {
        self.u64(e.off).u64(e.len).frame(e.frame).u32(e.frame_off).u32(e.meta.plain_len);
        let flags = u8::from(e.meta.staged) | u8::from(e.meta.shared) << 1;
        self.u8(e.meta.encoding as u8).u8(flags).u16(e.meta.model);
        self.u64(e.meta.generation).u64(e.meta.primer)
    }
    /// A model.
    pub fn model(&mut self, m: &ModelEntry) -> &mut Self {
        self.u16(m.number).u16(m.engine);
        self.0.extend_from_slice(&m.id);
        self.bytes(m.name.as_bytes())
    }
}

/// Reads what [`Out`] wrote; every call fails at the end of the bytes.
#[derive(Debug)]
pub struct In<'a>(pub &'a [u8]);

impl<'a> In<'a> {
    /// The next `n` bytes.
    pub fn take(&mut self, n: usize) -> Option<&'a [u8]> {
        let (a, b) = self.0.split_at_checked(n)?;
        self.0 = b;
        Some(a)
    }
    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }
    /// One byte.
    pub fn u8(&mut self) -> Option<u8> {
        Some(self.array::<1>()?[0])
    }
    /// Two bytes.
    pub fn u16(&mut self) -> Option<u16> {
        Some(u16::from_le_bytes(self.array()?))
    }
    /// Four bytes.
    pub fn u32(&mut self) -> Option<u32> {
        Some(u32::from_le_bytes(self.array()?))
    }
    /// Eight bytes.
    pub fn u64(&mut self) -> Option<u64> {
        Some(u64::from_le_bytes(self.array()?))
    }
    /// Length, then the bytes.
    pub fn bytes(&mut self) -> Option<Vec<u8>> {
        self.slice().map(<[u8]>::to_vec)
    }
    /// As [`Self::bytes`], where they are.
    pub fn slice(&mut self) -> Option<&'a [u8]> {
        let n = self.u32()?;
        self.take(n as usize)
    }
    /// A place.
    pub fn frame(&mut self) -> Option<FrameRef> {
        Some(FrameRef { segment: self.u32()?, offset: self.u32()?, len: self.u32()? })
    }
    fn time(&mut self) -> Option<Time> {
        Some(Time { sec: self.u64()? as i64, nsec: self.u32()? })
    }
    fn ino(&mut self) -> Option<Ino> {
        self.u64().map(Ino)
    }
    /// Attributes.
    pub fn attr(&mut self) -> Option<Attr> {
        Some(Attr {
            mode: self.u32()?,
            uid: self.u32()?,
            gid: self.u32()?,
            nlink: self.u32()?,
            rdev: self.u32()?,
            size: self.u64()?,
            atime: self.time()?,
            mtime: self.time()?,
            ctime: self.time()?,
            btime: self.time()?,
            parent: self.u64()?,
        })
    }
    /// An extent; `None` if it lies beyond all files or is no part of its frame.
    pub fn extent(&mut self) -> Option<Extent> {
        let (off, len, frame, frame_off) = (self.u64()?, self.u64()?, self.frame()?, self.u32()?);
        let (plain_len, encoding, flags) = (self.u32()?, self.u8()?, self.u8()?);
        let e = Extent {
            off,
            len,
            frame,
            frame_off,
            meta: FrameMeta {
                plain_len,
                encoding: Encoding::from_u8(encoding)?,
                staged: flags & 1 != 0,
                shared: flags & 2 != 0,
                model: self.u16()?,
                generation: self.u64()?,
                primer: self.u64()?,
            },
        };
        let in_file = e.off.checked_add(e.len).is_some_and(|end| end <= MAX_U48);
        let in_frame = u64::from(e.frame_off).checked_add(e.len)? <= u64::from(e.meta.plain_len);
        (e.len > 0 && in_file && in_frame).then_some(e)
    }
    /// A model.
    pub fn model(&mut self) -> Option<ModelEntry> {
        Some(ModelEntry {
            number: self.u16()?,
            engine: self.u16()?,
            id: self.array()?,
            name: String::from_utf8(self.bytes()?).ok()?,
        })
    }
}

impl Record {
    /// Appends the change to a batch's payload.
    pub fn encode(&self, o: &mut Out) {
        match self {
            Self::PutInode(i, a) => o.u8(1).u64(i.0).attr(a),
            Self::DelInode(i) => o.u8(2).u64(i.0),
            Self::PutSymlink(i, t) => o.u8(3).u64(i.0).bytes(t),
            Self::PutDirent { parent, name, ino, kind } => {
                o.u8(4).u64(parent.0).u64(ino.0).u32(*kind).bytes(name)
            }
            Self::DelDirent { parent, name } => o.u8(5).u64(parent.0).bytes(name),
            Self::PutXattr(i, n, v) => o.u8(6).u64(i.0).bytes(n).bytes(v),
            Self::DelXattr(i, n) => o.u8(7).u64(i.0).bytes(n),
            Self::PutExtent(i, e) => o.u8(8).u64(i.0).extent(e),
            Self::PutPrimer { id, ino, frame } => o.u8(9).u64(*id).u64(ino.0).frame(*frame),
            Self::PutModel(m) => o.u8(10).model(m),
            Self::Punch { ino, off, len } => o.u8(11).u64(ino.0).u64(*off).u64(*len),
            Self::Move { from, to } => o.u8(12).frame(*from).frame(*to),
            Self::Shutdown { index, digest, since_checkpoint, checkpoint, totals } => {
                o.u8(13).bytes(index.as_bytes());
                o.0.extend_from_slice(digest);
                o.u64(*since_checkpoint).u32(checkpoint.0).u64(checkpoint.1).bytes(totals)
            }
            Self::Cut { ino, off, len } => o.u8(14).u64(ino.0).u64(*off).u64(*len),
            Self::RenameDirent { parent, from, name, ino, kind } => {
                o.u8(15).u64(parent.0).u64(ino.0).u32(*kind).bytes(from).bytes(name)
            }
        };
    }

    /// Reads the next change.
    pub fn decode(i: &mut In<'_>) -> Option<Self> {
        Some(match i.u8()? {
            1 => Self::PutInode(i.ino()?, i.attr()?),
            2 => Self::DelInode(i.ino()?),
            3 => Self::PutSymlink(i.ino()?, i.bytes()?),
            4 => {
                let (parent, ino, kind) = (i.ino()?, i.ino()?, i.u32()?);
                Self::PutDirent { parent, name: i.bytes()?, ino, kind }
            }
            5 => Self::DelDirent { parent: i.ino()?, name: i.bytes()? },
            6 => Self::PutXattr(i.ino()?, i.bytes()?, i.bytes()?),
            7 => Self::DelXattr(i.ino()?, i.bytes()?),
            8 => Self::PutExtent(i.ino()?, i.extent()?),
            9 => Self::PutPrimer { id: i.u64()?, ino: i.ino()?, frame: i.frame()? },
            10 => Self::PutModel(i.model()?),
            11 => Self::Punch { ino: i.ino()?, off: i.u64()?, len: i.u64()? },
            12 => Self::Move { from: i.frame()?, to: i.frame()? },
            13 => {
                let (index, digest) = (String::from_utf8(i.bytes()?).ok()?, i.array()?);
                let since_checkpoint = i.u64()?;
                let checkpoint = (i.u32()?, i.u64()?);
                Self::Shutdown { index, digest, since_checkpoint, checkpoint, totals: i.bytes()? }
            }
            14 => Self::Cut { ino: i.ino()?, off: i.u64()?, len: i.u64()? },
            15 => {
                let (parent, ino, kind) = (i.ino()?, i.ino()?, i.u32()?);
                Self::RenameDirent { parent, from: i.bytes()?, name: i.bytes()?, ino, kind }
            }
            _ => return None,
        })
    }

    /// An upper bound on its encoding, in bytes.
    pub fn max_len(&self) -> usize {
        let variable = match self {
            Self::PutSymlink(_, t) => t.len(),
            Self::PutDirent { name, .. } | Self::DelDirent { name, .. } => name.len(),
            Self::RenameDirent { from, name, .. } => from.len() + name.len(),
            Self::PutXattr(_, n, v) => n.len() + v.len(),
            Self::DelXattr(_, n) => n.len(),
            Self::PutModel(m) => m.name.len(),
            Self::Shutdown { index, totals, .. } => index.len() + totals.len(),
            _ => 0,
        };
        128 + variable
    }

    /// The same with frames that had no place where `places` says.
    #[must_use]
    pub fn placed(mut self, places: &[FrameRef]) -> Self {
        if let Self::PutExtent(_, Extent { frame, .. }) | Self::PutPrimer { frame, .. } = &mut self
            && let Some(number) = frame.number_in(places.len())
        {
            *frame = places[number];
        }
        self
    }

    /// The new frame that the change puts into use, if any.
    pub fn frame(&self) -> Option<FrameRef> {
        match self {
            Self::PutExtent(_, e) => Some(e.frame),
            Self::PutPrimer { frame, .. } => Some(*frame),
            Self::Move { to, .. } => Some(*to),
            _ => None,
        }
    }
}

/// A batch: changes that are applied together or not at all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    /// One more than that of the batch before.
    pub seq: u64,
    /// Chain hash of the batch before.
    pub prev: u64,
    /// All batches up to this one had been made durable when this one was written.
    pub durable: u64,
    /// The encoded changes.
    pub changes: Vec<u8>,
}

/// Changes are compressed from this many bytes on.
const SQUEEZE: usize = 256;
/// Largest encoding of one batch's records.
pub const BATCH_MAX: usize = 15 << 20;

impl Batch {
    /// Encoding and payload.
    pub fn encode(&self) -> (Encoding, Vec<u8>) {
        let mut o = Out::default();
        o.u64(self.seq).u64(self.prev).u64(self.durable);
        o.0.extend_from_slice(&self.changes);
        if o.0.len() > SQUEEZE
            && let Ok(z) = pack(&o.0)
            && z.len() < o.0.len()
        {
            return (Encoding::Zstd, z);
        }
        (Encoding::Raw, o.0)
    }

    /// Reads a batch from a frame's payload.
    pub fn decode(encoding: Encoding, payload: &[u8], plain_len: u32) -> Option<Self> {
        let bytes = unsqueeze(encoding, payload, plain_len)?;
        let mut i = In(&bytes);
        Some(Self { seq: i.u64()?, prev: i.u64()?, durable: i.u64()?, changes: i.0.to_vec() })
    }

    /// The changes one by one; `None` in place of one that cannot be read, which ends them.
    pub fn changes(&self) -> Vec<Option<Record>> {
        let mut i = In(&self.changes);
        let mut out = Vec::new();
        while !i.0.is_empty() {
            let c = Record::decode(&mut i);
            let end = c.is_none();
            out.push(c);
            if end {
                break;
            }
        }
        out
    }

    /// Chain hash after this batch: first 8 bytes of BLAKE3 over the uncompressed payload.
    pub fn chain(&self) -> u64 {
        let mut h = blake3::Hasher::new();
        for v in [self.seq, self.prev, self.durable] {
            h.update(&v.to_le_bytes());
        }
        h.update(&self.changes);
        let mut b = [0; 8];
        b.copy_from_slice(&h.finalize().as_bytes()[..8]);
        u64::from_le_bytes(b)
    }
}

/// A metadata payload's bytes, of exactly `plain_len`.
pub fn unsqueeze(encoding: Encoding, payload: &[u8], plain_len: u32) -> Option<Vec<u8>> {
    let bytes = match encoding {
        Encoding::Raw => payload.to_vec(),
        Encoding::Zstd => unpack(payload, plain_len as usize).ok()?,
        Encoding::Fast | Encoding::Lm => return None,
    };
    (bytes.len() == plain_len as usize).then_some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::tests::hex;

    #[test]
    fn changes_round_trip_and_cut_ones_are_refused() {
        let frame = FrameRef { segment: 1, offset: 2, len: 3 };
        let attr = Attr {
            mode: 0o100644,
            uid: 1,
            gid: 2,
            nlink: 3,
            rdev: 4,
            size: 5,
            atime: Time { sec: -6, nsec: 7 },
            mtime: Time::default(),
            ctime: Time::default(),
            btime: Time::default(),
            parent: 8,
        };
        let extent = Extent {
            off: 1,
            len: 2,
            frame,
            frame_off: 3,
            meta: FrameMeta {
                plain_len: 5,
                encoding: Encoding::Lm,
                staged: true,
                shared: false,
                generation: 5,
                primer: 6,
                model: 7,
            },
        };
        let model = ModelEntry { number: 1, id: [9; 32], engine: 2, name: "base".into() };
        let all = [
            Record::PutInode(Ino(1), attr),
            Record::DelInode(Ino(2)),
            Record::PutSymlink(Ino(3), b"t".to_vec()),
            Record::PutDirent { parent: Ino(1), name: b"n".to_vec(), ino: Ino(2), kind: 3 },
            Record::DelDirent { parent: Ino(1), name: b"n".to_vec() },
            Record::RenameDirent {
                parent: Ino(1),
                from: b"n".to_vec(),
                name: b"m".to_vec(),
                ino: Ino(2),
                kind: 3,
            },
            Record::PutXattr(Ino(1), b"k".to_vec(), b"v".to_vec()),
            Record::DelXattr(Ino(1), b"k".to_vec()),
            Record::PutExtent(Ino(1), extent),
            Record::PutPrimer { id: 1, ino: Ino(2), frame },
            Record::PutModel(model),
            Record::Punch { ino: Ino(1), off: 2, len: 3 },
            Record::Cut { ino: Ino(1), off: 2, len: 3 },
            Record::Move { from: frame, to: frame },
            Record::Shutdown {
                index: "index".into(),
                digest: [1; 32],
                since_checkpoint: 3,
                checkpoint: (4, 5),
                totals: vec![1, 2],
            },
        ];
        for c in &all {
            let mut o = Out::default();
            c.encode(&mut o);
            let mut i = In(&o.0);
            assert_eq!(Record::decode(&mut i).as_ref(), Some(c));
            assert!(i.0.is_empty());
            for cut in 0..o.0.len() {
                assert_eq!(Record::decode(&mut In(&o.0[..cut])), None);
            }
        }
    }

    #[test]
    fn golden_batch() {
        let mut o = Out::default();
        Record::DelDirent { parent: Ino(1), name: b"ab".to_vec() }.encode(&mut o);
        let g = Batch { seq: 2, prev: 3, durable: 1, changes: o.0 };
        let (encoding, payload) = g.encode();
        assert_eq!(encoding, Encoding::Raw);
        let hex = hex(&payload);
        assert_eq!(
            hex,
            "020000000000000003000000000000000100000000000000050100000000000000020000006162"
        );
        assert_eq!(Batch::decode(encoding, &payload, payload.len() as u32), Some(g));
    }
}
