//! `lmfs recode`.

use super::output::Say;
use super::{Outcome, settle, target};
use crate::control::Request;
use std::path::PathBuf;

/// Arguments.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Where the store is mounted, or the store
    #[arg(value_name = "DIR|STORE", value_hint = clap::ValueHint::DirPath)]
    dir: PathBuf,
    /// Model to move to: fast, or one that `lmfs model list` shows
    #[arg(short, long)]
    model: String,
    /// Only these files and directories
    #[arg(value_name = "PATH", value_hint = clap::ValueHint::AnyPath)]
    paths: Vec<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Runs it.
pub fn run(a: &Args, say: Say) -> Outcome {
    let at = target::of(&a.dir)?;
    let paths = at.files(&a.paths)?;
    let request = Request::Recode { model: a.model.clone(), paths };
    settle::carry_out(&at, &request, a.json, &format!("coded with {}", a.model), say)
}
