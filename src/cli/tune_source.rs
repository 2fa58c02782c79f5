//! The text of an archive, as something to tune on.

use super::{FAILED, Failure, mounts, target};
use crate::fs::{Fs, FsError};
use crate::model::corpus::{Corpus, CorpusError, whole_lines};
use crate::model::texts::LeftOut;
use crate::store::{OpenOptions, Store};
use crate::types::Ino;
use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// Files left out that are named one by one.
const NAMED: usize = 20;

/// Reads what a store holds: through its mount, or, if nobody has it mounted, itself, without a change.
pub fn read(path: &Path, seed: u64) -> Result<Corpus, Failure> {
    let at = target::of(path)?;
    if at.mount.is_some() {
        return corpus(Corpus::read(path, seed));
    }
    let store = at.store;
    let whole = |m: &mounts::Mount| m.store == store && m.root == Path::new("/");
    if let Some(m) = mounts::all().into_iter().find(whole) {
        return corpus(Corpus::read(&m.dir, seed));
    }
    let fs = Fs::open(
        Store::open(&store, &OpenOptions { read_only: true })?,
        super::options::Options::offline(),
    )?;
    let corpus = gather(&fs, &store, seed);
    let closed = fs.shutdown();
    let corpus = corpus?;
    closed?;
    Ok(corpus)
}

/// Files by their names, and what is none.
type Found = (Vec<(u64, PathBuf)>, HashMap<PathBuf, Ino>, Vec<LeftOut>);

fn gather(fs: &Fs, store: &Path, seed: u64) -> Result<Corpus, Failure> {
    let (files, inos, left_out) =
        files(fs).map_err(|e| Failure::new(FAILED, format!("{}: {e}", store.display())))?;
    let mut read = |path: &Path, size: u64, most: u64| {
        let ino = *inos.get(path).ok_or(io::ErrorKind::NotFound)?;
        let from = size.saturating_sub(most);
        let text = fs.read_now(ino, from, size - from).map_err(io::Error::other)?;
        Ok(if from > 0 { whole_lines(text) } else { text })
    };
    corpus(Corpus::gather(store, files, left_out, &mut read, seed))
}

/// All files below the root: a directory's own first, each by name.
fn files(fs: &Fs) -> Result<Found, FsError> {
    let (mut found, mut inos, mut left_out) = (Vec::new(), HashMap::new(), Vec::new());
    // A forged store may have directories in a circle.
    let (mut stack, mut seen) = (vec![(Ino::ROOT, PathBuf::from("/"))], HashSet::new());
    while let Some((at, path)) = stack.pop() {
        if !seen.insert(at) {
            continue;
        }
        let mut entries: Vec<(PathBuf, Ino)> = fs
            .readdir(at, 2, usize::MAX)?
            .into_iter()
            .map(|d| (path.join(OsStr::from_bytes(&d.name)), d.ino))
            .collect();
        entries.sort();
        let mut below = Vec::new();
        for (path, ino) in entries {
            match fs.getattr(ino) {
                Ok(a) if a.is_file() => {
                    found.push((a.size, path.clone()));
                    inos.insert(path, ino);
                }
                Ok(a) if a.is_dir() => below.push((ino, path)),
                Ok(_) => left_out.push(LeftOut { path, reason: "not a regular file".into() }),
                Err(e) => left_out.push(LeftOut { path, reason: e.to_string() }),
            }
        }
        stack.extend(below.into_iter().rev());
    }
    Ok((found, inos, left_out))
}

fn name_left_out(left_out: &[LeftOut]) {
    for l in left_out.iter().take(NAMED) {
        log::warn!("left out: {}: {}", l.path.display(), l.reason);
    }
    if left_out.len() > NAMED {
        log::warn!("left out: {} more files", left_out.len() - NAMED);
    }
}

/// A corpus, or why there is none; what was left out is named in either case.
pub fn corpus(read: Result<Corpus, CorpusError>) -> Result<Corpus, Failure> {
    name_left_out(match &read {
        Ok(corpus) => &corpus.left_out,
        Err(e) => e.left_out(),
    });
    Ok(read?)
}
