//! A volume of which one call fails.

use crate::store::io::{Blob, Volume};
use crate::store::lock;
use std::collections::BTreeMap;
use std::io::{Error, Result as IoResult};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

/// Kinds of calls that may fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Call {
    Read,
    Write,
    Sync,
    SyncDir,
    Create,
    Open,
    List,
    Rename,
    Remove,
    Truncate,
    Allocate,
    Len,
}

pub const CALLS: [Call; 12] = [
    Call::Read,
    Call::Write,
    Call::Sync,
    Call::SyncDir,
    Call::Create,
    Call::Open,
    Call::List,
    Call::Rename,
    Call::Remove,
    Call::Truncate,
    Call::Allocate,
    Call::Len,
];

/// In place of an error number: the call panics.
pub const PANIC: i32 = -1;

/// In place of an error number: the call passes, but what [`Plan::hook`] holds is done before.
pub const HOOK: i32 = -2;

/// Something to be done in the middle of a call.
#[derive(Default)]
pub struct Hook(pub Option<Box<dyn FnOnce() + Send>>);

impl std::fmt::Debug for Hook {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Hook({})", self.0.is_some())
    }
}

/// Which call fails, and how.
#[derive(Debug, Clone, Copy)]
pub struct Fault {
    pub call: Call,
    /// The how many-th of its kind, from 0.
    pub nth: u64,
    pub errno: i32,
    /// Half is written, or read, before that.
    pub short: bool,
}

#[derive(Debug, Default)]
pub struct Plan {
    counts: Mutex<BTreeMap<Call, u64>>,
    fault: Mutex<Option<Fault>>,
    pub hook: Mutex<Hook>,
    pub hits: AtomicU64,
    /// What calls take.
    pub pauses: Mutex<BTreeMap<Call, std::time::Duration>>,
}

impl Plan {
    pub fn set(&self, fault: Option<Fault>) {
        lock(&self.counts).clear();
        *lock(&self.fault) = fault;
    }

    pub fn count(&self, call: Call) -> u64 {
        lock(&self.counts).get(&call).copied().unwrap_or(0)
    }

    /// The fault, if this is the call.
    fn due(&self, call: Call) -> Option<Fault> {
        let pause = lock(&self.pauses).get(&call).copied();
        if let Some(pause) = pause {
            std::thread::sleep(pause);
        }
        let mut counts = lock(&self.counts);
        let n = counts.entry(call).or_default();
        let due = lock(&self.fault).filter(|f| f.call == call && f.nth == *n);
        *n += 1;
        if due.is_some() {
            self.hits.fetch_add(1, Ordering::SeqCst);
        }
        drop(counts);
        if let Some(f) = due.filter(|f| f.errno == PANIC) {
            panic!("on purpose: {f:?}");
        }
        if due.is_some_and(|f| f.errno == HOOK) {
            let hook = lock(&self.hook).0.take();
            if let Some(hook) = hook {
                hook();
            }
            return None;
        }
        due
    }

    fn pass(&self, call: Call) -> IoResult<()> {
        self.due(call).map_or(Ok(()), |f| Err(Error::from_raw_os_error(f.errno)))
    }
}

#[derive(Debug)]
pub struct FailingVolume {
    pub below: Arc<dyn Volume>,
    pub plan: Arc<Plan>,
}

#[derive(Debug)]
struct FailingBlob {
    below: Arc<dyn Blob>,
    plan: Arc<Plan>,
}

impl FailingVolume {
    fn wrap(&self, below: Arc<dyn Blob>) -> Arc<dyn Blob> {
        Arc::new(FailingBlob { below, plan: Arc::clone(&self.plan) })
    }
}

impl Volume for FailingVolume {
    fn create(&self, path: &str) -> IoResult<Arc<dyn Blob>> {
        self.plan.pass(Call::Create)?;
        Ok(self.wrap(self.below.create(path)?))
    }
    fn open(&self, path: &str, write: bool) -> IoResult<Arc<dyn Blob>> {
        self.plan.pass(Call::Open)?;
        Ok(self.wrap(self.below.open(path, write)?))
    }
    fn list(&self, dir: &str) -> IoResult<Vec<String>> {
        self.plan.pass(Call::List)?;
        self.below.list(dir)
    }
    fn mkdir(&self, dir: &str) -> IoResult<()> {
        self.below.mkdir(dir)
    }
    fn rename(&self, from: &str, to: &str) -> IoResult<()> {
        self.plan.pass(Call::Rename)?;
        self.below.rename(from, to)
    }
    fn remove(&self, path: &str) -> IoResult<()> {
        self.plan.pass(Call::Remove)?;
        self.below.remove(path)
    }
    fn sync_dir(&self, dir: &str) -> IoResult<()> {
        self.plan.pass(Call::SyncDir)?;
        self.below.sync_dir(dir)
    }
    fn free_bytes(&self) -> IoResult<u64> {
        self.below.free_bytes()
    }
}

impl Blob for FailingBlob {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> IoResult<usize> {
        match self.plan.due(Call::Read) {
            Some(f) if f.short => {
                let half = buf.len().div_ceil(2);
                self.below.read_at(&mut buf[..half], offset)
            }
            Some(f) => Err(Error::from_raw_os_error(f.errno)),
            None => self.below.read_at(buf, offset),
        }
    }
    fn write_at(&self, data: &[u8], offset: u64) -> IoResult<()> {
        if let Some(f) = self.plan.due(Call::Write) {
            if f.short {
                self.below.write_at(&data[..data.len() / 2], offset)?;
            }
            return Err(Error::from_raw_os_error(f.errno));
        }
        self.below.write_at(data, offset)
    }
    fn sync(&self) -> IoResult<()> {
        self.plan.pass(Call::Sync)?;
        self.below.sync()
    }
    fn truncate(&self, len: u64) -> IoResult<()> {
        self.plan.pass(Call::Truncate)?;
        self.below.truncate(len)
    }
    fn len(&self) -> IoResult<u64> {
        self.plan.pass(Call::Len)?;
        self.below.len()
    }
    fn allocate(&self, end: u64) -> IoResult<()> {
        self.plan.pass(Call::Allocate)?;
        self.below.allocate(end)
    }
}
