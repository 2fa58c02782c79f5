//! A binary range coder with a 32-bit range and a carry (Subbotin, Martin 1979; carry handling as
//! in LZMA). A decision with probability p/65536 costs −log2 of it, within 1/1000.

/// Renormalise when the range falls below this.
const TOP: u32 = 1 << 24;

/// Writes decisions.
#[derive(Debug)]
pub struct Encoder {
    low: u64,
    range: u32,
    /// Bytes held back because a carry may still change them: one byte, then 0xFFs.
    held: u64,
    head: u8,
    out: Vec<u8>,
}

impl Default for Encoder {
    fn default() -> Self {
        // The byte before the first one, which no carry reaches, is dropped at the end.
        Self { low: 0, range: u32::MAX, held: 1, head: 0, out: Vec::new() }
    }
}

impl Encoder {
    /// Writes `bit`, whose probability to be 1 is `p1`/65536, 0 < p1 < 65536.
    #[inline(always)]
    pub fn encode(&mut self, bit: bool, p1: u32) {
        let bound = ((u64::from(self.range) * u64::from(p1)) >> 16) as u32;
        if bit {
            self.range = bound;
        } else {
            self.low += u64::from(bound);
            self.range -= bound;
        }
        while self.range < TOP {
            self.range <<= 8;
            self.shift();
        }
    }

    #[inline]
    fn shift(&mut self) {
        if self.low < 0xff00_0000 || self.low > u64::from(u32::MAX) {
            let carry = (self.low >> 32) as u8;
            self.out.push(self.head.wrapping_add(carry));
            for _ in 1..self.held {
                self.out.push(0xff_u8.wrapping_add(carry));
            }
            self.held = 0;
            self.head = (self.low >> 24) as u8;
        }
        self.held += 1;
        self.low = (self.low & 0x00ff_ffff) << 8;
    }

    /// Ends the code with as few bytes as tell it from all others; the decoder reads zeros after.
    pub fn finish(mut self) -> Vec<u8> {
        // The number in [low, low + range) with the most trailing zero bits.
        let end = self.low + u64::from(self.range) - 1;
        let mut mask = u64::from(u32::MAX);
        let mut value = end & !mask;
        while value < self.low {
            mask >>= 1;
            value = end & !mask;
        }
        self.low = value;
        for _ in 0..5 {
            self.shift();
        }
        self.out.remove(0);
        while self.out.last() == Some(&0) {
            self.out.pop();
        }
        self.out
    }
}

/// Reads decisions. Past the end of the code it reads zeros.
#[derive(Debug)]
pub struct Decoder<'a> {
    code: u32,
    range: u32,
    input: &'a [u8],
}

impl<'a> Decoder<'a> {
    /// Over a finished code.
    pub fn new(input: &'a [u8]) -> Self {
        let mut d = Self { code: 0, range: u32::MAX, input };
        for _ in 0..4 {
            d.code = d.code << 8 | d.next();
        }
        d
    }

    #[inline(always)]
    fn next(&mut self) -> u32 {
        match self.input.split_first() {
            Some((b, rest)) => {
                self.input = rest;
                u32::from(*b)
            }
            None => 0,
        }
    }

    /// Reads the decision that was written with the same probability.
    #[inline(always)]
    pub fn decode(&mut self, p1: u32) -> bool {
        let bound = ((u64::from(self.range) * u64::from(p1)) >> 16) as u32;
        let bit = self.code < bound;
        if bit {
            self.range = bound;
        } else {
            self.code = self.code.wrapping_sub(bound);
            self.range -= bound;
        }
        while self.range < TOP {
            self.range <<= 8;
            self.code = self.code << 8 | self.next();
        }
        bit
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::tables::cost;
    use proptest::prelude::*;

    /// [low, high) of the code's value as fractions of 2^32, before any renormalisation.
    fn interval(e: &Encoder) -> (f64, f64) {
        let unit = f64::from(u32::MAX);
        (e.low as f64 / unit, (e.low as f64 + f64::from(e.range)) / unit)
    }

    fn p(x: f64) -> u32 {
        (x * 65536.0).round() as u32
    }

    #[test]
    fn half_then_seven_tenths_then_four_tenths_is_0_to_014() {
        let mut e = Encoder::default();
        for x in [0.5, 0.7, 0.4] {
            e.encode(true, p(x));
        }
        let (low, high) = interval(&e);
        assert!(low == 0.0 && (high - 0.14).abs() < 1e-4, "{low} {high}");
        // 0.125 = binary 001 lies in it.
        let code = [0b0010_0000];
        let mut d = Decoder::new(&code);
        assert!([0.5, 0.7, 0.4].iter().all(|x| d.decode(p(*x))));
    }

    #[test]
    fn ab_ends_in_036_to_06_and_is_coded_as_011() {
        // A = 0.6 first, then B = 0.4: B is the upper part.
        let mut e = Encoder::default();
        e.encode(true, p(0.6));
        e.encode(false, p(0.6));
        let (low, high) = interval(&e);
        assert!((low - 0.36).abs() < 1e-4 && (high - 0.6).abs() < 1e-4);
        // Binary 0.1 = 0.5 is shorter still than 0.011 = 0.375; both lie inside.
        let code = e.finish();
        assert_eq!(code, [0b1000_0000]);
        for code in [code, vec![0b0110_0000]] {
            let mut d = Decoder::new(&code);
            assert!(d.decode(p(0.6)) && !d.decode(p(0.6)));
        }
    }

    proptest! {
        #[test]
        fn decisions_come_back_at_their_cost(v in proptest::collection::vec((any::<bool>(), 1..65536_u32), 0..3000)) {
            let mut e = Encoder::default();
            let mut bits = 0;
            for (bit, p1) in &v {
                e.encode(*bit, *p1);
                bits += cost(if *bit { *p1 } else { 65536 - p1 });
            }
            let code = e.finish();
            let ideal = bits as f64 / 65536.0 / 8.0;
            prop_assert!(code.len() as f64 <= ideal * 1.001 + 8.0, "{} {ideal}", code.len());
            let mut d = Decoder::new(&code);
            for (bit, p1) in &v {
                prop_assert_eq!(d.decode(*p1), *bit);
            }
        }
    }
}
