//! Threads that do what a request thread must not wait for.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, Mutex, PoisonError};

type Job = Box<dyn FnOnce() + Send>;

/// A fixed set of threads with one queue; they end when it is dropped.
#[derive(Debug)]
pub struct Pool {
    queue: Mutex<Sender<Job>>,
}

impl Pool {
    /// Starts `threads` threads called `name`.
    pub fn start(name: &str, threads: usize) -> std::io::Result<Self> {
        let (tx, rx) = mpsc::channel::<Job>();
        let rx = Arc::new(Mutex::new(rx));
        for _ in 0..threads.max(1) {
            let rx = Arc::clone(&rx);
            std::thread::Builder::new().name(name.into()).spawn(move || {
                loop {
                    let job = rx.lock().unwrap_or_else(PoisonError::into_inner).recv();
                    let Ok(job) = job else { break };
                    // Whoever waits for the job sees its reply dropped; the thread lives on.
                    if catch_unwind(AssertUnwindSafe(job)).is_err() {
                        log::error!("a worker panicked; what it was to answer fails");
                    }
                }
            })?;
        }
        Ok(Self { queue: Mutex::new(tx) })
    }

    /// Queues a job.
    pub fn run(&self, job: impl FnOnce() + Send + 'static) {
        let queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        // The threads outlive the queue: this cannot fail.
        let _ = queue.send(Box::new(job));
    }
}
