//! What can be done to a store, and what it must come to.

use super::super::history::{Step, perform_or};
use super::super::power::{Dice, recode};
use super::super::*;
use super::oracle::{BULK, Oracle, Thing, after, bulk_file, bulk_name, look, read_all};
use super::stage::Stage;
use crate::store::repair::ecc::pages::PAGE;
use std::sync::TryLockError;

/// Who takes the next step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Act {
    Write,
    Sync,
    HandOver,
    Seal,
    Checkpoint,
    Clean,
    /// The background cleaner looks, some time after it did last.
    Tidy,
    Sweep,
    Index,
    Parity,
    Recode,
    /// A scrub that repairs.
    Scrub,
    /// One that does not, and finds nothing where nothing is.
    Check,
    Fsck,
    /// Everything is read and compared.
    Look,
    PutModel,
    RemoveModel,
    /// Of a page or a bit.
    Rot,
    /// Some of the bulk files go, and as much can be written again.
    Refill,
    Close,
    Kill,
    PowerLoss,
    /// The disk is full, or has room again.
    Full,
    Room,
}

/// Who does what to which store. Guests have one of their own.
#[derive(Clone)]
pub struct World {
    pub stage: Stage,
    pub oracle: Arc<Mutex<Oracle>>,
    /// The disk is small.
    pub small: bool,
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

/// True if nothing is held that somebody needs who does this; `small`: on a small disk.
pub fn is_free(store: &Store, act: Act, small: bool) -> bool {
    fn free<T>(m: &Mutex<T>) -> bool {
        !matches!(m.try_lock(), Err(TryLockError::WouldBlock))
    }
    let s = &store.segments;
    let leaves = free(&s.sidecars) && free(&s.hopeless);
    let leaves = leaves && free(&store.checkpoint) && free(&store.free) && free(&store.loss);
    let leaves = leaves && free(&store.index_dir) && free(&store.flusher.turn);
    let writer = || free(&store.writer) && store.state.try_write().is_ok();
    let healing = || free(&s.healing) && free(&s.parts);
    let sync = || free(&store.sync);
    leaves
        && match act {
            Act::Rot | Act::PutModel | Act::RemoveModel => true,
            Act::Parity => healing(),
            // Who finds no room cleans, and then makes a checkpoint durable.
            Act::Write if small => writer() && healing() && sync() && free(&store.cleaning),
            Act::Write => writer(),
            Act::HandOver | Act::Seal | Act::Sweep | Act::Index => writer(),
            Act::Sync | Act::Checkpoint => writer() && sync(),
            Act::Recode | Act::Look => writer() && healing(),
            Act::Scrub | Act::Check | Act::Fsck => writer() && healing() && sync(),
            _ => writer() && healing() && sync() && free(&store.cleaning) && free(&store.closing),
        }
}

/// Leaves what is in the store as it is.
pub fn is_quiet(act: Act) -> bool {
    use Act::{
        Check, Checkpoint, Clean, HandOver, Index, Look, Parity, Recode, Rot, Scrub, Seal, Tidy,
    };
    matches!(
        act,
        Check | Checkpoint | Clean | HandOver | Index | Look | Parity | Recode | Rot | Scrub | Seal
    ) || matches!(act, Tidy | Act::Sync | Act::Sweep | Act::PutModel)
}

/// Bytes of each segment that are durable.
fn durable_lens(store: &Store) -> Vec<(u32, u64)> {
    store.segments.lens_before(store.synced.load(Ordering::SeqCst))
}

impl World {
    fn dead(&self) -> bool {
        self.stage.struck().dead
    }

    /// A change of what is in the store: `make` does it, `after` is what it comes to.
    fn change(
        &self,
        change: impl FnOnce(&mut super::oracle::State),
        make: impl FnOnce() -> Result<()>,
    ) -> Result<()> {
        let number = {
            let mut o = lock(&self.oracle);
            let mut after = o.model.clone();
            change(&mut after);
            o.attempt(after)
        };
        let made = make();
        if !self.dead() {
            let mut o = lock(&self.oracle);
            match &made {
                Ok(()) => o.done(number),
                Err(_) => o.refused(number),
            }
        }
        made
    }

    /// Does it. What is acknowledged goes to the oracle, unless the process is gone by then.
    pub fn act(&self, store: &Store, act: Act, dice: &mut Dice) -> Result<()> {
        *lock(&self.oracle).tally.entry(act).or_default() += 1;
        let done = self.attempt(store, act, dice);
        if let Err(e) = &done {
            self.note(format!("{act:?}: {e}"));
        }
        done
    }

    fn note(&self, text: String) {
        lock(&self.oracle).notes.push(text);
    }

    fn attempt(&self, store: &Store, act: Act, dice: &mut Dice) -> Result<()> {
        match act {
            Act::Write => {
                let step = change(dice);
                self.note(format!("{step:?}"));
                self.write(store, &step)
            }
            Act::Sync => self.sync(store, Store::sync),
            Act::HandOver => {
                let mut w = store.writer();
                w.admits()?;
                w.close_batch(store.durable.load(Ordering::SeqCst))?;
                w.flush()
            }
            Act::Seal => {
                let mut w = store.writer();
                w.admits()?;
                w.roll(false)
            }
            Act::Checkpoint => self.sync(store, Store::renew_checkpoint),
            Act::Clean => store.clean([0, 20, 20, 50][dice.below(4) as usize]).map(drop),
            Act::Tidy => {
                // A clock of its own, the same each time.
                let looks = lock(&self.oracle).tally[&Act::Tidy];
                let now = std::time::Duration::from_secs(looks * 9);
                cleaner::step(store, now, &|_| Ok(()))
            }
            Act::Sweep => sweep::step(store, 1 + dice.below(3) as usize).map(drop),
            Act::Index => {
                flusher::step(store);
                Ok(())
            }
            Act::Parity => parity_writer::protect_all(store),
            Act::Recode => recode(store, dice.below(6) as u8),
            Act::Scrub => self.scrub(store),
            Act::Check => self.check(store),
            Act::Fsck => {
                let problems = [store.salvage(true)?, store.check_namespace(true)?].concat();
                assert_eq!(problems, [], "nothing is wrong with the namespace");
                Ok(())
            }
            Act::Look => self.look(store),
            Act::PutModel => {
                let bytes = vec![dice.below(4) as u8; 9000];
                let id = *blake3::hash(&bytes).as_bytes();
                store.put_model_file(&id, &bytes)?;
                if !self.dead() {
                    lock(&self.oracle).models.insert(id);
                }
                Ok(())
            }
            Act::RemoveModel => {
                let Some(id) = lock(&self.oracle).models.pop_first() else { return Ok(()) };
                store.remove_model_file(&id)?;
                // One that a crash left there stays hurt.
                if !self.dead() {
                    lock(&self.oracle).hurt.remove(&Thing::Model(id));
                }
                Ok(())
            }
            Act::Rot => {
                self.rot(store, dice);
                Ok(())
            }
            Act::Refill => self.refill(store, dice),
            Act::Close => {
                store.close()?;
                if !self.dead() {
                    let mut o = lock(&self.oracle);
                    o.settle();
                    o.closed = Some(lock(&store.checkpoint).0);
                }
                Ok(())
            }
            Act::Kill | Act::PowerLoss | Act::Full | Act::Room => unreachable!("{act:?}"),
        }
    }

    fn write(&self, store: &Store, step: &Step) -> Result<()> {
        let _room = if self.small { Some(self.reserve(store, 2000)?) } else { None };
        let mut files = lock(&self.oracle).model.files.clone();
        self.change(|s| after(&mut s.files, step), || perform_or(store, &mut files, step))
    }

    fn reserve(&self, store: &Store, bytes: usize) -> Result<Reservation> {
        *lock(&store.free) = None;
        store.reserve(bytes as u64)
    }

    fn sync(&self, store: &Store, how: fn(&Store) -> Result<()>) -> Result<()> {
        let mark = lock(&self.oracle).mark();
        how(store)?;
        if !self.dead() {
            lock(&self.oracle).durable(mark);
        }
        Ok(())
    }

    fn look(&self, store: &Store) -> Result<()> {
        let got = look(store)?;
        let o = lock(&self.oracle);
        let different = super::oracle::differences(&o.model, &got);
        assert!(got == o.model, "what is read is not what was written: {different}");
        let models = o.models.clone();
        drop(o);
        for id in models {
            store.model_file(&id)?;
        }
        Ok(())
    }

    fn scrub(&self, store: &Store) -> Result<()> {
        self.sync(store, Store::sync)?;
        // What is hurt meanwhile is for the next one.
        let hurt = lock(&self.oracle).hurt.clone();
        store.check_superblocks(true)?;
        for number in store.segment_numbers() {
            let check = store.check_segment(number, true)?;
            assert!(check.lost.is_empty() || self.stage.struck().any(), "segment {number}");
        }
        for id in store.model_files()? {
            let checked = store.check_model_file(&id, true);
            if lock(&self.oracle).models.contains(&id) {
                checked?;
            }
        }
        let struck = self.stage.struck();
        if struck.dead || struck.error || struck.no_space || self.is_full() {
            return Ok(());
        }
        lock(&self.oracle).hurt.retain(|t| !hurt.contains(t));
        if !struck.any() {
            self.check(store)?;
        }
        Ok(())
    }

    pub fn is_full(&self) -> bool {
        store_is_full(&self.stage)
    }

    /// Damage is found where it is, and nowhere else.
    fn check(&self, store: &Store) -> Result<()> {
        // A guest may repair something meanwhile, or hurt it, or both.
        let (before, wounds) = {
            let o = lock(&self.oracle);
            (o.hurt.clone(), o.wounds.len())
        };
        let whole = |thing: Thing| {
            !before.contains(&thing) && !lock(&self.oracle).wounds[wounds..].contains(&thing)
        };
        let misled = || self.stage.struck().error || self.dead();
        for number in store.segment_numbers() {
            let check = store.check_segment(number, false)?;
            if misled() {
                return Ok(());
            }
            assert_eq!(check.lost, [], "segment {number}");
            let well = !check.checked.damaged;
            let left = || {
                let files = lock(&self.stage.memory.files);
                let names = files.iter().filter(|(p, _)| p.contains(&format!("{number:08}")));
                let lens = names.map(|(p, b)| (p.clone(), lock(&b.inner).bytes.len()));
                format!("{:?} {:?}", lens.collect::<Vec<_>>(), durable_lens(store))
            };
            assert!(
                well || !whole(Thing::Segment(number)),
                "segment {number} is well: {check:?} {}",
                left()
            );
        }
        let wrong = store.check_superblocks(false)? as usize;
        let hurt = (0..superblock::FILES.len()).filter(|n| !whole(Thing::Superblock(*n))).count();
        assert!(wrong <= hurt || misled(), "{wrong} superblocks, {hurt} hurt");
        for id in store.model_files()? {
            if !lock(&self.oracle).models.contains(&id) {
                continue;
            }
            let well = !store.check_model_file(&id, false)?.damaged;
            let known = !whole(Thing::Model(id)) || !lock(&self.oracle).models.contains(&id);
            assert!(well || known || misled(), "a model is well");
        }
        Ok(())
    }

    /// A page or a bit of something that is whole and can be repaired.
    fn rot(&self, store: &Store, dice: &mut Dice) {
        let memory = &self.stage.memory;
        let len = |path: &str| {
            let there = lock(&memory.files).get(path).cloned();
            there.map_or(0, |b| lock(&b.inner).bytes.len() as u64)
        };
        let mut o = lock(&self.oracle);
        let lens = durable_lens(store);
        let mut wounds: Vec<(Thing, String, u64, bool)> = Vec::new();
        for (number, durable) in lens {
            let path = segments::segment_path(number);
            let covered = o.protected.get(&number).copied().unwrap_or(0).min(durable);
            wounds.push((Thing::Segment(number), path.clone(), covered, true));
            wounds.push((Thing::Segment(number), path, durable, false));
            let side = lock(&store.segments.sidecars).get(&number).map(|s| s.covered);
            let side = side.filter(|c| o.protected.get(&number) == Some(c));
            if let Some(covered) = side {
                let path = segments::sidecar_path(number, covered);
                let (n, pages) = (len(&path), dice.below(2) == 0);
                wounds.push((Thing::Segment(number), path, n, pages));
            }
        }
        let superblocks = (0..superblock::FILES.len()).filter(|n| {
            o.hurt.iter().filter(|t| matches!(t, Thing::Superblock(m) if m != n)).count() < 2
        });
        for n in superblocks {
            let path = superblock::FILES[n].to_owned();
            wounds.push((Thing::Superblock(n), path.clone(), len(&path), dice.below(2) == 0));
        }
        for id in &o.models {
            let name = blake3::Hash::from_bytes(*id).to_hex();
            for end in ["lmm", "par"] {
                let path = format!("models/{name}.{end}");
                wounds.push((Thing::Model(*id), path.clone(), len(&path), dice.below(2) == 0));
            }
        }
        wounds.retain(|(thing, path, n, _)| {
            !o.hurt.contains(thing) && *n > 0 && len(path) >= *n && store_has(thing, store)
        });
        if wounds.is_empty() {
            return;
        }
        let (thing, path, n, page) = wounds.swap_remove(dice.below(wounds.len() as u64) as usize);
        if page {
            let at = dice.below(n.div_ceil(PAGE as u64)) * PAGE as u64;
            o.notes.push(format!("page at {at} of {path}"));
            memory.lose(&path, at, (n - at).min(PAGE as u64));
        } else {
            let at = dice.below(n);
            o.notes.push(format!("bit at {at} of {path}"));
            memory.rot(&path, at, dice.below(8) as u8);
        }
        o.wounds.push(thing.clone());
        o.hurt.insert(thing);
    }

    /// Writes bulk files until there is no room; how many.
    pub fn fill(&self, store: &Store) -> Result<u64> {
        for n in 0.. {
            let made = (|| {
                let _room = self.reserve(store, BULK)?;
                let number = {
                    let mut o = lock(&self.oracle);
                    o.next_bulk += 1;
                    o.next_bulk
                };
                let txn = bulk_file(store, number);
                self.change(|s| _ = s.bulk.insert(number), || store.append(txn).map(drop))
            })();
            match made {
                Err(StoreError::NoSpace { .. }) => return Ok(n),
                made => made?,
            }
            if n % 50 == 49 {
                self.sync(store, Store::sync)?;
            }
            assert!(n < 2000, "a small disk");
        }
        Ok(0)
    }

    /// Some bulk files go; then as much can be written again, but for a fifth.
    fn refill(&self, store: &Store, dice: &mut Dice) -> Result<()> {
        self.fill(store)?;
        let percent = [10, 50, 90][dice.below(3) as usize];
        let all = lock(&self.oracle).model.bulk.clone();
        let gone: Vec<u64> = all.into_iter().filter(|_| dice.below(100) < percent).collect();
        for n in &gone {
            let name = bulk_name(*n);
            let Some(d) = store.dirent(Ino::ROOT, &name)? else { continue };
            let ops = vec![Record::DelDirent { parent: Ino::ROOT, name }, Record::DelInode(d.ino)];
            let txn = ops.into();
            self.change(|s| _ = s.bulk.remove(n), || store.append(txn).map(drop))?;
        }
        self.sync(store, Store::sync)?;
        for _ in 0..dice.below(3) {
            match store.clean(0) {
                Err(StoreError::NoSpace { .. }) => {}
                cleaned => drop(cleaned?),
            }
        }
        let again = self.fill(store)?;
        let gone = gone.len() as u64;
        let enough = (again + 2) * 10 >= gone * 8;
        assert!(enough || self.stage.struck().any(), "{percent}%: {gone} gone, {again} again");
        read_all(store).map(drop)
    }
}

fn store_has(thing: &Thing, store: &Store) -> bool {
    match thing {
        Thing::Segment(n) => store.segments.get(*n).is_some(),
        _ => true,
    }
}

fn store_is_full(stage: &Stage) -> bool {
    use crate::store::io::Volume;
    stage.memory.free_bytes().is_ok_and(|free| free < 1 << 20)
}
