//! A store's files, where some segments are *evicted*: they lie in the object store only. To the rest of the
//! store they look like the others, but are not written; and `is_distant` tells them apart.
//!
//! Which are evicted is in `evicted/`, a file for each group of numbers and a copy of it, in the form of a
//! manifest's run. A segment is entered there, durably, before its file goes; where both are found the file
//! counts, if it is whole. So whatever a crash leaves, each segment is here or known to be there.

use super::blobs::{SegmentBlob, WholeBlob};
use super::manifest::{Part, decode_run, encode_run, group_of, numbers_of};
use super::source::Source;
use crate::store::api::{Result, StoreError, Superblock};
use crate::store::io::{Blob, Volume, put_file, read_up_to};
use crate::store::lock;
use crate::store::log::segments::{segment_path, sidecar_name, sidecar_path};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

/// Directory of the files that say which segments are evicted.
const DIR: &str = "evicted";
/// Most bytes of such a file.
const MOST: usize = 256 << 10;

/// See the module.
#[derive(Debug)]
pub struct Tier {
    local: Arc<dyn Volume>,
    /// What evicted segments are read through.
    pub source: Arc<Source>,
    /// Held for moments.
    evicted: RwLock<Evicted>,
    /// Held while the files are written.
    turn: Mutex<()>,
}

#[derive(Debug, Default)]
struct Evicted {
    parts: BTreeMap<u32, Part>,
    /// Groups whose files are not up to date.
    dirty: BTreeSet<u32>,
}

impl Evicted {
    /// The segments of a group.
    fn of(&self, group: u32) -> Vec<Part> {
        self.parts.range(numbers_of(group)).map(|(_, p)| *p).collect()
    }
}

/// The two files of a group.
fn files(group: u32) -> [String; 2] {
    let file = format!("{DIR}/{group:07}");
    let copy = format!("{file}.copy");
    [file, copy]
}

fn group_in(name: &str) -> Option<u32> {
    let group = name.strip_suffix(".copy").unwrap_or(name).parse().ok()?;
    let is_one = group <= group_of(u32::MAX) && files(group).contains(&format!("{DIR}/{name}"));
    is_one.then_some(group)
}

fn number_of(path: &str) -> Option<u32> {
    path.strip_prefix("segments/")?.get(..8)?.parse().ok()
}

fn ignore_missing(r: io::Result<()>) -> io::Result<()> {
    match r {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        r => r,
    }
}

fn io_error(what: &str) -> impl FnOnce(io::Error) -> StoreError {
    let what = format!("{what} {DIR}");
    |source| StoreError::Io { what, source }
}

impl Tier {
    /// The files of the store in a directory. With `write`, what a crash left half done is put right.
    pub fn open(
        path: &Path,
        local: Arc<dyn Volume>,
        superblock: &Superblock,
        write: bool,
    ) -> Result<Arc<Self>> {
        let stamp = super::bundle::stamp(&superblock.uuid, superblock.ecc);
        let source = Arc::new(Source::new(path, Arc::clone(&local), stamp, write));
        let tier = Self { local, source, evicted: RwLock::default(), turn: Mutex::default() };
        let mut evicted = tier.read().map_err(io_error("read"))?;
        if !evicted.parts.is_empty() {
            tier.settle(&mut evicted, write).map_err(io_error("look at segments and"))?;
        }
        *tier.change() = evicted;
        if write {
            tier.flush().map_err(io_error("write"))?;
        }
        Ok(Arc::new(tier))
    }

    fn look(&self) -> RwLockReadGuard<'_, Evicted> {
        self.evicted.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self) -> RwLockWriteGuard<'_, Evicted> {
        self.evicted.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the files say. Of a group whose files are both damaged nothing is known here.
    fn read(&self) -> io::Result<Evicted> {
        let mut out = Evicted::default();
        let names = match self.local.list(DIR) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(out),
            names => names?,
        };
        for group in names.iter().filter_map(|n| group_in(n)).collect::<BTreeSet<u32>>() {
            let mut read = Vec::new();
            for file in files(group) {
                let bytes = match self.local.open(&file, false) {
                    Err(e) if e.kind() == io::ErrorKind::NotFound => Vec::new(),
                    blob => read_up_to(&*blob?, 0, MOST)?,
                };
                match decode_run(&file, group, &bytes) {
                    Ok(parts) => read.push(parts),
                    Err(e) => log::warn!("{e}"),
                }
            }
            if read.len() < 2 || read[0] != read[1] {
                out.dirty.insert(group);
            }
            match read.into_iter().next() {
                Some(parts) => out.parts.extend(parts.into_iter().map(|p| (p.number, p))),
                // They are made anew from the manifest.
                None => drop(out.dirty.remove(&group)),
            }
        }
        Ok(out)
    }

    /// Segments that are here after all, whole, are not evicted; what is left of others goes.
    fn settle(&self, evicted: &mut Evicted, write: bool) -> io::Result<()> {
        for name in self.local.list("segments")? {
            let path = format!("segments/{name}");
            let Some(part) = number_of(&path).and_then(|n| evicted.parts.get(&n)).copied() else {
                continue;
            };
            if path == segment_path(part.number)
                && self.local.open(&path, false)?.len()? == part.object.len
            {
                evicted.parts.remove(&part.number);
                evicted.dirty.insert(group_of(part.number));
            }
        }
        // By now it is known whose sidecars are needed.
        for name in self.local.list("segments")? {
            let path = format!("segments/{name}");
            let ours = path.ends_with(".seg") || sidecar_name(&name).is_some();
            if write && ours && number_of(&path).is_some_and(|n| evicted.parts.contains_key(&n)) {
                ignore_missing(self.local.remove(&path))?;
            }
        }
        Ok(())
    }

    /// Writes the files of a group that are to say this.
    fn write(&self, group: u32, parts: &[Part]) -> io::Result<()> {
        let bytes = encode_run(group, parts);
        for file in files(group) {
            if parts.is_empty() {
                ignore_missing(self.local.remove(&file))?;
            } else {
                put_file(&*self.local, &file, &bytes)?;
            }
        }
        Ok(())
    }

    /// Brings the files of changed groups up to date; durable on return.
    fn flush(&self) -> io::Result<()> {
        let _turn = lock(&self.turn);
        let dirty = std::mem::take(&mut self.change().dirty);
        if dirty.is_empty() {
            return Ok(());
        }
        let write = || {
            for group in &dirty {
                let parts = self.look().of(*group);
                self.write(*group, &parts)?;
            }
            self.local.sync_dir(DIR)
        };
        let written = write();
        if written.is_err() {
            self.change().dirty.extend(dirty);
        }
        written
    }

    /// Enters segments that lie in the object store only; durable on return. Their files may go then.
    pub fn enter(&self, parts: &[Part]) -> Result<()> {
        let _turn = lock(&self.turn);
        let write = || {
            self.local.mkdir(DIR)?;
            self.local.sync_dir(".")?;
            for group in parts.iter().map(|p| group_of(p.number)).collect::<BTreeSet<u32>>() {
                let mut all = self.look().of(group);
                all.extend(parts.iter().filter(|p| group_of(p.number) == group));
                all.sort_by_key(|p| p.number);
                all.dedup_by_key(|p| p.number);
                self.write(group, &all)?;
            }
            self.local.sync_dir(DIR)
        };
        // Only what the disk has may be relied upon, and nobody waits for it meanwhile.
        let written = write();
        if written.is_ok() {
            self.assume(parts);
        } else {
            // Perhaps it has it all the same.
            self.change().dirty.extend(parts.iter().map(|p| group_of(p.number)));
        }
        written.map_err(io_error("write"))
    }

    /// As [`Self::enter`], where nothing may be written.
    pub fn assume(&self, parts: &[Part]) {
        self.change().parts.extend(parts.iter().map(|p| (p.number, *p)));
    }

    /// Removes the files of an evicted segment. What cannot be removed counts again at the next opening.
    pub fn drop_files(&self, part: &Part, covered: Option<u64>) {
        let sidecar = covered.map(|covered| sidecar_path(part.number, covered));
        for file in std::iter::once(segment_path(part.number)).chain(sidecar) {
            if let Err(e) = ignore_missing(self.local.remove(&file)) {
                log::warn!("remove {file}: {e}");
            }
        }
    }

    /// These segments are here again.
    pub fn leave(&self, numbers: &[u32]) -> Result<()> {
        let mut evicted = self.change();
        for number in numbers {
            if evicted.parts.remove(number).is_some() {
                evicted.dirty.insert(group_of(*number));
            }
        }
        drop(evicted);
        self.flush().map_err(io_error("write"))
    }

    /// An evicted segment.
    pub fn part(&self, number: u32) -> Option<Part> {
        self.look().parts.get(&number).copied()
    }

    /// True if none is evicted.
    pub fn is_empty(&self) -> bool {
        self.look().parts.is_empty()
    }

    /// All evicted segments.
    pub fn parts(&self) -> Vec<Part> {
        self.look().parts.values().copied().collect()
    }

    /// An evicted segment as a file.
    pub fn segment(&self, part: Part) -> Arc<dyn Blob> {
        Arc::new(SegmentBlob::new(Arc::clone(&self.source) as _, part))
    }
}

impl Volume for Tier {
    fn create(&self, path: &str) -> io::Result<Arc<dyn Blob>> {
        self.local.create(path)
    }

    fn open(&self, path: &str, write: bool) -> io::Result<Arc<dyn Blob>> {
        if let Some(part) = number_of(path).and_then(|n| self.part(n)) {
            if path == segment_path(part.number) {
                return Ok(self.segment(part));
            }
            if path == sidecar_path(part.number, part.object.len) {
                return Ok(Arc::new(WholeBlob::new(
                    Arc::clone(&self.source) as _,
                    part.sidecar,
                    false,
                )));
            }
        }
        self.local.open(path, write)
    }

    fn list(&self, dir: &str) -> io::Result<Vec<String>> {
        let mut names = self.local.list(dir)?;
        if dir == "segments" {
            let evicted = self.look();
            if !evicted.parts.is_empty() {
                let paths = evicted
                    .parts
                    .values()
                    .flat_map(|p| [segment_path(p.number), sidecar_path(p.number, p.object.len)]);
                names.extend(paths.filter_map(|p| Some(p.strip_prefix("segments/")?.to_owned())));
                names.sort();
                names.dedup();
            }
        }
        Ok(names)
    }

    fn mkdir(&self, dir: &str) -> io::Result<()> {
        self.local.mkdir(dir)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.local.rename(from, to)
    }

    /// An evicted segment's entry is gone for good once the directory is synced.
    fn remove(&self, path: &str) -> io::Result<()> {
        let Some(part) = number_of(path).and_then(|n| self.part(n)) else {
            return self.local.remove(path);
        };
        if path == segment_path(part.number) {
            let mut evicted = self.change();
            evicted.parts.remove(&part.number);
            evicted.dirty.insert(group_of(part.number));
            return Ok(());
        }
        ignore_missing(self.local.remove(path))
    }

    fn sync_dir(&self, dir: &str) -> io::Result<()> {
        if dir == "segments" && !self.look().dirty.is_empty() {
            self.flush()?;
        }
        self.local.sync_dir(dir)
    }

    fn free_bytes(&self) -> io::Result<u64> {
        self.local.free_bytes()
    }

    fn is_distant(&self, path: &str) -> bool {
        number_of(path).is_some_and(|n| self.look().parts.contains_key(&n))
    }
}
