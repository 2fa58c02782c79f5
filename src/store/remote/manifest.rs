//! A manifest: what an archive consisted of at one moment. The bytes are in docs/format.md, section 10.

use super::error::{RemoteError, Result};
use crate::store::log::record::{In, Out};
use std::collections::BTreeMap;

const MAGIC: &[u8; 8] = b"LMFSMAN\n";
const RUN_MAGIC: &[u8; 8] = b"LMFSRUN\n";
/// Version of manifests and runs that is written and read. 0 was a draft without what is in the last segment.
const VERSION: u32 = 1;
/// Bytes of the checksum at the end.
const SUM: usize = 32;
/// Numbers of segments that share all bits above these share a run.
const RUN_BITS: u32 = 10;

/// Directory of manifests.
pub const MANIFESTS: &str = "manifest";
/// Directory of all else.
pub const OBJECTS: &str = "objects";

/// A whole file's bytes as an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Object {
    /// BLAKE3 of the bytes.
    pub hash: [u8; 32],
    /// How many there are.
    pub len: u64,
}

impl Object {
    /// The object that these bytes are.
    pub fn of(bytes: &[u8]) -> Self {
        Self { hash: *blake3::hash(bytes).as_bytes(), len: bytes.len() as u64 }
    }

    /// Its name.
    pub fn name(&self) -> String {
        format!("{OBJECTS}/{}", blake3::Hash::from_bytes(self.hash).to_hex())
    }

    /// True if these are its bytes.
    pub fn is(&self, bytes: &[u8]) -> bool {
        Self::of(bytes) == *self
    }
}

/// A segment, or the beginning of the last one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Part {
    /// Its number.
    pub number: u32,
    /// Its bytes.
    pub object: Object,
    /// Its sidecar's.
    pub sidecar: Object,
    /// How many bytes at the sidecar's end are tables.
    pub tables: u32,
}

/// A model file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Model {
    /// BLAKE3 of the model.
    pub id: [u8; 32],
    /// Its file.
    pub object: Object,
    /// Its sidecar; no bytes if it has none.
    pub sidecar: Object,
}

/// A frame of the log's own in the last segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// Where it begins.
    pub offset: u32,
    /// Its bytes.
    pub len: u32,
    /// Its kind, as in a footer.
    pub kind: u8,
}

/// What an archive consisted of.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Manifest {
    /// Its number, as in its name.
    pub number: u64,
    /// The writer that made it; one more than that of the writer before.
    pub epoch: u64,
    /// When it was made, by the writer's clock: seconds since 1970.
    pub made: u64,
    /// Segment of the newest checkpoint.
    pub checkpoint: u32,
    /// The superblock's bytes.
    pub superblock: Vec<u8>,
    /// Model files.
    pub models: Vec<Model>,
    /// Segments in the order of their numbers. The last one may end where the log did.
    pub parts: Vec<Part>,
    /// Frames in the last segment that are not of files: it has no footer yet that would say.
    pub tail: Vec<Place>,
}

/// Segments whose numbers are close, in an object of their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run {
    /// The numbers' common upper bits.
    pub group: u32,
    /// Its bytes.
    pub object: Object,
}

/// A manifest as it lies in the store: segments of complete runs are elsewhere.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Packed {
    /// All but the segments in runs.
    pub manifest: Manifest,
    /// The runs, in order; their segments come before the others.
    pub runs: Vec<Run>,
}

/// Name of a manifest.
pub fn name(number: u64) -> String {
    format!("{MANIFESTS}/{number:010}")
}

/// Number in a manifest's name.
pub fn number(name: &str) -> Option<u64> {
    let text = name.strip_prefix(MANIFESTS)?.strip_prefix('/')?;
    text.parse().ok().filter(|n| self::name(*n) == name)
}

fn sealed(mut bytes: Vec<u8>) -> Vec<u8> {
    let sum = blake3::hash(&bytes);
    bytes.extend_from_slice(sum.as_bytes());
    bytes
}

fn unsealed<'a>(what: &str, magic: &[u8; 8], bytes: &'a [u8]) -> Result<In<'a>> {
    let refuse = |why: String| Err(RemoteError::Refused(format!("{what}: {why}")));
    let Some(at) = bytes.len().checked_sub(SUM) else {
        return refuse("too short for a manifest".into());
    };
    let (body, sum) = bytes.split_at(at);
    let Some(rest) = body.strip_prefix(magic) else {
        return refuse("not part of an lmfs archive".into());
    };
    if blake3::hash(body).as_bytes() != sum {
        return refuse("its checksum differs".into());
    }
    let mut i = In(rest);
    match i.u32() {
        Some(VERSION) => Ok(i),
        Some(v) if v < VERSION => {
            refuse(format!("of a draft, version {v}; this lmfs reads {VERSION}"))
        }
        Some(v) => refuse(format!("version {v}; this lmfs reads up to {VERSION}, use a newer one")),
        None => refuse("it ends early".into()),
    }
}

impl Object {
    fn encode(self, o: &mut Out) {
        o.u64(self.len);
        o.0.extend_from_slice(&self.hash);
    }

    fn decode(i: &mut In) -> Option<Self> {
        Some(Self { len: i.u64()?, hash: i.take(32)?.try_into().ok()? })
    }
}

impl Part {
    fn encode(&self, o: &mut Out) {
        o.u32(self.number);
        self.object.encode(o);
        self.sidecar.encode(o);
        o.u32(self.tables);
    }

    fn decode(i: &mut In) -> Option<Self> {
        let number = i.u32()?;
        let (object, sidecar) = (Object::decode(i)?, Object::decode(i)?);
        Some(Self { number, object, sidecar, tables: i.u32()? })
    }
}

fn encode_parts(parts: &[Part], o: &mut Out) {
    o.u32(parts.len() as u32);
    for p in parts {
        p.encode(o);
    }
}

fn decode_parts(i: &mut In) -> Option<Vec<Part>> {
    let n = i.u32()?;
    (0..n).map(|_| Part::decode(i)).collect()
}

/// The group that a segment belongs to.
pub fn group_of(number: u32) -> u32 {
    number >> RUN_BITS
}

/// The numbers of a group.
pub fn numbers_of(group: u32) -> std::ops::RangeInclusive<u32> {
    let first = group << RUN_BITS;
    first..=first | ((1 << RUN_BITS) - 1)
}

/// A run's bytes.
pub fn encode_run(group: u32, parts: &[Part]) -> Vec<u8> {
    let mut o = Out(RUN_MAGIC.to_vec());
    o.u32(VERSION).u32(group);
    encode_parts(parts, &mut o);
    sealed(o.0)
}

/// The segments of a run; `what` is for messages.
pub fn decode_run(what: &str, group: u32, bytes: &[u8]) -> Result<Vec<Part>> {
    let mut i = unsealed(what, RUN_MAGIC, bytes)?;
    let mut parse = || {
        let is_its_own = i.u32()? == group;
        let some = decode_parts(&mut i)?;
        let fits = |p: &Part| group_of(p.number) == group;
        (i.0.is_empty() && is_its_own && some.iter().all(fits)).then_some(some)
    };
    parse().ok_or_else(|| RemoteError::Refused(format!("{what}: not readable")))
}

/// Segments in the order of their numbers, none twice, none of no length.
fn in_order(parts: &[Part]) -> bool {
    parts.windows(2).all(|w| w[0].number < w[1].number)
        && parts.iter().all(|p| p.object.len > 0 && p.object.len <= u32::MAX.into())
}

impl Manifest {
    /// The bytes that lie in the store: the manifest's own, and those of the runs. The same segments make
    /// the same runs, so only those that are new need to be written.
    pub fn pack(&self) -> (Vec<u8>, Vec<(Run, Vec<u8>)>) {
        let last = self.parts.last().map_or(0, |p| group_of(p.number));
        let mut groups: BTreeMap<u32, Vec<Part>> = BTreeMap::new();
        for p in &self.parts {
            groups.entry(group_of(p.number)).or_default().push(*p);
        }
        let open = groups.remove(&last).unwrap_or_default();
        let runs: Vec<(Run, Vec<u8>)> = groups
            .into_iter()
            .map(|(group, parts)| {
                let bytes = encode_run(group, &parts);
                (Run { group, object: Object::of(&bytes) }, bytes)
            })
            .collect();
        let mut o = Out(MAGIC.to_vec());
        o.u32(VERSION).u64(self.number).u64(self.epoch).u64(self.made).u32(self.checkpoint);
        o.bytes(&self.superblock);
        o.u32(self.models.len() as u32);
        for m in &self.models {
            o.0.extend_from_slice(&m.id);
            m.object.encode(&mut o);
            m.sidecar.encode(&mut o);
        }
        o.u32(runs.len() as u32);
        for (run, _) in &runs {
            o.u32(run.group);
            run.object.encode(&mut o);
        }
        encode_parts(&open, &mut o);
        o.u32(self.tail.len() as u32);
        for f in &self.tail {
            o.u32(f.offset).u32(f.len).u8(f.kind);
        }
        (sealed(o.0), runs)
    }
}

impl Packed {
    /// Reads a manifest, without its runs.
    pub fn decode(what: &str, bytes: &[u8]) -> Result<Self> {
        let mut i = unsealed(what, MAGIC, bytes)?;
        let mut parse = || {
            let (number, epoch, made, checkpoint) = (i.u64()?, i.u64()?, i.u64()?, i.u32()?);
            let superblock = i.bytes()?;
            let models = (0..i.u32()?)
                .map(|_| {
                    let id = i.take(32)?.try_into().ok()?;
                    Some(Model {
                        id,
                        object: Object::decode(&mut i)?,
                        sidecar: Object::decode(&mut i)?,
                    })
                })
                .collect::<Option<_>>()?;
            let runs: Vec<Run> = (0..i.u32()?)
                .map(|_| Some(Run { group: i.u32()?, object: Object::decode(&mut i)? }))
                .collect::<Option<_>>()?;
            let parts = decode_parts(&mut i)?;
            let tail = (0..i.u32()?)
                .map(|_| Some(Place { offset: i.u32()?, len: i.u32()?, kind: i.u8()? }))
                .collect::<Option<_>>()?;
            let whole = i.0.is_empty()
                && in_order(&parts)
                && runs.windows(2).all(|w| w[0].group < w[1].group);
            let manifest =
                Manifest { number, epoch, made, checkpoint, superblock, models, parts, tail };
            whole.then_some(Self { manifest, runs })
        };
        parse().ok_or_else(|| RemoteError::Refused(format!("{what}: not readable")))
    }

    /// The whole manifest, with the runs' bytes as `fetch` brings them.
    pub fn unpack(self, mut fetch: impl FnMut(&Run) -> Result<Vec<u8>>) -> Result<Manifest> {
        let mut parts = Vec::new();
        for run in &self.runs {
            let name = run.object.name();
            let bytes = fetch(run)?;
            if !run.object.is(&bytes) {
                return Err(RemoteError::Refused(format!("{name}: its bytes have another hash")));
            }
            parts.extend(decode_run(&name, run.group, &bytes)?);
        }
        let mut whole = self.manifest;
        parts.append(&mut whole.parts);
        whole.parts = parts;
        if in_order(&whole.parts) {
            Ok(whole)
        } else {
            let name = name(whole.number);
            Err(RemoteError::Refused(format!("{name}: segments out of order")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::tests::hex;

    fn object(n: u8, len: u64) -> Object {
        Object { hash: [n; 32], len }
    }

    fn part(number: u32) -> Part {
        Part { number, object: object(1, 0x0102), sidecar: object(2, 0x0304), tables: 5 }
    }

    fn sample(numbers: &[u32]) -> Manifest {
        Manifest {
            number: 7,
            epoch: 3,
            made: 0x6512_3456,
            checkpoint: 2,
            superblock: b"super".to_vec(),
            models: vec![Model { id: [9; 32], object: object(4, 6), sidecar: object(5, 7) }],
            parts: numbers.iter().map(|n| part(*n)).collect(),
            tail: vec![Place { offset: 0x10, len: 0x20, kind: 2 }],
        }
    }

    fn unpacked(m: &Manifest) -> Result<Manifest> {
        let (bytes, runs) = m.pack();
        Packed::decode("m", &bytes)?.unpack(|run| {
            let found = runs.iter().find(|(r, _)| r == run);
            Ok(found.expect("a run that was written").1.clone())
        })
    }

    #[test]
    fn golden_manifest() {
        let (bytes, runs) = sample(&[2]).pack();
        assert!(runs.is_empty());
        let object = |n: &str, len: &str| format!("{len}{}", n.repeat(32));
        let want = [
            "4c4d46534d414e0a01000000",
            "070000000000000003000000000000005634126500000000",
            "02000000",
            "050000007375706572",
            "01000000",
            &"09".repeat(32),
            &object("04", "0600000000000000"),
            &object("05", "0700000000000000"),
            "00000000",
            "01000000",
            "02000000",
            &object("01", "0201000000000000"),
            &object("02", "0403000000000000"),
            "05000000",
            "01000000",
            "100000002000000002",
        ]
        .concat();
        assert_eq!(hex(&bytes[..bytes.len() - SUM]), want);
        assert_eq!(
            blake3::hash(&bytes[..bytes.len() - SUM]).as_bytes()[..],
            bytes[bytes.len() - SUM..]
        );
    }

    #[test]
    fn golden_run() {
        let (_, runs) = sample(&[3, 5000]).pack();
        let [(run, bytes)] = &runs[..] else { panic!("{runs:?}") };
        assert_eq!((run.group, run.object), (0, Object::of(bytes)));
        let want = "4c4d465352554e0a010000000000000001000000".to_owned()
            + "03000000"
            + "0201000000000000"
            + &"01".repeat(32)
            + "0403000000000000"
            + &"02".repeat(32)
            + "05000000";
        assert_eq!(hex(&bytes[..bytes.len() - SUM]), want);
    }

    #[test]
    fn what_was_packed_is_unpacked() {
        for numbers in [&[][..], &[1], &[1, 2, 1023, 1024, 1025, 5000], &[1024, 4096]] {
            let m = sample(numbers);
            assert_eq!(unpacked(&m).unwrap(), m);
        }
        // A segment more or less leaves the runs of others as they are.
        let (_, a) = sample(&[1, 2, 1500, 2500]).pack();
        let (_, b) = sample(&[1, 2, 1500, 2500, 2501, 9999]).pack();
        assert!(b.starts_with(&a));
    }

    #[test]
    fn any_wrong_bit_is_noticed() {
        let (bytes, _) = sample(&[1, 2]).pack();
        for at in 0..bytes.len() {
            let mut c = bytes.clone();
            c[at] ^= 1;
            assert!(Packed::decode("m", &c).is_err(), "{at}");
            assert!(Packed::decode("m", &bytes[..at]).is_err(), "{at}");
        }
        let twice = sample(&[2, 2]);
        assert!(unpacked(&twice).unwrap_err().to_string().contains("not readable"));
    }

    #[test]
    fn names_carry_numbers() {
        assert_eq!(name(42), "manifest/0000000042");
        assert_eq!(number("manifest/0000000042"), Some(42));
        for wrong in ["manifest/42", "manifest/000000004x", "objects/0000000042"] {
            assert_eq!(number(wrong), None);
        }
    }
}
