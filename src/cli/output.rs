//! What people see: messages, JSON, sizes, progress.

use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

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
            println!("{text}");
        }
    }

    /// A progress bar in steps; shown on a terminal only.
    pub fn bar(self) -> ProgressBar {
        self.bar_like("{bar:40} {pos}/{len} {eta}")
    }

    /// A progress bar in bytes, with the rate and the time left; shown on a terminal only.
    pub fn bytes_bar(self) -> ProgressBar {
        self.bar_like(
            "{bar:30} {binary_bytes}/{binary_total_bytes}, {binary_bytes_per_sec}, {eta} left",
        )
    }

    fn bar_like(self, template: &str) -> ProgressBar {
        if self.quiet {
            return ProgressBar::hidden();
        }
        let bar = ProgressBar::new(0);
        let style = ProgressStyle::with_template(template);
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        bar
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
    println!("{}", serde_json::to_string_pretty(value)?);
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
