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

    /// A progress bar in blocks; shown on a terminal only.
    pub fn bar(self) -> ProgressBar {
        if self.quiet {
            return ProgressBar::hidden();
        }
        let bar = ProgressBar::new(0);
        let style = ProgressStyle::with_template("{bar:40} {pos}/{len} blocks {eta}");
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

/// A size for people.
pub fn size(bytes: u64) -> String {
    indicatif::BinaryBytes(bytes).to_string()
}
