//! Looking at all there is in a store of any bytes, as a mount of it would; for fuzzing and tests.

use super::{Fs, FsOptions};
use crate::blocks::{BlockReader, LastPrimer, Policy};
use crate::recode::RecodeOptions;
use crate::store::{Store, hostile};
use crate::types::{Encoding, Extent, Ino};
use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

/// Inodes and extents looked at, so that a look ends soon.
const MOST: usize = 300;
/// Longest modelled plaintext that is decoded: decoding time is linear in it.
const LONGEST: u32 = 64 << 10;

fn inodes(store: &Store) -> Vec<Ino> {
    let (mut all, mut seen) = (vec![Ino::ROOT], HashSet::from([Ino::ROOT]));
    let mut at = 0;
    while let Some(ino) = all.get(at).copied().filter(|_| at < MOST) {
        at += 1;
        for d in store.dirents(ino, 0, MOST).unwrap_or_default() {
            let _ = store.dirent(ino, &d.name);
            if seen.insert(d.ino) {
                all.push(d.ino);
            }
        }
    }
    all
}

fn short(e: &Extent) -> bool {
    matches!(e.meta.encoding, Encoding::Raw | Encoding::Zstd) || e.meta.plain_len <= LONGEST
}

/// Reads names, attributes and extents and decodes the frames; `served`, also through [`Fs`].
pub fn explore(store: &Arc<Store>, served: bool) {
    hostile::question(store);
    let Ok(blocks) = BlockReader::start(Arc::clone(store), 3.0, 0, 1) else { return };
    let inodes = inodes(store);
    let mut last = LastPrimer::None;
    let mut all_short = true;
    for ino in &inodes {
        let _ = (store.inode(*ino), store.symlink(*ino));
        for name in store.xattrs(*ino).unwrap_or_default() {
            let _ = store.xattr(*ino, &name);
        }
        let extents = store.extents_in(*ino, 0, u64::MAX).unwrap_or_default();
        all_short &= extents.iter().all(short);
        for e in extents.iter().filter(|e| short(e)).take(MOST) {
            let primer = store.primer(e.meta.primer).ok().flatten();
            let primer = primer.and_then(|at| store.read_frame(at).ok());
            if primer.is_none_or(|f| f.meta.plain_len <= LONGEST) {
                let _ = blocks.read(e, Policy::Once(&mut last));
            }
        }
    }
    if !served || !all_short {
        return;
    }
    let day = Duration::from_secs(86_400);
    let recode = RecodeOptions { rest: day, threads: 1, enabled: false };
    let options = FsOptions { commit: day, cache_bytes: 1 << 20, recode, ..FsOptions::default() };
    let Ok(fs) = Fs::open(Arc::clone(store), options) else { return };
    for ino in inodes {
        let size = fs.getattr(ino).map_or(0, |a| a.size);
        let _ = (fs.entry(ino), fs.readlink(ino), fs.listxattr(ino), fs.damaged(ino));
        for name in fs.readdir(ino, 0, MOST).unwrap_or_default() {
            let _ = fs.lookup(ino, &name.name);
        }
        for name in [&b"user.lmfs.ratio"[..], b"user.lmfs.codecs", b"user.lmfs.model"] {
            let _ = fs.getxattr(ino, name);
        }
        for at in [0, size.saturating_sub(1000), size / 2, u64::MAX - 5000] {
            let _ = (fs.read_now(ino, at, 4096), fs.seek(ino, at, true), fs.seek(ino, at, false));
        }
    }
    let _ = (fs.statfs(), fs.shutdown());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::mutate::mutated;

    #[test]
    fn a_seed_opens_and_reads() {
        for seed in hostile::seeds::logs() {
            let store = hostile::log(&seed).unwrap();
            let names = store.dirents(Ino::ROOT, 0, 10).unwrap();
            assert_eq!(names.len(), 2);
            // One of them is shared by two files.
            assert!(store.live_frames().unwrap().len() == 6);
            let blocks = BlockReader::start(Arc::clone(&store), 3.0, 1 << 20, 1).unwrap();
            let extents = store.extents_in(Ino(5), 0, u64::MAX).unwrap();
            assert_eq!(extents.len(), 3);
            for e in &extents {
                let plain = blocks.read(e, Policy::Keep).unwrap();
                assert_eq!(plain.len(), e.meta.plain_len as usize);
            }
            for (ino, bytes) in [(6, b"one and"), (7, b" the ot")] {
                let e = store.extents_in(Ino(ino), 0, 1).unwrap()[0];
                let plain = blocks.read(&e, Policy::Keep).unwrap();
                assert_eq!(plain[e.frame_off as usize..][..7], *bytes);
            }
            explore(&store, true);
        }
    }

    #[test]
    fn mutated_stores_are_refused_or_read() {
        let mut opened = 0;
        for (n, bytes) in mutated(&hostile::seeds::logs(), 3000).enumerate() {
            if let Some(store) = hostile::log(&bytes) {
                opened += 1;
                explore(&store, n % 16 == 0);
            }
        }
        assert!(opened > 1000, "{opened}");
    }
}
