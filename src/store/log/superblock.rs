//! The superblock and its copies, and the header that every segment begins with.

use super::record::{In, Out};
use crate::store::api::{Ecc, Result, StoreError, Superblock};
use crate::store::io::{Volume, read_up_to};

/// Format that this version writes and the newest it reads.
pub const FORMAT: u32 = 0;
/// Which draft of format 0 it is. One more with each change, until 0.1.0: a store of another draft is refused by
/// name, rather than taken for damaged.
const DRAFT: u16 = 4;
const MAGIC: &[u8; 8] = b"LMFS\r\n\x1a\n";
const LEN: usize = 128;
/// The superblock and its copies.
pub const FILES: [&str; 3] = ["superblock", "superblock.1", "superblock.2"];

/// Bytes per block that a store can have: no frame holds much more.
pub const BLOCK_SIZES: std::ops::RangeInclusive<u32> = 1 << 10..=4 << 20;

/// Bytes of a segment header.
pub const SEGMENT_HEADER: usize = 64;
const SEGMENT_MAGIC: &[u8; 8] = b"LMFSSEG\n";

fn sealed(mut bytes: Vec<u8>, len: usize) -> Vec<u8> {
    bytes.resize(len - 4, 0);
    let crc = crc32c::crc32c(&bytes);
    bytes.extend_from_slice(&crc.to_le_bytes());
    bytes
}

fn unsealed(bytes: &[u8], len: usize) -> Option<&[u8]> {
    let (body, crc) = bytes.get(..len)?.split_at(len - 4);
    (crc == crc32c::crc32c(body).to_le_bytes()).then_some(body)
}

/// The superblock's bytes. A model name is cut to 64 bytes.
pub fn encode(s: &Superblock) -> Vec<u8> {
    let mut o = Out::default();
    o.0.extend_from_slice(MAGIC);
    o.u32(s.format).u32(s.block_size).u8(s.ecc as u8).u8(0).u16(DRAFT);
    o.0.extend_from_slice(&s.uuid);
    let name = &s.model.as_bytes()[..s.model.len().min(64)];
    o.bytes(name);
    sealed(o.0, LEN)
}

/// Refuses what no store has.
pub fn check_block_size(n: u32) -> std::result::Result<(), String> {
    if BLOCK_SIZES.contains(&n) {
        return Ok(());
    }
    let (least, most) = BLOCK_SIZES.into_inner();
    Err(format!("blocks of {n} bytes; there can be {least} to {most}"))
}

/// Reads a superblock's bytes; `path` is for messages.
pub fn decode(bytes: &[u8], path: &str) -> Result<Superblock> {
    let refuse = |why: &str| Err(StoreError::Refused(format!("{path}: {why}")));
    if bytes.get(..8) != Some(MAGIC) {
        return refuse("not an lmfs superblock");
    }
    let parse = |body: &[u8]| {
        let mut i = In(body.get(8..)?);
        let (format, block_size, ecc, _, _) = (i.u32()?, i.u32()?, i.u8()?, i.u8()?, i.u16()?);
        let uuid = i.take(16)?.try_into().ok()?;
        let model = String::from_utf8(i.bytes()?).ok()?;
        let ecc = match ecc {
            0 => Ecc::None,
            1 => Ecc::Standard,
            2 => Ecc::Archival,
            _ => return None,
        };
        Some(Superblock { format, uuid, block_size, ecc, model })
    };
    let Some(body) = unsealed(bytes, LEN) else { return refuse("superblock checksum differs") };
    let format = In(&body[8..]).u32().unwrap_or(0);
    if format > FORMAT {
        return Err(StoreError::Refused(format!(
            "{path}: the store has format {format}, this lmfs reads up to {FORMAT}; use a newer lmfs"
        )));
    }
    let draft = body.get(18..20).map_or(0, |b| u16::from_le_bytes([b[0], b[1]]));
    if format == FORMAT && draft != DRAFT {
        return Err(StoreError::Refused(format!(
            "{path}: the store was made by another development version of lmfs (draft {draft} of format \
             {format}, this one has draft {DRAFT}); read it with that one: lmfs export STORE > OUT.tar"
        )));
    }
    let Some(s) = parse(body) else { return refuse("superblock not readable") };
    match check_block_size(s.block_size) {
        Ok(()) => Ok(s),
        Err(why) => refuse(&why),
    }
}

/// Reads the superblock, or the first copy that is whole.
pub fn read(volume: &dyn Volume, store: &str) -> Result<Superblock> {
    let mut first = None;
    for file in FILES {
        let path = format!("{store}/{file}");
        let got = volume
            .open(file, false)
            .and_then(|b| read_up_to(&*b, 0, LEN))
            .map_err(|source| StoreError::Io { what: format!("read {path}"), source })
            .and_then(|bytes| decode(&bytes, &path));
        match got {
            Ok(s) => {
                if let Some(e) = first {
                    log::warn!("{e}; using its copy {file}");
                }
                return Ok(s);
            }
            Err(e) => first = first.or(Some(e)),
        }
    }
    Err(match first {
        Some(StoreError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
            StoreError::Refused(format!(
                "{store} is not an lmfs store (no superblock); make one with: lmfs mkfs {store}"
            ))
        }
        Some(e) => e,
        None => StoreError::Refused(format!("{store} is not an lmfs store")),
    })
}

/// A segment's header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SegmentHeader {
    /// Number, as in the file's name.
    pub number: u32,
    /// The store's identity.
    pub uuid: [u8; 16],
    /// The segment begins with a checkpoint.
    pub checkpoint: bool,
}

impl SegmentHeader {
    /// Its bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut o = Out::default();
        o.0.extend_from_slice(SEGMENT_MAGIC);
        o.u32(FORMAT).u32(self.number);
        o.0.extend_from_slice(&self.uuid);
        o.u32(self.checkpoint.into());
        sealed(o.0, SEGMENT_HEADER)
    }

    /// Reads a header, if it is whole.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let mut i = In(unsealed(bytes, SEGMENT_HEADER)?);
        if i.take(8)? != SEGMENT_MAGIC || i.u32()? > FORMAT {
            return None;
        }
        let number = i.u32()?;
        let uuid = i.take(16)?.try_into().ok()?;
        Some(Self { number, uuid, checkpoint: i.u32()? != 0 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::tests::hex;

    #[test]
    fn golden_superblock() {
        let s = Superblock {
            format: 0,
            uuid: [7; 16],
            block_size: 0x20000,
            ecc: Ecc::Standard,
            model: "fast".into(),
        };
        let b = encode(&s);
        let hex = hex(&b[..48]);
        assert_eq!(
            hex,
            "4c4d46530d0a1a0a0000000000000200010004000707070707070707070707070707070704000000\
             6661737400000000"
        );
        assert_eq!(decode(&b, "x").unwrap(), s);
        for at in 0..b.len() {
            let mut c = b.clone();
            c[at] ^= 1;
            assert!(decode(&c, "x").is_err());
        }
    }

    #[test]
    fn a_store_of_another_draft_is_refused_by_name() {
        let s = Superblock {
            format: 0,
            uuid: [7; 16],
            block_size: 4096,
            ecc: Ecc::Standard,
            model: "fast".into(),
        };
        let mut other = encode(&s);
        other.truncate(LEN - 4);
        other[18] = 0;
        let e = decode(&sealed(other, LEN), "store/superblock").unwrap_err().to_string();
        assert!(e.contains("store/superblock: the store was made by another development"), "{e}");
        assert!(e.contains("draft 0 of format 0"), "{e}");
    }

    #[test]
    fn forged_block_sizes_are_refused_by_file() {
        let s = |block_size| Superblock {
            format: 0,
            uuid: [7; 16],
            block_size,
            ecc: Ecc::Standard,
            model: "fast".into(),
        };
        for n in [0, 1, 1023, (4 << 20) + 1, 1 << 31, u32::MAX] {
            let e = decode(&encode(&s(n)), "store/superblock").unwrap_err().to_string();
            assert!(e.contains("store/superblock") && e.contains(&format!("{n} bytes")), "{e}");
        }
        for n in [1 << 10, 4096, 128 << 10, 4 << 20] {
            assert_eq!(decode(&encode(&s(n)), "x").unwrap().block_size, n);
        }
    }

    #[test]
    fn golden_segment_header() {
        let h = SegmentHeader { number: 3, uuid: [9; 16], checkpoint: true };
        let b = h.encode();
        let hex = hex(&b[..36]);
        assert_eq!(
            hex,
            "4c4d46535345470a0000000003000000\
             0909090909090909090909090909090901000000"
        );
        assert_eq!(SegmentHeader::decode(&b), Some(h));
    }
}
