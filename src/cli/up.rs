//! `lmfs up`: everything for a first use.

use super::output::Say;
use super::progress::meanwhile;
use super::{Outcome, dead, mkfs, mount, mounts, output};
use crate::models;
use crate::store::MkfsOptions;
use std::path::{Path, PathBuf};

/// Arguments.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Directory of the store; made if it does not exist
    #[arg(value_hint = clap::ValueHint::DirPath)]
    store: PathBuf,
    /// Directory to mount it on; made if it does not exist
    #[arg(value_hint = clap::ValueHint::DirPath)]
    dir: PathBuf,
    /// Default model of a store that is made
    #[arg(long, default_value = models::DEFAULT)]
    model: String,
    /// Mount options, separated by commas
    #[arg(short, value_name = "OPTS")]
    options: Vec<String>,
}

/// Runs it.
pub fn run(a: &Args, say: Say, level: log::LevelFilter) -> Outcome {
    output::log_to_stderr(level);
    let (store, dir) = (a.store.display(), a.dir.display());
    if !a.store.join("superblock").exists() {
        let options = MkfsOptions { model: a.model.clone(), ..mkfs::defaults() };
        mkfs::create(&a.store, &options)?;
        say.line(&format!("made the store {store}"));
    }
    dead::clear(&a.dir, &mut |text| eprintln!("lmfs: {text}"))?;
    let whole = a.store.canonicalize()?;
    let mounted = mounts::place(&a.dir, true).is_ok_and(|p| {
        p.mount.is_lmfs()
            && p.is_mount_point()
            && p.mount.root == Path::new("/")
            && p.mount.store == whole
    });
    if mounted {
        say.line(&format!("{store} is already mounted on {dir}"));
    } else {
        if !a.dir.exists() {
            std::fs::create_dir_all(&a.dir)?;
        }
        let start = || mount::daemon(&a.store, &a.dir, &a.options);
        meanwhile(say, "opening the store", start)?;
        say.line(&format!("mounted on {dir}"));
    }
    say.line(&format!(
        "\nCopy text in:            cp -a FILES {dir}/\n\
         Code it now:             lmfs settle {dir}\n\
         See what it takes:       lmfs status {dir}\n\
         Unmount:                 lmfs umount {dir}"
    ));
    Ok(())
}
