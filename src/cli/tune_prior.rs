//! Tuning a model with a prior: counting. Its network, if it has one, stays as it is.

use super::output::Say;
use super::progress::{Progress, Unit};
use super::tuned::{self, Base, Figures, Made, Report, coded};
use super::{FAILED, Failure};
use crate::block::Tier;
use crate::model::train::{Adapting, Spool, TrainError};
use crate::model::{Corpus, Counted, Model, Registry};
use std::sync::Arc;
use std::time::Instant;

/// Counts the corpus on top of the base's prior.
pub fn run(
    name: &str,
    base: &Base,
    prior: &Counted,
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
    let vocab = base.lm.vocab();
    let mut spool = Spool::new(registry.dir(), vocab, threads).map_err(room)?;
    for text in &corpus.texts {
        spool.push(text).map_err(room)?;
    }
    let progress = Progress::new(say, "counting, passes", Unit::Steps);
    let adapting = Adapting { base: &prior.kinds, memory };
    let kinds = adapting.run(&mut spool, &mut |p| progress.at(p.done as u64, p.all as u64));
    drop(progress);
    let kinds = kinds.map_err(|e| match e {
        TrainError::Spool(e) => room(e),
        e @ TrainError::TooLittle(_) => {
            Failure::new(FAILED, format!("model '{}': {e}", base.model.manifest.name))
        }
    })?;
    let tokens = spool.tokens;
    drop(spool);
    let model = Model { prior: Some(Counted::new(vocab, kinds)), ..base.model.clone() };
    let seconds = began.elapsed().as_secs_f64();
    let tier = Tier::with(Arc::clone(&base.lm));
    let before = Figures { alone: None, coded: coded(tier, &corpus.held)? };
    let made = Made { model, before, alone: None, seconds, resumed_from_s: None, tokens };
    tuned::keep(name, base, corpus, made)
}
