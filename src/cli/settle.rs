//! `lmfs settle`.

use super::output::{self, Say};
use super::progress::{Progress, Unit};
use super::target::{self, Target};
use super::{FAILED, Failure, Outcome, dead, mounts};
use crate::control::{self, ControlError, Request, Settled};
use crate::store::{OpenOptions, Store, StoreError};
use std::path::PathBuf;

/// Arguments.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Where the store is mounted, or the store
    #[arg(value_name = "DIR|STORE", value_hint = clap::ValueHint::DirPath)]
    dir: PathBuf,
    /// Only these files and directories
    #[arg(value_name = "PATH", value_hint = clap::ValueHint::AnyPath)]
    paths: Vec<PathBuf>,
    /// End a settle or recode that is under way there; what it has coded stays
    #[arg(long, conflicts_with = "paths")]
    stop: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Runs it.
pub fn run(a: &Args, say: Say) -> Outcome {
    let at = target::of(&a.dir)?;
    if a.stop {
        return stop(&at, a.json, say);
    }
    let paths = at.files(&a.paths)?;
    carry_out(&at, &Request::Settle { paths }, a.json, "coded", say)
}

/// Has the daemon end what codes at somebody's wish. Without one there is nobody to ask.
fn stop(at: &Target, json: bool, say: Say) -> Outcome {
    let value = match control::request(&at.store, &Request::SettleStop, &mut |_, _| {}) {
        Err(ControlError::NotMounted)
            if at.mount.as_ref().is_some_and(|m| dead::is_dead(&m.dir)) =>
        {
            return Err(mounts::dead(&at.store));
        }
        Err(ControlError::NotMounted) => {
            match Store::open(&at.store, &OpenOptions { read_only: true }) {
                // A settle of a store that is not mounted is a process of its own.
                Err(StoreError::InUse { path, pid }) => {
                    let text = format!(
                        "{path} is not mounted; process {pid} works on it, and may be ended: kill {pid}"
                    );
                    return Err(Failure::new(FAILED, text));
                }
                opened => {
                    opened?;
                    serde_json::json!({ "stopped": false })
                }
            }
        }
        answer => answer?,
    };
    if json {
        return output::json(&value);
    }
    say.line(match value["stopped"].as_bool() {
        Some(true) => "stopped",
        _ => "no settle is under way",
    });
    Ok(())
}

/// Has blocks coded, shows rate and time left meanwhile, and says what came of it.
pub fn carry_out(at: &Target, request: &Request, json: bool, done_so: &str, say: Say) -> Outcome {
    let progress = Progress::new(say, "coding", Unit::Bytes);
    let value = at.run(request, &mut |done, all| progress.at(done, all));
    drop(progress);
    let s: Settled = serde_json::from_value(value?)?;
    let ended = if s.stopped {
        Err(Failure::new(FAILED, "stopped by settle --stop; the rest still waits"))
    } else {
        Ok(())
    };
    if json {
        return output::json(&s).and(ended);
    }
    let text = match &s.coded {
        _ if s.stopped && s.blocks == 0 => return ended,
        // An older daemon's answer.
        None => format!("{} blocks {done_so}", s.blocks),
        Some(_) if s.blocks == 0 => format!("nothing to be {done_so}"),
        Some(c) => format!(
            "{} blocks {done_so}: {} of text became {} (ratio {:.2}) in {}, {}/s",
            s.blocks,
            output::size(c.text_bytes),
            output::size(c.frame_bytes),
            c.text_bytes as f64 / (c.frame_bytes as f64).max(1.0),
            output::duration(c.seconds),
            output::size((c.text_bytes as f64 / c.seconds.max(1e-3)) as u64)
        ),
    };
    say.line(&text);
    ended
}
