//! A packed table of any bytes is read or refused. Contexts made of the input come back from their packed form, and that with some bytes changed is read or refused.
#![no_main]

use libfuzzer_sys::fuzz_target;
use lmfs::codec::prior::Contexts;

/// What is read is packed the same again, and takes no more memory than its length lets expect.
fn unpack(bytes: &[u8]) {
    if let Some(contexts) = Contexts::unpack(bytes) {
        assert!(contexts.followers() <= 4096 + 4 * bytes.len());
        let packed = contexts.pack();
        assert_eq!(Contexts::unpack(&packed), Some(contexts));
    }
}

/// Contexts of which the input has the gaps between hashes and between leaves, and the counts.
fn contexts(bytes: &[u8]) -> Contexts {
    let mut made = Contexts::new(bytes.len() / 8);
    let (mut hash, mut rest) = (0_u32, bytes);
    while let Some(([gap, n], after)) = rest.split_first_chunk() {
        hash = hash.saturating_add(u32::from(*gap) << (n >> 4));
        let (list, after) = after.split_at(after.len().min(2 * usize::from(n & 15) + 2));
        let mut leaf = 0;
        let mut followers = Vec::new();
        for pair in list.chunks_exact(2) {
            leaf += u16::from(pair[0]) + 1;
            followers.push((leaf % 4096) << 4 | u16::from(pair[1] & 15));
        }
        followers.sort_unstable();
        followers.dedup_by_key(|f| *f >> 4);
        made.push(hash, &followers);
        rest = after;
    }
    made
}

fuzz_target!(|bytes: &[u8]| {
    unpack(bytes);
    if let Some((change, rest)) = bytes.split_first_chunk::<4>() {
        let made = contexts(rest);
        let mut packed = made.pack();
        assert_eq!(Contexts::unpack(&packed), Some(made));
        let at = usize::from(u16::from_le_bytes([change[0], change[1]])) % packed.len();
        packed[at] ^= change[2];
        unpack(&packed);
        packed.truncate(packed.len() - usize::from(change[3]) % packed.len());
        unpack(&packed);
    }
});
