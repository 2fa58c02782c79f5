//! The background cleaner: what it takes, what it leaves, and when it ends.

use super::memory::MemVolume;
use super::power::Dice;
use super::*;
use std::time::Duration;

/// Bytes in a file.
const FILE: usize = 3000;

fn body(name: u64) -> Vec<u8> {
    let hash = |i: u64| *blake3::hash(&[name, i].map(u64::to_le_bytes).concat()).as_bytes();
    (0..).flat_map(hash).take(FILE).collect()
}

struct Tidy {
    dir: tempfile::TempDir,
    volume: Arc<MemVolume>,
    store: Arc<Store>,
    /// The cleaner's clock.
    now: Duration,
}

impl Tidy {
    fn new() -> Self {
        let (dir, volume) = (tempfile::tempdir().unwrap(), Arc::new(MemVolume::default()));
        let options = MkfsOptions { ecc: Ecc::None, ..options() };
        open::create_in(&*volume, &options, "memory").unwrap();
        let store = reopened(&dir, &volume);
        Self { dir, volume, store, now: Duration::ZERO }
    }

    fn put(&self, name: u64) -> Ino {
        let ino = create(&self.store, &name.to_be_bytes()).unwrap();
        write(&self.store, ino, 0, &body(name)).unwrap();
        ino
    }

    fn remove(&self, name: u64, ino: Ino) {
        let dirent = Record::DelDirent { parent: Ino::ROOT, name: name.to_be_bytes().to_vec() };
        self.store.append(vec![dirent, Record::DelInode(ino)].into()).unwrap();
    }

    fn remove_all(&self, files: &[(u64, Ino)]) {
        for (name, ino) in files {
            self.remove(*name, *ino);
        }
    }

    /// Looks, so many seconds later.
    fn step(&mut self, seconds: u64) {
        self.now += Duration::from_secs(seconds);
        cleaner::step(&self.store, self.now, &|_| Ok(())).unwrap();
    }

    fn bytes(&self) -> u64 {
        self.store.segments.lens().iter().map(|(_, n)| n).sum()
    }

    fn moved(&self) -> u64 {
        self.store.cleaner_status().moved_bytes
    }

    /// All is there, also for the next process, which finds nothing but the log.
    fn holds(self, files: &[(u64, Ino)]) {
        let read = |store: &Store| {
            for (name, ino) in files {
                assert!(contents(store, *ino, FILE).unwrap() == body(*name), "file {name}");
            }
        };
        read(&self.store);
        self.store.sync().unwrap();
        drop(self.store);
        read(&reopened(&self.dir, &self.volume));
    }
}

fn reopened(dir: &tempfile::TempDir, volume: &Arc<MemVolume>) -> Arc<Store> {
    let (options, index) = (OpenOptions::default(), open::IndexFrom::Memory);
    open::open_with(dir.path(), &options, volume.clone(), index).unwrap()
}

#[test]
fn what_is_dead_goes_by_itself() {
    let mut t = Tidy::new();
    let files: Vec<_> = (0..200).map(|n| (n, t.put(n))).collect();
    t.store.sync().unwrap();
    let full = t.bytes();
    assert!(full > 600_000);
    t.step(5);
    assert!((t.moved(), t.bytes()) == (0, full), "all of it lives");
    // The segment that is written to may be dead, too.
    let (gone, stays) = files.split_at(196);
    t.remove_all(gone);
    t.step(5);
    assert!(t.bytes() < full / 8, "{} of {full}", t.bytes());
    t.step(60);
    t.step(60);
    assert!(t.bytes() < 64_000, "{} of {full}", t.bytes());
    t.holds(stays);
}

#[test]
fn what_is_half_dead_goes_when_it_is_cold() {
    let mut t = Tidy::new();
    let files: Vec<_> = (0..200).map(|n| (n, t.put(n))).collect();
    t.store.sync().unwrap();
    let full = t.bytes();
    let (gone, stays): (Vec<_>, Vec<_>) = files.into_iter().partition(|(n, _)| n % 2 == 0);
    t.remove_all(&gone);
    for _ in 0..5 {
        t.step(5);
    }
    assert_eq!(t.moved(), 0, "it may die yet");
    t.step(15);
    t.step(5);
    assert!(t.moved() > 0 && t.bytes() < full * 2 / 3, "{} of {full}", t.bytes());
    let moved = t.moved();
    for _ in 0..10 {
        t.step(100);
    }
    assert_eq!(t.moved(), moved, "once is enough");
    t.holds(&stays);
}

#[test]
fn little_that_is_dead_stays_where_it_is() {
    let mut t = Tidy::new();
    let files: Vec<_> = (0..300).map(|n| (n, t.put(n))).collect();
    t.store.sync().unwrap();
    let (gone, stays): (Vec<_>, Vec<_>) = files.into_iter().partition(|(n, _)| n % 8 == 0);
    t.remove_all(&gone);
    for _ in 0..10 {
        t.step(100_000);
    }
    assert_eq!(t.moved(), 0);
    t.holds(&stays);
}

#[test]
fn what_is_moved_is_bounded_by_what_is_freed() {
    let (mut t, mut dice) = (Tidy::new(), Dice(77));
    let (mut files, mut written) = (Vec::new(), 0);
    for name in 0..4000 {
        files.push((name, t.put(name)));
        written += FILE as u64;
        // Old ones live long, new ones die soon.
        if files.len() > 200 {
            let at = 100 + dice.below(100) as usize;
            let (name, ino) = files.swap_remove(at);
            t.remove(name, ino);
        }
        if name % 10 == 0 {
            t.store.sync().unwrap();
            t.step(1);
        }
    }
    let c = t.store.cleaner_status();
    eprintln!("{c:?}, {} bytes for {}", t.bytes(), files.len() * FILE);
    assert!(c.moved_bytes > 0 && c.moved_bytes < 3 * c.freed_bytes, "{c:?}");
    assert!(c.moved_bytes < written, "{c:?}");
    assert!(t.bytes() < 3 * (files.len() * FILE) as u64, "{}", t.bytes());
    t.holds(&files);
}

/// Names without files: all of the log is batches and checkpoints.
#[test]
fn a_checkpoint_is_not_taken_for_dead() {
    let mut t = Tidy::new();
    for n in 0..5000_u64 {
        create(&t.store, blake3::hash(&n.to_le_bytes()).to_hex().as_bytes()).unwrap();
    }
    t.store.renew_checkpoint().unwrap();
    let (number, len) = *lock(&t.store.checkpoint);
    assert!(len > 4 * (32 << 10), "{len}");
    for _ in 0..5 {
        t.step(1000);
    }
    assert_eq!(*lock(&t.store.checkpoint), (number, len));
    t.holds(&[]);
}

#[test]
fn cleaning_ends_when_others_want_the_turn() {
    let mut t = Tidy::new();
    let files: Vec<_> = (0..200).map(|n| (n, t.put(n))).collect();
    t.store.sync().unwrap();
    let (gone, stays): (Vec<_>, Vec<_>) = files.into_iter().partition(|(n, _)| n % 3 != 0);
    t.remove_all(&gone);
    t.step(5);
    let full = t.bytes();
    let calls = std::cell::Cell::new(0);
    let rest = |_| {
        calls.set(calls.get() + 1);
        if calls.get() < 8 { Ok(()) } else { Err(StoreError::Closing) }
    };
    let e = cleaner::step(&t.store, Duration::from_secs(1000), &rest).unwrap_err();
    assert!(matches!(e, StoreError::Closing) && calls.get() == 8, "{e} {}", calls.get());
    let some = t.moved();
    assert!(some > 0 && t.bytes() > full / 2, "{some}");
    // Whoever comes next goes on.
    t.store.clean(20).unwrap();
    assert!(t.bytes() < full / 2, "{} of {full}", t.bytes());
    t.holds(&stays);
}

/// What cannot be read stays, and is not tried for ever.
#[test]
fn a_damaged_frame_is_left_alone() {
    let mut t = Tidy::new();
    let files: Vec<_> = (0..100).map(|n| (n, t.put(n))).collect();
    t.store.sync().unwrap();
    let at = t.store.extents_in(files[0].1, 0, 1).unwrap()[0].frame;
    t.volume.lose(&segments::segment_path(at.segment), at.offset.into(), at.len.into());
    let (gone, stays): (Vec<_>, Vec<_>) = files[1..].iter().partition(|(n, _)| n % 4 != 0);
    let gone: Vec<(u64, Ino)> = gone.into_iter().copied().collect();
    t.remove_all(&gone);
    for _ in 0..4 {
        t.step(100);
    }
    let calls = std::cell::Cell::new(0);
    let rest = |_| {
        calls.set(calls.get() + 1);
        Ok(())
    };
    cleaner::step(&t.store, Duration::from_secs(9000), &rest).unwrap();
    assert_eq!(calls.get(), 0, "it was tried again");
    assert!(t.store.segments.get(at.segment).is_some(), "it may be repaired yet");
    let stays: Vec<(u64, Ino)> = stays.into_iter().copied().collect();
    t.holds(&stays);
}
