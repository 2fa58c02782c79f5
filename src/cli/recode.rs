//! `lmfs recode`.

use super::output::{self, Say};
use super::{Outcome, settle, target};
use crate::control::{Request, Settled};
use std::path::PathBuf;

/// Arguments.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Where the store is mounted, or the store
    dir: PathBuf,
    /// Model to move to: fast, or one that `lmfs model list` shows
    #[arg(short, long)]
    model: String,
    /// Only these files and directories
    paths: Vec<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Runs it.
pub fn run(a: &Args, say: Say) -> Outcome {
    let paths = settle::inner_paths(&a.dir, &a.paths)?;
    let bar = say.bar();
    let request = Request::Recode { model: a.model.clone(), paths };
    let value = target::run(&a.dir, &request, &mut |done, total| {
        bar.set_length(total);
        bar.set_position(done);
    });
    bar.finish_and_clear();
    let s: Settled = serde_json::from_value(value?)?;
    if a.json {
        return output::json(&s);
    }
    say.line(&format!(
        "{} blocks coded with {}; {} became {}",
        s.blocks,
        a.model,
        output::size(s.before_bytes),
        output::size(s.after_bytes)
    ));
    Ok(())
}
