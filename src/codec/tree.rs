//! The tree that codes tokens: leaves in the order of their bytes, so that tokens which begin alike
//! share decisions, and what is learnt of one serves the others.

use super::token_model::Token;

/// A child in a tree that is given to [`super::Vocab::new`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Child {
    /// An inner node, by its place in the list; after its parent.
    Node(usize),
    /// A token.
    Token(Token),
}

/// A full binary tree over tokens, given in the order of their bytes, and their weights; inner nodes
/// in pre-order, children as places in the list. Each node parts its tokens where the weights are
/// most even; that the tokens on both sides of the cut have one more byte in common counts as an
/// eighth of the weight.
///
/// # Panics
/// If there are more tokens than can be numbered.
pub fn lexicographic(tokens: &[(&[u8], u64)]) -> Vec<[Child; 2]> {
    assert!(tokens.len() <= 1 << 16);
    let mut nodes = Vec::new();
    // Parts of the list whose nodes are to come, and whose children they are.
    let mut parts = vec![(0, tokens.len(), None)];
    while let Some((from, to, parent)) = parts.pop() {
        let child =
            if to - from < 2 { Child::Token(from as Token) } else { Child::Node(nodes.len()) };
        if let Some((node, side)) = parent {
            let pair: &mut [Child; 2] = &mut nodes[node];
            pair[side] = child;
        }
        if let Child::Node(node) = child {
            let mid = from + cut(&tokens[from..to]);
            nodes.push([child; 2]);
            parts.push((mid, to, Some((node, 1))));
            parts.push((from, mid, Some((node, 0))));
        }
    }
    nodes
}

/// Tokens left of the best cut; there are at least two.
fn cut(tokens: &[(&[u8], u64)]) -> usize {
    let common = |a: &[u8], b: &[u8]| a.iter().zip(b).take_while(|(x, y)| x == y).count();
    let all: u128 = tokens.iter().map(|t| u128::from(t.1)).sum();
    let (mut left, mut best, mut least) = (0, 1, u128::MAX);
    for (n, pair) in tokens.windows(2).enumerate() {
        left += u128::from(pair[0].1);
        let alike = common(pair[0].0, pair[1].0) as u128;
        let cost = 8 * all.abs_diff(2 * left) + alike * all;
        if cost < least {
            (best, least) = (n + 1, cost);
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cuts_are_even_and_between_tokens_that_differ_early() {
        let token = |t: &'static str, w| (t.as_bytes(), w);
        let all = [token("a", 3), token("ab", 3), token("ac", 3), token("b", 6), token("c", 1)];
        // The root parts those that begin with an a from the others.
        let tree = lexicographic(&all);
        let (t, n) = (Child::Token, Child::Node);
        assert_eq!(tree, [[n(1), n(3)], [t(0), n(2)], [t(1), t(2)], [t(3), t(4)]]);
    }
}
