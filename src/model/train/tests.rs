use super::*;
use crate::codec::prior::walk;
use crate::codec::{Company, Predictor, VOCAB, encode};
use std::sync::Arc;

fn texts() -> Vec<Vec<u8>> {
    let line = |i: u32| {
        format!("Jan {:02} host{} sshd[{i}]: Accepted publickey for user{}\n", i % 28, i % 9, i % 5)
    };
    (0..60).map(|n| (n * 50..n * 50 + 60).flat_map(|i| line(i).into_bytes()).collect()).collect()
}

fn trained(threads: usize, memory: usize) -> [Contexts; KINDS] {
    let dir = tempfile::tempdir().unwrap();
    let mut spool = Spool::new(dir.path(), &VOCAB, threads).unwrap();
    // Nothing stays, whatever happens.
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    for text in texts() {
        spool.push(&text).unwrap();
    }
    Training { memory }.run(&mut spool, &mut |_| {}).unwrap()
}

#[test]
fn any_number_of_threads_counts_the_same() {
    let one = trained(1, 1 << 20);
    assert!(one.iter().map(Contexts::len).sum::<usize>() > 50);
    assert_eq!(one, trained(3, 1 << 20));
    // A dear table has less in it.
    let small = trained(2, 400);
    let room = |kinds: &[Contexts; KINDS]| -> usize {
        kinds.iter().map(|k| 3 * k.len() + 2 * k.followers()).sum()
    };
    assert!(room(&small) <= 400 && room(&small) > 100, "{}", room(&small));
    assert_eq!(small, trained(1, 400));
}

#[test]
fn what_was_counted_saves_bits() {
    let prior = Arc::new(Prior::new(&VOCAB, &trained(2, 1 << 20)));
    let text = b"Jan 07 host3 sshd[77]: Accepted publickey for user2\n";
    let coded = |mut p: Predictor| encode(text, 1, &mut p, None).bytes.len();
    let (with, without) =
        (coded(Predictor::informed(&VOCAB, 52, &prior, Company::None)), coded(Predictor::new(52)));
    assert!(with * 2 < without, "{with} and {without}");
}

#[test]
fn too_little_text_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let mut spool = Spool::new(dir.path(), &VOCAB, 2).unwrap();
    spool.push(b"hardly anything").unwrap();
    let e = Training { memory: 1 << 20 }.run(&mut spool, &mut |_| {}).unwrap_err();
    assert!(e.to_string().contains("15 bytes"), "{e}");
}

#[test]
fn contexts_are_told_in_order() {
    let mut leaves = Vec::new();
    let tokens = VOCAB.cut(b"one two three");
    walk(&VOCAB, &tokens, |_, leaf| leaves.push(leaf));
    let want: Vec<u16> = tokens.iter().map(|t| VOCAB.leaf(*t) as u16).collect();
    assert_eq!(leaves, want);
}

/// Another service's lines.
fn others(from: u32, lines: u32) -> Vec<u8> {
    let line = |i: u32| {
        let port = i.wrapping_mul(7919) % 50_000;
        format!("{i:07} proxy: upstream node-{} timed out, retried on port {port}\n", i % 7)
    };
    (from..from + lines).flat_map(|i| line(i).into_bytes()).collect()
}

fn adapted(base: &[Contexts; KINDS], threads: usize, memory: usize) -> [Contexts; KINDS] {
    let dir = tempfile::tempdir().unwrap();
    let mut spool = Spool::new(dir.path(), &VOCAB, threads).unwrap();
    for n in 0..20 {
        spool.push(&others(n * 100, 100)).unwrap();
    }
    let mut told = Vec::new();
    let adapting = Adapting { base, memory };
    let made = adapting.run(&mut spool, &mut |p| told.push((p.done, p.all))).unwrap();
    assert!(told.iter().zip(1..).all(|(t, n)| t.0 == n) && told.last().is_some_and(|t| t.0 == t.1));
    made
}

#[test]
fn a_prior_learns_another_text_and_forgets_nothing() {
    let base = trained(2, 1 << 20);
    let own = adapted(&base, 2, 1 << 20);
    assert_eq!(own, adapted(&base, 1, 1 << 20));
    assert_eq!(own, adapted(&base, 3, 1 << 20));
    let coded = |kinds: &[Contexts; KINDS], text: &[u8]| {
        let prior = Arc::new(Prior::new(&VOCAB, kinds));
        encode(text, 1, &mut Predictor::informed(&VOCAB, text.len(), &prior, Company::None), None)
            .bytes
            .len()
    };
    // Lines that it has not seen, of either kind.
    let new = others(5000, 3);
    assert!(coded(&own, &new) * 3 < coded(&base, &new) * 2);
    let old = b"Jan 07 host3 sshd[77]: Accepted publickey for user2\n";
    let without = encode(old, 1, &mut Predictor::new(old.len()), None).bytes.len();
    assert!(coded(&own, old) * 3 < without * 2);
    // All contexts of the base are there still, with all that followed them there.
    let after = Prior::new(&VOCAB, &own);
    for (kind, contexts) in base.iter().enumerate() {
        let mut last = None;
        // Of several with one key only the first is ever found.
        for (key, followers) in contexts.iter().filter(|(key, _)| last.replace(*key) != Some(*key))
        {
            for follower in followers {
                let hash = key << (u32::BITS - contexts.key_bits());
                let share = after.share(kind, hash, follower >> 4);
                assert!(
                    share.is_some_and(|(own, _, all)| own > 0 && all as usize >= followers.len())
                );
            }
        }
    }
    // A small share of memory is kept to.
    let room = |kinds: &[Contexts; KINDS]| -> usize {
        kinds.iter().map(|k| 3 * k.len() + 2 * k.followers()).sum()
    };
    let small = adapted(&base, 2, 600);
    assert!((room(&base) + 1..=room(&base) + 600).contains(&room(&small)), "{}", room(&small));
    // What was adapted can be adapted again.
    let twice = adapted(&own, 2, 1 << 20);
    assert!(coded(&twice, &new) <= coded(&own, &new) + 3);
}

#[test]
fn a_small_prior_takes_much_text() {
    let base = trained(1, 400);
    let own = adapted(&base, 1, 1 << 20);
    let (few, many) = (base.iter().map(Contexts::len).max(), own.iter().map(Contexts::len).max());
    assert!(few.unwrap() < 60 && many.unwrap() > 200, "{few:?} {many:?}");
}
