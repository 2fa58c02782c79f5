//! A panic in the middle of what the store does.

use super::disk::Disk;
use super::failing::{Call, FailingVolume, Fault, PANIC, Plan};
use super::memory::MemVolume;
use super::power::opened;
use super::*;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};

type Work = fn(&Store) -> Result<()>;

/// What the store is at when the panic comes.
const WORK: [(&str, Work); 5] = [
    ("append", |store| write(store, Ino(2), 0, &[4; 40_000])),
    ("sync", |store| {
        create(store, b"new")?;
        store.sync()
    }),
    ("checkpoint", Store::renew_checkpoint),
    ("clean", |store| store.clean(0).map(drop)),
    ("seal", |store| store.writer().roll(false)),
];

/// Calls in which it comes. The others are not made while the log changes.
const CALLS: [Call; 5] = [Call::Write, Call::Sync, Call::Create, Call::Allocate, Call::Read];

/// Runs one kind of work with a panic in one call; false if there are not as many calls.
fn run(work: usize, call: Call, nth: u64) -> bool {
    let here = format!("{} with a panic in {call:?} {nth}", WORK[work].0);
    let dir = tempfile::tempdir().unwrap();
    let memory = Arc::new(MemVolume::default());
    open::create_in(&*memory, &options(), "memory").unwrap();
    let plan = Arc::new(Plan::default());
    let below = Arc::clone(&memory) as Arc<dyn io::Volume>;
    let volume = Arc::new(FailingVolume { below, plan: Arc::clone(&plan) });
    let store = opened(dir.path(), volume, open::IndexFrom::Memory).unwrap();
    let ino = create(&store, b"a").unwrap();
    assert_eq!(ino, Ino(2));
    for n in 0..4 {
        write(&store, ino, n * 10_000, &[1; 10_000]).unwrap();
    }
    write(&store, ino, 5000, &[2; 20_000]).unwrap();
    store.sync().unwrap();
    let before = contents(&store, ino, 40_000).unwrap();
    plan.set(Some(Fault { call, nth, errno: PANIC, short: false }));
    let ended = catch_unwind(AssertUnwindSafe(|| WORK[work].1(&store)));
    plan.set(None);
    if plan.hits.load(Ordering::SeqCst) == 0 {
        assert!(matches!(ended, Ok(Ok(()))), "{here}: {ended:?}");
        return false;
    }
    assert!(ended.is_err(), "{here}");
    // The cleaner reads before it changes anything: with no lock of the log's in its hands.
    if WORK[work].0 == "clean" && call == Call::Read {
        store.sync().unwrap();
        create(&store, b"late").unwrap();
        store.clean(0).unwrap();
        assert!(contents(&store, ino, 40_000).unwrap() == before, "{here}");
        store.close().unwrap();
        return true;
    }
    for _ in 0..2 {
        assert!(store.sync().is_err(), "{here}: forgotten");
    }
    assert!(create(&store, b"late").is_err() && store.renew_checkpoint().is_err(), "{here}");
    assert!(store.clean(0).is_err() && store.close().is_err(), "{here}");
    drop(store);
    let disk = Disk::after(&BTreeMap::new(), &memory.events());
    for left in [disk.synced(), disk.state(|_| true, false)] {
        let volume = Arc::new(MemVolume::with(left));
        let store = opened(dir.path(), volume, open::IndexFrom::Memory).unwrap();
        let now = contents(&store, ino, 40_000).unwrap();
        assert!(now == before || (work == 0 && now == [4; 40_000]), "{here}: lost");
    }
    true
}

#[test]
fn a_panic_ends_all_writing_and_takes_nothing() {
    let mut panics = 0;
    for work in 0..WORK.len() {
        for call in CALLS {
            panics += (0..1000).take_while(|nth| run(work, call, *nth)).count();
        }
    }
    assert!(panics > 20, "{panics}");
}

/// Not a call of the disk's, but the store's own code, with the lock of the state in its hands.
#[test]
fn a_panic_under_the_states_lock_is_one_too() {
    let (_dir, _volume, store) = faults::mem_store();
    create(&store, b"a").unwrap();
    store.sync().unwrap();
    let ended = catch_unwind(AssertUnwindSafe(|| {
        let _state = store.state.write().unwrap();
        panic!("on purpose");
    }));
    assert!(ended.is_err() && store.sync().is_err() && create(&store, b"b").is_err());
    assert_eq!(names(&store), [b"a"], "reading goes on");
}
