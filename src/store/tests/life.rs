//! A store's life on a schedule: a seed decides which of writer, syncer, parity writer, cleaner,
//! checkpoint, scrubber, unmount, kill, power loss and rot takes the next step. What was
//! acknowledged must be there to the end, whatever the order of events.
//!
//! Rot takes whole pages of what a sidecar covers, one a segment until a scrub has repaired it: that
//! much every store with parity promises to bring back. Most reopenings read nothing, since reading
//! would repair.
//!
//! `LMFS_LIFE_SEEDS=N` runs more lives, `LMFS_LIFE_FIRST=N` others, one by one what a failure names.

use super::disk::{Disk, Files as Left};
use super::history::{Files, Step, check_sums, hand_over, perform, state_of};
use super::memory::MemVolume;
use super::power::{Dice, opened, recode};
use super::*;
use crate::store::ecc::pages::PAGE;
use std::collections::{BTreeMap, BTreeSet};

/// Who takes the next step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Act {
    Write,
    Sync,
    HandOver,
    Seal,
    Checkpoint,
    Clean,
    Sweep,
    Parity,
    Recode,
    Scrub,
    Rot,
    Remount,
    Kill,
    PowerLoss,
    /// Everything is read and compared.
    Look,
}

/// How often each comes up.
const SHARES: [(Act, u64); 15] = [
    (Act::Write, 30),
    (Act::Sync, 8),
    (Act::HandOver, 5),
    (Act::Seal, 3),
    (Act::Checkpoint, 2),
    (Act::Clean, 3),
    (Act::Sweep, 4),
    (Act::Parity, 8),
    (Act::Recode, 4),
    (Act::Scrub, 3),
    (Act::Rot, 9),
    (Act::Remount, 5),
    (Act::Kill, 2),
    (Act::PowerLoss, 2),
    (Act::Look, 2),
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

/// A change of files. Contents that do not squeeze fill pages.
fn change(dice: &mut Dice) -> Step {
    let f = dice.below(6) as u8;
    match dice.below(12) {
        0..3 => Step::Create(f),
        3 => Step::Unlink(f),
        4 => Step::Punch(f, dice.below(3000) as u16, 1 + dice.below(1900) as u16),
        _ => {
            let (off, n) = (dice.below(3000) as u16, 1 + dice.below(1900) as u16);
            Step::Write(f, off, dice.below(256) as u8, n)
        }
    }
}

struct Life {
    dir: tempfile::TempDir,
    index: open::IndexFrom,
    /// What the volume began with.
    start: Left,
    volume: Arc<MemVolume>,
    store: Option<Arc<Store>>,
    model: Files,
    /// Every state since the last that is known to be durable, that one first.
    since: Vec<Files>,
    /// Segments that lost a page which no scrub has looked at.
    hurt: BTreeSet<u32>,
    tally: BTreeMap<Act, u64>,
}

impl Life {
    fn new(index: open::IndexFrom, ecc: Ecc) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let volume = Arc::new(MemVolume::default());
        open::create_in(&*volume, &MkfsOptions { ecc, ..options() }, "memory").unwrap();
        let store = opened(dir.path(), volume.clone(), index).unwrap();
        Self {
            dir,
            index,
            start: Left::new(),
            volume,
            store: Some(store),
            model: Files::new(),
            since: vec![Files::new()],
            hurt: BTreeSet::new(),
            tally: BTreeMap::new(),
        }
    }

    fn durable(&mut self) {
        self.since = vec![self.model.clone()];
    }

    fn step(&mut self, act: Act, dice: &mut Dice) {
        let store = Arc::clone(self.store.as_ref().unwrap());
        *self.tally.entry(act).or_default() += 1;
        match act {
            Act::Write => {
                perform(&store, &mut self.model, &change(dice));
                self.since.push(self.model.clone());
            }
            Act::Sync => {
                store.sync().unwrap();
                self.durable();
            }
            Act::HandOver => hand_over(&store),
            Act::Seal => lock(&store.writer).roll(false).unwrap(),
            Act::Checkpoint => {
                store.renew_checkpoint().unwrap();
                self.durable();
            }
            Act::Clean => {
                store.clean(20).unwrap();
                store.sync().unwrap();
                self.durable();
            }
            Act::Sweep => drop(sweep::step(&store, 1 + dice.below(3) as usize).unwrap()),
            Act::Parity => guard::protect_all(&store).unwrap(),
            Act::Recode => recode(&store, dice.below(6) as u8).unwrap(),
            Act::Scrub => {
                store.sync().unwrap();
                self.durable();
                for number in store.segment_numbers() {
                    let check = store.check_segment(number, true).unwrap();
                    assert_eq!(check.lost, [], "segment {number}");
                }
                self.hurt.clear();
            }
            Act::Rot => self.rot(&store, dice),
            Act::Remount => {
                store.close().unwrap();
                self.durable();
                drop(store);
                self.reopen(dice.below(4) == 0);
            }
            Act::Kill => {
                drop(store);
                self.reopen(true);
            }
            Act::PowerLoss => {
                drop(store);
                self.store = None;
                let disk = Disk::after(&self.start, &self.volume.events());
                let mode = dice.below(4);
                let left = disk.state(|_| mode == 1 || (mode > 1 && dice.below(2) == 0), mode == 3);
                self.volume = Arc::new(MemVolume::with(left.clone()));
                self.start = left;
                self.reopen(true);
            }
            Act::Look => {
                let got = state_of(&store);
                assert!(got == self.model, "what is read is not what was written");
                check_sums(&store);
            }
        }
    }

    /// A page of what a sidecar covers is zeros from now on.
    fn rot(&mut self, store: &Store, dice: &mut Dice) {
        let covered: Vec<(u32, u64)> = {
            let sides = lock(&store.segments.sidecars);
            let whole = sides.iter().filter(|(n, _)| !self.hurt.contains(n));
            whole.map(|(n, side)| (*n, side.covered)).collect()
        };
        if covered.is_empty() {
            return;
        }
        let (number, len) = covered[dice.below(covered.len() as u64) as usize];
        let page = dice.below(len.div_ceil(PAGE as u64)) * PAGE as u64;
        let n = (len - page).min(PAGE as u64);
        self.volume.lose(&segments::segment_path(number), page, n);
        self.hurt.insert(number);
    }

    /// Another process opens what is there. If it looks, it must see a state that may be.
    fn reopen(&mut self, look: bool) {
        self.store = None;
        let store = opened(self.dir.path(), self.volume.clone(), self.index).unwrap();
        if look {
            let got = state_of(&store);
            assert!(self.since.contains(&got), "lost: {got:?}");
            self.model = got;
            self.durable();
            check_sums(&store);
        }
        self.store = Some(store);
    }
}

/// Says which life it was.
struct Say(u64, usize);

impl Drop for Say {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("in life {} at step {}", self.0, self.1);
        }
    }
}

fn number(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).ok().and_then(|s| s.parse().ok()).unwrap_or(otherwise)
}

#[test]
fn nothing_acknowledged_is_lost_in_any_order_of_events() {
    let (first, lives) = (number("LMFS_LIFE_FIRST", 0), number("LMFS_LIFE_SEEDS", 400));
    let mut tally: BTreeMap<Act, u64> = BTreeMap::new();
    for seed in first..first + lives {
        let mut dice = Dice((seed + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
        // One in sixteen has an index on a disk and the threads that look after a store.
        let on_disk = seed % 16 == 15;
        let index = if on_disk { open::IndexFrom::Directory } else { open::IndexFrom::Memory };
        let ecc = if seed % 4 == 3 { Ecc::Archival } else { Ecc::Standard };
        let mut life = Life::new(index, ecc);
        let mut say = Say(seed, 0);
        for step in 0..80 {
            say.1 = step;
            let act = choose(&mut dice);
            if lives == 1 {
                eprintln!("{step}: {act:?}, {} hurt", life.hurt.len());
            }
            life.step(act, &mut dice);
        }
        for act in [Act::Remount, Act::Scrub, Act::Look] {
            life.step(act, &mut dice);
        }
        for (act, n) in life.tally {
            *tally.entry(act).or_default() += n;
        }
    }
    println!("{lives} lives: {tally:?}");
    assert!(lives < 50 || tally.len() == SHARES.len(), "{tally:?}");
}
