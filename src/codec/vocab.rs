//! The vocabulary of the `fast` tier: byte strings, cut greedily, and the tree that codes them.
//!
//! `vocab.bin`: the number of tokens (2 bytes), then for each its length (1), its bytes, and how
//! often a sample of the training text used it, plus one (4). All 256 single bytes are tokens, so
//! any bytes can be cut. The tree is Huffman's (1952), so frequent tokens need few decisions.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::LazyLock;

/// A token's number.
pub type Token = u16;

/// Tokens, the trie that finds them, the tree that codes them.
#[derive(Debug)]
pub struct Vocab {
    tokens: Vec<Box<[u8]>>,
    /// Trie: `next[node * 256 + byte]`, 0 for none; node 0 is the root.
    next: Vec<u16>,
    /// Token that ends at a trie node, plus one; 0 for none.
    ends: Vec<u16>,
    /// Children of each inner node of the tree: below 0x8000 an inner node, else a token.
    children: Vec<[u16; 2]>,
    /// Path of each token: (inner node, bit) from the root on.
    paths: Vec<Box<[(u16, bool)]>>,
}

/// Marks a token among the tree's children.
const LEAF: u16 = 0x8000;

/// The embedded vocabulary.
pub static VOCAB: LazyLock<Vocab> = LazyLock::new(|| {
    Vocab::parse(include_bytes!("vocab.bin")).unwrap_or_else(|| Vocab::build(Vec::new()))
});

impl Vocab {
    fn parse(mut bytes: &[u8]) -> Option<Self> {
        let mut take = |n: usize| {
            let (a, b) = bytes.split_at_checked(n)?;
            bytes = b;
            Some(a)
        };
        let count = u16::from_le_bytes(take(2)?.try_into().ok()?);
        let mut all = Vec::new();
        for _ in 0..count {
            let len = take(1)?[0];
            let token: Box<[u8]> = take(len.into())?.into();
            all.push((token, u32::from_le_bytes(take(4)?.try_into().ok()?)));
        }
        Some(Self::build(all))
    }

    /// From tokens and their frequencies; single bytes that are missing are added.
    fn build(mut all: Vec<(Box<[u8]>, u32)>) -> Self {
        for b in 0..=255_u8 {
            if !all.iter().any(|(t, _)| **t == [b]) {
                all.push(([b].into(), 1));
            }
        }
        let (mut next, mut ends) = (vec![0; 256], vec![0_u16]);
        for (n, (token, _)) in all.iter().enumerate() {
            let mut at = 0;
            for b in token {
                let slot = at * 256 + usize::from(*b);
                if next[slot] == 0 {
                    next[slot] = ends.len() as u16;
                    ends.push(0);
                    next.resize(next.len() + 256, 0);
                }
                at = usize::from(next[slot]);
            }
            ends[at] = n as u16 + 1;
        }
        // Huffman: ties go to the older node, so the tree is the same everywhere.
        let mut heap: BinaryHeap<Reverse<(u64, u32, u16)>> = BinaryHeap::new();
        for (n, (_, f)) in all.iter().enumerate() {
            heap.push(Reverse((u64::from(*f), n as u32, n as u16 | LEAF)));
        }
        let mut children = Vec::with_capacity(all.len());
        let mut age = all.len() as u32;
        while let (Some(Reverse(a)), Some(Reverse(b))) = (heap.pop(), heap.pop()) {
            children.push([a.2, b.2]);
            heap.push(Reverse((a.0 + b.0, age, children.len() as u16 - 1)));
            age += 1;
            if heap.len() == 1 {
                break;
            }
        }
        // The root first, as node 0: it was made last.
        let last = children.len() as u16 - 1;
        let flip = |c: u16| if c & LEAF == 0 { last - c } else { c };
        children.reverse();
        for pair in &mut children {
            *pair = pair.map(flip);
        }
        let mut paths = vec![Box::default(); all.len()];
        let mut stack = vec![(0_u16, Vec::new())];
        while let Some((node, path)) = stack.pop() {
            for bit in [false, true] {
                let mut path: Vec<(u16, bool)> = path.clone();
                path.push((node, bit));
                let child = children[usize::from(node)][usize::from(bit)];
                if child & LEAF == 0 {
                    stack.push((child, path));
                } else {
                    paths[usize::from(child & !LEAF)] = path.into();
                }
            }
        }
        Self { tokens: all.into_iter().map(|(t, _)| t).collect(), next, ends, children, paths }
    }

    /// Number of tokens.
    #[cfg(test)]
    fn len(&self) -> usize {
        self.tokens.len()
    }

    /// A token's bytes.
    pub fn bytes(&self, token: Token) -> &[u8] {
        &self.tokens[usize::from(token)]
    }

    /// A token's decisions.
    pub fn path(&self, token: Token) -> &[(u16, bool)] {
        &self.paths[usize::from(token)]
    }

    /// Where a decision leads: `Ok` the next inner node, `Err` a token.
    #[inline(always)]
    pub fn step(&self, node: u16, bit: bool) -> Result<u16, Token> {
        let child = self.children[usize::from(node)][usize::from(bit)];
        if child & LEAF == 0 { Ok(child) } else { Err(child & !LEAF) }
    }

    /// Cuts bytes into the longest tokens, from left to right.
    pub fn cut(&self, text: &[u8]) -> Vec<Token> {
        let mut out = Vec::with_capacity(text.len() / 3);
        let mut at = 0;
        while at < text.len() {
            let (mut node, mut best, mut end) = (0, 0, at);
            for (i, b) in text[at..].iter().enumerate() {
                node = usize::from(self.next[node * 256 + usize::from(*b)]);
                if node == 0 {
                    break;
                }
                if self.ends[node] != 0 {
                    (best, end) = (self.ends[node] - 1, at + i + 1);
                }
            }
            out.push(best);
            at = end;
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_tree_has_every_token_and_the_vocabulary_every_byte() {
        let v = &VOCAB;
        assert!(v.len() > 4000);
        for t in 0..v.len() as u16 {
            let mut node = Ok(0);
            for (n, bit) in v.path(t) {
                assert_eq!(node, Ok(*n));
                node = v.step(*n, *bit);
            }
            assert_eq!(node, Err(t));
        }
    }

    proptest! {
        #[test]
        fn pieces_join_to_what_was_cut(text in proptest::collection::vec(any::<u8>(), 0..2000)) {
            let joined: Vec<u8> = VOCAB.cut(&text).into_iter().flat_map(|t| VOCAB.bytes(t).to_vec()).collect();
            prop_assert_eq!(joined, text);
        }
    }
}
