//! Vocabularies and texts of any bytes: refused, or whatever is encoded is decoded.
//!
//! Input: pre-tokenizer, number of further tokens, their lengths and bytes, merges, text.
#![no_main]

use libfuzzer_sys::fuzz_target;
use lmfs::model::Tokenizer;
use lmfs::model::tokenizer::{Merge, PreTokenizer};

fn take<'a>(rest: &mut &'a [u8], n: usize) -> &'a [u8] {
    let (head, tail) = rest.split_at(n.min(rest.len()));
    *rest = tail;
    head
}

fn byte(rest: &mut &[u8]) -> u8 {
    take(rest, 1).first().copied().unwrap_or(0)
}

fuzz_target!(|bytes: &[u8]| {
    let mut rest = bytes;
    let Some(kind) = PreTokenizer::from_u8(byte(&mut rest) % 4) else { return };
    let mut tokens: Vec<Vec<u8>> = (0..=255).map(|b| vec![b]).collect();
    let mut merges = Vec::new();
    for _ in 0..byte(&mut rest) {
        // A merge of two tokens that there are; now and then its result is wrong.
        let (left, right) = (u32::from(byte(&mut rest)), u32::from(byte(&mut rest)));
        let joined: Option<Vec<u8>> = (|| {
            Some([&tokens.get(left as usize)?[..], tokens.get(right as usize)?].concat())
        })();
        let Some(joined) = joined else { continue };
        let result = match byte(&mut rest) {
            0 => left,
            _ => tokens.len() as u32,
        };
        if joined.len() < 200 {
            tokens.push(joined);
            merges.push(Merge { left, right, result });
        }
    }
    if let Ok(t) = Tokenizer::new(kind, &tokens, merges) {
        assert_eq!(t.decode(&t.encode(rest)), rest);
    }
});
