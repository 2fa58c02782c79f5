//! Lanes, and what is asked of them.

use super::attention::{AHEAD, Cache};
use super::batch::{Grid, View};
use super::forward::{Memory, Pass, Span, Token, Want, Work};
use super::team::{Barrier, Team};
use super::{Engine, EngineError, floats_are_strict};
use std::sync::Arc;

/// Columns of one pass over the weights.
const MAX_PASS: usize = 64;
/// Weights that outgrow a processor's own caches.
const LARGE: usize = 24 << 20;
/// Lanes of a thread that make up for its fetching large weights by itself.
const ENOUGH_LANES: usize = 4;
/// Threads that memory can feed with large weights at a time.
const FED_THREADS: usize = 4;

/// Least products of a call that threads share.
const TOGETHER: usize = 48 << 20;

/// One token to be fed to a lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Input {
    /// Lane of the session.
    pub lane: usize,
    /// Token of the model's vocabulary.
    pub token: u32,
}

/// Some lanes and their working memory.
#[derive(Debug, Default)]
struct Part {
    positions: Vec<usize>,
    /// `layers × kv_heads` of each lane.
    caches: Vec<Cache>,
    /// Columns of the call at hand: lane of this part, token, and the row of outputs.
    inputs: Vec<(usize, u32, Option<usize>)>,
    memory: Memory,
    logits: Grid<f32>,
    cumulative: Grid<u32>,
}

impl Part {
    /// Feeds the inputs in passes, each run by `each`.
    fn run(&mut self, e: &Engine, want: Want, members: usize, mut each: impl FnMut(&Pass)) {
        let caches = e.hyper.layers * e.hyper.kv_heads;
        let count = self.inputs.iter().filter(|i| i.2.is_some()).count();
        // Logits are kept for the caller only if they were asked for.
        let kept = if want == Want::Logits { count } else { count.min(MAX_PASS) };
        let all_logits = self.logits.rows(kept, e.head.rows);
        let distributions = if want == Want::Distributions { count } else { 0 };
        let all_cumulative = self.cumulative.rows(distributions, e.hyper.vocab + 1);
        let mut rest = &self.inputs[..];
        let mut done = 0;
        while !rest.is_empty() {
            let mut tokens: Vec<Token> = Vec::with_capacity(rest.len().min(MAX_PASS));
            let mut outputs = Vec::new();
            let mut seen = vec![0; self.positions.len()];
            for (lane, token, output) in rest.iter().take(MAX_PASS) {
                seen[*lane] += 1;
                if seen[*lane] > AHEAD {
                    break;
                }
                if output.is_some() {
                    outputs.push(tokens.len());
                }
                tokens.push(Token { lane: *lane, id: *token, position: self.positions[*lane] });
                self.positions[*lane] += 1;
            }
            rest = &rest[tokens.len()..];
            let mut order: Vec<usize> = (0..tokens.len()).collect();
            order.sort_by_key(|c| tokens[*c].lane);
            let mut spans: Vec<Span> = Vec::new();
            for at in 0..order.len() {
                match spans.last_mut() {
                    Some(s) if tokens[order[s.from]].lane == tokens[order[at]].lane => {
                        s.to = at + 1;
                    }
                    _ => spans.push(Span { from: at, to: at + 1 }),
                }
            }
            let work = Work {
                tokens: &tokens,
                order: &order,
                spans: &spans,
                caches: View::new(&mut self.caches, caches),
                outputs: &outputs,
                logits: if want == Want::Logits { all_logits.skip(done) } else { all_logits },
                cumulative: all_cumulative.skip(done),
                want,
            };
            done += outputs.len();
            each(&Pass::new(e, &mut self.memory, work, members));
        }
    }
}

/// A batch of lanes of one model, each a text of its own.
///
/// A lane's results depend on that lane's tokens alone: not on the other lanes, the number of
/// threads, or whether tokens came one by one or many in one call.
#[derive(Debug)]
pub struct Session {
    engine: Arc<Engine>,
    /// Lane `l` is lane `l / parts` of part `l % parts`.
    parts: Vec<Part>,
    team: Team,
    /// The caller's thread computes alone.
    alone: bool,
    /// Where the outputs behind input `column` of the last call are: (part, row of it).
    placed: Vec<(usize, usize)>,
    /// The member of the team that is to panic.
    #[cfg(test)]
    pub(crate) panics: Option<usize>,
}

impl Session {
    /// Most tokens of one lane in one pass. A call may bring more.
    pub const AHEAD: usize = AHEAD;

    /// A session of `lanes` empty lanes, computed by at most `threads` threads, the caller's included.
    pub fn new(engine: Arc<Engine>, lanes: usize, threads: usize) -> Result<Self, EngineError> {
        let mut team = Team::new(threads.max(1)).map_err(EngineError::Thread)?;
        team.run(&|_| assert_strict());
        let count = parts(engine.bytes(), lanes, threads);
        let caches = engine.hyper.layers * engine.hyper.kv_heads;
        let parts = (0..count)
            .map(|part| {
                let lanes = lanes / count + usize::from(part < lanes % count);
                Part {
                    positions: vec![0; lanes],
                    caches: vec![Cache::default(); lanes * caches],
                    ..Part::default()
                }
            })
            .collect();
        Ok(Self {
            engine,
            parts,
            team,
            alone: false,
            placed: Vec::new(),
            #[cfg(test)]
            panics: None,
        })
    }

    /// The model.
    pub fn engine(&self) -> &Arc<Engine> {
        &self.engine
    }

    /// Whether a new session for so many lanes would be laid out like this one.
    pub fn suits(&self, lanes: usize) -> bool {
        let bytes = self.engine.bytes();
        bytes <= LARGE || self.parts.len() == parts(bytes, lanes, self.team.size())
    }

    /// Whether the caller's thread computes alone from now on, because others need the processor.
    pub fn compute_alone(&mut self, alone: bool) {
        self.alone = alone;
    }

    /// Forgets what a lane has read.
    pub fn clear(&mut self, lane: usize) {
        let count = self.parts.len();
        let caches = self.engine.hyper.layers * self.engine.hyper.kv_heads;
        let (part, lane) = (&mut self.parts[lane % count], lane / count);
        part.positions[lane] = 0;
        part.caches[lane * caches..(lane + 1) * caches].iter_mut().for_each(Cache::clear);
    }

    /// Tokens that a lane has read.
    pub fn position(&self, lane: usize) -> usize {
        self.parts[lane % self.parts.len()].positions[lane / self.parts.len()]
    }

    /// Feeds tokens, any number of any lanes; those of a lane in its order.
    /// Afterwards [`Session::cumulative`] has the distribution of the token behind each input.
    pub fn step(&mut self, inputs: &[Input]) {
        self.run(inputs, Want::Distributions, |_| true);
    }

    /// Like [`Session::step`], but only inputs for which `wanted` holds get a distribution; only
    /// their columns may be asked for. The others cost a fifth to a quarter less.
    pub fn step_some(&mut self, inputs: &[Input], wanted: impl Fn(usize) -> bool) {
        self.run(inputs, Want::Distributions, wanted);
    }

    /// Feeds tokens and computes [`Session::logits`] only.
    pub fn step_logits(&mut self, inputs: &[Input]) {
        self.run(inputs, Want::Logits, |_| true);
    }

    /// Feeds tokens without computing what follows them.
    pub fn feed(&mut self, inputs: &[Input]) {
        self.run(inputs, Want::Nothing, |_| false);
    }

    fn run(&mut self, inputs: &[Input], want: Want, wanted: impl Fn(usize) -> bool) {
        assert_strict();
        let count = self.parts.len();
        let mut rows = vec![0; count];
        self.parts.iter_mut().for_each(|p| p.inputs.clear());
        self.placed.clear();
        for (column, input) in inputs.iter().enumerate() {
            assert!(
                (input.token as usize) < self.engine.hyper.tokens,
                "token out of the vocabulary"
            );
            let part = input.lane % count;
            let output = wanted(column).then_some(rows[part]);
            self.placed.push((part, output.unwrap_or(usize::MAX)));
            rows[part] += usize::from(output.is_some());
            self.parts[part].inputs.push((input.lane / count, input.token, output));
        }
        let engine = &*self.engine;
        let most = self.parts.iter().map(|p| p.inputs.len()).max().unwrap_or(0);
        // Each thread its own lanes where that is even; all at each part's columns where not.
        if !self.alone && count > 1 && most * 4 <= inputs.len() * 3 {
            let parts = View::new(&mut self.parts, 1);
            #[cfg(test)]
            let panics = self.panics;
            self.team.run(&|me| {
                #[cfg(test)]
                assert!(panics != Some(me), "on purpose");
                if me < count {
                    let alone = Barrier::new(1);
                    // SAFETY: each member takes the part with its number.
                    let part = unsafe { &mut parts.row(me)[0] };
                    part.run(engine, want, 1, |pass| pass.run(0, &alone));
                }
            });
            return;
        }
        for part in &mut self.parts {
            // What waiting for each other costs must be little against the work.
            if self.alone || part.inputs.len() * engine.bytes() < TOGETHER {
                part.run(engine, want, 1, |pass| pass.run(0, &Barrier::new(1)));
                continue;
            }
            let barrier = Barrier::new(self.team.size());
            let size = self.team.size();
            part.run(engine, want, size, |pass| {
                self.team.run(&|me| {
                    let _here = barrier.attend();
                    pass.run(me, &barrier);
                });
            });
        }
    }

    /// Cumulative probabilities behind input `column` of the last [`Session::step`], in leaf order:
    /// `vocabulary + 1` integers from 0 to 2^31, strictly increasing.
    pub fn cumulative(&self, column: usize) -> &[u32] {
        let (part, row) = self.placed[column];
        self.parts[part].cumulative.row(row)
    }

    /// Logits behind input `column` of the last [`Session::step_logits`], in leaf order.
    pub fn logits(&self, column: usize) -> &[f32] {
        let (part, row) = self.placed[column];
        &self.parts[part].logits.row(row)[..self.engine.hyper.vocab]
    }

    /// Bytes of the caches.
    pub fn cache_bytes(&self) -> usize {
        self.parts.iter().flat_map(|p| &p.caches).map(Cache::bytes).sum()
    }
}

/// Into how many parts lanes are cut, for as many threads: whole lanes need no waiting for each other
/// within a step. Where that would fetch large weights too often, threads share out rows instead.
fn parts(bytes: usize, lanes: usize, threads: usize) -> usize {
    let rows = lanes < ENOUGH_LANES * threads || threads > FED_THREADS;
    if bytes > LARGE && rows { 1 } else { threads.clamp(1, lanes.max(1)) }
}

/// The one setting of a processor that could change results.
fn assert_strict() {
    assert!(floats_are_strict(), "flush-to-zero or denormals-are-zero is on in this thread");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_weights_are_fetched_by_few() {
        // Weights, lanes, threads: parts.
        for (bytes, lanes, threads, want) in [
            (1 << 20, 8, 2, 2),
            (1 << 20, 1, 2, 1),
            (1 << 20, 8, 16, 8),
            (LARGE + 1, 8, 1, 1),
            (LARGE + 1, 8, 2, 2),
            (LARGE + 1, 7, 2, 1),
            (LARGE + 1, 32, 4, 4),
            (LARGE + 1, 64, 8, 1),
        ] {
            assert_eq!(parts(bytes, lanes, threads), want, "{bytes} {lanes} {threads}");
        }
    }
}
