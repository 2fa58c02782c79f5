//! `lmfs scrub`. Its exit codes are those of fsck(8).

use super::output::{self, Say, outln};
use super::progress::{Progress, Unit};
use super::{Failure, Outcome, options, target};
use crate::control::{Request, ScrubOptions, Scrubbed};
use std::path::PathBuf;

/// Errors were found, and corrected.
const CORRECTED: u8 = 1;
/// Errors are left.
const ERRORS_LEFT: u8 = 4;
/// It could not run.
pub const COULD_NOT: u8 = 8;

/// Wrong usage.
pub const USAGE: u8 = 16;

/// Arguments.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Where the store is mounted, or the store
    #[arg(value_name = "DIR|STORE", value_hint = clap::ValueHint::DirPath)]
    dir: PathBuf,
    /// Put right what can be put right
    #[arg(long)]
    repair: bool,
    /// Also decode every frame and check what comes out
    #[arg(long)]
    decode: bool,
    /// Read at most this much per second
    #[arg(long, value_name = "SIZE", value_parser = options::size)]
    throttle: Option<u64>,
    /// Begin anew, even if the last scrub was interrupted
    #[arg(long)]
    restart: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Runs it.
pub fn run(a: &Args, say: Say) -> Outcome {
    let options = ScrubOptions {
        repair: a.repair,
        decode: a.decode,
        throttle: a.throttle.unwrap_or(0),
        restart: a.restart,
    };
    let progress = Progress::new(say, "checking", Unit::Steps);
    let request = Request::Scrub(options);
    let value = target::run(&a.dir, &request, &mut |done, all| progress.at(done, all));
    drop(progress);
    let value = value.map_err(|f| Failure { code: COULD_NOT, ..f })?;
    let s: Scrubbed = serde_json::from_value(value)?;
    show(&s, a.json, say)
}

/// Prints what was found; the outcome says whether anything is left.
pub fn show(s: &Scrubbed, json: bool, say: Say) -> Outcome {
    if json {
        output::json(s)?;
    } else {
        for l in &s.unrecoverable {
            match l.inode {
                0 => outln!("{}", l.reason),
                ino => outln!("{}: inode {ino} offset {}: {}", l.path, l.offset, l.reason),
            }
        }
        for problem in &s.namespace {
            outln!("{problem}");
        }
        say.line(&format!(
            "{} frames and {} pages, {}: {} frames, {} pages, {} files damaged{}; {} beyond repair",
            s.frames,
            s.pages,
            output::size(s.bytes),
            s.damaged_frames,
            s.damaged_pages,
            s.damaged_files,
            if s.repaired && s.found_any() { " and repaired" } else { "" },
            s.unrecoverable.len()
        ));
    }
    if s.evicted_segments > 0 {
        say.line(&format!(
            "{} segments, {}, lie in the object store only and were not looked at: lmfs remote scrub checks them",
            s.evicted_segments,
            output::size(s.evicted_bytes)
        ));
    }
    if s.left_any() {
        let what = match s.unrecoverable.len() {
            0 => "damage that --repair can put right; see above".into(),
            n => format!("{n} frames or model files are damaged beyond repair; see above"),
        };
        return Err(Failure::new(ERRORS_LEFT, what));
    }
    if s.found_any() {
        return Err(Failure::new(CORRECTED, "all damage found was repaired"));
    }
    Ok(())
}
