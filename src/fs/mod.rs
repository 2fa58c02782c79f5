//! POSIX meaning: namespace, inodes, handles, extents, dirty data, locks, extended attributes.
