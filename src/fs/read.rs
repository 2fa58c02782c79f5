//! The read path: what is in memory is answered at once, the rest by a decoding thread.

use super::dirty::Dirty;
use super::node::NodeState;
use super::{Fs, FsError, Result, lock};
use crate::fetch::FetchError;
use crate::store::StoreError;
use crate::types::{Extent, Ino};
use std::sync::Arc;

/// Reads in a row after which a file is decoded ahead.
const SEQUENTIAL: u32 = 2;
/// How far, in bytes per decoding thread.
const AHEAD: u64 = 256 << 10;

/// What a range consists of: extents below, written data on top.
struct Picture {
    off: u64,
    len: u64,
    extents: Vec<Extent>,
    top: Dirty,
}

impl Picture {
    fn base(&self) -> Vec<u8> {
        vec![0; self.len as usize]
    }

    /// Copies the part of `plain`, the frame of `e`, that lies in the range.
    fn lay(&self, out: &mut [u8], e: &Extent, plain: &[u8]) -> std::result::Result<(), FetchError> {
        let from = e.off.max(self.off);
        let to = e.end().min(self.off + self.len);
        let at = e.frame_off as usize + (from - e.off) as usize;
        let n = to.saturating_sub(from) as usize;
        let part = plain.get(at..at + n).ok_or(FetchError::Hash(e.frame))?;
        let to = (from - self.off) as usize;
        out[to..to + n].copy_from_slice(part);
        Ok(())
    }
}

impl Fs {
    /// Calls `done` with up to `len` bytes from `off` on: at once if no frame must be decoded, else
    /// on a decoding thread. Less than `len` bytes means the end of the file.
    pub fn read(
        self: &Arc<Self>,
        ino: Ino,
        off: u64,
        len: u64,
        done: impl FnOnce(Result<Vec<u8>>) + Send + 'static,
    ) {
        match self.read_in_memory(ino, off, len) {
            Ok(Some(bytes)) => done(Ok(bytes)),
            Ok(None) => {
                let fs = Arc::clone(self);
                self.decoders.run(move || done(fs.read_now(ino, off, len)));
            }
            Err(e) => done(Err(e)),
        }
        self.decode_ahead(ino, off + len);
    }

    fn picture(&self, ino: Ino, s: &NodeState, off: u64, len: u64) -> Result<Picture> {
        if s.gone {
            return Err(FsError::NotFound);
        }
        let end = off.saturating_add(len).min(s.attr.size).max(off);
        let covered = s.dirty.covers(off, end);
        let extents =
            if covered { Vec::new() } else { self.store.extents_in(ino, off, end - off)? };
        let mut top = Dirty::default();
        for layer in [&*s.staging, &s.dirty] {
            for (at, bytes) in layer.ranges_from(off).take_while(|(at, _)| *at < end) {
                let from = at.max(off);
                let to = (at + bytes.len() as u64).min(end);
                top.write(from, &bytes[(from - at) as usize..(to - at) as usize]);
            }
        }
        Ok(Picture { off, len: end - off, extents, top })
    }

    fn read_in_memory(&self, ino: Ino, off: u64, len: u64) -> Result<Option<Vec<u8>>> {
        let node = self.hold(ino)?;
        let mut s = node.state();
        self.accessed(&mut s);
        s.streak = if s.read_end == off { s.streak.saturating_add(1) } else { 0 };
        s.read_end = off + len;
        let picture = self.picture(ino, &s, off, len)?;
        drop(s);
        let mut out = picture.base();
        for e in &picture.extents {
            let Some(plain) = self.cache.peek(e.frame) else { return Ok(None) };
            picture.lay(&mut out, e, &plain).map_err(|s| damaged(ino, e, &picture, s))?;
        }
        picture.top.overlay(off, &mut out);
        Ok(Some(out))
    }

    /// Reads, decoding on the calling thread what must be.
    pub fn read_now(&self, ino: Ino, off: u64, len: u64) -> Result<Vec<u8>> {
        let node = self.hold(ino)?;
        loop {
            let picture = self.picture(ino, &node.state(), off, len)?;
            let mut out = picture.base();
            let failed = picture.extents.iter().find_map(|e| {
                let plain = self.cache.frame(&self.fetcher, e);
                plain.and_then(|p| picture.lay(&mut out, e, &p)).err().map(|why| (e, why))
            });
            let Some((e, why)) = failed else {
                picture.top.overlay(off, &mut out);
                return Ok(out);
            };
            // The frame may have been coded anew or moved meanwhile; then its extent says so.
            let now = self.store.extents_in(ino, e.off, e.len)?;
            if now.contains(e) {
                let error = damaged(ino, e, &picture, why);
                // A model that does not run has been logged once, for all its frames.
                let model = matches!(&error, FsError::Damaged { source: FetchError::Model(_), .. });
                if !model && lock(&self.reported).insert(e.frame) {
                    log::error!("{error}");
                }
                return Err(error);
            }
        }
    }

    fn decode_ahead(self: &Arc<Self>, ino: Ino, from: u64) {
        let sequential = self.hold(ino).is_ok_and(|n| n.state().streak >= SEQUENTIAL);
        if !sequential {
            return;
        }
        let len = AHEAD * self.options.decode_threads.max(1) as u64;
        for e in self.store.extents_in(ino, from, len).unwrap_or_default() {
            if self.cache.expects(e.frame) {
                continue;
            }
            let fs = Arc::clone(self);
            self.decoders.run(move || {
                // A failure is reported by the read that needs the frame.
                let _ = fs.cache.frame(&fs.fetcher, &e);
            });
        }
    }
}

fn damaged(ino: Ino, e: &Extent, picture: &Picture, source: FetchError) -> FsError {
    match source {
        FetchError::Store(s @ (StoreError::NoSpace { .. } | StoreError::ReadOnly)) => s.into(),
        source => FsError::Damaged { ino, offset: e.off.max(picture.off), source },
    }
}
