//! Lanes, and what is asked of them.

use super::batch::View;
use super::team::{Barrier, Team};
use super::work::{AHEAD, Input, Job, Span, Token, Want, Work};
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

/// Some lanes and their working memory.
#[derive(Debug)]
struct Part<E: Engine> {
    positions: Vec<usize>,
    states: Vec<E::State>,
    /// Columns of the call at hand: lane of this part, token, and the row of results.
    inputs: Vec<(usize, u32, Option<usize>)>,
    memory: E::Memory,
}

impl<E: Engine> Part<E> {
    fn new(engine: &E, lanes: usize) -> Self {
        let mut states = Vec::new();
        states.resize_with(lanes, E::State::default);
        for state in &mut states {
            engine.clear(state);
        }
        Self { positions: vec![0; lanes], states, inputs: Vec::new(), memory: E::Memory::default() }
    }

    /// Feeds the inputs in passes, each run by `each`.
    fn run(&mut self, e: &E, want: Want, members: usize, each: &mut dyn FnMut(&Job<'_>)) {
        let mut rest = &self.inputs[..];
        let mut first = 0;
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
                states: &mut self.states,
                outputs: &outputs,
                first,
                want,
            };
            e.pass(&mut self.memory, work, members, each);
            first += outputs.len();
        }
    }
}

/// A batch of lanes of one model, each a text of its own.
///
/// A lane's results depend on that lane's tokens alone: not on the other lanes, the number of
/// threads, or whether tokens came one by one or many in one call.
#[derive(Debug)]
pub struct Session<E: Engine> {
    engine: Arc<E>,
    /// Lane `l` is lane `l / parts` of part `l % parts`.
    parts: Vec<Part<E>>,
    team: Team,
    /// The caller's thread computes alone.
    alone: bool,
    /// Where the outputs behind input `column` of the last call are: (part, row of it).
    placed: Vec<(usize, usize)>,
    /// The member of the team that is to panic.
    #[cfg(test)]
    pub(crate) panics: Option<usize>,
}

impl<E: Engine> Session<E> {
    /// Most tokens of one lane in one pass. A call may bring more.
    pub const AHEAD: usize = AHEAD;

    /// A session of `lanes` empty lanes, computed by at most `threads` threads, the caller's included.
    pub fn new(engine: Arc<E>, lanes: usize, threads: usize) -> Result<Self, EngineError> {
        let mut team = Team::new(threads.max(1)).map_err(EngineError::Thread)?;
        team.run(&|_| assert_strict());
        let count = parts(engine.bytes(), lanes, threads);
        let lanes_of = |part| lanes / count + usize::from(part < lanes % count);
        let parts = (0..count).map(|part| Part::new(&*engine, lanes_of(part))).collect();
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
    pub fn engine(&self) -> &Arc<E> {
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
        let (part, lane) = (&mut self.parts[lane % count], lane / count);
        part.positions[lane] = 0;
        self.engine.clear(&mut part.states[lane]);
    }

    /// Tokens that a lane has read.
    pub fn position(&self, lane: usize) -> usize {
        self.parts[lane % self.parts.len()].positions[lane / self.parts.len()]
    }

    /// Feeds tokens, any number of any lanes; those of a lane in its order.
    /// Afterwards [`Session::probability`] answers for the token behind each input.
    pub fn step(&mut self, inputs: &[Input]) {
        self.run(inputs, Want::Decisions, |_| true);
    }

    /// Like [`Session::step`], but only inputs for which `wanted` holds get results; only
    /// their columns may be asked for. The others cost a fifth to a quarter less.
    pub fn step_some(&mut self, inputs: &[Input], wanted: impl Fn(usize) -> bool) {
        self.run(inputs, Want::Decisions, wanted);
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
            assert!((input.token as usize) < self.engine.tokens(), "token out of the vocabulary");
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
                    part.run(engine, want, 1, &mut |job| job(0, &alone));
                }
            });
            return;
        }
        for part in &mut self.parts {
            // What waiting for each other costs must be little against the work.
            if self.alone || part.inputs.len() * engine.bytes() < TOGETHER {
                part.run(engine, want, 1, &mut |job| job(0, &Barrier::new(1)));
                continue;
            }
            let barrier = Barrier::new(self.team.size());
            let size = self.team.size();
            part.run(engine, want, size, &mut |job| {
                self.team.run(&|me| {
                    let _here = barrier.attend();
                    job(me, &barrier);
                });
            });
        }
    }

    /// Where the results behind input `column` of the last call are.
    pub(super) fn result(&self, column: usize) -> (&E::Memory, usize) {
        let (part, row) = self.placed[column];
        (&self.parts[part].memory, row)
    }

    /// See [`Engine::probability`]: of the token behind input `column` of the last [`Session::step`].
    pub fn probability(&self, column: usize, node: u16, span: [usize; 3]) -> u32 {
        let (memory, output) = self.result(column);
        self.engine.probability(memory, output, node, span)
    }

    /// The leaf that is likeliest there, if the model knows.
    pub fn likeliest(&self, column: usize) -> Option<usize> {
        let (memory, output) = self.result(column);
        self.engine.likeliest(memory, output)
    }

    /// Appends all logits behind input `column` of the last [`Session::step_logits`].
    pub fn logits(&self, column: usize, all: &mut Vec<f32>) {
        let (memory, output) = self.result(column);
        self.engine.logits(memory, output, all);
    }

    /// Memory of the lanes' states, in bytes.
    pub fn state_bytes(&self) -> usize {
        self.parts.iter().flat_map(|p| &p.states).map(E::state_bytes).sum()
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
