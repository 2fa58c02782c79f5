//! Choices of the coder's design, measured: `cargo bench --bench choices -- NAME: FILE… NAME: FILE…`
//! prints, for each named group of files, what the vocabulary, the tree over it, the primer and the
//! lanes make of ratio and speed. Bits per byte count the primer and 48 bytes for each frame's header;
//! times are the best of three, of this thread's processor.

#![allow(clippy::unwrap_used)]

use lmfs::codec::{self, Child, Cut, Predictor, Token, VOCAB, Vocab};
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;

/// Bytes counted for each frame's header.
const HEADER: usize = 48;
/// Bytes of a block.
const BLOCK: usize = 128 << 10;

/// A way to code a file.
struct Way {
    vocab: Arc<Vocab>,
    primer: usize,
    lanes: usize,
}

/// What coding came to.
#[derive(Default, Clone, Copy)]
struct Sum {
    bytes: usize,
    coded: usize,
    encode: f64,
    decode: f64,
    /// Of the slowest file's cold first block.
    first: f64,
}

/// Processor time of this thread, in seconds: steady where the wall clock is not.
fn processor_seconds() -> f64 {
    let mut t = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `t` is a valid place for the answer.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut t) };
    t.tv_sec as f64 + t.tv_nsec as f64 / 1e9
}

/// Codes and decodes a file in independent blocks; a file of more than one has a primer, which its
/// first block goes on from.
fn code(text: &[u8], way: &Way) -> Sum {
    let primed = way.primer > 0 && text.len() > BLOCK;
    let fresh = |n: usize| Predictor::over(&way.vocab, if primed { usize::MAX } else { n });
    let mut sum = Sum { bytes: text.len(), ..Sum::default() };
    let began = processor_seconds();
    let mut ready = fresh(0);
    let mut codes = Vec::new();
    if primed {
        let sample = &text[..way.primer];
        codes.push((codec::encode(sample, way.lanes, &mut ready, None).bytes, sample));
    }
    for (n, block) in text.chunks(BLOCK).enumerate() {
        let block = if primed && n == 0 { &block[way.primer..] } else { block };
        let mut predictor = if primed { ready.clone() } else { fresh(block.len()) };
        codes.push((codec::encode(block, way.lanes, &mut predictor, None).bytes, block));
    }
    sum.encode = processor_seconds() - began;
    let began = processor_seconds();
    let mut ready = fresh(0);
    for (n, (code, plain)) in codes.iter().enumerate() {
        let back = if primed && n == 0 {
            codec::decode(code, plain.len(), &mut ready, None)
        } else {
            let mut predictor = if primed { ready.clone() } else { fresh(plain.len()) };
            codec::decode(code, plain.len(), &mut predictor, None)
        };
        assert!(back.as_deref() == Some(*plain));
        if n == usize::from(primed) {
            sum.first = processor_seconds() - began;
        }
    }
    sum.decode = processor_seconds() - began;
    sum.coded = codes.iter().map(|(code, _)| code.len() + HEADER).sum();
    sum
}

/// All files of a group; times are the best of three.
fn group(texts: &[Vec<u8>], way: &Way) -> Sum {
    let mut all = Sum::default();
    for text in texts {
        let runs = [(); 3].map(|()| code(text, way));
        let best = |f: fn(&Sum) -> f64| runs.iter().map(f).fold(f64::INFINITY, f64::min);
        all.bytes += runs[0].bytes;
        all.coded += runs[0].coded;
        all.encode += best(|s| s.encode);
        all.decode += best(|s| s.decode);
        all.first = all.first.max(best(|s| s.first));
    }
    all
}

/// Tokens of `vocab.bin` and their weights.
fn tokens() -> Vec<(Box<[u8]>, u64)> {
    let mut rest = &include_bytes!("../src/codec/vocab.bin")[2..];
    let mut all = Vec::new();
    while let Some((len, more)) = rest.split_first() {
        let (bytes, more) = more.split_at((*len).into());
        let (weight, more) = more.split_first_chunk().unwrap();
        all.push((bytes.into(), u32::from_le_bytes(*weight).into()));
        rest = more;
    }
    all
}

/// Huffman's tree.
fn huffman(weights: &[u64]) -> Vec<[Child; 2]> {
    let leaf = |(n, w): (usize, &u64)| Reverse((*w, n, Child::Token(n as Token)));
    let mut heap: BinaryHeap<_> = weights.iter().enumerate().map(leaf).collect();
    let mut nodes = Vec::new();
    while heap.len() > 1 {
        let (Reverse(a), Reverse(b)) = (heap.pop().unwrap(), heap.pop().unwrap());
        heap.push(Reverse((a.0 + b.0, weights.len() + nodes.len(), Child::Node(nodes.len()))));
        nodes.push([a.2, b.2]);
    }
    // The root first.
    let last = nodes.len() - 1;
    nodes.reverse();
    let flip = |c| if let Child::Node(n) = c { Child::Node(last - n) } else { c };
    nodes.into_iter().map(|pair| pair.map(flip)).collect()
}

/// A tree whose leaves are in the order of the tokens' bytes.
fn alphabetic(tokens: &[(Box<[u8]>, u64)]) -> Vec<[Child; 2]> {
    let mut order: Vec<usize> = (0..tokens.len()).collect();
    order.sort_by_key(|t| &tokens[*t].0);
    let sorted: Vec<_> = order.iter().map(|t| (&*tokens[*t].0, tokens[*t].1)).collect();
    let token = |child| match child {
        Child::Token(place) => Child::Token(order[usize::from(place)] as Token),
        node @ Child::Node(_) => node,
    };
    codec::lexicographic(&sorted).into_iter().map(|pair| pair.map(token)).collect()
}

/// Bytes as tokens, weighed by how often the larger vocabulary's tokens use them.
fn bytes() -> Vec<(Box<[u8]>, u64)> {
    let mut weights = [1; 256];
    for (token, weight) in tokens() {
        token.iter().for_each(|b| weights[usize::from(*b)] += weight);
    }
    (0..=255).zip(weights).map(|(b, w)| ([b].into(), w)).collect()
}

/// A vocabulary, and either Huffman's tree or one in the order of bytes.
fn vocabulary(tokens: &[(Box<[u8]>, u64)], huffman_tree: bool) -> Arc<Vocab> {
    let all: Vec<Box<[u8]>> = tokens.iter().map(|t| t.0.clone()).collect();
    let weights: Vec<u64> = tokens.iter().map(|t| t.1).collect();
    let tree = if huffman_tree { huffman(&weights) } else { alphabetic(tokens) };
    let cut: Cut = if all.len() == 256 {
        Box::new(|text| text.iter().map(|b| Token::from(*b)).collect())
    } else {
        Box::new(|text| VOCAB.cut(text))
    };
    Arc::new(Vocab::new(&all, cut, &tree))
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    let mut groups: Vec<(String, Vec<Vec<u8>>)> = Vec::new();
    for arg in &args {
        match (arg.strip_suffix(':'), groups.last_mut()) {
            (Some(name), _) => groups.push((name.into(), Vec::new())),
            (None, Some((_, texts))) => texts.push(std::fs::read(arg).unwrap()),
            (None, None) => {}
        }
    }
    if groups.is_empty() {
        println!("usage: cargo bench --bench choices -- NAME: FILE... [NAME: FILE...]");
        return;
    }
    let embedded = Arc::clone(&VOCAB);
    let way = |vocab: &Arc<Vocab>, primer: usize, lanes| Way {
        vocab: Arc::clone(vocab),
        primer: primer << 10,
        lanes,
    };
    println!("way | group | bits per byte | encode MB/s | decode MB/s | cold first block, ms");
    for (name, way) in [
        ("bytes, Huffman's tree", way(&vocabulary(&bytes(), true), 64, 1)),
        ("bytes, in their order", way(&vocabulary(&bytes(), false), 64, 1)),
        ("4096 tokens, Huffman's tree", way(&vocabulary(&tokens(), true), 64, 1)),
        ("4096 tokens, in the order of bytes", way(&embedded, 64, 1)),
        ("primer of 0 KiB", way(&embedded, 0, 1)),
        ("primer of 16 KiB", way(&embedded, 16, 1)),
        ("primer of 32 KiB", way(&embedded, 32, 1)),
        ("primer of 64 KiB", way(&embedded, 64, 1)),
        ("8 lanes", way(&embedded, 64, 8)),
        ("16 lanes", way(&embedded, 64, 16)),
    ] {
        for (of, texts) in &groups {
            let s = group(texts, &way);
            println!(
                "{name} | {of} | {:.4} | {:.2} | {:.2} | {:.0}",
                s.coded as f64 * 8.0 / s.bytes as f64,
                s.bytes as f64 / s.encode / 1e6,
                s.bytes as f64 / s.decode / 1e6,
                s.first * 1e3
            );
        }
    }
}
