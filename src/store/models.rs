//! Model files: content-addressed, in frames like a segment's, each with a sidecar.

use super::api::{Ecc, Result, StoreError, is_distant};
use super::io::{Blob, write_file};
use crate::store::Store;
use crate::store::log::frame::{HEADER, Header, Kind, MAX_U40};
use crate::store::log::segments::Segments;
use crate::store::repair::ecc::pages::PAGE;
use crate::store::repair::read_repair::{differing, read_whole, write_back};
use crate::store::repair::rebuild;
use crate::store::repair::report::Checked;
use crate::store::repair::sidecar::{self, Sidecar};
use crate::store::settings::code;
use crate::types::FrameMeta;
use std::io;
use std::sync::atomic::Ordering;

/// BLAKE3 of a model file's bytes: its name.
pub type ModelId = [u8; 32];

/// Bytes of a model file in one frame.
const CHUNK: usize = 256 << 10;
/// Most bytes of a model file or its sidecar: they are read whole.
const LARGEST: u64 = 4 << 30;

fn hex(id: &ModelId) -> String {
    blake3::Hash::from_bytes(*id).to_hex().to_string()
}

fn path(id: &ModelId) -> String {
    format!("models/{}.lmm", hex(id))
}

/// A model file's bytes, as far as they can be read. What an object store does not give now is not damaged.
fn read_model(blob: &dyn Blob, len: usize, at: &str) -> Result<Vec<u8>> {
    match blob.read_at(&mut [0], 0) {
        Err(e) if is_distant(&e) => Err(io_error("read", at)(e)),
        _ => Ok(read_whole(blob, len).0),
    }
}

/// File names of a model's file and its sidecar.
pub(in crate::store) fn model_paths(id: &ModelId) -> (String, String) {
    (path(id), sidecar_path(id))
}

fn sidecar_path(id: &ModelId) -> String {
    format!("models/{}.par", hex(id))
}

/// What a sidecar and the frames of a model file call it by.
fn number(id: &ModelId) -> u64 {
    id[..5].iter().rev().fold(0, |n, b| n << 8 | u64::from(*b)) & MAX_U40
}

fn is_id(id: &ModelId, bytes: &[u8]) -> bool {
    blake3::hash(bytes).as_bytes() == id
}

fn damaged(id: &ModelId, reason: impl Into<String>) -> StoreError {
    StoreError::DamagedModel { id: hex(id), reason: reason.into() }
}

fn io_error(what: &str, path: &str) -> impl FnOnce(io::Error) -> StoreError {
    let what = format!("{what} {path}");
    |source| match source.raw_os_error() {
        Some(libc::ENOSPC | libc::EDQUOT) => {
            StoreError::NoSpace { path: what.clone(), detail: what }
        }
        _ => StoreError::Io { what, source },
    }
}

/// Length of a file that is to be read whole.
fn measure(blob: &dyn Blob, path: &str) -> Result<usize> {
    match blob.len().map_err(io_error("measure", path))? {
        len if len <= LARGEST => Ok(len as usize),
        len => Err(StoreError::Refused(format!("{path} has {len} bytes, more than {LARGEST}"))),
    }
}

/// The frames of a model file.
fn frames(segments: &Segments, id: &ModelId, bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes.len() + bytes.len() / 16);
    for (n, chunk) in bytes.chunks(CHUNK).enumerate() {
        let header = Header {
            kind: Kind::Data,
            payload_len: 0,
            ino: 0,
            off: (n * CHUNK) as u64,
            meta: FrameMeta {
                plain_len: chunk.len() as u32,
                generation: number(id),
                ..FrameMeta::default()
            },
            code: code(segments.ecc),
            plain_hash: crate::block::plain_hash(chunk),
            payload_crc: 0,
        };
        out.extend_from_slice(&header.frame(chunk));
    }
    out
}

/// The bytes of a model's file and of its sidecar, which is empty where there is none.
pub(in crate::store) fn model_file_of(
    segments: &Segments,
    id: &ModelId,
    model: &[u8],
) -> Result<(Vec<u8>, Vec<u8>)> {
    let framed = frames(segments, id, model);
    if segments.ecc == Ecc::None {
        return Ok((framed, Vec::new()));
    }
    let side = sidecar::make(segments.ecc, segments.stamp, number(id), &framed);
    let side = side.map_err(|e| damaged(id, e))?;
    Ok((framed, side))
}

/// The payloads of frames that follow each other without gaps, unchecked.
fn payloads(bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(h) = bytes.get(at..).and_then(Header::first) {
        let Some(payload) = bytes.get(at + HEADER..at + HEADER + h.payload_len as usize) else {
            break;
        };
        out.extend_from_slice(payload);
        at += h.frame_len() as usize;
    }
    out
}

impl Store {
    /// Keeps a model file under the BLAKE3 of its bytes; durable on return. Keeping it twice is fine.
    pub fn put_model_file(&self, id: &ModelId, bytes: &[u8]) -> Result<()> {
        if self.read_only {
            return Err(StoreError::ReadOnly);
        }
        if !is_id(id, bytes) {
            return Err(damaged(id, "its bytes have another hash"));
        }
        if bytes.len() as u64 > LARGEST / 2 {
            let text = format!("a model of {} bytes is too large", bytes.len());
            return Err(StoreError::Refused(text));
        }
        if self.model_file(id).is_ok() {
            return self.sync_model(id);
        }
        let (segments, at) = (&self.segments, path(id));
        let framed = frames(segments, id, bytes);
        segments.volume.mkdir("models").map_err(io_error("create", "models"))?;
        self.write_model_sidecar(id, &framed)?;
        write_file(&*segments.volume, &at, &framed).map_err(io_error("write", &at))
    }

    /// Makes durable what there is of a model: whoever wrote or repaired it may have been killed before it was.
    fn sync_model(&self, id: &ModelId) -> Result<()> {
        let volume = &self.segments.volume;
        for at in [path(id), sidecar_path(id)] {
            match volume.open(&at, false) {
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                blob => blob.and_then(|blob| blob.sync()).map_err(io_error("fsync", &at))?,
            }
        }
        for dir in ["models", "."] {
            volume.sync_dir(dir).map_err(io_error("fsync", dir))?;
        }
        Ok(())
    }

    fn write_model_sidecar(&self, id: &ModelId, framed: &[u8]) -> Result<()> {
        let (segments, at) = (&self.segments, sidecar_path(id));
        if segments.ecc == Ecc::None {
            return Ok(());
        }
        let side = sidecar::make(segments.ecc, segments.stamp, number(id), framed);
        let side = side.map_err(|e| damaged(id, e))?;
        write_file(&*segments.volume, &at, &side).map_err(io_error("write", &at))
    }

    /// A model file's bytes, repaired if need be; they have the hash they are asked for by.
    pub fn model_file(&self, id: &ModelId) -> Result<Vec<u8>> {
        let volume = &self.segments.volume;
        let at = path(id);
        let blob = volume.open(&at, false).map_err(io_error("open", &at))?;
        let len = measure(&*blob, &at)?;
        let bytes = read_model(&*blob, len, &at)?;
        let plain = payloads(&bytes);
        if is_id(id, &plain) {
            return Ok(plain);
        }
        let (_, plain, written) = self.repair_model(id, &bytes, !self.read_only)?;
        if let Err(e) = written {
            log::warn!("{at}: repaired in memory only: {e}");
        }
        Ok(plain)
    }

    /// Repairs a model file whose bytes these are; `write` puts it right on disk too. What was found, what is
    /// in the file, and whether what had to be written was.
    fn repair_model(
        &self,
        id: &ModelId,
        before: &[u8],
        write: bool,
    ) -> Result<(Checked, Vec<u8>, Result<()>)> {
        let (segments, at) = (&self.segments, path(id));
        // One that cannot be had now may be whole, and stays.
        let (blob, there) = match segments.volume.open(&sidecar_path(id), false) {
            Ok(blob) => (Some(blob), true),
            Err(e) if e.kind() == io::ErrorKind::NotFound => (None, false),
            Err(e) => {
                log::error!("{}", io_error("open", &sidecar_path(id))(e));
                (None, true)
            }
        };
        let side = blob.map(|blob| {
            let len = measure(&*blob, &sidecar_path(id)).unwrap_or(0);
            let (bytes, failed) = read_whole(&*blob, len);
            let mut s = Sidecar::read(bytes, segments.stamp, number(id));
            s.hurt |= failed;
            s
        });
        let mut now = before.to_vec();
        let found = rebuild::file(&mut now, 0, segments.stamp.tag, side.as_ref());
        let plain = payloads(&now);
        if !is_id(id, &plain) {
            let (_, why) = found.bad.into_iter().next().unwrap_or_default();
            return Err(damaged(id, format!("it cannot be repaired: {why}")));
        }
        let runs = differing(before, &now);
        let wants_sidecar = segments.ecc != Ecc::None;
        let sidecar_hurt = wants_sidecar && (side.is_none() || found.sidecar_hurt);
        let mut written = Ok(());
        if !runs.is_empty() {
            log::warn!("{at}: {} frames corrected, {} pages rebuilt", found.frames, found.pages);
            if write {
                segments.repaired.fetch_add((found.frames + found.pages).max(1), Ordering::Relaxed);
                let fix = || {
                    let blob = segments.volume.open(&at, true)?;
                    write_back(&*blob, &now, &runs)?;
                    blob.sync()
                };
                written = fix().map_err(io_error("write", &at));
            }
        }
        if sidecar_hurt && write && (side.is_some() || !there) {
            written = written.and(self.write_model_sidecar(id, &now));
        }
        let check = Checked {
            bytes: now.len() as u64,
            frames: found.whole.len() as u64,
            pages: side.as_ref().map_or(now.len().div_ceil(PAGE) as u64, Sidecar::pages),
            damaged_frames: found.frames,
            damaged_pages: found.pages,
            damaged: !runs.is_empty() || sidecar_hurt,
        };
        Ok((check, plain, written))
    }

    /// Checks every byte of a model file and its sidecar. With `repair` it is durable on return.
    pub fn check_model_file(&self, id: &ModelId, repair: bool) -> Result<Checked> {
        let at = path(id);
        let blob = self.segments.volume.open(&at, false).map_err(io_error("open", &at))?;
        let len = measure(&*blob, &at)?;
        let bytes = read_model(&*blob, len, &at)?;
        let write = repair && !self.read_only;
        let (check, _, written) = self.repair_model(id, &bytes, write)?;
        written?;
        if write {
            self.sync_model(id)?;
        }
        Ok(check)
    }

    /// Names of all model files.
    pub fn model_files(&self) -> Result<Vec<ModelId>> {
        let names = match self.segments.volume.list("models") {
            // Whoever deletes the directory has deleted its files.
            Err(e) if e.kind() == io::ErrorKind::NotFound => Vec::new(),
            names => names.map_err(io_error("list", "models"))?,
        };
        let id =
            |n: &String| blake3::Hash::from_hex(n.strip_suffix(".lmm")?).ok().map(ModelId::from);
        Ok(names.iter().filter_map(id).collect())
    }

    /// Deletes a model file; nothing may need it any more.
    pub fn remove_model_file(&self, id: &ModelId) -> Result<()> {
        if self.read_only {
            return Err(StoreError::ReadOnly);
        }
        let volume = &self.segments.volume;
        let at = path(id);
        volume.remove(&at).map_err(io_error("remove", &at))?;
        let side = sidecar_path(id);
        match volume.remove(&side) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                return Err(io_error("remove", &side)(e));
            }
            _ => {}
        }
        volume.sync_dir("models").map_err(io_error("fsync", "models"))
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::faults::{after_power_loss, mem_store};
    use super::super::tests::memory::MemVolume;
    use super::*;
    use crate::store::io::{Volume, put_file};
    use crate::store::lock;

    fn model(n: usize) -> (ModelId, Vec<u8>) {
        let bytes: Vec<u8> =
            (0..n as u32).map(|i| (i.wrapping_mul(2654435761) >> 13) as u8).collect();
        (*blake3::hash(&bytes).as_bytes(), bytes)
    }

    #[test]
    fn a_model_is_kept_and_removed() {
        let (_dir, _volume, store) = mem_store();
        let (id, bytes) = model(600_000);
        assert!(store.model_file(&id).is_err());
        store.put_model_file(&id, &bytes).unwrap();
        store.put_model_file(&id, &bytes).unwrap();
        assert!(store.model_file(&id).unwrap() == bytes);
        assert_eq!(store.model_files().unwrap(), [id]);
        assert!(store.put_model_file(&[0; 32], &bytes).is_err());
        assert!(!store.check_model_file(&id, false).unwrap().damaged);
        store.remove_model_file(&id).unwrap();
        assert_eq!(store.model_files().unwrap(), [] as [ModelId; 0]);
    }

    #[test]
    fn damage_to_a_model_or_its_sidecar_is_repaired() {
        let (_dir, volume, store) = mem_store();
        let (id, bytes) = model(600_000);
        store.put_model_file(&id, &bytes).unwrap();
        let blob = |path: String| lock(&volume.files)[&path].clone();
        for (at, len) in [(0, 1), (5000, 4096), (100_000, 64 << 10), (560_000, 50_000)] {
            for path in [path(&id), sidecar_path(&id)] {
                let good = lock(&blob(path.clone()).inner).bytes.clone();
                let at = at.min(good.len() - 1);
                let end = (at + len).min(good.len());
                // Not bytes that may be there already.
                for b in &mut lock(&blob(path.clone()).inner).bytes[at..end] {
                    *b ^= 0x11;
                }
                assert!(store.check_model_file(&id, false).unwrap().damaged, "{path} {at}");
                assert!(store.check_model_file(&id, true).unwrap().damaged);
                assert!(!store.check_model_file(&id, false).unwrap().damaged);
                assert!(lock(&blob(path).inner).bytes == good);
            }
        }
        for bit in (0..600_000).step_by(8000) {
            lock(&blob(path(&id)).inner).bytes[bit] ^= 4;
        }
        assert!(store.model_file(&id).unwrap() == bytes);
        lock(&blob(path(&id)).inner).bytes[1000..400_000].fill(0);
        assert!(matches!(store.model_file(&id), Err(StoreError::DamagedModel { .. })));
    }

    /// What somebody put there or put right, and was killed before it was durable.
    #[test]
    fn a_model_that_is_found_whole_is_made_durable() {
        let left = |volume: &MemVolume, path: &str| {
            let left = after_power_loss(volume);
            lock(&left.files).get(path).map(|blob| lock(&blob.inner).bytes.clone())
        };
        for by_scrub in [true, false] {
            let (_dir, volume, store) = mem_store();
            let (id, bytes) = model(100_000);
            let (framed, side) = model_file_of(&store.segments, &id, &bytes).unwrap();
            let again = || {
                if by_scrub {
                    assert!(!store.check_model_file(&id, true).unwrap().damaged);
                } else {
                    store.put_model_file(&id, &bytes).unwrap();
                }
            };
            let files = [(path(&id), &framed), (sidecar_path(&id), &side)];
            volume.mkdir("models").unwrap();
            for (path, bytes) in &files {
                put_file(&*volume, path, bytes).unwrap();
            }
            assert!(files.iter().all(|(path, _)| left(&volume, path).is_none()));
            again();
            for (path, bytes) in &files {
                assert!(left(&volume, path).as_ref() == Some(*bytes), "{path}");
            }
            // Repaired in place, in a file that was hurt on the disk.
            let at = &path(&id);
            volume.lose(at, 5000, 100);
            volume.open(at, true).unwrap().write_at(&framed[5000..5100], 5000).unwrap();
            again();
            assert!(left(&volume, at).as_ref() == Some(&framed));
        }
    }
}
