//! The write path: dirty, stage, commit; and what cuts data out of files.

use super::attr::drop_set_id;
use super::dirty::{Dirty, WINDOW};
use super::node::{Node, NodeState};
use super::{Fs, FsError, MAX_SIZE, Result, lock};
use crate::block;
use crate::blocks::Urgency;
use crate::store::{Record, StoreError, Txn};
use crate::types::{Frame, FrameMeta, Ino, Time};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Dirty memory of one file beyond which its writer stages it.
const FILE_LIMIT: u64 = 16 << 20;
/// Dirty memory of all files beyond which a writer stages them all.
const TOTAL_LIMIT: u64 = 64 << 20;
/// Dirty ranges of one file beyond which its writer stages it.
const RANGE_LIMIT: usize = 8192;
/// Room is reserved in steps that double up to this.
const RESERVE_STEP: u64 = 4 << 20;

impl Fs {
    /// Counts an open handle.
    pub fn open_handle(&self, ino: Ino) -> Result<()> {
        let node = self.hold(ino)?;
        node.state().open += 1;
        Ok(())
    }

    /// A handle was closed for good; the last one of an inode without a name deletes it.
    pub fn release(&self, ino: Ino) -> Result<()> {
        let node = self.hold(ino)?;
        let mut s = node.state();
        s.open = s.open.saturating_sub(1);
        let orphan = s.open == 0 && s.attr.nlink == 0;
        drop(s);
        drop(node);
        if orphan {
            self.reap(ino);
        }
        Ok(())
    }

    /// Writes `data` at `off`. `drop_privileges`: the writer may not keep set-id bits.
    pub fn write(&self, ino: Ino, off: u64, data: &[u8], drop_privileges: bool) -> Result<()> {
        self.writable()?;
        let end = off.checked_add(data.len() as u64).filter(|e| *e <= MAX_SIZE);
        let end = end.ok_or(FsError::TooBig)?;
        let node = self.hold(ino)?;
        let mut s = node.state();
        if s.gone {
            return Err(FsError::NotFound);
        }
        if !s.attr.is_file() {
            return Err(FsError::Invalid("not a regular file"));
        }
        if data.is_empty() {
            return Ok(());
        }
        self.reserve(&mut s, data.len() as u64)?;
        let before = s.dirty.memory();
        s.dirty.write(off, data);
        self.account(before, s.dirty.memory());
        let now = Time::now();
        s.attr.size = s.attr.size.max(end);
        s.attr.mtime = now;
        s.attr.ctime = now;
        if drop_privileges {
            drop_set_id(&mut s.attr);
        }
        s.attr_dirty = true;
        let full = s.dirty.memory() >= FILE_LIMIT || s.dirty.count() >= RANGE_LIMIT;
        drop(s);
        if full {
            self.stage(&node)?;
        } else if self.dirty_bytes.load(Ordering::Relaxed) > TOTAL_LIMIT {
            self.stage_all()?;
        }
        Ok(())
    }

    /// Sees to it that `more` dirty bytes will find room.
    fn reserve(&self, s: &mut NodeState, more: u64) -> Result<()> {
        let need = s.dirty.memory() + more;
        if need > s.reserved_bytes {
            let step = (need - s.reserved_bytes).max(s.reserved_bytes.min(RESERVE_STEP));
            let least = need - s.reserved_bytes;
            let (step, room) = match self.store.reserve(step) {
                // The last room is given out in small pieces.
                Err(StoreError::NoSpace { .. }) if step > least => {
                    (least, self.store.reserve(least)?)
                }
                room => (step, room?),
            };
            s.reserved.push(room);
            s.reserved_bytes += step;
        }
        Ok(())
    }

    /// Puts all dirty data, the size and the times of an inode into the log, as one transaction.
    pub(super) fn stage(&self, node: &Node) -> Result<()> {
        let _stage = lock(&node.stage);
        let (staging, size, reserved) = {
            let mut s = node.state();
            if s.gone || s.is_clean() {
                return Ok(());
            }
            let staging = Arc::new(std::mem::take(&mut s.dirty));
            s.staging = Arc::clone(&staging);
            s.attr_dirty = false;
            s.reserved_bytes = 0;
            (staging, s.attr.size, std::mem::take(&mut s.reserved))
        };
        let frames = encode(node.ino, &staging, self.store.next_generation());
        let mut s = node.state();
        let mut attr = s.attr;
        if attr.is_file() {
            attr.size = size;
        }
        let any = !frames.is_empty();
        let txn = frames.into_iter().fold(Txn::default(), Txn::map);
        let result = self.store.append(txn.then(Record::PutInode(node.ino, attr)));
        s.staging = Arc::default();
        drop(reserved);
        match result {
            Ok(_) => {
                self.account(staging.memory(), 0);
                note_mapped(&mut s, &staging);
                s.stored_size = attr.size;
                s.attr_dirty |= !s.dirty.is_empty() || s.attr.size != attr.size;
                drop(s);
                if any {
                    self.recoder.touch(node.ino);
                }
                Ok(())
            }
            Err(e) => {
                let now = s.dirty.memory();
                s.dirty.put_below(Arc::into_inner(staging).unwrap_or_default());
                self.account(s.dirty.memory(), now);
                s.attr_dirty = true;
                Err(e.into())
            }
        }
    }

    /// Stages every inode; tries all of them, returns the first error.
    pub(super) fn stage_all(&self) -> Result<()> {
        let mut result = Ok(());
        for ino in self.nodes.inos() {
            match self.hold(ino).and_then(|node| self.stage(&node)) {
                Ok(()) | Err(FsError::NotFound) => {}
                Err(e) => {
                    log::error!("inode {ino}: not committed: {e}");
                    result = result.and(Err(e));
                }
            }
        }
        result
    }

    /// Cuts data out of a file. `change` sets the new size and says which range goes, in the same
    /// transaction as all dirty data that stay. Times change too.
    pub(super) fn cut(
        &self,
        node: &Node,
        change: impl FnOnce(&mut NodeState) -> Result<Option<(u64, u64)>>,
    ) -> Result<()> {
        let _stage = lock(&node.stage);
        let mut s = node.state();
        if s.gone {
            return Err(FsError::NotFound);
        }
        let old = s.attr;
        let gone = change(&mut s)?;
        let before = s.dirty.memory();
        let mut txn = Txn::default();
        let mut removed = Dirty::default();
        if let Some((off, end)) = gone {
            for (at, bytes) in s.dirty.ranges_from(off).take_while(|(at, _)| *at < end) {
                let (from, to) = (at.max(off), (at + bytes.len() as u64).min(end));
                removed.write(from, &bytes[(from - at) as usize..(to - at) as usize]);
            }
            s.dirty.cut(off, end);
            if off < s.stored_size {
                txn = txn.then(Record::Punch { ino: node.ino, off, len: end - off });
            }
        }
        let now = Time::now();
        s.attr.mtime = now;
        s.attr.ctime = now;
        let frames = encode(node.ino, &s.dirty, self.store.next_generation());
        let any = !frames.is_empty();
        let txn = frames.into_iter().fold(txn, Txn::map);
        if let Err(e) = self.store.append(txn.then(Record::PutInode(node.ino, s.attr))) {
            s.attr = old;
            s.attr_dirty = true;
            s.dirty.put_below(removed);
            self.account(before, s.dirty.memory());
            return Err(e.into());
        }
        self.account(before, 0);
        s.dirty = Dirty::default();
        s.reserved.clear();
        s.reserved_bytes = 0;
        s.attr_dirty = false;
        s.stored_size = s.attr.size;
        s.mapped = None;
        s.mappings += 1;
        drop(s);
        if any {
            self.recoder.touch(node.ino);
        }
        Ok(())
    }

    /// A handle is closed: what was written goes to the log; with `sync` it is durable, too.
    pub fn flush(&self, ino: Ino) -> Result<()> {
        if self.store.read_only() {
            return Ok(());
        }
        self.stage(&*self.hold(ino)?)?;
        if self.options.sync {
            self.store.sync()?;
        }
        Ok(())
    }

    /// Makes an inode and all changes before durable.
    pub fn fsync(&self, ino: Ino) -> Result<()> {
        if self.store.read_only() {
            return Ok(());
        }
        self.stage(&*self.hold(ino)?)?;
        Ok(self.store.sync()?)
    }

    /// Calls `done` with the result of [`Fs::flush`]; waits for the disk elsewhere.
    pub fn flush_then(self: &Arc<Self>, ino: Ino, done: impl FnOnce(Result<()>) + Send + 'static) {
        if self.options.sync {
            let fs = Arc::clone(self);
            self.syncers.run(Urgency::Wanted, false, move || done(fs.flush(ino)));
        } else {
            done(self.flush(ino));
        }
    }

    /// Calls `done` with the result of [`Fs::fsync`], on another thread.
    pub fn fsync_then(self: &Arc<Self>, ino: Ino, done: impl FnOnce(Result<()>) + Send + 'static) {
        let fs = Arc::clone(self);
        self.syncers.run(Urgency::Wanted, false, move || done(fs.fsync(ino)));
    }

    /// Calls `done` with the result of [`Fs::flush_all`], on another thread.
    pub fn flush_all_then(self: &Arc<Self>, done: impl FnOnce(Result<()>) + Send + 'static) {
        let fs = Arc::clone(self);
        self.syncers.run(Urgency::Wanted, false, move || done(fs.flush_all()));
    }

    /// fallocate(2): room is checked for, not set aside; punched and zeroed ranges become holes.
    /// `drop_privileges` as in [`Fs::write`].
    pub fn fallocate(
        &self,
        ino: Ino,
        off: u64,
        len: u64,
        mode: i32,
        drop_privileges: bool,
    ) -> Result<()> {
        self.writable()?;
        let end = off.checked_add(len).filter(|e| *e <= MAX_SIZE).ok_or(FsError::TooBig)?;
        let keep = mode & libc::FALLOC_FL_KEEP_SIZE != 0;
        let what = mode & !libc::FALLOC_FL_KEEP_SIZE;
        let zero = match (what, keep) {
            (0, _) => false,
            (libc::FALLOC_FL_PUNCH_HOLE, true) | (libc::FALLOC_FL_ZERO_RANGE, _) => true,
            _ => return Err(FsError::NotSupported),
        };
        let node = self.hold(ino)?;
        // What statfs(2) says is there can be had.
        if !zero && len > self.store.writable_bytes()? {
            drop(self.store.reserve(len)?);
        }
        if !zero && keep {
            let mut s = node.state();
            let mode = s.attr.mode;
            if drop_privileges && !s.gone {
                drop_set_id(&mut s.attr);
            }
            if s.attr.mode != mode {
                s.attr.ctime = Time::now();
                s.attr_dirty = true;
            }
            return Ok(());
        }
        self.cut(&node, |s| {
            if !s.attr.is_file() {
                return Err(FsError::Invalid("not a regular file"));
            }
            if drop_privileges {
                drop_set_id(&mut s.attr);
            }
            if !keep {
                s.attr.size = s.attr.size.max(end);
            }
            Ok(zero.then_some((off, end)))
        })
    }

    /// lseek(2) with `SEEK_DATA` (`data`) or `SEEK_HOLE`.
    pub fn seek(&self, ino: Ino, off: u64, data: bool) -> Result<u64> {
        /// Extents looked at together; they end where a hole begins, mostly.
        const PAGE: usize = 32;
        let node = self.hold(ino)?;
        let s = node.state();
        let size = s.attr.size;
        if off >= size {
            return Err(FsError::NoData);
        }
        let written_from = |at| s.dirty.ranges_from(at).chain(s.staging.ranges_from(at));
        if data {
            let written = written_from(off).map(|(at, _)| at);
            let stored = self.store.extents_from(ino, off, 1)?.into_iter().map(|e| e.off);
            let first = written.chain(stored).min().filter(|at| *at < size);
            return first.map(|at| at.max(off)).ok_or(FsError::NoData);
        }
        let mut hole = off;
        loop {
            let before = hole;
            // What is written may close the gaps of what is stored, and the other way round.
            for (at, bytes) in written_from(before) {
                if at <= hole {
                    hole = hole.max(at + bytes.len() as u64);
                }
            }
            for e in self.store.extents_from(ino, hole, PAGE)? {
                if e.off <= hole {
                    hole = hole.max(e.end());
                }
            }
            if hole == before || hole >= size {
                return Ok(hole.min(size));
            }
        }
    }

    /// copy_file_range(2) by reading and writing; holes become zeros. Returns the bytes copied.
    /// `drop_privileges` as in [`Fs::write`].
    pub fn copy(
        &self,
        (from, off): (Ino, u64),
        (to, to_off): (Ino, u64),
        len: u64,
        drop_privileges: bool,
    ) -> Result<u64> {
        let len = len.min(1 << 20);
        let bytes = self.read_now(from, off, len)?;
        self.write(to, to_off, &bytes, drop_privileges)?;
        Ok(bytes.len() as u64)
    }

    /// Calls `done` with the result of [`Fs::copy`], on a decoding thread.
    pub fn copy_then(
        self: &Arc<Self>,
        from: (Ino, u64),
        to: (Ino, u64),
        len: u64,
        drop_privileges: bool,
        done: impl FnOnce(Result<u64>) + Send + 'static,
    ) {
        let fs = Arc::clone(self);
        self.blocks
            .workers()
            .run(Urgency::Wanted, false, move || done(fs.copy(from, to, len, drop_privileges)));
    }
}

/// Keeps the count of mapped bytes right where data were only appended.
fn note_mapped(s: &mut NodeState, staged: &Dirty) {
    if staged.is_empty() {
        return;
    }
    let appended = staged.ranges().next().is_some_and(|(off, _)| off >= s.stored_size);
    let bytes: u64 = staged.ranges().map(|(_, b)| b.len() as u64).sum();
    s.mapped = s.mapped.filter(|_| appended).map(|n| n + bytes);
    s.mappings += 1;
}

/// Staged frames of what was written, one per range, coded on several threads where it pays.
fn encode(ino: Ino, dirty: &Dirty, generation: u64) -> Vec<Frame> {
    let ranges: Vec<(u64, &[u8])> = dirty.ranges().collect();
    let one = |(off, plain): (u64, &[u8])| {
        let e = block::stage(plain);
        Frame {
            ino,
            off,
            meta: FrameMeta {
                encoding: e.encoding,
                staged: true,
                shared: false,
                model: 0,
                plain_len: plain.len() as u32,
                generation,
                primer: 0,
            },
            plain_hash: block::plain_hash(plain),
            payload: e.payload,
        }
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(4);
    if threads == 1 || dirty.memory() < 8 * WINDOW {
        return ranges.into_iter().map(one).collect();
    }
    let next = AtomicUsize::new(0);
    let work = || {
        let mut done = Vec::new();
        loop {
            let n = next.fetch_add(1, Ordering::Relaxed);
            let Some(range) = ranges.get(n) else { break done };
            done.push((n, one(*range)));
        }
    };
    let mut frames = std::thread::scope(|scope| {
        let others: Vec<_> = (1..threads).map(|_| scope.spawn(work)).collect();
        let mut frames = work();
        for other in others {
            match other.join() {
                Ok(more) => frames.extend(more),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        frames
    });
    frames.sort_unstable_by_key(|(n, _)| *n);
    frames.into_iter().map(|(_, f)| f).collect()
}
