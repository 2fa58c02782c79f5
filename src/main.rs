//! Parse, call, exit with a documented code.

fn main() -> std::process::ExitCode {
    lmfs::cli::main()
}
