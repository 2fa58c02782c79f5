//! The read path: what is in memory is answered at once, the rest by a decoding thread.

use super::dirty::Dirty;
use super::node::NodeState;
use super::{Fs, FsError, Result, lock};
use crate::blocks::{Attempt, Policy, ReadError, Urgency};
use crate::store::StoreError;
use crate::types::{Extent, FrameRef, Ino};
use std::sync::Arc;

/// Reads in a row after which a file is decoded ahead.
const SEQUENTIAL: u32 = 2;
/// How far, in bytes per decoding thread.
const AHEAD: u64 = 512 << 10;

/// What a range consists of: extents below, written data on top.
struct Picture {
    off: u64,
    len: u64,
    extents: Vec<Extent>,
    top: Dirty,
}

/// What of a range needs no decoding.
enum InMemory {
    /// All of it.
    Whole(Vec<u8>),
    /// Not all; what it takes to have the rest.
    Not(Lacking),
}

/// What it takes to read what is not in memory.
#[derive(Debug, Clone, Copy)]
struct Lacking {
    /// Decoding takes long.
    slow: bool,
    /// An object store has to be asked.
    distant: bool,
}

impl Picture {
    fn base(&self) -> Vec<u8> {
        vec![0; self.len as usize]
    }

    /// How many of the first bytes of an extent's block the range needs.
    fn needs(&self, e: &Extent) -> usize {
        let to = e.end().min(self.off + self.len);
        e.frame_off as usize + to.saturating_sub(e.off) as usize
    }

    /// Copies the part of `plain`, the frame of `e`, that lies in the range.
    fn lay(&self, out: &mut [u8], e: &Extent, plain: &[u8]) -> std::result::Result<(), ReadError> {
        let from = e.off.max(self.off);
        let to = e.end().min(self.off + self.len);
        let at = e.frame_off as usize + (from - e.off) as usize;
        let n = to.saturating_sub(from) as usize;
        let part = plain.get(at..at + n).ok_or(ReadError::Hash(e.frame))?;
        let to = (from - self.off) as usize;
        out[to..to + n].copy_from_slice(part);
        Ok(())
    }
}

impl Fs {
    /// Calls `done` with up to `len` bytes from `off` on: at once if no block must be decoded, else
    /// on a decoding thread, and never while it waits for another one. Less than `len` bytes means
    /// the end of the file.
    pub fn read(
        self: &Arc<Self>,
        ino: Ino,
        off: u64,
        len: u64,
        done: impl FnOnce(Result<Vec<u8>>) + Send + 'static,
    ) {
        match self.read_in_memory(ino, off, len) {
            Ok(InMemory::Whole(bytes)) => done(Ok(bytes)),
            Ok(InMemory::Not(lacking)) => self.read_later(ino, off, len, lacking, done),
            Err(e) => done(Err(e)),
        }
        self.decode_ahead(ino, off + len);
    }

    /// Has a decoding thread go on with a read.
    fn read_later(
        self: &Arc<Self>,
        ino: Ino,
        off: u64,
        len: u64,
        lacking: Lacking,
        done: impl FnOnce(Result<Vec<u8>>) + Send + 'static,
    ) {
        let fs = Arc::clone(self);
        let workers = self.blocks.workers_for(lacking.distant);
        workers.run(Urgency::Wanted, lacking.slow, move || {
            // Whoever waits is answered as soon as there is enough, even if a block's end is still to come.
            let mut done = Some(done);
            let mut early = || {
                let here = || {
                    let picture = fs.picture(ino, &fs.hold(ino)?.state(), off, len)?;
                    fs.lay_what_is_here(ino, &picture)
                };
                if done.is_some()
                    && let Ok(InMemory::Whole(bytes)) = here()
                    && let Some(done) = done.take()
                {
                    done(Ok(bytes));
                }
            };
            let read = |e: &Extent, need: usize| fs.blocks.attempt(e, need, &mut early);
            let read = fs.assemble(ino, off, len, read);
            let Some(done) = done else { return };
            match read {
                Ok(Attempt::Done(bytes)) => done(Ok(bytes)),
                // Not on this thread: others have use for it.
                Ok(Attempt::Pending(landing)) => {
                    let again = Arc::clone(&fs);
                    fs.blocks.when_landed(landing, move || {
                        again.read_later(ino, off, len, lacking, done);
                    });
                }
                Err(e) => done(Err(e)),
            }
        });
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

    fn read_in_memory(&self, ino: Ino, off: u64, len: u64) -> Result<InMemory> {
        let node = self.hold(ino)?;
        let mut s = node.state();
        self.accessed(&mut s);
        s.streak = if s.read_end == off { s.streak.saturating_add(1) } else { 0 };
        s.read_end = off + len;
        let picture = self.picture(ino, &s, off, len)?;
        drop(s);
        self.lay_what_is_here(ino, &picture)
    }

    /// Puts a range together without decoding anything.
    fn lay_what_is_here(&self, ino: Ino, picture: &Picture) -> Result<InMemory> {
        let mut out = picture.base();
        for e in &picture.extents {
            let plain = self.blocks.peek(e.frame, picture.needs(e));
            if e.meta.shared {
                self.decode_next_shared(e.frame, plain.is_some());
            }
            let Some(plain) = plain else {
                let slow = picture.extents.iter().any(|e| self.blocks.is_slow(e));
                let distant = picture.extents.iter().any(|e| self.blocks.is_distant(e));
                return Ok(InMemory::Not(Lacking { slow, distant }));
            };
            picture.lay(&mut out, e, &plain).map_err(|s| damaged(ino, e, picture, s))?;
        }
        picture.top.overlay(picture.off, &mut out);
        Ok(InMemory::Whole(out))
    }

    /// Reads, decoding on the calling thread what must be.
    pub fn read_now(&self, ino: Ino, off: u64, len: u64) -> Result<Vec<u8>> {
        loop {
            let read = |e: &Extent, _| self.blocks.read(e, Policy::Keep).map(Attempt::Done);
            if let Attempt::Done(bytes) = self.assemble(ino, off, len, read)? {
                return Ok(bytes);
            }
        }
    }

    /// Puts a range together from its blocks, which `block` reads as far as they are needed, and what was written
    /// since; or says what one of the blocks waits for.
    fn assemble(
        &self,
        ino: Ino,
        off: u64,
        len: u64,
        mut block: impl FnMut(&Extent, usize) -> std::result::Result<Attempt<Arc<Vec<u8>>>, ReadError>,
    ) -> Result<Attempt<Vec<u8>>> {
        let node = self.hold(ino)?;
        loop {
            let picture = self.picture(ino, &node.state(), off, len)?;
            let mut out = picture.base();
            let mut failed = None;
            for e in &picture.extents {
                let laid = match block(e, picture.needs(e)) {
                    Ok(Attempt::Done(plain)) => picture.lay(&mut out, e, &plain),
                    Ok(Attempt::Pending(landing)) => return Ok(Attempt::Pending(landing)),
                    Err(why) => Err(why),
                };
                if let Err(why) = laid {
                    failed = Some((e, why));
                    break;
                }
            }
            let Some((e, why)) = failed else {
                picture.top.overlay(off, &mut out);
                return Ok(Attempt::Done(out));
            };
            // The frame may have been coded anew or moved meanwhile; then its extent says so.
            let now = self.store.extents_in(ino, e.off, e.len)?;
            if now.contains(e) {
                let error = damaged(ino, e, &picture, why);
                // A model that does not run has been logged once, for all its frames.
                let model = matches!(&error, FsError::Damaged { source: ReadError::Model(_), .. });
                if !model && lock(&self.reported).insert(e.frame) {
                    log::error!("{error}");
                }
                return Err(error);
            }
        }
    }

    /// Has the next shared frame decoded, if a frame is the one after the last: small files are read in order as a
    /// rule.
    fn decode_next_shared(&self, frame: FrameRef, in_memory: bool) {
        let in_order = *lock(&self.next_shared) == Some(frame);
        if !in_order && in_memory {
            return;
        }
        let Ok(Some(next)) = self.store.shared_after(frame) else { return };
        *lock(&self.next_shared) = Some(next.frame);
        if in_order {
            self.blocks.read_ahead(next);
        }
    }

    fn decode_ahead(self: &Arc<Self>, ino: Ino, from: u64) {
        let sequential = self.hold(ino).is_ok_and(|n| n.state().streak >= SEQUENTIAL);
        if !sequential {
            return;
        }
        let len = AHEAD * self.options.decode_threads.max(1) as u64;
        for e in self.store.extents_in(ino, from, len).unwrap_or_default() {
            self.blocks.read_ahead(e);
        }
    }
}

fn damaged(ino: Ino, e: &Extent, picture: &Picture, source: ReadError) -> FsError {
    match source {
        ReadError::Store(s @ (StoreError::NoSpace { .. } | StoreError::ReadOnly)) => s.into(),
        source => FsError::Damaged { ino, offset: e.off.max(picture.off), source },
    }
}
