//! `lmfs scrub`. Its exit codes are those of fsck(8).

use super::output::{self, Say};
use super::{Failure, Outcome, target};
use crate::control::{Request, Scrubbed};
use std::path::PathBuf;

/// Errors are left.
const ERRORS_LEFT: u8 = 4;
/// It could not run.
const COULD_NOT: u8 = 8;

/// Arguments.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Where the store is mounted, or the store
    dir: PathBuf,
    /// Also decode every frame and check what comes out
    #[arg(long)]
    decode: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Runs it.
pub fn run(a: &Args, say: Say) -> Outcome {
    let bar = say.bar();
    let value = target::run(&a.dir, &Request::Scrub { decode: a.decode }, &mut |done, total| {
        bar.set_length(total);
        bar.set_position(done);
    });
    bar.finish_and_clear();
    let value = value.map_err(|f| Failure { code: COULD_NOT, ..f })?;
    let s: Scrubbed = serde_json::from_value(value)?;
    if a.json {
        output::json(&s)?;
    } else {
        for l in &s.unrecoverable {
            println!("{}: inode {} block {}: {}", l.path, l.inode, l.block, l.reason);
        }
        let (frames, bytes) = (s.frames, output::size(s.bytes));
        say.line(&format!("{frames} frames, {bytes}: {} damaged", s.unrecoverable.len()));
    }
    match s.unrecoverable.len() {
        0 => Ok(()),
        n => Err(Failure::new(ERRORS_LEFT, format!("{n} frames are damaged; see above"))),
    }
}
