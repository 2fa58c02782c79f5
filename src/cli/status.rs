//! `lmfs status`.

use super::output::{self, outln, size};
use super::{Outcome, target};
use crate::control::{Request, Status};
use std::path::PathBuf;

/// Arguments.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Where the store is mounted, or the store
    dir: PathBuf,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Runs it.
pub fn run(a: &Args) -> Outcome {
    let value = target::run(&a.dir, &Request::Status, &mut |_, _| {})?;
    let s: Status = serde_json::from_value(value)?;
    if a.json {
        return output::json(&s);
    }
    let line = |name: &str, value: String| outln!("{name:<14}{value}");
    line("store", s.uuid);
    line("mounted", s.pid.map_or("no".into(), |p| format!("by process {p}")));
    line("files", s.files.to_string());
    line("holds", size(s.logical_bytes));
    line("takes", format!("{} (ratio {:.2})", size(s.stored_bytes), s.ratio));
    line("  coded", size(s.coded_bytes));
    line("  staged", size(s.staged_bytes));
    line("  names etc.", size(s.meta_bytes));
    line("  parity", size(s.parity_bytes));
    line("  dead", size(s.dead_bytes));
    for m in &s.models {
        let wrong = m.error.as_ref().map_or(String::new(), |e| format!("; {e}"));
        line(
            "model",
            format!("{} ({}): {} frames{wrong}", m.name, &m.id[..16.min(m.id.len())], m.frames),
        );
    }
    let eta = s.eta_s.map_or(String::new(), |t| format!(", {t} s left"));
    let waiting = format!("{} blocks, {}{eta}", s.pending_blocks, size(s.backlog_bytes));
    line("waiting", waiting);
    let c = s.cleaner;
    let does = match (c.on, c.busy) {
        (false, _) => "off",
        (_, true) => "at work",
        _ => "looks on",
    };
    let (moved, freed) = (size(c.moved_bytes), size(c.freed_bytes));
    if s.pid.is_some() {
        line("cleaner", format!("{does}; {moved} moved, {freed} freed since it was mounted"));
    }
    line("block size", size(s.block_size.into()));
    let c = s.cache;
    let cache =
        format!("{} of {}, {} hits, {} misses", size(c.used), size(c.capacity), c.hits, c.misses);
    line("cache", cache);
    if s.repaired > 0 {
        line("repaired", format!("{} frames and pages since it was mounted", s.repaired));
    }
    if s.unrecoverable > 0 {
        line("damaged", format!("{} frames beyond repair; lmfs scrub names them", s.unrecoverable));
    }
    if s.failed_operations > 0 {
        line(
            "failed",
            format!("{} operations since it was mounted; see the log", s.failed_operations),
        );
    }
    Ok(())
}
