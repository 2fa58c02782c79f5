//! `lmfs model tune`.

use super::output::{self, Say};
#[cfg(feature = "import")]
use super::tune_network;
use super::{FAILED, Failure, Outcome, USAGE, model_bench, options, tune_prior, tune_source};
use crate::block::{Lm, Tier, bench};
use crate::model::corpus::{Corpus, CorpusError};
use crate::model::registry::{self, RegistryError, is_name};
use crate::model::texts::LeftOut;
use crate::model::{Manifest, Model, Registry};
use crate::models;
use crate::store::{Ecc, FRAME_HEADER, frame_len};
use serde::Serialize;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

/// Files left out that are named one by one.
const NAMED: usize = 20;
/// What is held out is chosen by it.
pub const SEED: u64 = 1;
/// Least and most memory that a prior's table may gain.
const MEMORY: [u64; 2] = [64 << 10, 256 << 20];

/// Arguments.
#[derive(Debug, clap::Args)]
#[command(group = clap::ArgGroup::new("text").required(true).args(["corpus", "store"]))]
pub struct Args {
    /// Text to learn: a directory, with those below it
    #[arg(long, value_name = "DIR")]
    corpus: Option<PathBuf>,
    /// Text to learn: what a store holds, or a directory of a mounted one
    #[arg(long, value_name = "DIR|STORE")]
    store: Option<PathBuf>,
    /// Name for the tuned model
    #[arg(long)]
    pub name: String,
    /// Model to start from
    #[arg(long, default_value = models::DEFAULT)]
    base: String,
    /// For a model with a prior: memory that its table may gain (K, M)
    #[arg(long, default_value = "16M", value_name = "SIZE")]
    memory: String,
    /// For a model with a network: minutes that it may take
    #[arg(long, default_value_t = 10.0, value_parser = minutes)]
    pub minutes: f64,
    /// Steps that it may take: the same work on a machine that is busy
    #[arg(long, hide = true, default_value_t = u64::MAX)]
    pub steps: u64,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

fn minutes(text: &str) -> Result<f64, String> {
    let most = 7.0 * 24.0 * 60.0;
    match text.parse::<f64>() {
        Ok(m) if m > 0.0 && m <= most => Ok(m),
        _ => Err(format!("not a number of minutes above 0, at most {most}")),
    }
}

/// Bits per byte of the held-out text.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Figures {
    /// The network alone, exact engine; a prior does not stand alone.
    pub alone: Option<f64>,
    /// As it would be stored: with the adaptive experts, in blocks, headers included.
    pub coded: f64,
}

/// What came of it.
#[derive(Debug, Serialize)]
pub struct Report {
    pub name: String,
    /// None if the model was not kept.
    pub id: Option<String>,
    pub base: String,
    pub base_id: String,
    pub kept: bool,
    pub corpus_bytes: u64,
    pub held_out_bytes: u64,
    pub left_out: Vec<PathBuf>,
    pub seconds: f64,
    pub resumed_from_s: Option<f64>,
    pub tokens: u64,
    pub tokens_per_s: f64,
    /// Of the tuned model's file.
    pub bytes: u64,
    pub bpb_base: Figures,
    pub bpb: Figures,
}

/// What is tuned.
pub struct Base {
    pub id: blake3::Hash,
    pub model: Model,
    pub lm: Arc<Lm>,
}

/// What tuning made of one of its parts.
pub struct Made {
    /// The model, still with the base's manifest.
    pub model: Model,
    /// Of the base.
    pub before: Figures,
    /// See [`Figures::alone`].
    pub alone: Option<f64>,
    pub seconds: f64,
    pub resumed_from_s: Option<f64>,
    pub tokens: u64,
}

/// Names what was made, and keeps it if it is better on what was held out.
pub fn keep(a: &Args, base: &Base, corpus: &Corpus, made: Made) -> Result<Report, Failure> {
    let Made { mut model, before, alone, seconds, resumed_from_s, tokens } = made;
    let (name, base_id) = (&base.model.manifest.name, base.id.to_hex().to_string());
    model.manifest = Manifest {
        name: a.name.clone(),
        version: "1".into(),
        licence: model.manifest.licence,
        source: format!("tuned from {name} {base_id}"),
    };
    let bytes = model.to_bytes();
    let lm = Lm::load(&bytes)?;
    log::info!("{}: {} in memory", a.name, output::size(lm.weight() as u64));
    let after = Figures { alone, coded: coded(Tier::with(lm), &corpus.held)? };
    let kept = match (before.alone, after.alone) {
        (Some(before_alone), Some(alone)) => alone < before_alone && after.coded <= before.coded,
        _ => after.coded < before.coded,
    };
    let added = if kept { Some(Registry::of_user().add(&bytes)?) } else { None };
    let id = added.map(|listed| listed.id.to_hex().to_string());
    Ok(Report {
        name: a.name.clone(),
        id,
        base: name.clone(),
        base_id,
        kept,
        corpus_bytes: corpus.bytes() + corpus.held_bytes(),
        held_out_bytes: corpus.held_bytes(),
        left_out: corpus.left_out.iter().map(|l| l.path.clone()).collect(),
        seconds,
        resumed_from_s,
        tokens,
        tokens_per_s: tokens as f64 / seconds.max(1e-9),
        bytes: bytes.len() as u64,
        bpb_base: before,
        bpb: after,
    })
}

/// True if there is a model of this name, whole or not.
fn taken(name: &str) -> bool {
    models::find(name).is_ok_and(|bytes| {
        registry::describe(&bytes, Path::new(name)).map_or(true, |(l, _)| l.manifest.name == name)
    })
}

fn name_left_out(left_out: &[LeftOut]) {
    for l in left_out.iter().take(NAMED) {
        log::warn!("left out: {}: {}", l.path.display(), l.reason);
    }
    if left_out.len() > NAMED {
        log::warn!("left out: {} more files", left_out.len() - NAMED);
    }
}

/// A corpus, or why there is none; what was left out is named in either case.
pub fn corpus(read: Result<Corpus, CorpusError>) -> Result<Corpus, Failure> {
    name_left_out(match &read {
        Ok(corpus) => &corpus.left_out,
        Err(e) => e.left_out(),
    });
    Ok(read?)
}

/// Bits per byte of a text as it would be stored.
pub fn coded(tier: Tier, held: &[Vec<u8>]) -> Result<f64, Failure> {
    let text = held.concat();
    let frame = |payload| frame_len(Ecc::Standard, payload);
    let m = bench::measure(&text, tier.unit() as usize, &tier, FRAME_HEADER as u64, frame)?;
    if !m.roundtrip {
        return Err(Failure::new(FAILED, "the text held out did not come back as it was"));
    }
    Ok(m.coded_bytes as f64 * 8.0 / (text.len() as f64).max(1.0))
}

/// Runs it.
pub fn run(a: &Args, say: Say) -> Outcome {
    let began = Instant::now();
    if !is_name(&a.name) {
        return Err(Failure::new(USAGE, RegistryError::Name(a.name.clone())));
    }
    let memory = options::size(&a.memory).ok().filter(|m| (MEMORY[0]..=MEMORY[1]).contains(m));
    let memory = memory.ok_or_else(|| {
        Failure::new(USAGE, format!("--memory {}: not a size from 64K to 256M", a.memory))
    })?;
    if taken(&a.name) {
        return Err(RegistryError::Taken(a.name.clone()).into());
    }
    let bytes = models::find(&a.base)?;
    let (id, model) = (blake3::hash(&bytes), Model::from_bytes(&bytes)?);
    drop(bytes);
    let base = Base { id, lm: Lm::of(*id.as_bytes(), &model)?, model };
    let corpus = match (&a.corpus, &a.store) {
        (Some(dir), _) => corpus(Corpus::read(dir, SEED))?,
        (_, Some(store)) => tune_source::read(store, SEED)?,
        (None, None) => return Err(Failure::new(USAGE, "give --corpus or --store")),
    };
    let report = match &base.model {
        Model { prior: Some(prior), .. } => {
            tune_prior::run(a, &base, prior, &corpus, memory as usize, say)?
        }
        #[cfg(feature = "import")]
        Model { network: Some(network), .. } => {
            tune_network::run(a, &base, network, &corpus, began, say)?
        }
        _ => {
            let _ = (began, a.minutes, a.steps);
            let text = "this lmfs was built without the feature 'import': it tunes models with a prior only";
            return Err(Failure::new(FAILED, text));
        }
    };
    if report.kept {
        model_bench::remember(&report.name);
    }
    if a.json {
        output::json(&report)?;
    } else {
        print(&report, a.store.as_deref(), say);
    }
    if report.kept {
        return Ok(());
    }
    Err(Failure::new(
        FAILED,
        format!(
            "'{}' is not kept: on the held-out text it is no better than {}; more text like it may help, or of a network more minutes",
            report.name, report.base
        ),
    ))
}

fn print(r: &Report, store: Option<&Path>, say: Say) {
    let line = |what: &str, base: f64, tuned: f64| {
        let change = (tuned / base.max(1e-9) - 1.0) * 100.0;
        say.line(&format!("  {what:<34} {base:>7.3} {tuned:>7.3} {change:>+7.1}%"));
    };
    say.line(&format!(
        "{} tokens in {} ({:.0}/s); bits per byte of {} held out:",
        r.tokens,
        output::duration(r.seconds),
        r.tokens_per_s,
        output::size(r.held_out_bytes)
    ));
    say.line(&format!("  {:<34} {:>7} {:>7}", "", "base", "tuned"));
    if let (Some(base), Some(own)) = (r.bpb_base.alone, r.bpb.alone) {
        line("the model alone", base, own);
    }
    line("as stored, with the experts", r.bpb_base.coded, r.bpb.coded);
    if let Some(id) = &r.id {
        say.line(&format!("{} is there; id {id}", r.name));
        if let Some(store) = store {
            let store = store.display();
            say.line(&format!("to use it: lmfs recode {store} --model {}", r.name));
        }
    }
}
