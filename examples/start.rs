//! What experts with a prior begin with: `start MODEL TEXT > src/codec/start.bin` lets them learn the files below the
//! folder TEXT, which has a folder for each kind of text. The prior of MODEL must not have seen them.

use lmfs::block::Lm;
use lmfs::codec::learning::Learning;
use std::error::Error;
use std::io::Write;
use std::path::{Path, PathBuf};

/// Bytes of a kind, at most.
const KIND: usize = 16_000_000;
/// Bytes of a text, and of what the experts go through at once.
const TEXT: usize = 512 << 10;
const PIECE: usize = 256 << 10;
/// Shorter texts say too little.
const LEAST: usize = 400;

/// What is in a folder, in an order that its names do not tell.
fn files(folder: &Path) -> std::io::Result<Vec<PathBuf>> {
    let all = std::fs::read_dir(folder)?.map(|e| Ok(e?.path()));
    let mut all = all.collect::<std::io::Result<Vec<_>>>()?;
    all.sort_by_cached_key(|p| {
        *blake3::hash(p.file_name().unwrap_or_default().as_encoded_bytes()).as_bytes()
    });
    Ok(all)
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let (Some(model), Some(folder)) = (args.next(), args.next()) else {
        return Err("start MODEL TEXT".into());
    };
    let lm = Lm::load(&std::fs::read(model)?)?;
    let mut learning = Learning::new(lm.prior().ok_or("the model has no prior")?);
    // All kinds in step: of each, what comes at the same part of its bytes.
    let mut pieces: Vec<(usize, Vec<u8>)> = Vec::new();
    for kind in files(Path::new(&folder))? {
        let mut texts = Vec::new();
        let mut bytes = 0;
        for path in files(&kind)? {
            let mut text = std::fs::read(path)?;
            text.truncate(TEXT);
            if text.len() >= LEAST && bytes < KIND {
                bytes += text.len();
                texts.push((bytes, text));
            }
        }
        eprintln!("{}: {bytes} bytes in {} files", kind.display(), texts.len());
        pieces.extend(texts.into_iter().map(|(at, text)| (at * 1000 / bytes, text)));
    }
    pieces.sort_by_key(|(at, _)| *at);
    for piece in pieces.iter().flat_map(|(_, text)| text.chunks(PIECE)) {
        learning.pass(piece);
    }
    std::io::stdout().write_all(&learning.file()?)?;
    Ok(())
}
