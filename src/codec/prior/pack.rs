//! A prior at rest: its contexts and followers under adaptive probabilities, arithmetic-coded.
//! `docs/format.md` has the order. One description serves both ways.

use super::contexts::{BITS_MAX, CHECK_BITS, Contexts, LEAVES};
use crate::codec::Bits;
use crate::codec::counters::Adaptive;
use crate::codec::range::{Decoder, Encoder};

/// Bits of a leaf.
const LEAF_BITS: u32 = LEAVES.ilog2();
/// Contexts of one kind, at most.
const CONTEXTS_MAX: u32 = 1 << 24;
/// Followers for each byte of code, at most: no table needs so few bits for one, and so forged ones take no
/// more memory than their length lets expect.
const FOLLOWERS_MAX: usize = 4;
/// Followers that are believed in any case.
const FEW: usize = 4096;

impl Bits for Encoder {
    #[inline(always)]
    fn pass(&mut self, p1: u32, bit: bool) -> bool {
        self.encode(bit, p1);
        bit
    }
}

/// Probabilities of a number's bits, the first ones first.
#[derive(Debug, Clone)]
struct Number {
    width: u32,
    cells: Vec<Adaptive>,
}

#[inline(always)]
fn adaptive<B: Bits>(bits: &mut B, cell: &mut Adaptive, bit: bool) -> bool {
    let bit = bits.pass(cell.p(), bit);
    *cell = cell.learned(bit, 255);
    bit
}

impl Number {
    fn new(width: u32) -> Self {
        Self { width, cells: vec![Adaptive::new(32768, 0); 1 << width] }
    }

    /// A number of at least `least`: decisions that follow from that are not coded.
    #[inline(always)]
    fn pass<B: Bits>(&mut self, bits: &mut B, least: u32, value: u32) -> u32 {
        let mut node = 1;
        for i in (0..self.width).rev() {
            // The largest number with a 0 here.
            let most = (((node << 1) + 1) << i) - 1 - (1 << self.width);
            let bit =
                most < least || adaptive(bits, &mut self.cells[node as usize], value >> i & 1 == 1);
            node = node << 1 | u32::from(bit);
        }
        node - (1 << self.width)
    }
}

/// A number by its length in bits, and the bits after the first.
#[derive(Debug, Clone)]
struct Gamma {
    length: Number,
    /// The first bit after the leading one, by length.
    second: [Adaptive; 32],
}

impl Gamma {
    fn new() -> Self {
        Self { length: Number::new(5), second: [Adaptive::new(32768, 0); 32] }
    }

    /// A number from 1 to 2^31 − 1.
    #[inline(always)]
    fn pass<B: Bits>(&mut self, bits: &mut B, value: u32) -> u32 {
        let length = self.length.pass(bits, 0, value.max(1).ilog2());
        let mut made = 1;
        for i in (0..length).rev() {
            let bit = value >> i & 1 == 1;
            let bit = if i + 1 == length {
                adaptive(bits, &mut self.second[length as usize], bit)
            } else {
                bits.pass(32768, bit)
            };
            made = made << 1 | u32::from(bit);
        }
        made
    }
}

/// Everything that adapts.
struct Cells {
    gap: Gamma,
    length: Gamma,
    /// Of contexts with one follower, and with more.
    leaf: [Number; 2],
    /// The same, by the count before.
    count: [Vec<Number>; 2],
}

impl Cells {
    fn new() -> Self {
        Self {
            gap: Gamma::new(),
            length: Gamma::new(),
            leaf: std::array::from_fn(|_| Number::new(LEAF_BITS)),
            count: std::array::from_fn(|_| vec![Number::new(4); 16]),
        }
    }

    /// One context: the gap between its key and the last one, and its followers.
    #[inline(always)]
    fn context<B: Bits>(
        &mut self,
        bits: &mut B,
        gap: u32,
        followers: &[u16],
        made: &mut Vec<u16>,
    ) -> Option<u32> {
        let gap = self.gap.pass(bits, gap + 1) - 1;
        let n = self.length.pass(bits, followers.len() as u32) as usize;
        let several = usize::from(n > 1);
        let (mut least, mut last) = (0, 0);
        for i in 0..n {
            if least == LEAVES as u32 {
                return None;
            }
            let f = u32::from(followers.get(i).copied().unwrap_or(0));
            let leaf = self.leaf[several].pass(bits, least, f >> 4);
            last = self.count[several][last as usize].pass(bits, 0, f & 15);
            made.push((leaf << 4 | last) as u16);
            least = leaf + 1;
        }
        Some(gap)
    }
}

impl Contexts {
    /// The contexts at rest.
    pub fn pack(&self) -> Vec<u8> {
        let mut out = self.bits.to_le_bytes().to_vec();
        out.extend_from_slice(&(self.len() as u32).to_le_bytes());
        let (mut coder, mut cells) = (Encoder::default(), Cells::new());
        let (mut last, mut made) = (0, Vec::new());
        for (key, followers) in self.iter() {
            made.clear();
            let _ = cells.context(&mut coder, key - last, followers, &mut made);
            last = key;
        }
        out.extend(coder.finish());
        out
    }

    /// Reverses [`Self::pack`]; `None` for what cannot be. Takes memory in proportion to `bytes` only.
    pub fn unpack(bytes: &[u8]) -> Option<Self> {
        let (bits, bytes) = bytes.split_first_chunk()?;
        let (len, bytes) = bytes.split_first_chunk()?;
        let (bits, len) = (u32::from_le_bytes(*bits), u32::from_le_bytes(*len));
        if bits > BITS_MAX || len > CONTEXTS_MAX {
            return None;
        }
        let mut new = Self { bits, keys: Vec::new(), ends: Vec::new(), followers: Vec::new() };
        let (mut coder, mut cells) = (Decoder::new(bytes), Cells::new());
        let mut key = 0_u32;
        for _ in 0..len {
            let gap = cells.context(&mut coder, 0, &[], &mut new.followers)?;
            key = key.checked_add(gap).filter(|k| u64::from(*k) < 1 << (bits + CHECK_BITS))?;
            if new.followers.len() > FEW + FOLLOWERS_MAX * bytes.len() {
                return None;
            }
            new.keys.push(key);
            new.ends.push(new.followers.len() as u32);
        }
        Some(new)
    }
}
