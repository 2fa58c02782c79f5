//! The one place where refusals become errnos.

use crate::fs::FsError;
use fuser::Errno;

/// The errno that a caller sees.
pub fn errno(e: &FsError) -> Errno {
    match e {
        FsError::NotFound => Errno::ENOENT,
        FsError::Exists => Errno::EEXIST,
        FsError::NotDir => Errno::ENOTDIR,
        FsError::IsDir => Errno::EISDIR,
        FsError::NotEmpty => Errno::ENOTEMPTY,
        FsError::NameTooLong => Errno::ENAMETOOLONG,
        FsError::Invalid => Errno::EINVAL,
        FsError::TooLarge => Errno::EFBIG,
        FsError::TooManyLinks => Errno::EMLINK,
        FsError::NoAttribute => Errno::ENODATA,
        FsError::AttributeTooLarge => Errno::E2BIG,
        FsError::NotSupported => Errno::EOPNOTSUPP,
        FsError::NotPermitted => Errno::EPERM,
        FsError::NoSuchOffset => Errno::ENXIO,
        FsError::ReadOnly => Errno::EROFS,
        FsError::NoSpace(_) => Errno::ENOSPC,
        FsError::Io(_) => Errno::EIO,
    }
}
