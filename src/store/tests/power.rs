//! Power loss: after every write, sync and change of names of a history, in every state that the
//! disk may be left in, the store opens and holds all that was acknowledged, and nothing that was
//! not a state of it.
//!
//! `LMFS_POWER=full` makes the histories longer and more; `LMFS_POWER_SEED` chooses others.

use super::disk::{Disk, Files as Left};
use super::history::{Files, LEN, Step, check_sums, hand_over, perform, state_of};
use super::memory::{Event, MemVolume};
use super::*;
use std::collections::{BTreeMap, HashSet};

/// Numbers that look random.
pub struct Dice(pub u64);

impl Dice {
    pub fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 11) % n.max(1)
    }
}

/// One thing done to a store.
#[derive(Debug, Clone)]
enum Act {
    Do(Step),
    Sync,
    /// The batch is closed and written, without a sync.
    HandOver,
    /// The segment is sealed, another begun.
    Seal,
    Checkpoint,
    Clean,
    Sweep,
    Sidecars,
    /// A file's first extent is replaced by a coded one with the same bytes, with a primer.
    Recode(u8),
    /// A bit rots; reading or scrubbing repairs it.
    Heal(bool),
    Model(u8),
    Superblocks,
    Reopen,
    /// The process is killed, another opens the store.
    Kill,
}

/// A store whose every step is recorded.
struct Run {
    dir: tempfile::TempDir,
    volume: Arc<MemVolume>,
    store: Option<Arc<Store>>,
    model: Files,
    /// The state after each mark.
    history: Vec<Files>,
    /// After each mark: the state that was acknowledged as durable, and the models.
    acknowledged: Vec<(usize, Vec<ModelId>)>,
    hurt: HashSet<FrameRef>,
}

/// Opens a store whose last user may still be on its way out.
pub fn opened(
    dir: &Path,
    volume: Arc<dyn io::Volume>,
    index: open::IndexFrom,
) -> Result<Arc<Store>> {
    loop {
        match open::open_with(dir, &OpenOptions::default(), Arc::clone(&volume), index) {
            Err(StoreError::InUse { .. }) => std::thread::yield_now(),
            r => return r,
        }
    }
}

impl Run {
    fn new(index: open::IndexFrom) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let volume = Arc::new(MemVolume::default());
        open::create_in(&*volume, &options(), "memory").unwrap();
        let store = opened(dir.path(), volume.clone(), index).unwrap();
        let history = vec![Files::new()];
        volume.mark(0);
        let model = Files::new();
        let acknowledged = vec![(0, Vec::new())];
        Self { dir, volume, store: Some(store), model, history, acknowledged, hurt: HashSet::new() }
    }

    fn store(&self) -> &Arc<Store> {
        self.store.as_ref().unwrap()
    }

    fn act(&mut self, act: &Act, index: open::IndexFrom, dice: &mut Dice) {
        let store = Arc::clone(self.store());
        let (mut synced, mut models) = self.acknowledged.last().unwrap().clone();
        let now = self.history.len();
        match act {
            Act::Do(step) => perform(&store, &mut self.model, step),
            Act::Sync => {
                store.sync().unwrap();
                synced = now;
            }
            Act::HandOver => hand_over(&store),
            Act::Seal => lock(&store.writer).roll(false).unwrap(),
            Act::Checkpoint => {
                store.renew_checkpoint().unwrap();
                synced = now;
            }
            Act::Clean => {
                store.clean(20).unwrap();
                store.sync().unwrap();
                synced = now;
            }
            Act::Sweep => drop(sweep::step(&store, 1).unwrap()),
            Act::Sidecars => parity_writer::protect_all(&store).unwrap(),
            Act::Recode(f) => recode(&store, *f).unwrap(),
            Act::Heal(scrub) => self.heal(&store, *scrub, dice),
            Act::Model(n) => {
                let bytes = vec![*n; 700];
                let id = *blake3::hash(&bytes).as_bytes();
                store.put_model_file(&id, &bytes).unwrap();
                models.push(id);
            }
            Act::Superblocks => {
                self.volume.rot(superblock::FILES[dice.below(3) as usize], 20, 1);
                store.check_superblocks(true).unwrap();
            }
            Act::Reopen => {
                store.close().unwrap();
                synced = now;
            }
            Act::Kill => {}
        }
        if matches!(act, Act::Kill | Act::Reopen) {
            drop(store);
            self.store = None;
            self.store = Some(opened(self.dir.path(), self.volume.clone(), index).unwrap());
            let got = state_of(self.store());
            let known = self.history[synced.min(now)..].contains(&got);
            assert!(known || got == self.model, "lost by {act:?}");
            assert!(matches!(act, Act::Kill) || got == self.model, "lost by {act:?}");
            self.model = got;
        }
        self.volume.mark(now);
        self.history.push(self.model.clone());
        self.acknowledged.push((synced, models));
    }

    /// Something durable loses a bit, which a read or a scrub finds.
    fn heal(&mut self, store: &Store, scrub: bool, dice: &mut Dice) {
        store.sync().unwrap();
        let frames = store.live_frames().unwrap();
        let fresh: Vec<FrameRef> =
            frames.iter().map(|(f, ..)| *f).filter(|f| !self.hurt.contains(f)).collect();
        if fresh.is_empty() {
            return;
        }
        let f = fresh[dice.below(fresh.len() as u64) as usize];
        self.hurt.insert(f);
        let at = u64::from(f.offset) + dice.below(f.len.into());
        self.volume.rot(&segments::segment_path(f.segment), at, dice.below(8) as u8);
        if scrub {
            assert_eq!(store.check_segment(f.segment, true).unwrap().lost, []);
        } else {
            store.read_frame(f).unwrap();
        }
    }

    /// Opens what may be left after each event, and looks at it. `each` says how many of the states
    /// are tried where there are more than that.
    fn crash_everywhere(&self, each: usize, points: usize, dice: &mut Dice, tally: &mut Tally) {
        self.crash_with(&self.volume.events(), each, points, dice, tally);
    }

    /// As [`Self::crash_everywhere`], on a disk that was told of these events.
    fn crash_with(
        &self,
        events: &[Event],
        each: usize,
        points: usize,
        dice: &mut Dice,
        tally: &mut Tally,
    ) {
        let mut disk = Disk::default();
        let (mut mark, mut seen) = (None, HashSet::new());
        for (n, event) in events.iter().enumerate() {
            disk.apply(event);
            if let Event::Mark(n) = event {
                mark = Some(*n);
            }
            let left = events.len() - n;
            let wanted = left <= points || dice.below(left as u64) < points as u64;
            if !wanted {
                continue;
            }
            let place = format!("after event {n}, {}", short(event));
            let mut look = |state: Left, at_risk: bool, dice: &mut Dice| {
                if seen.insert((hash(&state), mark)) {
                    tally.states += 1;
                    tally.at_risk += u64::from(at_risk);
                    self.recovers(state, mark, dice, tally, &place);
                }
            };
            states(&disk, each, dice, &mut look);
        }
    }

    /// What is left opens, and holds what it must.
    fn recovers(
        &self,
        left: Left,
        mark: Option<usize>,
        dice: &mut Dice,
        tally: &mut Tally,
        place: &str,
    ) {
        let dir = &*PLACE;
        let _say = Say(place);
        let volume = Arc::new(MemVolume::with(left.clone()));
        let store = opened(dir.path(), volume.clone(), open::IndexFrom::Memory);
        let Some(mark) = mark else {
            // While it was being made: no store yet, or an empty one.
            match store {
                Ok(store) => assert_eq!(state_of(&store), Files::new(), "{place}"),
                Err(e) => assert!(matches!(e, StoreError::Refused(_)), "{place}: {e}"),
            }
            return;
        };
        let store = store.unwrap_or_else(|e| panic!("{place}: {e}"));
        let (synced, models) = &self.acknowledged[mark];
        let last = (mark + 1).min(self.history.len() - 1);
        let allowed = &self.history[*synced..=last];
        let got = state_of(&store);
        assert!(allowed.contains(&got), "{place}: not a state from {synced} to {last}: {got:?}");
        tally.lost += u64::from(got != self.history[mark]);
        for id in models {
            store.model_file(id).unwrap_or_else(|e| panic!("{place}: {e}"));
        }
        check_sums(&store);
        if !dice.below(8).is_multiple_of(8) {
            return;
        }
        // It can be written to, and a second power loss, maybe within the first recovery, takes
        // nothing either.
        let (after, mut model) = (got.clone(), got);
        volume.mark(0);
        perform(&store, &mut model, &Step::Create(9));
        perform(&store, &mut model, &Step::Write(9, 100, 7, 900));
        store.sync().unwrap();
        volume.mark(1);
        drop(store);
        let events = volume.events();
        let cut = dice.below(events.len() as u64 + 1) as usize;
        let done = |n| events[..cut].iter().any(|e| matches!(e, Event::Mark(m) if *m == n));
        let disk = Disk::after(&left, &events[..cut]);
        let mode = dice.below(3);
        let state = disk.state(|_| mode == 1 || (mode == 2 && dice.below(2) == 0), false);
        let again = Arc::new(MemVolume::with(state));
        let store = opened(dir.path(), again, open::IndexFrom::Memory);
        let got = state_of(&store.unwrap_or_else(|e| panic!("{place}, again: {e}")));
        if done(1) {
            assert!(got == model, "{place}: lost by the second crash");
        } else if done(0) {
            let mut between = after.clone();
            between.insert(9, (vec![0; LEN], None));
            assert!(got == after || got == between || got == model, "{place}: second crash");
        } else {
            // The first recovery was not finished: what it found may still get lost.
            assert!(allowed.contains(&got), "{place}: crash within recovery: {got:?}");
        }
        tally.twice += 1;
    }
}

/// Says where a panic happened.
struct Say<'a>(&'a str);

impl Drop for Say<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("power loss {}", self.0);
        }
    }
}

/// One directory for locks, so that not every state needs its own.
static PLACE: std::sync::LazyLock<tempfile::TempDir> =
    std::sync::LazyLock::new(|| tempfile::tempdir().unwrap());

#[derive(Debug, Default)]
struct Tally {
    states: u64,
    /// States that are not the only one that the disk could have been left in.
    at_risk: u64,
    /// States in which something not acknowledged is gone.
    lost: u64,
    twice: u64,
}

/// All states that may be left, or a choice of them.
pub fn states(
    disk: &Disk,
    each: usize,
    dice: &mut Dice,
    look: &mut dyn FnMut(Left, bool, &mut Dice),
) {
    let units = disk.at_risk();
    for grown in [false, true] {
        if units < 20 && 1 << units <= each {
            for mask in 0..1u32 << units {
                look(disk.state(|u| mask >> u & 1 == 1, grown), units > 0, dice);
            }
            continue;
        }
        look(disk.state(|_| false, grown), true, dice);
        look(disk.state(|_| true, grown), true, dice);
        for _ in 0..each.div_ceil(2) {
            let (mode, edge) = (dice.below(5), dice.below(units as u64) as usize);
            let kept: Vec<bool> = (0..units)
                .map(|u| match mode {
                    // In order, in the reverse order, few, most, half.
                    0 => u < edge,
                    1 => u >= edge,
                    2 => dice.below(8) == 0,
                    3 => dice.below(8) > 0,
                    _ => dice.below(2) == 0,
                })
                .collect();
            look(disk.state(|u| kept[u], grown), true, dice);
        }
    }
}

fn hash(state: &Left) -> [u8; 32] {
    let mut h = blake3::Hasher::new();
    for (path, bytes) in state {
        h.update(&(path.len() as u64).to_le_bytes()).update(path.as_bytes());
        h.update(&(bytes.len() as u64).to_le_bytes()).update(bytes);
    }
    *h.finalize().as_bytes()
}

fn short(e: &Event) -> String {
    match e {
        Event::Write(n, at, data) => format!("write of {} bytes at {at} to file {n}", data.len()),
        e => format!("{e:?}"),
    }
}

/// Codes the first extent of a file anew, with a primer; of every other file with the beginning of the one before,
/// in a frame that both share.
pub fn recode(store: &Store, f: u8) -> Result<()> {
    if f % 2 == 1 {
        return share(store, &[f - 1, f]);
    }
    let Some(ino) = store.dirent(Ino::ROOT, &[f])?.map(|d| d.ino) else { return Ok(()) };
    let Some(e) = store.extents_in(ino, 0, u64::MAX)?.first().copied() else { return Ok(()) };
    let expect = store.extents_in(ino, e.off, e.len)?;
    let plain = contents(store, ino, LEN)?[e.off as usize..e.end() as usize].to_vec();
    let id = store.next_ino().0;
    let mut coded = data(ino, e.off, &plain, e.meta.generation);
    coded.meta = FrameMeta { staged: false, primer: id, ..coded.meta };
    let sample = data(ino, 0, b"sample", e.meta.generation);
    let unchanged = Guard { ino, off: e.off, len: e.len, expect };
    store.append(Txn::default().primer(id, sample).map(coded).only_if(unchanged)).map(drop)
}

fn share(store: &Store, files: &[u8]) -> Result<()> {
    let (mut plain, mut shares, mut txn) = (Vec::new(), Vec::new(), Txn::default());
    for f in files {
        let Some(ino) = store.dirent(Ino::ROOT, &[*f])?.map(|d| d.ino) else { continue };
        let Some(e) = store.extents_in(ino, 0, u64::MAX)?.first().copied() else { continue };
        let expect = store.extents_in(ino, 0, e.end())?;
        plain.extend_from_slice(&contents(store, ino, LEN)?[..e.end() as usize]);
        shares.push(Share { ino, generation: e.meta.generation, len: e.end() as u32 });
        txn = txn.only_if(Guard { ino, off: 0, len: e.end(), expect });
    }
    let Some(generation) = shares.iter().map(|s| s.generation).max() else { return Ok(()) };
    let mut coded = data(Ino(0), 0, &plain, generation);
    coded.meta.staged = false;
    store.append(txn.share(coded, &shares)).map(drop)
}

fn full() -> bool {
    std::env::var("LMFS_POWER").is_ok_and(|v| v == "full")
}

fn seed() -> u64 {
    std::env::var("LMFS_POWER_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or(1)
}

/// All short histories over these acts, from a store in which two files are durable.
#[test]
fn no_power_loss_in_a_short_history_loses_what_was_acknowledged() {
    let acts = [
        Act::Do(Step::Write(0, 0, 5, 600)),
        Act::Do(Step::Unlink(1)),
        Act::Do(Step::Create(2)),
        Act::Sync,
        Act::HandOver,
        Act::Seal,
        Act::Checkpoint,
        Act::Clean,
        Act::Recode(0),
        Act::Sidecars,
        Act::Model(1),
        Act::Kill,
    ];
    let depth = if full() { 3 } else { 2 };
    let all = acts.len().pow(depth);
    let (mut tally, mut dice) = (Tally::default(), Dice(seed()));
    for number in 0..all {
        let index = open::IndexFrom::Memory;
        let mut run = Run::new(index);
        for step in [Step::Create(0), Step::Create(1), Step::Write(1, 0, 3, 700)] {
            run.act(&Act::Do(step), index, &mut dice);
        }
        run.act(&Act::Sync, index, &mut dice);
        for place in 0..depth {
            let act = &acts[number / acts.len().pow(place) % acts.len()];
            run.act(act, index, &mut dice);
        }
        // At the end something is on its way to the disk.
        for act in [Act::Do(Step::Write(0, 300, 8, 600)), Act::HandOver, Act::Sync] {
            run.act(&act, index, &mut dice);
        }
        let _say = Say(&format!("in history {number}"));
        run.crash_everywhere(if full() { 256 } else { 64 }, usize::MAX, &mut dice, &mut tally);
    }
    println!("{all} histories: {tally:?}");
    let enough = tally.states / 4;
    assert!(tally.at_risk > enough && tally.lost > enough / 4 && tally.twice > 0, "{tally:?}");
}

/// How many of the syncs of a history there are, and how many of them would be missed.
fn missed(acts: &[Act], from: usize) -> (usize, usize) {
    let (index, mut dice) = (open::IndexFrom::Memory, Dice(1));
    let mut run = Run::new(index);
    for act in acts {
        run.act(act, index, &mut dice);
    }
    let events = run.volume.events();
    let begin = events.iter().position(|e| matches!(e, Event::Mark(n) if *n == from)).unwrap();
    let is_sync = |n: &usize| matches!(events[*n], Event::Sync(_) | Event::SyncDir(_));
    let syncs: Vec<usize> = (begin..events.len()).filter(is_sync).collect();
    let without = |n: usize| {
        let mut fewer = events.clone();
        fewer.remove(n);
        let look = || run.crash_with(&fewer, 64, usize::MAX, &mut Dice(1), &mut Tally::default());
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(look)).is_err()
    };
    (syncs.len(), syncs.iter().filter(|n| without(**n)).count())
}

/// The tests above fail if the store leaves out a sync that is needed.
#[test]
fn a_sync_left_out_would_be_noticed() {
    let begun = [Act::Do(Step::Create(0)), Act::Do(Step::Write(0, 0, 5, 600))];
    let after = |more: &[Act]| [&begun[..], more].concat();
    assert_eq!(missed(&after(&[Act::Sync]), 0), (1, 1));
    // The new segment's name, the older segment before the checkpoint's end, the write behind it; the
    // checkpoint itself is only too careful, since the older segment has all that it says.
    let more = [Act::Checkpoint, Act::Do(Step::Write(0, 300, 8, 600)), Act::Sync];
    assert_eq!(missed(&after(&more), 2), (4, 3));
    // A model's name. Its bytes would come back from its sidecar, and the sidecar is not needed.
    assert_eq!(missed(&after(&[Act::Model(1)]), 2), (4, 1));
}

fn random_act(dice: &mut Dice) -> Act {
    let f = dice.below(6) as u8;
    match dice.below(43) {
        0..5 => Act::Do(Step::Create(f)),
        5 => Act::Do(Step::Unlink(f)),
        6..18 => {
            let (off, n) = (dice.below(3000) as u16, 1 + dice.below(1900) as u16);
            Act::Do(Step::Write(f, off, dice.below(256) as u8, n))
        }
        18..20 => Act::Do(Step::Punch(f, dice.below(3000) as u16, 1 + dice.below(2900) as u16)),
        20 => Act::Do(Step::Xattr(f, dice.below(256) as u8)),
        21..25 => Act::Sync,
        25..28 => Act::HandOver,
        28 => Act::Seal,
        29 => Act::Checkpoint,
        30..32 => Act::Clean,
        32..34 => Act::Sidecars,
        34..36 => Act::Recode(f),
        36 => Act::Heal(dice.below(2) == 0),
        37 => Act::Model(f),
        38 => Act::Superblocks,
        39 => Act::Kill,
        40 => Act::Reopen,
        _ => Act::Sweep,
    }
}

/// Long histories over all that a store does, with crashes at random.
#[test]
fn no_power_loss_in_a_long_history_loses_what_was_acknowledged() {
    let (histories, length, points) = if full() { (200, 250, 150) } else { (14, 120, 50) };
    let mut tally = Tally::default();
    let mut done: BTreeMap<String, u32> = BTreeMap::new();
    for number in 0..histories {
        let mut dice = Dice((seed() << 20 | number) * 2 + 1);
        let index = open::IndexFrom::Directory;
        let mut run = Run::new(index);
        for _ in 0..length {
            let act = random_act(&mut dice);
            let name = format!("{act:?}");
            let name = name.split(['(', ' ']).next().unwrap().to_owned();
            *done.entry(name).or_default() += 1;
            run.act(&act, index, &mut dice);
        }
        let _say = Say(&format!("in history {number}"));
        run.crash_everywhere(6, points, &mut dice, &mut tally);
    }
    println!("{histories} histories: {tally:?} {done:?}");
    assert!(done.len() == 14, "{done:?}");
    let enough = tally.states / 4;
    assert!(tally.at_risk > enough && tally.lost > enough / 4 && tally.twice > 0, "{tally:?}");
}
