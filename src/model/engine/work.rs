//! What a pass over the weights is to do.

use super::team::Barrier;

/// Most tokens of one lane in one pass.
pub const AHEAD: usize = 64;

/// One token to be fed to a lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Input {
    /// Lane of the session.
    pub lane: usize,
    /// Token of the model's vocabulary, or its start token.
    pub token: u32,
}

/// What is computed behind the last layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Want {
    /// Nothing.
    #[default]
    Nothing,
    /// All logits.
    Logits,
    /// What decisions of the next token are asked about.
    Decisions,
}

/// One column of a pass.
#[derive(Debug, Clone, Copy)]
pub struct Token {
    /// Lane, of those of the work.
    pub lane: usize,
    /// Token.
    pub id: u32,
    /// Tokens of the lane before it.
    pub position: usize,
}

/// Columns of one lane: indices `from..to` of [`Work::order`].
#[derive(Debug, Clone, Copy)]
pub struct Span {
    /// The first.
    pub from: usize,
    /// One past the last.
    pub to: usize,
}

/// Columns of a pass, whose lanes they are, and which results are wanted.
pub struct Work<'a, S> {
    /// The columns.
    pub tokens: &'a [Token],
    /// Columns by lane, in order of position within.
    pub order: &'a [usize],
    /// One for each lane that has columns.
    pub spans: &'a [Span],
    /// The lanes' states.
    pub states: &'a mut [S],
    /// Columns whose successor is wanted.
    pub outputs: &'a [usize],
    /// Row of the results that the first of them gets; those before stay.
    pub first: usize,
    /// What is wanted.
    pub want: Want,
}

/// What a member runs: its number, and where members wait for each other.
pub type Job<'a> = dyn Fn(usize, &Barrier) + Sync + 'a;
