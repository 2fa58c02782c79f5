//! Threads that work while nobody else wants the processor, until somebody waits for them: on a
//! machine that is never idle whoever joins an idle thread would wait for minutes. And threads that are to run as soon
//! as they are woken.

use std::sync::{Mutex, MutexGuard, PoisonError};

#[derive(Debug, Default)]
struct Threads {
    /// Kernel's numbers of the threads that are idle now.
    idle: Vec<libc::pid_t>,
    hurried: bool,
}

/// The idle threads of one owner.
#[derive(Debug, Default)]
pub struct Idlers(Mutex<Threads>);

/// The calling thread is idle, or was in a hurry from the start, while this lives.
#[derive(Debug)]
pub struct Idle<'a>(&'a Idlers);

/// The calling thread is no idle one while this lives.
#[derive(Debug)]
pub struct Awake<'a>(Option<&'a Idlers>);

/// Sets a thread's scheduling class; 0 is the calling thread.
fn schedule(thread: libc::pid_t, policy: libc::c_int) -> std::io::Result<()> {
    let param = libc::sched_param { sched_priority: 0 };
    // SAFETY: plain system call; the structure outlives it.
    match unsafe { libc::sched_setscheduler(thread, policy, &raw const param) } {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error()),
    }
}

/// Lets the calling thread, and those that it starts, run soon when they are woken: each takes the processor for a
/// moment at a time, so that the scheduler (EEVDF, Linux 6.12 and later) lets it before whoever computes for long. Older
/// kernels do as before.
pub fn prompt() {
    /// Nanoseconds; the least that Linux takes.
    const SLICE: u64 = 100_000;
    /// `struct sched_attr` of sched_setattr(2), in its first version.
    #[repr(C)]
    struct Attributes {
        size: u32,
        policy: u32,
        flags: u64,
        nice: i32,
        priority: u32,
        runtime: u64,
        deadline: u64,
        period: u64,
    }
    // SAFETY: plain system call on the calling thread; nice values are small.
    let nice = unsafe { libc::getpriority(libc::PRIO_PROCESS, 0) };
    let attributes = Attributes {
        size: size_of::<Attributes>() as u32,
        policy: libc::SCHED_OTHER as u32,
        flags: 0,
        nice,
        priority: 0,
        runtime: SLICE,
        deadline: 0,
        period: 0,
    };
    // SAFETY: the structure has the size that it says, and outlives the call.
    let done = unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attributes, 0) };
    if done != 0 {
        log::debug!("no shorter slices: {}", std::io::Error::last_os_error());
    }
}

/// True if this process may take a thread out of the idle class again.
pub fn may_raise() -> bool {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: no arguments; and a valid place for the answer.
    unsafe {
        libc::geteuid() == 0
            || (libc::getrlimit(libc::RLIMIT_NICE, &raw mut limit) == 0 && limit.rlim_cur >= 20)
    }
}

impl Idlers {
    fn threads(&self) -> MutexGuard<'_, Threads> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets the calling thread run only when nobody else wants to, until [`Self::hurry`].
    pub fn enter(&self) -> Idle<'_> {
        let mut t = self.threads();
        if !t.hurried {
            let lowered = if may_raise() {
                schedule(0, libc::SCHED_IDLE)
            } else {
                // A small share is better than none, where there is no way back.
                // SAFETY: plain system call on the calling thread.
                match unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, 19) } {
                    0 => Ok(()),
                    _ => Err(std::io::Error::last_os_error()),
                }
            };
            if let Err(e) = lowered {
                log::debug!("no lower priority: {e}");
            }
            // SAFETY: no arguments, cannot fail.
            t.idle.push(unsafe { libc::gettid() });
        }
        Idle(self)
    }

    /// For as long as the calling thread holds what others wait for: it is no idle one meanwhile.
    pub fn awake(&self) -> Awake<'_> {
        // SAFETY: no arguments, cannot fail.
        let me = unsafe { libc::gettid() };
        let mut t = self.threads();
        let idle = may_raise() && t.idle.contains(&me);
        if idle && schedule(me, libc::SCHED_OTHER).is_ok() {
            t.idle.retain(|thread| *thread != me);
            return Awake(Some(self));
        }
        Awake(None)
    }

    /// Somebody waits: threads that are idle are so no more, and none will be.
    pub fn hurry(&self) {
        self.threads().hurried = true;
        self.rouse();
    }

    /// Threads that are idle are so no more, until they become so again.
    pub fn rouse(&self) {
        let mut t = self.threads();
        for thread in t.idle.drain(..) {
            if may_raise()
                && let Err(e) = schedule(thread, libc::SCHED_OTHER)
            {
                log::debug!("no higher priority: {e}");
            }
        }
    }
}

impl Drop for Awake<'_> {
    fn drop(&mut self) {
        if let Some(idlers) = self.0 {
            // Not by leaving: the other guard still lives.
            std::mem::forget(idlers.enter());
        }
    }
}

impl Drop for Idle<'_> {
    fn drop(&mut self) {
        // SAFETY: no arguments, cannot fail.
        let me = unsafe { libc::gettid() };
        let mut t = self.0.threads();
        let idle = t.idle.contains(&me);
        t.idle.retain(|t| *t != me);
        // Whoever goes on, if only to end, is waited for.
        if idle
            && may_raise()
            && let Err(e) = schedule(0, libc::SCHED_OTHER)
        {
            log::debug!("no higher priority: {e}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    fn policy(thread: libc::pid_t) -> libc::c_int {
        // SAFETY: plain system call.
        unsafe { libc::sched_getscheduler(thread) }
    }

    #[test]
    fn whoever_is_waited_for_is_idle_no_more() {
        if !may_raise() {
            println!("skipped: idle threads could not be raised");
            return;
        }
        let idlers = &Idlers::default();
        let (entered, wait_entered) = mpsc::channel();
        let (go_on, wait_go_on) = mpsc::channel::<()>();
        std::thread::scope(|scope| {
            scope.spawn(move || {
                let _idle = idlers.enter();
                // SAFETY: no arguments.
                entered.send(unsafe { libc::gettid() }).unwrap();
                wait_go_on.recv().unwrap();
            });
            let thread = wait_entered.recv().unwrap();
            assert_eq!(policy(thread), libc::SCHED_IDLE);
            idlers.hurry();
            assert_eq!(policy(thread), libc::SCHED_OTHER);
            go_on.send(()).unwrap();
        });
        let others = Idlers::default();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let _idle = others.enter();
                let awake = others.awake();
                assert_eq!(policy(0), libc::SCHED_OTHER);
                drop(awake);
                assert_eq!(policy(0), libc::SCHED_IDLE);
                others.rouse();
                assert_eq!(policy(0), libc::SCHED_OTHER);
                drop(others.awake());
                assert_eq!(policy(0), libc::SCHED_OTHER);
                drop(others.enter());
                assert_eq!(policy(0), libc::SCHED_OTHER);
            });
        });
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let _idle = idlers.enter();
                assert_eq!(policy(0), libc::SCHED_OTHER);
            });
        });
    }
}
