//! The part of a model that all others are for: tokens, how a text is cut into them, and the tree
//! that codes them.

use super::bytes::{FileError, In, Out};
use super::tokenizer::{Merge, PreTokenizer, Tokenizer};
use super::tree::Tree;
use crate::codec::{Child, Token, VOCAB, Vocab};
use std::sync::Arc;

/// Tokens and coding tree. Every token that has bytes is a leaf.
#[derive(Debug, Clone)]
pub struct Vocabulary {
    /// Cuts texts into tokens.
    pub tokenizer: Tokenizer,
    /// Codes tokens.
    pub tree: Tree,
}

impl Vocabulary {
    /// The one that is part of the program.
    pub fn built_in() -> Self {
        let size = VOCAB.size();
        let tokens: Vec<Vec<u8>> = (0..size).map(|t| VOCAB.bytes(t as Token).to_vec()).collect();
        let mut shape = Vec::with_capacity(2 * size);
        let mut stack = vec![Ok(0)];
        while let Some(child) = stack.pop() {
            shape.push(child.is_ok());
            if let Ok(node) = child {
                stack.extend([true, false].map(|bit| VOCAB.step(node, bit)));
            }
        }
        let leaves = (0..size).map(|leaf| VOCAB.at(leaf).into()).collect();
        Self {
            tokenizer: Tokenizer::new(PreTokenizer::Longest, &tokens, Vec::new())
                .expect("the built-in vocabulary has all bytes"),
            tree: Tree::from_shape(&shape, leaves).expect("the built-in tree is a tree"),
        }
    }

    fn to_bytes(&self) -> Vec<u8> {
        let mut o = Out::default();
        self.write(&mut o);
        o.0
    }

    /// Ready to code. The built-in one is shared by all that have it.
    pub fn ready(&self) -> Arc<Vocab> {
        let longest = self.tokenizer.kind() == PreTokenizer::Longest;
        if longest && self.to_bytes() == Self::built_in().to_bytes() {
            return Arc::clone(&VOCAB);
        }
        let tokens: Vec<Box<[u8]>> =
            (0..self.tokenizer.len() as u32).map(|t| self.tokenizer.token(t).into()).collect();
        let tokenizer = self.tokenizer.clone();
        let cut =
            move |text: &[u8]| tokenizer.encode(text).into_iter().map(|t| t as Token).collect();
        let child = |c: i32| match usize::try_from(c) {
            Ok(node) => Child::Node(node),
            Err(_) => Child::Token(self.tree.leaves()[!c as usize] as Token),
        };
        let children: Vec<_> =
            self.tree.nodes().iter().map(|n| [child(n.left), child(n.right)]).collect();
        Arc::new(Vocab::new(&tokens, Box::new(cut), &children))
    }

    pub(super) fn write(&self, o: &mut Out) {
        let size = self.tokenizer.len() as u32;
        o.u32(size);
        o.0.push(self.tokenizer.kind() as u8);
        for id in 0..size {
            o.u16(self.tokenizer.token(id).len() as u16);
        }
        for id in 0..size {
            o.0.extend_from_slice(self.tokenizer.token(id));
        }
        o.u32(self.tokenizer.merges().len() as u32);
        for m in self.tokenizer.merges() {
            o.u32(m.left);
            o.u32(m.right);
            o.u32(m.result);
        }
        o.u32(self.tree.leaves().len() as u32);
        for t in self.tree.leaves() {
            o.u32(*t);
        }
        for bits in self.tree.shape().chunks(8) {
            o.0.push(bits.iter().enumerate().fold(0, |b, (i, bit)| b | u8::from(*bit) << i));
        }
    }

    pub(super) fn read(i: &mut In<'_>) -> Result<Self, FileError> {
        let tokenizer = Self::read_tokenizer(i)?;
        let tree = Self::read_tree(i, &tokenizer)?;
        Ok(Self { tokenizer, tree })
    }

    fn read_tokenizer(i: &mut In<'_>) -> Result<Tokenizer, FileError> {
        i.section = "vocabulary";
        let size = i.u32()?;
        FileError::within("vocabulary", size, 256, Vocab::SIZE_MAX as u32)?;
        let kind = i.u8()?;
        let kind = PreTokenizer::from_u8(kind)
            .ok_or_else(|| FileError::Invalid(format!("pre-tokenizer {kind} is not known")))?;
        let lengths: Vec<usize> = i
            .take(size as usize * 2)?
            .chunks_exact(2)
            .map(|b| u16::from_le_bytes([b[0], b[1]]) as usize)
            .collect();
        let tokens: Vec<Vec<u8>> =
            lengths.iter().map(|n| i.take(*n).map(<[u8]>::to_vec)).collect::<Result<_, _>>()?;
        i.section = "merges";
        let n = i.u32()? as usize;
        let words: Vec<u32> =
            i.words(n.checked_mul(3).ok_or(FileError::Truncated(i.section))?)?.collect();
        let merges = words
            .chunks_exact(3)
            .map(|m| Merge { left: m[0], right: m[1], result: m[2] })
            .collect();
        Ok(Tokenizer::new(kind, &tokens, merges)?)
    }

    fn read_tree(i: &mut In<'_>, t: &Tokenizer) -> Result<Tree, FileError> {
        i.section = "coding tree";
        let n = i.u32()? as usize;
        if n > t.len() {
            return Err(FileError::Invalid(format!("coding tree has {n} leaves")));
        }
        let leaves: Vec<u32> = i.words(n)?.collect();
        let mut seen = vec![false; t.len()];
        for leaf in &leaves {
            match seen.get_mut(*leaf as usize) {
                Some(s) if !*s && !t.token(*leaf).is_empty() => *s = true,
                _ => return Err(FileError::Invalid(format!("coding tree has leaf {leaf}"))),
            }
        }
        if let Some(id) = (0..t.len()).find(|id| !seen[*id] && !t.token(*id as u32).is_empty()) {
            return Err(FileError::Invalid(format!("coding tree lacks token {id}")));
        }
        let count = (2 * n).saturating_sub(1);
        let bytes = i.take(count.div_ceil(8))?;
        let bits: Vec<bool> = (0..count).map(|b| bytes[b / 8] >> (b % 8) & 1 == 1).collect();
        if !count.is_multiple_of(8) && bytes[count / 8] >> (count % 8) != 0 {
            return Err(FileError::Invalid("coding tree has bits behind its end".into()));
        }
        Tree::from_shape(&bits, leaves)
            .ok_or_else(|| FileError::Invalid("coding tree is no full binary tree".into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_built_in_one_comes_back_and_is_shared() {
        let own = Vocabulary::built_in();
        let bytes = own.to_bytes();
        let mut i = In { rest: &bytes, section: "" };
        let read = Vocabulary::read(&mut i).unwrap();
        assert!(i.rest.is_empty() && Arc::ptr_eq(&read.ready(), &VOCAB));
        // Made from its file it would be the same.
        let text = b"2024-02-29T12:00:01Z host: the quick brown fox\xff\xe6\x96\x87";
        let cut: Vec<Token> = read.tokenizer.encode(text).iter().map(|t| *t as Token).collect();
        assert_eq!(cut, VOCAB.cut(text));
        let mut other = own;
        other.tree =
            Tree::huffman(&other.tree.leaves().iter().map(|t| (*t, 1)).collect::<Vec<_>>());
        let other = other.ready();
        assert!(!Arc::ptr_eq(&other, &VOCAB) && other.cut(text) == cut);
    }
}
