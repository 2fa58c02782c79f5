//! What an object store, or what lies in it, can answer instead of a result.

/// Why something that needs the object store failed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum RemoteError {
    /// No object has this name.
    #[error("{0}: there is no such object")]
    NotFound(String),
    /// An object that was to be new exists.
    #[error("{0}: it exists already")]
    Exists(String),
    /// The store cannot create an object only if it does not exist.
    #[error(
        "{0}: the server has no conditional put (If-None-Match: *), without which two writers could \
         overwrite each other; use one that has: S3, GCS, Azure, or a directory"
    )]
    NoConditionalPut(String),
    /// Another writer has taken the archive over.
    #[error("{0}")]
    Fenced(String),
    /// It will not be otherwise the next time: wrong credentials, an unreadable URL, bytes that are wrong.
    #[error("{0}")]
    Refused(String),
    /// Another try may succeed: the network, the server.
    #[error("{0}")]
    Unavailable(String),
    /// No answer came in time.
    #[error("{0}: no answer in time; is the server reachable?")]
    Timeout(String),
}

impl RemoteError {
    /// True if another try may succeed.
    pub fn may_pass(&self) -> bool {
        matches!(self, Self::Unavailable(_) | Self::Timeout(_))
    }
}

/// Result of what needs the object store.
pub type Result<T> = std::result::Result<T, RemoteError>;
