//! Tuning a model with a network: training.

use super::output::Say;
use super::tuned::{self, Base, Figures, Made, Report, coded};
use super::{FAILED, Failure};
use crate::block::Tier;
use crate::model::network::{Llama, Network};
use crate::model::tune::{self as training, Options, Progress};
use crate::model::{Corpus, Model, Registry};
use indicatif::{ProgressBar, ProgressStyle};
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

/// Seconds between lines where there is no terminal.
const LINE: f64 = 30.0;

static STOP: AtomicBool = AtomicBool::new(false);

extern "C" fn on_signal(signal: libc::c_int) {
    STOP.store(true, Ordering::Relaxed);
    // A second one ends the process at once.
    // SAFETY: signal is async-signal-safe.
    unsafe { libc::signal(signal, libc::SIG_DFL) };
}

fn catch_signals() {
    let handler = on_signal as extern "C" fn(libc::c_int);
    for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
        // SAFETY: the handler stores to an atomic and calls an async-signal-safe function only.
        unsafe { libc::signal(signal, handler as libc::sighandler_t) };
    }
}

/// Shows how far it has come: a bar on a terminal, now and then a line elsewhere.
struct Show {
    bar: ProgressBar,
    lines: bool,
    next: f64,
    quiet: bool,
    begun: bool,
}

impl Show {
    fn new(say: Say, seconds: f64) -> Self {
        let terminal = std::io::stderr().is_terminal();
        let bar = if say.quiet || !terminal {
            ProgressBar::hidden()
        } else {
            ProgressBar::new(seconds as u64)
        };
        let style = ProgressStyle::with_template("{bar:30} {pos}/{len} s  {msg}");
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        let lines = !say.quiet && !terminal;
        Self { bar, lines, next: 0.0, quiet: say.quiet, begun: false }
    }

    fn at(&mut self, p: &Progress) {
        if !self.begun && p.steps > 0 && !self.quiet {
            eprintln!("going on from the checkpoint: {:.0} s of training are done", p.seconds);
        }
        self.begun = true;
        let text = format!(
            "held out {:.3} bits per byte (before: {:.3}), training {:.3}",
            p.held_out, p.before, p.training
        );
        if self.lines && p.seconds >= self.next {
            eprintln!("{:.0} s, {} tokens: {text}", p.seconds, p.tokens);
            self.next = p.seconds + LINE;
        }
        self.bar.set_position(p.seconds as u64);
        self.bar.set_message(text);
    }
}

/// A second training under this name would fight over the checkpoint.
struct Lock {
    path: PathBuf,
    _file: std::fs::File,
}

impl Lock {
    fn take(state: &Path) -> Result<Self, Failure> {
        let path = state.with_extension("tuning.lock");
        let io = |e| Failure::new(FAILED, format!("{}: {e}", path.display()));
        let file = std::fs::File::create(&path).map_err(io)?;
        match file.try_lock() {
            Ok(()) => Ok(Self { path, _file: file }),
            Err(std::fs::TryLockError::WouldBlock) => {
                Err(Failure::new(FAILED, "a model of this name is being tuned by another process"))
            }
            Err(std::fs::TryLockError::Error(e)) => {
                Err(Failure::new(FAILED, format!("{}: {e}", path.display())))
            }
        }
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Trains the base's network on the corpus.
pub fn run(
    name: &str,
    (minutes, steps): (f64, u64),
    base: &Base,
    network: &Llama,
    corpus: &Corpus,
    began: Instant,
    say: Say,
) -> Result<Report, Failure> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let state = Registry::of_user().workspace(name)?;
    let _lock = Lock::take(&state)?;
    catch_signals();
    // SAFETY: no other thread has been started yet.
    unsafe { std::env::set_var(training::QUIET.0, training::QUIET.1) };

    let vocabulary = &base.model.vocabulary;
    let alone = |network| training::bits_per_byte(vocabulary, network, &corpus.held, threads);
    let measuring = Instant::now();
    let before = Figures {
        alone: Some(alone(network)?),
        coded: coded(Tier::with(Arc::clone(&base.lm)), &corpus.held)?,
    };
    // What is left of the time when the result has been measured as well.
    let total = minutes * 60.0;
    let seconds = total - began.elapsed().as_secs_f64() - 1.5 * measuring.elapsed().as_secs_f64();
    let o = Options {
        seconds: seconds.max(total / 2.0),
        steps,
        look: (total / 20.0).clamp(2.0, 30.0),
        save: (total / 10.0).min(60.0),
        crop: training::CROP.min(network.hyper.window as usize),
        batch: training::BATCH,
        rate: training::RATE,
        threads,
        seed: tuned::SEED,
    };
    let from = training::Base { id: *base.id.as_bytes(), vocabulary, network };
    let mut show = Show::new(say, o.seconds);
    let outcome = training::train(from, corpus, &o, &state, &STOP, &mut |p| show.at(p));
    show.bar.finish_and_clear();
    let outcome = outcome?;
    let made = Made {
        before,
        alone: Some(alone(&outcome.network)?),
        seconds: outcome.progress.seconds,
        resumed_from_s: outcome.resumed,
        tokens: outcome.progress.tokens,
        model: Model { network: Some(Network::Llama(outcome.network)), ..base.model.clone() },
    };
    let report = tuned::keep(name, base, corpus, made)?;
    let _ = std::fs::remove_file(&state);
    Ok(report)
}
