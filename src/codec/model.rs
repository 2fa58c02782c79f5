//! The predictor: adaptive counters under many contexts and match models, mixed in the logistic
//! domain and corrected by secondary estimation (the PAQ family's design: Mahoney 2005).

use super::context::{CONTEXTS, History, Lane, NONE, hash};
use super::counters::{Adaptive, FAST, Place, SLOW, Slot, Table, Worth};
use super::matching::{Match, Matcher};
use super::mixer::{INPUTS, Mixer, ONE};
use super::tables::{LIMIT, TABLES};
use super::token_model::Token;
use super::vocab::{VOCAB, Vocab};
use std::sync::Arc;

/// Tokens that a match has at least.
const MATCH_MIN: [usize; MATCHES] = [8, 4];
const MATCHES: usize = 2;
/// Decisions of a path that share lines of the table.
const GROUP: usize = 4;
/// A guess is asked about if it is right this often, of 65536.
const GUESS_MIN: u32 = 40000;
/// First input after those of the contexts.
const AFTER: usize = 2 * CONTEXTS;
/// Nodes that have their own weights; the tree's nodes are numbered by weight.
const NODES: usize = 512;
/// Cells of a secondary estimation's curve.
const CURVE: usize = 33;
const APM2: usize = 1 << 12;

/// Tells nodes apart in hashes.
#[inline(always)]
fn salt_of(node: u16) -> u32 {
    u32::from(node).wrapping_mul(0x9E37_79B1)
}

/// The line of the table for a context and the node that begins a group.
#[inline(always)]
fn line(context: u32, salt: u32) -> u32 {
    let h = (context ^ salt).wrapping_mul(0x85EB_CA6B);
    h ^ (h >> 15)
}

/// All that coder and decoder learn in step. Cloning it is how a primer is used.
#[derive(Debug, Clone)]
pub struct Predictor {
    vocab: Arc<Vocab>,
    table: Table,
    direct: Vec<Slot>,
    worth: Worth<CONTEXTS>,
    mixer: Mixer,
    apm: [Vec<u16>; 2],
    matchers: [Matcher; MATCHES],
    history: History,
    lanes: Vec<(Lane, [Match; MATCHES])>,
    // Of the token under way:
    lane: usize,
    depth: usize,
    hashes: [u32; CONTEXTS],
    lines: [u32; CONTEXTS],
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
    places: [Place; CONTEXTS],
    slots: [Slot; CONTEXTS],
    cells: [usize; CONTEXTS],
    inputs: [i32; INPUTS],
    apm_at: [usize; 2],
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
        let mut initial = [0; INPUTS];
        for i in 0..CONTEXTS {
            initial[2 * i] = ONE / 6;
        }
        initial[AFTER..AFTER + MATCHES].fill(ONE / 4);
        initial[AFTER + MATCHES] = ONE / 8;
        let curve: Vec<u16> =
            (0..CURVE as i32).map(|i| TABLES.squash((i - 16) * (LIMIT / 16)) as u16).collect();
        let apm = |n: usize| curve.iter().copied().cycle().take(CURVE * n).collect();
        Self {
            vocab: Arc::clone(vocab),
            table: Table::new(len),
            direct: vec![Slot::NEW; vocab.size() + 1],
            worth: Worth::default(),
            mixer: Mixer::new(&initial, [21 * 16, NODES + 1, 512, 21 * 128, 512], 21),
            apm: [apm(vocab.size() + 1), apm(APM2)],
            matchers: MATCH_MIN.map(Matcher::new),
            history: History::default(),
            lanes: Vec::new(),
            lane: 0,
            depth: 0,
            hashes: [0; CONTEXTS],
            lines: [0; CONTEXTS],
            above_live: false,
            guess: None,
            guess_p: 0,
            refused: false,
            asked: false,
            refusal: vec![Adaptive::new(20000, 2); 32],
            refusal_at: 0,
            refusal_bit: false,
            node: 0,
            places: [Place::default(); CONTEXTS],
            slots: [Slot::NEW; CONTEXTS],
            cells: [0; CONTEXTS],
            inputs: [0; INPUTS],
            apm_at: [0; 2],
        }
    }

    /// The vocabulary whose tokens it predicts.
    pub fn vocab(&self) -> &Arc<Vocab> {
        &self.vocab
    }

    /// True if the tables are as large as a primer's.
    pub fn is_full_size(&self) -> bool {
        self.table.is_full_size()
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
            + Worth::<CONTEXTS>::WEIGHT
            + 4 * self.direct.len()
            + self.mixer.weight()
            + 2 * (self.apm[0].len() + self.apm[1].len())
            + self.matchers.iter().map(Matcher::weight).sum::<usize>()
            + self.history.weight()
    }

    /// Before a token of a lane.
    #[inline(always)]
    pub fn begin(&mut self, lane: usize) {
        self.lane = lane;
        self.depth = 0;
        let (lane, matches) = &mut self.lanes[lane];
        self.hashes = lane.contexts(&self.history);
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

    /// The token that is likely enough to be asked about first, as `predict(.., None, ..)`.
    #[inline(always)]
    pub fn guess(&self) -> Option<Token> {
        self.guess
    }

    /// Probability of 65536, from 1 to 65535, that the decision at `node` is 1. `lm` is what a
    /// language model says of it.
    #[inline(always)]
    pub fn predict(&mut self, vocab: &Vocab, node: Option<u16>, lm: Option<u32>) -> u32 {
        self.asked = node.is_none();
        let node = node.unwrap_or(vocab.size() as u16);
        self.node = node;
        let mut salt = salt_of(node);
        if self.asked {
            salt = salt.wrapping_add(u32::from(self.guess.unwrap_or(0)).wrapping_mul(0x6C8E_9CF5));
        }
        if self.depth.is_multiple_of(GROUP) {
            for i in 0..CONTEXTS {
                self.lines[i] = line(self.hashes[i], salt);
            }
        }
        // The lines that come next: the root's after a guess, the children's after a group's last.
        if self.asked {
            self.prefetch(0);
        } else if self.depth % GROUP == GROUP - 1 {
            for bit in [false, true] {
                if let Ok(child) = vocab.step(node, bit) {
                    self.prefetch(child);
                }
            }
        }
        let salt = salt ^ salt >> 15;
        for i in 0..CONTEXTS {
            let key = (salt ^ self.hashes[i]).wrapping_mul(0x297A_2D39) >> 8;
            (self.places[i], self.slots[i]) = self.table.find(self.lines[i], key);
        }
        let mut order = 0;
        for i in 0..CONTEXTS {
            let slot = self.slots[i];
            let cell = Worth::<CONTEXTS>::cell(slot);
            self.cells[i] = cell;
            let q = self.worth.p(i, cell);
            self.inputs[2 * i] = TABLES.stretch_coarse(q);
            self.inputs[2 * i + 1] = (q as i32 - 32768) >> 5;
            if (1..4).contains(&i) {
                order += usize::from(slot.seen() != 0);
            }
        }
        let (lane, matches) = &mut self.lanes[self.lane];
        let mut sures = [0; MATCHES];
        let mut state = 0;
        self.refusal_at = usize::MAX;
        let mut own = 0;
        if self.asked {
            self.inputs[AFTER..AFTER + MATCHES].fill(0);
            own = TABLES.stretch(self.guess_p as u16);
            state = 1;
        } else {
            for k in 0..MATCHES {
                let (logit, sure) =
                    self.matchers[k].predict(&mut matches[k], vocab, node, self.depth);
                self.inputs[AFTER + k] = logit;
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
        self.inputs[AFTER + MATCHES + 3] = own;
        let direct = self.direct[node as usize];
        self.inputs[AFTER + MATCHES] = TABLES.stretch_coarse(direct.p() >> 2);
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
        self.inputs[AFTER + MATCHES + 1] = 256;
        self.inputs[AFTER + MATCHES + 2] = lm.map_or(0, |p| TABLES.stretch(p as u16));
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
            lane.field.min(63) * 8 + lane.pos.min(7),
            certain * 128 + self.depth.min(15) * 8 + lane.class,
            usize::from(lane.recent[0]).min(4095) % 512,
        ];
        let logit = self.mixer.mix(&self.inputs, &contexts, certain);
        let p = TABLES.squash(logit);
        // Secondary estimation under the node, and under the token before and the node.
        let o1 = hash(u32::from(lane.recent[0]), salt) as usize % APM2;
        let mut q = 0;
        let x = logit + LIMIT;
        let step = LIMIT / 16;
        let low = (x / step).min(31);
        let part = x - low * step;
        for (k, context) in [usize::from(node), o1].into_iter().enumerate() {
            let at = context * CURVE + low as usize;
            let (a, b) = (i32::from(self.apm[k][at]), i32::from(self.apm[k][at + 1]));
            q += (a * (step - part) + b * part) / step;
            self.apm_at[k] = at + usize::from(part * 2 > step);
        }
        (((2 * p + q) + 2) / 4).clamp(1, 65535) as u32
    }

    #[inline(always)]
    fn prefetch(&self, node: u16) {
        let salt = salt_of(node);
        for h in self.hashes {
            self.table.prefetch(line(h, salt));
        }
    }

    /// Learns how the decision went that [`Self::predict`] was asked about.
    #[inline(always)]
    pub fn update(&mut self, bit: bool) {
        self.mixer.update(&self.inputs, bit);
        for i in 0..CONTEXTS {
            self.worth.learn(i, self.cells[i], bit);
            let rates = if i < 2 { &SLOW } else { &FAST };
            self.table.set(self.places[i], self.slots[i].learned(bit, rates));
        }
        let direct = &mut self.direct[self.node as usize];
        *direct = direct.learned(bit, &SLOW);
        let target = if bit { 65535 } else { 0 };
        for k in 0..2 {
            let a = &mut self.apm[k][self.apm_at[k]];
            *a = (i32::from(*a) + ((target - i32::from(*a)) >> 6)) as u16;
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
