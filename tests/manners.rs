//! How the program behaves among other tools: a full standard output, signals, several paths of which
//! one is bad. Mount tests need /dev/fuse and say so when it is missing.

#![allow(clippy::unwrap_used)]

mod place;
mod program;

use place::Place;
use program::{LMFS, lmfs, said, works};
use std::fs::File;
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

fn names(p: &Place) -> Vec<String> {
    let all = std::fs::read_dir(p.path("")).unwrap().flatten();
    let mut names: Vec<_> = all.map(|e| e.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

#[test]
fn a_full_standard_output_is_an_error() {
    let p = Place::new();
    let store = p.text("s");
    works(&["-q", "mkfs", &store, "--model", "fast"]);
    std::fs::write(p.path("t"), "text\n".repeat(5000)).unwrap();
    for args in [
        &["--version"][..],
        &["--help"],
        &["stat", "--help"],
        &["completions", "bash"],
        &["model", "list"],
        &["model", "list", "--json"],
        &["model", "info", "base"],
        &["model", "export", "base", "-o", "-"],
        &["status", &store],
        &["status", &store, "--json"],
        &["settle", &store],
        &["scrub", &store],
        &["gc", &store, "--json"],
        &["compress", "-m", "fast", &p.text("t"), "-o", "-"],
    ] {
        let full = File::options().write(true).open("/dev/full").unwrap();
        let mut command = Command::new(LMFS);
        let out = command.args(args).stdout(full).stderr(Stdio::piped()).spawn().unwrap();
        let out = out.wait_with_output().unwrap();
        let said = said(&out);
        assert!(out.status.code() == Some(1) && !said.contains("panicked"), "{args:?}: {said}");
        assert!(said.contains("No space left"), "{args:?}: {said}");
    }
}

#[test]
fn a_signal_leaves_no_partial_file() {
    for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
        let p = Place::new();
        let mut child = Command::new(LMFS);
        child.args(["compress", "-m", "fast", "-", "-o", &p.text("out")]).stdin(Stdio::piped());
        // Whoever runs the tests may ignore it, as nohup(1) does, and children inherit that.
        // SAFETY: a plain system call between fork and exec.
        unsafe {
            child.pre_exec(move || {
                libc::signal(signal, libc::SIG_DFL);
                Ok(())
            });
        }
        let mut child = child.spawn().unwrap();
        let mut input = child.stdin.take().unwrap();
        input.write_all(&b"some text\n".repeat(1000)).unwrap();
        let began = Instant::now();
        while names(&p).len() < 2 {
            assert!(began.elapsed() < Duration::from_secs(30), "no partial file appears");
            std::thread::sleep(Duration::from_millis(10));
        }
        // SAFETY: a plain system call; the process is ours and not waited for yet.
        assert_eq!(unsafe { libc::kill(child.id().cast_signed(), signal) }, 0);
        assert_eq!(child.wait().unwrap().signal(), Some(signal));
        assert_eq!(names(&p), ["mnt"]);
    }
}

#[test]
fn compress_tests_too() {
    let p = Place::new();
    std::fs::write(p.path("t"), "text\n".repeat(5000)).unwrap();
    works(&["-q", "compress", "-m", "fast", &p.text("t"), "-o", &p.text("t.lmz")]);
    assert_eq!(works(&["compress", "-t", &p.text("t.lmz")]), "");
    let mut bytes = std::fs::read(p.path("t.lmz")).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(p.path("t.lmz"), bytes).unwrap();
    assert_eq!(lmfs(&["compress", "--test", &p.text("t.lmz")]).status.code(), Some(3));
    assert_eq!(lmfs(&["compress", &p.text("t")]).status.code(), Some(2));
    assert_eq!(names(&p), ["mnt", "t", "t.lmz"]);
}

#[test]
fn stat_sums_up_and_names_what_it_cannot_find() {
    if !Path::new("/dev/fuse").exists() {
        println!("skipped: /dev/fuse is missing");
        return;
    }
    let p = Place::new();
    let (store, mnt) = (p.text("s"), p.text("mnt"));
    works(&["-q", "mkfs", &store, "--model", "fast"]);
    works(&["mount", &store, &mnt, "-o", "recode=off"]);
    std::fs::create_dir_all(p.path("mnt/d/e")).unwrap();
    for (name, n) in [("a", 100), ("d/b", 2000), ("d/e/c", 30_000)] {
        std::fs::write(p.path("mnt").join(name), "a line\n".repeat(n)).unwrap();
    }
    // A second name is no second file.
    std::fs::hard_link(p.path("mnt/d/b"), p.path("mnt/d/e/b2")).unwrap();
    works(&["settle", &mnt]);
    let stat = |args: &[&str]| -> Vec<serde_json::Value> {
        serde_json::from_str(&works(&[&["stat", "--json"], args].concat())).unwrap()
    };
    let d = &stat(&[&p.text("mnt/d")])[0];
    assert_eq!((&d["size"], &d["files"]), (&(7 * 32_000).into(), &2.into()), "{d}");
    let each = stat(&["-r", &p.text("mnt/d")]);
    let paths: Vec<_> = each.iter().map(|e| e["path"].as_str().unwrap()).collect();
    let (first, last) = (paths[0], paths[paths.len() - 1]);
    assert!(each.len() == 3 && first.starts_with(last) && last == p.text("mnt/d"), "{paths:?}");
    let sum = |key: &str| each[..2].iter().map(|e| e[key].as_u64().unwrap()).sum::<u64>();
    assert_eq!(d["coded_size"], sum("coded_size"));
    assert_eq!(d["codecs"], each[2]["codecs"]);
    let ino = p.path("mnt/d/e/c").metadata().unwrap().ino();
    assert!(each.iter().any(|e| e["inode"] == ino && e["path"] == p.text("mnt/d/e/c")));
    // One bad path, and one that lies elsewhere, do not hide the others.
    let (a, none) = (p.text("mnt/a"), p.text("mnt/none"));
    let out = lmfs(&["stat", "--json", &none, &a, "/etc/passwd", &mnt]);
    let told = said(&out);
    assert!(out.status.code() == Some(1), "{told}");
    assert!(
        told.contains(&none) && told.contains("/etc/passwd") && told.contains("2 of 4"),
        "{told}"
    );
    let found: Vec<serde_json::Value> = serde_json::from_slice(&out.stdout).unwrap();
    assert_eq!((found.len(), &found[0]["size"]), (2, &700.into()));
    works(&["umount", &mnt]);
}
