//! What finds damage and undoes it: codes within a frame and across a file, repair on reading, the
//! parity writer, scrub and fsck, and what can be salvaged where history is missing.

pub mod damage;
pub mod ecc;
pub mod fsck;
pub mod parity_writer;
pub mod read_repair;
pub mod rebuild;
pub mod report;
pub mod salvage;
pub mod scan;
pub mod scrub;
pub mod sidecar;
