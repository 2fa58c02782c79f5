//! `/etc/lmfs.conf`, by the name that `$LMFS_CONF` gives it. Mount tests need /dev/fuse and say so when it
//! is missing.

#![allow(clippy::unwrap_used)]

mod place;

use place::Place;
use std::path::Path;
use std::process::{Command, Output};

const LMFS: &str = env!("CARGO_BIN_EXE_lmfs");

fn lmfs(conf: &Path, args: &[&str]) -> Output {
    Command::new(LMFS).args(args).env("LMFS_CONF", conf).output().unwrap()
}

fn said(out: &Output) -> String {
    String::from_utf8_lossy(&out.stderr).into_owned()
}

fn works(conf: &Path, args: &[&str]) -> String {
    let out = lmfs(conf, args);
    assert!(out.status.success(), "{args:?}: {}", said(&out));
    String::from_utf8_lossy(&out.stdout).into_owned()
}

/// The cache of the store that is mounted there, in bytes.
fn cache(conf: &Path, mnt: &str) -> u64 {
    let status = works(conf, &["status", mnt, "--json"]);
    let status: serde_json::Value = serde_json::from_str(&status).unwrap();
    status["cache"]["capacity"].as_u64().unwrap()
}

#[test]
fn a_mount_has_what_the_file_says() {
    if !Path::new("/dev/fuse").exists() {
        println!("skipped: /dev/fuse is missing");
        return;
    }
    let p = Place::new();
    let (conf, store, mnt) = (p.path("lmfs.conf"), p.text("s"), p.text("mnt"));
    std::fs::write(
        &conf,
        format!("[defaults]\ncache = \"3M\"\nnoexec = true\n[store.\"{store}\"]\ncache = \"5M\"\n"),
    )
    .unwrap();
    works(&conf, &["-q", "mkfs", &store, "--model", "fast"]);
    works(&conf, &["mount", &store, &mnt]);
    assert_eq!(cache(&conf, &mnt), 5 << 20);
    let mounts = std::fs::read_to_string("/proc/mounts").unwrap();
    let line = mounts.lines().find(|l| l.contains(&mnt)).unwrap();
    assert!(line.contains("noexec"), "{line}");
    works(&conf, &["umount", &mnt]);
    // The command line goes before it, by whatever way; a link to the store is the store.
    let link = p.text("link");
    std::os::unix::fs::symlink(&store, &link).unwrap();
    works(&conf, &["mount", &link, &mnt, "-o", "exec"]);
    assert_eq!(cache(&conf, &mnt), 5 << 20);
    works(&conf, &["umount", &mnt]);
    works(&conf, &["up", &store, &mnt, "-o", "cache=7M"]);
    assert_eq!(cache(&conf, &mnt), 7 << 20);
    works(&conf, &["umount", &mnt]);
}

#[test]
fn settings_are_printed_with_where_they_come_from() {
    let p = Place::new();
    let conf = p.path("lmfs.conf");
    std::fs::write(&conf, "[defaults]\nrest = 90\n\n[store.\"/a\"]\nmodel = \"fast\"\n").unwrap();
    let shown = conf.display();
    let all = works(&conf, &["mount", "--print-config"]);
    let has = |text: &str, line: &str| {
        let line = line.split_whitespace().collect::<Vec<_>>();
        assert!(text.lines().any(|l| l.split_whitespace().eq(line.iter().copied())), "{text}");
    };
    has(&all, &format!("rest = 90 # {shown}:2"));
    has(&all, "commit = 5 # built in");
    has(&all, "# model = as directories say, else the store # built in");
    let one = works(&conf, &["mount", "/a", "/nowhere", "--print-config", "-o", "commit=1,ro"]);
    has(&one, &format!("model = \"fast\" # {shown}:5"));
    has(&one, "commit = 1 # command line");
    has(&one, "ro = true # command line");
    // Without a store or a place, there is nothing else to do.
    assert_eq!(lmfs(&conf, &["mount"]).status.code(), Some(2));
    assert_eq!(lmfs(&conf, &["mount", "/a"]).status.code(), Some(2));
}

#[test]
fn a_bad_file_is_refused_with_file_and_line() {
    let p = Place::new();
    let (conf, store, mnt) = (p.path("lmfs.conf"), p.text("s"), p.text("mnt"));
    works(Path::new("/dev/null"), &["-q", "mkfs", &store, "--model", "fast"]);
    for (text, line, what) in [
        ("[defaults]\n\ncolour = \"blue\"\n", 3, "colour"),
        ("[store.\"/other\"]\ncommit = \"soon\"\n", 2, "commit=soon"),
        ("[defaults]\nrest = = 3\n", 2, ""),
    ] {
        std::fs::write(&conf, text).unwrap();
        for args in [
            &["mount", &store, &mnt][..],
            &["mount", "-f", &store, &mnt],
            &["up", &store, &mnt],
            &["mount", "--print-config"],
        ] {
            let out = lmfs(&conf, args);
            let at = format!("{}:{line}: ", conf.display());
            let told = said(&out);
            assert!(out.status.code() == Some(1), "{args:?}: {told}");
            assert!(told.contains(&at) && told.contains(what), "{args:?}: {told}");
        }
    }
    // One that is asked for must be there.
    let out = lmfs(&p.path("none"), &["mount", "--print-config"]);
    assert!(out.status.code() == Some(1) && said(&out).contains("none"), "{}", said(&out));
    // Other commands do without it.
    works(&p.path("none"), &["status", &store]);
}
