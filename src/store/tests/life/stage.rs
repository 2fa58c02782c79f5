//! The disk that a life is played on. At some call it crashes, panics, fails or is full, or somebody
//! else has a turn in the middle of whoever called.

use crate::store::io::{Blob, Volume};
use crate::store::lock;
use crate::store::tests::failing::Call;
use crate::store::tests::memory::MemVolume;
use std::fmt::{Debug, Formatter, Result as FmtResult};
use std::io::{Error, Result as IoResult};
use std::panic::resume_unwind;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

/// What happens at a call.
pub enum Cue {
    /// The process is gone: no call does anything any more.
    Crash,
    /// The call panics.
    Panic,
    /// The call fails, if it is one that can in this way.
    Fail(i32),
    /// There is no room from now on.
    Full,
    /// Somebody has a turn, at the first call at which nothing is held that they need.
    Guest(Guest),
}

/// Somebody who waits for a turn.
pub struct Guest {
    pub who: String,
    pub may: Box<dyn Fn() -> bool + Send>,
    pub go: Box<dyn FnOnce() + Send>,
}

impl Debug for Cue {
    fn fmt(&self, f: &mut Formatter<'_>) -> FmtResult {
        f.write_str(match self {
            Self::Crash => "crash",
            Self::Panic => "panic",
            Self::Fail(libc::ENOSPC) => "ENOSPC",
            Self::Fail(_) => "EIO",
            Self::Full => "full",
            Self::Guest(guest) => &guest.who,
        })
    }
}

/// What came of a step's cues.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct Struck {
    pub dead: bool,
    pub panicked: bool,
    /// A call failed, for want of room or otherwise.
    pub no_space: bool,
    pub error: bool,
    pub full: bool,
    pub guests: u64,
}

impl Struck {
    pub fn any(&self) -> bool {
        *self != Self::default()
    }

    /// What came, by name, and how often.
    pub fn kinds(&self) -> [(&'static str, u64); 6] {
        [
            ("crash", self.dead.into()),
            ("panic", self.panicked.into()),
            ("ENOSPC", self.no_space.into()),
            ("EIO", self.error.into()),
            ("full", self.full.into()),
            ("guest", self.guests),
        ]
    }
}

impl Debug for Struck {
    fn fmt(&self, f: &mut Formatter<'_>) -> FmtResult {
        f.debug_list().entries(self.kinds().into_iter().filter(|(_, n)| *n > 0)).finish()
    }
}

#[derive(Debug, Default)]
struct Script {
    /// Calls since the step began.
    calls: AtomicU64,
    cues: Mutex<Vec<(u64, Cue)>>,
    struck: Mutex<Struck>,
    /// A guest has a turn. Others wait.
    inside: AtomicBool,
}

/// A volume in memory with a script.
#[derive(Debug, Clone)]
pub struct Stage {
    pub memory: Arc<MemVolume>,
    script: Arc<Script>,
}

/// Errors that a call may end with.
fn fits(call: Call, errno: i32) -> bool {
    errno != libc::ENOSPC
        || matches!(call, Call::Write | Call::Create | Call::Allocate | Call::Rename)
}

impl Stage {
    pub fn new(memory: Arc<MemVolume>) -> Self {
        Self { memory, script: Arc::default() }
    }

    /// A step begins: each cue comes at the first call from its number on that it fits.
    pub fn begin(&self, cues: Vec<(u64, Cue)>) {
        let s = &self.script;
        s.calls.store(0, Ordering::SeqCst);
        s.inside.store(false, Ordering::SeqCst);
        *lock(&s.cues) = cues;
        *lock(&s.struck) = Struck::default();
    }

    /// The step is over; cues that did not come are dropped.
    pub fn end(&self) -> (Struck, u64) {
        lock(&self.script.cues).clear();
        (self.struck(), self.script.calls.load(Ordering::SeqCst))
    }

    pub fn struck(&self) -> Struck {
        *lock(&self.script.struck)
    }

    /// The cue for this call, if there is one.
    fn due(&self, call: Option<Call>, n: u64) -> Option<Cue> {
        let inside = self.script.inside.load(Ordering::SeqCst);
        let mut cues = lock(&self.script.cues);
        let due = cues.iter().position(|(at, cue)| {
            *at <= n
                && match cue {
                    Cue::Guest(guest) => !inside && (guest.may)(),
                    Cue::Fail(errno) => call.is_some_and(|c| fits(c, *errno)),
                    _ => true,
                }
        });
        due.map(|i| cues.remove(i).1)
    }

    fn note(&self, f: impl FnOnce(&mut Struck)) {
        f(&mut lock(&self.script.struck));
    }

    /// A call, or a question that cannot fail.
    fn call(&self, call: Option<Call>) -> IoResult<()> {
        let gone = || Err(Error::from_raw_os_error(libc::EIO));
        if self.struck().dead {
            return gone();
        }
        let n = self.script.calls.fetch_add(1, Ordering::SeqCst);
        while let Some(cue) = self.due(call, n) {
            match cue {
                Cue::Crash => {
                    self.note(|s| s.dead = true);
                    return gone();
                }
                Cue::Panic => {
                    self.note(|s| s.panicked = true);
                    // Without a message.
                    resume_unwind(Box::new("on purpose"));
                }
                Cue::Fail(errno) => {
                    self.note(|s| match errno {
                        libc::ENOSPC => s.no_space = true,
                        _ => s.error = true,
                    });
                    return Err(Error::from_raw_os_error(errno));
                }
                Cue::Full => {
                    self.note(|s| s.full = true);
                    self.memory.set_full(true);
                }
                Cue::Guest(guest) => {
                    self.note(|s| s.guests += 1);
                    self.script.inside.store(true, Ordering::SeqCst);
                    (guest.go)();
                    self.script.inside.store(false, Ordering::SeqCst);
                    if self.struck().dead {
                        return gone();
                    }
                }
            }
        }
        Ok(())
    }

    fn wrap(&self, below: Arc<dyn Blob>) -> Arc<dyn Blob> {
        Arc::new(StagedBlob { below, stage: self.clone() })
    }
}

#[derive(Debug)]
struct StagedBlob {
    below: Arc<dyn Blob>,
    stage: Stage,
}

impl Volume for Stage {
    fn create(&self, path: &str) -> IoResult<Arc<dyn Blob>> {
        self.call(Some(Call::Create))?;
        Ok(self.wrap(self.memory.create(path)?))
    }
    fn open(&self, path: &str, write: bool) -> IoResult<Arc<dyn Blob>> {
        self.call(Some(Call::Open))?;
        Ok(self.wrap(self.memory.open(path, write)?))
    }
    fn list(&self, dir: &str) -> IoResult<Vec<String>> {
        self.call(Some(Call::List))?;
        self.memory.list(dir)
    }
    fn mkdir(&self, dir: &str) -> IoResult<()> {
        self.memory.mkdir(dir)
    }
    fn rename(&self, from: &str, to: &str) -> IoResult<()> {
        self.call(Some(Call::Rename))?;
        self.memory.rename(from, to)
    }
    fn remove(&self, path: &str) -> IoResult<()> {
        self.call(Some(Call::Remove))?;
        self.memory.remove(path)
    }
    fn sync_dir(&self, dir: &str) -> IoResult<()> {
        self.call(Some(Call::SyncDir))?;
        self.memory.sync_dir(dir)
    }
    fn free_bytes(&self) -> IoResult<u64> {
        self.call(None)?;
        self.memory.free_bytes()
    }
}

impl Blob for StagedBlob {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> IoResult<usize> {
        self.stage.call(Some(Call::Read))?;
        self.below.read_at(buf, offset)
    }
    fn write_at(&self, data: &[u8], offset: u64) -> IoResult<()> {
        self.stage.call(Some(Call::Write))?;
        self.below.write_at(data, offset)
    }
    fn sync(&self) -> IoResult<()> {
        if let Err(e) = self.stage.call(Some(Call::Sync)) {
            // What was to be written is given up, unless nothing happens any more.
            if !self.stage.struck().dead {
                let files = lock(&self.stage.memory.files).clone();
                let fail = |how| {
                    for file in files.values() {
                        file.fail_sync.store(how, Ordering::SeqCst);
                    }
                };
                fail(true);
                let _ = self.below.sync();
                fail(false);
            }
            return Err(e);
        }
        self.below.sync()
    }
    fn truncate(&self, len: u64) -> IoResult<()> {
        self.stage.call(Some(Call::Truncate))?;
        self.below.truncate(len)
    }
    fn len(&self) -> IoResult<u64> {
        self.stage.call(Some(Call::Len))?;
        self.below.len()
    }
    fn allocate(&self, end: u64) -> IoResult<()> {
        self.stage.call(Some(Call::Allocate))?;
        self.below.allocate(end)
    }
}
