//! Who gets in, and where a store can lead: other users at a mount, and stores with symbolic links
//! and pipes in the place of their files. Needs root and /dev/fuse, and says so where it has not.

#![allow(clippy::unwrap_used)]

mod place;
mod program;

use place::Place;
use program::{LMFS, lmfs, works};
use std::collections::BTreeMap;
use std::ffi::{CStr, CString};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

const NOBODY: u32 = 65534;

/// What a shell command comes to for somebody else.
fn as_nobody(command: &str) -> (bool, String) {
    let mut c = Command::new("sh");
    let out = c.args(["-c", command]).uid(NOBODY).gid(NOBODY).output().unwrap();
    (out.status.success(), String::from_utf8_lossy(&out.stderr).into_owned())
}

fn refused(command: &str) {
    let (ok, said) = as_nobody(command);
    let denied = said.contains("ermission denied") || said.contains("not permitted");
    assert!(!ok && denied, "{command}: {ok} {said}");
}

fn allowed(command: &str) {
    let (ok, said) = as_nobody(command);
    assert!(ok, "{command}: {said}");
}

fn can_run() -> bool {
    // SAFETY: no arguments, cannot fail.
    let root = unsafe { libc::geteuid() } == 0;
    let there = root && Path::new("/dev/fuse").exists();
    if !there {
        println!("skipped: needs root and /dev/fuse");
    }
    there
}

fn chmod(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

/// A place that others may enter, with a store.
fn open_place() -> Place {
    let p = Place::new();
    chmod(&p.path(""), 0o755);
    works(&["mkfs", &p.text("s"), "--model", "fast"]);
    p
}

#[test]
fn without_allow_other_nobody_else_gets_in() {
    if !can_run() {
        return;
    }
    let p = open_place();
    works(&["mount", &p.text("s"), &p.text("mnt")]);
    std::fs::write(p.path("mnt/open"), "x").unwrap();
    chmod(&p.path("mnt/open"), 0o666);
    let mnt = p.text("mnt");
    refused(&format!("cat {mnt}/open"));
    refused(&format!("ls {mnt}"));
    refused(&format!("echo y > {mnt}/open"));
    works(&["umount", &mnt]);
}

#[test]
fn with_allow_other_the_permission_bits_decide() {
    if !can_run() {
        return;
    }
    let p = open_place();
    works(&["mount", &p.text("s"), &p.text("mnt"), "-o", "allow_other"]);
    let mnt = p.text("mnt");
    for (name, mode) in [("read", 0o644), ("secret", 0o600), ("open", 0o666), ("run", 0o4755)] {
        std::fs::write(p.path("mnt").join(name), "#!/bin/sh\nid -u\n").unwrap();
        chmod(&p.path("mnt").join(name), mode);
    }
    for (name, mode) in [("closed", 0o700), ("shared", 0o1777), ("dir", 0o755)] {
        std::fs::create_dir(p.path("mnt").join(name)).unwrap();
        std::fs::write(p.path("mnt").join(name).join("f"), "x").unwrap();
        chmod(&p.path("mnt").join(name), mode);
    }
    allowed(&format!("cat {mnt}/read && ls {mnt}/dir && cat {mnt}/dir/f"));
    allowed(&format!("echo y > {mnt}/open && echo y > {mnt}/shared/mine && rm {mnt}/shared/mine"));
    allowed(&format!("echo y > {mnt}/shared/kept"));
    assert_eq!(p.path("mnt/shared/kept").metadata().unwrap().uid(), NOBODY);
    // Mounts are nosuid: it runs as who runs it.
    allowed(&format!("test $({mnt}/run) = {NOBODY}"));
    for command in [
        "cat M/secret",
        "echo y > M/read",
        "cat M/closed/f",
        "ls M/closed",
        "echo y > M/dir/new",
        "mkdir M/dir/new",
        "rm -f M/dir/f",
        "mv M/dir/f M/shared/g",
        "rm -f M/shared/f",
        "chmod 777 M/read",
        "chown 65534 M/read",
        "truncate -s 0 M/read",
        "touch -d 2001-01-01 M/read",
    ] {
        refused(&command.replace('M', &mnt));
    }
    works(&["umount", &mnt]);
}

/// The value of an attribute that says who has which permissions: (tag, permissions, id).
fn acl(entries: &[(u16, u16, u32)]) -> Vec<u8> {
    let mut out = 2u32.to_le_bytes().to_vec();
    for (tag, perm, id) in entries {
        out.extend_from_slice(&tag.to_le_bytes());
        out.extend_from_slice(&perm.to_le_bytes());
        out.extend_from_slice(&id.to_le_bytes());
    }
    out
}

fn path(p: &Path) -> CString {
    CString::new(p.as_os_str().as_bytes()).unwrap()
}

fn set_acl(p: &Path, name: &CStr, value: &[u8]) {
    let (p, len) = (path(p), value.len());
    // SAFETY: valid C strings and a buffer of the length given.
    let r = unsafe { libc::setxattr(p.as_ptr(), name.as_ptr(), value.as_ptr().cast(), len, 0) };
    assert_eq!(r, 0, "{}", std::io::Error::last_os_error());
}

fn get_acl(p: &Path, name: &CStr) -> Vec<u8> {
    let (p, mut out) = (path(p), vec![0u8; 256]);
    // SAFETY: valid C strings and a buffer of the length given.
    let n = unsafe { libc::getxattr(p.as_ptr(), name.as_ptr(), out.as_mut_ptr().cast(), 256) };
    out.truncate(usize::try_from(n).unwrap_or(0));
    out
}

#[test]
fn access_control_lists_are_kept_obeyed_and_inherited() {
    const ACCESS: &CStr = c"system.posix_acl_access";
    const DEFAULT: &CStr = c"system.posix_acl_default";
    const NO_ID: u32 = u32::MAX;
    if !can_run() {
        return;
    }
    let p = open_place();
    let mnt = p.text("mnt");
    works(&["mount", &p.text("s"), &mnt, "-o", "allow_other"]);
    let mode = |name: &str| p.path("mnt").join(name).metadata().unwrap().mode() & 0o7777;
    let f = p.path("mnt/f");
    std::fs::write(&f, "x").unwrap();
    chmod(&f, 0o600);
    refused(&format!("cat {mnt}/f"));
    let named = |user: u16, mask: u16| {
        acl(&[(1, 6, NO_ID), (2, user, NOBODY), (4, 0, NO_ID), (16, mask, NO_ID), (32, 0, NO_ID)])
    };
    set_acl(&f, ACCESS, &named(4, 4));
    assert_eq!(mode("f"), 0o640);
    allowed(&format!("cat {mnt}/f"));
    refused(&format!("echo y > {mnt}/f"));
    // The mode's group is the mask: what it takes away, the list no longer gives.
    chmod(&f, 0o600);
    refused(&format!("cat {mnt}/f"));
    assert_eq!(get_acl(&f, ACCESS), named(4, 0));
    chmod(&f, 0o660);
    allowed(&format!("cat {mnt}/f"));
    // One that says no more than the mode is the mode.
    set_acl(&f, ACCESS, &acl(&[(1, 6, NO_ID), (4, 4, NO_ID), (32, 4, NO_ID)]));
    assert_eq!(mode("f"), 0o644);
    assert!(get_acl(&f, ACCESS).is_empty());
    // What a directory hands down, whatever the umask, and further down.
    std::fs::create_dir(p.path("mnt/d")).unwrap();
    let handed =
        acl(&[(1, 7, NO_ID), (2, 7, NOBODY), (4, 5, NO_ID), (16, 7, NO_ID), (32, 0, NO_ID)]);
    set_acl(&p.path("mnt/d"), DEFAULT, &handed);
    let made = format!("umask 077; mkdir {mnt}/d/e; echo x > {mnt}/d/e/f; mkfifo {mnt}/d/e/p");
    assert!(Command::new("sh").args(["-c", &made]).status().unwrap().success());
    assert_eq!((mode("d/e"), mode("d/e/f"), mode("d/e/p")), (0o770, 0o660, 0o660));
    assert_eq!(get_acl(&p.path("mnt/d/e"), DEFAULT), handed);
    works(&["umount", &mnt]);
    works(&["mount", &p.text("s"), &mnt, "-o", "allow_other"]);
    chmod(&p.path("mnt/d"), 0o755);
    allowed(&format!("cat {mnt}/d/e/f && echo y >> {mnt}/d/e/f"));
    // Elsewhere the umask counts.
    let made = format!("umask 027; echo x > {mnt}/g; mkdir {mnt}/h");
    assert!(Command::new("sh").args(["-c", &made]).status().unwrap().success());
    assert_eq!((mode("g"), mode("h")), (0o640, 0o750));
    works(&["umount", &mnt]);
}

/// Sets the list of a path as another user, who is in these groups.
fn set_acl_as(uid: u32, gid: u32, group: u32, p: &Path, value: &[u8]) {
    let (p, value) = (path(p), value.to_vec());
    let set = move || {
        let name = c"system.posix_acl_access";
        // SAFETY: calls that the child of a fork may make, with strings that end and a buffer of the length given.
        let done = unsafe {
            libc::setgroups(1, &raw const group) == 0
                && libc::setgid(gid) == 0
                && libc::setuid(uid) == 0
                && libc::setxattr(p.as_ptr(), name.as_ptr(), value.as_ptr().cast(), value.len(), 0)
                    == 0
        };
        if done { Ok(()) } else { Err(std::io::Error::last_os_error()) }
    };
    let mut command = Command::new("true");
    // SAFETY: see there.
    unsafe { command.pre_exec(set) };
    assert!(command.status().unwrap().success());
}

/// As chmod(2) does it: who is not in a file's group takes its set-group-id bit away.
#[test]
fn lists_set_by_strangers_to_the_group_take_set_group_id_away() {
    const NO_ID: u32 = u32::MAX;
    if !can_run() {
        return;
    }
    let p = open_place();
    works(&["mount", &p.text("s"), &p.text("mnt"), "-o", "allow_other"]);
    let (file, dir) = (p.path("mnt/f"), p.path("mnt/d"));
    std::fs::write(&file, "x").unwrap();
    std::fs::create_dir(&dir).unwrap();
    let all = acl(&[(1, 7, NO_ID), (4, 7, NO_ID), (32, 7, NO_ID)]);
    for path in [&file, &dir] {
        for (gid, group, after) in [(100, 7, 0o2777), (7, 100, 0o2777), (7, 8, 0o777)] {
            std::os::unix::fs::chown(path, Some(NOBODY), Some(100)).unwrap();
            chmod(path, 0o2755);
            set_acl_as(NOBODY, gid, group, path, &all);
            let mode = path.metadata().unwrap().mode() & 0o7777;
            assert_eq!(mode, after, "{} of group {gid} and {group}", path.display());
        }
    }
    works(&["umount", &p.text("mnt")]);
}

#[test]
fn the_store_is_for_its_owner_alone() {
    if !can_run() {
        return;
    }
    let p = open_place();
    let mode = |name: &str| p.path(name).metadata().unwrap().mode() & 0o7777;
    assert_eq!(mode("s"), 0o700);
    // An empty directory that is there already is closed as well.
    std::fs::create_dir(p.path("open")).unwrap();
    chmod(&p.path("open"), 0o755);
    works(&["mkfs", &p.text("open"), "--model", "fast"]);
    assert_eq!(mode("open"), 0o700);
    works(&["mount", &p.text("s"), &p.text("mnt"), "-o", "allow_other"]);
    assert_eq!((mode("s/control.sock"), mode("s/lock")), (0o600, 0o600));
    let s = p.text("s");
    refused(&format!("ls {s}"));
    refused(&format!("cat {s}/superblock"));
    // Nor does the daemon answer others.
    let (ok, _) = as_nobody(&format!("{LMFS} status {}", p.text("mnt")));
    assert!(!ok);
    works(&["umount", &p.text("mnt")]);
}

/// All files below a directory: what they are, hold, and when they were changed.
fn snapshot(dir: &Path, out: &mut BTreeMap<PathBuf, (u32, Vec<u8>, i64)>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let m = path.symlink_metadata().unwrap();
        if m.is_dir() {
            snapshot(&path, out);
        }
        let bytes = if m.is_file() { std::fs::read(&path).unwrap() } else { Vec::new() };
        out.insert(path, (m.mode(), bytes, m.mtime_nsec()));
    }
}

/// A store that was used, with a model and an index.
fn used(p: &Place) {
    works(&["mount", &p.text("s"), &p.text("mnt")]);
    std::fs::write(p.path("mnt/a"), vec![7; 100_000]).unwrap();
    works(&["umount", &p.text("mnt")]);
}

/// Everything that one may do with a store.
fn use_it(p: &Place) {
    let (s, mnt) = (p.text("s"), p.text("mnt"));
    for args in [
        &["status", &s][..],
        &["scrub", &s],
        &["fsck", &s],
        &["scrub", "--repair", &s],
        &["fsck", "--repair", &s],
        &["gc", &s],
    ] {
        lmfs(args);
    }
    if lmfs(&["mount", &s, &mnt]).status.success() {
        let _ = std::fs::write(p.path("mnt/b"), vec![8; 50_000]);
        let _ = std::fs::read(p.path("mnt/a"));
        lmfs(&["gc", &mnt]);
        lmfs(&["scrub", "--repair", &mnt]);
        lmfs(&["umount", &mnt]);
    }
}

#[test]
fn no_link_leads_out_of_the_store() {
    if !can_run() {
        return;
    }
    let p = open_place();
    used(&p);
    let sidecar = std::fs::read_dir(p.path("s/segments")).unwrap().map(|e| e.unwrap().file_name());
    let sidecar = sidecar.into_iter().find(|n| n.to_str().unwrap().ends_with(".par")).unwrap();
    let sidecar = format!("segments/{}", sidecar.to_str().unwrap());
    std::fs::rename(p.path("s"), p.path("good")).unwrap();
    let entries = [
        "superblock",
        "superblock.1",
        "segments",
        "segments/00000001.seg",
        "segments/00000002.seg",
        &sidecar,
        "models",
        "index",
        "index.1",
        "index/db",
        "index/conf",
        "control.sock",
        "lock",
        "scrub.position",
        "scrub.position.tmp",
        "superblock.tmp",
    ];
    for entry in entries {
        let _ = std::fs::remove_dir_all(p.path("s"));
        let _ = std::fs::remove_dir_all(p.path("out"));
        let done = Command::new("cp").arg("-a").args([p.path("good"), p.path("s")]).status();
        assert!(done.unwrap().success());
        std::fs::create_dir(p.path("out")).unwrap();
        let (inside, outside) = (p.path("s").join(entry), p.path("out/target"));
        if inside.exists() {
            // What it leads to is just what should be there.
            std::fs::rename(&inside, &outside).unwrap();
        } else if !entry.contains('/') && !entry.starts_with("index") {
            std::fs::write(&outside, "precious").unwrap();
        }
        symlink(&outside, &inside).unwrap();
        let (mut before, mut after) = (BTreeMap::new(), BTreeMap::new());
        snapshot(&p.path("out"), &mut before);
        use_it(&p);
        snapshot(&p.path("out"), &mut after);
        assert!(before == after, "{entry}: something was written through it");
    }
}

#[test]
fn pipes_in_the_place_of_files_make_nobody_wait() {
    if !can_run() {
        return;
    }
    let p = open_place();
    used(&p);
    std::fs::rename(p.path("s"), p.path("good")).unwrap();
    for entry in ["superblock", "segments/00000001.seg", "lock", "index/db", "control.sock"] {
        let _ = std::fs::remove_dir_all(p.path("s"));
        let done = Command::new("cp").arg("-a").args([p.path("good"), p.path("s")]).status();
        assert!(done.unwrap().success());
        let _ = std::fs::remove_file(p.path("s").join(entry));
        let made = Command::new("mkfifo").arg(p.path("s").join(entry)).status();
        assert!(made.unwrap().success());
        let began = Instant::now();
        use_it(&p);
        assert!(began.elapsed() < Duration::from_secs(60), "{entry}");
    }
}

#[test]
fn a_segment_or_model_of_absurd_size_is_refused_not_read() {
    if !can_run() {
        return;
    }
    let p = open_place();
    used(&p);
    let model = format!("models/{}.lmm", "00".repeat(32));
    for entry in ["segments/00000009.seg", &model] {
        let file = std::fs::File::create(p.path("s").join(entry)).unwrap();
        file.set_len(1 << 42).unwrap();
        let out = lmfs(&["scrub", &p.text("s"), "--json"]);
        assert!(matches!(out.status.code(), Some(4 | 8)), "{entry}: {:?}", out.status);
        std::fs::remove_file(p.path("s").join(entry)).unwrap();
    }
    works(&["scrub", &p.text("s")]);
}
