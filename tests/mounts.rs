//! Mounts in all the places where they turn up: left by a killed daemon, bound elsewhere, in private
//! namespaces, behind links, under long and strange names. Needs root and /dev/fuse, and says so.

#![allow(clippy::unwrap_used)]

mod place;
mod program;

use place::Place;
use program::{LMFS, json, lmfs, said, works};
use std::ffi::{CString, OsStr, OsString};
use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// True where such mounts can be made.
fn able() -> bool {
    // SAFETY: no arguments, cannot fail.
    let able = Path::new("/dev/fuse").exists() && unsafe { libc::geteuid() } == 0;
    if !able {
        println!("skipped: needs root and /dev/fuse");
    }
    able
}

/// Runs a program of the system, as it must succeed.
fn system<S: AsRef<OsStr>>(program: &str, args: &[S]) {
    let out = Command::new(program).args(args).output().unwrap();
    assert!(out.status.success(), "{program}: {}", said(&out));
}

/// Mounts that are taken away at the end, the last one first.
struct Mounts(Vec<PathBuf>);

impl Drop for Mounts {
    fn drop(&mut self) {
        for m in self.0.iter().rev() {
            let _ = Command::new("umount").arg("-l").arg(m).output();
        }
    }
}

fn in_foreground(store: &str, mnt: &str) -> Child {
    let mut daemon = Command::new(LMFS);
    daemon.args(["-q", "mount", "-f", store, mnt]).stderr(Stdio::null());
    let mut daemon = daemon.spawn().unwrap();
    let began = Instant::now();
    while !std::fs::read_to_string("/proc/mounts").unwrap().contains(mnt) {
        std::thread::sleep(Duration::from_millis(10));
        assert!(daemon.try_wait().unwrap().is_none(), "the daemon ended");
        assert!(began.elapsed() < Duration::from_secs(30), "no mount");
    }
    daemon
}

#[test]
fn what_a_killed_daemon_left_is_cleared() {
    if !able() {
        return;
    }
    let p = Place::new();
    let (store, mnt) = (p.text("s"), p.text("mnt"));
    works(&["-q", "mkfs", &store, "--model", "fast"]);
    let mut daemon = in_foreground(&store, &mnt);
    std::fs::write(p.path("mnt/f"), "kept\n").unwrap();
    File::open(&mnt).unwrap().sync_all().unwrap();
    daemon.kill().unwrap();
    daemon.wait().unwrap();
    for args in [&["stat", &p.text("mnt/f")][..], &["status", &p.text("mnt/f")]] {
        let out = lmfs(args);
        assert!(!out.status.success() && said(&out).contains("has died"), "{}", said(&out));
    }
    let out = lmfs(&["mount", &store, &mnt]);
    assert!(out.status.success() && said(&out).contains("its daemon had died"), "{}", said(&out));
    assert_eq!(std::fs::read_to_string(p.path("mnt/f")).unwrap(), "kept\n");
    let pid = json(&["status", &mnt, "--json"])["pid"].to_string();
    assert_eq!(std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap(), "lmfs\n");
    system("kill", &["-9", &pid]);
    let told = works(&["up", &store, &mnt]);
    assert!(told.contains("mounted on") && !told.contains("already"), "{told}");
    assert!(works(&["up", &store, &mnt]).contains("already mounted"));
    assert_eq!(std::fs::read_to_string(p.path("mnt/f")).unwrap(), "kept\n");
    // And one in the foreground, as a service has it.
    let pid = json(&["status", &mnt, "--json"])["pid"].to_string();
    system("kill", &["-9", &pid]);
    std::thread::sleep(Duration::from_millis(300));
    let mut daemon = Command::new(LMFS);
    let mut daemon = daemon.args(["-q", "mount", "-f", &store, &mnt]).spawn().unwrap();
    let began = Instant::now();
    while std::fs::read_to_string(p.path("mnt/f")).is_err() {
        assert!(daemon.try_wait().unwrap().is_none(), "the daemon ended");
        assert!(began.elapsed() < Duration::from_secs(30), "no mount");
        std::thread::sleep(Duration::from_millis(20));
    }
    works(&["umount", &mnt]);
    assert!(daemon.wait().unwrap().success());
    let left = std::fs::read_to_string("/proc/mounts").unwrap();
    assert!(!left.contains(&mnt), "{left}");
}

#[test]
fn a_dead_mount_of_others_is_left_alone() {
    if !able() {
        return;
    }
    let p = Place::new();
    let (store, mnt) = (p.text("s"), p.text("mnt"));
    works(&["-q", "mkfs", &store, "--model", "fast"]);
    let device = File::options().read(true).write(true).open("/dev/fuse").unwrap();
    let data = format!("fd={},rootmode=40000,user_id=0,group_id=0", device.as_raw_fd());
    let [dir, data] = [mnt.as_str(), &data].map(|t| CString::new(t).unwrap());
    // SAFETY: a system call with valid C strings that outlive it.
    let r = unsafe {
        libc::mount(
            c"other".as_ptr(),
            dir.as_ptr(),
            c"fuse.other".as_ptr(),
            libc::MS_NOSUID,
            data.as_ptr().cast(),
        )
    };
    assert_eq!(r, 0);
    drop(device);
    for command in ["mount", "up"] {
        let out = lmfs(&[command, &store, &mnt]);
        let said = said(&out);
        assert!(out.status.code() == Some(1), "{said}");
        assert!(said.contains("fuse.other") && said.contains("umount -l"), "{said}");
    }
    assert!(std::fs::read_to_string("/proc/mounts").unwrap().contains("fuse.other"));
}

#[test]
fn mount_waits_for_a_daemon_on_its_way_out() {
    if !able() {
        return;
    }
    let p = Place::new();
    let (store, mnt) = (p.text("s"), p.text("mnt"));
    works(&["-q", "mkfs", &store, "--model", "fast"]);
    // What such a daemon has: the lock, and no socket any more.
    let lock = File::options().create(true).append(true).open(p.path("s/lock")).unwrap();
    // SAFETY: plain system call on an open descriptor.
    assert_eq!(unsafe { libc::flock(lock.as_raw_fd(), libc::LOCK_EX) }, 0);
    let closing = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(2500));
        drop(lock);
    });
    let began = Instant::now();
    let out = lmfs(&["mount", &store, &mnt]);
    assert!(out.status.success() && said(&out).contains("waiting for process"), "{}", said(&out));
    assert!(began.elapsed() >= Duration::from_millis(2400));
    closing.join().unwrap();
    // One that serves is not waited for.
    std::fs::create_dir(p.path("other")).unwrap();
    let began = Instant::now();
    let out = lmfs(&["mount", &store, &p.text("other")]);
    assert!(out.status.code() == Some(1) && said(&out).contains("in use"), "{}", said(&out));
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    works(&["umount", &mnt]);
}

/// `sub` of the mount, bound elsewhere; files of the same names and other lengths above it.
fn bound(p: &Place) -> (String, String, Mounts) {
    let (mnt, b) = (p.text("mnt"), p.text("b"));
    works(&["-q", "mkfs", &p.text("s"), "--model", "fast"]);
    works(&["mount", &p.text("s"), &mnt, "-o", "recode=off"]);
    for dir in ["mnt/sub", "b"] {
        std::fs::create_dir(p.path(dir)).unwrap();
    }
    std::fs::write(p.path("mnt/f"), "short\n").unwrap();
    std::fs::write(p.path("mnt/sub/f"), "a longer file\n".repeat(5000)).unwrap();
    std::fs::write(p.path("mnt/sub/g"), "1\n2\n".repeat(10_000)).unwrap();
    system("mount", &["--bind", &p.text("mnt/sub"), &b]);
    (mnt, b.clone(), Mounts(vec![b.into()]))
}

#[test]
fn a_bind_mount_shows_its_own_files_and_goes_alone() {
    if !able() {
        return;
    }
    let p = Place::new();
    let (mnt, b, _mounts) = bound(&p);
    let same = |path: &str, of: &str| {
        let stat = json(&["stat", path, "--json"]);
        let real = p.path(of).metadata().unwrap();
        assert_eq!(stat[0]["inode"], real.ino(), "{path}");
        assert_eq!(stat[0]["size"], real.len(), "{path}");
        assert_eq!(stat[0]["path"], path);
    };
    same(&p.text("b/f"), "mnt/sub/f");
    same(&p.text("mnt/f"), "mnt/f");
    let settled = json(&["settle", &b, &p.text("b/g"), "--json"]);
    assert_eq!(settled["text_bytes"], 40_000, "{settled}");
    let staged = &json(&["stat", &p.text("b/f"), "--json"])[0]["codecs"];
    assert!(staged.get("fast").is_none(), "{staged}");
    // Of one file, and of a directory that is no more.
    std::fs::write(p.path("one"), "").unwrap();
    std::fs::create_dir_all(p.path("mnt/gone")).unwrap();
    std::fs::create_dir(p.path("g")).unwrap();
    std::fs::write(p.path("mnt/gone/f"), "x").unwrap();
    let _more = Mounts(vec![p.path("one"), p.path("g")]);
    system("mount", &["--bind", &p.text("mnt/sub/g"), &p.text("one")]);
    system("mount", &["--bind", &p.text("mnt/gone"), &p.text("g")]);
    same(&p.text("one"), "mnt/sub/g");
    std::fs::rename(p.path("mnt/gone"), p.path("mnt/moved")).unwrap();
    same(&p.text("g/f"), "mnt/moved/f");
    let out = lmfs(&["umount", &p.text("b/f")]);
    assert!(!out.status.success() && said(&out).contains(&b), "{}", said(&out));
    let told = works(&["umount", &b]);
    assert!(told.contains("still mounted on"), "{told}");
    assert!(!p.path("b/f").exists() && p.path("mnt/f").exists());
    works(&["umount", &p.text("one")]);
    works(&["umount", &p.text("g")]);
    works(&["umount", &mnt]);
    assert!(json(&["status", &p.text("s"), "--json"])["pid"].is_null());
}

#[test]
fn links_lead_to_the_mount() {
    if !able() {
        return;
    }
    let p = Place::new();
    let (mnt, _b, _mounts) = bound(&p);
    symlink(&mnt, p.path("link")).unwrap();
    symlink(p.path("mnt/sub/f"), p.path("file")).unwrap();
    symlink("f", p.path("mnt/inside")).unwrap();
    assert!(json(&["status", &p.text("link"), "--json"])["pid"].is_u64());
    for path in ["link/sub/f", "file"] {
        let ino = p.path(path).metadata().unwrap().ino();
        assert_eq!(json(&["stat", &p.text(path), "--json"])[0]["inode"], ino, "{path}");
    }
    // A link on the file system is a file of it.
    let ino = p.path("mnt/inside").symlink_metadata().unwrap().ino();
    assert_eq!(json(&["stat", &p.text("mnt/inside"), "--json"])[0]["inode"], ino);
    assert_eq!(json(&["settle", &p.text("link"), &p.text("file"), "--json"])["text_bytes"], 70_000);
    // What lies elsewhere is refused by name.
    let out = lmfs(&["settle", &mnt, "/etc/passwd"]);
    assert!(!out.status.success() && said(&out).contains("/etc/passwd"), "{}", said(&out));
    let out = lmfs(&["settle", &mnt, &p.text("mnt/none")]);
    assert!(!out.status.success() && said(&out).contains("no such file"), "{}", said(&out));
    let told = works(&["up", &p.text("s"), &p.text("link")]);
    assert!(told.contains("already mounted"), "{told}");
    works(&["umount", &p.text("b")]);
    works(&["umount", &p.text("link")]);
    assert!(!p.path("mnt/f").exists());
}

#[test]
fn umount_says_which_namespace_it_waits_for() {
    if !able() {
        return;
    }
    let p = Place::new();
    let (store, mnt) = (p.text("s"), p.text("mnt"));
    works(&["-q", "mkfs", &store, "--model", "fast"]);
    works(&["mount", &store, &mnt]);
    let mut other = Command::new("unshare").args(["-m", "sleep", "4"]).spawn().unwrap();
    std::thread::sleep(Duration::from_millis(500));
    let began = Instant::now();
    let out = lmfs(&["umount", &mnt]);
    assert!(out.status.success(), "{}", said(&out));
    assert!(began.elapsed() > Duration::from_secs(2), "{:?}", began.elapsed());
    let said = said(&out);
    assert!(said.contains("namespace of sleep"), "{said}");
    other.wait().unwrap();
    assert!(json(&["status", &store, "--json"])["pid"].is_null());
}

#[test]
fn a_store_that_cannot_be_reached_from_here_is_not_taken_for_unmounted() {
    if !able() {
        return;
    }
    let p = Place::new();
    std::fs::create_dir(p.path("d")).unwrap();
    let (store, mnt) = (p.text("d/s"), p.text("mnt"));
    works(&["-q", "mkfs", &store, "--model", "fast"]);
    works(&["mount", &store, &mnt]);
    let script = "mount -t tmpfs none \"$1\" && \"$2\" status \"$3\"";
    let dir = p.text("d");
    let args = ["-m", "sh", "-c", script, "sh", &dir, LMFS, &mnt];
    let out = Command::new("unshare").args(args).output().unwrap();
    assert_eq!(out.status.code(), Some(1));
    assert!(said(&out).contains("cannot be reached"), "{}", said(&out));
    works(&["umount", &mnt]);
    // Below another root directory, the store's own path will do.
    let script = "mkdir $1/proc $1/b && mount -t proc none $1/proc && mount --rbind / $1/b && \
                  exec chroot $1 /b$3 --library-path /b${3%/*} /b$2 status /s";
    if let Ok(loader) = Path::new("/lib64/ld-linux-x86-64.so.2").canonicalize() {
        let binary = Path::new(LMFS).canonicalize().unwrap();
        let [binary, loader] = [&binary, &loader].map(|p| p.to_str().unwrap());
        let args = ["-m", "sh", "-c", script, "sh", &dir, binary, loader];
        let out = Command::new("unshare").args(args).output().unwrap();
        assert!(out.status.success(), "{}", said(&out));
    }
}

#[test]
fn long_paths_and_names_that_are_no_text() {
    if !able() {
        return;
    }
    let p = Place::new();
    let long = p.path(&format!("{0}/{0}/{0}", "a-directory-with-a-long-name-".repeat(6)));
    std::fs::create_dir_all(&long).unwrap();
    let strange = OsString::from_vec(b"st\xffore \xc3 \\ , x".into());
    for store in [long.join("s"), p.path("").join(&strange)] {
        let mnt = p.path("").join(OsString::from_vec(b"m\xff \n".into()));
        let _mounts = Mounts(vec![mnt.clone()]);
        let file = mnt.join(OsString::from_vec(b"f\xfe".into()));
        let decoy = mnt.join("f\u{fffd}");
        let arg = |text: &str| OsString::from(text);
        works(&[arg("-q"), arg("mkfs"), store.clone().into(), arg("--model"), arg("fast")]);
        works(&[arg("-q"), arg("up"), store.clone().into(), mnt.clone().into()]);
        let shown = store.as_os_str().as_bytes().len();
        let status = json(&[arg("status"), store.clone().into(), arg("--json")]);
        assert!(status["pid"].is_u64(), "a path of {shown} bytes: {status}");
        std::fs::write(&file, "bytes\n".repeat(10_000)).unwrap();
        std::fs::write(&decoy, "text").unwrap();
        let stat = json(&[arg("stat"), file.clone().into(), arg("--json")]);
        assert_eq!(stat[0]["size"], 60_000);
        let args = [arg("settle"), mnt.clone().into(), file.clone().into(), arg("--json")];
        assert_eq!(json(&args)["text_bytes"], 60_000);
        works(&[arg("umount"), mnt.clone().into()]);
        // Offline, by the path inside the store.
        std::fs::remove_dir(&mnt).unwrap();
        let inner = OsString::from_vec(b"/f\xfe".into());
        works(&[arg("settle"), store.into(), inner, arg("--json")]);
    }
}
