//! Where a lane is in its text, and the contexts that follow from it.

use super::token_model::Token;
use super::vector::{Ints, WIDTH};

/// Fields of a line that are told apart.
const FIELDS: usize = 64;
/// Positions in a field that are told apart where few can be.
const POSITIONS: usize = 16;
/// Coarse places, see [`Lane::coarse_place`].
pub const PLACES: usize = FIELDS * POSITIONS;
/// Tokens remembered.
pub const RECENT: usize = 8;
/// No token.
pub const NONE: Token = Token::MAX;

/// Mixes two numbers.
#[inline(always)]
pub fn hash(a: u32, b: u32) -> u32 {
    let h = (u64::from(a) << 32 | u64::from(b)).wrapping_add(0x1234_5678_9abc_def1);
    let h = h.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    ((h ^ (h >> 29)).wrapping_mul(0xBF58_476D_1CE4_E5B9) >> 32) as u32
}

/// What was coded, all lanes' regions one after the other; [`NONE`] where nothing is yet.
#[derive(Debug, Clone, Default)]
pub struct History {
    tokens: Vec<Token>,
}

impl History {
    /// Appends room for `n` tokens and the gap that keeps regions apart; returns its begin.
    pub fn room(&mut self, n: usize) -> usize {
        let begin = self.tokens.len() + 1;
        self.tokens.resize(begin + n + 1, NONE);
        begin
    }

    /// The token at a place.
    #[inline(always)]
    pub fn at(&self, place: usize) -> Token {
        self.tokens.get(place).copied().unwrap_or(NONE)
    }

    /// Sets the token at a place.
    #[inline(always)]
    pub fn set(&mut self, place: usize, token: Token) {
        self.tokens[place] = token;
    }

    /// Memory held, in bytes.
    pub fn weight(&self) -> usize {
        self.tokens.len() * 2
    }
}

/// Tells hashes of what is foretold from those of what was.
const FORETOLD: u32 = 1 << 16;

/// Makes the hashes of different contexts differ.
#[inline(always)]
fn salted(salt: u32, hashes: [u32; WIDTH]) -> Ints {
    std::array::from_fn(|i| hash(hashes[i], salt + i as u32) as i32)
}

/// A field separator ends a field.
fn separates(b: u8) -> bool {
    !(b.is_ascii_alphanumeric() || b >= 0x80 || b == b'_')
}

/// What stands between blanks: hashes of the item under way and of the two before it.
#[derive(Debug, Clone, Copy, Default)]
struct Items {
    now: u32,
    before: [u32; 2],
}

impl Items {
    #[inline(always)]
    fn pass(&mut self, b: u8) {
        if !b.is_ascii_whitespace() {
            self.now = hash(self.now, u32::from(b));
        } else if self.now != 0 {
            self.before = [self.now, self.before[0]];
            self.now = 0;
        }
    }
}

/// One lane's place in its text.
#[derive(Debug, Clone)]
pub struct Lane {
    /// Where the next token goes in the history.
    pub here: usize,
    /// Tokens before, the latest first.
    pub recent: [Token; RECENT],
    /// The latest 8 bytes, the latest lowest.
    pub bytes: u64,
    word: u32,
    last_word: u32,
    word_before_last: u32,
    items: Items,
    /// Field of the line.
    pub field: usize,
    /// Tokens since the field began.
    pub pos: usize,
    field_hash: u32,
    /// Where the fields of this line began and of the line above.
    starts: [u32; FIELDS],
    above: [u32; FIELDS],
    fields_above: usize,
    /// Hash of the line's first fields.
    first: u32,
    /// Bytes since the line began.
    column: u32,
    /// Spaces that the line began with.
    indent: u32,
    /// The token at the same place of the same field of the line above.
    pub above_token: Token,
    /// Class of the latest byte.
    pub class: usize,
}

impl Default for Lane {
    fn default() -> Self {
        Self {
            here: 0,
            recent: [NONE; RECENT],
            bytes: 0,
            word: 0,
            last_word: 0,
            word_before_last: 0,
            items: Items::default(),
            field: 0,
            pos: 0,
            field_hash: 0,
            starts: [0; FIELDS],
            above: [0; FIELDS],
            fields_above: 0,
            first: 0,
            column: 0,
            indent: 0,
            above_token: NONE,
            class: 0,
        }
    }
}

/// Class of a byte.
fn class(b: u8) -> usize {
    match b {
        b'\n' => 0,
        b'0'..=b'9' => 1,
        b'a'..=b'z' => 2,
        b'A'..=b'Z' => 3,
        b' ' | b'\t' | b'\r' => 4,
        0x80.. => 5,
        b'.' | b',' | b';' | b':' | b'!' | b'?' => 6,
        _ => 7,
    }
}

impl Lane {
    /// Field of the line, and tokens since it began.
    #[inline(always)]
    fn place(&self) -> u32 {
        (self.field.min(FIELDS - 1) as u32) << 8 | self.pos.min(255) as u32
    }

    /// The same, coarser, below [`PLACES`].
    #[inline(always)]
    pub fn coarse_place(&self) -> usize {
        self.field.min(FIELDS - 1) * POSITIONS + self.pos.min(POSITIONS - 1)
    }

    /// The field of the line, and the first fields.
    #[inline(always)]
    pub fn template(&self) -> u32 {
        hash(self.first, self.field as u32)
    }

    /// The token so many places behind the same place of the same field of the line above.
    #[inline(always)]
    fn above(&self, history: &History, n: usize) -> Token {
        let f = self.field.min(FIELDS - 1);
        let known = self.field < self.fields_above && self.above[f] != 0;
        if known { history.at(self.above[f] as usize + self.pos + n) } else { NONE }
    }

    /// Before a token.
    #[inline(always)]
    pub fn begin(&mut self, history: &History) {
        self.above_token = self.above(history, 0);
    }

    /// The contexts' hashes before a token, after [`Self::begin`]: one vector of them, or two.
    #[inline(always)]
    pub fn contexts<const C: usize>(&self, history: &History) -> [Ints; C] {
        const { assert!(C == 1 || C == 2) };
        let t = self.recent.map(u32::from);
        let a0 = u32::from(self.above_token);
        let place = self.place();
        let order2 = hash(t[0], t[1]);
        let order3 = self.bytes as u32 & 0xff_ffff;
        let words = hash(self.word, self.last_word);
        let template = hash(place, self.first);
        let column = hash(self.column.min(255), a0);
        let mut all = [[0; WIDTH]; C];
        if C == 1 {
            let word = hash(self.word, t[0]);
            all[0] = salted(
                0,
                [t[0], order2, words, word, template, order3, column, hash(self.indent, t[0])],
            );
        } else {
            let Items { now: item, before } = self.items;
            let items = hash(hash(item, before[0]), before[1]);
            all[0] = salted(16, [t[0], order2, item, items, template, order3, column, 0]);
            let order6 = hash(self.bytes as u32, (self.bytes >> 32) as u32 & 0xffff);
            all[1] = salted(
                24,
                [
                    words,
                    order6,
                    hash(words, self.word_before_last),
                    hash(place, t[0]),
                    hash(place, before[0]),
                    0,
                    hash(hash(a0, u32::from(self.above(history, 1))), t[0]),
                    hash(hash(before[0], before[1]), self.pos as u32),
                ],
            );
        }
        all
    }

    /// The prior's contexts, from those that say least.
    #[inline(always)]
    pub fn prior_contexts(&self) -> Ints {
        let t = self.recent.map(u32::from);
        let order2 = hash(t[0], t[1]);
        let order3 = hash(order2, t[2]);
        let order4 = hash(order3, t[3]);
        let words = hash(self.word, self.last_word);
        let order6 = hash(self.bytes as u32, (self.bytes >> 32) as u32 & 0xffff);
        salted(
            40,
            [
                t[0],
                order2,
                words,
                order6,
                order3,
                hash(words, self.word_before_last),
                order4,
                hash(order4, t[4]),
            ],
        )
    }

    /// The context that stands in an unused place where there is a prior: the word under way, and the class
    /// of the byte before.
    #[inline(always)]
    pub fn informed<const C: usize>(&self, hashes: &mut [Ints; C]) {
        hashes[0][7] = hash(hash(self.word, self.class as u32), 16 + 7) as i32;
    }

    /// Contexts of the token that a language model thinks likeliest: what has come of that guess in
    /// this text. They take the places of what says least beside a model, or of nothing.
    #[inline(always)]
    pub fn foretold<const C: usize>(&self, token: Token, hashes: &mut [Ints; C]) {
        let token = u32::from(token);
        hashes[0][7] = hash(token, FORETOLD + 7) as i32;
        if C == 2 {
            let here = hash(hash(self.place(), self.first), token);
            hashes[1][5] = hash(here, FORETOLD + 29) as i32;
        }
    }

    /// After a token; `C` as in [`Self::contexts`].
    #[inline(always)]
    pub fn pass<const C: usize>(&mut self, token: Token, bytes: &[u8]) {
        self.here += 1;
        self.recent.copy_within(..RECENT - 1, 1);
        self.recent[0] = token;
        for b in bytes {
            self.bytes = self.bytes << 8 | u64::from(*b);
            if b.is_ascii_alphabetic() || *b >= 0x80 {
                self.word = hash(self.word, u32::from(b.to_ascii_lowercase()));
            } else if self.word != 0 {
                self.word_before_last = self.last_word;
                self.last_word = self.word;
                self.word = 0;
            }
            if C == 2 {
                self.items.pass(*b);
            }
            if *b == b' ' && self.column == self.indent {
                self.indent += 1;
            }
            self.column += 1;
        }
        let last = bytes[bytes.len() - 1];
        self.class = class(last);
        if bytes.contains(&b'\n') {
            let fields = self.field + 1;
            self.above = self.starts;
            self.fields_above = fields.min(FIELDS);
            self.starts = [0; FIELDS];
            (self.field, self.pos, self.column, self.indent) = (0, 0, 0, 0);
            self.field_hash = 0;
            self.first = 0;
            self.starts[0] = self.here as u32;
        } else if separates(last) {
            if self.field < 2 {
                self.first = hash(self.field_hash, u32::from(token));
            }
            self.field_hash = 0;
            self.field += 1;
            self.pos = 0;
            if self.field < FIELDS {
                self.starts[self.field] = self.here as u32;
            }
        } else {
            self.pos += 1;
            self.field_hash = hash(self.field_hash, u32::from(token));
        }
    }
}
