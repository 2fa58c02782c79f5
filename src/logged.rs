//! Counts lines of the log, for tests of what is said how often.

use std::sync::{Mutex, MutexGuard, Once, PoisonError};
use std::thread::ThreadId;

struct Watched {
    number: usize,
    text: String,
    thread: Option<ThreadId>,
    lines: usize,
}

static WATCHED: Mutex<Vec<Watched>> = Mutex::new(Vec::new());

fn watched() -> MutexGuard<'static, Vec<Watched>> {
    WATCHED.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Logger;

impl log::Log for Logger {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        let line = record.args().to_string();
        let here = std::thread::current().id();
        for w in watched().iter_mut() {
            if w.thread.is_none_or(|t| t == here) && line.contains(&w.text) {
                w.lines += 1;
            }
        }
    }

    fn flush(&self) {}
}

/// Counts lines while it lives.
pub struct Watch(usize);

impl Watch {
    fn new(text: &str, thread: Option<ThreadId>) -> Self {
        static ONCE: Once = Once::new();
        ONCE.call_once(|| {
            let _ = log::set_logger(&Logger);
            log::set_max_level(log::LevelFilter::Warn);
        });
        let mut all = watched();
        let number = all.iter().map(|w| w.number + 1).max().unwrap_or(0);
        all.push(Watched { number, text: text.into(), thread, lines: 0 });
        Self(number)
    }

    /// Warnings and errors of any thread with this text in them.
    pub fn anywhere(text: &str) -> Self {
        Self::new(text, None)
    }

    /// The same of the calling thread.
    pub fn here(text: &str) -> Self {
        Self::new(text, Some(std::thread::current().id()))
    }

    /// Lines so far.
    pub fn lines(&self) -> usize {
        watched().iter().find(|w| w.number == self.0).map_or(0, |w| w.lines)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        watched().retain(|w| w.number != self.0);
    }
}
