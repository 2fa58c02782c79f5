//! What experts with a prior begin with: the weights and curves that texts of many kinds have left on average, so that
//! a text need not teach what all of them do. `start.bin` holds them as differences from those of experts that
//! never saw a text (a byte each, in steps of [`GRAIN`]), compressed with zstd. [`super::learning`] makes
//! it.

use super::experts::Informed;
use super::prior::Prior;
use super::token_model::Company;
use super::vocab::{VOCAB, Vocab};
use std::sync::{Arc, LazyLock};

/// The numbers as their file holds them.
const EMBEDDED: &[u8] = include_bytes!("start.bin");
/// Steps of the differences. Finer ones save nothing, coarser ones cost a little.
const GRAIN: i32 = 256;
/// Bytes of a file at most, uncompressed.
const ROOM: usize = 1 << 20;

/// Experts that begin so, by themselves and beside a network that corrects them.
static TRAINED: LazyLock<[Informed; 2]> = LazyLock::new(|| {
    let differences = unpack(EMBEDDED);
    [Company::None, Company::Correcting].map(|network| {
        let mut experts = Informed::untrained(&VOCAB, network);
        let mut differences = differences.iter().copied();
        experts.each_parameter(&mut |n| n + differences.next().unwrap_or(0));
        experts
    })
});

/// Experts for a text of `len` bytes, beside a prior that must be for the vocabulary, and maybe beside a network too; trained
/// ones over the built-in vocabulary.
pub fn informed(vocab: &Arc<Vocab>, len: usize, prior: &Arc<Prior>, network: Company) -> Informed {
    let built_in = Arc::ptr_eq(vocab, &VOCAB);
    let experts = match network {
        Company::None if built_in => TRAINED[0].clone(),
        Company::Correcting if built_in => TRAINED[1].clone(),
        _ => Informed::untrained(vocab, network),
    };
    experts.for_text(len, prior)
}

/// The differences in a file; none in what is no such file.
fn unpack(file: &[u8]) -> Vec<i32> {
    let bytes = zstd::bulk::decompress(file, ROOM).unwrap_or_default();
    bytes.iter().map(|b| i32::from(*b as i8) * GRAIN).collect()
}

/// A file of differences.
///
/// # Errors
/// zstd fails.
pub fn pack(differences: impl Iterator<Item = i32>) -> std::io::Result<Vec<u8>> {
    let grains = |d: i32| (d + GRAIN / 2).div_euclid(GRAIN).clamp(-128, 127) as u8;
    zstd::bulk::compress(&differences.map(grains).collect::<Vec<_>>(), 19)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_embedded_is_whole() {
        let mut numbers = 0;
        Informed::untrained(&VOCAB, Company::None).each_parameter(&mut |n| {
            numbers += 1;
            n
        });
        let differences = unpack(EMBEDDED);
        assert_eq!(differences.len(), numbers);
        let packed = pack(differences.iter().copied()).unwrap();
        assert_eq!(unpack(&packed), differences);
    }

    #[test]
    fn differences_are_kept_to_a_grain() {
        let packed = pack([0, 127, 128, -128, -129, 1 << 20, -(1 << 20)].into_iter()).unwrap();
        assert_eq!(unpack(&packed), [0, 0, 1, 0, -1, 127, -128].map(|n| n * GRAIN));
        assert_eq!(unpack(b"no such file"), Vec::<i32>::new());
    }
}
