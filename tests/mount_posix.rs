//! Through the kernel: what docs/semantics.md promises, by real system calls on a real mount.

use lmfs::fs::{Fs, FsOptions};
use lmfs::fuse::{self, MountOptions, Session};
use lmfs::store::{Ecc, MkfsOptions, OpenOptions, Store};
use std::ffi::CString;
use std::fs::{self, File, OpenOptions as Open};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

fn mount_options(source: &str) -> MountOptions {
    MountOptions {
        read_only: false,
        allow_other: false,
        allow_root: false,
        default_permissions: true,
        threads: 4,
        source: source.into(),
        extra: Vec::new(),
    }
}

struct Mounted {
    scratch: tempfile::TempDir,
    fs: Arc<Fs>,
    session: Option<Session>,
}

impl Mounted {
    /// `None`, said aloud, where nothing can be mounted.
    fn new() -> Option<Self> {
        Self::at(Self::made(), &mount_options("a,b"))
    }

    fn made() -> tempfile::TempDir {
        let scratch = tempfile::tempdir().expect("scratch directory");
        let mkfs = MkfsOptions { block_size: None, model: "fast".into(), ecc: Ecc::Standard };
        Store::create(&scratch.path().join("store"), &mkfs).expect("mkfs");
        fs::create_dir(scratch.path().join("mnt")).expect("mount point");
        scratch
    }

    fn at(scratch: tempfile::TempDir, mount: &MountOptions) -> Option<Self> {
        if !Path::new("/dev/fuse").exists() {
            eprintln!("SKIPPED: /dev/fuse is missing");
            return None;
        }
        let options = OpenOptions::default();
        let store = Store::open(&scratch.path().join("store"), &options).expect("store");
        let fs = Fs::open(store, FsOptions::default()).expect("file system");
        let dir = scratch.path().join("mnt");
        let session = fuse::mount(Arc::clone(&fs), &dir, mount).expect("mount");
        Some(Self { scratch, fs, session: Some(session) })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.scratch.path().join("mnt").join(name)
    }

    fn stop(&mut self) {
        if let Some(session) = self.session.take() {
            session.unmounter().unmount().expect("unmount");
            session.wait().expect("session");
            self.fs.shutdown().expect("shutdown");
        }
    }

    fn remount(mut self) -> Self {
        self.stop();
        let scratch = std::mem::replace(&mut self.scratch, tempfile::tempdir().expect("scratch"));
        drop(self);
        Self::at(scratch, &mount_options("a,b")).expect("second mount")
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if let Some(session) = self.session.take() {
            let _ = session.unmounter().unmount();
            let _ = session.wait();
        }
    }
}

fn errno(e: &std::io::Error) -> i32 {
    e.raw_os_error().unwrap_or(0)
}

fn c(path: &Path) -> CString {
    CString::new(path.as_os_str().as_bytes()).expect("path")
}

#[test]
fn the_mount_shows_its_type_and_survives_a_remount() {
    let Some(m) = Mounted::new() else { return };
    let mounts = fs::read_to_string("/proc/mounts").expect("mounts");
    let line = mounts
        .lines()
        .find(|l| l.contains(m.path("").to_str().expect("utf-8").trim_end_matches('/')));
    assert!(line.expect("mounted").starts_with("a,b "), "{line:?}");
    assert!(line.expect("mounted").contains(" fuse.lmfs "), "{line:?}");
    let text: Vec<u8> = (0..200_000u32).flat_map(|i| format!("line {i}\n").into_bytes()).collect();
    fs::write(m.path("log"), &text).expect("write");
    fs::create_dir(m.path("d")).expect("mkdir");
    std::os::unix::fs::symlink("log", m.path("d/link")).expect("symlink");
    let m = m.remount();
    assert!(fs::read(m.path("log")).expect("read") == text);
    assert_eq!(fs::read_link(m.path("d/link")).expect("readlink"), Path::new("log"));
}

#[test]
fn mounting_on_a_file_is_refused() {
    let Some(mut m) = Mounted::new() else { return };
    m.stop();
    let file = m.scratch.path().join("mnt/x");
    File::create(&file).expect("file");
    let file = fuse::mount(Arc::clone(&m.fs), &file, &mount_options("s")).expect_err("file");
    assert!(file.to_string().contains("not a directory"), "{file}");
}

#[test]
fn a_busy_mount_says_so() {
    let Some(m) = Mounted::new() else { return };
    let open = File::create(m.path("f")).expect("create");
    let e = fuse::unmount(&m.path("")).expect_err("busy");
    assert_eq!(errno(&e), libc::EBUSY);
    drop(open);
}

#[test]
fn appends_truncations_and_patches() {
    let Some(m) = Mounted::new() else { return };
    let path = m.path("f");
    for n in 0..100 {
        let mut f = Open::new().create(true).append(true).open(&path).expect("open");
        writeln!(f, "{n:09}").expect("append");
    }
    let f = Open::new().read(true).write(true).open(&path).expect("open");
    assert_eq!(f.metadata().expect("stat").len(), 1000);
    f.write_all_at(b"patched", 500).expect("patch");
    f.set_len(600).expect("truncate");
    f.set_len(2000).expect("extend");
    let bytes = fs::read(&path).expect("read");
    assert_eq!(&bytes[490..510], b"000000049\npatched50\n");
    assert!(bytes[600..].iter().all(|b| *b == 0) && bytes.len() == 2000);
}

#[test]
fn renames_through_the_kernel() {
    let Some(m) = Mounted::new() else { return };
    fs::write(m.path("a"), "a").expect("write");
    fs::write(m.path("b"), "b").expect("write");
    let rename = |flags: u32| {
        // SAFETY: valid C strings.
        let r = unsafe {
            libc::renameat2(
                libc::AT_FDCWD,
                c(&m.path("a")).as_ptr(),
                libc::AT_FDCWD,
                c(&m.path("b")).as_ptr(),
                flags,
            )
        };
        if r == 0 { 0 } else { errno(&std::io::Error::last_os_error()) }
    };
    assert_eq!(rename(libc::RENAME_NOREPLACE), libc::EEXIST);
    assert_eq!(rename(libc::RENAME_EXCHANGE), 0);
    assert_eq!(fs::read(m.path("a")).expect("read"), b"b");
    assert_eq!(rename(0), 0);
    assert_eq!(fs::read(m.path("b")).expect("read"), b"b");
    // As the upper layer of an overlay wants it.
    fs::write(m.path("a"), "again").expect("write");
    assert_eq!(rename(libc::RENAME_WHITEOUT), 0);
    assert_eq!(fs::read(m.path("b")).expect("read"), b"again");
    let left = fs::symlink_metadata(m.path("a")).expect("stat");
    assert_eq!((left.mode() & libc::S_IFMT, left.rdev(), left.nlink()), (libc::S_IFCHR, 0, 1));
    fs::create_dir_all(m.path("d/e")).expect("mkdir");
    let e = fs::rename(m.path("d"), m.path("d/e/d")).expect_err("loop");
    assert_eq!(errno(&e), libc::EINVAL);
    fs::create_dir(m.path("x")).expect("mkdir");
    assert_eq!(errno(&fs::rename(m.path("x"), m.path("d")).expect_err("full")), libc::ENOTEMPTY);
}

#[test]
fn an_unlinked_file_is_still_there_for_its_descriptor() {
    let Some(m) = Mounted::new() else { return };
    let mut f = Open::new()
        .create(true)
        .truncate(true)
        .read(true)
        .write(true)
        .open(m.path("t"))
        .expect("open");
    f.write_all(b"gone but here").expect("write");
    fs::remove_file(m.path("t")).expect("unlink");
    f.write_all(b", still").expect("write");
    f.seek(SeekFrom::Start(0)).expect("seek");
    let mut text = String::new();
    f.read_to_string(&mut text).expect("read");
    assert_eq!(text, "gone but here, still");
    assert_eq!(f.metadata().expect("stat").nlink(), 0);
}

#[test]
fn sparse_files_through_the_kernel() {
    let Some(m) = Mounted::new() else { return };
    let f = File::create(m.path("s")).expect("create");
    f.write_all_at(b"x", 1 << 40).expect("write");
    f.sync_all().expect("fsync");
    // SAFETY: an open descriptor.
    let seek = |off, whence| unsafe { libc::lseek(f.as_raw_fd(), off, whence) };
    assert_eq!(seek(0, libc::SEEK_DATA), 1 << 40);
    assert_eq!(seek(0, libc::SEEK_HOLE), 0);
    assert!(f.metadata().expect("stat").blocks() < 16);
    f.write_all_at(&vec![7; 100_000], 0).expect("write");
    let punch = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
    // SAFETY: an open descriptor.
    assert_eq!(unsafe { libc::fallocate(f.as_raw_fd(), punch, 10_000, 50_000) }, 0);
    let mut bytes = vec![1; 100_000];
    File::open(m.path("s")).expect("open").read_exact_at(&mut bytes, 0).expect("read");
    let holed = |i: usize| (10_000..60_000).contains(&i);
    assert!(bytes.iter().enumerate().all(|(i, b)| *b == if holed(i) { 0 } else { 7 }));
    // SAFETY: an open descriptor.
    let collapse = unsafe { libc::fallocate(f.as_raw_fd(), 8, 0, 4096) };
    assert_eq!((collapse, errno(&std::io::Error::last_os_error())), (-1, libc::EOPNOTSUPP));
}

#[test]
fn times_through_the_kernel() {
    let Some(m) = Mounted::new() else { return };
    fs::write(m.path("f"), "x").expect("write");
    for (sec, nsec) in [(1_000_000_000, 123_456_789), (-5, 250_000_000), (1 << 33, 1)] {
        let t = libc::timespec { tv_sec: sec, tv_nsec: nsec };
        // SAFETY: a valid C string and two times.
        let r = unsafe {
            libc::utimensat(libc::AT_FDCWD, c(&m.path("f")).as_ptr(), [t, t].as_ptr(), 0)
        };
        assert_eq!(r, 0);
        let meta = fs::metadata(m.path("f")).expect("stat");
        assert_eq!((meta.mtime(), meta.mtime_nsec()), (sec, nsec));
        assert_eq!((meta.atime(), meta.atime_nsec()), (sec, nsec));
    }
    let m = m.remount();
    assert_eq!(fs::metadata(m.path("f")).expect("stat").mtime(), 1 << 33);
}

#[test]
fn attributes_through_the_kernel() {
    let Some(m) = Mounted::new() else { return };
    let path = c(&m.path("f"));
    fs::write(m.path("f"), vec![b'a'; 5000]).expect("write");
    let get = |name: &std::ffi::CStr| {
        let mut v = vec![0u8; 256];
        // SAFETY: valid C strings and a buffer of the length given.
        let n =
            unsafe { libc::getxattr(path.as_ptr(), name.as_ptr(), v.as_mut_ptr().cast(), v.len()) };
        v.truncate(usize::try_from(n).unwrap_or(0));
        v
    };
    let set = |name: &std::ffi::CStr, value: &[u8]| {
        // SAFETY: valid C strings and a buffer of the length given.
        let r = unsafe {
            libc::setxattr(path.as_ptr(), name.as_ptr(), value.as_ptr().cast(), value.len(), 0)
        };
        if r == 0 { 0 } else { errno(&std::io::Error::last_os_error()) }
    };
    assert_eq!(set(c"user.note", b"hello"), 0);
    assert_eq!(get(c"user.note"), b"hello");
    assert_eq!(get(c"user.lmfs.codecs"), b"staged:1");
    assert_eq!(set(c"user.lmfs.ratio", b"1"), libc::EPERM);
    assert_eq!(set(c"user.lmfs.model", b"nonsense"), libc::EINVAL);
    assert_eq!(set(c"system.posix_acl_access", b"\x02\0\0\0nonsense"), libc::EINVAL);
    assert_eq!(set(c"system.other", b"x"), libc::EOPNOTSUPP);
    let mut names = vec![0u8; 256];
    // SAFETY: a valid C string and a buffer of the length given.
    let n = unsafe { libc::listxattr(path.as_ptr(), names.as_mut_ptr().cast(), names.len()) };
    assert_eq!(&names[..usize::try_from(n).expect("list")], b"user.note\0");
}

#[test]
fn shared_maps_write_through() {
    let Some(m) = Mounted::new() else { return };
    fs::write(m.path("f"), vec![b'.'; 10_000]).expect("write");
    let f = Open::new().read(true).write(true).open(m.path("f")).expect("open");
    // SAFETY: a mapping of an open file, of its length, unmapped below.
    unsafe {
        let p = libc::mmap(
            std::ptr::null_mut(),
            10_000,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_SHARED,
            f.as_raw_fd(),
            0,
        );
        assert_ne!(p, libc::MAP_FAILED);
        p.cast::<u8>().add(5000).write(b'!');
        assert_eq!(libc::msync(p, 10_000, libc::MS_SYNC), 0);
        assert_eq!(libc::munmap(p, 10_000), 0);
    }
    drop(f);
    let m = m.remount();
    let bytes = fs::read(m.path("f")).expect("read");
    assert_eq!((bytes[4999], bytes[5000], bytes.len()), (b'.', b'!', 10_000));
}

#[test]
fn special_files_modes_and_links() {
    let Some(m) = Mounted::new() else { return };
    // SAFETY: a valid C string.
    assert_eq!(unsafe { libc::mkfifo(c(&m.path("fifo")).as_ptr(), 0o600) }, 0);
    let socket = std::os::unix::net::UnixListener::bind(m.path("sock"));
    assert!(socket.is_ok(), "{socket:?}");
    fs::write(m.path("f"), "x").expect("write");
    fs::set_permissions(m.path("f"), fs::Permissions::from_mode(0o4751)).expect("chmod");
    fs::hard_link(m.path("f"), m.path("g")).expect("link");
    drop(socket);
    let m = m.remount();
    let meta = fs::metadata(m.path("g")).expect("stat");
    assert_eq!((meta.nlink(), meta.mode() & 0o7777), (2, 0o4751));
    let kind = fs::metadata(m.path("fifo")).expect("stat").mode() & libc::S_IFMT;
    assert_eq!(kind, libc::S_IFIFO);
}

/// Runs `what` on a thread that is nobody: a raw system call changes the calling thread only.
fn as_nobody<T: Send>(what: impl FnOnce() -> T + Send) -> T {
    const NOBODY: libc::uid_t = 65_534;
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            // SAFETY: system calls with numbers only; the thread ends below.
            unsafe {
                assert_eq!(libc::syscall(libc::SYS_setgroups, 0, std::ptr::null::<u32>()), 0);
                assert_eq!(libc::syscall(libc::SYS_setresgid, NOBODY, NOBODY, NOBODY), 0);
                assert_eq!(libc::syscall(libc::SYS_setresuid, NOBODY, NOBODY, NOBODY), 0);
            }
            what()
        });
        thread.join().expect("thread")
    })
}

#[test]
fn changes_by_others_take_set_id_bits_away_at_once() {
    // SAFETY: no arguments, cannot fail.
    if unsafe { libc::geteuid() } != 0 {
        eprintln!("SKIPPED: needs root");
        return;
    }
    let scratch = Mounted::made();
    let open_to_all = |p: &Path| fs::set_permissions(p, PermissionsExt::from_mode(0o711));
    open_to_all(scratch.path()).expect("chmod");
    let mount =
        MountOptions { allow_other: true, extra: vec!["suid".into()], ..mount_options("s") };
    let Some(m) = Mounted::at(scratch, &mount) else { return };
    open_to_all(&m.path("")).expect("chmod");
    fs::write(m.path("from"), [b'x'; 9000]).expect("write");
    fs::set_permissions(m.path("from"), PermissionsExt::from_mode(0o644)).expect("chmod");
    let ok = |r: i64| assert!(r >= 0, "{}", std::io::Error::last_os_error());
    let copy = |f: &File| {
        let from = File::open(m.path("from")).expect("open");
        let (from, to, none) = (from.as_raw_fd(), f.as_raw_fd(), std::ptr::null_mut());
        // SAFETY: open descriptors; no offsets are given.
        ok(unsafe { libc::copy_file_range(from, none, to, none, 4096, 0) } as i64);
    };
    let allocate = |mode: i32| {
        move |f: &File| {
            // SAFETY: an open descriptor.
            ok(unsafe { libc::fallocate(f.as_raw_fd(), mode, 0, 4096) }.into());
        }
    };
    let keep = libc::FALLOC_FL_KEEP_SIZE;
    type Change<'a> = &'a (dyn Fn(&File) + Sync);
    let changes: [(&str, Change<'_>); 8] = [
        ("write", &|f| f.write_all_at(b"x", 9).expect("write")),
        ("truncate", &|f| f.set_len(5).expect("truncate")),
        ("copy", &copy),
        ("allocate", &allocate(0)),
        ("keep", &allocate(keep)),
        ("punch", &allocate(keep | libc::FALLOC_FL_PUNCH_HOLE)),
        ("zero", &allocate(libc::FALLOC_FL_ZERO_RANGE)),
        ("zero, keep", &allocate(keep | libc::FALLOC_FL_ZERO_RANGE)),
    ];
    let path = m.path("tool");
    let mode = || fs::metadata(&path).expect("stat").mode() & 0o7777;
    for (what, change) in changes {
        fs::write(&path, [b'.'; 8192]).expect("write");
        for (before, after) in [(0o6777, 0o777), (0o6767, 0o2767)] {
            fs::set_permissions(&path, PermissionsExt::from_mode(before)).expect("chmod");
            assert_eq!(mode(), before);
            let open = || Open::new().write(true).open(&path).expect("open");
            change(&open());
            assert_eq!(mode(), before, "{what} by root");
            as_nobody(|| change(&open()));
            assert_eq!(mode(), after, "{what} by others");
        }
    }
    // Nobody has asked for the mode between the write and execve, which goes by what the kernel has.
    fs::remove_file(&path).expect("unlink");
    fs::copy("/usr/bin/id", &path).expect("copy");
    fs::set_permissions(&path, PermissionsExt::from_mode(0o6777)).expect("chmod");
    let id = || {
        let mut id = std::process::Command::new(&path);
        let id = std::os::unix::process::CommandExt::uid(id.arg("-u"), 65_534);
        String::from_utf8(id.output().expect("run").stdout).expect("utf-8")
    };
    assert_eq!(id(), "0\n");
    as_nobody(|| {
        Open::new().append(true).open(&path).expect("open").write_all(b"x").expect("write");
    });
    assert_eq!(id(), "65534\n");
}
