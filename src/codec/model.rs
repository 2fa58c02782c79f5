//! The predictor: adaptive counters under many contexts and a match model, mixed in the logistic
//! domain and corrected by secondary estimation (the PAQ family's design: Mahoney 2005).

use super::tables::{LIMIT, TABLES, Tables};
use super::vocab::{Token, VOCAB};

/// Contexts with a hashed counter per decision.
const CONTEXTS: usize = 14;
/// Mixer inputs: two per context, two of the match model, a constant; padded to a vector's width.
const INPUTS: usize = 32;
/// Bits of the counter table's index.
const TABLE_BITS: u32 = 20;
/// Weight sets chosen per decision.
const SETS: usize = 3;
/// Sizes of the sets' selectors.
const SET_SIZES: [usize; SETS] = [16 * 16, 1024, 64 * 4];
/// History for matches is indexed by hashes of this many tokens.
const MATCH_MIN: [usize; 2] = [6, 3];
const MATCH_BITS: u32 = 16;
/// Fields of a line that are told apart.
const FIELDS: usize = 64;
/// 1.0 as a mixer weight.
const ONE: i32 = 1 << 16;

/// A counter: probability (16 bits), check (10), observations (6).
type Slot = u32;

/// 65536 / (n + 1.5), the step of a counter that saw n decisions.
const fn rates() -> [u32; 64] {
    let mut r = [0; 64];
    let mut n = 0;
    while n < 64 {
        r[n] = (2 * 65536) / (2 * n as u32 + 3);
        n += 1;
    }
    r
}
const RATES: [u32; 64] = rates();

/// What each context's counters forget: observations are counted up to this.
const LIMITS: [u32; CONTEXTS] = [60, 60, 60, 62, 62, 62, 62, 62, 60, 60, 60, 60, 60, 60];

#[derive(Debug, Clone)]
struct Mixer {
    weights: Vec<[i32; INPUTS]>,
}

/// Where the text is in its line.
#[derive(Debug, Clone)]
struct Line {
    field: usize,
    /// Tokens since the field began.
    pos: usize,
    /// Where each field of this line and of the one above began, in tokens.
    starts: [u32; FIELDS],
    above: [u32; FIELDS],
    /// Fields above.
    fields: usize,
    first: u32,
}

#[derive(Debug, Clone, Default)]
struct Match {
    /// Position in the history of the token predicted next; 0 for none.
    at: usize,
    len: u32,
    /// Decisions of the predicted token that are still right; the next one is `step`.
    live: bool,
    expected: bool,
    index: usize,
}

/// All that coder and decoder learn in step. Cloning it is how a primer is used.
#[derive(Debug, Clone)]
pub struct Predictor {
    table: Vec<Slot>,
    mixers: [Mixer; SETS],
    apm: [Vec<u16>; 2],
    match_counters: Vec<u16>,
    heads: [Vec<u32>; 2],
    history: Vec<Token>,
    hashes: [u32; CONTEXTS],
    matches: [Match; 2],
    line: Line,
    word: u32,
    last_word: u32,
    bytes: u64,
    depth: usize,
    // Of the decision under way:
    node: u16,
    slots: [usize; CONTEXTS],
    inputs: [i32; INPUTS],
    sets: [usize; SETS],
    outs: [i32; SETS],
    mixed: i32,
    apm_at: [usize; 2],
    apm_low: [i32; 2],
    p1: i32,
}

#[inline(always)]
fn hash(a: u32, b: u32) -> u32 {
    let h = (u64::from(a) << 32 | u64::from(b)).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    (h >> 29) as u32 ^ (h >> 47) as u32
}

impl Default for Predictor {
    fn default() -> Self {
        Self::new()
    }
}

impl Predictor {
    /// Knows nothing.
    pub fn new() -> Self {
        let tables: &Tables = &TABLES;
        let mixer = |n: usize| {
            let mut w = [0; INPUTS];
            w[..2 * CONTEXTS].fill(ONE / 8);
            for i in 0..CONTEXTS {
                w[2 * i + 1] = ONE / 16;
            }
            w[2 * CONTEXTS..2 * CONTEXTS + 2].fill(ONE / 4);
            Mixer { weights: vec![w; n] }
        };
        let curve: Vec<u16> =
            (0..33).map(|i| tables.squash((i - 16) * (LIMIT / 16)) as u16).collect();
        let apm = |n: usize| curve.iter().copied().cycle().take(33 * n).collect();
        Self {
            table: vec![0; 1 << TABLE_BITS],
            mixers: SET_SIZES.map(mixer),
            apm: [apm(4096 + 64), apm(1 << 14)],
            match_counters: (0..2 * 32).map(|_| 49152).collect(),
            heads: [vec![0; 1 << MATCH_BITS], vec![0; 1 << MATCH_BITS]],
            history: vec![0; 8],
            hashes: [0; CONTEXTS],
            matches: Default::default(),
            line: Line {
                field: 0,
                pos: 0,
                starts: [0; FIELDS],
                above: [0; FIELDS],
                fields: 0,
                first: 0,
            },
            word: 0,
            last_word: 0,
            bytes: 0,
            depth: 0,
            node: 0,
            slots: [0; CONTEXTS],
            inputs: [0; INPUTS],
            sets: [0; SETS],
            outs: [0; SETS],
            mixed: 0,
            apm_at: [0; 2],
            apm_low: [0; 2],
            p1: 32768,
        }
    }

    /// Memory held, in bytes.
    pub fn weight(&self) -> usize {
        let mixers: usize = SET_SIZES.iter().map(|n| n * INPUTS * 4).sum();
        self.table.len() * 4 + mixers + (4096 + 64 + (1 << 14)) * 66 + (8 << MATCH_BITS)
    }

    fn token(&self, back: usize) -> u32 {
        u32::from(self.history[self.history.len() - back])
    }

    /// Before a token's decisions.
    #[inline(always)]
    pub fn begin(&mut self) {
        let (t1, t2, t3, t4) = (self.token(1), self.token(2), self.token(3), self.token(4));
        let l = &self.line;
        let above_at = (l.above[l.field.min(FIELDS - 1)] as usize) + l.pos;
        let known = l.field < l.fields && l.above[l.field.min(FIELDS - 1)] != 0;
        let above = |n: usize| {
            let at = above_at + n;
            if known && at < self.history.len() { u32::from(self.history[at]) + 1 } else { 0 }
        };
        let (a0, a1) = (above(0), above(1));
        let place = (l.field as u32) << 16 | l.pos.min(255) as u32;
        let o2 = hash(t1, t2);
        let o3 = hash(o2, t3);
        let o4 = hash(o3, t4);
        let o6 = hash(o4, hash(self.token(5), self.token(6)));
        let last4 = self.bytes as u32;
        self.hashes = [
            0,
            hash(1, t1),
            hash(2, o2),
            hash(3, o3),
            hash(4, o4),
            hash(5, o6),
            hash(6, hash(a0, place)),
            hash(7, hash(a0, t1)),
            hash(8, hash(a0, hash(a1, o2))),
            hash(9, hash(self.word, self.last_word)),
            hash(10, self.word),
            hash(11, hash(t2, t3)),
            hash(12, hash(place, l.first)),
            hash(13, last4),
        ];
        for m in &mut self.matches {
            m.live = m.at != 0;
        }
        self.depth = 0;
    }

    /// Probability that the decision at `node` is 1, from 1 to 65535.
    #[inline(always)]
    pub fn predict(&mut self, node: u16) -> u32 {
        let t: &Tables = &TABLES;
        self.node = node;
        let salt = u32::from(node).wrapping_mul(0x2C9_277B5).wrapping_add(0x5bd1);
        let mut seen = 0;
        for i in 0..CONTEXTS {
            let h = (self.hashes[i] ^ salt).wrapping_mul(0x9E37_79B1);
            let h = h ^ (h >> 15);
            let at = (h.wrapping_mul(0x85EB_CA77) >> (32 - TABLE_BITS)) as usize;
            let check = h & 0x3ff;
            self.slots[i] = at;
            let slot = &mut self.table[at];
            if *slot >> 6 & 0x3ff != check || *slot & 63 == 0 {
                *slot = 32768 << 16 | check << 6;
                self.inputs[2 * i] = 0;
                self.inputs[2 * i + 1] = 0;
                continue;
            }
            let p = *slot >> 16;
            let n = *slot & 63;
            seen += usize::from(i > 1 && i < 6);
            self.inputs[2 * i] = t.stretch_coarse(p);
            // The same in the linear domain: sure counters speak up.
            let sure = (n.min(16) as i32) * 4;
            self.inputs[2 * i + 1] = ((p as i32 - 32768) * sure) >> 10;
        }
        let mut state = 0;
        for k in 0..2 {
            let input = 2 * CONTEXTS + k;
            self.inputs[input] = 0;
            let m = &mut self.matches[k];
            if !m.live {
                continue;
            }
            let path = VOCAB.path(self.history[m.at]);
            let Some((at, bit)) = path.get(self.depth).copied().filter(|(n, _)| *n == node) else {
                m.live = false;
                continue;
            };
            debug_assert_eq!(at, node);
            m.expected = bit;
            m.index = k * 32 + m.len.min(31) as usize;
            let s = t.stretch(self.match_counters[m.index]);
            self.inputs[input] = if bit { s } else { -s };
            let level = 1 + usize::from(m.len > 8) + usize::from(m.len > 20);
            state += if k == 0 { level * 4 } else { level };
        }
        self.inputs[INPUTS - 1] = 256;
        self.sets = [
            state * 16 + seen * 3 + self.depth.min(2),
            usize::from(node).min(1023),
            self.line.field.min(63) * 4 + self.line.pos.min(3),
        ];
        let mut sum = 0;
        for k in 0..SETS {
            let w = &self.mixers[k].weights[self.sets[k]];
            self.outs[k] = (dot(w, &self.inputs) >> 12).clamp(-LIMIT, LIMIT);
            sum += self.outs[k];
        }
        self.mixed = sum / SETS as i32;
        let p = t.squash(self.mixed);
        // Secondary estimation under the node, and under the node and the token before.
        let t1 = self.token(1);
        let contexts = [usize::from(node), (hash(t1, u32::from(node)) & ((1 << 14) - 1)) as usize];
        let x = self.mixed + LIMIT;
        let step = LIMIT / 16;
        let mut q = 0;
        for k in 0..2 {
            let low = (x / step).min(31);
            let part = x - low * step;
            let at = contexts[k] * 33 + low as usize;
            let (a, b) = (i32::from(self.apm[k][at]), i32::from(self.apm[k][at + 1]));
            q += (a * (step - part) + b * part) / step;
            self.apm_at[k] = at + usize::from(part * 2 > step);
            self.apm_low[k] = part;
        }
        self.p1 = ((2 * p + q) / 4).clamp(1, 65535);
        self.p1 as u32
    }

    /// Learns the decision that [`Self::predict`] was asked about.
    #[inline(always)]
    pub fn update(&mut self, bit: bool) {
        let t: &Tables = &TABLES;
        let target = if bit { 65535 } else { 0 };
        for k in 0..SETS {
            let err = ((target - t.squash(self.outs[k])) * RATE[k]) >> 10;
            learn(&mut self.mixers[k].weights[self.sets[k]], &self.inputs, err);
        }
        for i in 0..CONTEXTS {
            let slot = &mut self.table[self.slots[i]];
            let n = *slot & 63;
            let p = (*slot >> 16) as i32;
            let p = p + (((target - p) as i64 * i64::from(RATES[n as usize])) >> 16) as i32;
            let p = p.clamp(16, 65519) as u32;
            *slot = p << 16 | *slot & 0xffc0 | (n + 1).min(LIMITS[i]);
        }
        for k in 0..2 {
            let a = &mut self.apm[k][self.apm_at[k]];
            *a = (i32::from(*a) + ((target - i32::from(*a)) >> 6)) as u16;
            let m = &mut self.matches[k];
            if m.live {
                let c = &mut self.match_counters[m.index];
                let hit = m.expected == bit;
                let goal = if hit { 65500 } else { 36 };
                *c = (i32::from(*c) + ((goal - i32::from(*c)) >> 6)) as u16;
                m.live = hit;
            }
        }
        self.depth += 1;
    }

    /// After a token's decisions.
    #[inline(always)]
    pub fn end(&mut self, token: Token, bytes: &[u8]) {
        self.history.push(token);
        let here = self.history.len();
        for k in 0..2 {
            let m = &mut self.matches[k];
            if m.at != 0 && self.history[m.at] == token {
                m.at += 1;
                m.len += 1;
            } else {
                (m.at, m.len) = (0, 0);
            }
            let min = MATCH_MIN[k];
            if here < 8 + min {
                continue;
            }
            let mut h = 0;
            for t in &self.history[here - min..] {
                h = hash(h, u32::from(*t));
            }
            let head = &mut self.heads[k][(h >> (32 - MATCH_BITS)) as usize];
            if m.at == 0 && *head != 0 {
                let mut len = 0;
                let at = *head as usize;
                while len < 32
                    && at > len + 8
                    && self.history[at - 1 - len] == self.history[here - 1 - len]
                {
                    len += 1;
                }
                if len >= min {
                    (m.at, m.len) = (at, len as u32);
                }
            }
            *head = here as u32;
        }
        for &b in bytes {
            self.bytes = self.bytes << 8 | u64::from(b);
            if b.is_ascii_alphanumeric() || b >= 128 {
                self.word = hash(self.word.wrapping_add(1), u32::from(b.to_ascii_lowercase()));
            } else if self.word != 0 {
                self.last_word = self.word;
                self.word = 0;
            }
        }
        let l = &mut self.line;
        let here = here as u32;
        if bytes.contains(&b'\n') {
            l.above = l.starts;
            l.fields = l.field + 1;
            l.starts = [0; FIELDS];
            l.starts[0] = here;
            (l.field, l.pos) = (0, 0);
            l.first = 0;
        } else {
            if l.field == 0 && l.pos == 0 {
                l.first = u32::from(token);
            }
            let begins = matches!(bytes.first(), Some(b' ' | b'\t'));
            if begins && l.pos > 0 {
                l.field += 1;
                l.pos = 1;
                if l.field < FIELDS {
                    l.starts[l.field] = here - 1;
                }
            } else {
                l.pos += 1;
            }
        }
    }
}

/// Learning rates of the weight sets.
const RATE: [i32; SETS] = [10, 14, 12];

/// Σ w·x, in units of 2^-12 of what the weights' scale would give.
#[inline(always)]
fn dot(w: &[i32; INPUTS], x: &[i32; INPUTS]) -> i32 {
    let mut sum = 0_i32;
    for i in 0..INPUTS {
        sum = sum.wrapping_add(w[i].wrapping_mul(x[i]) >> 4);
    }
    sum
}

/// Moves the weights down the slope of the coding cost.
#[inline(always)]
fn learn(w: &mut [i32; INPUTS], x: &[i32; INPUTS], err: i32) {
    for i in 0..INPUTS {
        let step = (x[i].wrapping_mul(err) + (1 << 9)) >> 10;
        w[i] = w[i].wrapping_add(step).clamp(-(1 << 19), 1 << 19);
    }
}
