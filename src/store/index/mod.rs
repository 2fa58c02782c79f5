//! The index, which is derived: what the log amounts to, as a memtable over a table on disk.

pub mod base;
pub mod cuts;
pub mod disk;
pub mod extents;
pub mod flusher;
pub mod leaf;
pub mod leaves;
pub mod live;
pub mod mac;
pub mod memtable;
pub mod packed;
pub mod places;
pub mod shared;
pub mod state;
pub mod totals;
pub mod waiting;
