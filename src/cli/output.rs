//! What people see: messages, JSON, sizes.

use serde::Serialize;
use std::fmt;
use std::io::{self, Write};

/// Prints a line of the answer on standard output. One that takes no more ends the program with a
/// message, where `println!` would panic.
macro_rules! outln {
    ($($arg:tt)*) => { $crate::cli::output::answer(format_args!($($arg)*)) };
}
pub(super) use outln;

/// See [`outln`].
pub fn answer(text: fmt::Arguments) {
    written(writeln!(io::stdout().lock(), "{text}"));
}

/// Ends the program if standard output did not take what it was to.
pub fn written(result: io::Result<()>) {
    if let Err(e) = result.and_then(|()| io::stdout().lock().flush()) {
        eprintln!("lmfs: standard output: {e}");
        std::process::exit(super::FAILED.into());
    }
}

/// Prints what is of interest but not the answer.
#[derive(Debug, Clone, Copy)]
pub struct Say {
    /// Print nothing.
    pub quiet: bool,
}

impl Say {
    /// Prints a line on standard output.
    pub fn line(self, text: &str) {
        if !self.quiet {
            outln!("{text}");
        }
    }

    /// Prints what is of interest meanwhile on standard error.
    pub fn aside(self, text: &str) {
        if !self.quiet {
            eprintln!("lmfs: {text}");
        }
    }
}

/// When help and errors are coloured. A terminal that calls itself dumb shows none, not even where CI is
/// set; for the rest clap looks at what there is.
pub fn colour() -> clap::ColorChoice {
    match std::env::var_os("TERM") {
        Some(term) if term == "dumb" => clap::ColorChoice::Never,
        _ => clap::ColorChoice::Auto,
    }
}

/// Logs to standard error.
pub fn log_to_stderr(level: log::LevelFilter) {
    let _ = env_logger::Builder::new()
        .filter_level(log::LevelFilter::Warn)
        .filter_module("lmfs", level)
        .format_timestamp(None)
        .format_target(false)
        .try_init();
}

/// Prints one JSON document.
pub fn json(value: &impl Serialize) -> Result<(), super::Failure> {
    outln!("{}", serde_json::to_string_pretty(value)?);
    Ok(())
}

/// A time for people.
pub fn duration(seconds: f64) -> String {
    if seconds < 60.0 {
        return format!("{seconds:.1} s");
    }
    let s = seconds.round() as u64;
    if s < 3600 {
        return format!("{} min {:02} s", s / 60, s % 60);
    }
    format!("{} h {:02} min", s / 3600, s / 60 % 60)
}

/// A size for people.
pub fn size(bytes: u64) -> String {
    indicatif::BinaryBytes(bytes).to_string()
}
