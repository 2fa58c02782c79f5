//! What takes many extents out of files is one small change, and the extents go step by step.

use super::disk::Disk;
use super::memory::MemVolume;
use super::power::opened;
use super::*;
use std::collections::BTreeMap;

/// Bytes of each extent.
const PIECE: u64 = 10;

/// A file of `n` extents.
fn file(store: &Store, name: &[u8], n: u64) -> (Ino, Vec<u8>) {
    let ino = create(store, name).unwrap();
    let mut plain = Vec::new();
    for i in 0..n {
        let piece = [i as u8 + 1; PIECE as usize];
        write(store, ino, i * PIECE, &piece).unwrap();
        plain.extend_from_slice(&piece);
    }
    (ino, plain)
}

/// Extents that are there, cut or not.
fn there(store: &Store) -> usize {
    store.state().table.scan(b"e", b"f", usize::MAX).unwrap().len()
}

fn punch(ino: Ino, off: u64, len: u64) -> Txn {
    Record::Punch { ino, off, len }.into()
}

fn in_memory() -> (tempfile::TempDir, Arc<MemVolume>, Arc<Store>) {
    let (dir, volume) = (tempfile::tempdir().unwrap(), Arc::new(MemVolume::default()));
    open::create_in(&*volume, &options(), "memory").unwrap();
    let store = opened(dir.path(), volume.clone(), open::IndexFrom::Memory).unwrap();
    (dir, volume, store)
}

/// The store as a power loss leaves it now.
fn after_power_loss(dir: &Path, volume: &MemVolume) -> Arc<Store> {
    let left = Disk::after(&BTreeMap::new(), &volume.events()).synced();
    opened(dir, Arc::new(MemVolume::with(left)), open::IndexFrom::Memory).unwrap()
}

#[test]
fn a_crash_at_any_step_leaves_no_wrong_byte() {
    let (_dir, volume, store) = in_memory();
    let (a, mut plain) = file(&store, b"a", 20);
    let (b, _) = file(&store, b"b", 20);
    // Out of the middle, within pieces; then what lies behind; then something new is put there.
    store.append(punch(a, 25, 60)).unwrap();
    plain[25..85].fill(0);
    store.append(punch(a, 111, u64::MAX - 111)).unwrap();
    plain[111..].fill(0);
    write(&store, a, 55, b"new").unwrap();
    plain[55..58].copy_from_slice(b"new");
    write(&store, a, 150, b"new").unwrap();
    plain[150..153].copy_from_slice(b"new");
    store.append(Record::DelInode(b).into()).unwrap();
    let dirent = Record::DelDirent { parent: Ino::ROOT, name: b"b".to_vec() };
    store.append(vec![dirent].into()).unwrap();
    let second = tempfile::tempdir().unwrap();
    let mut steps = 0;
    loop {
        store.sync().unwrap();
        for s in [&store, &after_power_loss(second.path(), &volume)] {
            assert_eq!(contents(s, a, 200).unwrap(), plain, "after {steps} steps");
            assert_eq!(s.mapped_bytes(a).unwrap(), 25 + 26 + 6);
            assert_eq!(s.inode(b).unwrap(), None);
            assert_eq!(s.extents_in(b, 0, u64::MAX).unwrap(), []);
            history::check_sums(s);
            assert_eq!(s.check_namespace(false).unwrap().len(), 0);
        }
        let before = there(&store);
        if !sweep::step(&store, 3).unwrap() {
            break;
        }
        assert!(before - there(&store) <= 3);
        steps += 1;
    }
    assert!(steps > 8, "{steps}");
    assert_eq!(there(&store), store.extents_in(a, 0, u64::MAX).unwrap().len());
    assert!(store.state().cuts.is_empty());
    assert_eq!(store.state().table.scan(b"t", b"u", 9).unwrap(), []);
}

#[test]
fn a_change_takes_no_more_than_a_step_of_extents() {
    let (_dir, _volume, store) = in_memory();
    let (a, _) = file(&store, b"a", 200);
    let (b, _) = file(&store, b"b", 200);
    let before = there(&store);
    store.append(punch(a, 0, u64::MAX)).unwrap();
    assert_eq!(there(&store), before);
    store.append(Record::DelInode(b).into()).unwrap();
    assert_eq!(there(&store), before);
    assert_eq!(store.stats().unwrap().files, 1);
    // The cleaner moves what has not gone yet, and a checkpoint knows of it.
    store.renew_checkpoint().unwrap();
    sweep::step(&store, 50).unwrap();
    assert_eq!(there(&store), before - 50);
    store.clean(0).unwrap();
    assert_eq!((there(&store), store.stats().unwrap().frames), (0, 0));
}

#[test]
fn the_next_mount_goes_on_where_the_last_one_ended() {
    let (dir, volume, store) = in_memory();
    let (a, _) = file(&store, b"a", 50);
    store.append(punch(a, 0, u64::MAX)).unwrap();
    sweep::step(&store, 10).unwrap();
    store.close().unwrap();
    drop(store);
    let store = opened(dir.path(), volume, open::IndexFrom::Directory).unwrap();
    assert_eq!(contents(&store, a, 500).unwrap(), [0; 500]);
    let began = std::time::Instant::now();
    while store.stats().unwrap().frames > 0 {
        assert!(began.elapsed().as_secs() < 20, "nobody sweeps");
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
}

#[test]
fn a_file_can_be_deleted_while_it_is_being_truncated() {
    let (_dir, _volume, store) = in_memory();
    let (a, _) = file(&store, b"a", 50);
    store.append(punch(a, 100, u64::MAX - 100)).unwrap();
    sweep::step(&store, 7).unwrap();
    store.append(Record::DelInode(a).into()).unwrap();
    while sweep::step(&store, 7).unwrap() {}
    assert_eq!((there(&store), store.stats().unwrap().frames), (0, 0));
    assert_eq!(store.stats().unwrap().logical_bytes, 0);
    assert_eq!(store.staged_inodes().unwrap(), []);
}
