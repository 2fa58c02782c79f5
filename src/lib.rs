//! lmfs: a file system in which a language model is the compressor.
//!
//! The flow, from the kernel inwards: [`fuse`] unpacks a request and calls [`fs`], which knows what
//! POSIX means and maps byte ranges to extents; [`blocks`] reads those, from its cache or by decoding
//! them; [`block`] turns a frame's payload into bytes and back, using [`codec`] (integers only);
//! [`store`] keeps the truth, an append-only log of self-describing frames, and a derived index. [`recode`] rewrites rested
//! data in the background, [`control`] is how other processes talk to a mounted store, [`cli`] is
//! the command line. Nothing imports upwards.

pub mod block;
pub mod blocks;
pub mod cli;
pub mod codec;
pub mod control;
mod cpu;
pub mod fs;
pub mod fuse;
#[cfg(test)]
mod logged;
pub mod model;
pub mod models;
mod priority;
pub mod recode;
pub mod store;
pub mod types;
