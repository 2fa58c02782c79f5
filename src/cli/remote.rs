//! `lmfs remote` and `lmfs clone`: an archive in an object store.

use super::output::{self, Say, outln, size};
use super::progress::{Progress, Unit};
use super::{FAILED, Failure, Outcome, USAGE, options, target};
use crate::control::{self, Request};
use crate::store::{
    Collected, Evicted, REMOTE_GRACE, REMOTE_PATIENCE, RemoteScrubbed, RemoteStatus, Requests,
    Store, Uploaded, clone_archive,
};
use clap::Subcommand;
use serde::de::DeserializeOwned;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

/// Arguments.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Name the object store that an archive lies in as well
    Set(SetArgs),
    /// What is there and what is here only
    Status(StatusArgs),
    /// Upload what is here only
    Push(PushArgs),
    /// Check what lies there, every byte
    Scrub(ScrubArgs),
    /// Delete there what nobody needs any more
    Gc(GcArgs),
    /// Remove here what lies there, too; it is read from there then
    Evict(EvictArgs),
    /// Put right from there what is missing or damaged here, of a store that is not mounted
    Pull(PullArgs),
}

#[derive(Debug, clap::Args)]
struct SetArgs {
    /// The store, or where it is mounted
    #[arg(value_name = "STORE|DIR", value_hint = clap::ValueHint::DirPath)]
    at: PathBuf,
    /// s3://BUCKET/PATH, gs://BUCKET/PATH, az://CONTAINER/PATH, or a directory
    #[arg(value_name = "URL")]
    url: String,
}

#[derive(Debug, clap::Args)]
struct StatusArgs {
    /// The store, or where it is mounted
    #[arg(value_name = "STORE|DIR", value_hint = clap::ValueHint::DirPath)]
    at: PathBuf,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
struct PushArgs {
    /// The store, or where it is mounted
    #[arg(value_name = "STORE|DIR", value_hint = clap::ValueHint::DirPath)]
    at: PathBuf,
    /// Return only once it is there; of a store that is not mounted, always
    #[arg(long)]
    wait: bool,
}

#[derive(Debug, clap::Args)]
struct ScrubArgs {
    /// The store, or where it is mounted
    #[arg(value_name = "STORE|DIR", value_hint = clap::ValueHint::DirPath)]
    at: PathBuf,
    /// Replace what is damaged
    #[arg(long)]
    repair: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
struct GcArgs {
    /// The store, or where it is mounted
    #[arg(value_name = "STORE|DIR", value_hint = clap::ValueHint::DirPath)]
    at: PathBuf,
    /// Seconds for which readers may still be at a manifest after there is a newer one
    #[arg(long, value_name = "SECONDS", default_value_t = REMOTE_GRACE.as_secs())]
    grace: u64,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
struct EvictArgs {
    /// The store, or where it is mounted
    #[arg(value_name = "STORE|DIR", value_hint = clap::ValueHint::DirPath)]
    at: PathBuf,
    /// What may stay here of it
    #[arg(long, value_name = "SIZE", default_value = "0", value_parser = options::size)]
    keep: u64,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
struct PullArgs {
    /// The store
    #[arg(value_name = "STORE", value_hint = clap::ValueHint::DirPath)]
    store: PathBuf,
    /// Bring back what was evicted, too
    #[arg(long)]
    all: bool,
}

/// Arguments of `lmfs clone`.
#[derive(Debug, clap::Args)]
pub struct CloneArgs {
    /// Where the archive is
    #[arg(value_name = "URL")]
    url: String,
    /// Directory for the store; must not exist, be empty, or hold an unfinished clone
    #[arg(value_name = "STORE", value_hint = clap::ValueHint::DirPath)]
    store: PathBuf,
    /// Seconds that an answer is waited for
    #[arg(long, value_name = "SECONDS", default_value_t = REMOTE_PATIENCE.as_secs_f64())]
    timeout: f64,
}

/// Runs `lmfs remote`.
pub fn run(a: &Args, say: Say) -> Outcome {
    match &a.command {
        Command::Set(a) => set(&a.at, &a.url, say),
        Command::Status(a) => status(a),
        Command::Push(a) => push(a, say),
        Command::Scrub(a) => scrub(a, say),
        Command::Gc(a) => gc(a, say),
        Command::Evict(a) => evict(a, say),
        Command::Pull(a) => pull(a, say),
    }
}

/// Names the object store of what a STORE|DIR argument names.
pub fn set(at: &Path, url: &str, say: Say) -> Outcome {
    // The daemon is elsewhere.
    let url = crate::store::canonical_url(url)?;
    target::run(at, &Request::RemoteSet { url: url.clone() }, &mut |_, _| {})?;
    say.line(&format!(
        "{} lies in {url} as well; upload it with: lmfs remote push {0}",
        at.display()
    ));
    Ok(())
}

fn status(a: &StatusArgs) -> Outcome {
    let value = target::run(&a.at, &Request::RemoteStatus, &mut |_, _| {})?;
    let status: Option<RemoteStatus> = serde_json::from_value(value)?;
    let Some(s) = status else {
        let text =
            format!("{}: it has no object store; name one with: lmfs remote set", a.at.display());
        return Err(Failure::new(FAILED, text));
    };
    if a.json {
        return output::json(&s);
    }
    for (name, value) in lines(&s) {
        outln!("{name:<14}{value}");
    }
    Ok(())
}

/// What `status` says of an object store.
pub fn lines(s: &RemoteStatus) -> Vec<(&'static str, String)> {
    let mut out = vec![("remote", s.url.clone())];
    if let Some(n) = s.manifest {
        let epoch = s.epoch.map_or(String::new(), |e| format!(", epoch {e}"));
        out.push(("  manifest", format!("{n}{epoch}")));
    }
    if s.uploaded_bytes + s.here_only_bytes + s.there_only_bytes > 0 {
        out.push(("  uploaded", size(s.uploaded_bytes)));
        out.push(("  here only", size(s.here_only_bytes)));
        out.push(("  there only", size(s.there_only_bytes)));
        out.push(("  both", size(s.both_bytes)));
    }
    if let Some(c) = s.cache {
        let text = format!(
            "{} of {}, {} hits, {} misses",
            size(c.used),
            size(c.capacity),
            c.hits,
            c.misses
        );
        out.push(("  on disk", text));
    }
    let r = s.requests;
    if r != Requests::default() {
        let rate = |n: Option<f64>| n.map_or(String::new(), |n| format!(" ({n:.2} per MiB)"));
        out.push((
            "  requests",
            format!(
                "{} reads of {}{}, {} writes of {}{}, {} listings, {} deletions, {} tried again, {} failed",
                r.gets,
                size(r.read_bytes),
                rate(s.gets_per_mib),
                r.puts,
                size(r.written_bytes),
                rate(s.puts_per_mib),
                r.lists,
                r.deletes,
                r.retries,
                r.failed
            ),
        ));
    }
    if let Some(e) = &s.error {
        out.push(("  failed", e.clone()));
    }
    out
}

/// Runs a request, shows how far it is, and reads the answer.
fn ask<T: DeserializeOwned>(
    at: &Path,
    request: &Request,
    what: &str,
    unit: Unit,
    say: Say,
) -> Result<T, Failure> {
    let progress = Progress::new(say, what, unit);
    let value = target::run(at, request, &mut |done, all| progress.at(done, all));
    drop(progress);
    Ok(serde_json::from_value(value?)?)
}

fn push(a: &PushArgs, say: Say) -> Outcome {
    let request = Request::RemotePush { wait: a.wait };
    let pushed: Option<Uploaded> = ask(&a.at, &request, "uploading", Unit::Bytes, say)?;
    match pushed {
        Some(p) => say.line(&format!(
            "{} objects, {} uploaded; manifest {}",
            p.objects,
            size(p.bytes),
            p.manifest
        )),
        None => say.line("the mount uploads it in the background"),
    }
    Ok(())
}

fn scrub(a: &ScrubArgs, say: Say) -> Outcome {
    let request = Request::RemoteScrub { repair: a.repair };
    let s: RemoteScrubbed = ask(&a.at, &request, "checking", Unit::Bytes, say)?;
    if a.json {
        output::json(&s)?;
    } else {
        let (damaged, repaired) = (s.damaged, s.repaired);
        say.line(&format!(
            "{} objects, {}; {damaged} damaged, {repaired} replaced",
            s.objects,
            size(s.bytes)
        ));
        for what in &s.unrecoverable {
            outln!("beyond repair: {what}");
        }
    }
    // As `lmfs scrub` ends.
    match (s.damaged, s.damaged - s.repaired) {
        (0, _) => Ok(()),
        (n, 0) => Err(Failure::new(1, format!("{n} objects were damaged and are replaced"))),
        (_, left) => Err(Failure::new(4, format!("{left} objects are damaged"))),
    }
}

fn gc(a: &GcArgs, say: Say) -> Outcome {
    let request = Request::RemoteGc { grace: a.grace };
    let c: Collected = ask(&a.at, &request, "deleting", Unit::Steps, say)?;
    if a.json {
        return output::json(&c);
    }
    say.line(&format!(
        "{} manifests and {} objects deleted, {}; {} stay",
        c.manifests,
        c.objects,
        size(c.bytes),
        size(c.kept_bytes)
    ));
    Ok(())
}

fn evict(a: &EvictArgs, say: Say) -> Outcome {
    let request = Request::RemoteEvict { keep: a.keep };
    let e: Evicted = ask(&a.at, &request, "evicting", Unit::Bytes, say)?;
    if a.json {
        return output::json(&e);
    }
    say.line(&format!(
        "{} segments evicted, {}; sealed ones and the cache take {} now",
        e.segments,
        size(e.bytes),
        size(e.left_bytes)
    ));
    Ok(())
}

fn pull(a: &PullArgs, say: Say) -> Outcome {
    let store = &a.store;
    let target = target::of(store)?;
    if target.mount.is_some() || control::listens(&target.store) {
        let text = format!("{}: it is mounted; unmount it first (lmfs umount)", store.display());
        return Err(Failure::new(FAILED, text));
    }
    let progress = Progress::new(say, "comparing", Unit::Bytes);
    let pulled =
        Store::pull(&target.store, REMOTE_PATIENCE, a.all, &mut |done, all| progress.at(done, all));
    drop(progress);
    let p = pulled?;
    say.line(&format!("{} of {} files fetched, {}", p.fetched, p.files, size(p.bytes)));
    Ok(())
}

/// Runs `lmfs clone`.
pub fn clone(a: &CloneArgs, say: Say) -> Outcome {
    let patience = Duration::try_from_secs_f64(a.timeout)
        .map_err(|e| Failure::new(USAGE, format!("--timeout {}: {e}", a.timeout)))?;
    let progress = Mutex::new(Progress::new(say, "cloning", Unit::Bytes));
    let cloned = clone_archive(&a.url, &a.store, patience, &|done, all| {
        if let Ok(progress) = progress.lock() {
            progress.at(done, all);
        }
    });
    drop(progress);
    let c = cloned?;
    let kept = match c.kept_bytes {
        0 => String::new(),
        n => format!("; {} had been fetched before", size(n)),
    };
    say.line(&format!("{} files, {} fetched{kept}", c.files, size(c.bytes)));
    say.line(&format!("mount it with: lmfs mount {} DIR", a.store.display()));
    Ok(())
}
