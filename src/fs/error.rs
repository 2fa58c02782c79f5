//! What a file system operation can answer instead of a result.

use crate::blocks::ReadError;
use crate::store::StoreError;
use crate::types::Ino;

/// Why an operation failed; the adaptor gives each an errno.
#[derive(Debug, thiserror::Error)]
pub enum FsError {
    /// No such name or inode.
    #[error("no such file or directory")]
    NotFound,
    /// The name is taken.
    #[error("file exists")]
    Exists,
    /// A directory was needed.
    #[error("not a directory")]
    NotDir,
    /// A directory is not allowed here.
    #[error("is a directory")]
    IsDir,
    /// The directory has entries.
    #[error("directory not empty")]
    NotEmpty,
    /// The name has more than 255 bytes.
    #[error("name longer than 255 bytes")]
    NameTooLong,
    /// An argument makes no sense; the text says which.
    #[error("invalid argument: {0}")]
    Invalid(&'static str),
    /// Never allowed, whoever asks.
    #[error("operation not permitted: {0}")]
    NotPermitted(&'static str),
    /// Not supported by this file system.
    #[error("not supported")]
    NotSupported,
    /// Too many names of one inode.
    #[error("too many links")]
    TooManyLinks,
    /// Beyond the largest file size.
    #[error("file too large")]
    TooBig,
    /// No such extended attribute.
    #[error("no such attribute")]
    NoAttr,
    /// The value of an extended attribute is too long.
    #[error("attribute value longer than 64 KiB")]
    AttrTooBig,
    /// No data, or no hole, at or after the offset.
    #[error("no data there")]
    NoData,
    /// Bytes of a file that cannot be had.
    #[error("inode {ino} offset {offset}: {source}")]
    Damaged {
        /// The file.
        ino: Ino,
        /// First byte that is missing.
        offset: u64,
        /// Why.
        #[source]
        source: ReadError,
    },
    /// The store refused.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Result of a file system operation.
pub type Result<T> = std::result::Result<T, FsError>;
