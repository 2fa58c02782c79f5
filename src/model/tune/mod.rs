//! Fine-tuning a model on a user's own text.
//!
//! Candle's own threads wait for each other by spinning and share one queue; [`train`] gives each
//! thread sequences of its own instead. [`QUIET`] in the environment keeps candle from starting any.
//!
//! Start weights are those of a canonical model, so nothing else is needed. Training runs in single
//! precision and is not the same on every machine; the file that it ends in is a model like any
//! other, exact from then on.

mod judge;
mod llama;
mod ops;
mod state;
mod train;

pub use judge::bits_per_byte;
pub use llama::{Llama, dequantise};
pub use train::{BATCH, Base, CROP, Options, Outcome, Progress, RATE, train};

use std::path::PathBuf;

/// Name and value of the environment variable that keeps candle from starting threads. To be set
/// before [`train`] by a program that cares for speed; results do not depend on it.
pub const QUIET: (&str, &str) = ("RAYON_NUM_THREADS", "1");

/// Why there is no tuned model.
#[derive(Debug, thiserror::Error)]
pub enum TuneError {
    /// The checkpoint cannot be written.
    #[error(
        "cannot write the checkpoint {}: {error}; the one before it, if any, is whole: make room and run the same command to go on",
        .path.display()
    )]
    Checkpoint {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        error: std::io::Error,
    },
    /// It was told to stop.
    #[error(
        "interrupted after {seconds:.0} s of training; run the same command to go on from {}",
        .path.display()
    )]
    Interrupted {
        /// The checkpoint.
        path: PathBuf,
        /// Seconds trained in all.
        seconds: f64,
    },
    /// The weights are no numbers any more.
    #[error("training diverged: a weight is not finite")]
    Diverged,
    /// candle failed.
    #[error("training: {0}")]
    Candle(#[from] candle_core::Error),
    /// The engine failed.
    #[error(transparent)]
    Engine(#[from] super::EngineError),
}
