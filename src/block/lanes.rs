//! A network and its lanes: blocks in lockstep, and which of them get how many cores.

use super::BlockError;
use crate::codec::{Token, TokenModel};
use crate::model::engine::fingerprint;
use crate::model::network::Golden;
use crate::model::{Engine, EngineError, Input, Session};
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// A network, ready to run, and the lanes it has.
pub struct Running<E: Engine> {
    start: u32,
    engine: Arc<E>,
    busy: Arc<Busy>,
    idle: Mutex<Vec<Lanes<E>>>,
}

/// How a block is coded.
pub struct Terms {
    /// Lanes of a whole block.
    pub lanes: usize,
    /// Once true, the lanes are given up.
    pub stop: Option<Arc<AtomicBool>>,
    /// Nobody waits for it.
    pub background: bool,
}

/// Blocks being coded or decoded now.
#[derive(Debug, Default)]
struct Busy {
    waited_for: AtomicUsize,
    background: AtomicUsize,
}

impl Busy {
    fn count(&self, background: bool) -> &AtomicUsize {
        if background { &self.background } else { &self.waited_for }
    }

    /// Blocks that one of this kind leaves cores to, and itself: nobody waits for the background.
    fn rivals(&self, background: bool) -> usize {
        let all = if background { self.background.load(Ordering::SeqCst) } else { 0 };
        all + self.waited_for.load(Ordering::SeqCst)
    }
}

impl<E: Engine> Running<E> {
    /// Lanes of it begin with the token `start`. One that computes anything else here than where it was made is refused;
    /// `name` says whose it is.
    pub fn new(engine: E, start: u32, golden: &Golden, name: &str) -> Result<Self, EngineError> {
        let engine = Arc::new(engine);
        let got = guarded(|| fingerprint(&engine, &golden.tokens))?;
        if *got.as_bytes() != golden.hash {
            let want = blake3::Hash::from_bytes(golden.hash);
            return Err(EngineError::Golden { name: name.into(), got, want });
        }
        Ok(Self { start, engine, busy: Arc::default(), idle: Mutex::default() })
    }

    /// Instruction set that it uses.
    pub fn isa(&self) -> &'static str {
        self.engine.isa().name()
    }

    /// Bytes of its weights in memory.
    pub fn bytes(&self) -> usize {
        self.engine.bytes()
    }

    /// Has `code` use lanes at the start of text. After a panic, of whichever thread, there is an error; the lanes
    /// and their threads are not used again.
    pub fn code<T>(
        &self,
        terms: &Terms,
        code: impl FnOnce(Option<&mut dyn TokenModel>) -> T,
    ) -> Result<T, BlockError> {
        guarded(|| {
            let mut session = self.session(terms)?;
            let coded = code(session.model());
            session.finish()?;
            Ok(coded)
        })
    }

    /// Lanes at the start of text. A block that is coded alone gets all cores, several at a time
    /// a core each.
    fn session(&self, terms: &Terms) -> Result<Borrowed<'_, E>, EngineError> {
        let background = terms.background;
        let others = self.busy.rivals(background);
        self.busy.count(background).fetch_add(1, Ordering::SeqCst);
        let mut borrowed = Borrowed { network: self, background, lanes: None };
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let threads = if others == 0 { cores } else { 1 };
        let found = {
            let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
            // Threads have the priority of whoever started them: the background's are not lent to
            // readers, who would wait for them.
            let alike = |l: &Lanes<E>| l.threads == threads && l.background == background;
            let at = idle.iter().position(alike);
            at.map(|at| idle.swap_remove(at))
        };
        let mut lanes = match found {
            Some(l) => l,
            None => Lanes::new(self, terms.lanes, threads)?,
        };
        lanes.stop.clone_from(&terms.stop);
        lanes.background = background;
        borrowed.lanes = Some(lanes);
        Ok(borrowed)
    }
}

/// What the engine computes, or an error where it panics.
fn guarded<T, E: From<EngineError>>(f: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
    catch_unwind(AssertUnwindSafe(f)).unwrap_or_else(|_| Err(EngineError::Panicked.into()))
}

/// Lanes on loan; they go back to their model when dropped, but not after a panic.
struct Borrowed<'a, E: Engine> {
    network: &'a Running<E>,
    background: bool,
    lanes: Option<Lanes<E>>,
}

impl<E: Engine> Borrowed<'_, E> {
    fn model(&mut self) -> Option<&mut dyn TokenModel> {
        self.lanes.as_mut().map(|l| l as &mut dyn TokenModel)
    }

    /// After the last use: what it said counts only if it was not given up.
    fn finish(self) -> Result<(), BlockError> {
        match &self.lanes {
            Some(lanes) if lanes.stopped() => Err(BlockError::Stopped),
            _ => Ok(()),
        }
    }
}

impl<E: Engine> Drop for Borrowed<'_, E> {
    fn drop(&mut self) {
        /// Sessions kept; each may hold a cache of keys and values for every lane.
        const KEPT: usize = 2;
        self.network.busy.count(self.background).fetch_sub(1, Ordering::SeqCst);
        if std::thread::panicking() {
            return;
        }
        let Some(lanes) = self.lanes.take() else { return };
        let mut idle = self.network.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() == KEPT {
            idle.remove(0);
        }
        idle.push(lanes);
    }
}

/// Lanes of one block in lockstep through one model.
#[derive(Debug)]
struct Lanes<E: Engine> {
    engine: Arc<E>,
    busy: Arc<Busy>,
    start: u32,
    threads: usize,
    /// See [`Terms::stop`].
    stop: Option<Arc<AtomicBool>>,
    background: bool,
    session: Session<E>,
    /// Lanes of the session; a text may have fewer.
    capacity: usize,
    /// Column of the last step that belongs to each lane.
    columns: Vec<usize>,
    inputs: Vec<Input>,
    /// Tokens to come, if they are known.
    future: Vec<Vec<Token>>,
    /// Steps since the start.
    at: usize,
    /// Columns of the steps that were computed ahead, by step and lane.
    ahead: VecDeque<Vec<usize>>,
}

impl<E: Engine> Lanes<E> {
    /// Columns of one call where tokens to come are known.
    const COLUMNS: usize = 64;

    /// Lanes for at most `threads` threads; [`TokenModel::reset`] readies them.
    fn new(network: &Running<E>, lanes: usize, threads: usize) -> Result<Self, EngineError> {
        let session = Session::new(Arc::clone(&network.engine), lanes, threads)?;
        Ok(Self {
            engine: Arc::clone(&network.engine),
            busy: Arc::clone(&network.busy),
            start: network.start,
            threads,
            stop: None,
            background: false,
            session,
            capacity: lanes,
            columns: vec![0; lanes],
            inputs: Vec::new(),
            future: Vec::new(),
            at: 0,
            ahead: VecDeque::new(),
        })
    }

    fn stopped(&self) -> bool {
        self.stop.as_ref().is_some_and(|s| s.load(Ordering::Relaxed))
    }

    /// Feeds the inputs. A block that began alone leaves the other cores to those that came since.
    fn step(&mut self) {
        self.session.compute_alone(self.busy.rivals(self.background) > 1);
        self.session.step(&self.inputs);
    }

    /// Computes as many steps as fit one call, from the one at hand on.
    fn compute_ahead(&mut self) {
        let steps = (Self::COLUMNS / self.lanes().max(1)).clamp(1, Session::<E>::AHEAD);
        self.inputs.clear();
        for step in self.at..self.at + steps {
            let mut columns = vec![0; self.lanes()];
            for (lane, tokens) in self.future.iter().enumerate() {
                if let Some(token) = tokens.get(step) {
                    columns[lane] = self.inputs.len();
                    self.inputs.push(Input { lane, token: u32::from(*token) });
                }
            }
            self.ahead.push_back(columns);
        }
        self.step();
    }
}

impl<E: Engine> TokenModel for Lanes<E> {
    fn lanes(&self) -> usize {
        self.columns.len()
    }

    fn reset(&mut self, lanes: usize) {
        if lanes <= self.capacity && self.session.suits(lanes) {
            (0..lanes).for_each(|lane| self.session.clear(lane));
        } else if let Ok(s) = Session::new(Arc::clone(&self.engine), lanes, self.threads) {
            self.session = s;
            self.capacity = lanes;
        } else {
            // No further thread can be had: the caller's computes alone.
            self.session = Session::new(Arc::clone(&self.engine), lanes, 1)
                .expect("a session without threads of its own cannot fail");
            self.capacity = lanes;
        }
        self.inputs.clear();
        self.inputs.extend((0..lanes).map(|lane| Input { lane, token: self.start }));
        self.columns.clear();
        self.columns.extend(0..lanes);
        self.future.clear();
        self.ahead.clear();
        self.at = 0;
        self.step();
    }

    fn foresee(&mut self, tokens: &[Vec<Token>]) {
        self.future = tokens.to_vec();
    }

    fn advance(&mut self, tokens: &[Option<Token>]) {
        if self.stopped() {
            // The coder runs through on what was said last; nobody will use what it writes.
            return;
        }
        if self.future.is_empty() {
            self.inputs.clear();
            for (lane, token) in tokens.iter().enumerate() {
                if let Some(token) = token {
                    self.columns[lane] = self.inputs.len();
                    self.inputs.push(Input { lane, token: u32::from(*token) });
                }
            }
            self.step();
            return;
        }
        if self.ahead.is_empty() {
            self.compute_ahead();
        }
        self.at += 1;
        if let Some(columns) = self.ahead.pop_front() {
            self.columns = columns;
        }
    }

    fn probability(&self, lane: usize, node: u16, span: [usize; 3]) -> u32 {
        self.session.probability(self.columns[lane], node, span)
    }

    fn likeliest(&self, lane: usize) -> Option<usize> {
        self.session.likeliest(self.columns[lane])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::engine::Llama;
    use crate::model::{Model, Network};

    fn running() -> Running<Llama> {
        let model = Model::from_bytes(include_bytes!("../../tests/data/tiny.model")).unwrap();
        let Some(Network::Llama(n)) = &model.network else { panic!("no such network") };
        let engine = Llama::new(n, &model.vocabulary.tree);
        Running::new(engine, n.hyper.start, &n.golden, "tiny").unwrap()
    }

    fn terms(background: bool) -> Terms {
        Terms { lanes: 8, stop: None, background }
    }

    #[test]
    fn a_panic_of_the_engine_is_an_error_and_its_threads_are_not_used_again() {
        let running = running();
        let kept = || running.idle.lock().unwrap().len();
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        for member in 0..cores.min(2) {
            let mut session = running.session(&terms(false)).unwrap();
            if let Some(lanes) = &mut session.lanes {
                lanes.session.panics = Some(member);
            }
            drop(session);
            assert_eq!(kept(), 1);
            let step = |model: Option<&mut dyn TokenModel>| {
                let model = model.unwrap();
                model.reset(8);
                model.probability(3, 0, [0, 128, 259])
            };
            // One thread has no team.
            if cores > 1 {
                let e = running.code(&terms(false), step).unwrap_err();
                assert!(
                    matches!(&e, BlockError::Engine(e) if matches!(**e, EngineError::Panicked))
                );
                assert_eq!((kept(), running.busy.rivals(true)), (0, 0));
            }
            assert!((1..65536).contains(&running.code(&terms(false), step).unwrap()));
            running.idle.lock().unwrap().clear();
        }
    }

    #[test]
    fn the_backgrounds_lanes_are_not_lent_to_readers() {
        let running = running();
        let kept = || running.idle.lock().unwrap().len();
        drop(running.session(&terms(true)).unwrap());
        assert_eq!(kept(), 1);
        let reader = running.session(&terms(false)).unwrap();
        assert_eq!(kept(), 1);
        drop(reader);
        assert_eq!(kept(), 2);
        let reader = running.session(&terms(false)).unwrap();
        assert_eq!(kept(), 1);
        // The background leaves the cores to the reader, the reader does not to the background.
        let other = running.session(&terms(true)).unwrap();
        assert_eq!(other.lanes.as_ref().unwrap().threads, 1);
        assert_eq!((running.busy.rivals(false), running.busy.rivals(true)), (1, 2));
        drop((reader, other));
        assert_eq!((running.busy.rivals(false), running.busy.rivals(true)), (0, 0));
    }
}
