//! Each call of a workload fails once, in each way: who asked is told, nothing acknowledged is lost,
//! reads go on.

use super::disk::Disk;
use super::failing::{CALLS, Call, FailingVolume, Fault, Plan};
use super::history::{Files, LEN, Step, check_sums, perform_or, state_of};
use super::memory::MemVolume;
use super::power::{opened, recode};
use super::*;
use std::collections::BTreeMap;

/// A part of the workload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Create(u8),
    Unlink(u8),
    Write(u8, u16, u16),
    Recode(u8),
    Sync,
    Seal,
    Checkpoint,
    Clean,
    Sidecars,
    Model,
    RotAndRead,
    RotAndScrub,
    RotSuperblock,
    Read,
}

/// Everything that a store does, in few steps.
const WORKLOAD: [Part; 28] = [
    Part::Create(0),
    Part::Write(0, 0, 1800),
    Part::Sync,
    Part::Sidecars,
    Part::RotAndRead,
    Part::Create(1),
    Part::Write(1, 100, 1900),
    Part::Sync,
    Part::Recode(0),
    Part::Sync,
    Part::Seal,
    Part::Write(1, 500, 1500),
    Part::Model,
    Part::Sync,
    Part::Checkpoint,
    Part::RotSuperblock,
    Part::Write(0, 900, 1000),
    Part::Unlink(1),
    Part::Sync,
    Part::Clean,
    Part::Sidecars,
    Part::RotAndScrub,
    Part::Create(2),
    Part::Write(2, 0, 700),
    Part::Checkpoint,
    Part::Read,
    Part::Write(2, 100, 700),
    Part::Sync,
];

struct World {
    memory: Arc<MemVolume>,
    plan: Arc<Plan>,
    store: Arc<Store>,
    model: Files,
    rotten: u64,
}

impl World {
    fn attempt(&mut self, part: Part) -> Result<()> {
        let store = &*self.store;
        match part {
            Part::Create(f) => perform_or(store, &mut self.model, &Step::Create(f)),
            Part::Unlink(f) => perform_or(store, &mut self.model, &Step::Unlink(f)),
            Part::Write(f, off, n) => {
                perform_or(store, &mut self.model, &Step::Write(f, off, f + 1, n))
            }
            Part::Recode(f) => recode(store, f),
            Part::Sync => store.sync(),
            Part::Seal => lock(&store.writer).roll(false),
            Part::Checkpoint => store.renew_checkpoint(),
            Part::Clean => store.clean(20).map(drop),
            Part::Sidecars => parity_writer::protect_all(store),
            Part::Model => {
                let bytes = [9; 5000];
                store.put_model_file(blake3::hash(&bytes).as_bytes(), &bytes)
            }
            Part::RotAndRead | Part::RotAndScrub => {
                // What was never written cannot rot.
                let there = |(f, ..): &(FrameRef, Ino, u64)| !store.segments.buffered(*f);
                let frames: Vec<_> = store.live_frames()?.into_iter().filter(there).collect();
                if frames.is_empty() {
                    return Ok(());
                }
                let (f, ..) = frames[self.rotten as usize % frames.len()];
                self.rotten += 1;
                let at = u64::from(f.offset) + 60;
                self.memory.rot(&segments::segment_path(f.segment), at, 3);
                if part == Part::RotAndRead {
                    return store.read_frame(f).map(drop);
                }
                let found = store.check_segment(f.segment, true)?;
                assert_eq!(found.lost, []);
                Ok(())
            }
            Part::RotSuperblock => {
                self.memory.rot("superblock.1", 20, 1);
                store.check_superblocks(true).map(drop)
            }
            Part::Read => {
                for d in store.dirents(Ino::ROOT, 0, usize::MAX)? {
                    contents(store, d.ino, LEN)?;
                }
                Ok(())
            }
        }
    }
}

/// Calls whose failure need not be anybody's error, since it takes nothing from anyone: room that is
/// not given back, files that stay, reads and repairs that are done again.
fn may_pass(call: Call, part: Part) -> bool {
    match call {
        Call::Truncate | Call::Remove | Call::Allocate | Call::Read | Call::Len | Call::Open => {
            true
        }
        // The names of deleted segments may come back.
        Call::SyncDir => matches!(part, Part::Checkpoint | Part::Clean),
        // The reserve is filled another time.
        Call::Create => matches!(part, Part::Sync | Part::Checkpoint | Part::Clean),
        // What was repaired is not written back.
        Call::Write => matches!(part, Part::RotAndRead | Part::RotAndScrub),
        _ => false,
    }
}

/// Without room, a segment goes without a footer, the reserve is used, dead segments go first.
fn makes_do(f: Fault, part: Part) -> bool {
    f.errno == libc::ENOSPC
        && matches!(f.call, Call::Write | Call::Create)
        && (matches!(part, Part::Seal | Part::Checkpoint | Part::Clean)
            || (f.call == Call::Write && part_writes(part)))
}

/// What was taken in is written with the reserve's room.
fn part_writes(part: Part) -> bool {
    !matches!(part, Part::RotAndRead | Part::RotAndScrub)
}

/// Runs the workload with a fault; returns how often it struck.
fn run(fault: Option<Fault>, counts: &mut BTreeMap<Call, u64>) -> u64 {
    let here = format!("{fault:?}");
    let dir = tempfile::tempdir().unwrap();
    let memory = Arc::new(MemVolume::default());
    open::create_in(&*memory, &options(), "memory").unwrap();
    let plan = Arc::new(Plan::default());
    let below = Arc::clone(&memory) as Arc<dyn io::Volume>;
    let volume = Arc::new(FailingVolume { below, plan: Arc::clone(&plan) });
    let store = opened(dir.path(), volume, open::IndexFrom::Memory).unwrap();
    let mut world = World { memory, plan, store, model: Files::new(), rotten: 0 };
    world.plan.set(fault);
    let mut history = vec![Files::new()];
    let (mut acknowledged, mut dead) = (0, false);
    for (n, part) in WORKLOAD.into_iter().enumerate() {
        let here = format!("{here}, step {n} {part:?}");
        let before = world.plan.hits.load(Ordering::SeqCst);
        let mut result = world.attempt(part);
        let struck = world.plan.hits.load(Ordering::SeqCst) > before;
        if let (Some(f), true) = (fault, struck) {
            let told = result.is_err() || may_pass(f.call, part) || makes_do(f, part);
            assert!(told, "{here}: nobody was told");
            // The store itself went on reading.
            assert_eq!(state_of(&world.store), world.model, "{here}");
            if matches!(result, Err(StoreError::NoSpace { .. })) && f.call != Call::Sync {
                result = world.attempt(part);
                assert!(result.is_ok(), "{here}: no second chance: {result:?}");
            }
        } else {
            assert!(dead || result.is_ok(), "{here}: {result:?}");
        }
        // A store that takes no more writes says so to everyone.
        dead |= lock(&world.store.writer).usable().is_err();
        if dead {
            let refused = matches!(part, Part::Sync | Part::Checkpoint);
            assert!(!refused || result.is_err(), "{here}: a failure was forgotten");
        }
        history.push(world.model.clone());
        if result.is_ok() && matches!(part, Part::Sync | Part::Checkpoint | Part::Clean) {
            acknowledged = history.len() - 1;
        }
    }
    for call in CALLS {
        *counts.entry(call).or_default() = world.plan.count(call);
    }
    let hits = world.plan.hits.load(Ordering::SeqCst);
    world.plan.set(None);
    assert_eq!(state_of(&world.store), world.model, "{here}");
    let events = world.memory.events();
    drop(world);
    // Whether the machine or only the process ends now: what was acknowledged is there.
    let disk = Disk::after(&BTreeMap::new(), &events);
    for left in [disk.synced(), disk.state(|_| true, false)] {
        let volume = Arc::new(MemVolume::with(left));
        let store = opened(dir.path(), volume, open::IndexFrom::Memory).unwrap();
        let got = state_of(&store);
        assert!(history[acknowledged..].contains(&got), "{here}: lost what was acknowledged");
        check_sums(&store);
    }
    hits
}

#[test]
fn each_call_fails_once_and_nothing_is_lost() {
    let mut counts = BTreeMap::new();
    assert_eq!(run(None, &mut counts), 0);
    let (mut faults, mut struck) = (0, 0);
    for call in CALLS {
        for nth in 0..counts[&call] {
            let errnos: &[(i32, bool)] = match call {
                Call::Write => &[
                    (libc::EIO, false),
                    (libc::EIO, true),
                    (libc::ENOSPC, false),
                    (libc::ENOSPC, true),
                ],
                Call::Read => &[(libc::EIO, false), (0, true)],
                Call::Create | Call::Allocate | Call::Sync | Call::Rename => {
                    &[(libc::EIO, false), (libc::ENOSPC, false)]
                }
                _ => &[(libc::EIO, false)],
            };
            for (errno, short) in errnos.iter().copied() {
                faults += 1;
                struck += run(Some(Fault { call, nth, errno, short }), &mut BTreeMap::new());
            }
        }
    }
    println!("{faults} faults, {struck} struck: {counts:?}");
    for call in [Call::Read, Call::Write, Call::Sync, Call::Create, Call::Rename, Call::SyncDir] {
        assert!(counts[&call] > 2, "{counts:?}");
    }
    assert_eq!(faults, struck);
}

/// A store with something durable in it, whose opening fails at one read after the other.
#[test]
fn a_log_that_cannot_be_read_is_not_cut() {
    let (dir, memory, store) = faults::mem_store();
    let mut model = Files::new();
    for step in [Step::Create(0), Step::Write(0, 0, 1, 1500), Step::Create(1)] {
        perform_or(&store, &mut model, &step).unwrap();
    }
    store.renew_checkpoint().unwrap();
    for step in [Step::Write(1, 0, 2, 900), Step::Create(2), Step::Write(2, 7, 3, 1000)] {
        perform_or(&store, &mut model, &step).unwrap();
        store.sync().unwrap();
    }
    drop(store);
    let left = Disk::after(&BTreeMap::new(), &memory.events()).synced();
    let (mut nth, mut refused) = (0, 0);
    loop {
        let memory = Arc::new(MemVolume::with(left.clone()));
        let plan = Arc::new(Plan::default());
        plan.set(Some(Fault { call: Call::Read, nth, errno: libc::EIO, short: false }));
        let volume = Arc::new(FailingVolume { below: memory.clone(), plan: Arc::clone(&plan) });
        let opening = opened(dir.path(), volume, open::IndexFrom::Memory);
        let struck = plan.hits.load(Ordering::SeqCst) > 0;
        plan.set(None);
        match opening {
            Ok(store) => assert_eq!(state_of(&store), model, "read {nth}"),
            Err(e) => {
                assert!(matches!(e, StoreError::Io { .. }), "read {nth}: {e}");
                refused += 1;
            }
        }
        let store = opened(dir.path(), memory, open::IndexFrom::Memory).unwrap();
        assert_eq!(state_of(&store), model, "after read {nth}");
        if !struck {
            break;
        }
        nth += 1;
    }
    assert!(nth > 20 && refused > 5, "{nth} {refused}");
}
