//! Leaves that were asked for lately, each with the range of keys that it covers: a key in such a range is
//! looked up without a look at the map below.

use super::leaf::Leaf;
use lru::LruCache;
use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::ops::Bound;
use std::sync::Arc;

/// A leaf and the range that it covers.
#[derive(Debug)]
pub struct Place {
    /// Where the range begins, and what the leaf is called.
    pub name: Vec<u8>,
    /// The first key after the range; nothing if there is no leaf to the right.
    pub until: Option<Vec<u8>>,
    /// What is there.
    pub leaf: Leaf,
}

impl Place {
    /// True if the leaf covers the keys right below `hi`.
    pub fn reaches(&self, hi: &[u8]) -> bool {
        self.until.as_deref().is_none_or(|until| hi <= until)
    }
}

/// The places.
#[derive(Debug)]
pub struct Places {
    /// By name.
    all: BTreeMap<Vec<u8>, Arc<Place>>,
    /// The names, in the order of their use.
    used: LruCache<Vec<u8>, ()>,
    /// Writes that go on.
    writing: usize,
    /// Writes that began, and that ended: what was read below across one of these moments is not kept.
    turns: u64,
}

impl Places {
    /// At most this many.
    pub fn at_most(n: usize) -> Self {
        let n = NonZeroUsize::new(n).unwrap_or(NonZeroUsize::MIN);
        Self { all: BTreeMap::new(), used: LruCache::new(n), writing: 0, turns: 0 }
    }

    /// The leaf that covers the keys right below `hi`.
    pub fn below(&mut self, hi: &[u8]) -> Option<Arc<Place>> {
        let before = (Bound::Unbounded, Bound::Excluded(hi));
        let (name, place) = self.all.range::<[u8], _>(before).next_back()?;
        if !place.reaches(hi) {
            return None;
        }
        self.used.promote(name);
        Some(Arc::clone(place))
    }

    /// What [`Self::keep`] wants to know of the moment before the map below was asked.
    pub fn moment(&self) -> u64 {
        self.turns
    }

    /// Keeps a leaf that was read below, unless something was written since that moment.
    pub fn keep(&mut self, place: &Arc<Place>, moment: u64) {
        if self.writing == 0 && self.turns == moment {
            self.insert(Arc::clone(place));
        }
    }

    fn insert(&mut self, place: Arc<Place>) {
        if let Some((name, ())) = self.used.push(place.name.clone(), ()) {
            self.all.remove(&name);
        }
        self.all.insert(place.name.clone(), place);
    }

    /// A leaf is about to be written; true if it was here.
    pub fn begin(&mut self, name: &[u8]) -> bool {
        self.writing += 1;
        self.turns += 1;
        self.used.pop(name);
        self.all.remove(name).is_some()
    }

    /// A write is over, and left these leaves; or it failed, and nobody knows what it left.
    pub fn end(&mut self, left: Vec<Place>) {
        self.writing -= 1;
        self.turns += 1;
        if self.writing == 0 {
            for place in left {
                self.insert(Arc::new(place));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_read_beside_a_write_is_not_kept() {
        let place = || Arc::new(Place { name: Vec::new(), until: None, leaf: Leaf::empty() });
        let mut places = Places::at_most(4);
        let kept = |places: &mut Places| places.below(b"x").is_some();
        let before = places.moment();
        places.begin(b"");
        let meanwhile = places.moment();
        places.keep(&place(), meanwhile);
        assert!(!kept(&mut places));
        places.end(Vec::new());
        for moment in [before, meanwhile] {
            places.keep(&place(), moment);
            assert!(!kept(&mut places));
        }
        let after = places.moment();
        places.keep(&place(), after);
        assert!(kept(&mut places));
        // A leaf that is written goes, and comes again with what was written.
        assert!(places.begin(b"") && !kept(&mut places));
        let left = Place { name: Vec::new(), until: Some(b"m".to_vec()), leaf: Leaf::empty() };
        places.end(vec![left]);
        assert!(!kept(&mut places) && places.below(b"m").is_some());
    }
}
