//! `lmfs model bench`: what models cost on this machine.

use super::output::{self, Say, outln};
use super::progress::meanwhile;
use super::{FAILED, Failure, Outcome, mkfs};
use crate::block::{ENGINE, Tier, bench};
use crate::model::Registry;
use crate::model::measured::{Figures, Measured};
use crate::models;
use crate::store::{Ecc, FRAME_HEADER, frame_len};
use serde::Serialize;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// What is coded where no text is given: a log, prose, code; each alone, as a small file would be.
const SAMPLE: [&[u8]; 3] = [
    include_bytes!("../models/sample/log"),
    include_bytes!("../models/sample/prose"),
    include_bytes!("../models/sample/code"),
];
/// Fast models are measured again and again for so long, and the best counts.
const WHILE: Duration = Duration::from_millis(500);
/// Most bytes of a file that is measured.
const MOST: u64 = 64 << 20;

/// Arguments.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Names, or beginnings of ids; all models if none is given
    #[arg(value_name = "NAME")]
    names: Vec<String>,
    /// Measure on this text instead of the built-in sample
    #[arg(long, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    text: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Serialize)]
struct Row {
    id: Option<String>,
    #[serde(flatten)]
    measured: Measured,
}

/// True if figures are of the built-in sample.
pub fn of_sample(m: &Measured) -> bool {
    m.text == hash(&SAMPLE)
}

fn hash(texts: &[&[u8]]) -> String {
    let mut hash = blake3::Hasher::new();
    for text in texts {
        hash.update(text);
    }
    hash.finalize().to_hex().to_string()
}

/// Codes and decodes texts, each alone.
fn measure(name: &str, tier: &Tier, texts: &[&[u8]]) -> Result<Measured, Failure> {
    let frame = |payload| frame_len(Ecc::Standard, payload);
    let (began, mut best) = (Instant::now(), [f64::MAX; 2]);
    let (mut bytes, mut coded);
    loop {
        let mut seconds = [0.0; 2];
        (bytes, coded) = (0, 0);
        for text in texts {
            let m = bench::measure(text, tier.unit() as usize, tier, FRAME_HEADER as u64, frame)?;
            if !m.roundtrip {
                let text = format!("model '{name}': the text did not come back as it was");
                return Err(Failure::new(FAILED, text));
            }
            bytes += m.bytes;
            coded += m.coded_bytes;
            seconds[0] += m.encode_s;
            seconds[1] += m.decode_s;
        }
        best = [best[0].min(seconds[0]), best[1].min(seconds[1])];
        if began.elapsed() > WHILE {
            break;
        }
    }
    Ok(Measured {
        name: name.to_owned(),
        bits_per_byte: coded as f64 * 8.0 / (bytes as f64).max(1.0),
        encode_bytes_per_s: bytes as f64 / best[0].max(1e-9),
        decode_bytes_per_s: bytes as f64 / best[1].max(1e-9),
        text_bytes: bytes,
        text: hash(texts),
        engine: ENGINE.into(),
    })
}

/// Measures a model that has been added. It is there in any case, so what goes wrong is only said.
pub fn remember(name: &str) {
    let kept = mkfs::tier(name).and_then(|tier| {
        let Some(lm) = &tier.lm else { return Ok(()) };
        let m = measure(name, &tier, &SAMPLE)?;
        keep(&mut Figures::of(&Registry::of_user()), &models::hex(&lm.id()), m)
    });
    if let Err(e) = kept {
        log::warn!("'{name}' is there, but was not measured: {}", e.message);
    }
}

fn keep(figures: &mut Figures, id: &str, m: Measured) -> Outcome {
    figures.keep(id, m).map_err(|(path, e)| {
        let text = format!("{}: {e}; the figures are not kept", path.display());
        Failure::new(FAILED, text)
    })
}

fn text(path: &Path) -> Result<Vec<u8>, Failure> {
    let failed =
        |e: &dyn std::fmt::Display| Failure::new(FAILED, format!("{}: {e}", path.display()));
    let len = std::fs::metadata(path).map_err(|e| failed(&e))?.len();
    if len > MOST {
        return Err(failed(&"larger than 64 MiB; a part of it will do"));
    }
    match std::fs::read(path).map_err(|e| failed(&e))? {
        text if text.is_empty() => Err(failed(&"empty; give a text")),
        text => Ok(text),
    }
}

/// Runs it.
pub fn run(a: &Args, say: Say) -> Outcome {
    let own = a.text.as_deref().map(text).transpose()?;
    let own: Option<[&[u8]; 1]> = own.as_ref().map(|t| [&t[..]]);
    let texts: &[&[u8]] = own.as_ref().map_or(&SAMPLE, |t| t);
    let registry = Registry::of_user();
    let mut names = a.names.clone();
    if names.is_empty() {
        let listed = registry.list()?.into_iter().flatten().map(|l| l.manifest.name);
        names = ["fast".into(), models::DEFAULT.to_owned()].into_iter().chain(listed).collect();
        let mut seen = std::collections::HashSet::new();
        names.retain(|n| seen.insert(n.clone()));
    }
    // All names are right, or none is measured.
    for name in names.iter().filter(|n| *n != "fast") {
        models::find(name)?;
    }
    let mut figures = Figures::of(&registry);
    let (mut rows, mut kept) = (Vec::new(), Ok(()));
    if !a.json {
        outln!("{:<20} {HEAD}", "name");
    }
    for name in &names {
        let tier = mkfs::tier(name)?;
        let id = tier.lm.as_ref().map(|lm| models::hex(&lm.id()));
        let name = tier.lm.as_ref().map_or("fast", |lm| lm.name());
        let measured = meanwhile(say, name, || measure(name, &tier, texts))?;
        if !a.json {
            outln!("{name:<20} {}", columns(Some(&measured)));
        }
        let key = id.clone().unwrap_or_else(|| name.to_owned());
        if let Err(e) = keep(&mut figures, &key, measured.clone()) {
            kept = Err(e);
        }
        rows.push(Row { id, measured });
    }
    if a.json {
        output::json(&rows)?;
    }
    kept
}

/// What [`columns`] are of.
pub const HEAD: &str = "bits/byte   coding  reading";

/// Figures as a table shows them: bits per byte, kB/s coded and decoded.
pub fn columns(m: Option<&Measured>) -> String {
    let Some(m) = m else { return format!("{:>9} {:>8} {:>8}", "-", "-", "-") };
    let speed = |v: f64| match v {
        v if v >= 1e6 => format!("{:.1} MB/s", v / 1e6),
        v => format!("{:.0} kB/s", v / 1e3),
    };
    // Not to be compared with the others.
    let mark = if of_sample(m) { "" } else { "*" };
    format!(
        "{:>9} {:>8} {:>8}",
        format!("{:.3}{mark}", m.bits_per_byte),
        speed(m.encode_bytes_per_s),
        speed(m.decode_bytes_per_s)
    )
}
