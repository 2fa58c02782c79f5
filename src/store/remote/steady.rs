//! An object store with patience: tries again, with growing pauses, what may pass, gives up after a while,
//! counts what it asks for, and says in the log that the server is away, once a minute at most.

use super::error::{RemoteError, Result};
use super::sealed::{Listed, SealedStore};
use crate::store::lock;
use serde::{Deserialize, Serialize};
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// What was asked of an object store since it was opened.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Requests {
    /// Reads of objects or ranges.
    pub gets: u64,
    /// Writes.
    pub puts: u64,
    /// Listings.
    pub lists: u64,
    /// Deletions.
    pub deletes: u64,
    /// Bytes read.
    pub read_bytes: u64,
    /// Bytes written.
    pub written_bytes: u64,
    /// Attempts that failed and were tried again.
    pub retries: u64,
    /// Requests that failed in the end.
    pub failed: u64,
}

#[derive(Debug, Default)]
struct Counts {
    gets: AtomicU64,
    puts: AtomicU64,
    lists: AtomicU64,
    deletes: AtomicU64,
    read: AtomicU64,
    written: AtomicU64,
    retries: AtomicU64,
    failed: AtomicU64,
}

/// First pause before another try, and the longest.
const PAUSE: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(5));
/// Where the server did not answer the last time, it is not waited for longer than this.
const IN_DOUBT: Duration = Duration::from_secs(2);
/// And it is asked by one at a time, after so long. All others fail at once, or soon: with somebody who asks
/// right now they wait this long at most.
const REST: Duration = Duration::from_millis(if cfg!(test) { 20 } else { 1000 });
const MOMENT: Duration = Duration::from_millis(300);
/// The log says no more often that something fails.
const SAID_EVERY: Duration = Duration::from_secs(60);

/// A server that does not answer.
#[derive(Debug)]
struct Away {
    error: RemoteError,
    /// When it was last asked.
    since: Instant,
    /// Somebody asks it now.
    asked: bool,
}

/// See the module.
#[derive(Debug)]
pub struct Steady {
    inner: Arc<dyn SealedStore>,
    timeout: Duration,
    counts: Counts,
    /// The last request failed in the end, for want of an answer.
    away: Mutex<Option<Away>>,
    /// Somebody who tried is done.
    tried: Condvar,
    said: Mutex<Option<Instant>>,
    /// State of the generator of jitter.
    dice: AtomicU64,
}

impl Steady {
    /// Gives up what has not succeeded after `timeout`.
    pub fn new(inner: Arc<dyn SealedStore>, timeout: Duration) -> Self {
        let seed = u64::from(std::process::id()) << 32
            ^ u64::from(std::time::UNIX_EPOCH.elapsed().unwrap_or_default().subsec_nanos());
        Self {
            inner,
            timeout,
            counts: Counts::default(),
            away: Mutex::default(),
            tried: Condvar::new(),
            said: Mutex::default(),
            dice: AtomicU64::new(seed),
        }
    }

    /// What was asked for so far.
    pub fn requests(&self) -> Requests {
        let (c, at) = (&self.counts, Ordering::Relaxed);
        Requests {
            gets: c.gets.load(at),
            puts: c.puts.load(at),
            lists: c.lists.load(at),
            deletes: c.deletes.load(at),
            read_bytes: c.read.load(at),
            written_bytes: c.written.load(at),
            retries: c.retries.load(at),
            failed: c.failed.load(at),
        }
    }

    /// Between `PAUSE.0` and three times the pause before (decorrelated jitter).
    fn next_pause(&self, before: Duration) -> Duration {
        // Weyl sequence and the finaliser of SplitMix64 (Steele, Lea and Flood 2014).
        let mut x = self.dice.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed);
        x = (x ^ x >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ x >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        let part = (x >> 11) as f64 / (1u64 << 53) as f64;
        let span = (before * 3).saturating_sub(PAUSE.0);
        (PAUSE.0 + span.mul_f64(part)).min(PAUSE.1)
    }

    fn say(&self, e: &RemoteError) {
        let mut said = lock(&self.said);
        if said.is_none_or(|at| at.elapsed() > SAID_EVERY) {
            *said = Some(Instant::now());
            log::error!("{}: {e}", self.inner.url());
        }
    }

    /// How long an answer is waited for. An error where the server is away and somebody else asks it, or did
    /// so a moment ago.
    fn patience(&self) -> Result<Duration> {
        let began = Instant::now();
        let mut away = lock(&self.away);
        loop {
            let Some(a) = away.as_mut() else { return Ok(self.timeout) };
            if !a.asked && a.since.elapsed() >= REST {
                a.asked = true;
                return Ok(self.timeout.min(IN_DOUBT));
            }
            let left = MOMENT.saturating_sub(began.elapsed());
            if !a.asked || left.is_zero() {
                self.counts.failed.fetch_add(1, Ordering::Relaxed);
                return Err(a.error.clone());
            }
            (away, _) = self.tried.wait_timeout(away, left).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn run<T>(&self, count: &AtomicU64, ask: impl Fn() -> Result<T>) -> Result<T> {
        let patience = self.patience()?;
        let began = Instant::now();
        let mut pause = PAUSE.0;
        loop {
            count.fetch_add(1, Ordering::Relaxed);
            let e = match ask() {
                Err(e) if e.may_pass() => e,
                answer => {
                    // It answered, if only with a refusal.
                    *lock(&self.away) = None;
                    self.tried.notify_all();
                    return answer;
                }
            };
            pause = self.next_pause(pause);
            if began.elapsed() + pause >= patience {
                let away = Away { error: e.clone(), since: Instant::now(), asked: false };
                *lock(&self.away) = Some(away);
                self.tried.notify_all();
                self.counts.failed.fetch_add(1, Ordering::Relaxed);
                self.say(&e);
                return Err(e);
            }
            self.counts.retries.fetch_add(1, Ordering::Relaxed);
            log::debug!("{}: {e}; again in {pause:?}", self.inner.url());
            std::thread::sleep(pause);
        }
    }
}

impl SealedStore for Steady {
    fn get(&self, name: &str) -> Result<Vec<u8>> {
        let bytes = self.run(&self.counts.gets, || self.inner.get(name))?;
        self.counts.read.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        Ok(bytes)
    }

    fn get_range(&self, name: &str, range: Range<u64>) -> Result<Vec<u8>> {
        let want = range.end - range.start;
        let bytes = self.run(&self.counts.gets, || {
            let bytes = self.inner.get_range(name, range.clone())?;
            if bytes.len() as u64 == want {
                Ok(bytes)
            } else {
                let got = bytes.len();
                Err(RemoteError::Unavailable(format!("{name}: {got} bytes came, not {want}")))
            }
        })?;
        self.counts.read.fetch_add(want, Ordering::Relaxed);
        Ok(bytes)
    }

    fn put(&self, name: &str, bytes: &[u8]) -> Result<()> {
        self.run(&self.counts.puts, || self.inner.put(name, bytes))?;
        self.counts.written.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        Ok(())
    }

    fn put_if_absent(&self, name: &str, bytes: &[u8]) -> Result<()> {
        self.run(&self.counts.puts, || self.inner.put_if_absent(name, bytes))?;
        self.counts.written.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        Ok(())
    }

    fn delete(&self, name: &str) -> Result<()> {
        self.run(&self.counts.deletes, || self.inner.delete(name))
    }

    fn list(&self, dir: &str) -> Result<Vec<Listed>> {
        self.run(&self.counts.lists, || self.inner.list(dir))
    }

    fn url(&self) -> String {
        self.inner.url()
    }
}
