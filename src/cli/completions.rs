//! `lmfs completions`.

use super::output;
use std::io::Write;

/// Arguments.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The shell
    shell: clap_complete::Shell,
}

/// Runs it.
pub fn run(a: &Args) {
    let mut text = Vec::new();
    clap_complete::generate(a.shell, &mut super::command(), "lmfs", &mut text);
    output::written(std::io::stdout().lock().write_all(&text));
}
