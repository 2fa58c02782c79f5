//! One run from staged to coded: read, encode (which verifies by decoding), swap.

use super::plan::Run;
use crate::block::{self, BlockError, Encoded, Lm, Primer, Tier};
use crate::blocks::{BlockReader, LastPrimer, Policy, ReadError};
use crate::store::{Guard, StoreError, Txn};
use crate::types::{Encoding, Extent, Frame, FrameMeta, FrameRef, Ino, Share};
use std::sync::{Arc, Mutex, PoisonError};

/// How one inode's runs are coded: tier and primer. Shared by the workers.
#[derive(Debug)]
pub struct Recipe {
    tier: Tier,
    /// The store's number of the tier's model.
    model: u16,
    primer: Mutex<PrimerState>,
}

#[derive(Debug)]
enum PrimerState {
    /// Not looked at yet. The id is that of a stored primer, 0 if the inode has none so far.
    Unread { id: u64, wanted: bool },
    /// The inode's blocks are coded without.
    None,
    /// Ready, with its coded form until a transaction has brought it along.
    Ready { id: u64, primer: Primer, bring: Option<Encoded> },
}

impl Recipe {
    /// `tier` and the store's number of its model; `primer`: the one that coded blocks of the inode
    /// already name, or 0; `wanted`: whether to make one if there is none that serves.
    pub fn new(tier: Tier, model: u16, primer: u64, wanted: bool) -> Self {
        let wanted = wanted && Primer::LEN > 0;
        Self { tier, model, primer: Mutex::new(PrimerState::Unread { id: primer, wanted }) }
    }

    /// True if what it codes has no primer, and will have none.
    pub fn is_shareable(&self) -> bool {
        let state = self.primer.lock().unwrap_or_else(PoisonError::into_inner);
        matches!(*state, PrimerState::Unread { id: 0, wanted: false })
    }

    /// True if both code in the same way, primers apart.
    pub fn agrees(&self, other: &Self) -> bool {
        let same = match (&self.tier.lm, &other.tier.lm) {
            (Some(a), Some(b)) => a.is(b),
            (a, b) => a.is_none() && b.is_none(),
        };
        same && self.model == other.model && self.tier.words == other.tier.words
    }

    /// The primer, made from the head of the file if there is none yet.
    fn primer(&self, blocks: &BlockReader, ino: Ino) -> Option<Primer> {
        let mut state = self.primer.lock().unwrap_or_else(PoisonError::into_inner);
        if let PrimerState::Unread { id, wanted } = *state {
            *state = self.ready(blocks, ino, id, wanted).unwrap_or_else(|e| {
                log::warn!("inode {ino}: no primer: {e}");
                PrimerState::None
            });
        }
        match &*state {
            PrimerState::Ready { primer, .. } => Some(primer.clone()),
            _ => None,
        }
    }

    fn ready(
        &self,
        blocks: &BlockReader,
        ino: Ino,
        id: u64,
        wanted: bool,
    ) -> Result<PrimerState, ReadError> {
        let store = blocks.store();
        if id != 0
            && let Some(at) = store.primer(id)?
        {
            let primer = blocks.primer(id, at)?;
            let own = self.tier.lm.as_deref().map(Lm::id);
            // One of another model would hold the file to that model.
            if primer.lm().is_none_or(|lm| Some(lm.id()) == own) {
                return Ok(PrimerState::Ready { id, primer, bring: None });
            }
        }
        if !wanted {
            return Ok(PrimerState::None);
        }
        let head = store.extents_in(ino, 0, Primer::LEN as u64)?;
        let mut run = Run { off: 0, len: Primer::LEN as u64, extents: head };
        match read_run(blocks, ino, &mut run, &mut Last::default())? {
            Some(plain) if block::looks_like_text(&plain) => {
                let at = run.extents.first().map_or(FrameRef::default(), |e| e.frame);
                let (primer, coded) = Primer::make(plain, &self.tier)
                    .map_err(|source| ReadError::Block { frame: at, source })?;
                let id = store.next_ino().0;
                Ok(PrimerState::Ready { id, primer, bring: Some(coded) })
            }
            _ => Ok(PrimerState::None),
        }
    }

    /// The frame of something coded by this recipe.
    fn frame(&self, ino: Ino, off: u64, generation: u64, plain: &[u8], e: Encoded) -> Frame {
        Frame {
            ino,
            off,
            meta: FrameMeta {
                encoding: e.encoding,
                staged: false,
                shared: false,
                model: if e.encoding == Encoding::Lm { self.model } else { 0 },
                plain_len: plain.len() as u32,
                generation,
                primer: 0,
            },
            plain_hash: block::plain_hash(plain),
            payload: e.payload,
        }
    }
}

/// Runs that are coded at a time, by one worker: one, or several that share a frame.
#[derive(Debug)]
pub struct Job {
    /// What is coded.
    pub runs: Vec<(Ino, Run)>,
    /// How.
    pub recipe: Arc<Recipe>,
}

impl Job {
    /// Bytes of the files.
    pub fn len(&self) -> u64 {
        self.runs.iter().map(|(_, run)| run.len).sum()
    }
}

/// What a worker read last: neighbours may be pieces of the same frame, or have the same primer.
#[derive(Debug, Default)]
pub struct Last {
    primer: LastPrimer,
    frame: Option<(FrameRef, Arc<Vec<u8>>)>,
}

impl Last {
    /// The plaintext of the frame that an extent is of.
    fn read(&mut self, blocks: &BlockReader, e: &Extent) -> Result<Arc<Vec<u8>>, ReadError> {
        if let Some((at, plain)) = &self.frame
            && *at == e.frame
        {
            return Ok(Arc::clone(plain));
        }
        let plain = blocks.read(e, Policy::Once(&mut self.primer))?;
        self.frame = Some((e.frame, Arc::clone(&plain)));
        Ok(plain)
    }
}

/// What coding came to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Coded {
    /// Runs.
    pub runs: u64,
    /// Bytes of the files.
    pub text: u64,
    /// Bytes of their new frames, headers, parity and primers included.
    pub frames: u64,
}

impl Coded {
    /// Adds what other runs came to.
    pub fn add(&mut self, other: Self) {
        self.runs += other.runs;
        self.text += other.text;
        self.frames += other.frames;
    }
}

/// Codes one run and swaps it in. Nothing is coded if somebody else changed the range meanwhile.
fn code_run(
    blocks: &BlockReader,
    ino: Ino,
    run: &Run,
    recipe: &Recipe,
    last: &mut Last,
) -> Result<Coded, ReadError> {
    let mut run = run.clone();
    let Some(plain) = read_run(blocks, ino, &mut run, last)? else { return Ok(Coded::default()) };
    let primer = recipe.primer(blocks, ino);
    let Some(encoded) = encoded(&plain, primer.as_ref(), recipe, &run)? else {
        return Ok(Coded::default());
    };
    let generation = run.generation();
    // Held over the append, so that only one transaction brings the primer's frame along.
    let mut state = recipe.primer.lock().unwrap_or_else(PoisonError::into_inner);
    let mut primer_id = 0;
    let mut brought = None;
    if let PrimerState::Ready { id, primer, bring } = &*state
        && encoded.primed
    {
        primer_id = *id;
        brought =
            bring.clone().map(|coded| recipe.frame(ino, 0, generation, primer.plain(), coded));
    }
    let mut frame = recipe.frame(ino, run.off, generation, &plain, encoded);
    frame.meta.primer = primer_id;
    loop {
        let mut txn = Txn::default().only_if(unchanged(ino, &run));
        if let Some(primer) = &brought {
            txn = txn.primer(primer_id, primer.clone());
        }
        match blocks.store().append(txn.map(frame.clone())) {
            Ok(refs) => {
                if primer_id != 0
                    && let PrimerState::Ready { bring, .. } = &mut *state
                {
                    *bring = None;
                }
                let frames = refs.iter().map(|f| u64::from(f.len)).sum();
                return Ok(Coded { runs: 1, text: plain.len() as u64, frames });
            }
            Err(StoreError::Conflict) => match moved(blocks, ino, &run)? {
                Some(now) => run = now,
                None => return Ok(Coded::default()),
            },
            Err(e) => return Err(e.into()),
        }
    }
}

/// Bytes coded with a recipe, smallest form first; `None` if they are not wanted any more.
fn encoded(
    plain: &[u8],
    primer: Option<&Primer>,
    recipe: &Recipe,
    run: &Run,
) -> Result<Option<Encoded>, ReadError> {
    match block::encode(plain, primer, &recipe.tier) {
        Ok(encoded) => Ok(Some(encoded)),
        Err(BlockError::Stopped) => Ok(None),
        Err(source) => {
            let frame = run.extents.first().map(|e| e.frame).unwrap_or_default();
            Err(ReadError::Block { frame, source })
        }
    }
}

/// The run is what it was.
fn unchanged(ino: Ino, run: &Run) -> Guard {
    Guard { ino, off: run.off, len: run.len, expect: run.extents.clone() }
}

/// Codes what a job holds, and swaps it in. Several runs share a frame, but for those that are no text. If
/// somebody changed one of their files meanwhile, nothing is coded of those that were to share: they are looked
/// at again. Also says what could not be coded, and why.
pub fn code_job(
    blocks: &BlockReader,
    job: &Job,
    last: &mut Last,
) -> (Coded, Vec<(Ino, u64, ReadError)>) {
    let (mut sum, mut failed) = (Coded::default(), Vec::new());
    let mut alone = |ino: Ino, run: &Run, last: &mut Last| {
        let coded = code_run(blocks, ino, run, &job.recipe, last);
        coded.map_or_else(|e| failed.push((ino, run.off, e)), |coded| sum.add(coded));
    };
    let (mut sharing, mut all) = (Vec::new(), Vec::new());
    for (ino, run) in &job.runs {
        let mut run = run.clone();
        let several = job.runs.len() > 1;
        let text = several.then(|| read_run(blocks, *ino, &mut run, last));
        match text {
            Some(Ok(Some(plain))) if block::looks_like_text(&plain) => {
                all.extend_from_slice(&plain);
                sharing.push((*ino, run));
            }
            // What cannot be read says so there.
            _ => alone(*ino, &run, last),
        }
    }
    match &sharing[..] {
        [] => {}
        [(ino, run)] => alone(*ino, run, last),
        [(first, run), ..] => {
            let (first, off) = (*first, run.off);
            match code_shared(blocks, sharing, &all, &job.recipe) {
                Ok(coded) => sum.add(coded),
                Err(e) => failed.push((first, off, e)),
            }
        }
    }
    (sum, failed)
}

/// Codes what several runs hold, one behind the other, into one frame.
fn code_shared(
    blocks: &BlockReader,
    mut runs: Vec<(Ino, Run)>,
    plain: &[u8],
    recipe: &Recipe,
) -> Result<Coded, ReadError> {
    let Some(encoded) = encoded(plain, None, recipe, &runs[0].1)? else {
        return Ok(Coded::default());
    };
    let share = |(ino, run): &(Ino, Run)| Share {
        ino: *ino,
        generation: run.generation(),
        len: run.len as u32,
    };
    let shares: Vec<Share> = runs.iter().map(share).collect();
    let generation = shares.iter().map(|s| s.generation).max().unwrap_or(0);
    let frame = recipe.frame(Ino(0), 0, generation, plain, encoded);
    loop {
        let guarded = |txn: Txn, (ino, run): &(Ino, Run)| txn.only_if(unchanged(*ino, run));
        let txn = runs.iter().fold(Txn::default(), guarded).share(frame.clone(), &shares);
        match blocks.store().append(txn) {
            Ok(refs) => {
                let frames = refs.iter().map(|f| u64::from(f.len)).sum();
                return Ok(Coded { runs: runs.len() as u64, text: plain.len() as u64, frames });
            }
            Err(StoreError::Conflict) => {}
            Err(e) => return Err(e.into()),
        }
        let mut any = false;
        for (ino, run) in &mut runs {
            let extents = blocks.store().extents_in(*ino, run.off, run.len)?;
            if extents == run.extents {
                continue;
            }
            any = true;
            match moved(blocks, *ino, run)? {
                Some(now) => *run = now,
                None => return Ok(Coded::default()),
            }
        }
        if !any {
            // It was the model that went.
            return Ok(Coded::default());
        }
    }
}

/// The run's bytes, or `None` if its extents leave a hole in it or it is not what it was. `run` is
/// then as it is now.
fn read_run(
    blocks: &BlockReader,
    ino: Ino,
    run: &mut Run,
    last: &mut Last,
) -> Result<Option<Vec<u8>>, ReadError> {
    loop {
        match read_extents(blocks, run, last) {
            Err(ReadError::Store(StoreError::Outdated(_))) => match moved(blocks, ino, run)? {
                Some(now) => *run = now,
                None => return Ok(None),
            },
            // What is wrong with bytes that somebody has replaced meanwhile is nobody's trouble.
            Err(_) if blocks.store().extents_in(ino, run.off, run.len)? != run.extents => {
                return Ok(None);
            }
            read => return read,
        }
    }
}

/// A run whose frames the cleaner has moved, as it is now; `None` if that is not all that happened.
fn moved(blocks: &BlockReader, ino: Ino, run: &Run) -> Result<Option<Run>, ReadError> {
    let extents = blocks.store().extents_in(ino, run.off, run.len)?;
    let same = |(then, now): (&Extent, &Extent)| Extent { frame: now.frame, ..*then } == *now;
    let all = extents.len() == run.extents.len() && run.extents.iter().zip(&extents).all(same);
    Ok((all && extents != run.extents).then_some(Run { extents, ..*run }))
}

/// The bytes that a run's extents make up, or `None` if they leave a hole in it.
fn read_extents(
    blocks: &BlockReader,
    run: &Run,
    last: &mut Last,
) -> Result<Option<Vec<u8>>, ReadError> {
    let end = run.off + run.len;
    let mut out = Vec::with_capacity(run.len as usize);
    for e in &run.extents {
        let from = e.off.max(run.off);
        let to = e.end().min(end);
        if from != run.off + out.len() as u64 || to <= from {
            return Ok(None);
        }
        let plain = last.read(blocks, e)?;
        let at = e.frame_off as usize + (from - e.off) as usize;
        match plain.get(at..at + (to - from) as usize) {
            Some(part) => out.extend_from_slice(part),
            None => return Err(ReadError::Hash(e.frame)),
        }
    }
    Ok((out.len() as u64 == run.len).then_some(out))
}
