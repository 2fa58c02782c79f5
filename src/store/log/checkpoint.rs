//! Namespace checkpoints: the whole table in the log, so that nothing before it is replayed.

use super::footer::summary;
use super::frame::{self, Kind, meta_frame, squeeze};
use super::record::{In, Out, unsqueeze};
use super::segments::Segments;
use super::superblock::SEGMENT_HEADER;
use super::writer::Writer;
use crate::store::api::{Result, StoreError};
use crate::store::index::base::{Base, Change};
use crate::store::index::live::Live;
use crate::store::index::memtable::Table;
use crate::store::index::packed::Packer;
use crate::store::index::state::{State, key};
use crate::store::index::totals::Totals;
use crate::types::Ino;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

/// What keys of inodes begin with.
const INODE: u8 = b'i';
/// Pairs put into the index at a time.
const AT_ONCE: usize = 20_000;
/// Pairs taken from the table at a time.
const PAIRS: usize = 4096;
/// Plaintext of a part, at most; a pair is never split.
const PART: usize = 1 << 20;

/// What a checkpoint's end says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct End {
    /// Parts before it.
    pub parts: u32,
    /// The last batch it contains.
    pub seq: u64,
    /// Chain hash after that batch.
    pub chain: u64,
    /// The totals.
    pub totals: Totals,
    /// Bytes of all its frames; not stored, told from the reading.
    pub len: u64,
}

/// Writes a checkpoint at the head of a new segment. Returns its length in bytes. If it fails for
/// want of room, what was written of it is harmless.
///
/// The hold on the writer keeps the table from changing; readers go on meanwhile.
pub fn write(w: &mut Writer, state: &RwLock<State>, live: &Live) -> Result<u64> {
    w.roll(true)?;
    let mut parts = 0;
    let mut total = 0;
    let mut out = Out::default();
    let mut emit = |w: &mut Writer, out: &mut Out| -> Result<()> {
        let (encoding, plain_len, payload) = squeeze(std::mem::take(&mut out.0));
        let bytes = meta_frame(w.stamp(), Kind::Checkpoint, w.seq, plain_len, encoding, &payload);
        w.ensure(bytes.len() as u64, true)?;
        w.append(Kind::Checkpoint, &bytes)?;
        parts += 1;
        total += bytes.len() as u64;
        Ok(())
    };
    let mut from = Vec::new();
    let mut inodes = 0;
    loop {
        let some = live.pairs(&from, &[0xff], PAIRS, false)?;
        let Some((last, _)) = some.last() else { break };
        from.clone_from(last);
        from.push(0);
        for (k, v) in some {
            inodes += u64::from(k.first() == Some(&INODE));
            out.bytes(&k).bytes(&v);
            if out.0.len() >= PART {
                emit(w, &mut out)?;
            }
        }
    }
    emit(w, &mut out)?;
    // Older segments go on a checkpoint's word, so one that knows less than there is must not end.
    let expected = read(state).totals.inodes;
    if inodes != expected || inodes == 0 {
        let why = format!("a checkpoint would hold {inodes} of {expected} inodes");
        w.fail(&why);
        return Err(StoreError::Index(why));
    }
    // Whoever finds the end believes all that the checkpoint says, so what it refers to has to be on
    // the medium before. It lies in older segments.
    w.sync_older()?;
    let mut o = Out::default();
    o.u32(parts).u64(w.seq).u64(w.chain);
    read(state).totals.encode(&mut o);
    let (encoding, plain_len, payload) = squeeze(o.0);
    let bytes = meta_frame(w.stamp(), Kind::CheckpointEnd, w.seq, plain_len, encoding, &payload);
    w.ensure(bytes.len() as u64, true)?;
    w.append(Kind::CheckpointEnd, &bytes)?;
    Ok(total)
}

fn read(state: &RwLock<State>) -> RwLockReadGuard<'_, State> {
    state.read().unwrap_or_else(PoisonError::into_inner)
}

/// The table that a checkpoint is, its end, and where the batches after it start (segment, offset).
///
/// Over a base in memory it is packed as it is read. Else it is put into the base, once it is known to be
/// whole and to have a root directory; it stays above where there is no room for that.
pub fn load(
    segments: &Segments,
    segment: u32,
    base: &Arc<dyn Base>,
) -> Result<(Table, End, u32, u64)> {
    if !base.is_volatile() {
        return load_into(segments, segment, base);
    }
    let mut above = Vec::new();
    let mut packer = Packer::default();
    let mut put = |k: &[u8], v: &[u8]| {
        // No writer leaves the order of keys.
        if !packer.push(k, v)? {
            above.push((k.to_vec(), v.to_vec()));
        }
        Ok(())
    };
    let (end, segment, offset) = read_pairs(segments, segment, &mut put)?;
    let mut table = Table::over_packed(packer.finish()?);
    for (k, v) in above {
        table.put(k, v);
    }
    Ok((table, end, segment, offset))
}

fn load_into(
    segments: &Segments,
    number: u32,
    base: &Arc<dyn Base>,
) -> Result<(Table, End, u32, u64)> {
    let (mut bytes, mut rooted) = (0, false);
    let root = key(INODE, Ino::ROOT.0);
    let mut count = |k: &[u8], v: &[u8]| {
        bytes += (k.len() + v.len()) as u64;
        rooted |= k == root;
        Ok(())
    };
    let (end, segment, offset) = read_pairs(segments, number, &mut count)?;
    let mut some: Vec<Change> = Vec::new();
    if rooted && segments.has_room_for_index(bytes) {
        let mut put = |k: &[u8], v: &[u8]| {
            some.push((k.to_vec(), Some(v.to_vec())));
            if some.len() >= AT_ONCE {
                base.write(&some)?;
                some.clear();
            }
            Ok(())
        };
        // What is in the base now must not lie under an older checkpoint: this is no error of this one.
        let again = read_pairs(segments, number, &mut put).and_then(|_| base.write(&some));
        again.map_err(|e| StoreError::Index(format!("loading the checkpoint: {e}")))?;
        return Ok((Table::new(Arc::clone(base)), end, segment, offset));
    }
    let mut table = Table::over_nothing(Arc::clone(base));
    let mut put = |k: &[u8], v: &[u8]| {
        table.put(k.to_vec(), v.to_vec());
        Ok(())
    };
    read_pairs(segments, number, &mut put)?;
    Ok((table, end, segment, offset))
}

/// Takes a key and its value.
type Put<'a> = dyn FnMut(&[u8], &[u8]) -> Result<()> + 'a;

/// Reads the checkpoint that begins in `segment`, part by part. The error says why it cannot be used.
fn read_pairs(segments: &Segments, segment: u32, put: &mut Put<'_>) -> Result<(End, u32, u64)> {
    let broken = |reason: &str| StoreError::Damaged {
        segment,
        offset: SEGMENT_HEADER as u32,
        reason: format!("checkpoint: {reason}"),
    };
    let (mut parts, mut len) = (0, 0);
    let mut number = segment;
    loop {
        let (lines, _) = summary(segments, number, SEGMENT_HEADER as u64)?;
        if lines.is_empty() {
            return Err(broken("it has no end"));
        }
        for l in lines {
            if matches!(l.kind, Kind::Footer | Kind::Addition) {
                continue;
            }
            if !matches!(l.kind, Kind::Checkpoint | Kind::CheckpointEnd) {
                return Err(broken("it was not finished"));
            }
            let (h, bytes) = segments.frame(l.frame)?;
            len += bytes.len() as u64;
            let body = unsqueeze(h.meta.encoding, h.payload(&bytes), h.meta.plain_len)
                .ok_or_else(|| broken("part"))?;
            let mut i = In(&body);
            if l.kind == Kind::CheckpointEnd {
                let end = (|| {
                    let (parts, seq, chain) = (i.u32()?, i.u64()?, i.u64()?);
                    Some(End { parts, seq, chain, totals: Totals::decode(&mut i)?, len })
                })();
                let end =
                    end.filter(|e| e.parts == parts).ok_or_else(|| broken("parts missing"))?;
                return Ok((end, number, u64::from(l.frame.offset) + u64::from(l.frame.len)));
            }
            while !i.0.is_empty() {
                let pair = (|| Some((i.slice()?, i.slice()?)))();
                let (k, v) = pair.ok_or_else(|| broken("unreadable pair"))?;
                put(k, v)?;
            }
            parts += 1;
        }
        number += 1;
    }
}

const _: () = assert!(PART * 8 < frame::MAX_LEN);
