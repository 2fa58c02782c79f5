//! `lmfs model tune`.

use super::output::{self, Say};
#[cfg(feature = "import")]
use super::tune_network;
use super::tuned::{Base, Report, SEED};
use super::{FAILED, Failure, Outcome, USAGE, model_bench, options, tune_prior, tune_source};
use crate::block::Lm;
use crate::model::Model;
use crate::model::corpus::Corpus;
#[cfg(feature = "import")]
use crate::model::network::Network;
use crate::model::registry::{self, RegistryError, is_name};
use crate::models;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Least and most memory that a prior's table may gain.
const MEMORY: [u64; 2] = [64 << 10, 256 << 20];

/// Arguments.
#[derive(Debug, clap::Args)]
#[command(group = clap::ArgGroup::new("text").required(true).args(["corpus", "store"]))]
pub struct Args {
    /// Text to learn: a directory, with those below it
    #[arg(long, value_name = "DIR", value_hint = clap::ValueHint::DirPath)]
    corpus: Option<PathBuf>,
    /// Text to learn: what a store holds, or a directory of a mounted one
    #[arg(long, value_name = "DIR|STORE", value_hint = clap::ValueHint::DirPath)]
    store: Option<PathBuf>,
    /// Name for the tuned model
    #[arg(long)]
    pub name: String,
    /// Model to start from
    #[arg(long, default_value = models::DEFAULT, value_name = "MODEL")]
    base: String,
    /// For a model with a prior: memory that its table may gain (K, M)
    #[arg(long, default_value = "16M", value_name = "SIZE")]
    memory: String,
    /// For a model with a network: minutes that it may take
    #[arg(long, value_name = "N", default_value_t = 10.0, value_parser = minutes)]
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

/// True if there is a model of this name, whole or not.
fn taken(name: &str) -> bool {
    models::find(name).is_ok_and(|bytes| {
        registry::describe(&bytes, Path::new(name)).map_or(true, |(l, _)| l.manifest.name == name)
    })
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
        (Some(dir), _) => tune_source::corpus(Corpus::read(dir, SEED))?,
        (_, Some(store)) => tune_source::read(store, SEED)?,
        (None, None) => return Err(Failure::new(USAGE, "give --corpus or --store")),
    };
    let report = match &base.model {
        Model { prior: Some(prior), .. } => {
            tune_prior::run(&a.name, &base, prior, &corpus, memory as usize, say)?
        }
        #[cfg(feature = "import")]
        Model { network: Some(Network::Llama(network)), .. } => tune_network::run(
            a.name.as_str(),
            (a.minutes, a.steps),
            &base,
            network,
            &corpus,
            began,
            say,
        )?,
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
