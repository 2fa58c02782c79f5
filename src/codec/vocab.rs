//! Vocabularies: byte strings, how a text is cut into them, and the tree that codes them.
//!
//! The `fast` tier has one of its own, cut greedily. `vocab.bin`: the number of tokens (2 bytes),
//! then for each its length (1), its bytes, and how often a sample of the training text used it,
//! plus one (4). All 256 single bytes are tokens, so any bytes can be cut. The tree is
//! that of [`lexicographic`].

use std::collections::HashSet;
use std::fmt;
use std::sync::{Arc, LazyLock};

use super::token_model::Token;
use super::tree::{Child, lexicographic};

/// Cuts a text into tokens whose bytes join to it.
pub type Cut = Box<dyn Fn(&[u8]) -> Vec<Token> + Send + Sync>;

/// Tokens, how to cut a text into them, the tree that codes them.
pub struct Vocab {
    /// Bytes of all tokens, and where each begins; the last is the end.
    bytes: Vec<u8>,
    starts: Vec<u32>,
    cut: Cut,
    /// Children of each inner node of the tree: below [`LEAF`] an inner node, else a token.
    children: Vec<[u32; 2]>,
    /// Paths of all tokens, (inner node, bit) from the root on, and where each begins.
    paths: Vec<(u16, bool)>,
    path_starts: Vec<u32>,
    /// Leaves below each inner node: first, first of the right child, one past the last.
    spans: Vec<[u16; 3]>,
    /// Each token's leaf, counted from the left.
    leaves: Vec<u16>,
}

/// Marks a token among the tree's children.
const LEAF: u32 = 1 << 31;

/// The embedded vocabulary as its file holds it.
const EMBEDDED: &[u8] = include_bytes!("vocab.bin");

/// The embedded vocabulary.
pub static VOCAB: LazyLock<Arc<Vocab>> =
    LazyLock::new(|| Arc::new(read(EMBEDDED).unwrap_or_else(|| greedy(Vec::new()))));

impl fmt::Debug for Vocab {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Vocab({} tokens)", self.size())
    }
}

impl Vocab {
    /// Most tokens: numbers of nodes and of one more fit 16 bits.
    pub const SIZE_MAX: usize = 65_534;

    /// From tokens, a way to cut texts into them, and a full binary tree whose root comes first and
    /// whose leaves are tokens. Tokens that are no leaf are never coded.
    ///
    /// # Panics
    /// If there are no or too many leaves, or the list is no such tree.
    pub fn new(tokens: &[Box<[u8]>], cut: Cut, tree: &[[Child; 2]]) -> Self {
        assert!(!tree.is_empty() && tree.len() < Self::SIZE_MAX && tokens.len() <= 1 << 16);
        // Nodes are numbered by depth: the first ones, which most texts pass, have weights of
        // their own.
        let mut order = vec![0];
        let mut number = vec![0_u32; tree.len()];
        let mut at = 0;
        while at < order.len() {
            number[order[at]] = at as u32;
            for child in tree[order[at]] {
                if let Child::Node(n) = child {
                    order.push(n);
                }
            }
            at += 1;
        }
        let children: Vec<[u32; 2]> = order
            .iter()
            .map(|n| {
                tree[*n].map(|c| match c {
                    Child::Node(n) => number[n],
                    Child::Token(t) => u32::from(t) | LEAF,
                })
            })
            .collect();
        // Leaves from left to right, and which of them are below each node.
        let mut spans = vec![[0; 3]; children.len()];
        let mut leaves = vec![0; tokens.len()];
        let mut found: Vec<Vec<(u16, bool)>> = vec![Vec::new(); tokens.len()];
        let mut next = 0_u16;
        let mut path: Vec<(u16, bool)> = Vec::new();
        let mut stack = vec![(0_u32, 0_usize, false)];
        while let Some((node, depth, parent_bit)) = stack.pop() {
            path.truncate(depth);
            if depth > 0 {
                path[depth - 1].1 = parent_bit;
            }
            if node & LEAF != 0 {
                let token = (node & !LEAF) as usize;
                leaves[token] = next;
                next += 1;
                found[token].clone_from(&path);
                for (node, bit) in &path {
                    let span: &mut [u16; 3] = &mut spans[usize::from(*node)];
                    if *bit && span[1] == 0 {
                        span[1] = next - 1;
                    }
                    span[2] = next;
                }
            } else {
                spans[node as usize][0] = next;
                let [left, right] = children[node as usize];
                path.push((node as u16, false));
                stack.push((right, depth + 1, true));
                stack.push((left, depth + 1, false));
            }
        }
        let (mut paths, mut path_starts) = (Vec::new(), vec![0]);
        for p in found {
            paths.extend(p);
            path_starts.push(paths.len() as u32);
        }
        let mut starts = vec![0];
        let mut bytes = Vec::new();
        for t in tokens {
            bytes.extend_from_slice(t);
            starts.push(bytes.len() as u32);
        }
        Self { bytes, starts, cut, children, paths, path_starts, spans, leaves }
    }

    /// Number of tokens; no inner node of the tree has this number or a higher one.
    pub fn size(&self) -> usize {
        self.leaves.len()
    }

    /// Memory held, in bytes, about.
    pub fn weight(&self) -> usize {
        self.bytes.len() + 4 * self.paths.len() + 24 * self.size()
    }

    /// A token's bytes.
    #[inline(always)]
    pub fn bytes(&self, token: Token) -> &[u8] {
        let t = usize::from(token);
        &self.bytes[self.starts[t] as usize..self.starts[t + 1] as usize]
    }

    /// A token's decisions.
    #[inline(always)]
    pub fn path(&self, token: Token) -> &[(u16, bool)] {
        let t = usize::from(token);
        &self.paths[self.path_starts[t] as usize..self.path_starts[t + 1] as usize]
    }

    /// Leaves below a node: the first, the first of the right child, one past the last.
    #[inline(always)]
    pub fn span(&self, node: u16) -> [usize; 3] {
        self.spans[usize::from(node)].map(usize::from)
    }

    /// A token's leaf, counted from the left.
    #[inline(always)]
    pub fn leaf(&self, token: Token) -> usize {
        usize::from(self.leaves[usize::from(token)])
    }

    /// The token at a leaf.
    pub fn at(&self, leaf: usize) -> Token {
        let mut node = 0;
        loop {
            match self.step(node, leaf >= self.span(node)[1]) {
                Ok(next) => node = next,
                Err(token) => return token,
            }
        }
    }

    /// Where a decision leads: `Ok` the next inner node, `Err` a token.
    #[inline(always)]
    pub fn step(&self, node: u16, bit: bool) -> Result<u16, Token> {
        let child = self.children[usize::from(node)][usize::from(bit)];
        if child & LEAF == 0 { Ok(child as u16) } else { Err((child & !LEAF) as Token) }
    }

    /// Cuts bytes into tokens.
    pub fn cut(&self, text: &[u8]) -> Vec<Token> {
        (self.cut)(text)
    }
}

/// Reads `vocab.bin`.
fn read(mut bytes: &[u8]) -> Option<Vocab> {
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
        if token.is_empty() {
            return None;
        }
        all.push((token, u32::from_le_bytes(take(4)?.try_into().ok()?)));
    }
    let different: HashSet<&[u8]> = all.iter().map(|(t, _)| &**t).collect();
    let fits = all.iter().map(|(t, _)| t.len()).sum::<usize>() < Trie::BYTES_MAX - 256;
    if !bytes.is_empty() || different.len() < all.len() || !fits {
        return None;
    }
    Some(greedy(all))
}

/// From tokens and their frequencies; single bytes that are missing are added.
fn greedy(mut all: Vec<(Box<[u8]>, u32)>) -> Vocab {
    for b in 0..=255_u8 {
        if !all.iter().any(|(t, _)| **t == [b]) {
            all.push(([b].into(), 1));
        }
    }
    let mut order: Vec<usize> = (0..all.len()).collect();
    order.sort_by_key(|n| &all[*n].0);
    let sorted: Vec<(&[u8], u64)> = order.iter().map(|n| (&*all[*n].0, all[*n].1.into())).collect();
    let mut children = lexicographic(&sorted);
    for child in children.iter_mut().flatten() {
        if let Child::Token(place) = child {
            *place = order[usize::from(*place)] as Token;
        }
    }
    let tokens: Vec<Box<[u8]>> = all.into_iter().map(|(t, _)| t).collect();
    let trie = Trie::new(tokens.iter().map(|t| &**t));
    Vocab::new(&tokens, Box::new(move |text| trie.cut(text)), &children)
}

/// Finds the longest token that a text begins with.
#[derive(Debug, Clone)]
pub struct Trie {
    /// `next[node * 256 + byte]`, 0 for none; node 0 is the root.
    next: Vec<u16>,
    /// Token that ends at a node, plus one; 0 for none.
    ends: Vec<u16>,
}

impl Trie {
    /// Most bytes of all tokens together: nodes are numbered with 16 bits.
    pub const BYTES_MAX: usize = u16::MAX as usize;

    /// Of tokens by their numbers; those without bytes are never found.
    pub fn new<'a>(tokens: impl Iterator<Item = &'a [u8]>) -> Self {
        let (mut next, mut ends) = (vec![0; 256], vec![0_u16]);
        for (n, token) in tokens.enumerate().filter(|(_, token)| !token.is_empty()) {
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
        Self { next, ends }
    }

    /// Cuts bytes into the longest tokens, from left to right. Each byte must be a token.
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
        assert!(v.size() > 4000);
        for t in 0..v.size() as u16 {
            let mut node = Ok(0);
            for (n, bit) in v.path(t) {
                assert_eq!(node, Ok(*n));
                node = v.step(*n, *bit);
            }
            assert_eq!(node, Err(t));
        }
    }

    #[test]
    fn spans_are_the_leaves_below() {
        let v = &VOCAB;
        assert_eq!((v.span(0)[0], v.span(0)[2]), (0, v.size()));
        for t in 0..v.size() as u16 {
            assert_eq!(v.at(v.leaf(t)), t);
            for (node, bit) in v.path(t) {
                let [from, mid, to] = v.span(*node);
                assert!(from < mid && mid < to);
                let side = if *bit { mid..to } else { from..mid };
                assert!(side.contains(&v.leaf(t)));
            }
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
