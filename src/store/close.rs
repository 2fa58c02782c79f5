//! Closing a store: the last checkpoint, the index, the log's last word.

use super::api::{Result, StoreError};
use super::open::free_name;
use crate::store::index::base::{Base, ClosedBase};
use crate::store::index::disk::{self, SledBase};
use crate::store::index::memtable::Table;
use crate::store::index::{flusher, mac};
use crate::store::log::record::{Out, Record};
use crate::store::log::segments::io_error;
use crate::store::{Store, lock};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

/// See [`Store::close`].
pub fn close(store: &Store) -> Result<()> {
    store.wind_up();
    // Whoever comes second waits for the first.
    let mut ended = lock(&store.closing);
    store.closed.store(true, Ordering::SeqCst);
    if store.read_only {
        return Ok(());
    }
    if let Some(ended) = &*ended {
        return ended.clone().map_err(|why| {
            let source = std::io::Error::from_raw_os_error(libc::EIO);
            StoreError::Io { what: format!("the store was not closed cleanly: {why}"), source }
        });
    }
    store.remote.worker.stop();
    let result = end(store);
    if result.is_ok() {
        store.upload_at_close();
    }
    *ended = Some(result.as_ref().copied().map_err(ToString::to_string));
    result
}

fn end(store: &Store) -> Result<()> {
    store.cleaner.stop();
    store.sweeper.stop();
    store.flusher.stop();
    store.parity_writer.stop();
    // From here on nothing is appended but the log's last word.
    checkpoint_at_close(store);
    // Not a sync, which may find nothing new: the checkpoint has to reach the medium too.
    store.commit(&lock(&store.sync))?;
    let mark = close_index(store);
    let mut w = store.writer();
    let mut totals = Out::default();
    store.state().totals.encode(&mut totals);
    // On a full disk it is done without: the next mount makes the index anew.
    let room = mark.is_none() || w.ensure(totals.0.len() as u64 + 4096, true).is_ok();
    if let Some((index, digest)) = mark.filter(|_| room) {
        let since_checkpoint = store.segments.flow.batches.load(Ordering::Relaxed);
        let checkpoint = *lock(&store.checkpoint);
        let totals = totals.0;
        w.log(&Record::Shutdown { index, digest, since_checkpoint, checkpoint, totals });
        w.close_batch(store.durable.load(Ordering::Acquire))?;
        w.flush()?;
        for (number, blob) in w.unsynced() {
            blob.sync().map_err(|e| io_error("fdatasync", number, e))?;
        }
    }
    w.trim();
    /// With this many bytes free, none need be set aside for the next mount.
    const ROOMY: u64 = 64 << 20;
    if store.segments.volume.free_bytes().is_ok_and(|free| free > ROOMY) {
        w.open_reserve();
    }
    store.synced.store(w.position(), Ordering::Release);
    w.shut();
    drop(w);
    // What is there is whole without; only damage that comes later would find it unprotected.
    // What fails is named there.
    let _ = crate::store::repair::parity_writer::protect_all(store);
    Ok(())
}

/// A checkpoint is read back much faster than batches are replayed, should the index get lost.
fn checkpoint_at_close(store: &Store) {
    /// Bytes of batches that are replayed in no time, and the part of the last checkpoint's length
    /// that they may reach. A small part: unmounts would take longer for nothing.
    const FEW: u64 = 1 << 20;
    const PART: u64 = 8;
    #[cfg(test)]
    let few = crate::store::tests::FEW.get().min(FEW);
    #[cfg(not(test))]
    let few = FEW;
    let mut w = store.writer();
    // Loading a checkpoint is also much faster than bringing a far behind index up to date.
    let batches = store.segments.flow.batches.load(Ordering::Relaxed);
    let far_behind = store.state().table.waiting() > INDEX_PATIENCE && batches > 0;
    let last = lock(&store.checkpoint).1;
    if w.usable().is_ok()
        && (far_behind || batches > few.max(last / PART))
        && let Err(e) = store.write_checkpoint(&mut w)
    {
        log::warn!("no checkpoint at the end, a rebuild of the index has to replay more: {e}");
    }
    w.begin_closing();
}

/// Changes that are worth waiting for when the index is closed; sled takes about 100,000 a second.
const INDEX_PATIENCE: usize = 300_000;

/// The longest that an answer of the index is waited for before it is closed.
const ASKED: std::time::Duration = std::time::Duration::from_secs(30);

/// True if an index has much more room than what is in it takes, by a guess, and there is room for a copy.
fn is_wasteful(store: &Store, dir: &Path) -> std::io::Result<bool> {
    const LITTLE: u64 = 1 << 20;
    /// Bytes that an inode with its name takes in leaves, and a frame with its extents.
    const INODE: u64 = 80;
    const FRAME: u64 = 40;
    let size = disk::size(dir)?;
    let state = store.state();
    let (inodes, frames) = (state.totals.inodes, state.totals.frames);
    let needed = inodes.saturating_mul(INODE).saturating_add(frames.saturating_mul(FRAME));
    let much = (needed / 2 * 3).saturating_add(LITTLE);
    Ok(size > much && store.segments.has_room_for_index(size))
}

/// Copies a closed index, and removes it. After a crash in between there is no index that anyone vouches for, as
/// after any.
fn compacted(store: &Store, dir: &Path) -> std::result::Result<PathBuf, String> {
    let new = free_name(&store.path, 0).ok_or("there is no name for a copy")?;
    let copy = || {
        let (from, to) = (SledBase::open(dir)?, SledBase::open(&new)?);
        disk::copy(&from, &to).map_err(|e| e.to_string())?;
        drop((from, to));
        disk::settle(dir).and_then(|()| disk::settle(&new)).map_err(|e| e.to_string())
    };
    let copied = copy();
    let old = if copied.is_ok() { dir } else { &new };
    if let Err(e) = std::fs::remove_dir_all(old) {
        log::warn!("{}: {e}", old.display());
    }
    copied.map(|()| new)
}

/// Brings the index up to date and closes it; its name and digest, if it can be vouched for.
fn close_index(store: &Store) -> Option<(String, [u8; 32])> {
    let mut dir = lock(&store.index_dir).clone()?;
    if store.state().table.waiting() > INDEX_PATIENCE {
        return None;
    }
    while flusher::step(store) > 0 {}
    if !flusher::is_whole(store) || store.state().table.waiting() > 0 {
        return None;
    }
    let base = {
        let mut state = store.state.write().unwrap_or_else(PoisonError::into_inner);
        let gone: Arc<dyn Base> = Arc::new(ClosedBase);
        let table = std::mem::replace(&mut state.table, Table::new(gone));
        Arc::clone(table.base())
    };
    // Whoever asks it right now is waited for.
    let began = std::time::Instant::now();
    while Arc::strong_count(&base) > 1 {
        if began.elapsed() > ASKED {
            log::warn!("{}: still in use, the next mount rebuilds it", dir.display());
            return None;
        }
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    let flushed = base.flush();
    drop(base);
    let vouch = || -> std::io::Result<_> {
        flushed.map_err(|e| std::io::Error::other(e.to_string()))?;
        disk::settle(&dir)?;
        if is_wasteful(store, &dir)? {
            match compacted(store, &dir) {
                Ok(new) => dir = new,
                Err(e) => log::warn!("{}: it stays as large as it is: {e}", dir.display()),
            }
        }
        disk::sync_files(&dir)?;
        let digest = disk::digest(&dir)?;
        // Its own name is durable with the seal's. Without one the index lives as long as this mount.
        if let Err(e) = mac::put(store, &digest) {
            log::warn!("the index cannot be sealed, the next mount makes it anew: {e}");
            File::open(&store.path)?.sync_all()?;
        }
        Ok(digest)
    };
    match vouch() {
        Ok(digest) => Some((dir.file_name()?.to_str()?.to_owned(), digest)),
        Err(e) => {
            log::warn!("{}: {e}; the next mount rebuilds it", dir.display());
            None
        }
    }
}
