//! The experts: adaptive counters under many contexts and match models, mixed in the logistic
//! domain and corrected by secondary estimation (the PAQ family's design: Mahoney 2005).

use super::context::{History, Lane, NONE, PLACES, hash};
use super::counters::{Adaptive, Estimates, Found, SEEN_MAX, Slot, Table, Worth, haste};
use super::counters::{lines, salt_of};
use super::estimation::Estimation;
use super::matching::{Match, Matcher};
use super::mixer::{Inputs, Mixer, ONE, Rates};
use super::prior::{KINDS, Prior, View};
use super::sure::{Standing, Sure};
use super::tables::TABLES;
use super::token_model::{Company, Token};
use super::vector::{Ints, Shorts, Vector, WIDTH};
use super::vocab::Vocab;
use std::sync::Arc;

/// Tokens that a match has at least.
const MATCH_MIN: [usize; MATCHES] = [8, 3];
const MATCHES: usize = 2;
/// Decisions of a path that share lines of the table.
const GROUP: usize = 4;
/// Contexts that tell how much of the recent text was seen before.
const ORDERS: [usize; 3] = [1, 2, 6];
/// Inputs that do not come from counters, after those of the matches.
const DIRECT: usize = MATCHES;
const BIAS: usize = MATCHES + 1;
const LM: usize = MATCHES + 2;
const GUESS: usize = MATCHES + 3;
const LM_LINEAR: usize = MATCHES + 4;
/// Nodes that have their own weights; the tree's nodes are numbered by weight.
const NODES: usize = 512;
/// Contexts of the second estimation, and of the third.
const PAIRS: usize = 1 << 12;
/// States of what is certain about a decision.
const CERTAIN: usize = 21;
/// Depths in the tree that are told apart, and classes of the byte before.
const DEPTHS: usize = 16;
const CLASSES: usize = 8;
/// Tokens before that have their own weights, hashed.
const BEFORE: usize = 1 << 10;

/// Fields of lines that begin alike, hashed.
const TEMPLATES: usize = 1 << 11;

/// What one kind of experts begins with and how it learns.
struct Ways {
    /// Weights to start with, in hundredths: of each context, each match, the node itself, and the
    /// language model.
    weights: [i32; 4],
    /// The same of each kind of the prior's contexts.
    prior: i32,
    rates: Rates,
    haste: Ints,
    /// A guess is asked about if it is right this often, of 65536.
    guess_min: u32,
    /// The same for one that nothing else is made ready for.
    sure_min: u32,
    /// A decision that was foreseen but for less than this, of 65536, teaches the counters nothing:
    /// they would only forget what they have seen under other nodes that share their place.
    foreseen: i32,
    /// Whether the second layer's weights are also chosen by depth and class, as [`SIZES`]' third ones.
    twice: bool,
    /// Whether matches look nearby after a wrong guess.
    recovers: bool,
}

/// Weights to start with: the prior's inputs come after those of the `contexts` vectors.
fn initial_weights<const I: usize>(all: [i32; 4], prior: i32, contexts: usize) -> Inputs<I> {
    let share = |hundredths: i32| (hundredths * ONE / 100) as i16;
    let mut weights = Inputs::ZERO;
    for (k, vector) in weights.counted.iter_mut().enumerate() {
        for i in 0..WIDTH {
            vector.0[Shorts::first(i)] = share(if k < contexts { all[0] } else { prior });
        }
    }
    weights.rest.0[..MATCHES].fill(share(all[1]));
    weights.rest.0[DIRECT] = share(all[2]);
    weights.rest.0[LM] = share(all[3]);
    weights
}

/// All that coder and decoder learn in step, with `C` vectors of contexts, `I` of inputs (one more
/// where there is a prior), and `S` sets of weights.
#[derive(Debug, Clone)]
pub struct Experts<const C: usize, const I: usize, const S: usize> {
    vocab: Arc<Vocab>,
    table: Table,
    direct: Vec<Slot>,
    worth: [Worth; C],
    mixer: Mixer<I, S>,
    prior: View,
    guess_min: u32,
    sure_min: u32,
    foreseen: i32,
    sure: Sure,
    estimations: [Estimation; 2],
    /// Under the place in the line and the depth in the tree; of two vectors only.
    placed: Estimation,
    matchers: [Matcher; MATCHES],
    history: History,
    lanes: Vec<(Lane, [Match; MATCHES])>,
    // Of the token under way:
    lane: usize,
    depth: usize,
    hashes: [Ints; C],
    lines: [Ints; C],
    above_live: bool,
    /// The guess that is asked about.
    guess: Option<Token>,
    guess_p: u32,
    /// Where its match stands, if it is next to certain.
    standing: Option<Standing>,
    /// The guess was wrong, and the path so far is that of this token.
    refused: Option<Token>,
    asked: bool,
    refusal: Vec<Adaptive>,
    refusal_at: usize,
    refusal_bit: bool,
    // Of the decision under way:
    node: u16,
    found: [Found; C],
    estimates: [Estimates; C],
    inputs: Inputs<I>,
    /// What [`Self::predict`] said.
    said: i32,
}

/// What stands alone.
pub type Narrow = Experts<1, 1, 3>;
/// What stands beside a language model, whose time is so much longer that twice the contexts cost
/// next to nothing.
pub type Wide = Experts<2, 2, 5>;
/// What stands beside a prior.
pub type Informed = Experts<2, 3, 5>;

/// Contexts of the sets of weights: how certain the matches are with the orders seen and the line
/// above, the node, the certainty with depth and class of the byte before, the place in the line, the
/// token before, what the prior knows, the field of the line with those that the line began with.
const SIZES: [usize; 7] = [
    CERTAIN * 16,
    NODES + 1,
    CERTAIN * DEPTHS * CLASSES,
    PLACES,
    BEFORE,
    (KINDS + 1) * 4 * 16,
    TEMPLATES,
];

/// Which of the sets of weights there are.
const fn sets<const S: usize>(informed: bool) -> [usize; S] {
    let all = if informed { [1, 3, 4, 5, 6] } else { [0, 1, 2, 3, 4] };
    let mut sets = [0; S];
    let mut i = 0;
    while i < S {
        sets[i] = all[i];
        i += 1;
    }
    sets
}

impl Narrow {
    /// Knows nothing of the text, which will be `len` bytes long.
    pub fn new(vocab: &Arc<Vocab>, len: usize) -> Self {
        let ways = Ways {
            weights: [25, 25, 12, 0],
            prior: 0,
            rates: Rates { first: 28, boost: 4, decay: 256, second: 4 },
            haste: haste::MOST,
            guess_min: 45000,
            sure_min: u32::MAX,
            foreseen: 256,
            twice: false,
            recovers: false,
        };
        Self::starting(vocab, len, &ways)
    }
}

impl Wide {
    /// The same beside a language model, which is trusted more than the experts until they have learnt
    /// something.
    pub fn new(vocab: &Arc<Vocab>, len: usize) -> Self {
        let ways = Ways {
            weights: [6, 20, 8, 60],
            prior: 0,
            rates: Rates { first: 30, boost: 4, decay: 256, second: 8 },
            haste: haste::NONE,
            guess_min: u32::MAX,
            sure_min: u32::MAX,
            foreseen: 256,
            twice: false,
            recovers: false,
        };
        Self::starting(vocab, len, &ways)
    }
}

impl Informed {
    /// Sets of weights that stand for the same in any text: those chosen by the node, by the token before, and by what
    /// the prior knows.
    const GENERAL: [usize; 3] = [0, 2, 3];

    /// The same beside a prior, and maybe beside a network too. [`Self::for_text`] comes next.
    pub fn untrained(vocab: &Arc<Vocab>, network: Company) -> Self {
        let alone = Ways {
            weights: [8, 20, 8, 0],
            prior: 12,
            rates: Rates { first: 14, boost: 4, decay: 1 << 17, second: 20 },
            haste: haste::MOST,
            guess_min: 65000,
            sure_min: 65000,
            foreseen: 512,
            twice: true,
            recovers: true,
        };
        // Beside a network no token is guessed.
        let beside = Ways { guess_min: u32::MAX, sure_min: u32::MAX, ..alone };
        let ways = match network {
            Company::None => alone,
            Company::Foretelling => Ways { weights: [6, 15, 8, 50], prior: 6, ..beside },
            Company::Correcting => Ways { weights: [8, 20, 8, 100], ..beside },
        };
        Self::starting(vocab, 0, &ways)
    }

    /// Ready for a text of `len` bytes, with a prior that must be for this vocabulary.
    pub fn for_text(mut self, len: usize, prior: &Arc<Prior>) -> Self {
        self.table = Table::new(len.saturating_mul(2), 17, haste::MOST);
        self.prior = View::new(Some(Arc::clone(prior)));
        self
    }

    /// Shows the parameters that other texts can teach, one after another, and takes what is answered, within bounds.
    pub fn each_parameter(&mut self, visit: &mut impl FnMut(i32) -> i32) {
        self.mixer.each_weight(&Self::GENERAL, visit);
        for estimation in self.estimations.iter_mut().chain([&mut self.placed]) {
            estimation.each_cell(visit);
        }
    }
}

impl<const C: usize, const I: usize, const S: usize> Experts<C, I, S> {
    const SETS: [usize; S] = sets(I > C);

    fn starting(vocab: &Arc<Vocab>, len: usize, ways: &Ways) -> Self {
        let weights = initial_weights(ways.weights, ways.prior, C);
        let finals = [CERTAIN, if ways.twice { DEPTHS * CLASSES } else { 0 }];
        Self {
            vocab: Arc::clone(vocab),
            table: Table::new(len.saturating_mul(C), 15 + C as u32, ways.haste),
            direct: vec![Slot::NEW; vocab.size() + 1],
            worth: std::array::from_fn(|_| Worth::default()),
            mixer: Mixer::new(&weights, Self::SETS.map(|k| SIZES[k]), finals, ways.rates),
            prior: View::new(None),
            guess_min: ways.guess_min,
            sure_min: ways.sure_min,
            foreseen: ways.foreseen,
            sure: Sure::new(ways.sure_min < u32::MAX),
            estimations: [Estimation::new(vocab.size() + 1), Estimation::new(PAIRS)],
            placed: Estimation::new(if C == 1 { 1 } else { PAIRS }),
            matchers: MATCH_MIN.map(|min| Matcher::new(min, ways.recovers)),
            history: History::default(),
            lanes: Vec::new(),
            lane: 0,
            depth: 0,
            hashes: [[0; WIDTH]; C],
            lines: [[0; WIDTH]; C],
            above_live: false,
            guess: None,
            guess_p: 0,
            standing: None,
            refused: None,
            asked: false,
            refusal: vec![Adaptive::new(20000, 2); 32],
            refusal_at: 0,
            refusal_bit: false,
            node: 0,
            found: [Found::default(); C],
            estimates: [Estimates::default(); C],
            inputs: Inputs::ZERO,
            said: 32768,
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
            + C * Worth::WEIGHT
            + View::WEIGHT
            + 4 * self.direct.len()
            + self.mixer.weight()
            + self.estimations.iter().map(Estimation::weight).sum::<usize>()
            + self.placed.weight()
            + self.matchers.iter().map(Matcher::weight).sum::<usize>()
            + self.history.weight()
            + self.sure.weight()
    }

    /// Before a token of a lane.
    #[inline(always)]
    pub fn begin(&mut self, lane: usize) {
        self.lane = lane;
        self.depth = 0;
        let (lane, matches) = &mut self.lanes[lane];
        lane.begin(&self.history);
        self.above_live = lane.above_token != NONE;
        for m in matches.iter_mut() {
            Matcher::begin(m, &self.history);
        }
        self.guess = None;
        self.standing = None;
        self.refused = None;
        for (k, (matcher, m)) in self.matchers.iter().zip(&*matches).enumerate() {
            if let Some((token, p)) = matcher.guess(m)
                && p > self.guess_min
            {
                self.guess = Some(token);
                self.guess_p = p;
                if p > self.sure_min {
                    let other = match Matcher::expected(&matches[1]) {
                        Some(other) if k == 0 => 1 + usize::from(other != token),
                        _ => 0,
                    };
                    self.standing = Some(Standing { grade: Matcher::token_cell(m), other });
                }
                break;
            }
        }
    }

    /// The token that is next to certain, to be asked about before [`Self::ready`].
    #[inline(always)]
    pub fn sure(&self) -> Option<Token> {
        self.standing.and(self.guess)
    }

    /// Probability of 65536, from 1 to 65535, that this token comes.
    #[inline(always)]
    pub fn venture(&mut self, token: Token) -> u32 {
        let standing = self.standing.unwrap_or_default();
        self.sure.predict(&self.lanes[self.lane].0, token, standing)
    }

    /// Learns whether it came. If so, [`Self::end`] is next.
    #[inline(always)]
    pub fn ventured(&mut self, token: Token, right: bool) {
        self.sure.update(right);
        if !right {
            self.guess = None;
            self.refuse(token);
        }
    }

    fn refuse(&mut self, token: Token) {
        self.refused = Some(token);
        for m in &mut self.lanes[self.lane].1 {
            Matcher::refuse(m, token);
        }
    }

    /// Before decisions about a token.
    #[inline(always)]
    pub fn ready<V: Vector>(&mut self) {
        let lane = &self.lanes[self.lane].0;
        let informed = if I > C { lane.prior_contexts() } else { [0; WIDTH] };
        self.prior.prefetch(&informed);
        self.hashes = lane.contexts::<C>(&self.history);
        if I > C {
            lane.informed(&mut self.hashes);
        }
        self.prefetch::<V>(0);
        if I > C {
            self.prior.begin::<V>(&informed);
        }
    }

    /// The token that a language model thinks likeliest; said before the first decision.
    #[inline(always)]
    pub fn foretell(&mut self, token: Token) {
        self.lanes[self.lane].0.foretold::<C>(token, &mut self.hashes);
    }

    /// The token that is likely enough to be asked about first, as `predict(.., None, ..)`. That saves
    /// time, not bits, so beside a network there is none.
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
            for k in 0..C {
                lines::<V>(&self.hashes[k], salt).store(&mut self.lines[k]);
            }
        }
        // Under the node, and under the token before and the node.
        let before = u32::from(self.lanes[self.lane].0.recent[0]);
        self.estimations[0].choose(usize::from(node));
        self.estimations[1].choose(hash(before, salt) as usize % PAIRS);
        if C > 1 {
            let lane = &self.lanes[self.lane].0;
            // 64 fields, 4 positions, 16 depths: below [`PAIRS`].
            let place = lane.field.min(63) * 4 + lane.pos.min(3);
            self.placed.choose(place * 16 + self.depth.min(14));
        }
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
        for k in 0..C {
            let keys = V::load(&self.hashes[k]).xor(V::splat(salt as i32));
            let keys = keys.mul(V::splat(0x297A_2D39)).shr::<8>();
            self.found[k] = self.table.find(V::load(&self.lines[k]), keys);
            self.estimates[k] = self.worth[k].of::<V>(&self.found[k].slots);
            let p = V::load(&self.estimates[k].p);
            let linear = p.sub(V::splat(32768)).sar::<5>();
            self.inputs.counted[k] = TABLES.stretch_all(p).pack(linear);
        }
        let known = self.prior.highest::<V>();
        if I > C {
            self.inputs.counted[C] = if self.asked {
                self.prior.ask::<V>(vocab.leaf(self.guess.unwrap_or(0)) as u16)
            } else {
                self.prior.predict::<V>(vocab.span(node)[1] as u16)
            };
        }
        // Which of the longer contexts have been here before.
        let order: usize =
            ORDERS.map(|i| usize::from(self.found[0].slots[i] & SEEN_MAX != 0)).iter().sum();
        let (lane, matches) = &mut self.lanes[self.lane];
        let mut sures = [0; MATCHES];
        let mut state = 0;
        self.refusal_at = usize::MAX;
        let mut own = 0;
        if self.asked {
            self.inputs.rest.0[..MATCHES].fill(0);
            own = TABLES.stretch(self.guess_p as u16);
            state = 1;
        } else {
            for k in 0..MATCHES {
                let (logit, sure) =
                    self.matchers[k].predict(&mut matches[k], vocab, node, self.depth);
                self.inputs.rest.0[k] = logit as i16;
                sures[k] = sure;
            }
            if let Some(token) = self.refused {
                let path = vocab.path(token);
                match path.get(self.depth) {
                    Some(&(n, bit)) if n == node => {
                        self.refusal_at = (path.len() - self.depth).min(31);
                        self.refusal_bit = bit;
                        let logit = TABLES.stretch(self.refusal[self.refusal_at].p() as u16);
                        own = if bit { logit } else { -logit };
                        state = 2 + usize::from(self.refusal_at < 2);
                    }
                    _ => self.refused = None,
                }
            }
        }
        self.inputs.rest.0[GUESS] = own as i16;
        let direct = self.direct[node as usize];
        self.inputs.rest.0[DIRECT] = TABLES.stretch_coarse(direct.p() >> 2) as i16;
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
        self.inputs.rest.0[BIAS] = 256;
        let p = lm.unwrap_or(32768);
        self.inputs.rest.0[LM] = TABLES.stretch(p as u16) as i16;
        self.inputs.rest.0[LM_LINEAR] = ((p as i32 - 32768) >> 5) as i16;
        let certain = match state {
            0 => sures[0] * 4 + sures[1],
            1 if self.guess_p > 65000 => 16,
            1 if self.guess_p > 63000 => 17,
            1 => 18,
            _ => 17 + state,
        };
        let all = [
            certain * 16 + order * 4 + above,
            if self.asked { NODES } else { usize::from(node).min(NODES - 1) },
            (certain * DEPTHS + self.depth.min(DEPTHS - 1)) * CLASSES + lane.class,
            lane.coarse_place(),
            hash(before, 77) as usize % BEFORE,
            (known * 4 + order) * 16 + self.depth.min(15),
            lane.template() as usize % TEMPLATES,
        ];
        let contexts = std::array::from_fn(|k| all[Self::SETS[k]]);
        let finals = [certain, self.depth.min(DEPTHS - 1) * CLASSES + lane.class];
        let logit = self.mixer.mix::<V>(&self.inputs, &contexts, finals);
        let p = TABLES.squash(logit);
        let [a, b] = &mut self.estimations;
        let c = if C == 1 { p } else { self.placed.refine(logit) };
        self.said = ((p + a.refine(logit) + b.refine(logit) + c + 2) / 4).clamp(1, 65535);
        self.said as u32
    }

    #[inline(always)]
    fn prefetch<V: Vector>(&self, node: u16) {
        let salt = salt_of(node);
        for hashes in &self.hashes {
            for line in lines::<V>(hashes, salt).lanes() {
                self.table.prefetch(line as u32);
            }
        }
    }

    /// Learns how the decision went that [`Self::predict`] was asked about.
    #[inline(always)]
    pub fn update<V: Vector>(&mut self, bit: bool) {
        self.mixer.update::<V>(&self.inputs, bit);
        let foreseen = (65536 * i32::from(bit) - self.said).abs() < self.foreseen;
        if !foreseen {
            for k in 0..C {
                self.worth[k].learn::<V>(&self.estimates[k], bit);
                self.table.learn::<V>(&self.found[k], bit);
            }
        }
        if I > C {
            self.prior.learn::<V>(bit);
            if !self.asked {
                self.prior.narrow::<V>(bit);
            }
        }
        let direct = &mut self.direct[self.node as usize];
        *direct = direct.learned(bit);
        for e in &mut self.estimations {
            e.update(bit);
        }
        if C > 1 {
            self.placed.update(bit);
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
            if !hit {
                self.refused = None;
            }
        }
        if self.asked {
            if !bit && let Some(guess) = self.guess {
                self.refuse(guess);
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
        lane.pass::<C>(token, bytes);
        // Behind a token that was no sure guess the next one is none either, mostly.
        if I > C && self.standing.is_none() {
            self.prior.prefetch(&lane.prior_contexts());
        }
        for (matcher, m) in self.matchers.iter_mut().zip(matches) {
            matcher.settle(m, token);
            matcher.end(m, lane, &self.history);
        }
    }
}
