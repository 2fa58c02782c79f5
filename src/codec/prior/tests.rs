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
    fn forged_tables_are_refused_or_read(mut bytes: Vec<u8>, bits in 0..40_u8, len in 0..2000_u16) {
        let [low, high] = len.to_le_bytes();
        bytes.splice(0..0, [bits, 0, 0, 0, low, high, 0, 0]);
        if let Some(c) = Contexts::unpack(&bytes) {
            let mut prior = Prior::empty(&VOCAB);
            prior.set(0, &c);
            let mut view = View::new(Some(Arc::new(prior)));
            for hash in 0..100_i32 {
                view.begin::<Plain>(&[hash << 25; KINDS]);
                down::<Plain>(&mut view, hash as u32, |_, _, _| {});
            }
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
fn down<V: Vector>(view: &mut View, ways: u32, mut tell: impl FnMut([usize; 3], Lanes, Lanes)) {
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

#[test]
fn a_short_code_makes_no_long_table() {
    // 2^24 contexts, whose code is zeros or ones.
    for code in [0, 0xff] {
        let mut bytes = vec![4, 0, 0, 0, 0, 0, 0, 1];
        bytes.extend([code; 400]);
        assert_eq!(Contexts::unpack(&bytes), None);
    }
}

#[test]
fn counts_are_rounded_down() {
    for n in 1..5000 {
        let code = usize::from(count_code(n));
        assert!(COUNTS[code] <= n && COUNTS.get(code + 1).is_none_or(|next| *next > n));
    }
}
