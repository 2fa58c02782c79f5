//! Full disks, failing calls, rotten and foreign bytes.

use super::disk::Disk;
use super::failing::{Call, FailingVolume, Fault, Plan};
use super::history::hand_over;
use super::io::Volume;
use super::memory::{Event, MemVolume};
use super::power::opened;
use super::*;
use std::collections::BTreeMap;

pub fn mem_store() -> (tempfile::TempDir, Arc<MemVolume>, Arc<Store>) {
    let dir = tempfile::tempdir().unwrap();
    let volume = Arc::new(MemVolume::default());
    open::create_in(&*volume, &options(), "memory").unwrap();
    let store = open::open(dir.path(), &OpenOptions::default(), volume.clone()).unwrap();
    (dir, volume, store)
}

#[test]
fn a_full_disk_refuses_writers_and_lets_files_go() {
    let (_dir, volume, store) = mem_store();
    let a = create(&store, b"a").unwrap();
    write(&store, a, 0, &[1; 1000]).unwrap();
    store.sync().unwrap();
    volume.set_full(true);
    let mut written = 1000;
    let e = loop {
        match write(&store, a, written, &[2; 100_000]) {
            Ok(()) => written += 100_000,
            Err(e) => break e,
        }
    };
    assert!(matches!(e, StoreError::NoSpace { .. }), "{e}");
    assert_eq!(store.extents_in(a, written, 1).unwrap(), []);
    assert!(contents(&store, a, 1000).unwrap() == [1; 1000]);
    store.sync().unwrap();
    store.append(Record::DelInode(a).into()).unwrap();
    store.sync().unwrap();
    volume.set_full(false);
    create(&store, b"b").unwrap();
    store.sync().unwrap();
}

#[test]
fn what_a_failed_creation_of_a_segment_left_is_in_nobodys_way() {
    let (dir, volume, store) = mem_store();
    let a = create(&store, b"a").unwrap();
    write(&store, a, 0, b"before").unwrap();
    let left = segments::segment_path(store.writer().number() + 1);
    volume.create(&left).unwrap().write_at(b"LMFSSEG\n half a header", 0).unwrap();
    store.writer().roll(false).unwrap();
    write(&store, a, 6, b" and after").unwrap();
    store.sync().unwrap();
    drop(store);
    let store = open::open(dir.path(), &OpenOptions::default(), volume).unwrap();
    assert_eq!(contents(&store, a, 16).unwrap(), b"before and after");
}

/// Room for changes that free some is set aside, and outlives a mount that found it scarce.
#[test]
fn a_disk_that_is_full_at_mount_lets_files_go() {
    let (dir, volume, store) = mem_store();
    for (name, pieces) in [(b"a", 6), (b"b", 1)] {
        let ino = create(&store, name).unwrap();
        for n in 0..pieces {
            write(&store, ino, n * 300_000, &[1; 300_000]).unwrap();
        }
    }
    store.sync().unwrap();
    volume.set_free(40 << 20);
    store.close().unwrap();
    drop(store);
    volume.set_full(true);
    let store = open::open(dir.path(), &OpenOptions::default(), volume.clone()).unwrap();
    let ino = store.dirent(Ino::ROOT, b"a").unwrap().unwrap().ino;
    assert!(matches!(write(&store, ino, 0, &[2; 100_000]), Err(StoreError::NoSpace { .. })));
    let name = b"a".to_vec();
    let ops = vec![Record::DelDirent { parent: Ino::ROOT, name }, Record::DelInode(ino)];
    store.append(ops.into()).unwrap();
    store.sync().unwrap();
    let before = volume.free_bytes().unwrap();
    store.clean(0).unwrap();
    assert!(volume.free_bytes().unwrap() > before + 1_000_000);
    let b = store.dirent(Ino::ROOT, b"b").unwrap().unwrap().ino;
    assert!(contents(&store, b, 300_000).unwrap() == [1; 300_000]);
    write(&store, b, 0, &[2; 100_000]).unwrap();
    store.sync().unwrap();
}

/// A model is repaired in memory where there is no room to write what it lacks.
#[test]
fn a_damaged_model_is_read_from_a_full_disk() {
    let (_dir, volume, store) = mem_store();
    let bytes = vec![7; 20_000];
    let id = *blake3::hash(&bytes).as_bytes();
    store.put_model_file(&id, &bytes).unwrap();
    let name = format!("models/{}", blake3::Hash::from(id));
    volume.lose(&format!("{name}.lmm"), 100, 1);
    volume.remove(&format!("{name}.par")).unwrap();
    volume.set_full(true);
    assert!(store.model_file(&id).unwrap() == bytes);
    let checked = store.check_model_file(&id, true);
    assert!(matches!(checked, Err(StoreError::NoSpace { .. })), "{checked:?}");
    volume.set_full(false);
    store.check_model_file(&id, true).unwrap();
    assert!(!store.check_model_file(&id, false).unwrap().damaged);
}

/// Neither a checkpoint nor a segment that finds no room ends the store's life.
#[test]
fn a_full_disk_does_not_end_a_store_that_seals() {
    let (_dir, volume, store) = mem_store();
    let a = create(&store, b"a").unwrap();
    write(&store, a, 0, &[1; 9000]).unwrap();
    store.sync().unwrap();
    lock(&store.writer).open_reserve();
    volume.set_full(true);
    // The writer has some room allocated; the new segment finds none.
    assert!(matches!(store.renew_checkpoint(), Err(StoreError::NoSpace { .. })));
    assert!(matches!(lock(&store.writer).roll(false), Err(StoreError::NoSpace { .. })));
    assert!(contents(&store, a, 9000).unwrap() == [1; 9000]);
    volume.set_full(false);
    write(&store, a, 0, &[2; 9000]).unwrap();
    store.renew_checkpoint().unwrap();
    drop(store);
    let (dir, left) =
        (tempfile::tempdir().unwrap(), Disk::after(&BTreeMap::new(), &volume.events()));
    let volume = Arc::new(MemVolume::with(left.synced()));
    let store = open::open(dir.path(), &OpenOptions::default(), volume).unwrap();
    assert!(contents(&store, a, 9000).unwrap() == [2; 9000]);
}

/// Has syncs of all files fail, or not any more.
fn fail_syncs(volume: &MemVolume, how: bool) {
    lock(&volume.files).values().for_each(|b| b.fail_sync.store(how, Ordering::SeqCst));
}

#[test]
fn a_failed_sync_is_never_forgotten() {
    let (_dir, volume, store) = mem_store();
    let a = create(&store, b"a").unwrap();
    fail_syncs(&volume, true);
    assert!(store.sync().is_err());
    fail_syncs(&volume, false);
    assert!(store.sync().is_err());
    assert!(write(&store, a, 0, b"x").is_err());
    assert!(store.inode(a).unwrap().is_some());
}

/// After a sync that failed, the system may take for written what is not on the medium.
#[test]
fn what_a_failed_sync_gave_up_is_written_again() {
    let (dir, volume) = (tempfile::tempdir().unwrap(), Arc::new(MemVolume::default()));
    open::create_in(&*volume, &options(), "memory").unwrap();
    let opened = |volume: &Arc<MemVolume>| {
        opened(dir.path(), volume.clone(), open::IndexFrom::Memory).unwrap()
    };
    let store = opened(&volume);
    create(&store, b"a").unwrap();
    fail_syncs(&volume, true);
    assert!(store.sync().is_err());
    fail_syncs(&volume, false);
    drop(store);
    let store = opened(&volume);
    assert_eq!(names(&store), [b"a"]);
    store.sync().unwrap();
    drop(store);
    let left = Disk::after(&BTreeMap::new(), &volume.events()).synced();
    assert_eq!(names(&opened(&Arc::new(MemVolume::with(left)))), [b"a"]);
}

/// Where there is no room to write it again, nothing calls it durable until there is.
#[test]
fn what_a_failed_sync_gave_up_is_not_durable_for_want_of_room() {
    let (dir, volume) = (tempfile::tempdir().unwrap(), Arc::new(MemVolume::default()));
    open::create_in(&*volume, &options(), "memory").unwrap();
    // What is allocated ahead would be given back, and be room enough.
    lock(&volume.files).values().for_each(|b| b.no_allocate.store(true, Ordering::SeqCst));
    let store = opened(dir.path(), volume.clone(), open::IndexFrom::Memory).unwrap();
    create(&store, b"a").unwrap();
    fail_syncs(&volume, true);
    assert!(store.sync().is_err());
    fail_syncs(&volume, false);
    drop(store);
    volume.set_copies();
    volume.set_full(true);
    let store = opened(dir.path(), volume.clone(), open::IndexFrom::Memory).unwrap();
    assert_eq!(names(&store), [b"a"]);
    assert!(matches!(store.sync(), Err(StoreError::NoSpace { .. })));
    volume.set_full(false);
    store.sync().unwrap();
    drop(store);
    assert_eq!(reopened(after_power_loss(&volume)), [b"a"]);
}

/// A crash cuts an empty segment and the footer before it, and with that a sidecar. Its name must not
/// come back by another crash, beside other bytes.
#[test]
fn a_sidecar_of_what_was_cut_is_gone_for_good() {
    let (dir, volume) = (tempfile::tempdir().unwrap(), Arc::new(MemVolume::default()));
    open::create_in(&*volume, &options(), "memory").unwrap();
    let opened = |volume: &Arc<MemVolume>| {
        opened(dir.path(), volume.clone(), open::IndexFrom::Memory).unwrap()
    };
    let store = opened(&volume);
    create(&store, b"a").unwrap();
    store.writer().roll(false).unwrap();
    store.close().unwrap();
    drop(store);
    let store = opened(&volume);
    for n in 1..20 {
        create(&store, &[n; 40]).unwrap();
        store.sync().unwrap();
    }
    let all = names(&store);
    drop(store);
    let left = Disk::after(&BTreeMap::new(), &volume.events()).synced();
    assert_eq!(names(&opened(&Arc::new(MemVolume::with(left)))), all);
}

/// Nothing vouches for a segment's header but its first frame.
#[test]
fn parity_does_not_bless_a_damaged_header() {
    let (_dir, volume, store) = mem_store();
    create(&store, b"a").unwrap();
    store.sync().unwrap();
    volume.rot(&segments::segment_path(1), 47, 3);
    parity_writer::protect_all(&store).unwrap();
    for _ in 0..2 {
        assert!(!store.check_segment(1, true).unwrap().checked.damaged);
    }
}

/// What a reader can do without is put right before a copy is made of it.
#[test]
fn a_moved_frame_is_as_whole_as_the_day_it_was_written() {
    for at in [40, HEADER as u64 + 1001, HEADER as u64 + 1100] {
        let (_dir, volume, store) = mem_store();
        let a = create(&store, b"a").unwrap();
        write(&store, a, 0, &[7; 1000]).unwrap();
        store.sync().unwrap();
        let frame = |store: &Store| store.live_frames().unwrap()[0].0;
        let rot = |f: FrameRef, at: u64, bit| {
            volume.rot(&segments::segment_path(f.segment), u64::from(f.offset) + at, bit);
        };
        let before = frame(&store);
        rot(before, at, 3);
        store.clean(0).unwrap();
        let moved = frame(&store);
        assert_ne!(moved, before);
        let bytes = store.frame_bytes(moved).unwrap().1;
        assert_eq!(
            frame::repair(&mut bytes.clone()).map(|(_, changed)| changed),
            Ok(false),
            "{at}"
        );
    }
}

/// A repair that cannot be written is kept in memory, in the page that the log goes on in.
#[test]
fn a_repair_in_memory_is_not_in_the_way_of_what_follows() {
    let (dir, memory) = (tempfile::tempdir().unwrap(), Arc::new(MemVolume::default()));
    open::create_in(&*memory, &options(), "memory").unwrap();
    let plan = Arc::new(Plan::default());
    let opened = || {
        let below = Arc::clone(&memory) as Arc<dyn Volume>;
        let volume = Arc::new(FailingVolume { below, plan: Arc::clone(&plan) });
        opened(dir.path(), volume, open::IndexFrom::Memory).unwrap()
    };
    let store = opened();
    let a = create(&store, b"a").unwrap();
    write(&store, a, 0, &[1; 500]).unwrap();
    store.close().unwrap();
    let covered = lock(&store.segments.sidecars)[&1].covered;
    assert!(covered < 4000, "all in one page");
    drop(store);
    memory.lose(&segments::segment_path(1), 0, covered);
    plan.set(Some(Fault { call: Call::Write, nth: 0, errno: libc::ENOSPC, short: false }));
    let store = opened();
    plan.set(None);
    assert_eq!(plan.hits.load(Ordering::SeqCst), 1);
    write(&store, a, 500, &[2; 500]).unwrap();
    store.sync().unwrap();
    let whole = [[1; 500], [2; 500]].concat();
    assert!(contents(&store, a, 1000).unwrap() == whole);
    // It is not the last word: a scrub says what is wrong on the disk, and puts it right there.
    let on_disk = || lock(&lock(&memory.files)[&segments::segment_path(1)].inner).bytes.clone();
    let first = covered as usize;
    assert!(on_disk()[..first].iter().all(|b| *b == 0));
    assert!(store.check_segment(1, false).unwrap().checked.damaged);
    plan.set(Some(Fault { call: Call::Write, nth: 0, errno: libc::ENOSPC, short: false }));
    assert!(matches!(store.check_segment(1, true), Err(StoreError::NoSpace { .. })));
    plan.set(None);
    assert!(store.check_segment(1, true).unwrap().checked.damaged);
    assert!(on_disk()[..first].iter().any(|b| *b != 0));
    assert!(!store.check_segment(1, false).unwrap().checked.damaged);
    store.close().unwrap();
    drop(store);
    assert!(contents(&opened(), a, 1000).unwrap() == whole);
}

#[test]
fn without_room_allocated_ahead_a_full_disk_may_be_tried_again() {
    let (_dir, volume, store) = mem_store();
    let a = create(&store, b"a").unwrap();
    store.sync().unwrap();
    for b in lock(&volume.files).values() {
        b.no_allocate.store(true, Ordering::SeqCst);
    }
    volume.set_full(true);
    let mut written = 0;
    while write(&store, a, written, &[3; 1 << 20]).is_ok() {
        written += 1 << 20;
        assert!(written < 64 << 20, "memory must not stand in for the disk");
    }
    assert!(matches!(store.sync(), Err(StoreError::NoSpace { .. })));
    assert!(contents(&store, a, written as usize).unwrap().iter().all(|b| *b == 3));
    volume.set_full(false);
    store.sync().unwrap();
    write(&store, a, written, b"more").unwrap();
    store.sync().unwrap();
    drop(store);
    let dir = tempfile::tempdir().unwrap();
    let left = Arc::new(MemVolume::with(Disk::after(&BTreeMap::new(), &volume.events()).synced()));
    let store = open::open(dir.path(), &OpenOptions::default(), left).unwrap();
    assert_eq!(store.stats().unwrap().logical_bytes, written + 4);
}

/// The state of a volume after a power loss that took all that was not synced.
pub fn after_power_loss(volume: &MemVolume) -> Arc<MemVolume> {
    Arc::new(MemVolume::with(Disk::after(&BTreeMap::new(), &volume.events()).synced()))
}

/// What was put right lies in a segment that nothing is appended to any more.
#[test]
fn what_a_read_put_right_is_durable_after_the_next_sync() {
    let (_dir, volume, store) = mem_store();
    let a = create(&store, b"a").unwrap();
    write(&store, a, 0, &[7; 5000]).unwrap();
    lock(&store.writer).roll(false).unwrap();
    store.sync().unwrap();
    store.segments.protect(1, store.segments.get(1).unwrap().len).unwrap();
    let path = segments::segment_path(1);
    let f = store.extents_in(a, 0, 5000).unwrap()[0].frame;
    let whole = lock(&lock(&volume.files)[&path].inner).bytes.clone();
    // What the frame's own code puts right, and what takes the whole segment.
    for lost in [1, u64::from(f.len)] {
        volume.lose(&path, f.offset.into(), lost);
        assert!(contents(&store, a, 5000).unwrap() == [7; 5000]);
        store.sync().unwrap();
        let left = after_power_loss(&volume);
        assert!(lock(&lock(&left.files)[&path].inner).bytes == whole, "{lost} bytes");
    }
    // A scrub that finds nothing more to do has the same to say, whoever was there before it.
    volume.lose(&path, f.offset.into(), 1);
    assert!(contents(&store, a, 5000).unwrap() == [7; 5000]);
    volume.lose(&path, 0, 8);
    store.segments.protect(1, store.segments.get(1).unwrap().len).unwrap();
    assert!(!store.check_segment(1, true).unwrap().checked.damaged);
    let left = after_power_loss(&volume);
    assert!(lock(&lock(&left.files)[&path].inner).bytes == whole);
}

/// So is what was put right for a segment's next sidecar, which may be the last thing a mount does.
#[test]
fn what_was_put_right_for_parity_is_durable() {
    let (_dir, volume, store) = mem_store();
    create(&store, b"a").unwrap();
    store.sync().unwrap();
    parity_writer::protect_all(&store).unwrap();
    create(&store, b"b").unwrap();
    lock(&store.writer).roll(false).unwrap();
    store.sync().unwrap();
    let path = segments::segment_path(1);
    let whole = lock(&lock(&volume.files)[&path].inner).bytes.clone();
    volume.lose(&path, 0, 8);
    parity_writer::protect_all(&store).unwrap();
    let left = after_power_loss(&volume);
    assert!(lock(&lock(&left.files)[&path].inner).bytes == whole);
}

/// A copy of the superblock that somebody wrote anew, and was killed: its name is not durable.
#[test]
fn a_superblock_that_a_scrub_finds_whole_is_durable() {
    let (_dir, volume, store) = mem_store();
    let (file, bytes) = ("superblock.2", crate::store::log::superblock::encode(&store.superblock));
    volume.lose(file, 0, 8);
    crate::store::io::put_file(&*volume, file, &bytes).unwrap();
    assert_eq!(store.check_superblocks(true).unwrap(), 0);
    let left = after_power_loss(&volume);
    assert!(lock(&lock(&left.files)[file].inner).bytes == bytes);
}

#[test]
fn what_a_killed_mount_left_is_durable_after_the_next_one_syncs() {
    let (dir, volume, store) = mem_store();
    create(&store, b"a").unwrap();
    hand_over(&store);
    lock(&store.writer).roll(false).unwrap();
    create(&store, b"b").unwrap();
    hand_over(&store);
    drop(store);
    let store = opened(dir.path(), volume.clone(), open::IndexFrom::Directory).unwrap();
    assert_eq!(names(&store), [b"a", b"b"]);
    store.sync().unwrap();
    drop(store);
    assert_eq!(reopened(after_power_loss(&volume)), [b"a", b"b"]);
}

#[test]
fn a_checkpoint_says_nothing_that_is_not_durable() {
    let (_dir, volume, store) = mem_store();
    let a = create(&store, b"a").unwrap();
    write(&store, a, 0, &[5; 1000]).unwrap();
    store.renew_checkpoint().unwrap();
    let events = volume.events();
    let file = |number| {
        let path = segments::segment_path(number);
        events.iter().find_map(|e| match e {
            Event::Create(p, n) if *p == path => Some(*n),
            _ => None,
        })
    };
    let (old, new) = (file(1).unwrap(), file(2).unwrap());
    let last = |want: &dyn Fn(&Event) -> bool| events.iter().rposition(want).unwrap();
    let first = |want: &dyn Fn(&Event) -> bool| events.iter().position(want).unwrap();
    let data = last(&|e| matches!(e, Event::Write(n, ..) if *n == old));
    let end = first(&|e| matches!(e, Event::Write(n, at, _) if *n == new && *at > 0));
    let synced = |e: &Event| matches!(e, Event::Sync(n) if *n == old);
    assert!(events[data..end].iter().any(synced), "{data} {end}");
}

/// Three durable batches, and where their frames lie.
fn three_batches() -> (Arc<MemVolume>, Vec<FrameRef>) {
    let (_dir, volume, store) = mem_store();
    for name in [b"a", b"b", b"c"] {
        create(&store, name).unwrap();
        store.sync().unwrap();
    }
    let (lines, _) =
        footer::summary(&store.segments, 1, superblock::SEGMENT_HEADER as u64).unwrap();
    let batches = lines.into_iter().filter(|l| l.kind == Kind::Batch).map(|l| l.frame);
    (volume, batches.collect())
}

fn reopened(volume: Arc<MemVolume>) -> Vec<Vec<u8>> {
    let dir = tempfile::tempdir().unwrap();
    names(&open::open(dir.path(), &OpenOptions::default(), volume).unwrap())
}

fn flip(volume: &MemVolume, at: u32) {
    let files = lock(&volume.files);
    lock(&files[&segments::segment_path(1)].inner).bytes[at as usize] ^= 1;
}

/// More than a frame's own code corrects.
fn spoil(volume: &MemVolume, batch: FrameRef) {
    for at in 0..24 {
        flip(volume, batch.offset + HEADER as u32 + at);
    }
}

#[test]
fn a_rotten_group_is_stepped_over_and_a_torn_one_ends_the_log() {
    let (volume, batches) = three_batches();
    spoil(&volume, batches[1]);
    assert_eq!(reopened(volume), [b"a", b"c"]);
    let (volume, batches) = three_batches();
    spoil(&volume, batches[2]);
    assert_eq!(reopened(volume), [b"a", b"b"]);
}

#[test]
fn a_flipped_bit_of_a_group_is_corrected_where_it_lies() {
    for which in 0..3 {
        let (volume, batches) = three_batches();
        let before = lock(&lock(&volume.files)[&segments::segment_path(1)].inner).bytes.clone();
        flip(&volume, batches[which].offset + HEADER as u32 + 3);
        assert_eq!(reopened(Arc::clone(&volume)), [b"a", b"b", b"c"]);
        let after = lock(&lock(&volume.files)[&segments::segment_path(1)].inner).bytes.clone();
        assert!(after[..before.len()] == before);
    }
}

#[test]
fn one_header_of_a_group_is_enough() {
    for which in 0..3 {
        for second in [false, true] {
            let (volume, batches) = three_batches();
            let at = if second { batches[which].len - 20 } else { 20 };
            flip(&volume, batches[which].offset + at);
            assert_eq!(reopened(volume), [b"a", b"b", b"c"], "{which} {second}");
        }
    }
}

#[test]
fn the_log_of_another_store_in_a_file_is_not_replayed() {
    let (other, _) = three_batches();
    let foreign = lock(&lock(&other.files)[&segments::segment_path(1)].inner).bytes.clone();
    let (_dir, volume, store) = mem_store();
    let ino = create(&store, b"x").unwrap();
    write(&store, ino, 0, &foreign).unwrap();
    store.sync().unwrap();
    create(&store, b"y").unwrap();
    store.sync().unwrap();
    create(&store, b"z").unwrap();
    store.sync().unwrap();
    let at = store.extents_in(ino, 0, 1).unwrap()[0].frame;
    // Both headers of the frame that holds it are lost, so that the walk steps into it.
    flip(&volume, at.offset + 9);
    flip(&volume, at.offset + at.len - 9);
    assert_eq!(reopened(volume), [b"x", b"y", b"z"]);
}

#[test]
fn golden_footer() {
    let (_dir, volume, store) = mem_store();
    create(&store, b"a").unwrap();
    store.sync().unwrap();
    lock(&store.writer).roll(false).unwrap();
    let bytes = lock(&lock(&volume.files)[&segments::segment_path(1)].inner).bytes.clone();
    let (lines, end) = footer::summary(&store.segments, 1, 0).unwrap();
    assert_eq!(end as usize, bytes.len());
    let kinds: Vec<Kind> = lines.iter().map(|l| l.kind).collect();
    assert_eq!(kinds, [Kind::Checkpoint, Kind::CheckpointEnd, Kind::Batch]);
    let h = Header::second(&bytes[bytes.len() - HEADER..]).unwrap();
    assert_eq!((h.kind, h.meta.encoding, h.meta.plain_len), (Kind::Footer, Encoding::Raw, 27));
    let payload = &bytes[bytes.len() - HEADER - 4 - 27..bytes.len() - HEADER - 4];
    let want: Vec<String> = lines
        .iter()
        .map(|l| {
            let (offset, len) = (l.frame.offset.to_le_bytes(), l.frame.len.to_le_bytes());
            hex(&offset) + &hex(&len) + &hex(&[l.kind as u8])
        })
        .collect();
    assert_eq!(hex(payload), want.concat());
    assert_eq!(hex(&payload[..4]), "40000000");
}
