//! Putting a store's files right from the object store: what is missing here, or is not what was uploaded.

use super::clone::is_there;
use super::error::RemoteError;
use super::fetch;
use super::home::Home;
use super::lineage;
use super::manifest::{Object, Part};
use super::sealed::SealedStore;
use super::tier::Tier;
use super::upload::none_named;
use crate::store::api::{Ecc, Result, StoreError};
use crate::store::io::{OsVolume, Volume, read_up_to, write_file};
use crate::store::log::segments::{segment_path, sidecar_path};
use crate::store::log::superblock;
use crate::store::models::model_paths;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// What was put right.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pulled {
    /// Files that were looked at.
    pub files: u64,
    /// Those that were fetched.
    pub fetched: u64,
    /// Their bytes.
    pub bytes: u64,
}

fn io_error(file: &str) -> impl FnOnce(io::Error) -> StoreError {
    let what = format!("write {file}");
    |source| match source.raw_os_error() {
        Some(libc::ENOSPC | libc::EDQUOT) => {
            StoreError::NoSpace { path: what.clone(), detail: what }
        }
        _ => StoreError::Io { what, source },
    }
}

/// Does it for a store that is not open; the caller holds its lock.
/// What was evicted stays there, unless `all` is wanted.
pub fn pull(
    path: &Path,
    patience: Duration,
    all: bool,
    watch: &mut dyn FnMut(u64, u64),
) -> Result<Pulled> {
    let volume = OsVolume::new(path);
    let Some(mut home) = Home::read(&volume)? else {
        return Err(none_named(path));
    };
    let store = super::open::open(&home.url, patience)?;
    let url = store.url();
    let Some(found) = lineage::newest(&*store)? else {
        return Err(
            RemoteError::Refused(format!("{url}: no archive is there (no manifest)")).into()
        );
    };
    if !home.knows(&found.mark) {
        return Err(RemoteError::Fenced(format!(
            "{url}: the archive went on elsewhere since this store was last in line with it; bring it to \
             another directory with: lmfs clone {url} DIRECTORY"
        ))
        .into());
    }
    home.reached(found.mark);
    home.write(&volume)?;
    let m = lineage::whole(&*store, found.packed, &mut HashMap::new())?;
    let superblock = superblock::decode(&m.superblock, &url)?;
    let ecc = superblock.ecc;
    let (mut out, mut done) = (Pulled::default(), 0);
    for model in &m.models {
        let (file, sidecar) = model_paths(&model.id);
        out.put_right(&*store, &volume, &file, &model.object)?;
        if model.sidecar.len > 0 {
            out.put_right(&*store, &volume, &sidecar, &model.sidecar)?;
        }
    }
    let tier = Tier::open(path, Arc::new(OsVolume::new(path)), &superblock, true)?;
    let evicted = |p: &Part| tier.part(p.number).is_some();
    let parts: Vec<&Part> = m.parts.iter().filter(|p| all || !evicted(p)).collect();
    let total = parts.iter().map(|p| p.object.len).sum();
    for p in parts {
        let file = segment_path(p.number);
        out.files += 1;
        if !begins_with(&volume, &file, &p.object) {
            let bytes = fetch::whole(&*store, &p.object)?;
            begin_with(&volume, &file, &bytes).map_err(io_error(&file))?;
            out.fetched += 1;
            out.bytes += p.object.len;
        }
        // One that has grown has a sidecar of its own.
        let grown = volume.open(&file, false).and_then(|b| b.len()).is_ok_and(|n| n > p.object.len);
        if ecc != Ecc::None && !grown {
            let sidecar = sidecar_path(p.number, p.object.len);
            out.put_right(&*store, &volume, &sidecar, &p.sidecar)?;
        }
        if evicted(p) {
            volume.sync_dir("segments").map_err(io_error("segments"))?;
            tier.leave(&[p.number])?;
        }
        done += p.object.len;
        watch(done, total);
    }
    volume.sync_dir("segments").map_err(io_error("segments"))?;
    if all && home.evicts && tier.parts().is_empty() {
        home.evicts = false;
        home.write(&volume)?;
    }
    Ok(out)
}

impl Pulled {
    fn put_right(
        &mut self,
        store: &dyn SealedStore,
        volume: &dyn Volume,
        file: &str,
        object: &Object,
    ) -> Result<()> {
        self.files += 1;
        if !is_there(volume, file, object) {
            let bytes = fetch::whole(store, object)?;
            write_file(volume, file, &bytes).map_err(io_error(file))?;
            self.fetched += 1;
            self.bytes += object.len;
        }
        Ok(())
    }
}

/// True if a file's first bytes are an object's.
fn begins_with(volume: &dyn Volume, file: &str, object: &Object) -> bool {
    let read = volume.open(file, false).and_then(|b| read_up_to(&*b, 0, object.len as usize));
    read.is_ok_and(|bytes| object.is(&bytes))
}

/// Writes a file's first bytes; what lies behind them stays. In place, as all repair is: a crash in the
/// middle leaves what the next attempt puts right.
fn begin_with(volume: &dyn Volume, file: &str, bytes: &[u8]) -> io::Result<()> {
    let blob = match volume.open(file, true) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return write_file(volume, file, bytes),
        blob => blob?,
    };
    blob.write_at(bytes, 0)?;
    blob.sync()
}
