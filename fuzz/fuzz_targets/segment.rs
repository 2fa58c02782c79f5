//! A segment of any bytes is refused, or read and mended.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| lmfs::store::hostile::segment(bytes));
