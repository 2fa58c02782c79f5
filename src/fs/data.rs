//! Bytes of files: write, stage, truncate, punch, seek.

use super::node::{Node, NodeState};
use super::{Fs, FsError, Result, SIZE_MAX, lock};
use crate::block;
use crate::store::{NewFrame, Op, Txn};
use crate::types::{Ino, Time};
use std::sync::atomic::Ordering;

/// Unstaged bytes of one file from which on its writer stages them.
const NODE_DIRTY: u64 = 8 << 20;
/// Unstaged bytes of all files from which on every writer stages.
const ALL_DIRTY: u64 = 64 << 20;
/// Pieces are staged by several threads from this many bytes on.
const PARALLEL: u64 = 1 << 20;

impl Fs {
    /// Opens an inode: it stays, even without a name, until [`Self::release`].
    pub fn open_inode(&self, ino: Ino) -> Result<()> {
        self.with_node(ino, |s| {
            self.attr_of(ino, s)?;
            s.opens += 1;
            Ok(())
        })
    }

    /// Undoes one [`Self::open_inode`]; the last one deletes an inode without a name.
    pub fn release(&self, ino: Ino) -> Result<()> {
        self.with_node(ino, |s| {
            s.opens = s.opens.saturating_sub(1);
            if s.opens == 0 && s.attr.is_some_and(|a| a.nlink == 0) && !self.store.read_only() {
                self.forget_dirty(s);
                s.attr = None;
                return self.delete_inode(ino);
            }
            if s.opens == 0 {
                return self.stage_state(ino, s, Vec::new());
            }
            Ok(())
        })
    }

    /// Drops what was written and not staged: the inode is gone.
    pub(super) fn forget_dirty(&self, s: &mut NodeState) {
        self.dirty_bytes.fetch_sub(s.dirty.bytes(), Ordering::Relaxed);
        s.dirty.clear();
        s.reserved.clear();
        s.attr_dirty = false;
    }

    /// Writes at an offset. ENOSPC is told here, not at commit.
    pub fn write(&self, ino: Ino, off: u64, data: &[u8]) -> Result<()> {
        if self.store.read_only() {
            return Err(FsError::ReadOnly);
        }
        let end = off.checked_add(data.len() as u64).filter(|e| *e <= SIZE_MAX);
        let end = end.ok_or(FsError::TooLarge)?;
        if data.is_empty() {
            return Ok(());
        }
        self.with_node(ino, |s| {
            let mut attr = self.attr_of(ino, s)?;
            if !attr.is_file() {
                return Err(FsError::Invalid);
            }
            let room = self.store.reserve(data.len() as u64)?;
            let before = s.dirty.bytes();
            s.dirty.write(off, data);
            let after = s.dirty.bytes();
            if after >= before {
                self.dirty_bytes.fetch_add(after - before, Ordering::Relaxed);
            }
            s.reserved.push(room);
            attr.size = attr.size.max(end);
            attr.mtime = Time::now();
            attr.ctime = attr.mtime;
            s.attr = Some(attr);
            s.attr_dirty = true;
            if after >= NODE_DIRTY || self.dirty_bytes.load(Ordering::Relaxed) >= ALL_DIRTY {
                self.stage_state(ino, s, Vec::new())?;
            }
            Ok(())
        })
    }

    /// Stages all that is dirty of a node, in one transaction.
    pub(super) fn stage(&self, node: &Node) -> Result<()> {
        let mut s = lock(&node.state);
        let result = self.stage_state(node.ino, &mut s, Vec::new());
        if let Err(e) = &result {
            s.failed = Some(e.clone());
        }
        drop(s);
        result
    }

    /// Stages the dirty bytes and attributes of an inode, and `more`, in one transaction.
    pub(super) fn stage_state(&self, ino: Ino, s: &mut NodeState, more: Vec<Op>) -> Result<()> {
        if s.dirty.is_empty() && !s.attr_dirty && more.is_empty() {
            return Ok(());
        }
        let generation = if s.dirty.is_empty() { 0 } else { self.store.next_generation() };
        let pieces: Vec<(u64, &[u8])> = s.dirty.pieces().collect();
        let frames = encode_pieces(ino, generation, &pieces, s.dirty.bytes() >= PARALLEL);
        let mut ops: Vec<Op> = (0..frames.len()).map(|frame| Op::PutExtent { frame }).collect();
        ops.extend(more);
        if let Some(a) = s.attr {
            ops.push(Op::PutInode(ino, a));
        }
        let staged = !frames.is_empty();
        self.store.append(Txn { frames, ops, guard: None })?;
        self.forget_dirty(s);
        if staged {
            self.recoder.touch(ino);
        }
        Ok(())
    }

    /// Close of one descriptor: stage, and with `sync` make durable. Tells of an earlier failure.
    pub fn flush(&self, ino: Ino) -> Result<()> {
        let Some(node) = self.active(ino) else { return Ok(()) };
        let earlier = lock(&node.state).failed.take();
        self.stage(&node)?;
        self.put_node(node);
        if self.options.sync {
            self.store.sync()?;
        }
        earlier.map_or(Ok(()), Err)
    }

    /// fsync(2): durable when it returns.
    pub fn fsync(&self, ino: Ino) -> Result<()> {
        let mut earlier = None;
        if let Some(node) = self.active(ino) {
            earlier = lock(&node.state).failed.take();
            self.stage(&node)?;
            self.put_node(node);
        }
        self.store.sync()?;
        earlier.map_or(Ok(()), Err)
    }

    /// Sets the size under a node's lock; what is cut off is gone, what is added is a hole.
    pub(super) fn resize(&self, ino: Ino, s: &mut NodeState, size: u64) -> Result<Vec<Op>> {
        let mut attr = self.attr_of(ino, s)?;
        if attr.is_dir() {
            return Err(FsError::IsDir);
        }
        if !attr.is_file() {
            return Err(FsError::Invalid);
        }
        if size > SIZE_MAX {
            return Err(FsError::TooLarge);
        }
        let mut ops = Vec::new();
        if size < attr.size {
            let before = s.dirty.bytes();
            s.dirty.remove(size, u64::MAX - size);
            self.dirty_bytes.fetch_sub(before - s.dirty.bytes(), Ordering::Relaxed);
            ops.push(Op::Punch { ino, off: size, len: u64::MAX - size });
        }
        attr.size = size;
        attr.mtime = Time::now();
        attr.ctime = attr.mtime;
        s.attr = Some(attr);
        s.attr_dirty = true;
        Ok(ops)
    }

    /// fallocate(2) with mode 0, KEEP_SIZE, PUNCH_HOLE or ZERO_RANGE. Space is not set aside: what
    /// a block will need is not known before it is coded.
    pub fn fallocate(&self, ino: Ino, mode: i32, off: u64, len: u64) -> Result<()> {
        if self.store.read_only() {
            return Err(FsError::ReadOnly);
        }
        let keep = mode & libc::FALLOC_FL_KEEP_SIZE != 0;
        let zero = match mode & !libc::FALLOC_FL_KEEP_SIZE {
            0 => false,
            libc::FALLOC_FL_PUNCH_HOLE if keep => true,
            libc::FALLOC_FL_ZERO_RANGE => true,
            _ => return Err(FsError::NotSupported),
        };
        let end = off.checked_add(len).filter(|e| *e <= SIZE_MAX).ok_or(FsError::TooLarge)?;
        if len == 0 {
            return Err(FsError::Invalid);
        }
        self.with_node(ino, |s| {
            let mut attr = self.attr_of(ino, s)?;
            if !attr.is_file() {
                return Err(FsError::Invalid);
            }
            let mut ops = Vec::new();
            if zero {
                let before = s.dirty.bytes();
                s.dirty.remove(off, len);
                self.dirty_bytes.fetch_sub(before - s.dirty.bytes(), Ordering::Relaxed);
                ops.push(Op::Punch { ino, off, len });
            }
            if !keep {
                attr.size = attr.size.max(end);
            }
            attr.ctime = Time::now();
            if zero {
                attr.mtime = attr.ctime;
            }
            s.attr = Some(attr);
            s.attr_dirty = true;
            self.stage_state(ino, s, ops)
        })
    }

    /// lseek(2) with SEEK_DATA (`data`) or SEEK_HOLE.
    pub fn seek(&self, ino: Ino, off: u64, data: bool) -> Result<u64> {
        self.with_node(ino, |s| {
            let size = self.attr_of(ino, s)?.size;
            if off >= size {
                return Err(FsError::NoSuchOffset);
            }
            let mut ranges: Vec<(u64, u64)> = s.dirty.ranges_from(off).collect();
            let extents = self.store.extents_in(ino, off, size - off)?;
            ranges.extend(extents.iter().map(|e| (e.off, e.end())));
            ranges.sort_unstable();
            let mut at = off;
            for (start, end) in ranges {
                if data && end > at {
                    return Ok(start.max(at))
                        .and_then(|p| if p < size { Ok(p) } else { Err(FsError::NoSuchOffset) });
                }
                if start > at {
                    break;
                }
                at = at.max(end);
            }
            if data { Err(FsError::NoSuchOffset) } else { Ok(at.min(size)) }
        })
    }

    /// copy_file_range(2), through the cache; returns the bytes copied.
    pub fn copy_range(
        &self,
        from: Ino,
        off_in: u64,
        to: Ino,
        off_out: u64,
        len: u64,
    ) -> Result<u64> {
        const STEP: u64 = 1 << 20;
        let mut done = 0;
        while done < len {
            let want = STEP.min(len - done) as u32;
            let bytes = self.read(from, off_in + done, want)?.complete(self)?;
            if bytes.is_empty() {
                break;
            }
            self.write(to, off_out + done, &bytes)?;
            done += bytes.len() as u64;
        }
        Ok(done)
    }
}

/// Codes dirty pieces as staged frames, by two threads when `parallel`.
fn encode_pieces(
    ino: Ino,
    generation: u64,
    pieces: &[(u64, &[u8])],
    parallel: bool,
) -> Vec<NewFrame> {
    let one = |&(off, plain): &(u64, &[u8])| {
        let coded = block::stage(plain);
        NewFrame {
            ino,
            off,
            form: coded.form,
            staged: true,
            generation,
            plain_len: plain.len() as u32,
            plain_hash: block::plain_hash(plain),
            primer: 0,
            model: 0,
            payload: coded.payload,
        }
    };
    if !parallel || pieces.len() < 2 {
        return pieces.iter().map(one).collect();
    }
    let (a, b) = pieces.split_at(pieces.len() / 2);
    std::thread::scope(|scope| {
        let other = scope.spawn(|| b.iter().map(one).collect::<Vec<_>>());
        let mut all: Vec<_> = a.iter().map(one).collect();
        match other.join() {
            Ok(rest) => all.extend(rest),
            Err(_) => all.extend(b.iter().map(one)),
        }
        all
    })
}
