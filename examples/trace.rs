//! What a network is trained on: `trace MODEL TEXT OUT` cuts the files of the folder TEXT into tokens of the model
//! and writes them to OUT.tokens (16 bits each; a text begins with one past the last token), with the probability
//! of 65536 that each decision of their paths is 1, as the experts and the prior see it, in OUT.foreseen (16 bits
//! each). OUT.tree has each token's path: its length, then nodes times two plus the decision.

use lmfs::block::{Lm, trace};
use std::error::Error;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::PathBuf;

/// Shorter files are traced together, as they share frames in a store.
const SHORT: usize = 16 << 10;
const TOGETHER: usize = 64 << 10;

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let (Some(model), Some(text), Some(out)) = (args.next(), args.next(), args.next()) else {
        return Err("trace MODEL TEXT OUT".into());
    };
    let lm = Lm::load(&std::fs::read(model)?)?;
    let vocab = lm.vocab();
    let create = |end: &str| File::create(format!("{out}.{end}")).map(BufWriter::new);
    let mut tree = create("tree")?;
    for token in 0..vocab.size() as u16 {
        let path = vocab.path(token);
        tree.write_all(&(path.len() as u16).to_le_bytes())?;
        for (node, bit) in path {
            tree.write_all(&(node * 2 + u16::from(*bit)).to_le_bytes())?;
        }
    }
    let (mut tokens, mut foreseen) = (create("tokens")?, create("foreseen")?);
    let mut put = |texts: &[Vec<u8>]| -> Result<(), Box<dyn Error>> {
        for pieces in trace(texts, &lm) {
            tokens.write_all(&(vocab.size() as u16).to_le_bytes())?;
            for (piece, probabilities) in pieces {
                for t in vocab.cut(piece) {
                    tokens.write_all(&t.to_le_bytes())?;
                }
                for p in probabilities {
                    foreseen.write_all(&p.to_le_bytes())?;
                }
            }
        }
        Ok(())
    };
    let mut paths: Vec<PathBuf> =
        std::fs::read_dir(text)?.map(|e| Ok(e?.path())).collect::<std::io::Result<_>>()?;
    paths.sort();
    let (mut short, mut bytes) = (Vec::new(), 0);
    for path in paths {
        let text = std::fs::read(path)?;
        if text.len() >= SHORT {
            put(&[text])?;
            continue;
        }
        bytes += text.len();
        short.push(text);
        if bytes >= TOGETHER {
            put(&short)?;
            (short, bytes) = (Vec::new(), 0);
        }
    }
    put(&short)?;
    tree.flush()?;
    tokens.flush()?;
    foreseen.flush()?;
    Ok(())
}
