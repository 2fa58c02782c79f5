//! A log whose last checkpoint is empty: what it still holds comes back.

use super::*;
use crate::store::log::frame::{Stamp, meta_frame, squeeze};
use crate::store::log::record::Out;
use crate::store::log::superblock::{SEGMENT_HEADER, SegmentHeader};
use std::collections::BTreeMap;

const FILES: u64 = 1000;

fn body(n: u64) -> Vec<u8> {
    let hash = |i: u64| *blake3::hash(&[n, i].map(u64::to_le_bytes).concat()).as_bytes();
    (0..8).flat_map(hash).take(100 + n as usize % 150).collect()
}

/// A store of many files of two pieces each, some of them overwritten, with their bytes by inode.
fn filled() -> (tempfile::TempDir, BTreeMap<Ino, Vec<u8>>) {
    let dir = made();
    let store = open(dir.path());
    let mut files = BTreeMap::new();
    for n in 0..FILES {
        let ino = create(&store, format!("file {n}").as_bytes()).unwrap();
        let mut plain = body(n);
        let (head, tail) = plain.split_at(60);
        write(&store, ino, 60, tail).unwrap();
        write(&store, ino, 0, head).unwrap();
        if n % 7 == 0 {
            write(&store, ino, 20, b"newer than this").unwrap();
            plain[20..35].copy_from_slice(b"newer than this");
        }
        let size = plain.len() as u64;
        store.append(Record::PutInode(ino, attr(size)).into()).unwrap();
        files.insert(ino, plain);
        if n % 50 == 0 {
            store.sync().unwrap();
        }
    }
    store.close().unwrap();
    (dir, files)
}

/// Puts a segment behind the others that holds a checkpoint of nothing, with the figures of all.
fn forget(dir: &Path) {
    let store = open(dir);
    let (seq, chain, uuid) = {
        let w = lock(&store.writer);
        (w.seq, w.chain, store.superblock.uuid)
    };
    let stamp: Stamp = store.segments.stamp;
    let mut totals = Out::default();
    store.state().totals.encode(&mut totals);
    store.close().unwrap();
    // What closing wrote is a batch more.
    let (seq, chain) = {
        let (batch, ..) = replay::shutdown_record(&store.segments).unwrap();
        assert!(batch.seq > seq || batch.chain() == chain);
        (batch.seq, batch.chain())
    };
    let number = store.segments.lens().last().unwrap().0 + 1;
    drop(store);
    let header = SegmentHeader { number, uuid, checkpoint: true };
    let mut bytes = header.encode();
    let mut part = |kind, payload: Vec<u8>| {
        let (encoding, plain_len, payload) = squeeze(payload);
        bytes.extend(meta_frame(stamp, kind, seq, plain_len, encoding, &payload));
    };
    part(Kind::Checkpoint, Vec::new());
    let mut end = Out::default();
    end.u32(1).u64(seq).u64(chain);
    end.0.extend_from_slice(&totals.0);
    part(Kind::CheckpointEnd, end.0);
    std::fs::write(dir.join(segments::segment_path(number)), bytes).unwrap();
}

/// Overwrites all in a segment but the frames of these kinds.
fn rewrite(store: &Store, number: u32, kinds: &[Kind]) {
    let file = store.path().join(segments::segment_path(number));
    let old = std::fs::read(&file).unwrap();
    let header = SegmentHeader::decode(&old).unwrap();
    let checkpoint = header.checkpoint && kinds.contains(&Kind::Checkpoint);
    let mut bytes = SegmentHeader { checkpoint, ..header }.encode();
    bytes.resize(old.len(), 0);
    let (lines, _) = footer::summary(&store.segments, number, SEGMENT_HEADER as u64).unwrap();
    for l in lines.into_iter().filter(|l| kinds.contains(&l.kind)) {
        let place = l.frame.offset as usize..(l.frame.offset + l.frame.len) as usize;
        bytes[place.clone()].copy_from_slice(&old[place]);
    }
    std::fs::write(file, bytes).unwrap();
    for e in std::fs::read_dir(store.path().join("segments")).unwrap().flatten() {
        if e.file_name().to_str().unwrap().starts_with(&format!("{number:08}."))
            && e.path().extension().is_some_and(|e| e == "par")
        {
            std::fs::remove_file(e.path()).unwrap();
        }
    }
}

fn without_index(dir: &Path) {
    for e in std::fs::read_dir(dir).unwrap().flatten() {
        let name = e.file_name();
        if name.to_str().unwrap().starts_with("index") && e.path().is_dir() {
            std::fs::remove_dir_all(e.path()).unwrap();
        }
    }
}

/// Rewrites all segments but the last.
fn keep(dir: &Path, kinds: &[Kind]) {
    let store = Store::open_to_check(dir, true, false).unwrap();
    let lens = store.segments.lens();
    for (number, _) in &lens[..lens.len() - 1] {
        rewrite(&store, *number, kinds);
    }
}

/// A store that has nothing left but the frames of its files.
pub fn without_namespace() -> (tempfile::TempDir, BTreeMap<Ino, Vec<u8>>) {
    let (dir, files) = filled();
    forget(dir.path());
    keep(dir.path(), &[Kind::Data, Kind::Primer]);
    (dir, files)
}

fn refused(dir: &Path) {
    for read_only in [true, false] {
        let e = Store::open(dir, &OpenOptions { read_only }).unwrap_err().to_string();
        assert!(e.contains("lost its namespace") && e.contains("fsck --repair"), "{e}");
    }
}

#[test]
fn the_checkpoint_before_an_empty_one_is_used() {
    let (dir, files) = filled();
    forget(dir.path());
    for read_only in [true, false] {
        let store = Store::open(dir.path(), &OpenOptions { read_only }).unwrap();
        assert_eq!(store.stats().unwrap().files, FILES);
        for (ino, plain) in &files {
            assert_eq!(&contents(&store, *ino, plain.len()).unwrap(), plain);
        }
        assert_eq!(store.salvage(false).unwrap(), []);
        assert_eq!(store.check_namespace(false).unwrap(), []);
        store.close().unwrap();
    }
    assert_eq!(names(&open(dir.path())).len() as u64, FILES);
}

#[test]
fn a_lost_namespace_is_no_empty_archive_and_every_byte_comes_back() {
    let (dir, files) = without_namespace();
    refused(dir.path());
    let index = |d: &Path| d.join("index").is_dir() || d.join("index.1").is_dir();
    assert!(index(dir.path()), "it may be all that is left");
    let store = Store::open_to_check(dir.path(), true, false).unwrap();
    let told = store.salvage(false).unwrap();
    assert!(told.iter().any(|p| p.reason.contains("1000 files")), "{told:?}");
    drop(store);
    refused(dir.path());
    let store = Store::open_to_check(dir.path(), false, false).unwrap();
    assert!(!store.salvage(true).unwrap().is_empty());
    store.check_namespace(true).unwrap();
    assert_eq!(store.salvage(false).unwrap(), []);
    assert_eq!(store.check_namespace(false).unwrap(), []);
    store.close().unwrap();
    drop(store);
    for rebuild in [false, true] {
        if rebuild {
            without_index(dir.path());
        }
        let store = open(dir.path());
        let lost = store.dirent(Ino::ROOT, b"lost+found").unwrap().unwrap().ino;
        assert_eq!(store.dirents(lost, 0, usize::MAX).unwrap().len() as u64, FILES);
        for (ino, plain) in &files {
            let d = store.dirent(lost, format!("#{ino}").as_bytes()).unwrap().unwrap();
            assert_eq!(d.ino, *ino);
            assert_eq!(store.inode(*ino).unwrap().unwrap().size, plain.len() as u64);
            assert_eq!(&contents(&store, *ino, plain.len()).unwrap(), plain);
        }
        assert!(store.next_ino() > *files.keys().last().unwrap());
        history::check_sums(&store);
        store.clean(0).unwrap();
        store.close().unwrap();
    }
}

#[test]
fn names_that_groups_still_tell_come_back_too() {
    let (dir, files) = filled();
    forget(dir.path());
    keep(dir.path(), &[Kind::Data, Kind::Primer, Kind::Batch]);
    refused(dir.path());
    let store = Store::open_to_check(dir.path(), false, false).unwrap();
    assert!(!store.salvage(true).unwrap().is_empty());
    store.check_namespace(true).unwrap();
    assert_eq!(names(&store).len() as u64, FILES);
    for (ino, plain) in &files {
        assert_eq!(&contents(&store, *ino, plain.len()).unwrap(), plain);
    }
    store.close().unwrap();
    drop(store);
    assert_eq!(names(&open(dir.path())).len() as u64, FILES);
}

#[test]
fn files_that_share_a_frame_find_their_parts() {
    let dir = made();
    let store = open(dir.path());
    let inos = [b"b", b"c"].map(|name| create(&store, name).unwrap());
    write(&store, inos[0], 0, &[7; 500]).unwrap();
    write(&store, inos[1], 0, &[8; 300]).unwrap();
    power::recode(&store, b'c').unwrap();
    let first = |store: &Store, n: usize| store.extents_in(inos[n], 0, 1).unwrap()[0];
    assert_eq!(first(&store, 0).frame, first(&store, 1).frame);
    store.close().unwrap();
    drop(store);
    forget(dir.path());
    keep(dir.path(), &[Kind::Data]);
    let store = Store::open_to_check(dir.path(), false, false).unwrap();
    store.salvage(true).unwrap();
    assert!(first(&store, 0).meta.shared && first(&store, 0).frame == first(&store, 1).frame);
    assert_eq!(contents(&store, inos[0], 500).unwrap(), [7; 500]);
    assert_eq!(contents(&store, inos[1], 300).unwrap(), [8; 300]);
}

/// A write may take its generation before, and be appended after, a frame that the file's old bytes share with newer
/// ones of other files.
#[test]
fn what_was_written_over_a_part_of_a_shared_frame_is_the_newer() {
    let dir = made();
    let store = open(dir.path());
    let inos = [b"b", b"c"].map(|name| create(&store, name).unwrap());
    write(&store, inos[0], 0, &[7; 500]).unwrap();
    let over = data(inos[0], 100, &[9; 50], store.next_generation());
    write(&store, inos[1], 0, &[8; 300]).unwrap();
    power::recode(&store, b'c').unwrap();
    store.append(Txn::default().map(over)).unwrap();
    let wanted = contents(&store, inos[0], 500).unwrap();
    assert_eq!(wanted[90..160], [[7; 10].as_slice(), &[9; 50], &[7; 10]].concat());
    store.close().unwrap();
    drop(store);
    forget(dir.path());
    keep(dir.path(), &[Kind::Data]);
    let store = Store::open_to_check(dir.path(), false, false).unwrap();
    store.salvage(true).unwrap();
    assert_eq!(contents(&store, inos[0], 500).unwrap(), wanted);
    assert_eq!(contents(&store, inos[1], 300).unwrap(), [8; 300]);
}

#[test]
fn a_primer_is_found_with_the_frames_that_name_it() {
    let dir = made();
    let store = open(dir.path());
    let ino = create(&store, b"b").unwrap();
    write(&store, ino, 0, &[7; 500]).unwrap();
    power::recode(&store, b'b').unwrap();
    let id = store.extents_in(ino, 0, 1).unwrap()[0].meta.primer;
    assert!(id != 0);
    store.close().unwrap();
    drop(store);
    forget(dir.path());
    keep(dir.path(), &[Kind::Data, Kind::Primer]);
    let store = Store::open_to_check(dir.path(), false, false).unwrap();
    store.salvage(true).unwrap();
    assert_eq!(store.extents_in(ino, 0, 1).unwrap()[0].meta.primer, id);
    let at = store.primer(id).unwrap().unwrap();
    assert_eq!(store.read_frame(at).unwrap().payload, b"sample");
    assert_eq!(contents(&store, ino, 500).unwrap(), [7; 500]);
}

#[test]
fn an_empty_archive_is_not_lost() {
    let dir = made();
    let store = open(dir.path());
    let ino = create(&store, b"a").unwrap();
    write(&store, ino, 0, b"hello").unwrap();
    let ops =
        vec![Record::DelDirent { parent: Ino::ROOT, name: b"a".to_vec() }, Record::DelInode(ino)];
    store.append(ops.into()).unwrap();
    store.close().unwrap();
    drop(store);
    for read_only in [true, false] {
        let store = Store::open_to_check(dir.path(), read_only, false).unwrap();
        assert_eq!(store.salvage(!read_only).unwrap(), []);
        assert_eq!(store.check_namespace(!read_only).unwrap(), []);
        store.close().unwrap();
    }
}

#[test]
fn a_file_whose_groups_are_lost_is_found_by_its_frames() {
    let (dir, files) = filled();
    let store = Store::open(dir.path(), &OpenOptions { read_only: true }).unwrap();
    let (first, last) = (2, store.segments.lens().last().unwrap().0 - 2);
    assert!(last > first + 3, "{last}");
    for number in first..=last {
        rewrite(&store, number, &[Kind::Data, Kind::Primer]);
    }
    drop(store);
    without_index(dir.path());
    let store = Store::open_to_check(dir.path(), false, false).unwrap();
    assert!(names(&store).len() < FILES as usize / 2);
    let told = store.salvage(true).unwrap();
    assert!(told.iter().any(|p| p.reason.contains("lost batches")), "{told:?}");
    store.check_namespace(true).unwrap();
    for (ino, plain) in &files {
        assert_eq!(&contents(&store, *ino, plain.len()).unwrap(), plain, "inode {ino}");
        assert!(store.inode(*ino).unwrap().unwrap().size <= plain.len() as u64);
    }
    assert_eq!(store.check_namespace(false).unwrap(), []);
    store.close().unwrap();
}
