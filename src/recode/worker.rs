//! One run from staged to coded: read, encode (which verifies by decoding), swap.

use super::plan::Run;
use crate::block::{self, Primer};
use crate::fetch::{self, FetchError};
use crate::store::{Guard, NewFrame, Op, Store, StoreError, Txn};
use crate::types::Ino;
use std::sync::{Mutex, PoisonError};

/// The primer of one inode while its runs are being coded; shared by the workers.
#[derive(Debug)]
pub struct PrimerSlot {
    state: Mutex<SlotState>,
}

#[derive(Debug)]
enum SlotState {
    /// Not looked at yet. The id is that of a stored primer, 0 if the inode has none so far.
    Unread { id: u64, wanted: bool },
    /// The inode's blocks are coded without.
    None,
    /// Ready; `stored` once a durable-to-be transaction holds its frame.
    Ready { id: u64, primer: Primer, stored: bool },
}

impl PrimerSlot {
    /// `id`: the primer that coded blocks of the inode already name, or 0. `wanted`: whether to
    /// make one if there is none.
    pub fn new(id: u64, wanted: bool) -> Self {
        Self { state: Mutex::new(SlotState::Unread { id, wanted: wanted && Primer::LEN > 0 }) }
    }

    /// The primer, made from the head of the file if there is none yet.
    fn get(&self, store: &Store, ino: Ino) -> Option<Primer> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if let SlotState::Unread { id, wanted } = *state {
            *state = Self::ready(store, ino, id, wanted).unwrap_or_else(|e| {
                log::warn!("inode {ino}: no primer: {e}");
                SlotState::None
            });
        }
        match &*state {
            SlotState::Ready { primer, .. } => Some(primer.clone()),
            _ => None,
        }
    }

    fn ready(store: &Store, ino: Ino, id: u64, wanted: bool) -> Result<SlotState, FetchError> {
        if id != 0 {
            let at = store.primer(id)?;
            if let Some(at) = at {
                let primer = fetch::primer(store, id, at)?;
                return Ok(SlotState::Ready { id, primer, stored: true });
            }
        }
        if !wanted {
            return Ok(SlotState::None);
        }
        let head = store.extents_in(ino, 0, Primer::LEN as u64)?;
        let run = Run { off: 0, len: Primer::LEN as u64, extents: head };
        match read_run(store, &run)? {
            Some(plain) if block::looks_like_text(&plain) => Ok(SlotState::Ready {
                id: store.next_ino().0,
                primer: Primer::new(plain),
                stored: false,
            }),
            _ => Ok(SlotState::None),
        }
    }
}

/// Codes one run and swaps it in. `Ok(0)` if somebody else changed the range meanwhile; else the
/// number of bytes coded.
pub fn code_run(store: &Store, ino: Ino, run: &Run, slot: &PrimerSlot) -> Result<u64, FetchError> {
    let Some(plain) = read_run(store, run)? else { return Ok(0) };
    let primer = slot.get(store, ino);
    let encoded = block::encode(&plain, primer.as_ref());
    let generation = run.extents.iter().map(|e| e.generation).max().unwrap_or(0);
    let mut txn = Txn {
        guard: Some(Guard { ino, off: run.off, len: run.len, expect: run.extents.clone() }),
        ..Txn::default()
    };
    // Held over the append, so that only one transaction brings the primer's frame along.
    let mut state = slot.state.lock().unwrap_or_else(PoisonError::into_inner);
    let mut primer_id = 0;
    let mut brings_primer = false;
    if let SlotState::Ready { id, primer, stored } = &*state
        && encoded.primed
    {
        primer_id = *id;
        brings_primer = !*stored;
        if brings_primer {
            let coded = block::encode(primer.plain(), None);
            txn.ops.push(Op::PutPrimer { id: *id, frame: 0 });
            txn.frames.push(NewFrame {
                ino,
                off: 0,
                form: coded.form,
                staged: false,
                generation,
                plain_len: primer.plain().len() as u32,
                plain_hash: block::plain_hash(primer.plain()),
                primer: 0,
                model: 0,
                payload: coded.payload,
            });
        }
    }
    txn.ops.push(Op::PutExtent { frame: txn.frames.len() });
    txn.frames.push(NewFrame {
        ino,
        off: run.off,
        form: encoded.form,
        staged: false,
        generation,
        plain_len: plain.len() as u32,
        plain_hash: block::plain_hash(&plain),
        primer: primer_id,
        model: 0,
        payload: encoded.payload,
    });
    match store.append(txn) {
        Ok(_) => {
            if brings_primer && let SlotState::Ready { stored, .. } = &mut *state {
                *stored = true;
            }
            Ok(plain.len() as u64)
        }
        Err(StoreError::Conflict) => Ok(0),
        Err(e) => Err(e.into()),
    }
}

/// The run's bytes, or `None` if its extents leave a hole in it.
fn read_run(store: &Store, run: &Run) -> Result<Option<Vec<u8>>, FetchError> {
    let end = run.off + run.len;
    let mut out = Vec::with_capacity(run.len as usize);
    let mut primers: Option<(u64, Primer)> = None;
    for e in &run.extents {
        let from = e.off.max(run.off);
        let to = e.end().min(end);
        if from != run.off + out.len() as u64 || to <= from {
            return Ok(None);
        }
        if e.primer != 0 && primers.as_ref().is_none_or(|(id, _)| *id != e.primer) {
            primers = Some((e.primer, fetch::primer(store, e.primer, e.frame)?));
        }
        let primer = primers.as_ref().filter(|(id, _)| *id == e.primer).map(|(_, p)| p);
        let plain = fetch::frame(store, e, primer)?;
        let at = e.frame_off as usize + (from - e.off) as usize;
        match plain.get(at..at + (to - from) as usize) {
            Some(part) => out.extend_from_slice(part),
            None => return Err(FetchError::Hash(e.frame)),
        }
    }
    Ok((out.len() as u64 == run.len).then_some(out))
}
