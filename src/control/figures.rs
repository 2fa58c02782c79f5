//! The figures and commands themselves.

use super::{FileName, Request, hex};
use crate::fs::{CacheStats, Fs, FsError};
use crate::recode::{Command, RecodeStatus, SettleReport};
use crate::store::{
    CleanerStatus, REMOTE_PATIENCE, RemoteStatus, RemoteUse, StoreError, StoreStats, Uploaded,
};
use crate::types::Ino;
use serde::{Deserialize, Serialize};
use std::collections::HashSet;
use std::time::Duration;

/// A model in the store.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ModelFigures {
    /// BLAKE3 of its file, in hexadecimal.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Frames coded by it.
    pub frames: u64,
    /// Why what it coded cannot be read.
    pub error: Option<String>,
}

/// What the archive holds and does.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Status {
    /// Version of the program.
    pub version: String,
    /// Format of the store.
    pub format: u32,
    /// Version of the coder's numerics.
    pub engine: u16,
    /// Identity of the store.
    pub uuid: String,
    /// Bytes per block.
    pub block_size: u32,
    /// Error-correction level.
    pub ecc: String,
    /// Language models.
    pub models: Vec<ModelFigures>,
    /// What the store holds.
    #[serde(flatten)]
    pub store: StoreStats,
    /// Logical bytes over live bytes.
    pub ratio: f64,
    /// What waits to be coded.
    #[serde(flatten)]
    pub coding: RecodeStatus,
    /// The cleaner.
    pub cleaner: CleanerStatus,
    /// The cache.
    pub cache: CacheStats,
    /// Operations that failed since the mount, other than in ways that are part of ordinary life.
    pub failed_operations: u64,
    /// The daemon, if the store is mounted.
    pub pid: Option<u32>,
    /// The store is open for reading only.
    pub read_only: bool,
    /// The object store, if there is one.
    pub remote: Option<RemoteStatus>,
}

/// Figures of an open file system; `pid` of the daemon that serves it.
pub fn status(fs: &Fs, pid: Option<u32>) -> Result<Status, FsError> {
    let store = fs.store();
    let (sb, s) = (store.superblock(), store.stats()?);
    let live = s.live_bytes();
    let u = hex(&sb.uuid);
    let models = fs.blocks().models().list()?;
    let frames = store.frames_by_model();
    Ok(Status {
        version: env!("CARGO_PKG_VERSION").into(),
        format: sb.format,
        engine: crate::block::ENGINE,
        uuid: format!("{}-{}-{}-{}-{}", &u[..8], &u[8..12], &u[12..16], &u[16..20], &u[20..]),
        block_size: sb.block_size,
        ecc: format!("{:?}", sb.ecc).to_lowercase(),
        models: models
            .into_iter()
            .map(|(m, error)| ModelFigures {
                id: hex(&m.id),
                name: m.name,
                frames: frames.get(&m.number).copied().unwrap_or(0),
                error,
            })
            .collect(),
        ratio: if live == 0 { 1.0 } else { s.logical_bytes as f64 / live as f64 },
        coding: fs.recoder().status(),
        cleaner: store.cleaner_status(),
        cache: fs.cache_stats(),
        failed_operations: fs.troubles().count(),
        pid,
        read_only: store.read_only(),
        // A damaged file `remote` hides nothing else.
        remote: store.remote_status().unwrap_or_default(),
        store: s,
    })
}

/// What settle or gc did.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Settled {
    /// Bytes of live frames (settle, recode) or in segments (gc) before.
    pub before_bytes: u64,
    /// The same after.
    pub after_bytes: u64,
    /// Blocks coded, or frames moved.
    pub blocks: u64,
    /// It was stopped; the rest still waits.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub stopped: bool,
    /// What was coded (settle, recode).
    #[serde(flatten)]
    pub coded: Option<CodedFigures>,
}

/// What a settle or recode coded.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct CodedFigures {
    /// Bytes of the files.
    pub text_bytes: u64,
    /// Bytes of their new frames, with parity and primers.
    pub frame_bytes: u64,
    /// How long it took.
    pub seconds: f64,
}

impl From<SettleReport> for Settled {
    fn from(r: SettleReport) -> Self {
        Self {
            before_bytes: r.before_bytes,
            after_bytes: r.after_bytes,
            blocks: r.blocks,
            stopped: r.stopped,
            coded: Some(CodedFigures {
                text_bytes: r.text_bytes,
                frame_bytes: r.frame_bytes,
                seconds: r.ms as f64 / 1e3,
            }),
        }
    }
}

/// All regular files at or below an inode.
fn files_below(fs: &Fs, ino: Ino, out: &mut Vec<Ino>) -> Result<(), FsError> {
    // A forged store may have directories in a circle.
    let (mut stack, mut seen) = (vec![ino], HashSet::new());
    while let Some(at) = stack.pop() {
        if !seen.insert(at) {
            continue;
        }
        let attr = fs.getattr(at)?;
        if attr.is_file() {
            out.push(at);
        } else if attr.is_dir() {
            stack.extend(fs.readdir(at, 2, usize::MAX)?.into_iter().map(|d| d.ino));
        }
    }
    Ok(())
}

/// Segments with a larger dead share are cleaned afterwards.
const DEAD_PERCENT: u32 = 20;

/// Gives back what a command left dead, as part of it.
fn cleaned(fs: &Fs, command: &Command, mut report: SettleReport) -> Result<Settled, String> {
    if !report.stopped {
        match fs.store().clean_while(DEAD_PERCENT, &mut |_, _| !command.is_stopped()) {
            Err(StoreError::Stopped) => report.stopped = true,
            done => drop(done.map_err(|e| e.to_string())?),
        }
    }
    Ok(report.into())
}

/// Codes all that waits, then gives dead space back.
pub fn settle(
    fs: &Fs,
    paths: &[FileName],
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Settled, String> {
    let command = fs.recoder().command();
    fs.flush_all().map_err(|e| e.to_string())?;
    let mut inos = Vec::new();
    for path in paths {
        let ino = path.find(fs).map_err(|e| format!("{path}: {e}"))?;
        files_below(fs, ino, &mut inos).map_err(|e| format!("{path}: {e}"))?;
    }
    let chosen = (!paths.is_empty()).then_some(inos);
    let report = command.settle(chosen, progress).map_err(|e| e.to_string())?;
    cleaned(fs, &command, report)
}

/// Governs these paths, or all, by another model, and codes anew what they hold.
pub fn recode(
    fs: &Fs,
    model: &str,
    paths: &[FileName],
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Settled, String> {
    let command = fs.recoder().command();
    fs.flush_all().map_err(|e| e.to_string())?;
    fs.blocks().models().tier(model).map_err(|e| e.to_string())?;
    let all = [FileName::Path(b"/".into())];
    let mut files = Vec::new();
    for path in if paths.is_empty() { &all } else { paths } {
        let ino = path.find(fs).map_err(|e| format!("{path}: {e}"))?;
        fs.govern(ino, model.as_bytes(), &mut files).map_err(|e| format!("{path}: {e}"))?;
    }
    let report = command.recode(&files, progress).map_err(|e| e.to_string())?;
    cleaned(fs, &command, report)
}

/// Makes sure that the object store is known, offline, too; what to tell of a command's progress.
fn connected<'a>(
    fs: &'a Fs,
    progress: &'a mut dyn FnMut(u64, u64),
    pid: Option<u32>,
) -> Result<impl FnMut(u64, u64) -> bool + use<'a>, String> {
    if pid.is_none() {
        fs.store().use_remote(REMOTE_PATIENCE).map_err(|e| e.to_string())?;
    }
    Ok(move |done, total| {
        progress(done, total);
        !fs.store().is_closing()
    })
}

/// Uploads everything, or has the daemon do so soon.
fn push(
    fs: &Fs,
    wait: bool,
    progress: &mut dyn FnMut(u64, u64),
    pid: Option<u32>,
) -> Result<Option<Uploaded>, String> {
    let text = |e: &dyn std::fmt::Display| e.to_string();
    fs.flush_all().map_err(|e| text(&e))?;
    let store = fs.store();
    if pid.is_some() && !wait {
        store.push_soon();
        return Ok(None);
    }
    let mut watch = connected(fs, progress, pid)?;
    store.push(&mut watch).map(Some).map_err(|e| text(&e))
}

/// Answers a request; `pid` of the daemon, if it is one that answers.
pub fn answer(
    fs: &Fs,
    request: &Request,
    progress: &mut dyn FnMut(u64, u64),
    pid: Option<u32>,
) -> Result<serde_json::Value, String> {
    let text = |e: &dyn std::fmt::Display| e.to_string();
    let value = match request {
        Request::Status => {
            let s = status(fs, pid).map_err(|e| text(&e))?;
            serde_json::to_value(s)
        }
        Request::Stat { paths, recurse } => {
            serde_json::to_value(super::stat::stat(fs, paths, *recurse)?)
        }
        Request::Words { path, words } => {
            let words: Vec<Vec<u8>> = words.iter().map(|w| w.clone().into_bytes()).collect();
            let ranges = path.find(fs).and_then(|ino| fs.may_hold(ino, &words));
            let ranges = ranges.map_err(|e| format!("{path}: {e}"))?;
            serde_json::to_value(ranges.iter().map(|r| (r.start, r.end)).collect::<Vec<_>>())
        }
        Request::Settle { paths } => serde_json::to_value(settle(fs, paths, progress)?),
        Request::SettleStop => Ok(serde_json::json!({ "stopped": fs.recoder().stop_commands() })),
        Request::Recode { model, paths } => {
            serde_json::to_value(recode(fs, model, paths, progress)?)
        }
        Request::ModelRm { name } => {
            fs.flush_all().map_err(|e| text(&e))?;
            let governs = fs.governed_by(name).map_err(|e| text(&e))?;
            let governs = governs.map(|path| String::from_utf8_lossy(&path).into_owned());
            let removed = fs.blocks().models().remove(name, governs.as_deref());
            removed.map_err(|e| text(&e))?;
            Ok(serde_json::Value::Null)
        }
        Request::Gc => {
            let gathered = fs.recoder().command().gather();
            gathered.map_err(|e| format!("shared frames: {e}"))?;
            let mut watch = |done, total| {
                progress(done, total);
                true
            };
            let r = fs.store().clean_while(0, &mut watch).map_err(|e| text(&e))?;
            serde_json::to_value(Settled {
                before_bytes: r.before_bytes,
                after_bytes: r.after_bytes,
                blocks: r.moved_frames,
                stopped: false,
                coded: None,
            })
        }
        Request::Scrub(options) => {
            let before = fs.store().stats().map_err(|e| text(&e))?.repaired;
            let mut s = super::scrub::scrub(fs, *options, progress).map_err(|e| text(&e))?;
            if pid.is_none() {
                s.note_opening(before, fs.store().index_was_rebuilt());
            }
            serde_json::to_value(s)
        }
        Request::RemoteStatus => {
            serde_json::to_value(fs.store().ask_remote(REMOTE_PATIENCE).map_err(|e| text(&e))?)
        }
        Request::RemoteSet { url } => {
            let store = fs.store();
            store.set_remote(url, REMOTE_PATIENCE).map_err(|e| text(&e))?;
            if pid.is_some() {
                store.attach_remote(&RemoteUse::default()).map_err(|e| text(&e))?;
            }
            Ok(serde_json::Value::Null)
        }
        Request::RemoteGc { grace } => {
            let mut watch = connected(fs, progress, pid)?;
            let grace = Duration::from_secs(*grace);
            serde_json::to_value(
                fs.store().collect_remote(grace, &mut watch).map_err(|e| text(&e))?,
            )
        }
        Request::RemoteScrub { repair } => {
            let mut watch = connected(fs, progress, pid)?;
            serde_json::to_value(
                fs.store().scrub_remote(*repair, &mut watch).map_err(|e| text(&e))?,
            )
        }
        Request::RemoteEvict { keep } => {
            let mut watch = connected(fs, progress, pid)?;
            serde_json::to_value(fs.store().evict_now(*keep, &mut watch).map_err(|e| text(&e))?)
        }
        Request::RemotePush { wait } => serde_json::to_value(push(fs, *wait, progress, pid)?),
        Request::Flush => {
            fs.flush_all().map_err(|e| text(&e))?;
            Ok(serde_json::Value::Null)
        }
    };
    value.map_err(|e| text(&e))
}
