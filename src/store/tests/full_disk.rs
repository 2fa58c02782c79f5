//! A full disk can be emptied and filled again.

use super::io::Volume;
use super::memory::MemVolume;
use super::*;
use std::collections::BTreeMap;

/// Bytes in a file.
const FILE: usize = 20_000;
/// Bytes in each of its frames.
const PIECE: usize = 4000;

fn body(name: u64) -> Vec<u8> {
    let hash = |i: u64| *blake3::hash(&[name, i].map(u64::to_le_bytes).concat()).as_bytes();
    (0..).flat_map(hash).take(FILE).collect()
}

/// Writes a file as the file system does: room is reserved first.
fn put(store: &Store, name: u64) -> Result<Ino> {
    let room = store.reserve(FILE as u64)?;
    let ino = create(store, &name.to_be_bytes())?;
    for (n, piece) in body(name).chunks(PIECE).enumerate() {
        write(store, ino, (n * PIECE) as u64, piece)?;
    }
    drop(room);
    Ok(ino)
}

/// Writes files until there is no room; how many.
fn fill(store: &Store, files: &mut BTreeMap<u64, Ino>, next: &mut u64) -> usize {
    let before = files.len();
    loop {
        match put(store, *next) {
            Ok(ino) => drop(files.insert(*next, ino)),
            Err(StoreError::NoSpace { .. }) => break,
            Err(e) => panic!("{e}"),
        }
        *next += 1;
        if next.is_multiple_of(50) {
            store.sync().unwrap();
        }
    }
    store.sync().unwrap();
    files.len() - before
}

fn all_there(store: &Store, files: &BTreeMap<u64, Ino>) {
    for (name, ino) in files {
        assert!(contents(store, *ino, FILE).unwrap() == body(*name), "file {name}");
    }
}

fn cycles(mib: u64, gc: bool) {
    // Without sidecars, which are as large as the tests' small segments.
    let (dir, volume) = (tempfile::tempdir().unwrap(), Arc::new(MemVolume::default()));
    let options = MkfsOptions { ecc: Ecc::None, ..options() };
    open::create_in(&*volume, &options, "memory").unwrap();
    volume.set_free(mib << 20);
    let reopen = |volume: &Arc<MemVolume>| {
        open::open(dir.path(), &OpenOptions::default(), volume.clone()).unwrap()
    };
    let mut store = reopen(&volume);
    let (mut files, mut next) = (BTreeMap::new(), 0);
    let first = fill(&store, &mut files, &mut next);
    assert!(first * FILE > (mib as usize) << 19, "{first}");
    for (cycle, percent) in [10, 50, 90, 50, 10].into_iter().enumerate() {
        let dice = |name: u64| *blake3::hash(&name.to_le_bytes()).as_bytes().first().unwrap();
        let limit = percent * 256 / 100;
        let doomed = |n: &u64| u64::from(dice(*n ^ ((cycle as u64) << 40))) < limit;
        let gone: Vec<u64> = files.keys().copied().filter(doomed).collect();
        for name in &gone {
            let ino = files.remove(name).unwrap();
            let dirent = Record::DelDirent { parent: Ino::ROOT, name: name.to_be_bytes().to_vec() };
            store.append(vec![dirent, Record::DelInode(ino)].into()).unwrap();
        }
        store.sync().unwrap();
        if gc {
            store.clean(0).unwrap();
        }
        all_there(&store, &files);
        let began = std::time::Instant::now();
        let again = fill(&store, &mut files, &mut next);
        let took = began.elapsed();
        eprintln!("{mib} MiB, {percent}%: {} files gone, {again} anew, {took:?}", gone.len());
        assert!(again * 10 >= gone.len() * 8, "{mib} {percent}%: {again} of {}", gone.len());
        all_there(&store, &files);
        if cycle % 2 == 1 {
            store.close().unwrap();
            drop(store);
            store = reopen(&volume);
            all_there(&store, &files);
        }
    }
    store.close().unwrap();
    drop(store);
    all_there(&reopen(&volume), &files);
    assert!(volume.free_bytes().unwrap() > 0);
}

#[test]
fn what_is_said_to_be_writable_can_be_written() {
    for mib in [24, 64] {
        let (dir, volume) = (tempfile::tempdir().unwrap(), Arc::new(MemVolume::default()));
        let options = MkfsOptions { ecc: Ecc::None, ..options() };
        open::create_in(&*volume, &options, "memory").unwrap();
        volume.set_free(mib << 20);
        let store = open::open(dir.path(), &OpenOptions::default(), volume.clone()).unwrap();
        let (mut files, mut next) = (BTreeMap::new(), 0);
        for part in [1, 2, 3] {
            *lock(&store.free) = None;
            let said = store.writable_bytes().unwrap();
            let written = (fill(&store, &mut files, &mut next) * FILE) as u64;
            eprintln!("{mib} MiB: {written} written, {said} were said");
            assert!(said.abs_diff(written) < (mib << 20) / 12, "{mib} MiB: {written}, not {said}");
            *lock(&store.free) = None;
            let left = store.writable_bytes().unwrap();
            assert!(left < (mib << 20) / 16, "{mib} MiB: {left} are left");
            let gone: Vec<u64> = files.keys().copied().filter(|n| n % 3 < part).collect();
            for name in gone {
                let ino = files.remove(&name).unwrap();
                let dirent =
                    Record::DelDirent { parent: Ino::ROOT, name: name.to_be_bytes().to_vec() };
                let ops = vec![dirent, Record::DelInode(ino)];
                store.append(ops.into()).unwrap();
            }
            sweep::hurry(&store, std::time::Duration::from_secs(20));
            store.sync().unwrap();
        }
        store.close().unwrap();
    }
}

#[test]
fn a_full_small_disk_is_emptied_by_writers() {
    cycles(24, false);
}

#[test]
fn a_full_small_disk_is_emptied_by_gc() {
    cycles(24, true);
}

#[test]
fn a_full_disk_is_emptied_by_writers() {
    cycles(64, false);
}

#[test]
fn a_full_disk_is_emptied_by_gc() {
    cycles(64, true);
}
