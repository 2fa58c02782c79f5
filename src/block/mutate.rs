//! Good bytes made bad, for tests of decoders.

/// Seeds with random bytes changed, put in, taken out, copied: the same ones each time. With
/// `LMFS_FORGERIES=n`, n times as many.
pub fn mutated(seeds: &[Vec<u8>], count: usize) -> impl Iterator<Item = Vec<u8>> {
    let mut x = 0x9e37_79b9_7f4a_7c15_u64;
    let mut dice = move |n: usize| {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        (x >> 11) as usize % n.max(1)
    };
    let odd = [0, 1, 0x7f, 0x80, 0xff];
    let times = std::env::var("LMFS_FORGERIES").ok().and_then(|n| n.parse().ok()).unwrap_or(1);
    (0..count * times).map(move |_| {
        let mut bytes = seeds[dice(seeds.len())].clone();
        for _ in 0..=dice(4) {
            let at = dice(bytes.len());
            let end = (at + 1 + dice(12)).min(bytes.len());
            match dice(6) {
                0 => bytes[at] ^= 1 << dice(8),
                1 => bytes[at] = odd[dice(odd.len())],
                2 => bytes[at..end].fill(odd[dice(odd.len())]),
                3 => drop(bytes.drain(at..end)),
                4 => bytes.insert(at, dice(256) as u8),
                _ => {
                    let part = bytes[at..end].to_vec();
                    let to = dice(bytes.len());
                    bytes.splice(to..to, part);
                }
            }
        }
        bytes
    })
}
