//! Status and commands of an open store, the same offline and through a mounted store's socket.

mod client;
mod figures;
mod name;
mod scrub;
mod server;
mod stat;

pub use client::{ControlError, listens, request};
pub use figures::{CodedFigures, ModelFigures, Settled, Status, answer};
pub use name::FileName;
pub use scrub::{ScrubOptions, Scrubbed, fsck};
pub use server::Server;
pub use stat::StatEntry;

use serde::{Deserialize, Serialize};

/// The socket in the store's directory.
pub const SOCKET: &str = "control.sock";

/// Bytes in hexadecimal.
fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// What a client asks; one JSON line.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "lowercase")]
pub enum Request {
    /// Figures.
    Status,
    /// Figures of files.
    Stat {
        /// The files.
        paths: Vec<FileName>,
        /// Also each file below a directory.
        #[serde(default)]
        recurse: bool,
    },
    /// Where in a file lines may be that have all of these words, in lower case; see
    /// [`crate::fs::Fs::may_hold`].
    Words {
        /// The file.
        path: FileName,
        /// The words.
        words: Vec<String>,
    },
    /// Code all that waits, of these paths or of all.
    Settle {
        /// Files and directories; empty for all.
        paths: Vec<FileName>,
    },
    /// End settles and recodes that are under way.
    #[serde(rename = "settle-stop")]
    SettleStop,
    /// Code anew, with another model, these paths or all.
    Recode {
        /// The model's name.
        model: String,
        /// Files and directories; empty for all.
        paths: Vec<FileName>,
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
    /// What there is to say of the object store.
    #[serde(rename = "remote-status")]
    RemoteStatus,
    /// Name the object store that the archive lies in as well.
    #[serde(rename = "remote-set")]
    RemoteSet {
        /// Its URL.
        url: String,
    },
    /// Delete from the object store what nobody needs any more.
    #[serde(rename = "remote-gc")]
    RemoteGc {
        /// Seconds for which a manifest counts after there is a newer one.
        grace: u64,
    },
    /// Check what lies in the object store.
    #[serde(rename = "remote-scrub")]
    RemoteScrub {
        /// Replace what is damaged.
        repair: bool,
    },
    /// Remove here what lies in the object store, too.
    #[serde(rename = "remote-evict")]
    RemoteEvict {
        /// Bytes that may stay.
        keep: u64,
    },
    /// Upload everything.
    #[serde(rename = "remote-push")]
    RemotePush {
        /// Answer only once it is done.
        wait: bool,
    },
}

/// What comes back; JSON lines, the last one is not a progress report.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Reply {
    /// What is done, and all there is to do: bytes of files (settle, recode), bytes of segments
    /// (gc), or steps (scrub).
    Progress(u64, u64),
    /// The answer.
    Done(serde_json::Value),
    /// Why there is none.
    Failed(String),
}
