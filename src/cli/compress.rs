//! `lmfs compress` and `lmfs decompress`.

use super::output::{self, Say};
use super::progress::{Progress, Unit, Watched};
use super::{FAILED, Failure, Outcome, mkfs, partial};
use crate::block::container::{self, ContainerError};
use crate::block::{Lm, ModelId};
use crate::models::{self, ModelError};
use rustix::fs::{CWD, RenameFlags, renameat_with};
use std::fs::{File, OpenOptions};
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The data are damaged beyond repair.
const DAMAGED: u8 = 3;
/// The model is not there.
const NO_MODEL: u8 = 4;
/// Blocks worked on at a time.
const THREADS: usize = 2;
/// Symbolic links followed, as by the kernel.
const LINKS: usize = 40;

/// Arguments.
#[derive(Debug, clap::Args)]
pub struct CompressArgs {
    /// File to compress; - for standard input
    #[arg(value_name = "IN", value_hint = clap::ValueHint::FilePath)]
    input: PathBuf,
    /// Container to write; - for standard output
    #[arg(
        short,
        long,
        value_name = "OUT",
        required_unless_present = "test",
        conflicts_with = "test"
    )]
    #[arg(value_hint = clap::ValueHint::FilePath)]
    output: Option<PathBuf>,
    /// Overwrite a file that is there
    #[arg(short, long)]
    force: bool,
    /// Only test that IN, which is a container, decodes; write nothing
    #[arg(short, long)]
    test: bool,
    /// Model
    #[arg(short, long, default_value = models::DEFAULT)]
    model: String,
    /// Bytes per block (K, M)
    #[arg(short, long, value_name = "SIZE")]
    block_size: Option<String>,
}

/// Arguments.
#[derive(Debug, clap::Args)]
pub struct DecompressArgs {
    /// Container, or several one behind the other; - for standard input
    #[arg(value_name = "IN", value_hint = clap::ValueHint::FilePath)]
    input: PathBuf,
    /// File to write; - for standard output
    #[arg(
        short,
        long,
        value_name = "OUT",
        required_unless_present = "test",
        conflicts_with = "test"
    )]
    #[arg(value_hint = clap::ValueHint::FilePath)]
    output: Option<PathBuf>,
    /// Overwrite a file that is there
    #[arg(short, long)]
    force: bool,
    /// Only test that all of it decodes; write nothing
    #[arg(short, long)]
    test: bool,
}

fn at(path: &Path, e: impl std::fmt::Display) -> Failure {
    Failure::new(FAILED, format!("{}: {e}", path.display()))
}

/// The input, and how long it is if that is known.
fn source(path: &Path) -> Result<(Box<dyn Read>, Option<u64>), Failure> {
    if path == Path::new("-") {
        return Ok((Box::new(io::stdin().lock()), None));
    }
    let file = File::open(path).map_err(|e| at(path, e))?;
    let len = file.metadata().ok().filter(std::fs::Metadata::is_file).map(|m| m.len());
    Ok((Box::new(BufReader::with_capacity(1 << 20, file)), len))
}

/// Where output goes.
#[derive(Debug)]
enum Target {
    Stdout,
    /// A device, a pipe or an open descriptor of somebody's: it is written into.
    Stream(File),
    /// A regular file, with the permissions of the one that it replaces: it appears once it is whole.
    /// `replace`: one that is there may go.
    Regular {
        path: PathBuf,
        mode: Option<u32>,
        replace: bool,
    },
}

impl Target {
    fn of(path: &Path, force: bool) -> Result<Self, Failure> {
        if ["-", "/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"].iter().any(|p| path == Path::new(p))
        {
            return Ok(Self::Stdout);
        }
        let there = match std::fs::symlink_metadata(path) {
            Ok(m) => m,
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                return Ok(Self::Regular { path: path.into(), mode: None, replace: force });
            }
            Err(e) => return Err(at(path, e)),
        };
        if there.is_file() && !force {
            return Err(at(path, "exists; -f overwrites it"));
        }
        // A link stays, and what it leads to is written, as if it had been named with -f: whoever
        // made the link wants that.
        let (end, descriptor) = if there.is_symlink() {
            follow(path).map_err(|e| at(path, e))?
        } else {
            (path.into(), false)
        };
        // Asked of the name given: where the kernel follows no link (fs.protected_symlinks), we do not.
        let mode = match std::fs::metadata(path) {
            Ok(m) if m.is_file() && !descriptor => Some(m.permissions().mode() & 0o777),
            Err(e) if e.kind() == io::ErrorKind::NotFound => None,
            Err(e) => return Err(at(path, e)),
            Ok(_) => {
                // What others wrote to a descriptor before stays.
                let open = OpenOptions::new().append(descriptor).write(true).open(path);
                return Ok(Self::Stream(open.map_err(|e| at(path, e))?));
            }
        };
        Ok(Self::Regular { path: end, mode, replace: true })
    }

    /// Has `work` write there; `path` is for messages. Nothing that looks like a whole file is left
    /// of one that is not. True if the result is a file with a size.
    fn write(
        self,
        path: &Path,
        work: impl FnOnce(&mut dyn Write) -> Result<(), Failure>,
    ) -> Result<bool, Failure> {
        match self {
            Self::Stdout => work(&mut BufWriter::with_capacity(1 << 20, io::stdout().lock()))?,
            Self::Stream(file) => {
                let mut out = BufWriter::with_capacity(1 << 20, &file);
                work(&mut out)?;
                out.flush().map_err(|e| at(path, e))?;
                drop(out);
                if file.metadata().is_ok_and(|m| m.file_type().is_block_device()) {
                    file.sync_all().map_err(|e| at(path, e))?;
                }
            }
            Self::Regular { path: end, mode, replace } => {
                let (file, partial) = partial::make(directory(&end)).map_err(|e| at(path, e))?;
                let filled = fill(file, mode, path, work);
                partial::finish(&partial, || {
                    filled?;
                    appear(&partial, &end, replace).map_err(|e| at(path, e))
                })?;
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// Where a symbolic link leads in the end, and whether by way of an open descriptor: that has no
/// name to trust.
fn follow(link: &Path) -> io::Result<(PathBuf, bool)> {
    let mut path = link.to_path_buf();
    for _ in 0..LINKS {
        match std::fs::symlink_metadata(&path) {
            Ok(m) if m.is_symlink() => {}
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => return Ok((path, false)),
        }
        let dir = directory(&path).canonicalize()?;
        if dir.starts_with("/proc") {
            return Ok((path, true));
        }
        path = dir.join(std::fs::read_link(&path)?);
    }
    Err(io::Error::from_raw_os_error(libc::ELOOP))
}

fn directory(path: &Path) -> &Path {
    path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."))
}

fn fill(
    file: File,
    mode: Option<u32>,
    path: &Path,
    work: impl FnOnce(&mut dyn Write) -> Result<(), Failure>,
) -> Result<(), Failure> {
    if let Some(mode) = mode {
        file.set_permissions(PermissionsExt::from_mode(mode)).map_err(|e| at(path, e))?;
    }
    let mut out = BufWriter::with_capacity(1 << 20, file);
    work(&mut out)?;
    let file = out.into_inner().map_err(|e| at(path, e.into_error()))?;
    file.sync_all().map_err(|e| at(path, e))
}

/// Gives a whole file its name. Without `replace` none that came meanwhile is lost.
fn appear(partial: &Path, path: &Path, replace: bool) -> io::Result<()> {
    if replace {
        return std::fs::rename(partial, path);
    }
    match renameat_with(CWD, partial, CWD, path, RenameFlags::NOREPLACE) {
        // Not every file system can.
        Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS) => {
            if path.symlink_metadata().is_ok() {
                return Err(io::ErrorKind::AlreadyExists.into());
            }
            std::fs::rename(partial, path)
        }
        done => Ok(done?),
    }
}

fn failure(from: &Path, to: Option<&Path>, e: &ContainerError) -> Failure {
    let code = match e {
        ContainerError::Damaged(_) => DAMAGED,
        ContainerError::Missing(_) => NO_MODEL,
        ContainerError::Io(_) => FAILED,
    };
    let from = from.display();
    // An error of the system may be that of either.
    match (e, to) {
        (ContainerError::Io(_), Some(to)) => {
            Failure::new(code, format!("{from} to {}: {e}", to.display()))
        }
        _ => Failure::new(code, format!("{from}: {e}")),
    }
}

/// Runs `compress`.
pub fn compress(a: &CompressArgs, say: Say) -> Outcome {
    let Some(output) = &a.output else { return test(&a.input, say) };
    partial::guard();
    let tier = mkfs::tier(&a.model)?;
    let block = match &a.block_size {
        Some(t) => mkfs::block_size(t)?,
        None => tier.unit(),
    };
    let (input, len) = source(&a.input)?;
    let target = Target::of(output, a.force)?;
    let progress = Progress::new(say, "compressing", Unit::Bytes);
    let mut input = Watched::new(input, len, &progress);
    let sized = target.write(output, |out| {
        container::compress(&mut input, out, block as usize, &tier, THREADS)
            .map_err(|e| failure(&a.input, Some(output), &e))
    })?;
    drop(progress);
    let len = |p: &Path| std::fs::metadata(p).map(|m| m.len());
    if sized && let (Ok(before), Ok(after)) = (len(&a.input), len(output)) {
        say.line(&format!("{} became {}", output::size(before), output::size(after)));
    }
    Ok(())
}

fn find(id: &ModelId, name: &str) -> Result<Arc<Lm>, String> {
    let id = blake3::Hash::from_bytes(*id).to_hex();
    models::load(&id).map_err(|e| match e {
        ModelError::Registry(_) => format!(
            "the model '{name}', id {id}, which is not there; get its file (lmfs model export where \
             the archive was made), then: lmfs model import FILE"
        ),
        e => format!("the model '{name}', id {id}: {e}"),
    })
}

/// Decodes a container and keeps nothing of it.
fn test(path: &Path, say: Say) -> Outcome {
    let (input, len) = source(path)?;
    let progress = Progress::new(say, "testing", Unit::Bytes);
    let mut input = Watched::new(input, len, &progress);
    container::decompress(&mut input, &mut io::sink(), &find, THREADS)
        .map_err(|e| failure(path, None, &e))
}

/// Runs `decompress`.
pub fn decompress(a: &DecompressArgs, say: Say) -> Outcome {
    let Some(output) = &a.output else { return test(&a.input, say) };
    partial::guard();
    let (input, len) = source(&a.input)?;
    let target = Target::of(output, a.force)?;
    let progress = Progress::new(say, "decompressing", Unit::Bytes);
    let mut input = Watched::new(input, len, &progress);
    target.write(output, |out| {
        container::decompress(&mut input, out, &find, THREADS)
            .map_err(|e| failure(&a.input, Some(output), &e))
    })?;
    Ok(())
}
