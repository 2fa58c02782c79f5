//! The namespace as ordered keys and values: what is not indexed yet, over what is.

use super::base::{Base, Change, Pair, Pairs};
use super::packed::{Packed, Packer};
use crate::store::api::Result;
use std::collections::BTreeMap;
use std::fmt::Debug;
use std::ops::Bound;
use std::sync::Arc;

#[derive(Debug, Clone)]
pub(in crate::store) struct Slot {
    /// The batch that the change belongs to.
    seq: u64,
    value: Option<Vec<u8>>,
}

/// What a table knows of a key without asking its base.
#[derive(Debug)]
pub(in crate::store) enum Known {
    /// The value, or that there is none.
    Is(Option<Vec<u8>>),
    /// Only the base can tell.
    Ask(Arc<dyn Base>),
}

/// The part of a table that is in memory, for a range, and the base that has the rest.
#[derive(Debug)]
pub(in crate::store) struct Part {
    /// Changes, in the order that was asked for.
    over: Vec<(Vec<u8>, Slot)>,
    base: Option<Arc<dyn Base>>,
    /// What [`Table::moves`] was.
    pub moves: u64,
}

impl Part {
    /// At most `max` pairs with `lo <= key < hi`, or backwards from the last. Asks the base.
    pub fn pairs(&self, lo: &[u8], hi: &[u8], max: usize, back: bool) -> Result<Vec<Pair>> {
        let below = || -> Pairs<'_> {
            self.base
                .as_ref()
                .map_or_else(|| Box::new(std::iter::empty()) as _, |b| b.range(lo, hi))
        };
        let over = self.over.iter().map(|(k, s)| (k, s));
        let mut out = Vec::new();
        let each = |p| {
            out.push(p);
            out.len() < max
        };
        if back {
            merge(below().rev(), over, |a, b| a > b, each)?;
        } else {
            merge(below(), over, |a, b| a < b, each)?;
        }
        Ok(out)
    }
}

/// Changes over a base.
#[derive(Debug)]
pub struct Table {
    base: Arc<dyn Base>,
    /// The base has nothing yet, and need not be asked.
    bare: bool,
    /// Pairs in a packed base.
    packed: usize,
    overlay: BTreeMap<Vec<u8>, Slot>,
    /// Times that changes began to move into the base. As long as it stays the same, the base does,
    /// but for keys that the overlay has, too.
    moves: u64,
    /// The batch that changes belong to from now on.
    pub seq: u64,
}

impl Table {
    /// An empty overlay over `base`.
    pub fn new(base: Arc<dyn Base>) -> Self {
        Self { base, bare: false, packed: 0, overlay: BTreeMap::new(), moves: 0, seq: 0 }
    }

    /// As [`Self::new`], over a base that has nothing yet.
    pub fn over_nothing(base: Arc<dyn Base>) -> Self {
        Self { bare: true, ..Self::new(base) }
    }

    /// Over pairs that are in memory.
    pub fn over_packed(packed: Packed) -> Self {
        Self { packed: packed.len(), ..Self::new(Arc::new(packed)) }
    }

    /// True if packing would save memory that is worth the while.
    pub fn is_loose(&self) -> bool {
        /// About 10 MB.
        const FEW: usize = if cfg!(test) { 20 } else { 50_000 };
        self.overlay.len() > FEW.max(self.packed / 4)
    }

    /// Puts all pairs into a packed base. Only for a table whose base is in memory.
    pub fn pack(&mut self) -> Result<()> {
        let mut packer = Packer::default();
        let (mut done, all) = (Ok(()), [0xff]);
        merge(
            self.below(&[], &all),
            self.over(&[], &all),
            |a, b| a < b,
            |(k, v)| {
                done = packer.push(&k, &v).map(drop);
                done.is_ok()
            },
        )?;
        done?;
        let packed = packer.finish()?;
        (self.packed, self.bare) = (packed.len(), false);
        self.base = Arc::new(packed);
        self.overlay.clear();
        Ok(())
    }

    /// What lies below.
    pub fn base(&self) -> &Arc<dyn Base> {
        &self.base
    }

    /// Changes not in the base yet.
    pub fn waiting(&self) -> usize {
        self.overlay.len()
    }

    /// The value under a key.
    pub fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>> {
        match self.overlay.get(key) {
            Some(slot) => Ok(slot.value.clone()),
            None if self.bare => Ok(None),
            None => self.base.get(key),
        }
    }

    /// What is known of a key without asking the base.
    pub(in crate::store) fn known(&self, key: &[u8]) -> Known {
        match self.overlay.get(key) {
            Some(slot) => Known::Is(slot.value.clone()),
            None if self.bare => Known::Is(None),
            None => Known::Ask(Arc::clone(&self.base)),
        }
    }

    /// The part in memory of what a scan of this range for at most `max` pairs needs.
    pub(in crate::store) fn part(&self, lo: &[u8], hi: &[u8], max: usize, back: bool) -> Part {
        let mut live = 0;
        // Beyond as many values as are asked for, nothing matters.
        let mut wanted = |(_, slot): &(&Vec<u8>, &Slot)| {
            let go_on = live < max;
            live += usize::from(slot.value.is_some());
            go_on
        };
        let copy = |(k, s): (&Vec<u8>, &Slot)| (k.clone(), s.clone());
        let over = if back {
            self.over(lo, hi).rev().take_while(&mut wanted).map(copy).collect()
        } else {
            self.over(lo, hi).take_while(&mut wanted).map(copy).collect()
        };
        let base = (!self.bare).then(|| Arc::clone(&self.base));
        Part { over, base, moves: self.moves }
    }

    /// Changes are about to move into the base.
    pub(in crate::store) fn begin_move(&mut self) {
        self.moves += 1;
    }

    /// What [`Part::moves`] is compared with.
    pub(in crate::store) fn moves(&self) -> u64 {
        self.moves
    }

    /// Keys that were changed.
    pub(in crate::store) fn changed(&self) -> impl Iterator<Item = &[u8]> {
        self.overlay.keys().map(Vec::as_slice)
    }

    /// Takes over the changes of a table above this one.
    pub(in crate::store) fn take(&mut self, above: Self) {
        self.seq = above.seq;
        self.overlay.extend(above.overlay);
    }

    /// Sets a value.
    pub fn put(&mut self, key: Vec<u8>, value: Vec<u8>) {
        self.overlay.insert(key, Slot { seq: self.seq, value: Some(value) });
    }

    /// Removes a value.
    pub fn del(&mut self, key: Vec<u8>) {
        self.overlay.insert(key, Slot { seq: self.seq, value: None });
    }

    /// At most `max` pairs with `lo <= key < hi`, in order.
    pub fn scan(&self, lo: &[u8], hi: &[u8], max: usize) -> Result<Vec<Pair>> {
        let mut out = Vec::new();
        merge(
            self.below(lo, hi),
            self.over(lo, hi),
            |a, b| a < b,
            |p| {
                out.push(p);
                out.len() < max
            },
        )?;
        Ok(out)
    }

    /// At most `max` pairs with `lo <= key < hi`, from the last one backwards.
    pub fn scan_back(&self, lo: &[u8], hi: &[u8], max: usize) -> Result<Vec<Pair>> {
        let mut out = Vec::new();
        let (base, over) = (self.below(lo, hi).rev(), self.over(lo, hi).rev());
        merge(
            base,
            over,
            |a, b| a > b,
            |p| {
                out.push(p);
                out.len() < max
            },
        )?;
        Ok(out)
    }

    /// The last pair with `lo <= key < hi`.
    pub fn last(&self, lo: &[u8], hi: &[u8]) -> Result<Option<Pair>> {
        Ok(self.scan_back(lo, hi, 1)?.pop())
    }

    fn below<'a>(&'a self, lo: &[u8], hi: &[u8]) -> Pairs<'a> {
        if self.bare { Box::new(std::iter::empty()) } else { self.base.range(lo, hi) }
    }

    fn over(
        &self,
        lo: &[u8],
        hi: &[u8],
    ) -> impl DoubleEndedIterator<Item = (&Vec<u8>, &Slot)> + use<'_> {
        // An empty range may not be asked of a BTreeMap with lo > hi.
        let hi = if hi < lo { lo } else { hi };
        self.overlay.range::<[u8], _>((Bound::Included(lo), Bound::Excluded(hi)))
    }

    /// At most `max` changes of batches up to `seq`, for [`Base::write`].
    pub fn ripe(&self, seq: u64, max: usize) -> Vec<Change> {
        let old = self.overlay.iter().filter(|(_, s)| s.seq <= seq);
        old.take(max).map(|(k, s)| (k.clone(), s.value.clone())).collect()
    }

    /// As [`Self::ripe`], of at most `look` changes after `from`; `from` becomes the last of them, or
    /// nothing at the end.
    pub fn ripe_after(&self, from: &mut Option<Vec<u8>>, seq: u64, look: usize) -> Vec<Change> {
        let start = from.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
        let mut last = None;
        let mut out = Vec::new();
        for (k, s) in self.overlay.range::<[u8], _>((start, Bound::Unbounded)).take(look) {
            last = Some(k);
            if s.seq <= seq {
                out.push((k.clone(), s.value.clone()));
            }
        }
        *from = last.cloned();
        out
    }

    /// Drops changes that the base has now, unless they were changed again meanwhile.
    pub fn settle(&mut self, written: &[Change], seq: u64) {
        self.bare = false;
        for (key, _) in written {
            if self.overlay.get(key).is_some_and(|s| s.seq <= seq) {
                self.overlay.remove(key);
            }
        }
    }
}

/// Hands `each` the pairs of both in order, changes over what the base has, until it has enough.
fn merge<'a>(
    base: impl Iterator<Item = Result<Pair>>,
    over: impl Iterator<Item = (&'a Vec<u8>, &'a Slot)>,
    before: impl Fn(&[u8], &[u8]) -> bool,
    mut each: impl FnMut(Pair) -> bool,
) -> Result<()> {
    let mut base = base.peekable();
    let mut over = over.peekable();
    loop {
        let from_base = match (base.peek(), over.peek()) {
            (None, None) => return Ok(()),
            (Some(Err(_)), _) | (Some(_), None) => true,
            (None, Some(_)) => false,
            (Some(Ok((b, _))), Some((o, _))) => before(b, o),
        };
        let pair = if from_base {
            let Some(p) = base.next() else { return Ok(()) };
            Some(p?)
        } else {
            let Some((k, slot)) = over.next() else { return Ok(()) };
            if matches!(base.peek(), Some(Ok((b, _))) if b == k) {
                base.next();
            }
            slot.value.as_ref().map(|v| (k.clone(), v.clone()))
        };
        if let Some(p) = pair
            && !each(p)
        {
            return Ok(());
        }
    }
}
