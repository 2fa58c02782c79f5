//! A model that blocks can be coded with: checked, packed, with its vocabulary; it has a prior, a network, or
//! both.

use super::BlockError;
use super::lanes::{Running, Terms};
use crate::codec::prior::Prior;
use crate::codec::{Company, LANES_MAX, Predictor, TokenModel, Vocab};
use crate::model::{self, EngineError, FileError, Model, engine};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

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

/// A network of one architecture or another, and the lanes it has.
enum Network {
    Llama(Running<engine::Llama>),
    Gated(Running<engine::Gated>),
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
        let name = &model.manifest.name;
        let network = model.network.as_ref().map(|network| match network {
            model::Network::Llama(n) => {
                let engine = engine::Llama::new(n, &model.vocabulary.tree);
                Running::new(engine, n.hyper.start, &n.golden, name).map(Network::Llama)
            }
            model::Network::Gated(n) => {
                let engine = engine::Gated::new(n);
                Running::new(engine, n.sizes.start(), &n.golden, name).map(Network::Gated)
            }
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
        let company = match &self.core.network {
            Some(Network::Llama(_)) if self.is_slow() => Company::Foretelling,
            Some(Network::Gated(_)) if self.is_slow() => Company::Correcting,
            _ => Company::None,
        };
        self.experts_in(company, len)
    }

    /// The same in some company.
    pub(super) fn experts_in(&self, company: Company, len: usize) -> Predictor {
        match &self.core.prior {
            Some(prior) => Predictor::informed(&self.core.vocab, len, prior, company),
            None => Predictor::beside(&self.core.vocab, len),
        }
    }

    /// True if it codes with a network: then decoding takes many times as long as with the experts alone.
    pub fn is_slow(&self) -> bool {
        self.core.network.is_some() && !self.prior_alone
    }

    /// Its prior, if it has one.
    pub fn prior(&self) -> Option<&Arc<Prior>> {
        self.core.prior.as_ref()
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
        match &self.core.network {
            Some(Network::Llama(n)) => n.isa(),
            Some(Network::Gated(n)) => n.isa(),
            None => "",
        }
    }

    /// Its tokens and coding tree.
    pub fn vocab(&self) -> &Arc<Vocab> {
        &self.core.vocab
    }

    /// Memory of weights, prior and vocabulary, in bytes.
    pub fn weight(&self) -> usize {
        let network = match &self.core.network {
            Some(Network::Llama(n)) => n.bytes(),
            Some(Network::Gated(n)) => n.bytes(),
            None => 0,
        };
        network + self.core.prior.as_ref().map_or(0, |p| p.weight()) + self.core.vocab.weight()
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
        let terms =
            Terms { lanes: self.lanes, stop: self.stop.clone(), background: self.background };
        match network {
            Network::Llama(n) => n.code(&terms, code),
            Network::Gated(n) => n.code(&terms, code),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Primer, Tier};
    use super::*;
    use crate::model::Counted;
    use crate::model::train::{Spool, Training};
    use crate::types::Encoding;

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
