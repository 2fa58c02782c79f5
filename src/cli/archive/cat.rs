//! `lmfs cat`.

use super::super::{FAILED, Failure, Outcome};
use super::{CHUNK, about, relative, tree};
use std::io::{self, Write};
use std::path::PathBuf;

/// Arguments.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The store, or where it is mounted
    #[arg(value_name = "STORE|DIR", value_hint = clap::ValueHint::DirPath)]
    at: PathBuf,
    /// Files, relative to the archive's root
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// First byte of each file
    #[arg(long, default_value_t = 0, value_name = "N")]
    offset: u64,
    /// Bytes of each file (default: to its end)
    #[arg(long, value_name = "N")]
    length: Option<u64>,
}

/// Runs it: what can be read is, whatever is wrong with others.
pub fn run(a: &Args) -> Outcome {
    let tree = tree(&a.at)?;
    let mut out = io::stdout().lock();
    let mut failed = 0;
    for path in &a.paths {
        let mut one = || -> Result<(), Failure> {
            let path = relative(path)?;
            let (_, attr) = tree.get(&path)?;
            if !attr.is_file() {
                return Err(about(&path, "not a regular file"));
            }
            let mut file = tree.open(&path)?;
            let end = a.length.map_or(attr.size, |n| a.offset.saturating_add(n).min(attr.size));
            let mut at = a.offset;
            while at < end {
                let len = CHUNK.min((end - at) as usize);
                let bytes = file.read(at, len).map_err(|e| about(&path, e))?;
                if bytes.is_empty() {
                    break;
                }
                at += bytes.len() as u64;
                out.write_all(&bytes).map_err(|e| Failure::new(FAILED, format!("output: {e}")))?;
            }
            Ok(())
        };
        if let Err(e) = one() {
            eprintln!("lmfs: {}", e.message);
            failed += 1;
        }
    }
    out.flush().map_err(|e| Failure::new(FAILED, format!("output: {e}")))?;
    match failed {
        0 => Ok(()),
        n => Err(Failure::new(FAILED, format!("{n} of {} could not be read", a.paths.len()))),
    }
}
