//! `lmfs model train`: a model with a prior, from a directory of text.

use super::output::{self, Say};
use super::progress::{Progress, Unit};
use super::{FAILED, Failure, Outcome, USAGE, model_bench, options};
use crate::block::{Lm, Tier, bench, looks_like_text};
use crate::codec::prior::LEAVES;
use crate::model::registry::{self, RegistryError};
use crate::model::texts::{LeftOut, files};
use crate::model::train::{Spool, TrainError, Training};
use crate::model::{Blocks, Counted, Manifest, Model, Network, Registry, Vocabulary};
use crate::models;
use crate::store::{Ecc, FRAME_HEADER, frame_len};
use serde::Serialize;
use std::path::PathBuf;
use std::time::Instant;

/// One file in so many is held out.
const SHARE: usize = 64;
/// Bytes of a file that is held out, and of all of them, at most.
const HELD: [usize; 2] = [256 << 10, 2 << 20];
/// Least and most memory of a table.
const MEMORY: [u64; 2] = [64 << 10, 1 << 30];
/// Files left out that are named one by one.
const NAMED: usize = 20;

/// Arguments.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Text to count: a directory, with those below it
    #[arg(long, value_name = "DIR", value_hint = clap::ValueHint::DirPath)]
    corpus: PathBuf,
    /// Name for the model
    #[arg(long)]
    name: String,
    /// Memory of its table (K, M); training takes 16 times as much
    #[arg(long, default_value = "64M", value_name = "SIZE")]
    memory: String,
    /// Count over this model's vocabulary, and put its network beside the prior
    #[arg(long, value_name = "MODEL")]
    network: Option<String>,
    /// Licence of the text
    #[arg(long, default_value = "unknown", value_name = "TEXT")]
    licence: String,
    /// Where the text is from
    #[arg(long, value_name = "TEXT")]
    source: Option<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Serialize)]
struct Report {
    name: String,
    id: String,
    corpus_bytes: u64,
    files: usize,
    left_out: Vec<PathBuf>,
    seconds: f64,
    bytes: u64,
    memory_bytes: u64,
    held_out_bytes: u64,
    /// Bits per byte of the text held out, as it would be stored; without a model, and with this one.
    bpb_fast: Option<f64>,
    bpb: Option<f64>,
}

fn bits_per_byte(held: &[Vec<u8>], tier: &Tier) -> Result<f64, Failure> {
    let (mut bytes, mut coded) = (0, 0);
    for text in held {
        let frame = |payload| frame_len(Ecc::Standard, payload);
        let unit = tier.unit() as usize;
        let m = bench::measure(text, unit, tier, FRAME_HEADER as u64, frame)?;
        if !m.roundtrip {
            return Err(Failure::new(FAILED, "a text held out did not come back as it was"));
        }
        bytes += m.bytes;
        coded += m.coded_bytes;
    }
    Ok(coded as f64 * 8.0 / bytes as f64)
}

/// What a model with a network gives to one with a prior beside it.
fn with_network(name: &str) -> Result<(Vocabulary, Blocks, Option<Network>), Failure> {
    let model = Model::from_bytes(&models::find(name)?)?;
    let refused = |why: &str| Err(Failure::new(FAILED, format!("model '{name}' {why}")));
    if model.network.is_none() {
        return refused("has no network: name one that has, or leave out --network");
    }
    if !Counted::fits(&model.vocabulary) {
        return refused(&format!(
            "has a vocabulary of {} tokens; a prior is for {LEAVES} at most: name one with fewer",
            model.vocabulary.tokenizer.len()
        ));
    }
    Ok((model.vocabulary, model.blocks, model.network))
}

/// Runs it.
pub fn run(a: &Args, say: Say) -> Outcome {
    let began = Instant::now();
    if !registry::is_name(&a.name) {
        return Err(Failure::new(USAGE, RegistryError::Name(a.name.clone())));
    }
    let memory = options::size(&a.memory).ok().filter(|m| (MEMORY[0]..=MEMORY[1]).contains(m));
    let memory = memory.ok_or_else(|| {
        Failure::new(USAGE, format!("--memory {}: not a size from 64K to 1024M", a.memory))
    })?;
    let registry = Registry::of_user();
    // One that is part of the program may be replaced; nobody's own is.
    if registry.has(&a.name) {
        return Err(RegistryError::Taken(a.name.clone()).into());
    }
    registry.make()?;
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let (mut found, mut left_out) = (Vec::new(), Vec::new());
    files(&a.corpus, &mut found, &mut left_out);
    let spooled = |e| Failure::new(FAILED, format!("{}: {e}", registry.dir().display()));
    let (vocabulary, blocks, network) = match &a.network {
        Some(name) => with_network(name)?,
        None => (Vocabulary::built_in(), Blocks::ALONE, None),
    };
    let vocab = vocabulary.ready();
    let mut spool = Spool::new(registry.dir(), &vocab, threads).map_err(spooled)?;
    let (mut held, mut held_bytes, mut taken) = (Vec::new(), 0, 0);
    for path in found {
        match std::fs::read(&path) {
            Ok(text) if text.is_empty() => {}
            Ok(text) if !looks_like_text(&text) => {
                left_out.push(LeftOut { path, reason: "no text".into() });
            }
            Ok(mut text) => {
                taken += 1;
                if taken % SHARE == 0 && held_bytes < HELD[1] {
                    text.truncate(HELD[0]);
                    held_bytes += text.len();
                    held.push(text);
                } else {
                    spool.push(&text).map_err(spooled)?;
                }
            }
            Err(e) => left_out.push(LeftOut { path, reason: e.to_string() }),
        }
    }
    for l in left_out.iter().take(NAMED) {
        log::warn!("left out: {}: {}", l.path.display(), l.reason);
    }
    if left_out.len() > NAMED {
        log::warn!("left out: {} more files", left_out.len() - NAMED);
    }
    let progress = Progress::new(say, "counting, passes", Unit::Steps);
    let training = Training { memory: memory as usize };
    let kinds = training
        .run(&mut spool, &mut |p| progress.at(p.done as u64, p.all as u64))
        .map_err(|e| match e {
            TrainError::TooLittle(_) => {
                Failure::new(FAILED, format!("{}: {e}", a.corpus.display()))
            }
            TrainError::Spool(e) => spooled(e),
        })?;
    drop(progress);
    let corpus_bytes = spool.bytes;
    drop(spool);
    let manifest = Manifest {
        name: a.name.clone(),
        version: "1".into(),
        licence: a.licence.clone(),
        source: a.source.clone().unwrap_or_else(|| format!("{corpus_bytes} bytes of text")),
    };
    let prior = Some(Counted::new(&vocab, kinds));
    let model = Model { manifest, blocks, vocabulary, prior, network };
    let bytes = model.to_bytes();
    let seconds = began.elapsed().as_secs_f64();
    let lm = Lm::load(&bytes)?;
    let memory_bytes = lm.weight() as u64;
    let (mut bpb_fast, mut bpb) = (None, None);
    if !held.is_empty() {
        bpb_fast = Some(bits_per_byte(&held, &Tier::FAST)?);
        // Of what was counted: a network beside it takes too long for so much text.
        bpb = Some(bits_per_byte(&held, &Tier::with(lm.without_network().unwrap_or(lm)))?);
    }
    let listed = registry.add(&bytes)?;
    model_bench::remember(&a.name);
    let report = Report {
        name: a.name.clone(),
        id: listed.id.to_hex().to_string(),
        corpus_bytes,
        files: taken,
        left_out: left_out.into_iter().map(|l| l.path).collect(),
        seconds,
        bytes: bytes.len() as u64,
        memory_bytes,
        held_out_bytes: held_bytes as u64,
        bpb_fast,
        bpb,
    };
    if a.json {
        return output::json(&report);
    }
    say.line(&format!(
        "{} of text in {} files counted in {:.0} s; {} at rest, {} in memory",
        output::size(corpus_bytes),
        report.files,
        seconds,
        output::size(report.bytes),
        output::size(memory_bytes)
    ));
    if let (Some(fast), Some(own)) = (bpb_fast, bpb) {
        let held = output::size(report.held_out_bytes);
        say.line(&format!(
            "bits per byte of {held} held out: {own:.3} (without a model {fast:.3})"
        ));
    }
    say.line(&format!("{} is there; id {}", report.name, report.id));
    Ok(())
}
