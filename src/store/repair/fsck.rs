//! Checking the namespace: names lead to inodes, inodes have names, counts are right.

use super::report::Problem;
use crate::store::Store;
use crate::store::api::Result;
use crate::store::log::record::In;
use crate::store::log::record::Record;
use crate::types::{Attr, Ino, Time};
use std::collections::{BTreeMap, BTreeSet};

/// Where what has no name goes.
const LOST_AND_FOUND: &[u8] = b"lost+found";
/// Changes in one transaction.
const BATCH: usize = 1000;

#[derive(Debug, Clone, PartialEq, Eq)]
struct Name {
    parent: u64,
    name: Vec<u8>,
    ino: u64,
    kind: u32,
}

/// The namespace in memory, and what is to be done about it.
#[derive(Default)]
struct Check {
    inodes: BTreeMap<u64, Attr>,
    names: Vec<Name>,
    problems: Vec<Problem>,
    records: Vec<Record>,
}

fn shown(name: &[u8]) -> String {
    String::from_utf8_lossy(name).into_owned()
}

impl Check {
    fn problem(&mut self, ino: u64, reason: String) {
        self.problems.push(Problem { ino: Ino(ino), reason });
    }

    fn is_dir(&self, ino: u64) -> bool {
        self.inodes.get(&ino).is_some_and(Attr::is_dir)
    }

    fn drop_name(&mut self, n: &Name, why: &str) {
        self.problem(n.ino, format!("name {:?} in inode {}: {why}", shown(&n.name), n.parent));
        self.records.push(Record::DelDirent { parent: Ino(n.parent), name: n.name.clone() });
    }

    /// Names that lead nowhere, or from nowhere, or are one too many for a directory.
    fn names(&mut self) {
        let mut seen: BTreeSet<u64> = BTreeSet::new();
        let parent_of = |c: &Self, ino: u64| c.inodes.get(&ino).map_or(0, |a| a.parent);
        let mut names = std::mem::take(&mut self.names);
        // Of several names of a directory, the one where the directory says it is comes first.
        names.sort_by_key(|n| parent_of(self, n.ino) != n.parent);
        for n in names {
            let why = match self.inodes.get(&n.ino) {
                None => Some("it names nothing"),
                _ if !self.is_dir(n.parent) => Some("its directory is not there"),
                _ if n.ino == Ino::ROOT.0 => Some("it names the root"),
                Some(a) if a.is_dir() && !seen.insert(n.ino) => {
                    Some("the directory has another name")
                }
                _ => None,
            };
            if let Some(why) = why {
                self.drop_name(&n, why);
                continue;
            }
            let kind = self.inodes.get(&n.ino).map_or(0, Attr::file_type);
            if kind != n.kind {
                self.problem(n.ino, format!("name {:?} has the wrong type", shown(&n.name)));
                let (parent, name, ino) = (Ino(n.parent), n.name.clone(), Ino(n.ino));
                self.records.push(Record::PutDirent { parent, name, ino, kind });
            }
            self.names.push(Name { kind, ..n });
        }
    }

    /// Directories that the root does not lead to and that lead in a circle: one name of each circle
    /// goes.
    fn circles(&mut self) {
        let above: BTreeMap<u64, u64> =
            self.names.iter().filter(|n| self.is_dir(n.ino)).map(|n| (n.ino, n.parent)).collect();
        let mut done: BTreeSet<u64> = BTreeSet::from([Ino::ROOT.0]);
        let mut cut = BTreeSet::new();
        for start in above.keys() {
            let (mut path, mut at) = (BTreeSet::new(), *start);
            while !done.contains(&at) && path.insert(at) {
                match above.get(&at) {
                    Some(up) if !cut.contains(&at) => at = *up,
                    _ => break,
                }
            }
            if !done.contains(&at)
                && path.contains(&at)
                && !cut.contains(&at)
                && above.contains_key(&at)
            {
                cut.insert(at);
            }
            done.extend(path);
        }
        let (gone, kept): (Vec<Name>, _) =
            std::mem::take(&mut self.names).into_iter().partition(|n| cut.contains(&n.ino));
        self.names = kept;
        for n in gone {
            self.drop_name(&n, "it closes a circle");
        }
    }

    /// Inodes without a name go to lost+found.
    fn lost(&mut self, next_ino: impl Fn() -> Ino) {
        let named: BTreeSet<u64> = self.names.iter().map(|n| n.ino).collect();
        let lost: Vec<(u64, Attr)> = self
            .inodes
            .iter()
            .filter(|(i, a)| **i != Ino::ROOT.0 && a.nlink > 0 && !named.contains(i))
            .map(|(i, a)| (*i, *a))
            .collect();
        if lost.is_empty() {
            return;
        }
        let root = Ino::ROOT.0;
        let there = self.names.iter().find(|n| n.parent == root && n.name == LOST_AND_FOUND);
        let place = match there.map(|n| n.ino) {
            Some(ino) if self.is_dir(ino) => ino,
            other => {
                let ino = next_ino();
                let now = Time::now();
                let attr = Attr {
                    mode: libc::S_IFDIR | 0o700,
                    nlink: 2,
                    size: 0,
                    atime: now,
                    mtime: now,
                    ctime: now,
                    btime: now,
                    parent: root,
                    ..self.inodes.get(&root).copied().unwrap_or(lost[0].1)
                };
                // A file of that name keeps it; the directory gets another.
                let name = match other {
                    None => LOST_AND_FOUND.to_vec(),
                    Some(_) => format!("lost+found.{ino}").into_bytes(),
                };
                self.inodes.insert(ino.0, attr);
                self.records.push(Record::PutInode(ino, attr));
                self.link(root, name, ino.0, libc::S_IFDIR);
                ino.0
            }
        };
        let mut taken: BTreeSet<Vec<u8>> =
            self.names.iter().filter(|n| n.parent == place).map(|n| n.name.clone()).collect();
        for (ino, attr) in lost {
            self.problem(ino, "it has no name; moved to lost+found".into());
            let mut name = format!("#{ino}").into_bytes();
            while !taken.insert(name.clone()) {
                name.push(b'_');
            }
            self.link(place, name, ino, attr.file_type());
        }
    }

    fn link(&mut self, parent: u64, name: Vec<u8>, ino: u64, kind: u32) {
        let record =
            Record::PutDirent { parent: Ino(parent), name: name.clone(), ino: Ino(ino), kind };
        self.records.push(record);
        self.names.push(Name { parent, name, ino, kind });
    }

    /// Link counts, and where directories say they are.
    fn counts(&mut self) {
        let mut links: BTreeMap<u64, u32> = BTreeMap::new();
        let mut parents: BTreeMap<u64, u64> = BTreeMap::from([(Ino::ROOT.0, Ino::ROOT.0)]);
        for n in &self.names {
            if self.is_dir(n.ino) {
                *links.entry(n.parent).or_default() += 1;
                parents.insert(n.ino, n.parent);
            } else {
                *links.entry(n.ino).or_default() += 1;
            }
        }
        let mut wrong = Vec::new();
        for (ino, attr) in &self.inodes {
            let mut want = *attr;
            let counted = links.get(ino).copied().unwrap_or(0);
            if attr.is_dir() {
                // One that is being deleted has none.
                if parents.contains_key(ino) {
                    want.nlink = 2 + counted;
                    want.parent = parents[ino];
                }
            } else {
                want.nlink = counted;
            }
            if want != *attr {
                wrong.push((*ino, *attr, want));
            }
        }
        for (ino, is, want) in wrong {
            let mut reasons = Vec::new();
            if is.nlink != want.nlink {
                reasons.push(format!("link count {} should be {}", is.nlink, want.nlink));
            }
            if is.parent != want.parent {
                reasons.push(format!("parent {} should be {}", is.parent, want.parent));
            }
            self.problem(ino, reasons.join(", "));
            self.records.push(Record::PutInode(Ino(ino), want));
            self.inodes.insert(ino, want);
        }
    }
}

fn number(key: &[u8]) -> Option<u64> {
    Some(u64::from_be_bytes(key.get(1..9)?.try_into().ok()?))
}

impl Store {
    /// Calls `each` for all pairs whose key begins with `letter`.
    fn pairs(&self, letter: u8, mut each: impl FnMut(&[u8], &[u8])) -> Result<()> {
        let mut from = vec![letter];
        loop {
            let some = self.view().table.scan(&from, &[letter + 1], 4096)?;
            let Some((last, _)) = some.last() else { return Ok(()) };
            from.clone_from(last);
            from.push(0);
            for (k, v) in &some {
                each(k, v);
            }
        }
    }

    /// Checks the namespace; with `repair`, puts right what is wrong. Nobody else may change it
    /// meanwhile.
    pub fn check_namespace(&self, repair: bool) -> Result<Vec<Problem>> {
        let mut c = Check::default();
        let mut unreadable = Vec::new();
        self.pairs(b'i', |k, v| match (number(k), In(v).attr()) {
            (Some(ino), Some(attr)) => drop(c.inodes.insert(ino, attr)),
            _ => unreadable.push(k.to_vec()),
        })?;
        self.pairs(b'd', |k, v| {
            let mut i = In(v);
            let name = (|| {
                let parent = number(k)?;
                let (_cookie, ino, kind) = (i.u64()?, i.u64()?, i.u32()?);
                Some(Name { parent, name: k[9..].to_vec(), ino, kind })
            })();
            match name {
                Some(n) => c.names.push(n),
                None => unreadable.push(k.to_vec()),
            }
        })?;
        for key in unreadable {
            c.problem(number(&key).unwrap_or(0), "an entry of the index is not readable".into());
        }
        let mut stray = BTreeSet::new();
        let going = |k: &[u8]| {
            let off = k.get(9..17).and_then(|b| b.try_into().ok()).map(u64::from_be_bytes);
            let at = number(k).map(Ino).zip(off);
            at.is_some_and(|(ino, off)| self.state().cuts.covers(ino, off))
        };
        self.pairs(b'e', |k, _| stray.extend(number(k).filter(|_| !going(k))))?;
        stray.retain(|ino| !c.inodes.contains_key(ino));
        for ino in stray {
            c.problem(ino, "bytes of an inode that is not there".into());
            c.records.push(Record::Punch { ino: Ino(ino), off: 0, len: u64::MAX });
        }
        let mut attributes = Vec::new();
        self.pairs(b'x', |k, _| attributes.extend(number(k).map(|ino| (ino, k[9..].to_vec()))))?;
        for (ino, name) in attributes {
            if !c.inodes.contains_key(&ino) {
                c.problem(ino, "attribute of an inode that is not there".into());
                c.records.push(Record::DelXattr(Ino(ino), name));
            }
        }
        c.names();
        c.circles();
        c.lost(|| self.next_ino());
        c.counts();
        for p in &c.problems {
            log::warn!("inode {}: {}", p.ino, p.reason);
        }
        if repair {
            for some in c.records.chunks(BATCH) {
                self.append(some.to_vec().into())?;
            }
            self.sync()?;
        }
        Ok(c.problems)
    }
}
