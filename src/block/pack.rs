//! zstd's fastest level, with contexts that each thread keeps: making one costs more than packing what is small.

use std::cell::RefCell;
use std::io::{Error, Result};
use zstd::bulk::{Compressor, Decompressor};

const LEVEL: i32 = 1;

thread_local! {
    static PACKER: RefCell<Option<Compressor<'static>>> = const { RefCell::new(None) };
    static UNPACKER: RefCell<Option<Decompressor<'static>>> = const { RefCell::new(None) };
}

/// Runs `f` on this thread's context. None is kept after an error.
fn with<C, T>(
    kept: &RefCell<Option<C>>,
    make: impl FnOnce() -> Result<C>,
    f: impl FnOnce(&mut C) -> Result<T>,
) -> Result<T> {
    let busy = |_| Error::other("a context is in use");
    let mut kept = kept.try_borrow_mut().map_err(busy)?;
    let mut context = match kept.take() {
        Some(context) => context,
        None => make()?,
    };
    let done = f(&mut context)?;
    *kept = Some(context);
    Ok(done)
}

/// A zstd frame of these bytes.
pub fn pack(bytes: &[u8]) -> Result<Vec<u8>> {
    PACKER.with(|kept| with(kept, || Compressor::new(LEVEL), |c| c.compress(bytes)))
}

/// The bytes of a zstd frame; there are at most `len`.
pub fn unpack(frame: &[u8], len: usize) -> Result<Vec<u8>> {
    UNPACKER.with(|kept| with(kept, Decompressor::new, |d| d.decompress(frame, len)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What stays in a context leaves no trace in what is made by it.
    #[test]
    fn a_kept_context_makes_what_a_new_one_makes() {
        let mut texts: Vec<Vec<u8>> =
            (0..40).map(|n| format!("{n} line {n}\n").repeat(n * n).into_bytes()).collect();
        texts.push(vec![7; 3 << 20]);
        texts.extend(texts.clone().into_iter().rev());
        for text in texts {
            let packed = pack(&text).unwrap();
            assert_eq!(packed, zstd::bulk::compress(&text, LEVEL).unwrap());
            assert_eq!(unpack(&packed, text.len()).unwrap(), text);
            // After a failure the next one is as good.
            assert!(unpack(&packed[..packed.len() - 1], text.len()).is_err());
            assert!(text.is_empty() || unpack(&packed, text.len() - 1).is_err());
        }
    }
}
