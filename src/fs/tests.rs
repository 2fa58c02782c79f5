//! The file system against a model kept in memory: any sequence of operations, read back from
//! memory, after coding, and after a crash.

use super::*;
use crate::store::{Ecc, MkfsOptions, OpenOptions, StoreError};
use crate::types::Time;
use proptest::prelude::*;
use std::collections::BTreeMap;

mod sparse;

const NAMES: [&[u8]; 4] = [b"a", b"b", b"c\xff", b"d"];

fn options() -> FsOptions {
    let recode = RecodeOptions { rest: Duration::from_secs(3600), threads: 1, enabled: false };
    FsOptions {
        commit: Duration::from_secs(3600),
        cache_bytes: 1 << 20,
        recode,
        ..FsOptions::default()
    }
}

fn store(dir: &std::path::Path) -> Arc<Store> {
    if !dir.exists() {
        let options = MkfsOptions { block_size: None, model: "fast".into(), ecc: Ecc::Standard };
        Store::create(dir, &options).unwrap();
    }
    // A decoding thread may still hold the store that was just dropped.
    for _ in 0..500 {
        match Store::open(dir, &OpenOptions::default()) {
            Err(StoreError::InUse { .. }) => std::thread::sleep(Duration::from_millis(10)),
            opened => return opened.unwrap(),
        }
    }
    panic!("the store stays in use")
}

fn fresh(dir: &tempfile::TempDir) -> Arc<Fs> {
    Fs::open(store(&dir.path().join("s")), options()).unwrap()
}

fn file(mode: u32) -> NewInode<'static> {
    NewInode { uid: 1, gid: 2, ..NewInode::of(mode) }
}

const REG: u32 = libc::S_IFREG | 0o644;
const DIR: u32 = libc::S_IFDIR | 0o755;

fn create(fs: &Fs, name: &[u8]) -> Ino {
    let ino = fs.make(Ino::ROOT, name, file(REG)).unwrap().ino;
    fs.forget(ino, 1);
    ino
}

#[derive(Debug, Clone)]
enum Step {
    Create(usize),
    Write(usize, u64, usize, u8),
    Truncate(usize, u64),
    Punch(usize, u64, u64),
    Zero(usize, u64, u64),
    Rename(usize, usize),
    Exchange(usize, usize),
    Link(usize, usize),
    Unlink(usize),
    Copy(usize, u64, usize, u64, u64),
    Flush(usize),
    Settle,
    Sync,
    Crash,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let n = 0..NAMES.len();
    let off = || 0u64..400_000;
    let one = prop_oneof![
        3 => n.clone().prop_map(Step::Create),
        8 => (n.clone(), off(), 1usize..150_000, any::<u8>())
            .prop_map(|(n, o, l, b)| Step::Write(n, o, l, b)),
        3 => (n.clone(), off()).prop_map(|(n, s)| Step::Truncate(n, s)),
        2 => (n.clone(), off(), 1u64..200_000).prop_map(|(n, o, l)| Step::Punch(n, o, l)),
        1 => (n.clone(), off(), 1u64..200_000).prop_map(|(n, o, l)| Step::Zero(n, o, l)),
        1 => (n.clone(), n.clone()).prop_map(|(a, b)| Step::Rename(a, b)),
        1 => (n.clone(), n.clone()).prop_map(|(a, b)| Step::Exchange(a, b)),
        1 => (n.clone(), n.clone()).prop_map(|(a, b)| Step::Link(a, b)),
        1 => n.clone().prop_map(Step::Unlink),
        1 => (n.clone(), off(), n.clone(), off(), 1u64..100_000)
            .prop_map(|(a, i, b, o, l)| Step::Copy(a, i, b, o, l)),
        2 => n.prop_map(Step::Flush),
        1 => Just(Step::Settle),
        1 => Just(Step::Sync),
        1 => Just(Step::Crash),
    ];
    prop::collection::vec(one, 1..40)
}

/// Names to files by number, and the files' bytes.
#[derive(Debug, Clone, Default, PartialEq)]
struct Model {
    names: BTreeMap<usize, usize>,
    files: Vec<Vec<u8>>,
}

impl Model {
    fn of(&mut self, name: usize) -> Option<&mut Vec<u8>> {
        let n = *self.names.get(&name)?;
        Some(&mut self.files[n])
    }

    fn write(bytes: &mut Vec<u8>, off: u64, data: &[u8]) {
        let end = off as usize + data.len();
        bytes.resize(bytes.len().max(end), 0);
        bytes[off as usize..end].copy_from_slice(data);
    }

    fn zero(bytes: &mut [u8], off: u64, len: u64) {
        let end = bytes.len().min((off + len) as usize);
        if let Some(part) = bytes.get_mut(off as usize..end) {
            part.fill(0);
        }
    }
}

fn pattern(len: usize, seed: u8) -> Vec<u8> {
    (0..len).map(|i| (i / 7) as u8 ^ seed).collect()
}

fn check(fs: &Fs, model: &Model) {
    let names: Vec<_> = fs.readdir(Ino::ROOT, 2, 100).unwrap();
    assert_eq!(names.len(), model.names.len());
    for (name, file) in &model.names {
        let ino = fs.find(Ino::ROOT, NAMES[*name]).unwrap();
        let want = &model.files[*file];
        let attr = fs.getattr(ino).unwrap();
        assert_eq!(attr.size, want.len() as u64, "size of {name}");
        assert_eq!(attr.nlink as usize, model.names.values().filter(|f| *f == file).count());
        let got = fs.read_now(ino, 0, attr.size + 10).unwrap();
        assert!(got == *want, "bytes of {name}");
        let middle = fs.read_now(ino, attr.size / 3, 5000).unwrap();
        let from = want.len() / 3;
        assert!(middle == want[from..want.len().min(from + 5000)]);
    }
}

fn run(steps: &[Step]) {
    let dir = tempfile::tempdir().unwrap();
    let mut fs = fresh(&dir);
    let mut model = Model::default();
    for step in steps {
        let find = |n: usize| fs.find(Ino::ROOT, NAMES[n]);
        match *step {
            Step::Create(n) => {
                let made = fs.make(Ino::ROOT, NAMES[n], file(REG));
                assert_eq!(made.is_ok(), !model.names.contains_key(&n));
                if let Ok(e) = made {
                    fs.forget(e.ino, 1);
                    model.files.push(Vec::new());
                    model.names.insert(n, model.files.len() - 1);
                }
            }
            Step::Write(n, off, len, seed) => {
                if let Some(bytes) = model.of(n) {
                    let data = pattern(len, seed);
                    fs.write(find(n).unwrap(), off, &data, false).unwrap();
                    Model::write(bytes, off, &data);
                }
            }
            Step::Truncate(n, size) => {
                if let Some(bytes) = model.of(n) {
                    let set = SetAttr { size: Some(size), privileged: true, ..SetAttr::default() };
                    fs.setattr(find(n).unwrap(), set).unwrap();
                    bytes.resize(size as usize, 0);
                }
            }
            Step::Punch(n, off, len) => {
                if let Some(bytes) = model.of(n) {
                    let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
                    fs.fallocate(find(n).unwrap(), off, len, mode, false).unwrap();
                    Model::zero(bytes, off, len);
                }
            }
            Step::Zero(n, off, len) => {
                if let Some(bytes) = model.of(n) {
                    fs.fallocate(find(n).unwrap(), off, len, libc::FALLOC_FL_ZERO_RANGE, false)
                        .unwrap();
                    bytes.resize(bytes.len().max((off + len) as usize), 0);
                    Model::zero(bytes, off, len);
                }
            }
            Step::Rename(a, b) => {
                let r = fs.rename(Ino::ROOT, NAMES[a], Ino::ROOT, NAMES[b], RenameHow::Replace);
                assert_eq!(r.is_ok(), model.names.contains_key(&a));
                if let Some(&f) = model.names.get(&a)
                    && model.names.get(&b) != Some(&f)
                {
                    model.names.remove(&a);
                    model.names.insert(b, f);
                }
            }
            Step::Exchange(a, b) => {
                let r = fs.rename(Ino::ROOT, NAMES[a], Ino::ROOT, NAMES[b], RenameHow::Exchange);
                let (x, y) = (model.names.get(&a).copied(), model.names.get(&b).copied());
                assert_eq!(r.is_ok(), x.is_some() && y.is_some());
                if let (Some(x), Some(y)) = (x, y) {
                    model.names.insert(a, y);
                    model.names.insert(b, x);
                }
            }
            Step::Link(a, b) => {
                let linked = find(a).and_then(|i| fs.link(i, Ino::ROOT, NAMES[b]));
                let can = model.names.contains_key(&a) && !model.names.contains_key(&b);
                assert_eq!(linked.is_ok(), can);
                if let Ok(e) = linked {
                    fs.forget(e.ino, 1);
                    let f = model.names[&a];
                    model.names.insert(b, f);
                }
            }
            Step::Unlink(n) => {
                let r = fs.unlink(Ino::ROOT, NAMES[n]);
                assert_eq!(r.is_ok(), model.names.remove(&n).is_some());
            }
            Step::Copy(a, off, b, to, len) => {
                if model.names.contains_key(&a) && model.names.contains_key(&b) {
                    let n = fs
                        .copy((find(a).unwrap(), off), (find(b).unwrap(), to), len, false)
                        .unwrap();
                    let from = &model.files[model.names[&a]];
                    let end = from.len().min((off + len) as usize);
                    let part = from.get(off as usize..end).unwrap_or_default().to_vec();
                    assert_eq!(n, part.len() as u64);
                    if let Some(bytes) = model.of(b)
                        && !part.is_empty()
                    {
                        Model::write(bytes, to, &part);
                    }
                }
            }
            Step::Flush(n) => {
                if let Ok(ino) = find(n) {
                    fs.flush(ino).unwrap();
                }
            }
            Step::Settle => {
                fs.flush_all().unwrap();
                fs.recoder().settle(None, &mut |_, _| {}).unwrap();
            }
            Step::Sync => fs.flush_all().unwrap(),
            Step::Crash => {
                // What was made durable must be all there; nothing is closed in order.
                fs.flush_all().unwrap();
                drop(fs);
                fs = fresh(&dir);
            }
        }
    }
    check(&fs, &model);
    fs.shutdown().unwrap();
    drop(fs);
    check(&fresh(&dir), &model);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]
    #[test]
    fn any_sequence_behaves_like_the_model(steps in steps()) {
        run(&steps);
    }
}

#[test]
fn a_crash_leaves_size_and_bytes_of_one_moment() {
    let dir = tempfile::tempdir().unwrap();
    let fs = fresh(&dir);
    let ino = create(&fs, b"log");
    fs.write(ino, 0, b"first", false).unwrap();
    fs.fsync(ino).unwrap();
    fs.write(ino, 5, &vec![7; 100_000], false).unwrap();
    // Attributes may reach the disk before the bytes; the size must not.
    fs.setattr(ino, SetAttr { mode: Some(0o600), ..SetAttr::default() }).unwrap();
    fs.store().sync().unwrap();
    drop(fs);
    let fs = fresh(&dir);
    let attr = fs.getattr(ino).unwrap();
    assert_eq!((attr.size, attr.mode & 0o777), (5, 0o600));
    assert_eq!(fs.read_now(ino, 0, 100).unwrap(), b"first");
}

#[test]
fn a_failed_sync_reaches_whoever_asks_and_reads_go_on() {
    let (_dir, volume, store) = crate::store::tests::faults::mem_store();
    let fs = Fs::open(store, options()).unwrap();
    let (a, b) = (create(&fs, b"a"), create(&fs, b"b"));
    fs.write(a, 0, b"durable", false).unwrap();
    fs.fsync(a).unwrap();
    fs.write(a, 0, b"changed", false).unwrap();
    fs.write(b, 0, b"other", false).unwrap();
    for blob in lock(&volume.files).values() {
        blob.fail_sync.store(true, Ordering::SeqCst);
    }
    assert!(fs.fsync(a).is_err());
    for blob in lock(&volume.files).values() {
        blob.fail_sync.store(false, Ordering::SeqCst);
    }
    // The disk works again, but what the failure took is not known.
    for ino in [a, b] {
        assert!(fs.fsync(ino).is_err());
        assert!(fs.flush(ino).is_err() || ino == a);
    }
    assert_eq!(fs.read_now(a, 0, 100).unwrap(), b"changed");
    assert_eq!(fs.read_now(b, 0, 100).unwrap(), b"other");
}

#[test]
fn a_truncation_that_finds_no_room_changes_nothing() {
    let (_dir, volume, store) = crate::store::tests::faults::mem_store();
    let fs = Fs::open(store, options()).unwrap();
    let ino = create(&fs, b"f");
    let mut x = 1u32;
    let mut noise = || {
        x = x.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (x >> 24) as u8
    };
    let bytes: Vec<u8> = (0..900_000).map(|_| noise()).collect();
    fs.write(ino, 0, &bytes[..50_000], false).unwrap();
    fs.fsync(ino).unwrap();
    fs.write(ino, 50_000, &bytes[50_000..], false).unwrap();
    volume.set_full(true);
    let cut = SetAttr { size: Some(800_000), ..SetAttr::default() };
    assert!(fs.setattr(ino, cut).is_err());
    assert_eq!(fs.getattr(ino).unwrap().size, 900_000);
    assert!(fs.read_now(ino, 0, 1 << 20).unwrap() == bytes);
    volume.set_full(false);
    fs.setattr(ino, cut).unwrap();
    assert!(fs.read_now(ino, 0, 1 << 20).unwrap() == bytes[..800_000]);
    fs.shutdown().unwrap();
}

#[test]
fn rename_over_a_file_brings_the_new_bytes_along() {
    let dir = tempfile::tempdir().unwrap();
    let fs = fresh(&dir);
    let old = create(&fs, b"conf");
    fs.write(old, 0, b"old", false).unwrap();
    fs.fsync(old).unwrap();
    let new = create(&fs, b"conf.tmp");
    fs.write(new, 0, b"new bytes", false).unwrap();
    fs.rename(Ino::ROOT, b"conf.tmp", Ino::ROOT, b"conf", RenameHow::Replace).unwrap();
    fs.store().sync().unwrap();
    drop(fs);
    let fs = fresh(&dir);
    let ino = fs.resolve(b"/conf").unwrap();
    assert_eq!(fs.read_now(ino, 0, 100).unwrap(), b"new bytes");
    assert!(fs.getattr(old).is_err());
}

#[test]
fn an_unlinked_file_lives_until_it_is_closed() {
    let dir = tempfile::tempdir().unwrap();
    let fs = fresh(&dir);
    let ino = create(&fs, b"tmp");
    fs.open_handle(ino).unwrap();
    fs.write(ino, 0, b"still here", false).unwrap();
    fs.unlink(Ino::ROOT, b"tmp").unwrap();
    assert_eq!(fs.getattr(ino).unwrap().nlink, 0);
    assert_eq!(fs.read_now(ino, 0, 100).unwrap(), b"still here");
    fs.release(ino).unwrap();
    assert!(matches!(fs.getattr(ino), Err(FsError::NotFound)));
    // One that a crash left behind goes at the next mount.
    let ino = create(&fs, b"tmp");
    fs.open_handle(ino).unwrap();
    fs.unlink(Ino::ROOT, b"tmp").unwrap();
    fs.flush_all().unwrap();
    drop(fs);
    assert!(fresh(&dir).getattr(ino).is_err());
}

#[test]
fn directories_count_their_links_and_refuse_loops() {
    let dir = tempfile::tempdir().unwrap();
    let fs = fresh(&dir);
    let a = fs.make(Ino::ROOT, b"a", file(DIR)).unwrap().ino;
    let b = fs.make(a, b"b", file(DIR)).unwrap().ino;
    assert_eq!(fs.getattr(Ino::ROOT).unwrap().nlink, 3);
    let down = fs.rename(Ino::ROOT, b"a", b, b"a", RenameHow::Replace);
    assert!(matches!(down, Err(FsError::Invalid(_))));
    fs.rename(a, b"b", Ino::ROOT, b"b", RenameHow::NoReplace).unwrap();
    assert_eq!(fs.getattr(Ino::ROOT).unwrap().nlink, 4);
    assert_eq!((fs.getattr(a).unwrap().nlink, fs.getattr(b).unwrap().parent), (2, 1));
    fs.rename(Ino::ROOT, b"a", b, b"a", RenameHow::Replace).unwrap();
    assert!(matches!(fs.rmdir(Ino::ROOT, b"b"), Err(FsError::NotEmpty)));
    fs.rmdir(b, b"a").unwrap();
    fs.rmdir(Ino::ROOT, b"b").unwrap();
    assert_eq!(fs.getattr(Ino::ROOT).unwrap().nlink, 2);
}

#[test]
fn names_take_any_bytes_up_to_255() {
    let dir = tempfile::tempdir().unwrap();
    let fs = fresh(&dir);
    let long = [0xff; 255];
    create(&fs, &long);
    assert!(fs.find(Ino::ROOT, &long).is_ok());
    let e = fs.make(Ino::ROOT, &[b'x'; 256], file(REG));
    assert!(matches!(e, Err(FsError::NameTooLong)));
}

#[test]
fn chown_and_writes_of_others_drop_set_id_bits() {
    let dir = tempfile::tempdir().unwrap();
    let fs = fresh(&dir);
    let ino = create(&fs, b"su");
    let mode = |m| SetAttr { mode: Some(m), ..SetAttr::default() };
    fs.setattr(ino, mode(0o6755)).unwrap();
    fs.setattr(ino, SetAttr { uid: Some(5), ..SetAttr::default() }).unwrap();
    assert_eq!(fs.getattr(ino).unwrap().mode & 0o7777, 0o755);
    type Change<'a> = &'a dyn Fn(bool) -> Result<()>;
    let fs = &fs;
    let cut = |privileged| SetAttr { size: Some(3), privileged, ..SetAttr::default() };
    let allocate = |how| move |drop| fs.fallocate(ino, 0, 9, how, drop);
    let keep = libc::FALLOC_FL_KEEP_SIZE;
    let changes: [Change<'_>; 8] = [
        &|drop| fs.write(ino, 0, b"x", drop),
        &|drop| fs.copy((ino, 0), (ino, 5), 1, drop).map(|_| ()),
        &|drop| fs.setattr(ino, cut(!drop)).map(|_| ()),
        &allocate(0),
        &allocate(keep),
        &allocate(keep | libc::FALLOC_FL_PUNCH_HOLE),
        &allocate(libc::FALLOC_FL_ZERO_RANGE),
        &allocate(keep | libc::FALLOC_FL_ZERO_RANGE),
    ];
    for (n, change) in changes.iter().enumerate() {
        for (before, drop, after) in
            [(0o6755, true, 0o755), (0o6745, true, 0o2745), (0o6755, false, 0o6755)]
        {
            fs.setattr(ino, mode(before)).unwrap();
            change(drop).unwrap();
            assert_eq!(fs.getattr(ino).unwrap().mode & 0o7777, after, "{n} {before:o}");
            fs.flush_all().unwrap();
            assert_eq!(fs.store.inode(ino).unwrap().unwrap().mode & 0o7777, after, "{n}");
        }
    }
}

#[test]
fn access_times_follow_relatime() {
    let dir = tempfile::tempdir().unwrap();
    let fs = fresh(&dir);
    let ino = create(&fs, b"f");
    let at = |sec| Some(Time { sec, nsec: 5 });
    fs.setattr(ino, SetAttr { atime: at(1), mtime: at(2), ..SetAttr::default() }).unwrap();
    assert_eq!(fs.getattr(ino).unwrap().atime, Time { sec: 1, nsec: 5 });
    fs.read(ino, 0, 10, |r| assert!(r.is_ok()));
    let read = fs.getattr(ino).unwrap().atime;
    assert!(read.sec > 1);
    fs.read(ino, 0, 10, |r| assert!(r.is_ok()));
    assert_eq!(fs.getattr(ino).unwrap().atime, read);
}

#[test]
fn extended_attributes_obey_their_rules() {
    let dir = tempfile::tempdir().unwrap();
    let fs = fresh(&dir);
    let d = fs.make(Ino::ROOT, b"d", file(DIR)).unwrap().ino;
    fs.setxattr(d, b"user.lmfs.model", b"off", SetHow::Put).unwrap();
    let f = fs.make(d, b"f", file(REG)).unwrap().ino;
    assert_eq!(fs.getxattr(f, b"user.lmfs.model").unwrap(), b"off");
    let bad = fs.setxattr(f, b"user.lmfs.model", b"no-such", SetHow::Put);
    assert!(matches!(bad, Err(FsError::Invalid(_))));
    fs.setxattr(f, b"user.x", b"1", SetHow::Create).unwrap();
    assert!(matches!(fs.setxattr(f, b"user.x", b"2", SetHow::Create), Err(FsError::Exists)));
    assert!(matches!(fs.setxattr(f, b"user.y", b"2", SetHow::Replace), Err(FsError::NoAttr)));
    assert!(matches!(fs.getxattr(f, b"system.other"), Err(FsError::NotSupported)));
    fs.write(f, 0, &[b'a'; 1000], false).unwrap();
    fs.flush(f).unwrap();
    assert_eq!(fs.getxattr(f, b"user.lmfs.codecs").unwrap(), b"staged:1");
    assert!(fs.getxattr(f, b"user.lmfs.coded_size").is_ok());
    let virtual_set = fs.setxattr(f, b"user.lmfs.ratio", b"9", SetHow::Put);
    assert!(matches!(virtual_set, Err(FsError::NotPermitted(_))));
    let names = fs.listxattr(f).unwrap();
    assert_eq!(names, b"user.lmfs.model\0user.x\0");
    fs.removexattr(f, b"user.x").unwrap();
    assert!(matches!(fs.getxattr(f, b"user.x"), Err(FsError::NoAttr)));
}

#[test]
fn directory_offsets_stay_valid_while_names_go() {
    let dir = tempfile::tempdir().unwrap();
    let fs = fresh(&dir);
    for n in 0..100u32 {
        create(&fs, format!("f{n}").as_bytes());
    }
    let (mut after, mut seen) = (2, 0);
    loop {
        let batch = fs.readdir(Ino::ROOT, after, 7).unwrap();
        for d in &batch {
            fs.unlink(Ino::ROOT, &d.name).unwrap();
            after = d.cookie;
            seen += 1;
        }
        if batch.is_empty() {
            break;
        }
    }
    assert_eq!(seen, 100);
}

/// Who renames what it reads comes to an end, and has seen every file once.
#[test]
fn renamed_files_keep_their_place_in_the_directory() {
    let dir = tempfile::tempdir().unwrap();
    let fs = fresh(&dir);
    let files: Vec<Ino> = (0..100u32).map(|n| create(&fs, format!("f{n}").as_bytes())).collect();
    let rename = |from: &[u8], to: &[u8]| {
        fs.rename(Ino::ROOT, from, Ino::ROOT, to, RenameHow::Replace).unwrap();
    };
    let (mut after, mut seen) = (2, Vec::new());
    loop {
        let batch = fs.readdir(Ino::ROOT, after, 7).unwrap();
        for d in &batch {
            let other = [b"new ", &*d.name].concat();
            match d.ino.0 % 3 {
                0 => rename(&d.name, &other),
                1 => {
                    rename(&d.name, b"for a while");
                    rename(b"for a while", &d.name);
                }
                // As editors do: a new file takes the place of the old one.
                _ => {
                    create(&fs, &other);
                    rename(&other, &d.name);
                }
            }
            after = d.cookie;
            seen.push(d.ino);
        }
        if batch.is_empty() || seen.len() > 200 {
            break;
        }
    }
    assert_eq!(seen, files);
    let names = fs.readdir(Ino::ROOT, 2, 200).unwrap();
    assert_eq!(names.len(), 100);
    for d in names {
        assert_eq!(fs.lookup(Ino::ROOT, &d.name).unwrap().ino, d.ino);
    }
}

#[test]
fn damage_costs_the_range_it_hit_and_no_more() {
    let dir = tempfile::tempdir().unwrap();
    let fs = fresh(&dir);
    let ino = create(&fs, b"f");
    let bytes: Vec<u8> = (0..4 * 131_072u32).flat_map(u32::to_le_bytes).collect();
    fs.write(ino, 0, &bytes, false).unwrap();
    fs.fsync(ino).unwrap();
    let extents = fs.store().extents_in(ino, 0, u64::MAX).unwrap();
    let hit = extents[extents.len() / 2];
    let path = dir.path().join(format!("s/segments/{:08}.seg", hit.frame.segment));
    let segment = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
    let middle = u64::from(hit.frame.offset) + u64::from(hit.frame.len / 2);
    // More than error correction mends.
    let wipe = vec![0x55; hit.frame.len as usize / 3];
    std::os::unix::fs::FileExt::write_all_at(&segment, &wipe, middle).unwrap();
    let broken = fs.read_now(ino, hit.off, 4096);
    assert!(matches!(broken, Err(FsError::Damaged { offset, .. }) if offset == hit.off));
    for e in extents.iter().filter(|e| **e != hit) {
        let got = fs.read_now(ino, e.off, e.len).unwrap();
        assert!(got == bytes[e.off as usize..e.end() as usize]);
    }
}

#[test]
fn concurrent_writers_and_a_coder_lose_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let fs = fresh(&dir);
    let ino = create(&fs, b"f");
    std::thread::scope(|s| {
        for t in 0..4u64 {
            let fs = &fs;
            s.spawn(move || {
                for n in 0..50u64 {
                    let off = (n * 4 + t) * 10_000;
                    fs.write(ino, off, &pattern(10_000, (n * 4 + t) as u8), false).unwrap();
                    if n % 10 == t {
                        fs.fsync(ino).unwrap();
                        fs.recoder().settle(None, &mut |_, _| {}).unwrap();
                    }
                }
            });
        }
    });
    for n in 0..200u64 {
        let got = fs.read_now(ino, n * 10_000, 10_000).unwrap();
        assert!(got == pattern(10_000, n as u8), "piece {n}");
    }
}
