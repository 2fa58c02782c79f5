//! A model that blocks can be coded with: checked, packed, with its vocabulary; it has a prior, a network, or
//! both.

use super::BlockError;
use crate::codec::prior::Prior;
use crate::codec::token_model::{Token, TokenModel};
use crate::codec::{LANES_MAX, Predictor, Vocab};
use crate::model::engine::fingerprint;
use crate::model::{Engine, EngineError, FileError, Input, Model, Session};
use std::collections::VecDeque;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// BLAKE3 of a model's canonical file.
pub type ModelId = [u8; 32];

/// Why a model cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LmError {
    /// Its file is refused.
    #[error(transparent)]
    File(#[from] FileError),
    /// It does not run here, or computes something else than its file says.
    #[error(transparent)]
    Engine(#[from] EngineError),
}

/// A model, ready to code. Cheap to clone: clones share all.
#[derive(Clone)]
pub struct Lm {
    core: Arc<Core>,
    /// Bytes of a block, and its lanes.
    unit: u32,
    lanes: usize,
    /// Once true, this clone's sessions are given up.
    stop: Option<Arc<AtomicBool>>,
    /// Nobody waits for what this clone codes.
    background: bool,
    /// This clone leaves the network out and codes with the prior.
    prior_alone: bool,
}

/// Immutable but for the sessions that are kept for their memory.
struct Core {
    id: ModelId,
    name: String,
    vocab: Arc<Vocab>,
    prior: Option<Arc<Prior>>,
    network: Option<Network>,
}

/// A network and the sessions it has.
struct Network {
    start: u32,
    engine: Arc<Engine>,
    busy: Arc<Busy>,
    idle: Mutex<Vec<Lanes>>,
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

impl fmt::Debug for Lm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Lm({})", self.core.name)
    }
}

impl Lm {
    /// Reads a canonical model file and makes it ready, as [`Self::of`].
    pub fn load(bytes: &[u8]) -> Result<Arc<Self>, LmError> {
        Self::of(*blake3::hash(bytes).as_bytes(), &Model::from_bytes(bytes)?)
    }

    /// The model whose file has this id: packed for this CPU, and checked. One that computes anything
    /// else here than where it was made is refused.
    pub fn of(id: ModelId, model: &Model) -> Result<Arc<Self>, LmError> {
        let vocab = model.vocabulary.ready();
        let prior = model.prior.as_ref().map(|p| p.ready(&vocab)).transpose()?;
        let network = model.network.as_ref().map(|network| {
            let engine = Arc::new(Engine::new(network, &model.vocabulary.tree));
            let got = guarded(|| fingerprint(&engine, &network.golden.tokens))?;
            if *got.as_bytes() != network.golden.hash {
                let want = blake3::Hash::from_bytes(network.golden.hash);
                return Err(EngineError::Golden { name: model.manifest.name.clone(), got, want });
            }
            let start = network.hyper.start;
            Ok(Network { start, engine, busy: Arc::default(), idle: Mutex::default() })
        });
        let network = network.transpose()?;
        let lanes = if network.is_some() { model.blocks.lanes as usize } else { 1 };
        let core = Core { id, name: model.manifest.name.clone(), vocab, prior, network };
        Ok(Arc::new(Self {
            core: Arc::new(core),
            unit: model.blocks.unit,
            lanes: lanes.min(LANES_MAX),
            stop: None,
            background: false,
            prior_alone: false,
        }))
    }

    /// Experts that know nothing yet, for a text of `len` bytes.
    pub(super) fn experts(&self, len: usize) -> Predictor {
        match &self.core.prior {
            Some(prior) => Predictor::informed(&self.core.vocab, len, prior, self.is_slow()),
            None => Predictor::beside(&self.core.vocab, len),
        }
    }

    /// True if it codes with a network: then decoding takes many times as long as with the experts alone.
    pub fn is_slow(&self) -> bool {
        self.core.network.is_some() && !self.prior_alone
    }

    /// The same model coding with its prior only, if it has a network too: for what the network does
    /// not earn its time on.
    pub fn without_network(&self) -> Option<Arc<Self>> {
        let both = self.core.prior.is_some() && self.core.network.is_some();
        both.then(|| Arc::new(Self { prior_alone: true, lanes: 1, ..self.clone() }))
    }

    /// The same model with its network if `own` codes with it, and without it if not.
    pub(super) fn as_of(&self, own: &Self) -> Self {
        let lanes = if own.prior_alone { 1 } else { self.lanes };
        Self { prior_alone: own.prior_alone, lanes, ..self.clone() }
    }

    /// True for what [`Self::without_network`] gives.
    pub(super) fn is_without_network(&self) -> bool {
        self.prior_alone
    }

    /// The same model coding blocks of `unit` bytes in so many lanes, whatever its file says. What
    /// it coded decodes in any case.
    #[must_use]
    pub fn in_lanes(&self, lanes: usize, unit: u32) -> Self {
        let lanes = if self.is_slow() { lanes.clamp(1, LANES_MAX) } else { 1 };
        Self { unit, lanes, ..self.clone() }
    }

    /// The same model for work that is given up once `stop` is true: a block can take long.
    #[must_use]
    pub fn until(&self, stop: Arc<AtomicBool>) -> Self {
        Self { stop: Some(stop), ..self.clone() }
    }

    /// The same model for work that nobody waits for.
    #[must_use]
    pub fn in_background(&self) -> Self {
        Self { background: true, ..self.clone() }
    }

    /// True if both are the same model in memory.
    pub fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.core, &other.core)
    }

    /// BLAKE3 of its file.
    pub fn id(&self) -> ModelId {
        self.core.id
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.core.name
    }

    /// Bytes of a block, unless somebody says otherwise.
    pub fn unit(&self) -> u32 {
        self.unit
    }

    /// Lanes of a block of its unit.
    pub fn lanes(&self) -> usize {
        self.lanes
    }

    /// Lanes of a text of `len` bytes: as many as make them as long as those of a whole unit, for
    /// each lane begins without a context.
    pub fn lanes_of(&self, len: usize) -> usize {
        let room = (self.unit as usize).div_ceil(self.lanes).max(1);
        len.div_ceil(room).clamp(1, self.lanes)
    }

    /// Instruction set that the network uses.
    pub fn isa(&self) -> &'static str {
        self.core.network.as_ref().map_or("", |n| n.engine.isa().name())
    }

    /// Its tokens and coding tree.
    pub fn vocab(&self) -> &Arc<Vocab> {
        &self.core.vocab
    }

    /// Memory of weights, prior and vocabulary, in bytes.
    pub fn weight(&self) -> usize {
        self.core.network.as_ref().map_or(0, |n| n.engine.bytes())
            + self.core.prior.as_ref().map_or(0, |p| p.weight())
            + self.core.vocab.weight()
    }

    /// Has `code` use the network's lanes at the start of text, if there is one. After a panic, of
    /// whichever thread, there is an error; the lanes and their threads are not used again.
    pub(super) fn code<T>(
        &self,
        code: impl FnOnce(Option<&mut dyn TokenModel>) -> T,
    ) -> Result<T, BlockError> {
        let Some(network) = self.core.network.as_ref().filter(|_| self.is_slow()) else {
            let stopped = self.stop.as_ref().is_some_and(|s| s.load(Ordering::Relaxed));
            return if stopped { Err(BlockError::Stopped) } else { Ok(code(None)) };
        };
        guarded(|| {
            let mut session = self.session(network)?;
            let coded = code(session.model());
            session.finish()?;
            Ok(coded)
        })
    }

    /// Lanes at the start of text. A block that is coded alone gets all cores, several at a time
    /// a core each.
    fn session<'a>(&self, network: &'a Network) -> Result<Borrowed<'a>, EngineError> {
        let background = self.background;
        let others = network.busy.rivals(background);
        network.busy.count(background).fetch_add(1, Ordering::SeqCst);
        let mut borrowed = Borrowed { network, background, lanes: None };
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let threads = if others == 0 { cores } else { 1 };
        let found = {
            let mut idle = network.idle.lock().unwrap_or_else(PoisonError::into_inner);
            // Threads have the priority of whoever started them: the background's are not lent to
            // readers, who would wait for them.
            let alike = |l: &Lanes| l.threads == threads && l.background == background;
            let at = idle.iter().position(alike);
            at.map(|at| idle.swap_remove(at))
        };
        let mut lanes = match found {
            Some(l) => l,
            None => Lanes::new(network, self.lanes, threads)?,
        };
        lanes.stop.clone_from(&self.stop);
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
struct Borrowed<'a> {
    network: &'a Network,
    background: bool,
    lanes: Option<Lanes>,
}

impl Borrowed<'_> {
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

impl Drop for Borrowed<'_> {
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
struct Lanes {
    engine: Arc<Engine>,
    busy: Arc<Busy>,
    start: u32,
    threads: usize,
    /// See [`Lm::until`].
    stop: Option<Arc<AtomicBool>>,
    background: bool,
    session: Session,
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

impl Lanes {
    /// Columns of one call where tokens to come are known.
    const COLUMNS: usize = 64;

    /// Lanes for at most `threads` threads; [`TokenModel::reset`] readies them.
    fn new(network: &Network, lanes: usize, threads: usize) -> Result<Self, EngineError> {
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
        let steps = (Self::COLUMNS / self.lanes().max(1)).clamp(1, Session::AHEAD);
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

impl TokenModel for Lanes {
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

    fn cumulative(&self, lane: usize) -> &[u32] {
        self.session.cumulative(self.columns[lane])
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Primer, Tier};
    use super::*;
    use crate::model::Counted;
    use crate::model::train::{Spool, Training};
    use crate::types::Encoding;

    fn network(lm: &Lm) -> &Network {
        lm.core.network.as_ref().unwrap()
    }

    #[test]
    fn a_panic_of_the_engine_is_an_error_and_its_threads_are_not_used_again() {
        let lm = Lm::load(include_bytes!("../../tests/data/tiny.model")).unwrap();
        let lm = lm.in_lanes(8, 4096);
        let kept = || network(&lm).idle.lock().unwrap().len();
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        for member in 0..cores.min(2) {
            let mut session = lm.session(network(&lm)).unwrap();
            if let Some(lanes) = &mut session.lanes {
                lanes.session.panics = Some(member);
            }
            drop(session);
            assert_eq!(kept(), 1);
            let step = |model: Option<&mut dyn TokenModel>| {
                let model = model.unwrap();
                model.reset(8);
                model.cumulative(3).to_vec()
            };
            // One thread has no team.
            if cores > 1 {
                let e = lm.code(step).unwrap_err();
                assert!(
                    matches!(&e, BlockError::Engine(e) if matches!(**e, EngineError::Panicked))
                );
                assert_eq!((kept(), network(&lm).busy.rivals(true)), (0, 0));
            }
            assert!(lm.code(step).unwrap().is_sorted());
            network(&lm).idle.lock().unwrap().clear();
        }
    }

    #[test]
    fn the_backgrounds_lanes_are_not_lent_to_readers() {
        let lm = Lm::load(include_bytes!("../../tests/data/tiny.model")).unwrap();
        let background = lm.in_background();
        let kept = || network(&lm).idle.lock().unwrap().len();
        drop(background.session(network(&lm)).unwrap());
        assert_eq!(kept(), 1);
        let reader = lm.session(network(&lm)).unwrap();
        assert_eq!(kept(), 1);
        drop(reader);
        assert_eq!(kept(), 2);
        let reader = lm.session(network(&lm)).unwrap();
        assert_eq!(kept(), 1);
        // The background leaves the cores to the reader, the reader does not to the background.
        let other = background.session(network(&lm)).unwrap();
        assert_eq!(other.lanes.as_ref().unwrap().threads, 1);
        assert_eq!((network(&lm).busy.rivals(false), network(&lm).busy.rivals(true)), (1, 2));
        drop((reader, other));
        assert_eq!((network(&lm).busy.rivals(false), network(&lm).busy.rivals(true)), (0, 0));
    }

    /// The committed network with a prior that was counted from such lines beside it.
    fn both() -> Model {
        let model = Model::from_bytes(include_bytes!("../../tests/data/tiny.model")).unwrap();
        let vocab = model.vocabulary.ready();
        let dir = tempfile::tempdir().unwrap();
        let mut spool = Spool::new(dir.path(), &vocab, 1).unwrap();
        spool.push(&lines(0, 40_000)).unwrap();
        let kinds = Training { memory: 64 << 10 }.run(&mut spool, &mut |_| {}).unwrap();
        Model { prior: Some(Counted::new(&vocab, kinds)), ..model }
    }

    fn lines(from: u32, len: usize) -> Vec<u8> {
        let line = |i: u32| format!("{i} host{} took the request of user{}\n", i * i % 7, i % 31);
        (from..).flat_map(|i| line(i).into_bytes()).take(len).collect()
    }

    #[test]
    fn a_prior_and_a_network_code_together_or_the_prior_alone() {
        let both = both();
        let only_network = Lm::of([2; 32], &Model { prior: None, ..both.clone() }).unwrap();
        let lm = Lm::of([1; 32], &both).unwrap();
        let tier = |lm: &Arc<Lm>, lm_gain| Tier { lm: Some(Arc::clone(lm)), lm_gain, ..Tier::FAST };
        let plain = lines(90_000, Primer::LEN + 9000);
        let (head, short) = (&plain[..Primer::LEN], &plain[Primer::LEN..]);
        let (always, never) = (tier(&lm, -1e9), tier(&lm, 1e9));
        let mut sizes = Vec::new();
        for (tier, lanes) in [(&always, 4), (&never, 0)] {
            let coded = super::super::encode(short, None, tier).unwrap();
            assert_eq!((coded.encoding, coded.payload[0]), (Encoding::Lm, lanes));
            let decode = |lm: &Arc<Lm>| {
                let len = short.len() as u32;
                super::super::decode(coded.encoding, &coded.payload, len, None, Some(lm))
            };
            assert!(decode(&lm).unwrap() == short);
            assert!(decode(&only_network).map_or(true, |back| back != short));
            sizes.push(coded.payload.len());
            // A primer says how its blocks are coded, whatever the tier; each knows its own.
            let (primer, stored) = Primer::make(head.to_vec(), tier).unwrap();
            assert_eq!(primer.lm().unwrap().is_slow(), lanes != 0);
            let len = head.len() as u32;
            let read = Primer::decode(stored.encoding, &stored.payload, len, Some(&lm)).unwrap();
            assert_eq!(read.lm().unwrap().is_slow(), lanes != 0);
            for other in [&always, &never] {
                let coded = super::super::encode(&plain, Some(&primer), other).unwrap();
                assert_eq!(
                    (coded.encoding, coded.payload[0] & 0x7f == 0),
                    (Encoding::Lm, lanes == 0)
                );
                let len = plain.len() as u32;
                let back = super::super::decode(
                    coded.encoding,
                    &coded.payload,
                    len,
                    Some(&read),
                    Some(&lm),
                );
                assert!(back.unwrap() == plain);
                // The other coder's payload is not this one's.
                let mut forged = coded.payload.clone();
                forged[0] ^= 1;
                let encoding = coded.encoding;
                let back = super::super::decode(encoding, &forged, len, Some(&read), Some(&lm));
                assert!(back.is_err() || lanes != 0);
            }
        }
        // The network is of random weights: the prior is better without it.
        assert!(sizes[1] < sizes[0]);
        // It does not stop what others want.
        let stop = Arc::new(AtomicBool::new(true));
        let stopped = lm.until(stop).without_network().unwrap();
        assert!(matches!(stopped.code(|_| ()), Err(BlockError::Stopped)));
        assert!(only_network.without_network().is_none());
    }
}
