//! Error correction: bytes in a frame ([`rs`], finds and corrects), pages of a file ([`pages`],
//! rebuilds what is known to be lost).

pub mod gf;
pub mod pages;
pub mod rs;
