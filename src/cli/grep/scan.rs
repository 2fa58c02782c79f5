//! A chunk of a file is searched: on any thread, without knowing what comes before.

use super::pattern::{Line, Matcher};
use super::stamp::{self, Clock, Micros};
use std::ops::Range;

/// What is wanted of each chunk.
pub struct Wanted {
    /// The pattern.
    pub matcher: Matcher,
    /// First and last time; `None` for all.
    pub span: Option<(Micros, Micros)>,
    /// Files with NUL bytes are text, too.
    pub text: bool,
    /// Lines are counted.
    pub numbers: bool,
    /// Words that each line has, if only lines are wanted that match; files with filters of words are not
    /// read where they have none of them.
    pub words: Vec<Vec<u8>>,
}

/// What stamps of a run of lines say of their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Order {
    /// Earliest time.
    pub least: Micros,
    /// Latest.
    pub most: Micros,
    /// Largest step back behind the latest before.
    pub back: Micros,
}

impl Order {
    /// Of a single line.
    pub fn of(time: Micros) -> Self {
        Self { least: time, most: time, back: 0 }
    }

    /// Together with that of lines that follow.
    pub fn then(self, next: Self) -> Self {
        let step = self.most.saturating_sub(next.least).max(0);
        Self {
            least: self.least.min(next.least),
            most: self.most.max(next.most),
            back: self.back.max(next.back).max(step),
        }
    }
}

/// Lines in a row that all lie in the range of time, or do if the line before them does.
#[derive(Debug)]
pub struct Piece {
    /// Where in the text.
    pub text: Range<usize>,
    /// Lines of the text before it; only if they are counted.
    pub before: u64,
    /// Has no stamp of its own, nor has anything before it in the text.
    pub inherits: bool,
    /// The lines that are wanted, from the piece's beginning.
    pub hits: Vec<Line>,
}

/// A run of bytes of a file, searched.
#[derive(Debug)]
pub struct Scan {
    /// All of it.
    pub text: Vec<u8>,
    /// How much of it belongs to a line that began before; all, if no line ends in it.
    pub head: usize,
    /// Where the line begins that does not end in it.
    pub tail: usize,
    /// What lies between, as far as its time is right.
    pub pieces: Vec<Piece>,
    /// Lines between; only if they are counted.
    pub lines: u64,
    /// Whether the last stamp between lies in the range.
    pub last: Option<bool>,
    /// What the stamps between say.
    pub order: Option<Order>,
    /// Has NUL bytes, which are newlines now, so that lines stay short.
    pub binary: bool,
}

/// Searches a run of bytes; `whole` if it begins where a line does.
pub fn scan(mut text: Vec<u8>, whole: bool, wanted: &Wanted, clock: &mut Clock) -> Scan {
    let binary = !wanted.text && memchr::memchr(0, &text).is_some();
    if binary {
        text.iter_mut().filter(|b| **b == 0).for_each(|b| *b = b'\n');
    }
    let first = memchr::memchr(b'\n', &text).map(|n| n + 1);
    let tail = memchr::memrchr(b'\n', &text).map_or(0, |n| n + 1);
    let head = match first {
        _ if whole => 0,
        Some(n) => n,
        None => text.len(),
    };
    let tail = tail.max(head);
    let mut scan =
        Scan { text, head, tail, pieces: Vec::new(), lines: 0, last: None, order: None, binary };
    match wanted.span {
        None if head < tail => scan.pieces.push(piece(&scan.text, head..tail, false, wanted)),
        None => {}
        Some(span) => timed(&mut scan, span, wanted, clock),
    }
    if wanted.numbers {
        let mut at = head;
        for piece in &mut scan.pieces {
            scan.lines += count(&scan.text[at..piece.text.start]);
            piece.before = scan.lines;
            at = piece.text.start;
        }
        scan.lines += count(&scan.text[at..tail]);
    }
    scan
}

fn piece(text: &[u8], range: Range<usize>, inherits: bool, wanted: &Wanted) -> Piece {
    let hits = wanted.matcher.lines(&text[range.clone()]);
    Piece { text: range, before: 0, inherits, hits }
}

/// Newlines.
pub fn count(text: &[u8]) -> u64 {
    memchr::memchr_iter(b'\n', text).count() as u64
}

/// Cuts what lies between head and tail into pieces of the range.
fn timed(scan: &mut Scan, span: (Micros, Micros), wanted: &Wanted, clock: &mut Clock) {
    let body = &scan.text[..scan.tail];
    let mut begin = scan.head;
    let mut line = scan.head;
    let mut close = |state: Option<bool>, range: Range<usize>| {
        if state != Some(false) && !range.is_empty() {
            scan.pieces.push(piece(body, range, state.is_none(), wanted));
        }
    };
    while line < scan.tail {
        let end = memchr::memchr(b'\n', &body[line..]).map_or(scan.tail, |n| line + n + 1);
        if let Some(stamp) = stamp::of(&body[line..end]) {
            let time = clock.time(stamp);
            let order = Order::of(time);
            scan.order = Some(scan.order.map_or(order, |o| o.then(order)));
            let state = Some(inside(span, time));
            if state != scan.last {
                close(scan.last, begin..line);
                begin = line;
                scan.last = state;
            }
        }
        line = end;
    }
    close(scan.last, begin..scan.tail);
}

/// True if a time lies in a range.
pub fn inside(span: (Micros, Micros), time: Micros) -> bool {
    (span.0..=span.1).contains(&time)
}

/// The first stamp of a line that begins behind the first newline, or at the beginning if that is `whole`.
pub fn first_time(text: &[u8], whole: bool, clock: &mut Clock) -> Option<Micros> {
    let mut at = if whole { 0 } else { memchr::memchr(b'\n', text)? + 1 };
    while at < text.len() {
        // The end of the text may cut a line, and so its stamp.
        let end = at + memchr::memchr(b'\n', &text[at..])? + 1;
        if let Some(stamp) = stamp::of(&text[at..end]) {
            return Some(clock.time(stamp));
        }
        at = end;
    }
    None
}
