//! Who waits for whom while the disk or the index below is slow.

use super::failing::{Call, FailingVolume, Plan};
use super::memory::MemVolume;
use super::*;
use crate::store::index::base::{Base, Change, Pair, Pairs};
use crate::store::index::memtable::Table;
use std::collections::BTreeMap;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

/// A write takes so long, a sync twice that.
pub const DISK: Duration = Duration::from_millis(300);
/// What a look-up may take at most: nothing but the machine's own moods.
pub const SOON: Duration = Duration::from_millis(120);

/// A store on a volume that can be made slow.
pub fn slow_store() -> (tempfile::TempDir, Arc<Plan>, Arc<Store>) {
    let (dir, plan) = (tempfile::tempdir().unwrap(), Arc::new(Plan::default()));
    let below = Arc::new(MemVolume::default());
    open::create_in(&*below, &options(), "memory").unwrap();
    let volume = Arc::new(FailingVolume { below, plan: Arc::clone(&plan) });
    let store = open::open(dir.path(), &OpenOptions::default(), volume).unwrap();
    (dir, plan, store)
}

/// Makes writes and what else changes the disk slow from now on, or fast again.
pub fn make_slow(plan: &Plan, slow: bool) {
    let mut pauses = lock(&plan.pauses);
    pauses.clear();
    if slow {
        for call in [Call::Write, Call::Create, Call::Truncate, Call::Allocate, Call::Remove] {
            pauses.insert(call, DISK);
        }
        pauses.insert(Call::Sync, 2 * DISK);
        pauses.insert(Call::SyncDir, 2 * DISK);
    }
}

/// Does `ask` again and again for so long; the longest that it took.
pub fn worst(for_so_long: Duration, mut ask: impl FnMut()) -> Duration {
    let (began, mut worst) = (Instant::now(), Duration::ZERO);
    while began.elapsed() < for_so_long {
        let asked = Instant::now();
        ask();
        worst = worst.max(asked.elapsed());
        std::thread::sleep(Duration::from_millis(1));
    }
    worst
}

/// Runs `work` over and over on a thread of its own while `body` runs.
pub fn meanwhile<T>(work: impl Fn() + Sync, body: impl FnOnce() -> T) -> T {
    let stop = AtomicBool::new(false);
    std::thread::scope(|s| {
        s.spawn(|| {
            while !stop.load(Ordering::SeqCst) {
                work();
            }
        });
        let got = std::panic::catch_unwind(std::panic::AssertUnwindSafe(body));
        stop.store(true, Ordering::SeqCst);
        got.unwrap_or_else(|p| std::panic::resume_unwind(p))
    })
}

/// What a slow disk is asked to do while others look things up.
fn holds_up(what: &str, work: impl Fn(&Store) + Sync) {
    let (_dir, plan, store) = slow_store();
    let a = create(&store, b"a").unwrap();
    let cold = create(&store, b"cold").unwrap();
    for n in 0..40 {
        write(&store, cold, n * 3000, &[n as u8; 3000]).unwrap();
        write(&store, cold, n / 2 * 6000, &[n as u8 + 1; 3000]).unwrap();
    }
    store.sync().unwrap();
    write(&store, a, 0, &[7; 3000]).unwrap();
    let last = store.extents_in(a, 0, 3000).unwrap()[0];
    make_slow(&plan, true);
    let worst = meanwhile(
        || work(&store),
        || {
            worst(Duration::from_millis(1500), || {
                assert!(store.inode(a).unwrap().is_some());
                assert!(store.dirent(Ino::ROOT, b"a").unwrap().is_some());
                assert_eq!(store.extents_in(a, 0, 10).unwrap().len(), 1);
                // It may still be on its way to the disk.
                assert!(store.read_frame(last.frame).unwrap().payload == [7; 3000]);
            })
        },
    );
    make_slow(&plan, false);
    assert!(worst < SOON, "{what}: a look-up took {worst:?}");
}

#[test]
fn a_look_up_does_not_wait_for_a_slow_disk() {
    holds_up("sync", |store| {
        let b = store.next_ino();
        write(store, b, 0, &[1; 9000]).unwrap();
        store.sync().unwrap();
    });
    holds_up("a stream", |store| {
        write(store, Ino(77), 0, &[1; 6 << 20]).unwrap();
    });
    holds_up("checkpoint", |store| store.renew_checkpoint().unwrap());
    holds_up("gc", |store| {
        store.clean(5).unwrap();
    });
}

/// The cleaner reads what it moves before it takes the writer's lock.
#[test]
fn a_change_does_not_wait_for_the_cleaner_to_read() {
    let (_dir, plan, store) = slow_store();
    let cold = create(&store, b"cold").unwrap();
    for n in 0..40 {
        write(&store, cold, n * 3000, &[n as u8; 3000]).unwrap();
        write(&store, cold, n / 2 * 6000, &[n as u8 + 1; 3000]).unwrap();
    }
    store.sync().unwrap();
    lock(&plan.pauses).insert(Call::Read, Duration::from_millis(20));
    let a = create(&store, b"a").unwrap();
    let worst = meanwhile(
        || drop(store.clean(5)),
        || {
            worst(Duration::from_millis(700), || {
                store.append(Record::PutInode(a, attr(1)).into()).unwrap();
            })
        },
    );
    lock(&plan.pauses).clear();
    assert!(worst < SOON, "a change took {worst:?}");
}

/// An index that is slow to answer.
#[derive(Debug)]
struct SlowBase(BTreeMap<Vec<u8>, Vec<u8>>, Duration);

impl Base for SlowBase {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>> {
        std::thread::sleep(self.1);
        Ok(self.0.get(key).cloned())
    }
    fn range<'a>(&'a self, lo: &[u8], hi: &[u8]) -> Pairs<'a> {
        std::thread::sleep(self.1);
        let hi = if hi < lo { lo } else { hi };
        let pair = |(k, v): (&Vec<u8>, &Vec<u8>)| -> Result<Pair> { Ok((k.clone(), v.clone())) };
        Box::new(self.0.range(lo.to_vec()..hi.to_vec()).map(pair))
    }
    fn write(&self, _: &[Change]) -> Result<()> {
        Err(StoreError::Closing)
    }
    fn flush(&self) -> Result<()> {
        Ok(())
    }
    fn is_volatile(&self) -> bool {
        true
    }
}

/// Has a store's index take so long for each answer.
pub fn slow_index(store: &Store, pause: Duration) {
    let mut state = store.state.write().unwrap();
    let all = state.table.scan(&[], &[0xff], usize::MAX).unwrap();
    state.table = Table::new(Arc::new(SlowBase(all.into_iter().collect(), pause)));
}

#[test]
fn what_is_in_memory_does_not_wait_for_the_index() {
    let (_dir, _plan, store) = slow_store();
    let cold = create(&store, b"cold").unwrap();
    slow_index(&store, Duration::from_millis(200));
    let a = create(&store, b"a").unwrap();
    let look = || {
        worst(Duration::from_millis(800), || {
            assert!(store.inode(a).unwrap().is_some());
            assert!(store.dirent(Ino::ROOT, b"a").unwrap().is_some());
        })
    };
    let reader = meanwhile(|| drop(store.inode(cold)), look);
    let writer = meanwhile(|| drop(create(&store, b"new")), look);
    assert!(reader.max(writer) < SOON, "behind a reader {reader:?}, behind a writer {writer:?}");
}
