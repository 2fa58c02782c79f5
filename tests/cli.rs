//! The program as users meet it: wrong input, exit codes, a mount's life. Mount tests need
//! /dev/fuse and say so when it is missing.

#![allow(clippy::unwrap_used)]

mod place;
mod program;

use place::Place;
use program::{LMFS, has_fuse, lmfs, said, works};
use std::path::Path;
use std::process::Command;

/// The code and what was said on standard error.
fn fails(args: &[&str]) -> (i32, String) {
    let out = lmfs(args);
    (out.status.code().unwrap(), String::from_utf8_lossy(&out.stderr).into_owned())
}

#[test]
fn mkfs_refuses_a_full_directory_and_an_unknown_model() {
    let p = Place::new();
    std::fs::write(p.path("x"), "x").unwrap();
    let dir = p.text("");
    let (code, said) = fails(&["mkfs", &dir]);
    assert!(code == 1 && said.contains("not empty") && said.contains(&dir), "{said}");
    let (code, said) = fails(&["mkfs", &p.text("s"), "--model", "gpt"]);
    assert!(code == 2 && said.contains("gpt") && said.contains("fast"), "{said}");
    let (code, said) = fails(&["mkfs", &p.text("s"), "--block-size", "3"]);
    assert!(code == 2 && said.contains("block size 3"), "{said}");
}

#[test]
fn wrong_usage_is_2() {
    assert_eq!(fails(&["frobnicate"]).0, 2);
    assert_eq!(fails(&["mount", "one"]).0, 2);
}

#[test]
fn mount_says_what_is_wrong_and_what_to_do() {
    let p = Place::new();
    let (store, mnt) = (p.text("s"), p.text("mnt"));
    let (code, said) = fails(&["mount", &store, &mnt]);
    assert!(code == 1 && said.contains("lmfs mkfs"), "{said}");
    works(&["mkfs", &store]);
    let (code, said) = fails(&["mount", &store, &p.text("none")]);
    assert!(code == 1 && said.contains("does not exist") && said.contains("mkdir"), "{said}");
    std::fs::write(p.path("file"), "").unwrap();
    let (code, said) = fails(&["mount", &store, &p.text("file")]);
    assert!(code == 1 && said.contains("not a directory"), "{said}");
    std::fs::write(p.path("mnt/file"), "").unwrap();
    let (code, said) = fails(&["mount", &store, &mnt]);
    assert!(code == 1 && said.contains("not empty"), "{said}");
    let (code, said) = fails(&["mount", &store, &mnt, "-o", "colour=blue"]);
    assert!(code == 1 && said.contains("colour=blue"), "{said}");
}

#[test]
fn the_mount_helper_keeps_to_mount_8() {
    let p = Place::new();
    let helper = p.path("mount.lmfs");
    std::os::unix::fs::symlink(LMFS, &helper).unwrap();
    let run = |args: &[&str]| {
        let out = Command::new(&helper).args(args).output().unwrap();
        (out.status.code().unwrap(), String::from_utf8_lossy(&out.stderr).into_owned())
    };
    assert_eq!(run(&["one"]).0, 1);
    let (code, said) = run(&["a", "b", "-o", "rw,colour=blue"]);
    assert!(code == 1 && said.contains("colour=blue"), "{said}");
    assert_eq!(run(&["a", "b", "-f", "-o", "rw"]).0, 0);
    assert_eq!(run(&["a", "b", "-sf", "-o", "rw,colour=blue"]).0, 0);
    let (code, said) = run(&[&p.text("none"), &p.text("mnt"), "-o", "rw"]);
    assert!(code == 32 && said.contains("none"), "{said}");
}

#[test]
fn a_store_in_use_names_its_user() {
    if !has_fuse() {
        return;
    }
    let p = Place::new();
    let (store, mnt) = (p.text("s"), p.text("mnt"));
    works(&["up", &store, &mnt]);
    let status: serde_json::Value =
        serde_json::from_str(&works(&["status", &mnt, "--json"])).unwrap();
    std::fs::create_dir(p.path("mnt2")).unwrap();
    let (code, said) = fails(&["mount", &store, &p.text("mnt2")]);
    assert!(code == 1 && said.contains(&status["pid"].to_string()), "{said}");
    works(&["umount", &mnt]);
}

#[test]
fn written_rested_coded_unmounted_mounted_read_back() {
    if !has_fuse() {
        return;
    }
    let p = Place::new();
    let (store, mnt) = (p.text("s"), p.text("mnt"));
    works(&["up", &store, &mnt]);
    let mounts = std::fs::read_to_string("/proc/mounts").unwrap();
    assert!(mounts.lines().any(|l| l.contains(&mnt) && l.contains(" fuse.lmfs ")), "{mounts}");
    let text: String = (0..18_000)
        .map(|i| format!("2026-01-01 12:{:02} host job[{i}]: done in {} ms\n", i % 60, i * 7 % 100))
        .collect();
    std::fs::write(p.path("mnt/log"), &text).unwrap();
    let settled: serde_json::Value =
        serde_json::from_str(&works(&["settle", &mnt, "--json"])).unwrap();
    assert!(settled["blocks"].as_u64().unwrap() >= 3, "{settled}");
    let [before, after] = ["before_bytes", "after_bytes"].map(|b| settled[b].as_u64().unwrap());
    assert!(after * 2 < before, "{settled}");
    let [of, became] = ["text_bytes", "frame_bytes"].map(|b| settled[b].as_u64().unwrap());
    assert_eq!(of, text.len() as u64);
    assert!(became > 0 && became * 2 < before && settled["seconds"].is_number(), "{settled}");
    let stat: serde_json::Value =
        serde_json::from_str(&works(&["stat", &p.text("mnt/log"), "--json"])).unwrap();
    assert!(stat[0]["ratio"].as_f64().unwrap() > 10.0, "{stat}");
    // Whether the language model earns its time on such a log is not the matter here.
    let codecs = stat[0]["codecs"].as_object().unwrap();
    let coded: u64 = ["fast", "base"].iter().filter_map(|c| codecs.get(*c)?.as_u64()).sum();
    assert!(coded >= 3, "{stat}");
    assert_eq!(std::fs::read_to_string(p.path("mnt/log")).unwrap(), text);
    // An append, and an overwrite in the middle of a coded block.
    use std::io::{Seek, SeekFrom, Write};
    let mut f = std::fs::OpenOptions::new().write(true).open(p.path("mnt/log")).unwrap();
    f.seek(SeekFrom::Start(200_000)).unwrap();
    f.write_all(b"OVERWRITTEN").unwrap();
    f.seek(SeekFrom::End(0)).unwrap();
    f.write_all(b"tail\n").unwrap();
    drop(f);
    let mut want = text.into_bytes();
    want[200_000..200_011].copy_from_slice(b"OVERWRITTEN");
    want.extend_from_slice(b"tail\n");
    let held = std::fs::File::open(p.path("mnt/log")).unwrap();
    let (code, said) = fails(&["umount", &mnt]);
    assert!(code == 1 && said.contains("busy"), "{said}");
    drop(held);
    works(&["umount", &mnt]);
    let offline: serde_json::Value =
        serde_json::from_str(&works(&["status", &store, "--json"])).unwrap();
    assert_eq!(offline["logical_bytes"], want.len());
    assert!(offline["pid"].is_null());
    assert_eq!(offline["cleaner"]["on"], false);
    works(&["mount", &store, &mnt]);
    assert!(std::fs::read(p.path("mnt/log")).unwrap() == want);
    works(&["settle", &mnt]);
    assert!(std::fs::read(p.path("mnt/log")).unwrap() == want);
    works(&["umount", &mnt]);
}

#[test]
fn sigterm_flushes_and_unmounts() {
    if !has_fuse() {
        return;
    }
    let p = Place::new();
    let (store, mnt) = (p.text("s"), p.text("mnt"));
    works(&["mkfs", &store]);
    let mut daemon = Command::new(LMFS).args(["mount", "-f", &store, &mnt]).spawn().unwrap();
    let served = || std::fs::read_to_string("/proc/mounts").unwrap().contains(&mnt);
    while !served() {
        std::thread::sleep(std::time::Duration::from_millis(20));
        assert!(daemon.try_wait().unwrap().is_none(), "the daemon ended");
    }
    std::fs::write(p.path("mnt/a"), "kept").unwrap();
    Command::new("kill").arg(daemon.id().to_string()).status().unwrap();
    assert!(daemon.wait().unwrap().success());
    assert!(!served());
    works(&["mount", &store, &mnt, "-o", "ro"]);
    assert_eq!(std::fs::read_to_string(p.path("mnt/a")).unwrap(), "kept");
    let refused = std::fs::write(p.path("mnt/b"), "x").unwrap_err();
    assert_eq!(refused.raw_os_error(), Some(libc::EROFS));
    works(&["umount", &mnt]);
}

#[test]
fn what_there_is_not_is_refused_without_a_word_in_the_log() {
    use std::os::fd::AsRawFd;
    /// Flags as lsattr shows them.
    const FS_IOC_GETFLAGS: libc::Ioctl = 0x8008_6601_u32 as libc::Ioctl;
    if !has_fuse() {
        return;
    }
    let p = Place::new();
    let (store, mnt) = (p.text("s"), p.text("mnt"));
    works(&["mkfs", &store, "--model", "fast"]);
    let log = std::fs::File::create(p.path("log")).unwrap();
    let mut daemon =
        Command::new(LMFS).args(["mount", "-f", &store, &mnt]).stderr(log).spawn().unwrap();
    while !std::fs::read_to_string("/proc/mounts").unwrap().contains(&mnt) {
        std::thread::sleep(std::time::Duration::from_millis(20));
        assert!(daemon.try_wait().unwrap().is_none(), "the daemon ended");
    }
    let f = std::fs::File::create(p.path("mnt/f")).unwrap();
    let dir = std::fs::File::open(&mnt).unwrap();
    for fd in [f.as_raw_fd(), dir.as_raw_fd()] {
        for command in [FS_IOC_GETFLAGS, libc::TCGETS, libc::FIONREAD] {
            let mut out = [0_u64; 16];
            // SAFETY: an open descriptor, and more room than any of the commands fills.
            let r = unsafe { libc::ioctl(fd, command, out.as_mut_ptr()) };
            let e = std::io::Error::last_os_error().raw_os_error();
            // The kernel itself knows how much is left to read of a regular file.
            let known = command == libc::FIONREAD && fd == f.as_raw_fd();
            assert!(known || (r == -1 && e == Some(libc::ENOTTY)), "{command:#x}: {e:?}");
        }
    }
    let mut poll = libc::pollfd { fd: f.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    // SAFETY: one structure.
    assert_eq!(unsafe { libc::poll(&raw mut poll, 1, 1000) }, 1);
    assert_eq!(poll.revents, libc::POLLIN);
    drop((f, dir));
    works(&["umount", &mnt]);
    assert!(daemon.wait().unwrap().success());
    let log = std::fs::read_to_string(p.path("log")).unwrap();
    assert!(!log.contains("Not Implemented") && !log.contains("WARN"), "{log}");
}

#[test]
fn fsync_of_a_directory_keeps_what_was_written_anywhere() {
    kept_by(|p| std::fs::File::open(p.path("mnt/d")).unwrap().sync_all().unwrap());
}

#[test]
fn sync_keeps_what_was_written_anywhere() {
    kept_by(|p| assert_eq!(works(&["sync", &p.text("mnt")]), ""));
    kept_by(|p| drop(works(&["sync", &p.text("mnt/d/b")])));
}

#[test]
fn sync_fails_where_nothing_is_mounted_or_nobody_answers() {
    let p = Place::new();
    let (code, said) = fails(&["sync", &p.text("mnt")]);
    assert!(code == 1 && said.contains(&p.text("mnt")) && said.contains("no mounted"), "{said}");
    assert_eq!(fails(&["sync"]).0, 2);
    if !has_fuse() {
        return;
    }
    let (store, mnt) = (p.text("s"), p.text("mnt"));
    works(&["mkfs", &store, "--model", "fast"]);
    works(&["mount", &store, &mnt]);
    kill(&mnt);
    let (code, said) = fails(&["sync", &mnt]);
    assert!(code == 1 && said.contains(&format!("umount {mnt}")), "{said}");
}

/// Ends a mount's daemon by force.
fn kill(mnt: &str) {
    let status: serde_json::Value =
        serde_json::from_str(&works(&["status", mnt, "--json"])).unwrap();
    let pid = status["pid"].to_string();
    assert!(Command::new("kill").args(["-9", &pid]).status().unwrap().success());
    // Until all its threads have ended, if only as a zombie, it may still be connected: the first thread is a
    // zombie before the others have closed what they share.
    let proc = Path::new("/proc").join(&pid);
    let lives = || {
        let Ok(stat) = std::fs::read_to_string(proc.join("stat")) else { return false };
        let state = stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next());
        let threads = std::fs::read_dir(proc.join("task")).map_or(0, Iterator::count);
        state.is_some_and(|s| s != 'Z' && s != 'X') || threads > 1
    };
    while lives() {
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
}

/// What was written anywhere in a mount is there after the daemon's end by force, thanks to `sync`.
fn kept_by(sync: impl Fn(&Place)) {
    use std::io::Write;
    if !has_fuse() {
        return;
    }
    let p = Place::new();
    let (store, mnt) = (p.text("s"), p.text("mnt"));
    works(&["mkfs", &store, "--model", "fast"]);
    works(&["mount", &store, &mnt, "-o", "recode=off,commit=300"]);
    std::fs::create_dir_all(p.path("mnt/d/e")).unwrap();
    let mut open = Vec::new();
    for name in ["mnt/a", "mnt/d/b", "mnt/d/e/c"] {
        let mut f = std::fs::File::create(p.path(name)).unwrap();
        f.write_all(&[b'x'; 7000]).unwrap();
        open.push(f);
    }
    sync(&p);
    kill(&mnt);
    drop(open);
    assert!(Command::new("umount").args(["-l", &mnt]).status().unwrap().success());
    // The store is free once the process has ended.
    for wait in 0.. {
        let out = lmfs(&["mount", &store, &mnt]);
        if out.status.success() {
            break;
        }
        assert!(wait < 100, "{}", String::from_utf8_lossy(&out.stderr));
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    for name in ["mnt/a", "mnt/d/b", "mnt/d/e/c"] {
        assert!(std::fs::read(p.path(name)).unwrap() == [b'x'; 7000], "{name}");
    }
    works(&["umount", &mnt]);
}

#[test]
fn containers_come_back_and_damage_is_3() {
    let p = Place::new();
    let text: String = (0..20_000).map(|i| format!("record {} of {}\n", i, i % 13)).collect();
    std::fs::write(p.path("in"), &text).unwrap();
    works(&["compress", &p.text("in"), "-o", &p.text("in.lmz")]);
    works(&["decompress", &p.text("in.lmz"), "-o", &p.text("out")]);
    assert_eq!(std::fs::read_to_string(p.path("out")).unwrap(), text);
    let mut bad = std::fs::read(p.path("in.lmz")).unwrap();
    assert!(bad.len() * 10 < text.len());
    let at = bad.len() / 2;
    bad[at] ^= 1;
    std::fs::write(p.path("bad.lmz"), bad).unwrap();
    let (code, said) = fails(&["decompress", &p.text("bad.lmz"), "-o", &p.text("none")]);
    assert!(code == 3 && said.contains("bad.lmz"), "{said}");
    assert_eq!(names(&p), ["bad.lmz", "in", "in.lmz", "mnt", "out"]);
}

#[test]
fn every_instruction_set_writes_the_same_and_reads_it() {
    let p = Place::new();
    let text: String =
        (0..9000).map(|i| format!("{i}: {} items of {}\n", i % 7, i * i % 97)).collect();
    std::fs::write(p.path("in"), &text).unwrap();
    let with = |isa: &str, args: &[&str]| {
        let out = Command::new(LMFS).args(args).env("LMFS_CPU", isa).output().unwrap();
        assert!(out.status.success(), "{isa}: {}", said(&out));
        let words = said(&out);
        (out.stdout, words)
    };
    let (usual, _) = with("avx512-vnni", &["-q", "compress", &p.text("in"), "-o", "-"]);
    std::fs::write(p.path("in.lmz"), &usual).unwrap();
    for isa in ["scalar", "avx2"] {
        assert!(with(isa, &["-q", "compress", &p.text("in"), "-o", "-"]).0 == usual, "{isa}");
        let (back, _) = with(isa, &["-q", "decompress", &p.text("in.lmz"), "-o", "-"]);
        assert!(back == text.as_bytes(), "{isa}");
    }
    let (_, words) = with("avx9", &["compress", &p.text("in"), "-o", "-"]);
    assert!(words.contains("LMFS_CPU=avx9"), "{words}");
}

/// All that lies in a place.
fn names(p: &Place) -> Vec<String> {
    let all = std::fs::read_dir(p.path("")).unwrap().flatten();
    let mut names: Vec<_> = all.map(|e| e.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// A container without a language model, of a text.
fn container(p: &Place, name: &str, text: &str) -> String {
    std::fs::write(p.path("plain"), text).unwrap();
    works(&["compress", "-m", "fast", &p.text("plain"), "-o", &p.text(name), "-f"]);
    p.text(name)
}

#[test]
fn containers_in_a_row_come_back_and_junk_behind_them_is_3() {
    let p = Place::new();
    let mut week = Vec::new();
    for day in ["monday\n", "tuesday\n"] {
        week.extend(std::fs::read(container(&p, "day", day)).unwrap());
    }
    std::fs::write(p.path("week"), &week).unwrap();
    assert_eq!(works(&["decompress", &p.text("week"), "-o", "-"]), "monday\ntuesday\n");
    assert_eq!(works(&["decompress", "--test", &p.text("week")]), "");
    week.extend(b"junk");
    std::fs::write(p.path("week"), &week).unwrap();
    for how in [&["-t"][..], &["-o", &p.text("out")]] {
        let (code, said) = fails(&[&["decompress", &p.text("week")], how].concat());
        assert!(code == 3 && said.contains("behind its end"), "{said}");
    }
    let (code, said) = fails(&["decompress", &p.text("none"), "-t"]);
    assert!(code == 1 && said.contains("none"), "{said}");
    assert_eq!(fails(&["decompress", &p.text("week")]).0, 2);
    assert_eq!(names(&p), ["day", "mnt", "plain", "week"]);
}

#[test]
fn a_file_that_is_there_goes_only_with_force() {
    use std::os::unix::fs::PermissionsExt;
    let p = Place::new();
    let packed = container(&p, "lmz", "new");
    std::fs::write(p.path("out"), "old").unwrap();
    std::fs::set_permissions(p.path("out"), PermissionsExt::from_mode(0o600)).unwrap();
    for args in [["decompress", &packed], ["compress", &p.text("plain")]] {
        let (code, said) = fails(&[&args[..], &["-o", &p.text("out")]].concat());
        assert!(code == 1 && said.contains("out") && said.contains("-f"), "{said}");
        assert_eq!(std::fs::read_to_string(p.path("out")).unwrap(), "old");
    }
    works(&["decompress", &packed, "-o", &p.text("out"), "--force"]);
    assert_eq!(std::fs::read_to_string(p.path("out")).unwrap(), "new");
    assert_eq!(p.path("out").metadata().unwrap().permissions().mode() & 0o777, 0o600);
    // What fails leaves the old one alone.
    std::fs::write(p.path("bad"), &std::fs::read(&packed).unwrap()[..20]).unwrap();
    assert_eq!(fails(&["decompress", &p.text("bad"), "-o", &p.text("out"), "-f"]).0, 3);
    assert_eq!(std::fs::read_to_string(p.path("out")).unwrap(), "new");
    assert_eq!(names(&p), ["bad", "lmz", "mnt", "out", "plain"]);
}

#[test]
fn pipes_devices_and_links_are_written_into() {
    use std::os::unix::fs::{FileTypeExt, symlink};
    let p = Place::new();
    let packed = container(&p, "lmz", "text\n");
    assert!(Command::new("mkfifo").arg(p.path("pipe")).status().unwrap().success());
    let mut reader = Command::new("cat");
    let reader = reader.arg(p.path("pipe")).stdout(std::process::Stdio::piped()).spawn().unwrap();
    works(&["decompress", &packed, "-o", &p.text("pipe")]);
    assert_eq!(reader.wait_with_output().unwrap().stdout, b"text\n");
    assert!(p.path("pipe").metadata().unwrap().file_type().is_fifo());
    works(&["decompress", &packed, "-o", "/dev/null"]);
    assert!(Path::new("/dev/null").metadata().unwrap().file_type().is_char_device());
    let (code, said) = fails(&["decompress", &packed, "-o", "/dev/full"]);
    assert!(code == 1 && said.contains("/dev/full"), "{said}");
    assert_eq!(works(&["decompress", &packed, "-o", "/dev/stdout"]), "text\n");
    // A link to a file, by way of another link; and one to a file that is still to come.
    std::fs::create_dir(p.path("d")).unwrap();
    std::fs::write(p.path("d/old"), "old").unwrap();
    symlink("old", p.path("d/hop")).unwrap();
    symlink("d/hop", p.path("link")).unwrap();
    symlink("d/new", p.path("hangs")).unwrap();
    for (link, end) in [("link", "d/old"), ("hangs", "d/new")] {
        works(&["decompress", &packed, "-o", &p.text(link)]);
        assert!(p.path(link).symlink_metadata().unwrap().is_symlink());
        assert!(p.path("d/hop").symlink_metadata().unwrap().is_symlink());
        assert_eq!(std::fs::read_to_string(p.path(end)).unwrap(), "text\n");
    }
    // A descriptor keeps what others wrote to it.
    let to = "echo first > f; exec 7>> f; $0 decompress lmz -o /dev/fd/7";
    let sh = Command::new("sh").current_dir(p.path("")).args(["-c", to, LMFS]).status();
    assert!(sh.unwrap().success());
    assert_eq!(std::fs::read_to_string(p.path("f")).unwrap(), "first\ntext\n");
    assert_eq!(fails(&["decompress", &packed, "-o", &p.text("d"), "-f"]).0, 1);
    assert_eq!(names(&p), ["d", "f", "hangs", "link", "lmz", "mnt", "pipe", "plain"]);
}

#[test]
fn the_bench_prints_what_is_contracted() {
    let p = Place::new();
    let text: String = (0..18_000).map(|i| format!("{i} the quick brown fox\n")).collect();
    std::fs::write(p.path("t"), text).unwrap();
    let out: serde_json::Value =
        serde_json::from_str(&works(&["bench", "codec", "--json", &p.text("t")])).unwrap();
    let total = &out["total"];
    assert_eq!(total["roundtrip"], true);
    let (coded, bytes) = (total["coded_bytes"].as_f64().unwrap(), total["bytes"].as_f64().unwrap());
    assert!((total["bpb"].as_f64().unwrap() - coded * 8.0 / bytes).abs() < 1e-9);
    // The code is within 0.1 % and 8 bytes a frame of the ideal, its headers and lengths of lanes aside.
    let ideal = total["ideal_bits"].as_f64().unwrap() / 8.0;
    assert!(coded <= ideal * 1.001 + 3.0 * (8.0 + 48.0 + 7.0 * 3.0), "{coded} {ideal}");
}

#[test]
fn noise_hardly_grows() {
    let p = Place::new();
    let mut noise = vec![0; 1 << 20];
    use std::io::Read;
    std::fs::File::open("/dev/urandom").unwrap().read_exact(&mut noise).unwrap();
    std::fs::write(p.path("n"), &noise).unwrap();
    works(&["compress", &p.text("n"), "-o", &p.text("n.lmz")]);
    let packed = std::fs::metadata(p.path("n.lmz")).unwrap().len();
    assert!(packed < noise.len() as u64 * 101 / 100 + 4096, "{packed}");
}
