use super::*;
use crate::codec::prior::walk;
use crate::codec::{Predictor, VOCAB, encode};
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
        (coded(Predictor::informed(&VOCAB, 52, &prior)), coded(Predictor::new(52)));
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
