//! A model file of any bytes is read or refused; what is read is written back so that it reads the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use lmfs::model::Model;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(model) = Model::from_bytes(bytes) {
        let written = model.to_bytes();
        if model.prior.is_none() {
            assert_eq!(written, bytes);
        }
        // A prior may be packed otherwise than it was.
        let again = Model::from_bytes(&written).expect("it was written");
        assert_eq!((&again.prior, again.to_bytes()), (&model.prior, written));
        // What a prior makes of a text is another matter than whether it is what the file says.
        if let Some(prior) = &model.prior {
            let _ = prior.ready(&model.vocabulary.ready());
        }
    }
});
