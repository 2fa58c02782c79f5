//! The coding tree: how a token becomes binary decisions.

use crate::codec::{self, Child};
use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// An inner node: the leaves `[from, to)` below it, parted at `mid`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Node {
    /// First leaf.
    pub from: u32,
    /// First leaf of the right subtree.
    pub mid: u32,
    /// One past the last leaf.
    pub to: u32,
    /// Left child: node number, or `!leaf`.
    pub left: i32,
    /// Right child: node number, or `!leaf`.
    pub right: i32,
}

/// A full binary tree over the tokens that can be coded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tree {
    leaves: Vec<u32>,
    nodes: Vec<Node>,
}

impl Tree {
    /// Deepest tree that is accepted.
    pub const MAX_DEPTH: usize = 48;

    /// A Huffman tree (Huffman 1952) for `(token, weight)` pairs. Ties go by position in the list,
    /// and subtrees are ordered by their first token, so that the result is unique.
    pub fn huffman(weights: &[(u32, u64)]) -> Self {
        #[derive(Clone, Copy)]
        enum Item {
            Leaf(u32),
            Pair(usize, usize),
        }
        // A floor keeps the depth below the limit: weights span at most 2^30.
        let total: u64 = weights.iter().map(|w| w.1).sum();
        let floor = (total >> 30).max(1);
        let mut items: Vec<Item> = weights.iter().map(|w| Item::Leaf(w.0)).collect();
        let mut first: Vec<u32> = weights.iter().map(|w| w.0).collect();
        let mut heap: BinaryHeap<Reverse<(u64, usize)>> =
            weights.iter().enumerate().map(|(i, w)| Reverse((w.1.max(floor), i))).collect();
        while let (Some(Reverse(a)), Some(Reverse(b))) = (heap.pop(), heap.peek().copied()) {
            heap.pop();
            let (l, r) = if first[a.1] <= first[b.1] { (a.1, b.1) } else { (b.1, a.1) };
            items.push(Item::Pair(l, r));
            first.push(first[l]);
            heap.push(Reverse((a.0 + b.0, items.len() - 1)));
        }
        // Pre-order walk into shape bits and leaves.
        let (mut bits, mut leaves) = (Vec::new(), Vec::new());
        let mut stack = vec![items.len() - 1];
        while let Some(i) = stack.pop() {
            match items[i] {
                Item::Leaf(t) => {
                    bits.push(false);
                    leaves.push(t);
                }
                Item::Pair(l, r) => {
                    bits.push(true);
                    stack.push(r);
                    stack.push(l);
                }
            }
        }
        Self::from_shape(&bits, leaves).expect("a Huffman tree is a tree")
    }

    /// The codec's tree in the order of the tokens' bytes (see [`codec::lexicographic`]) for
    /// `(token, weight, bytes)`. None if it would be too deep, or there are more tokens than the
    /// codec numbers.
    pub fn lexicographic(tokens: &[(u32, u64, &[u8])]) -> Option<Self> {
        if tokens.len() > 1 << 16 {
            return None;
        }
        let total: u64 = tokens.iter().map(|t| t.1).sum();
        let floor = (total >> 30).max(1);
        let mut sorted = tokens.to_vec();
        sorted.sort_by_key(|t| (t.2, t.0));
        let weights: Vec<(&[u8], u64)> = sorted.iter().map(|t| (t.2, t.1.max(floor))).collect();
        let nodes = codec::lexicographic(&weights);
        let mut shape = Vec::with_capacity(2 * tokens.len());
        let mut stack = vec![Child::Node(0)];
        while let Some(child) = stack.pop() {
            shape.push(matches!(child, Child::Node(_)));
            if let Child::Node(n) = child {
                let [left, right] = *nodes.get(n)?;
                stack.extend([right, left]);
            }
        }
        Self::from_shape(&shape, sorted.iter().map(|t| t.0).collect())
    }

    /// Rebuilds a tree from its pre-order shape (true = inner node) and its leaves from left to
    /// right. None if it is no full binary tree over them or deeper than [`Tree::MAX_DEPTH`].
    pub fn from_shape(bits: &[bool], leaves: Vec<u32>) -> Option<Self> {
        if leaves.len() < 2 || bits.len() != 2 * leaves.len() - 1 {
            return None;
        }
        let mut nodes: Vec<Node> = Vec::with_capacity(leaves.len() - 1);
        // Inner nodes that still lack a child, outermost first.
        let mut open: Vec<usize> = Vec::new();
        let mut leaf = 0_u32;
        for (i, inner) in bits.iter().enumerate() {
            if i > 0 && open.is_empty() {
                return None;
            }
            let child = if *inner { nodes.len() as i32 } else { !(leaf as i32) };
            if let Some(parent) = open.last() {
                let parent = &mut nodes[*parent];
                if parent.mid == u32::MAX {
                    parent.left = child;
                    parent.mid = u32::MAX - 1;
                } else {
                    parent.right = child;
                    parent.mid = leaf;
                }
            }
            if *inner {
                open.push(nodes.len());
                nodes.push(Node { from: leaf, mid: u32::MAX, to: 0, left: 0, right: 0 });
                if open.len() > Self::MAX_DEPTH {
                    return None;
                }
                continue;
            }
            leaf += 1;
            // Close the nodes whose right child this leaf completes; mark left ones as parted.
            while let Some(n) = open.last().copied() {
                if nodes[n].mid >= u32::MAX - 1 {
                    break;
                }
                nodes[n].to = leaf;
                open.pop();
            }
        }
        (open.is_empty() && leaf as usize == leaves.len()).then_some(Self { leaves, nodes })
    }

    /// Pre-order shape: true for an inner node.
    pub fn shape(&self) -> Vec<bool> {
        let mut bits = Vec::with_capacity(2 * self.leaves.len());
        let mut stack = vec![0_i32];
        while let Some(i) = stack.pop() {
            bits.push(i >= 0);
            if i >= 0 {
                let n = self.nodes[i as usize];
                stack.push(n.right);
                stack.push(n.left);
            }
        }
        bits
    }

    /// Tokens from left to right.
    pub fn leaves(&self) -> &[u32] {
        &self.leaves
    }

    /// Inner nodes in pre-order; the first is the root.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn check(n: &Tree, at: i32, from: u32, to: u32) {
        if at < 0 {
            assert_eq!((!at as u32, to), (from, from + 1));
            return;
        }
        let node = n.nodes[at as usize];
        assert_eq!((node.from, node.to), (from, to));
        assert!(node.from < node.mid && node.mid < node.to);
        check(n, node.left, from, node.mid);
        check(n, node.right, node.mid, to);
    }

    proptest! {
        #[test]
        fn huffman_trees_are_trees(w in prop::collection::vec(any::<u32>(), 2..200)) {
            let w: Vec<_> = w.iter().enumerate().map(|(i, w)| (i as u32, u64::from(*w))).collect();
            let t = Tree::huffman(&w);
            check(&t, 0, 0, w.len() as u32);
            prop_assert_eq!(Tree::from_shape(&t.shape(), t.leaves().to_vec()), Some(t));
        }

        #[test]
        fn lexicographic_trees_are_trees(
            tokens in prop::collection::vec((any::<u32>(), prop::collection::vec(97..100_u8, 1..5)), 2..200),
        ) {
            let tokens: Vec<(u32, u64, &[u8])> =
                tokens.iter().enumerate().map(|(i, (w, t))| (i as u32, u64::from(*w), &**t)).collect();
            if let Some(t) = Tree::lexicographic(&tokens) {
                check(&t, 0, 0, tokens.len() as u32);
                prop_assert!(t.leaves().is_sorted_by_key(|n| tokens[*n as usize].2));
                prop_assert_eq!(Tree::from_shape(&t.shape(), t.leaves().to_vec()), Some(t));
            } else {
                prop_assert!(false, "too deep");
            }
        }

        #[test]
        fn any_shape_is_a_tree_or_refused(bits in prop::collection::vec(any::<bool>(), 0..41)) {
            let n = bits.len().div_ceil(2) as u32;
            if let Some(t) = Tree::from_shape(&bits, (0..n).collect()) {
                check(&t, 0, 0, n);
                prop_assert_eq!(t.shape(), bits);
            }
        }
    }

    #[test]
    fn frequent_tokens_have_short_paths() {
        let t = Tree::huffman(&[(0, 1), (1, 1), (2, 100), (3, 10)]);
        assert!(t.nodes[0].left == !0 || t.nodes[0].right == !(t.leaves.len() as i32 - 1));
    }
}
