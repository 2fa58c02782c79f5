//! Adapting a prior: one's own text is counted on top of what the prior knows.
//!
//! The prior's contexts and followers all stay. What followed in the own text is counted as in training,
//! kind by kind, but from what each token costs by the whole prior: only what the prior does not know
//! saves bits, and what saves most for its memory is added. Followers that the prior has already cost no
//! memory and are always counted. In contexts that the own text has, it counts for much more than what the
//! prior is from: that is another text. Integers only: the same prior and texts give the same result.

use super::count::{Found, count};
use super::keep::Kept;
use super::{Progress, Spool, TrainError, Training, correct, ready};
use crate::codec::prior::{COUNTS, Contexts, KINDS, Prior, count_code};

/// What a follower counts for each time that it came in the own text.
const OWN: u32 = 16;
/// In contexts of the own text, a prior's count is divided by this; a follower stays.
const OTHERS: u32 = 16;

/// How to adapt.
#[derive(Debug, Clone, Copy)]
pub struct Adapting<'a> {
    /// What to start from.
    pub base: &'a [Contexts; KINDS],
    /// Most memory that the table may take beyond the prior's, in bytes.
    pub memory: usize,
}

/// A follower of the own text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Own {
    key: u32,
    leaf: u16,
    count: u32,
    /// It is worth its memory where the prior does not have it.
    kept: bool,
}

impl Adapting<'_> {
    /// Counts what was spooled, with a thread for each of its files; `tell` is told now and then.
    ///
    /// # Errors
    /// Too little text, or the spool's file cannot be read.
    pub fn run(
        &self,
        spool: &mut Spool<'_>,
        tell: &mut dyn FnMut(Progress),
    ) -> Result<[Contexts; KINDS], TrainError> {
        let threads = ready(spool)?;
        let all = 2 * KINDS + 1;
        let mut done = 0;
        let mut step = || {
            done += 1;
            tell(Progress { done, all });
        };
        let prior = Prior::new(spool.vocab(), self.base);
        correct(spool, &prior, 0..=KINDS - 1)?;
        drop(prior);
        step();
        let parts = Training::parts(spool, Training::LEAST);
        let mut kept = Kept::new(self.memory, Kept::CHEAP);
        let mut own = Prior::empty(spool.vocab());
        let mut counted: Vec<Found> = Vec::with_capacity(KINDS);
        for kind in 0..KINDS {
            let mut whole = Found::default();
            for first in (0..parts).step_by(threads) {
                for part in count(spool, kind, first, parts, 0)? {
                    kept.add(kind, &part);
                    whole.append(part);
                }
            }
            counted.push(whole);
            step();
            own.set(kind, &kept.contexts(kind));
            correct(spool, &own, kind..=kind)?;
            step();
        }
        let merged = |kind: usize| merged(&self.base[kind], &counted[kind], kept.found(kind));
        Ok(std::array::from_fn(merged))
    }
}

/// The own text's followers by their contexts' keys. `kept` has a part of what was counted.
fn own(counted: &Found, kept: &Found, bits: u32) -> Vec<Own> {
    let worth = |found: &Found| {
        let mut all = Vec::with_capacity(found.followers.len());
        let mut begin = 0;
        for (hash, end) in found.hashes.iter().zip(&found.ends) {
            all.extend(found.followers[begin..*end as usize].iter().map(|f| (*hash, *f)));
            begin = *end as usize;
        }
        all
    };
    let mut chosen = worth(kept).into_iter().peekable();
    let mut all: Vec<Own> = worth(counted)
        .into_iter()
        .map(|(hash, f)| {
            let kept = chosen.next_if_eq(&(hash, f)).is_some();
            let count = COUNTS[usize::from(f & 15)] * OWN;
            Own { key: hash >> (u32::BITS - bits), leaf: f >> 4, count, kept }
        })
        .collect();
    // Contexts that share a key are one from here on.
    all.sort_by_key(|o| (o.key, o.leaf));
    all.dedup_by(|b, a| {
        let same = (a.key, a.leaf) == (b.key, b.leaf);
        if same {
            a.count += b.count;
            a.kept |= b.kept;
        }
        same
    });
    all
}

/// What the prior knows of a kind and what was counted.
fn merged(known: &Contexts, counted: &Found, kept: &Found) -> Contexts {
    // Few contexts are told apart by few bits; of many more, longer keys are needed. What the prior knows
    // then stands under all of them that begin alike.
    let mut all = Contexts::new(kept.hashes.len());
    if all.key_bits() < known.key_bits() {
        all = Contexts::like(known);
    }
    let bits = all.key_bits();
    let longer = bits - known.key_bits();
    let own = own(counted, kept, bits);
    let mut own = own.chunk_by(|a, b| a.key == b.key).peekable();
    let hash = |key: u32| key << (u32::BITS - bits);
    let mut push = |key: u32, before: &[u16], own: &[Own]| {
        let share = if own.is_empty() { 1 } else { OTHERS };
        let mut counts: Vec<(u16, u32)> =
            before.iter().map(|f| (f >> 4, (COUNTS[usize::from(f & 15)] / share).max(1))).collect();
        for o in own {
            match counts.binary_search_by_key(&o.leaf, |c| c.0) {
                Ok(at) => counts[at].1 += o.count,
                Err(at) if o.kept => {
                    counts.insert(at, (o.leaf, o.count));
                }
                Err(_) => {}
            }
        }
        if !counts.is_empty() {
            let followers: Vec<u16> =
                counts.iter().map(|(leaf, n)| leaf << 4 | count_code(*n)).collect();
            all.push(hash(key), &followers);
        }
    };
    let mut last = None;
    for (key, before) in known.iter() {
        // Of several contexts with one key only the first is ever found.
        if last.replace(key) == Some(key) {
            continue;
        }
        for key in (0..1 << longer).map(|rest| key << longer | rest) {
            while let Some(new) = own.next_if(|o| o[0].key < key) {
                push(new[0].key, &[], new);
            }
            push(key, before, own.next_if(|o| o[0].key == key).unwrap_or_default());
        }
    }
    for new in own {
        push(new[0].key, &[], new);
    }
    all
}
