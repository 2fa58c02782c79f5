//! The corpus as tokens, in files without a name: whatever ends the training, nothing of them stays.

use crate::codec::prior::{KINDS, LEAVES, walk};
use crate::codec::{Token, Vocab};
use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// Hashes of a token's contexts, kind by kind.
type Hashes = [i32; KINDS];
/// Ends a text; no vocabulary of a prior has so many tokens.
const END: Token = Token::MAX;
/// Bytes of a token and what it is thought to be worth.
const RECORD: usize = 6;
/// 1 as a probability.
pub const ONE: u64 = 1 << 32;

/// Tokens of a corpus, each with its probability by the kinds of contexts so far, in as many files as
/// there are threads.
pub struct Spool<'a> {
    dir: PathBuf,
    vocab: &'a Vocab,
    shards: Vec<BufWriter<File>>,
    next: usize,
    /// Bytes of text.
    pub bytes: u64,
    /// Tokens.
    pub tokens: u64,
}

/// A file that is gone when it is closed.
fn nameless(dir: &Path, n: usize) -> io::Result<BufWriter<File>> {
    let path = dir.join(format!(".training.{}.{n}", std::process::id()));
    let file = OpenOptions::new().read(true).write(true).create_new(true).open(&path)?;
    std::fs::remove_file(&path)?;
    Ok(BufWriter::with_capacity(1 << 20, file))
}

impl<'a> Spool<'a> {
    /// An empty one, whose files lie in `dir`.
    ///
    /// # Errors
    /// The system's.
    pub fn new(dir: &Path, vocab: &'a Vocab, threads: usize) -> io::Result<Self> {
        let shards = (0..threads.max(1)).map(|n| nameless(dir, n)).collect::<io::Result<_>>()?;
        Ok(Self { dir: dir.to_owned(), vocab, shards, next: 0, bytes: 0, tokens: 0 })
    }

    /// The vocabulary that texts are cut by.
    pub fn vocab(&self) -> &'a Vocab {
        self.vocab
    }

    /// Number of files.
    pub fn shards(&self) -> usize {
        self.shards.len()
    }

    /// Adds a text.
    ///
    /// # Errors
    /// The system's, such as a full disk.
    pub fn push(&mut self, text: &[u8]) -> io::Result<()> {
        let tokens = self.vocab.cut(text);
        // At first all leaves are equally likely.
        let p = (ONE / LEAVES as u64) as u32;
        let shard = &mut self.shards[self.next];
        for token in tokens.iter().chain([&END]) {
            put(shard, *token, p)?;
        }
        self.next = (self.next + 1) % self.shards.len();
        self.bytes += text.len() as u64;
        self.tokens += tokens.len() as u64;
        Ok(())
    }

    /// Everything pushed can be read.
    ///
    /// # Errors
    /// The system's, such as a full disk.
    pub fn flush(&mut self) -> io::Result<()> {
        self.shards.iter_mut().try_for_each(Write::flush)
    }

    /// Tells each token of all texts: its contexts' hashes, leaf, and probability of [`ONE`].
    ///
    /// # Errors
    /// The system's.
    pub fn each(&self, mut tell: impl FnMut(&Hashes, u16, u32)) -> io::Result<()> {
        let mut own = |hashes: &Hashes, leaf, token, p| {
            if token != END {
                tell(hashes, leaf, p);
            }
            Ok(())
        };
        (0..self.shards.len()).try_for_each(|n| self.each_of(n, &mut own))
    }

    /// The same of one file's texts, with the tokens, and [`END`] after each text.
    fn each_of(
        &self,
        shard: usize,
        mut tell: impl FnMut(&Hashes, u16, Token, u32) -> io::Result<()>,
    ) -> io::Result<()> {
        let file = self.shards[shard].get_ref();
        let mut buffer = vec![0; RECORD << 14];
        let (mut at, mut had) = (0, 0);
        let (mut tokens, mut ps) = (Vec::new(), Vec::new());
        loop {
            let n = file.read_at(&mut buffer[had..], at)?;
            if n == 0 {
                return Ok(());
            }
            at += n as u64;
            had += n;
            let whole = had - had % RECORD;
            for r in buffer[..whole].chunks_exact(RECORD) {
                let token = Token::from_le_bytes([r[0], r[1]]);
                if token != END {
                    tokens.push(token);
                    ps.push(u32::from_le_bytes([r[2], r[3], r[4], r[5]]));
                    continue;
                }
                let mut n = 0;
                let mut told = Ok(());
                walk(self.vocab, &tokens, |hashes, leaf| {
                    if told.is_ok() {
                        told = tell(hashes, leaf, tokens[n], ps[n]);
                    }
                    n += 1;
                });
                told?;
                tell(&Hashes::default(), 0, END, 0)?;
                tokens.clear();
                ps.clear();
            }
            buffer.copy_within(whole..had, 0);
            had -= whole;
        }
    }

    /// Gives every token the probability that `p` makes of its contexts' hashes, its leaf and the one it
    /// has; a thread for each file.
    ///
    /// # Errors
    /// The system's, such as a full disk.
    pub fn revise(&mut self, p: impl Fn(&Hashes, u16, u32) -> u32 + Sync) -> io::Result<()> {
        let spool = &*self;
        let one = |n: usize| {
            let mut new = nameless(&spool.dir, n)?;
            spool.each_of(n, |hashes, leaf, token, old| {
                put(&mut new, token, if token == END { 0 } else { p(hashes, leaf, old) })
            })?;
            new.flush()?;
            Ok(new)
        };
        let made = std::thread::scope(|scope| {
            let one = &one;
            let all: Vec<_> =
                (0..spool.shards.len()).map(|n| scope.spawn(move || one(n))).collect();
            let join = |t: std::thread::ScopedJoinHandle<'_, io::Result<_>>| {
                t.join().map_err(|_| io::Error::other("a thread panicked"))?
            };
            all.into_iter().map(join).collect::<io::Result<Vec<_>>>()
        })?;
        self.shards = made;
        Ok(())
    }
}

fn put(out: &mut BufWriter<File>, token: Token, p: u32) -> io::Result<()> {
    let ([a, b], [c, d, e, f]) = (token.to_le_bytes(), p.to_le_bytes());
    out.write_all(&[a, b, c, d, e, f])
}
