//! How far something has come: on a terminal, from a second on; nothing anywhere else.

use super::output::Say;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::{self, IsTerminal, Read};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::time::Duration;

/// What ends sooner shows nothing.
const PATIENCE: Duration = Duration::from_secs(1);
/// It moves this often, even if nothing is done.
const TICK: Duration = Duration::from_millis(250);

/// What is counted.
#[derive(Debug, Clone, Copy)]
pub enum Unit {
    /// Bytes.
    Bytes,
    /// Whatever comes one after the other.
    Steps,
}

/// A bar with rate and time left; it goes when this is dropped.
#[derive(Debug)]
pub struct Progress {
    bar: ProgressBar,
    unit: Unit,
    /// Its end has the bar stay away.
    _waits: Option<Sender<()>>,
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

impl Progress {
    /// Of something whose end is not known yet, so far called `what`.
    pub fn new(say: Say, what: &str, unit: Unit) -> Self {
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::hidden());
        if say.quiet || !io::stderr().is_terminal() {
            return Self { bar, unit, _waits: None };
        }
        bar.set_prefix(what.to_owned());
        bar.set_style(style(match unit {
            Unit::Bytes => "{prefix}: {binary_bytes}, {binary_bytes_per_sec}, {elapsed}",
            Unit::Steps => "{prefix}: {elapsed}",
        }));
        let (waits, ended) = channel::<()>();
        let shown = bar.clone();
        let show = move || {
            if ended.recv_timeout(PATIENCE) == Err(RecvTimeoutError::Timeout) {
                shown.set_draw_target(ProgressDrawTarget::stderr());
                shown.enable_steady_tick(TICK);
            }
        };
        let spawned = std::thread::Builder::new().name("progress".into()).spawn(show);
        if let Err(e) = spawned {
            log::debug!("no progress is shown: {e}");
        }
        Self { bar, unit, _waits: Some(waits) }
    }

    /// So much is done, of so much.
    pub fn at(&self, done: u64, all: u64) {
        if self.bar.length() != Some(all) {
            self.bar.set_style(style(match self.unit {
                Unit::Bytes => {
                    "{prefix}: {bar:25} {binary_bytes}/{binary_total_bytes}, {binary_bytes_per_sec}, {eta} left"
                }
                Unit::Steps => "{prefix}: {bar:25} {pos}/{len}, {per_sec}, {eta} left",
            }));
            self.bar.set_length(all);
        }
        self.bar.set_position(done);
    }

    /// So much is done, of who knows how much.
    pub fn so_far(&self, done: u64) {
        self.bar.set_position(done);
    }

    /// Has `print` print lines, which go above the bar where both are on a terminal.
    pub fn apart(&self, print: impl FnOnce()) {
        self.bar.suspend(print);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

/// Shows for how long something goes on of which no more is known.
pub fn meanwhile<T>(say: Say, what: &str, work: impl FnOnce() -> T) -> T {
    let _progress = Progress::new(say, what, Unit::Steps);
    work()
}

/// What is read passes by here and is counted.
#[derive(Debug)]
pub struct Watched<'a, R> {
    input: R,
    done: u64,
    all: Option<u64>,
    progress: &'a Progress,
}

impl<'a, R: Read> Watched<'a, R> {
    /// `all`: how much there is to read, if that is known.
    pub fn new(input: R, all: Option<u64>, progress: &'a Progress) -> Self {
        Self { input, done: 0, all, progress }
    }
}

impl<R: Read> Read for Watched<'_, R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let n = self.input.read(out)?;
        self.done += n as u64;
        match self.all {
            Some(all) => self.progress.at(self.done, all),
            None => self.progress.so_far(self.done),
        }
        Ok(n)
    }
}
