//! A packed table of any bytes is read or refused, and what is read is packed the same again; so is a file
//! of a model with a prior.
#![no_main]

use libfuzzer_sys::fuzz_target;
use lmfs::codec::prior::Contexts;
use lmfs::model::PriorModel;

fuzz_target!(|bytes: &[u8]| {
    if let Some(contexts) = Contexts::unpack(bytes) {
        let packed = contexts.pack();
        assert_eq!(Contexts::unpack(&packed), Some(contexts));
    }
    let _ = PriorModel::from_bytes(bytes);
});
