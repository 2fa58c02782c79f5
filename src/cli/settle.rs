//! `lmfs settle`.

use super::Outcome;
use super::output::{self, Say};
use super::target::{self, Target};
use crate::control::{Request, Settled};
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
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Runs it.
pub fn run(a: &Args, say: Say) -> Outcome {
    let at = target::of(&a.dir)?;
    let paths = at.files(&a.paths)?;
    carry_out(&at, &Request::Settle { paths }, a.json, "coded", say)
}

/// Has blocks coded, shows rate and time left meanwhile, and says what came of it.
pub fn carry_out(at: &Target, request: &Request, json: bool, done_so: &str, say: Say) -> Outcome {
    let bar = say.bytes_bar();
    let value = at.run(request, &mut |done, total| {
        bar.set_length(total);
        bar.set_position(done);
    });
    bar.finish_and_clear();
    let s: Settled = serde_json::from_value(value?)?;
    if json {
        return output::json(&s);
    }
    let text = match &s.coded {
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
    Ok(())
}
