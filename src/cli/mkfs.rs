//! `lmfs mkfs`.

use super::output::Say;
use super::{Failure, Outcome, USAGE, options};
use crate::block::{self, Tier};
use crate::blocks::StoreModels;
use crate::models;
use crate::store::{Ecc, MkfsOptions, OpenOptions, REMOTE_PATIENCE, Store};
use clap::ValueEnum;
use std::fs::Metadata;
use std::path::{Path, PathBuf};
use std::sync::Arc;

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
    #[arg(value_hint = clap::ValueHint::DirPath)]
    store: PathBuf,
    /// Default model; fast codes without a language model, off keeps files as they are written
    #[arg(long, default_value = models::DEFAULT)]
    model: String,
    /// Bytes per block (K, M); the model's own if not given
    #[arg(long, value_name = "SIZE")]
    block_size: Option<String>,
    /// Error-correction level
    #[arg(long, value_enum, value_name = "LEVEL", default_value_t = Level::Standard)]
    ecc: Level,
    /// Object store that the archive lies in as well: s3://BUCKET/PATH, gs://, az://, or a directory
    #[arg(long, value_name = "URL")]
    remote: Option<String>,
}

/// Options of a store made with defaults.
pub fn defaults() -> MkfsOptions {
    MkfsOptions { block_size: None, model: models::DEFAULT.into(), ecc: Ecc::Standard }
}

/// A block size in bytes, within what the format takes.
pub fn block_size(text: &str) -> Result<u32, Failure> {
    let n = options::size(text).map_err(|e| Failure::new(USAGE, e))?;
    u32::try_from(n).ok().filter(|n| (4096..=4 << 20).contains(n) && n % 4096 == 0).ok_or_else(
        || Failure::new(USAGE, format!("block size {text}: give a multiple of 4K from 4K to 4M")),
    )
}

/// What a model's name stands for.
pub fn tier(name: &str) -> Result<Tier, Failure> {
    if name == "fast" {
        return Ok(Tier::FAST);
    }
    let lm = models::load(name).map_err(|e| match e {
        models::ModelError::Registry(e) => Failure::new(USAGE, e),
        e => Failure::from(e),
    })?;
    Ok(Tier::with(lm))
}

/// Makes a store that has its default model's file; if that fails, nothing of it stays.
pub fn create(path: &Path, options: &MkfsOptions) -> Outcome {
    // What is there already is refused and left alone.
    let before = path.metadata().ok();
    let ours = match std::fs::read_dir(path) {
        Ok(mut entries) => entries.next().is_none(),
        Err(e) => e.kind() == std::io::ErrorKind::NotFound,
    };
    let made = make(path, options);
    if made.is_err() && ours {
        undo(path, before.as_ref());
    }
    made
}

/// Removes what [`make`] has made of a store.
fn undo(path: &Path, before: Option<&Metadata>) {
    for entry in std::fs::read_dir(path).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let is = |n: &str| name == n || name.starts_with(&format!("{n}."));
        // Nobody else's, who may have come meanwhile.
        if [
            "superblock",
            "segments",
            "models",
            "index",
            "reserve",
            "lock",
            "remote",
            "control.sock",
        ]
        .into_iter()
        .any(is)
        {
            let gone = match entry.file_type() {
                Ok(t) if t.is_dir() => std::fs::remove_dir_all(entry.path()),
                _ => std::fs::remove_file(entry.path()),
            };
            if let Err(e) = gone {
                log::warn!("{}: {e}", entry.path().display());
            }
        }
    }
    match before {
        Some(b) => drop(std::fs::set_permissions(path, b.permissions())),
        None => drop(std::fs::remove_dir(path)),
    }
}

fn make(path: &Path, options: &MkfsOptions) -> Outcome {
    let unit = match options.model.as_str() {
        "off" => block::FAST_BLOCK,
        name => tier(name)?.unit(),
    };
    let block_size = Some(options.block_size.unwrap_or(unit));
    Store::create(path, &MkfsOptions { block_size, ..options.clone() })?;
    if !matches!(options.model.as_str(), "off" | "fast") {
        let store = Store::open(path, &OpenOptions::default())?;
        let adopted = StoreModels::new(Arc::clone(&store), Tier::LM_GAIN).adopt(&options.model);
        // Whatever came of it: nothing may be written any more when it is undone.
        let closed = store.close();
        adopted?;
        closed?;
    }
    Ok(())
}

fn set_remote(path: &Path, url: &str) -> Outcome {
    let store = Store::open(path, &OpenOptions::default())?;
    let set = store.set_remote(url, REMOTE_PATIENCE);
    let closed = store.close();
    set?;
    Ok(closed?)
}

/// Runs it.
pub fn run(a: &Args, say: Say) -> Outcome {
    if a.model != "off" {
        tier(&a.model)?;
    }
    let block_size = a.block_size.as_deref().map(block_size).transpose()?;
    let ecc = match a.ecc {
        Level::None => Ecc::None,
        Level::Standard => Ecc::Standard,
        Level::Archival => Ecc::Archival,
    };
    let before = a.store.metadata().ok();
    create(&a.store, &MkfsOptions { block_size, model: a.model.clone(), ecc })?;
    if let Some(url) = &a.remote
        && let Err(f) = set_remote(&a.store, url)
    {
        undo(&a.store, before.as_ref());
        return Err(f);
    }
    say.line(&format!("made {}; mount it with: lmfs mount {0} DIR", a.store.display()));
    Ok(())
}
