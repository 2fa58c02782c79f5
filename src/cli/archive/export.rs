//! `lmfs export`: a tar stream (POSIX.1-2001 pax, as GNU tar and bsdtar read it) with owners, nanoseconds, extended
//! attributes, hard links, devices, and holes as GNU tar 1.0 writes sparse files.

use super::super::output::Say;
use super::super::progress::{Progress, Unit};
use super::super::{FAILED, Failure, Outcome};
use super::{Bytes, CHUNK, Tree, about, relative, tree};
use crate::types::{Attr, Ino};
use std::collections::HashMap;
use std::io::{self, IsTerminal, Read, Write};
use std::ops::Range;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use tar::{EntryType, Header};

/// Bytes of a record of a tar stream.
pub const RECORD: usize = 512;
/// Where something in a chunk cannot be read, no smaller piece of it is tried.
const PIECE: usize = 4096;
/// Holes that are worth a map.
const HOLES: u64 = 16 << 10;
/// Largest number in an octal field of seven digits.
const OCTAL_MAX: u32 = 0o777_7777;

/// Arguments.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The store, or where it is mounted
    #[arg(value_name = "STORE|DIR", value_hint = clap::ValueHint::DirPath)]
    at: PathBuf,
    /// What to export, relative to the archive's root (default: all)
    #[arg(value_name = "PATH")]
    paths: Vec<PathBuf>,
}

/// Runs it: what can be read is exported, whatever is wrong with others.
pub fn run(a: &Args, say: Say) -> Outcome {
    let out = io::stdout();
    if out.is_terminal() {
        return Err(Failure::new(FAILED, "a tar stream is not for a terminal: redirect it"));
    }
    let tree = tree(&a.at)?;
    let out = io::BufWriter::with_capacity(CHUNK, out.lock());
    let progress = Progress::new(say, "exporting", Unit::Bytes);
    let mut export = Export {
        tree: &*tree,
        out: tar::Builder::new(out),
        first: HashMap::new(),
        files: 0,
        missing: 0,
        damaged: 0,
        bytes: 0,
        all: None,
        progress: &progress,
    };
    let root = [PathBuf::new()];
    let paths = if a.paths.is_empty() { &root[..] } else { &a.paths };
    // To look at everything twice is only worth it where somebody watches.
    if io::stderr().is_terminal() {
        let all = paths.iter().filter_map(|p| relative(p).ok()).map(|p| export.size(p)).sum();
        export.all = Some(all);
    }
    for path in paths {
        match relative(path) {
            Ok(path) => export.all(path)?,
            Err(e) => export.failure(&e),
        }
    }
    let (files, missing, damaged) = (export.files, export.missing, export.damaged);
    export.out.into_inner().and_then(|mut out| out.flush()).map_err(output)?;
    drop(progress);
    if !say.quiet {
        eprintln!("{files} entries exported");
    }
    let text = match (missing, damaged) {
        (0, 0) => return Ok(()),
        (n, 0) => format!("{n} could not be read and are not in the stream"),
        (0, n) => format!("{n} are damaged and end in zeros in the stream"),
        (m, n) => format!("{m} are not in the stream, and {n} are damaged and end in zeros there"),
    };
    Err(Failure::new(FAILED, text))
}

fn output(e: io::Error) -> Failure {
    Failure::new(FAILED, format!("output: {e}"))
}

struct Export<'a, W: Write> {
    tree: &'a dyn Tree,
    out: tar::Builder<W>,
    /// Where files with several names were met first.
    first: HashMap<Ino, PathBuf>,
    files: u64,
    /// Entries that could not be read at all, and those of which a part could not.
    missing: u64,
    damaged: u64,
    /// What files that were exported hold, and all that are to be.
    bytes: u64,
    all: Option<u64>,
    progress: &'a Progress,
}

impl<W: Write> Export<'_, W> {
    fn failure(&mut self, e: &Failure) {
        eprintln!("lmfs: {}", e.message);
        self.missing += 1;
    }

    /// What files at and below a path hold.
    fn size(&self, path: PathBuf) -> u64 {
        let (mut stack, mut sum) = (vec![path], 0_u64);
        while let Some(path) = stack.pop() {
            let Ok((_, attr)) = self.tree.get(&path) else { continue };
            if attr.is_file() {
                sum = sum.saturating_add(attr.size);
            } else if attr.is_dir() {
                let names = self.tree.names(&path).unwrap_or_default();
                stack.extend(names.into_iter().map(|n| path.join(n)));
            }
        }
        sum
    }

    /// A path and all below it. Fails if the stream cannot be written.
    fn all(&mut self, path: PathBuf) -> Outcome {
        let mut stack = vec![path];
        while let Some(path) = stack.pop() {
            match self.tree.get(&path) {
                Ok((ino, attr)) => {
                    if let Err(e) = self.one(&path, ino, &attr)? {
                        self.failure(&e);
                    }
                    if attr.is_file() {
                        self.bytes = self.bytes.saturating_add(attr.size);
                        match self.all {
                            Some(all) => self.progress.at(self.bytes, all.max(self.bytes)),
                            None => self.progress.so_far(self.bytes),
                        }
                    }
                    if attr.is_dir() {
                        match self.tree.names(&path) {
                            Ok(names) => {
                                stack.extend(names.into_iter().rev().map(|n| path.join(n)));
                            }
                            Err(e) => self.failure(&e),
                        }
                    }
                }
                Err(e) => self.failure(&e),
            }
        }
        Ok(())
    }

    /// One entry. The outer failure is the stream's, the inner one the entry's.
    fn one(&mut self, path: &Path, ino: Ino, attr: &Attr) -> Result<Outcome, Failure> {
        let kind = match attr.file_type() {
            libc::S_IFREG => EntryType::Regular,
            libc::S_IFDIR => EntryType::Directory,
            libc::S_IFLNK => EntryType::Symlink,
            libc::S_IFIFO => EntryType::Fifo,
            libc::S_IFCHR => EntryType::Char,
            libc::S_IFBLK => EntryType::Block,
            _ => {
                log::warn!("{}: sockets have no place in a tar stream", path.display());
                return Ok(Ok(()));
            }
        };
        let mut entry = Entry::new(kind, path, attr);
        if let Some(first) = self.first.get(&ino).filter(|_| attr.nlink > 1 && !attr.is_dir()) {
            entry.header.set_entry_type(EntryType::Link);
            entry.link(first);
            return self.append(entry, io::empty(), 0).map(Ok);
        }
        let mut read = || -> Outcome {
            for (name, value) in self.tree.xattrs(path)? {
                entry.pax.push((format!("SCHILY.xattr.{name}"), value));
            }
            if kind == EntryType::Symlink {
                entry.link(&self.tree.link(path)?);
            }
            Ok(())
        };
        if let Err(e) = read() {
            return Ok(Err(e));
        }
        if attr.nlink > 1 && !attr.is_dir() {
            self.first.insert(ino, path.to_owned());
        }
        if kind != EntryType::Regular {
            return self.append(entry, io::empty(), 0).map(Ok);
        }
        let opened = self.tree.open(path).and_then(|mut file| {
            let runs = runs(&mut *file, attr.size).map_err(|e| about(path, e))?;
            Ok((file, runs))
        });
        let (mut file, runs) = match opened {
            Ok(opened) => opened,
            Err(e) => return Ok(Err(e)),
        };
        let stored: u64 = runs.iter().map(|r| r.end - r.start).sum();
        let mut map = Vec::new();
        if attr.size - stored >= HOLES {
            entry.sparse(path, attr.size);
            map = sparse_map(&runs, attr.size);
        }
        let all = || std::iter::once(0..attr.size).collect();
        let whole: Vec<_> = if map.is_empty() { all() } else { runs };
        let len = map.len() as u64 + whole.iter().map(|r| r.end - r.start).sum::<u64>();
        let mut body = Body { file: &mut *file, runs: whole, have: map, at: 0, damage: None };
        self.append(entry, &mut body, len)?;
        if let Some(e) = body.damage {
            let e = about(path, format!("{e}; it is filled with zeros from there on"));
            eprintln!("lmfs: {}", e.message);
            self.damaged += 1;
        }
        Ok(Ok(()))
    }

    fn append(&mut self, mut entry: Entry, body: impl Read, len: u64) -> Outcome {
        self.files += 1;
        entry.header.set_size(len);
        entry.header.set_cksum();
        let pax = entry.pax.iter().map(|(k, v)| (k.as_str(), &v[..]));
        self.out.append_pax_extensions(pax).map_err(output)?;
        self.out.append(&entry.header, body).map_err(output)
    }
}

/// The parts of a file that are not holes.
fn runs(file: &mut dyn Bytes, size: u64) -> io::Result<Vec<Range<u64>>> {
    let (mut runs, mut at) = (Vec::new(), 0);
    while let Some(run) = file.data(at)? {
        let run = run.start.min(size)..run.end.min(size);
        if run.is_empty() {
            break;
        }
        at = run.end;
        runs.push(run);
    }
    Ok(runs)
}

/// A header and the records that go before it.
struct Entry {
    header: Header,
    pax: Vec<(String, Vec<u8>)>,
}

impl Entry {
    fn new(kind: EntryType, path: &Path, attr: &Attr) -> Self {
        let mut entry = Self { header: Header::new_ustar(), pax: Vec::new() };
        let h = &mut entry.header;
        h.set_entry_type(kind);
        h.set_mode(attr.mode & 0o7777);
        h.set_mtime(attr.mtime.sec.max(0) as u64);
        h.set_uid(attr.uid.min(OCTAL_MAX).into());
        h.set_gid(attr.gid.min(OCTAL_MAX).into());
        if matches!(kind, EntryType::Char | EntryType::Block) {
            let dev = u64::from(attr.rdev);
            // Cannot fail in a ustar header.
            let _ = h.set_device_major(libc::major(dev));
            let _ = h.set_device_minor(libc::minor(dev));
        }
        for (key, id) in [("uid", attr.uid), ("gid", attr.gid)] {
            if id > OCTAL_MAX {
                entry.pax.push((key.into(), id.to_string().into_bytes()));
            }
        }
        for (key, t) in [("mtime", attr.mtime), ("atime", attr.atime)] {
            entry.pax.push((key.into(), decimal(t.sec, t.nsec).into_bytes()));
        }
        // The root is `./`, as tar -C DIR . has it.
        let mut name = if path.as_os_str().is_empty() {
            b"./".to_vec()
        } else {
            path.as_os_str().as_bytes().to_vec()
        };
        if kind == EntryType::Directory && !name.ends_with(b"/") {
            name.push(b'/');
        }
        entry.name(&name);
        entry
    }

    /// Sets the name: in the header if it fits, else in a record.
    fn name(&mut self, name: &[u8]) {
        let field = &mut self.header.as_old_mut().name;
        field.fill(0);
        let n = name.len().min(field.len());
        field[..n].copy_from_slice(&name[..n]);
        if n < name.len() {
            self.text("path", name);
        }
    }

    /// Sets what the entry leads to.
    fn link(&mut self, target: &Path) {
        let target = target.as_os_str().as_bytes();
        let field = &mut self.header.as_old_mut().linkname;
        field.fill(0);
        let n = target.len().min(field.len());
        field[..n].copy_from_slice(&target[..n]);
        if n < target.len() {
            self.text("linkpath", target);
        }
    }

    fn text(&mut self, key: &str, value: &[u8]) {
        if std::str::from_utf8(value).is_err() {
            self.pax.insert(0, ("hdrcharset".into(), b"BINARY".to_vec()));
        }
        self.pax.push((key.into(), value.to_vec()));
    }

    /// The body begins with a map of what is not a hole.
    fn sparse(&mut self, path: &Path, size: u64) {
        self.pax.retain(|(key, _)| key != "path");
        for (key, value) in [("major", "1"), ("minor", "0")] {
            self.pax.push((format!("GNU.sparse.{key}"), value.into()));
        }
        self.text("GNU.sparse.name", path.as_os_str().as_bytes());
        self.pax.push(("GNU.sparse.realsize".into(), size.to_string().into_bytes()));
        let name = path.file_name().unwrap_or_default().as_bytes();
        let beside = [b"GNUSparseFile.0/", &name[..name.len().min(80)]].concat();
        let field = &mut self.header.as_old_mut().name;
        field.fill(0);
        field[..beside.len()].copy_from_slice(&beside);
    }
}

/// Seconds and nanoseconds as a decimal number, also before 1970.
fn decimal(sec: i64, nsec: u32) -> String {
    match (sec, nsec) {
        (_, 0) => sec.to_string(),
        (0.., _) => format!("{sec}.{nsec:09}"),
        (-1, _) => format!("-0.{:09}", 1_000_000_000 - nsec),
        _ => format!("{}.{:09}", sec + 1, 1_000_000_000 - nsec),
    }
}

/// The map of a sparse file: how many runs, then offset and length of each, in whole records.
fn sparse_map(runs: &[Range<u64>], size: u64) -> Vec<u8> {
    // GNU tar ends with an empty run at the end.
    let end = runs.last().is_none_or(|r| r.end < size).then_some(size..size);
    let all: Vec<_> = runs.iter().cloned().chain(end).collect();
    let numbers = all.iter().flat_map(|r| [r.start, r.end - r.start]);
    let lines = std::iter::once(all.len() as u64).chain(numbers).map(|n| format!("{n}\n"));
    let mut map = lines.collect::<String>().into_bytes();
    map.resize(map.len().next_multiple_of(RECORD), 0);
    map
}

/// A file's runs, one after another. What cannot be read is zeros, so that the stream stays whole.
struct Body<'a> {
    file: &'a mut dyn Bytes,
    runs: Vec<Range<u64>>,
    /// Read and not yet handed out, from `at` on.
    have: Vec<u8>,
    at: usize,
    damage: Option<io::Error>,
}

impl Read for Body<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        while self.at == self.have.len() {
            let Some(run) = self.runs.first_mut() else { return Ok(0) };
            if run.is_empty() {
                self.runs.remove(0);
                continue;
            }
            let mut len = CHUNK.min((run.end - run.start) as usize);
            let mut bytes = Vec::new();
            while self.damage.is_none() && bytes.is_empty() {
                match self.file.read(run.start, len) {
                    Ok(read) if read.is_empty() => break,
                    Ok(read) => bytes = read,
                    // Some of it may be whole.
                    Err(_) if len > PIECE => len = len.div_ceil(2),
                    Err(e) => self.damage = Some(e),
                }
            }
            // A file that shrank meanwhile, or is damaged.
            bytes.resize(len, 0);
            run.start += len as u64;
            (self.have, self.at) = (bytes, 0);
        }
        let n = out.len().min(self.have.len() - self.at);
        out[..n].copy_from_slice(&self.have[self.at..self.at + n]);
        self.at += n;
        Ok(n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_decimal_numbers() {
        assert_eq!(decimal(5, 0), "5");
        assert_eq!(decimal(5, 1), "5.000000001");
        assert_eq!(decimal(-1, 999_999_999), "-0.000000001");
        assert_eq!(decimal(-2, 500_000_000), "-1.500000000");
    }

    #[test]
    fn maps_fill_whole_records() {
        let map = sparse_map(&[0..512, 4096..5000], 9000);
        assert_eq!(map.len(), RECORD);
        assert!(map.starts_with(b"3\n0\n512\n4096\n904\n9000\n0\n\0"));
    }
}
