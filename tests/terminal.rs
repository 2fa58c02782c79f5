//! What people see while something goes on, and what scripts do not: progress, colour, JSON. And ending
//! what takes too long. Mount tests need /dev/fuse and say so when it is missing.

#![allow(clippy::unwrap_used)]

mod place;
mod program;

use place::Place;
use program::{LMFS, has_fuse, json, lmfs, said, works};
use serde_json::Value;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::os::fd::AsRawFd;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Runs a command on a terminal of its own; `None` where there is no script(1). All that it wrote.
fn on_terminal(command: &str) -> Option<String> {
    let mut script = Command::new("script");
    script.args(["-qec", command, "/dev/null"]).stdin(Stdio::null()).env("TERM", "xterm");
    match script.output() {
        Ok(out) => Some(String::from_utf8_lossy(&out.stdout).into_owned()),
        Err(e) => {
            println!("skipped: script: {e}");
            None
        }
    }
}

/// Lines of a log, no two the same.
fn log(lines: usize) -> String {
    let line = |i: usize| {
        let ms = i.wrapping_mul(2_654_435_761) % 9973;
        format!("12:{:02}:{:02} host{} app: request {i} took {ms} ms\n", i / 60 % 60, i % 60, i % 7)
    };
    (0..lines).map(line).collect()
}

/// What is there of colours in a terminal's output.
fn coloured(text: &str) -> bool {
    let mut parts = text.split("\x1b[").skip(1);
    parts.any(|p| p.trim_start_matches(|c: char| c.is_ascii_digit() || c == ';').starts_with('m'))
}

#[test]
fn progress_is_shown_on_a_terminal_from_a_second_on() {
    let p = Place::new();
    std::fs::write(p.path("t"), log(200)).unwrap();
    let (t, out, noise) = (p.text("t"), p.text("out"), p.text("noise"));
    let mut bytes = Vec::new();
    // A pipe has no end that is known, and takes its time here.
    let slow = |quiet: &str| {
        format!("(cat {t}; sleep 2.5; cat {t}) | {LMFS} {quiet} compress -m fast - -o {out} -f")
    };
    let Some(shown) = on_terminal(&slow("")) else { return };
    assert!(shown.contains("compressing: ") && shown.contains("iB/s"), "{shown:?}");
    assert!(!coloured(&shown), "{shown:?}");
    assert_eq!(on_terminal(&slow("-q")).unwrap(), "");
    // What is soon done is not worth a bar.
    let shown = on_terminal(&format!("{LMFS} decompress {out} -t")).unwrap();
    assert_eq!(shown, "");
    // A file has an end, and so a time until then. Whoever reads takes his time.
    File::open("/dev/urandom").unwrap().take(400 << 10).read_to_end(&mut bytes).unwrap();
    std::fs::write(&noise, bytes).unwrap();
    let command = format!("{LMFS} compress -m fast {noise} -o - | (sleep 2.5; cat > /dev/null)");
    let shown = on_terminal(&command).unwrap();
    assert!(shown.contains("iB/s, ") && shown.contains("s left"), "{shown:?}");
    let sh = Command::new("sh").args(["-c", &slow("")]).output().unwrap();
    assert!(sh.status.success() && said(&sh).is_empty(), "{}", said(&sh));
}

#[test]
fn colour_is_for_those_who_want_it() {
    let Some(shown) = on_terminal(&format!("{LMFS} settle --help")) else { return };
    assert!(coloured(&shown), "{shown:?}");
    // Some build services set CI, and then libraries take every terminal for one with colours.
    for off in ["NO_COLOR=1", "TERM=dumb", "CI=1 TERM=dumb"] {
        let shown = on_terminal(&format!("env {off} {LMFS} settle --help; {off} {LMFS} none"));
        let shown = shown.unwrap();
        assert!(shown.contains("Usage") && !shown.contains('\x1b'), "{off}: {shown:?}");
    }
}

#[test]
fn a_settle_is_stopped_and_goes_on_another_time() {
    if !has_fuse() {
        return;
    }
    let p = Place::new();
    let (store, mnt) = (p.text("s"), p.text("mnt"));
    works(&["-q", "mkfs", &store]);
    works(&["mount", &store, &mnt, "-o", "recode=off"]);
    let text = log(40_000);
    std::fs::write(p.path("mnt/log"), &text).unwrap();
    let none = json(&["settle", "--stop", &mnt, "--json"]);
    assert_eq!(none["stopped"], false);
    assert_eq!(works(&["settle", "--stop", &store]), "no settle is under way\n");
    let settle = Command::new(LMFS)
        .args(["settle", &mnt, "--json"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let began = Instant::now();
    // Not before something is coded.
    while json(&["status", &mnt, "--json"])["coded_bytes"] == 0 {
        assert!(began.elapsed() < Duration::from_secs(60), "nothing is coded");
    }
    assert_eq!(json(&["settle", "--stop", &store, "--json"])["stopped"], true);
    let out = settle.wait_with_output().unwrap();
    assert!(out.status.code() == Some(1) && said(&out).contains("settle --stop"), "{}", said(&out));
    let settled: Value = serde_json::from_slice(&out.stdout).unwrap();
    assert_eq!(settled["stopped"], true, "{settled}");
    let waiting = json(&["status", &mnt, "--json"])["pending_blocks"].as_u64().unwrap();
    let coded = settled["blocks"].as_u64().unwrap();
    assert!(coded > 0 && waiting > 0, "{coded} coded, {waiting} wait");
    let rest = json(&["settle", &mnt, "--json"]);
    assert!(rest["blocks"] == waiting && rest.get("stopped").is_none(), "{rest}");
    assert_eq!(std::fs::read_to_string(p.path("mnt/log")).unwrap(), text);
    let out = lmfs(&["settle", &mnt, &p.text("mnt/log"), "--stop"]);
    assert_eq!(out.status.code(), Some(2), "{}", said(&out));
    works(&["umount", &mnt]);
    // Without a daemon there is nobody to ask; who has the store is named.
    assert_eq!(works(&["settle", "--stop", &store]), "no settle is under way\n");
    std::fs::write(p.path("s/lock"), "4242\n").unwrap();
    let lock = File::open(p.path("s/lock")).unwrap();
    // SAFETY: plain system call on an open descriptor.
    assert_eq!(unsafe { libc::flock(lock.as_raw_fd(), libc::LOCK_EX) }, 0);
    let out = lmfs(&["settle", "--stop", &store]);
    assert!(out.status.code() == Some(1) && said(&out).contains("kill 4242"), "{}", said(&out));
}

#[test]
fn umount_says_what_it_waits_for() {
    if !has_fuse() {
        return;
    }
    let p = Place::new();
    let (store, mnt) = (p.text("s"), p.text("mnt"));
    works(&["-q", "mkfs", &store, "--model", "fast"]);
    works(&["mount", &store, &mnt]);
    std::fs::write(p.path("mnt/f"), "x").unwrap();
    let pid = json(&["status", &mnt, "--json"])["pid"].as_i64().unwrap() as i32;
    // SAFETY: plain system calls; the daemon is ours.
    let signal = |s| assert_eq!(unsafe { libc::kill(pid, s) }, 0);
    signal(libc::SIGSTOP);
    let mut umount = Command::new(LMFS);
    let mut umount = umount.args(["umount", &mnt]).stderr(Stdio::piped()).spawn().unwrap();
    let lines = BufReader::new(umount.stderr.take().unwrap()).lines();
    let (told, hears) = std::sync::mpsc::channel();
    std::thread::spawn(move || lines.map_while(Result::ok).try_for_each(|line| told.send(line)));
    // What else it waits for may come first.
    let (began, mut heard) = (Instant::now(), Vec::new());
    while !heard.iter().any(|line: &String| line.contains("daemon")) {
        let left = Duration::from_secs(20).saturating_sub(began.elapsed());
        let Ok(line) = hears.recv_timeout(left) else { break };
        heard.push(line);
    }
    signal(libc::SIGCONT);
    assert!(heard.iter().all(|line| line.contains("waiting: ")), "{heard:?}");
    assert!(heard.iter().any(|line| line.contains("daemon")), "{heard:?}");
    assert!(umount.wait().unwrap().success());
    assert!(json(&["status", &store, "--json"])["pid"].is_null());
}

#[test]
fn a_read_only_medium_says_what_to_do() {
    // SAFETY: no arguments, cannot fail.
    if !has_fuse() || unsafe { libc::geteuid() } != 0 {
        println!("skipped: needs root");
        return;
    }
    let p = Place::new();
    let (store, mnt, ro) = (p.text("s"), p.text("mnt"), p.text("ro"));
    works(&["-q", "mkfs", &store, "--model", "fast"]);
    works(&["mount", &store, &mnt, "-o", "recode=off"]);
    std::fs::write(p.path("mnt/f"), "kept\n").unwrap();
    works(&["umount", &mnt]);
    std::fs::create_dir(&ro).unwrap();
    let steps = format!(
        "mount --bind {store} {ro} && mount -o remount,bind,ro {ro} || exit 99
        for c in 'mount {ro} {mnt}' 'up {ro} {mnt}' 'mount -f {ro} {mnt}'; do
            {LMFS} $c 2>&1 && exit 98
        done | grep -c 'mount it with -o ro'
        for c in 'settle {ro}' 'gc {ro}' 'scrub {ro} --repair' 'fsck {ro} --repair' 'recode {ro} --model fast'; do
            {LMFS} $c 2>&1 && exit 97
        done | grep -c 'read-only medium'
        {LMFS} mount -o ro {ro} {mnt} && {LMFS} status {mnt} | grep -o '^mounted  *yes' | tr -d ' ' &&
            cat {mnt}/f && {LMFS} umount {mnt} && {LMFS} scrub {ro}"
    );
    let out = Command::new("unshare").args(["-m", "sh", "-c", &steps]).output().unwrap();
    let told = String::from_utf8_lossy(&out.stdout).into_owned();
    assert!(
        out.status.success() && told.starts_with("3\n5\nmountedyes\nkept\n"),
        "{told} {}",
        said(&out)
    );
}

#[test]
fn json_is_one_document_with_what_was_promised() {
    if !has_fuse() {
        return;
    }
    let p = Place::new();
    let (store, mnt, file) = (p.text("s"), p.text("mnt"), p.text("mnt/log"));
    works(&["-q", "mkfs", &store, "--model", "fast"]);
    works(&["mount", &store, &mnt, "-o", "recode=off"]);
    std::fs::write(p.path("mnt/log"), log(10_000)).unwrap();
    let has = |args: &[&str], keys: &str| {
        let args = [args, &["--json"]].concat();
        let value = json(&args);
        let one = if value.is_array() { &value[0] } else { &value };
        for key in keys.split(' ') {
            assert!(one.get(key).is_some(), "{args:?}: no {key} in {value}");
        }
    };
    let settled = "before_bytes after_bytes blocks";
    let checked =
        "segments frames pages bytes repaired_frames repaired_pages index_rebuilt unrecoverable";
    let status = "version format engine uuid block_size ecc models files logical_bytes stored_bytes coded_bytes \
                  staged_bytes parity_bytes dead_bytes ratio pending_blocks cache repaired unrecoverable pid \
                  backlog_bytes coding_bytes_per_s eta_s";
    has(&["stat", &file], "path inode size coded_size ratio model codecs damaged");
    for at in [&mnt, &store] {
        has(&["settle", at], settled);
        has(&["recode", at, "--model", "fast"], settled);
        has(&["gc", at], settled);
        has(&["scrub", at], checked);
        has(&["scrub", at, "--decode"], checked);
        has(&["status", at], status);
        if at == &mnt {
            works(&["umount", &mnt]);
        }
    }
    has(&["fsck", &store], checked);
    has(&["model", "list"], "id name parameters bytes licence engine");
    std::fs::write(p.path("t"), log(2000)).unwrap();
    let text = p.text("t");
    has(
        &["bench", "codec", "-m", "fast", &text],
        "model engine block_size lanes threads files total",
    );
    let total = &json(&["bench", "codec", "-m", "fast", &text, "--json"])["total"];
    let keys = "file bytes coded_bytes frame_bytes bpb ideal_bits encode_bytes_per_s decode_bytes_per_s \
                first_block_ms roundtrip";
    assert!(keys.split(' ').all(|k| total.get(k).is_some()), "{total}");
}
