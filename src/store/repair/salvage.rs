//! A store that has lost its namespace, or a part of its history: what the frames of files still tell.
//!
//! A frame's header names its inode, its place in the file and its generation. So files come back with
//! their bytes where they were, the newest frame on top, but without names and attributes.

use super::report::Problem;
use crate::store::api::{ModelEntry, Result, StoreError};
use crate::store::log::footer::summary;
use crate::store::log::frame::{Header, Kind};
use crate::store::log::record::Record;
use crate::store::log::replay::{Loss, read_batch};
use crate::store::log::shares;
use crate::store::log::superblock::SEGMENT_HEADER;
use crate::store::{Store, lock};
use crate::types::{Attr, Extent, FrameMeta, FrameRef, Ino, Share};
use std::collections::BTreeSet;
use std::collections::btree_map::{BTreeMap, Entry};
use std::sync::atomic::Ordering;

/// What others are told who open such a store.
pub fn refusal(shown: &str) -> StoreError {
    StoreError::Refused(format!(
        "{shown} has lost its namespace: no checkpoint of its log has a root directory. It is not \
         empty; lmfs fsck --repair {shown} brings back what its log still tells"
    ))
}

/// Changes made under one hold of the writer's lock.
const BATCH: usize = 500;

/// A frame of a file, a file's part of one, or a primer.
#[derive(Debug, Clone, Copy)]
struct Found {
    at: FrameRef,
    meta: FrameMeta,
    ino: u64,
    /// Offset in the file.
    off: u64,
    len: u32,
    /// Offset in the frame's plaintext.
    frame_off: u32,
}

impl Found {
    fn new(at: FrameRef, h: &Header) -> Self {
        Self { at, meta: h.meta, ino: h.ino, off: h.off, len: h.meta.plain_len, frame_off: 0 }
    }

    /// The parts of a frame of files' data; none if nobody knows whose they are.
    fn parts(at: FrameRef, h: &Header, frame: &[u8]) -> Vec<Self> {
        let whole = Self::new(at, h);
        if !h.meta.shared {
            return vec![whole];
        }
        let table = shares::split(h.payload(frame), h.meta.plain_len);
        let mut frame_off = 0;
        let mut part = |share: Share| {
            let meta = FrameMeta { generation: share.generation, ..h.meta };
            let part = Self { meta, ino: share.ino.0, off: 0, len: share.len, frame_off, ..whole };
            frame_off += share.len;
            part
        };
        table.map_or_else(Vec::new, |(shares, _)| shares.into_iter().map(&mut part).collect())
    }

    fn end(&self) -> u64 {
        self.off.saturating_add(self.len.into())
    }

    fn extent(&self) -> Extent {
        Extent {
            off: self.off,
            len: self.len.into(),
            frame: self.at,
            frame_off: self.frame_off,
            meta: self.meta,
        }
    }
}

/// What lies in the log.
#[derive(Debug, Default)]
struct InLog {
    /// Readable frames of files.
    data: Vec<Found>,
    /// Readable primers, in the order of the log.
    primers: Vec<Found>,
    /// Inodes that were deleted.
    deleted: BTreeSet<u64>,
}

impl InLog {
    /// The primer of this id. Its frame says so; in stores of before, the owner's last one ahead of the
    /// first frame that names it is taken: they were written together.
    fn primer(&self, id: u64, owner: u64) -> Option<FrameRef> {
        if let Some(p) = self.primers.iter().rev().find(|p| p.meta.primer == id) {
            return Some(p.at);
        }
        let first = self.data.iter().filter(|f| f.meta.primer == id).map(|f| f.at).min()?;
        let own = |p: &&Found| p.meta.primer == 0 && p.ino == owner;
        let ahead = self.primers.iter().rev().filter(own).find(|p| p.at < first);
        ahead.or_else(|| self.primers.iter().find(own)).map(|p| p.at)
    }
}

/// What is missing in the table, and the changes that bring it back.
#[derive(Debug, Default)]
struct Plan {
    /// Frames of inodes that nothing tells of, oldest first.
    strangers: Vec<Found>,
    /// Frames of other inodes that are newer than what is there.
    newer: Vec<Found>,
}

impl Store {
    /// Looks for what a store that has lost its namespace or a part of its history still holds. With
    /// `repair`, it is entered again; files without a name are left to [`Store::check_namespace`].
    /// Nobody else may use the store meanwhile.
    pub fn salvage(&self, repair: bool) -> Result<Vec<Problem>> {
        let loss = *lock(&self.loss);
        let mut problems = Vec::new();
        let mut say = |reason: String| problems.push(Problem { ino: Ino::ROOT, reason });
        if loss.namespace {
            say("the archive has lost its namespace: no checkpoint has a root directory".into());
        }
        if loss.batches {
            say("the log has lost batches: what they changed is as it was before".into());
        }
        if !loss.any() {
            return Ok(problems);
        }
        // Where no batch is missing, all that frames could tell is known, deletions too.
        let all = if loss.batches { self.in_log()? } else { InLog::default() };
        let plan = self.plan(&all)?;
        let files: BTreeSet<u64> = plan.strangers.iter().map(|f| f.ino).collect();
        if !files.is_empty() {
            let (files, frames) = (files.len(), plan.strangers.len());
            say(format!("{files} files are known by their frames only, {frames} in all"));
        }
        if !plan.newer.is_empty() {
            say(format!("{} frames of other files are known to nothing else", plan.newer.len()));
        }
        if repair {
            self.bring_back(&plan, &all)?;
            *lock(&self.loss) = Loss::default();
        }
        Ok(problems)
    }

    /// All frames of files that can be read.
    fn in_log(&self) -> Result<InLog> {
        let mut all = InLog::default();
        for (number, _) in self.segments.lens() {
            let (lines, _) = summary(&self.segments, number, SEGMENT_HEADER as u64)?;
            for line in lines {
                match line.kind {
                    Kind::Data | Kind::Primer => match self.segments.frame(line.frame) {
                        Ok((h, bytes)) if h.kind == Kind::Data => {
                            all.data.extend(Found::parts(line.frame, &h, &bytes));
                        }
                        Ok((h, _)) => all.primers.push(Found::new(line.frame, &h)),
                        // It is not lost: nothing may be made of what is left.
                        Err(e) if e.is_distant() => return Err(e),
                        Err(e) => ::log::error!("{e}"),
                    },
                    Kind::Batch => {
                        let batch = read_batch(&self.segments, line.frame)?;
                        let changes = batch.map_or_else(Vec::new, |g| g.changes());
                        all.deleted.extend(changes.into_iter().flatten().filter_map(|c| match c {
                            Record::DelInode(ino) => Some(ino.0),
                            _ => None,
                        }));
                    }
                    _ => {}
                }
            }
        }
        Ok(all)
    }

    fn plan(&self, all: &InLog) -> Result<Plan> {
        let mut data = all.data.clone();
        // What was coded anew or moved has the generation it had, and lies behind.
        data.sort_by_key(|f| (f.meta.generation, f.at));
        let mut plan = Plan::default();
        let mut newest: BTreeMap<u64, Option<u64>> = BTreeMap::new();
        for f in data {
            let ino = Ino(f.ino);
            // No writer makes a frame of the root, or of no bytes.
            if ino <= Ino::ROOT || all.deleted.contains(&f.ino) || f.meta.plain_len == 0 {
                continue;
            }
            if self.inode(ino)?.is_none() {
                plan.strangers.push(f);
                continue;
            }
            // An older frame was overwritten or cut off, for all that is known.
            let known = match newest.entry(f.ino) {
                Entry::Occupied(known) => *known.get(),
                Entry::Vacant(to_be) => {
                    let mut newest = None;
                    for e in self.extents(ino) {
                        newest = newest.max(Some(e?.meta.generation));
                    }
                    *to_be.insert(newest)
                }
            };
            if known.is_none_or(|g| g < f.meta.generation) {
                plan.newer.push(f);
            }
        }
        Ok(plan)
    }

    fn bring_back(&self, plan: &Plan, all: &InLog) -> Result<()> {
        let mut sizes: BTreeMap<u64, u64> = BTreeMap::new();
        let frames = || plan.strangers.iter().chain(&plan.newer);
        for f in frames() {
            let size = sizes.entry(f.ino).or_default();
            *size = f.end().max(*size);
        }
        let mut changes = Vec::new();
        if self.inode(Ino::ROOT)?.is_none() {
            let root = Attr::made_now(libc::S_IFDIR | 0o755);
            changes.push(Record::PutInode(Ino::ROOT, Attr { nlink: 2, ..root }));
        }
        for (ino, size) in sizes {
            let old = self.inode(Ino(ino))?;
            let attr = old.unwrap_or_else(|| Attr::made_now(libc::S_IFREG | 0o600));
            let attr = Attr { size: attr.size.max(size), ..attr };
            changes.push(Record::PutInode(Ino(ino), attr));
        }
        changes.extend(self.lost_models(frames().map(|f| f.meta.model).collect())?);
        self.enter(&changes)?;
        for some in frames().collect::<Vec<_>>().chunks(BATCH) {
            let mut changes = Vec::new();
            for f in some {
                let (id, owner) = (f.meta.primer, f.ino);
                // It goes with the last extent that names it, and comes again with the next.
                if id != 0
                    && self.primer(id)?.is_none()
                    && let Some(frame) = all.primer(id, owner)
                {
                    let primer = Record::PutPrimer { id, ino: Ino(owner), frame };
                    self.enter(&std::mem::take(&mut changes))?;
                    changes.push(primer);
                }
                changes.push(Record::PutExtent(Ino(owner), f.extent()));
                if id != 0 {
                    self.enter(&std::mem::take(&mut changes))?;
                }
            }
            self.enter(&changes)?;
        }
        let (ino, generation) = {
            let totals = &self.state().totals;
            (totals.last_ino, totals.last_generation)
        };
        self.last_ino.fetch_max(ino, Ordering::Relaxed);
        self.last_generation.fetch_max(generation, Ordering::Relaxed);
        // The next mount finds a root there.
        self.renew_checkpoint()
    }

    /// Entries for models that frames name and the table does not know, if only one can be meant. What
    /// it does not decode to the right bytes stays unreadable.
    fn lost_models(&self, named: BTreeSet<u16>) -> Result<Vec<Record>> {
        let known = self.models()?;
        let files = self.model_files()?;
        let unknown = named.into_iter().filter(|n| *n != 0 && known.iter().all(|m| m.number != *n));
        let [id] = files[..] else { return Ok(Vec::new()) };
        let entry = |number| ModelEntry {
            number,
            id,
            engine: crate::block::ENGINE,
            name: format!("lost-{number}"),
        };
        Ok(unknown.map(|number| Record::PutModel(entry(number))).collect())
    }

    /// Enters changes into the log and the table.
    fn enter(&self, changes: &[Record]) -> Result<()> {
        for some in changes.chunks(BATCH) {
            let mut w = lock(&self.writer);
            w.admits()?;
            w.ensure(some.len() as u64 * 256, true)?;
            if w.batch_is_full(some.len() * 256) {
                w.close_batch(self.durable.load(Ordering::Acquire))?;
            }
            let mut draft = self.draft(&w);
            for change in some {
                w.log(change);
                if let Err(e) = draft.apply(change) {
                    w.fail(&e.to_string());
                    return Err(e);
                }
            }
            self.publish(&mut w, draft);
        }
        Ok(())
    }
}
