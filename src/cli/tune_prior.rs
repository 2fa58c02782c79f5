//! Tuning a model with a prior: counting.

use super::output::{self, Say};
use super::tune::{Args, Figures, Report, base_of, coded};
use super::{FAILED, Failure};
use crate::block::{Lm, Tier};
use crate::model::file::Manifest;
use crate::model::train::{Adapting, Spool, TrainError};
use crate::model::{Corpus, PriorModel, Registry, prior};
use std::time::Instant;

/// Counts the corpus on top of the base, and keeps the result if it is better on what was held out.
pub fn run(
    a: &Args,
    base: &PriorModel,
    base_bytes: &[u8],
    corpus: &Corpus,
    memory: usize,
    say: Say,
) -> Result<Report, Failure> {
    let began = Instant::now();
    let registry = Registry::of_user();
    registry.make()?;
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let room = |e: std::io::Error| {
        let dir = registry.dir().display();
        Failure::new(
            FAILED,
            format!(
                "{dir}: {e}; nothing is kept: make room there, or name another directory with LMFS_MODELS"
            ),
        )
    };
    let unpacked = prior::Unpacked::from_bytes(base_bytes)
        .map_err(|e| Failure::new(FAILED, format!("model '{}': {e}", base.manifest.name)))?;
    let mut spool = Spool::new(registry.dir(), &unpacked.vocab, threads).map_err(room)?;
    for text in &corpus.texts {
        spool.push(text).map_err(room)?;
    }
    let bar = say.bar();
    let adapting = Adapting { base: &unpacked.kinds, memory };
    let kinds = adapting.run(&mut spool, &mut |p| {
        bar.set_length(p.all as u64);
        bar.set_position(p.done as u64);
    });
    bar.finish_and_clear();
    let kinds = kinds.map_err(|e| match e {
        TrainError::Spool(e) => room(e),
        e @ TrainError::TooLittle(_) => {
            Failure::new(FAILED, format!("model '{}': {e}", base.manifest.name))
        }
    })?;
    let tokens = spool.tokens;
    drop(spool);
    let base_id = blake3::hash(base_bytes).to_hex().to_string();
    let manifest = Manifest {
        name: a.name.clone(),
        version: "1".into(),
        licence: base.manifest.licence.clone(),
        source: base_of(&base.manifest.name, &base_id),
    };
    let vocabulary = &base_bytes[unpacked.vocabulary.clone()];
    let bytes = prior::to_bytes(&manifest, vocabulary, &kinds)
        .ok_or_else(|| Failure::new(FAILED, "the base's vocabulary is damaged"))?;
    let seconds = began.elapsed().as_secs_f64();
    let figures = |bytes: &[u8]| -> Result<(Figures, usize), Failure> {
        let lm = Lm::load(bytes)?;
        let memory = lm.weight();
        Ok((Figures { alone: None, coded: coded(Tier::with(lm), &corpus.held)? }, memory))
    };
    let (bpb_base, _) = figures(base_bytes)?;
    let (bpb, memory) = figures(&bytes)?;
    let kept = bpb.coded < bpb_base.coded;
    let id = if kept { Some(registry.add(&bytes)?.id.to_hex().to_string()) } else { None };
    log::info!("{}: {} in memory", a.name, output::size(memory as u64));
    Ok(Report {
        name: a.name.clone(),
        id,
        base: base.manifest.name.clone(),
        base_id,
        kept,
        corpus_bytes: corpus.bytes() + corpus.held_bytes(),
        held_out_bytes: corpus.held_bytes(),
        left_out: corpus.left_out.iter().map(|l| l.path.clone()).collect(),
        seconds,
        resumed_from_s: None,
        tokens,
        tokens_per_s: tokens as f64 / seconds.max(1e-9),
        bytes: bytes.len() as u64,
        bpb_base,
        bpb,
    })
}
