//! Match models: what followed the last time that the same tokens were coded.

use super::context::{History, Lane, NONE};
use super::counters::Adaptive;
use super::tables::TABLES;
use super::token_model::Token;
use super::vocab::Vocab;

/// Bits of the index of places.
const HEADS: u32 = 15;
/// Wrong guesses of late after which a match is given up.
const GIVE_UP: u32 = 8;
/// After a wrong guess, the token that came instead is looked for so many tokens ahead, and so many back:
/// what stands there may be longer or shorter than it was before.
const AHEAD: usize = 8;
const BACK: usize = 4;

/// One lane's match.
#[derive(Debug, Clone, Default)]
pub struct Match {
    /// Place of the token expected next; 0 for none.
    at: usize,
    /// Tokens in a row that it guessed right.
    len: u32,
    /// Wrong guesses of late.
    missed: u32,
    /// The decisions so far went as expected.
    live: bool,
    /// There was an expected token.
    ventured: bool,
    /// The expected token.
    token: usize,
    /// Counter and direction of the decision under way.
    cell: usize,
    bit: bool,
    told: bool,
}

/// The index and the counters that all lanes share.
#[derive(Debug, Clone)]
pub struct Matcher {
    min: usize,
    /// Looks nearby after a wrong guess.
    recovers: bool,
    heads: Vec<u32>,
    hits: Vec<Adaptive>,
    /// How often the whole token is what was expected, by grade and misses.
    tokens: Vec<Adaptive>,
}

impl Matcher {
    /// Finds matches of at least `min` tokens; may look nearby after a wrong guess.
    pub fn new(min: usize, recovers: bool) -> Self {
        let hits = (0..32 * 8 * 4)
            .map(|i| Adaptive::new(65535 - 30000 / (1 + (i / 32) as u32), 4))
            .collect();
        let tokens = vec![Adaptive::new(40000, 4); 32 * 8];
        Self { min, recovers, heads: vec![0; 1 << HEADS], hits, tokens }
    }

    /// Memory held, in bytes.
    pub fn weight(&self) -> usize {
        4 * (self.heads.len() + self.hits.len())
    }

    /// Before a token.
    #[inline(always)]
    pub fn begin(m: &mut Match, history: &History) {
        let token = history.at(m.at);
        m.live = m.at != 0 && token != NONE;
        m.ventured = m.live;
        m.token = usize::from(token);
    }

    fn grade(m: &Match) -> usize {
        let len = match m.len {
            0..=15 => m.len as usize,
            16..=31 => 16 + (m.len as usize - 16) / 4,
            32.. => 20 + (m.len as usize - 32).min(160) / 16,
        };
        len.min(31)
    }

    /// How good the match has been, below 256.
    pub fn token_cell(m: &Match) -> usize {
        Self::grade(m) * 8 + m.missed.min(7) as usize
    }

    /// The token that a match expects.
    pub fn expected(m: &Match) -> Option<Token> {
        m.live.then_some(m.token as Token)
    }

    /// The expected token and its probability of 65536.
    #[inline(always)]
    pub fn guess(&self, m: &Match) -> Option<(Token, u32)> {
        m.live.then(|| (m.token as Token, self.tokens[Self::token_cell(m)].p()))
    }

    /// How often grade and misses kept their word, learned before [`Self::end`].
    #[inline(always)]
    pub fn settle(&mut self, m: &Match, token: Token) {
        if m.ventured {
            let cell = &mut self.tokens[Self::token_cell(m)];
            *cell = cell.learned(m.token == usize::from(token), 255);
        }
    }

    /// The expected token is known not to come.
    pub fn refuse(m: &mut Match, token: Token) {
        m.live &= m.token != usize::from(token);
    }

    /// Logit of what is expected and how sure it is, 0 to 3 (0 for no expectation).
    #[inline(always)]
    pub fn predict(&self, m: &mut Match, vocab: &Vocab, node: u16, depth: usize) -> (i32, usize) {
        m.told = false;
        if !m.live {
            return (0, 0);
        }
        let Some(&(at, bit)) = vocab.path(m.token as Token).get(depth) else {
            m.live = false;
            return (0, 0);
        };
        if at != node {
            m.live = false;
            return (0, 0);
        }
        m.told = true;
        m.bit = bit;
        m.cell = (Self::grade(m) * 8 + m.missed.min(7) as usize) * 4 + depth.min(3);
        let p = self.hits[m.cell].p();
        let logit = TABLES.stretch(p as u16);
        let sure = if p > 65000 {
            3
        } else if p > 58000 {
            2
        } else {
            1
        };
        (if bit { logit } else { -logit }, sure)
    }

    /// After a decision.
    #[inline(always)]
    pub fn update(&mut self, m: &mut Match, bit: bool) {
        if m.told {
            let hit = m.bit == bit;
            self.hits[m.cell] = self.hits[m.cell].learned(hit, 255);
            m.live = hit;
        }
    }

    /// Where the lane's latest token is near the place of one that it is not; else that place.
    #[inline(always)]
    fn recover(at: usize, lane: &Lane, history: &History) -> usize {
        let token = lane.recent[0];
        for d in 1..=AHEAD {
            if at + d + 1 < lane.here && history.at(at + d) == token {
                return at + d;
            }
            if d <= BACK && d < at && history.at(at - d) == token {
                return at - d;
            }
        }
        at
    }

    /// After a token, which the lane has passed.
    #[inline(always)]
    pub fn end(&mut self, m: &mut Match, lane: &Lane, history: &History) {
        if m.at != 0 {
            if history.at(m.at) == lane.recent[0] {
                m.len = (m.len + 1).min(1 << 16);
                if m.len.is_multiple_of(16) {
                    m.missed = 0;
                }
            } else {
                m.missed += 1;
                m.len = 0;
                if self.recovers {
                    m.at = Self::recover(m.at, lane, history);
                }
            }
            m.at += 1;
            if m.missed > GIVE_UP {
                *m = Match::default();
            }
        }
        if lane.recent[self.min - 1] == NONE {
            return;
        }
        let mut h = 0_u64;
        for four in lane.recent[..self.min].chunks(4) {
            let four = four.iter().fold(0, |all, t| all << 16 | u64::from(*t));
            h = (h.rotate_left(29) ^ four).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        }
        let head = &mut self.heads[(h >> (64 - HEADS)) as usize];
        let found = *head as usize;
        *head = lane.here as u32;
        if (m.at == 0 || m.len < self.min as u32) && found != 0 && found != m.at {
            let same = (0..32)
                .take_while(|i| {
                    found > *i && {
                        let t = history.at(found - 1 - i);
                        t != NONE && t == history.at(lane.here - 1 - i)
                    }
                })
                .count();
            if same >= self.min && same as u32 > m.len {
                *m = Match { at: found, len: same as u32, ..Match::default() };
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::vocab::VOCAB;
    use super::*;

    /// What is expected after each token.
    fn expected(tokens: &[Token]) -> Vec<Option<Token>> {
        let mut history = History::default();
        let mut lane = Lane::default();
        let begin = history.room(tokens.len());
        lane.here = begin;
        let (mut matcher, mut m) = (Matcher::new(3, true), Match::default());
        let after = |token: &Token| {
            Matcher::begin(&mut m, &history);
            matcher.settle(&m, *token);
            history.set(lane.here, *token);
            lane.pass::<1>(*token, VOCAB.bytes(*token));
            matcher.end(&mut m, &lane, &history);
            Matcher::begin(&mut m, &history);
            Matcher::expected(&m)
        };
        tokens.iter().map(after).collect()
    }

    #[test]
    fn a_match_goes_on_behind_what_is_longer_or_shorter() {
        // Two tokens, one, or three between those that are always there.
        let between: [&[Token]; 3] = [&[300, 301], &[302], &[303, 304, 305]];
        for (old, new) in [(0, 1), (1, 0), (0, 2), (2, 0), (1, 2), (2, 1)] {
            let line = |n: usize| [&[400, 401, 402, 403], between[n], &[410, 411, 412]].concat();
            let all = expected(&[line(old), line(new)].concat());
            // After 410 in the second line.
            assert_eq!(all[all.len() - 3], Some(411), "{old} {new}");
        }
    }
}
