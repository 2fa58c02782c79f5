//! Tests of the file system without a mount.
