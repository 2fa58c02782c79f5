//! The code across a file: its 4 KiB pages, in stripes, and parity pages that rebuild any of them as
//! long as no more are lost than there are parity pages.

use crate::store::api::Ecc;
use reed_solomon_simd::{ReedSolomonDecoder, ReedSolomonEncoder};
use std::collections::BTreeMap;

/// Bytes of a page.
pub const PAGE: usize = 4096;
/// Pages of a stripe, but for the last one of a file.
pub const STRIPE: usize = 4096;
/// Bytes of a stripe.
pub const STRIPE_BYTES: usize = PAGE * STRIPE;

/// Parity pages of a stripe of so many pages. 17 pages hold any run of 64 KiB, 257 any run of 1 MiB.
pub fn parity_pages(ecc: Ecc, pages: usize) -> usize {
    match ecc {
        Ecc::None => 0,
        Ecc::Standard => pages.min(17 + pages / 512),
        Ecc::Archival => pages.min(257 + pages / 16),
    }
}

/// A page of a stripe's bytes, filled up with zeros.
fn page(stripe: &[u8], n: usize) -> [u8; PAGE] {
    let mut out = [0; PAGE];
    let bytes = &stripe[(n * PAGE).min(stripe.len())..((n + 1) * PAGE).min(stripe.len())];
    out[..bytes.len()].copy_from_slice(bytes);
    out
}

/// CRC32C of every page.
pub fn sums(stripe: &[u8]) -> Vec<u32> {
    (0..stripe.len().div_ceil(PAGE)).map(|n| crc32c::crc32c(&page(stripe, n))).collect()
}

/// The parity pages of a stripe.
pub fn parity(stripe: &[u8], count: usize) -> Result<Vec<Vec<u8>>, reed_solomon_simd::Error> {
    let pages = stripe.len().div_ceil(PAGE);
    if pages == 0 || count == 0 {
        return Ok(Vec::new());
    }
    let mut encoder = ReedSolomonEncoder::new(pages, count, PAGE)?;
    for n in 0..pages {
        encoder.add_original_shard(page(stripe, n))?;
    }
    let result = encoder.encode()?;
    Ok(result.recovery_iter().map(<[u8]>::to_vec).collect())
}

/// Rebuilds the pages `bad` of a stripe from the others and what is left of `count` parity pages;
/// the caller checks what comes out.
pub fn rebuild(
    stripe: &[u8],
    bad: &[usize],
    count: usize,
    left: &BTreeMap<usize, Vec<u8>>,
) -> Result<Vec<(usize, Vec<u8>)>, reed_solomon_simd::Error> {
    let pages = stripe.len().div_ceil(PAGE);
    let mut decoder = ReedSolomonDecoder::new(pages, count, PAGE)?;
    for n in (0..pages).filter(|n| bad.binary_search(n).is_err()) {
        decoder.add_original_shard(n, page(stripe, n))?;
    }
    for (n, bytes) in left {
        decoder.add_recovery_shard(*n, bytes)?;
    }
    let result = decoder.decode()?;
    Ok(result.restored_original_iter().map(|(n, bytes)| (n, bytes.to_vec())).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_pages_up_to_the_number_of_parity_pages_come_back() {
        for len in [1, 5000, 70_000, 300_000, 1_500_001] {
            let good: Vec<u8> = (0..len as u32).map(|i| (i.wrapping_mul(i) >> 7) as u8).collect();
            let pages = good.len().div_ceil(PAGE);
            let count = parity_pages(Ecc::Standard, pages);
            let all = parity(&good, count).unwrap();
            assert_eq!(all.len(), count);
            let left: BTreeMap<_, _> = all.into_iter().enumerate().collect();
            let first = pages / 3;
            let bad: Vec<usize> = (first..(first + count).min(pages)).collect();
            let mut hurt = good.clone();
            let hit = first * PAGE..((first + count) * PAGE).min(len);
            hurt[hit].fill(0x55);
            for (n, bytes) in rebuild(&hurt, &bad, count, &left).unwrap() {
                let to = &mut hurt[n * PAGE..((n + 1) * PAGE).min(len)];
                to.copy_from_slice(&bytes[..to.len()]);
            }
            assert!(hurt == good, "{len}");
        }
    }

    #[test]
    fn runs_of_the_promised_length_are_covered() {
        let run = |bytes: usize| (bytes - 1).div_ceil(PAGE) + 1;
        assert_eq!((run(64 << 10), run(1 << 20)), (17, 257));
        for pages in [17, 300, STRIPE] {
            assert!(parity_pages(Ecc::Standard, pages) >= 17);
            assert!(parity_pages(Ecc::Archival, pages) >= pages.min(257));
        }
    }
}
