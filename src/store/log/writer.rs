//! The writer: appends frames and batches to the last segment.

use super::footer::Line;
use super::frame::{self, Kind, Stamp, meta_frame, squeeze};
use super::record::{BATCH_MAX, Batch, Out, Record};
use super::segments::{Segment, Segments, io_error, segment_path};
use super::superblock::{SEGMENT_HEADER, SegmentHeader};
use crate::store::api::{Result, StoreError};
use crate::store::io::Blob;
use crate::types::FrameRef;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// A segment is sealed when the next frame would take it beyond this many bytes.
/// (Small in unit tests, so that histories span many segments.)
pub const SEGMENT_MAX: u64 = if cfg!(test) { 32 << 10 } else { 64 << 20 };
/// Bytes gathered in memory before they are handed to the operating system.
const BUFFER: usize = 4 << 20;
/// A batch is closed once its changes have this many bytes.
const BATCH_SOFT: usize = 1 << 20;
/// Room is allocated in steps of this many bytes.
const STEP: u64 = if cfg!(test) { 64 << 10 } else { 8 << 20 };
/// Room kept for changes that free space, so that a full disk can be emptied.
pub const RESERVE: u64 = if cfg!(test) { 256 << 10 } else { 2 << 20 };
/// A file that holds room and no bytes. It is deleted when a change that frees space finds none.
const RESERVE_FILE: &str = "reserve";

/// A store's life, from the writer's side.
#[derive(Debug)]
enum Life {
    /// Takes changes.
    Open,
    /// Takes no more changes; those it has become durable.
    Closing,
    /// Ended well.
    Closed,
    /// Takes nothing any more, for this reason.
    Failed(String),
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
    allocated: u64,
    /// Bytes that are set aside in a file.
    reserve: u64,
    lines: Vec<Line>,
    /// Segments before this one that are not durable yet.
    unsynced: Vec<(u32, Arc<dyn Blob>)>,
    /// From this place on (segment, offset) the log may not be on the medium although the system says so. It is
    /// written again before any more of it is called durable.
    doubtful: Option<(u32, u64)>,
    /// Sequence number of the last closed batch.
    pub seq: u64,
    /// Chain hash after it.
    pub chain: u64,
    /// Changes of the open batch.
    changes: Out,
    life: Life,
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
        segments.set_written(number, len);
        Ok(Self {
            segments,
            uuid,
            number,
            blob: segment.blob,
            len,
            allocated: len,
            reserve: 0,
            lines,
            unsynced: Vec::new(),
            doubtful: None,
            seq: 0,
            chain: 0,
            changes: Out::default(),
            life: Life::Open,
        })
    }

    /// Takes it that the log may not be durable from a place on (segment, offset), whatever a sync says.
    pub fn doubt(&mut self, from: (u32, u64)) {
        self.doubtful = Some(from);
    }

    /// Makes durable what was doubtful. Without room for that it stays so, and nothing has changed.
    pub fn write_again(&mut self) -> Result<()> {
        if let Some(from) = self.doubtful {
            match self.segments.write_again(from) {
                Err(e @ StoreError::NoSpace { .. }) => return Err(e),
                written => self.or_fail(written)?,
            }
            self.doubtful = None;
        }
        Ok(())
    }

    /// Creates a segment and writes its header; its name is durable on return. If there is no room
    /// for it, nothing has changed.
    fn create_segment(segments: &Segments, header: SegmentHeader) -> Result<Arc<dyn Blob>> {
        let number = header.number;
        let path = segment_path(number);
        let make = || {
            let blob = match segments.volume.create(&path) {
                // An attempt failed, and so did removing what it left: nothing is in there.
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
                    let blob = segments.volume.open(&path, true)?;
                    blob.truncate(0)?;
                    blob
                }
                created => created?,
            };
            if let Err(e) = blob.write_at(&header.encode(), 0) {
                let _ = segments.volume.remove(&path);
                return Err(e);
            }
            Ok(blob)
        };
        let blob = make().map_err(|e| io_error("create", number, e))?;
        segments.sync_names()?;
        let segment = Segment { blob: Arc::clone(&blob), len: SEGMENT_HEADER as u64 };
        segments.put(number, segment);
        Ok(blob)
    }

    /// What metadata frames carry.
    pub fn stamp(&self) -> Stamp {
        self.segments.stamp
    }

    /// Segment being written (upper half) and bytes in its file (lower half).
    pub fn position(&self) -> u64 {
        u64::from(self.number) << 32 | (self.len - self.segments.tail.len() as u64)
    }

    /// Number of the segment being written.
    pub fn number(&self) -> u32 {
        self.number
    }

    /// Fails if an earlier write failed, or the log has ended.
    pub fn usable(&self) -> Result<()> {
        let refused = |why: &str, errno| {
            let source = io::Error::from_raw_os_error(errno);
            Err(StoreError::Io { what: why.into(), source })
        };
        match &self.life {
            Life::Open | Life::Closing => Ok(()),
            Life::Failed(why) => {
                refused(&format!("the store takes no writes since: {why}"), libc::EIO)
            }
            Life::Closed => refused("the store is closed", libc::ESHUTDOWN),
        }
    }

    /// Fails unless changes are taken: not while the store is being closed, either.
    pub fn admits(&self) -> Result<()> {
        self.usable()?;
        if matches!(self.life, Life::Closing) {
            return Err(StoreError::Closing);
        }
        Ok(())
    }

    /// Refuses all writes from now on.
    pub fn fail(&mut self, why: &str) {
        if !matches!(self.life, Life::Failed(_)) {
            log::error!("no more writes to the store: {why}");
            self.life = Life::Failed(why.into());
        }
    }

    /// Takes no more changes; what was taken can still be made durable.
    pub fn begin_closing(&mut self) {
        if matches!(self.life, Life::Open) {
            self.life = Life::Closing;
        }
    }

    /// The log has had its last word. A failure stays known.
    pub fn shut(&mut self) {
        if !matches!(self.life, Life::Failed(_)) {
            self.life = Life::Closed;
        }
    }

    fn or_fail<T>(&mut self, r: Result<T>) -> Result<T> {
        if let Err(e) = &r {
            self.fail(&e.to_string());
        }
        r
    }

    /// True if the open batch has changes.
    pub fn has_changes(&self) -> bool {
        !self.changes.0.is_empty()
    }

    /// Makes sure that `bytes` more, and the open batch, find room. Changes that free space may
    /// use the reserve. On error nothing has changed.
    pub fn ensure(&mut self, bytes: u64, frees: bool) -> Result<()> {
        if self.segments.tail.len() >= BUFFER {
            self.flush()?;
        }
        let slack = self.changes.0.len() as u64 + 64 * 1024;
        let need = self.len + bytes + slack;
        let want = if frees { need } else { need + RESERVE };
        if want <= self.allocated {
            return Ok(());
        }
        let extended = self.extend(want, frees);
        self.note_aside();
        extended
    }

    /// Allocates the segment up to `want`, and further where there is plenty of room.
    fn extend(&mut self, want: u64, frees: bool) -> Result<()> {
        // Where room is scarce, none is taken ahead: the cleaner needs it.
        let steps = if self.segments.is_scarce() { want } else { want.div_ceil(STEP) * STEP };
        for end in [steps, want] {
            match self.blob.allocate(end) {
                Ok(()) => {
                    self.allocated = end;
                    return Ok(());
                }
                Err(e) if end == want => {
                    if !(frees && self.open_reserve() && self.blob.allocate(want).is_ok()) {
                        return Err(io_error("extend", self.number, e));
                    }
                    self.allocated = want;
                }
                Err(_) => {}
            }
        }
        Ok(())
    }

    /// Sets room aside, if it is not yet and there is enough: at least for a checkpoint of `len`
    /// bytes.
    pub fn fill_reserve(&mut self, len: u64) {
        let volume = &self.segments.volume;
        let want = RESERVE + len + len / 4;
        if self.reserve > 0 || volume.free_bytes().is_ok_and(|free| free < want + RESERVE) {
            return;
        }
        let fill = || {
            let blob = match volume.open(RESERVE_FILE, true) {
                Err(e) if e.kind() == io::ErrorKind::NotFound => volume.create(RESERVE_FILE)?,
                opened => opened?,
            };
            blob.allocate(want)
        };
        match fill() {
            Ok(()) => self.reserve = want,
            Err(e) => log::debug!("{RESERVE_FILE}: {e}"),
        }
        self.note_aside();
    }

    /// Gives back what was set aside; true if there was anything.
    pub fn open_reserve(&mut self) -> bool {
        self.reserve = 0;
        self.note_aside();
        self.segments.volume.remove(RESERVE_FILE).is_ok()
    }

    /// Says how much the log holds that nothing lies in yet.
    fn note_aside(&self) {
        let ahead = self.allocated.saturating_sub(self.len);
        self.segments.aside.store(self.reserve + ahead, Ordering::Relaxed);
    }

    /// Appends a whole frame; it is in the file after [`Self::flush`].
    pub fn append(&mut self, kind: Kind, bytes: &[u8]) -> Result<FrameRef> {
        let len = bytes.len() as u64;
        // On a small disk segments are small, so that the live part of any one can be moved.
        let max = SEGMENT_MAX.min(self.segments.headroom * 2 / 3);
        if kind != Kind::Footer && self.len + len > max && self.len > max / 4 {
            // On a full disk the segment just grows: better large than lost. What was allocated
            // goes back when it is sealed.
            let back = self.allocated.saturating_sub(self.len);
            let free = self.segments.volume.free_bytes();
            if free.is_ok_and(|f| f + back > len + 2 * RESERVE) {
                match self.roll(false) {
                    Err(StoreError::NoSpace { .. }) => {}
                    rolled => rolled?,
                }
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
        self.segments.tail.push(self.number, self.len, bytes);
        self.segments.flow.appended.fetch_add(len, Ordering::Relaxed);
        self.len += len;
        self.segments.put(self.number, Segment { blob: Arc::clone(&self.blob), len: self.len });
        self.note_aside();
        Ok(frame)
    }

    /// True if the buffer should be handed to the operating system.
    pub fn is_full(&self) -> bool {
        self.segments.tail.len() >= BUFFER
    }

    /// Adds a record to the open batch.
    pub fn log(&mut self, record: &Record) {
        record.encode(&mut self.changes);
    }

    /// True if the open batch should be closed soon.
    pub fn batch_is_full(&self, more: usize) -> bool {
        self.changes.0.len() + more > BATCH_SOFT
    }

    /// Closes the open batch, if there is anything in it. `durable`: batches up to this are.
    pub fn close_batch(&mut self, durable: u64) -> Result<()> {
        if !self.has_changes() {
            return Ok(());
        }
        let changes = std::mem::take(&mut self.changes.0);
        let batch = Batch { seq: self.seq + 1, prev: self.chain, durable, changes };
        debug_assert!(batch.changes.len() <= BATCH_MAX);
        let (encoding, payload) = batch.encode();
        let plain_len = batch.changes.len() + 24;
        let frame =
            meta_frame(self.segments.stamp, Kind::Batch, batch.seq, plain_len, encoding, &payload);
        let r = self.append(Kind::Batch, &frame);
        self.or_fail(r)?;
        self.segments.flow.batches.fetch_add(frame.len() as u64, Ordering::Relaxed);
        self.seq = batch.seq;
        self.chain = batch.chain();
        Ok(())
    }

    /// Hands the buffer to the operating system. `NoSpace` may be tried again; any other error ends
    /// all writing.
    pub fn flush(&mut self) -> Result<()> {
        let tail = &self.segments.tail;
        let mut r = tail.write_to(&*self.blob);
        // What was taken in must get there, be it into the last room.
        if matches!(&r, Err(e) if e.raw_os_error() == Some(libc::ENOSPC)) && self.open_reserve() {
            r = self.segments.tail.write_to(&*self.blob);
        }
        match r.map_err(|e| io_error("write", self.number, e)) {
            // The buffer stays, nothing is lost: the next flush tries again.
            Err(e @ StoreError::NoSpace { .. }) => return Err(e),
            r => self.or_fail(r)?,
        }
        // Who finds that it is written finds it in the file: the mark before the bytes here go.
        self.segments.set_written(self.number, self.len);
        self.segments.tail.clear();
        Ok(())
    }

    /// Seals the segment with its footer and begins another. `NoSpace`: nothing has changed.
    pub fn roll(&mut self, checkpoint: bool) -> Result<()> {
        self.flush()?;
        let number = self.number + 1;
        let header = SegmentHeader { number, uuid: self.uuid, checkpoint };
        // The other one first: if there is no room for it, this one goes on.
        let mut made = Self::create_segment(&self.segments, header);
        if checkpoint && matches!(made, Err(StoreError::NoSpace { .. })) && self.open_reserve() {
            made = Self::create_segment(&self.segments, header);
        }
        let blob = match made {
            Err(e @ StoreError::NoSpace { .. }) => return Err(e),
            made => self.or_fail(made)?,
        };
        self.write_footer()?;
        // What was allocated beyond the end goes back.
        self.trim();
        self.unsynced.push((self.number, std::mem::replace(&mut self.blob, blob)));
        self.number = number;
        self.len = SEGMENT_HEADER as u64;
        self.allocated = self.len;
        self.note_aside();
        self.segments.set_written(number, self.len);
        Ok(())
    }

    /// Ends the segment with its summary. Without room for it, it is done without: what has no
    /// footer is walked.
    fn write_footer(&mut self) -> Result<()> {
        let mut o = Out::default();
        for l in std::mem::take(&mut self.lines) {
            o.u32(l.frame.offset).u32(l.frame.len).u8(l.kind as u8);
        }
        let (encoding, plain_len, payload) = squeeze(o.0);
        if payload.len() > frame::MAX_LEN {
            return Ok(());
        }
        let stamp = self.segments.stamp;
        let footer = meta_frame(stamp, Kind::Footer, self.seq, plain_len, encoding, &payload);
        let before = self.len;
        let written = self.append(Kind::Footer, &footer).and_then(|_| self.flush());
        match written {
            Err(StoreError::NoSpace { .. }) => {
                self.segments.tail.clear();
                self.len = before;
                let segment = Segment { blob: Arc::clone(&self.blob), len: before };
                self.segments.put(self.number, segment);
                Ok(())
            }
            written => self.or_fail(written),
        }
    }

    /// All files that have to be synced for what was appended to be durable. They stay on the list
    /// until [`Self::note_synced`].
    pub fn unsynced(&self) -> Vec<(u32, Arc<dyn Blob>)> {
        let mut all = self.unsynced.clone();
        all.push((self.number, Arc::clone(&self.blob)));
        all
    }

    /// Segments before this one are durable.
    pub fn note_synced(&mut self, number: u32) {
        self.unsynced.retain(|(n, _)| *n >= number);
    }

    /// Makes everything in segments before this one durable, with the hold on the writer.
    pub fn sync_older(&mut self) -> Result<()> {
        self.write_again()?;
        for (number, blob) in self.unsynced.clone() {
            let synced = blob.sync().map_err(|e| io_error("fdatasync", number, e));
            self.or_fail(synced)?;
        }
        self.unsynced.clear();
        Ok(())
    }

    /// Gives back what is allocated ahead, if all that was appended is in the file.
    pub fn trim_ahead(&mut self) {
        if self.admits().is_ok() && self.allocated > self.len && self.segments.tail.len() == 0 {
            self.trim();
            self.allocated = self.len;
            self.note_aside();
        }
    }

    /// Gives back what was allocated beyond the end.
    pub fn trim(&mut self) {
        if let Err(e) = self.blob.truncate(self.len) {
            log::warn!("{}", io_error("trim", self.number, e));
        }
    }
}
