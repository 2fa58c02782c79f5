//! The store: a log of self-describing frames (the truth) and an index derived from it.
//!
//! Every change is a [`Txn`], appended to the running batch and visible at once; a batch becomes
//! durable as a whole when [`Store::sync`] returns. Nothing here knows what a file's bytes mean.
//!
//! Lock order: `cleaning` → `sync` → `writer` → the flusher's turn → the tail → `state`.
//!
//! Look-ups take `state` and the tail for moments, and none of the others: neither is held while the
//! disk or the index is waited for. The tail is shared while its bytes are written, so that they can
//! be read meanwhile. Changes take turns by the writer's lock, which is held over what has to be
//! written in order: the buffer when it is full, the end of a segment, a checkpoint with the
//! `fdatasync` before its end, and over the index where a change needs what is not in memory. `sync`
//! alone is held over an `fdatasync` of ordinary data.

mod api;
mod cleaner;
mod close;
mod durable;
mod gc;
#[cfg(any(test, fuzzing))]
pub mod hostile;
mod index;
mod io;
mod log;
mod models;
mod open;
pub mod remote;
mod repair;
mod settings;
mod space;
mod sweep;
#[cfg(test)]
pub(crate) mod tests;
mod txn;
mod worker;

pub use self::log::frame::HEADER as FRAME_HEADER;
pub use self::log::record::Record;
pub use self::log::superblock::FORMAT;
pub use api::*;
pub use models::ModelId;
pub use remote::{
    CacheFigures, Changed, Cloned, Collected, Evicted, GRACE as REMOTE_GRACE,
    PATIENCE as REMOTE_PATIENCE, Pulled, RemoteError, RemoteScrubbed, RemoteStatus, RemoteUse,
    Requests, Uploaded, canonical as canonical_url, clone as clone_archive, is_url,
};
pub use repair::report::{Checked, Problem, SegmentCheck};
pub use space::Reservation;
pub use txn::{Guard, Txn};

use self::log::frame::{self, Header, Kind};
use self::log::record::BATCH_MAX;
use self::log::replay::Loss;
#[cfg(test)]
use self::log::segments;
use self::log::segments::Segments;
use self::log::shares;
use self::log::superblock;
use self::log::writer::Writer;
use crate::types::{Attr, Extent, Frame, FrameMeta, FrameRef, Ino};
use index::flusher;
use index::live::Live;
use index::state::State;
use index::totals::Waiting;
use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

/// Bytes of the frame of a payload of so many bytes, its own parity included.
pub fn frame_len(ecc: Ecc, payload: usize) -> u64 {
    (payload + settings::code(ecc).parity_len(payload) + frame::OVERHEAD) as u64
}

/// An open store. All methods may be called from any thread.
#[derive(Debug)]
pub struct Store {
    path: PathBuf,
    superblock: Superblock,
    read_only: bool,
    segments: Arc<Segments>,
    writer: Mutex<Writer>,
    /// What is in memory of the namespace. Held for moments only, see [`index::live`].
    state: Arc<RwLock<State>>,
    live: Arc<Live>,
    sync: Mutex<()>,
    /// Batches up to this are durable.
    durable: AtomicU64,
    /// The segment (upper half) and how much of it (lower half) that is durable.
    synced: AtomicU64,
    last_ino: AtomicU64,
    last_generation: AtomicU64,
    promised: Arc<space::Promised>,
    /// When free space was last looked at, its bytes, and what the log held aside.
    free: Mutex<Option<(std::time::Instant, u64, u64)>>,
    /// Held while room is made; when that last came to nothing, and what was dead then.
    cleaning: Mutex<Option<(std::time::Instant, u64)>>,
    /// Segment of the last checkpoint, and its length in bytes.
    checkpoint: Mutex<(u32, u64)>,
    /// A checkpoint was written: older dead segments may go once it is durable.
    prune: AtomicBool,
    /// What takes long is to end, since the store is about to be closed.
    winding_up: AtomicBool,
    /// What is missing of the history, until it is salvaged.
    loss: Mutex<Loss>,
    closed: AtomicBool,
    /// How closing ended, once it has; held until then.
    closing: Mutex<Option<std::result::Result<(), String>>>,
    flusher: flusher::Flusher,
    parity_writer: worker::Worker,
    /// The object store that the archive lies in as well, if there is one.
    remote: remote::Link,
    /// The object store that the archive is read from, if it is not here at all.
    view: Option<Arc<remote::View>>,
    /// Its files, if it is here: some segments of it may lie in the object store only.
    tier: Option<Arc<remote::Tier>>,
    sweeper: worker::Worker,
    cleaner: cleaner::Cleaner,
    opened: std::time::Instant,
    /// The index was made anew.
    index_rebuilt: bool,
    /// Directory of the index; `None` if it is in memory only.
    index_dir: Mutex<Option<PathBuf>>,
    /// Held for its lock.
    _lock: File,
}

fn lock<T>(m: &Mutex<T>) -> MutexGuard<'_, T> {
    m.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Store {
    /// Creates a store in `path`, which must not exist or be an empty directory. Mode 0700.
    pub fn create(path: &Path, options: &MkfsOptions) -> Result<()> {
        open::create(path, options)
    }

    /// Locks and opens a store; replays or rebuilds its index as needed.
    pub fn open(path: &Path, options: &OpenOptions) -> Result<Arc<Self>> {
        open::open(path, options, Arc::new(io::OsVolume::new(path)))
    }

    /// Opens a store to check it, be its namespace lost. `anew`: for writing, with a new index.
    pub fn open_to_check(path: &Path, read_only: bool, anew: bool) -> Result<Arc<Self>> {
        let volume = Arc::new(io::OsVolume::new(path));
        let index = if anew { open::IndexFrom::Log } else { open::IndexFrom::Directory };
        open::open_how(path, &OpenOptions { read_only: read_only && !anew }, volume, index, true)
    }

    /// The directory it lies in.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What was fixed at mkfs.
    pub fn superblock(&self) -> &Superblock {
        &self.superblock
    }

    /// True if opened read-only.
    pub fn read_only(&self) -> bool {
        self.read_only
    }

    /// A number never used before, for an inode or a primer.
    pub fn next_ino(&self) -> Ino {
        Ino(self.last_ino.fetch_add(1, Ordering::Relaxed) + 1)
    }

    /// A content generation above all given out or stored before.
    pub fn next_generation(&self) -> u64 {
        self.last_generation.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Attributes of an inode.
    pub fn inode(&self, ino: Ino) -> Result<Option<Attr>> {
        self.view().inode(ino)
    }

    /// Target of a symbolic link.
    pub fn symlink(&self, ino: Ino) -> Result<Option<Vec<u8>>> {
        self.view().symlink(ino)
    }

    /// A name in a directory.
    pub fn dirent(&self, parent: Ino, name: &[u8]) -> Result<Option<Dirent>> {
        self.view().dirent(parent, name)
    }

    /// Names of a directory in cookie order, those with a cookie above `after`, at most `max`.
    pub fn dirents(&self, parent: Ino, after: u64, max: usize) -> Result<Vec<Dirent>> {
        self.view().dirents(parent, after, max)
    }

    /// Value of an extended attribute.
    pub fn xattr(&self, ino: Ino, name: &[u8]) -> Result<Option<Vec<u8>>> {
        self.view().xattr(ino, name)
    }

    /// Names of all extended attributes of an inode.
    pub fn xattrs(&self, ino: Ino) -> Result<Vec<Vec<u8>>> {
        self.view().xattrs(ino)
    }

    /// Extents that overlap `[off, off + len)`, whole (not cut to the range), in order.
    pub fn extents_in(&self, ino: Ino, off: u64, len: u64) -> Result<Vec<Extent>> {
        self.look(ino, |s| s.extents_in(ino, off..off.saturating_add(len), usize::MAX))
    }

    /// The first extents that end behind `off`, at most `max`, whole, in order.
    pub fn extents_from(&self, ino: Ino, off: u64, max: usize) -> Result<Vec<Extent>> {
        self.look(ino, |s| s.extents_in(ino, off..u64::MAX, max))
    }

    /// All extents of an inode in order, as they are when they are come to: nobody waits long for it, and a large file
    /// takes no more memory than a small one.
    pub fn extents(&self, ino: Ino) -> impl Iterator<Item = Result<Extent>> + '_ {
        const PAGE: usize = 4096;
        let (mut from, mut page) = (Some(0), Vec::new().into_iter());
        std::iter::from_fn(move || {
            if let Some(e) = page.next() {
                return Some(Ok(e));
            }
            let all = match self.extents_from(ino, from?, PAGE) {
                Ok(all) => all,
                Err(e) => {
                    from = None;
                    return Some(Err(e));
                }
            };
            from = all.last().filter(|_| all.len() == PAGE).map(Extent::end);
            page = all.into_iter();
            page.next().map(Ok)
        })
    }

    /// Bytes of an inode that are not holes.
    pub fn mapped_bytes(&self, ino: Ino) -> Result<u64> {
        self.extents(ino).map(|e| Ok(e?.len)).sum()
    }

    /// Where the primer with this id lies.
    pub fn primer(&self, id: u64) -> Result<Option<FrameRef>> {
        self.view().primer(id)
    }

    /// The language models that frames of this store may name, by number.
    pub fn models(&self) -> Result<Vec<ModelEntry>> {
        self.view().models()
    }

    /// Inodes with no name (unlinked while open when the store was last used).
    pub fn orphans(&self) -> Result<Vec<Ino>> {
        self.view().orphans()
    }

    /// Inodes that have staged extents; for the background coder at mount.
    pub fn staged_inodes(&self) -> Result<Vec<Ino>> {
        self.view().staged_inodes()
    }

    /// Live data frames and primers, segment by segment, and what begins in each: inode and offset. For checks
    /// of the whole store.
    pub fn live_frames(&self) -> Result<Vec<(FrameRef, Ino, u64)>> {
        let (mut out, state) = (Vec::new(), self.view());
        for (number, _) in self.segments.lens() {
            for (f, l) in state.frames(number, 0, usize::MAX)? {
                out.extend(state.begins_in(f, &l)?.into_iter().map(|(ino, off)| (f, ino, off)));
            }
        }
        Ok(out)
    }

    /// How many data frames each language model is needed for, by the store's numbers.
    pub fn frames_by_model(&self) -> BTreeMap<u16, u64> {
        self.state().totals.models.clone()
    }

    /// Text that waits to be coded.
    pub fn waiting(&self) -> Waiting {
        self.state().totals.waiting
    }

    /// Appends a change to the running batch: atomic, visible at once, durable after `sync`.
    ///
    /// On error nothing of it has happened. `Conflict` if the guard does not hold, or a primer or
    /// model that a frame names is not there. Returns where each of the frames lies.
    pub fn append(&self, txn: Txn) -> Result<Vec<FrameRef>> {
        if self.read_only {
            return Err(StoreError::ReadOnly);
        }
        txn.check()?;
        let frames = txn.encode_frames(self.segments.stamp)?;
        let mut w = self.writer();
        w.admits()?;
        self.admit(&txn)?;
        let bytes: u64 = frames.iter().map(|(_, f)| f.len() as u64).sum();
        let meta = txn.record_bytes();
        if meta > BATCH_MAX / 2 {
            return Err(StoreError::Refused(format!("a change of {meta} bytes is too large")));
        }
        w.ensure(bytes + meta as u64, txn.frees())?;
        if w.batch_is_full(meta) {
            w.close_batch(self.durable.load(Ordering::Acquire))?;
        }
        let mut refs = Vec::with_capacity(frames.len());
        for (kind, f) in &frames {
            refs.push(w.append(*kind, f)?);
        }
        // Half of a change must not become durable, nor anything behind it.
        if let Err(e) = self.apply(&mut w, txn, &refs) {
            w.fail(&e.to_string());
            return Err(e);
        }
        if let Err(e) = self.checkpoint_if_due(&mut w) {
            // The change is in; whoever syncs it is told.
            ::log::error!("checkpoint: {e}");
        }
        if w.is_full()
            && let Err(e) = w.flush()
        {
            // Likewise; the next change is refused while the buffer cannot be written.
            ::log::error!("{e}");
        }
        drop(w);
        self.relieve_table();
        Ok(refs)
    }

    /// Keeps what waits for the index within bounds: beyond them, who appends has to help.
    fn relieve_table(&self) {
        /// Keys and values, about 250 bytes each.
        const BOUND: usize = 400_000;
        let waiting = self.state().table.waiting();
        self.flusher.nudge(waiting);
        if waiting > BOUND && flusher::is_whole(self) {
            if let Err(e) = self.sync() {
                ::log::error!("{e}");
                return;
            }
            flusher::step(self);
        }
    }

    /// Checks everything that a transaction needs to hold before it may begin.
    fn admit(&self, txn: &Txn) -> Result<()> {
        let state = self.view();
        for g in txn.guards() {
            if !g.holds(&self.extents_in(g.ino, g.off, g.len)?) {
                return Err(StoreError::Conflict);
            }
        }
        for FrameMeta { primer, model, .. } in txn.data().map(|f| f.meta) {
            if primer != 0 && !txn.brings_primer(primer) && state.primer(primer)?.is_none() {
                return Err(StoreError::Conflict);
            }
            if model != 0 && !state.models()?.iter().any(|m| m.number == model) {
                return Err(StoreError::Conflict);
            }
        }
        Ok(())
    }

    fn apply(&self, w: &mut Writer, txn: Txn, refs: &[FrameRef]) -> Result<()> {
        let mut draft = self.draft(w);
        for record in txn.placed(refs) {
            if let Some(cut) = draft.instead(&record)? {
                w.log(&cut);
                draft.apply(&cut)?;
                self.sweeper.wake();
                if matches!(record, Record::Punch { .. }) {
                    continue;
                }
            }
            w.log(&record);
            draft.apply(&record)?;
        }
        self.publish(w, draft);
        Ok(())
    }

    /// Reads and checks a frame, appended but not yet written ones too.
    ///
    /// # Errors
    /// `Outdated` where it cannot be read and need not be; `Damaged` where it should be whole.
    pub fn read_frame(&self, frame: FrameRef) -> Result<Frame> {
        self.segments.flow.reads.fetch_add(1, Ordering::Relaxed);
        let result = self.frame_bytes(frame).and_then(|(h, bytes)| {
            let damaged = |reason: &str| StoreError::Damaged {
                segment: frame.segment,
                offset: frame.offset,
                reason: reason.into(),
            };
            if !matches!(h.kind, Kind::Data | Kind::Primer) {
                return Err(damaged("no file data here"));
            }
            let mut payload = h.payload(&bytes);
            if h.meta.shared {
                let table = shares::split(payload, h.meta.plain_len);
                payload = table.ok_or_else(|| damaged("nobody knows whose it is"))?.1;
            }
            Ok(Frame {
                ino: Ino(h.ino),
                off: h.off,
                meta: h.meta,
                plain_hash: h.plain_hash,
                payload: payload.to_vec(),
            })
        });
        match result {
            Err(_) if !self.is_live(frame) => Err(StoreError::Outdated(frame)),
            Err(e @ StoreError::Damaged { .. }) => {
                self.note_damaged(frame);
                Err(e)
            }
            result => result,
        }
    }

    fn frame_bytes(&self, f: FrameRef) -> Result<(Header, Vec<u8>)> {
        if self.segments.buffered(f)
            && let Some(bytes) = self.segments.tail.peek(f)
        {
            let damaged =
                |reason| StoreError::Damaged { segment: f.segment, offset: f.offset, reason };
            return Ok((frame::check(&bytes).map_err(damaged)?, bytes));
        }
        self.segments.frame(f)
    }

    /// Figures for `status` and statfs.
    pub fn stats(&self) -> Result<StoreStats> {
        let lens = self.segments.lens();
        let in_segments: u64 = lens.iter().map(|(_, n)| n).sum();
        let sidecars = self.segments.sidecar_bytes();
        let unrecoverable = self.damaged_frames();
        let batches = self.segments.flow.batches.load(Ordering::Relaxed);
        let meta_bytes = lock(&self.checkpoint).1.saturating_add(batches);
        let there = self.stored_there();
        let state = self.state();
        let t = &state.totals;
        let mut stats = StoreStats {
            files: t.files,
            inodes: t.inodes,
            logical_bytes: t.logical,
            stored_bytes: (in_segments + sidecars).saturating_sub(there.takes)
                + 3 * superblock::encode(&self.superblock).len() as u64,
            coded_bytes: t.coded,
            staged_bytes: t.staged,
            meta_bytes,
            parity_bytes: t.parity,
            dead_bytes: 0,
            dead_there_bytes: 0,
            repaired: self.segments.repaired.load(Ordering::Relaxed),
            unrecoverable,
            frames: t.frames,
        };
        // Sidecars are files of their own.
        stats.dead_bytes = in_segments.saturating_sub(stats.live_bytes());
        stats.dead_there_bytes = there.dead.min(stats.dead_bytes);
        stats.parity_bytes = stats.parity_bytes.saturating_add(sidecars);
        Ok(stats)
    }

    /// Removes what was cut out of files, moves live frames out of segments whose dead share exceeds
    /// `dead_percent`, and deletes those.
    pub fn clean(&self, dead_percent: u32) -> Result<CleanReport> {
        self.clean_while(dead_percent, &mut |_, _| true)
    }

    /// As [`Self::clean`]; `watch(done, total)`, in bytes of segments that are to be emptied, ends it by
    /// saying false. What was moved by then stays moved.
    pub fn clean_while(
        &self,
        dead_percent: u32,
        watch: &mut dyn FnMut(u64, u64) -> bool,
    ) -> Result<CleanReport> {
        sweep::hurry(self, std::time::Duration::from_secs(600));
        gc::clean(self, dead_percent, watch)
    }

    /// Ends what takes long and can be done another time, before the store is closed: cleaning and
    /// scrubbing, which then fail. All else goes on.
    pub fn wind_up(&self) {
        self.winding_up.store(true, Ordering::Release);
    }

    /// Bytes that closing has to read or write, roughly.
    pub fn bytes_to_close(&self) -> u64 {
        /// Bytes of a change that waits for the index.
        const CHANGE: u64 = 250;
        let waiting = self.state().table.waiting() as u64 * CHANGE;
        let bare = |(number, len): &(u32, u64)| !self.segments.is_protected(*number, *len);
        let unprotected: u64 =
            self.segments.lens().into_iter().filter(bare).map(|(_, len)| len).sum();
        waiting.saturating_add(unprotected).saturating_add(lock(&self.checkpoint).1)
    }

    /// Syncs, closes the index and appends the clean-shutdown record. Later calls of others fail; a
    /// second call says how the first ended.
    pub fn close(&self) -> Result<()> {
        close::close(self)
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        self.remote.worker.stop();
        self.cleaner.stop();
        self.sweeper.stop();
        self.parity_writer.stop();
        self.flusher.stop();
    }
}
