//! The background coder under a file system.

use super::*;
use crate::logged::Watch;
use crate::store::{Ecc, MkfsOptions, OpenOptions, Record};
use crate::types::Extent;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Instant;

const BLOCK: u64 = crate::block::FAST_BLOCK as u64;

fn open(dir: &Path, enabled: bool) -> Arc<Fs> {
    let recode = RecodeOptions { rest: Duration::from_millis(20), threads: 1, enabled };
    // A decoding thread may still hold the store that was just dropped.
    let store = loop {
        match Store::open(dir, &OpenOptions::default()) {
            Err(StoreError::InUse { .. }) => std::thread::sleep(Duration::from_millis(10)),
            opened => break opened.unwrap(),
        }
    };
    Fs::open(store, FsOptions { recode, ..FsOptions::default() }).unwrap()
}

fn text(len: u64) -> Vec<u8> {
    let lines = (0..).flat_map(|i| format!("line {i}: user{} logged in\n", i % 7).into_bytes());
    lines.take(len as usize).collect()
}

/// A store with so many blocks of text in one file, at an offset that no other test uses; not coded.
fn staged(dir: &Path, at: u64, blocks: u64) -> Ino {
    let options = MkfsOptions { block_size: None, model: "fast".into(), ecc: Ecc::None };
    Store::create(dir, &options).unwrap();
    let fs = open(dir, false);
    let new = NewInode::of(libc::S_IFREG | 0o644);
    let ino = fs.make(Ino::ROOT, b"a", new).unwrap().ino;
    for n in 0..blocks {
        fs.write(ino, at + n * BLOCK, &text(BLOCK), false).unwrap();
        fs.flush_all().unwrap();
    }
    fs.shutdown().unwrap();
    ino
}

fn wait(what: &str, done: impl Fn() -> bool) {
    let began = Instant::now();
    while !done() {
        assert!(began.elapsed() < Duration::from_secs(60), "{what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn a_damaged_block_is_named_once_and_coded_when_it_is_repaired() {
    let dir = tempfile::tempdir().unwrap();
    let dir = &dir.path().join("s");
    let at = 59 * BLOCK;
    let ino = staged(dir, at, 1);
    let store = Store::open(dir, &OpenOptions { read_only: true }).unwrap();
    let frame = store.extents_in(ino, at, BLOCK).unwrap()[0].frame;
    drop(store);
    let file = dir.join(format!("segments/{:08}.seg", frame.segment));
    let file = std::fs::OpenOptions::new().read(true).write(true).open(file).unwrap();
    let mut good = vec![0; 1000];
    file.read_exact_at(&mut good, u64::from(frame.offset) + 100).unwrap();
    file.write_all_at(&[7; 1000], u64::from(frame.offset) + 100).unwrap();
    let said = Watch::anywhere(&format!("offset {at}: not coded"));
    let fs = open(dir, true);
    wait("nothing was said", || said.lines() > 0);
    // Many times what data must rest.
    std::thread::sleep(Duration::from_millis(700));
    assert_eq!(said.lines(), 1);
    assert_eq!(fs.store().stats().unwrap().unrecoverable, 1);
    file.write_all_at(&good, u64::from(frame.offset) + 100).unwrap();
    assert_eq!(fs.store().check_segment(frame.segment, true).unwrap().lost, []);
    wait("it stays uncoded", || fs.store().staged_inodes().unwrap().is_empty());
    assert_eq!((said.lines(), fs.store().stats().unwrap().unrecoverable), (1, 0));
    fs.shutdown().unwrap();
}

#[test]
fn a_settle_ends_when_the_store_is_closed() {
    const BLOCKS: u64 = 24;
    let dir = tempfile::tempdir().unwrap();
    let dir = &dir.path().join("s");
    let ino = staged(dir, 0, BLOCKS);
    let fs = open(dir, false);
    let (began, wait_began) = std::sync::mpsc::channel();
    let settled = std::thread::scope(|s| {
        let settling = s.spawn(|| {
            let mut report = |done, total| {
                assert_eq!(total, BLOCKS * BLOCK);
                if done == BLOCK {
                    began.send(()).unwrap();
                }
            };
            fs.recoder().settle(None, &mut report)
        });
        wait_began.recv().unwrap();
        fs.shutdown().unwrap();
        settling.join().unwrap()
    });
    let e = settled.unwrap_err().to_string();
    assert!(e.contains("the store is being closed"), "{e}");
    drop(fs);
    let fs = open(dir, false);
    let pending = fs.recoder().status().pending_blocks;
    assert!((1..BLOCKS).contains(&pending), "{pending}");
    assert_eq!(fs.read_now(ino, 0, BLOCKS * BLOCK).unwrap(), text(BLOCK).repeat(BLOCKS as usize));
    let report = fs.recoder().settle(None, &mut |_, _| {}).unwrap();
    assert_eq!((report.blocks, report.text_bytes), (pending, pending * BLOCK));
    assert!((1..report.text_bytes / 2).contains(&report.frame_bytes), "{report:?}");
    // What was coded before is none of another report's.
    let report = fs.recoder().settle(None, &mut |_, _| {}).unwrap();
    assert_eq!((report.blocks, report.text_bytes, report.frame_bytes), (0, 0, 0));
    fs.shutdown().unwrap();
}

/// The cleaner moves frames that were already looked up, and their segments go.
#[test]
fn frames_that_move_meanwhile_are_coded_and_are_no_damage() {
    const BLOCKS: u64 = 24;
    let dir = tempfile::tempdir().unwrap();
    let dir = &dir.path().join("s");
    let at = 61 * BLOCK;
    let ino = staged(dir, at, BLOCKS);
    let fs = open(dir, false);
    let said = Watch::anywhere(&format!("inode {ino} offset"));
    let before = fs.store().extents_in(ino, at, u64::MAX).unwrap();
    let moved = std::cell::Cell::new(0);
    let mut clean = |done, _| {
        if done == BLOCK {
            moved.set(fs.store().clean(0).unwrap().moved_frames);
        }
    };
    let report = fs.recoder().settle(None, &mut clean).unwrap();
    // All but those that were coded before, or were being coded.
    assert!(moved.get() > BLOCKS / 2, "{moved:?}");
    assert_eq!((report.blocks, fs.recoder().status().pending_blocks), (BLOCKS, 0));
    let read = |e: &Extent| fs.store().read_frame(e.frame).err();
    let failed: Vec<_> = before.iter().filter_map(read).collect();
    let outdated = |e: &StoreError| matches!(e, StoreError::Outdated(_));
    assert!(!failed.is_empty() && failed.iter().all(outdated), "{failed:?}");
    assert_eq!((said.lines(), fs.store().stats().unwrap().unrecoverable), (0, 0));
    assert!(fs.read_now(ino, at, BLOCKS * BLOCK).unwrap() == text(BLOCK).repeat(BLOCKS as usize));
    fs.shutdown().unwrap();
}

/// A file is cut to nothing once it is to be coded anew: its primer goes with its last block.
#[test]
fn files_that_go_meanwhile_are_no_trouble() {
    let dir = tempfile::tempdir().unwrap();
    let dir = &dir.path().join("s");
    let first = staged(dir, 0, 3);
    let fs = open(dir, false);
    let new = NewInode::of(libc::S_IFREG | 0o644);
    let ino = fs.make(Ino::ROOT, b"b", new).unwrap().ino;
    fs.write(ino, 0, &text(24 * BLOCK), false).unwrap();
    fs.flush_all().unwrap();
    fs.recoder().settle(None, &mut |_, _| {}).unwrap();
    let last = fs.store().extents(ino).last().unwrap().unwrap();
    assert!(last.meta.primer != 0);
    let said = Watch::anywhere(&format!("inode {ino} offset"));
    // Its runs are under way, behind those of another file.
    let mut cut = |done, _| {
        if done == BLOCK {
            fs.setattr(ino, SetAttr { size: Some(0), ..SetAttr::default() }).unwrap();
            fs.flush_all().unwrap();
        }
    };
    fs.recoder().command().recode(&[first, ino], &mut cut).unwrap();
    assert_eq!((said.lines(), fs.store().primer(last.meta.primer).unwrap()), (0, None));
    fs.shutdown().unwrap();
}

/// A full disk stays one that can be emptied, whatever is coded on it.
#[test]
fn coding_leaves_the_cleaner_its_room() {
    const FILE: usize = 200_000;
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let options = MkfsOptions { block_size: None, model: "fast".into(), ecc: Ecc::None };
    let (store, disk) = crate::store::tests::on_a_disk_of(24 << 20, dir, &options);
    let recode = RecodeOptions { rest: Duration::from_secs(1), threads: 2, enabled: false };
    let fs = Fs::open(store, FsOptions { recode, ..FsOptions::default() }).unwrap();
    let body = |name: u64| {
        let hash = |i: u64| *blake3::hash(&[name, i].map(u64::to_le_bytes).concat()).as_bytes();
        (0..).flat_map(hash).take(FILE).collect::<Vec<u8>>()
    };
    let (mut files, mut next) = (Vec::new(), 0);
    let mut fill = |files: &mut Vec<(u64, Ino)>| {
        let before = files.len();
        loop {
            let new = NewInode::of(libc::S_IFREG | 0o644);
            let ino = fs.make(Ino::ROOT, next.to_string().as_bytes(), new).unwrap().ino;
            if let Err(e) = fs.write(ino, 0, &body(next), false) {
                assert!(e.to_string().contains("no space"), "{e}");
                fs.unlink(Ino::ROOT, next.to_string().as_bytes()).unwrap();
                fs.forget(ino, 1);
                fs.flush_all().unwrap();
                return files.len() - before;
            }
            files.push((next, ino));
            next += 1;
        }
    };
    let first = fill(&mut files);
    assert!(first > 80, "{first}");
    for n in 0..4 {
        let settled = fs.recoder().settle(None, &mut |_, _| {});
        let free = disk.free();
        assert!(free > 3 << 19, "{n}: {free} bytes are free after {settled:?}");
        // A part goes; most of that finds room again.
        let gone: Vec<_> = files.extract_if(.., |(name, _)| *name % 4 == n).collect();
        for (name, ino) in &gone {
            fs.unlink(Ino::ROOT, name.to_string().as_bytes()).unwrap();
            fs.forget(*ino, 1);
        }
        fs.flush_all().unwrap();
        let again = fill(&mut files);
        assert!(again * 10 >= gone.len() * 8, "{n}: {again} of {}, {settled:?}", gone.len());
        for (name, ino) in &files {
            assert!(fs.read_now(*ino, 0, FILE as u64).unwrap() == body(*name), "{name}");
        }
    }
    fs.shutdown().unwrap();
}

/// Files without a name cannot be deleted any more, for the store has failed: it is closed even so.
#[test]
fn a_shutdown_closes_the_store_whatever_fails_before() {
    let dir = tempfile::tempdir().unwrap();
    let dir = &dir.path().join("s");
    let ino = staged(dir, 0, 1);
    let fs = open(dir, false);
    fs.open_handle(ino).unwrap();
    fs.unlink(Ino::ROOT, b"a").unwrap();
    fs.flush_all().unwrap();
    assert_eq!(fs.store().orphans().unwrap(), [ino]);
    crate::store::tests::fail(fs.store());
    let e = fs.shutdown().unwrap_err().to_string();
    assert!(e.contains("on purpose"), "{e}");
    let e = fs.store().close().unwrap_err().to_string();
    assert!(e.contains("not closed cleanly"), "{e}");
    drop(fs);
    let fs = open(dir, false);
    assert_eq!(fs.store().orphans().unwrap(), []);
    fs.shutdown().unwrap();
}

#[test]
fn nothing_is_written_after_the_last_flush() {
    let dir = tempfile::tempdir().unwrap();
    let dir = &dir.path().join("s");
    let ino = staged(dir, 0, 1);
    let fs = open(dir, false);
    // Whoever has the file open could still reach it.
    fs.open_handle(ino).unwrap();
    fs.write(ino, 0, b"in time", false).unwrap();
    fs.shutdown().unwrap();
    assert!(fs.write(ino, 0, b"too late", false).is_err());
    drop(fs);
    assert_eq!(open(dir, false).read_now(ino, 0, 7).unwrap(), b"in time");
}

/// Blocks may be smaller than what writes leave behind, or larger.
#[test]
fn one_settle_codes_all_whatever_the_block_size() {
    for block in [4 << 10, 8 << 10, 16 << 10, 64 << 10, 128 << 10, 256 << 10, 1 << 20] {
        let dir = tempfile::tempdir().unwrap();
        let dir = &dir.path().join("s");
        let options = MkfsOptions { block_size: Some(block), model: "fast".into(), ecc: Ecc::None };
        Store::create(dir, &options).unwrap();
        let fs = open(dir, false);
        let new = NewInode::of(libc::S_IFREG | 0o644);
        let ino = fs.make(Ino::ROOT, b"a", new).unwrap().ino;
        let size = 5 * u64::from(block) / 2 + 300_000;
        fs.write(ino, 0, &text(size), false).unwrap();
        // An overwrite across a block's bounds, and a hole.
        fs.flush_all().unwrap();
        fs.write(ino, u64::from(block) - 100, &text(300), false).unwrap();
        fs.write(ino, size + 2 * u64::from(block), b"the end\n", false).unwrap();
        fs.flush_all().unwrap();
        let blocks = fs.recoder().settle(None, &mut |_, _| {}).unwrap().blocks;
        assert_eq!(blocks, size.div_ceil(u64::from(block)) + 1, "{block}");
        assert_eq!(fs.recoder().status().pending_blocks, 0, "{block}");
        assert_eq!(fs.store().stats().unwrap().staged_bytes, 0, "{block}");
        let mut want = text(size);
        want[block as usize - 100..][..300].copy_from_slice(&text(300));
        assert!(fs.read_now(ino, 0, size).unwrap() == want, "{block}");
        fs.shutdown().unwrap();
    }
}

/// What a file takes is all that the store keeps for it, the primer of its blocks included.
#[test]
fn a_files_coded_size_has_its_primer() {
    let dir = tempfile::tempdir().unwrap();
    let dir = &dir.path().join("s");
    let ino = staged(dir, 0, 3);
    let fs = open(dir, false);
    fs.recoder().settle(None, &mut |_, _| {}).unwrap();
    let extents = fs.store().extents_in(ino, 0, u64::MAX).unwrap();
    assert!(extents.iter().any(|e| e.meta.primer != 0));
    let s = fs.store().stats().unwrap();
    assert_eq!(fs.coding(ino).unwrap().coded_size, s.coded_bytes + s.parity_bytes);
    fs.shutdown().unwrap();
}

/// A store with small files, the last of which are no text; coded. Their names are numbers.
fn small(dir: &Path, files: u32) -> (Arc<Fs>, Vec<(Ino, Vec<u8>)>) {
    let options = MkfsOptions { block_size: None, model: "fast".into(), ecc: Ecc::Standard };
    Store::create(dir, &options).unwrap();
    let fs = open(dir, false);
    let make = |n: u32| {
        let new = NewInode::of(libc::S_IFREG | 0o644);
        let ino = fs.make(Ino::ROOT, n.to_string().as_bytes(), new).unwrap().ino;
        let mut bytes = text(500 + u64::from(n) * 37 % 900);
        if n + 2 >= files {
            bytes.iter_mut().enumerate().for_each(|(i, b)| *b = (i * i * 7 / 5) as u8);
        }
        fs.write(ino, 0, &bytes, false).unwrap();
        (ino, bytes)
    };
    let files = (0..files).map(make).collect();
    fs.flush_all().unwrap();
    (fs, files)
}

fn all_there(fs: &Arc<Fs>, files: &[(Ino, Vec<u8>)]) {
    for (ino, bytes) in files {
        let got = fs.read_now(*ino, 0, bytes.len() as u64 + 10).unwrap();
        assert!(got == *bytes, "inode {ino}");
    }
}

#[test]
fn small_files_share_frames() {
    const FILES: u32 = 100;
    let dir = tempfile::tempdir().unwrap();
    let dir = &dir.path().join("s");
    let (fs, mut files) = small(dir, FILES);
    let report = fs.recoder().settle(None, &mut |_, _| {}).unwrap();
    let text: usize = files.iter().map(|(_, bytes)| bytes.len()).sum();
    assert_eq!((report.blocks, report.text_bytes), (FILES.into(), text as u64));
    let store = fs.store();
    let s = store.stats().unwrap();
    // Ninety kilobytes of text in two, and those that are no text in one each.
    assert_eq!(s.frames, 4);
    all_there(&fs, &files);
    // Each has its part of what they take.
    let sizes = files.iter().map(|(ino, _)| fs.coding(*ino).unwrap().coded_size);
    let (sum, all) = (sizes.sum::<u64>(), s.coded_bytes + s.parity_bytes);
    assert!((all - 2 * u64::from(FILES)..=all).contains(&sum), "{sum} of {all}");
    // One is written anew in the middle, one is cut off, one goes.
    fs.write(files[3].0, 100, b"something else", false).unwrap();
    files[3].1[100..114].copy_from_slice(b"something else");
    fs.setattr(files[4].0, SetAttr { size: Some(50), ..SetAttr::default() }).unwrap();
    files[4].1.truncate(50);
    fs.unlink(Ino::ROOT, b"5").unwrap();
    fs.forget(files[5].0, 1);
    files.remove(5);
    fs.flush_all().unwrap();
    all_there(&fs, &files);
    // They move together.
    let at = |ino| store.extents_in(ino, 0, 1).unwrap()[0].frame;
    let before = at(files[0].0);
    store.clean(0).unwrap();
    assert!(at(files[0].0) != before && at(files[0].0) == at(files[7].0));
    all_there(&fs, &files);
    // What was written since shares a frame the next time.
    fs.recoder().settle(None, &mut |_, _| {}).unwrap();
    all_there(&fs, &files);
    let inos: Vec<Ino> = files.iter().map(|(ino, _)| *ino).collect();
    fs.recoder().command().recode(&inos, &mut |_, _| {}).unwrap();
    assert_eq!(store.stats().unwrap().frames, 4);
    all_there(&fs, &files);
    fs.shutdown().unwrap();
    drop(fs);
    // From the log alone.
    for name in std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().path()) {
        if name.file_name().unwrap().to_string_lossy().starts_with("index") && name.is_dir() {
            std::fs::remove_dir_all(name).unwrap();
        }
    }
    let fs = open(dir, false);
    all_there(&fs, &files);
    for (ino, _) in &files {
        fs.store().append(Record::DelInode(*ino).into()).unwrap();
    }
    assert_eq!(fs.store().stats().unwrap().frames, 0);
    fs.shutdown().unwrap();
}

#[test]
fn shared_frames_are_decoded_ahead_where_files_are_read_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let dir = &dir.path().join("s");
    let (fs, files) = small(dir, 300);
    fs.recoder().settle(None, &mut |_, _| {}).unwrap();
    fs.shutdown().unwrap();
    drop(fs);
    let fs = open(dir, false);
    let frame = |n: usize| fs.store().extents_in(files[n].0, 0, 1).unwrap()[0].frame;
    let mut firsts = vec![0];
    for n in 1..files.len() - 2 {
        if frame(n) != frame(n - 1) {
            firsts.push(n);
        }
    }
    assert!(firsts.len() >= 4, "{firsts:?}");
    let read = |n: usize| {
        let (done, wait) = std::sync::mpsc::channel();
        fs.read(files[n].0, 0, 5000, move |bytes| done.send(bytes).unwrap());
        assert!(wait.recv().unwrap().unwrap() == files[n].1);
    };
    let here = |n: usize| fs.blocks().peek(frame(n), 1).is_some();
    // One alone says nothing of the next.
    read(firsts[0]);
    read(firsts[0] + 3);
    std::thread::sleep(Duration::from_millis(100));
    assert!(here(firsts[0]) && !here(firsts[1]));
    read(firsts[1]);
    wait("the third", || here(firsts[2]));
    // Nobody waits for that one, and yet the next one comes.
    read(firsts[2]);
    wait("the fourth", || here(firsts[3]));
    fs.shutdown().unwrap();
}

/// Whoever reads a block's beginning does not wait for its end, be it the one for whom it is decoded or another.
#[test]
fn readers_are_answered_as_soon_as_there_is_enough_of_a_block() {
    let dir = tempfile::tempdir().unwrap();
    let dir = &dir.path().join("s");
    let ino = staged(dir, 0, 3);
    let fs = open(dir, false);
    fs.recoder().settle(None, &mut |_, _| {}).unwrap();
    fs.shutdown().unwrap();
    drop(fs);
    let fs = open(dir, false);
    let (tell, told) = std::sync::mpsc::channel();
    // All of the same block.
    for off in [BLOCK, BLOCK + 5000, 2 * BLOCK - 5000, 2 * BLOCK - 4000] {
        let (tell, again) = (tell.clone(), Arc::clone(&fs));
        let frame = fs.store().extents_in(ino, BLOCK, 1).unwrap()[0].frame;
        fs.read(ino, off, 4000, move |bytes| {
            let whole = again.blocks().peek(frame, BLOCK as usize).is_some();
            tell.send((off, bytes.unwrap(), whole)).unwrap();
        });
    }
    let all = text(BLOCK).repeat(3);
    for early in [true, true, false, false] {
        let (off, bytes, whole) = told.recv_timeout(Duration::from_secs(60)).unwrap();
        assert!(bytes == all[off as usize..off as usize + 4000], "{off}");
        assert_eq!((off < 2 * BLOCK - 5000, whole), (early, !early), "{off}");
    }
    assert_eq!(fs.blocks().cache_stats().misses, 2, "a primer and a block");
    fs.shutdown().unwrap();
}

/// Half of a shared frame that nobody has any more does not stay for the other half's sake.
#[test]
fn what_is_left_of_shared_frames_is_gathered() {
    const FILES: u32 = 400;
    for by_command in [true, false] {
        let dir = tempfile::tempdir().unwrap();
        let dir = &dir.path().join("s");
        let (fs, mut files) = small(dir, FILES);
        fs.recoder().settle(None, &mut |_, _| {}).unwrap();
        let before = fs.store().stats().unwrap();
        assert!((8..12).contains(&before.frames), "{}", before.frames);
        for n in (0..FILES).rev().filter(|n| n % 5 > 0) {
            fs.unlink(Ino::ROOT, n.to_string().as_bytes()).unwrap();
            let (ino, _) = files.remove(n as usize);
            fs.forget(ino, 1);
        }
        // None has gone, and all are thin.
        let thin = fs.store().thinly_held(&mut 0).unwrap();
        assert!(thin.len() + 4 > files.len(), "{}", thin.len());
        let fs = if by_command {
            fs.recoder().command().gather().unwrap();
            fs
        } else {
            fs.shutdown().unwrap();
            drop(fs);
            open(dir, true)
        };
        let few = || fs.store().stats().unwrap().frames <= before.frames / 3;
        wait("they are thin", || few() && fs.store().thinly_held(&mut 0).unwrap().is_empty());
        let after = fs.store().stats().unwrap().coded_bytes;
        assert!(after * 2 < before.coded_bytes, "{after} of {}", before.coded_bytes);
        all_there(&fs, &files);
        fs.shutdown().unwrap();
    }
}

/// The others are coded, and it is named.
#[test]
fn a_small_file_that_cannot_be_read_is_in_nobodys_way() {
    let dir = tempfile::tempdir().unwrap();
    let dir = &dir.path().join("s");
    let (fs, mut files) = small(dir, 30);
    let store = fs.store();
    let f = store.extents_in(files[9].0, 0, 1).unwrap()[0].frame;
    let file = dir.join(format!("segments/{:08}.seg", f.segment));
    let file = std::fs::OpenOptions::new().write(true).open(file).unwrap();
    file.write_all_at(&vec![7; f.len as usize], f.offset.into()).unwrap();
    let said = Watch::anywhere(&format!("inode {} offset 0: not coded", files[9].0));
    assert!(fs.recoder().settle(None, &mut |_, _| {}).is_err());
    assert!(said.lines() > 0);
    assert_eq!(store.staged_inodes().unwrap(), [files[9].0]);
    let damaged = files.remove(9).0;
    all_there(&fs, &files);
    assert!(fs.read_now(damaged, 0, 10).is_err());
    // A shared frame that is damaged is that of all its files, by name.
    let shared = store.extents_in(files[0].0, 0, 1).unwrap()[0].frame;
    fs.store().sync().unwrap();
    file.write_all_at(&vec![7; shared.len as usize], shared.offset.into()).unwrap();
    let lost = store.check_segment(shared.segment, false).unwrap().lost;
    let lost: Vec<Ino> = lost.into_iter().filter(|(f, ..)| *f == shared).map(|l| l.1).collect();
    let sharing = |ino: &Ino| store.extents_in(*ino, 0, 1).unwrap()[0].frame == shared;
    let want: Vec<Ino> = files.iter().map(|(ino, _)| *ino).filter(sharing).collect();
    assert!(want.len() > 20);
    assert_eq!(lost, want);
    fs.shutdown().unwrap();
}

/// In the background, too, a file is coded as soon as it has rested, not a block at a time.
#[test]
fn small_blocks_do_not_wait_for_each_other() {
    let dir = tempfile::tempdir().unwrap();
    let dir = &dir.path().join("s");
    let options = MkfsOptions { block_size: Some(4096), model: "fast".into(), ecc: Ecc::None };
    Store::create(dir, &options).unwrap();
    let fs = open(dir, false);
    let new = NewInode::of(libc::S_IFREG | 0o644);
    let ino = fs.make(Ino::ROOT, b"a", new).unwrap().ino;
    fs.write(ino, 0, &text(8 * 4096), false).unwrap();
    fs.shutdown().unwrap();
    drop(fs);
    let fs = open(dir, true);
    wait("they wait", || fs.store().staged_inodes().unwrap().is_empty());
    // Eight blocks, each with a frame of its own, and there may be a primer.
    let frames = fs.store().stats().unwrap().frames;
    assert!((8..=9).contains(&frames), "{frames}");
    fs.shutdown().unwrap();
}
