//! The command line: one file per subcommand.

/// Runs the program; the exit code is documented in the manual page.
pub fn main() -> std::process::ExitCode {
    std::process::ExitCode::from(2)
}
