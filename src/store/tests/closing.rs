//! The end of a store's life.

use super::disk::Disk;
use super::failing::{Call, FailingVolume, Fault, HOOK, Plan};
use super::memory::MemVolume;
use super::power::opened;
use super::*;
use crate::store::index::base::NoBase;
use crate::store::index::memtable::Table;
use std::collections::BTreeMap;

/// A store in memory with so many files, worth a checkpoint when it is closed if they are many.
fn filled(dir: &Path, volume: &Arc<MemVolume>, files: u64) -> Arc<Store> {
    open::create_in(&**volume, &options(), "memory").unwrap();
    let store = opened(dir, volume.clone(), open::IndexFrom::Memory).unwrap();
    for n in 0..files {
        let hash = |i: u64| *blake3::hash(&[n, i].map(u64::to_le_bytes).concat()).as_bytes();
        let name: Vec<u8> = (0..6).flat_map(hash).map(|b| b.max(48)).collect();
        create(&store, &name).unwrap();
    }
    store
}

/// All was synced before, so that closing finds no change to make durable but its own checkpoint.
#[test]
fn what_closing_writes_is_durable() {
    let (dir, volume) = (tempfile::tempdir().unwrap(), Arc::new(MemVolume::default()));
    let store = filled(dir.path(), &volume, 8000);
    store.sync().unwrap();
    let before = lock(&store.checkpoint).0;
    store.close().unwrap();
    let checkpoint = lock(&store.checkpoint).0;
    assert!(checkpoint > before);
    drop(store);
    let left = Disk::after(&BTreeMap::new(), &volume.events()).synced();
    let volume = Arc::new(MemVolume::with(left));
    let store = opened(dir.path(), volume, open::IndexFrom::Memory).unwrap();
    assert_eq!(lock(&store.checkpoint).0, checkpoint);
    assert_eq!(names(&store).len(), 8000);
}

#[test]
fn nothing_is_appended_once_closing_has_begun() {
    let (dir, volume) = (tempfile::tempdir().unwrap(), Arc::new(MemVolume::default()));
    let store = filled(dir.path(), &volume, 3);
    lock(&store.writer).begin_closing();
    assert!(create(&store, b"late").is_err());
    assert!(store.renew_checkpoint().is_err());
    store.sync().unwrap();
    store.close().unwrap();
    assert!(create(&store, b"later").is_err() && store.renew_checkpoint().is_err());
    assert!(store.clean(0).is_err());
    drop(store);
    let store = opened(dir.path(), volume, open::IndexFrom::Memory).unwrap();
    assert_eq!(names(&store).len(), 3);
}

#[test]
fn a_checkpoint_that_forgets_is_refused() {
    let (dir, volume) = (tempfile::tempdir().unwrap(), Arc::new(MemVolume::default()));
    let store = filled(dir.path(), &volume, 3);
    store.sync().unwrap();
    store.state.write().unwrap().table = Table::new(Arc::new(NoBase));
    assert!(store.renew_checkpoint().is_err());
    assert!(create(&store, b"late").is_err(), "it has failed");
    drop(store);
    let store = opened(dir.path(), volume, open::IndexFrom::Memory).unwrap();
    assert_eq!(names(&store).len(), 3);
}

/// Many threads append, clean and checkpoint while the store is closed under them.
#[test]
fn closing_amid_work_keeps_every_file() {
    for round in 0..10_u64 {
        let dir = made();
        let store = open(dir.path());
        for n in 0..500_u64 {
            create(&store, &[&b"file"[..], &(n + 1).to_le_bytes().map(|b| b | 1)[..]].concat())
                .unwrap();
        }
        let there = names(&store).len();
        let busy: Vec<_> = (0..3)
            .map(|who| {
                let store = Arc::clone(&store);
                std::thread::spawn(move || match who {
                    0 => while store.renew_checkpoint().is_ok() {},
                    1 => while store.clean(0).is_ok() {},
                    _ => {
                        let txn = || {
                            let ino = store.next_ino();
                            Record::PutInode(ino, attr(0)).into()
                        };
                        while store.append(txn()).is_ok() {}
                    }
                })
            })
            .collect();
        std::thread::sleep(std::time::Duration::from_millis(3 * round));
        store.close().unwrap();
        for b in busy {
            b.join().unwrap();
        }
        drop(store);
        if round % 2 == 0 {
            std::fs::remove_dir_all(dir.path().join("index")).unwrap();
        }
        assert_eq!(names(&open(dir.path())).len(), there);
    }
}

/// Whoever still asks a store that was closed is not told that it is empty.
#[test]
fn a_closed_index_is_no_empty_one() {
    let dir = made();
    let store = open(dir.path());
    create(&store, b"a").unwrap();
    store.close().unwrap();
    assert!(store.dirent(Ino::ROOT, b"a").is_err());
    assert!(store.inode(Ino::ROOT).is_err() && store.dirents(Ino::ROOT, 0, 9).is_err());
}

#[test]
fn a_close_that_failed_stays_failed() {
    let (dir, volume) = (tempfile::tempdir().unwrap(), Arc::new(MemVolume::default()));
    let store = filled(dir.path(), &volume, 3);
    let fail = |how| {
        lock(&volume.files).values().for_each(|b| b.fail_sync.store(how, Ordering::SeqCst));
    };
    fail(true);
    assert!(store.close().is_err());
    fail(false);
    for _ in 0..2 {
        let e = store.close().unwrap_err().to_string();
        assert!(e.contains("not closed cleanly") && e.contains("fdatasync"), "{e}");
    }
    drop(store);
    let store = opened(dir.path(), volume, open::IndexFrom::Memory).unwrap();
    store.close().unwrap();
    store.close().unwrap();
}

/// The store is to be closed while the cleaner is at it.
#[test]
fn cleaning_ends_when_the_store_is_to_be_closed() {
    let (dir, memory) = (tempfile::tempdir().unwrap(), Arc::new(MemVolume::default()));
    open::create_in(&*memory, &options(), "memory").unwrap();
    let plan = Arc::new(Plan::default());
    let below = Arc::clone(&memory) as Arc<dyn io::Volume>;
    let volume = Arc::new(FailingVolume { below, plan: Arc::clone(&plan) });
    let store = opened(dir.path(), volume, open::IndexFrom::Memory).unwrap();
    let (a, b) = (create(&store, b"a").unwrap(), create(&store, b"b").unwrap());
    for n in 0..100 {
        write(&store, a, n * 5000, &[1; 5000]).unwrap();
        write(&store, b, 0, &[2; 5000]).unwrap();
    }
    store.sync().unwrap();
    let there = store.segments.lens().len();
    assert!(there > 20, "{there}");
    let weak = Arc::downgrade(&store);
    lock(&plan.hook).0 = Some(Box::new(move || weak.upgrade().unwrap().wind_up()));
    plan.set(Some(Fault { call: Call::Create, nth: 1, errno: HOOK, short: false }));
    let e = store.clean(20).unwrap_err().to_string();
    assert!(e.contains("the store is being closed"), "{e}");
    assert!(plan.count(Call::Create) < 4, "it went on");
    plan.set(None);
    write(&store, b, 0, &[3; 5000]).unwrap();
    store.close().unwrap();
    drop(store);
    let store = opened(dir.path(), memory, open::IndexFrom::Memory).unwrap();
    assert!(contents(&store, a, 500_000).unwrap() == [1; 500_000]);
    assert!(contents(&store, b, 5000).unwrap() == [3; 5000]);
}
