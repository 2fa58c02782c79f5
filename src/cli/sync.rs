//! `lmfs sync`: the kernel does not tell a FUSE file system of sync(2) or syncfs(2).

use super::mounts::{self, Place};
use super::output::Say;
use super::progress::meanwhile;
use super::{FAILED, Failure, Outcome};
use crate::control::{self, ControlError, Request};
use std::path::PathBuf;

/// Arguments.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Where the store is mounted, or something in it
    #[arg(value_hint = clap::ValueHint::AnyPath)]
    dir: PathBuf,
}

/// Runs it.
pub fn run(a: &Args, say: Say) -> Outcome {
    let shown = a.dir.display();
    let Some(m) = mounts::of(&a.dir)?.map(Place::release) else {
        let text = format!("{shown} lies in no mounted lmfs: nothing of it can wait to be written");
        return Err(Failure::new(FAILED, text));
    };
    let flush = || control::request(&m.store, &Request::Flush, &mut |_, _| {});
    match meanwhile(say, "writing", flush) {
        Ok(_) => Ok(()),
        Err(ControlError::NotMounted) => Err(mounts::dead(&a.dir)),
        Err(e) => Err(Failure::new(FAILED, format!("{shown}: not all is durable: {e}"))),
    }
}
