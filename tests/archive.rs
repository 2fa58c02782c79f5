//! An archive without a mount: what goes in as a tar stream comes out as one, by GNU tar's judgement.

#![allow(clippy::unwrap_used)]

mod place;
mod program;

use place::Place;
use program::{LMFS, answer, lmfs, said, works};
use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

fn sh(command: &str) -> String {
    let out = Command::new("sh").args(["-c", command]).output().unwrap();
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(out.status.success(), "{command}: {said}");
    String::from_utf8_lossy(&out.stdout).into_owned()
}

/// Everything about a tree that a tar stream carries, a line for each thing.
fn tree(dir: &Path) -> String {
    let list = "find . -printf '%p %y %m %U %G %n %l ' \\( -type d -printf '\\n' \
                -o -type l -printf '%T@\\n' -o -printf '%s %T@\\n' \\) | LC_ALL=C sort";
    let sums = "find . -type f -exec sha256sum {} + | LC_ALL=C sort";
    let attributes = "getfattr -R -h -d -m '^user' . 2>/dev/null | LC_ALL=C sort || true";
    sh(&format!("cd {} && {list} && {sums} && {attributes}", dir.display()))
}

/// A tree with one of everything.
fn fill(dir: &Path) {
    fs::create_dir_all(dir.join("d/empty")).unwrap();
    let text: String =
        (0..20_000).map(|n| format!("{n} session {} opened\n", n * 7919 % 997)).collect();
    fs::write(dir.join("d/log"), &text).unwrap();
    fs::write(dir.join("nothing"), "").unwrap();
    fs::set_permissions(dir.join("nothing"), fs::Permissions::from_mode(0o4751)).unwrap();
    fs::hard_link(dir.join("d/log"), dir.join("a name")).unwrap();
    symlink("d/../d/log", dir.join("link")).unwrap();
    let long = "n".repeat(120);
    fs::create_dir(dir.join(&long)).unwrap();
    fs::write(dir.join(&long).join(&long), "deep").unwrap();
    symlink("t".repeat(300), dir.join("long link")).unwrap();
    let sparse = File::create(dir.join("sparse")).unwrap();
    sparse.write_all_at(b"beginning", 0).unwrap();
    sparse.write_all_at(&vec![b'm'; 70_000], 32 << 20).unwrap();
    sparse.set_len(48 << 20).unwrap();
    let hole = File::create(dir.join("hole")).unwrap();
    hole.set_len(1 << 20).unwrap();
    sh(&format!(
        "cd {} && mkfifo pipe && touch -d '1969-12-31 23:00:00.25' old && touch -d 2001-02-03 d d/empty",
        dir.display()
    ));
    sh(&format!(
        "cd {} && setfattr -n user.note -v hello d/log nothing 2>/dev/null || true",
        dir.display()
    ));
    #[cfg(target_os = "linux")]
    fs::write(
        dir.join(<std::ffi::OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(b"not \xff utf-8")),
        "x",
    )
    .unwrap();
}

#[test]
fn a_tar_stream_goes_in_and_comes_out() {
    let p = Place::new();
    fs::create_dir(p.path("in")).unwrap();
    fill(&p.path("in"));
    let (at, store) = (p.text(""), p.text("s"));
    works(&["mkfs", &store, "--model", "fast"]);
    let tar = "tar --format=pax --xattrs --sparse";
    let said = sh(&format!("{tar} -C {at}/in -cf - . | {LMFS} import {store}"));
    assert!(said.contains("entries imported"), "{said}");
    // What GNU tar makes of what we make of what GNU tar made.
    for round in 0..2 {
        let out = p.path(&format!("out{round}"));
        fs::create_dir(&out).unwrap();
        sh(&format!("{LMFS} -q export {store} | tar --xattrs -C {} -xpf -", out.display()));
        assert_eq!(tree(&p.path("in")), tree(&out), "{round}");
        // Holes stay holes.
        assert!(out.join("sparse").metadata().unwrap().blocks() < 1 << 10);
        works(&["settle", &store]);
    }
    // From one store into another; a part; over what is there.
    works(&["mkfs", &p.text("t"), "--model", "fast"]);
    sh(&format!("{LMFS} -q export {store} | {LMFS} -q import {at}/t"));
    sh(&format!("{LMFS} -q export {store} d /link | {LMFS} -q import {at}/t"));
    fs::create_dir(p.path("third")).unwrap();
    sh(&format!("{LMFS} -q export {at}/t | tar --xattrs -C {at}/third -xpf -"));
    let without_links = |s: String| s.replace(" 2 ", " 1 ");
    assert_eq!(without_links(tree(&p.path("in"))), without_links(tree(&p.path("third"))));
    assert!(answer(&["fsck", &store]).is_empty() || lmfs(&["fsck", &store]).status.success());
}

#[test]
fn files_are_listed_and_printed_without_a_mount() {
    let p = Place::new();
    fs::create_dir(p.path("in")).unwrap();
    fill(&p.path("in"));
    let (at, store) = (p.text(""), p.text("s"));
    works(&["mkfs", &store, "--model", "fast"]);
    sh(&format!("tar --sparse -C {at}/in -cf - . | {LMFS} -q import {store}"));
    let before = sh(&format!("cd {store} && find . -type f -exec sha256sum {{}} + | sort"));
    let log = fs::read(p.path("in/d/log")).unwrap();
    let here = |said: Vec<u8>| String::from_utf8(said).unwrap();
    assert!(answer(&["cat", &store, "d/log"]) == log);
    assert!(
        answer(&["cat", &store, "/d/log", "--offset", "100", "--length", "50"]) == log[100..150]
    );
    assert_eq!(answer(&["cat", &store, "d/log", "--offset", "99999999"]), b"");
    assert_eq!(here(answer(&["ls", &store, "d"])), "empty\nlog\n");
    let long = here(answer(&["ls", &store, "-l", "d"]));
    assert!(long.lines().any(|l| l.starts_with("-rw-") && l.ends_with(" log")), "{long}");
    assert!(long.contains(&log.len().to_string()));
    let all = here(answer(&["ls", &store, "-R", "d", "/nothing"]));
    assert_eq!(all, "/d:\nempty\nlog\n\n/d/empty:\nnothing\n");
    // One bad path does not hide the others.
    for (args, want) in [
        (["cat", &store, "absent", "nothing"], "absent"),
        (["cat", &store, "d", "nothing"], "not a regular file"),
        (["ls", &store, "absent", "nothing"], "absent"),
        (["ls", &store, "../x", "nothing"], "leads out"),
    ] {
        let out = lmfs(&args);
        let said = String::from_utf8_lossy(&out.stderr);
        assert!(out.status.code() == Some(1) && said.contains(want), "{args:?}: {said}");
        assert_eq!(here(out.stdout), if args[0] == "ls" { "nothing\n" } else { "" });
    }
    // Looking changes nothing.
    let after = sh(&format!("cd {store} && find . -type f -exec sha256sum {{}} + | sort"));
    assert_eq!(before, after);
    if !Path::new("/dev/fuse").exists() {
        println!("skipped: /dev/fuse is missing");
        return;
    }
    // The same through a mount, by either name; but tar is what fills a mounted one.
    let unmounted = answer(&["ls", &store, "-R", "-l"]);
    works(&["mount", &store, &p.text("mnt")]);
    for name in [&store, &p.text("mnt")] {
        assert!(answer(&["ls", name, "-R", "-l"]) == unmounted);
        assert!(answer(&["cat", name, "d/log"]) == log);
        assert!(answer(&["-q", "export", name]).len() > log.len());
    }
    let refused = lmfs(&["import", &store]);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(refused.status.code() == Some(1) && said.contains("tar -C"), "{said}");
    works(&["umount", &p.text("mnt")]);
}

#[test]
fn a_damaged_file_is_exported_as_far_as_it_goes() {
    let p = Place::new();
    let store = p.text("s");
    works(&["mkfs", &store, "--model", "fast", "--ecc", "none"]);
    fs::create_dir(p.path("in")).unwrap();
    let noise = |seed: u64| -> Vec<u8> {
        let mut x = seed;
        let mut next = |_| {
            x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (x >> 56) as u8
        };
        (0..3_000_000).map(&mut next).collect()
    };
    for (name, seed) in [("a", 1), ("b", 2)] {
        fs::write(p.path("in").join(name), noise(seed)).unwrap();
    }
    sh(&format!("tar -C {} -cf - a b | {LMFS} -q import {store}", p.text("in")));
    // A page in the middle of what a holds.
    let segment = p.path("s/segments/00000001.seg");
    let mut bytes = fs::read(&segment).unwrap();
    let a = noise(1);
    let at = bytes.windows(64).position(|w| w == &a[2_500_000..2_500_064]).unwrap();
    bytes[at..at + 4096].fill(0);
    fs::write(&segment, bytes).unwrap();
    let out = lmfs(&["-q", "export", &store]);
    let told = said(&out);
    assert_eq!(out.status.code(), Some(1), "{told}");
    assert!(told.contains("a: ") && told.contains("zeros from there on"), "{told}");
    assert!(told.contains("1 are damaged") && !told.contains("not in the stream"), "{told}");
    fs::write(p.path("tar"), &out.stdout).unwrap();
    sh(&format!("mkdir {0}/out; tar -C {0}/out -xf {0}/tar", p.text("")));
    let (got, b) = (fs::read(p.path("out/a")).unwrap(), fs::read(p.path("out/b")).unwrap());
    assert!(b == noise(2));
    let good = got.iter().zip(&a).take_while(|(x, y)| x == y).count();
    assert!(got.len() == a.len() && (1_000_000..=2_500_000).contains(&good), "{good}");
    assert!(got[2_500_000..].iter().all(|b| *b == 0));
}

#[test]
fn streams_that_are_none_are_refused_and_nothing_escapes() {
    let p = Place::new();
    let (at, store) = (p.text(""), p.text("s"));
    works(&["mkfs", &store, "--model", "fast"]);
    fs::write(p.path("junk"), vec![b'x'; 5000]).unwrap();
    let failed = |command: &str| {
        let out = Command::new("sh").args(["-c", command]).output().unwrap();
        assert_eq!(out.status.code(), Some(1), "{command}");
        String::from_utf8_lossy(&out.stderr).into_owned()
    };
    assert!(failed(&format!("{LMFS} import {store} < {at}/junk")).contains("tar stream"));
    fs::create_dir(p.path("in")).unwrap();
    fs::write(p.path("in/f"), "x".repeat(100_000)).unwrap();
    let said =
        failed(&format!("tar -C {at}/in -cPf - --transform s,^,../../, f | {LMFS} import {store}"));
    assert!(said.contains("leads out"), "{said}");
    // What came before the damage is there.
    let said = failed(&format!("tar -C {at}/in -cf - f | head -c 60000 | {LMFS} import {store}"));
    assert!(said.contains("tar stream"), "{said}");
    let out = lmfs(&["ls", &store, "-l"]);
    assert!(String::from_utf8_lossy(&out.stdout).contains(" f\n"));
}
