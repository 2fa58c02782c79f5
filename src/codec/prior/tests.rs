use super::*;
use proptest::prelude::*;
use std::collections::BTreeMap;

/// Contexts of any shape: by hash, followers with the codes of their counts.
fn any_contexts() -> impl Strategy<Value = BTreeMap<u32, BTreeMap<u16, u16>>> {
    let followers = proptest::collection::btree_map(0..LEAVES as u16, 0..16_u16, 1..40);
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
            let mut prior = Prior::empty();
            prior.set(0, &c);
            let mut f = Followers::default();
            for hash in 0..100_u32 {
                prior.look(0, hash << 25, &mut f);
                prior.part(0, &f, 2000);
            }
        }
    }

    #[test]
    fn followers_part_where_their_leaves_do(all in any_contexts(), mids: [u16; 4]) {
        let mut prior = Prior::empty();
        prior.set(3, &contexts(&all));
        for (hash, followers) in &all {
            let mut f = Followers::default();
            prior.look(3, *hash, &mut f);
            prop_assert!(!f.is_empty());
            let (mut from, mut to) = (0, u16::MAX);
            for mid in mids {
                let mid = mid % LEAVES as u16;
                let cut = mid.clamp(from, to);
                let count = |range: std::ops::Range<u16>| -> u32 {
                    let codes = followers.iter().filter(|(leaf, _)| range.contains(leaf));
                    codes.map(|(_, code)| COUNTS[usize::from(*code)]).sum()
                };
                let (left, right, at) = prior.part(3, &f, mid);
                prop_assert_eq!((left, right), (count(from..cut), count(cut..to)));
                let right = mid.is_multiple_of(2);
                f.narrow(at, right);
                if right { from = cut } else { to = cut }
            }
        }
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
