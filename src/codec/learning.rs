//! Learning what experts with a prior begin with ([`super::start`]). They are learnt as a starting point, not as a
//! result: from it experts go through one text after another, and it moves a little towards where each has ended
//! (Nichol, Achiam and Schulman, "On first-order meta-learning algorithms", 2018).

use super::experts::Informed;
use super::prior::Prior;
use super::start;
use super::token_model::Company;
use super::vocab::VOCAB;
use super::{Predictor, train};
use std::sync::Arc;

/// 1 in the numbers that are being learnt.
const ONE: i64 = 1 << 8;
/// The part of the way to where a text has ended that the start moves: one of so many.
const STEP: i64 = 10;

/// Learns a start.
#[derive(Debug)]
pub struct Learning {
    prior: Arc<Prior>,
    /// In parts of [`ONE`].
    start: Vec<i64>,
    /// Those of experts that never saw a text.
    origin: Vec<i32>,
}

fn numbers(experts: &mut Informed) -> Vec<i32> {
    let mut numbers = Vec::new();
    experts.each_parameter(&mut |n| {
        numbers.push(n);
        n
    });
    numbers
}

impl Learning {
    /// Has seen no text. The prior must be for the built-in vocabulary and should not have seen the texts either:
    /// it would be trusted too much.
    pub fn new(prior: &Arc<Prior>) -> Self {
        let origin = numbers(&mut Informed::untrained(&VOCAB, Company::None));
        let start = origin.iter().map(|n| i64::from(*n) * ONE).collect();
        Self { prior: Arc::clone(prior), start, origin }
    }

    /// The start so far, rounded.
    fn rounded(&self) -> impl Iterator<Item = i32> {
        self.start.iter().map(|n| ((n + ONE / 2).div_euclid(ONE)) as i32)
    }

    /// Experts that begin with what was learnt so far, for a text of `len` bytes.
    fn experts(&self, len: usize) -> Informed {
        let mut experts = Informed::untrained(&VOCAB, Company::None).for_text(len, &self.prior);
        let mut start = self.rounded();
        experts.each_parameter(&mut |n| start.next().unwrap_or(n));
        experts
    }

    /// Goes through a text.
    pub fn pass(&mut self, text: &[u8]) {
        let mut predictor = Predictor::Informed(Box::new(self.experts(text.len())));
        train(text, &mut predictor);
        let Predictor::Informed(mut experts) = predictor else { return };
        for (n, end) in self.start.iter_mut().zip(numbers(&mut experts)) {
            *n += (i64::from(end) * ONE - *n) / STEP;
        }
    }

    /// What was learnt, as `start.bin` holds it.
    ///
    /// # Errors
    /// zstd fails.
    pub fn file(&self) -> std::io::Result<Vec<u8>> {
        start::pack(self.rounded().zip(&self.origin).map(|(n, o)| n - o))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::encode;

    /// Sentences of one kind, `n` of them.
    fn text(seed: u32, n: u32) -> Vec<u8> {
        let whom = ["the baker", "her brother", "an old sailor", "nobody", "the clerk"];
        let what = ["waited for", "wrote to", "laughed at", "forgot"];
        let line = |i: u32| {
            let r = (seed + i).wrapping_mul(2_654_435_761) >> 16;
            let (a, b) = (whom[r as usize % 5], whom[r as usize / 5 % 5]);
            format!("On day {i}, {a} {} {b}.\n", what[r as usize / 25 % 4])
        };
        (0..n).flat_map(|i| line(i).into_bytes()).collect()
    }

    #[test]
    fn what_other_texts_taught_need_not_be_taught_again() {
        let mut learning = Learning::new(&Arc::new(Prior::empty(&VOCAB)));
        let new = text(1000, 40);
        let bits = |learning: &Learning| {
            let mut experts = Predictor::Informed(Box::new(learning.experts(new.len())));
            encode(&new, 1, &mut experts, None).ideal
        };
        let before = bits(&learning);
        for i in 0..30 {
            learning.pass(&text(i * 50, 40));
        }
        let after = bits(&learning);
        assert!(after * 100 < before * 97, "{after} {before}");
        // Nothing is learnt from nothing.
        learning.pass(b"");
        assert_eq!(bits(&learning), after);
    }
}
