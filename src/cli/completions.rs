//! `lmfs completions`.

/// Arguments.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The shell
    shell: clap_complete::Shell,
}

/// Runs it.
pub fn run(a: &Args) {
    clap_complete::generate(a.shell, &mut super::command(), "lmfs", &mut std::io::stdout());
}
