//! Holes, what lies between them, and room for what is to come.

use super::*;
use std::time::Instant;

#[test]
fn a_terabyte_of_hole_costs_nothing_and_seeks_skip_it() {
    let dir = tempfile::tempdir().unwrap();
    let fs = fresh(&dir);
    let ino = create(&fs, b"sparse");
    let far = 1u64 << 40;
    fs.write(ino, far, b"end", false).unwrap();
    for staged in [false, true] {
        if staged {
            fs.flush(ino).unwrap();
        }
        assert_eq!(fs.seek(ino, 0, true).unwrap(), far);
        assert_eq!(fs.seek(ino, 0, false).unwrap(), 0);
        assert_eq!(fs.seek(ino, far, false).unwrap(), far + 3);
        assert!(matches!(fs.seek(ino, far + 3, true), Err(FsError::NoData)));
        assert_eq!(fs.entry(ino).unwrap().mapped, 3);
        assert_eq!(fs.read_now(ino, far - 2, 100).unwrap(), b"\0\0end");
    }
}

/// Pieces that lie apart and some that adjoin, stored or not: what is found, and in a time that grows with their number
/// alone.
#[test]
fn seeks_find_each_of_many_ranges() {
    const PIECES: u64 = 30_000;
    let dir = tempfile::tempdir().unwrap();
    let fs = fresh(&dir);
    let ino = create(&fs, b"sparse");
    // Of three pieces, two adjoin.
    let place = |n: u64| n / 3 * 1000 + [0, 100, 700][n as usize % 3];
    for n in 0..PIECES {
        fs.write(ino, place(n), &[7; 100], false).unwrap();
        if n % 3 == 0 {
            fs.flush(ino).unwrap();
        }
    }
    let began = Instant::now();
    let (mut at, mut found) = (0, Vec::new());
    while let Ok(start) = fs.seek(ino, at, true) {
        at = fs.seek(ino, start, false).unwrap();
        found.push((start, at));
    }
    let wanted = (0..PIECES / 3)
        .flat_map(|n| [(n * 1000, n * 1000 + 200), (n * 1000 + 700, n * 1000 + 800)]);
    assert!(found.into_iter().eq(wanted));
    fs.flush(ino).unwrap();
    let all = fs.store().extents_in(ino, 0, u64::MAX).unwrap();
    assert!(all.len() as u64 >= PIECES / 2);
    assert!(fs.store().extents(ino).map(|e| e.unwrap()).eq(all));
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
}

#[test]
fn what_statfs_says_is_there_can_be_allocated() {
    let dir = tempfile::tempdir().unwrap();
    let fs = fresh(&dir);
    let ino = create(&fs, b"f");
    let available = fs.statfs().unwrap().available;
    let allocate = |len| fs.fallocate(ino, 0, len, libc::FALLOC_FL_KEEP_SIZE, false);
    // Others may write to the same disk.
    allocate(available - available / 100).unwrap();
    assert!(matches!(
        allocate(available + available / 2),
        Err(FsError::Store(StoreError::NoSpace { .. }))
    ));
}
