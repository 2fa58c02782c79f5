//! Parts of the codec alone, for benchmarks: the range coder and the mixer.

use super::mixer::{Inputs, Mixer, ONE, Rates};
use super::range::{Decoder, Encoder};
use super::vector::{Shorts, Vector, WIDTH};

/// Codes decisions, each with its probability (of 65536, from 1 to 65535) to be 1.
pub fn encode(decisions: &[(bool, u32)]) -> Vec<u8> {
    let mut coder = Encoder::default();
    for (bit, p1) in decisions {
        coder.encode(*bit, *p1);
    }
    coder.finish()
}

/// Decodes decisions with the probabilities that they were coded with; returns how many were 1.
pub fn decode(code: &[u8], decisions: &[(bool, u32)]) -> usize {
    let mut coder = Decoder::new(code);
    decisions.iter().filter(|(_, p1)| coder.decode(*p1)).count()
}

multiversion! {
    /// Mixes and learns `decisions` times; returns the sum of the probabilities, of 65536.
    pub fn mix(decisions: u32) -> u64 = mix_any
}

#[inline(always)]
fn mix_any<V: Vector>(decisions: u32) -> u64 {
    let eighths = Shorts([(ONE / 8) as i16; 2 * WIDTH]);
    let initial = Inputs { counted: [eighths], rest: eighths };
    let mut mixer = Mixer::<1, 3>::new(
        &initial,
        [64; 3],
        [16, 0],
        Rates { first: 28, boost: 4, decay: 256, second: 4 },
    );
    let mut inputs = Inputs::<1>::ZERO;
    let (mut seed, mut sum) = (1_u32, 0);
    for _ in 0..decisions {
        seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let bit = seed >> 31 == 1;
        // Half of the inputs know more than nothing.
        let all = inputs.counted.iter_mut().chain([&mut inputs.rest]);
        for (i, x) in all.flat_map(|s| &mut s.0).enumerate() {
            let noise = (seed >> (i % 16) & 0xff) as i16 - 128;
            *x = if i % 2 == 0 { noise } else { noise + if bit { 200 } else { -200 } };
        }
        let contexts = [seed >> 8, seed >> 12, seed >> 16].map(|c| c as usize % 64);
        let logit = mixer.mix::<V>(&inputs, &contexts, [seed as usize >> 24 & 15, 0]);
        sum += super::tables::TABLES.squash(logit) as u64;
        mixer.update::<V>(&inputs, bit);
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::vector::Plain;

    #[test]
    fn parts_do_their_work() {
        let decisions: Vec<(bool, u32)> =
            (0..5000_u32).map(|i| (i % 7 < 3, 1 + i * 40_503 % 65_535)).collect();
        let code = encode(&decisions);
        assert_eq!(decode(&code, &decisions), decisions.iter().filter(|d| d.0).count());
        assert_eq!(mix(2000), mix_any::<Plain>(2000));
    }
}
