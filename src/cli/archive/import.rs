//! `lmfs import`: fills a store from a tar stream, as `export` or GNU tar or bsdtar writes it.

use super::super::options::Options;
use super::super::output::Say;
use super::super::progress::{Progress, Unit, Watched};
use super::super::{FAILED, Failure, Outcome, mounts, target};
use super::export::RECORD;
use super::{CHUNK, about, relative};
use crate::fs::{Fs, FsError, NewInode, SetAttr, SetHow};
use crate::store::{OpenOptions, Store, StoreError};
use crate::types::{Ino, Time};
use std::collections::HashMap;
use std::ffi::OsStr;
use std::io::{self, IsTerminal, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tar::EntryType;

/// Written bytes after which a file is committed.
const COMMIT: u64 = 8 << 20;

/// Arguments.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The store, which must not be mounted
    #[arg(value_hint = clap::ValueHint::DirPath)]
    store: PathBuf,
}

/// Runs it. What is there under the same name is replaced, directories excepted.
pub fn run(a: &Args, say: Say) -> Outcome {
    let input = io::stdin();
    if input.is_terminal() {
        return Err(Failure::new(FAILED, "a tar stream is expected on standard input"));
    }
    let path = target::of(&a.store)?.store;
    let store = Store::open(&path, &OpenOptions { read_only: false }).map_err(|e| match e {
        StoreError::InUse { .. } => {
            let at = mounts::all().into_iter().find(|m| m.store == path).map(|m| m.dir);
            let at = at.map_or("DIR".into(), |d| d.display().to_string());
            Failure::new(FAILED, format!("{e}: it is mounted; use tar -C {at} -x"))
        }
        e => e.into(),
    })?;
    let fs = Fs::open(store, Options::offline())?;
    let mut import = Import { fs: &fs, dirs: Vec::new(), entries: 0, bytes: 0 };
    let progress = Progress::new(say, "importing", Unit::Bytes);
    // A stream from a file has a length.
    let all = rustix::fs::fstat(&input).ok().filter(|s| s.st_mode & libc::S_IFMT == libc::S_IFREG);
    let all = all.and_then(|s| u64::try_from(s.st_size).ok());
    let imported = import.all(Watched::new(input.lock(), all, &progress));
    drop(progress);
    let (entries, bytes) = (import.entries, import.bytes);
    // What was taken in is kept, be the rest of the stream as it may.
    let closed = fs.shutdown();
    imported?;
    closed?;
    let size = super::super::output::size(bytes);
    say.line(&format!(
        "{entries} entries imported, {size}; lmfs settle {} codes them",
        a.store.display()
    ));
    Ok(())
}

struct Import<'a> {
    fs: &'a Arc<Fs>,
    /// Directories and their times, which what is made in them changes.
    dirs: Vec<(Ino, SetAttr)>,
    entries: u64,
    bytes: u64,
}

/// The records before an entry.
type Records = HashMap<String, Vec<u8>>;

fn text<T: std::str::FromStr>(records: &Records, key: &str) -> Option<T> {
    std::str::from_utf8(records.get(key)?).ok()?.parse().ok()
}

/// A decimal number as seconds and nanoseconds.
fn time(value: &[u8]) -> Option<Time> {
    let value = std::str::from_utf8(value).ok()?;
    let (negative, value) = value.strip_prefix('-').map_or((false, value), |v| (true, v));
    let (whole, part) = value.split_once('.').unwrap_or((value, ""));
    let digits: String = part.chars().chain("000000000".chars()).take(9).collect();
    let (sec, nsec): (i64, u32) = (whole.parse().ok()?, digits.parse().ok()?);
    Some(match (negative, nsec) {
        (false, _) => Time { sec, nsec },
        (true, 0) => Time { sec: -sec, nsec },
        (true, _) => Time { sec: -sec - 1, nsec: 1_000_000_000 - nsec },
    })
}

fn split(path: &Path) -> (&Path, &[u8]) {
    let parent = path.parent().unwrap_or(Path::new(""));
    (parent, path.file_name().unwrap_or_default().as_bytes())
}

impl Import<'_> {
    fn all(&mut self, input: impl Read) -> Outcome {
        let mut archive = tar::Archive::new(input);
        let broken = |e: io::Error| Failure::new(FAILED, format!("tar stream: {e}"));
        for entry in archive.entries().map_err(broken)? {
            self.one(entry.map_err(broken)?)?;
        }
        for (ino, set) in std::mem::take(&mut self.dirs) {
            self.fs.setattr(ino, set)?;
        }
        Ok(())
    }

    fn one(&mut self, mut entry: tar::Entry<'_, impl Read>) -> Outcome {
        let broken = |e: io::Error| Failure::new(FAILED, format!("tar stream: {e}"));
        let mut records = Records::new();
        if let Some(all) = entry.pax_extensions().map_err(broken)? {
            for r in all {
                let r = r.map_err(broken)?;
                let key = String::from_utf8_lossy(r.key_bytes()).into_owned();
                records.insert(key, r.value_bytes().to_vec());
            }
        }
        let sparse = records.get("GNU.sparse.major").is_some_and(|v| v == b"1");
        let name = match records.get("GNU.sparse.name") {
            Some(name) if sparse => name.clone(),
            _ => entry.path_bytes().into_owned(),
        };
        let path = relative(Path::new(OsStr::from_bytes(&name)))?;
        let h = entry.header();
        let kind = match h.entry_type() {
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => libc::S_IFREG,
            EntryType::Directory => libc::S_IFDIR,
            EntryType::Symlink => libc::S_IFLNK,
            EntryType::Fifo => libc::S_IFIFO,
            EntryType::Char => libc::S_IFCHR,
            EntryType::Block => libc::S_IFBLK,
            EntryType::Link => {
                let target = entry.link_name_bytes().unwrap_or_default().into_owned();
                let target = relative(Path::new(OsStr::from_bytes(&target)))?;
                return self.link(&target, &path).map_err(|e| about(&path, e));
            }
            EntryType::XGlobalHeader => return Ok(()),
            other => {
                log::warn!("{}: entries of type {other:?} are left out", path.display());
                return Ok(());
            }
        };
        let mode = kind | h.mode().map_err(broken)? & 0o7777;
        let uid = text(&records, "uid").unwrap_or(h.uid().map_err(broken)? as u32);
        let gid = text(&records, "gid").unwrap_or(h.gid().map_err(broken)? as u32);
        let whole = Time { sec: h.mtime().map_err(broken)? as i64, nsec: 0 };
        let mtime = records.get("mtime").and_then(|v| time(v)).unwrap_or(whole);
        let atime = records.get("atime").and_then(|v| time(v)).unwrap_or(mtime);
        let device = |n: io::Result<Option<u32>>| n.ok().flatten().unwrap_or(0);
        let rdev = libc::makedev(device(h.device_major()), device(h.device_minor())) as u32;
        let target = entry.link_name_bytes().map(std::borrow::Cow::into_owned);
        let target = target.filter(|_| kind == libc::S_IFLNK);
        let new = NewInode { mode, umask: 0, rdev, uid, gid, target: target.as_deref() };
        let ino = self.make(&path, new).map_err(|e| about(&path, e))?;
        if kind == libc::S_IFREG {
            let size = text(&records, "GNU.sparse.realsize").filter(|_| sparse);
            self.fill(&path, ino, &mut entry, size)?;
        }
        for (key, value) in &records {
            if let Some(name) = key.strip_prefix("SCHILY.xattr.") {
                let name = name.as_bytes();
                let set = if name.starts_with(b"system.posix_acl_") {
                    self.fs.set_acl(ino, name, value, |_| true)
                } else {
                    self.fs.setxattr(ino, name, value, SetHow::Put)
                };
                if let Err(e) = set {
                    log::warn!("{}: attribute {}: {e}", path.display(), &key[13..]);
                }
            }
        }
        let set = SetAttr {
            mode: (kind != libc::S_IFLNK).then_some(mode & 0o7777),
            uid: Some(uid),
            gid: Some(gid),
            size: None,
            atime: Some(atime),
            mtime: Some(mtime),
            privileged: true,
        };
        if kind == libc::S_IFDIR {
            self.dirs.push((ino, set));
        } else {
            self.fs.setattr(ino, set).map_err(|e| about(&path, e))?;
        }
        self.entries += 1;
        Ok(())
    }

    /// The directory of a path, made if it is not there.
    fn parent(&self, path: &Path) -> Result<Ino, FsError> {
        let mut at = Ino::ROOT;
        for name in split(path).0 {
            at = match self.fs.find(at, name.as_bytes()) {
                Err(FsError::NotFound) => {
                    let mode = libc::S_IFDIR | 0o755;
                    let new = NewInode::of(mode);
                    self.fs.make(at, name.as_bytes(), new)?.ino
                }
                found => found?,
            };
        }
        Ok(at)
    }

    fn make(&self, path: &Path, new: NewInode<'_>) -> Result<Ino, FsError> {
        if path.as_os_str().is_empty() {
            return Ok(Ino::ROOT);
        }
        let (parent, (_, name)) = (self.parent(path)?, split(path));
        let is_dir = new.mode & libc::S_IFMT == libc::S_IFDIR;
        match self.fs.find(parent, name) {
            Ok(ino) if is_dir && self.fs.getattr(ino)?.is_dir() => return Ok(ino),
            Ok(_) => self.fs.unlink(parent, name)?,
            Err(FsError::NotFound) => {}
            Err(e) => return Err(e),
        }
        Ok(self.fs.make(parent, name, new)?.ino)
    }

    fn link(&mut self, target: &Path, path: &Path) -> Result<(), FsError> {
        let ino = self.fs.resolve(target.as_os_str().as_bytes())?;
        let (parent, (_, name)) = (self.parent(path)?, split(path));
        match self.fs.find(parent, name) {
            Ok(there) if there == ino => return Ok(()),
            Ok(_) => self.fs.unlink(parent, name)?,
            Err(FsError::NotFound) => {}
            Err(e) => return Err(e),
        }
        self.fs.link(ino, parent, name)?;
        self.entries += 1;
        Ok(())
    }

    /// Writes a file's bytes; with a size, those of a map in front of them.
    fn fill(
        &mut self,
        path: &Path,
        ino: Ino,
        input: &mut tar::Entry<'_, impl Read>,
        sparse: Option<u64>,
    ) -> Outcome {
        let broken = |e: io::Error| about(path, format!("tar stream: {e}"));
        let failed = |e: FsError| about(path, e);
        let runs = match sparse {
            None => vec![(0, input.size())],
            Some(_) => read_map(input).map_err(broken)?,
        };
        let mut buffer = vec![0; CHUNK];
        let mut uncommitted = 0;
        for (mut at, len) in runs {
            let mut left = len;
            while left > 0 {
                let most = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
                let n = input.read(&mut buffer[..most]).map_err(broken)?;
                if n == 0 {
                    return Err(broken(io::ErrorKind::UnexpectedEof.into()));
                }
                self.fs.write(ino, at, &buffer[..n], false).map_err(failed)?;
                (at, left, uncommitted) = (at + n as u64, left - n as u64, uncommitted + n as u64);
                self.bytes += n as u64;
                if uncommitted >= COMMIT {
                    self.fs.flush(ino).map_err(failed)?;
                    uncommitted = 0;
                }
            }
        }
        if let Some(size) = sparse {
            let set = SetAttr { size: Some(size), privileged: true, ..SetAttr::default() };
            self.fs.setattr(ino, set).map_err(failed)?;
        }
        self.fs.flush(ino).map_err(failed)
    }
}

/// The map of a sparse file: offsets and lengths.
fn read_map(input: &mut impl Read) -> io::Result<Vec<(u64, u64)>> {
    /// Runs of a map that is believed.
    const MOST: u64 = 1 << 20;
    let (mut record, mut at) = ([0; RECORD], RECORD);
    let mut number = || -> io::Result<u64> {
        let mut digits = String::new();
        loop {
            if at == RECORD {
                input.read_exact(&mut record)?;
                at = 0;
            }
            let byte = record[at];
            at += 1;
            match byte {
                b'\n' => break,
                b'0'..=b'9' if digits.len() < 20 => digits.push(byte.into()),
                _ => return Err(io::Error::new(io::ErrorKind::InvalidData, "a map that is none")),
            }
        }
        digits.parse().map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))
    };
    let count = number()?;
    if count > MOST {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "a map of too many parts"));
    }
    (0..count).map(|_| Ok((number()?, number()?))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decimal_numbers_are_times() {
        for (text, sec, nsec) in [
            ("5", 5, 0),
            ("5.000000001", 5, 1),
            ("5.5", 5, 500_000_000),
            ("-0.000000001", -1, 999_999_999),
            ("-1.5", -2, 500_000_000),
            ("-2", -2, 0),
        ] {
            assert_eq!(time(text.as_bytes()), Some(Time { sec, nsec }), "{text}");
        }
        assert_eq!(time(b"x"), None);
    }

    #[test]
    fn maps_that_are_none_are_refused() {
        let mut record = b"2\n0\n512\n4096\n904\n".to_vec();
        record.resize(RECORD, 0);
        assert_eq!(read_map(&mut &record[..]).unwrap(), [(0, 512), (4096, 904)]);
        for bad in [&b"x\n"[..], b"99999999999\n", b"1\n0\n", b"99999999999999999999999\n"] {
            let mut record = bad.to_vec();
            record.resize(RECORD, 0);
            assert!(read_map(&mut &record[..]).is_err());
        }
    }
}
