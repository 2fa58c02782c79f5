//! Status and commands of an open store, the same offline and through a mounted store's socket.

mod client;
mod figures;
mod scrub;
mod server;

pub use client::{ControlError, request};
pub use figures::{
    CacheFigures, CleanerFigures, CodedFigures, ModelFigures, Settled, StatEntry, Status, answer,
};
pub use scrub::{ScrubOptions, Scrubbed, fsck};
pub use server::Server;

use serde::{Deserialize, Serialize};

/// The socket in the store's directory.
pub const SOCKET: &str = "control.sock";

/// What a client asks; one JSON line.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "lowercase")]
pub enum Request {
    /// Figures.
    Status,
    /// Figures of files, by paths from the file system's root.
    Stat {
        /// The paths.
        paths: Vec<String>,
    },
    /// Code all that waits, of these paths or of all.
    Settle {
        /// The paths; empty for all.
        paths: Vec<String>,
    },
    /// Code anew, with another model, these paths or all.
    Recode {
        /// The model's name.
        model: String,
        /// The paths; empty for all.
        paths: Vec<String>,
    },
    /// Remove a pinned model that no frame needs.
    #[serde(rename = "model-rm")]
    ModelRm {
        /// The model's name.
        name: String,
    },
    /// Clean dead segments.
    Gc,
    /// Check all that lies under the store.
    Scrub(ScrubOptions),
    /// Stage and sync everything.
    Flush,
}

/// What comes back; JSON lines, the last one is not a progress report.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Reply {
    /// What is done, and all there is to do: bytes of files (settle, recode), or steps (scrub).
    Progress(u64, u64),
    /// The answer.
    Done(serde_json::Value),
    /// Why there is none.
    Failed(String),
}
