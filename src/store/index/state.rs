//! What the log amounts to: changes applied to the table, and running totals.
//!
//! Keys start with a letter and go on in big-endian, so that they sort by number:
//! `i`no attributes, `l`ink target, `d`irectory parent+name, `c`ookie parent+cookie, `x`attr
//! ino+name, `e`xtent ino+offset, `p`rimer id, `m`odel number, `o`rphan ino, `s`taged ino,
//! `f`rame segment+offset, cu`t` ino+offset, o`w`ner of a part of a shared frame segment+offset ino+offset, t`h`in shared
//! frame segment+offset.

use super::base::Pair;
use super::cuts::Cuts;
use super::memtable::Table;
use super::totals::Totals;
use crate::store::api::{Dirent, ModelEntry, Result, StoreError};
use crate::store::log::frame::OVERHEAD;
use crate::store::log::record::{In, Out, Record};
use crate::store::settings::Settings;
use crate::types::{Attr, FrameRef, Ino, MODEL_XATTR};

/// Cookies up to this one are `.` and `..`.
const FIRST_COOKIE: u64 = 3;

/// A frame that something refers to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Live {
    /// Length of the frame.
    pub len: u32,
    /// Extents or primers that refer to it.
    pub refs: u32,
    /// Left by a write.
    pub staged: bool,
    /// Several files have a part of it.
    pub shared: bool,
    /// The primer it is, or 0 for data.
    pub primer: u64,
    /// The language model that decodes it, or 0.
    pub model: u16,
    /// Owner; 0 if it is shared.
    pub ino: Ino,
    /// Offset in the file of the frame's first byte; 0 if it is shared.
    pub off: u64,
    /// Plaintext length.
    pub plain_len: u32,
    /// Bytes of it that extents refer to.
    pub used: u32,
}

/// The table and its totals.
#[derive(Debug)]
pub struct State {
    /// Keys and values.
    pub table: Table,
    /// Sums.
    pub totals: Totals,
    /// Ranges that are cut out of files; as in the table.
    pub cuts: Cuts,
    /// What the sums depend on.
    pub(in crate::store) settings: Settings,
    /// How often extents of inodes were changed; several inodes share a count.
    changes: [u32; PARTS],
}

/// Counts of changes.
const PARTS: usize = 64;

pub(in crate::store) fn key(letter: u8, n: u64) -> Vec<u8> {
    let mut k = Vec::with_capacity(17);
    k.push(letter);
    k.extend_from_slice(&n.to_be_bytes());
    k
}

pub(in crate::store) fn key2(letter: u8, n: u64, m: u64) -> Vec<u8> {
    let mut k = key(letter, n);
    k.extend_from_slice(&m.to_be_bytes());
    k
}

fn key_name(letter: u8, n: u64, name: &[u8]) -> Vec<u8> {
    let mut k = key(letter, n);
    k.extend_from_slice(name);
    k
}

pub(super) fn key_place(letter: u8, segment: u32, offset: u32) -> Vec<u8> {
    key(letter, u64::from(segment) << 32 | u64::from(offset))
}

fn key_frame(segment: u32, offset: u32) -> Vec<u8> {
    key_place(b'f', segment, offset)
}

/// The key after all that start with `letter`, `n`.
pub(in crate::store) fn after(letter: u8, n: u64) -> Vec<u8> {
    n.checked_add(1).map_or_else(|| vec![letter + 1], |m| key(letter, m))
}

pub(in crate::store) fn tail_u64(k: &[u8]) -> u64 {
    let mut b = [0; 8];
    let at = k.len().saturating_sub(8);
    b[..k.len() - at].copy_from_slice(&k[at..]);
    u64::from_be_bytes(b)
}

pub(in crate::store) fn bad(what: &str) -> StoreError {
    StoreError::Index(format!("unreadable {what}"))
}

impl Live {
    fn encode(self) -> Vec<u8> {
        let mut o = Out::default();
        let flags = u8::from(self.staged) | u8::from(self.shared) << 1;
        o.u32(self.len).u32(self.refs).u8(flags).u64(self.primer);
        o.u16(self.model).u64(self.ino.0).u64(self.off).u32(self.plain_len).u32(self.used);
        o.0
    }

    fn decode(v: &[u8]) -> Option<Self> {
        let mut i = In(v);
        let (len, refs, flags) = (i.u32()?, i.u32()?, i.u8()?);
        Some(Self {
            len,
            refs,
            staged: flags & 1 != 0,
            shared: flags & 2 != 0,
            primer: i.u64()?,
            model: i.u16()?,
            ino: Ino(i.u64()?),
            off: i.u64()?,
            plain_len: i.u32()?,
            used: i.u32()?,
        })
    }
}

struct PrimerEntry {
    ino: Ino,
    frame: FrameRef,
    refs: u64,
}

/// Sums may begin at what a forged store says.
pub(in crate::store) fn add(sum: &mut u64, n: u64) {
    *sum = sum.saturating_add(n);
}

impl State {
    /// Over an empty or trusted table.
    pub fn new(table: Table, totals: Totals, settings: Settings) -> Result<Self> {
        let cuts = Cuts::load(&table)?;
        Ok(Self::of(table, totals, cuts, settings))
    }

    /// Of these parts.
    pub fn of(table: Table, totals: Totals, cuts: Cuts, settings: Settings) -> Self {
        Self { table, totals, cuts, settings, changes: [0; PARTS] }
    }

    /// A number that changes when extents of this inode do.
    pub fn changes_of(&self, ino: Ino) -> u32 {
        self.changes[ino.0 as usize % PARTS]
    }

    /// Takes over what was done to a state above this one.
    pub fn take(&mut self, above: Self) {
        for k in above.table.changed() {
            if let (Some(b'e' | &super::cuts::LETTER), Some(ino)) = (k.first(), k.get(1..9)) {
                let count = &mut self.changes[tail_u64(ino) as usize % PARTS];
                *count = count.wrapping_add(1);
            }
        }
        self.table.take(above.table);
        let mut totals = above.totals;
        // The other owner of what they share goes, so that it is changed where it is.
        self.totals = Totals::default();
        totals.fold();
        self.totals = totals;
        self.cuts = above.cuts;
    }

    /// Takes a key out; what was there.
    fn take_out(&mut self, k: Vec<u8>) -> Result<Option<Vec<u8>>> {
        let old = self.table.get(&k)?;
        if old.is_some() {
            self.table.del(k);
        }
        Ok(old)
    }

    /// Applies one change. An error means that the index failed; the state is then not to be used.
    pub fn apply(&mut self, record: &Record) -> Result<()> {
        match record {
            Record::PutInode(ino, attr) => self.put_inode(*ino, attr),
            Record::DelInode(ino) => self.del_inode(*ino),
            Record::PutSymlink(ino, target) => {
                self.table.put(key(b'l', ino.0), target.clone());
                Ok(())
            }
            Record::PutDirent { parent, name, ino, kind } => {
                self.put_dirent(*parent, name, (*ino, *kind), None)
            }
            Record::DelDirent { parent, name } => self.del_dirent(*parent, name).map(drop),
            Record::RenameDirent { parent, from, name, ino, kind } => {
                let cookie = self.del_dirent(*parent, from)?;
                self.put_dirent(*parent, name, (*ino, *kind), cookie)
            }
            Record::PutXattr(ino, name, value) => {
                self.table.put(key_name(b'x', ino.0, name), value.clone());
                self.xattr_changed(*ino, name)
            }
            Record::DelXattr(ino, name) => {
                self.take_out(key_name(b'x', ino.0, name))?;
                self.xattr_changed(*ino, name)
            }
            Record::PutExtent(ino, e) => self.put_extent(*ino, e),
            Record::PutPrimer { id, ino, frame } => self.put_primer(*id, *ino, *frame),
            Record::PutModel(m) => {
                let mut o = Out::default();
                o.model(m);
                self.table.put(key(b'm', m.number.into()), o.0);
                Ok(())
            }
            Record::Punch { ino, off, len } => self.punch(*ino, *off, *len),
            Record::Cut { ino, off, len } => self.cut(*ino, *off..off.saturating_add(*len)),
            Record::Move { from, to } => self.relocate(*from, *to),
            Record::Shutdown { .. } => Ok(()),
        }
    }

    fn put_inode(&mut self, ino: Ino, attr: &Attr) -> Result<()> {
        let old = self.inode(ino)?;
        if old.is_none() {
            add(&mut self.totals.inodes, 1);
            add(&mut self.totals.files, u64::from(!attr.is_dir()));
        }
        let was_orphan = old.is_some_and(|a| a.nlink == 0);
        match (was_orphan, attr.nlink == 0) {
            (false, true) => self.table.put(key(b'o', ino.0), Vec::new()),
            (true, false) => self.table.del(key(b'o', ino.0)),
            _ => {}
        }
        self.totals.last_ino = self.totals.last_ino.max(ino.0);
        let mut o = Out::default();
        o.attr(attr);
        self.table.put(key(b'i', ino.0), o.0);
        Ok(())
    }

    fn del_inode(&mut self, ino: Ino) -> Result<()> {
        let Some(v) = self.take_out(key(b'i', ino.0))? else { return Ok(()) };
        let attr = In(&v).attr().ok_or_else(|| bad("inode"))?;
        self.totals.inodes = self.totals.inodes.saturating_sub(1);
        self.totals.files = self.totals.files.saturating_sub(u64::from(!attr.is_dir()));
        if attr.nlink == 0 {
            self.table.del(key(b'o', ino.0));
        }
        if attr.file_type() == libc::S_IFLNK {
            self.table.del(key(b'l', ino.0));
        }
        for (k, _) in self.table.scan(&key(b'x', ino.0), &after(b'x', ino.0), usize::MAX)? {
            self.table.del(k);
        }
        self.count_as_gone(ino)?;
        // What was cut before goes on going.
        if self.cuts.is_whole(ino) {
            return Ok(());
        }
        self.punch(ino, 0, u64::MAX)
    }

    fn xattr_changed(&mut self, ino: Ino, name: &[u8]) -> Result<()> {
        if name == MODEL_XATTR { self.count_by_model(ino) } else { Ok(()) }
    }

    /// Removes a name; its cookie, if it was there.
    fn del_dirent(&mut self, parent: Ino, name: &[u8]) -> Result<Option<u64>> {
        let Some(v) = self.take_out(key_name(b'd', parent.0, name))? else { return Ok(None) };
        let cookie = In(&v).u64().ok_or_else(|| bad("name"))?;
        self.table.del(key2(b'c', parent.0, cookie));
        Ok(Some(cookie))
    }

    /// Puts a name with the cookie it has, else with that of before, else with a new one.
    fn put_dirent(
        &mut self,
        parent: Ino,
        name: &[u8],
        (ino, kind): (Ino, u32),
        before: Option<u64>,
    ) -> Result<()> {
        let k = key_name(b'd', parent.0, name);
        let cookie = if let Some(v) = self.table.get(&k)? {
            In(&v).u64().ok_or_else(|| bad("name"))?
        } else if let Some(before) = before {
            before
        } else {
            self.totals.last_cookie =
                self.totals.last_cookie.max(FIRST_COOKIE - 1).saturating_add(1);
            self.totals.last_cookie
        };
        let mut o = Out::default();
        o.u64(cookie).u64(ino.0).u32(kind);
        self.table.put(k, o.0);
        let mut o = Out::default();
        o.u64(ino.0).u32(kind).bytes(name);
        self.table.put(key2(b'c', parent.0, cookie), o.0);
        Ok(())
    }

    pub(super) fn live(&self, f: FrameRef) -> Result<Option<Live>> {
        let v = self.table.get(&key_frame(f.segment, f.offset))?;
        v.map(|v| Live::decode(&v).ok_or_else(|| bad("frame entry"))).transpose()
    }

    fn count(&mut self, segment: u32, l: &Live, alive: bool) {
        let t = &mut self.totals;
        let parity = self.settings.code.parity_in((l.len as usize).saturating_sub(OVERHEAD)) as u64;
        let (whole, bytes) = (u64::from(l.len), u64::from(l.len).saturating_sub(parity));
        let live = t.live_mut(segment);
        *live = if alive { live.saturating_add(whole) } else { live.saturating_sub(whole) };
        let sum = if l.staged { &mut t.staged } else { &mut t.coded };
        if alive {
            add(sum, bytes);
            add(&mut t.parity, parity);
            add(&mut t.frames, 1);
            if l.model != 0 {
                add(t.models.entry(l.model).or_default(), 1);
            }
        } else {
            *sum = sum.saturating_sub(bytes);
            t.parity = t.parity.saturating_sub(parity);
            t.frames = t.frames.saturating_sub(1);
            if let Some(n) = t.models.get_mut(&l.model) {
                *n = n.saturating_sub(1);
            }
        }
    }

    /// One more reference to a frame; `fresh` describes it if it is the first.
    pub(in crate::store) fn hold(&mut self, f: FrameRef, fresh: Live) -> Result<()> {
        let l = if let Some(l) = self.live(f)? {
            let used = l.used.saturating_add(fresh.used);
            let more = Live { refs: l.refs.saturating_add(1), used, ..l };
            self.note_thin(f, Some(&l), Some(&more));
            more
        } else {
            self.count(f.segment, &fresh, true);
            let first = Live { refs: 1, ..fresh };
            self.note_thin(f, None, Some(&first));
            first
        };
        self.table.put(key_frame(f.segment, f.offset), l.encode());
        Ok(())
    }

    /// One more reference to a frame; false if there are none, as in a forged store.
    pub(in crate::store) fn hold_again(&mut self, f: FrameRef) -> Result<bool> {
        let Some(l) = self.live(f)? else { return Ok(false) };
        self.hold(f, Live { used: 0, ..l }).map(|()| true)
    }

    /// One reference less, and so many bytes of the frame that it was to.
    pub(in crate::store) fn release(&mut self, f: FrameRef, used: u64) -> Result<()> {
        let Some(l) = self.live(f)? else { return Ok(()) };
        let k = key_frame(f.segment, f.offset);
        if l.refs > 1 {
            let used = l.used.saturating_sub(used.try_into().unwrap_or(u32::MAX));
            let less = Live { refs: l.refs - 1, used, ..l };
            self.note_thin(f, Some(&l), Some(&less));
            self.table.put(k, less.encode());
        } else {
            self.table.del(k);
            self.count(f.segment, &l, false);
            self.note_thin(f, Some(&l), None);
        }
        Ok(())
    }

    fn primer_entry(&self, id: u64) -> Result<Option<PrimerEntry>> {
        let Some(v) = self.table.get(&key(b'p', id))? else { return Ok(None) };
        let mut i = In(&v);
        let e = (|| Some(PrimerEntry { ino: Ino(i.u64()?), frame: i.frame()?, refs: i.u64()? }))();
        e.ok_or_else(|| bad("primer")).map(Some)
    }

    fn put_primer_entry(&mut self, id: u64, e: &PrimerEntry) {
        let mut o = Out::default();
        o.u64(e.ino.0).frame(e.frame).u64(e.refs);
        self.table.put(key(b'p', id), o.0);
    }

    fn put_primer(&mut self, id: u64, ino: Ino, frame: FrameRef) -> Result<()> {
        self.totals.last_ino = self.totals.last_ino.max(id);
        let fresh = Live {
            len: frame.len,
            refs: 1,
            staged: false,
            shared: false,
            primer: id,
            model: 0,
            ino,
            off: 0,
            plain_len: 0,
            used: 0,
        };
        self.hold(frame, fresh)?;
        self.put_primer_entry(id, &PrimerEntry { ino, frame, refs: 0 });
        Ok(())
    }

    /// Counts extents that name a primer; it goes with the last of them.
    pub(in crate::store) fn name_primer(&mut self, id: u64, more: bool) -> Result<()> {
        if id == 0 {
            return Ok(());
        }
        let Some(mut e) = self.primer_entry(id)? else { return Ok(()) };
        e.refs = if more { e.refs.saturating_add(1) } else { e.refs.saturating_sub(1) };
        if e.refs == 0 {
            self.table.del(key(b'p', id));
            return self.release(e.frame, 0);
        }
        self.put_primer_entry(id, &e);
        Ok(())
    }

    fn relocate(&mut self, from: FrameRef, to: FrameRef) -> Result<()> {
        let Some(l) = self.live(from)? else { return Ok(()) };
        self.table.del(key_frame(from.segment, from.offset));
        self.count(from.segment, &l, false);
        self.table.put(key_frame(to.segment, to.offset), l.encode());
        self.count(to.segment, &l, true);
        if l.primer != 0 {
            if let Some(mut e) = self.primer_entry(l.primer)? {
                e.frame = to;
                self.put_primer_entry(l.primer, &e);
            }
            return Ok(());
        }
        if l.shared {
            return self.relocate_shared(&l, from, to);
        }
        for e in
            self.mapped_in(l.ino, &(l.off..l.off.saturating_add(l.plain_len.into())), usize::MAX)?
        {
            self.relocate_extent(l.ino, &e, from, to);
        }
        Ok(())
    }

    /// Attributes.
    pub fn inode(&self, ino: Ino) -> Result<Option<Attr>> {
        let v = self.table.get(&key(b'i', ino.0))?;
        v.map(|v| In(&v).attr().ok_or_else(|| bad("inode"))).transpose()
    }

    /// Target of a symbolic link.
    pub fn symlink(&self, ino: Ino) -> Result<Option<Vec<u8>>> {
        self.table.get(&key(b'l', ino.0))
    }

    /// A name.
    pub fn dirent(&self, parent: Ino, name: &[u8]) -> Result<Option<Dirent>> {
        let Some(v) = self.table.get(&key_name(b'd', parent.0, name))? else { return Ok(None) };
        let mut i = In(&v);
        let d = (|| {
            let (cookie, ino, kind) = (i.u64()?, Ino(i.u64()?), i.u32()?);
            Some(Dirent { name: name.to_vec(), ino, kind, cookie })
        })();
        d.ok_or_else(|| bad("name")).map(Some)
    }

    /// Names with a cookie above `after_cookie`.
    pub fn dirents(&self, parent: Ino, after_cookie: u64, max: usize) -> Result<Vec<Dirent>> {
        let lo = key2(b'c', parent.0, after_cookie.saturating_add(1));
        let pairs = self.table.scan(&lo, &after(b'c', parent.0), max)?;
        let entry = |(k, v): Pair| {
            let mut i = In(&v);
            let (ino, kind) = (Ino(i.u64()?), i.u32()?);
            Some(Dirent { name: i.bytes()?, ino, kind, cookie: tail_u64(&k) })
        };
        pairs.into_iter().map(|p| entry(p).ok_or_else(|| bad("name"))).collect()
    }

    /// An extended attribute.
    pub fn xattr(&self, ino: Ino, name: &[u8]) -> Result<Option<Vec<u8>>> {
        self.table.get(&key_name(b'x', ino.0, name))
    }

    /// Names of extended attributes.
    pub fn xattrs(&self, ino: Ino) -> Result<Vec<Vec<u8>>> {
        let pairs = self.table.scan(&key(b'x', ino.0), &after(b'x', ino.0), usize::MAX)?;
        Ok(pairs.into_iter().filter_map(|(k, _)| Some(k.get(9..)?.to_vec())).collect())
    }

    /// Where a primer lies.
    pub fn primer(&self, id: u64) -> Result<Option<FrameRef>> {
        Ok(self.primer_entry(id)?.map(|e| e.frame))
    }

    /// All models.
    pub fn models(&self) -> Result<Vec<ModelEntry>> {
        let pairs = self.table.scan(b"m", b"n", usize::MAX)?;
        pairs.into_iter().map(|(_, v)| In(&v).model().ok_or_else(|| bad("model"))).collect()
    }

    fn inos(&self, letter: u8) -> Result<Vec<Ino>> {
        let pairs = self.table.scan(&[letter], &[letter + 1], usize::MAX)?;
        Ok(pairs.into_iter().map(|(k, _)| Ino(tail_u64(&k))).collect())
    }

    /// Inodes without a name.
    pub fn orphans(&self) -> Result<Vec<Ino>> {
        self.inos(b'o')
    }

    /// Inodes with staged extents.
    pub fn staged_inodes(&self) -> Result<Vec<Ino>> {
        self.inos(b's')
    }

    /// Live frames of a segment, at most `max`, from offset `from` on.
    pub fn frames(&self, segment: u32, from: u32, max: usize) -> Result<Vec<(FrameRef, Live)>> {
        let hi = segment.checked_add(1).map_or_else(|| vec![b'g'], |s| key_frame(s, 0));
        let pairs = self.table.scan(&key_frame(segment, from), &hi, max)?;
        let entry = |(k, v): Pair| {
            let l = Live::decode(&v)?;
            let offset = tail_u64(&k) as u32;
            Some((FrameRef { segment, offset, len: l.len }, l))
        };
        pairs.into_iter().map(|p| entry(p).ok_or_else(|| bad("frame entry"))).collect()
    }
}
