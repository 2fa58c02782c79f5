//! `lmfs compress` and `lmfs decompress`.

use super::output::{self, Say};
use super::{FAILED, Failure, Outcome, mkfs};
use crate::block::ModelId;
use crate::block::container::{self, ContainerError};
use crate::models::{self, ModelError};
use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

/// The data are damaged beyond repair.
const DAMAGED: u8 = 3;
/// The model is not there.
const NO_MODEL: u8 = 4;
/// Blocks worked on at a time.
const THREADS: usize = 2;

/// Arguments.
#[derive(Debug, clap::Args)]
pub struct CompressArgs {
    /// File to compress; - for standard input
    input: PathBuf,
    /// Container to write; - for standard output
    #[arg(short, long)]
    output: PathBuf,
    /// Model
    #[arg(short, long, default_value = models::DEFAULT)]
    model: String,
    /// Bytes per block (K, M)
    #[arg(short, long)]
    block_size: Option<String>,
}

/// Arguments.
#[derive(Debug, clap::Args)]
pub struct DecompressArgs {
    /// Container; - for standard input
    input: PathBuf,
    /// File to write; - for standard output
    #[arg(short, long)]
    output: PathBuf,
}

fn source(path: &Path) -> Result<Box<dyn Read>, Failure> {
    if path == Path::new("-") {
        return Ok(Box::new(io::stdin().lock()));
    }
    let file =
        File::open(path).map_err(|e| Failure::new(FAILED, format!("{}: {e}", path.display())))?;
    Ok(Box::new(BufReader::with_capacity(1 << 20, file)))
}

/// Writes to a file beside the wanted one, which appears only once it is whole.
fn with_output(
    path: &Path,
    work: impl FnOnce(&mut dyn Write) -> Result<(), ContainerError>,
) -> Result<(), ContainerError> {
    if path == Path::new("-") {
        return work(&mut io::stdout().lock());
    }
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".partial{}", std::process::id()));
    let partial = path.with_file_name(name);
    let made = (|| {
        let mut out = BufWriter::with_capacity(1 << 20, File::create(&partial)?);
        work(&mut out)?;
        out.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()?;
        std::fs::rename(&partial, path)?;
        Ok(())
    })();
    if made.is_err() {
        let _ = std::fs::remove_file(&partial);
    }
    made
}

fn failure(path: &Path, e: &ContainerError) -> Failure {
    let code = match e {
        ContainerError::Damaged(_) => DAMAGED,
        ContainerError::Missing(_) => NO_MODEL,
        ContainerError::Io(_) => FAILED,
    };
    Failure::new(code, format!("{}: {e}", path.display()))
}

/// Runs `compress`.
pub fn compress(a: &CompressArgs, say: Say) -> Outcome {
    let tier = mkfs::tier(&a.model)?;
    let block = match &a.block_size {
        Some(t) => mkfs::block_size(t)?,
        None => tier.unit(),
    };
    let mut input = source(&a.input)?;
    with_output(&a.output, |out| {
        container::compress(&mut input, out, block as usize, &tier, THREADS)
    })
    .map_err(|e| failure(&a.input, &e))?;
    let len = |p: &Path| std::fs::metadata(p).map(|m| m.len());
    if let (Ok(before), Ok(after)) = (len(&a.input), len(&a.output)) {
        say.line(&format!("{} became {}", output::size(before), output::size(after)));
    }
    Ok(())
}

/// Runs `decompress`.
pub fn decompress(a: &DecompressArgs) -> Outcome {
    let mut input = source(&a.input)?;
    let find = |id: &ModelId, name: &str| {
        let id = blake3::Hash::from_bytes(*id).to_hex();
        models::load(&id).map_err(|e| match e {
            ModelError::Registry(_) => format!(
                "the model '{name}', id {id}, which is not there; get its file (lmfs model export \
                 where the archive was made), then: lmfs model import FILE"
            ),
            e => format!("the model '{name}', id {id}: {e}"),
        })
    };
    with_output(&a.output, |out| container::decompress(&mut input, out, &find, THREADS))
        .map_err(|e| failure(&a.input, &e))
}
