use super::*;
#[cfg(target_arch = "x86_64")]
use crate::codec::vector::Avx2;
use crate::codec::vector::{Plain, Vector};
use crate::codec::vocab::VOCAB;
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Contexts of any shape: by hash, followers with the codes of their counts.
fn any_contexts() -> impl Strategy<Value = BTreeMap<u32, BTreeMap<u16, u16>>> {
    let list = |n| proptest::collection::btree_map(0..LEAVES as u16, 0..16_u16, n);
    let followers = prop_oneof![list(1..16), list(1..40), list(16..400)];
    // Their first bits differ: a small table keeps no others.
    let hash = (0..1_u32 << 10).prop_map(|first| first << 22 | 0x1234);
    proptest::collection::btree_map(hash, followers, 0..60)
}

fn contexts(all: &BTreeMap<u32, BTreeMap<u16, u16>>) -> Contexts {
    let mut c = Contexts::new(all.len());
    for (hash, followers) in all {
        let list: Vec<u16> = followers.iter().map(|(leaf, code)| leaf << 4 | code).collect();
        c.push(*hash, &list);
    }
    c
}

proptest! {
    #[test]
    fn what_is_packed_unpacks(all in any_contexts()) {
        let c = contexts(&all);
        prop_assert_eq!(Contexts::unpack(&c.pack()), Some(c));
    }

    #[test]
    fn forged_tables_are_refused_or_read(all in any_contexts(), at: usize, by in 1..=255_u8) {
        let c = contexts(&all);
        let mut bytes = c.pack();
        let cut = at % bytes.len();
        prop_assert_eq!(Contexts::unpack(&bytes[..cut]), None);
        bytes[cut] ^= by;
        let read = Contexts::unpack(&bytes);
        prop_assert_ne!(read.as_ref(), Some(&c));
        if let Some(c) = read {
            let mut prior = Prior::empty(&VOCAB);
            prior.set(0, &c);
            let mut view = View::new(Some(Arc::new(prior)));
            for hash in 0..100_i32 {
                view.begin::<Plain>(&[hash << 25; KINDS]);
                down::<Plain>(&mut view, hash as u32, |_, _, _| {});
            }
        }
        bytes[cut] ^= by;
        bytes.push(0);
        prop_assert_eq!(Contexts::unpack(&bytes), None);
    }

    #[test]
    fn any_bytes_are_refused_or_read(mut bytes: Vec<u8>, head: [u8; 20]) {
        // A head of small numbers.
        let head = head.iter().flat_map(|n| [n % 24, 0, 0, 0]);
        bytes.splice(0..0, head.take(60));
        if let Some(c) = Contexts::unpack(&bytes) {
            prop_assert_eq!(Contexts::unpack(&c.pack()), Some(c));
        }
    }

    #[test]
    fn followers_part_where_their_leaves_do(all in any_contexts(), ways: u32) {
        let mut prior = Prior::empty(&VOCAB);
        prior.set(3, &contexts(&all));
        let prior = Arc::new(prior);
        for (hash, followers) in &all {
            let mut hashes = [0; KINDS];
            hashes[3] = *hash as i32;
            let mut view = View::new(Some(Arc::clone(&prior)));
            let count = |from: usize, to: usize| -> i32 {
                let codes = followers.range(from as u16..to as u16).map(|(_, code)| code);
                codes.map(|code| COUNTS[usize::from(*code)] as i32).sum()
            };
            view.begin::<Plain>(&hashes);
            let mut seen = Vec::new();
            down::<Plain>(&mut view, ways, |[from, mid, to], left, right| {
                seen.push((left, right));
                assert_eq!((left[3], right[3]), (count(from, mid), count(mid, to)));
            });
            #[cfg(target_arch = "x86_64")]
            if is_x86_feature_detected!("avx2") {
                view.begin::<Avx2>(&hashes);
                let mut plain = seen.into_iter();
                down::<Avx2>(&mut view, ways, |_, left, right| {
                    assert_eq!(Some((left, right)), plain.next());
                });
            }
            for (leaf, code) in followers {
                let own = COUNTS[usize::from(*code)];
                let all = (own, count(0, LEAVES) as u32, followers.len() as u32);
                prop_assert_eq!(prior.share(3, *hash, *leaf), Some(all));
            }
        }
    }
}

/// Goes down the tree; tells of each node its span and the counts on both sides.
fn down<V: Vector>(view: &mut View, ways: u32, mut tell: impl FnMut([usize; 3], Ints, Ints)) {
    let (mut node, mut depth) = (0, 0);
    loop {
        let span = VOCAB.span(node);
        let [left, right] = view.sides::<V>(span[1] as u16).map(V::lanes);
        tell(span, left, right);
        let bit = ways.rotate_right(depth) & 1 == 1;
        view.narrow::<V>(bit);
        match VOCAB.step(node, bit) {
            Ok(next) => node = next,
            Err(_) => return,
        }
        depth += 1;
    }
}

/// Many contexts, with as many followers as words begin with letters: a few of most, a lot of some.
fn many() -> Contexts {
    let mut c = Contexts::new(20_000);
    let mut seed = 1_u32;
    let mut next = |n: u32| {
        seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        ((u64::from(seed >> 8) * u64::from(n)) >> 24) as u32
    };
    for i in 0..20_000_u32 {
        let most = if next(500) == 0 { LEAVES as u32 } else { 1 + next(9) };
        let n = 1 + next(most);
        let step = (LEAVES as u32 / n).min(1 + next(700)).max(1);
        let mut leaf = next(LEAVES as u32 - step * (n - 1));
        let mut list = Vec::new();
        for _ in 0..n {
            let most = 1 + next(16);
            list.push((leaf << 4 | next(most)) as u16);
            leaf += step;
        }
        c.push(i * 214_748, &list);
    }
    c
}

#[test]
fn the_packed_form_stays() {
    // Golden: a change of this is another format, and another id of every model with a prior.
    let c = many();
    let packed = c.pack();
    let hash = blake3::hash(&packed).to_hex();
    assert_eq!((c.followers(), packed.len(), &hash[..16]), (121_499, 191_404, "5d7bf428afdcc280"));
    assert!(Contexts::unpack(&packed) == Some(c));
}

#[test]
fn every_processor_reads_the_same() {
    let c = many();
    assert!(pack::unpack_any::<crate::codec::vector::Plain>(&c.pack()) == Some(c));
}

#[test]
fn a_short_code_makes_no_long_table() {
    // Contexts, followers, and bytes of keys, in a file of 4,000 bytes; the rest are zeros or ones.
    for (contexts, followers, keys) in [
        (1 << 24, u32::MAX, 3000),
        (1 << 24, 1 << 24, 3000),
        (20_000, 20_000, 3000),
        (1, 20_097, 3000),
        (20_096, 20_096, 3000),
        (5000, 20_096, 0),
    ] {
        for fill in [0, 0x11, 0xff] {
            let words = (4000 - 60 - keys) / 40;
            let head = [4, contexts, followers, 0, keys].into_iter().chain([words; 10]);
            let mut bytes: Vec<u8> = head.flat_map(u32::to_le_bytes).collect();
            bytes.resize(4000, fill);
            assert_eq!(Contexts::unpack(&bytes), None, "{contexts} {followers} {keys} {fill}");
        }
    }
}

#[test]
fn a_context_without_followers_is_none() {
    let mut c = Contexts::new(8);
    c.push(1 << 30, &[]);
    c.push(1 << 31, &[17]);
    assert_eq!((c.len(), c.followers()), (1, 1));
    assert_eq!(Contexts::unpack(&c.pack()), Some(c));
}

#[test]
fn counts_are_rounded_down() {
    for n in 1..5000 {
        let code = usize::from(count_code(n));
        assert!(COUNTS[code] <= n && COUNTS.get(code + 1).is_none_or(|next| *next > n));
    }
}
