//! The table of an open store, for those who must not hold its lock while the index is waited for.
//!
//! What is in memory is copied under the lock, the base is asked without it. The base changes only
//! when the flusher moves changes into it, and those stay in memory until they are there: what was
//! copied hides them, unless the move began after the copy was made. Then it is made again.

use super::base::{Base, Change, Pair, Pairs};
use super::cuts::Cuts;
use super::memtable::{Known, Table};
use super::state::State;
use super::totals::Totals;
use crate::store::Store;
use crate::store::api::{Result, StoreError};
use crate::store::log::writer::Writer;
use crate::types::Ino;
use std::collections::VecDeque;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

/// A view of a store's state that goes on changing.
#[derive(Debug, Clone)]
pub struct Live(Arc<RwLock<State>>);

impl Live {
    /// Of this state.
    pub fn new(state: Arc<RwLock<State>>) -> Self {
        Self(state)
    }

    fn read(&self) -> RwLockReadGuard<'_, State> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// At most `max` pairs with `lo <= key < hi`, or backwards from the last, as of one moment.
    pub fn pairs(&self, lo: &[u8], hi: &[u8], max: usize, back: bool) -> Result<Vec<Pair>> {
        /// Moves take much longer than what they disturb.
        const TRIES: usize = 8;
        for _ in 0..TRIES {
            let part = self.read().table.part(lo, hi, max, back);
            let pairs = part.pairs(lo, hi, max, back)?;
            if self.read().table.moves() == part.moves {
                return Ok(pairs);
            }
        }
        // No move begins as long as the lock is held.
        let state = self.read();
        state.table.part(lo, hi, max, back).pairs(lo, hi, max, back)
    }
}

impl Base for Live {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>> {
        let known = self.read().table.known(key);
        match known {
            Known::Is(value) => Ok(value),
            // Should the flusher put a newer value there first, that one is as good.
            Known::Ask(base) => base.get(key),
        }
    }
    fn range<'a>(&'a self, lo: &[u8], hi: &[u8]) -> Pairs<'a> {
        let (lo, hi) = (lo.to_vec(), hi.to_vec());
        let (front, back) = (VecDeque::new(), VecDeque::new());
        Box::new(Pages { live: self, lo, hi, front, back, next: FIRST, whole: false })
    }
    fn write(&self, _changes: &[Change]) -> Result<()> {
        Err(StoreError::Index("changes go through the log".into()))
    }
    fn flush(&self) -> Result<()> {
        Ok(())
    }
    fn is_volatile(&self) -> bool {
        true
    }
}

/// Pairs fetched first; the next time it is [`GROWTH`] times as many, up to [`MOST`].
const FIRST: usize = 2;
const GROWTH: usize = 8;
const MOST: usize = 1024;

/// Pairs of a range, some at a time. Each page is as of one moment; whoever needs more than one to
/// agree has to see to it that nothing changes, or that nothing has.
struct Pages<'a> {
    live: &'a Live,
    lo: Vec<u8>,
    hi: Vec<u8>,
    front: VecDeque<Pair>,
    back: VecDeque<Pair>,
    next: usize,
    /// All between front and back was fetched.
    whole: bool,
}

impl Pages<'_> {
    /// Fetches a page from one end.
    fn fetch(&mut self, back: bool) -> Result<()> {
        if self.whole || self.lo >= self.hi {
            self.whole = true;
            return Ok(());
        }
        let max = self.next;
        self.next = (max * GROWTH).min(MOST);
        let page = self.live.pairs(&self.lo, &self.hi, max, back)?;
        self.whole = page.len() < max;
        if let Some((last, _)) = page.last() {
            if back {
                self.hi.clone_from(last);
            } else {
                self.lo.clone_from(last);
                self.lo.push(0);
            }
        }
        let end = if back { &mut self.back } else { &mut self.front };
        end.extend(page);
        Ok(())
    }

    fn pair(&mut self, back: bool) -> Option<Result<Pair>> {
        let own = |s: &mut Self| if back { s.back.pop_front() } else { s.front.pop_front() };
        if let Some(pair) = own(self) {
            return Some(Ok(pair));
        }
        if let Err(e) = self.fetch(back) {
            self.whole = true;
            return Some(Err(e));
        }
        // At the end, what the other side fetched is left.
        let other = |s: &mut Self| if back { s.front.pop_back() } else { s.back.pop_back() };
        own(self).or_else(|| other(self)).map(Ok)
    }
}

impl Iterator for Pages<'_> {
    type Item = Result<Pair>;

    fn next(&mut self) -> Option<Self::Item> {
        self.pair(false)
    }
}

impl DoubleEndedIterator for Pages<'_> {
    fn next_back(&mut self) -> Option<Self::Item> {
        self.pair(true)
    }
}

impl Store {
    /// The lock of what is in memory; held for moments only, never while the index is asked.
    pub(in crate::store) fn state(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is there, for look-ups of one key or one range of keys. It has no totals, nor what was
    /// cut.
    pub(in crate::store) fn view(&self) -> State {
        self.view_with(Cuts::default())
    }

    fn view_with(&self, cuts: Cuts) -> State {
        let live: Arc<dyn Base> = Arc::clone(&self.live) as Arc<dyn Base>;
        State::of(Table::new(live), Totals::default(), cuts, self.segments.settings)
    }

    /// What is there with what is in progress, for the one who has the writer's lock: nobody else
    /// changes it meanwhile. What is done to it is seen once it is [`Self::publish`]ed, or never.
    pub(in crate::store) fn draft(&self, w: &Writer) -> State {
        let (totals, cuts) = {
            let state = self.state();
            (state.totals.clone(), state.cuts.clone())
        };
        let mut draft = self.view_with(cuts);
        draft.totals = totals;
        draft.table.seq = w.seq + 1;
        draft
    }

    /// Has everybody see a draft.
    pub(in crate::store) fn publish(&self, _w: &mut Writer, draft: State) {
        self.state.write().unwrap_or_else(PoisonError::into_inner).take(draft);
    }

    /// Looks extents of an inode up, which takes several ranges of keys: again if the inode's extents
    /// were changed meanwhile.
    pub(in crate::store) fn look<T>(&self, ino: Ino, f: impl Fn(&State) -> Result<T>) -> Result<T> {
        /// Who changes a file so often that this is not enough waits itself.
        const TRIES: usize = 16;
        for _ in 0..TRIES {
            let (before, cuts) = {
                let state = self.state();
                (state.changes_of(ino), state.cuts.clone())
            };
            let got = f(&self.view_with(cuts));
            if self.state().changes_of(ino) == before {
                return got;
            }
        }
        f(&self.state())
    }
}
