//! A model file of any bytes is read or refused, and what is read is written back the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use lmfs::model::Model;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(model) = Model::from_bytes(bytes) {
        assert_eq!(model.to_bytes(), bytes);
    }
});
