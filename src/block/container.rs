//! The `.lmz` container: one file as a sequence of coded blocks. `docs/format.md` has the bytes.

use super::{
    BlockError, ENGINE, Encoded, Lm, ModelId, Primer, Tier, decode, encode, looks_like_text,
    plain_hash,
};
use crate::types::Encoding;
use std::io::{self, Read, Write};
use std::sync::Arc;
use std::thread;

const MAGIC: &[u8; 4] = b"LMZ\x1a";
/// Version of the container.
const VERSION: u8 = 0;
/// Longest name of a model, in bytes.
const NAME_MAX: usize = 255;
/// Bytes of a block's header.
const HEADER: usize = 24;
/// Largest plaintext and payload of a block, in bytes.
const BLOCK_MAX: u32 = 16 << 20;
const KIND_END: u8 = 0;
const KIND_PRIMER: u8 = 1;
const KIND_BLOCK: u8 = 2;

/// Why a container could not be written or read.
#[derive(Debug, thiserror::Error)]
pub enum ContainerError {
    /// The data are damaged; nothing of them is to be trusted.
    #[error("damaged: {0}")]
    Damaged(String),
    /// Made by a later version, or with a model that this version does not have.
    #[error("needs {0}")]
    Missing(String),
    /// Reading or writing failed.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Finds the language model with an id and a name, or says what to do where it is not there.
pub type Find<'a> = &'a dyn Fn(&ModelId, &str) -> std::result::Result<Arc<Lm>, String>;

type Result<T> = std::result::Result<T, ContainerError>;

fn header(
    kind: u8,
    encoding: u8,
    primed: bool,
    plain_len: u32,
    payload: &[u8],
    hash: u64,
) -> Vec<u8> {
    let mut h = vec![kind, encoding, u8::from(primed), 0];
    h.extend_from_slice(&plain_len.to_le_bytes());
    h.extend_from_slice(&(payload.len() as u32).to_le_bytes());
    h.extend_from_slice(&hash.to_le_bytes());
    let crc = crc32c::crc32c_append(crc32c::crc32c(&h), payload);
    h.extend_from_slice(&crc.to_le_bytes());
    h
}

fn put_coded(out: &mut dyn Write, kind: u8, plain: &[u8], e: &Encoded) -> Result<()> {
    let hash = plain_hash(plain);
    out.write_all(&header(kind, e.encoding as u8, e.primed, plain.len() as u32, &e.payload, hash))?;
    out.write_all(&e.payload)?;
    Ok(())
}

fn fill(input: &mut dyn Read, len: usize) -> io::Result<Vec<u8>> {
    let mut buf = Vec::new();
    input.take(len as u64).read_to_end(&mut buf)?;
    Ok(buf)
}

/// Compresses `input` in blocks of `block` bytes, `threads` at a time.
pub fn compress(
    input: &mut dyn Read,
    out: &mut dyn Write,
    block: usize,
    tier: &Tier,
    threads: usize,
) -> Result<()> {
    out.write_all(MAGIC)?;
    out.write_all(&[VERSION, u8::from(tier.lm.is_some())])?;
    out.write_all(&ENGINE.to_le_bytes())?;
    if let Some(lm) = &tier.lm {
        let name = &lm.name().as_bytes()[..lm.name().len().min(NAME_MAX)];
        let mut h = lm.id().to_vec();
        h.push(name.len() as u8);
        h.extend_from_slice(name);
        let crc = crc32c::crc32c(&h);
        out.write_all(&h)?;
        out.write_all(&crc.to_le_bytes())?;
    }
    let mut total = blake3::Hasher::new();
    let mut bytes = 0_u64;
    let mut primer = None;
    let mut first = true;
    loop {
        let mut parts = Vec::new();
        while parts.len() < threads.max(1) {
            let part = fill(input, block)?;
            if part.is_empty() {
                break;
            }
            total.update(&part);
            bytes += part.len() as u64;
            parts.push(part);
        }
        let more = parts.last().is_some_and(|p| p.len() == block);
        if first && more && block >= Primer::LEN && looks_like_text(&parts[0]) {
            let made = Primer::make(parts[0][..Primer::LEN].to_vec(), tier);
            let (p, e) = made.map_err(io::Error::other)?;
            put_coded(out, KIND_PRIMER, p.plain(), &e)?;
            primer = Some(p);
        }
        first = false;
        let coded = thread::scope(|scope| {
            let one = |part: &Vec<u8>| encode(part, primer.as_ref(), tier);
            let workers: Vec<_> = parts.iter().map(|p| scope.spawn(move || one(p))).collect();
            workers.into_iter().map(thread::ScopedJoinHandle::join).collect::<Vec<_>>()
        });
        for (part, e) in parts.iter().zip(coded) {
            let e = e.map_err(|_| io::Error::other("a coder thread panicked"))?;
            let e = e.map_err(io::Error::other)?;
            put_coded(out, KIND_BLOCK, part, &e)?;
        }
        if !more {
            break;
        }
    }
    let hash = u64::from_le_bytes(total.finalize().as_bytes()[..8].try_into().unwrap_or_default());
    let mut end = bytes.to_le_bytes().to_vec();
    let h = header(KIND_END, 0, false, 0, &end, hash);
    out.write_all(&h)?;
    out.write_all(&end)?;
    end.clear();
    out.flush()?;
    Ok(())
}

struct Record {
    kind: u8,
    encoding: Encoding,
    primed: bool,
    plain_len: u32,
    hash: u64,
    payload: Vec<u8>,
}

fn record(input: &mut dyn Read) -> Result<Record> {
    let damaged = |what: &str| ContainerError::Damaged(what.into());
    let h = fill(input, HEADER)?;
    if h.len() < HEADER {
        return Err(damaged("it ends too early"));
    }
    let word = |at: usize| u32::from_le_bytes(h[at..at + 4].try_into().unwrap_or_default());
    let (plain_len, len) = (word(4), word(8));
    if plain_len > BLOCK_MAX || len > BLOCK_MAX {
        let most = plain_len.max(len);
        return Err(damaged(&format!(
            "a block that claims {most} bytes; {BLOCK_MAX} are the most"
        )));
    }
    let payload = fill(input, len as usize)?;
    let crc = crc32c::crc32c_append(crc32c::crc32c(&h[..20]), &payload);
    if payload.len() < len as usize || crc != word(20) {
        return Err(damaged("a block's checksum differs"));
    }
    let encoding = Encoding::from_u8(h[1]).ok_or_else(|| {
        ContainerError::Missing(format!("a newer lmfs: encoding {} of payloads", h[1]))
    })?;
    let hash = u64::from_le_bytes(h[12..20].try_into().unwrap_or_default());
    Ok(Record { kind: h[0], encoding, primed: h[2] != 0, plain_len, hash, payload })
}

fn damaged(e: &BlockError) -> ContainerError {
    ContainerError::Damaged(e.to_string())
}

fn check(r: &Record, bytes: &[u8]) -> Result<()> {
    if plain_hash(bytes) == r.hash {
        Ok(())
    } else {
        Err(ContainerError::Damaged("a block's hash differs".into()))
    }
}

fn plain_of(r: &Record, primer: Option<&Primer>, lm: Option<&Lm>) -> Result<Vec<u8>> {
    if r.primed && primer.is_none() {
        return Err(ContainerError::Damaged("a primer is missing".into()));
    }
    let primer = primer.filter(|_| r.primed);
    let bytes = decode(r.encoding, &r.payload, r.plain_len, primer, lm).map_err(|e| damaged(&e))?;
    check(r, &bytes)?;
    Ok(bytes)
}

/// Where a member may begin: its first 8 bytes; `None` at the end of the input, and only there.
fn head(input: &mut dyn Read, first: bool) -> Result<Option<Vec<u8>>> {
    let head = fill(input, 8)?;
    if head.is_empty() && !first {
        return Ok(None);
    }
    if head.get(..4) != Some(MAGIC) {
        return Err(ContainerError::Damaged(
            if first { "not an .lmz container" } else { "no container, but bytes, behind its end" }
                .into(),
        ));
    }
    match head.get(4) {
        Some(&VERSION) => Ok(Some(head)),
        Some(version) => Err(ContainerError::Missing(format!(
            "a newer lmfs: it is a container of version {version}"
        ))),
        None => Err(ContainerError::Damaged("it ends too early".into())),
    }
}

/// A model as the last member used it: many members in a row are likely to use the same one.
type Last = Option<(ModelId, Arc<Lm>)>;

/// The model that a container names, by its id and name, with the version of the engine.
fn model(input: &mut dyn Read, find: Find<'_>, engine: u16, last: &mut Last) -> Result<Arc<Lm>> {
    let early = || ContainerError::Damaged("it ends too early".into());
    let mut h = fill(input, 33)?;
    let len = usize::from(*h.get(32).ok_or_else(early)?);
    h.extend(fill(input, len)?);
    let crc = fill(input, 4)?;
    if h.len() != 33 + len || crc != crc32c::crc32c(&h).to_le_bytes() {
        return Err(ContainerError::Damaged("the model's checksum differs".into()));
    }
    let mut id = ModelId::default();
    id.copy_from_slice(&h[..32]);
    if engine != ENGINE {
        return Err(ContainerError::Missing(format!("another lmfs: one with engine {engine}")));
    }
    if let Some((_, lm)) = last.as_ref().filter(|(i, _)| *i == id) {
        return Ok(Arc::clone(lm));
    }
    let lm = find(&id, &String::from_utf8_lossy(&h[33..])).map_err(ContainerError::Missing)?;
    *last = Some((id, Arc::clone(&lm)));
    Ok(lm)
}

/// Restores what [`compress`] wrote, once or several times one behind the other, `threads` blocks
/// at a time. `find` is asked for the language model, by its id and name, and says what to do if it
/// is not there. Anything behind the end that is no container is damage.
pub fn decompress(
    input: &mut dyn Read,
    out: &mut dyn Write,
    find: Find<'_>,
    threads: usize,
) -> Result<()> {
    let mut last = None;
    let mut first = true;
    while let Some(head) = head(input, first)? {
        member(&head, input, out, find, threads, &mut last)?;
        first = false;
    }
    out.flush()?;
    Ok(())
}

/// Restores one member, whose first 8 bytes were read.
fn member(
    head: &[u8],
    input: &mut dyn Read,
    out: &mut dyn Write,
    find: Find<'_>,
    threads: usize,
    last: &mut Last,
) -> Result<()> {
    let damaged = |what: &str| ContainerError::Damaged(what.into());
    let lm = match head.get(5) {
        Some(0) => None,
        Some(1) => {
            let engine = head[6..].try_into().map(u16::from_le_bytes);
            Some(model(input, find, engine.map_err(|_| damaged("it ends too early"))?, last)?)
        }
        _ => return Err(damaged("its first header")),
    };
    let lm = lm.as_ref();
    let mut total = blake3::Hasher::new();
    let mut bytes = 0_u64;
    let mut primer = None;
    let mut ended = None;
    while ended.is_none() {
        let mut batch = Vec::new();
        while batch.len() < threads.max(1) && ended.is_none() {
            let r = record(input)?;
            match r.kind {
                KIND_BLOCK => batch.push(r),
                KIND_PRIMER if batch.is_empty() => {
                    let p = Primer::decode(r.encoding, &r.payload, r.plain_len, lm);
                    let p = p.map_err(|e| self::damaged(&e))?;
                    check(&r, p.plain())?;
                    primer = Some(p);
                }
                KIND_END => ended = Some(r),
                _ => return Err(damaged("unknown kind of record")),
            }
        }
        let plain = thread::scope(|scope| {
            let one = |r: &Record| plain_of(r, primer.as_ref(), lm.map(|lm| &**lm));
            let workers: Vec<_> = batch.iter().map(|r| scope.spawn(move || one(r))).collect();
            workers.into_iter().map(thread::ScopedJoinHandle::join).collect::<Vec<_>>()
        });
        for p in plain {
            let p = p.map_err(|_| io::Error::other("a decoder thread panicked"))??;
            total.update(&p);
            bytes += p.len() as u64;
            out.write_all(&p)?;
        }
    }
    let end = ended.ok_or_else(|| damaged("no end"))?;
    let hash = u64::from_le_bytes(total.finalize().as_bytes()[..8].try_into().unwrap_or_default());
    if hash != end.hash || end.payload != bytes.to_le_bytes() {
        return Err(damaged("blocks are missing or out of order"));
    }
    Ok(())
}

/// Puts right the checksums of whatever looks like a record, as whoever forges a container would do;
/// no plaintext becomes longer than `most`. For fuzzing and tests.
#[cfg(any(test, fuzzing))]
pub fn reseal(bytes: &mut [u8], most: u32) {
    let word = |b: &[u8]| b.iter().rev().fold(0, |n, b| n << 8 | usize::from(*b));
    let mut at = 8;
    if bytes.get(5) == Some(&1) && bytes.len() > 41 {
        let end = 41 + usize::from(bytes[40]);
        if end + 4 <= bytes.len() {
            let crc = crc32c::crc32c(&bytes[8..end]);
            bytes[end..end + 4].copy_from_slice(&crc.to_le_bytes());
        }
        at = end + 4;
    }
    while at + HEADER <= bytes.len() {
        let len = word(&bytes[at + 8..at + 12]);
        let end = at + HEADER + len;
        if end > bytes.len() {
            break;
        }
        let plain = (word(&bytes[at + 4..at + 8]) as u32).min(most);
        bytes[at + 4..at + 8].copy_from_slice(&plain.to_le_bytes());
        let crc = crc32c::crc32c(&bytes[at..at + 20]);
        let crc = crc32c::crc32c_append(crc, &bytes[at + HEADER..end]);
        bytes[at + 20..at + HEADER].copy_from_slice(&crc.to_le_bytes());
        at = end;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::ENGINE;

    fn text(n: usize) -> Vec<u8> {
        (0..n).flat_map(|i| format!("line {i}: user{} logged in\n", i % 7).into_bytes()).collect()
    }

    fn nothing(_: &ModelId, name: &str) -> std::result::Result<Arc<Lm>, String> {
        Err(format!("no {name}"))
    }

    #[test]
    fn files_of_all_sizes_come_back() {
        for n in [0, 1, 100, 12_000] {
            let plain = text(n);
            let mut packed = Vec::new();
            compress(&mut plain.as_slice(), &mut packed, 128 << 10, &Tier::FAST, 2).unwrap();
            let mut back = Vec::new();
            decompress(&mut packed.as_slice(), &mut back, &nothing, 2).unwrap();
            assert!(back == plain);
        }
    }

    #[test]
    fn every_flip_and_every_cut_is_noticed() {
        let plain = text(300);
        let mut packed = Vec::new();
        compress(&mut plain.as_slice(), &mut packed, 4096, &Tier::FAST, 1).unwrap();
        for at in 0..packed.len() {
            let mut bad = packed.clone();
            bad[at] ^= 1 << (at % 8);
            // Without a language model, the engine's version is nobody's.
            if (6..8).contains(&at) {
                continue;
            }
            assert!(decompress(&mut bad.as_slice(), &mut Vec::new(), &nothing, 1).is_err(), "{at}");
            assert!(decompress(&mut &packed[..at], &mut Vec::new(), &nothing, 1).is_err(), "{at}");
        }
    }

    #[test]
    fn members_come_back_in_a_row_and_nothing_else_may_follow() {
        let pack = |plain: &[u8]| {
            let mut packed = Vec::new();
            compress(&mut &*plain, &mut packed, 4096, &Tier::FAST, 1).unwrap();
            packed
        };
        let unpack = |packed: &[u8]| {
            let mut back = Vec::new();
            decompress(&mut &*packed, &mut back, &nothing, 2).map(|()| back)
        };
        let (a, b) = (text(300), text(40));
        let week = [pack(&a), pack(b""), pack(&b)].concat();
        assert!(unpack(&week).unwrap() == [a, b.clone()].concat());
        for junk in [&b"\0"[..], b"LMZ", b"LMZ\x1a", b"LMZ\x1a\0\0\0", &[0; 100], b.as_slice()] {
            let e = unpack(&[&week, junk].concat()).unwrap_err();
            assert!(matches!(e, ContainerError::Damaged(_)), "{junk:?}: {e}");
        }
        let e = unpack(&[&week, &b"LMZ\x1a\x01\0\0\0"[..]].concat()).unwrap_err();
        assert!(matches!(e, ContainerError::Missing(_)), "{e}");
    }

    #[test]
    fn a_model_is_sought_once_for_members_in_a_row() {
        let asked = std::cell::Cell::new(0);
        let find = |id: &ModelId, name: &str| {
            asked.set(asked.get() + 1);
            tiny(id, name)
        };
        let packed: &[u8] = include_bytes!("../../tests/data/known.lmz");
        let (mut one, mut both) = (Vec::new(), Vec::new());
        decompress(&mut &*packed, &mut one, &find, 2).unwrap();
        decompress(&mut [packed, packed].concat().as_slice(), &mut both, &find, 2).unwrap();
        assert!(both == [one.as_slice(), &one].concat());
        assert_eq!(asked.get(), 2);
    }

    /// Containers of all kinds of records; `with` a model, whose forms are in some of them.
    fn seeds() -> Vec<Vec<u8>> {
        let tiny = Lm::load(include_bytes!("../../tests/data/tiny.model")).unwrap();
        let one = |plain: &[u8], block: usize, tier: &Tier| {
            let mut packed = Vec::new();
            compress(&mut &*plain, &mut packed, block, tier, 1).unwrap();
            packed
        };
        let lm = Tier { lm: Some(tiny), lm_gain: -1e9, ..Tier::FAST };
        vec![
            one(&text(100), 1024, &Tier::FAST),
            one(&text(4000), 64 << 10, &Tier::FAST),
            one(b"\0\x01\x02\x03 not text", 4096, &Tier::FAST),
            one(&text(30), 512, &lm),
        ]
    }

    #[test]
    fn what_was_coded_decodes() {
        let line = |i: u32| {
            let (id, ms) = (i.wrapping_mul(2_654_435_761) >> 12, i * i % 1009);
            format!("{} node{:02} request {id:x} served in {ms} ms\n", 1000 + i, i * 7 % 13)
        };
        let plain: Vec<u8> = (0..1700).flat_map(|i| line(i).into_bytes()).collect();
        let packed: &[u8] = include_bytes!("../../tests/data/known.lmz");
        // It is still coded so.
        let mut again = Vec::new();
        let tier = Tier { lm: Some(tiny(&[0; 32], "").unwrap()), lm_gain: -1e9, ..Tier::FAST };
        compress(&mut &*plain, &mut again, 32 << 10, &tier, 1).unwrap();
        // LMFS_KNOWN=tests/data/known.lmz writes it anew, after a change of the numerics.
        if let Some(path) = std::env::var_os("LMFS_KNOWN") {
            std::fs::write(path, &again).unwrap();
        }
        assert!(again == packed);
        let mut back = Vec::new();
        decompress(&mut &*packed, &mut back, &tiny, 2).unwrap();
        assert!(back == plain);
        // No other version is guessed at.
        for engine in [ENGINE - 1, ENGINE + 1] {
            let mut other = packed.to_vec();
            other[6..8].copy_from_slice(&engine.to_le_bytes());
            let e = decompress(&mut &*other, &mut Vec::new(), &tiny, 1).unwrap_err();
            assert!(matches!(e, ContainerError::Missing(_)), "{e}");
        }
    }

    fn tiny(_: &ModelId, _: &str) -> std::result::Result<Arc<Lm>, String> {
        static TINY: std::sync::OnceLock<Arc<Lm>> = std::sync::OnceLock::new();
        let load = || Lm::load(include_bytes!("../../tests/data/tiny.model")).unwrap();
        Ok(Arc::clone(TINY.get_or_init(load)))
    }

    /// Lengths that no block has, under a checksum that holds.
    #[test]
    fn forged_lengths_are_refused() {
        let mut good = Vec::new();
        compress(&mut text(100).as_slice(), &mut good, 4096, &Tier::FAST, 1).unwrap();
        for (at, len) in [(4, u32::MAX), (4, BLOCK_MAX + 1), (8, u32::MAX), (8, BLOCK_MAX + 1)] {
            let mut forged = good[..8 + HEADER].to_vec();
            forged[8 + at..12 + at].copy_from_slice(&len.to_le_bytes());
            // The payload stops early, as one of so many bytes would have to.
            let crc = crc32c::crc32c(&forged[8..28]);
            forged[28..32].copy_from_slice(&crc.to_le_bytes());
            let e = decompress(&mut forged.as_slice(), &mut Vec::new(), &nothing, 1).unwrap_err();
            assert!(e.to_string().contains(&len.to_string()), "{e}");
        }
        // A length that may be, of bytes that are not there, or that the code does not make.
        for len in [BLOCK_MAX, 4097] {
            let mut forged = good.clone();
            forged[12..16].copy_from_slice(&len.to_le_bytes());
            reseal(&mut forged, u32::MAX);
            let e = decompress(&mut forged.as_slice(), &mut Vec::new(), &nothing, 1).unwrap_err();
            assert!(matches!(e, ContainerError::Damaged(_)), "{e}");
            forged[12..16].copy_from_slice(&good[12..16]);
            forged[16..20].copy_from_slice(&len.to_le_bytes());
            let e = decompress(&mut forged.as_slice(), &mut Vec::new(), &nothing, 1).unwrap_err();
            assert!(matches!(e, ContainerError::Damaged(_)), "{e}");
        }
    }

    #[test]
    fn forged_containers_are_refused_or_read() {
        let seeds = seeds();
        for s in &seeds {
            assert!(decompress(&mut s.as_slice(), &mut Vec::new(), &tiny, 1).is_ok());
        }
        let mut behind = 0;
        for mut bytes in crate::block::mutate::mutated(&seeds, 1500) {
            reseal(&mut bytes, 4096);
            let read = decompress(&mut bytes.as_slice(), &mut Vec::new(), &tiny, 1);
            behind += u32::from(!matches!(&read, Err(e) if e.to_string().contains("checksum")));
        }
        // The checksums did not keep them out.
        assert!(behind > 700, "{behind}");
    }

    /// `LMFS_SEEDS=fuzz/corpus cargo test --lib write_container_seeds -- --ignored`
    #[test]
    #[ignore = "writes files"]
    fn write_container_seeds() {
        let place = std::path::PathBuf::from(std::env::var_os("LMFS_SEEDS").unwrap());
        std::fs::create_dir_all(place.join("container")).unwrap();
        for (n, seed) in seeds().iter().enumerate() {
            std::fs::write(place.join("container").join(format!("seed{n}")), seed).unwrap();
        }
    }
}
