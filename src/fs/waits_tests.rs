//! `stat` and look-ups while others wait for a slow disk or a slow index.

use super::*;
use crate::store::tests::waits::{SOON, make_slow, meanwhile, slow_index, slow_store, worst};

fn options() -> FsOptions {
    let recode = RecodeOptions { rest: Duration::from_secs(3600), threads: 1, enabled: false };
    FsOptions { commit: Duration::from_secs(3600), recode, ..FsOptions::default() }
}

fn create(fs: &Fs, name: &[u8]) -> Ino {
    let new = NewInode { uid: 1, gid: 2, ..NewInode::of(libc::S_IFREG | 0o644) };
    fs.make(Ino::ROOT, name, new).unwrap().ino
}

/// The longest `stat` of a file that is written to, of another, and of their directory.
fn stats(fs: &Fs, busy: Ino) -> Duration {
    worst(Duration::from_millis(1500), || {
        fs.entry(busy).unwrap();
        fs.lookup(Ino::ROOT, b"other").unwrap();
        fs.entry(Ino::ROOT).unwrap();
    })
}

#[test]
fn stat_does_not_wait_for_a_slow_disk() {
    let (_dir, plan, store) = slow_store();
    let fs = Fs::open(store, options()).unwrap();
    let (busy, _other) = (create(&fs, b"busy"), create(&fs, b"other"));
    fs.flush_all().unwrap();
    make_slow(&plan, true);
    let text = vec![b'x'; 1 << 20];
    let stream = meanwhile(
        || {
            for n in 0..20 {
                fs.write(busy, n << 20, &text, false).unwrap();
            }
            fs.fsync(busy).unwrap();
        },
        || stats(&fs, busy),
    );
    let cut = meanwhile(
        || {
            fs.write(busy, 0, &text, false).unwrap();
            fs.setattr(busy, SetAttr { size: Some(10), ..SetAttr::default() }).unwrap();
            fs.store().sync().unwrap();
        },
        || stats(&fs, busy),
    );
    let names = meanwhile(
        || {
            std::thread::scope(|s| {
                s.spawn(|| fs.store().renew_checkpoint().unwrap());
                create(&fs, b"new");
                fs.unlink(Ino::ROOT, b"new").unwrap();
            });
        },
        || stats(&fs, busy),
    );
    make_slow(&plan, false);
    let worst = stream.max(cut).max(names);
    assert!(worst < SOON, "while written {stream:?}, cut {cut:?}, while names change {names:?}");
}

#[test]
fn stat_does_not_wait_for_another_files_look_up() {
    let (_dir, _plan, store) = slow_store();
    let fs = Fs::open(Arc::clone(&store), options()).unwrap();
    let (busy, cold) = (create(&fs, b"busy"), create(&fs, b"cold"));
    fs.flush_all().unwrap();
    slow_index(&store, Duration::from_millis(200));
    fs.open_handle(busy).unwrap();
    let worst = meanwhile(
        || drop(fs.entry(cold)),
        || worst(Duration::from_millis(800), || assert!(fs.entry(busy).is_ok())),
    );
    assert!(worst < SOON, "{worst:?}");
}
