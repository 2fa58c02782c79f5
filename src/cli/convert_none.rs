//! In place of `convert.rs` where the program was built without candle.

use super::{FAILED, Failure};
use crate::model::Model;
use std::path::Path;

fn without(path: &Path) -> Failure {
    let path = path.display();
    Failure::new(FAILED, format!("{path}: this lmfs was built without its feature `import`"))
}

/// Refuses.
pub fn convert(
    path: &Path,
    _name: Option<&str>,
    _unit: Option<u32>,
    _lanes: Option<u32>,
    _prior: &str,
) -> Result<Model, Failure> {
    Err(without(path))
}

/// Refuses.
pub fn compare(path: &Path, _model: &Model, _text: Option<&[u8]>) -> Result<Compared, Failure> {
    Err(without(path))
}

/// There is none.
pub enum Compared {}

impl Compared {
    /// Not called.
    pub fn print(&self) {
        match *self {}
    }
}
