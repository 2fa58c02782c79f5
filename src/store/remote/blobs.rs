//! Files of a store that lie in an object store: read by ranges or whole, never written.

use super::error::{RemoteError, Result};
use super::fetch::{Course, Fetcher};
use super::manifest::{Object, Part};
use crate::store::io::Blob;
use std::fmt::Debug;
use std::io;
use std::sync::{Arc, Mutex, OnceLock};

/// Where a file's bytes are fetched from. It may be connected only when the first of them is wanted.
pub trait Origin: Send + Sync + Debug {
    /// What fetches them.
    fn fetcher(&self) -> Result<Arc<Fetcher>>;
}

/// An origin that is there.
#[derive(Debug)]
pub struct Connected(pub Arc<Fetcher>);

impl Origin for Connected {
    fn fetcher(&self) -> Result<Arc<Fetcher>> {
        Ok(Arc::clone(&self.0))
    }
}

fn to_io(e: RemoteError) -> io::Error {
    let kind = if e.may_pass() { io::ErrorKind::TimedOut } else { io::ErrorKind::Other };
    io::Error::new(kind, e)
}

/// What those are told who would change something.
pub fn never_written<T>() -> io::Result<T> {
    Err(io::Error::from_raw_os_error(libc::EROFS))
}

/// A segment, read by ranges.
#[derive(Debug)]
pub struct SegmentBlob {
    origin: Arc<dyn Origin>,
    part: Part,
    course: Mutex<Course>,
}

impl SegmentBlob {
    /// A segment of a manifest.
    pub fn new(origin: Arc<dyn Origin>, part: Part) -> Self {
        Self { origin, part, course: Mutex::default() }
    }
}

/// What is read whole when something of it is wanted first.
#[derive(Debug)]
pub struct WholeBlob {
    origin: Arc<dyn Origin>,
    object: Object,
    /// It is kept in the cache.
    keep: bool,
    bytes: OnceLock<Vec<u8>>,
}

impl WholeBlob {
    /// An object; `keep` it in the cache, or not.
    pub fn new(origin: Arc<dyn Origin>, object: Object, keep: bool) -> Self {
        Self { origin, object, keep, bytes: OnceLock::new() }
    }
}

/// Bytes in memory.
#[derive(Debug)]
pub struct Bytes(pub Vec<u8>);

fn copy(bytes: &[u8], buf: &mut [u8], offset: u64) -> usize {
    let from = usize::try_from(offset).ok().and_then(|at| bytes.get(at..)).unwrap_or_default();
    let n = from.len().min(buf.len());
    buf[..n].copy_from_slice(&from[..n]);
    n
}

/// What a blob that is never written answers to all that would write.
macro_rules! read_only {
    () => {
        fn write_at(&self, _: &[u8], _: u64) -> io::Result<()> {
            never_written()
        }
        fn sync(&self) -> io::Result<()> {
            Ok(())
        }
        fn truncate(&self, _: u64) -> io::Result<()> {
            never_written()
        }
        fn allocate(&self, _: u64) -> io::Result<()> {
            never_written()
        }
    };
}

impl Blob for SegmentBlob {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let fetcher = self.origin.fetcher().map_err(to_io)?;
        let bytes = fetcher.read(&self.part, &self.course, offset, buf.len()).map_err(to_io)?;
        Ok(copy(&bytes, buf, 0))
    }
    fn len(&self) -> io::Result<u64> {
        Ok(self.part.object.len)
    }
    read_only!();
}

impl Blob for WholeBlob {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        if self.bytes.get().is_none() {
            let fetcher = self.origin.fetcher().map_err(to_io)?;
            let bytes = fetcher.whole(&self.object, self.keep).map_err(to_io)?;
            let _ = self.bytes.set(bytes);
        }
        Ok(copy(self.bytes.get().map_or(&[], Vec::as_slice), buf, offset))
    }
    fn len(&self) -> io::Result<u64> {
        Ok(self.object.len)
    }
    read_only!();
}

impl Blob for Bytes {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        Ok(copy(&self.0, buf, offset))
    }
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.len() as u64)
    }
    read_only!();
}
