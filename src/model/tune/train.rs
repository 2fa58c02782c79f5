//! The loop: crops, gradients by all threads, a rate by the clock, checkpoints.

use super::TuneError;
use super::llama::Llama;
use super::state::State;
use crate::model::corpus::{Corpus, Random};
use crate::model::network;
use crate::model::vocabulary::Vocabulary;
use candle_core::backprop::GradStore;
use candle_core::{Result, Tensor, Var};
use candle_nn::{AdamW, Optimizer, ParamsAdamW};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

/// Tokens of a sequence that cost little attention and still span several lines.
pub const CROP: usize = 256;
/// Sequences of a step.
pub const BATCH: usize = 8;
/// Largest learning rate for some hundred steps.
pub const RATE: f64 = 1e-3;
/// Steps over which the rate rises, from the start and after an interruption: the optimiser's
/// averages begin anew then.
const WARM_UP: u64 = 10;
/// Largest norm of a step's gradient; longer ones are shortened to it.
const CLIP: f64 = 1.0;

/// How to train.
#[derive(Debug, Clone)]
pub struct Options {
    /// Seconds in all, an interrupted training's included.
    pub seconds: f64,
    /// Steps in all, if that is sooner.
    pub steps: u64,
    /// Seconds between looks at the held-out text.
    pub look: f64,
    /// Seconds between checkpoints.
    pub save: f64,
    /// Tokens of a sequence.
    pub crop: usize,
    /// Sequences of a step.
    pub batch: usize,
    /// Largest learning rate.
    pub rate: f64,
    /// Threads.
    pub threads: usize,
    /// Seed of what is seen when.
    pub seed: u64,
}

/// How far it has come.
#[derive(Debug, Clone, Copy, Default)]
pub struct Progress {
    /// Seconds trained.
    pub seconds: f64,
    /// Steps taken.
    pub steps: u64,
    /// Tokens seen.
    pub tokens: u64,
    /// Bits per byte of the training text lately.
    pub training: f64,
    /// Bits per byte of held-out text by the last look, in single precision, in windows of a crop.
    pub held_out: f64,
    /// The same before training.
    pub before: f64,
}

/// What came of it.
#[derive(Debug)]
pub struct Outcome {
    /// The tuned network.
    pub network: network::Llama,
    /// The last report.
    pub progress: Progress,
    /// Seconds that an earlier run had trained.
    pub resumed: Option<f64>,
}

/// Sequences of a token stream, each token once in every round.
struct Crops {
    tokens: Vec<u16>,
    length: usize,
    seed: u64,
    /// Round that `order` and `offset` belong to.
    round: Option<u64>,
    order: Vec<usize>,
    offset: usize,
}

impl Crops {
    fn new(tokens: Vec<u16>, length: usize, seed: u64) -> Self {
        let length = length.min(tokens.len());
        Self { tokens, length, seed, round: None, order: Vec::new(), offset: 0 }
    }

    /// Sequence `n` of all that are ever drawn.
    fn get(&mut self, n: u64) -> &[u16] {
        let count = (self.tokens.len() / self.length) as u64;
        let round = n / count;
        if self.round != Some(round) {
            let mut random = Random(self.seed ^ round.wrapping_mul(0x9e37_79b9));
            self.order = random.order(count as usize);
            self.offset = (random.draw() % self.length as u64) as usize;
            self.round = Some(round);
        }
        let at = self.order[(n % count) as usize] * self.length + self.offset;
        let at = at.min(self.tokens.len() - self.length);
        &self.tokens[at..at + self.length]
    }
}

/// What training starts from.
#[derive(Debug, Clone, Copy)]
pub struct Base<'a> {
    /// The model's id.
    pub id: [u8; 32],
    /// Its tokens.
    pub vocabulary: &'a Vocabulary,
    /// Its network.
    pub network: &'a network::Llama,
}

/// A network, what moves it, and what it is moved by.
struct Trainer<'a> {
    base: Base<'a>,
    llama: Llama,
    /// All weights, for the checkpoint.
    vars: Vec<Var>,
    /// The same by thread, and what moves them.
    groups: Vec<(Vec<Var>, AdamW)>,
    /// Bytes of each token.
    sizes: Vec<f64>,
}

/// Calls `f` with each item in a thread of its own.
fn in_threads<T: Send, R: Send>(
    items: impl Iterator<Item = T>,
    f: impl Fn(T) -> Result<R> + Sync,
) -> Result<Vec<R>> {
    let f = &f;
    std::thread::scope(|s| {
        let threads: Vec<_> = items.map(|item| s.spawn(move || f(item))).collect();
        let join = |t: std::thread::ScopedJoinHandle<'_, Result<R>>| {
            t.join().unwrap_or_else(|e| std::panic::resume_unwind(e))
        };
        threads.into_iter().map(join).collect()
    })
}

/// The weights in `n` groups of about the same size.
fn groups(vars: &[Var], n: usize) -> Vec<Vec<Var>> {
    let mut groups = vec![(0, Vec::new()); n];
    let mut order: Vec<&Var> = vars.iter().collect();
    order.sort_by_key(|v| std::cmp::Reverse(v.elem_count()));
    for v in order {
        if let Some(least) = groups.iter_mut().min_by_key(|g| g.0) {
            least.0 += v.elem_count();
            least.1.push(v.clone());
        }
    }
    groups.into_iter().map(|g| g.1).collect()
}

/// Inputs behind the start token, and their targets.
fn shift(start: u32, crops: &[Vec<u16>]) -> (Vec<u32>, Vec<u32>) {
    let targets: Vec<u32> = crops.iter().flatten().map(|t| u32::from(*t)).collect();
    let behind = |c: &Vec<u16>| {
        let before = c[..c.len() - 1].iter().map(|t| u32::from(*t));
        std::iter::once(start).chain(before).collect::<Vec<u32>>()
    };
    (crops.iter().flat_map(behind).collect(), targets)
}

impl Trainer<'_> {
    /// Calls `f` with a share of the sequences in each thread.
    fn shared<R: Send>(
        &self,
        crops: &[Vec<u16>],
        f: impl Fn(&[Vec<u16>]) -> Result<R> + Sync,
    ) -> Result<Vec<R>> {
        let part = crops.len().div_ceil(self.groups.len()).max(1);
        in_threads(crops.chunks(part), f)
    }

    fn losses(&self, crops: &[Vec<u16>]) -> Result<Tensor> {
        let (inputs, targets) = shift(self.base.network.hyper.start, crops);
        self.llama.losses(&inputs, targets, crops[0].len())?.sum_all()
    }

    fn bytes(&self, crops: &[Vec<u16>]) -> f64 {
        crops.iter().flatten().map(|t| self.sizes[*t as usize]).sum()
    }

    /// One step; returns the loss in bits per byte.
    fn step(&mut self, crops: &[Vec<u16>], rate: f64) -> Result<f64> {
        let count: usize = crops.iter().map(Vec::len).sum();
        let parts = self.shared(crops, |c| {
            let loss = (self.losses(c)? / count as f64)?;
            Ok((f64::from(loss.to_scalar::<f32>()?), loss.backward()?))
        })?;
        // Each thread adds up and moves weights of its own.
        let sums = in_threads(self.groups.iter(), |(vars, _)| {
            let (mut sums, mut squares) = (Vec::with_capacity(vars.len()), 0.0);
            for v in vars {
                let mut sum: Option<Tensor> = None;
                for g in parts.iter().filter_map(|(_, grads)| grads.get(v)) {
                    sum = Some(match sum {
                        None => g.clone(),
                        Some(s) => (s + g)?,
                    });
                }
                if let Some(s) = &sum {
                    squares += f64::from(s.sqr()?.sum_all()?.to_scalar::<f32>()?);
                }
                sums.push(sum);
            }
            Ok((sums, squares))
        })?;
        let norm = sums.iter().map(|s| s.1).sum::<f64>().sqrt();
        let scale = (CLIP / norm).min(1.0);
        in_threads(self.groups.iter_mut().zip(sums), |((vars, optimiser), (sums, _))| {
            let mut grads = GradStore::default();
            for (v, g) in vars.iter().zip(sums) {
                if let Some(g) = g {
                    grads.insert(v, if scale < 1.0 { (g * scale)? } else { g });
                }
            }
            optimiser.set_learning_rate(rate);
            optimiser.step(&grads)
        })?;
        let loss: f64 = parts.iter().map(|p| p.0).sum();
        Ok(loss * count as f64 / self.bytes(crops) / std::f64::consts::LN_2)
    }

    /// Bits per byte of sequences that are not trained on.
    fn look(&self, crops: &[Vec<u16>]) -> Result<f64> {
        let nats = self.shared(crops, |c| {
            // One by one: nothing is kept for a gradient's sake.
            let mut sum = 0.0;
            for one in c {
                sum += f64::from(self.losses(std::slice::from_ref(one))?.to_scalar::<f32>()?);
            }
            Ok(sum)
        })?;
        Ok(nats.iter().sum::<f64>() / self.bytes(crops) / std::f64::consts::LN_2)
    }

    fn weights(&self) -> Result<Vec<f32>> {
        let mut all = Vec::new();
        for v in &self.vars {
            all.extend(v.flatten_all()?.to_vec1::<f32>()?);
        }
        Ok(all)
    }

    /// False if they are another model's.
    fn set_weights(&self, weights: &[f32]) -> Result<bool> {
        if weights.len() != self.vars.iter().map(|v| v.elem_count()).sum::<usize>() {
            return Ok(false);
        }
        let mut at = 0;
        for v in &self.vars {
            let n = v.elem_count();
            v.set(&Tensor::from_slice(&weights[at..at + n], v.shape(), v.device())?)?;
            at += n;
        }
        Ok(true)
    }
}

/// Tokens of the texts, the start token between them.
fn stream(base: Base<'_>, texts: &[Vec<u8>]) -> Vec<u16> {
    let mut all = Vec::new();
    for t in texts {
        if !all.is_empty() {
            all.push(base.network.hyper.start as u16);
        }
        all.extend(base.vocabulary.tokenizer.encode(t).into_iter().map(|t| t as u16));
    }
    all
}

/// Most sequences that a look takes.
const LOOK: usize = 24;

/// Trains `base` on the corpus until its time is over or `stop` is set. The checkpoint at `state` is
/// gone on from if it belongs to the same base, corpus and options, and kept up to date.
pub fn train(
    base: Base<'_>,
    corpus: &Corpus,
    o: &Options,
    state: &Path,
    stop: &AtomicBool,
    report: &mut dyn FnMut(&Progress),
) -> std::result::Result<Outcome, TuneError> {
    let mut crops = Crops::new(stream(base, &corpus.texts), o.crop, o.seed);
    let length = crops.length;
    let mut held: Vec<Vec<u16>> = Vec::new();
    for t in &corpus.held {
        let tokens = stream(base, std::slice::from_ref(t));
        held.extend(tokens.chunks_exact(length).map(<[u16]>::to_vec));
    }
    if held.is_empty() {
        // Short ends: one sequence of them all.
        let tokens = stream(base, &corpus.held);
        held.extend(tokens.chunks(length).next().map(<[u16]>::to_vec));
    }
    let order = Random(o.seed).order(held.len());
    let held: Vec<Vec<u16>> = order.into_iter().take(LOOK).map(|i| held[i].clone()).collect();

    let llama = Llama::new(base.vocabulary, base.network, length)?;
    let params = ParamsAdamW { lr: 0.0, beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay: 0.0 };
    let vars = llama.vars();
    let mut t = Trainer {
        base,
        groups: groups(&vars, o.threads.max(1))
            .into_iter()
            .map(|g| Ok((g.clone(), AdamW::new(g, params.clone())?)))
            .collect::<Result<_>>()?,
        vars,
        llama,
        sizes: (0..base.network.hyper.vocab)
            .map(|t| base.vocabulary.tokenizer.token(t).len() as f64)
            .collect(),
    };
    let mut key = blake3::Hasher::new();
    key.update(&base.id);
    key.update(&corpus.hash);
    for v in [o.crop as u64, o.batch as u64, o.rate.to_bits(), o.seed] {
        key.update(&v.to_le_bytes());
    }
    let key = *key.finalize().as_bytes();

    let mut p = Progress { before: t.look(&held)?, ..Progress::default() };
    p.held_out = p.before;
    let mut resumed = None;
    if let Some(s) = State::load(state) {
        if s.key == key && s.seconds.is_finite() && t.set_weights(&s.weights)? {
            (p.seconds, p.steps) = (s.seconds.max(0.0), s.steps);
            p.held_out = t.look(&held)?;
            p.tokens = p.steps * (o.batch * length) as u64;
            resumed = Some(p.seconds);
        } else {
            log::warn!(
                "{}: the checkpoint is of another training; beginning anew",
                state.display()
            );
        }
    }
    let save = |t: &Trainer, p: &Progress| -> std::result::Result<(), TuneError> {
        let s = State { key, seconds: p.seconds, steps: p.steps, weights: t.weights()? };
        s.save(state).map_err(|error| TuneError::Checkpoint { path: state.to_owned(), error })
    };
    // At once, so that what cannot be written is known before time is spent.
    save(&t, &p)?;
    let first = p.steps;
    let (began, before) = (Instant::now(), p.seconds);
    let (mut saved, mut looked) = (began, began);
    report(&p);
    loop {
        let done = (p.seconds / o.seconds).max(p.steps as f64 / o.steps as f64);
        if done >= 1.0 {
            break;
        }
        if stop.load(Ordering::Relaxed) {
            save(&t, &p)?;
            return Err(TuneError::Interrupted { path: state.to_owned(), seconds: p.seconds });
        }
        let warm = ((p.steps - first + 1) as f64 / WARM_UP as f64).min(1.0);
        let batch: Vec<Vec<u16>> =
            (0..o.batch as u64).map(|i| crops.get(p.steps * o.batch as u64 + i).to_vec()).collect();
        let loss = t.step(&batch, o.rate * warm * (1.0 - done))?;
        if !loss.is_finite() {
            return Err(TuneError::Diverged);
        }
        let steps = (p.steps - first) as f64;
        p.training += (loss - p.training) / (steps + 1.0).min(10.0);
        p.steps += 1;
        p.tokens = p.steps * (o.batch * length) as u64;
        p.seconds = before + began.elapsed().as_secs_f64();
        if looked.elapsed().as_secs_f64() > o.look {
            p.held_out = t.look(&held)?;
            looked = Instant::now();
        }
        if saved.elapsed().as_secs_f64() > o.save {
            save(&t, &p)?;
            saved = Instant::now();
        }
        report(&p);
    }
    p.held_out = t.look(&held)?;
    report(&p);
    let network = t.llama.to_network(base.vocabulary, base.network)?;
    Ok(Outcome { network, progress: p, resumed })
}
