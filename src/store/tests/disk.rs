//! What a power loss may leave of a recorded history.
//!
//! The model is hostile: each 512-byte sector written since the last sync of its file is there or
//! not, so are changes of length, and names created, changed or removed since the last sync of their
//! directory. A file may have grown over sectors that never arrived; those are zeros.

use super::memory::{Event, put};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

const SECTOR: u64 = 512;

/// Names and bytes of files.
pub type Files = BTreeMap<String, Vec<u8>>;

#[derive(Debug, Clone, Default)]
struct Medium {
    /// As of the last sync.
    bytes: Vec<u8>,
    /// Writes and changes of length since.
    pending: Vec<Event>,
}

/// What is on the medium, and what is on its way there.
#[derive(Debug, Clone, Default)]
pub struct Disk {
    files: Vec<Medium>,
    names: BTreeMap<String, usize>,
    /// Changes of names since the last sync of their directory.
    pending: Vec<Event>,
}

/// The least that is there or not.
#[derive(Debug, Clone)]
enum Unit {
    /// A change of names.
    Name(usize),
    /// File, change, and the part of it that lies in one sector.
    Sector(usize, usize, Range<usize>),
    /// File and change of length.
    Length(usize, usize),
}

fn parent(path: &str) -> &str {
    path.rsplit_once('/').map_or(".", |(dir, _)| dir)
}

impl Disk {
    /// A disk that holds these files, after some events.
    pub fn after(start: &Files, events: &[Event]) -> Self {
        let mut disk = Self::default();
        for (path, bytes) in start {
            disk.names.insert(path.clone(), disk.files.len());
            disk.files.push(Medium { bytes: bytes.clone(), pending: Vec::new() });
        }
        for e in events {
            disk.apply(e);
        }
        disk
    }

    fn file(&mut self, number: usize) -> &mut Medium {
        if self.files.len() <= number {
            self.files.resize(number + 1, Medium::default());
        }
        &mut self.files[number]
    }

    /// One more event.
    pub fn apply(&mut self, event: &Event) {
        match event {
            Event::Create(..) | Event::Rename(..) | Event::Remove(_) => {
                self.pending.push(event.clone());
            }
            Event::SyncDir(dir) => {
                let here = |e: &Event| match e {
                    Event::Create(path, _) | Event::Rename(_, path, _) | Event::Remove(path) => {
                        parent(path) == dir
                    }
                    _ => false,
                };
                let (now, later) = std::mem::take(&mut self.pending).into_iter().partition(here);
                self.pending = later;
                let now: Vec<Event> = now;
                for e in &now {
                    name(&mut self.names, e);
                }
            }
            Event::Write(n, ..) | Event::Truncate(n, _) => {
                self.file(*n).pending.push(event.clone());
            }
            Event::Sync(n) => {
                let f = self.file(*n);
                for e in std::mem::take(&mut f.pending) {
                    match e {
                        Event::Write(_, at, data) => put(&mut f.bytes, at as usize, &data),
                        Event::Truncate(_, len) => f.bytes.resize(len as usize, 0),
                        _ => {}
                    }
                }
            }
            Event::SyncFailed(n) => self.file(*n).pending.clear(),
            Event::Rot(n, at, bit) => {
                if let Some(b) = self.file(*n).bytes.get_mut(*at as usize) {
                    *b ^= 1 << bit;
                }
            }
            Event::Lose(n, at, len) => {
                let at = *at as usize;
                if let Some(lost) = self.file(*n).bytes.get_mut(at..at + len) {
                    lost.fill(0);
                }
            }
            Event::Mark(_) => {}
        }
    }

    fn units(&self) -> Vec<Unit> {
        let mut reachable: BTreeSet<usize> = self.names.values().copied().collect();
        for e in &self.pending {
            if let Event::Create(_, n) | Event::Rename(_, _, n) = e {
                reachable.insert(*n);
            }
        }
        let mut out: Vec<Unit> = (0..self.pending.len()).map(Unit::Name).collect();
        for n in reachable {
            for (i, e) in self.files.get(n).iter().flat_map(|f| f.pending.iter().enumerate()) {
                let Event::Write(_, at, data) = e else {
                    out.push(Unit::Length(n, i));
                    continue;
                };
                let mut from = 0;
                while from < data.len() {
                    let room = (SECTOR - (at + from as u64) % SECTOR) as usize;
                    let to = data.len().min(from + room);
                    out.push(Unit::Sector(n, i, from..to));
                    from = to;
                }
            }
        }
        out
    }

    /// How many things are there or not: the states are two to this power, at the least.
    pub fn at_risk(&self) -> usize {
        self.units().len()
    }

    /// The state in which of the units those are there that `keep` says. `grown`: files are as long
    /// as all writes made them.
    pub fn state(&self, mut keep: impl FnMut(usize) -> bool, grown: bool) -> Files {
        let mut names = self.names.clone();
        let mut changed: BTreeMap<usize, Vec<u8>> = BTreeMap::new();
        let base = |n: usize| self.files.get(n).map_or(Vec::new(), |f| f.bytes.clone());
        for (i, unit) in self.units().into_iter().enumerate() {
            let kept = keep(i);
            match unit {
                Unit::Name(e) if kept => name(&mut names, &self.pending[e]),
                Unit::Sector(n, e, part) => {
                    let Event::Write(_, at, data) = &self.files[n].pending[e] else { continue };
                    let bytes = changed.entry(n).or_insert_with(|| base(n));
                    let at = *at as usize + part.start;
                    if kept {
                        put(bytes, at, &data[part]);
                    } else if grown && bytes.len() < at + part.len() {
                        bytes.resize(at + part.len(), 0);
                    }
                }
                Unit::Length(n, e) if kept => {
                    let Event::Truncate(_, len) = self.files[n].pending[e] else { continue };
                    changed.entry(n).or_insert_with(|| base(n)).resize(len as usize, 0);
                }
                _ => {}
            }
        }
        let bytes = |n: usize| changed.get(&n).cloned().unwrap_or_else(|| base(n));
        names.into_iter().map(|(path, n)| (path, bytes(n))).collect()
    }

    /// The state in which nothing is there but what was synced.
    pub fn synced(&self) -> Files {
        self.state(|_| false, false)
    }
}

fn name(names: &mut BTreeMap<String, usize>, e: &Event) {
    match e {
        Event::Create(path, n) => drop(names.insert(path.clone(), *n)),
        Event::Rename(from, to, n) => {
            names.remove(from);
            names.insert(to.clone(), *n);
        }
        Event::Remove(path) => drop(names.remove(path)),
        _ => {}
    }
}
