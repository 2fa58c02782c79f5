//! `lmfs model`: the registry.

use super::output::{self, Say, outln};
use super::progress::meanwhile;
use super::{FAILED, Failure, Outcome, USAGE, convert, model_bench, target};
use crate::block::{ENGINE, Lm};
use crate::codec::prior::{KINDS, Prior};
use crate::control::Request;
use crate::model::measured::{Figures, Measured};
use crate::model::network::{NUMERICS, Network};
use crate::model::registry::{self, Listed};
use crate::model::{FileError, Model, Registry};
use crate::models;
use serde::Serialize;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Arguments.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// What models there are
    List {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// All about one model
    Info {
        /// Name, or the beginning of an id
        name: String,
    },
    /// Measure what models cost on this machine: bits per byte and speed, which `list` shows
    Bench(model_bench::Args),
    /// Check that a model's file is whole and that it computes here what it must
    Verify {
        /// Name, or the beginning of an id
        name: String,
        /// Compare with the reference implementation on what the model was imported from
        #[arg(long, value_name = "SOURCE", value_hint = clap::ValueHint::AnyPath)]
        oracle: Option<PathBuf>,
        /// Compare on the first 8,192 tokens of this file instead of the built-in sample
        #[arg(long, value_name = "FILE", value_hint = clap::ValueHint::FilePath, requires = "oracle")]
        text: Option<PathBuf>,
    },
    /// Make a model of a GGUF file, a safetensors directory, a wheel or zip with one GGUF, or take
    /// an exported one
    Import {
        /// What to import
        #[arg(value_hint = clap::ValueHint::AnyPath)]
        source: PathBuf,
        /// Name for it; by default what the source says
        #[arg(long)]
        name: Option<String>,
        /// Bytes per block (K, M)
        #[arg(long, value_name = "SIZE")]
        block_size: Option<String>,
        /// Lanes per block: 1 gives the best ratio, more the faster decoding of a block
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=64))]
        lanes: Option<u32>,
        /// Its licence, where the source does not say
        #[arg(long, value_name = "TEXT")]
        licence: Option<String>,
        /// Model whose prior a gated network was trained on top of
        #[arg(long, value_name = "MODEL", default_value = "base")]
        prior: String,
    },
    /// Make a model with a prior: count a directory of text
    Train(super::train::Args),
    /// Make a model for one's own text: learn from files or a store, starting from another model
    Tune(super::tune::Args),
    /// Write a model's canonical file
    Export {
        /// Name, or the beginning of an id
        name: String,
        /// File to write; - for standard output
        #[arg(short, long, value_name = "OUT", value_hint = clap::ValueHint::FilePath)]
        output: PathBuf,
    },
    /// Remove a model; stores that use it have their own copies
    Rm {
        /// Name, or the beginning of an id
        name: String,
        /// Remove it from this store (or mounted directory) instead, if no frame needs it
        #[arg(long, value_name = "DIR|STORE", value_hint = clap::ValueHint::DirPath)]
        store: Option<PathBuf>,
    },
}

#[derive(Debug, Serialize)]
struct Row {
    id: String,
    name: String,
    parameters: u64,
    bytes: u64,
    licence: String,
    engine: u32,
    source: String,
    /// What it was measured to do on this machine, if it was.
    measured: Option<Measured>,
}

impl From<Listed> for Row {
    fn from(l: Listed) -> Self {
        Self {
            id: l.id.to_hex().to_string(),
            name: l.manifest.name,
            parameters: l.parameters,
            bytes: l.bytes,
            licence: l.manifest.licence,
            engine: l.engine,
            source: l.manifest.source,
            measured: None,
        }
    }
}

/// Runs it.
pub fn run(a: &Args, say: Say) -> Outcome {
    match &a.what {
        What::List { json } => list(*json),
        What::Info { name } => info(name),
        What::Verify { name, oracle, text } => {
            verify(name, oracle.as_deref(), text.as_deref(), say)
        }
        What::Import { source, name, block_size, lanes, licence, prior } => {
            let unit = block_size.as_deref().map(super::mkfs::block_size).transpose()?;
            import_model(source, name.as_deref(), (unit, *lanes), licence.as_deref(), prior, say)
        }
        What::Train(a) => super::train::run(a, say),
        What::Bench(a) => model_bench::run(a, say),
        What::Tune(a) => super::tune::run(a, say),
        What::Export { name, output } => export(name, output),
        What::Rm { name, store: Some(store) } => {
            let request = Request::ModelRm { name: name.clone() };
            target::run(store, &request, &mut |_, _| {}).map(drop)
        }
        What::Rm { name, store: None } => {
            let removed = Registry::of_user().remove(name);
            if removed.is_err() && models::EMBEDDED.iter().any(|(own, _)| own == name) {
                let text = format!("'{name}' is part of the program and cannot be removed");
                return Err(Failure::new(FAILED, text));
            }
            Ok(removed?)
        }
    }
}

fn list(json: bool) -> Outcome {
    let mut rows = Vec::new();
    let mut refused = Vec::new();
    for bytes in models::EMBEDDED.iter().map(|(_, bytes)| *bytes) {
        rows.push(Row::from(registry::describe(bytes, Path::new("the embedded model"))?.0));
    }
    for found in Registry::of_user().list()? {
        match found {
            Ok(l) => rows.push(l.into()),
            Err(e) => refused.push(e),
        }
    }
    let figures = Figures::of(&Registry::of_user());
    let measured = |id: &str| figures.get(id, ENGINE.into());
    for row in &mut rows {
        row.measured = measured(&row.id).cloned();
    }
    if json {
        output::json(&rows)?;
    } else {
        let head = model_bench::HEAD;
        outln!("{:<20} {:>12} {:>10} {head}  {:<18} id", "name", "parameters", "size", "licence");
        let print = |name: &str, count: &str, size: &str, m, licence: &str, id: &str| {
            let figures = model_bench::columns(m);
            outln!("{name:<20} {count:>12} {size:>10} {figures}  {licence:<18} {id}");
        };
        print("fast", "-", "-", measured("fast"), "", "no model");
        for r in &rows {
            let (count, size) = (r.parameters.to_string(), output::size(r.bytes));
            print(&r.name, &count, &size, r.measured.as_ref(), &r.licence, &r.id[..16]);
        }
        let all: Vec<_> = rows.iter().map(|r| r.measured.as_ref()).collect();
        if all.iter().any(Option::is_none) {
            outln!("-: not measured on this machine; lmfs model bench does it");
        }
        if all.iter().flatten().any(|m| !model_bench::of_sample(m)) {
            outln!("*: measured on a text of one's own, not on the built-in sample");
        }
    }
    for e in &refused {
        eprintln!("lmfs: {e}");
    }
    if refused.is_empty() {
        Ok(())
    } else {
        Err(Failure::new(FAILED, "some models are damaged; import them again"))
    }
}

fn info(name: &str) -> Outcome {
    let bytes = models::find(name)?;
    let (listed, model) = registry::describe(&bytes, Path::new(name))?;
    let row = Row::from(listed);
    outln!("name          {}", row.name);
    outln!("id            {}", row.id);
    outln!("source        {}", row.source);
    outln!("licence       {}", row.licence);
    outln!("parameters    {}", row.parameters);
    outln!("size          {}", output::size(row.bytes));
    outln!("engine        {}", row.engine);
    if let Some(m) = Figures::of(&Registry::of_user()).get(&row.id, ENGINE.into()) {
        outln!(
            "measured      {:.3} bits per byte, coding {}/s, reading {}/s",
            m.bits_per_byte,
            output::size(m.encode_bytes_per_s as u64),
            output::size(m.decode_bytes_per_s as u64)
        );
    }
    let (unit, lanes) = (output::size(model.blocks.unit.into()), model.blocks.lanes);
    outln!("block         {unit}, lanes {lanes}");
    outln!("vocabulary    {} tokens", model.vocabulary.tokenizer.len());
    if let Some(prior) = &model.prior {
        let (contexts, followers) = prior.size();
        outln!("prior         {contexts} contexts of {KINDS} kinds, {followers} followers");
        let memory = Prior::new(&model.vocabulary.ready(), &prior.kinds).weight();
        outln!("  memory      {}", output::size(memory as u64));
    }
    if let Some(network) = &model.network {
        let (weights, name) = (network.parameters(), network.architecture());
        outln!("network       {weights} weights, {name}, numerics {NUMERICS}");
        match network {
            Network::Llama(n) => {
                let h = &n.hyper;
                outln!("  layers      {} of width {}", h.layers, h.hidden);
                outln!(
                    "  heads       {}, {} for keys and values, {} wide",
                    h.heads,
                    h.kv_heads,
                    h.head_dim
                );
                outln!("  feed-forward {}", h.feed_forward);
                outln!("  window      {} tokens", h.window);
            }
            Network::Gated(n) => {
                let s = &n.sizes;
                outln!("  layers      {} of width {}", s.layers, s.hidden);
                outln!("  memory      {} numbers a layer", s.inner);
            }
        }
    }
    Ok(())
}

fn verify(name: &str, source: Option<&Path>, text: Option<&Path>, say: Say) -> Outcome {
    let bytes = models::find(name)?;
    let began = Instant::now();
    let load = || -> Result<_, Failure> {
        let model = Model::from_bytes(&bytes)?;
        let lm = Lm::of(*blake3::hash(&bytes).as_bytes(), &model)?;
        Ok((model, lm))
    };
    let (model, lm) = meanwhile(say, "checking", load)?;
    let isa = if lm.is_slow() { format!(" ({})", lm.isa()) } else { String::new() };
    outln!(
        "{}: whole, and computes here{isa} what it must; {:.0} ms",
        lm.name(),
        began.elapsed().as_secs_f64() * 1e3
    );
    if let Some(path) = source {
        let text = text
            .map(|t| {
                std::fs::read(t).map_err(|e| Failure::new(FAILED, format!("{}: {e}", t.display())))
            })
            .transpose()?;
        let compare = || convert::compare(path, &model, text.as_deref());
        let compared = meanwhile(say, "comparing", compare)?;
        compared.print();
    }
    Ok(())
}

fn import_model(
    path: &Path,
    name: Option<&str>,
    (unit, lanes): (Option<u32>, Option<u32>),
    licence: Option<&str>,
    prior: &str,
    say: Say,
) -> Outcome {
    if let Some(name) = name.filter(|n| !registry::is_name(n)) {
        return Err(Failure::new(USAGE, registry::RegistryError::Name(name.into())));
    }
    let registry = Registry::of_user();
    if path.is_file() {
        let bytes = std::fs::read(path)
            .map_err(|e| Failure::new(FAILED, format!("{}: {e}", path.display())))?;
        match Model::from_bytes(&bytes) {
            Err(FileError::Magic) => {}
            model => return take(bytes, model?, name, say),
        }
    }
    let convert = || convert::convert(path, name, unit, lanes, prior);
    let mut model = meanwhile(say, "converting", convert)?;
    if let Some(licence) = licence {
        model.manifest.licence = licence.into();
    }
    let listed = registry.add(&model.to_bytes())?;
    let compared = matches!(model.network, Some(Network::Llama(_)));
    if compared && !say.quiet {
        meanwhile(say, "comparing", || convert::compare(path, &model, None))?.print();
    }
    taken(&listed, say)
}

/// Takes a canonical file. Another name makes it another model.
fn take(bytes: Vec<u8>, mut model: Model, name: Option<&str>, say: Say) -> Outcome {
    let bytes = match name {
        Some(name) if name != model.manifest.name => {
            model.manifest.name = name.into();
            model.to_bytes()
        }
        _ => bytes,
    };
    Lm::of(*blake3::hash(&bytes).as_bytes(), &model)?;
    taken(&Registry::of_user().add(&bytes)?, say)
}

#[allow(clippy::unnecessary_wraps, reason = "it ends an import")]
fn taken(l: &Listed, say: Say) -> Outcome {
    model_bench::remember(&l.manifest.name);
    say.line(&format!("{} is there; id {}", l.manifest.name, l.id.to_hex()));
    Ok(())
}

fn export(name: &str, to: &Path) -> Outcome {
    let bytes = models::find(name)?;
    if to == Path::new("-") {
        use std::io::Write;
        return Ok(std::io::stdout().write_all(&bytes)?);
    }
    std::fs::write(to, &bytes).map_err(|e| Failure::new(FAILED, format!("{}: {e}", to.display())))
}
