//! What a store must hold: what is in it, what may be found after a crash, and what is damaged.

use super::super::history::{Files, LEN, Step, check_sums};
use super::super::*;
use super::Act;
use std::collections::{BTreeMap, BTreeSet};

/// Bytes of a bulk file, and of each of its frames.
pub const BULK: usize = 20_000;
const PIECE: usize = 4000;

/// All that a store holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct State {
    pub files: Files,
    /// Files that fill the disk, by number; their bytes follow from it.
    pub bulk: BTreeSet<u64>,
}

/// Something that may be hurt once, until a scrub has repaired it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Thing {
    /// A segment and its sidecar.
    Segment(u32),
    Superblock(usize),
    /// A model file and its sidecar.
    Model(ModelId),
}

/// What is known of a store.
#[derive(Debug)]
pub struct Oracle {
    pub model: State,
    /// The model's number in `since`.
    current: u64,
    /// Every state that may be found after a crash: those since the last that is durable, and those
    /// that a change would lead to that has not returned.
    since: Vec<(u64, State)>,
    last: u64,
    pub models: BTreeSet<ModelId>,
    pub hurt: BTreeSet<Thing>,
    /// All that was ever hurt, in this order.
    pub wounds: Vec<Thing>,
    /// Bytes of each segment that a durable sidecar covers.
    pub protected: BTreeMap<u32, u64>,
    /// Closing has returned; the checkpoint that there was.
    pub closed: Option<u32>,
    pub next_bulk: u64,
    pub tally: BTreeMap<Act, u64>,
    /// What was done in this step, and what came of it.
    pub notes: Vec<String>,
}

impl Oracle {
    pub fn new() -> Self {
        Self {
            model: State::default(),
            current: 0,
            since: vec![(0, State::default())],
            last: 0,
            models: BTreeSet::new(),
            hurt: BTreeSet::new(),
            wounds: Vec::new(),
            protected: BTreeMap::new(),
            closed: None,
            next_bulk: 0,
            tally: BTreeMap::new(),
            notes: Vec::new(),
        }
    }

    /// Somebody is about to change the store so: from now on a crash may leave that.
    pub fn attempt(&mut self, after: State) -> u64 {
        self.last += 1;
        self.since.push((self.last, after));
        self.last
    }

    /// The change was made.
    pub fn done(&mut self, number: u64) {
        let made = self.since.iter().find(|(n, _)| *n == number);
        self.model = made.expect("an attempt").1.clone();
        self.current = number;
    }

    /// The change was refused: nothing of it has happened.
    pub fn refused(&mut self, number: u64) {
        self.since.retain(|(n, _)| *n != number);
    }

    /// What there is now, to be acknowledged as durable later.
    pub fn mark(&self) -> u64 {
        self.current
    }

    /// What there was at a mark is durable.
    pub fn durable(&mut self, mark: u64) {
        self.since.retain(|(n, _)| *n >= mark);
    }

    /// What there is, is durable, and nothing else is.
    pub fn settle(&mut self) {
        self.since = vec![(self.current, self.model.clone())];
    }

    /// Another process found this; all of it is durable, or may be.
    pub fn found(&mut self, got: State, durable: bool) {
        let may_be = self.since.iter().rev().find(|(_, s)| *s == got).map(|(n, _)| *n);
        let Some(number) = may_be else {
            let nearest = &self.since.last().unwrap().1;
            panic!(
                "lost: {}, of {} states that may be",
                differences(nearest, &got),
                self.since.len()
            );
        };
        self.current = number;
        self.model = got;
        if durable {
            self.settle();
        } else {
            self.since.retain(|(n, _)| *n <= number);
        }
    }
}

/// In what two states differ, in short.
pub fn differences(want: &State, got: &State) -> String {
    let keys: BTreeSet<&u8> = want.files.keys().chain(got.files.keys()).collect();
    let mut out = Vec::new();
    for f in keys {
        match (want.files.get(f), got.files.get(f)) {
            (Some(w), Some(g)) if w != g => {
                let at = w.0.iter().zip(&g.0).position(|(a, b)| a != b);
                out.push(format!("file {f} from {at:?}"));
            }
            (Some(_), None) => out.push(format!("file {f} is gone")),
            (None, Some(_)) => out.push(format!("file {f} is there")),
            _ => {}
        }
    }
    let (gone, new) = (want.bulk.difference(&got.bulk), got.bulk.difference(&want.bulk));
    out.push(format!("bulk {:?} gone, {:?} there", gone.count(), new.count()));
    out.join(", ")
}

/// What a step of a history makes of files.
pub fn after(files: &mut Files, step: &Step) {
    match *step {
        Step::Create(f) => drop(files.entry(f).or_insert_with(|| (vec![0; LEN], None))),
        Step::Unlink(f) => drop(files.remove(&f)),
        Step::Write(f, off, byte, n) => {
            if let Some(file) = files.get_mut(&f) {
                file.0[off as usize..(off + n) as usize].fill(byte);
            }
        }
        Step::Punch(f, off, n) => {
            if let Some(file) = files.get_mut(&f) {
                file.0[off.into()..usize::from(off + n).min(LEN)].fill(0);
            }
        }
        _ => unreachable!("{step:?}"),
    }
}

pub fn bulk_name(n: u64) -> Vec<u8> {
    [&b"bulk"[..], &n.to_be_bytes()].concat()
}

fn bulk_bytes(n: u64) -> Vec<u8> {
    let hash = |i: u64| *blake3::hash(&[n, i].map(u64::to_le_bytes).concat()).as_bytes();
    (0..).flat_map(hash).take(BULK).collect()
}

/// A bulk file in one change.
pub fn bulk_file(store: &Store, n: u64) -> Txn {
    let ino = store.next_ino();
    let (parent, name) = (Ino::ROOT, bulk_name(n));
    let made = Txn::from(vec![
        Record::PutInode(ino, attr(BULK as u64)),
        Record::PutDirent { parent, name, ino, kind: libc::S_IFREG },
    ]);
    let bytes = bulk_bytes(n);
    let pieces = bytes.chunks(PIECE).enumerate();
    let frame = |(n, piece)| data(ino, (n * PIECE) as u64, piece, store.next_generation());
    pieces.map(frame).fold(made, Txn::map)
}

/// Reads all that is in a store. `None` for a byte that is not as it was written.
pub fn read_all(store: &Store) -> Result<State> {
    let mut out = State::default();
    for d in store.dirents(Ino::ROOT, 0, usize::MAX)? {
        if let [f] = d.name[..] {
            let x = store.xattr(d.ino, b"user.x")?.map(|v| v[0]);
            out.files.insert(f, (contents(store, d.ino, LEN)?, x));
            continue;
        }
        let n = u64::from_be_bytes(d.name[4..].try_into().expect("a name"));
        assert!(contents(store, d.ino, BULK)? == bulk_bytes(n), "bulk file {n} has other bytes");
        out.bulk.insert(n);
    }
    Ok(out)
}

/// Everything is read and compared; returns what there is.
pub fn look(store: &Store) -> Result<State> {
    let got = read_all(store)?;
    check_sums(store);
    assert_eq!(store.stats()?.unrecoverable, 0);
    Ok(got)
}
