//! `lmfs model tune`.

use super::output::{self, Say};
use super::{FAILED, Failure, Outcome, USAGE};
use crate::block::{Lm, Tier, bench};
use crate::model::registry::{self, RegistryError, is_name};
use crate::model::texts::LeftOut;
use crate::model::tune::{self, Corpus, Options, Progress, TuneError};
use crate::model::{Model, Registry, file::Manifest};
use crate::models;
use crate::store::{Ecc, FRAME_HEADER, frame_len};
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

/// Seconds between lines where there is no terminal.
const LINE: f64 = 30.0;
/// Files left out that are named one by one.
const NAMED: usize = 20;

/// Arguments.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Text to learn: a directory, with those below it
    #[arg(long, value_name = "DIR")]
    corpus: PathBuf,
    /// Minutes that it may take
    #[arg(long, default_value_t = 10.0, value_parser = minutes)]
    minutes: f64,
    /// Name for the tuned model
    #[arg(long)]
    name: String,
    /// Model to start from; it must have a network
    #[arg(long, default_value = "deep")]
    base: String,
    /// Steps that it may take: the same work on a machine that is busy
    #[arg(long, hide = true, default_value_t = u64::MAX)]
    steps: u64,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

fn minutes(text: &str) -> Result<f64, String> {
    let most = 7.0 * 24.0 * 60.0;
    match text.parse::<f64>() {
        Ok(m) if m > 0.0 && m <= most => Ok(m),
        _ => Err(format!("not a number of minutes above 0, at most {most}")),
    }
}

/// Bits per byte of the held-out text.
#[derive(Debug, Clone, Copy, Serialize)]
struct Figures {
    /// The model alone, exact engine.
    alone: f64,
    /// As it would be stored: with the adaptive experts, in blocks, headers included.
    coded: f64,
}

#[derive(Debug, Serialize)]
struct Report {
    name: String,
    /// None if the model was not kept.
    id: Option<String>,
    base: String,
    base_id: String,
    kept: bool,
    corpus_bytes: u64,
    held_out_bytes: u64,
    left_out: Vec<PathBuf>,
    seconds: f64,
    resumed_from_s: Option<f64>,
    tokens: u64,
    tokens_per_s: f64,
    bpb_base: Figures,
    bpb: Figures,
}

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

/// True if there is a model of this name, whole or not.
fn taken(name: &str) -> bool {
    models::find(name).is_ok_and(|bytes| {
        registry::describe(&bytes, Path::new(name)).map_or(true, |l| l.manifest.name == name)
    })
}

fn name_left_out(left_out: &[LeftOut]) {
    for l in left_out.iter().take(NAMED) {
        log::warn!("left out: {}: {}", l.path.display(), l.reason);
    }
    if left_out.len() > NAMED {
        log::warn!("left out: {} more files", left_out.len() - NAMED);
    }
}

fn measure(bytes: &[u8], held: &[Vec<u8>], threads: usize) -> Result<Figures, Failure> {
    let alone = tune::bits_per_byte(&Model::from_bytes(bytes)?, held, threads)?;
    let lm = Lm::load(bytes)?;
    let unit = lm.unit() as usize;
    let text = held.concat();
    let frame = |payload| frame_len(Ecc::Standard, payload);
    let m = bench::measure(&text, unit, &Tier::with(lm), FRAME_HEADER as u64, frame)?;
    Ok(Figures { alone, coded: m.coded_bytes as f64 * 8.0 / (text.len() as f64).max(1.0) })
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

/// Runs it.
pub fn run(a: &Args, say: Say) -> Outcome {
    let began = Instant::now();
    if !is_name(&a.name) {
        return Err(Failure::new(USAGE, RegistryError::Name(a.name.clone())));
    }
    if taken(&a.name) {
        return Err(RegistryError::Taken(a.name.clone()).into());
    }
    let base_bytes = models::find(&a.base)?;
    let base = Model::from_bytes(&base_bytes)?;
    let base_id = blake3::hash(&base_bytes);
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let seed = 1;
    let corpus = match Corpus::read(&a.corpus, seed) {
        Ok(c) => c,
        Err(e) => {
            if let TuneError::Empty { left_out, .. } | TuneError::Small { left_out, .. } = &e {
                name_left_out(left_out);
            }
            return Err(e.into());
        }
    };
    name_left_out(&corpus.left_out);
    let registry = Registry::of_user();
    let state = registry.workspace(&a.name)?;
    let _lock = Lock::take(&state)?;
    catch_signals();
    // SAFETY: no other thread has been started yet.
    unsafe { std::env::set_var(tune::QUIET.0, tune::QUIET.1) };

    let measuring = Instant::now();
    let before = measure(&base_bytes, &corpus.held, threads)?;
    // What is left of the time when the result has been measured as well.
    let total = a.minutes * 60.0;
    let seconds = total - began.elapsed().as_secs_f64() - 1.5 * measuring.elapsed().as_secs_f64();
    let o = Options {
        seconds: seconds.max(total / 2.0),
        steps: a.steps,
        look: (total / 20.0).clamp(2.0, 30.0),
        save: (total / 10.0).min(60.0),
        crop: tune::CROP.min(base.hyper.window as usize),
        batch: tune::BATCH,
        rate: tune::RATE,
        threads,
        seed,
    };
    let manifest = Manifest {
        name: a.name.clone(),
        version: "1".into(),
        licence: base.manifest.licence.clone(),
        source: format!("tuned from {} {}", base.manifest.name, base_id.to_hex()),
    };
    let mut show = Show::new(say, o.seconds);
    let outcome = tune::train(&base, manifest, &corpus, &o, &state, &STOP, &mut |p| show.at(p));
    show.bar.finish_and_clear();
    let outcome = outcome?;
    let bytes = outcome.model.to_bytes();
    let after = measure(&bytes, &corpus.held, threads)?;

    let kept = after.alone < before.alone && after.coded <= before.coded;
    let id = if kept { Some(registry.add(&bytes)?.id.to_hex().to_string()) } else { None };
    let _ = std::fs::remove_file(&state);
    let p = outcome.progress;
    let report = Report {
        name: a.name.clone(),
        id,
        base: base.manifest.name.clone(),
        base_id: base_id.to_hex().to_string(),
        kept,
        corpus_bytes: corpus.bytes() + corpus.held_bytes(),
        held_out_bytes: corpus.held_bytes(),
        left_out: corpus.left_out.into_iter().map(|l| l.path).collect(),
        seconds: p.seconds,
        resumed_from_s: outcome.resumed,
        tokens: p.tokens,
        tokens_per_s: p.tokens as f64 / p.seconds.max(1e-9),
        bpb_base: before,
        bpb: after,
    };
    if a.json {
        output::json(&report)?;
    } else {
        print(&report, say);
    }
    if kept {
        return Ok(());
    }
    Err(Failure::new(
        FAILED,
        format!(
            "'{}' is not kept: on the held-out text it is no better than {}; more text like it, or more minutes, may help",
            report.name, report.base
        ),
    ))
}

fn print(r: &Report, say: Say) {
    let line = |what: &str, base: f64, tuned: f64| {
        let change = (tuned / base.max(1e-9) - 1.0) * 100.0;
        say.line(&format!("  {what:<34} {base:>7.3} {tuned:>7.3} {change:>+7.1}%"));
    };
    say.line(&format!(
        "{} tokens in {:.0} s ({:.0}/s); bits per byte of {} held out:",
        r.tokens,
        r.seconds,
        r.tokens_per_s,
        output::size(r.held_out_bytes)
    ));
    say.line(&format!("  {:<34} {:>7} {:>7}", "", "base", "tuned"));
    line("the model alone", r.bpb_base.alone, r.bpb.alone);
    line("as stored, with the experts", r.bpb_base.coded, r.bpb.coded);
    if let Some(id) = &r.id {
        say.line(&format!("{} is there; id {id}", r.name));
    }
}
