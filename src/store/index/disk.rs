//! The only room that knows sled: the derived index on disk.
//!
//! sled may refuse, panic or hang on damaged files. It is opened in a thread that can be abandoned,
//! in a directory of its own, so that a hung one's lock does not matter.

use super::base::{Base, Change, Pair, Pairs};
use crate::store::api::{Result, StoreError};
use rustix::fs::FlockOperation;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// Memory that sled may use for its cache, in bytes.
const CACHE: u64 = 48 << 20;
/// After this long, opening is given up.
const PATIENCE: Duration = Duration::from_secs(20);

/// An index in sled.
#[derive(Debug)]
pub struct SledBase {
    db: sled::Db,
}

#[allow(clippy::needless_pass_by_value)]
fn failed(e: sled::Error) -> StoreError {
    StoreError::Index(e.to_string())
}

/// sled panics on some of its own surprises.
fn guarded<T>(f: impl FnOnce() -> Result<T>) -> Result<T> {
    let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(f));
    caught.unwrap_or_else(|_| Err(StoreError::Index("it panicked".into())))
}

/// An iterator of sled's. After a panic of it there is an error, and then nothing more.
struct Guarded<I>(Option<I>);

impl<I: Iterator<Item = Result<Pair>>> Guarded<I> {
    fn step(&mut self, f: impl FnOnce(&mut I) -> Option<Result<Pair>>) -> Option<Result<Pair>> {
        let pairs = self.0.as_mut()?;
        let pair = guarded(|| f(pairs).transpose()).transpose();
        if !matches!(pair, Some(Ok(_))) {
            self.0 = None;
        }
        pair
    }
}

impl<I: Iterator<Item = Result<Pair>>> Iterator for Guarded<I> {
    type Item = Result<Pair>;

    fn next(&mut self) -> Option<Self::Item> {
        self.step(Iterator::next)
    }
}

impl<I: DoubleEndedIterator<Item = Result<Pair>>> DoubleEndedIterator for Guarded<I> {
    fn next_back(&mut self) -> Option<Self::Item> {
        self.step(DoubleEndedIterator::next_back)
    }
}

/// Runs `f` on a thread of its own. If it takes too long it is given up, and left to itself.
fn within<T: Send + 'static>(
    patience: Duration,
    f: impl FnOnce() -> std::result::Result<T, String> + Send + 'static,
) -> std::result::Result<T, String> {
    let (tx, rx) = mpsc::channel();
    let work = move || {
        let got = std::panic::catch_unwind(std::panic::AssertUnwindSafe(f));
        let _ = tx.send(got.unwrap_or_else(|_| Err("it panicked".into())));
    };
    std::thread::Builder::new().name("index-open".into()).spawn(work).map_err(|e| e.to_string())?;
    rx.recv_timeout(patience).unwrap_or_else(|_| Err("it hangs".into()))
}

/// An index directory whose opening hangs, in tests.
#[cfg(test)]
pub static HANGS: std::sync::Mutex<Option<PathBuf>> = std::sync::Mutex::new(None);

impl SledBase {
    /// Opens or creates the index in `dir`; the error says why not.
    pub fn open(dir: &Path) -> std::result::Result<Self, String> {
        let at = dir.to_owned();
        let open = move || {
            let config = sled::Config::new()
                .path(at)
                .cache_capacity(CACHE)
                .flush_every_ms(None)
                .mode(sled::Mode::HighThroughput);
            config.open().map(|db| Self { db }).map_err(|e| e.to_string())
        };
        #[cfg(test)]
        if crate::store::lock(&HANGS).as_deref() == Some(dir) {
            let hang = || loop {
                std::thread::park();
            };
            return within(Duration::from_millis(200), hang);
        }
        within(PATIENCE, open)
    }
}

impl Base for SledBase {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>> {
        guarded(|| Ok(self.db.get(key).map_err(failed)?.map(|v| v.to_vec())))
    }

    fn range<'a>(&'a self, lo: &[u8], hi: &[u8]) -> Pairs<'a> {
        if lo >= hi {
            return Box::new(std::iter::empty());
        }
        let range = || Ok(self.db.range(lo.to_vec()..hi.to_vec()));
        let pairs = match guarded(range) {
            Ok(pairs) => pairs,
            Err(e) => return Box::new(std::iter::once(Err(e))),
        };
        let pairs = pairs.map(|r| r.map(|(k, v)| (k.to_vec(), v.to_vec())).map_err(failed));
        Box::new(Guarded(Some(pairs)))
    }

    fn write(&self, changes: &[Change]) -> Result<()> {
        guarded(|| {
            for (k, v) in changes {
                match v {
                    Some(v) => self.db.insert(k, v.as_slice()).map_err(failed)?,
                    None => self.db.remove(k).map_err(failed)?,
                };
            }
            Ok(())
        })
    }

    fn flush(&self) -> Result<()> {
        guarded(|| self.db.flush().map(drop).map_err(failed))
    }
}

/// Where the index of this name lies in the store at `path`; `None` if that is no name of an index.
pub fn place(path: &Path, name: &str) -> Option<PathBuf> {
    (name.starts_with("index") && !name.contains('/')).then(|| path.join(name))
}

/// All files below `dir`, sorted. sled would follow a symbolic link, out of the store: there must be
/// none, nor anything else that is neither file nor directory.
fn files(dir: &Path, out: &mut Vec<PathBuf>) -> std::io::Result<()> {
    let odd = |path: &Path| {
        let what = format!("{} is neither a file nor a directory", path.display());
        Err(std::io::Error::new(std::io::ErrorKind::InvalidData, what))
    };
    if !dir.symlink_metadata()?.is_dir() {
        return odd(dir);
    }
    let mut here: Vec<_> = std::fs::read_dir(dir)?.collect::<std::io::Result<_>>()?;
    here.sort_by_key(std::fs::DirEntry::path);
    for entry in here {
        let kind = entry.file_type()?;
        if kind.is_dir() {
            files(&entry.path(), out)?;
        } else if kind.is_file() {
            out.push(entry.path());
        } else {
            return odd(&entry.path());
        }
    }
    Ok(())
}

/// Waits until nothing of a database that was dropped is at work any more: sled truncates its file on
/// threads of its own, which hold the file, and with it sled's lock, until they are done.
pub fn settle(dir: &Path) -> std::io::Result<()> {
    let file = std::fs::File::open(dir.join("db"))?;
    let began = Instant::now();
    while let Err(e) = rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        if e != rustix::io::Errno::WOULDBLOCK || began.elapsed() > PATIENCE {
            return Err(e.into());
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

/// Bytes of an index's files.
pub fn size(dir: &Path) -> std::io::Result<u64> {
    let mut all = Vec::new();
    files(dir, &mut all)?;
    all.iter().map(|path| Ok(path.metadata()?.len())).sum()
}

/// Copies what is in an index into an empty one. sled's files grow while values change, and do not shrink again:
/// the copy has room for what is there now.
pub fn copy(from: &SledBase, to: &SledBase) -> Result<()> {
    const AT_ONCE: usize = 1000;
    let mut pairs = from.range(&[], &[0xff]).peekable();
    while pairs.peek().is_some() {
        let some = pairs.by_ref().take(AT_ONCE).map(|p| p.map(|(k, v)| (k, Some(v))));
        to.write(&some.collect::<Result<Vec<_>>>()?)?;
    }
    to.flush()
}

/// BLAKE3 over the names, lengths and bytes of an index's files.
pub fn digest(dir: &Path) -> std::io::Result<[u8; 32]> {
    let mut all = Vec::new();
    files(dir, &mut all)?;
    let mut h = blake3::Hasher::new();
    for path in all {
        let name = path.strip_prefix(dir).unwrap_or(&path).as_os_str().as_encoded_bytes();
        let mut file = std::fs::File::open(&path)?;
        h.update(&(name.len() as u64).to_le_bytes()).update(name);
        h.update(&file.metadata()?.len().to_le_bytes());
        std::io::copy(&mut file, &mut h)?;
    }
    Ok(*h.finalize().as_bytes())
}

/// Makes an index's files durable.
pub fn sync_files(dir: &Path) -> std::io::Result<()> {
    let mut all = Vec::new();
    files(dir, &mut all)?;
    let mut dirs = vec![dir.to_owned()];
    for path in all {
        std::fs::File::open(&path)?.sync_all()?;
        if let Some(parent) = path.parent()
            && !dirs.iter().any(|d| d == parent)
        {
            dirs.push(parent.to_owned());
        }
    }
    dirs.iter().try_for_each(|d| std::fs::File::open(d)?.sync_all())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Without [`settle`], the digest is that of a file which is about to be truncated.
    #[test]
    fn an_index_that_shrinks_is_at_rest_once_it_has_settled() {
        for round in 0..8 {
            let dir = tempfile::tempdir().unwrap();
            let base = SledBase::open(dir.path()).unwrap();
            let key = |n: u32| blake3::hash(&n.to_le_bytes()).as_bytes().to_vec();
            for keep in [true, false] {
                for from in (0..40_000).step_by(1000) {
                    let pair = |n| (key(n), keep.then(|| vec![n as u8; 100]));
                    base.write(&(from..from + 1000).map(pair).collect::<Vec<_>>()).unwrap();
                }
                base.flush().unwrap();
            }
            drop(base);
            settle(dir.path()).unwrap();
            let then = digest(dir.path()).unwrap();
            std::thread::sleep(Duration::from_millis(20));
            assert_eq!(digest(dir.path()).unwrap(), then, "{round}");
        }
    }

    #[test]
    fn a_panic_of_an_iterator_is_an_error_and_its_end() {
        let pair = |n: u8| match n {
            2 => panic!("as sled does"),
            n => Ok((vec![n], Vec::new())),
        };
        for back in [false, true] {
            let mut pairs = Guarded(Some((0..5).map(pair)));
            let mut next = || if back { pairs.next_back() } else { pairs.next() };
            assert!(matches!((next(), next()), (Some(Ok(_)), Some(Ok(_)))));
            assert!(matches!(next(), Some(Err(StoreError::Index(_)))));
            assert!(next().is_none() && next().is_none());
        }
    }
}
