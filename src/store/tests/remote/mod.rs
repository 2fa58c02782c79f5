//! An archive in an object store, which is a directory here: uploaded, read from there, brought back, and
//! what happens where two write, or the store fails.

use super::*;
use crate::store::remote;
use crate::store::remote::error::RemoteError;
use crate::store::remote::home::Home;
use crate::store::remote::manifest::Object;
use crate::store::remote::open::PATIENCE;
use crate::store::remote::sealed::{DirStore, Listed, SealedStore};
use crate::store::remote::steady::Steady;
use crate::store::remote::{lineage, upload};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

mod evicted;
mod failing;
mod space;

const CACHE: u64 = 16 << 20;

/// A store with an object store beside it.
struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        let place = Self { dir: tempfile::tempdir().unwrap() };
        Store::create(&place.store(), &options()).unwrap();
        let store = open(&place.store());
        store.set_remote(&place.url(), PATIENCE).unwrap();
        store.close().unwrap();
        place
    }

    fn store(&self) -> PathBuf {
        self.dir.path().join("store")
    }

    fn objects(&self) -> PathBuf {
        self.dir.path().join("objects")
    }

    fn url(&self) -> String {
        format!("file://{}", self.objects().display())
    }

    fn attached(&self) -> Arc<Store> {
        let store = open(&self.store());
        assert!(upload::attach(&store, PATIENCE).unwrap());
        store
    }

    /// The archive as another machine sees it.
    fn view(&self, name: &str) -> Arc<Store> {
        Store::open_url(&self.url(), &self.view_dir(name), CACHE, PATIENCE).unwrap()
    }

    fn view_dir(&self, name: &str) -> PathBuf {
        let dir = self.dir.path().join(name);
        std::fs::create_dir_all(&dir).unwrap();
        dir
    }
}

fn text(seed: u32, len: usize) -> Vec<u8> {
    (0..len as u32)
        .map(|i| (i.wrapping_mul(seed * 2 + 1).wrapping_mul(2_654_435_761) >> 11) as u8)
        .collect()
}

fn fill(store: &Store, files: Range<u32>) -> Vec<(Ino, Vec<u8>)> {
    let some = files
        .map(|n| {
            let ino = create(store, format!("file{n}").as_bytes()).unwrap();
            let bytes = text(n, 30_000);
            for (at, part) in bytes.chunks(10_000).enumerate() {
                write(store, ino, at as u64 * 10_000, part).unwrap();
            }
            (ino, bytes)
        })
        .collect();
    store.sync().unwrap();
    some
}

fn push(store: &Store) -> Result<remote::Uploaded> {
    store.push(&mut |_, _| true)
}

fn holds(store: &Store, files: &[(Ino, Vec<u8>)]) {
    for (ino, bytes) in files {
        assert!(contents(store, *ino, bytes.len()).unwrap() == *bytes, "{ino}");
    }
}

#[test]
fn what_was_pushed_is_read_from_there_and_comes_back_whole() {
    let p = Place::new();
    let store = p.attached();
    let files = fill(&store, 0..8);
    let before = push(&store).unwrap();
    assert!(before.objects > 4 && before.manifest == 1, "{before:?}");
    // Nothing new: no object and no manifest.
    let again = push(&store).unwrap();
    assert_eq!((again.objects, again.manifest), (0, 1));
    let view = p.view("a");
    holds(&view, &files);
    assert_eq!(names(&view), names(&store));
    assert!(matches!(create(&view, b"x"), Err(StoreError::ReadOnly)));
    // More comes, and the last segment has grown.
    let more = fill(&store, 8..10);
    assert_eq!(push(&store).unwrap().manifest, 2);
    holds(&p.view("b"), &[files.clone(), more.clone()].concat());
    let status = store.remote_status().unwrap().unwrap();
    assert_eq!((status.here_only_bytes, status.manifest, status.epoch), (0, Some(2), Some(1)));
    assert!(status.requests.puts > 4 && status.puts_per_mib.is_some());
    store.close().unwrap();
    drop(store);
    // Not connected, it is asked.
    let store = open(&p.store());
    let status = store.ask_remote(PATIENCE).unwrap().unwrap();
    assert!(status.manifest.unwrap() >= 3 && status.here_only_bytes < 500, "{status:?}");
    fill(&store, 40..41);
    assert!(store.ask_remote(PATIENCE).unwrap().unwrap().here_only_bytes > 30_000);
    drop(store);
    let copy = p.dir.path().join("copy");
    remote::clone(&p.url(), &copy, PATIENCE, &|_, _| {}).unwrap();
    let clone = open(&copy);
    holds(&clone, &[files, more].concat());
    for number in clone.segment_numbers() {
        let check = clone.check_segment(number, false).unwrap();
        assert!(!check.checked.damaged && check.lost.is_empty(), "{number}");
    }
    // The clone goes on as the archive's writer.
    upload::attach(&clone, PATIENCE).unwrap();
    fill(&clone, 20..21);
    assert!(push(&clone).unwrap().manifest > 2);
}

#[test]
fn closing_uploads_the_end_of_the_log() {
    let p = Place::new();
    let store = p.attached();
    let files = fill(&store, 0..2);
    store.close().unwrap();
    drop(store);
    holds(&p.view("a"), &files);
}

#[test]
fn the_background_uploads_what_is_sealed() {
    let p = Place::new();
    let store = open(&p.store());
    assert!(store.attach_remote(&RemoteUse::default()).unwrap());
    fill(&store, 0..6);
    let began = Instant::now();
    while store.remote_status().unwrap().unwrap().uploaded_bytes < 100_000 {
        assert!(began.elapsed() < Duration::from_secs(20));
        std::thread::sleep(Duration::from_millis(10));
    }
    store.close().unwrap();
}

#[test]
fn synced_means_uploaded_where_that_was_asked_for() {
    let p = Place::new();
    let store = open(&p.store());
    store.attach_remote(&RemoteUse { sync: true, ..RemoteUse::default() }).unwrap();
    let files = fill(&store, 0..2);
    holds(&p.view("a"), &files);
    // Where it cannot be, it is not said to be.
    std::fs::rename(p.objects(), p.dir.path().join("away")).unwrap();
    std::fs::write(p.objects(), "in the way").unwrap();
    let ino = create(&store, b"more").unwrap();
    write(&store, ino, 0, b"bytes").unwrap();
    assert!(store.sync().is_err());
}

#[test]
fn whoever_was_replaced_writes_no_more() {
    let p = Place::new();
    let store = p.attached();
    fill(&store, 0..2);
    push(&store).unwrap();
    // Another machine takes over while the first one is away.
    let copy = p.dir.path().join("copy");
    remote::clone(&p.url(), &copy, PATIENCE, &|_, _| {}).unwrap();
    let other = open(&copy);
    upload::attach(&other, PATIENCE).unwrap();
    let theirs = fill(&other, 10..12);
    let taken = push(&other).unwrap().manifest;
    assert_eq!(other.remote_status().unwrap().unwrap().epoch, Some(2));
    fill(&store, 2..4);
    for _ in 0..2 {
        let e = push(&store).unwrap_err();
        assert!(matches!(&e, StoreError::Remote(RemoteError::Fenced(_))), "{e}");
    }
    store.close().unwrap();
    drop(store);
    // Nor after it was closed and opened again, nor by naming the place anew.
    let store = p.attached();
    assert!(matches!(push(&store), Err(StoreError::Remote(RemoteError::Fenced(_)))));
    let e = store.set_remote(&p.url(), PATIENCE).unwrap_err();
    assert!(matches!(&e, StoreError::Remote(RemoteError::Fenced(_))), "{e}");
    let objects = DirStore::new(&p.objects());
    assert_eq!(lineage::numbers(&objects).unwrap().last(), Some(&taken));
    holds(&p.view("a"), &theirs);
}

#[test]
fn a_lost_answer_to_a_manifest_is_no_other_writer() {
    let p = Place::new();
    let store = p.attached();
    fill(&store, 0..1);
    push(&store).unwrap();
    // It was written, and the crash came before that was noted.
    let mut home = Home::read(&*store.segments.volume).unwrap().unwrap();
    let objects = DirStore::new(&p.objects());
    let last = lineage::read(&objects, 1).unwrap().unwrap().mark;
    (home.last, home.next) = (None, vec![last]);
    home.write(&*store.segments.volume).unwrap();
    let store = {
        drop(store);
        p.attached()
    };
    fill(&store, 1..2);
    let pushed = push(&store).unwrap();
    assert_eq!(pushed.manifest, 2);
}

#[test]
fn another_archive_is_not_overwritten() {
    let p = Place::new();
    let store = p.attached();
    fill(&store, 0..1);
    push(&store).unwrap();
    let other = made();
    let e = open(other.path()).set_remote(&p.url(), PATIENCE).unwrap_err().to_string();
    assert!(e.contains("another archive") && e.contains(&p.url()), "{e}");
    // Naming the same place again is fine.
    store.set_remote(&p.url(), PATIENCE).unwrap();
    drop(store);
    let store = p.attached();
    fill(&store, 1..2);
    assert_eq!(push(&store).unwrap().manifest, 2);
}

#[test]
fn what_is_dead_here_stays_until_the_manifest_that_needs_it_is_written() {
    let p = Place::new();
    let store = p.attached();
    let files = fill(&store, 0..6);
    let pinned = store.segments.pin(|| store.synced.load(Ordering::Acquire));
    for (ino, bytes) in &files {
        let (ino, len) = (*ino, bytes.len() as u64);
        store.append(Record::Punch { ino, off: 0, len }.into()).unwrap();
    }
    sweep::hurry(&store, Duration::from_secs(10));
    store.renew_checkpoint().unwrap();
    let there = |store: &Store| store.segments.lens().len();
    assert!(there(&store) >= pinned.len());
    store.segments.unpin();
    let ino = create(&store, b"one").unwrap();
    write(&store, ino, 0, b"more").unwrap();
    store.sync().unwrap();
    assert!(there(&store) < pinned.len(), "{} of {}", there(&store), pinned.len());
}

#[test]
fn a_damaged_segment_is_repaired_before_it_is_uploaded_or_not_uploaded() {
    let p = Place::new();
    let store = p.attached();
    let files = fill(&store, 0..4);
    parity_writer::protect_all(&store).unwrap();
    let blob = store.segments.get(1).unwrap().blob;
    let good = crate::store::io::read_up_to(&*blob, 0, usize::MAX).unwrap();
    blob.write_at(&[0x55; 4096], 4096).unwrap();
    push(&store).unwrap();
    holds(&p.view("a"), &files);
    assert!(std::fs::read(p.objects().join(Object::of(&good).name())).unwrap() == good);
    let blob = store.segments.get(2).unwrap().blob;
    let len = blob.len().unwrap() as usize;
    // A fresh archive elsewhere, to which all has to be uploaded.
    let second = format!("file://{}", p.dir.path().join("second").display());
    store.set_remote(&second, PATIENCE).unwrap();
    upload::attach(&store, PATIENCE).unwrap();
    store.segments.drop_sidecar(2);
    blob.write_at(&vec![0x55; len - 200], 100).unwrap();
    let e = push(&store).unwrap_err().to_string();
    assert!(e.contains("00000002.seg") && e.contains("remote pull"), "{e}");
    let second = DirStore::new(&p.dir.path().join("second"));
    assert!(lineage::newest(&second).unwrap().is_none());
}

#[test]
fn a_damaged_cache_is_fetched_again_and_a_damaged_object_is_corrected() {
    let p = Place::new();
    let store = p.attached();
    let files = fill(&store, 0..8);
    push(&store).unwrap();
    let view = p.view("a");
    holds(&view, &files);
    drop(view);
    let mut hurt = 0;
    for entry in std::fs::read_dir(p.view_dir("a").join("parts")).unwrap() {
        let file = std::fs::OpenOptions::new().write(true).open(entry.unwrap().path()).unwrap();
        file.write_all_at(&[0x77; 600], 500).unwrap();
        hurt += 1;
    }
    assert!(hurt > 3);
    let view = p.view("a");
    holds(&view, &files);
    let after = view.remote_status().unwrap().unwrap();
    assert!(after.cache.unwrap().damaged > 2, "{after:?}");
    assert!(after.requests.gets > 5 && after.requests.puts == 0);
    drop(view);
    // The same in the object store itself: no cache may keep it, and the sidecar brings it back.
    for entry in std::fs::read_dir(p.objects().join("objects")).unwrap() {
        let path = entry.unwrap().path();
        let bytes = std::fs::read(&path).unwrap();
        if bytes.starts_with(b"LMFSSEG") {
            let file = std::fs::OpenOptions::new().write(true).open(path).unwrap();
            file.write_all_at(&[0x77; 5000], 9000).unwrap();
        }
    }
    let view = p.view("b");
    holds(&view, &files);
    let damaged = p.view_dir("b");
    drop(view);
    for entry in std::fs::read_dir(damaged.join("parts")).unwrap() {
        let bytes = std::fs::read(entry.unwrap().path()).unwrap();
        assert!(!bytes.windows(100).any(|w| w == [0x77; 100]));
    }
}

#[test]
fn an_interrupted_clone_is_no_store_and_goes_on() {
    let p = Place::new();
    let store = p.attached();
    let files = fill(&store, 0..8);
    push(&store).unwrap();
    let copy = p.dir.path().join("copy");
    // One object cannot be had.
    let object =
        std::fs::read_dir(p.objects().join("objects")).unwrap().last().unwrap().unwrap().path();
    let away = p.dir.path().join("away");
    std::fs::rename(&object, &away).unwrap();
    let e = remote::clone(&p.url(), &copy, PATIENCE, &|_, _| {}).unwrap_err();
    assert!(matches!(&e, StoreError::Remote(RemoteError::NotFound(_))), "{e}");
    let e = Store::open(&copy, &OpenOptions::default()).unwrap_err().to_string();
    assert!(e.contains("unfinished clone") && e.contains("lmfs clone file://"), "{e}");
    let e = remote::clone("file:///elsewhere", &copy, PATIENCE, &|_, _| {});
    assert!(e.is_err());
    std::fs::rename(&away, &object).unwrap();
    let second = remote::clone(&p.url(), &copy, PATIENCE, &|_, _| {}).unwrap();
    assert!(second.kept_bytes > 0 && second.files > 0, "{second:?}");
    holds(&open(&copy), &files);
    assert!(remote::clone(&p.url(), &copy, PATIENCE, &|_, _| {}).is_err());
}

#[test]
fn a_reader_follows_what_is_written() {
    let p = Place::new();
    let store = p.attached();
    let mut files = fill(&store, 0..2);
    push(&store).unwrap();
    let view = p.view("a");
    assert_eq!(view.follow().unwrap(), None);
    for round in 1..5u32 {
        files.extend(fill(&store, round * 10..round * 10 + 3));
        write(&store, files[0].0, 0, &text(round + 100, 5000)).unwrap();
        files[0].1[..5000].copy_from_slice(&text(round + 100, 5000));
        store.append(Record::PutInode(files[0].0, attr(u64::from(round))).into()).unwrap();
        if round == 3 {
            store.renew_checkpoint().unwrap();
        }
        store.sync().unwrap();
        push(&store).unwrap();
        let changed = view.follow().unwrap().unwrap();
        assert!(matches!(&changed, remote::Changed::Inodes(_)), "{changed:?}");
        assert!(
            changed.may_be(files[0].0)
                && changed.may_be(Ino::ROOT)
                && !changed.may_be(Ino(1 << 40))
        );
        assert!(!changed.may_be(files[1].0));
        holds(&view, &files);
        assert_eq!(
            (names(&view), view.inode(files[0].0).unwrap()),
            (names(&store), store.inode(files[0].0).unwrap())
        );
        assert_eq!(view.state().totals, store.state().totals);
    }
}

#[test]
fn a_reader_that_missed_what_was_between_begins_anew() {
    let p = Place::new();
    let store = p.attached();
    let mut files = fill(&store, 0..6);
    push(&store).unwrap();
    let view = p.view("a");
    // What lies between is deleted before the reader looks again.
    for (ino, bytes) in files.drain(..4) {
        let len = bytes.len() as u64;
        store.append(Record::Punch { ino, off: 0, len }.into()).unwrap();
    }
    files.extend(fill(&store, 10..16));
    for (ino, bytes) in files.drain(2..7) {
        let len = bytes.len() as u64;
        store.append(Record::Punch { ino, off: 0, len }.into()).unwrap();
    }
    sweep::hurry(&store, Duration::from_secs(10));
    store.renew_checkpoint().unwrap();
    store.clean(0).unwrap();
    files.extend(fill(&store, 20..22));
    push(&store).unwrap();
    assert_eq!(view.follow().unwrap(), Some(remote::Changed::All));
    holds(&view, &files);
    assert_eq!(
        (names(&view), view.state().totals.clone()),
        (names(&store), store.state().totals.clone())
    );
    files.extend(fill(&store, 30..31));
    push(&store).unwrap();
    assert!(matches!(view.follow().unwrap(), Some(remote::Changed::Inodes(_))));
    holds(&view, &files);
}

#[test]
fn opening_knows_what_is_in_the_last_segment() {
    let p = Place::new();
    let store = p.attached();
    let files = fill(&store, 0..5);
    push(&store).unwrap();
    let view = p.view("a");
    let m = view.view.as_ref().unwrap().manifest();
    let last = m.parts.last().unwrap();
    assert!(!m.tail.is_empty());
    let (all, _) = footer::summary(&store.segments, last.number, 64).unwrap();
    let own = |l: &&footer::Line| {
        !matches!(l.kind, frame::Kind::Data | frame::Kind::Primer)
            && u64::from(l.frame.offset) < last.object.len
    };
    let all: Vec<footer::Line> = all.iter().filter(own).copied().collect();
    let (told, end) = footer::summary(&view.segments, last.number, 64).unwrap();
    assert_eq!((told, end), (all, last.object.len));
    // One that grows is told of anew.
    fill(&store, 6..7);
    push(&store).unwrap();
    view.follow().unwrap().unwrap();
    let now = view.view.as_ref().unwrap().manifest();
    let last = now.parts.last().unwrap();
    assert!(view.segments.told(last.number, last.object.len).is_some());
    holds(&view, &files);
    assert_eq!(names(&view), names(&store));
}
