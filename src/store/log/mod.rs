//! The log, which is the truth: frames in segments, written at one end and read from the last
//! checkpoint on.

pub mod checkpoint;
pub mod footer;
pub mod frame;
pub mod record;
pub mod replay;
pub mod segments;
pub mod shares;
pub mod superblock;
pub mod tail;
pub mod writer;
