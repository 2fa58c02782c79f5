//! The user's text: read, and parted into what is trained on and what judges the result.

use super::texts::{LeftOut, files};
use std::io;
use std::path::{Path, PathBuf};

/// Least bytes of text that tuning accepts.
pub const LEAST: u64 = 100 << 10;
/// Most bytes that are taken; of more, each file gives its share.
pub const MOST: u64 = 64 << 20;
/// Most bytes held out.
const HELD: usize = 128 << 10;
/// One byte in so many is held out.
const SHARE: usize = 16;
/// Shorter files are held out whole or not at all.
const SHORT: usize = 8 << 10;
/// Least bytes held out of a file.
const PIECE: usize = 4 << 10;

/// Why there is nothing to tune on.
#[derive(Debug, thiserror::Error)]
pub enum CorpusError {
    /// The corpus cannot be read.
    #[error("cannot read the corpus {}: {error}", .path.display())]
    Unreadable {
        /// Its directory.
        path: PathBuf,
        /// The system's answer.
        error: io::Error,
    },
    /// Nothing to learn from.
    #[error("there is no text in {}{}", .path.display(), besides(.left_out))]
    Empty {
        /// The corpus.
        path: PathBuf,
        /// What was met and not taken.
        left_out: Vec<LeftOut>,
    },
    /// Too little to learn from.
    #[error(
        "{} holds {bytes} bytes of text{}; tuning needs at least {LEAST} (100 KB)",
        .path.display(), besides(.left_out)
    )]
    Small {
        /// The corpus.
        path: PathBuf,
        /// Bytes of text in it.
        bytes: u64,
        /// What was met and not taken.
        left_out: Vec<LeftOut>,
    },
}

impl CorpusError {
    /// What was met and not taken.
    pub fn left_out(&self) -> &[LeftOut] {
        match self {
            Self::Unreadable { .. } => &[],
            Self::Empty { left_out, .. } | Self::Small { left_out, .. } => left_out,
        }
    }
}

/// How many files were left out, in words.
fn besides(left_out: &[LeftOut]) -> String {
    match left_out.len() {
        0 => String::new(),
        n => format!(" ({n} left out: binary, unreadable, or no regular files)"),
    }
}

/// Texts to train on and texts to judge by.
#[derive(Debug, Default)]
pub struct Corpus {
    /// One a file, without what is held out.
    pub texts: Vec<Vec<u8>>,
    /// Ends of files and whole files that are never trained on.
    pub held: Vec<Vec<u8>>,
    /// What was met and not taken.
    pub left_out: Vec<LeftOut>,
    /// BLAKE3 of names and texts.
    pub hash: [u8; 32],
}

/// Reads of a file with its size at most so many of its last bytes.
pub type ReadEnd<'a> = dyn FnMut(&Path, u64, u64) -> io::Result<Vec<u8>> + 'a;

/// A reproducible generator (splitmix64, Steele et al. 2014).
pub struct Random(pub u64);

impl Random {
    /// The next number.
    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// The numbers below `n` in random order (Fisher and Yates).
    pub fn order(&mut self, n: usize) -> Vec<usize> {
        let mut all: Vec<usize> = (0..n).collect();
        for i in (1..n).rev() {
            all.swap(i, (self.draw() % (i as u64 + 1)) as usize);
        }
        all
    }
}

/// Where the line that holds `at` ends; `at` itself if none ends behind it.
fn line_end(text: &[u8], at: usize) -> usize {
    text[at..].iter().position(|b| *b == b'\n').map_or(at, |i| at + i + 1)
}

impl Corpus {
    /// Reads all text below `dir` and holds a seeded part of it out.
    ///
    /// # Errors
    /// Nothing can be read, or it is too little.
    pub fn read(dir: &Path, seed: u64) -> Result<Self, CorpusError> {
        let io = |error| CorpusError::Unreadable { path: dir.to_owned(), error };
        let meta = std::fs::metadata(dir).map_err(io)?;
        let (mut paths, mut left_out) = (Vec::new(), Vec::new());
        if meta.is_dir() {
            std::fs::read_dir(dir).map_err(io)?;
            files(dir, &mut paths, &mut left_out);
        } else if meta.is_file() {
            paths.push(dir.to_owned());
        } else {
            return Err(io(io::Error::other("neither a directory nor a file")));
        }
        let size = |p: &PathBuf| std::fs::metadata(p).map_or(0, |m| m.len());
        let sized = paths.into_iter().map(|p| (size(&p), p)).collect();
        Self::gather(dir, sized, left_out, &mut |path, _, most| read_end(path, most), seed)
    }

    /// The same from files with their sizes, which `read` reads: at most so many of their last bytes.
    ///
    /// # Errors
    /// As [`Self::read`]; a file that cannot be read is left out.
    pub fn gather(
        from: &Path,
        files: Vec<(u64, PathBuf)>,
        mut left_out: Vec<LeftOut>,
        read: &mut ReadEnd<'_>,
        seed: u64,
    ) -> Result<Self, CorpusError> {
        let total: u64 = files.iter().map(|(size, _)| size).sum();
        let mut texts = Vec::new();
        let mut hash = blake3::Hasher::new();
        for (size, path) in files {
            // Of a large corpus the ends of all files: what was logged last.
            let most = if total > MOST {
                (u128::from(size) * u128::from(MOST) / u128::from(total)) as u64
            } else {
                MOST
            };
            match read(&path, size, most) {
                Ok(text) if text.is_empty() => {}
                Ok(text) if text.contains(&0) => {
                    left_out.push(LeftOut { path, reason: "binary: it has zero bytes".into() });
                }
                Ok(text) => {
                    hash.update(&(text.len() as u64).to_le_bytes());
                    hash.update(&text);
                    texts.push(text);
                }
                Err(e) => left_out.push(LeftOut { path, reason: e.to_string() }),
            }
        }
        let bytes: u64 = texts.iter().map(|t| t.len() as u64).sum();
        if bytes == 0 {
            return Err(CorpusError::Empty { path: from.to_owned(), left_out });
        }
        if bytes < LEAST {
            return Err(CorpusError::Small { path: from.to_owned(), bytes, left_out });
        }
        let held = hold_out(&mut texts, seed);
        texts.retain(|t| !t.is_empty());
        Ok(Self { texts, held, left_out, hash: *hash.finalize().as_bytes() })
    }

    /// Bytes to train on.
    pub fn bytes(&self) -> u64 {
        self.texts.iter().map(|t| t.len() as u64).sum()
    }

    /// Bytes held out.
    pub fn held_bytes(&self) -> u64 {
        self.held.iter().map(|t| t.len() as u64).sum()
    }
}

/// The last `most` bytes of a file, from the start of a line.
fn read_end(path: &Path, most: u64) -> io::Result<Vec<u8>> {
    use std::io::{Read, Seek, SeekFrom};
    let mut file = std::fs::File::open(path)?;
    let len = file.metadata()?.len();
    let cut = len > most;
    if cut {
        file.seek(SeekFrom::Start(len - most))?;
    }
    let mut text = Vec::new();
    file.take(most).read_to_end(&mut text)?;
    Ok(if cut { whole_lines(text) } else { text })
}

/// The end of a text from the start of a line.
pub fn whole_lines(mut text: Vec<u8>) -> Vec<u8> {
    if !text.is_empty() {
        let from = line_end(&text, 0);
        text.drain(..from);
    }
    text
}

/// Takes the ends of some texts (all of short ones), in seeded order, until one byte in [`SHARE`] is
/// held out: ends, because what comes later is what a tuned model will meet.
fn hold_out(texts: &mut [Vec<u8>], seed: u64) -> Vec<Vec<u8>> {
    let total: usize = texts.iter().map(Vec::len).sum();
    let want = (total / SHARE).min(HELD);
    // From several files, if there are several.
    let most = (want / texts.len().clamp(1, 8)).max(PIECE);
    let alone = texts.len() == 1;
    let mut held = Vec::new();
    let mut have = 0;
    for i in Random(seed).order(texts.len()) {
        if have >= want {
            break;
        }
        let text = &mut texts[i];
        let piece = if text.len() < SHORT {
            if alone {
                continue;
            }
            text.len()
        } else {
            (text.len() / SHARE).clamp(PIECE, most).min(want - have)
        };
        let at = text.len() - piece;
        let at = if at == 0 { 0 } else { line_end(text, at) };
        let at = if at == text.len() { text.len() - piece } else { at };
        let end = text.split_off(at);
        have += end.len();
        held.push(end);
    }
    held
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(n: usize, seed: u64) -> Vec<u8> {
        let mut r = Random(seed);
        (0..n).flat_map(|i| format!("line {i} {:x}\n", r.draw()).into_bytes()).collect()
    }

    #[test]
    fn what_is_held_out_is_not_trained_on() {
        let dir = tempfile::tempdir().unwrap();
        let mut all = 0;
        for (i, n) in [9000, 200, 3000, 10, 4000].into_iter().enumerate() {
            let text = lines(n, i as u64);
            all += text.len() as u64;
            std::fs::write(dir.path().join(format!("{i}.log")), text).unwrap();
        }
        let c = Corpus::read(dir.path(), 1).unwrap();
        assert_eq!(c.bytes() + c.held_bytes(), all);
        let share = c.held_bytes() as f64 / all as f64;
        assert!((0.03..0.09).contains(&share), "{share}");
        assert!(c.held.len() > 1 && c.left_out.is_empty());
        let known: std::collections::HashSet<&[u8]> =
            c.texts.iter().flat_map(|t| t.split(|b| *b == b'\n')).collect();
        for line in c.held.iter().flat_map(|t| t.split(|b| *b == b'\n')).filter(|l| !l.is_empty()) {
            assert!(line.starts_with(b"line ") && !known.contains(line));
        }
        let again = Corpus::read(dir.path(), 1).unwrap();
        assert!(again.held == c.held && again.hash == c.hash);
        assert!(Corpus::read(dir.path(), 2).unwrap().held != c.held);
    }

    #[test]
    fn one_file_gives_its_end() {
        let dir = tempfile::tempdir().unwrap();
        let text = lines(6000, 1);
        std::fs::write(dir.path().join("a"), &text).unwrap();
        let c = Corpus::read(dir.path(), 1).unwrap();
        assert!(text.ends_with(&c.held[0]) && c.held.len() == 1);
        assert!(c.texts[0].ends_with(b"\n"));
        // One line without end is cut all the same.
        std::fs::write(dir.path().join("a"), vec![b'x'; 200_000]).unwrap();
        assert_eq!(Corpus::read(dir.path(), 1).unwrap().held_bytes(), 12_500);
    }

    #[test]
    fn only_text_is_taken() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        std::fs::create_dir(at("below")).unwrap();
        std::fs::write(at("below/a"), lines(5000, 1)).unwrap();
        std::fs::write(at("empty"), b"").unwrap();
        std::fs::write(at("binary"), b"text, then\0").unwrap();
        std::os::unix::fs::symlink("below/a", at("link")).unwrap();
        std::os::unix::net::UnixListener::bind(at("socket")).unwrap();
        let c = Corpus::read(dir.path(), 1).unwrap();
        let left: Vec<_> = c.left_out.iter().map(|l| l.path.clone()).collect();
        assert_eq!(left, [at("link"), at("socket"), at("binary")]);
        assert_eq!(c.bytes() + c.held_bytes(), lines(5000, 1).len() as u64);
    }

    #[test]
    fn of_much_text_the_end_is_taken() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        std::fs::write(&path, b"one\ntwo\nthree\n").unwrap();
        assert_eq!(read_end(&path, 8).unwrap(), b"three\n");
        assert_eq!(read_end(&path, 99).unwrap(), b"one\ntwo\nthree\n");
    }
}
