//! `lmfs gc`.

use super::output::{self, Say};
use super::progress::{Progress, Unit};
use super::{Outcome, target};
use crate::control::{Request, Settled};
use std::path::PathBuf;

/// Arguments.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Where the store is mounted, or the store
    #[arg(value_name = "DIR|STORE", value_hint = clap::ValueHint::DirPath)]
    dir: PathBuf,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Runs it.
pub fn run(a: &Args, say: Say) -> Outcome {
    let progress = Progress::new(say, "emptying segments", Unit::Bytes);
    let value = target::run(&a.dir, &Request::Gc, &mut |done, all| progress.at(done, all));
    drop(progress);
    let value = value?;
    let s: Settled = serde_json::from_value(value)?;
    if a.json {
        return output::json(&s);
    }
    let (before, after) = (output::size(s.before_bytes), output::size(s.after_bytes));
    say.line(&format!("{} frames moved; {before} became {after}", s.blocks));
    Ok(())
}
