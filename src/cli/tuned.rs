//! What tuning made of a model: judged on text held out, and kept if it is better.

use super::{FAILED, Failure, output};
use crate::block::{Lm, Tier, bench};
use crate::model::{Corpus, Manifest, Model, Registry};
use crate::store::{Ecc, FRAME_HEADER, frame_len};
use serde::Serialize;
use std::path::PathBuf;
use std::sync::Arc;

/// What is held out is chosen by it.
pub const SEED: u64 = 1;

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
pub fn keep(name: &str, base: &Base, corpus: &Corpus, made: Made) -> Result<Report, Failure> {
    let Made { mut model, before, alone, seconds, resumed_from_s, tokens } = made;
    let (old, base_id) = (&base.model.manifest.name, base.id.to_hex().to_string());
    model.manifest = Manifest {
        name: name.to_owned(),
        version: "1".into(),
        licence: model.manifest.licence,
        source: format!("tuned from {old} {base_id}"),
    };
    let bytes = model.to_bytes();
    let lm = Lm::load(&bytes)?;
    log::info!("{name}: {} in memory", output::size(lm.weight() as u64));
    let after = Figures { alone, coded: coded(Tier::with(lm), &corpus.held)? };
    let kept = match (before.alone, after.alone) {
        (Some(before_alone), Some(alone)) => alone < before_alone && after.coded <= before.coded,
        _ => after.coded < before.coded,
    };
    let added = if kept { Some(Registry::of_user().add(&bytes)?) } else { None };
    let id = added.map(|listed| listed.id.to_hex().to_string());
    Ok(Report {
        name: name.to_owned(),
        id,
        base: old.clone(),
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
