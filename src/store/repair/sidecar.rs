//! Sidecars: page checksums and parity pages of a file, in a file beside it.
//!
//! A sidecar is made of frames, so that it is itself checked and corrected. It covers the first
//! bytes of a file, up to where the file ended when it was made; appending leaves it valid.

use super::ecc::pages::{self, PAGE, STRIPE, STRIPE_BYTES};
use super::scan;
use crate::store::api::Ecc;
use crate::store::log::frame::{Header, Kind, MAX_U40, Stamp};
use crate::store::log::record::{In, Out};
use crate::types::FrameMeta;
use std::collections::BTreeMap;

/// Set in the offset field of the frame of a stripe's checksums; others hold a parity page.
const TABLE: u64 = 1 << 47;
/// The stripe's number stands above this many bits, the parity page's below.
const SHIFT: u32 = 16;

/// What is known of a stripe.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Stripe {
    /// Where in the file it ends.
    end: u64,
    /// Parity pages that there were.
    count: usize,
    sums: Vec<u32>,
    parity: BTreeMap<usize, Vec<u8>>,
}

/// A sidecar as read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sidecar {
    stripes: BTreeMap<u64, Stripe>,
    /// Something in it was damaged or missing.
    pub hurt: bool,
}

/// The frames of one stripe of a sidecar, for use in a later one.
#[derive(Debug, Clone)]
pub struct Part {
    table: Vec<u8>,
    parity: Vec<u8>,
}

impl Part {
    /// Bytes of its table, which stands once more at the end of a sidecar.
    pub fn table_len(&self) -> usize {
        self.table.len()
    }
}

/// The frames of stripe `number` (of file `id`), whose bytes these are.
pub fn part(ecc: Ecc, stamp: Stamp, id: u64, number: u64, bytes: &[u8]) -> Result<Part, String> {
    let sums = pages::sums(bytes);
    let count = pages::parity_pages(ecc, sums.len());
    let parity = pages::parity(bytes, count).map_err(|e| e.to_string())?;
    let frame = |off: u64, payload: &[u8]| {
        let header = Header {
            kind: Kind::Parity,
            payload_len: 0,
            ino: stamp.tag,
            off,
            meta: FrameMeta {
                plain_len: payload.len() as u32,
                generation: id & MAX_U40,
                ..FrameMeta::default()
            },
            code: stamp.code,
            plain_hash: 0,
            payload_crc: 0,
        };
        header.frame(payload)
    };
    let mut o = Out::default();
    o.u64(number * STRIPE_BYTES as u64 + bytes.len() as u64).u32(count as u32);
    for sum in &sums {
        o.u32(*sum);
    }
    let table = frame(TABLE | number << SHIFT, &o.0);
    let numbered = parity.iter().enumerate();
    let parity = numbered.flat_map(|(n, page)| frame(number << SHIFT | n as u64, page)).collect();
    Ok(Part { table, parity })
}

/// A sidecar's bytes: the stripes, then their checksums once more.
pub fn join(parts: &[Part]) -> Vec<u8> {
    let first = parts.iter().flat_map(|p| [&p.table, &p.parity]);
    first.chain(parts.iter().map(|p| &p.table)).flatten().copied().collect()
}

/// The sidecar of a file's bytes.
pub fn make(ecc: Ecc, stamp: Stamp, id: u64, bytes: &[u8]) -> Result<Vec<u8>, String> {
    let stripes = bytes.chunks(STRIPE_BYTES).enumerate();
    let parts: Vec<Part> =
        stripes.map(|(n, s)| part(ecc, stamp, id, n as u64, s)).collect::<Result<_, _>>()?;
    Ok(join(&parts))
}

impl Sidecar {
    /// Reads what can be read of a sidecar of file `id`.
    pub fn read(mut bytes: Vec<u8>, stamp: Stamp, id: u64) -> Self {
        let mut out = Self::default();
        let found = scan::frames(&mut bytes, 0, stamp.tag);
        out.hurt = !found.changed.is_empty() || !found.bad.is_empty();
        let mut pages = Vec::new();
        let mut tables = 0;
        for (at, h) in found.whole {
            if h.kind != Kind::Parity || h.ino != stamp.tag || h.meta.generation != id & MAX_U40 {
                continue;
            }
            let payload = h.payload(&bytes[at..]);
            let stripe = (h.off & !TABLE) >> SHIFT;
            if h.off & TABLE == 0 {
                let number = (h.off & ((1 << SHIFT) - 1)) as usize;
                pages.push((stripe, number, payload.to_vec()));
            } else if let Some(s) = table(stripe, payload) {
                tables += 1;
                out.stripes.insert(stripe, s);
            }
        }
        for (stripe, number, page) in pages {
            if let Some(s) = out.stripes.get_mut(&stripe).filter(|s| number < s.count)
                && page.len() == PAGE
            {
                s.parity.insert(number, page);
            }
        }
        let whole = out.stripes.values().all(|s| s.parity.len() == s.count);
        out.hurt |= tables != 2 * out.stripes.len() || !whole;
        out
    }

    /// The same for the file's bytes behind its first `stripes` stripes.
    pub fn after(self, stripes: usize) -> Self {
        let (first, cut) = (stripes as u64, (stripes * STRIPE_BYTES) as u64);
        let rest = self.stripes.into_iter().filter(|(n, s)| *n >= first && s.end > cut);
        let moved = rest.map(|(n, s)| (n - first, Stripe { end: s.end - cut, ..s }));
        Self { stripes: moved.collect(), hurt: self.hurt }
    }

    /// Bytes of the file that it covers.
    pub fn covered(&self) -> u64 {
        self.stripes.values().map(|s| s.end).max().unwrap_or(0)
    }

    /// The checksums of all pages of the file, if none is missing.
    pub fn sums(&self) -> Option<Vec<u32>> {
        let mut sums = Vec::new();
        for (n, s) in &self.stripes {
            if n * STRIPE as u64 != sums.len() as u64 {
                return None;
            }
            sums.extend_from_slice(&s.sums);
        }
        Some(sums)
    }

    /// Most bytes that can be brought back at the end of a file.
    pub fn spare(&self) -> u64 {
        self.stripes.values().map(|s| (s.parity.len() * PAGE) as u64).sum()
    }

    /// Pages, parity pages included.
    pub fn pages(&self) -> u64 {
        self.stripes.values().map(|s| (s.sums.len() + s.parity.len()) as u64).sum()
    }

    /// Pages of `bytes` that are not what they were, by their number in the file.
    pub fn differing(&self, bytes: &[u8]) -> Vec<usize> {
        let mut out = Vec::new();
        for (n, s) in &self.stripes {
            let (first, stripe) = s.slice(*n, bytes);
            let now = pages::sums(stripe);
            let bad = s.sums.iter().enumerate().filter(|(i, sum)| now.get(*i) != Some(sum));
            out.extend(bad.map(|(i, _)| first + i));
        }
        out
    }

    /// Rebuilds what differs, where enough is left; returns the numbers of rebuilt pages. `bytes`
    /// must reach as far as the sidecar covers.
    pub fn rebuild(&self, bytes: &mut [u8]) -> Vec<usize> {
        let mut done = Vec::new();
        let differing = self.differing(bytes);
        for (n, s) in &self.stripes {
            let (first, stripe) = s.slice(*n, bytes);
            let last = first + s.sums.len();
            let bad: Vec<usize> = differing
                .iter()
                .filter(|p| (first..last).contains(*p))
                .map(|p| p - first)
                .collect();
            if bad.is_empty() || bad.len() > s.parity.len() || stripe.len() as u64 != s.len(*n) {
                continue;
            }
            let rebuilt = match pages::rebuild(stripe, &bad, s.count, &s.parity) {
                Ok(rebuilt) => rebuilt,
                Err(e) => {
                    log::warn!("pages not rebuilt: {e}");
                    continue;
                }
            };
            for (i, page) in rebuilt {
                if s.sums.get(i) == Some(&crc32c::crc32c(&page)) {
                    let at = (first + i) * PAGE;
                    let end = (at + PAGE).min(s.end as usize);
                    bytes[at..end].copy_from_slice(&page[..end - at]);
                    done.push(first + i);
                }
            }
        }
        done
    }
}

impl Stripe {
    fn len(&self, number: u64) -> u64 {
        self.end.saturating_sub(number * STRIPE_BYTES as u64)
    }

    /// Number of the first page, and the stripe's bytes as far as they are there.
    fn slice<'a>(&self, number: u64, bytes: &'a [u8]) -> (usize, &'a [u8]) {
        let start = number as usize * STRIPE_BYTES;
        let end = (self.end as usize).min(bytes.len());
        (start / PAGE, bytes.get(start..end).unwrap_or_default())
    }
}

/// What a table says of stripe `number`; `None` if that cannot be.
fn table(number: u64, payload: &[u8]) -> Option<Stripe> {
    let mut i = In(payload);
    let (end, count) = (i.u64()?, i.u32()? as usize);
    let mut sums = Vec::with_capacity(i.0.len() / 4);
    while !i.0.is_empty() {
        sums.push(i.u32()?);
    }
    let len = usize::try_from(end.checked_sub(number * STRIPE_BYTES as u64)?).ok()?;
    let fits = len.div_ceil(PAGE) == sums.len() && (1..=STRIPE).contains(&sums.len());
    let table = Stripe { end, count, sums, parity: BTreeMap::new() };
    (fits && count <= STRIPE).then_some(table)
}
