//! Small files share frames: what of them is coded together.
//!
//! Alone, a small file pays for a frame's headers and an entry in the table, and the experts have learned nothing
//! when it ends. Files that lie side by side in the order of inodes were made together as a rule, and are alike.

use super::plan::Run;
use super::worker::{Job, Recipe};
use crate::types::Ino;
use std::sync::Arc;

/// Text of a shared frame, at most; who reads one of its files cold decodes all of it.
const TEXT: u64 = 64 << 10;
/// Its files, at most.
const FILES: usize = 128;
/// A file is small up to one of so many parts of a shared frame's text.
const PARTS: u64 = 4;

/// Small files that go into the next shared frame.
#[derive(Debug)]
pub struct Group {
    text: u64,
    open: Option<Job>,
}

impl Group {
    /// In a store with blocks of this many bytes.
    pub fn new(block: u64) -> Self {
        Self { text: TEXT.min(block), open: None }
    }

    /// True if a file of which this run alone is to be coded may share a frame.
    pub fn admits(&self, run: &Run, recipe: &Recipe) -> bool {
        run.off == 0 && run.len <= self.text / PARTS && recipe.is_shareable()
    }

    /// Takes such a run. What has no room beside it, or is coded in another way, is handed out.
    pub fn add(&mut self, ino: Ino, run: Run, recipe: &Arc<Recipe>) -> Option<Job> {
        let joins = |job: &Job| {
            let fits = job.len() + run.len <= self.text && job.runs.len() < FILES;
            fits && job.recipe.agrees(recipe)
        };
        let full = self.open.take_if(|job| !joins(job));
        let fresh = || Job { runs: Vec::new(), recipe: Arc::clone(recipe) };
        self.open.get_or_insert_with(fresh).runs.push((ino, run));
        full
    }

    /// What is left at the end.
    pub fn finish(self) -> Option<Job> {
        self.open
    }
}
