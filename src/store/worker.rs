//! A thread that looks after a store: at intervals, and when it is woken.

use crate::priority::Idlers;
use crate::store::{Store, lock};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError, Weak};
use std::thread::JoinHandle;
use std::time::Duration;

/// What the thread and its handle share.
#[derive(Debug, Default)]
struct Bell {
    rung: Mutex<bool>,
    sound: Condvar,
    stop: AtomicBool,
}

impl Bell {
    fn ring(&self) {
        *lock(&self.rung) = true;
        self.sound.notify_all();
    }

    /// Waits for a ring, but not for ever.
    fn wait(&self, at_most: Duration) {
        let mut rung = lock(&self.rung);
        if !*rung {
            (rung, _) =
                self.sound.wait_timeout(rung, at_most).unwrap_or_else(PoisonError::into_inner);
        }
        *rung = false;
    }
}

/// The thread's handle.
#[derive(Debug, Default)]
pub struct Worker {
    bell: Arc<Bell>,
    idlers: Arc<Idlers>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Worker {
    /// Starts the thread, `idle` or not: `work` is done every so often, again for as long as it says
    /// that more is left. The thread ends with the store, or at [`Self::stop`].
    pub fn start(
        &self,
        name: &str,
        store: &Arc<Store>,
        every: Duration,
        idle: bool,
        work: fn(&Store) -> bool,
    ) -> std::io::Result<()> {
        let weak: Weak<Store> = Arc::downgrade(store);
        let (bell, idlers) = (Arc::clone(&self.bell), Arc::clone(&self.idlers));
        let run = move || {
            let _idle = idle.then(|| idlers.enter());
            loop {
                bell.wait(every);
                let stopped = || bell.stop.load(Ordering::SeqCst);
                if stopped() {
                    return;
                }
                let Some(store) = weak.upgrade() else { return };
                while work(&store) && !stopped() {}
            }
        };
        *lock(&self.thread) = Some(std::thread::Builder::new().name(name.into()).spawn(run)?);
        Ok(())
    }

    /// Pauses the thread, until it is woken at the latest.
    pub fn rest(&self, at_most: Duration) {
        self.bell.wait(at_most);
    }

    /// True once the thread is to end.
    pub fn is_stopping(&self) -> bool {
        self.bell.stop.load(Ordering::SeqCst)
    }

    /// The thread, if it is an idle one.
    pub fn idlers(&self) -> &Idlers {
        &self.idlers
    }

    /// Wakes the thread.
    pub fn wake(&self) {
        self.bell.ring();
    }

    /// Ends the thread, if it runs.
    pub fn stop(&self) {
        self.bell.stop.store(true, Ordering::SeqCst);
        self.bell.ring();
        self.idlers.hurry();
        let handle = lock(&self.thread).take();
        // The last owner of a store may be the thread itself.
        if let Some(h) = handle
            && h.thread().id() != std::thread::current().id()
        {
            let name = h.thread().name().unwrap_or_default().to_owned();
            if h.join().is_err() {
                log::error!("the {name} panicked");
            }
        }
    }
}
