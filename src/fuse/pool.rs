//! Threads that decode and then reply, so that no FUSE thread waits for a decode.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};

type Job = Box<dyn FnOnce() + Send>;

/// A fixed number of threads with one queue.
#[derive(Debug)]
pub struct Pool {
    queue: Mutex<Sender<Job>>,
}

impl Pool {
    /// Starts the threads; they end when the pool is dropped and the queue is empty.
    pub fn new(threads: usize) -> std::io::Result<Self> {
        let (tx, rx) = channel::<Job>();
        let rx = Arc::new(Mutex::new(rx));
        for n in 0..threads.max(1) {
            let rx: Arc<Mutex<Receiver<Job>>> = Arc::clone(&rx);
            std::thread::Builder::new().name(format!("decode-{n}")).spawn(move || {
                loop {
                    let job = rx.lock().unwrap_or_else(PoisonError::into_inner).recv();
                    let Ok(job) = job else { return };
                    // An unsent reply answers EIO by itself when it is dropped.
                    if catch_unwind(AssertUnwindSafe(job)).is_err() {
                        log::error!("a decode worker panicked; the request fails with EIO");
                    }
                }
            })?;
        }
        Ok(Self { queue: Mutex::new(tx) })
    }

    /// Queues a job.
    pub fn run(&self, job: impl FnOnce() + Send + 'static) {
        let queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        if queue.send(Box::new(job)).is_err() {
            log::error!("no decode workers left");
        }
    }
}
