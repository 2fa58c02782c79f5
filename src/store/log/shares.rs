//! Whose the parts of a shared frame are: a table before the code in its payload.
//!
//! Its number of entries (u32), then of each its inode (u64), its generation (u40) and its length (u32). The parts lie
//! in this order in the plaintext, without gaps; each is the beginning of its file.

use crate::types::{Ino, Share};

/// Bytes of an entry.
const ENTRY: usize = 17;

/// The payload of a shared frame. No generation is above [`super::frame::MAX_U40`].
pub fn join(shares: &[Share], code: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(4 + ENTRY * shares.len() + code.len());
    out.extend_from_slice(&(shares.len() as u32).to_le_bytes());
    for share in shares {
        out.extend_from_slice(&share.ino.0.to_le_bytes());
        out.extend_from_slice(&share.generation.to_le_bytes()[..5]);
        out.extend_from_slice(&share.len.to_le_bytes());
    }
    out.extend_from_slice(code);
    out
}

/// The table of a payload, and the code behind it. Nothing if the parts are not all of the plaintext.
pub fn split(payload: &[u8], plain_len: u32) -> Option<(Vec<Share>, &[u8])> {
    let (count, rest) = payload.split_first_chunk()?;
    let len = (u32::from_le_bytes(*count) as usize).checked_mul(ENTRY)?;
    let (table, code) = rest.split_at_checked(len)?;
    let mut left = plain_len;
    let mut shares = Vec::with_capacity(table.len() / ENTRY);
    for entry in table.chunks_exact(ENTRY) {
        let (ino, rest) = entry.split_first_chunk()?;
        let (generation, len) = rest.split_first_chunk::<5>()?;
        let len = u32::from_le_bytes(len.try_into().ok()?);
        left = left.checked_sub(len).filter(|_| len > 0)?;
        let generation = generation.iter().rev().fold(0, |g, b| g << 8 | u64::from(*b));
        shares.push(Share { ino: Ino(u64::from_le_bytes(*ino)), generation, len });
    }
    (left == 0).then_some((shares, code))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::tests::hex;

    #[test]
    fn golden_bytes() {
        let share = |ino, generation, len| Share { ino: Ino(ino), generation, len };
        let shares = [share(5, 9, 3), share(0x0102, 0x05_0403_0201, 0x10)];
        let payload = join(&shares, b"code");
        assert_eq!(
            hex(&payload),
            "02000000 0500000000000000 0900000000 03000000 0201000000000000 0102030405 10000000 636f6465"
                .replace(' ', "")
        );
        assert_eq!(split(&payload, 19), Some((shares.to_vec(), &b"code"[..])));
    }

    #[test]
    fn a_forged_table_is_none() {
        let share = |len| Share { ino: Ino(5), generation: 9, len };
        let payload = join(&[share(3), share(4)], b"code");
        assert!(split(&payload, 7).is_some());
        assert!(split(&payload, 6).is_none() && split(&payload, 8).is_none());
        for n in 0..payload.len() - 4 {
            assert!(split(&payload[..n], 7).is_none(), "{n}");
        }
        assert!(split(&join(&[share(7), share(0)], b""), 7).is_none());
        assert!(split(&[0xff; 16], 7).is_none());
        assert!(split(&join(&[share(u32::MAX), share(8)], b""), 7).is_none());
    }
}
