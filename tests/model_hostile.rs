//! Model files that are cut, altered or made up: refused or run, never a panic, never more memory than
//! a small multiple of the file.

#![allow(clippy::unwrap_used)]

mod tiny;

use lmfs::model::Model;
use lmfs::model::engine::{Gated, fingerprint};
use lmfs::model::network::Network;
use proptest::prelude::*;
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::Arc;

/// Counts what each thread has taken.
struct Counting;

thread_local! {
    static NOW: Cell<usize> = const { Cell::new(0) };
    static PEAK: Cell<usize> = const { Cell::new(0) };
}

// SAFETY: hands everything to the system's allocator; counting allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        NOW.set(NOW.get().wrapping_add(layout.size()));
        PEAK.set(PEAK.get().max(NOW.get()));
        // SAFETY: the caller's promises are the system allocator's.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, p: *mut u8, layout: Layout) {
        NOW.set(NOW.get().wrapping_sub(layout.size()));
        // SAFETY: as above.
        unsafe { System.dealloc(p, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Reads a file and checks what reading it took at most.
fn read(bytes: &[u8]) -> Option<Model> {
    let before = NOW.get();
    PEAK.set(before);
    let model = Model::from_bytes(bytes);
    let took = PEAK.get().wrapping_sub(before);
    assert!(took <= 16 * bytes.len() + (64 << 10), "{took} bytes for {}", bytes.len());
    model.ok()
}

fn run(m: &Model) {
    if let Some(prior) = &m.prior {
        let _ = prior.ready(&m.vocabulary.ready());
    }
    match &m.network {
        Some(Network::Llama(n)) => fingerprint(&tiny::engine(m), &n.golden.tokens).map(drop),
        Some(Network::Gated(n)) => {
            fingerprint(&Arc::new(Gated::new(n)), &n.golden.tokens).map(drop)
        }
        None => Ok(()),
    }
    .unwrap();
}

/// Blocks of a unit that no container takes would be written and never read.
#[test]
fn units_that_no_block_has_are_refused() {
    let most = 4 << 20;
    for (unit, fine) in
        [(1 << 10, true), (most, true), (0, false), (most + 1, false), (1 << 26, false)]
    {
        let mut m = tiny::smallest();
        m.blocks.unit = unit;
        assert_eq!(read(&m.to_bytes()).is_some(), fine, "{unit}");
    }
}

/// All bytes of a file; of weights behind a prior, which takes longer to read, some.
fn places(model: &Model, len: usize) -> impl Iterator<Item = usize> {
    let step = if model.prior.is_some() { 53 } else { 1 };
    (0..4000).chain((4000..len).step_by(step))
}

#[test]
fn cut_anywhere_is_refused() {
    for model in [tiny::smallest(), tiny::both(), tiny::gated()] {
        let bytes = model.to_bytes();
        for n in places(&model, bytes.len()) {
            assert!(read(&bytes[..n]).is_none(), "cut at {n}");
        }
        let mut long = bytes;
        long.push(0);
        assert!(read(&long).is_none());
    }
}

#[test]
fn altered_anywhere_does_no_harm() {
    for model in [tiny::smallest(), tiny::both(), tiny::gated()] {
        let mut bytes = model.to_bytes();
        let mut r = tiny::Random(77);
        for at in places(&model, bytes.len()) {
            let old = bytes[at];
            bytes[at] ^= 1 << (r.next() % 8);
            // What is accepted is also run; among the many plain weights, now and then.
            if let Some(m) = read(&bytes)
                && (at < 4000 || at % 97 == 0)
            {
                run(&m);
            }
            bytes[at] = old;
        }
    }
}

/// What corrects experts is of no use without them.
#[test]
fn a_gated_network_without_a_prior_is_refused() {
    let mut m = tiny::gated();
    assert!(read(&m.to_bytes()).is_some());
    m.prior = None;
    assert!(read(&m.to_bytes()).is_none());
}

#[test]
fn sizes_beyond_the_file_are_refused() {
    let good = tiny::smallest().to_bytes();
    // Behind magic, format, parts and four texts: blocks and the size of the vocabulary. Those of the
    // network stand before its flags, rotation tables and all else.
    let at = 8 + 8 + 4 * 2 + "tiny".len();
    let begins: Vec<u8> = [0_u32, 0, 32, 2].into_iter().flat_map(u32::to_le_bytes).collect();
    let network = good.windows(16).position(|w| w == begins).unwrap();
    for at in (0..3).map(|i| at + 4 * i).chain((0..13).map(|i| network + 4 * i)) {
        for size in [0, 1, 15, 16, 255, 4096, 65_535, 65_536, 1 << 20, u32::MAX] {
            let mut bytes = good.clone();
            bytes[at..][..4].copy_from_slice(&u32::to_le_bytes(size));
            if let Some(m) = read(&bytes) {
                run(&m);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn four_bytes_of_anything_do_no_harm(at in 0..6000_usize, with in any::<[u8; 4]>()) {
        let mut bytes = tiny::smallest().to_bytes();
        bytes[at..at + 4].copy_from_slice(&with);
        if let Some(m) = read(&bytes) {
            run(&m);
        }
    }

    #[test]
    fn noise_is_refused(bytes in prop::collection::vec(any::<u8>(), 0..2000)) {
        prop_assert!(read(&bytes).is_none());
        let mut started = lmfs::model::file::MAGIC.to_vec();
        started.extend([0; 8]);
        started.extend(&bytes);
        prop_assert!(read(&started).is_none());
    }
}
