//! `lmfs status`.

use super::output::{self, duration, outln, size};
use super::{Outcome, target};
use crate::control::{Request, Status};
use serde_json::Value;
use std::path::PathBuf;

/// Arguments.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Where the store is mounted, or the store
    #[arg(value_name = "DIR|STORE", value_hint = clap::ValueHint::DirPath)]
    dir: PathBuf,
    /// Print JSON
    #[arg(long, conflicts_with = "prometheus")]
    json: bool,
    /// Print metrics, as node_exporter's textfile collector reads them
    #[arg(long)]
    prometheus: bool,
}

/// A metric of each number in a document, named by where it stands. Those of models have their names.
fn metrics(name: &str, labels: &str, value: &Value, out: &mut Vec<String>) {
    match value {
        Value::Number(n) => out.push(format!("{name}{{{labels}}} {n}")),
        Value::Bool(b) => out.push(format!("{name}{{{labels}}} {}", u8::from(*b))),
        Value::Object(parts) => {
            for (key, part) in parts {
                metrics(&format!("{name}_{key}"), labels, part, out);
            }
        }
        Value::Array(models) => {
            for model in models {
                // Quoted as JSON quotes, which is how metrics do.
                let labels = format!("{labels},model={},id={}", model["name"], model["id"]);
                metrics(name, &labels, model, out);
            }
        }
        Value::Null | Value::String(_) => {}
    }
}

/// Runs it.
pub fn run(a: &Args) -> Outcome {
    let target = target::of(&a.dir)?;
    let value = target.run(&Request::Status, &mut |_, _| {})?;
    if a.prometheus {
        let mut lines = Vec::new();
        metrics("lmfs", &format!("store={}", value["uuid"]), &value, &mut lines);
        for line in &lines {
            outln!("{line}");
        }
        return Ok(());
    }
    let s: Status = serde_json::from_value(value)?;
    if a.json {
        return output::json(&s);
    }
    let line = |name: &str, value: String| outln!("{name:<14}{value}");
    line("store", s.uuid);
    let mounted = match (s.pid, &target.mount) {
        (Some(p), _) => format!("by process {p}"),
        (None, Some(_)) => "yes, but its daemon cannot be asked (a read-only medium)".into(),
        (None, None) => "no".into(),
    };
    line("mounted", mounted);
    line("files", s.store.files.to_string());
    line("holds", size(s.store.logical_bytes));
    line("takes", format!("{} (ratio {:.2})", size(s.store.stored_bytes), s.ratio));
    line("  coded", size(s.store.coded_bytes));
    line("  staged", size(s.store.staged_bytes));
    line("  names etc.", size(s.store.meta_bytes));
    line("  parity", size(s.store.parity_bytes));
    line("  dead", size(s.store.dead_bytes));
    for m in &s.models {
        let wrong = m.error.as_ref().map_or(String::new(), |e| format!("; {e}"));
        line(
            "model",
            format!("{} ({}): {} frames{wrong}", m.name, &m.id[..16.min(m.id.len())], m.frames),
        );
    }
    let eta = match s.coding.eta_s.filter(|_| s.coding.pending_blocks > 0) {
        Some(t) => format!(", {} left", duration(t as f64)),
        None => String::new(),
    };
    let waiting =
        format!("{} blocks, {}{eta}", s.coding.pending_blocks, size(s.coding.backlog_bytes));
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
    if s.pid.is_some() {
        line("cache", cache);
    }
    for (name, value) in s.remote.as_ref().map(super::remote::lines).unwrap_or_default() {
        line(name, value);
    }
    if s.store.repaired > 0 {
        line("repaired", format!("{} frames and pages since it was mounted", s.store.repaired));
    }
    if s.store.unrecoverable > 0 {
        line(
            "damaged",
            format!("{} frames beyond repair; lmfs scrub names them", s.store.unrecoverable),
        );
    }
    if s.failed_operations > 0 {
        line(
            "failed",
            format!("{} operations since it was mounted; see the log", s.failed_operations),
        );
    }
    Ok(())
}
