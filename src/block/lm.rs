//! A language model as the codec asks for it.

use crate::codec::token_model::{Token, TokenModel};
use crate::model::{Engine, EngineError, Input, Model, Session};
use std::sync::Arc;

/// Lanes of one block, or of several, in lockstep through one model.
#[derive(Debug)]
pub struct Lanes {
    engine: Arc<Engine>,
    start: u32,
    threads: usize,
    session: Session,
    /// Column of the last step that belongs to each lane.
    columns: Vec<usize>,
    inputs: Vec<Input>,
}

impl Lanes {
    /// Lanes at the start of text, computed by at most `threads` threads.
    pub fn new(
        model: &Model,
        engine: Arc<Engine>,
        lanes: usize,
        threads: usize,
    ) -> Result<Self, EngineError> {
        let session = Session::new(Arc::clone(&engine), lanes, threads)?;
        let start = model.hyper.start;
        let mut new =
            Self { engine, start, threads, session, columns: Vec::new(), inputs: Vec::new() };
        new.begin(lanes);
        Ok(new)
    }

    fn begin(&mut self, lanes: usize) {
        self.inputs.clear();
        self.inputs.extend((0..lanes).map(|lane| Input { lane, token: self.start }));
        self.columns.clear();
        self.columns.extend(0..lanes);
        self.session.step(&self.inputs);
    }
}

impl TokenModel for Lanes {
    fn lanes(&self) -> usize {
        self.columns.len()
    }

    fn reset(&mut self, lanes: usize) {
        if lanes == self.lanes() {
            (0..lanes).for_each(|lane| self.session.clear(lane));
        } else if let Ok(s) = Session::new(Arc::clone(&self.engine), lanes, self.threads) {
            self.session = s;
        } else {
            // No further thread can be had: the caller's computes alone.
            self.session = Session::new(Arc::clone(&self.engine), lanes, 1)
                .expect("a session without threads of its own cannot fail");
        }
        self.begin(lanes);
    }

    fn advance(&mut self, tokens: &[Option<Token>]) {
        self.inputs.clear();
        for (lane, token) in tokens.iter().enumerate() {
            if let Some(token) = token {
                self.columns[lane] = self.inputs.len();
                self.inputs.push(Input { lane, token: u32::from(*token) });
            }
        }
        self.session.step(&self.inputs);
    }

    fn cumulative(&self, lane: usize) -> &[u32] {
        self.session.cumulative(self.columns[lane])
    }
}
