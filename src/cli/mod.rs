//! The command line: one file per subcommand.

#![deny(clippy::print_stdout, reason = "a full disk behind it would panic; see output::outln")]

mod archive;
mod bench;
mod bench_fs;
mod completions;
mod compress;
mod config;
#[cfg_attr(not(feature = "import"), path = "convert_none.rs")]
mod convert;
mod dead;
mod examples;
mod fsck;
mod gc;
mod grep;
mod helper;
mod mkfs;
mod model;
mod model_bench;
mod mount;
mod mounts;
mod notify;
mod options;
mod output;
mod partial;
mod progress;
mod recode;
mod remote;
mod scrub;
mod settle;
mod stat;
mod status;
mod surprise;
mod sync;
mod syslog;
mod target;
mod train;
mod tune;
#[cfg(feature = "import")]
mod tune_network;
mod tune_prior;
mod tune_source;
mod tuned;
mod turn;
mod umount;
mod umount_helper;
mod up;
mod views;

use output::outln;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};
use std::process::ExitCode;

/// Done.
pub const DONE: u8 = 0;
/// Failed; the message says why.
pub const FAILED: u8 = 1;
/// Wrong usage.
pub const USAGE: u8 = 2;

/// A file system in which a language model is the compressor.
#[derive(Debug, Parser)]
#[command(name = "lmfs", disable_version_flag = true, arg_required_else_help = true)]
pub struct Cli {
    /// Say more; twice for debugging
    #[arg(short, long, global = true, display_order = 900, action = clap::ArgAction::Count)]
    verbose: u8,
    /// Say only what went wrong
    #[arg(short, long, global = true, display_order = 901)]
    quiet: bool,
    /// Print the version; with -v, of format and engine too
    #[arg(short = 'V', long)]
    version: bool,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make STORE if it does not exist, mount it on DIR, say what to do next
    Up(up::Args),
    /// Make a store
    Mkfs(mkfs::Args),
    /// Mount a store
    Mount(mount::Args),
    /// Unmount and wait until all is written
    Umount(umount::Args),
    /// Code all that waits, now
    Settle(settle::Args),
    /// Make all durable that was written in a mount
    Sync(sync::Args),
    /// Move what is coded to another model
    Recode(recode::Args),
    /// What an archive holds and does
    Status(status::Args),
    /// How files are stored
    Stat(stat::Args),
    /// List what is in an archive, mounted or not
    Ls(archive::ls::Args),
    /// Print files of an archive, mounted or not
    Cat(archive::cat::Args),
    /// Write an archive, or a part of it, to standard output as a tar stream
    Export(archive::export::Args),
    /// Fill a store from a tar stream on standard input
    Import(archive::import::Args),
    /// Lines that match a pattern, in an archive, mounted or not
    #[command(disable_help_flag = true)]
    Grep(grep::Args),
    /// Where a text's bits went: the most surprising lines, or a page that colours each token
    Surprise(surprise::Args),
    /// Check all that files are made of
    Scrub(scrub::Args),
    /// Check log, index and namespace of a store that is not mounted
    Fsck(fsck::Args),
    /// Give the space of dead frames back
    Gc(gc::Args),
    /// An archive in an object store: name it, upload, compare
    Remote(remote::Args),
    /// Bring an archive back whole from an object store
    Clone(remote::CloneArgs),
    /// Compress one file into a container
    Compress(compress::CompressArgs),
    /// Restore a file from its container
    Decompress(compress::DecompressArgs),
    /// Language models: list, measure, import, verify, train, tune, export, remove
    Model(model::Args),
    /// Measure
    Bench(bench::Args),
    /// Print completions for a shell
    Completions(completions::Args),
}

/// What a command ends with: an exit code, and a message unless it is [`DONE`].
#[derive(Debug)]
pub struct Failure {
    code: u8,
    message: String,
}

impl Failure {
    fn new(code: u8, message: impl std::fmt::Display) -> Self {
        Self { code, message: message.to_string() }
    }
}

impl<E: std::error::Error> From<E> for Failure {
    fn from(e: E) -> Self {
        let mut message = e.to_string();
        let mut source = e.source();
        while let Some(s) = source {
            let text = s.to_string();
            if !message.contains(&text) {
                message = format!("{message}: {text}");
            }
            source = s.source();
        }
        Self { code: FAILED, message }
    }
}

type Outcome = Result<(), Failure>;

/// Runs the program; the exit codes are documented in the manual pages.
pub fn main() -> ExitCode {
    // A reader that goes away ends us quietly, as it does other tools.
    // SAFETY: sets a signal's default disposition before any thread exists.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
    let mut args = std::env::args_os();
    let name = args.next().unwrap_or_default();
    let name = std::path::Path::new(&name).file_name().unwrap_or_default().to_owned();
    if name == "mount.lmfs" || name == "mount.fuse.lmfs" {
        return ExitCode::from(helper::main(args.collect()));
    }
    if name == "umount.lmfs" || name == "umount.fuse.lmfs" {
        return ExitCode::from(umount_helper::main(args.collect()));
    }
    let args: Vec<_> = args.collect();
    if let Some((common, args)) = grep::asked_for(&args) {
        return ExitCode::from(grep::main(common, args));
    }
    let mut known = command();
    let parsed = known.try_get_matches_from_mut(std::env::args_os());
    let parsed = parsed.and_then(|m| Cli::from_arg_matches(&m).map_err(|e| e.format(&mut known)));
    let cli = match parsed {
        Ok(cli) => cli,
        Err(e) => {
            let printed = e.print();
            if !e.use_stderr() {
                output::written(printed);
            }
            let first = std::env::args().skip(1).find(|a| !a.starts_with('-'));
            let usage = match first.as_deref() {
                Some("scrub" | "fsck") => scrub::USAGE,
                _ => USAGE,
            };
            return ExitCode::from(if e.use_stderr() { usage } else { DONE });
        }
    };
    if cli.version {
        outln!("lmfs {}", env!("CARGO_PKG_VERSION"));
        if cli.verbose > 0 {
            outln!("format {}", crate::store::FORMAT);
            outln!("engine {}", crate::block::ENGINE);
            for (name, bytes) in crate::models::EMBEDDED {
                outln!("embedded model {name} {}", blake3::hash(bytes).to_hex());
            }
        }
        return ExitCode::from(DONE);
    }
    let level = match (cli.quiet, cli.verbose) {
        (true, _) => log::LevelFilter::Error,
        (_, 0) => log::LevelFilter::Warn,
        (_, 1) => log::LevelFilter::Info,
        _ => log::LevelFilter::Debug,
    };
    let say = output::Say { quiet: cli.quiet };
    let Some(command) = cli.command else {
        let _ = known.print_help();
        return ExitCode::from(USAGE);
    };
    let outcome = match command {
        // The daemon chooses its own log.
        Command::Mount(a) => mount::run(&a, say, level),
        Command::Up(a) => up::run(&a, say, level),
        other => {
            output::log_to_stderr(level);
            match other {
                Command::Mkfs(a) => mkfs::run(&a, say),
                Command::Umount(a) => umount::run(&a, say),
                Command::Settle(a) => settle::run(&a, say),
                Command::Sync(a) => sync::run(&a, say),
                Command::Recode(a) => recode::run(&a, say),
                Command::Status(a) => status::run(&a),
                Command::Stat(a) => stat::run(&a),
                Command::Ls(a) => archive::ls::run(&a),
                Command::Cat(a) => archive::cat::run(&a),
                Command::Export(a) => archive::export::run(&a, say),
                Command::Import(a) => archive::import::run(&a, say),
                Command::Surprise(a) => surprise::run(&a, say),
                Command::Scrub(a) => scrub::run(&a, say),
                Command::Fsck(a) => fsck::run(&a, say),
                Command::Gc(a) => gc::run(&a, say),
                Command::Remote(a) => remote::run(&a, say),
                Command::Clone(a) => remote::clone(&a, say),
                Command::Compress(a) => compress::compress(&a, say),
                Command::Decompress(a) => compress::decompress(&a, say),
                Command::Model(a) => model::run(&a, say),
                Command::Bench(a) => bench::run(&a, say),
                Command::Completions(a) => {
                    completions::run(&a);
                    Ok(())
                }
                Command::Mount(_) | Command::Up(_) | Command::Grep(_) => Ok(()),
            }
        }
    };
    match outcome {
        Ok(()) => ExitCode::from(DONE),
        Err(f) => {
            eprintln!("lmfs: {}", f.message);
            ExitCode::from(f.code)
        }
    }
}

/// The command line's definition, for completions and for checks of the manual pages.
pub fn command() -> clap::Command {
    examples::added_to(Cli::command()).color(output::colour())
}
