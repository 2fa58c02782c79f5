//! Segments that lie in the object store only: what reads them, what goes on without them, and what a crash, a
//! fault or a server that is away can do to that.

use super::*;
use crate::store::remote::blobs::Origin;
use std::collections::BTreeSet;

fn evict(store: &Store, keep: u64) -> remote::Evicted {
    store.evict(keep, &mut |_, _| true).unwrap()
}

/// Numbers of segments whose files are in the store's directory.
fn here(p: &Place) -> BTreeSet<u32> {
    let names = std::fs::read_dir(p.store().join("segments")).unwrap();
    let names = names.map(|e| e.unwrap().file_name().into_string().unwrap());
    names.filter_map(|n| n.strip_suffix(".seg")?.parse().ok()).collect()
}

fn gets(store: &Store) -> u64 {
    store.tier.as_ref().unwrap().source.store().unwrap().requests().gets
}

/// The cache of what was read forgets everything.
fn forget(store: &Store) {
    store.tier.as_ref().unwrap().source.fetcher().unwrap().cache().clear();
}

/// Files and their bytes.
type Filled = Vec<(Ino, Vec<u8>)>;

/// A store of which all that can be is evicted.
fn emptied(files: Range<u32>) -> (Place, Arc<Store>, Filled) {
    let p = Place::new();
    let store = p.attached();
    let files = fill(&store, files);
    parity_writer::protect_all(&store).unwrap();
    push(&store).unwrap();
    let out = evict(&store, 0);
    assert!(out.segments > 2 && out.bytes > 100_000, "{out:?}");
    (p, store, files)
}

/// Nobody answers any more.
fn go_away(p: &Place, store: &Store) {
    std::fs::rename(p.objects(), p.dir.path().join("away")).unwrap();
    std::fs::create_dir(p.objects()).unwrap();
    std::fs::write(p.objects().join("objects"), "in the way").unwrap();
    store.tier.as_ref().unwrap().source.replace(Arc::new(Steady::new(
        Arc::new(super::failing::Flaky::new(&p.objects(), 0)),
        Duration::from_millis(100),
    )));
}

fn come_back(p: &Place, store: &Store) {
    std::fs::remove_dir_all(p.objects()).unwrap();
    std::fs::rename(p.dir.path().join("away"), p.objects()).unwrap();
    store.tier.as_ref().unwrap().source.forget();
}

#[test]
fn what_was_evicted_is_read_from_there_and_opens_without_a_request() {
    let (p, store, files) = emptied(0..16);
    let left = here(&p);
    let all: BTreeSet<u32> = store.segments.lens().iter().map(|(n, _)| *n).collect();
    assert!(left.len() < all.len() && left.is_subset(&all), "{left:?} of {all:?}");
    holds(&store, &files);
    let status = store.remote_status().unwrap().unwrap();
    let there: u64 = store.evicted().1;
    assert_eq!(status.there_only_bytes, there);
    let total: u64 = store.segments.lens().iter().map(|(_, n)| n).sum();
    assert_eq!(status.here_only_bytes + status.both_bytes + there, total, "{status:?}");
    let stats = store.stats().unwrap();
    assert!(stats.stored_bytes < total && stats.dead_there_bytes <= stats.dead_bytes);
    // It is not uploaded again, nor left out of what follows.
    let more = fill(&store, 20..22);
    let pushed = push(&store).unwrap();
    assert!(pushed.bytes < there / 2, "{pushed:?}");
    let all = [files, more].concat();
    holds(&p.view("a"), &all);
    store.close().unwrap();
    drop(store);
    let last = open(&p.store());
    assert!(!last.index_was_rebuilt());
    assert_eq!(last.evicted().1, there);
    assert_eq!(gets(&last), 0);
    holds(&last, &all);
    forget(&last);
    holds(&last, &all);
    assert!(gets(&last) > 0);
    drop(last);
    // The index is lost: it is made from what is here.
    for entry in std::fs::read_dir(p.store()).unwrap().map(|e| e.unwrap()) {
        if entry.file_name().to_string_lossy().starts_with("index") {
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
    let rebuilt = open(&p.store());
    assert!(rebuilt.index_was_rebuilt());
    assert_eq!(gets(&rebuilt), 0);
    holds(&rebuilt, &all);
    drop(rebuilt);
    // Read-only, by two at a time.
    let ro = || Store::open(&p.store(), &OpenOptions { read_only: true }).unwrap();
    let (a, b) = (ro(), ro());
    holds(&a, &all);
    holds(&b, &all);
}

#[test]
fn a_crash_in_the_middle_of_an_upload_does_not_ask_for_what_was_evicted() {
    let (p, store, files) = emptied(0..8);
    // A batch that nobody synced refers to what is not here.
    let (ino, _) = files[0];
    let e = store.extents_in(ino, 0, 1).unwrap()[0];
    assert!(store.is_evicted(e.frame.segment));
    {
        let mut w = store.writer();
        w.log(&Record::PutExtent(ino, Extent { off: 900_000, ..e }));
        w.close_batch(store.durable.load(Ordering::Acquire)).unwrap();
        w.flush().unwrap();
    }
    drop(store);
    let _ = std::fs::remove_dir_all(p.store().join("index"));
    let again = open(&p.store());
    assert_eq!(gets(&again), 0);
    assert_eq!(again.extents_in(ino, 900_000, 1).unwrap().len(), 1);
}

#[test]
fn without_the_server_what_is_here_goes_on() {
    let (p, store, files) = emptied(0..8);
    let fresh = fill(&store, 8..10);
    forget(&store);
    go_away(&p, &store);
    let began = Instant::now();
    for (ino, bytes) in &files[..4] {
        match contents(&store, *ino, bytes.len()) {
            Err(e) => assert!(e.is_distant(), "{e}"),
            Ok(_) => assert!(store.extents_in(*ino, 0, 1).is_ok()),
        }
    }
    let failed = files.iter().filter(|(i, b)| contents(&store, *i, b.len()).is_err()).count();
    assert!(failed > 3 && began.elapsed() < Duration::from_secs(10), "{failed}");
    // It is no damage, for anybody.
    assert_eq!(store.stats().unwrap().unrecoverable, 0);
    holds(&store, &fresh);
    let more = fill(&store, 10..12);
    holds(&store, &more);
    // What would need them says so, and does nothing by halves.
    let e = store.clean(0);
    assert!(e.as_ref().is_err_and(StoreError::is_distant) || e.is_ok(), "{e:?}");
    store.close().unwrap();
    drop(store);
    let store = open(&p.store());
    store.tier.as_ref().unwrap().source.configure(Duration::from_millis(100), None);
    holds(&store, &[fresh.clone(), more.clone()].concat());
    assert!(contents(&store, files[0].0, 100).is_err_and(|e| e.is_distant()));
    come_back(&p, &store);
    holds(&store, &[files, fresh, more].concat());
}

#[test]
fn the_only_good_copy_is_never_dropped() {
    let p = Place::new();
    let store = p.attached();
    let files = fill(&store, 0..8);
    push(&store).unwrap();
    let newest = lock(&store.remote.attached).as_ref().unwrap().newest.clone().unwrap();
    let path = |o: &Object| p.objects().join(o.name());
    // There one is damaged, one missing, one without its sidecar: they are put right before anything goes.
    let file = std::fs::OpenOptions::new().write(true).open(path(&newest.parts[0].object)).unwrap();
    file.write_all_at(&[7; 300], 500).unwrap();
    std::fs::remove_file(path(&newest.parts[1].object)).unwrap();
    std::fs::remove_file(path(&newest.parts[2].sidecar)).unwrap();
    // Here one is damaged beyond repair: it stays.
    store.segments.drop_sidecar(4);
    let blob = store.segments.get(4).unwrap().blob;
    let len = blob.len().unwrap() as usize;
    let good = crate::store::io::read_up_to(&*blob, 0, len).unwrap();
    blob.write_at(&vec![0x55; len - 200], 100).unwrap();
    let e = store.evict(0, &mut |_, _| true).unwrap_err().to_string();
    assert!(e.contains("00000004.seg"), "{e}");
    assert!(here(&p).contains(&4) && !here(&p).contains(&1) && !here(&p).contains(&3));
    for part in &newest.parts[..3] {
        assert!(part.object.is(&std::fs::read(path(&part.object)).unwrap()));
        assert!(part.sidecar.is(&std::fs::read(path(&part.sidecar)).unwrap()));
    }
    // Whole frames, but other ones than were uploaded.
    blob.write_at(&good, 0).unwrap();
    lock(&store.remote.attached).as_mut().unwrap().newest.as_mut().unwrap().parts[3].object.hash =
        [9; 32];
    let e = store.evict(0, &mut |_, _| true).unwrap_err().to_string();
    assert!(e.contains("00000004.seg") && e.contains("differs"), "{e}");
    assert!(here(&p).contains(&4));
    holds(&store, &files);
    // Where the server cannot be asked, nothing goes.
    lock(&store.remote.attached).as_mut().unwrap().newest = Some(newest);
    go_away(&p, &store);
    let before = here(&p);
    assert!(store.evict(0, &mut |_, _| true).unwrap_err().is_distant());
    assert_eq!(here(&p), before);
    come_back(&p, &store);
    assert!(evict(&store, 0).segments > 0);
    holds(&store, &files);
}

#[test]
fn the_least_recently_read_goes_first_and_no_more_than_has_to() {
    let p = Place::new();
    let store = p.attached();
    let files = fill(&store, 0..8);
    push(&store).unwrap();
    store.renew_checkpoint().unwrap();
    push(&store).unwrap();
    holds(&store, &files[3..]);
    holds(&store, &files[..3]);
    let first = store.extents_in(files[0].0, 0, 1).unwrap()[0].frame.segment;
    let fifth = store.extents_in(files[4].0, 0, 1).unwrap()[0].frame.segment;
    let takes = evict(&store, u64::MAX).left_bytes;
    let out = evict(&store, takes / 2);
    assert!(out.segments > 1 && out.left_bytes <= takes / 2, "{out:?}");
    assert!(!store.is_evicted(first) && store.is_evicted(fifth));
    assert_eq!(evict(&store, takes / 2).segments, 0);
    // What was never uploaded, and what opening reads, is not for eviction.
    let (checkpoint, _) = *lock(&store.checkpoint);
    fill(&store, 20..21);
    evict(&store, 0);
    assert!(store.segments.lens().iter().all(|(n, _)| *n < checkpoint || !store.is_evicted(*n)));
}

#[test]
fn a_checkpoint_is_written_where_that_lets_much_go() {
    let p = Place::new();
    let store = p.attached();
    fill(&store, 0..12);
    push(&store).unwrap();
    let (before, _) = *lock(&store.checkpoint);
    assert!(evict(&store, 0).segments > 4);
    let (after, len) = *lock(&store.checkpoint);
    assert!(after > before);
    // And not for little.
    assert_eq!(evict(&store, 0).segments, 0);
    assert_eq!(*lock(&store.checkpoint), (after, len));
}

#[test]
fn the_background_keeps_a_store_within_its_room() {
    let p = Place::new();
    let store = open(&p.store());
    let how = RemoteUse { keep: Some(100_000), ..RemoteUse::default() };
    assert!(store.attach_remote(&how).unwrap());
    let files = fill(&store, 0..10);
    let began = Instant::now();
    while store.evicted().1 < 150_000 {
        assert!(began.elapsed() < Duration::from_secs(20));
        std::thread::sleep(Duration::from_millis(10));
    }
    holds(&store, &files);
    store.close().unwrap();
}

#[test]
fn what_says_where_segments_are_may_be_damaged_or_lost() {
    let (p, store, files) = emptied(0..8);
    store.close().unwrap();
    drop(store);
    let file = p.store().join("evicted/0000000");
    let copy = p.store().join("evicted/0000000.copy");
    let right = std::fs::read(&file).unwrap();
    assert_eq!(right, std::fs::read(&copy).unwrap());
    for (damaged, other) in [(&file, &copy), (&copy, &file)] {
        std::fs::write(damaged, &right[..40]).unwrap();
        let store = open(&p.store());
        holds(&store, &files);
        assert_eq!(
            (std::fs::read(damaged).unwrap(), &right),
            (std::fs::read(other).unwrap(), &right)
        );
    }
    // The file that names the object store, too, has a copy.
    let home = p.store().join("remote");
    let named = std::fs::read(&home).unwrap();
    std::fs::write(&home, "url gone").unwrap();
    holds(&open(&p.store()), &files);
    std::fs::write(&home, &named).unwrap();
    // All of it is lost: the manifest knows.
    std::fs::remove_dir_all(p.store().join("evicted")).unwrap();
    let ro = Store::open(&p.store(), &OpenOptions { read_only: true }).unwrap();
    holds(&ro, &files);
    drop(ro);
    assert!(!file.exists());
    std::fs::rename(p.objects(), p.dir.path().join("away")).unwrap();
    let e = Store::open(&p.store(), &OpenOptions::default()).unwrap_err().to_string();
    assert!(e.contains(&p.url()) && e.contains("try again") && e.contains("not here"), "{e}");
    let e = Store::open_to_check(&p.store(), false, false).unwrap_err().to_string();
    assert!(e.contains(&p.url()), "{e}");
    std::fs::rename(p.dir.path().join("away"), p.objects()).unwrap();
    let store = open(&p.store());
    holds(&store, &files);
    assert_eq!(std::fs::read(&copy).unwrap(), std::fs::read(&file).unwrap());
}

#[test]
fn what_a_crash_left_half_evicted_is_put_right() {
    let p = Place::new();
    let store = p.attached();
    let files = fill(&store, 0..8);
    parity_writer::protect_all(&store).unwrap();
    push(&store).unwrap();
    store.renew_checkpoint().unwrap();
    let newest = lock(&store.remote.attached).as_ref().unwrap().newest.clone().unwrap();
    let tier = store.tier.clone().unwrap();
    // Entered, and the file is still there, whole; another is not whole; of a third the sidecar is left.
    tier.enter(&newest.parts[..3]).unwrap();
    store.close().unwrap();
    drop((store, tier));
    let file = |n: u32| p.store().join(segments::segment_path(n));
    let short = std::fs::OpenOptions::new().write(true).open(file(2)).unwrap();
    short.set_len(5000).unwrap();
    std::fs::remove_file(file(3)).unwrap();
    let store = open(&p.store());
    holds(&store, &files);
    assert!(!store.is_evicted(1) && store.is_evicted(2) && store.is_evicted(3));
    assert!(file(1).exists() && !file(2).exists());
    let names: Vec<String> = std::fs::read_dir(p.store().join("segments"))
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    assert!(
        !names.iter().any(|n| n.starts_with("00000003") || n.starts_with("00000002")),
        "{names:?}"
    );
    // The entry of the first is gone for good: were it not, a deleted segment would be back.
    let text = std::fs::read(p.store().join("evicted/0000000")).unwrap();
    let listed = remote::manifest::decode_run("x", 0, &text).unwrap();
    assert_eq!(listed.iter().map(|p| p.number).collect::<Vec<_>>(), [2, 3]);
}

#[test]
fn dead_segments_go_there_by_the_rules_that_there_are() {
    let (p, store, mut files) = emptied(0..8);
    let dead = files.remove(0);
    let kept = files.split_off(4);
    let before = store.evicted();
    let count = || std::fs::read_dir(p.objects().join("objects")).unwrap().count();
    for (ino, bytes) in files.iter().chain([&dead]) {
        let len = bytes.len() as u64;
        store.append(Record::Punch { ino: *ino, off: 0, len }.into()).unwrap();
    }
    sweep::hurry(&store, Duration::from_secs(10));
    store.renew_checkpoint().unwrap();
    let after = store.evicted();
    assert!(after.0 < before.0, "{before:?} {after:?}");
    let objects = count();
    push(&store).unwrap();
    assert!(count() >= objects, "nothing is deleted there at once");
    holds(&p.view("a"), &kept);
    // A crash may bring an entry back whose segment is dead, and which no manifest names any more.
    let newest = lock(&store.remote.attached).as_ref().unwrap().newest.clone().unwrap();
    let part = remote::manifest::Part { number: 2, ..newest.parts[0] };
    assert!(newest.parts.iter().all(|p| p.number != 2));
    store.tier.as_ref().unwrap().enter(&[part]).unwrap();
    store.close().unwrap();
    drop(store);
    let store = p.attached();
    assert!(store.is_evicted(2));
    fill(&store, 30..31);
    push(&store).unwrap();
    store.renew_checkpoint().unwrap();
    assert!(!store.is_evicted(2));
    holds(&store, &kept);
    drop(store);
    assert!(!open(&p.store()).is_evicted(2));
    // What lives in segments there is moved only if it is little, by the command, and without it never.
    let store = p.attached();
    let gets_before = gets(&store);
    crate::store::cleaner::step(&store, Duration::from_secs(100_000), &|_| Ok(())).unwrap();
    assert_eq!(gets(&store), gets_before);
    store.clean(0).unwrap();
    holds(&store, &kept);
}

#[test]
fn all_of_it_comes_back_and_the_archive_can_move() {
    let (p, store, files) = emptied(0..8);
    // Another place does not have it.
    let second = format!("file://{}", p.dir.path().join("second").display());
    let e = store.set_remote(&second, PATIENCE).unwrap_err().to_string();
    assert!(e.contains("remote pull --all") && e.contains(&second), "{e}");
    // One that was copied has.
    std::fs::remove_dir_all(p.dir.path().join("second")).unwrap();
    let copied = std::process::Command::new("cp")
        .args(["-a".into(), p.objects(), p.dir.path().join("second")])
        .status();
    assert!(copied.unwrap().success());
    store.set_remote(&second, PATIENCE).unwrap();
    std::fs::rename(p.objects(), p.dir.path().join("away")).unwrap();
    upload::attach(&store, PATIENCE).unwrap();
    holds(&store, &files);
    let more = fill(&store, 8..9);
    push(&store).unwrap();
    store.close().unwrap();
    drop(store);
    // Without being told so, pull leaves there what is there.
    let some = Store::pull(&p.store(), PATIENCE, false, &mut |_, _| {}).unwrap();
    assert_eq!(some.fetched, 0, "{some:?}");
    let all = Store::pull(&p.store(), PATIENCE, true, &mut |_, _| {}).unwrap();
    assert!(all.fetched > 4, "{all:?}");
    std::fs::rename(p.dir.path().join("second"), p.dir.path().join("gone")).unwrap();
    let store = open(&p.store());
    assert_eq!(store.evicted(), (0, 0));
    holds(&store, &[files, more].concat());
    for number in store.segment_numbers() {
        let check = store.check_segment(number, false).unwrap();
        assert!(!check.checked.damaged && check.lost.is_empty(), "{number}");
    }
    assert!(!Home::read(&*store.segments.volume).unwrap().unwrap().evicts);
}

#[test]
fn what_lies_there_is_checked_there() {
    let (p, store, files) = emptied(0..8);
    let good = store.scrub_remote(true, &mut |_, _| true).unwrap();
    assert_eq!((good.damaged, good.unrecoverable.len()), (0, 0));
    let part = store.tier.as_ref().unwrap().parts()[1];
    let path = p.objects().join(part.object.name());
    let bytes = std::fs::read(&path).unwrap();
    let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
    file.write_all_at(&[7; 3000], 5000).unwrap();
    forget(&store);
    holds(&store, &files);
    let found = store.scrub_remote(true, &mut |_, _| true).unwrap();
    assert_eq!((found.damaged, found.repaired), (1, 1), "{found:?}");
    assert!(std::fs::read(&path).unwrap() == bytes);
}

#[test]
fn whoever_was_replaced_evicts_no_more() {
    let p = Place::new();
    let store = p.attached();
    fill(&store, 0..6);
    push(&store).unwrap();
    let copy = p.dir.path().join("copy");
    remote::clone(&p.url(), &copy, PATIENCE, &|_, _| {}).unwrap();
    let other = open(&copy);
    upload::attach(&other, PATIENCE).unwrap();
    fill(&other, 10..11);
    push(&other).unwrap();
    fill(&store, 6..7);
    let e = push(&store).unwrap_err();
    assert!(matches!(&e, StoreError::Remote(RemoteError::Fenced(_))), "{e}");
    assert_eq!(evict(&store, 0).segments, 0);
    assert!(store.evict_now(0, &mut |_, _| true).is_err());
}

/// Power is lost at any moment of an eviction: nothing is, and no request is needed to find out.
#[test]
fn no_power_loss_in_an_eviction_loses_anything() {
    use crate::store::tests::disk::Disk;
    use crate::store::tests::memory::MemVolume;
    use crate::store::tests::power::{Dice, opened, states};
    let objects = tempfile::tempdir().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let volume = Arc::new(MemVolume::default());
    open::create_in(&*volume, &options(), "memory").unwrap();
    let index = open::IndexFrom::Memory;
    let store = opened(dir.path(), volume.clone(), index).unwrap();
    let url = format!("file://{}", objects.path().display());
    store.set_remote(&url, PATIENCE).unwrap();
    upload::attach(&store, PATIENCE).unwrap();
    let files = fill(&store, 0..3);
    push(&store).unwrap();
    let begin = volume.events().len();
    assert!(evict(&store, 0).segments > 1);
    // One goes for good, another comes.
    let len = files[0].1.len() as u64;
    store.append(Record::Punch { ino: files[0].0, off: 0, len }.into()).unwrap();
    sweep::hurry(&store, Duration::from_secs(10));
    store.renew_checkpoint().unwrap();
    push(&store).unwrap();
    let events = volume.events();
    drop(store);
    let (mut disk, mut dice, mut tried) = (Disk::default(), Dice(3), 0);
    for (n, event) in events.iter().enumerate() {
        disk.apply(event);
        if n < begin {
            continue;
        }
        states(&disk, 6, &mut dice, &mut |left, _, _| {
            tried += 1;
            let again = Arc::new(MemVolume::with(left));
            let place = tempfile::tempdir().unwrap();
            let store = opened(place.path(), again, index);
            let store = store.unwrap_or_else(|e| panic!("after event {n}, {event:?}: {e}"));
            assert_eq!(gets(&store), 0);
            holds(&store, &files[1..]);
        });
    }
    assert!(tried > 100, "{tried}");
}
