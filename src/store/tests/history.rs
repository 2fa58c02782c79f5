//! Random histories, against a map in memory.

use super::faults::mem_store;
use super::*;
use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use std::collections::BTreeMap;

/// One step of a random history.
#[derive(Debug, Clone)]
enum Step {
    Create(u8),
    Unlink(u8),
    Write(u8, u16, u8, u16),
    Punch(u8, u16, u16),
    Xattr(u8, u8),
    Sync,
    Clean,
    Reopen,
    LoseIndex,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => (0..6u8).prop_map(Step::Create),
        1 => (0..6u8).prop_map(Step::Unlink),
        6 => (0..6u8, 0..3000u16, any::<u8>(), 1..2000u16).prop_map(|(f, o, b, n)| Step::Write(f, o, b, n)),
        2 => (0..6u8, 0..3000u16, 1..3000u16).prop_map(|(f, o, n)| Step::Punch(f, o, n)),
        1 => (0..6u8, any::<u8>()).prop_map(|(f, v)| Step::Xattr(f, v)),
        2 => Just(Step::Sync),
        1 => Just(Step::Clean),
        1 => Just(Step::Reopen),
        1 => Just(Step::LoseIndex),
    ]
}

const LEN: usize = 5000;
type Files = BTreeMap<u8, (Vec<u8>, Option<u8>)>;

fn state_of(store: &Store) -> Files {
    let mut out = Files::new();
    for d in store.dirents(Ino::ROOT, 0, usize::MAX).unwrap() {
        let x = store.xattr(d.ino, b"user.x").unwrap().map(|v| v[0]);
        out.insert(d.name[0], (contents(store, d.ino, LEN).unwrap(), x));
    }
    out
}

/// Does one step to the store and to the model.
fn perform(store: &Store, model: &mut Files, s: &Step) {
    let ino = |f: u8| store.dirent(Ino::ROOT, &[f]).unwrap().map(|d| d.ino);
    match *s {
        Step::Create(f) => {
            if ino(f).is_none() {
                create(store, &[f]).unwrap();
                model.insert(f, (vec![0; LEN], None));
            }
        }
        Step::Unlink(f) => {
            if let Some(i) = ino(f) {
                let name = vec![f];
                let ops = vec![Op::DelDirent { parent: Ino::ROOT, name }, Op::DelInode(i)];
                store.append(Txn { ops, ..Txn::default() }).unwrap();
                model.remove(&f);
            }
        }
        Step::Write(f, off, byte, n) => {
            if let Some(i) = ino(f) {
                write(store, i, off.into(), &vec![byte; n as usize]).unwrap();
                model.get_mut(&f).unwrap().0[off as usize..(off + n) as usize].fill(byte);
            }
        }
        Step::Punch(f, off, n) => {
            if let Some(i) = ino(f) {
                let op = Op::Punch { ino: i, off: off.into(), len: n.into() };
                store.append(Txn { ops: vec![op], ..Txn::default() }).unwrap();
                let end = usize::from(off + n).min(LEN);
                model.get_mut(&f).unwrap().0[off.into()..end].fill(0);
            }
        }
        Step::Xattr(f, v) => {
            if let Some(i) = ino(f) {
                let op = Op::PutXattr(i, b"user.x".to_vec(), vec![v]);
                store.append(Txn { ops: vec![op], ..Txn::default() }).unwrap();
                model.get_mut(&f).unwrap().1 = Some(v);
            }
        }
        Step::Sync | Step::Clean | Step::Reopen | Step::LoseIndex => {}
    }
}

fn check_sums(store: &Store) {
    let frames = store.live_frames().unwrap();
    let bytes: u64 = frames.iter().map(|(f, ..)| u64::from(f.len)).sum();
    let s = store.stats().unwrap();
    let parity = store.state().totals.parity;
    assert_eq!((frames.len() as u64, bytes), (s.frames, s.coded_bytes + s.staged_bytes + parity));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn the_store_agrees_with_a_map(steps in proptest::collection::vec(step(), 1..60)) {
        let dir = made();
        let mut store = open(dir.path());
        let mut model = Files::new();
        for s in &steps {
            perform(&store, &mut model, s);
            match s {
                Step::Sync => store.sync().unwrap(),
                Step::Clean => drop(store.clean(20).unwrap()),
                Step::Reopen | Step::LoseIndex => {
                    store.close().unwrap();
                    drop(store);
                    if matches!(s, Step::LoseIndex) {
                        let _ = std::fs::remove_dir_all(dir.path().join("index"));
                    }
                    store = open(dir.path());
                }
                _ => {}
            }
            check_sums(&store);
        }
        prop_assert_eq!(state_of(&store), model);
    }
}

/// Closes the group and writes it, without a sync: it may be torn.
fn hand_over(store: &Store) {
    let mut w = lock(&store.writer);
    w.close_group(store.durable.load(Ordering::SeqCst)).unwrap();
    w.flush().unwrap();
}

/// After a power loss the state is that after some transaction at or past the last sync.
#[test]
fn a_crash_leaves_a_prefix_that_holds_all_that_was_synced() {
    let config = ProptestConfig { cases: 150, ..ProptestConfig::default() };
    let histories = (proptest::collection::vec(step(), 1..60), any::<u64>());
    // How often something was lost, and nothing.
    let outcomes = [AtomicU64::new(0), AtomicU64::new(0)];
    let run = |(steps, seed): (Vec<Step>, u64)| {
        let (dir, volume, store) = mem_store();
        let mut model = Files::new();
        let mut history = vec![model.clone()];
        let mut synced = 0;
        for s in &steps {
            perform(&store, &mut model, s);
            history.push(model.clone());
            match s {
                Step::Sync => {
                    store.sync().unwrap();
                    synced = history.len() - 1;
                }
                Step::Clean => {
                    store.clean(20).unwrap();
                    store.sync().unwrap();
                    synced = history.len() - 1;
                }
                // A group without a sync: it may be torn.
                Step::Reopen => hand_over(&store),
                _ => {}
            }
        }
        // At the least, one whole file is at risk.
        for s in [Step::Create(6), Step::Write(6, 0, 9, 1999)] {
            perform(&store, &mut model, &s);
            history.push(model.clone());
        }
        hand_over(&store);
        let mut x = seed | 1;
        let after = volume.crashed(|| {
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
            (x >> 32) as u8
        });
        drop(store);
        let dir2 = tempfile::tempdir().unwrap();
        let store = open::open(dir2.path(), &OpenOptions::default(), after).unwrap();
        let got = state_of(&store);
        prop_assert!(history[synced..].contains(&got), "lost what was synced at {synced}: {got:?}");
        let whole = history.last() == Some(&got);
        outcomes[usize::from(whole)].fetch_add(1, Ordering::Relaxed);
        check_sums(&store);
        create(&store, b"z").unwrap();
        store.sync().unwrap();
        drop(dir);
        Ok(())
    };
    let result = TestRunner::new(config).run(&histories, run);
    assert!(result.is_ok(), "{}", result.unwrap_err());
    assert!(outcomes.iter().all(|n| n.load(Ordering::Relaxed) > 10), "nothing was at risk");
}
