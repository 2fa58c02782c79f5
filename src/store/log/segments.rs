//! The segment files and their sidecars; readers share them with the writer.

use super::frame::{Kind, Stamp, tag};
use crate::store::api::{Ecc, Result, StoreError, Superblock};
use crate::store::io::{Blob, Volume, read_up_to};
use crate::store::repair::damage::Known;
use crate::store::repair::ecc::pages::{PAGE, STRIPE_BYTES, parity_pages};
use crate::store::repair::sidecar::Part;
use crate::store::settings::{Settings, code};
use crate::types::FrameRef;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Instant;

/// Room that only cleaning, deleting and closing may use: so much at least, and at most. An eighth
/// of what the store could fill, between these.
const HEADROOM: (u64, u64) = if cfg!(test) { (2 << 20, 4 << 20) } else { (12 << 20, 96 << 20) };

/// File name of a segment.
pub fn segment_path(number: u32) -> String {
    format!("segments/{number:08}.seg")
}

/// File name of the sidecar that covers so many bytes of a segment.
pub fn sidecar_path(number: u32, covered: u64) -> String {
    format!("segments/{number:08}.{covered:08x}.par")
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

/// How many of a segment's first `len` bytes lie before a position of the log (number of a segment above,
/// bytes in it below 2^32).
pub fn len_before(position: u64, number: u32, len: u64) -> u64 {
    match number.cmp(&((position >> 32) as u32)) {
        std::cmp::Ordering::Less => len,
        std::cmp::Ordering::Equal => len.min(position & 0xffff_ffff),
        std::cmp::Ordering::Greater => 0,
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

/// A sidecar file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Side {
    /// Bytes of the segment that it covers.
    pub covered: u64,
    /// Its own length.
    pub len: u64,
}

/// The writer's buffer. Readers look into it while it is being written: only what changes it, which
/// is the writer alone, excludes them, and never while it waits for the disk.
#[derive(Debug, Default)]
pub(in crate::store) struct Tail(RwLock<Buffer>);

/// Bytes of a segment that are in memory only.
#[derive(Debug, Default)]
struct Buffer {
    number: u32,
    /// Where they begin.
    start: u64,
    bytes: Vec<u8>,
}

impl Tail {
    fn buffer(&self) -> RwLockReadGuard<'_, Buffer> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self) -> RwLockWriteGuard<'_, Buffer> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many bytes there are.
    pub fn len(&self) -> usize {
        self.buffer().bytes.len()
    }

    /// Adds bytes that begin at `at` of a segment.
    pub fn push(&self, number: u32, at: u64, bytes: &[u8]) {
        let mut b = self.change();
        if b.bytes.is_empty() {
            (b.number, b.start) = (number, at);
        }
        b.bytes.extend_from_slice(bytes);
    }

    /// Lets the bytes go.
    pub fn clear(&self) {
        self.change().bytes.clear();
    }

    /// Writes the bytes; they stay here.
    pub fn write_to(&self, blob: &dyn Blob) -> io::Result<()> {
        let b = self.buffer();
        blob.write_at(&b.bytes, b.start)
    }

    /// Copies the bytes of a frame, if all of them are here.
    pub fn peek(&self, f: FrameRef) -> Option<Vec<u8>> {
        let b = self.buffer();
        let at = u64::from(f.offset).checked_sub(b.start).filter(|_| f.segment == b.number)?;
        b.bytes.get(at as usize..at as usize + f.len as usize).map(<[u8]>::to_vec)
    }
}

/// Bytes that came and went since the store was opened.
#[derive(Debug, Default)]
pub struct Flow {
    /// Appended to the log, what was moved included.
    pub appended: AtomicU64,
    /// Moved by the cleaner.
    pub moved: AtomicU64,
    /// Of segments that were deleted.
    pub freed: AtomicU64,
    /// Of batches since the last checkpoint.
    pub batches: AtomicU64,
    /// Frames that were read: not bytes, but a number that changes.
    pub reads: AtomicU64,
}

/// Frames and what they are for.
pub type Frames = Vec<(FrameRef, Kind)>;

/// All segments; readers share it with the writer.
#[derive(Debug)]
pub struct Segments {
    /// The store's files.
    pub volume: Arc<dyn Volume>,
    /// What the store's own metadata frames have in common.
    pub stamp: Stamp,
    /// What sums over the table depend on.
    pub settings: Settings,
    /// Identity of the store.
    pub uuid: [u8; 16],
    /// Error-correction level.
    pub ecc: Ecc,
    /// Files may be changed.
    pub write: bool,
    map: RwLock<BTreeMap<u32, Segment>>,
    /// What came and went.
    pub flow: Flow,
    /// Room that ordinary writes leave alone.
    pub headroom: u64,
    /// Bytes that the log holds and nothing lies in yet: the reserve, and what is allocated ahead.
    pub aside: AtomicU64,
    /// The writer's segment (upper half) and how much of it is in the file (lower half).
    written: AtomicU64,
    /// What the writer has not handed to the operating system yet.
    pub(in crate::store) tail: Tail,
    /// The sidecar of each segment that has one.
    pub(in crate::store) sidecars: Mutex<BTreeMap<u32, Side>>,
    /// Whole stripes of a growing segment's sidecar.
    pub(in crate::store) parts: Mutex<(u32, Vec<Part>)>,
    /// One repair at a time.
    pub(in crate::store) healing: Mutex<()>,
    /// Segments that must not be deleted now: they are being uploaded.
    pinned: Mutex<BTreeSet<u32>>,
    /// Segments in which something was put right that may not be on the medium yet.
    pub(in crate::store) corrected: Mutex<BTreeSet<u32>>,
    /// Segments in which a frame is beyond repair, and when that was found.
    pub(in crate::store) hopeless: Mutex<BTreeMap<u32, Instant>>,
    /// What somebody else says of a segment of a certain length: frames in it that are not of files.
    told: Mutex<Option<(u32, u64, Frames)>>,
    /// When each segment was last read: how many reads there had been by then.
    uses: Mutex<HashMap<u32, u64>>,
    /// Frames and pages repaired since the store was opened.
    pub(in crate::store) repaired: AtomicU64,
    /// What is beyond repair.
    pub(in crate::store) known: Known,
}

/// Number and covered bytes in a sidecar's file name.
pub(in crate::store) fn sidecar_name(name: &str) -> Option<(u32, u64)> {
    let (number, covered) = name.strip_suffix(".par")?.split_once('.')?;
    Some((number.parse().ok()?, u64::from_str_radix(covered, 16).ok()?))
}

impl Segments {
    /// Opens all segment files.
    pub fn open(volume: Arc<dyn Volume>, superblock: &Superblock, write: bool) -> Result<Self> {
        let names = volume
            .list("segments")
            .map_err(|source| StoreError::Io { what: "list segments".into(), source })?;
        let (mut map, mut sidecars) = (BTreeMap::new(), BTreeMap::<u32, Side>::new());
        for name in names {
            let path = format!("segments/{name}");
            let canonical = |(n, covered): &(u32, u64)| sidecar_path(*n, *covered) == path;
            if let Some((number, covered)) = sidecar_name(&name).filter(canonical) {
                let len = volume.open(&path, false).and_then(|b| b.len()).unwrap_or(0);
                let old = sidecars.get(&number).copied();
                if old.is_none_or(|o| o.covered < covered) {
                    sidecars.insert(number, Side { covered, len });
                }
                continue;
            }
            let number = name.strip_suffix(".seg").and_then(|n| n.parse().ok());
            // The last number of all has none after it.
            let usable = |n: &u32| *n < u32::MAX && segment_path(*n) == path;
            let Some(number) = number.filter(usable) else {
                if !name.ends_with(".tmp") {
                    log::warn!("{path}: not a segment, ignored");
                }
                continue;
            };
            let open = || {
                let blob = volume.open(&path, write)?;
                let len = blob.len()?;
                Ok(Segment { blob, len })
            };
            let segment = open().map_err(|e| io_error("open", number, e))?;
            if segment.len > u64::from(u32::MAX) {
                let text = format!("{path} has {} bytes: no segment has as many", segment.len);
                return Err(StoreError::Refused(text));
            }
            map.insert(number, segment);
        }
        let own: u64 = map.values().map(|s| s.len).sum();
        let could = volume.free_bytes().unwrap_or(u64::MAX).saturating_add(own);
        let headroom = (could / 8).clamp(HEADROOM.0, HEADROOM.1);
        let stamp = Stamp { tag: tag(&superblock.uuid), code: code(superblock.ecc) };
        Ok(Self {
            volume,
            stamp,
            settings: Settings::of(superblock),
            uuid: superblock.uuid,
            ecc: superblock.ecc,
            write,
            map: RwLock::new(map),
            flow: Flow::default(),
            headroom,
            aside: AtomicU64::new(0),
            written: AtomicU64::new(0),
            tail: Tail::default(),
            sidecars: Mutex::new(sidecars),
            parts: Mutex::default(),
            healing: Mutex::default(),
            pinned: Mutex::default(),
            corrected: Mutex::default(),
            hopeless: Mutex::default(),
            told: Mutex::default(),
            uses: Mutex::default(),
            repaired: AtomicU64::new(0),
            known: Known::default(),
        })
    }

    /// True if the index finds room for changes of so many bytes. sled answers nothing any more, not even
    /// reads, once a write of it failed.
    pub fn has_room_for_index(&self, bytes: u64) -> bool {
        /// Its files grow in steps.
        const STEP: u64 = if cfg!(test) { 64 << 10 } else { 3 << 20 };
        // The cleaner comes first: where it has room, there will be some.
        let keep = self.headroom / 2;
        let free = self.volume.free_bytes();
        free.map_or(true, |free| free >= keep + STEP + bytes.saturating_mul(4))
    }

    /// A segment, if it is there.
    pub fn get(&self, number: u32) -> Option<Segment> {
        self.map.read().unwrap_or_else(PoisonError::into_inner).get(&number).cloned()
    }

    /// True if a segment is not here, but lies in an object store.
    pub fn is_distant(&self, number: u32) -> bool {
        self.volume.is_distant(&segment_path(number))
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

    /// All segments that have something before a position, and how much of each that is.
    pub fn lens_before(&self, position: u64) -> Vec<(u32, u64)> {
        let lens = self.lens().into_iter().map(|(n, len)| (n, len_before(position, n, len)));
        lens.filter(|(_, len)| *len > 0).collect()
    }

    /// The same of the position that `synced` tells. None of them is deleted until [`Self::unpin`].
    pub fn pin(&self, synced: impl Fn() -> u64) -> Vec<(u32, u64)> {
        let mut pinned = self.pinned.lock().unwrap_or_else(PoisonError::into_inner);
        let before = self.lens_before(synced());
        *pinned = before.iter().map(|(n, _)| *n).collect();
        before
    }

    /// Lets go of what was pinned.
    pub fn unpin(&self) {
        self.pinned.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// Writes what is in the files as it is, from a place on (segment, offset), and makes it durable.
    pub fn write_again(&self, from: (u32, u64)) -> Result<()> {
        const STEP: u64 = 1 << 20;
        let lens = self.lens().into_iter().filter(|(n, _)| *n >= from.0);
        for (number, len) in lens.filter(|(n, _)| !self.is_distant(*n)) {
            let Some(s) = self.get(number) else { continue };
            let end = self.in_file(number, len);
            let mut at = if number == from.0 { from.1 } else { 0 };
            while at < end {
                let bytes = read_up_to(&*s.blob, at, STEP.min(end - at) as usize);
                let bytes = bytes.map_err(|e| io_error("read", number, e))?;
                if bytes.is_empty() {
                    break;
                }
                s.blob.write_at(&bytes, at).map_err(|e| io_error("write", number, e))?;
                at += bytes.len() as u64;
            }
            s.blob.sync().map_err(|e| io_error("fdatasync", number, e))?;
        }
        Ok(())
    }

    /// Knows nothing more of a segment; its file is somebody else's.
    pub fn forget(&self, number: u32) {
        self.map.write().unwrap_or_else(PoisonError::into_inner).remove(&number);
        self.sidecars.lock().unwrap_or_else(PoisonError::into_inner).remove(&number);
        self.known.forget_segment(number);
    }

    /// Deletes a segment unless it is pinned; false if it is.
    pub fn remove_unpinned(&self, number: u32) -> Result<bool> {
        // Held meanwhile, so that nobody pins it while it goes.
        let pinned = self.pinned.lock().unwrap_or_else(PoisonError::into_inner);
        if pinned.contains(&number) {
            return Ok(false);
        }
        self.remove(number).map(|()| true)
    }

    /// Takes it that these are the frames in a segment of this length that are not of files.
    pub fn tell(&self, number: u32, len: u64, frames: Frames) {
        *self.told.lock().unwrap_or_else(PoisonError::into_inner) = Some((number, len, frames));
    }

    /// What was told of a segment of this length.
    pub fn told(&self, number: u32, len: u64) -> Option<Frames> {
        let told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        told.as_ref().filter(|(n, l, _)| (*n, *l) == (number, len)).map(|t| t.2.clone())
    }

    /// Has a segment read elsewhere from now on, as `by` says; false if it was deleted meanwhile.
    pub fn displace(&self, number: u32, by: impl FnOnce() -> Result<Segment>) -> Result<bool> {
        // Held meanwhile, so that it is not deleted.
        let _pinned = self.pinned.lock().unwrap_or_else(PoisonError::into_inner);
        if self.get(number).is_none() {
            return Ok(false);
        }
        self.put(number, by()?);
        Ok(true)
    }

    /// Sorts things by when their segments were last read, the oldest first.
    pub fn by_last_use<T>(&self, things: &mut [T], number: impl Fn(&T) -> u32) {
        let uses = self.uses.lock().unwrap_or_else(PoisonError::into_inner);
        things.sort_by_key(|t| (uses.get(&number(t)).copied(), number(t)));
    }

    /// Deletes a segment's file and its sidecar. Whoever looked up a frame in it before learns that
    /// it is outdated.
    pub fn remove(&self, number: u32) -> Result<()> {
        let old = self.map.write().unwrap_or_else(PoisonError::into_inner).remove(&number);
        if let Some(old) = old {
            self.flow.freed.fetch_add(old.len, Ordering::Relaxed);
        }
        self.known.forget_segment(number);
        self.uses.lock().unwrap_or_else(PoisonError::into_inner).remove(&number);
        self.drop_sidecar(number);
        self.volume.remove(&segment_path(number)).map_err(|e| io_error("remove", number, e))
    }

    /// Dead bytes that are not worth cleaning when room is wanted: 128 KiB on the smallest disks,
    /// 1 MiB on large ones.
    pub fn little(&self) -> u64 {
        self.headroom / 96
    }

    /// True if there is little more room than what ordinary writes leave alone.
    pub fn is_scarce(&self) -> bool {
        self.volume.free_bytes().is_ok_and(|free| free < 2 * self.headroom)
    }

    /// Bytes of the sidecars that segments do not have yet, when room is scarce enough to matter.
    pub fn sidecars_due(&self) -> u64 {
        if self.is_scarce() { self.sidecars_lacking() } else { 0 }
    }

    /// Bytes of the sidecars that segments do not have yet.
    pub fn sidecars_lacking(&self) -> u64 {
        if self.ecc == Ecc::None {
            return 0;
        }
        let sidecars = self.sidecars.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let lacks = |(n, _): &(u32, u64)| !sidecars.contains_key(n);
        self.lens().into_iter().filter(lacks).map(|(_, len)| self.sidecar_of(len)).sum()
    }

    /// Bytes of the sidecar that a segment of so many bytes gets.
    pub fn sidecar_of(&self, len: u64) -> u64 {
        if self.ecc == Ecc::None {
            return 0;
        }
        let pages = len.min(STRIPE_BYTES as u64).div_ceil(PAGE as u64) as usize;
        let stripe = (parity_pages(self.ecc, pages) * (PAGE + 256) + pages * 4) as u64;
        len.div_ceil(STRIPE_BYTES as u64) * stripe
    }

    /// Makes the segments' names durable.
    pub fn sync_names(&self) -> Result<()> {
        let what = || "fsync segments".to_string();
        self.volume.sync_dir("segments").map_err(|source| StoreError::Io { what: what(), source })
    }

    /// The writer goes on in this segment, of which so much is in the file.
    pub fn set_written(&self, number: u32, len: u64) {
        self.written.store(u64::from(number) << 32 | len, Ordering::Release);
    }

    /// Bytes of a segment that are in its file.
    pub fn in_file(&self, number: u32, len: u64) -> u64 {
        let w = self.written.load(Ordering::Acquire);
        if (w >> 32) as u32 == number { len.min(w & 0xffff_ffff) } else { len }
    }

    /// True if these bytes may still be in the writer's buffer only.
    pub fn buffered(&self, f: FrameRef) -> bool {
        let w = self.written.load(Ordering::Acquire);
        (w >> 32) as u32 == f.segment && u64::from(f.offset) + u64::from(f.len) > w & 0xffff_ffff
    }

    /// A frame's bytes from its file, unchecked.
    pub fn read(&self, f: FrameRef) -> Result<Vec<u8>> {
        let damaged = |reason: &str| StoreError::Damaged {
            segment: f.segment,
            offset: f.offset,
            reason: reason.into(),
        };
        let Some(segment) = self.get(f.segment) else {
            return Err(damaged("the segment is missing"));
        };
        {
            let mut uses = self.uses.lock().unwrap_or_else(PoisonError::into_inner);
            let now = self.flow.reads.load(Ordering::Relaxed);
            uses.insert(f.segment, now);
        }
        let bytes = read_up_to(&*segment.blob, f.offset.into(), f.len as usize)
            .map_err(|e| io_error("read", f.segment, e))?;
        if bytes.len() == f.len as usize {
            Ok(bytes)
        } else {
            Err(damaged("the segment ends before it"))
        }
    }
}
