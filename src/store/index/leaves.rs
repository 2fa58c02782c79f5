//! Pairs in compressed leaves: a map that holds few large values where it would hold many small ones.
//!
//! A leaf lies below under a name that is not above its first key; the first leaf of all has the empty name.
//! A leaf that grows too large is cut: the new leaves to the right come first, then the old one goes on with
//! what is left of it. So whoever reads meanwhile finds each pair that does not change in at least one leaf,
//! and where he finds it twice, he takes it once. Only leaves without pairs are removed.

use super::base::{Base, Change, Pair, Pairs};
use super::leaf::{Filling, Leaf, Within};
use super::places::{Place, Places};
use crate::store::api::{Result, StoreError};
use crate::store::lock;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

/// Bytes of a leaf before it is compressed, about: from [`FULL`] on it is cut into some of this size.
const SIZE: usize = if cfg!(test) { 400 } else { 8 << 10 };
const FULL: usize = 2 * SIZE;
/// Leaves kept as they were.
const KEPT: usize = if cfg!(test) { 8 } else { 512 };

/// Pairs in leaves that are the values of another map.
#[derive(Debug)]
pub struct Leaves<B> {
    below: B,
    kept: Mutex<Places>,
}

/// The key right after this one.
fn after(key: &[u8]) -> Vec<u8> {
    [key, &[0]].concat()
}

/// A leaf as it lies below: its length before compression, u32, and a zstd frame.
fn encode(run: &mut Filling) -> Result<Vec<u8>> {
    let squeezed = run.squeeze()?;
    Ok([&squeezed.len.to_le_bytes()[..], &squeezed.bytes].concat())
}

fn decode(bytes: &[u8]) -> Result<Leaf> {
    /// No pair is larger than what a change can bring.
    const MOST: u32 = 64 << 20;
    let (len, squeezed) = bytes
        .split_first_chunk()
        .map(|(len, rest)| (u32::from_le_bytes(*len), rest))
        .filter(|(len, _)| *len <= MOST)
        .ok_or_else(|| StoreError::Index("a leaf without a length".into()))?;
    Leaf::of(squeezed, len as usize)
}

impl<B: Base> Leaves<B> {
    /// Over a map that is empty, or holds leaves.
    pub fn over(below: B) -> Self {
        Self { below, kept: Mutex::new(Places::at_most(KEPT)) }
    }

    /// The leaf that covers the keys right below `hi`; nothing where there is no leaf at all.
    fn place(&self, hi: &[u8]) -> Result<Option<Arc<Place>>> {
        let moment = {
            let mut kept = lock(&self.kept);
            if let Some(place) = kept.below(hi) {
                return Ok(Some(place));
            }
            kept.moment()
        };
        let place = self.look(hi)?.map(Arc::new);
        if let Some(place) = &place {
            lock(&self.kept).keep(place, moment);
        }
        Ok(place)
    }

    /// The same, from the map below.
    fn look(&self, hi: &[u8]) -> Result<Option<Place>> {
        loop {
            let Some((name, bytes)) = self.below.range(&[], hi).next_back().transpose()? else {
                return Ok(None);
            };
            let next = self.below.range(&after(&name), &[0xff]).next().transpose()?;
            let place = Place { name, until: next.map(|(name, _)| name), leaf: decode(&bytes)? };
            // The map may have been looked at from the right before a leaf was there, and from the left
            // after it was.
            if place.reaches(hi) {
                return Ok(Some(place));
            }
        }
    }

    /// What becomes of a leaf and the changes of its range, for the map below.
    fn changed(name: &[u8], old: &Leaf, changes: &[(&[u8], Option<&[u8]>)]) -> Result<Vec<Change>> {
        let mut pairs: BTreeMap<&[u8], &[u8]> = old.pairs().collect();
        let grows = pairs.last_key_value().map(|(k, _)| *k) < changes.first().map(|(k, _)| *k);
        for (key, value) in changes {
            match value {
                Some(value) => drop(pairs.insert(key, value)),
                None => drop(pairs.remove(key)),
            }
        }
        let bytes: usize = pairs.iter().map(|(k, v)| k.len() + v.len()).sum();
        // What comes in order leaves full leaves behind; else there is to be room in each.
        let size = if bytes < FULL {
            usize::MAX
        } else if grows {
            SIZE + SIZE / 2
        } else {
            bytes.div_ceil(bytes.div_ceil(SIZE))
        };
        let (mut out, mut run, mut in_run) = (Vec::new(), Filling::default(), 0);
        let mut named = name.to_vec();
        for (key, value) in pairs {
            if in_run >= size {
                out.push((std::mem::replace(&mut named, key.to_vec()), Some(encode(&mut run)?)));
                in_run = 0;
            }
            run.push(key, value);
            in_run += key.len() + value.len();
        }
        if !run.is_empty() || named.is_empty() {
            out.push((named, Some(encode(&mut run)?)));
        } else {
            out.push((named, None));
        }
        Ok(out)
    }

    /// Writes what a leaf became. Whoever reads meanwhile asks the map below.
    fn replace(&self, old: &Place, mut new: Vec<Change>) -> Result<()> {
        let was_kept = lock(&self.kept).begin(&old.name);
        let left = || {
            let untils = new.iter().skip(1).map(|(name, _)| Some(name.clone()));
            let untils = untils.chain([old.until.clone()]);
            let places = new.iter().zip(untils).filter_map(|((name, bytes), until)| {
                Some(decode(bytes.as_ref()?).map(|leaf| Place { name: name.clone(), until, leaf }))
            });
            places.collect::<Result<Vec<_>>>()
        };
        let left = if was_kept { left() } else { Ok(Vec::new()) };
        // From the right: nothing is out of sight at any moment.
        new.reverse();
        let written = self.below.write(&new);
        let (left, done) = match written.and(left) {
            Ok(left) => (left, Ok(())),
            Err(e) => (Vec::new(), Err(e)),
        };
        lock(&self.kept).end(left);
        done
    }
}

impl<B: Base> Base for Leaves<B> {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>> {
        Ok(self.place(&after(key))?.and_then(|place| place.leaf.get(key)))
    }

    fn range<'a>(&'a self, lo: &[u8], hi: &[u8]) -> Pairs<'a> {
        let (lo, hi) = (lo.to_vec(), hi.to_vec());
        Box::new(Range { leaves: self, lo, hi, front: None, back: None })
    }

    fn write(&self, changes: &[Change]) -> Result<()> {
        let changes: BTreeMap<&[u8], Option<&[u8]>> =
            changes.iter().map(|(k, v)| (k.as_slice(), v.as_deref())).collect();
        let changes: Vec<_> = changes.into_iter().collect();
        let mut rest = &changes[..];
        while let Some((first, _)) = rest.first() {
            let hi = after(first);
            // What is only written is not kept.
            let kept = lock(&self.kept).below(&hi);
            let place = if let Some(place) = kept {
                place
            } else {
                let nothing = || Place { name: Vec::new(), until: None, leaf: Leaf::empty() };
                Arc::new(self.look(&hi)?.unwrap_or_else(nothing))
            };
            let end =
                rest.partition_point(|(k, _)| place.until.as_deref().is_none_or(|end| *k < end));
            let (here, later) = rest.split_at(end.max(1));
            rest = later;
            self.replace(&place, Self::changed(&place.name, &place.leaf, here)?)?;
        }
        Ok(())
    }

    fn flush(&self) -> Result<()> {
        self.below.flush()
    }

    fn is_volatile(&self) -> bool {
        self.below.is_volatile()
    }
}

/// Pairs of a range, leaf by leaf, from either end.
struct Range<'a, B> {
    leaves: &'a Leaves<B>,
    /// What is still to come lies between these.
    lo: Vec<u8>,
    hi: Vec<u8>,
    /// What is left of the leaf being read from the left, and where the next one begins.
    front: Option<(Option<Vec<u8>>, Within)>,
    /// What is left of the leaf being read from the right, and its name.
    back: Option<(Vec<u8>, Within)>,
}

impl<B: Base> Range<'_, B> {
    fn forward(&mut self) -> Result<Option<Pair>> {
        while self.lo < self.hi {
            if self.front.is_none() {
                let found = self.leaves.place(&after(&self.lo))?;
                self.front = found.map(|p| (p.until.clone(), p.leaf.within(&self.lo, &self.hi)));
            }
            let Some((until, pairs)) = &mut self.front else { break };
            if let Some((key, value)) = pairs.next() {
                if key >= self.hi {
                    break;
                }
                self.lo = after(&key);
                return Ok(Some((key, value)));
            }
            let Some(next) = until.take() else { break };
            self.lo = std::mem::take(&mut self.lo).max(next);
            self.front = None;
        }
        self.lo = self.hi.clone();
        Ok(None)
    }

    fn backward(&mut self) -> Result<Option<Pair>> {
        while self.lo < self.hi {
            if self.back.is_none() {
                let found = self.leaves.place(&self.hi)?;
                self.back = found.map(|p| (p.name.clone(), p.leaf.within(&self.lo, &self.hi)));
            }
            let Some((name, pairs)) = &mut self.back else { break };
            if let Some((key, value)) = pairs.next_back() {
                if key < self.lo {
                    break;
                }
                self.hi.clone_from(&key);
                return Ok(Some((key, value)));
            }
            self.hi = std::mem::take(name);
            self.back = None;
        }
        self.lo = self.hi.clone();
        Ok(None)
    }

    /// After an error there is nothing more.
    fn ended(&mut self, pair: Result<Option<Pair>>) -> Option<Result<Pair>> {
        if pair.is_err() {
            self.lo = self.hi.clone();
        }
        pair.transpose()
    }
}

impl<B: Base> Iterator for Range<'_, B> {
    type Item = Result<Pair>;

    fn next(&mut self) -> Option<Self::Item> {
        let pair = self.forward();
        self.ended(pair)
    }
}

impl<B: Base> DoubleEndedIterator for Range<'_, B> {
    fn next_back(&mut self) -> Option<Self::Item> {
        let pair = self.backward();
        self.ended(pair)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::index::disk::{self, SledBase};
    use proptest::prelude::*;
    use std::sync::RwLock;
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

    /// A map in memory.
    #[derive(Debug, Default)]
    struct Plain(RwLock<BTreeMap<Vec<u8>, Vec<u8>>>, AtomicUsize);

    impl Base for Plain {
        fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>> {
            Ok(self.0.read().unwrap().get(key).cloned())
        }
        fn range<'a>(&'a self, lo: &[u8], hi: &[u8]) -> Pairs<'a> {
            self.1.fetch_add(1, Ordering::Relaxed);
            let map = self.0.read().unwrap();
            let hi = hi.max(lo);
            let some = map.range(lo.to_vec()..hi.to_vec()).map(|(k, v)| (k.clone(), v.clone()));
            Box::new(some.collect::<Vec<_>>().into_iter().map(Ok))
        }
        fn write(&self, changes: &[Change]) -> Result<()> {
            let mut map = self.0.write().unwrap();
            for (k, v) in changes.iter().cloned() {
                match v {
                    Some(v) => drop(map.insert(k, v)),
                    None => drop(map.remove(&k)),
                }
            }
            Ok(())
        }
        fn flush(&self) -> Result<()> {
            Ok(())
        }
    }

    fn key() -> impl Strategy<Value = Vec<u8>> {
        prop::collection::vec(0u8..4, 0..5)
    }

    fn changes() -> impl Strategy<Value = Vec<Change>> {
        let value = prop::option::weighted(0.7, prop::collection::vec(any::<u8>(), 0..150));
        prop::collection::vec((key(), value), 0..40)
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

        #[test]
        fn they_read_like_a_map(
            all in prop::collection::vec(changes(), 1..12),
            asked in prop::collection::vec((key(), key()), 12)
        ) {
            let leaves = Leaves::over(Plain::default());
            let map = Plain::default();
            for some in &all {
                // As the flusher hands them over, a key once.
                let once: BTreeMap<_, _> = some.iter().cloned().collect();
                let once: Vec<Change> = once.into_iter().collect();
                leaves.write(&once).unwrap();
                map.write(&once).unwrap();
                for (lo, hi) in &asked {
                    prop_assert_eq!(leaves.get(lo).unwrap(), map.get(lo).unwrap());
                    let all = |pairs: Pairs<'_>| pairs.collect::<Result<Vec<_>>>().unwrap();
                    let want = all(map.range(lo, hi));
                    prop_assert_eq!(all(leaves.range(lo, hi)), want.clone());
                    let mut back: Vec<_> = leaves.range(lo, hi).rev().map(|p| p.unwrap()).collect();
                    back.reverse();
                    prop_assert_eq!(&back, &want);
                    // From both ends in turn.
                    let (mut pairs, mut left, mut right) = (leaves.range(lo, hi), vec![], vec![]);
                    while let Some(p) = pairs.next() {
                        left.push(p.unwrap());
                        right.extend(pairs.next_back().map(|p| p.unwrap()));
                    }
                    left.extend(right.into_iter().rev());
                    prop_assert_eq!(left, want);
                }
            }
            let widest = leaves.below.0.read().unwrap().values().map(Vec::len).max();
            prop_assert!(widest < Some(2 * FULL + 200), "{widest:?}");
        }
    }

    #[test]
    fn what_was_read_is_read_again_without_the_map_below() {
        let leaves = Leaves::over(Plain::default());
        let key = |n: u32| n.to_be_bytes().to_vec();
        let all: Vec<Change> = (0..100).map(|n| (key(n), Some(vec![1; 8]))).collect();
        leaves.write(&all).unwrap();
        let asked = || leaves.below.1.load(Ordering::Relaxed);
        let before = asked();
        for n in 0..100 {
            assert_eq!(leaves.get(&key(50)).unwrap(), Some(vec![1; 8]));
            assert_eq!(leaves.range(&key(50), &key(51)).count(), 1, "{n}");
            assert_eq!(leaves.range(&key(50), &key(51)).rev().count(), 1);
        }
        assert!(asked() <= before + 2, "{before} {}", asked());
        // What is written there shows at once, and does not have to be read.
        leaves.write(&[(key(50), Some(vec![2])), (key(51), None)]).unwrap();
        let before = asked();
        assert_eq!(leaves.get(&key(50)).unwrap(), Some(vec![2]));
        assert_eq!(leaves.get(&key(51)).unwrap(), None);
        assert_eq!(asked(), before);
    }

    #[test]
    fn what_does_not_change_is_always_found_once() {
        let dir = tempfile::tempdir().unwrap();
        let leaves = Leaves::over(SledBase::open(dir.path()).unwrap());
        let key = |n: u32| n.to_be_bytes().to_vec();
        // Every hundredth stays; the others come and go, and leaves are cut and removed around them.
        let kept: Vec<_> = (0..60).map(|n| (key(n * 100), Some(vec![1; 8]))).collect();
        leaves.write(&kept).unwrap();
        let done = AtomicBool::new(false);
        let found = |pairs: Vec<Result<Pair>>| {
            let keys =
                pairs.into_iter().map(|p| u32::from_be_bytes(p.unwrap().0.try_into().unwrap()));
            keys.filter(|n| n % 100 == 0).map(|n| n / 100).collect::<Vec<_>>()
        };
        let mut rounds = 0;
        let written = AtomicUsize::new(0);
        std::thread::scope(|s| {
            s.spawn(|| {
                for round in 1..30 {
                    // What was written is seen from then on.
                    leaves.write(&[(key(50), Some(vec![round as u8]))]).unwrap();
                    written.store(round, Ordering::SeqCst);
                    let value = (round % 2 == 0).then(|| vec![2; 20]);
                    let mut some: Vec<Change> = (0..6000)
                        .filter(|n| n % 100 != 0 && *n != 50)
                        .map(|n| (key(n), value.clone()))
                        .collect();
                    some.sort();
                    for part in some.chunks(700) {
                        leaves.write(part).unwrap();
                    }
                }
                done.store(true, Ordering::Relaxed);
            });
            while !done.load(Ordering::Relaxed) {
                rounds += 1;
                let least = written.load(Ordering::SeqCst);
                let seen = leaves.get(&key(50)).unwrap().map_or(0, |v| usize::from(v[0]));
                assert!(seen >= least, "{seen} of {least}");
                let (lo, hi) = (key(0), key(6000));
                assert_eq!(found(leaves.range(&lo, &hi).collect()), (0..60).collect::<Vec<_>>());
                assert_eq!(
                    found(leaves.range(&lo, &hi).rev().collect()),
                    (0..60).rev().collect::<Vec<_>>()
                );
                assert!((0..60).all(|n| leaves.get(&key(n * 100)).unwrap().is_some()));
            }
        });
        assert!(rounds > 10, "{rounds}");
        // A second look at the same bytes finds the same.
        leaves.flush().unwrap();
        drop(leaves);
        disk::settle(dir.path()).unwrap();
        let leaves = Leaves::over(SledBase::open(dir.path()).unwrap());
        assert_eq!(found(leaves.range(&[], &[0xff]).collect()), (0..60).collect::<Vec<_>>());
    }
}
