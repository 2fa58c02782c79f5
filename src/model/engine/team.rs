//! Threads that work on one thing at a time, together with their caller.
//!
//! A step takes microseconds, so whoever waits spins for a while before sleeping.

use std::cell::UnsafeCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{JoinHandle, Thread};

/// Rounds of waiting before a member goes to sleep or gives its processor away: tens of
/// microseconds.
const SPINS: u32 = 20_000;

/// What members are to run, with the lifetime taken away.
type Job = *const (dyn Fn(usize) + Sync);

struct Shared {
    /// Valid while `busy` is not 0.
    job: UnsafeCell<Option<Job>>,
    /// Number of the job; odd for ever when the team is dismissed.
    round: AtomicUsize,
    /// Members that have not finished the job.
    busy: AtomicUsize,
    /// A member panicked, the leader or another: the team is not used again.
    failed: AtomicBool,
}

// SAFETY: `job` is written by the leader while no member is busy, which `round` (release, acquire)
// and `busy` (release, acquire) order, and read by members in between; what it points to is Sync.
unsafe impl Sync for Shared {}
// SAFETY: as above; the pointer is only followed during `Team::run`.
unsafe impl Send for Shared {}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("round", &self.round).finish_non_exhaustive()
    }
}

/// The caller and some threads of its own.
#[derive(Debug)]
pub struct Team {
    shared: Arc<Shared>,
    members: Vec<JoinHandle<()>>,
}

impl Team {
    /// A team of `size`, the caller included.
    pub fn new(size: usize) -> std::io::Result<Self> {
        let shared = Arc::new(Shared {
            job: UnsafeCell::new(None),
            round: AtomicUsize::new(0),
            busy: AtomicUsize::new(0),
            failed: AtomicBool::new(false),
        });
        let mut team = Self { shared, members: Vec::new() };
        for me in 1..size {
            let shared = Arc::clone(&team.shared);
            let name = std::thread::Builder::new().name("lmfs-engine".into());
            team.members.push(name.spawn(move || member(&shared, me))?);
        }
        Ok(team)
    }

    /// Members, the caller included.
    pub fn size(&self) -> usize {
        self.members.len() + 1
    }

    /// Runs `work` once for each member, with its number; the caller is number 0. Panics if any
    /// member does, once all have ended; from then on whenever it is called.
    pub fn run(&mut self, work: &(dyn Fn(usize) + Sync)) {
        if self.members.is_empty() {
            work(0);
            return;
        }
        let s = &*self.shared;
        assert!(!s.failed.load(Ordering::Relaxed), "an engine thread panicked before");
        // SAFETY: only the lifetime changes; `wait` below returns after the last use, even if
        // `work` panics here.
        let job: Job = unsafe { std::mem::transmute::<&(dyn Fn(usize) + Sync), Job>(work) };
        // SAFETY: no member is busy, so none reads.
        unsafe { *s.job.get() = Some(job) };
        s.busy.store(self.members.len(), Ordering::Relaxed);
        s.round.fetch_add(2, Ordering::Release);
        for m in &self.members {
            m.thread().unpark();
        }
        let wait = Wait(s);
        work(0);
        drop(wait);
        assert!(!s.failed.load(Ordering::Relaxed), "an engine thread panicked");
    }
}

/// Waits for all members when dropped.
struct Wait<'a>(&'a Shared);

impl Drop for Wait<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.failed.store(true, Ordering::Relaxed);
        }
        spin_while(|| self.0.busy.load(Ordering::Acquire) != 0);
    }
}

impl Drop for Team {
    fn drop(&mut self) {
        self.shared.round.fetch_or(1, Ordering::Release);
        for m in self.members.drain(..) {
            let thread: Thread = m.thread().clone();
            thread.unpark();
            drop(m.join());
        }
    }
}

fn member(s: &Shared, me: usize) {
    let mut done = 0;
    loop {
        let mut spins = 0;
        let round = loop {
            let round = s.round.load(Ordering::Acquire);
            if round != done {
                break round;
            }
            spins += 1;
            if spins < SPINS {
                std::hint::spin_loop();
            } else {
                std::thread::park();
            }
        };
        if round & 1 == 1 {
            return;
        }
        done = round;
        // SAFETY: a new round means that the leader has written the job and waits for `busy`.
        let job = unsafe { (*s.job.get()).map(|job| &*job) };
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            if let Some(job) = job {
                job(me);
            }
        }));
        if result.is_err() {
            s.failed.store(true, Ordering::Relaxed);
        }
        s.busy.fetch_sub(1, Ordering::Release);
    }
}

/// Waits for something that another running thread is about to do.
fn spin_while(condition: impl Fn() -> bool) {
    let mut spins = 0_u32;
    while condition() {
        spins += 1;
        if spins < SPINS {
            std::hint::spin_loop();
        } else {
            std::thread::yield_now();
        }
    }
}

/// Where members wait for each other.
#[derive(Debug)]
pub struct Barrier {
    size: usize,
    arrived: AtomicUsize,
    round: AtomicUsize,
    /// One of them panicked, and will not come any more.
    broken: AtomicBool,
}

/// A member's presence at a barrier. Should it panic while this lives, nobody waits for it.
#[derive(Debug)]
pub struct Presence<'a>(&'a Barrier);

impl Drop for Presence<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.broken.store(true, Ordering::Release);
        }
    }
}

impl Barrier {
    /// For `size` members.
    pub fn new(size: usize) -> Self {
        Self {
            size,
            arrived: AtomicUsize::new(0),
            round: AtomicUsize::new(0),
            broken: AtomicBool::new(false),
        }
    }

    /// Held by each member from its first wait to its last.
    pub fn attend(&self) -> Presence<'_> {
        Presence(self)
    }

    /// Members that it waits for.
    pub fn size(&self) -> usize {
        self.size
    }

    /// Returns when all members have called it. What they wrote before is visible to all. Unwinds if
    /// one of them panicked.
    #[inline]
    pub fn wait(&self) {
        if self.size == 1 {
            return;
        }
        let round = self.round.load(Ordering::Acquire);
        if self.arrived.fetch_add(1, Ordering::AcqRel) + 1 == self.size {
            self.arrived.store(0, Ordering::Relaxed);
            self.round.store(round.wrapping_add(1), Ordering::Release);
        } else {
            let broken = || self.broken.load(Ordering::Acquire);
            spin_while(|| self.round.load(Ordering::Acquire) == round && !broken());
            if broken() {
                // The panic itself was reported where it happened.
                std::panic::resume_unwind(Box::new("another engine thread panicked"));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_members_work_and_meet() {
        for size in [1, 2, 5] {
            let mut team = Team::new(size).unwrap();
            let sum = AtomicUsize::new(0);
            for round in 1..200 {
                let barrier = Barrier::new(size);
                team.run(&|me| {
                    sum.fetch_add(me + 1, Ordering::Relaxed);
                    barrier.wait();
                    assert_eq!(sum.load(Ordering::Relaxed), round * size * (size + 1) / 2);
                    barrier.wait();
                });
            }
        }
    }

    #[test]
    fn a_panic_frees_those_who_wait_and_ends_the_team() {
        use std::panic::{AssertUnwindSafe, catch_unwind};
        for who in 0..3 {
            let mut team = Team::new(3).unwrap();
            let barrier = Barrier::new(3);
            let work = |me: usize| {
                let _here = barrier.attend();
                for round in 0..10 {
                    barrier.wait();
                    assert!(me != who || round < 5, "on purpose");
                }
            };
            assert!(catch_unwind(AssertUnwindSafe(|| team.run(&work))).is_err());
            let again = AtomicUsize::new(0);
            let work = |_| {
                again.fetch_add(1, Ordering::Relaxed);
            };
            assert!(catch_unwind(AssertUnwindSafe(|| team.run(&work))).is_err());
            assert_eq!(again.into_inner(), 0);
        }
    }

    #[test]
    #[should_panic(expected = "an engine thread panicked")]
    fn a_members_panic_is_the_callers() {
        Team::new(2).unwrap().run(&|me| assert!(me == 0));
    }
}
