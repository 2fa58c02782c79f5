//! `lmfs recode`.

use super::output::Say;
use super::{Outcome, settle};
use crate::control::Request;
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
    let request = Request::Recode { model: a.model.clone(), paths };
    settle::carry_out(&a.dir, &request, a.json, &format!("coded with {}", a.model), say)
}
