//! The file `remote` in a store: the object store that it belongs to, whether segments may lie there only,
//! and the manifests that this copy of the archive has made or was made from. A copy of it, `remote.copy`, is
//! renewed when one of the first two changes: where the archive is must not depend on one file.

use crate::store::api::{Result, StoreError};
use crate::store::io::{Volume, read_up_to, write_file};
use std::io;

/// Its name.
pub const FILE: &str = "remote";
const COPY: &str = "remote.copy";
/// Longest that it can be.
const MOST: usize = 16 << 10;

/// A manifest by number and BLAKE3 of its bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark {
    /// Its number.
    pub number: u64,
    /// Its hash.
    pub hash: [u8; 32],
}

impl Mark {
    /// The mark of a manifest's bytes.
    pub fn of(number: u64, bytes: &[u8]) -> Self {
        Self { number, hash: *blake3::hash(bytes).as_bytes() }
    }
}

/// What the file says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Home {
    /// The object store.
    pub url: String,
    /// Segments may lie there only.
    pub evicts: bool,
    /// The last manifest known to be there that is in line with this store.
    pub last: Option<Mark>,
    /// Those that were about to be written, if it is not known whether they were.
    pub next: Vec<Mark>,
}

fn line(name: &str, m: &Mark) -> String {
    format!("{name} {} {}\n", m.number, blake3::Hash::from_bytes(m.hash).to_hex())
}

fn mark(text: &str) -> Option<Mark> {
    let (number, hash) = text.split_once(' ')?;
    let hash = blake3::Hash::from_hex(hash).ok()?;
    Some(Mark { number: number.parse().ok()?, hash: *hash.as_bytes() })
}

impl Home {
    /// A manifest is about to be written.
    pub fn expect(&mut self, mark: Mark) {
        /// Marks that are kept: an answer to an older attempt does not come any more.
        const KEPT: usize = 64;
        if self.next.len() >= KEPT {
            self.next.remove(0);
        }
        self.next.push(mark);
    }

    /// A manifest of this store's is there.
    pub fn reached(&mut self, mark: Mark) {
        self.last = Some(mark);
        self.next.clear();
    }

    /// True if a manifest is one of this store's.
    pub fn knows(&self, mark: &Mark) -> bool {
        self.last.as_ref() == Some(mark) || self.next.contains(mark)
    }

    /// The file's bytes.
    fn encode(&self) -> Vec<u8> {
        let mut text = format!("url {}\n", self.url);
        if self.evicts {
            text.push_str("evicts yes\n");
        }
        let marks = self.last.iter().map(|m| line("last", m));
        text.extend(marks.chain(self.next.iter().map(|m| line("next", m))));
        let crc = crc32c::crc32c(text.as_bytes());
        format!("{text}crc32c {crc:08x}\n").into_bytes()
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(bytes).ok()?;
        let (body, crc) = text.strip_suffix('\n')?.rsplit_once("crc32c ")?;
        if u32::from_str_radix(crc, 16).ok()? != crc32c::crc32c(body.as_bytes()) {
            return None;
        }
        let mut home = Self::default();
        for l in body.lines() {
            match l.split_once(' ')? {
                ("url", url) => home.url = url.into(),
                ("evicts", "yes") => home.evicts = true,
                ("last", text) => home.last = Some(mark(text)?),
                ("next", text) => home.next.push(mark(text)?),
                _ => return None,
            }
        }
        (!home.url.is_empty()).then_some(home)
    }

    /// Reads one of the files of a store; `None` if it is not there.
    fn read_one(volume: &dyn Volume, file: &str) -> Result<Option<Self>> {
        let io = |source| StoreError::Io { what: format!("read {file}"), source };
        let bytes = match volume.open(file, false) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            blob => read_up_to(&*blob.map_err(io)?, 0, MOST).map_err(io)?,
        };
        match Self::decode(&bytes) {
            Some(home) => Ok(Some(home)),
            None => Err(StoreError::Refused(format!(
                "the file {file} in the store is damaged: name the object store again, with: lmfs \
                 remote set STORE URL"
            ))),
        }
    }

    /// Reads the file of a store; `None` if it has none.
    pub fn read(volume: &dyn Volume) -> Result<Option<Self>> {
        Self::read_one(volume, FILE)
    }

    /// Where the archive is, and whether segments may lie there only: from the copy, if need be. What it
    /// says of manifests may be old.
    pub fn read_place(volume: &dyn Volume) -> Result<Option<Self>> {
        match Self::read_one(volume, FILE) {
            Ok(Some(home)) => Ok(Some(home)),
            first => match Self::read_one(volume, COPY) {
                Ok(Some(copy)) => Ok(Some(copy)),
                _ => first,
            },
        }
    }

    /// Writes the file; durable on return.
    pub fn write(&self, volume: &dyn Volume) -> Result<()> {
        let write = |file: &str| {
            write_file(volume, file, &self.encode())
                .map_err(|source| StoreError::Io { what: format!("write {file}"), source })
        };
        write(FILE)?;
        let same = |copy: &Self| (&copy.url, copy.evicts) == (&self.url, self.evicts);
        match Self::read_one(volume, COPY) {
            Ok(Some(copy)) if same(&copy) => Ok(()),
            _ => write(COPY),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_reads_what_it_wrote_and_nothing_else() {
        let home = Home {
            url: "s3://bucket/a b".into(),
            evicts: false,
            last: Some(Mark { number: 7, hash: [0xab; 32] }),
            next: Vec::new(),
        };
        let bytes = home.encode();
        let text = format!("url s3://bucket/a b\nlast 7 {}\n", "ab".repeat(32));
        let crc = crc32c::crc32c(text.as_bytes());
        assert_eq!(bytes, format!("{text}crc32c {crc:08x}\n").into_bytes());
        assert_eq!(Home::decode(&bytes), Some(home.clone()));
        let both = Home { next: vec![Mark { number: 8, hash: [1; 32] }; 2], ..home.clone() };
        assert_eq!(Home::decode(&both.encode()), Some(both));
        let evicting = Home { evicts: true, ..home.clone() };
        let text = format!("url s3://bucket/a b\nevicts yes\nlast 7 {}\n", "ab".repeat(32));
        assert!(evicting.encode().starts_with(text.as_bytes()));
        assert_eq!(Home::decode(&evicting.encode()), Some(evicting));
        for at in 0..bytes.len() {
            let mut c = bytes.clone();
            c[at] ^= 1;
            assert_eq!(Home::decode(&c), None, "{at}");
        }
    }
}
