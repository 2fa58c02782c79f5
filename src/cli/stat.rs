//! `lmfs stat`.

use super::output::{self, outln, size};
use super::{FAILED, Failure, Outcome, mounts, target};
use crate::control::{Request, StatEntry};
use std::path::{Path, PathBuf};

/// Arguments.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Files and directories on a mounted lmfs; a directory is summed up
    #[arg(required = true, value_name = "PATH", value_hint = clap::ValueHint::AnyPath)]
    paths: Vec<PathBuf>,
    /// Also each file below a directory
    #[arg(short, long)]
    recursive: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

fn stat(path: &Path, recurse: bool) -> Result<Vec<StatEntry>, Failure> {
    let shown = path.display();
    if let Err(e) = path.symlink_metadata() {
        return Err(match e.raw_os_error() {
            Some(libc::ENOTCONN) => mounts::dead(path),
            _ => Failure::new(FAILED, format!("{shown}: {e}")),
        });
    }
    let Some(found) = mounts::of(path)? else {
        return Err(Failure::new(FAILED, format!("{shown}: not on a mounted lmfs")));
    };
    let paths = vec![target::by_inode(&found, path)?];
    let at = target::Target::from(found.mount);
    let value = match at.run(&Request::Stat { paths, recurse }, &mut |_, _| {}) {
        Err(f) if !f.message.contains(&*path.to_string_lossy()) => {
            return Err(Failure { message: format!("{shown}: {}", f.message), ..f });
        }
        value => value?,
    };
    Ok(serde_json::from_value(value)?)
}

/// Runs it.
pub fn run(a: &Args) -> Outcome {
    let (mut entries, mut failed) = (Vec::new(), 0);
    for path in &a.paths {
        match stat(path, a.recursive) {
            Ok(mut found) => entries.append(&mut found),
            // One of several does not hide the others.
            Err(f) if a.paths.len() > 1 => {
                eprintln!("lmfs: {}", f.message);
                failed += 1;
            }
            Err(f) => return Err(f),
        }
    }
    if a.json {
        output::json(&entries)?;
    } else if !entries.is_empty() {
        table(entries);
    }
    if failed > 0 {
        let text = format!("{failed} of {} paths could not be looked at", a.paths.len());
        return Err(Failure::new(FAILED, text));
    }
    Ok(())
}

fn table(entries: Vec<StatEntry>) {
    outln!("{:>11} {:>11} {:>7}  {:<12} path", "size", "coded", "ratio", "codecs");
    for e in entries {
        let codecs: Vec<_> = e.codecs.iter().map(|(k, n)| format!("{k}:{n}")).collect();
        let (all, coded) = (size(e.size), size(e.coded_size));
        let files = e.files.map_or(String::new(), |n| format!(" ({n} files)"));
        let codecs = codecs.join(" ");
        outln!("{all:>11} {coded:>11} {:>7.2}  {codecs:<12} {}{files}", e.ratio, e.path);
        for d in e.damaged {
            outln!("  damaged: {} bytes at {}", d.length, d.offset);
        }
    }
}
