//! The log: segment files, and the writer that appends frames and groups to them.

use super::api::{Result, StoreError};
use super::frame::{self, HEADER, Header, Kind, meta_frame, ours, squeeze, tag};
use super::io::{Blob, Volume, read_up_to};
use super::record::{Change, GROUP_MAX, Group, In, Out, unsqueeze};
use super::superblock::{SEGMENT_HEADER, SegmentHeader};
use crate::types::FrameRef;
use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

/// A segment is sealed when the next frame would take it beyond this many bytes.
/// (Small in unit tests, so that histories span many segments.)
pub const SEGMENT_MAX: u64 = if cfg!(test) { 32 << 10 } else { 64 << 20 };
/// Bytes gathered in memory before they are handed to the operating system.
const BUFFER: usize = 4 << 20;
/// A group is closed once its changes have this many bytes.
const GROUP_SOFT: usize = 1 << 20;
/// How long a deleted segment stays readable.
const GRACE: Duration = Duration::from_secs(30);
/// Room is allocated in steps of this many bytes.
const STEP: u64 = 8 << 20;
/// Room kept for changes that free space, so that a full disk can be emptied.
const RESERVE: u64 = 2 << 20;

/// File name of a segment.
pub fn segment_path(number: u32) -> String {
    format!("segments/{number:08}.seg")
}

/// An error of a system call on a segment.
pub fn io_error(what: &str, number: u32, source: io::Error) -> StoreError {
    let what = format!("{what} {}", segment_path(number));
    match source.raw_os_error() {
        Some(libc::ENOSPC | libc::EDQUOT) => {
            StoreError::NoSpace { path: segment_path(number), detail: what }
        }
        _ => StoreError::Io { what, source },
    }
}

/// A segment file and its length.
#[derive(Debug, Clone)]
pub struct Segment {
    /// The file.
    pub blob: Arc<dyn Blob>,
    /// Bytes in it, buffered ones included.
    pub len: u64,
}

/// All segments; readers share it with the writer.
#[derive(Debug)]
pub struct Segments {
    /// The store's files.
    pub volume: Arc<dyn Volume>,
    /// What the store's own metadata frames carry, see [`tag`].
    pub tag: u64,
    map: RwLock<BTreeMap<u32, Segment>>,
    /// Deleted lately; readers that looked a frame up before may still come for it.
    gone: Mutex<Vec<(Instant, u32, Segment)>>,
    /// The writer's segment (upper half) and how much of it is in the file (lower half).
    written: AtomicU64,
}

impl Segments {
    /// Opens all segment files.
    pub fn open(volume: Arc<dyn Volume>, uuid: &[u8; 16], write: bool) -> Result<Self> {
        let names = volume
            .list("segments")
            .map_err(|source| StoreError::Io { what: "list segments".into(), source })?;
        let mut map = BTreeMap::new();
        for name in names {
            let Some(number) = name.strip_suffix(".seg").and_then(|n| n.parse().ok()) else {
                log::warn!("segments/{name}: not a segment, ignored");
                continue;
            };
            let open = || {
                let blob = volume.open(&format!("segments/{name}"), write)?;
                let len = blob.len()?;
                Ok(Segment { blob, len })
            };
            map.insert(number, open().map_err(|e| io_error("open", number, e))?);
        }
        let tag = tag(uuid);
        Ok(Self {
            volume,
            tag,
            map: RwLock::new(map),
            gone: Mutex::default(),
            written: AtomicU64::new(0),
        })
    }

    /// A segment, if it is there.
    pub fn get(&self, number: u32) -> Option<Segment> {
        self.map.read().unwrap_or_else(PoisonError::into_inner).get(&number).cloned()
    }

    /// Numbers and lengths, in order.
    pub fn lens(&self) -> Vec<(u32, u64)> {
        let map = self.map.read().unwrap_or_else(PoisonError::into_inner);
        map.iter().map(|(n, s)| (*n, s.len)).collect()
    }

    /// Enters a segment or its new length.
    pub fn put(&self, number: u32, segment: Segment) {
        self.map.write().unwrap_or_else(PoisonError::into_inner).insert(number, segment);
    }

    /// Deletes a segment's file. Its frames stay readable for [`GRACE`]: whoever looked an extent
    /// up before the cleaner moved it need not look again.
    pub fn remove(&self, number: u32) -> Result<()> {
        let old = self.map.write().unwrap_or_else(PoisonError::into_inner).remove(&number);
        if let Some(old) = old {
            let mut gone = self.gone.lock().unwrap_or_else(PoisonError::into_inner);
            gone.push((Instant::now(), number, old));
        }
        self.volume.remove(&segment_path(number)).map_err(|e| io_error("remove", number, e))
    }

    /// Closes files that were deleted more than [`GRACE`] ago, which frees their room.
    pub fn forget_gone(&self) {
        let mut gone = self.gone.lock().unwrap_or_else(PoisonError::into_inner);
        gone.retain(|(at, ..)| at.elapsed() < GRACE);
    }

    fn lately(&self, number: u32) -> Option<Segment> {
        let gone = self.gone.lock().unwrap_or_else(PoisonError::into_inner);
        gone.iter().find(|(_, n, _)| *n == number).map(|(.., s)| s.clone())
    }

    /// Makes the segments' names durable.
    pub fn sync_names(&self) -> Result<()> {
        let what = || "fsync segments".to_string();
        self.volume.sync_dir("segments").map_err(|source| StoreError::Io { what: what(), source })
    }

    /// True if these bytes may still be in the writer's buffer only.
    pub fn buffered(&self, f: FrameRef) -> bool {
        let w = self.written.load(Ordering::Acquire);
        (w >> 32) as u32 == f.segment && u64::from(f.offset) + u64::from(f.len) > w & 0xffff_ffff
    }

    /// A frame's bytes from its file.
    pub fn read(&self, f: FrameRef) -> Result<Vec<u8>> {
        let damaged = |reason: &str| StoreError::Damaged {
            segment: f.segment,
            offset: f.offset,
            reason: reason.into(),
        };
        let segment = self.get(f.segment).or_else(|| self.lately(f.segment));
        let segment = segment.ok_or_else(|| damaged("the segment is missing"))?;
        let bytes = read_up_to(&*segment.blob, f.offset.into(), f.len as usize)
            .map_err(|e| io_error("read", f.segment, e))?;
        if bytes.len() == f.len as usize {
            Ok(bytes)
        } else {
            Err(damaged("the segment ends before it"))
        }
    }
}

/// Checks a frame's bytes.
pub fn checked(f: FrameRef, bytes: &[u8]) -> Result<Header> {
    frame::check(bytes).map_err(|reason| StoreError::Damaged {
        segment: f.segment,
        offset: f.offset,
        reason,
    })
}

/// One line of a segment's summary: a frame's place and kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Line {
    /// Where it lies.
    pub frame: FrameRef,
    /// What it is for.
    pub kind: Kind,
}

/// The summary of a segment: from its footer, or by walking its frames from `from` on. Also says
/// where the last readable frame ends. Stretches that are no frames are logged and stepped over.
pub fn summary(segments: &Segments, number: u32, from: u64) -> Result<(Vec<Line>, u64)> {
    let Some(Segment { blob, len }) = segments.get(number) else { return Ok((Vec::new(), 0)) };
    let read =
        |at: u64, n: usize| read_up_to(&*blob, at, n).map_err(|e| io_error("read", number, e));
    if let Some(lines) = footer(&read, segments.tag, number, len)? {
        let lines = lines.into_iter().filter(|l| u64::from(l.frame.offset) >= from).collect();
        return Ok((lines, len));
    }
    let mut lines = Vec::new();
    let (mut at, mut end) = (from, from);
    while at + HEADER as u64 <= len {
        let header = Header::first(&read(at, HEADER)?);
        let fits = |h: &Header| at + u64::from(h.frame_len()) <= len && ours(h, segments.tag);
        if let Some(h) = header.filter(fits) {
            let frame = FrameRef { segment: number, offset: at as u32, len: h.frame_len() };
            lines.push(Line { frame, kind: h.kind });
            at += u64::from(h.frame_len());
            end = at;
            continue;
        }
        let Some(found) = next_frame(&read, segments.tag, at, len)? else { break };
        match found {
            Found::Whole(h) => {
                let frame = FrameRef { segment: number, offset: at as u32, len: h.frame_len() };
                log::error!("{}: first header at {at} is damaged", segment_path(number));
                lines.push(Line { frame, kind: h.kind });
                at += u64::from(h.frame_len());
                end = at;
            }
            Found::At(next) => {
                log::error!("{}: no frame at {at}..{next}, stepped over", segment_path(number));
                at = next;
            }
        }
    }
    Ok((lines, end))
}

type ReadAt<'a> = &'a dyn Fn(u64, usize) -> Result<Vec<u8>>;

/// What follows a place without a readable first header.
enum Found {
    /// The frame that begins there, by its second header.
    Whole(Header),
    /// Where to go on.
    At(u64),
}

/// The next readable header after `from`, first or second.
fn next_frame(read: ReadAt<'_>, tag: u64, from: u64, len: u64) -> Result<Option<Found>> {
    const WINDOW: usize = 1 << 20;
    let mut at = from + 1;
    while at + HEADER as u64 <= len {
        let bytes = read(at, WINDOW)?;
        for i in 0..bytes.len().saturating_sub(HEADER - 1) {
            let here = at + i as u64;
            if Header::first(&bytes[i..]).is_some_and(|h| ours(&h, tag)) {
                return Ok(Some(Found::At(here)));
            }
            if let Some(h) = Header::second(&bytes[i..]).filter(|h| ours(h, tag)) {
                let end = here + HEADER as u64;
                let whole = end.checked_sub(h.frame_len().into()) == Some(from);
                return Ok(Some(if whole { Found::Whole(h) } else { Found::At(end) }));
            }
        }
        at += (bytes.len().saturating_sub(HEADER - 1)).max(1) as u64;
    }
    Ok(None)
}

fn footer(read: ReadAt<'_>, tag: u64, number: u32, len: u64) -> Result<Option<Vec<Line>>> {
    let Some(at) = len.checked_sub(HEADER as u64) else { return Ok(None) };
    let is_footer = |h: &Header| h.kind == Kind::Footer && ours(h, tag);
    let Some(h) = Header::second(&read(at, HEADER)?).filter(is_footer) else { return Ok(None) };
    let Some(start) = len.checked_sub(h.frame_len().into()) else { return Ok(None) };
    let bytes = read(start, h.frame_len() as usize)?;
    if frame::check(&bytes).is_err() {
        return Ok(None);
    }
    let parse = || {
        let body = unsqueeze(h.form, &bytes[HEADER..bytes.len() - HEADER], h.plain_len)?;
        let mut i = In(&body);
        let mut lines = Vec::new();
        while !i.0.is_empty() {
            let (offset, len) = (i.u32()?, i.u32()?);
            let kind = match i.u8()? {
                0 => Kind::Data,
                1 => Kind::Primer,
                2 => Kind::Group,
                3 => Kind::Checkpoint,
                4 => Kind::CheckpointEnd,
                _ => return None,
            };
            lines.push(Line { frame: FrameRef { segment: number, offset, len }, kind });
        }
        Some(lines)
    };
    Ok(parse())
}

/// Appends to the last segment. One at a time, behind the store's writer lock.
#[derive(Debug)]
pub struct Writer {
    segments: Arc<Segments>,
    uuid: [u8; 16],
    number: u32,
    blob: Arc<dyn Blob>,
    /// Bytes in the segment, buffered ones included.
    len: u64,
    buffer: Vec<u8>,
    allocated: u64,
    lines: Vec<Line>,
    /// Segments before this one that are not durable yet.
    unsynced: Vec<(u32, Arc<dyn Blob>)>,
    /// Sequence number of the last closed group.
    pub seq: u64,
    /// Chain hash after it.
    pub chain: u64,
    /// Changes of the open group.
    changes: Out,
    /// Bytes of groups since the last checkpoint.
    pub since_checkpoint: u64,
    /// Why nothing can be written any more.
    failed: Option<String>,
}

impl Writer {
    /// Goes on after byte `len` of segment `number`, whose frames are `lines`.
    pub fn resume(
        segments: Arc<Segments>,
        uuid: [u8; 16],
        number: u32,
        len: u64,
        lines: Vec<Line>,
    ) -> Result<Self> {
        let segment = segments
            .get(number)
            .ok_or_else(|| StoreError::Refused(format!("{} is missing", segment_path(number))))?;
        segments.written.store(u64::from(number) << 32 | len, Ordering::Release);
        Ok(Self {
            segments,
            uuid,
            number,
            blob: segment.blob,
            len,
            buffer: Vec::new(),
            allocated: len,
            lines,
            unsynced: Vec::new(),
            seq: 0,
            chain: 0,
            changes: Out::default(),
            since_checkpoint: 0,
            failed: None,
        })
    }

    /// Creates a segment and writes its header; its name is durable on return.
    pub fn create_segment(segments: &Segments, header: SegmentHeader) -> Result<Arc<dyn Blob>> {
        let number = header.number;
        let make = || {
            let blob = segments.volume.create(&segment_path(number))?;
            blob.write_at(&header.encode(), 0)?;
            Ok(blob)
        };
        let blob: Arc<dyn Blob> = make().map_err(|e| io_error("create", number, e))?;
        let segment = Segment { blob: Arc::clone(&blob), len: SEGMENT_HEADER as u64 };
        segments.put(number, segment);
        segments.sync_names()?;
        Ok(blob)
    }

    /// What metadata frames carry.
    pub fn tag(&self) -> u64 {
        self.segments.tag
    }

    /// Number of the segment being written.
    pub fn number(&self) -> u32 {
        self.number
    }

    /// Fails if an earlier write failed.
    pub fn usable(&self) -> Result<()> {
        match &self.failed {
            None => Ok(()),
            Some(why) => Err(StoreError::Io {
                what: format!("the store takes no writes since: {why}"),
                source: io::Error::from_raw_os_error(libc::EIO),
            }),
        }
    }

    /// Refuses all writes from now on.
    pub fn fail(&mut self, why: &str) {
        if self.failed.is_none() {
            log::error!("no more writes to the store: {why}");
            self.failed = Some(why.into());
        }
    }

    /// Refuses all writes from now on, as it should be.
    pub fn shut(&mut self) {
        self.failed = Some("it was closed".into());
    }

    fn or_fail<T>(&mut self, r: Result<T>) -> Result<T> {
        if let Err(e) = &r {
            self.fail(&e.to_string());
        }
        r
    }

    /// True if the open group has changes.
    pub fn has_changes(&self) -> bool {
        !self.changes.0.is_empty()
    }

    /// Makes sure that `bytes` more, and the open group, find room. Changes that free space may
    /// use the reserve. On error nothing has changed.
    pub fn ensure(&mut self, bytes: u64, frees: bool) -> Result<()> {
        if self.buffer.len() >= BUFFER {
            self.flush()?;
        }
        let slack = self.changes.0.len() as u64 + 64 * 1024;
        let need = self.len + bytes + slack;
        let want = if frees { need } else { need + RESERVE };
        if want <= self.allocated {
            return Ok(());
        }
        let steps = want.div_ceil(STEP) * STEP;
        for end in [steps, want] {
            match self.blob.allocate(end) {
                Ok(()) => {
                    self.allocated = end;
                    return Ok(());
                }
                Err(e) if end == want => return Err(io_error("extend", self.number, e)),
                Err(_) => {}
            }
        }
        Ok(())
    }

    /// Appends a whole frame; it is in the file after [`Self::flush`].
    pub fn append(&mut self, kind: Kind, bytes: &[u8]) -> Result<FrameRef> {
        let len = bytes.len() as u64;
        if kind != Kind::Footer && self.len + len > SEGMENT_MAX && self.len > SEGMENT_MAX / 4 {
            // On a full disk the segment just grows: better large than lost.
            if self.segments.volume.free_bytes().is_ok_and(|f| f > 2 * (STEP + RESERVE)) {
                self.roll(false)?;
            }
        }
        if self.len + len > u64::from(u32::MAX) {
            return Err(StoreError::NoSpace {
                path: segment_path(self.number),
                detail: "the segment cannot grow and there is no room for another".into(),
            });
        }
        let frame =
            FrameRef { segment: self.number, offset: self.len as u32, len: bytes.len() as u32 };
        if kind != Kind::Footer {
            self.lines.push(Line { frame, kind });
        }
        self.buffer.extend_from_slice(bytes);
        self.len += len;
        self.segments.put(self.number, Segment { blob: Arc::clone(&self.blob), len: self.len });
        Ok(frame)
    }

    /// True if the buffer should be handed to the operating system.
    pub fn is_full(&self) -> bool {
        self.buffer.len() >= BUFFER
    }

    /// Adds a change to the open group.
    pub fn log(&mut self, change: &Change) {
        change.encode(&mut self.changes);
    }

    /// True if the open group should be closed soon.
    pub fn group_is_full(&self, more: usize) -> bool {
        self.changes.0.len() + more > GROUP_SOFT
    }

    /// Closes the open group, if there is anything in it. `durable`: groups up to this are.
    pub fn close_group(&mut self, durable: u64) -> Result<()> {
        if !self.has_changes() {
            return Ok(());
        }
        let changes = std::mem::take(&mut self.changes.0);
        let group = Group { seq: self.seq + 1, prev: self.chain, durable, changes };
        debug_assert!(group.changes.len() <= GROUP_MAX);
        let (form, payload) = group.encode();
        let plain_len = group.changes.len() + 24;
        let frame =
            meta_frame(self.segments.tag, Kind::Group, group.seq, plain_len, form, &payload);
        let r = self.append(Kind::Group, &frame);
        self.or_fail(r)?;
        self.since_checkpoint += frame.len() as u64;
        self.seq = group.seq;
        self.chain = group.chain();
        Ok(())
    }

    /// Hands the buffer to the operating system. `NoSpace` may be tried again; any other error ends
    /// all writing.
    pub fn flush(&mut self) -> Result<()> {
        let at = self.len - self.buffer.len() as u64;
        let r = self.blob.write_at(&self.buffer, at);
        match r.map_err(|e| io_error("write", self.number, e)) {
            // The buffer stays, nothing is lost: the next flush tries again.
            Err(e @ StoreError::NoSpace { .. }) => return Err(e),
            r => self.or_fail(r)?,
        }
        self.buffer.clear();
        self.segments.written.store(u64::from(self.number) << 32 | self.len, Ordering::Release);
        Ok(())
    }

    /// Seals the segment with its footer and begins another.
    pub fn roll(&mut self, checkpoint: bool) -> Result<()> {
        self.flush()?;
        let mut o = Out::default();
        for l in std::mem::take(&mut self.lines) {
            o.u32(l.frame.offset).u32(l.frame.len).u8(l.kind as u8);
        }
        let (form, plain_len, payload) = squeeze(o.0);
        if payload.len() <= frame::MAX_LEN {
            let tag = self.segments.tag;
            let footer = meta_frame(tag, Kind::Footer, self.seq, plain_len, form, &payload);
            self.append(Kind::Footer, &footer)?;
        }
        let flushed = self.flush();
        self.or_fail(flushed)?;
        // What was allocated beyond the end goes back.
        if let Err(e) = self.blob.truncate(self.len) {
            log::warn!("{}", io_error("trim", self.number, e));
        }
        let number = self.number + 1;
        let header = SegmentHeader { number, uuid: self.uuid, checkpoint };
        let made = Self::create_segment(&self.segments, header);
        let blob = self.or_fail(made)?;
        self.unsynced.push((self.number, std::mem::replace(&mut self.blob, blob)));
        self.number = number;
        self.len = SEGMENT_HEADER as u64;
        self.allocated = self.len;
        self.segments.written.store(u64::from(number) << 32 | self.len, Ordering::Release);
        Ok(())
    }

    /// All files that have to be synced for what was appended to be durable.
    pub fn take_unsynced(&mut self) -> Vec<(u32, Arc<dyn Blob>)> {
        let mut all = std::mem::take(&mut self.unsynced);
        all.push((self.number, Arc::clone(&self.blob)));
        all
    }

    /// Copies buffered bytes, if all of `f` are.
    pub fn peek(&self, f: FrameRef) -> Option<Vec<u8>> {
        let start = self.len - self.buffer.len() as u64;
        let at = u64::from(f.offset).checked_sub(start).filter(|_| f.segment == self.number)?;
        self.buffer.get(at as usize..at as usize + f.len as usize).map(<[u8]>::to_vec)
    }

    /// Gives back what was allocated beyond the end.
    pub fn trim(&mut self) {
        if let Err(e) = self.blob.truncate(self.len) {
            log::warn!("{}", io_error("trim", self.number, e));
        }
    }
}
