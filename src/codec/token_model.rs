//! What the codec asks of a language model: integers only.

/// Number of a token in its vocabulary.
pub type Token = u16;

/// Frequencies of a distribution sum to 2 to this power.
pub const TOTAL_BITS: u32 = 31;

/// Distributions of the next token, for several lanes that advance in lockstep.
///
/// Coder and decoder call the same functions with the same arguments in the same order and must get
/// the same numbers on every machine.
pub trait TokenModel {
    /// Number of lanes.
    fn lanes(&self) -> usize;

    /// Back to the start of text in all lanes, with `lanes` of them.
    fn reset(&mut self, lanes: usize);

    /// Tells the tokens that [`Self::advance`] will be given, lane by lane, so that they may be
    /// worked on many at a time. Changes no distribution. A decoder cannot know them.
    fn foresee(&mut self, _tokens: &[Vec<Token>]) {}

    /// Tells each lane the token that it coded last, and computes the next distributions. `None`
    /// for a lane that has ended. The first distributions, after [`Self::reset`], are asked for with
    /// [`Self::cumulative`] without any token told.
    fn advance(&mut self, tokens: &[Option<Token>]);

    /// Cumulative frequencies over the leaves of the coding tree from left to right, in `lane`.
    /// One longer than the number of leaves, starts with 0, strictly increasing, ends with
    /// 2^[`TOTAL_BITS`].
    fn cumulative(&self, lane: usize) -> &[u32];
}

/// Probability (of 65536, from 1 to 65535) of going right at a node over the leaves `[from, to)`
/// that is parted at `mid`.
#[inline]
pub fn node_probability(cumulative: &[u32], from: usize, mid: usize, to: usize) -> u32 {
    let all = u64::from(cumulative[to].saturating_sub(cumulative[from])).max(1);
    let right = u64::from(cumulative[to].saturating_sub(cumulative[mid]));
    (((right << 16) + all / 2) / all).clamp(1, 65535) as u32
}

/// Probability (of 65536, from 1 to 65535) of the token at `leaf`.
#[inline]
pub fn leaf_probability(cumulative: &[u32], leaf: usize) -> u32 {
    let p = cumulative[leaf + 1].saturating_sub(cumulative[leaf]);
    (p >> (TOTAL_BITS - 16)).clamp(1, 65535)
}

/// The likeliest leaf, the first one of several.
#[inline(always)]
pub fn likeliest(cumulative: &[u32]) -> usize {
    let (mut best, mut most) = (0, 0);
    for (leaf, pair) in cumulative.windows(2).enumerate() {
        let p = pair[1].wrapping_sub(pair[0]);
        if p > most {
            (best, most) = (leaf, p);
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_splits_the_mass_below_it() {
        let c = [0, 1 << 29, 1 << 30, 1 << 31];
        assert_eq!(node_probability(&c, 0, 2, 3), 32768);
        assert_eq!(node_probability(&c, 0, 1, 2), 32768);
        assert_eq!(node_probability(&c, 0, 1, 3), 49152);
        assert_eq!(node_probability(&[0, 1, 1 << 31], 0, 1, 2), 65535);
        assert_eq!(likeliest(&[0, 1, 5, 9, 10]), 1);
    }
}
