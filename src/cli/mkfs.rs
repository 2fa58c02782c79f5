//! `lmfs mkfs`.

use super::output::Say;
use super::{Failure, Outcome, USAGE, options};
use crate::store::{Ecc, MkfsOptions, Store};
use clap::ValueEnum;
use std::path::PathBuf;

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Level {
    None,
    Standard,
    Archival,
}

/// Arguments.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Directory for the store; must not exist, or be empty
    store: PathBuf,
    /// Default model: fast, or off to keep files as they are written
    #[arg(long, default_value = "fast")]
    model: String,
    /// Bytes per block (K, M); the model's own if not given
    #[arg(long)]
    block_size: Option<String>,
    /// Error-correction level
    #[arg(long, value_enum, default_value_t = Level::Standard)]
    ecc: Level,
}

/// Options of a store made with defaults.
pub fn defaults() -> MkfsOptions {
    MkfsOptions { block_size: None, model: "fast".into(), ecc: Ecc::Standard }
}

/// A block size in bytes, within what the format takes.
pub fn block_size(text: &str) -> Result<u32, Failure> {
    let n = options::size(text).map_err(|e| Failure::new(USAGE, e))?;
    u32::try_from(n).ok().filter(|n| (4096..=4 << 20).contains(n) && n % 4096 == 0).ok_or_else(
        || Failure::new(USAGE, format!("block size {text}: give a multiple of 4K from 4K to 4M")),
    )
}

/// Refuses a model that this version does not have.
pub fn check_model(name: &str, others: &[&str]) -> Outcome {
    if name == "fast" || others.contains(&name) {
        return Ok(());
    }
    let known = [&["fast"], others].concat().join(", ");
    Err(Failure::new(USAGE, format!("no model '{name}'; there are: {known}")))
}

/// Runs it.
pub fn run(a: &Args, say: Say) -> Outcome {
    check_model(&a.model, &["off"])?;
    let block_size = a.block_size.as_deref().map(block_size).transpose()?;
    let ecc = match a.ecc {
        Level::None => Ecc::None,
        Level::Standard => Ecc::Standard,
        Level::Archival => Ecc::Archival,
    };
    Store::create(&a.store, &MkfsOptions { block_size, model: a.model.clone(), ecc })?;
    say.line(&format!("made {}; mount it with: lmfs mount {0} DIR", a.store.display()));
    Ok(())
}
