//! The one place where errors become error numbers.

use crate::blocks::ReadError;
use crate::fs::FsError;
use crate::store::StoreError;
use fuser::Errno;

/// The error number of a failed operation.
pub fn errno(e: &FsError) -> Errno {
    Errno::from_i32(match e {
        FsError::NotFound => libc::ENOENT,
        FsError::Exists => libc::EEXIST,
        FsError::NotDir => libc::ENOTDIR,
        FsError::IsDir => libc::EISDIR,
        FsError::NotEmpty => libc::ENOTEMPTY,
        FsError::NameTooLong => libc::ENAMETOOLONG,
        FsError::Invalid(_) => libc::EINVAL,
        FsError::NotPermitted(_) => libc::EPERM,
        FsError::NotSupported => libc::EOPNOTSUPP,
        FsError::TooManyLinks => libc::EMLINK,
        FsError::TooBig => libc::EFBIG,
        FsError::NoAttr => libc::ENODATA,
        FsError::AttrTooBig => libc::E2BIG,
        FsError::NoData => libc::ENXIO,
        FsError::Damaged { source: ReadError::Store(s), .. } | FsError::Store(s) => match s {
            StoreError::NoSpace { .. } => libc::ENOSPC,
            StoreError::ReadOnly | StoreError::ReadOnlyMedium { .. } => libc::EROFS,
            StoreError::Conflict => libc::EAGAIN,
            StoreError::Damaged { .. }
            | StoreError::Outdated(_)
            | StoreError::DamagedModel { .. }
            | StoreError::InUse { .. }
            | StoreError::Refused(_)
            | StoreError::Index(_)
            | StoreError::Closing
            | StoreError::Stopped
            | StoreError::Remote(_)
            | StoreError::Io { .. } => libc::EIO,
        },
        FsError::Damaged {
            source:
                ReadError::Block { .. }
                | ReadError::Hash(_)
                | ReadError::Other(_)
                | ReadError::NoPrimer { .. }
                | ReadError::Model(_),
            ..
        } => libc::EIO,
    })
}
