//! A store of which it is not known any more where segments are: the files that say so are lost, and its newest
//! manifest knows.

use super::home::Home;
use super::lineage;
use super::manifest::Part;
use super::sealed::SealedStore;
use super::tier::Tier;
use crate::store::api::{Result, StoreError};
use crate::store::lock;
use crate::store::log::segments::{Segment, Segments, Side, segment_path};
use std::collections::{BTreeMap, HashMap, HashSet};

/// Finds segments in which something lives, by `live`, and that are nowhere, where the store had some
/// evicted; `shown` is the store, for messages.
///
/// # Errors
/// Where they cannot be found now: the store would pass for a damaged one.
pub fn complete(
    tier: &Tier,
    segments: &Segments,
    live: &BTreeMap<u32, u64>,
    shown: &str,
) -> Result<()> {
    let alive = live.iter().filter(|(_, bytes)| **bytes > 0).map(|(n, _)| *n);
    let missing: HashSet<u32> = alive.filter(|n| segments.get(*n).is_none()).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let Some(home) = Home::read_place(&*segments.volume).ok().flatten() else { return Ok(()) };
    if !home.evicts {
        log::error!(
            "{shown}: {} segments are missing; bring them back from {} with: lmfs remote pull {shown}",
            missing.len(),
            home.url
        );
        return Ok(());
    }
    let parts = find(tier, &home, &missing).map_err(|e| {
        StoreError::Refused(format!(
            "{shown}: {} segments of it are not here but in {}, and what says which ({shown}/evicted) is \
             lost; it is made anew from there once that answers: {e}. Reach the object store (network, \
             credentials) and try again",
            missing.len(),
            home.url
        ))
    })?;
    log::warn!("{shown}: {} segments are found in {}", parts.len(), home.url);
    if segments.write {
        tier.enter(&parts)?;
    } else {
        tier.assume(&parts);
    }
    for part in &parts {
        let len = part.object.len;
        segments.put(part.number, Segment { blob: tier.segment(*part), len });
        let side = Side { covered: len, len: part.sidecar.len };
        lock(&segments.sidecars).insert(part.number, side);
    }
    for number in missing.iter().filter(|n| parts.iter().all(|p| p.number != **n)) {
        log::error!("{}: neither here nor in {}", segment_path(*number), home.url);
    }
    Ok(())
}

/// Those of some segments that the newest manifest names.
fn find(tier: &Tier, home: &Home, missing: &HashSet<u32>) -> Result<Vec<Part>> {
    let store = tier.source.store()?;
    let refuse = |why: &str| Err(StoreError::Refused(format!("{}: {why}", store.url())));
    let Some(found) = lineage::newest(&*store)? else { return refuse("it has no manifest") };
    if !home.knows(&found.mark) {
        return refuse("the archive went on elsewhere since this store was last in line with it");
    }
    let m = lineage::whole(&*store, found.packed, &mut HashMap::new())?;
    Ok(m.parts.into_iter().filter(|p| missing.contains(&p.number)).collect())
}
