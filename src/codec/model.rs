//! The predictor: adaptive counters under many contexts and match models, mixed in the logistic
//! domain and corrected by secondary estimation (the PAQ family's design: Mahoney 2005).

use super::context::{History, Lane, NONE, hash};
use super::counters::{Adaptive, Estimates, Found, SEEN_MAX, Slot, Table, Worth};
use super::estimation::Estimation;
use super::matching::{Match, Matcher};
use super::mixer::{INPUTS, Inputs, Mixer, ONE};
use super::tables::TABLES;
use super::token_model::Token;
use super::vector::{Lanes, Vector, WIDTH};
use super::vocab::{VOCAB, Vocab};
use std::sync::Arc;

/// Tokens that a match has at least.
const MATCH_MIN: [usize; MATCHES] = [8, 4];
const MATCHES: usize = 2;
/// Decisions of a path that share lines of the table.
const GROUP: usize = 4;
/// Contexts that tell how much of the recent text was seen before.
const ORDERS: [usize; 3] = [1, 2, 6];
/// A guess is asked about if it is right this often, of 65536.
const GUESS_MIN: u32 = 45000;
/// Vectors of inputs: the contexts' logits, how far their probabilities are from a half, the rest.
const LOGITS: usize = 0;
const LINEAR: usize = 1;
const REST: usize = 2;
/// Inputs of the rest, after those of the matches.
const DIRECT: usize = MATCHES;
const BIAS: usize = MATCHES + 1;
const LM: usize = MATCHES + 2;
const GUESS: usize = MATCHES + 3;
const LM_LINEAR: usize = MATCHES + 4;
/// The context that a language model's likeliest token replaces: that of the line's indent.
const FORETOLD: usize = 7;
/// Nodes that have their own weights; the tree's nodes are numbered by weight.
const NODES: usize = 512;
/// Contexts of the second estimation.
const PAIRS: usize = 1 << 12;

/// Weights to start with, in hundredths: of each context, each match, the node itself, and the
/// language model.
fn initial_weights(contexts: i32, matches: i32, direct: i32, lm: i32) -> Inputs {
    let mut weights = [[0; WIDTH]; INPUTS];
    weights[LOGITS] = [contexts * ONE / 100; WIDTH];
    weights[REST][..MATCHES].fill(matches * ONE / 100);
    weights[REST][DIRECT] = direct * ONE / 100;
    weights[REST][LM] = lm * ONE / 100;
    weights
}

/// Tells nodes apart in hashes.
#[inline(always)]
fn salt_of(node: u16) -> u32 {
    u32::from(node).wrapping_mul(0x9E37_79B1)
}

/// The lines of the table for the contexts and the node that begins a group.
#[inline(always)]
fn lines<V: Vector>(contexts: &Lanes, salt: u32) -> V {
    let h = V::load(contexts).xor(V::splat(salt as i32)).mul(V::splat(0x85EB_CA6B_u32 as i32));
    h.xor(h.shr::<15>())
}

/// All that coder and decoder learn in step. Cloning it is how a primer is used.
#[derive(Debug, Clone)]
pub struct Predictor {
    vocab: Arc<Vocab>,
    table: Table,
    direct: Vec<Slot>,
    worth: Worth,
    mixer: Mixer,
    estimations: [Estimation; 2],
    matchers: [Matcher; MATCHES],
    history: History,
    lanes: Vec<(Lane, [Match; MATCHES])>,
    // Of the token under way:
    lane: usize,
    depth: usize,
    hashes: Lanes,
    lines: Lanes,
    above_live: bool,
    /// The guess that is asked about or was refused.
    guess: Option<Token>,
    guess_p: u32,
    refused: bool,
    asked: bool,
    refusal: Vec<Adaptive>,
    refusal_at: usize,
    refusal_bit: bool,
    // Of the decision under way:
    node: u16,
    found: Found,
    estimates: Estimates,
    inputs: Inputs,
}

impl Default for Predictor {
    fn default() -> Self {
        Self::new(usize::MAX)
    }
}

impl Predictor {
    /// Knows nothing of the text, which will be `len` bytes long. Coder and decoder must say the
    /// same.
    pub fn new(len: usize) -> Self {
        Self::over(&VOCAB, len)
    }

    /// The same for another vocabulary.
    pub fn over(vocab: &Arc<Vocab>, len: usize) -> Self {
        Self::starting(vocab, len, &initial_weights(25, 25, 12, 0))
    }

    /// The same over the vocabulary of a language model, which is trusted more than the experts
    /// until they have learnt something.
    pub fn beside(vocab: &Arc<Vocab>, len: usize) -> Self {
        Self::starting(vocab, len, &initial_weights(10, 25, 12, 60))
    }

    fn starting(vocab: &Arc<Vocab>, len: usize, initial: &Inputs) -> Self {
        Self {
            vocab: Arc::clone(vocab),
            table: Table::new(len),
            direct: vec![Slot::NEW; vocab.size() + 1],
            worth: Worth::default(),
            mixer: Mixer::new(initial, [21 * 16, NODES + 1, 21 * 128], 21),
            estimations: [Estimation::new(vocab.size() + 1), Estimation::new(PAIRS)],
            matchers: MATCH_MIN.map(Matcher::new),
            history: History::default(),
            lanes: Vec::new(),
            lane: 0,
            depth: 0,
            hashes: [0; WIDTH],
            lines: [0; WIDTH],
            above_live: false,
            guess: None,
            guess_p: 0,
            refused: false,
            asked: false,
            refusal: vec![Adaptive::new(20000, 2); 32],
            refusal_at: 0,
            refusal_bit: false,
            node: 0,
            found: Found::default(),
            estimates: Estimates::default(),
            inputs: [[0; WIDTH]; INPUTS],
        }
    }

    /// The vocabulary whose tokens it predicts.
    pub fn vocab(&self) -> &Arc<Vocab> {
        &self.vocab
    }

    /// Readies for lanes of at most these many tokens each. All go on from where lane 0 was.
    pub fn open(&mut self, rooms: &[usize]) {
        let from = self.lanes.first().cloned().unwrap_or_default();
        self.lanes = rooms
            .iter()
            .map(|n| {
                let mut lane = from.clone();
                lane.0.here = self.history.room(*n);
                lane
            })
            .collect();
    }

    /// Memory held, in bytes.
    pub fn weight(&self) -> usize {
        self.table.weight()
            + Worth::WEIGHT
            + 4 * self.direct.len()
            + self.mixer.weight()
            + self.estimations.iter().map(Estimation::weight).sum::<usize>()
            + self.matchers.iter().map(Matcher::weight).sum::<usize>()
            + self.history.weight()
    }

    /// Before a token of a lane.
    #[inline(always)]
    pub fn begin<V: Vector>(&mut self, lane: usize) {
        self.lane = lane;
        self.depth = 0;
        self.hashes = self.lanes[lane].0.contexts(&self.history);
        self.prefetch::<V>(0);
        let (lane, matches) = &mut self.lanes[lane];
        self.above_live = lane.above_token != NONE;
        for m in matches.iter_mut() {
            Matcher::begin(m, &self.history);
        }
        self.guess = None;
        self.refused = false;
        for (matcher, m) in self.matchers.iter().zip(matches) {
            if let Some((token, p)) = matcher.guess(m)
                && p > GUESS_MIN
            {
                self.guess = Some(token);
                self.guess_p = p;
                break;
            }
        }
    }

    /// The token that a language model thinks likeliest. It takes the place of the context that says
    /// least beside one: what has come of that guess in this text.
    #[inline(always)]
    pub fn foretell(&mut self, token: Token) {
        self.hashes[FORETOLD] = hash(u32::from(token), FORETOLD as u32 | 1 << 16) as i32;
    }

    /// The token that is likely enough to be asked about first, as `predict(.., None, ..)`.
    #[inline(always)]
    pub fn guess(&self) -> Option<Token> {
        self.guess
    }

    /// Probability of 65536, from 1 to 65535, that the decision at `node` is 1. `lm` is what a
    /// language model says of it.
    #[inline(always)]
    pub fn predict<V: Vector>(&mut self, vocab: &Vocab, node: Option<u16>, lm: Option<u32>) -> u32 {
        self.asked = node.is_none();
        let node = node.unwrap_or(vocab.size() as u16);
        self.node = node;
        let mut salt = salt_of(node);
        if self.asked {
            salt = salt.wrapping_add(u32::from(self.guess.unwrap_or(0)).wrapping_mul(0x6C8E_9CF5));
        }
        if self.depth.is_multiple_of(GROUP) {
            lines::<V>(&self.hashes, salt).store(&mut self.lines);
        }
        // Under the node, and under the token before and the node.
        let before = u32::from(self.lanes[self.lane].0.recent[0]);
        self.estimations[0].choose(usize::from(node));
        self.estimations[1].choose(hash(before, salt) as usize % PAIRS);
        // The lines that come next: the root's after a guess, the children's after a group's last.
        if self.asked {
            self.prefetch::<V>(0);
        } else if self.depth % GROUP == GROUP - 1 {
            for bit in [false, true] {
                if let Ok(child) = vocab.step(node, bit) {
                    self.prefetch::<V>(child);
                }
            }
        }
        let salt = salt ^ salt >> 15;
        let keys = V::load(&self.hashes).xor(V::splat(salt as i32));
        let keys = keys.mul(V::splat(0x297A_2D39)).shr::<8>();
        self.found = self.table.find(V::load(&self.lines), keys);
        self.estimates = self.worth.of::<V>(&self.found.slots);
        let p = V::load(&self.estimates.p);
        TABLES.stretch_all(p).store(&mut self.inputs[LOGITS]);
        p.sub(V::splat(32768)).sar::<5>().store(&mut self.inputs[LINEAR]);
        // Which of the longer contexts have been here before.
        let order: usize =
            ORDERS.map(|i| usize::from(self.found.slots[i] & SEEN_MAX != 0)).iter().sum();
        let (lane, matches) = &mut self.lanes[self.lane];
        let mut sures = [0; MATCHES];
        let mut state = 0;
        self.refusal_at = usize::MAX;
        let mut own = 0;
        if self.asked {
            self.inputs[REST][..MATCHES].fill(0);
            own = TABLES.stretch(self.guess_p as u16);
            state = 1;
        } else {
            for k in 0..MATCHES {
                let (logit, sure) =
                    self.matchers[k].predict(&mut matches[k], vocab, node, self.depth);
                self.inputs[REST][k] = logit;
                sures[k] = sure;
            }
            if self.refused {
                let path = vocab.path(self.guess.unwrap_or(0));
                match path.get(self.depth) {
                    Some(&(n, bit)) if n == node => {
                        self.refusal_at = (path.len() - self.depth).min(31);
                        self.refusal_bit = bit;
                        let logit = TABLES.stretch(self.refusal[self.refusal_at].p() as u16);
                        own = if bit { logit } else { -logit };
                        state = 2 + usize::from(self.refusal_at < 2);
                    }
                    _ => self.refused = false,
                }
            }
        }
        self.inputs[REST][GUESS] = own;
        let direct = self.direct[node as usize];
        self.inputs[REST][DIRECT] = TABLES.stretch_coarse(direct.p() >> 2);
        // The token above, if the path so far is its.
        let mut above = 0;
        if self.asked {
            above = if !self.above_live {
                0
            } else if Some(lane.above_token) == self.guess {
                2
            } else {
                1
            };
        } else if self.above_live {
            match vocab.path(lane.above_token).get(self.depth) {
                Some(&(n, bit)) if n == node => above = 1 + usize::from(bit),
                _ => self.above_live = false,
            }
        }
        self.inputs[REST][BIAS] = 256;
        let p = lm.unwrap_or(32768);
        self.inputs[REST][LM] = TABLES.stretch(p as u16);
        self.inputs[REST][LM_LINEAR] = (p as i32 - 32768) >> 5;
        let certain = match state {
            0 => sures[0] * 4 + sures[1],
            1 if self.guess_p > 65000 => 16,
            1 if self.guess_p > 63000 => 17,
            1 => 18,
            _ => 17 + state,
        };
        let contexts = [
            certain * 16 + order * 4 + above,
            if self.asked { NODES } else { usize::from(node).min(NODES - 1) },
            certain * 128 + self.depth.min(15) * 8 + lane.class,
        ];
        let logit = self.mixer.mix::<V>(&self.inputs, &contexts, certain);
        let p = TABLES.squash(logit);
        let [a, b] = &mut self.estimations;
        (((2 * p + a.refine(logit) + b.refine(logit)) + 2) / 4).clamp(1, 65535) as u32
    }

    #[inline(always)]
    fn prefetch<V: Vector>(&self, node: u16) {
        let salt = salt_of(node);
        for line in lines::<V>(&self.hashes, salt).lanes() {
            self.table.prefetch(line as u32);
        }
    }

    /// Learns how the decision went that [`Self::predict`] was asked about.
    #[inline(always)]
    pub fn update<V: Vector>(&mut self, bit: bool) {
        self.mixer.update::<V>(&self.inputs, bit);
        self.worth.learn::<V>(&self.estimates, bit);
        self.table.learn::<V>(&self.found, bit);
        let direct = &mut self.direct[self.node as usize];
        *direct = direct.learned(bit);
        for e in &mut self.estimations {
            e.update(bit);
        }
        let matches = &mut self.lanes[self.lane].1;
        for (matcher, m) in self.matchers.iter_mut().zip(matches) {
            if !self.asked {
                matcher.update(m, bit);
            }
        }
        if self.refusal_at != usize::MAX {
            let cell = &mut self.refusal[self.refusal_at];
            let hit = bit == self.refusal_bit;
            *cell = cell.learned(hit, 255);
            self.refused = hit;
        }
        if self.asked {
            if !bit {
                self.refused = true;
                for m in &mut self.lanes[self.lane].1 {
                    Matcher::refuse(m, self.guess.unwrap_or(0));
                }
            }
        } else {
            self.depth += 1;
        }
    }

    /// After a token.
    #[inline(always)]
    pub fn end(&mut self, token: Token, bytes: &[u8]) {
        let (lane, matches) = &mut self.lanes[self.lane];
        self.history.set(lane.here, token);
        lane.pass(token, bytes);
        for (matcher, m) in self.matchers.iter_mut().zip(matches) {
            matcher.settle(m, token);
            matcher.end(m, lane, &self.history);
        }
    }
}
