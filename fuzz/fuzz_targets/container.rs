//! A container of any bytes is refused, or read; as it is, and with its checksums put right.
#![no_main]

use lmfs::block::container::{decompress, reseal};
use lmfs::block::{Lm, ModelId};
use std::sync::{Arc, OnceLock};

/// Longest plaintext of a block: decoding time is linear in it.
const LONGEST: u32 = 16 << 10;

fn tiny(_: &ModelId, _: &str) -> Result<Arc<Lm>, String> {
    static TINY: OnceLock<Result<Arc<Lm>, String>> = OnceLock::new();
    let load = || Lm::load(include_bytes!("../../tests/data/tiny.model")).map_err(|e| e.to_string());
    TINY.get_or_init(load).clone()
}

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let mut bytes = bytes.to_vec();
    let _ = decompress(&mut bytes.as_slice(), &mut std::io::sink(), &tiny, 1);
    reseal(&mut bytes, LONGEST);
    let _ = decompress(&mut bytes.as_slice(), &mut std::io::sink(), &tiny, 1);
});
