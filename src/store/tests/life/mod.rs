//! A store's life on a schedule: a seed decides who takes the next step, and what happens in the
//! middle of it. What was acknowledged must be there to the end, whatever the order of events.
//!
//! All runs in one thread. At some call of the disk a step may crash, panic, meet an error or a full
//! disk, or give way to a guest: somebody else's step, which comes at the first call at which nothing
//! is held that it needs. (`stage`)
//!
//! Each thing that can be repaired is hurt once, by a page of zeros or a wrong bit, until a scrub has
//! repaired it: that much every store with parity promises to bring back. Most reopenings read
//! nothing, since reading would repair. (`acts`, `oracle`)
//!
//! `LMFS_LIFE_SEEDS=N` runs more lives, `LMFS_LIFE_FIRST=N` others, one by one what a failure names.

#![allow(
    clippy::collapsible_else_if,
    clippy::match_same_arms,
    clippy::single_match,
    clippy::struct_excessive_bools
)]

mod acts;
mod oracle;
mod stage;

use super::disk::{Disk, Files as Left};
use super::memory::MemVolume;
use super::power::{Dice, opened};
use super::*;
use acts::{Act, World, is_free, is_quiet};
use oracle::{Oracle, Thing, look};
use stage::{Cue, Guest, Stage, Struck};
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

/// How often each act comes up.
const SHARES: [(Act, u64); 24] = [
    (Act::Write, 34),
    (Act::Sync, 8),
    (Act::HandOver, 5),
    (Act::Seal, 3),
    (Act::Checkpoint, 2),
    (Act::Clean, 4),
    (Act::Tidy, 6),
    (Act::Sweep, 4),
    (Act::Index, 3),
    (Act::Parity, 8),
    (Act::Recode, 4),
    (Act::Scrub, 3),
    (Act::Check, 2),
    (Act::Fsck, 1),
    (Act::Look, 2),
    (Act::PutModel, 2),
    (Act::RemoveModel, 1),
    (Act::Rot, 10),
    (Act::Refill, 1),
    (Act::Close, 5),
    (Act::Kill, 2),
    (Act::PowerLoss, 2),
    (Act::Full, 1),
    (Act::Room, 5),
];

fn choose(dice: &mut Dice) -> Act {
    let mut at = dice.below(SHARES.iter().map(|s| s.1).sum());
    for (act, share) in SHARES {
        if at < share {
            return act;
        }
        at -= share;
    }
    Act::Look
}

/// Room on a small disk, in bytes.
const SMALL: u64 = 6 << 20;

struct Life {
    dir: tempfile::TempDir,
    index: open::IndexFrom,
    /// What the volume began with.
    start: Left,
    world: World,
    store: Option<Arc<Store>>,
    /// An artificially full disk.
    full: bool,
    /// What has happened, step by step.
    story: Vec<String>,
    struck: BTreeMap<&'static str, u64>,
}

impl Life {
    fn new(index: open::IndexFrom, ecc: Ecc, small: bool) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let memory = Arc::new(MemVolume::default());
        let options = MkfsOptions { ecc, ..options() };
        let root = Attr { mode: libc::S_IFDIR | 0o755, nlink: 2, parent: 1, ..attr(0) };
        open::create_as(&*memory, &options, "memory", [7; 16], root).unwrap();
        let world =
            World { stage: Stage::new(memory), oracle: Arc::new(Mutex::new(Oracle::new())), small };
        let mut life = Self {
            dir,
            index,
            start: Left::new(),
            world,
            store: None,
            full: false,
            story: Vec::new(),
            struck: BTreeMap::new(),
        };
        life.make_room();
        life.reopen(None, true);
        life
    }

    fn make_room(&mut self) {
        self.full = false;
        let limit = if self.world.small { SMALL } else { 1 << 40 };
        self.world.stage.memory.set_limit(limit);
    }

    /// Cues for a step; `act` is what is done, or the store is being opened.
    fn cues(&self, act: Option<Act>, dice: &mut Dice) -> Vec<(u64, Cue)> {
        let mut cues = Vec::new();
        if dice.below(3) > 0 {
            return cues;
        }
        for _ in 0..=dice.below(2) {
            let within = [3, 10, 40, 150][dice.below(4) as usize];
            let at = dice.below(within);
            let cue = match dice.below(20) {
                0..6 => Cue::Crash,
                6 => Cue::Panic,
                7 => Cue::Fail(libc::EIO),
                8 => Cue::Fail(libc::ENOSPC),
                9 => Cue::Full,
                _ => match self.guest(act, dice) {
                    Some(cue) => cue,
                    None => continue,
                },
            };
            cues.push((at, cue));
        }
        cues
    }

    fn guest(&self, act: Option<Act>, dice: &mut Dice) -> Option<Cue> {
        let (host, guest) = (act?, choose(dice));
        let quiet = matches!(host, Act::Look | Act::Fsck | Act::Refill);
        let models = |a| matches!(a, Act::PutModel | Act::RemoveModel | Act::Scrub);
        let alone = matches!(
            guest,
            Act::Kill | Act::PowerLoss | Act::Full | Act::Room | Act::Refill | Act::Fsck
        );
        let rots = guest == Act::Rot && self.world.small;
        if alone || rots || (quiet && !is_quiet(guest)) || (models(host) && models(guest)) {
            return None;
        }
        let store = Arc::downgrade(self.store.as_ref()?);
        let (asked, world) = (store.clone(), self.world.clone());
        let mut dice = Dice(dice.below(u64::MAX) | 1);
        let small = self.world.small;
        let may = move || asked.upgrade().is_some_and(|s| is_free(&s, guest, small));
        let go = move || {
            let Some(store) = store.upgrade() else { return };
            if let Err(e) = world.act(&store, guest, &mut dice)
                && !excused(&world, &store, guest, &e, true)
            {
                panic!("guest {guest:?}: {e}");
            }
        };
        let who = format!("{guest:?}");
        Some(Cue::Guest(Guest { who, may: Box::new(may), go: Box::new(go) }))
    }

    /// One step, with what happens in the middle of it.
    fn step(&mut self, act: Act, dice: &mut Dice, alone: bool) {
        match act {
            Act::Full | Act::Room | Act::Kill | Act::PowerLoss => {
                self.story.push(format!("{act:?}"));
                *lock(&self.world.oracle).tally.entry(act).or_default() += 1;
            }
            _ => {}
        }
        match act {
            Act::Full if !self.full => {
                self.full = true;
                let volume = &self.world.stage.memory;
                volume.set_limit(volume.used() + dice.below(3) * 40_000);
            }
            Act::Room => self.make_room(),
            Act::Kill => self.end(false, dice),
            Act::PowerLoss => self.end(true, dice),
            Act::Refill if self.full || !self.world.small => {}
            Act::Full => {}
            _ => self.work(act, dice, alone),
        }
    }

    fn work(&mut self, act: Act, dice: &mut Dice, alone: bool) {
        let cues = if alone { Vec::new() } else { self.cues(Some(act), dice) };
        self.story.push(format!("{act:?} {cues:?}"));
        let store = Arc::clone(self.store.as_ref().unwrap());
        let world = self.world.clone();
        world.stage.begin(cues);
        let ended = catch_unwind(AssertUnwindSafe(|| world.act(&store, act, dice)));
        let struck = self.struck_by();
        match ended {
            Err(p) if !struck.panicked => resume_unwind(p),
            Err(_) => {}
            Ok(_) if struck.dead || struck.panicked => {}
            Ok(Ok(())) => {}
            Ok(Err(e)) => {
                assert!(excused(&world, &store, act, &e, self.full), "{act:?}: {e}");
            }
        }
        // A minute later, what could not be read is tried again.
        lock(&store.segments.hopeless).clear();
        if struck.dead {
            let power = dice.below(2) == 0;
            drop(store);
            self.end(power, dice);
        } else if lock(&world.oracle).closed.is_some() {
            drop(store);
            self.reopen_closed(dice);
        } else if store.writer().usable().is_err() {
            assert!(struck.error || struck.panicked || struck.no_space, "it failed by itself");
            for _ in 0..2 {
                assert!(store.sync().is_err(), "a failure was forgotten");
            }
            if !struck.panicked {
                match look(&store) {
                    // It failed after its index was closed.
                    Err(StoreError::Closing) if matches!(act, Act::Close) => {}
                    got => {
                        let got = got.expect("a failed store can be read");
                        let o = lock(&world.oracle);
                        let different = oracle::differences(&o.model, &got);
                        assert!(got == o.model, "a failed store has other bytes: {different}");
                    }
                }
            }
            assert!(store.close().is_err(), "a failure was forgotten");
            drop(store);
            self.end(dice.below(2) == 0, dice);
        } else {
            if dice.below(4) == 0 || matches!(act, Act::Parity) {
                let sides = lock(&store.segments.sidecars);
                let covered = sides.iter().map(|(n, side)| (*n, side.covered));
                if matches!((act, struck.any()), (Act::Parity, false)) {
                    lock(&world.oracle).protected = covered.collect();
                }
            }
        }
    }

    /// What the step's cues came to, counted.
    fn struck_by(&mut self) -> Struck {
        let (struck, calls) = self.world.stage.end();
        self.full |= struck.full;
        for (kind, n) in struck.kinds() {
            *self.struck.entry(kind).or_default() += n;
        }
        if let Some(last) = self.story.last_mut() {
            let notes = std::mem::take(&mut lock(&self.world.oracle).notes);
            *last += ": ";
            *last += &[format!("{calls} calls, {struck:?}"), notes.join(", ")].join(" ");
        }
        struck
    }

    /// The process, or the power, is gone.
    fn end(&mut self, power: bool, dice: &mut Dice) {
        self.store = None;
        if power {
            self.lose_power(dice);
        } else {
            self.world.stage = Stage::new(Arc::clone(&self.world.stage.memory));
        }
        lock(&self.world.oracle).closed = None;
        self.reopen(Some(dice), true);
    }

    fn lose_power(&mut self, dice: &mut Dice) {
        self.story.push("the power is gone".into());
        let disk = Disk::after(&self.start, &self.world.stage.memory.events());
        let mode = dice.below(4);
        let left = disk.state(|_| mode == 1 || (mode > 1 && dice.below(2) == 0), mode == 3);
        self.world.stage = Stage::new(Arc::new(MemVolume::with(left.clone())));
        self.start = left;
        self.make_room();
    }

    fn reopen_closed(&mut self, dice: &mut Dice) {
        self.store = None;
        let closed = lock(&self.world.oracle).closed.take();
        self.story.push("reopened".into());
        let power = dice.below(4) == 0;
        if power {
            self.lose_power(dice);
        } else {
            self.world.stage = Stage::new(Arc::clone(&self.world.stage.memory));
        }
        let read_only = dice.below(8) == 0;
        if read_only {
            let options = OpenOptions { read_only: true };
            let volume = Arc::new(self.world.stage.clone());
            let store = open::open(self.dir.path(), &options, volume).unwrap();
            let got = look(&store).unwrap();
            assert!(got == lock(&self.world.oracle).model, "read-only, it is something else");
        }
        let look = power || dice.below(4) == 0;
        self.reopen(Some(dice), look);
        let checkpoint = lock(&self.store.as_ref().unwrap().checkpoint).0;
        assert!(Some(checkpoint) >= closed, "the checkpoint of closing is lost");
    }

    /// Another process opens what is there. If it looks, it must see a state that may be.
    fn reopen(&mut self, mut dice: Option<&mut Dice>, looks: bool) {
        let mut looks = looks;
        self.store = None;
        let store = loop {
            let cues = dice.as_mut().map_or_else(Vec::new, |d| self.cues(None, d));
            self.story.push(format!("open {cues:?}"));
            let volume = Arc::new(self.world.stage.clone());
            volume.begin(cues);
            let opening =
                catch_unwind(AssertUnwindSafe(|| opened(self.dir.path(), volume, self.index)));
            let struck = self.struck_by();
            match opening {
                Err(p) if !struck.panicked => resume_unwind(p),
                Ok(Ok(store)) if !struck.dead => break store,
                Ok(Err(e)) if !struck.any() => panic!("it does not open: {e}"),
                ended => drop(ended),
            }
            looks = true;
            let power = struck.dead && dice.as_mut().is_some_and(|d| d.below(2) == 0);
            if power {
                self.lose_power(dice.as_mut().unwrap());
            } else {
                self.world.stage = Stage::new(Arc::clone(&self.world.stage.memory));
            }
        };
        // A minute later, what could not be read is tried again.
        lock(&store.segments.hopeless).clear();
        let mut o = lock(&self.world.oracle);
        if looks {
            // A frame that the power left half written is for a scrub where nobody reads it (a footer), or
            // where it could not be written when it was put right.
            let hurt = |n: &u32| {
                let c = store.check_segment(*n, false).unwrap().checked;
                let patched = store.segments.get(*n).is_some_and(|s| s.blob.patches() > 0);
                patched || (c.damaged_frames > 0 && c.damaged_pages == 0)
            };
            let segments = store.segment_numbers().into_iter().filter(hurt);
            o.hurt.extend(segments.map(Thing::Segment));
        }
        let sides = lock(&store.segments.sidecars).clone();
        o.protected = sides.iter().map(|(n, side)| (*n, side.covered)).collect();
        if looks {
            let got = look(&store).unwrap();
            let durable = store.durable.load(Ordering::SeqCst) >= store.writer().seq;
            o.found(got, durable);
            let models = o.models.clone();
            drop(o);
            for id in models {
                store.model_file(&id).unwrap();
            }
        }
        self.store = Some(store);
    }
}

/// An error that may be, after what has happened.
fn excused(world: &World, store: &Store, act: Act, e: &StoreError, full: bool) -> bool {
    let struck = world.stage.struck();
    if struck.dead || struck.panicked {
        return true;
    }
    let closing = lock(&world.oracle).closed.is_some() || store.is_closing();
    // A guest's host may have the writer in its hands.
    let failed = store.writer.try_lock().is_ok_and(|w| w.usable().is_err());
    if closing || failed {
        return closing || struck.error || struck.no_space;
    }
    let no_space = match e {
        StoreError::NoSpace { .. } => true,
        StoreError::Io { source, .. } => source.raw_os_error() == Some(libc::ENOSPC),
        _ => false,
    };
    match e {
        StoreError::Conflict => act == Act::Recode,
        _ if no_space => {
            let promised = matches!(act, Act::Close | Act::Look | Act::Check);
            struck.no_space || ((full || struck.full) && !promised) || (world.small && !promised)
        }
        _ => struck.error,
    }
}

/// Tells the story of a life that failed.
struct Say<'a>(u64, &'a Mutex<Vec<String>>);

impl Drop for Say<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let story = lock(self.1);
            for (n, line) in story.iter().enumerate().skip(story.len().saturating_sub(60)) {
                eprintln!("{n}: {line}");
            }
            eprintln!("in life {}", self.0);
        }
    }
}

fn number(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).ok().and_then(|s| s.parse().ok()).unwrap_or(otherwise)
}

/// Lives a life; returns what was done, and what came in between.
fn live(seed: u64) -> (BTreeMap<Act, u64>, BTreeMap<&'static str, u64>, Vec<String>) {
    let mut dice = Dice((seed + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
    // One in sixteen has an index on a disk, one in 32 a small disk.
    let index = if seed % 16 == 15 { open::IndexFrom::Alone } else { open::IndexFrom::Memory };
    let small = seed % 32 == 7;
    let ecc = match seed % 4 {
        _ if small => Ecc::None,
        3 => Ecc::Archival,
        _ => Ecc::Standard,
    };
    FEW.set(1 << 10);
    let story = Mutex::new(Vec::new());
    let _say = Say(seed, &story);
    let mut life = Life::new(index, ecc, small);
    let mut go = |life: &mut Life, act, alone| {
        let ended = catch_unwind(AssertUnwindSafe(|| life.step(act, &mut dice, alone)));
        if let Err(p) = ended {
            *lock(&story) = std::mem::take(&mut life.story);
            resume_unwind(p);
        }
    };
    let mut others = Dice(seed.wrapping_mul(0xD6E8_FEB8_6659_FD93) | 1);
    for _ in 0..80 {
        let act = choose(&mut others);
        if ecc == Ecc::None && act == Act::Rot {
            continue;
        }
        go(&mut life, act, false);
    }
    for act in [Act::Room, Act::Close, Act::Scrub, Act::Look] {
        go(&mut life, act, true);
    }
    let tally = std::mem::take(&mut lock(&life.world.oracle).tally);
    (tally, life.struck.clone(), std::mem::take(&mut life.story))
}

#[test]
fn nothing_acknowledged_is_lost_in_any_order_of_events() {
    let (first, lives) = (number("LMFS_LIFE_FIRST", 0), number("LMFS_LIFE_SEEDS", 1000));
    let mut tally: BTreeMap<Act, u64> = BTreeMap::new();
    let mut struck: BTreeMap<&str, u64> = BTreeMap::new();
    for seed in first..first + lives {
        let (acts, cues, _) = live(seed);
        for (act, n) in acts {
            *tally.entry(act).or_default() += n;
        }
        for (cue, n) in cues {
            *struck.entry(cue).or_default() += n;
        }
    }
    let steps: u64 = tally.values().sum();
    println!("{lives} lives, {steps} steps: {tally:?}; in between: {struck:?}");
    assert!(lives < 200 || tally.len() == SHARES.len(), "{tally:?}");
    assert!(lives < 200 || struck.values().all(|n| *n > 0), "{struck:?}");
}

/// A failure that a seed names can be looked into.
#[test]
fn a_life_is_the_same_each_time() {
    for seed in 0..16 {
        assert_eq!(live(seed).2, live(seed).2, "life {seed}");
    }
}
