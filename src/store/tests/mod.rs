//! Tests of the store as a whole; its submodules hold those against a model, across crashes and
//! with failing files.

#![allow(clippy::large_stack_arrays)]

mod closing;
mod cutting;
mod disk;
mod each_call;
mod failing;
pub mod faults;
mod full_disk;
mod history;
mod indexes;
mod known;
mod life;
pub mod lost;
pub mod memory;
mod panics;
mod power;
mod remote;
mod tidy;
pub mod waits;

use super::log::{footer, replay};
use super::repair::parity_writer;
use super::*;
use crate::store::log::frame::HEADER;
use crate::types::{Encoding, Share, Time};

thread_local! {
    /// Bytes of batches at most that this thread's stores leave behind the last checkpoint when they
    /// are closed.
    pub static FEW: std::cell::Cell<u64> = const { std::cell::Cell::new(u64::MAX) };
}

/// Bytes as golden tests show them.
pub fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::new(), |mut s, b| {
        let _ = write!(s, "{b:02x}");
        s
    })
}

/// A new store in memory, and its disk of so many bytes.
pub fn on_a_disk_of(
    bytes: u64,
    path: &Path,
    options: &MkfsOptions,
) -> (Arc<Store>, Arc<memory::MemVolume>) {
    let volume = Arc::new(memory::MemVolume::default());
    open::create_in(&*volume, options, "memory").unwrap();
    volume.set_free(bytes);
    let (options, index) = (OpenOptions::default(), open::IndexFrom::Memory);
    (open::open_with(path, &options, volume.clone(), index).unwrap(), volume)
}

/// Has a store take no more writes.
pub fn fail(store: &Store) {
    store.writer().fail("on purpose");
}

fn options() -> MkfsOptions {
    MkfsOptions { block_size: None, model: "fast".into(), ecc: Ecc::Standard }
}

fn attr(size: u64) -> Attr {
    let t = Time::default();
    Attr {
        mode: libc::S_IFREG | 0o644,
        uid: 0,
        gid: 0,
        nlink: 1,
        rdev: 0,
        size,
        atime: t,
        mtime: t,
        ctime: t,
        btime: t,
        parent: 0,
    }
}

fn data(ino: Ino, off: u64, bytes: &[u8], generation: u64) -> Frame {
    let plain_len = bytes.len() as u32;
    Frame {
        ino,
        off,
        meta: FrameMeta { staged: true, plain_len, generation, ..FrameMeta::default() },
        plain_hash: crate::block::plain_hash(bytes),
        payload: bytes.to_vec(),
    }
}

fn write(store: &Store, ino: Ino, off: u64, bytes: &[u8]) -> Result<()> {
    let frame = data(ino, off, bytes, store.next_generation());
    store.append(Txn::default().map(frame)).map(drop)
}

fn create(store: &Store, name: &[u8]) -> Result<Ino> {
    let ino = store.next_ino();
    let dirent =
        Record::PutDirent { parent: Ino::ROOT, name: name.to_vec(), ino, kind: libc::S_IFREG };
    store.append(vec![Record::PutInode(ino, attr(0)), dirent].into())?;
    Ok(ino)
}

/// The bytes of an inode, holes as zeros, up to `len`. As all readers must, it looks again where
/// frames have moved meanwhile.
fn contents(store: &Store, ino: Ino, len: usize) -> Result<Vec<u8>> {
    loop {
        match contents_as_of_now(store, ino, len) {
            Err(StoreError::Outdated(_)) => {}
            read => return read,
        }
    }
}

fn contents_as_of_now(store: &Store, ino: Ino, len: usize) -> Result<Vec<u8>> {
    let mut out = vec![0; len];
    for e in store.extents_in(ino, 0, len as u64)? {
        let f = store.read_frame(e.frame)?;
        let owner = if f.meta.shared { Ino(0) } else { ino };
        assert!(f.ino == owner && e.is_of(&f), "{ino}: {e:?} of {f:?}");
        for i in 0..e.len {
            if let Some(b) = out.get_mut((e.off + i) as usize) {
                *b = f.payload[(u64::from(e.frame_off) + i) as usize];
            }
        }
    }
    Ok(out)
}

fn open(dir: &Path) -> Arc<Store> {
    Store::open(dir, &OpenOptions::default()).unwrap()
}

fn made() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    Store::create(dir.path(), &options()).unwrap();
    dir
}

fn names(store: &Store) -> Vec<Vec<u8>> {
    store.dirents(Ino::ROOT, 0, usize::MAX).unwrap().into_iter().map(|d| d.name).collect()
}

#[test]
fn what_was_closed_opens_with_its_index() {
    let dir = made();
    let store = open(dir.path());
    let ino = create(&store, b"a").unwrap();
    write(&store, ino, 0, b"hello").unwrap();
    write(&store, ino, 2, b"LL").unwrap();
    store.close().unwrap();
    let stats = store.stats().unwrap();
    drop(store);
    let before = std::fs::read_dir(dir.path().join("index")).unwrap().count();
    assert!(before > 0);
    let store = open(dir.path());
    assert_eq!(names(&store), [b"a"]);
    assert_eq!(contents(&store, ino, 5).unwrap(), b"heLLo");
    assert_eq!(store.stats().unwrap().logical_bytes, stats.logical_bytes);
    assert!(store.next_ino() > ino && store.next_generation() > 2);
}

#[test]
fn a_busy_mount_ends_with_a_checkpoint() {
    let dir = made();
    let busy = |files: u64| {
        let store = open(dir.path());
        for n in 0..files {
            // Names that do not squeeze.
            let hash =
                |i: u64| *blake3::hash(&[files, n, i].map(u64::to_le_bytes).concat()).as_bytes();
            let name: Vec<u8> = (0..6).flat_map(hash).map(|b| b.max(48)).collect();
            create(&store, &name).unwrap();
        }
        let there = store.stats().unwrap().files;
        store.close().unwrap();
        let checkpoint = lock(&store.checkpoint).0;
        drop(store);
        // One that was copied has another name.
        for entry in std::fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap()) {
            if entry.file_type().unwrap().is_dir()
                && entry.file_name().to_string_lossy().starts_with("index")
            {
                std::fs::remove_dir_all(entry.path()).unwrap();
            }
        }
        let store = open(dir.path());
        assert_eq!(lock(&store.checkpoint).0, checkpoint);
        assert_eq!(store.stats().unwrap().files, there);
        store.close().unwrap();
        checkpoint
    };
    assert_eq!(busy(10), 1, "not worth one");
    assert!(busy(8000) > 1);
}

#[test]
fn what_was_synced_survives_a_crash_and_a_lost_index() {
    let dir = made();
    let store = open(dir.path());
    let ino = create(&store, b"a").unwrap();
    write(&store, ino, 0, b"hello").unwrap();
    store.sync().unwrap();
    drop(store);
    std::fs::remove_dir_all(dir.path().join("index")).unwrap();
    let store = open(dir.path());
    assert_eq!(contents(&store, ino, 5).unwrap(), b"hello");
    store.close().unwrap();
}

#[test]
fn an_older_or_damaged_index_is_not_believed() {
    for damage in 0..3 {
        let dir = made();
        let store = open(dir.path());
        create(&store, b"a").unwrap();
        store.close().unwrap();
        drop(store);
        let index = dir.path().join("index");
        let saved = dir.path().join("saved");
        let copy = |from: &Path, to: &Path| {
            let done = std::process::Command::new("cp").arg("-a").args([from, to]).status();
            assert!(done.unwrap().success());
        };
        copy(&index, &saved);
        let store = open(dir.path());
        create(&store, b"b").unwrap();
        store.close().unwrap();
        drop(store);
        match damage {
            0 => {
                std::fs::remove_dir_all(&index).unwrap();
                copy(&saved, &index);
            }
            1 => std::fs::write(index.join("db"), b"garbage").unwrap(),
            _ => {
                let db = index.join("db");
                let mut bytes = std::fs::read(&db).unwrap();
                let at = bytes.len() / 2;
                bytes[at] ^= 4;
                std::fs::write(db, bytes).unwrap();
            }
        }
        let store = open(dir.path());
        assert_eq!(names(&store), [b"a", b"b"], "damage {damage}");
    }
}

/// A segment with nothing in it has a footer of no bytes.
#[test]
fn sealing_what_is_empty_harms_nothing() {
    let dir = made();
    let store = open(dir.path());
    create(&store, b"a").unwrap();
    for _ in 0..3 {
        lock(&store.writer).roll(false).unwrap();
    }
    store.sync().unwrap();
    parity_writer::protect_all(&store).unwrap();
    for number in store.segment_numbers() {
        assert!(!store.check_segment(number, true).unwrap().checked.damaged);
    }
    store.close().unwrap();
    drop(store);
    assert_eq!(names(&open(dir.path())), [b"a"]);
}

#[test]
fn a_second_opener_is_told_who_has_it() {
    let dir = made();
    let _first = open(dir.path());
    let e = Store::open(dir.path(), &OpenOptions::default()).unwrap_err();
    assert!(matches!(e, StoreError::InUse { pid, .. } if pid == std::process::id()), "{e}");
}

#[test]
fn other_things_are_refused_by_name() {
    let dir = made();
    let e = Store::create(dir.path(), &options()).unwrap_err().to_string();
    assert!(e.contains("not empty") && e.contains(&dir.path().display().to_string()), "{e}");
    for file in superblock::FILES {
        let sb = Superblock {
            format: FORMAT + 1,
            uuid: [0; 16],
            block_size: 1,
            ecc: Ecc::None,
            model: "fast".into(),
        };
        std::fs::write(dir.path().join(file), superblock::encode(&sb)).unwrap();
    }
    let e = Store::open(dir.path(), &OpenOptions::default()).unwrap_err().to_string();
    assert!(e.contains("newer lmfs") && e.contains("format 1"), "{e}");
    let empty = tempfile::tempdir().unwrap();
    let e = Store::open(empty.path(), &OpenOptions::default()).unwrap_err().to_string();
    assert!(e.contains("lmfs mkfs"), "{e}");
}

#[test]
fn read_only_writes_nothing() {
    let dir = made();
    let store = open(dir.path());
    let ino = create(&store, b"a").unwrap();
    write(&store, ino, 0, b"hello").unwrap();
    store.close().unwrap();
    drop(store);
    let listing = || {
        let mut find = std::process::Command::new("find");
        find.arg(dir.path()).args(["-printf", "%p %s %T@\n"]).output().unwrap().stdout
    };
    let before = listing();
    let store = Store::open(dir.path(), &OpenOptions { read_only: true }).unwrap();
    assert_eq!(contents(&store, ino, 5).unwrap(), b"hello");
    assert!(matches!(write(&store, ino, 0, b"x"), Err(StoreError::ReadOnly)));
    store.close().unwrap();
    drop(store);
    assert_eq!(before, listing());
}

#[test]
fn a_guard_that_does_not_hold_changes_nothing() {
    let dir = made();
    let store = open(dir.path());
    let ino = create(&store, b"a").unwrap();
    write(&store, ino, 0, b"hello").unwrap();
    let expect = store.extents_in(ino, 0, 5).unwrap();
    write(&store, ino, 1, b"E").unwrap();
    let unchanged = Guard { ino, off: 0, len: 5, expect };
    let txn = Txn::default().map(data(ino, 0, b"HELLO", 1)).only_if(unchanged);
    assert!(matches!(store.append(txn), Err(StoreError::Conflict)));
    assert_eq!(contents(&store, ino, 5).unwrap(), b"hEllo");
}

#[test]
fn a_primer_lives_as_long_as_it_is_named() {
    let dir = made();
    let store = open(dir.path());
    let ino = create(&store, b"a").unwrap();
    let id = store.next_ino().0;
    let named = |bytes: &[u8]| {
        let mut frame = data(ino, 0, bytes, 1);
        frame.meta.primer = id;
        frame
    };
    let txn = Txn::default().primer(id, data(ino, 0, b"sample", 1)).map(named(b"one"));
    store.append(txn).unwrap();
    let again = Txn::default().map(named(b"two"));
    store.append(again.clone()).unwrap();
    let at = store.primer(id).unwrap().unwrap();
    assert_eq!(store.read_frame(at).unwrap().payload, b"sample");
    write(&store, ino, 0, b"new").unwrap();
    assert_eq!(store.primer(id).unwrap(), None);
    assert!(matches!(store.append(again), Err(StoreError::Conflict)));
    assert_eq!(store.stats().unwrap().frames, 1);
}

#[test]
fn the_cleaner_keeps_what_lives_and_frees_the_rest() {
    let dir = made();
    let store = open(dir.path());
    let (a, b) = (create(&store, b"a").unwrap(), create(&store, b"b").unwrap());
    write(&store, a, 0, &[1; 100_000]).unwrap();
    for _ in 0..20 {
        write(&store, b, 0, &[2; 100_000]).unwrap();
    }
    write(&store, a, 50_000, &[3; 10]).unwrap();
    store.sync().unwrap();
    let report = store.clean(30).unwrap();
    assert!(report.before_bytes > 2_000_000 && report.after_bytes < 300_000, "{report:?}");
    let expect = |s: &Store| {
        let mut want = vec![1; 100_000];
        want[50_000..50_010].fill(3);
        assert!(contents(s, a, 100_000).unwrap() == want);
        assert!(contents(s, b, 100_000).unwrap() == [2; 100_000]);
    };
    expect(&store);
    drop(store);
    expect(&open(dir.path()));
}

#[test]
fn what_a_later_version_adds_is_stepped_over() {
    let dir = made();
    let mut store = open(dir.path());
    let add = |store: &Store| {
        let mut w = store.writer();
        let (stamp, seq) = (w.stamp(), w.seq);
        let frame = frame::meta_frame(stamp, Kind::Addition, seq, 3, Encoding::Raw, b"new");
        w.append(Kind::Addition, &frame).unwrap();
    };
    add(&store);
    let a = create(&store, b"a").unwrap();
    write(&store, a, 0, b"one").unwrap();
    add(&store);
    store.sync().unwrap();
    // From the log; from a sealed segment and its footer, and behind a checkpoint; after gc.
    for turn in 0..3 {
        drop(store);
        std::fs::remove_dir_all(dir.path().join("index")).unwrap();
        store = open(dir.path());
        assert_eq!(contents(&store, a, 3).unwrap(), b"one");
        for (number, _) in store.segments.lens() {
            let check = store.check_segment(number, false).unwrap();
            assert!(!check.log_lost && check.lost.is_empty(), "{turn}: {check:?}");
        }
        if turn == 0 {
            store.writer().roll(false).unwrap();
            add(&store);
            store.close().unwrap();
        } else {
            store.clean(0).unwrap();
            store.sync().unwrap();
        }
    }
}

#[test]
fn damage_is_noticed_and_touches_nothing_else() {
    let dir = made();
    let store = open(dir.path());
    let (a, b) = (create(&store, b"a").unwrap(), create(&store, b"b").unwrap());
    write(&store, a, 0, &[1; 5000]).unwrap();
    write(&store, b, 0, &[2; 5000]).unwrap();
    let at = store.extents_in(a, 0, 1).unwrap()[0].frame;
    store.close().unwrap();
    drop(store);
    let file = dir.path().join(segments::segment_path(at.segment));
    let mut bytes = std::fs::read(&file).unwrap();
    // Too much for the frame's own code; the sidecar does not help, since it is gone.
    bytes[at.offset as usize + 2000..at.offset as usize + 2200].fill(0x77);
    for entry in std::fs::read_dir(dir.path().join("segments")).unwrap().flatten() {
        if entry.path().extension().is_some_and(|e| e == "par") {
            std::fs::remove_file(entry.path()).unwrap();
        }
    }
    std::fs::write(&file, bytes).unwrap();
    for rebuild in [false, true] {
        if rebuild {
            std::fs::remove_dir_all(dir.path().join("index")).unwrap();
        }
        let store = open(dir.path());
        assert!(matches!(contents(&store, a, 5000), Err(StoreError::Damaged { .. })));
        assert!(contents(&store, b, 5000).unwrap() == [2; 5000]);
        assert_eq!(store.stats().unwrap().unrecoverable, 1);
        store.close().unwrap();
    }
}

#[test]
fn a_frame_that_was_moved_is_outdated_where_it_was_and_no_damage() {
    let dir = made();
    let store = open(dir.path());
    let ino = create(&store, b"a").unwrap();
    write(&store, ino, 0, &[1; 100_000]).unwrap();
    write(&store, ino, 0, &[2; 1000]).unwrap();
    let before = store.extents_in(ino, 0, 100_000).unwrap();
    assert!(store.clean(0).unwrap().moved_frames >= 2);
    let after = store.extents_in(ino, 0, 100_000).unwrap();
    assert!(before.iter().zip(&after).all(|(b, a)| b.frame != a.frame));
    for (b, a) in before.iter().zip(&after) {
        let old = store.read_frame(b.frame);
        assert!(matches!(old, Err(StoreError::Outdated(f)) if f == b.frame), "{old:?}");
        assert_eq!(store.read_frame(a.frame).unwrap().meta.generation, b.meta.generation);
    }
    assert_eq!(store.stats().unwrap().unrecoverable, 0);
}

#[test]
fn a_clean_open_knows_how_far_the_checkpoint_is() {
    let dir = made();
    let store = open(dir.path());
    create(&store, b"a").unwrap();
    store.clean(0).unwrap();
    create(&store, b"b").unwrap();
    store.sync().unwrap();
    let before = (store.segments.flow.batches.load(Ordering::SeqCst), *lock(&store.checkpoint));
    assert!(before.0 > 0 && before.1.1 > 0);
    store.close().unwrap();
    drop(store);
    let store = open(dir.path());
    let after = (store.segments.flow.batches.load(Ordering::SeqCst), *lock(&store.checkpoint));
    assert!(after.0 >= before.0 && after.1 == before.1, "{before:?} {after:?}");
}

#[test]
fn a_range_of_a_file_of_many_extents_is_found_quickly() {
    const N: u64 = 100_000;
    let dir = made();
    let store = open(dir.path());
    let ino = create(&store, b"a").unwrap();
    for chunk in 0..N / 1000 {
        let frames = (0..1000).map(|n| data(ino, (chunk * 1000 + n) << 20, b"x", 1));
        store.append(frames.fold(Txn::default(), Txn::map)).unwrap();
    }
    let began = std::time::Instant::now();
    for n in 0..1000 {
        let at = (n * 97 % N) << 20;
        let got = store.extents_in(ino, at, 1 << 20).unwrap();
        assert_eq!(got.iter().map(|e| e.off).collect::<Vec<_>>(), [at]);
    }
    // A scan of all extents would take a thousand times 100,000 steps.
    assert!(began.elapsed().as_millis() < 2000, "{:?}", began.elapsed());
}

#[test]
fn fsck_puts_the_namespace_right_and_then_finds_nothing() {
    let dir = made();
    let store = open(dir.path());
    let (a, b, c) = (
        create(&store, b"a").unwrap(),
        create(&store, b"b").unwrap(),
        create(&store, b"c").unwrap(),
    );
    write(&store, a, 0, b"hello").unwrap();
    assert_eq!(store.check_namespace(false).unwrap(), []);
    let stray = store.next_ino();
    let folder = |name: &[u8], parent: Ino| {
        let ino = store.next_ino();
        let attr = Attr { mode: libc::S_IFDIR | 0o755, nlink: 2, parent: parent.0, ..attr(0) };
        let name = name.to_vec();
        let op = Record::PutDirent { parent, name, ino, kind: libc::S_IFDIR };
        store.append(vec![Record::PutInode(ino, attr), op].into()).unwrap();
        ino
    };
    // The root's own count is wrong on purpose: it has two directories now.
    let (outer, inner) = (folder(b"outer", Ino::ROOT), folder(b"other", Ino::ROOT));
    let dirent = |parent, name: &[u8], ino, kind| Record::PutDirent {
        parent,
        name: name.to_vec(),
        ino,
        kind,
    };
    let del = |parent, name: &[u8]| Record::DelDirent { parent, name: name.to_vec() };
    let ops = vec![
        // A file without a name, one with two but a count of one, a name of nothing, a wrong type.
        del(Ino::ROOT, b"a"),
        dirent(Ino::ROOT, b"b2", b, libc::S_IFREG),
        dirent(Ino::ROOT, b"nothing", stray, libc::S_IFREG),
        dirent(Ino::ROOT, b"c", c, libc::S_IFDIR),
        // Two directories in each other, out of the root's reach.
        del(Ino::ROOT, b"outer"),
        del(Ino::ROOT, b"other"),
        dirent(outer, b"inner", inner, libc::S_IFDIR),
        dirent(inner, b"outer", outer, libc::S_IFDIR),
        // Bytes and an attribute of nobody.
        Record::PutXattr(Ino(stray.0 + 100), b"user.x".to_vec(), b"v".to_vec()),
    ];
    store.append(ops.into()).unwrap();
    write(&store, Ino(stray.0 + 100), 0, b"lost").unwrap();
    let found = store.check_namespace(false).unwrap();
    assert!(found.len() >= 8, "{found:#?}");
    assert_eq!(store.check_namespace(true).unwrap().len(), found.len());
    assert_eq!(store.check_namespace(true).unwrap(), []);
    store.close().unwrap();
    drop(store);
    let store = open(dir.path());
    assert_eq!(store.check_namespace(false).unwrap(), []);
    let lost = store.dirent(Ino::ROOT, b"lost+found").unwrap().unwrap().ino;
    let saved = store.dirent(lost, format!("#{a}").as_bytes()).unwrap().unwrap();
    assert_eq!((saved.ino, contents(&store, a, 5).unwrap()), (a, b"hello".to_vec()));
    assert_eq!(store.inode(b).unwrap().unwrap().nlink, 2);
    assert_eq!(store.dirent(Ino::ROOT, b"nothing").unwrap(), None);
    assert_eq!(store.dirent(Ino::ROOT, b"c").unwrap().unwrap().kind, libc::S_IFREG);
    let mut up = inner;
    for _ in 0..4 {
        up = Ino(store.inode(up).unwrap().unwrap().parent);
    }
    assert_eq!(up, Ino::ROOT);
    assert_eq!(store.inode(Ino::ROOT).unwrap().unwrap().nlink, 3);
}

#[test]
fn a_forged_length_takes_no_memory() {
    use super::io::Volume;
    let volume = memory::MemVolume::default();
    let blob = volume.create("x").unwrap();
    blob.write_at(b"0123456789", 0).unwrap();
    assert_eq!(super::io::read_up_to(&*blob, 4, 1 << 45).unwrap(), b"456789");
}
