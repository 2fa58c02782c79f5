//! Damage beyond repair is counted and named once.

use super::failing::{Call, FailingVolume, Fault, Plan};
use super::memory::MemVolume;
use super::power::opened;
use super::*;
use crate::logged::Watch;

/// A store in memory without a thread that makes sidecars, behind a plan of failures.
fn quiet() -> (tempfile::TempDir, Arc<MemVolume>, Arc<Plan>, Arc<Store>) {
    let (dir, memory) = (tempfile::tempdir().unwrap(), Arc::new(MemVolume::default()));
    open::create_in(&*memory, &options(), "memory").unwrap();
    let plan = Arc::new(Plan::default());
    let below = Arc::clone(&memory) as Arc<dyn io::Volume>;
    let volume = Arc::new(FailingVolume { below, plan: Arc::clone(&plan) });
    let store = opened(dir.path(), volume, open::IndexFrom::Memory).unwrap();
    (dir, memory, plan, store)
}

fn bytes(memory: &MemVolume, path: &str) -> Vec<u8> {
    lock(&lock(&memory.files)[path].inner).bytes.clone()
}

/// Files with a sidecar below `segments`.
fn sidecars(memory: &MemVolume) -> Vec<String> {
    lock(&memory.files).keys().filter(|k| k.contains(".par")).cloned().collect()
}

/// Zeros more of a frame than its own code corrects.
fn ruin(memory: &MemVolume, f: FrameRef) {
    memory.lose(&segments::segment_path(f.segment), u64::from(f.offset) + 200, 2000);
}

#[test]
fn damage_is_counted_by_the_thing_and_not_by_the_read() {
    let (_dir, memory, _plan, store) = quiet();
    let ino = create(&store, b"a").unwrap();
    for n in 0..4 {
        write(&store, ino, n * 5000, &[7; 5000]).unwrap();
    }
    store.sync().unwrap();
    let frames: Vec<FrameRef> =
        store.extents_in(ino, 0, 20_000).unwrap().iter().map(|e| e.frame).collect();
    let before: Vec<(String, Vec<u8>)> = store
        .segment_numbers()
        .into_iter()
        .map(|n| (segments::segment_path(n), bytes(&memory, &segments::segment_path(n))))
        .collect();
    frames[..2].iter().for_each(|f| ruin(&memory, *f));
    let count = || store.stats().unwrap().unrecoverable;
    assert_eq!(count(), 0);
    for _ in 0..5 {
        assert!(frames[..2].iter().all(|f| store.read_frame(*f).is_err()));
        assert_eq!(count(), 2);
    }
    let scrub = || {
        for n in store.segment_numbers() {
            store.check_segment(n, true).unwrap();
        }
        count()
    };
    assert_eq!(scrub(), 2);
    // What nothing refers to does not count.
    write(&store, ino, 0, &[8; 5000]).unwrap();
    assert_eq!(count(), 1);
    store.sync().unwrap();
    assert_eq!(scrub(), 1);
    // Somebody brings the bytes back.
    for (path, was) in before {
        let blob = Arc::clone(&lock(&memory.files)[&path]);
        lock(&blob.inner).bytes[..was.len()].copy_from_slice(&was);
    }
    assert_eq!(scrub(), 0);
}

#[test]
fn a_sidecar_that_cannot_be_renewed_for_want_of_room_stays() {
    let (_dir, memory, _plan, store) = quiet();
    let ino = create(&store, b"a").unwrap();
    write(&store, ino, 0, &[7; 9000]).unwrap();
    store.sync().unwrap();
    parity_writer::protect_all(&store).unwrap();
    let before = sidecars(&memory);
    assert_eq!(before.len(), 1);
    write(&store, ino, 9000, &[8; 100]).unwrap();
    store.writer().roll(false).unwrap();
    store.sync().unwrap();
    memory.set_full(true);
    for n in store.segment_numbers() {
        store.check_segment(n, true).unwrap();
    }
    assert_eq!(sidecars(&memory), before);
    memory.set_full(false);
    // And is of use.
    let f = store.extents_in(ino, 0, 1).unwrap()[0].frame;
    ruin(&memory, f);
    assert!(contents(&store, ino, 9000).unwrap() == [7; 9000]);
}

/// The segment that is being written is looked at every few seconds.
#[test]
fn a_segment_that_grows_over_damage_is_named_once() {
    let (_dir, memory, _plan, store) = quiet();
    let ino = create(&store, b"a").unwrap();
    write(&store, ino, 0, &[7; 1500]).unwrap();
    store.sync().unwrap();
    parity_writer::protect_all(&store).unwrap();
    let [old] = &sidecars(&memory)[..] else { panic!("{:?}", sidecars(&memory)) };
    let segment = segments::segment_path(1);
    // More than the sidecar can rebuild: all that it covers.
    let len = bytes(&memory, &segment).len() as u64;
    memory.lose(&segment, 0, len);
    memory.lose(old, 0, bytes(&memory, old).len() as u64 / 2);
    let said = Watch::here("segments/00000001.seg");
    for n in 1..5 {
        write(&store, ino, n * 100, &[9; 100]).unwrap();
        store.sync().unwrap();
        let _ = parity_writer::protect_all(&store);
    }
    assert_eq!(said.lines(), 1);
}

/// Too many open files, or a disk that does not answer, take no sidecar away.
#[test]
fn a_sidecar_that_cannot_be_opened_stays() {
    let (_dir, memory, plan, store) = quiet();
    let ino = create(&store, b"a").unwrap();
    write(&store, ino, 0, &[7; 1500]).unwrap();
    store.sync().unwrap();
    parity_writer::protect_all(&store).unwrap();
    let (names, first) = (sidecars(&memory), bytes(&memory, &sidecars(&memory)[0]));
    write(&store, ino, 100, &[9; 100]).unwrap();
    store.sync().unwrap();
    let fault = |errno| plan.set(Some(Fault { call: Call::Open, nth: 0, errno, short: false }));
    let said = Watch::here("the sidecar of segments/00000001.seg");
    for errno in [libc::EIO, libc::EMFILE, libc::EIO] {
        fault(errno);
        assert!(matches!(parity_writer::protect_all(&store), Err(StoreError::Io { .. })));
        assert_eq!((&sidecars(&memory), &bytes(&memory, &names[0])), (&names, &first));
    }
    assert_eq!(said.lines(), 1);
    fault(libc::EIO);
    assert!(store.check_segment(1, true).unwrap().checked.damaged);
    assert_eq!((&sidecars(&memory), &bytes(&memory, &names[0])), (&names, &first));
    plan.set(None);
    parity_writer::protect_all(&store).unwrap();
    assert_ne!(sidecars(&memory), names);
    assert!(!store.check_segment(1, true).unwrap().checked.damaged);
    // One that is not there is made anew.
    lock(&memory.files).retain(|k, _| !k.contains(".par"));
    assert!(store.check_segment(1, true).is_ok());
    write(&store, ino, 200, &[9; 100]).unwrap();
    store.sync().unwrap();
    parity_writer::protect_all(&store).unwrap();
    assert_eq!(sidecars(&memory).len(), 1);
}
