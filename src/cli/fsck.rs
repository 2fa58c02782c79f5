//! `lmfs fsck`: the log, the index and the namespace of a store that nobody uses.

use super::output::Say;
use super::progress::{Progress, Unit, meanwhile};
use super::{Failure, Outcome, options, scrub};
use crate::control;
use crate::fs::Fs;
use crate::store::Store;
use std::path::PathBuf;

/// Arguments.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The store's directory
    #[arg(value_hint = clap::ValueHint::DirPath)]
    store: PathBuf,
    /// Put right what can be put right
    #[arg(long)]
    repair: bool,
    /// Make the index anew from the log
    #[arg(long)]
    rebuild_index: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Runs it.
pub fn run(a: &Args, say: Say) -> Outcome {
    let could_not = |f: Failure| Failure { code: scrub::COULD_NOT, ..f };
    let open = || -> Result<_, Failure> {
        let store = Store::open_to_check(&a.store, !a.repair, a.rebuild_index)?;
        Ok(Fs::open(store, options::Options::offline())?)
    };
    let fs = meanwhile(say, "opening the store", open).map_err(could_not)?;
    let progress = Progress::new(say, "checking", Unit::Steps);
    let report = control::fsck(&fs, a.repair, a.rebuild_index, &mut |done, all| {
        progress.at(done, all);
    });
    drop(progress);
    let closed = fs.shutdown();
    let report = report.map_err(|e| could_not(e.into()))?;
    closed.map_err(|e| could_not(e.into()))?;
    scrub::show(&report, a.json, say)
}
