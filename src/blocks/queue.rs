//! Work that takes long, done by a fixed number of threads, the most urgent first.

use std::collections::VecDeque;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// Who waits for a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Urgency {
    /// Somebody does.
    Wanted,
    /// Somebody will, if all goes on as it did.
    Ahead,
}

struct Job {
    slow: bool,
    work: Box<dyn FnOnce() + Send>,
}

#[derive(Default)]
struct State {
    wanted: VecDeque<Job>,
    ahead: VecDeque<Job>,
    /// Slow jobs that run now.
    slow: usize,
    closed: bool,
}

struct Shared {
    state: Mutex<State>,
    news: Condvar,
    /// Slow jobs that may run at a time: where there are several threads, one is left to the others.
    slow_most: usize,
}

/// Threads with one queue. They end when it is dropped; what is queued then is still done.
pub struct WorkQueue(Arc<Shared>);

impl fmt::Debug for WorkQueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let s = self.0.state();
        write!(f, "WorkQueue({} wanted, {} ahead)", s.wanted.len(), s.ahead.len())
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next job, once there is one that may run; `None` at the end.
    fn next(&self) -> Option<Job> {
        let mut s = self.state();
        loop {
            let room = s.slow < self.slow_most;
            let may = |job: &Job| room || !job.slow;
            let State { wanted, ahead, slow, .. } = &mut *s;
            for queue in [wanted, ahead] {
                if let Some(at) = queue.iter().position(may)
                    && let Some(job) = queue.remove(at)
                {
                    *slow += usize::from(job.slow);
                    return Some(job);
                }
            }
            if s.closed && s.wanted.is_empty() && s.ahead.is_empty() {
                return None;
            }
            s = self.news.wait(s).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn work(&self) {
        while let Some(Job { slow, work }) = self.next() {
            // Whoever waits for the job sees its reply dropped; the thread lives on.
            if catch_unwind(AssertUnwindSafe(work)).is_err() {
                log::error!("a worker panicked; what it was to answer fails");
            }
            if slow {
                self.state().slow -= 1;
                self.news.notify_all();
            }
        }
    }
}

impl WorkQueue {
    /// Starts `threads` threads called `name`.
    pub fn start(name: &str, threads: usize) -> std::io::Result<Self> {
        let threads = threads.max(1);
        let (state, news) = (Mutex::default(), Condvar::new());
        let queue = Self(Arc::new(Shared { state, news, slow_most: (threads - 1).max(1) }));
        for _ in 0..threads {
            let shared = Arc::clone(&queue.0);
            std::thread::Builder::new().name(name.into()).spawn(move || shared.work())?;
        }
        Ok(queue)
    }

    /// Queues a job. `slow`: it takes so long that others must not have to wait for as many as there
    /// are threads.
    pub fn run(&self, urgency: Urgency, slow: bool, work: impl FnOnce() + Send + 'static) {
        let job = Job { slow, work: Box::new(work) };
        let mut s = self.0.state();
        match urgency {
            Urgency::Wanted => s.wanted.push_back(job),
            Urgency::Ahead => s.ahead.push_back(job),
        }
        drop(s);
        self.0.news.notify_one();
    }
}

impl Drop for WorkQueue {
    fn drop(&mut self) {
        self.0.state().closed = true;
        self.0.news.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;
    use std::time::Duration;

    /// A queue, one of whose threads is busy until the sender is used.
    fn busy(threads: usize, slow: bool) -> (WorkQueue, mpsc::Sender<()>) {
        let queue = WorkQueue::start("test", threads).unwrap();
        let (go, wait) = mpsc::channel::<()>();
        let (begun, began) = mpsc::channel();
        queue.run(Urgency::Wanted, slow, move || {
            begun.send(()).unwrap();
            wait.recv().unwrap();
        });
        began.recv().unwrap();
        (queue, go)
    }

    #[test]
    fn whoever_waits_goes_before_what_is_read_ahead() {
        let (queue, go) = busy(1, false);
        let (tell, told) = mpsc::channel();
        for (n, urgency) in [(3, Urgency::Ahead), (1, Urgency::Wanted), (2, Urgency::Wanted)] {
            let tell = tell.clone();
            queue.run(urgency, false, move || tell.send(n).unwrap());
        }
        go.send(()).unwrap();
        let order: Vec<i32> = (0..3).map(|_| told.recv().unwrap()).collect();
        assert_eq!(order, [1, 2, 3]);
    }

    #[test]
    fn slow_jobs_leave_a_thread_to_the_others() {
        let (queue, go) = busy(2, true);
        let (tell, told) = mpsc::channel();
        let slow = tell.clone();
        queue.run(Urgency::Wanted, true, move || slow.send("slow").unwrap());
        queue.run(Urgency::Wanted, false, move || tell.send("quick").unwrap());
        assert_eq!(told.recv().unwrap(), "quick");
        assert!(told.recv_timeout(Duration::from_millis(50)).is_err());
        go.send(()).unwrap();
        assert_eq!(told.recv().unwrap(), "slow");
    }

    #[test]
    fn a_panic_ends_no_thread_and_closing_ends_all_work() {
        let (queue, go) = busy(1, true);
        let (tell, told) = mpsc::channel();
        queue.run(Urgency::Wanted, true, || panic!("on purpose"));
        queue.run(Urgency::Ahead, true, move || tell.send(()).unwrap());
        go.send(()).unwrap();
        drop(queue);
        told.recv().unwrap();
    }
}
