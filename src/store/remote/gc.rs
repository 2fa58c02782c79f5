//! Deleting what no reader needs any more: objects that only old manifests name, and those that broken
//! uploads left.
//!
//! A reader may be at any manifest that was the newest one within the grace period, so these are kept, and all
//! that they name. What an upload has written, or counts on, without a manifest that names it yet, is younger
//! than a day (see `upload`). Times are by the object store's clock alone.

use super::error::{RemoteError, Result};
use super::lineage::{self, Runs};
use super::manifest::{self, MANIFESTS, OBJECTS};
use super::sealed::{Listed, SealedStore};
use serde::{Deserialize, Serialize};
use std::collections::HashSet;
use std::time::{Duration, SystemTime};

/// How long a manifest counts after there is a newer one, unless somebody says otherwise.
pub const GRACE: Duration = Duration::from_secs(24 * 3600);
/// What nobody names and is older than this belongs to no upload under way.
pub const ORPHAN: Duration = Duration::from_secs(24 * 3600);

/// What a collection did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Collected {
    /// Manifests deleted.
    pub manifests: u64,
    /// Objects deleted.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Bytes of objects that stay.
    pub kept_bytes: u64,
}

/// The time by the store's clock: that of an object written right now.
fn clock(store: &dyn SealedStore, unique: &str) -> Result<SystemTime> {
    let name = format!("probe/{unique}");
    store.put(&name, b"now")?;
    let listed = store.list("probe");
    store.delete(&name)?;
    let found = listed?.into_iter().find(|l| l.name == name).map(|l| l.modified);
    found.ok_or_else(|| RemoteError::Unavailable(format!("{name}: written, but not listed")))
}

fn age(now: SystemTime, l: &Listed) -> Duration {
    // What is from the future is new.
    now.duration_since(l.modified).unwrap_or_default()
}

/// Deletes what nobody needs. `watch` is told how many objects of how many are deleted, and ends it by saying
/// false.
pub fn collect(
    store: &dyn SealedStore,
    grace: Duration,
    unique: &str,
    watch: &mut dyn FnMut(u64, u64) -> bool,
) -> Result<Collected> {
    let now = clock(store, unique)?;
    // Objects first: what is written after this listing is not touched, and what a manifest names that is
    // written after the next one was there before or is young.
    let objects = store.list(OBJECTS)?;
    let mut manifests: Vec<(u64, Listed)> = store
        .list(MANIFESTS)?
        .into_iter()
        .filter_map(|l| Some((manifest::number(&l.name)?, l)))
        .collect();
    manifests.sort_by_key(|(n, _)| *n);
    if manifests.is_empty() {
        let text = format!("{}: it has no manifest; nothing is deleted", store.url());
        return Err(RemoteError::Refused(text));
    }
    // The last of the old ones was the newest when the grace period began.
    let old = manifests.partition_point(|(_, l)| age(now, l) >= grace);
    let (gone, kept) = manifests.split_at(old.saturating_sub(1));
    let (mut named, mut seen) = (HashSet::new(), HashSet::new());
    for (number, l) in kept {
        let Some(mut found) = lineage::read(store, *number)? else {
            return Err(RemoteError::Unavailable(format!(
                "{}: somebody deleted it just now",
                l.name
            )));
        };
        named.extend(found.packed.runs.iter().map(|r| r.object.name()));
        // Manifests have most of their runs in common.
        found.packed.runs.retain(|r| seen.insert(r.object.hash));
        let m = lineage::whole(store, found.packed, &mut Runs::new())?;
        named.extend(m.parts.iter().flat_map(|p| [p.object.name(), p.sidecar.name()]));
        named.extend(m.models.iter().flat_map(|m| [m.object.name(), m.sidecar.name()]));
    }
    let mut out = Collected::default();
    let stopped = || RemoteError::Unavailable("it was stopped".into());
    // Manifests first: one that is listed names nothing that is gone.
    for (_, l) in gone {
        if !watch(0, 0) {
            return Err(stopped());
        }
        store.delete(&l.name)?;
        out.manifests += 1;
    }
    let (dead, live): (Vec<_>, Vec<_>) =
        objects.into_iter().partition(|l| !named.contains(&l.name) && age(now, l) >= ORPHAN);
    out.kept_bytes = live.iter().map(|l| l.bytes).sum();
    let all = dead.len() as u64;
    for l in dead {
        if !watch(out.objects, all) {
            return Err(stopped());
        }
        store.delete(&l.name)?;
        out.objects += 1;
        out.bytes += l.bytes;
    }
    Ok(out)
}
