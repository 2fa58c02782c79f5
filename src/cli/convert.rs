//! Models of other formats.

use super::output::outln;
use super::{FAILED, Failure, output};
use crate::model::Model;
use crate::model::import::{self, SAMPLE, oracle};
use crate::model::network::Network;
use crate::models;
use std::path::Path;

/// The canonical model of what lies at `path`; by default named, cut and laned as the source says. A network that was
/// trained on top of a prior gets that of the model `prior`.
pub fn convert(
    path: &Path,
    name: Option<&str>,
    unit: Option<u32>,
    lanes: Option<u32>,
    prior: &str,
) -> Result<Model, Failure> {
    if import::gated::is(path) {
        let mut model = import::gated::convert(path, &Model::from_bytes(&models::find(prior)?)?)?;
        if let Some(name) = name {
            model.manifest.name = name.into();
        }
        model.blocks.unit = unit.unwrap_or(model.blocks.unit);
        model.blocks.lanes = lanes.unwrap_or(model.blocks.lanes);
        return Ok(model);
    }
    let mut source = import::read(path)?;
    if let Some(name) = name {
        source.manifest.name = name.into();
    }
    source.blocks.unit = unit.unwrap_or(source.blocks.unit);
    source.blocks.lanes = lanes.unwrap_or(source.blocks.lanes);
    Ok(source.convert()?)
}

/// The reference and the exact engine side by side, on `text` or the built-in sample.
pub fn compare(path: &Path, model: &Model, text: Option<&[u8]>) -> Result<Compared, Failure> {
    const TOKENS: usize = 8192;
    let text = text.unwrap_or(SAMPLE.as_bytes());
    let Some(Network::Llama(network)) = &model.network else {
        let text = format!("'{}' has no network to compare", model.manifest.name);
        return Err(Failure::new(FAILED, text));
    };
    let source = import::read(path)?;
    Ok(Compared(oracle::compare(&source, &model.vocabulary, network, text, TOKENS)?))
}

/// What a comparison came to.
pub struct Compared(oracle::Report);

impl Compared {
    /// For people.
    pub fn print(&self) {
        let r = &self.0;
        outln!("on {} tokens, bits per byte:", r.tokens);
        outln!("  reference (single precision)  {:.4}", r.reference_bpb);
        outln!("  exact engine                  {:.4}", r.exact_bpb);
        outln!("  logits differ by {:.4} (root mean square) of their deviation", r.mean_logit);
        outln!(
            "  {:.0} tokens/s in one lane, {} of weights",
            r.tokens_per_s,
            output::size(r.bytes as u64)
        );
    }
}
