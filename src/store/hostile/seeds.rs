//! Good bytes to begin with: what fuzzing starts from and the tests mutate.

use super::{DATA, Log, UUID, level};
use crate::block::{Primer, Tier, encode, plain_hash};
use crate::store::api::ModelEntry;
use crate::store::index::totals::Totals;
use crate::store::log::frame::{Header, Kind, Stamp, tag};
use crate::store::log::record::{Out, Record};
use crate::store::log::shares;
use crate::store::log::superblock::SEGMENT_HEADER;
use crate::store::repair::ecc::rs::Code;
use crate::store::repair::sidecar;
use crate::store::settings::code;
use crate::types::{Attr, Encoding, Extent, FrameMeta, FrameRef, Ino, Share, Time};

/// Records as they are written, and what they amount to.
struct Writing {
    out: Vec<u8>,
    log: Log,
}

impl Writing {
    fn new(ecc: u8) -> Self {
        let mut log = Log { ecc, ..Log::default() };
        log.next_segment(true);
        Self { out: vec![ecc], log }
    }

    /// Appends a record; says where its frame lies.
    fn put(&mut self, kind: u8, body: &[u8]) -> FrameRef {
        self.out.push(kind);
        self.out.extend_from_slice(&(body.len() as u32).to_le_bytes()[..3]);
        self.out.extend_from_slice(body);
        let offset = self.log.bytes.len() as u32;
        self.log.record(kind, body);
        let len = (self.log.bytes.len() as u32).wrapping_sub(offset);
        FrameRef { segment: self.log.number, offset, len }
    }

    fn data(&mut self, kind: u8, h: Header, payload: &[u8]) -> FrameRef {
        let mut o = Out::default();
        let flags = u8::from(h.meta.staged) | u8::from(h.meta.shared) << 1;
        o.u8(h.meta.encoding as u8).u8(flags).u16(h.meta.model);
        let mut word = |v: u64, n: usize| o.0.extend_from_slice(&v.to_le_bytes()[..n]);
        word(h.meta.plain_len.into(), 3);
        word(h.ino, 5);
        word(h.off, 6);
        word(h.meta.generation, 5);
        word(h.meta.primer, 5);
        word(h.plain_hash, 8);
        o.0.resize(DATA, 0);
        o.0.extend_from_slice(payload);
        self.put(kind, &o.0)
    }

    fn batch(&mut self, changes: &[Record]) {
        let mut o = Out::default();
        for c in changes {
            c.encode(&mut o);
        }
        self.put(2, &o.0);
    }

    fn checkpoint(&mut self, totals: &Totals) {
        let mut o = Out::default();
        totals.encode(&mut o);
        self.put(4, &o.0);
    }
}

fn stamp(ecc: u8) -> Stamp {
    Stamp { tag: tag(&UUID), code: code(level(ecc)) }
}

fn attr(mode: u32, size: u64) -> Attr {
    let t = Time { sec: 7, nsec: 8 };
    Attr {
        mode,
        uid: 1,
        gid: 2,
        nlink: 1,
        rdev: 0,
        size,
        atime: t,
        mtime: t,
        ctime: t,
        btime: t,
        parent: 1,
    }
}

fn text(lines: usize) -> Vec<u8> {
    (0..lines).flat_map(|n| format!("{n} user{} logs in\n", n % 7).into_bytes()).collect()
}

fn header(ino: u64, off: u64, encoding: Encoding, plain: &[u8], primer: u64) -> Header {
    Header {
        kind: Kind::Data,
        payload_len: 0,
        ino,
        off,
        meta: FrameMeta {
            encoding,
            staged: encoding != Encoding::Fast,
            shared: false,
            model: 0,
            plain_len: plain.len() as u32,
            generation: 3,
            primer,
        },
        code: Code::None,
        plain_hash: plain_hash(plain),
        payload_crc: 0,
    }
}

fn extent(h: &Header, frame: FrameRef) -> Extent {
    Extent { off: h.off, len: h.meta.plain_len.into(), frame, frame_off: 0, meta: h.meta }
}

/// A small store with every kind of record.
fn store(ecc: u8) -> Vec<u8> {
    let mut w = Writing::new(ecc);
    let root = attr(libc::S_IFDIR | 0o755, 0);
    let mut pairs = Out::default();
    let mut key = vec![b'i'];
    key.extend_from_slice(&1u64.to_be_bytes());
    let mut value = Out::default();
    value.attr(&root);
    pairs.bytes(&key).bytes(&value.0);
    w.put(3, &pairs.0);
    w.checkpoint(&Totals::default());
    let name = |parent, name: &[u8], ino, kind| Record::PutDirent {
        parent: Ino(parent),
        name: name.to_vec(),
        ino: Ino(ino),
        kind,
    };
    let (reg, dir) = (libc::S_IFREG | 0o644, libc::S_IFDIR | 0o755);
    let raw = header(2, 0, Encoding::Raw, b"hello world", 0);
    let raw_at = w.data(0, raw, b"hello world");
    w.batch(&[
        Record::PutInode(Ino(2), attr(reg, 11)),
        name(1, b"hello", 2, libc::S_IFREG),
        Record::PutExtent(Ino(2), extent(&raw, raw_at)),
        Record::PutXattr(Ino(2), b"user.a".to_vec(), b"b".to_vec()),
        Record::PutInode(Ino(3), attr(dir, 0)),
        name(1, b"dir", 3, libc::S_IFDIR),
        Record::PutInode(Ino(4), attr(libc::S_IFLNK | 0o777, 5)),
        name(3, b"link", 4, libc::S_IFLNK),
        Record::PutSymlink(Ino(4), b"hello".to_vec()),
    ]);
    // A coded file with its primer, a piece of which is written over.
    let sample = text(60);
    let plain = text(200);
    if let Ok((primer, coded)) = Primer::make(sample.clone(), &Tier::FAST)
        && let Ok(block) = encode(&plain, Some(&primer), &Tier::FAST)
    {
        let id = header(5, 0, coded.encoding, &sample, 0);
        let primer_at = w.data(1, id, &coded.payload);
        let h = header(5, 0, block.encoding, &plain, 9);
        let at = w.data(0, h, &block.payload);
        let over = header(5, 50, Encoding::Raw, b"over", 0);
        let over_at = w.data(0, over, b"over");
        w.batch(&[
            Record::PutPrimer { id: 9, ino: Ino(5), frame: primer_at },
            Record::PutInode(Ino(5), attr(reg, plain.len() as u64)),
            name(3, b"log", 5, libc::S_IFREG),
            Record::PutExtent(Ino(5), extent(&h, at)),
            Record::PutExtent(Ino(5), extent(&over, over_at)),
        ]);
    }
    // Two files that share a frame.
    let mut h = header(0, 0, Encoding::Raw, b"one and the other", 0);
    (h.meta.shared, h.meta.staged) = (true, false);
    let shares = [(6, 7), (7, 10)].map(|(ino, len)| Share { ino: Ino(ino), generation: 1, len });
    let at = w.data(0, h, &shares::join(&shares, b"one and the other"));
    let part = |frame_off, len| Extent { off: 0, len, frame_off, ..extent(&h, at) };
    w.batch(&[
        Record::PutInode(Ino(6), attr(reg, 7)),
        name(3, b"one", 6, libc::S_IFREG),
        Record::PutExtent(Ino(6), part(0, 7)),
        Record::PutInode(Ino(7), attr(reg, 10)),
        name(3, b"other", 7, libc::S_IFREG),
        Record::PutExtent(Ino(7), part(7, 10)),
    ]);
    let model = ModelEntry { number: 1, id: [3; 32], engine: 0, name: "m".into() };
    w.batch(&[
        Record::PutModel(model),
        Record::Punch { ino: Ino(2), off: 2, len: 3 },
        name(1, b"gone", 2, libc::S_IFREG),
        Record::RenameDirent {
            parent: Ino(1),
            from: b"gone".to_vec(),
            name: b"moved".to_vec(),
            ino: Ino(2),
            kind: libc::S_IFREG,
        },
        Record::DelDirent { parent: Ino(1), name: b"moved".to_vec() },
    ]);
    let bytes = w.log.bytes.clone();
    if let Ok(side) = sidecar::make(level(ecc), stamp(ecc), 1, &bytes)
        && side.len() < 40_000
    {
        w.put(8, &side);
    }
    w.put(6, &[0]);
    let moved = w.data(0, raw, b"hello world");
    w.batch(&[
        Record::Move { from: raw_at, to: moved },
        Record::DelXattr(Ino(2), b"user.a".to_vec()),
        Record::PutInode(Ino(2), Attr { nlink: 0, ..attr(reg, 11) }),
        Record::DelInode(Ino(4)),
    ]);
    let mut totals = Out::default();
    Totals { last_ino: 9, inodes: 4, ..Totals::default() }.encode(&mut totals);
    w.batch(&[Record::Shutdown {
        index: "index".into(),
        digest: [4; 32],
        since_checkpoint: 1,
        checkpoint: (1, 2),
        totals: totals.0,
    }]);
    w.out
}

/// Inputs of [`super::log`].
pub fn logs() -> Vec<Vec<u8>> {
    (0..3).map(store).collect()
}

/// A log whose checkpoint says that this was the last inode number.
#[cfg(test)]
pub fn with_last_ino(last_ino: u64) -> Vec<u8> {
    let mut w = Writing::new(0);
    w.checkpoint(&Totals { last_ino, ..Totals::default() });
    w.out
}

/// Inputs of [`super::segment`].
pub fn segments() -> Vec<Vec<u8>> {
    let one = |ecc: u8| {
        let mut w = Writing::new(ecc);
        w.checkpoint(&Totals::default());
        let h = header(2, 0, Encoding::Raw, b"hello world", 0);
        let at = w.data(0, h, b"hello world");
        w.batch(&[Record::PutExtent(Ino(2), extent(&h, at))]);
        w.put(7, &[0; 100]);
        w.batch(&[Record::DelInode(Ino(2))]);
        let mut lines = Out::default();
        lines.u32(at.offset).u32(at.len).u8(0);
        w.put(5, &lines.0);
        let side = sidecar::make(level(ecc), stamp(ecc), 1, &w.log.bytes).unwrap_or_default();
        let mut out = vec![1 | ecc << 1];
        out.extend_from_slice(&(side.len() as u16).to_le_bytes());
        out.extend_from_slice(&side);
        out.extend_from_slice(&w.log.bytes[SEGMENT_HEADER..]);
        out
    };
    (0..3).map(one).collect()
}

/// Inputs of [`super::one_frame`].
pub fn frames() -> Vec<Vec<u8>> {
    let one = |code: Code| {
        let h = Header { code, ..header(2, 5, Encoding::Raw, b"hello world", 7) };
        h.frame(b"hello world")
    };
    [Code::None, Code::Two, Code::Four].map(one).to_vec()
}
