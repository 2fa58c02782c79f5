//! Byte-level byte-pair encoding (Sennrich et al. 2016; the byte alphabet of GPT-2), or the longest
//! tokens from the left.
//!
//! Any byte string can be encoded, and decoding is concatenation, so what the tokenizer chooses
//! matters for the ratio only, never for correctness.

use crate::codec::Trie;
use std::collections::HashMap;
use std::sync::OnceLock;

/// How text is cut into pieces before pairs are merged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum PreTokenizer {
    /// One token a byte.
    Bytes = 0,
    /// GPT-2's words, numbers, runs of punctuation, spaces.
    Gpt2 = 1,
    /// Every digit alone, the rest like GPT-2.
    Digits = 2,
    /// No pieces and no merges: always the longest token.
    Longest = 3,
}

impl PreTokenizer {
    /// The kind with this number in a model file.
    pub fn from_u8(v: u8) -> Option<Self> {
        Some(match v {
            0 => Self::Bytes,
            1 => Self::Gpt2,
            2 => Self::Digits,
            3 => Self::Longest,
            _ => return None,
        })
    }
}

/// Two neighbouring tokens that become one. The order in the list is the priority.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Merge {
    /// Left token.
    pub left: u32,
    /// Right token.
    pub right: u32,
    /// What they become; its bytes are those of both.
    pub result: u32,
}

/// Why a vocabulary is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenizerError {
    /// A byte that no token stands for.
    #[error("no token stands for the byte {0:#04x}")]
    NoByte(u8),
    /// A merge whose result is not the concatenation of its parts.
    #[error("merge {0} does not join what it says")]
    BadMerge(usize),
    /// Merges where the longest token is taken.
    #[error("there are merges, but the longest token is taken")]
    Merges,
    /// Tokens whose longest one cannot be found.
    #[error("the tokens have {0} bytes, more than {max} where the longest one is taken",
        max = Trie::BYTES_MAX)]
    TooLong(usize),
}

/// A vocabulary, ready to encode.
#[derive(Debug, Clone)]
pub struct Tokenizer {
    kind: PreTokenizer,
    /// Start of each token in `bytes`, and the end of the last.
    starts: Vec<u32>,
    bytes: Vec<u8>,
    byte_tokens: [u32; 256],
    merges: Vec<Merge>,
    pairs: HashMap<u64, (u32, u32), PairHasher>,
    /// Where the longest token is taken; made when it is first needed.
    trie: OnceLock<Trie>,
}

/// Hashes a pair of tokens by one multiplication.
#[derive(Debug, Clone, Copy, Default)]
struct PairHasher(u64);

impl std::hash::BuildHasher for PairHasher {
    type Hasher = Self;
    fn build_hasher(&self) -> Self {
        Self(0)
    }
}

impl std::hash::Hasher for PairHasher {
    fn write(&mut self, bytes: &[u8]) {
        for b in bytes {
            self.write_u64(u64::from(*b));
        }
    }
    fn write_u64(&mut self, v: u64) {
        let x = (self.0 ^ v).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.0 = x ^ (x >> 29);
    }
    fn finish(&self) -> u64 {
        self.0
    }
}

/// Longest piece that is merged as one; longer ones (base64, a page of Chinese without a comma) are
/// cut, which bounds the time of merging.
const MAX_PIECE: usize = 192;
/// Rank of a pair that does not merge.
const NEVER: u32 = u32::MAX;

impl Tokenizer {
    /// Checks and prepares a vocabulary. Tokens without bytes are never produced.
    pub fn new(
        kind: PreTokenizer,
        tokens: &[Vec<u8>],
        merges: Vec<Merge>,
    ) -> Result<Self, TokenizerError> {
        let mut byte_tokens = [NEVER; 256];
        let mut starts = vec![0];
        let mut bytes = Vec::new();
        for (id, t) in tokens.iter().enumerate() {
            if let [b] = t[..]
                && byte_tokens[b as usize] == NEVER
            {
                byte_tokens[b as usize] = id as u32;
            }
            bytes.extend_from_slice(t);
            starts.push(bytes.len() as u32);
        }
        if let Some(b) = byte_tokens.iter().position(|t| *t == NEVER) {
            return Err(TokenizerError::NoByte(b as u8));
        }
        if kind == PreTokenizer::Longest {
            if !merges.is_empty() {
                return Err(TokenizerError::Merges);
            }
            if bytes.len() >= Trie::BYTES_MAX || tokens.len() >= Trie::BYTES_MAX {
                return Err(TokenizerError::TooLong(bytes.len()));
            }
        }
        let get = |id: u32| tokens.get(id as usize).filter(|t| !t.is_empty());
        let mut pairs = HashMap::with_capacity_and_hasher(merges.len(), PairHasher(0));
        for (rank, m) in merges.iter().enumerate() {
            let joined = match (get(m.left), get(m.right), get(m.result)) {
                (Some(l), Some(r), Some(j)) => {
                    j.len() == l.len() + r.len() && j.starts_with(l) && j.ends_with(r)
                }
                _ => false,
            };
            if !joined {
                return Err(TokenizerError::BadMerge(rank));
            }
            pairs.entry(key(m.left, m.right)).or_insert((rank as u32, m.result));
        }
        Ok(Self { kind, starts, bytes, byte_tokens, merges, pairs, trie: OnceLock::new() })
    }

    /// Pre-tokenizer.
    pub fn kind(&self) -> PreTokenizer {
        self.kind
    }

    /// Number of tokens, those without bytes included.
    pub fn len(&self) -> usize {
        self.starts.len() - 1
    }

    /// True if there is no token (no valid vocabulary is).
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The merges in order of priority.
    pub fn merges(&self) -> &[Merge] {
        &self.merges
    }

    /// What a token stands for; empty for special tokens.
    pub fn token(&self, id: u32) -> &[u8] {
        &self.bytes[self.starts[id as usize] as usize..self.starts[id as usize + 1] as usize]
    }

    /// Concatenates tokens.
    pub fn decode(&self, tokens: &[u32]) -> Vec<u8> {
        tokens.iter().flat_map(|t| self.token(*t)).copied().collect()
    }

    /// Encodes any bytes.
    pub fn encode(&self, text: &[u8]) -> Vec<u32> {
        if self.kind == PreTokenizer::Longest {
            let tokens = || (0..self.len() as u32).map(|t| self.token(t));
            let trie = self.trie.get_or_init(|| Trie::new(tokens()));
            return trie.cut(text).into_iter().map(u32::from).collect();
        }
        let mut out = Vec::with_capacity(text.len() / 3 + 4);
        let mut at = 0;
        let mut work = Work::default();
        while at < text.len() {
            let len = match self.kind {
                PreTokenizer::Bytes | PreTokenizer::Longest => 1,
                PreTokenizer::Gpt2 => piece(&text[at..], false),
                PreTokenizer::Digits => piece(&text[at..], true),
            };
            self.merge(&text[at..at + len], &mut work, &mut out);
            at += len;
        }
        out
    }

    /// Merges a piece, best rank first, leftmost among equals.
    fn merge(&self, piece: &[u8], w: &mut Work, out: &mut Vec<u32>) {
        if let [b] = piece {
            out.push(self.byte_tokens[*b as usize]);
            return;
        }
        w.ids.clear();
        w.ids.extend(piece.iter().map(|b| self.byte_tokens[*b as usize]));
        w.ranks.clear();
        w.results.clear();
        for p in w.ids.windows(2) {
            let (rank, result) = self.rank(p[0], p[1]);
            w.ranks.push(rank);
            w.results.push(result);
        }
        while let Some(best) = w.ranks.iter().min().copied().filter(|r| *r != NEVER) {
            let Some(i) = w.ranks.iter().position(|r| *r == best) else { break };
            w.ids[i] = w.results[i];
            w.ids.remove(i + 1);
            w.ranks.remove(i);
            w.results.remove(i);
            if i > 0 {
                (w.ranks[i - 1], w.results[i - 1]) = self.rank(w.ids[i - 1], w.ids[i]);
            }
            if i < w.ranks.len() {
                (w.ranks[i], w.results[i]) = self.rank(w.ids[i], w.ids[i + 1]);
            }
        }
        out.extend_from_slice(&w.ids);
    }

    fn rank(&self, left: u32, right: u32) -> (u32, u32) {
        self.pairs.get(&key(left, right)).copied().unwrap_or((NEVER, 0))
    }
}

fn key(left: u32, right: u32) -> u64 {
    u64::from(left) << 32 | u64::from(right)
}

/// Working memory of [`Tokenizer::merge`].
#[derive(Default)]
struct Work {
    ids: Vec<u32>,
    ranks: Vec<u32>,
    results: Vec<u32>,
}

/// What a character is to the pre-tokenizer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Class {
    Letter,
    Number,
    Space,
    Other,
}

/// Class and length of the character at the front of `s` (not empty). Bytes that are no UTF-8 are
/// "other", one at a time.
fn class(s: &[u8]) -> (Class, usize) {
    let b = s[0];
    if b < 128 {
        let c = match b {
            b'a'..=b'z' | b'A'..=b'Z' => Class::Letter,
            b'0'..=b'9' => Class::Number,
            b' ' | b'\t'..=b'\r' => Class::Space,
            _ => Class::Other,
        };
        return (c, 1);
    }
    let len = match b {
        0xc2..=0xdf => 2,
        0xe0..=0xef => 3,
        0xf0..=0xf4 => 4,
        _ => return (Class::Other, 1),
    };
    let Some(c) = s.get(..len).and_then(|s| std::str::from_utf8(s).ok()?.chars().next()) else {
        return (Class::Other, 1);
    };
    if c.is_alphabetic() {
        (Class::Letter, len)
    } else if c.is_numeric() {
        (Class::Number, len)
    } else if c.is_whitespace() {
        (Class::Space, len)
    } else {
        (Class::Other, len)
    }
}

/// End of the run of `c` from `at`, at most [`MAX_PIECE`] bytes into the piece.
fn run(s: &[u8], mut at: usize, c: Class) -> usize {
    while at < s.len() && at < MAX_PIECE {
        let (k, len) = class(&s[at..]);
        if k != c {
            break;
        }
        at += len;
    }
    at
}

/// Length of the first piece of `s` (not empty) under
/// `'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`;
/// with `digits`, every number character is a piece and ends the text for its neighbours.
fn piece(s: &[u8], digits: bool) -> usize {
    if s[0] == b'\'' {
        for end in ["s", "t", "re", "ve", "m", "ll", "d"] {
            if s[1..].starts_with(end.as_bytes()) {
                return 1 + end.len();
            }
        }
    }
    let (mut c, mut len) = class(s);
    if c == Class::Number && digits {
        return len;
    }
    if s[0] == b' ' && s.len() > 1 {
        let (next, n) = class(&s[1..]);
        if next != Class::Space && !(digits && next == Class::Number) {
            (c, len) = (next, 1 + n);
        }
    }
    let end = run(s, len, c);
    if c != Class::Space || end == s.len() {
        return end;
    }
    // Spaces before a word: the last one belongs to the word.
    let (next, _) = class(&s[end..]);
    if next == Class::Space || (digits && next == Class::Number) {
        return end;
    }
    let mut last = end - 1;
    while last > 0 && s[last] & 0xc0 == 0x80 {
        last -= 1;
    }
    if last == 0 { end } else { last }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    pub(crate) fn tiny() -> Tokenizer {
        let mut tokens: Vec<Vec<u8>> = vec![vec![]];
        tokens.extend((0..=255_u8).map(|b| vec![b]));
        let id = |b: u8| u32::from(b) + 1;
        let mut merges = Vec::new();
        for (l, r) in [("t", "h"), ("th", "e"), (" ", "the"), ("=", "=")] {
            let find = |tokens: &[Vec<u8>], s: &str| {
                tokens.iter().position(|t| t == s.as_bytes()).map_or(id(0), |i| i as u32)
            };
            let (left, right) = (find(&tokens, l), find(&tokens, r));
            let result = tokens.len() as u32;
            tokens.push([l, r].concat().into_bytes());
            merges.push(Merge { left, right, result });
        }
        Tokenizer::new(PreTokenizer::Digits, &tokens, merges).unwrap()
    }

    fn pieces(s: &str, digits: bool) -> Vec<&str> {
        let (mut at, mut out) = (0, Vec::new());
        while at < s.len() {
            let n = piece(&s.as_bytes()[at..], digits);
            out.push(&s[at..at + n]);
            at += n;
        }
        out
    }

    #[test]
    fn pieces_are_those_of_the_expression() {
        assert_eq!(pieces("I'll go  on", false), ["I", "'ll", " go", " ", " on"]);
        assert_eq!(pieces("a  12 b\n\n c \n", false), ["a", " ", " 12", " b", "\n\n", " c", " \n"]);
        assert_eq!(pieces("a  12 b", true), ["a", "  ", "1", "2", " b"]);
        assert_eq!(pieces("x=+1 --", true), ["x", "=+", "1", " --"]);
        assert_eq!(pieces("\t\tif", false), ["\t", "\t", "if"]);
        assert_eq!(pieces("中文, 12", false), ["中文", ",", " 12"]);
    }

    proptest! {
        #[test]
        fn any_bytes_come_back(text in prop::collection::vec(any::<u8>(), 0..2000)) {
            let t = tiny();
            prop_assert_eq!(t.decode(&t.encode(&text)), text);
        }

        #[test]
        fn any_text_comes_back(text in "[ the=0-9'\\n\u{e4}\u{4e2d}\u{2003}]{0,400}") {
            let t = tiny();
            prop_assert_eq!(t.decode(&t.encode(text.as_bytes())), text.as_bytes());
        }
    }

    #[test]
    fn merges_go_by_rank() {
        let t = tiny();
        let words: Vec<&[u8]> = t.encode(b"is the===").iter().map(|i| t.token(*i)).collect();
        assert_eq!(words, [&b"i"[..], b"s", b" the", b"==", b"="]);
    }

    #[test]
    fn cycles_and_gaps_are_refused() {
        let mut tokens: Vec<Vec<u8>> = (0..=255_u8).map(|b| vec![b]).collect();
        let m = Merge { left: 1, right: 2, result: 1 };
        assert_eq!(
            Tokenizer::new(PreTokenizer::Gpt2, &tokens, vec![m]).err(),
            Some(TokenizerError::BadMerge(0))
        );
        tokens[7] = vec![];
        assert_eq!(
            Tokenizer::new(PreTokenizer::Gpt2, &tokens, vec![]).err(),
            Some(TokenizerError::NoByte(7))
        );
    }
}
