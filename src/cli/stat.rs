//! `lmfs stat`.

use super::output::{self, size};
use super::{FAILED, Failure, Outcome, target};
use crate::control::{Request, StatEntry};
use std::path::PathBuf;

/// Arguments.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Files on a mounted lmfs
    #[arg(required = true)]
    paths: Vec<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Runs it.
pub fn run(a: &Args) -> Outcome {
    let mut entries = Vec::new();
    for path in &a.paths {
        let Some((m, below)) = target::mount_of(path) else {
            let text = format!("{}: not on a mounted lmfs", path.display());
            return Err(Failure::new(FAILED, text));
        };
        let request = Request::Stat { paths: vec![target::inner(&below)] };
        let value = target::run(&m.dir, &request, &mut |_, _| {})?;
        let mut found: Vec<StatEntry> = serde_json::from_value(value)?;
        for e in &mut found {
            e.path = path.to_string_lossy().into_owned();
        }
        entries.extend(found);
    }
    if a.json {
        return output::json(&entries);
    }
    println!("{:>11} {:>11} {:>7}  {:<12} path", "size", "coded", "ratio", "codecs");
    for e in entries {
        let codecs: Vec<_> = e.codecs.iter().map(|(k, n)| format!("{k}:{n}")).collect();
        let (all, coded) = (size(e.size), size(e.coded_size));
        println!("{all:>11} {coded:>11} {:>7.2}  {:<12} {}", e.ratio, codecs.join(" "), e.path);
        for d in e.damaged {
            println!("  damaged: {} bytes at {}", d.length, d.offset);
        }
    }
    Ok(())
}
