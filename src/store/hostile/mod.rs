//! Stores and parts of stores made of any bytes: what fuzzing, and the tests that mutate good
//! bytes, feed to the decoders.
//!
//! Nearly all mutated bytes fail a checksum, which tests the checksum only. So the checksums are put
//! right here, as whoever forges a store would do, and the bytes reach what lies behind them.

#[cfg(test)]
pub mod seeds;

use super::api::{Ecc, OpenOptions, Superblock};
use super::io::{Blob, Volume};
use super::{Store, lock, open};
use crate::store::log::frame::{self, HEADER, Header, Kind, Stamp};
use crate::store::log::record::{Batch, In, Out};
use crate::store::log::segments::{Segments, segment_path, sidecar_path};
use crate::store::log::superblock::{self, FILES, FORMAT, SEGMENT_HEADER, SegmentHeader};
use crate::store::log::{footer, replay};
use crate::store::repair::ecc::rs::Code;
use crate::store::repair::rebuild;
use crate::store::repair::sidecar::Sidecar;
use crate::store::settings::code;
use crate::types::{Encoding, FrameMeta};
use std::collections::BTreeMap;
use std::io::{Error, ErrorKind, Result as IoResult};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock};

/// Identity of all these stores.
const UUID: [u8; 16] = *b"hostile bytes...";

fn level(byte: u8) -> Ecc {
    match byte % 3 {
        0 => Ecc::None,
        1 => Ecc::Standard,
        _ => Ecc::Archival,
    }
}

fn superblock(ecc: Ecc) -> Superblock {
    Superblock { format: FORMAT, uuid: UUID, block_size: 65536, ecc, model: "fast".into() }
}

fn segment_header(number: u32, checkpoint: bool) -> Vec<u8> {
    SegmentHeader { number, uuid: UUID, checkpoint }.encode()
}

fn put_crc(bytes: &mut [u8]) {
    let (body, crc) = bytes.split_at_mut(HEADER - 4);
    crc.copy_from_slice(&crc32c::crc32c(body).to_le_bytes());
}

/// Puts right the checksums of whatever looks like a frame, and the identity of metadata.
fn seal(bytes: &mut [u8], from: usize) {
    let mut at = from;
    while at + HEADER <= bytes.len() {
        let head = &bytes[at..at + HEADER];
        let payload = usize::from(head[4]) | usize::from(head[5]) << 8 | usize::from(head[6]) << 16;
        let code = Code::from_u8(head[31]).filter(|_| head[0] == 0xf5);
        let len = code.map(|c| payload + c.parity_len(payload) + 2 * HEADER);
        let Some(len) = len.filter(|len| at + len <= bytes.len()) else {
            at += 1;
            continue;
        };
        let frame = &mut bytes[at..at + len];
        let crc = crc32c::crc32c(&frame[HEADER..HEADER + payload]);
        frame[40..44].copy_from_slice(&crc.to_le_bytes());
        if frame[1] & 7 > 1 {
            frame[10..15].copy_from_slice(&UUID[..5]);
        }
        put_crc(&mut frame[..HEADER]);
        let (first, second) = frame.split_at_mut(len - HEADER);
        second.copy_from_slice(&first[..HEADER]);
        second[0] = 0xf6;
        put_crc(second);
        at += len;
    }
}

/// A frame of any bytes is refused, or read; and a good one hit anywhere is refused, or what it was.
pub fn one_frame(bytes: &[u8]) {
    let _ = (Header::first(bytes), Header::second(bytes), frame::check(bytes));
    let mut whole = bytes.to_vec();
    if frame::repair(&mut whole).is_err() {
        assert!(whole == bytes);
    }
    let mut sealed = bytes.to_vec();
    seal(&mut sealed, 0);
    if let Ok((h, _)) = frame::repair(&mut sealed) {
        assert!(frame::check(&sealed).is_ok_and(|c| c == h));
    }
    // Pairs of bytes say where a good frame is hit and with what.
    let (hits, payload) = bytes.split_at(bytes.len().min(16));
    for code in [Code::Two, Code::Four] {
        let good = Header { code, ..data_header(&[0; DATA]) }.frame(payload);
        let mut hurt = good.clone();
        for hit in hits.chunks_exact(2) {
            let at = usize::from(hit[0]) * 257 % good.len();
            hurt[at] ^= hit[1];
        }
        if frame::repair(&mut hurt).is_ok() {
            assert!(hurt == good);
        }
    }
}

/// A segment and a sidecar of any bytes are walked, repaired and summarised.
pub fn segment(bytes: &[u8]) {
    let mut i = In(bytes);
    let head = (|| Some((i.u8()?, i.u16()?)))();
    let Some((flags, cut)) = head else { return };
    let (side, rest) = i.0.split_at(usize::from(cut).min(i.0.len()));
    let (mut side, mut rest) = (side.to_vec(), rest.to_vec());
    if flags & 1 != 0 {
        seal(&mut side, 0);
        seal(&mut rest, 0);
    }
    let ecc = level(flags >> 1 & 3);
    let stamp = Stamp { tag: frame::tag(&UUID), code: code(ecc) };
    let sidecar = Sidecar::read(side.clone(), stamp, 1);
    let mut whole = segment_header(1, flags & 64 != 0);
    whole.extend_from_slice(&rest);
    let found = rebuild::file(&mut whole.clone(), SEGMENT_HEADER, stamp.tag, Some(&sidecar));
    assert!(found.whole.iter().all(|(at, _)| *at >= SEGMENT_HEADER));
    let volume = Files::default();
    volume.put(&segment_path(1), whole);
    volume.put(&sidecar_path(1, sidecar.covered()), side);
    let Ok(segments) = Segments::open(Arc::new(volume), &superblock(ecc), true) else { return };
    let len = segments.get(1).map_or(0, |s| s.len);
    let _ = segments.examine(1, len);
    let _ = replay::shutdown_record(&segments);
    if let Ok((lines, _)) = footer::summary(&segments, 1, SEGMENT_HEADER as u64) {
        for l in lines {
            let _ = segments.frame(l.frame);
        }
    }
}

/// Longest plaintext that a frame of a [`log`] claims: decoding takes time in proportion, of forged
/// bytes too.
const LONGEST: u32 = 128 << 10;

/// Bytes of a data frame's header fields in a [`log`] record.
const DATA: usize = 36;

fn data_header(fields: &[u8]) -> Header {
    let mut i = In(fields);
    let mut word =
        |n| i.take(n).unwrap_or_default().iter().rev().fold(0, |v, b| v << 8 | u64::from(*b));
    let (encoding, flags) = (word(1) as u8 & 3, word(1));
    let mut meta = FrameMeta {
        encoding: Encoding::from_u8(encoding).unwrap_or(Encoding::Raw),
        staged: flags & 1 == 1,
        shared: flags & 2 == 2,
        model: word(2) as u16,
        plain_len: (word(3) as u32).min(LONGEST),
        ..FrameMeta::default()
    };
    let (ino, off) = (word(5), word(6));
    (meta.generation, meta.primer) = (word(5), word(5));
    Header {
        kind: Kind::Data,
        payload_len: 0,
        ino,
        off,
        meta,
        code: Code::None,
        plain_hash: word(8),
        payload_crc: 0,
    }
}

/// A log of any records, each a kind (u8), a length (u24) and that many bytes; the first byte of all
/// is the store's level. Kinds: 0 data, 1 primer (header fields, payload), 2 a batch's records, 3 part
/// and 4 end of a checkpoint, 5 footer, 6 the next segment, 7 bytes as they are, 8 the sidecar of
/// what there is of the segment. Sequence, chain and checksums are put right.
#[derive(Debug, Default)]
struct Log {
    ecc: u8,
    files: BTreeMap<String, Vec<u8>>,
    number: u32,
    bytes: Vec<u8>,
    parts: u32,
    seq: u64,
    chain: u64,
}

impl Log {
    fn next_segment(&mut self, checkpoint: bool) {
        let done = std::mem::replace(&mut self.bytes, segment_header(self.number + 1, checkpoint));
        if self.number > 0 {
            self.files.insert(segment_path(self.number), done);
        }
        self.number += 1;
    }

    fn frame(&mut self, header: Header, payload: &[u8]) {
        if payload.len() <= frame::MAX_LEN {
            let code = code(level(self.ecc));
            self.bytes.extend(Header { code, ..header }.frame(payload));
        }
    }

    fn meta(&mut self, kind: Kind, payload: &[u8]) {
        let stamp = Stamp { tag: frame::tag(&UUID), code: code(level(self.ecc)) };
        let frame = frame::meta_frame(stamp, kind, self.seq, payload.len(), Encoding::Raw, payload);
        self.bytes.extend(frame);
    }

    fn record(&mut self, kind: u8, body: &[u8]) {
        let fields = body.len().min(DATA);
        match kind % 9 {
            0 => self.frame(data_header(&body[..fields]), &body[fields..]),
            1 => {
                let header = Header { kind: Kind::Primer, ..data_header(&body[..fields]) };
                self.frame(header, &body[fields..]);
            }
            2 => {
                let (seq, prev, durable) = (self.seq + 1, self.chain, self.seq);
                let batch = Batch { seq, prev, durable, changes: body.to_vec() };
                let mut o = Out::default();
                o.u64(seq).u64(prev).u64(durable);
                o.0.extend_from_slice(body);
                self.meta(Kind::Batch, &o.0);
                (self.seq, self.chain) = (seq, batch.chain());
            }
            3 => {
                self.parts += 1;
                self.meta(Kind::Checkpoint, body);
            }
            4 => {
                let mut o = Out::default();
                o.u32(std::mem::take(&mut self.parts)).u64(self.seq).u64(self.chain);
                o.0.extend_from_slice(body);
                self.meta(Kind::CheckpointEnd, &o.0);
            }
            5 => self.meta(Kind::Footer, body),
            6 => self.next_segment(body.first().is_some_and(|b| b & 1 == 1)),
            7 => self.bytes.extend_from_slice(body),
            _ => {
                let mut side = body.to_vec();
                seal(&mut side, 0);
                self.files.insert(sidecar_path(self.number, self.bytes.len() as u64), side);
            }
        }
    }
}

/// Opens a store of any records (see [`Log`]); it is read-only and has no index.
pub fn log(bytes: &[u8]) -> Option<Arc<Store>> {
    let (ecc, rest) = bytes.split_first()?;
    let mut log = Log { ecc: *ecc, ..Log::default() };
    log.next_segment(true);
    let mut i = In(rest);
    while let Some(kind) = i.u8() {
        let len = i.take(3)?.iter().rev().fold(0, |n, b| n << 8 | usize::from(*b));
        log.record(kind, i.take(len.min(i.0.len()))?);
    }
    log.next_segment(false);
    let volume = Files::default();
    for (path, bytes) in log.files {
        volume.put(&path, bytes);
    }
    for file in FILES {
        volume.put(file, superblock::encode(&superblock(level(*ecc))));
    }
    let (options, index) = (OpenOptions { read_only: true }, open::IndexFrom::Directory);
    open::open_how(place(), &options, Arc::new(volume), index, true).ok()
}

/// Asks a store everything that it can be asked.
pub fn question(store: &Store) {
    let numbers = store.segment_numbers();
    for number in numbers.into_iter().take(64) {
        let _ = store.check_segment(number, true);
    }
    let _ = (store.check_superblocks(false), store.index_is_whole(), store.scrub_position());
    let _ = (store.stats(), store.free_bytes(), store.models(), store.waiting());
    let _ = (store.orphans(), store.staged_inodes(), store.live_frames());
    let _ = (store.salvage(false), store.check_namespace(false));
    let _ = (store.next_ino(), store.next_generation());
}

/// A directory to lock.
fn place() -> &'static PathBuf {
    static PLACE: OnceLock<PathBuf> = OnceLock::new();
    PLACE.get_or_init(|| {
        let dir = std::env::temp_dir().join(format!("lmfs-hostile-{}", std::process::id()));
        let _ = std::fs::create_dir_all(&dir);
        dir
    })
}

/// Files in memory.
#[derive(Debug, Default)]
struct Files(Mutex<BTreeMap<String, Arc<Bytes>>>);

#[derive(Debug, Default)]
struct Bytes(Mutex<Vec<u8>>);

impl Files {
    fn put(&self, path: &str, bytes: Vec<u8>) {
        lock(&self.0).insert(path.into(), Arc::new(Bytes(Mutex::new(bytes))));
    }
}

impl Volume for Files {
    fn create(&self, path: &str) -> IoResult<Arc<dyn Blob>> {
        self.put(path, Vec::new());
        self.open(path, true)
    }
    fn open(&self, path: &str, _write: bool) -> IoResult<Arc<dyn Blob>> {
        match lock(&self.0).get(path).cloned() {
            Some(blob) => Ok(blob),
            None => Err(ErrorKind::NotFound.into()),
        }
    }
    fn list(&self, dir: &str) -> IoResult<Vec<String>> {
        let prefix = format!("{dir}/");
        let name = |k: &String| k.strip_prefix(&prefix).map(String::from);
        Ok(lock(&self.0).keys().filter_map(name).collect())
    }
    fn mkdir(&self, _: &str) -> IoResult<()> {
        Ok(())
    }
    fn rename(&self, from: &str, to: &str) -> IoResult<()> {
        let mut files = lock(&self.0);
        let blob = files.remove(from).ok_or_else(|| Error::from(ErrorKind::NotFound))?;
        files.insert(to.into(), blob);
        Ok(())
    }
    fn remove(&self, path: &str) -> IoResult<()> {
        lock(&self.0).remove(path).map(drop).ok_or_else(|| ErrorKind::NotFound.into())
    }
    fn sync_dir(&self, _: &str) -> IoResult<()> {
        Ok(())
    }
    fn free_bytes(&self) -> IoResult<u64> {
        Ok(1 << 40)
    }
}

impl Blob for Bytes {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> IoResult<usize> {
        let bytes = lock(&self.0);
        let from = (offset as usize).min(bytes.len());
        let n = buf.len().min(bytes.len() - from);
        buf[..n].copy_from_slice(&bytes[from..from + n]);
        Ok(n)
    }
    fn write_at(&self, data: &[u8], offset: u64) -> IoResult<()> {
        let mut bytes = lock(&self.0);
        let end = offset as usize + data.len();
        if bytes.len() < end {
            bytes.resize(end, 0);
        }
        bytes[offset as usize..end].copy_from_slice(data);
        Ok(())
    }
    fn sync(&self) -> IoResult<()> {
        Ok(())
    }
    fn truncate(&self, len: u64) -> IoResult<()> {
        lock(&self.0).resize(len as usize, 0);
        Ok(())
    }
    fn len(&self) -> IoResult<u64> {
        Ok(lock(&self.0).len() as u64)
    }
    fn allocate(&self, _: u64) -> IoResult<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::mutate::mutated;

    #[test]
    fn mutated_frames_are_refused_or_repaired() {
        let seeds = seeds::frames();
        for bytes in seeds.iter().cloned().chain(mutated(&seeds, 20_000)) {
            one_frame(&bytes);
        }
    }

    #[test]
    fn numbers_that_no_store_reaches_are_refused() {
        assert!(log(&seeds::with_last_ino(1 << 61)).is_some());
        assert!(log(&seeds::with_last_ino(u64::MAX)).is_none());
    }

    #[test]
    fn mutated_segments_are_walked() {
        let seeds = seeds::segments();
        for bytes in seeds.iter().cloned().chain(mutated(&seeds, 2000)) {
            segment(&bytes);
        }
    }

    /// `LMFS_SEEDS=fuzz/corpus cargo test --lib write_seeds -- --ignored` begins the corpora anew.
    #[test]
    #[ignore = "writes files"]
    fn write_seeds() {
        let place = PathBuf::from(std::env::var_os("LMFS_SEEDS").unwrap());
        let all =
            [("frame", seeds::frames()), ("segment", seeds::segments()), ("log", seeds::logs())];
        for (target, seeds) in all {
            std::fs::create_dir_all(place.join(target)).unwrap();
            for (n, seed) in seeds.iter().enumerate() {
                std::fs::write(place.join(target).join(format!("seed{n}")), seed).unwrap();
            }
        }
    }
}
