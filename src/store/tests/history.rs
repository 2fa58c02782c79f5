//! Random histories, against a map in memory.

use super::*;
use crate::store::index::totals::Totals;
use crate::store::log::record::In;
use crate::types::{MODEL_XATTR, OFF};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

/// One step of a random history.
#[derive(Debug, Clone)]
pub enum Step {
    Create(u8),
    Unlink(u8),
    Write(u8, u16, u8, u16),
    Punch(u8, u16, u16),
    Xattr(u8, u8),
    Recode(u8),
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
        2 => (0..6u8).prop_map(Step::Recode),
        2 => Just(Step::Sync),
        1 => Just(Step::Clean),
        1 => Just(Step::Reopen),
        1 => Just(Step::LoseIndex),
    ]
}

pub const LEN: usize = 5000;
pub type Files = BTreeMap<u8, (Vec<u8>, Option<u8>)>;

pub fn state_of(store: &Store) -> Files {
    let mut out = Files::new();
    for d in store.dirents(Ino::ROOT, 0, usize::MAX).unwrap() {
        let x = store.xattr(d.ino, b"user.x").unwrap().map(|v| v[0]);
        out.insert(d.name[0], (contents(store, d.ino, LEN).unwrap(), x));
    }
    out
}

/// Does one step to the store and to the model.
pub fn perform(store: &Store, model: &mut Files, s: &Step) {
    perform_or(store, model, s).unwrap();
}

/// As [`perform`]; where the store fails, the model stays as it was.
pub fn perform_or(store: &Store, model: &mut Files, s: &Step) -> Result<()> {
    let ino = |f: u8| Ok::<_, StoreError>(store.dirent(Ino::ROOT, &[f])?.map(|d| d.ino));
    match *s {
        Step::Create(f) => {
            if ino(f)?.is_none() {
                create(store, &[f])?;
                model.insert(f, (vec![0; LEN], None));
            }
        }
        Step::Unlink(f) => {
            if let Some(i) = ino(f)? {
                let name = vec![f];
                let ops = vec![Record::DelDirent { parent: Ino::ROOT, name }, Record::DelInode(i)];
                store.append(ops.into())?;
                model.remove(&f);
            }
        }
        Step::Write(f, off, byte, n) => {
            if let Some(i) = ino(f)? {
                write(store, i, off.into(), &vec![byte; n as usize])?;
                model.get_mut(&f).unwrap().0[off as usize..(off + n) as usize].fill(byte);
            }
        }
        Step::Punch(f, off, n) => {
            if let Some(i) = ino(f)? {
                let op = Record::Punch { ino: i, off: off.into(), len: n.into() };
                store.append(vec![op].into())?;
                let end = usize::from(off + n).min(LEN);
                model.get_mut(&f).unwrap().0[off.into()..end].fill(0);
            }
        }
        Step::Xattr(f, v) => {
            if let Some(i) = ino(f)? {
                let op = Record::PutXattr(i, b"user.x".to_vec(), vec![v]);
                let name = MODEL_XATTR.to_vec();
                let governed = match v % 4 {
                    0 => Some(Record::PutXattr(i, name, OFF.to_vec())),
                    1 => Some(Record::DelXattr(i, name)),
                    _ => None,
                };
                store.append([op].into_iter().chain(governed).collect::<Vec<_>>().into())?;
                model.get_mut(&f).unwrap().1 = Some(v);
            }
        }
        Step::Recode(f) => super::power::recode(store, f)?,
        Step::Sync | Step::Clean | Step::Reopen | Step::LoseIndex => {}
    }
    Ok(())
}

/// What running sums say, and what a scan of the table finds, at one moment: who holds the state's lock must not
/// ask the store for anything that takes it again.
fn sums(store: &Store) -> (Totals, Totals) {
    let state = store.state();
    let said = &state.totals;
    let said = Totals {
        frames: said.frames,
        // What several sums make up together.
        coded: said.coded + said.staged + said.parity,
        waiting: said.waiting,
        models: said.models.clone().into_iter().filter(|(_, n)| *n > 0).collect(),
        ..Totals::default()
    };
    let mut found = Totals::default();
    let mut frames = BTreeSet::new();
    let mut waiting = BTreeMap::<Ino, u64>::new();
    for (k, v) in state.table.scan(b"e", b"f", usize::MAX).unwrap() {
        let ino = Ino(u64::from_be_bytes(k[1..9].try_into().unwrap()));
        let e = In(&v).extent().unwrap();
        if e.meta.model != 0 && frames.insert(e.frame) {
            *found.models.entry(e.meta.model).or_default() += 1;
        }
        let off = state.xattr(ino, MODEL_XATTR).unwrap().is_some_and(|model| model == OFF);
        if e.meta.staged && !off && state.inode(ino).unwrap().is_some() {
            *waiting.entry(ino).or_default() += e.len;
        }
    }
    for bytes in waiting.into_values() {
        found.waiting.bytes += bytes;
        found.waiting.blocks += bytes.div_ceil(store.superblock().block_size.into());
    }
    for (_, v) in state.table.scan(b"f", b"g", usize::MAX).unwrap() {
        found.frames += 1;
        found.coded += u64::from(In(&v).u32().unwrap());
    }
    (said, found)
}

pub fn check_sums(store: &Store) {
    let (said, found) = sums(store);
    assert_eq!(said, found);
    check_frames(store);
}

/// What the table says of frames is what extents say; and whose the parts of shared ones are, and which of those are
/// hardly used.
fn check_frames(store: &Store) {
    let state = store.state();
    let scan = |letter: u8| state.table.scan(&[letter], &[letter + 1], usize::MAX).unwrap();
    let place = |k: &[u8]| {
        let number = |at: usize| u32::from_be_bytes(k[at..at + 4].try_into().unwrap());
        (number(1), number(5))
    };
    let (mut used, mut owners) = (BTreeMap::<_, (u64, u64)>::new(), BTreeSet::new());
    for (k, v) in scan(b'e') {
        let e = In(&v).extent().unwrap();
        let of_frame = used.entry((e.frame.segment, e.frame.offset)).or_default();
        *of_frame = (of_frame.0 + 1, of_frame.1 + e.len);
        if e.meta.shared {
            owners.insert(((e.frame.segment, e.frame.offset), k[1..].to_vec()));
        }
    }
    let said = scan(b'w').into_iter().map(|(k, _)| (place(&k), k[9..].to_vec()));
    assert_eq!(said.collect::<BTreeSet<_>>(), owners);
    let mut thin = BTreeSet::new();
    for (k, _) in scan(b'f') {
        let at = place(&k);
        let (_, l) = state.frames(at.0, at.1, 1).unwrap()[0];
        if l.primer == 0 {
            assert_eq!(used.get(&at), Some(&(l.refs.into(), l.used.into())), "{at:?} {l:?}");
        }
        if l.shared && l.used < l.plain_len / 2 {
            thin.insert(at);
        }
    }
    assert_eq!(scan(b'h').iter().map(|(k, _)| place(k)).collect::<BTreeSet<_>>(), thin);
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

/// Closes the batch and writes it, without a sync: it may be torn.
pub fn hand_over(store: &Store) {
    let mut w = lock(&store.writer);
    w.close_batch(store.durable.load(Ordering::SeqCst)).unwrap();
    w.flush().unwrap();
}
