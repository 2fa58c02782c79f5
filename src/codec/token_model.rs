//! What the codec asks of a language model: integers only.

/// Number of a token in its vocabulary.
pub type Token = u16;

/// What comes next, for several lanes that advance in lockstep.
///
/// Coder and decoder call the same functions with the same arguments in the same order and must get
/// the same numbers on every machine.
pub trait TokenModel {
    /// Number of lanes.
    fn lanes(&self) -> usize;

    /// Back to the start of text in all lanes, with `lanes` of them.
    fn reset(&mut self, lanes: usize);

    /// Tells the tokens that [`Self::advance`] will be given, lane by lane, so that they may be
    /// worked on many at a time. Changes no probability. A decoder cannot know them.
    fn foresee(&mut self, _tokens: &[Vec<Token>]) {}

    /// Tells each lane the token that it coded last; from then on the questions below are about the next one. `None`
    /// for a lane that has ended. About the first tokens, after [`Self::reset`], they are asked without
    /// any token told.
    fn advance(&mut self, tokens: &[Option<Token>]);

    /// Probability of 65536, from 1 to 65535, that the decision at `node` of the coding tree is 1 in `lane`. Below the
    /// node are the leaves `span[0]..span[2]` from left to right, parted at `span[1]`.
    fn probability(&self, lane: usize, node: u16, span: [usize; 3]) -> u32;

    /// The likeliest leaf in `lane`, if the model knows.
    fn likeliest(&self, lane: usize) -> Option<usize>;
}

/// The network that experts with a prior stand beside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Company {
    /// There is none.
    None,
    /// One that says how likely each token is: it is trusted most at first.
    Foretelling,
    /// One that says what is to be added to what the experts foresee.
    Correcting,
}
