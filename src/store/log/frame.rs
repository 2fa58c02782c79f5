//! Frames: a header, a payload, its parity, the header again (told apart by its first byte).
//! `docs/format.md` has the picture.

use crate::block::pack::pack;
use crate::store::repair::ecc::rs::Code;
use crate::types::{Encoding, FrameMeta};

/// Bytes of a frame header.
pub const HEADER: usize = 48;
/// Bytes a frame adds to its payload.
pub const OVERHEAD: usize = 2 * HEADER;
/// First byte of a frame's first header.
const FIRST: u8 = 0xF5;
/// First byte of its second header; the rest is the same but for the checksum.
const SECOND: u8 = 0xF6;
/// Largest payload and largest plaintext, in bytes.
pub const MAX_LEN: usize = (1 << 24) - 1;
/// Largest inode number, generation and primer id.
pub const MAX_U40: u64 = (1 << 40) - 1;
/// Largest file offset.
pub const MAX_U48: u64 = (1 << 48) - 1;

/// What a frame is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// Bytes of a file.
    Data = 0,
    /// A primer's sample.
    Primer = 1,
    /// A batch of changes with its commit mark.
    Batch = 2,
    /// A part of a namespace checkpoint.
    Checkpoint = 3,
    /// The end of a checkpoint: it counts only with this.
    CheckpointEnd = 4,
    /// Summary of a sealed segment.
    Footer = 5,
    /// In a sidecar: page checksums or a parity page.
    Parity = 6,
    /// Something of a later version that this one can do without, and steps over.
    Addition = 7,
}

impl Kind {
    fn from_u8(v: u8) -> Option<Self> {
        Some(match v {
            0 => Self::Data,
            1 => Self::Primer,
            2 => Self::Batch,
            3 => Self::Checkpoint,
            4 => Self::CheckpointEnd,
            5 => Self::Footer,
            6 => Self::Parity,
            7 => Self::Addition,
            _ => return None,
        })
    }
}

/// A frame header. For frames that are not data, `generation` is the batch's sequence number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// What the frame is for.
    pub kind: Kind,
    /// Payload length in bytes.
    pub payload_len: u32,
    /// Inode, 40 bits; 0 where several share the frame.
    pub ino: u64,
    /// Offset in the file, 48 bits.
    pub off: u64,
    /// Of the plaintext; generation and primer have 40 bits.
    pub meta: FrameMeta,
    /// Error-correcting code of the payload.
    pub code: Code,
    /// First 8 bytes of the plaintext's BLAKE3.
    pub plain_hash: u64,
    /// CRC32C of the payload.
    pub payload_crc: u32,
}

fn put(out: &mut [u8], v: u64) {
    let n = out.len();
    out.copy_from_slice(&v.to_le_bytes()[..n]);
}

fn get(b: &[u8]) -> u64 {
    let mut w = [0; 8];
    w[..b.len()].copy_from_slice(b);
    u64::from_le_bytes(w)
}

impl Header {
    /// Length of the whole frame.
    pub fn frame_len(&self) -> u32 {
        (self.payload_len as usize + self.parity_len() + OVERHEAD) as u32
    }

    /// Length of the parity between payload and second header.
    pub fn parity_len(&self) -> usize {
        self.code.parity_len(self.payload_len as usize)
    }

    /// The payload of a whole frame.
    pub fn payload<'a>(&self, frame: &'a [u8]) -> &'a [u8] {
        &frame[HEADER..HEADER + self.payload_len as usize]
    }

    fn encode(&self, magic: u8) -> [u8; HEADER] {
        let m = &self.meta;
        let mut b = [0; HEADER];
        b[0] = magic;
        let flags = u8::from(m.shared) << 6 | u8::from(m.staged) << 7;
        b[1] = self.kind as u8 | (m.encoding as u8) << 3 | flags;
        put(&mut b[2..4], m.model as u64);
        put(&mut b[4..7], self.payload_len as u64);
        put(&mut b[7..10], m.plain_len as u64);
        put(&mut b[10..15], self.ino);
        put(&mut b[15..21], self.off);
        put(&mut b[21..26], m.generation);
        put(&mut b[26..31], m.primer);
        b[31] = self.code as u8;
        put(&mut b[32..40], self.plain_hash);
        put(&mut b[40..44], self.payload_crc as u64);
        let crc = crc32c::crc32c(&b[..44]);
        put(&mut b[44..48], crc as u64);
        b
    }

    /// Reads a first header; `None` unless its checksum holds and every field is known.
    pub fn first(b: &[u8]) -> Option<Self> {
        Self::decode(b, FIRST)
    }

    /// Reads a second header.
    pub fn second(b: &[u8]) -> Option<Self> {
        Self::decode(b, SECOND)
    }

    fn decode(b: &[u8], magic: u8) -> Option<Self> {
        let b = b.get(..HEADER)?;
        if b[0] != magic || u64::from(crc32c::crc32c(&b[..44])) != get(&b[44..48]) {
            return None;
        }
        Some(Self {
            kind: Kind::from_u8(b[1] & 7)?,
            meta: FrameMeta {
                encoding: Encoding::from_u8(b[1] >> 3 & 7)?,
                staged: b[1] >> 7 != 0,
                shared: b[1] >> 6 & 1 != 0,
                model: get(&b[2..4]) as u16,
                plain_len: get(&b[7..10]) as u32,
                generation: get(&b[21..26]),
                primer: get(&b[26..31]),
            },
            payload_len: get(&b[4..7]) as u32,
            ino: get(&b[10..15]),
            off: get(&b[15..21]),
            code: Code::from_u8(b[31])?,
            plain_hash: get(&b[32..40]),
            payload_crc: get(&b[40..44]) as u32,
        })
    }

    /// A whole frame of this header (whose length and checksum fields are set here) and a payload
    /// of at most [`MAX_LEN`] bytes.
    pub fn frame(mut self, payload: &[u8]) -> Vec<u8> {
        self.payload_len = payload.len() as u32;
        self.payload_crc = crc32c::crc32c(payload);
        let mut out = Vec::with_capacity(self.frame_len() as usize);
        out.extend_from_slice(&self.encode(FIRST));
        out.extend_from_slice(payload);
        out.extend_from_slice(&self.code.parity(payload));
        out.extend_from_slice(&self.encode(SECOND));
        out
    }
}

/// The header of a whole frame, from whichever of the two is readable.
fn header(bytes: &[u8]) -> Result<Header, String> {
    let last = bytes.len().checked_sub(HEADER).and_then(|at| Header::second(&bytes[at..]));
    let fits = |h: &Header| h.frame_len() as usize == bytes.len();
    let h = Header::first(bytes).filter(fits).or(last.filter(fits));
    h.ok_or_else(|| "neither header is readable".into())
}

/// Checks what a reader needs of a whole frame: both headers and the payload, not its parity. One
/// header would do, but whoever finds the other one damaged should put it right while it can be.
pub fn check(bytes: &[u8]) -> Result<Header, String> {
    let h = header(bytes)?;
    if crc32c::crc32c(h.payload(bytes)) != h.payload_crc {
        return Err("payload checksum differs".into());
    }
    let second = bytes.len() - HEADER;
    if bytes[..HEADER] != h.encode(FIRST) || bytes[second..] != h.encode(SECOND) {
        return Err("one of the headers is damaged".into());
    }
    Ok(h)
}

/// Makes a whole frame what it was when it was written, if that can be told: both headers, payload,
/// parity. True if anything had to be changed; an error leaves the bytes as they are.
pub fn repair(bytes: &mut [u8]) -> Result<(Header, bool), String> {
    let h = header(bytes)?;
    let (front, last) = bytes.split_at_mut(bytes.len() - HEADER);
    let (first, rest) = front.split_at_mut(HEADER);
    let (payload, parity) = rest.split_at_mut(h.payload_len as usize);
    let mut changed = false;
    if crc32c::crc32c(payload) != h.payload_crc {
        let (mut better, mut beside) = (payload.to_vec(), parity.to_vec());
        let corrected = h.code.correct(&mut better, &mut beside);
        if corrected.is_err() || crc32c::crc32c(&better) != h.payload_crc {
            return Err("payload checksum differs, and the errors are too many to correct".into());
        }
        payload.copy_from_slice(&better);
        changed = true;
    }
    if !h.code.holds(payload, parity) {
        parity.copy_from_slice(&h.code.parity(payload));
        changed = true;
    }
    for (here, magic) in [(first, FIRST), (last, SECOND)] {
        let want = h.encode(magic);
        if here != want {
            here.copy_from_slice(&want);
            changed = true;
        }
    }
    Ok((h, changed))
}

/// The first 5 bytes of the store's identity, little-endian. Metadata frames carry it in place of
/// an inode, so that the log of another store, kept as a file in this one, is never taken for ours.
pub fn tag(uuid: &[u8; 16]) -> u64 {
    uuid[..5].iter().rev().fold(0, |n, b| n << 8 | u64::from(*b))
}

/// True for file data, whoever's, and for this store's metadata.
pub fn ours(h: &Header, tag: u64) -> bool {
    matches!(h.kind, Kind::Data | Kind::Primer) || h.ino == tag
}

/// What all metadata frames of a store have in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    /// See [`tag`].
    pub tag: u64,
    /// Error-correcting code of payloads.
    pub code: Code,
}

/// The frame of a payload that is not a file's data.
pub fn meta_frame(
    stamp: Stamp,
    kind: Kind,
    seq: u64,
    plain_len: usize,
    encoding: Encoding,
    payload: &[u8],
) -> Vec<u8> {
    let header = Header {
        kind,
        meta: FrameMeta {
            encoding,
            plain_len: plain_len as u32,
            generation: seq & MAX_U40,
            ..FrameMeta::default()
        },
        payload_len: 0,
        ino: stamp.tag,
        off: 0,
        code: stamp.code,
        plain_hash: 0,
        payload_crc: 0,
    };
    header.frame(payload)
}

/// The bytes compressed, if that makes them smaller.
pub fn squeeze(bytes: Vec<u8>) -> (Encoding, usize, Vec<u8>) {
    let len = bytes.len();
    match pack(&bytes) {
        Ok(z) if z.len() < len => (Encoding::Zstd, len, z),
        _ => (Encoding::Raw, len, bytes),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::tests::hex;

    fn sample() -> Header {
        Header {
            kind: Kind::Data,
            meta: FrameMeta {
                encoding: Encoding::Fast,
                staged: true,
                shared: false,
                model: 0x0102,
                plain_len: 0x070605,
                generation: 0x0908070605,
                primer: 0x1122334455,
            },
            payload_len: 3,
            ino: 0x0504030201,
            off: 0x060504030201,
            code: Code::Two,
            plain_hash: 0x8877665544332211,
            payload_crc: 0,
        }
    }

    #[test]
    fn golden_bytes() {
        let f = sample().frame(b"abc");
        let hex = hex(&f[..HEADER]);
        assert_eq!(
            &hex[..88],
            "f5900201030000050607010203040501020304050605060708095544332211011122334455667788b73f4b36"
        );
        let second = f.len() - HEADER;
        assert_eq!((f[second], &f[second + 1..second + 44]), (0xf6, &f[1..44]));
        assert_eq!((Header::first(&f[second..]), Header::second(&f)), (None, None));
        assert_eq!(check(&f).map(|h| h.meta.plain_len), Ok(0x070605));
    }

    #[test]
    fn every_flip_is_noticed_and_repaired() {
        let good = sample().frame(b"abc");
        assert_eq!(good.len(), OVERHEAD + 3 + 4);
        for bit in 0..good.len() * 8 {
            let mut f = good.clone();
            f[bit / 8] ^= 1 << (bit % 8);
            let in_parity = (HEADER + 3..HEADER + 7).contains(&(bit / 8));
            assert_eq!(check(&f).ok(), in_parity.then(|| check(&good).unwrap()));
            assert_eq!(repair(&mut f).map(|(_, changed)| changed), Ok(true));
            assert!(f == good, "{bit}");
        }
        assert_eq!(repair(&mut good.clone()).map(|(_, changed)| changed), Ok(false));
    }

    #[test]
    fn a_frame_without_payload_is_repaired_too() {
        for code in [Code::None, Code::Two, Code::Four] {
            let good = Header { code, ..sample() }.frame(b"");
            let mut f = good.clone();
            assert_eq!(repair(&mut f).map(|(_, changed)| changed), Ok(false));
            f[3] ^= 1;
            assert_eq!(repair(&mut f).map(|(_, changed)| changed), Ok(true));
            assert!(f == good);
        }
    }

    #[test]
    fn without_parity_damage_is_only_noticed() {
        let good = Header { code: Code::None, ..sample() }.frame(b"abc");
        for bit in HEADER * 8..(HEADER + 3) * 8 {
            let mut f = good.clone();
            f[bit / 8] ^= 1 << (bit % 8);
            let hurt = f.clone();
            assert!(repair(&mut f).is_err() && f == hurt);
        }
    }
}
