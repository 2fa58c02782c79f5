//! Reading what is damaged: a frame is corrected alone, then by the pages of its segment, and what
//! was put right is written back where it was.
//!
//! In place, because the right bytes are known exactly: a sealed segment stays what it was when it
//! was sealed, its sidecar stays valid, and a crash in the middle leaves damage that the next
//! reader repairs just as well.

use super::damage::Trouble;
use super::ecc::pages::PAGE;
use super::rebuild::{self, Rebuilt};
use super::sidecar::Sidecar;
use crate::store::api::{Result, StoreError, is_distant};
use crate::store::io::{Blob, read_up_to};
use crate::store::lock;
use crate::store::log::frame::{self, Header, Kind};
use crate::store::log::segments::{Segment, Segments, io_error, segment_path, sidecar_path};
use crate::store::log::superblock::{SEGMENT_HEADER, SegmentHeader};
use crate::types::FrameRef;
use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// The bytes of a file from `from` to `end`; what the system cannot read, and what is missing at the
/// end, are zeros. Also whether anything could not be read.
pub fn read_range(blob: &dyn Blob, from: usize, end: usize) -> (Vec<u8>, bool) {
    const STEP: usize = 1 << 20;
    let len = end.saturating_sub(from);
    let mut out = Vec::new();
    if out.try_reserve_exact(len).is_err() {
        return (out, true);
    }
    let mut failed = false;
    while out.len() < len {
        let (at, step) = (out.len(), STEP.min(len - out.len()));
        match read_up_to(blob, (from + at) as u64, step) {
            Ok(bytes) if !bytes.is_empty() => out.extend_from_slice(&bytes),
            Ok(_) => out.resize(len, 0),
            // A server that does not give it: page by page it would be asked as often.
            Err(e) if is_distant(&e) => {
                failed = true;
                out.resize(len, 0);
            }
            Err(_) => {
                for at in (at..at + step).step_by(PAGE) {
                    let n = PAGE.min(len - at);
                    let page = read_up_to(blob, (from + at) as u64, n);
                    failed |= page.is_err();
                    let mut page = page.unwrap_or_default();
                    page.resize(n, 0);
                    out.extend_from_slice(&page);
                }
            }
        }
    }
    (out, failed)
}

/// The first `len` bytes of a file, in the same way.
pub fn read_whole(blob: &dyn Blob, len: usize) -> (Vec<u8>, bool) {
    read_range(blob, 0, len)
}

/// Runs of pages in which two states of a file differ, up to the end of the newer.
pub fn differing(before: &[u8], now: &[u8]) -> Vec<Range<usize>> {
    let mut out: Vec<Range<usize>> = Vec::new();
    for at in (0..now.len()).step_by(PAGE) {
        let end = (at + PAGE).min(now.len());
        if before.get(at..end) == Some(&now[at..end]) {
            continue;
        }
        match out.last_mut() {
            Some(last) if last.end == at => last.end = end,
            _ => out.push(at..end),
        }
    }
    out
}

/// Writes a file's runs back.
pub fn write_back(blob: &dyn Blob, now: &[u8], runs: &[Range<usize>]) -> io::Result<()> {
    runs.iter().try_for_each(|r| blob.write_at(&now[r.clone()], r.start as u64))
}

/// A file with some pages replaced in memory, where they cannot be written. What is appended to the
/// file later lies behind them, in the same page or not, and is read from the file.
#[derive(Debug)]
struct Patched {
    below: Arc<dyn Blob>,
    patch: Mutex<Patch>,
}

#[derive(Debug)]
struct Patch {
    pages: BTreeMap<u64, Vec<u8>>,
    /// Where the patched bytes end; the file may be shorter.
    len: u64,
}

impl Blob for Patched {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let in_page = (offset % PAGE as u64) as usize;
        let want = buf.len().min(PAGE - in_page);
        let patch = lock(&self.patch);
        let page = patch.pages.get(&(offset / PAGE as u64));
        let part = page.and_then(|p| p.get(in_page..)).unwrap_or_default();
        if part.is_empty() {
            // Nobody is to wait for the disk behind it.
            drop(patch);
            return self.below.read_at(&mut buf[..want], offset);
        }
        let n = want.min(part.len());
        buf[..n].copy_from_slice(&part[..n]);
        Ok(n)
    }
    fn write_at(&self, data: &[u8], offset: u64) -> io::Result<()> {
        self.below.write_at(data, offset)
    }
    fn patches(&self) -> u64 {
        lock(&self.patch).pages.len() as u64 + self.below.patches()
    }
    fn write_patches(&self) -> io::Result<()> {
        self.below.write_patches()?;
        let mut patch = lock(&self.patch);
        for (number, page) in &patch.pages {
            self.below.write_at(page, number * PAGE as u64)?;
        }
        patch.pages.clear();
        Ok(())
    }
    fn sync(&self) -> io::Result<()> {
        self.below.sync()
    }
    fn truncate(&self, len: u64) -> io::Result<()> {
        let mut patch = lock(&self.patch);
        self.below.truncate(len)?;
        patch.len = patch.len.min(len);
        patch.pages.retain(|number, page| {
            let left = len.saturating_sub(number * PAGE as u64);
            page.truncate(usize::try_from(left).unwrap_or(PAGE));
            !page.is_empty()
        });
        Ok(())
    }
    fn len(&self) -> io::Result<u64> {
        Ok(self.below.len()?.max(lock(&self.patch).len))
    }
    fn allocate(&self, end: u64) -> io::Result<()> {
        self.below.allocate(end)
    }
}

/// A segment's bytes as they are and as they should be.
#[derive(Debug)]
pub struct Examined {
    /// What could be read.
    pub before: Vec<u8>,
    /// After all repair.
    pub now: Vec<u8>,
    /// What was found.
    pub found: Rebuilt,
    /// Pages that the sidecar knows of, parity included.
    pub pages: u64,
    /// Some of the file, or its sidecar, could not be read at all.
    pub unreadable: bool,
}

impl Segments {
    /// Reads a frame and checks it; corrects it, and what is written, if it has to.
    pub fn frame(&self, f: FrameRef) -> Result<(Header, Vec<u8>)> {
        let failed = match self.read(f) {
            Err(e) if e.is_distant() => return Err(e),
            Err(e) => e,
            Ok(mut bytes) => {
                let reason = match frame::check(&bytes) {
                    Ok(h) => return Ok((h, bytes)),
                    Err(reason) => reason,
                };
                if let Ok((h, _)) = frame::repair(&mut bytes) {
                    log::warn!("{}: frame at {} corrected", segment_path(f.segment), f.offset);
                    self.repaired.fetch_add(1, Ordering::Relaxed);
                    self.replace(f, &bytes);
                    self.known.forget(f);
                    return Ok((h, bytes));
                }
                StoreError::Damaged { segment: f.segment, offset: f.offset, reason }
            }
        };
        if self.get(f.segment).is_some() && self.may_heal(f.segment) {
            if self.heal(f.segment)? {
                let bytes = self.read(f)?;
                if let Ok(h) = frame::check(&bytes) {
                    return Ok((h, bytes));
                }
            }
            lock(&self.hopeless).insert(f.segment, Instant::now());
        }
        Err(failed)
    }

    /// False if repairing the segment did not help a moment ago: it reads the whole segment.
    fn may_heal(&self, number: u32) -> bool {
        const PAUSE: Duration = Duration::from_secs(60);
        lock(&self.hopeless).get(&number).is_none_or(|at| at.elapsed() > PAUSE)
    }

    /// Writes a corrected frame over its damaged self. The next sync makes it durable.
    fn replace(&self, f: FrameRef, bytes: &[u8]) {
        let here = self.write && !self.is_distant(f.segment);
        let Some(segment) = self.get(f.segment).filter(|_| here) else { return };
        if let Err(e) = self.correct(f.segment, &segment, bytes, f.offset.into()) {
            log::warn!("{}", io_error("write", f.segment, e));
        }
    }

    /// The sidecar of a segment, as far as it can be read. An error if it may be there and whole, but
    /// the system does not let us have it now: it must not be taken for lost then.
    pub fn sidecar(&self, number: u32) -> Result<Option<Sidecar>> {
        let Some(side) = lock(&self.sidecars).get(&number).copied() else { return Ok(None) };
        let open = || {
            let blob = self.volume.open(&sidecar_path(number, side.covered), false)?;
            let len = blob.len()?;
            Ok::<_, io::Error>((blob, len))
        };
        let (blob, len) = match open() {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            opened => opened.map_err(|e| io_error("open the sidecar of", number, e))?,
        };
        let (bytes, failed) = read_whole(&*blob, len as usize);
        let mut s = Sidecar::read(bytes, self.stamp, number.into());
        s.hurt |= failed || s.covered() != side.covered;
        self.known.over(number, Trouble::Sidecar);
        Ok(Some(s))
    }

    /// Names a sidecar that cannot be had, once.
    fn name_sidecar(&self, number: u32, e: &StoreError) {
        if self.known.is_news(number, Trouble::Sidecar) {
            log::error!("{e}; the sidecar stays as it is");
        }
    }

    /// Looks at the first `len` bytes of a segment and repairs them in memory.
    pub fn examine(&self, number: u32, len: u64) -> Result<Examined> {
        let Some(segment) = self.get(number) else {
            let source = io::ErrorKind::NotFound.into();
            return Err(io_error("read", number, source));
        };
        let there = segment.blob.len().map_err(|e| io_error("measure", number, e))?;
        let (before, mut unreadable) = read_whole(&*segment.blob, len.min(there) as usize);
        let mut now = before.clone();
        let sidecar = self.sidecar(number).unwrap_or_else(|e| {
            self.name_sidecar(number, &e);
            unreadable = true;
            None
        });
        let found = rebuild::file(&mut now, SEGMENT_HEADER, self.stamp.tag, sidecar.as_ref());
        let mut found = found;
        if SegmentHeader::decode(&now).is_none()
            && let Some(header) = self.header_before(number, &now)
        {
            now[..SEGMENT_HEADER].copy_from_slice(&header);
            found.sidecar_hurt |= sidecar.as_ref().is_some_and(|s| !s.differing(&now).is_empty());
        }
        let pages = sidecar.map_or(0, |s| s.pages());
        Ok(Examined { before, now, found, pages, unreadable })
    }

    /// The header of a segment of which the first frame can be read.
    pub(in crate::store) fn header_before(&self, number: u32, bytes: &[u8]) -> Option<Vec<u8>> {
        let first = bytes.get(SEGMENT_HEADER..).and_then(Header::first);
        let kind = first.filter(|h| frame::ours(h, self.stamp.tag))?.kind;
        let checkpoint = matches!(kind, Kind::Checkpoint | Kind::CheckpointEnd);
        Some(SegmentHeader { number, uuid: self.uuid, checkpoint }.encode())
    }

    /// Writes bytes that were put right over what is damaged. The next sync makes them durable.
    pub fn correct(&self, n: u32, segment: &Segment, bytes: &[u8], at: u64) -> io::Result<()> {
        lock(&self.corrected).insert(n);
        segment.blob.write_at(bytes, at)
    }

    /// Writes what could not be written when it was repaired. The next sync makes it durable.
    pub fn write_patches(&self, number: u32) -> Result<()> {
        let Some(segment) = self.get(number).filter(|s| s.blob.patches() > 0) else {
            return Ok(());
        };
        lock(&self.corrected).insert(number);
        segment.blob.write_patches().map_err(|e| io_error("write", number, e))
    }

    /// Makes durable what was put right in a segment.
    pub fn sync_corrected(&self, number: u32) -> Result<()> {
        // Off the list first: what is put right during the sync may come too late for it.
        if lock(&self.corrected).remove(&number)
            && let Some(segment) = self.get(number)
        {
            segment.blob.sync().map_err(|e| io_error("fdatasync", number, e))?;
        }
        Ok(())
    }

    /// Repairs what can be repaired in a segment; true if anything was.
    pub fn heal(&self, number: u32) -> Result<bool> {
        let _turn = lock(&self.healing);
        let Some(segment) = self.get(number) else { return Ok(false) };
        let e = self.examine(number, self.in_file(number, segment.len))?;
        self.adopt(number, &e)
    }

    /// Writes what was repaired in a segment; true if there is anything. The next sync makes it durable.
    pub fn adopt(&self, number: u32, e: &Examined) -> Result<bool> {
        let runs = differing(&e.before, &e.now);
        let Some(segment) = self.get(number).filter(|_| !runs.is_empty()) else {
            return Ok(false);
        };
        let path = segment_path(number);
        let here = self.write && !self.is_distant(number);
        log::warn!(
            "{path}: {} frames corrected, {} pages rebuilt{}",
            e.found.frames,
            e.found.pages,
            if here { "" } else { " (in memory: it is not to be written)" }
        );
        self.repaired.fetch_add((e.found.frames + e.found.pages).max(1), Ordering::Relaxed);
        let written = here && {
            let each = |r: &Range<usize>| {
                self.correct(number, &segment, &e.now[r.clone()], r.start as u64)
            };
            runs.iter()
                .try_for_each(each)
                .map_err(|e| log::warn!("{}", io_error("write", number, e)))
                .is_ok()
        };
        let len = segment.len.max(e.now.len() as u64);
        let blob = if written {
            segment.blob
        } else {
            let page = |at: usize| {
                let bytes = e.now[at..(at + PAGE).min(e.now.len())].to_vec();
                ((at / PAGE) as u64, bytes)
            };
            let pages = runs.iter().flat_map(|r| r.clone().step_by(PAGE)).map(page).collect();
            let patch = Mutex::new(Patch { pages, len: e.now.len() as u64 });
            Arc::new(Patched { below: segment.blob, patch })
        };
        if self.get(number).is_some_and(|s| s.len < len) || !written {
            self.put(number, Segment { blob, len });
        }
        lock(&self.hopeless).remove(&number);
        self.known.forget_segment(number);
        Ok(true)
    }
}
