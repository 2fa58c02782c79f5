//! Checking what lies in the object store: every byte of what the newest manifest names. What is damaged is
//! replaced by the right bytes, from the store here, or put right by the object's own sidecar.

use super::error::RemoteError;
use super::lineage::{self, Runs};
use super::manifest::{Object, Part};
use super::sealed::SealedStore;
use crate::store::api::Result;
use crate::store::log::frame::Stamp;
use crate::store::log::segments::segment_path;
use crate::store::log::superblock::{self, SEGMENT_HEADER};
use crate::store::repair::rebuild;
use crate::store::repair::sidecar::Sidecar;
use serde::{Deserialize, Serialize};

/// Bytes asked for at a time.
const STEP: u64 = 8 << 20;

/// What a check found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RemoteScrubbed {
    /// Objects looked at.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Those that were missing or damaged.
    pub damaged: u64,
    /// Those of them that were replaced.
    pub repaired: u64,
    /// What cannot be put right: what it is, and why.
    pub unrecoverable: Vec<String>,
}

/// Right bytes of an object, from somewhere else: of a segment by its number, or a model by its id.
pub trait Source {
    /// A segment and its sidecar, if they can be had here.
    fn segment(&self, part: &Part) -> Option<(Vec<u8>, Vec<u8>)>;
    /// A model file and its sidecar.
    fn model(&self, id: &[u8; 32]) -> Option<(Vec<u8>, Vec<u8>)>;
}

/// An object's bytes as they are there, by ranges, and whether they are the right ones.
fn read(store: &dyn SealedStore, object: &Object) -> Result<(Vec<u8>, bool)> {
    let (mut bytes, mut hash) = (Vec::new(), blake3::Hasher::new());
    while (bytes.len() as u64) < object.len {
        let at = bytes.len() as u64;
        match store.get_range(&object.name(), at..(at + STEP).min(object.len)) {
            Ok(some) => {
                hash.update(&some);
                bytes.extend(some);
            }
            // Missing or cut off; what there is of it is damaged anyway.
            Err(RemoteError::NotFound(_) | RemoteError::Refused(_)) => return Ok((bytes, false)),
            Err(e) => return Err(e.into()),
        }
    }
    let right = *hash.finalize().as_bytes() == object.hash;
    Ok((bytes, right))
}

struct Scrub<'a> {
    store: &'a dyn SealedStore,
    repair: bool,
    out: RemoteScrubbed,
}

impl Scrub<'_> {
    /// Checks an object; `right` is asked for its bytes if it is damaged.
    fn check(
        &mut self,
        what: &str,
        object: &Object,
        right: impl FnOnce(Vec<u8>) -> Option<Vec<u8>>,
    ) -> Result<()> {
        self.out.objects += 1;
        self.out.bytes += object.len;
        let (bytes, is_right) = read(self.store, object)?;
        if is_right {
            return Ok(());
        }
        self.out.damaged += 1;
        let name = object.name();
        log::warn!("{name}: {what} is damaged or missing");
        match right(bytes).filter(|b| object.is(b)) {
            Some(bytes) if self.repair => {
                self.store.put(&name, &bytes)?;
                self.out.repaired += 1;
            }
            Some(_) => {}
            None => self.out.unrecoverable.push(format!("{what} ({name})")),
        }
        Ok(())
    }
}

/// Checks everything that the newest manifest names. `watch` is told how many bytes of how many are done, and
/// ends it by saying false.
pub fn scrub(
    store: &dyn SealedStore,
    here: &dyn Source,
    repair: bool,
    watch: &mut dyn FnMut(u64, u64) -> bool,
) -> Result<RemoteScrubbed> {
    let url = store.url();
    let Some(found) = lineage::newest(store)? else {
        return Err(
            RemoteError::Refused(format!("{url}: no archive is there (no manifest)")).into()
        );
    };
    let runs = found.packed.runs.clone();
    let m = lineage::whole(store, found.packed, &mut Runs::new())?;
    let sb = superblock::decode(&m.superblock, &url)?;
    let stamp = super::bundle::stamp(&sb.uuid, sb.ecc);
    let total = m.parts.iter().map(|p| p.object.len).sum();
    let mut s = Scrub { store, repair, out: RemoteScrubbed::default() };
    // They were read and verified just now.
    s.out.objects += runs.len() as u64;
    for model in &m.models {
        let what = format!("model {}", &model.object.name());
        s.check(&what, &model.object, |_| Some(here.model(&model.id)?.0))?;
        if model.sidecar.len > 0 {
            s.check("a model's sidecar", &model.sidecar, |_| Some(here.model(&model.id)?.1))?;
        }
    }
    let mut done = 0;
    for p in &m.parts {
        if !watch(done, total) {
            return Err(crate::store::api::StoreError::Stopped);
        }
        let file = segment_path(p.number);
        s.check(&file, &p.object, |damaged| {
            here.segment(p).map(|(bytes, _)| bytes).or_else(|| by_sidecar(store, p, stamp, damaged))
        })?;
        let sidecar = format!("sidecar of {file}");
        s.check(&sidecar, &p.sidecar, |_| {
            let made = |bytes| super::bundle::bundle(sb.ecc, stamp, p.number, bytes).ok();
            let there = || {
                let (bytes, right) = read(store, &p.object).ok()?;
                right.then_some(bytes).and_then(made).map(|b| b.sidecar)
            };
            here.segment(p).map(|(_, side)| side).or_else(there)
        })?;
        done += p.object.len;
    }
    watch(total, total);
    Ok(s.out)
}

/// A damaged segment put right by its sidecar, if that can be read.
fn by_sidecar(
    store: &dyn SealedStore,
    p: &Part,
    stamp: Stamp,
    mut damaged: Vec<u8>,
) -> Option<Vec<u8>> {
    let (side, _) = read(store, &p.sidecar).ok()?;
    let side = Sidecar::read(side, stamp, p.number.into());
    damaged.truncate(p.object.len as usize);
    rebuild::file(&mut damaged, SEGMENT_HEADER, stamp.tag, Some(&side));
    Some(damaged)
}
