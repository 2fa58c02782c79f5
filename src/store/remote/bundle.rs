//! Files of a store as objects: bytes that were verified, and sidecars made of them.

use super::manifest::{Model, Object, Part};
use crate::store::api::{Ecc, Result, StoreError};
use crate::store::log::frame::{Stamp, tag};
use crate::store::log::segments::{Segments, segment_path};
use crate::store::log::superblock::SegmentHeader;
use crate::store::models::{ModelId, model_file_of};
use crate::store::repair::ecc::pages::STRIPE_BYTES;
use crate::store::repair::sidecar;
use crate::store::settings::code;
use crate::store::{Store, lock};

/// A segment as objects.
#[derive(Debug)]
pub struct Bundle {
    /// What the manifest says of them.
    pub part: Part,
    /// The segment's bytes.
    pub bytes: Vec<u8>,
    /// The sidecar's.
    pub sidecar: Vec<u8>,
}

/// What the frames of an archive's metadata and sidecars have in common.
pub fn stamp(uuid: &[u8; 16], ecc: Ecc) -> Stamp {
    Stamp { tag: tag(uuid), code: code(ecc) }
}

/// Makes the sidecar of a segment's bytes. Where the archive has no error correction it has tables only:
/// whoever reads ranges needs their checksums.
pub fn bundle(ecc: Ecc, stamp: Stamp, number: u32, bytes: Vec<u8>) -> Result<Bundle> {
    let parts = bytes
        .chunks(STRIPE_BYTES)
        .enumerate()
        .map(|(n, stripe)| sidecar::part(ecc, stamp, number.into(), n as u64, stripe))
        .collect::<std::result::Result<Vec<_>, _>>();
    let parts = parts.map_err(|why| StoreError::Io {
        what: format!("making the sidecar of {}", segment_path(number)),
        source: std::io::Error::other(why),
    })?;
    let tables = parts.iter().map(sidecar::Part::table_len).sum::<usize>() as u32;
    let sidecar = sidecar::join(&parts);
    let (object, side) = (Object::of(&bytes), Object::of(&sidecar));
    Ok(Bundle { part: Part { number, object, sidecar: side, tables }, bytes, sidecar })
}

/// The first `len` bytes of a segment, or as many as its sidecar covers if those are more: each frame is
/// whole, and each page is what the sidecar says. What had to be repaired for that is repaired in what is
/// returned.
///
/// # Errors
/// `Refused` where something is beyond repair: a copy of it would pass for the truth.
pub fn verified(segments: &Segments, number: u32, len: u64) -> Result<Vec<u8>> {
    let _turn = lock(&segments.healing);
    let covered = lock(&segments.sidecars).get(&number).map_or(0, |s| s.covered);
    let len = len.max(covered);
    let e = segments.examine(number, len)?;
    let refuse = |why: &str| {
        Err(StoreError::Refused(format!(
            "{}: {why}, so it is not uploaded, nor is anything after it; try: lmfs scrub --repair, or \
             lmfs remote pull if it had been uploaded before",
            segment_path(number)
        )))
    };
    if e.unreadable {
        return refuse("it cannot be read now");
    }
    let sidecar = segments.sidecar(number)?;
    let differs = sidecar.is_some_and(|s| !s.differing(&e.now).is_empty());
    let header = SegmentHeader::decode(&e.now).is_some_and(|h| h.number == number);
    if differs || !header || !e.found.bad.is_empty() || e.now.len() as u64 != len {
        return refuse("it is damaged beyond repair");
    }
    Ok(e.now)
}

/// A model file as objects, and their bytes.
pub fn model(store: &Store, id: &ModelId) -> Result<(Model, Vec<u8>, Vec<u8>)> {
    let (bytes, sidecar) = model_file_of(&store.segments, id, &store.model_file(id)?)?;
    let model = Model { id: *id, object: Object::of(&bytes), sidecar: Object::of(&sidecar) };
    Ok((model, bytes, sidecar))
}
