//! A store of any records is refused, or opened by replaying its log and read.
#![no_main]

use lmfs::fs::hostile::explore;
use lmfs::store::hostile;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    if let Some(store) = hostile::log(bytes) {
        // Serving takes threads, which take longer than all the rest.
        explore(&store, bytes.len() % 16 == 0);
    }
});
