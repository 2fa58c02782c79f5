//! Reading: what has to be fetched is planned under the node's lock, fetched without it.

use super::{Fs, FsError, Result, lock};
use crate::block::Primer;
use crate::fetch;
use crate::types::{Extent, Ino, Time};
use std::sync::Arc;

/// What a read of one range consists of.
#[derive(Debug)]
pub struct ReadPlan {
    ino: Ino,
    off: u64,
    /// Bytes that the read returns.
    len: u64,
    extents: Vec<Extent>,
    /// Unstaged parts; they cover the extents.
    dirty: Vec<(u64, Vec<u8>)>,
}

impl Fs {
    /// Plans a read of up to `size` bytes.
    pub fn read(&self, ino: Ino, off: u64, size: u32) -> Result<ReadPlan> {
        let node = self.active(ino);
        let state = node.as_ref().map(|n| lock(&n.state));
        let attr = match state.as_ref().and_then(|s| s.attr) {
            Some(a) => a,
            None => self.store.inode(ino)?.ok_or(FsError::NotFound)?,
        };
        if attr.is_dir() {
            return Err(FsError::IsDir);
        }
        let len = attr.size.saturating_sub(off).min(u64::from(size));
        let extents = self.store.extents_in(ino, off, len)?;
        let dirty = state.as_ref().map_or_else(Vec::new, |s| s.dirty.read(off, len));
        Ok(ReadPlan { ino, off, len, extents, dirty })
    }

    /// Notes an access, by the rules of relatime.
    pub fn touch_atime(&self, ino: Ino) {
        const DAY: i64 = 24 * 3600;
        if self.options.noatime || self.store.read_only() {
            return;
        }
        if let Some(node) = self.active(ino) {
            let mut s = lock(&node.state);
            if let Some(a) = &mut s.attr {
                let now = Time::now();
                if a.atime <= a.mtime || a.atime <= a.ctime || now.sec - a.atime.sec >= DAY {
                    a.atime = now;
                    s.attr_dirty = true;
                }
            }
        }
    }

    /// The extents after a range that are not decoded yet, for read-ahead.
    pub fn ahead(&self, ino: Ino, off: u64, len: u64) -> Vec<Extent> {
        let mut extents = self.store.extents_in(ino, off, len).unwrap_or_default();
        extents.retain(|e| !self.frames.has(e.frame));
        extents
    }

    /// Decodes a frame into the cache; an error will be told to whoever reads it.
    pub fn prefetch(&self, ino: Ino, extent: &Extent) {
        if let Err(e) = self.plain(ino, extent) {
            log::debug!("read-ahead: {e}");
        }
    }

    fn primer(&self, extent: &Extent) -> Result<Option<Arc<Primer>>> {
        if extent.primer == 0 {
            return Ok(None);
        }
        let lost = FsError::Io(format!("making primer {} failed", extent.primer));
        let make = || Ok(fetch::primer(&self.store, extent.primer, extent.frame)?);
        self.primers.get_or(extent.primer, lost, make).map(Some)
    }

    /// The whole plaintext of an extent's frame.
    fn plain(&self, ino: Ino, extent: &Extent) -> Result<Arc<Vec<u8>>> {
        let lost = FsError::Io("decoding failed".into());
        self.frames.get_or(extent.frame, lost, || {
            let primer = self.primer(extent)?;
            let f = fetch::frame(&self.store, extent, primer.as_deref()).map_err(FsError::from)?;
            // A stale extent may lead to a frame of somebody else: never those bytes.
            let end = u64::from(extent.frame_off) + extent.len;
            if f.len() as u64 != u64::from(extent.plain_len) || end > f.len() as u64 {
                return Err(FsError::Io(format!("inode {ino}: frame is not the extent's")));
            }
            Ok(f)
        })
    }
}

impl ReadPlan {
    /// The bytes, if nothing has to be decoded.
    pub fn ready(&self, fs: &Fs) -> Option<Vec<u8>> {
        let mut frames = Vec::with_capacity(self.extents.len());
        for e in &self.extents {
            frames.push(fs.frames.get(e.frame)?);
        }
        Some(self.assemble(frames.iter().map(Arc::as_ref)))
    }

    /// The bytes; decodes what is not in the cache. One log line names what cannot be read.
    pub fn complete(self, fs: &Fs) -> Result<Vec<u8>> {
        match self.fetch_all(fs) {
            Err(FsError::Io(first)) => {
                // The cleaner or the coder may have moved the frames meanwhile.
                let again = fs.store.extents_in(self.ino, self.off, self.len)?;
                let moved = again != self.extents;
                let plan = Self { extents: again, ..self };
                let second = if moved { plan.fetch_all(fs) } else { Err(FsError::Io(first)) };
                if let Err(e) = &second {
                    log::error!("inode {} offset {} length {}: {e}", plan.ino, plan.off, plan.len);
                }
                second
            }
            r => r,
        }
    }

    fn fetch_all(&self, fs: &Fs) -> Result<Vec<u8>> {
        let mut frames = Vec::with_capacity(self.extents.len());
        for e in &self.extents {
            frames.push(fs.plain(self.ino, e)?);
        }
        Ok(self.assemble(frames.iter().map(Arc::as_ref)))
    }

    fn assemble<'a>(&self, frames: impl Iterator<Item = &'a Vec<u8>>) -> Vec<u8> {
        let mut out = vec![0; self.len as usize];
        let end = self.off + self.len;
        for (e, plain) in self.extents.iter().zip(frames) {
            let from = e.off.max(self.off);
            let to = e.end().min(end);
            let at = e.frame_off as usize + (from - e.off) as usize;
            let n = (to.saturating_sub(from)) as usize;
            if let Some(bytes) = plain.get(at..at + n) {
                let to = (from - self.off) as usize;
                out[to..to + n].copy_from_slice(bytes);
            }
        }
        for (from, bytes) in &self.dirty {
            let at = (from - self.off) as usize;
            out[at..at + bytes.len()].copy_from_slice(bytes);
        }
        out
    }
}

impl Fs {
    /// Ranges of a file whose frames do not pass their checks (their payloads are not decoded).
    pub fn damaged(&self, ino: Ino) -> Result<Vec<(u64, u64)>> {
        let extents = self.store.extents_in(ino, 0, u64::MAX)?;
        let bad = |e: &&Extent| self.store.read_frame(e.frame).is_err();
        Ok(extents.iter().filter(bad).map(|e| (e.off, e.len)).collect())
    }
}
