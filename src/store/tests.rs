//! Tests of the store as a whole: against a model, across crashes, with failing files.

use super::io::{Blob, Volume};
use super::*;
use crate::types::{Form, Time};
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::io::{Error, ErrorKind, Result as IoResult};

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

fn data(ino: Ino, off: u64, bytes: &[u8], generation: u64) -> NewFrame {
    NewFrame {
        ino,
        off,
        form: Form::Raw,
        staged: true,
        generation,
        plain_len: bytes.len() as u32,
        plain_hash: crate::block::plain_hash(bytes),
        primer: 0,
        model: 0,
        payload: bytes.to_vec(),
    }
}

fn write(store: &Store, ino: Ino, off: u64, bytes: &[u8]) -> Result<()> {
    let frame = data(ino, off, bytes, store.next_generation());
    let txn = Txn { frames: vec![frame], ops: vec![Op::PutExtent { frame: 0 }], guard: None };
    store.append(txn).map(drop)
}

fn create(store: &Store, name: &[u8]) -> Result<Ino> {
    let ino = store.next_ino();
    let dirent = Op::PutDirent { parent: Ino::ROOT, name: name.to_vec(), ino, kind: libc::S_IFREG };
    store.append(Txn { ops: vec![Op::PutInode(ino, attr(0)), dirent], ..Txn::default() })?;
    Ok(ino)
}

/// The bytes of an inode, holes as zeros, up to `len`.
fn contents(store: &Store, ino: Ino, len: usize) -> Result<Vec<u8>> {
    let mut out = vec![0; len];
    for e in store.extents_in(ino, 0, len as u64)? {
        let f = store.read_frame(e.frame)?;
        assert_eq!((f.ino, f.generation), (ino, e.generation));
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
    let txn = Txn {
        frames: vec![data(ino, 0, b"HELLO", 1)],
        ops: vec![Op::PutExtent { frame: 0 }],
        guard: Some(Guard { ino, off: 0, len: 5, expect }),
    };
    assert!(matches!(store.append(txn), Err(StoreError::Conflict)));
    assert_eq!(contents(&store, ino, 5).unwrap(), b"hEllo");
}

#[test]
fn a_primer_lives_as_long_as_it_is_named() {
    let dir = made();
    let store = open(dir.path());
    let ino = create(&store, b"a").unwrap();
    let id = store.next_ino().0;
    let named = |off, bytes: &[u8]| NewFrame { primer: id, ..data(ino, off, bytes, 1) };
    store
        .append(Txn {
            frames: vec![data(ino, 0, b"sample", 1), named(0, b"one")],
            ops: vec![Op::PutPrimer { id, frame: 0 }, Op::PutExtent { frame: 1 }],
            guard: None,
        })
        .unwrap();
    let again =
        Txn { frames: vec![named(0, b"two")], ops: vec![Op::PutExtent { frame: 0 }], guard: None };
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
fn damage_is_noticed_and_touches_nothing_else() {
    let dir = made();
    let store = open(dir.path());
    let (a, b) = (create(&store, b"a").unwrap(), create(&store, b"b").unwrap());
    write(&store, a, 0, &[1; 5000]).unwrap();
    write(&store, b, 0, &[2; 5000]).unwrap();
    let at = store.extents_in(a, 0, 1).unwrap()[0].frame;
    store.close().unwrap();
    drop(store);
    let file = dir.path().join(log::segment_path(at.segment));
    let mut bytes = std::fs::read(&file).unwrap();
    bytes[at.offset as usize + 2000] ^= 1;
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

/// Files in memory that can lose what was not synced, run full, and fail.
#[derive(Debug, Default)]
struct MemVolume {
    files: Mutex<BTreeMap<String, Arc<MemBlob>>>,
    full: AtomicBool,
}

#[derive(Debug, Default)]
struct MemBlob {
    inner: Mutex<MemInner>,
    fail_sync: AtomicBool,
    full: AtomicBool,
}

#[derive(Debug, Default, Clone)]
struct MemInner {
    bytes: Vec<u8>,
    synced: Vec<u8>,
    /// Writes since the last sync.
    pending: Vec<(usize, Vec<u8>)>,
    allocated: usize,
}

impl Volume for MemVolume {
    fn create(&self, path: &str) -> IoResult<Arc<dyn Blob>> {
        let blob = Arc::new(MemBlob::default());
        lock(&self.files).insert(path.into(), Arc::clone(&blob));
        Ok(blob)
    }
    fn open(&self, path: &str, _write: bool) -> IoResult<Arc<dyn Blob>> {
        let files = lock(&self.files);
        let blob = files.get(path).ok_or_else(|| Error::from(ErrorKind::NotFound))?;
        Ok(Arc::clone(blob) as Arc<dyn Blob>)
    }
    fn list(&self, dir: &str) -> IoResult<Vec<String>> {
        let prefix = format!("{dir}/");
        let files = lock(&self.files);
        Ok(files.keys().filter_map(|k| k.strip_prefix(&prefix).map(String::from)).collect())
    }
    fn mkdir(&self, _dir: &str) -> IoResult<()> {
        Ok(())
    }
    fn remove(&self, path: &str) -> IoResult<()> {
        lock(&self.files).remove(path);
        Ok(())
    }
    fn sync_dir(&self, _dir: &str) -> IoResult<()> {
        Ok(())
    }
    fn free_bytes(&self) -> IoResult<u64> {
        Ok(if self.full.load(Ordering::SeqCst) { 0 } else { 1 << 40 })
    }
}

impl Blob for MemBlob {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> IoResult<usize> {
        let inner = lock(&self.inner);
        let from = (offset as usize).min(inner.bytes.len());
        let n = buf.len().min(inner.bytes.len() - from);
        buf[..n].copy_from_slice(&inner.bytes[from..from + n]);
        Ok(n)
    }
    fn write_at(&self, data: &[u8], offset: u64) -> IoResult<()> {
        let mut inner = lock(&self.inner);
        let end = offset as usize + data.len();
        if self.full.load(Ordering::SeqCst) && end > inner.allocated {
            return Err(Error::from_raw_os_error(libc::ENOSPC));
        }
        if inner.bytes.len() < end {
            inner.bytes.resize(end, 0);
        }
        inner.bytes[offset as usize..end].copy_from_slice(data);
        inner.pending.push((offset as usize, data.to_vec()));
        Ok(())
    }
    fn sync(&self) -> IoResult<()> {
        if self.fail_sync.load(Ordering::SeqCst) {
            return Err(Error::from_raw_os_error(libc::EIO));
        }
        let mut inner = lock(&self.inner);
        inner.synced = inner.bytes.clone();
        inner.pending.clear();
        Ok(())
    }
    fn truncate(&self, len: u64) -> IoResult<()> {
        let mut inner = lock(&self.inner);
        inner.bytes.resize(len as usize, 0);
        inner.allocated = len as usize;
        Ok(())
    }
    fn len(&self) -> IoResult<u64> {
        Ok(lock(&self.inner).bytes.len() as u64)
    }
    fn allocate(&self, end: u64) -> IoResult<()> {
        if self.full.load(Ordering::SeqCst) {
            return Err(Error::from_raw_os_error(libc::ENOSPC));
        }
        lock(&self.inner).allocated = end as usize;
        Ok(())
    }
}

impl MemVolume {
    /// What a power loss may leave: of the writes not synced, those that `keep` says, torn at 512
    /// bytes where it says.
    fn crashed(&self, mut keep: impl FnMut() -> u8) -> Arc<Self> {
        let files = lock(&self.files);
        let mut survive = |b: &MemBlob| {
            let inner = lock(&b.inner);
            let mut bytes = inner.synced.clone();
            for (at, data) in &inner.pending {
                for (n, sector) in data.chunks(512).enumerate() {
                    if keep() % 4 != 0 {
                        let from = at + n * 512;
                        if bytes.len() < from + sector.len() {
                            bytes.resize(from + sector.len(), 0);
                        }
                        bytes[from..from + sector.len()].copy_from_slice(sector);
                    }
                }
            }
            let inner = MemInner { synced: bytes.clone(), bytes, ..MemInner::default() };
            Arc::new(MemBlob { inner: Mutex::new(inner), ..MemBlob::default() })
        };
        let files = files.iter().map(|(k, b)| (k.clone(), survive(b))).collect();
        Arc::new(Self { files: Mutex::new(files), ..Self::default() })
    }

    fn set_full(&self, full: bool) {
        self.full.store(full, Ordering::SeqCst);
        for b in lock(&self.files).values() {
            b.full.store(full, Ordering::SeqCst);
        }
    }
}

fn mem_store() -> (tempfile::TempDir, Arc<MemVolume>, Arc<Store>) {
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
    store.append(Txn { ops: vec![Op::DelInode(a)], ..Txn::default() }).unwrap();
    store.sync().unwrap();
    volume.set_full(false);
    create(&store, b"b").unwrap();
    store.sync().unwrap();
}

#[test]
fn a_failed_sync_is_never_forgotten() {
    let (_dir, volume, store) = mem_store();
    let a = create(&store, b"a").unwrap();
    for b in lock(&volume.files).values() {
        b.fail_sync.store(true, Ordering::SeqCst);
    }
    assert!(store.sync().is_err());
    for b in lock(&volume.files).values() {
        b.fail_sync.store(false, Ordering::SeqCst);
    }
    assert!(store.sync().is_err());
    assert!(write(&store, a, 0, b"x").is_err());
    assert!(store.inode(a).unwrap().is_some());
}

/// One step of a random history.
#[derive(Debug, Clone)]
enum Step {
    Create(u8),
    Unlink(u8),
    Write(u8, u16, u8, u16),
    Punch(u8, u16, u16),
    Xattr(u8, u8),
    Sync,
    Clean,
    Reopen,
    LoseIndex,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => (0..6u8).prop_map(Step::Create),
        1 => (0..6u8).prop_map(Step::Unlink),
        6 => (0..6u8, 0..3000u16, any::<u8>(), 1..2000u16).prop_map(|(f, o, b, n)| Step::Write(f, o, b, n)),
        2 => (0..6u8, 0..3000u16, 1..3000u16).prop_map(|(f, o, n)| Step::Punch(f, o, n)),
        1 => (0..6u8, any::<u8>()).prop_map(|(f, v)| Step::Xattr(f, v)),
        2 => Just(Step::Sync),
        1 => Just(Step::Clean),
        1 => Just(Step::Reopen),
        1 => Just(Step::LoseIndex),
    ]
}

const LEN: usize = 5000;
type Files = BTreeMap<u8, (Vec<u8>, Option<u8>)>;

fn state_of(store: &Store) -> Files {
    let mut out = Files::new();
    for d in store.dirents(Ino::ROOT, 0, usize::MAX).unwrap() {
        let x = store.xattr(d.ino, b"user.x").unwrap().map(|v| v[0]);
        out.insert(d.name[0], (contents(store, d.ino, LEN).unwrap(), x));
    }
    out
}

/// Does one step to the store and to the model.
fn perform(store: &Store, model: &mut Files, s: &Step) {
    let ino = |f: u8| store.dirent(Ino::ROOT, &[f]).unwrap().map(|d| d.ino);
    match *s {
        Step::Create(f) => {
            if ino(f).is_none() {
                create(store, &[f]).unwrap();
                model.insert(f, (vec![0; LEN], None));
            }
        }
        Step::Unlink(f) => {
            if let Some(i) = ino(f) {
                let name = vec![f];
                let ops = vec![Op::DelDirent { parent: Ino::ROOT, name }, Op::DelInode(i)];
                store.append(Txn { ops, ..Txn::default() }).unwrap();
                model.remove(&f);
            }
        }
        Step::Write(f, off, byte, n) => {
            if let Some(i) = ino(f) {
                write(store, i, off.into(), &vec![byte; n as usize]).unwrap();
                model.get_mut(&f).unwrap().0[off as usize..(off + n) as usize].fill(byte);
            }
        }
        Step::Punch(f, off, n) => {
            if let Some(i) = ino(f) {
                let op = Op::Punch { ino: i, off: off.into(), len: n.into() };
                store.append(Txn { ops: vec![op], ..Txn::default() }).unwrap();
                let end = usize::from(off + n).min(LEN);
                model.get_mut(&f).unwrap().0[off.into()..end].fill(0);
            }
        }
        Step::Xattr(f, v) => {
            if let Some(i) = ino(f) {
                let op = Op::PutXattr(i, b"user.x".to_vec(), vec![v]);
                store.append(Txn { ops: vec![op], ..Txn::default() }).unwrap();
                model.get_mut(&f).unwrap().1 = Some(v);
            }
        }
        Step::Sync | Step::Clean | Step::Reopen | Step::LoseIndex => {}
    }
}

fn check_sums(store: &Store) {
    let frames = store.live_frames().unwrap();
    let bytes: u64 = frames.iter().map(|(f, ..)| u64::from(f.len)).sum();
    let s = store.stats().unwrap();
    assert_eq!((frames.len() as u64, bytes), (s.frames, s.coded_bytes + s.staged_bytes));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn the_store_agrees_with_a_map(steps in proptest::collection::vec(step(), 1..60)) {
        let dir = made();
        let mut store = open(dir.path());
        let mut model = Files::new();
        for s in &steps {
            perform(&store, &mut model, s);
            match s {
                Step::Sync => store.sync().unwrap(),
                Step::Clean => drop(store.clean(20).unwrap()),
                Step::Reopen | Step::LoseIndex => {
                    store.close().unwrap();
                    drop(store);
                    if matches!(s, Step::LoseIndex) {
                        let _ = std::fs::remove_dir_all(dir.path().join("index"));
                    }
                    store = open(dir.path());
                }
                _ => {}
            }
            check_sums(&store);
        }
        prop_assert_eq!(state_of(&store), model);
    }

    /// After a power loss the state is that after some transaction at or past the last sync.
    #[test]
    fn a_crash_leaves_a_prefix_that_holds_all_that_was_synced(
        steps in proptest::collection::vec(step(), 1..60),
        seed in any::<u64>(),
    ) {
        let (dir, volume, store) = mem_store();
        let mut model = Files::new();
        let mut history = vec![model.clone()];
        let mut synced = 0;
        for s in &steps {
            perform(&store, &mut model, s);
            history.push(model.clone());
            match s {
                Step::Sync => {
                    store.sync().unwrap();
                    synced = history.len() - 1;
                }
                Step::Clean => {
                    store.clean(20).unwrap();
                    store.sync().unwrap();
                    synced = history.len() - 1;
                }
                // A group without a sync: it may be torn.
                Step::Reopen => {
                    let mut w = lock(&store.writer);
                    w.close_group(store.durable.load(Ordering::SeqCst)).unwrap();
                    w.flush().unwrap();
                }
                _ => {}
            }
        }
        let mut x = seed | 1;
        let after = volume.crashed(|| {
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
            (x >> 32) as u8
        });
        drop(store);
        let dir2 = tempfile::tempdir().unwrap();
        let store = open::open(dir2.path(), &OpenOptions::default(), after).unwrap();
        let got = state_of(&store);
        prop_assert!(history[synced..].contains(&got), "lost what was synced at {synced}: {got:?}");
        check_sums(&store);
        create(&store, b"z").unwrap();
        store.sync().unwrap();
        drop(dir);
    }
}
