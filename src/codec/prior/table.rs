//! Contexts of one kind where they are looked up: buckets of a few contexts, which lie together.

use super::contexts::{CHECK_BITS, COUNTS, Contexts};
use crate::codec::vector::{Plain, Shorts, Vector, WIDTH, prefetch};
use crate::codec::vocab::Vocab;

/// Followers that a vector of them has at most; longer lists lie apart from their bucket.
pub(super) const NEAR: usize = 2 * WIDTH - 1;

/// A leaf that comes after all others.
const END: i16 = i16::MAX;

/// Followers of a long list that are asked for before they are needed, at most.
const SOON: usize = 4 * BUCKET;
/// Levels of the coding tree whose nodes are the marks of long lists.
const LEVELS: usize = 4;
/// Marks, and the end of the list.
const MARKS: usize = 1 << LEVELS;
/// Words of a bucket: a cache line.
const BUCKET: usize = 32;
/// Words of a bucket that are in use, about: the more, the oftener contexts are put elsewhere, which
/// takes time.
const FILLED: usize = 18;
/// Words that a bucket begins with: the number of its contexts, and in two words where it goes on, or
/// 0.
const OPENING: usize = 3;
/// Contexts of a bucket, at most.
const MANY: usize = (BUCKET - OPENING) / 2;
/// Bits of a key that tell the contexts of a bucket apart.
const TELLING: u32 = 12;

/// The table: an array of buckets, chosen by the first bits of the hash, that are a cache line each.
/// What does not fit goes on behind the array, in the same form.
#[derive(Debug)]
pub(super) struct Table {
    /// Bits of the hashes that are known.
    bits: u32,
    /// Number of buckets.
    buckets: u64,
    /// Where in `words` the first bucket begins, at the beginning of a cache line.
    first: usize,
    /// Buckets: after the opening a head for each context (the last [`TELLING`] bits of its key, and
    /// the number of its followers in four bits), then their followers one list after the other; for
    /// more than [`NEAR`] the number 0, and the long list's in two words.
    words: Vec<u16>,
    marks: Marks,
    lists: Vec<Long>,
    /// Followers of the long lists.
    far: Vec<u16>,
}

/// The leaves at which the nodes of the coding tree's first levels part theirs, ascending, and [`END`]
/// where there are fewer.
#[derive(Debug, Clone, Copy)]
pub(super) struct Marks(Shorts);

impl Marks {
    pub(super) fn new(vocab: &Vocab) -> Self {
        let mut leaves = Vec::new();
        let mut nodes = vec![0];
        for _ in 0..LEVELS {
            leaves.extend(nodes.iter().map(|node| vocab.span(*node)[1] as i16));
            let both = |node: &u16| [false, true].map(|bit| vocab.step(*node, bit).ok());
            nodes = nodes.iter().flat_map(both).flatten().collect();
        }
        leaves.sort_unstable();
        let mut marks = Shorts([END; MARKS]);
        marks.0[..leaves.len()].copy_from_slice(&leaves);
        Self(marks)
    }
}

/// A list of more than [`NEAR`] followers.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(64))]
struct Long {
    /// Where it begins in `far`.
    from: u32,
    /// How many followers come before every mark, and before the end.
    places: [u16; MARKS],
    /// Their counts.
    sums: [u32; MARKS],
}

/// The followers of a context, as they lie in the table: a leaf and the code of its count each.
#[derive(Debug, Clone, Copy)]
pub(super) enum Followers<'a> {
    /// So many, at the beginning of these.
    Near(&'a [u16; NEAR + 1], usize),
    /// More than fit a vector: the number of a long list.
    Far(usize),
}

/// Followers of a long list, by their places in the table.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Far {
    list: usize,
    from: usize,
    to: usize,
}

/// [`COUNTS`], which fit.
const CODED: Shorts = {
    let mut coded = Shorts::ZERO;
    let mut i = 0;
    while i < COUNTS.len() {
        coded.0[i] = COUNTS[i] as i16;
        i += 1;
    }
    coded
};

/// No followers.
pub(super) const NONE: List = List { leaves: Shorts([END; NEAR + 1]), sums: Shorts::ZERO };

/// A vector of followers.
#[derive(Debug, Clone, Copy)]
pub(super) struct List {
    /// Ascending, [`END`] after the last.
    leaves: Shorts,
    /// Counts of those before, as unsigned numbers.
    sums: Shorts,
}

impl List {
    /// The first `n` of these.
    #[inline(always)]
    pub(super) fn new<V: Vector>(words: &[u16; NEAR + 1], n: usize) -> Self {
        let (leaves, counts) = V::listed(words, n, &CODED, END);
        Self { leaves, sums: V::before(&counts) }
    }

    /// Counts of the followers before leaf `mid`.
    #[inline(always)]
    pub(super) fn before<V: Vector>(&self, mid: u16) -> i32 {
        self.sum(V::below(&self.leaves, mid as i16))
    }

    /// Counts of the first `n`.
    #[inline(always)]
    pub(super) fn sum(&self, n: usize) -> i32 {
        i32::from(self.sums.0[n.min(NEAR)] as u16)
    }
}

/// As many numbers as a vector holds from a place on.
#[inline(always)]
fn vector(of: &[u16], at: usize) -> &[u16; NEAR + 1] {
    of.get(at..).and_then(<[u16]>::first_chunk).unwrap_or(&[0; NEAR + 1])
}

/// Words of a list of so many followers in a bucket.
fn room(followers: usize) -> usize {
    if followers > NEAR { 2 } else { followers }
}

impl Table {
    pub(super) fn new(contexts: &Contexts, marks: Marks) -> Self {
        let bits = contexts.bits + CHECK_BITS;
        let words: usize = contexts.iter().map(|(_, f)| 1 + room(f.len())).sum();
        // With fewer, [`TELLING`] bits would not do; what training makes needs no more than one for
        // eight contexts.
        let least = (1 << bits.saturating_sub(TELLING)).min(contexts.len());
        let buckets = words.div_ceil(FILLED).max(least).max(1);
        let mut new = Self {
            bits,
            buckets: buckets as u64,
            first: 0,
            words: vec![0; (buckets + 1) * BUCKET],
            marks,
            lists: Vec::new(),
            far: Vec::new(),
        };
        new.first = new.words.as_ptr().align_offset(64).min(BUCKET);
        let mut all = contexts.iter().peekable();
        let mut members = Vec::new();
        while let Some((key, _)) = all.peek() {
            let bucket = new.bucket(*key);
            members.clear();
            while let Some(member) = all.next_if(|(key, _)| new.bucket(*key) == bucket) {
                members.push(member);
            }
            new.fill(bucket, &members);
        }
        new.words.extend([0; NEAR + 1]);
        new.far.extend([0; NEAR + 1]);
        new
    }

    /// Puts contexts into a bucket, and those that find no room into more of them at the end.
    fn fill(&mut self, mut at: usize, mut members: &[(u32, &[u16])]) {
        loop {
            let mut used = OPENING;
            let fits = |(_, followers): &&(u32, &[u16])| {
                used += 1 + room(followers.len());
                used <= BUCKET
            };
            let (here, rest) = members.split_at(members.iter().take_while(fits).count());
            self.words[at] = here.len() as u16;
            let mut list = at + OPENING + here.len();
            for (i, (key, followers)) in here.iter().enumerate() {
                let long = followers.len() > NEAR;
                let n = if long { 0 } else { followers.len() as u16 };
                self.words[at + OPENING + i] = (*key as u16) << (16 - TELLING) | n;
                if long {
                    let number = self.lists.len();
                    self.push(followers);
                    self.words[list] = number as u16;
                    self.words[list + 1] = (number >> 16) as u16;
                } else {
                    self.words[list..list + followers.len()].copy_from_slice(followers);
                }
                list += room(followers.len());
            }
            if rest.is_empty() {
                return;
            }
            let next = self.words.len();
            self.words[at + 1] = next as u16;
            self.words[at + 2] = (next >> 16) as u16;
            self.words.resize(next + BUCKET, 0);
            (at, members) = (next, rest);
        }
    }

    /// Adds a long list.
    fn push(&mut self, followers: &[u16]) {
        let (mut place, mut sum) = (0, 0);
        let before = |mark: i16| {
            while let Some(f) = followers.get(place).filter(|f| ((**f >> 4) as i16) < mark) {
                sum += COUNTS[usize::from(f & 15)];
                place += 1;
            }
            (place as u16, sum)
        };
        let all = self.marks.0.0.map(before);
        let from = self.far.len() as u32;
        self.lists.push(Long { from, places: all.map(|a| a.0), sums: all.map(|a| a.1) });
        self.far.extend_from_slice(followers);
    }

    pub(super) fn weight(&self) -> usize {
        size_of::<Long>() * self.lists.len() + 2 * (self.words.len() + self.far.len())
    }

    /// The known bits of a hash.
    #[inline(always)]
    fn key(&self, hash: u32) -> u32 {
        hash >> (32 - self.bits)
    }

    /// Where the bucket of a key begins.
    #[inline(always)]
    fn bucket(&self, key: u32) -> usize {
        self.first + ((u64::from(key) * self.buckets) >> self.bits) as usize * BUCKET
    }

    #[inline(always)]
    pub(super) fn prefetch(&self, hash: u32) {
        if let Some(word) = self.words.get(self.bucket(self.key(hash))) {
            prefetch(word);
        }
    }

    /// The followers of a context.
    #[inline(always)]
    pub(super) fn look<V: Vector>(&self, hash: u32) -> Followers<'_> {
        let key = self.key(hash);
        let mut at = self.bucket(key);
        loop {
            let opening = vector(&self.words, at);
            let heads = vector(&self.words, at + OPENING);
            let many = usize::from(opening[0]);
            if let Some((n, before)) = V::headed(heads, many.min(MANY), (key as u16) << 4) {
                let words = vector(&self.words, at + OPENING + many + before);
                if n > 0 {
                    return Followers::Near(words, n);
                }
                let list = usize::from(words[0]) | usize::from(words[1]) << 16;
                prefetch(&self.lists[list].from);
                prefetch(&self.lists[list].sums[MARKS - 1]);
                return Followers::Far(list);
            }
            at = usize::from(opening[1]) | usize::from(opening[2]) << 16;
            if at == 0 {
                return Followers::Near(&[0; NEAR + 1], 0);
            }
        }
    }

    /// Where leaf `mid` parts the followers of a long list, and the counts of all before that in the
    /// whole list, which are `low` for the first one that is left.
    #[inline(always)]
    pub(super) fn part<V: Vector>(&self, f: &Far, low: i32, mid: u16) -> (usize, i32) {
        let Long { from, places, sums } = &self.lists[f.list];
        let from = *from as usize;
        // The marks before, of which the last one is the end.
        let mark = V::below(&self.marks.0, mid as i16) % MARKS;
        if self.marks.0.0[mark] == mid as i16 {
            return (from + usize::from(places[mark]), sums[mark] as i32);
        }
        let before = if mark > 0 { usize::from(places[mark - 1]) } else { 0 };
        let mut at = f.from.max(from + before);
        let mut to = f.to.min(from + usize::from(places[mark]));
        while to > at + NEAR {
            let half = at.midpoint(to);
            if self.far[half] >> 4 < mid {
                at = half + 1;
            } else {
                to = half;
            }
        }
        let list = List::new::<V>(vector(&self.far, at), to.saturating_sub(at));
        at += V::below(&list.leaves, mid as i16);
        let mut sum = low;
        for from in (f.from..at).step_by(NEAR) {
            let n = NEAR.min(at - from);
            sum += List::new::<V>(vector(&self.far, from), n).sum(n);
        }
        (at, sum)
    }

    /// All the followers of a long list, and their counts.
    #[inline(always)]
    pub(super) fn all(&self, list: usize) -> (Far, i32) {
        let Long { from, places, sums } = &self.lists[list];
        let from = *from as usize;
        let to = from + usize::from(places[MARKS - 1]);
        (Far { list, from, to }, sums[MARKS - 1] as i32)
    }

    /// Goes on with one side of a decision, which was parted at `at`.
    #[inline(always)]
    pub(super) fn narrow(&self, f: &mut Far, at: usize, right: bool) {
        if right {
            f.from = at;
        } else {
            f.to = at;
        }
        if f.to - f.from <= SOON {
            for place in (f.from..f.to).step_by(BUCKET) {
                prefetch(&self.far[place]);
            }
        }
    }

    /// The followers of a long list that are left, if they are few enough by now.
    #[inline(always)]
    pub(super) fn near<V: Vector>(&self, f: &Far) -> Option<List> {
        // In no closure, which would be compiled without the vectors' instructions.
        let n = f.to - f.from;
        if n > NEAR {
            return None;
        }
        Some(List::new::<V>(vector(&self.far, f.from), n))
    }

    /// How often a leaf followed a context, how often any did, and how many different ones; `None` for
    /// an unknown context.
    pub(super) fn share(&self, hash: u32, leaf: u16) -> Option<(u32, u32, u32)> {
        let all = match self.look::<Plain>(hash) {
            Followers::Near(words, n) => &words[..n],
            Followers::Far(list) => {
                let (f, _) = self.all(list);
                &self.far[f.from..f.to]
            }
        };
        let count = |f: &u16| COUNTS[usize::from(f & 15)];
        let own = all.iter().find(|f| *f >> 4 == leaf).map_or(0, count);
        (!all.is_empty()).then(|| (own, all.iter().map(count).sum(), all.len() as u32))
    }
}
