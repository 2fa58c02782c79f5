//! Bringing an archive back whole: its newest manifest's objects as the files of a store.
//!
//! A clone that was interrupted has a file `clone` and no superblock, so nobody takes it for a store; the
//! next attempt goes on from the files that are there and have their hashes.

use super::error::RemoteError;
use super::fetch;
use super::home::{Home, Mark};
use super::lineage;
use super::manifest::{Manifest, Object};
use super::sealed::SealedStore;
use crate::store::api::{Ecc, Result, StoreError};
use crate::store::io::{OsVolume, Volume, read_up_to, write_file};
use crate::store::log::segments::{segment_path, sidecar_path};
use crate::store::log::superblock;
use crate::store::models::model_paths;
use std::collections::{HashMap, HashSet};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

/// The file that says what an unfinished clone is: the URL.
pub const UNFINISHED: &str = "clone";
/// Objects that are fetched at a time.
const AT_A_TIME: usize = 4;

/// What a clone did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Cloned {
    /// Files that were fetched.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Bytes of files that an earlier attempt had fetched.
    pub kept_bytes: u64,
}

fn io_error(what: String) -> impl FnOnce(io::Error) -> StoreError {
    |source| match source.raw_os_error() {
        Some(libc::ENOSPC | libc::EDQUOT) => {
            StoreError::NoSpace { path: what.clone(), detail: what }
        }
        _ => StoreError::Io { what, source },
    }
}

/// What an unfinished clone in a directory is a clone of.
pub fn unfinished(path: &Path) -> Option<String> {
    let bytes =
        OsVolume::new(path).open(UNFINISHED, false).and_then(|b| read_up_to(&*b, 0, 16 << 10));
    Some(String::from_utf8(bytes.ok()?).ok()?.trim_end().to_owned())
}

/// Makes the directory, or finds an unfinished clone of the same URL in it.
fn prepare(path: &Path, url: &str) -> Result<OsVolume> {
    let shown = path.display();
    let refuse = |text: String| Err(StoreError::Refused(text));
    match std::fs::read_dir(path) {
        Ok(mut entries) => match unfinished(path) {
            Some(of) if of == url => {}
            Some(of) => {
                return refuse(format!(
                    "{shown} is an unfinished clone of {of}; continue it with: lmfs clone {of} {shown}"
                ));
            }
            None if entries.next().is_none() => {}
            None => return refuse(format!("{shown} is not empty; name a new or empty directory")),
        },
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            let made = std::fs::DirBuilder::new().mode(0o700).create(path);
            made.map_err(io_error(format!("create {shown}")))?;
        }
        Err(e) => return Err(io_error(format!("read {shown}"))(e)),
    }
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o700);
    std::fs::set_permissions(path, mode).map_err(io_error(format!("chmod {shown}")))?;
    let volume = OsVolume::new(path);
    write_file(&volume, UNFINISHED, format!("{url}\n").as_bytes())
        .map_err(io_error(format!("write {shown}/{UNFINISHED}")))?;
    for dir in ["segments", "models"] {
        volume.mkdir(dir).map_err(io_error(format!("create {shown}/{dir}")))?;
    }
    Ok(volume)
}

/// All files of a store but the superblock.
fn files(m: &Manifest, ecc: Ecc) -> Vec<(String, Object)> {
    let mut out = Vec::new();
    for model in &m.models {
        let (file, sidecar) = model_paths(&model.id);
        out.push((file, model.object));
        if model.sidecar.len > 0 {
            out.push((sidecar, model.sidecar));
        }
    }
    for p in &m.parts {
        out.push((segment_path(p.number), p.object));
        if ecc != Ecc::None {
            out.push((sidecar_path(p.number, p.object.len), p.sidecar));
        }
    }
    out
}

/// True if a file has an object's bytes.
pub fn is_there(volume: &dyn Volume, path: &str, object: &Object) -> bool {
    let read = || {
        let blob = volume.open(path, false)?;
        if blob.len()? == object.len {
            read_up_to(&*blob, 0, object.len as usize)
        } else {
            Ok(Vec::new())
        }
    };
    read().is_ok_and(|bytes| object.is(&bytes))
}

/// Makes a store in `path` from the archive at `url`. `watch` is told how many bytes of how many are there.
pub fn clone(
    url: &str,
    path: &Path,
    patience: Duration,
    watch: &(dyn Fn(u64, u64) + Sync),
) -> Result<Cloned> {
    let url = super::open::canonical(url)?;
    let store = super::open::open(&url, patience)?;
    let Some(found) = lineage::newest(&*store)? else {
        return Err(
            RemoteError::Refused(format!("{url}: no archive is there (no manifest)")).into()
        );
    };
    let mark = found.mark;
    let m = lineage::whole(&*store, found.packed, &mut HashMap::new())?;
    let sb = superblock::decode(&m.superblock, &url)?;
    let volume = prepare(path, &url)?;
    let wanted = files(&m, sb.ecc);
    drop_others(&volume, path, &wanted)?;
    let total = wanted.iter().map(|(_, o)| o.len).sum();
    let (next, done) = (AtomicUsize::new(0), AtomicU64::new(0));
    let cloned = Mutex::new(Ok(Cloned::default()));
    let fetch_some = || {
        while let Some((file, object)) = wanted.get(next.fetch_add(1, Ordering::Relaxed)) {
            let kept = is_there(&volume, file, object);
            let fetched = if kept { Ok(()) } else { bring(&*store, &volume, path, file, object) };
            let done = done.fetch_add(object.len, Ordering::Relaxed) + object.len;
            watch(done, total);
            let mut all = crate::store::lock(&cloned);
            match (&mut *all, fetched) {
                (Err(_), _) => return,
                (_, Err(e)) => {
                    *all = Err(e);
                    return;
                }
                (Ok(c), Ok(())) if kept => c.kept_bytes += object.len,
                (Ok(c), Ok(())) => {
                    c.files += 1;
                    c.bytes += object.len;
                }
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..AT_A_TIME {
            scope.spawn(fetch_some);
        }
    });
    let cloned = cloned.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner)?;
    finish(&volume, path, &url, mark, &m)?;
    Ok(cloned)
}

/// Removes files of an earlier attempt that are not wanted any more: the archive went on.
fn drop_others(volume: &OsVolume, path: &Path, wanted: &[(String, Object)]) -> Result<()> {
    let names: HashSet<&str> = wanted.iter().map(|(n, _)| n.as_str()).collect();
    for dir in ["segments", "models"] {
        let fail = || io_error(format!("tidy {}/{dir}", path.display()));
        for name in volume.list(dir).map_err(fail())? {
            let file = format!("{dir}/{name}");
            if !names.contains(file.as_str()) {
                volume.remove(&file).map_err(fail())?;
            }
        }
    }
    Ok(())
}

fn bring(
    store: &dyn SealedStore,
    volume: &OsVolume,
    path: &Path,
    file: &str,
    object: &Object,
) -> Result<()> {
    let bytes = fetch::whole(store, object)?;
    write_file(volume, file, &bytes).map_err(io_error(format!("write {}/{file}", path.display())))
}

/// The superblock last: without it there is no store.
fn finish(volume: &OsVolume, path: &Path, url: &str, mark: Mark, m: &Manifest) -> Result<()> {
    Home { url: url.into(), last: Some(mark), ..Home::default() }.write(volume)?;
    let fail = |file: &str| io_error(format!("write {}/{file}", path.display()));
    for file in superblock::FILES.iter().rev() {
        write_file(volume, file, &m.superblock).map_err(fail(file))?;
    }
    volume.remove(UNFINISHED).map_err(fail(UNFINISHED))?;
    volume.sync_dir(".").map_err(fail("."))?;
    let parent = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let synced = std::fs::File::open(parent).and_then(|d| d.sync_all());
    synced.map_err(io_error(format!("fsync {}", parent.display())))
}
