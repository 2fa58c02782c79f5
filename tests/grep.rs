//! `lmfs grep` against GNU grep: the same lines and exit codes, whatever the options, mounted or not, staged or
//! coded; and ranges of time against a filter that reads every line.

#![allow(clippy::unwrap_used)]

mod dice;
mod place;
mod program;

use dice::Dice;
use place::Place;
use program::{LMFS, has_fuse, json, said};
use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};

/// 2026-11-02 00:00:00 UTC, a Monday.
const BEGIN: i64 = 1_793_577_600;

fn command(program: &str, args: &[&str]) -> Output {
    Command::new(program)
        .args(args)
        .env("LC_ALL", "C.UTF-8")
        .env("TZ", "UTC")
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

fn works(args: &[&str]) {
    let out = command(LMFS, args);
    assert!(out.status.success(), "{args:?}: {}", said(&out));
}

/// Date and time of day, in November 2026.
fn clock(time: i64) -> (i64, i64, i64, i64) {
    let second = time - BEGIN;
    (2 + second / 86_400, second / 3600 % 24, second / 60 % 60, second % 60)
}

/// How a log writes times.
#[derive(Debug, Clone, Copy)]
enum Form {
    Syslog,
    Iso,
    Blank,
    Apache,
    Access,
    Hdfs,
    Epoch,
}

const FORMS: [Form; 7] =
    [Form::Syslog, Form::Iso, Form::Blank, Form::Apache, Form::Access, Form::Hdfs, Form::Epoch];

fn line(form: Form, time: i64, text: &str) -> String {
    let (d, h, m, s) = clock(time);
    match form {
        Form::Syslog => format!("Nov {d:2} {h:02}:{m:02}:{s:02} host7 {text}\n"),
        Form::Iso => format!("2026-11-{d:02}T{h:02}:{m:02}:{s:02}.125Z {text}\n"),
        Form::Blank => format!("2026-11-{d:02} {h:02}:{m:02}:{s:02},125 {text}\n"),
        Form::Apache => {
            let day = ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"][(d as usize - 2) % 7];
            format!("[{day} Nov {d:02} {h:02}:{m:02}:{s:02} 2026] [error] {text}\n")
        }
        Form::Access => {
            format!("10.0.0.1 - - [{d:02}/Nov/2026:{h:02}:{m:02}:{s:02} +0000] \"GET /{text}\"\n")
        }
        Form::Hdfs => format!("2611{d:02} {h:02}{m:02}{s:02} 148 INFO dfs: {text}\n"),
        Form::Epoch => format!("{time} {text}\n"),
    }
}

/// A log: lines and their times. Some have several lines, of which only the first has a stamp.
fn log(form: Form, bytes: usize, step: i64, late: i64, dice: &mut Dice) -> Vec<(i64, String)> {
    let (mut lines, mut size, mut time) = (Vec::new(), 0, BEGIN);
    while size < bytes {
        time += dice.below(step as u64 * 2) as i64;
        let own = (time - dice.below(late as u64 + 1) as i64).max(BEGIN);
        let (user, session) = (dice.below(90), dice.below(1 << 30));
        let text = format!("sshd[{}]: session {session:x} closed for user{user}", dice.below(9999));
        let mut all = vec![line(form, own, &text)];
        if dice.below(200) == 0 {
            all.push("java.lang.IllegalStateException: closed\n".into());
            all.push(format!("\tat org.example.Session.close(Session.java:{user})\n"));
        }
        if dice.below(500) == 0 {
            all.push("\n".into());
        }
        for line in all {
            size += line.len();
            lines.push((own, line));
        }
    }
    lines
}

fn text(lines: &[(i64, String)]) -> String {
    lines.iter().map(|(_, l)| l.as_str()).collect()
}

/// Files of all sorts.
fn fill(dir: &Path, dice: &mut Dice) {
    fs::create_dir_all(dir.join("app/old")).unwrap();
    fs::write(dir.join("app/sys.log"), text(&log(Form::Syslog, 700_000, 3, 0, dice))).unwrap();
    fs::write(dir.join("app/old/access.log"), text(&log(Form::Access, 400_000, 3, 0, dice)))
        .unwrap();
    fs::write(dir.join("empty"), "").unwrap();
    fs::write(
        dir.join("short"),
        "session one\nSession two\n\nuser3, user33\ngrün Grün\nlast user5",
    )
    .unwrap();
    fs::write(dir.join("bytes"), b"session \xff one\nsession two\nuser5 \xe9 x\n").unwrap();
    let mut nul = text(&log(Form::Iso, 3000, 3, 0, dice)).into_bytes();
    nul.extend(b"user5 \0 session\nuser5\n");
    fs::write(dir.join("app/nul"), nul).unwrap();
    let long = format!("{}user5{}\nsession\n", "x".repeat(300_000), "y".repeat(300_000));
    fs::write(dir.join("app/long"), long).unwrap();
    std::os::unix::fs::symlink("short", dir.join("link")).unwrap();
}

/// Options and a pattern of each kind.
const ASKED: &[&[&str]] = &[
    &["user5"],
    &["-n", "user57"],
    &["-c", "user5"],
    &["-l", "Exception"],
    &["-h", "user5$"],
    &["-H", "user5$"],
    &["-i", "SESSION [0-9a]* "],
    &["-i", "GRÜN"],
    &["-v", "session"],
    &["-vn", "e"],
    &["-cv", "user"],
    &["--invert-match", "--line-number", "--word-regexp", "user[0-9]*"],
    &["-w", "user3"],
    &["-x", "session two"],
    &["-o", "user[0-9]*"],
    &["-on", "-E", "user3|user33|closed"],
    &["-ow", "user3*"],
    &["-oh", "-i", "session [^ ]*"],
    &["-F", "user5"],
    &["-F", "Session.close(Session.java"],
    &["-E", "user(12|34)$|Exception"],
    &["-E", "^[A-Z][a-z]{2} +[0-9]+ ([0-9]{2}:){2}00"],
    &["-e", "user11", "-e", "user22"],
    &["-A2", "Exception"],
    &["-B2", "-n", "Exception"],
    &["-C3", "Session.java:1"],
    &["-A", "0", "Exception"],
    &["-nA1", "-B3", "user77"],
    &["-A1", "-o", "Exception"],
    &["-vC1", "s"],
    &["-a", "user5"],
    &["-an", "session"],
    &["-ao", "us.*"],
    &["-q", "user5"],
    &["-q", "nothing of this kind"],
    &["nothing of this kind"],
    &["^$"],
    &["-c", ""],
    &["-cx", ""],
    &["-n", "last"],
    &["\\(user\\|sess\\)[[:digit:]]\\{2\\}$"],
    &["-e", "sshd\\[1..\\]: .* user1\\?0\\>"],
    &["grün"],
    &["y.s\\|n $"],
];

/// What GNU grep prints for these options, of what is here.
fn gnu(asked: &[&str], path: &str) -> Output {
    command("grep", &[&["-r"], asked, &[path]].concat())
}

fn ours(asked: &[&str], path: &str) -> Output {
    command(LMFS, &[&["grep"], asked, &[path]].concat())
}

/// A store and where it is mounted; nothing is coded until somebody asks for it.
fn mounted() -> Option<(Place, String, String)> {
    if !has_fuse() {
        return None;
    }
    let p = Place::new();
    let (store, mnt) = (p.text("s"), p.text("mnt"));
    works(&["mkfs", &store, "--model", "fast", "--block-size", "128K"]);
    works(&["mount", &store, &mnt, "-o", "recode=off"]);
    Some((p, store, mnt))
}

/// Output and exit code are the same, but for what paths begin with.
fn same(got: &Output, want: &Output, renamed: Option<(&str, &str)>, what: &str) {
    let want_out = match renamed {
        None => want.stdout.clone(),
        Some((from, to)) => replace(&want.stdout, from.as_bytes(), to.as_bytes()),
    };
    if got.stdout != want_out {
        let lines = got.stdout.split(|b| *b == b'\n').zip(want_out.split(|b| *b == b'\n'));
        let first = lines.enumerate().find(|(_, (a, b))| a != b);
        let show = first.map(|(n, (a, b))| {
            let short = |l: &[u8]| String::from_utf8_lossy(&l[..l.len().min(200)]).into_owned();
            (n, short(a), short(b))
        });
        panic!(
            "{what}: {} bytes instead of {}; first difference {show:?}; {}",
            got.stdout.len(),
            want_out.len(),
            said(got)
        );
    }
    assert_eq!(got.status.code(), want.status.code(), "{what}: {}", said(got));
    let files = |out: &Output| said(out).matches("binary file matches").count();
    assert_eq!(files(got), files(want), "{what}: {}", said(got));
}

fn replace(text: &[u8], from: &[u8], to: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut at = 0;
    while at < text.len() {
        if text[at..].starts_with(from) {
            out.extend_from_slice(to);
            at += from.len();
        } else {
            out.push(text[at]);
            at += 1;
        }
    }
    out
}

#[test]
fn the_same_as_grep_mounted_and_not_staged_and_coded() {
    let Some((p, store, mnt)) = mounted() else { return };
    fill(&p.path("mnt"), &mut Dice(1));
    let mut want = Vec::new();
    for asked in ASKED {
        let gnu = gnu(asked, &mnt);
        same(&ours(asked, &mnt), &gnu, None, &format!("staged, mounted: {asked:?}"));
        want.push(gnu);
    }
    works(&["settle", &mnt]);
    for (asked, want) in ASKED.iter().zip(&want) {
        same(&ours(asked, &mnt), want, None, &format!("coded, mounted: {asked:?}"));
    }
    // By the store's name, and single files.
    for (asked, want) in ASKED.iter().zip(&want).take(3) {
        let what = format!("by the store's name: {asked:?}");
        same(&ours(asked, &store), want, Some((&mnt, &store)), &what);
        for one in ["short", "app/nul", "app", "link"] {
            let path = p.text(&format!("mnt/{one}"));
            same(&ours(asked, &path), &gnu(asked, &path), None, &format!("{one}: {asked:?}"));
        }
        let two = [&p.text("mnt/short")[..], &p.text("mnt/bytes")];
        let paths = [asked, &two[..]].concat();
        let (last, rest) = paths.split_last().unwrap();
        same(&ours(rest, last), &gnu(rest, last), None, &format!("two: {asked:?}"));
    }
    works(&["umount", &mnt]);
    for (asked, want) in ASKED.iter().zip(&want) {
        let what = format!("not mounted: {asked:?}");
        same(&ours(asked, &store), want, Some((&mnt, &store)), &what);
    }
    let one = ours(&["session"], &p.text("s/short"));
    assert_eq!(one.stdout, b"session one\n");
}

#[test]
fn options_of_all_commands_stand_before_and_greps_own_behind() {
    let p = Place::new();
    let store = p.text("s");
    works(&["mkfs", &store, "--model", "fast", "--block-size", "128K"]);
    let pack = format!(
        "cd {} && printf 'a\\nb\\n' > f && tar cf - f | {LMFS} -q import {store}",
        p.text("")
    );
    assert!(Command::new("sh").args(["-c", &pack]).status().unwrap().success());
    let out = |args: &[&str]| {
        let out = command(LMFS, args);
        (out.status.code().unwrap(), String::from_utf8_lossy(&out.stdout).into_owned(), said(&out))
    };
    let at = |line: &str| format!("{store}/f:{line}\n");
    assert_eq!(out(&["grep", "-v", "a", &store]).1, at("b"));
    assert_eq!(out(&["-v", "grep", "a", &store]).1, at("a"));
    assert_eq!(out(&["-q", "grep", "a", &store]).1, at("a"));
    assert_eq!(out(&["grep", "-q", "a", &store]), (0, String::new(), String::new()));
    let (code, help, _) = out(&["grep", "--help"]);
    assert!(code == 0 && help.contains("--since"), "{help}");
    for (args, code, want) in [
        (&["grep"][..], 2, "pattern"),
        (&["grep", "--colour", "a"], 2, "--colour"),
        (&["grep", "a", &p.text("absent")], 2, "No such file"),
        (&["grep", "a", &p.text("s/absent")], 2, "absent"),
        (&["grep", "a", &p.text("f")], 2, "neither"),
        (&["grep", "[", &store], 2, "Unmatched"),
        (&["grep", "\\(a\\)\\1", &store], 2, "back-references"),
        (&["grep", "--since", "soon", "a", &store], 2, "'soon'"),
    ] {
        let (got, _, said) = out(args);
        assert!(got == code && said.contains(want), "{args:?}: {got} {said}");
    }
    // One bad path does not hide the others.
    let (code, found, _) = out(&["grep", "-s", "a", &p.text("absent"), &store]);
    assert_eq!((code, found), (2, at("a")));
    // A full output is said; who reads no further ends it quietly.
    let full = format!("{LMFS} grep a {store} > /dev/full; echo $?");
    let sh = command("sh", &["-c", &full]);
    assert!(sh.stdout == b"2\n" && said(&sh).contains("standard output"), "{}", said(&sh));
}

/// Files with filters of their blocks' words give the same lines, and most blocks are not decoded.
#[test]
fn words_are_found_without_decoding_all() {
    const BLOCK: usize = 128 << 10;
    let Some((p, store, mnt)) = mounted() else { return };
    let set = |value: &str| {
        command("setfattr", &["-n", "user.lmfs.index", "-v", value, &p.text("mnt/d")])
    };
    fs::create_dir(p.path("mnt/d")).unwrap();
    assert!(!set("letters").status.success());
    assert!(set("words").status.success());
    let lines = log(Form::Iso, 3 << 20, 3, 0, &mut Dice(5));
    let mut all = text(&lines);
    // Lines longer than a block.
    let long = format!("begin {} needle {} end4711\n", "x".repeat(2 * BLOCK), "y ".repeat(BLOCK));
    let long = [&all[..5 * BLOCK], "\n", &long, &all[..3 * BLOCK]].concat();
    fs::write(p.path("mnt/d/log"), &all).unwrap();
    fs::write(p.path("mnt/d/long"), &long).unwrap();
    // Lines across the edges of blocks, and others.
    let around = |at: usize| {
        let from = all[..at].rfind('\n').unwrap() + 1;
        all[from..].lines().next().unwrap().to_owned()
    };
    let places = (1..24).step_by(2).map(|k| k * BLOCK).chain((0..5).map(|k| 70_000 + k * 601_113));
    let sessions = places.filter_map(|at| Some(around(at).split_once("session ")?.1.to_owned()));
    let sessions: Vec<String> =
        sessions.filter_map(|s| Some(s.split_once(' ')?.0.to_owned())).collect();
    assert!(sessions.len() > 12);
    let mut asked: Vec<Vec<String>> = Vec::new();
    let ask = |words: &[&str]| words.iter().map(|w| (*w).to_owned()).collect::<Vec<_>>();
    for (n, s) in sessions.iter().enumerate() {
        let phrase = format!(": session {s} closed for");
        asked.push(match n % 5 {
            0 => ask(&["-w", s]),
            1 => ask(&["-F", &phrase]),
            2 => ask(&["-c", &phrase]),
            3 => ask(&["-o", "-E", &format!("sshd.*session +{s} .*")]),
            _ => ask(&["-l", &format!("\\<{s}\\>")]),
        });
    }
    for more in [
        &["-i", " CLOSED for user7$"][..],
        &["-w", "needle"],
        &["-x", ".* end4711"],
        &["-w", "end4711"],
        &["-w", "nothing"],
        &["-vw", "session"],
        &["-nw", "needle"],
        &["-A1", "-w", "needle"],
    ] {
        asked.push(ask(more));
    }
    let check = |path: &str, what: &str| {
        for one in &asked {
            let one: Vec<&str> = one.iter().map(String::as_str).collect();
            let want = gnu(&one, &p.text("copy"));
            same(
                &ours(&one, path),
                &want,
                Some((&p.text("copy"), path)),
                &format!("{what}: {one:?}"),
            );
        }
    };
    fs::create_dir(p.path("copy")).unwrap();
    fs::write(p.path("copy/log"), &all).unwrap();
    fs::write(p.path("copy/long"), &long).unwrap();
    works(&["settle", &mnt]);
    check(&p.text("mnt/d"), "mounted");
    works(&["umount", &mnt]);
    works(&["mount", &store, &mnt, "-o", "recode=off"]);
    let decoded = || json(&["status", &mnt, "--json"])["cache"]["misses"].as_u64().unwrap();
    let before = decoded();
    // One word in 64 is taken for a block's; this one is not.
    let out = ours(&["-w", "absent4711"], &p.text("mnt/d/log"));
    assert_eq!(out.status.code(), Some(1), "{}", said(&out));
    assert_eq!(decoded(), before);
    // Without a filter's help all are.
    let out = ours(&["absent4711"], &p.text("mnt/d/log"));
    assert_eq!(out.status.code(), Some(1), "{}", said(&out));
    assert!(decoded() - before >= all.len() as u64 / BLOCK as u64);
    // What was written last counts, too.
    let late = "2026-11-30T00:00:00Z brand new4711 line\n";
    let mut file = fs::File::options().append(true).open(p.path("mnt/d/log")).unwrap();
    file.write_all(late.as_bytes()).unwrap();
    let out = ours(&["-w", "-h", "new4711"], &p.text("mnt/d"));
    assert_eq!(String::from_utf8_lossy(&out.stdout), late);
    drop(file);
    works(&["umount", &mnt]);
    all.push_str(late);
    fs::write(p.path("copy/log"), &all).unwrap();
    check(&p.text("s/d"), "not mounted");
}

/// A store that is not mounted, with these files.
fn store(p: &Place, files: &[(&str, &[u8])]) -> String {
    let (from, store) = (p.path("from"), p.text("s"));
    fs::create_dir(&from).unwrap();
    for (name, text) in files {
        fs::write(from.join(name), text).unwrap();
        // Stamps without a year are of the one before this.
        let touched =
            Command::new("touch").args(["-d", "2026-11-30"]).arg(from.join(name)).status();
        assert!(touched.unwrap().success());
    }
    works(&["mkfs", &store, "--model", "fast", "--ecc", "none", "--block-size", "128K"]);
    let pack = format!("tar -C {} -cf - . | {LMFS} -q import {store}", from.display());
    assert!(Command::new("sh").args(["-c", &pack]).status().unwrap().success());
    works(&["settle", &store]);
    store
}

fn iso(time: i64) -> String {
    let (d, h, m, s) = clock(time);
    format!("2026-11-{d:02}T{h:02}:{m:02}:{s:02}Z")
}

#[test]
fn a_range_of_time_is_what_a_filter_of_lines_gives() {
    let p = Place::new();
    let mut dice = Dice(2);
    // In order; nearly in order; of two parts, the second from before the first.
    let mut logs = Vec::new();
    for form in FORMS {
        // From a mebibyte on, blocks are passed over.
        let bytes = if matches!(form, Form::Syslog | Form::Access) { 1_200_000 } else { 100_000 };
        logs.push((format!("{form:?}-straight"), log(form, bytes, 30, 0, &mut dice)));
    }
    logs.push(("late".into(), log(Form::Blank, 1_200_000, 30, 590, &mut dice)));
    let (a, b) =
        (log(Form::Iso, 600_000, 30, 0, &mut dice), log(Form::Iso, 600_000, 30, 0, &mut dice));
    logs.push(("twice".into(), [a, b].concat()));
    logs.push(("short".into(), log(Form::Syslog, 100_000, 300, 0, &mut dice)));
    let texts: Vec<_> = logs.iter().map(|(name, lines)| (name.as_str(), text(lines))).collect();
    let files: Vec<_> = texts.iter().map(|(name, text)| (*name, text.as_bytes())).collect();
    let store = store(&p, &files);
    for (name, lines) in &logs {
        let last = lines.iter().map(|(t, _)| *t).max().unwrap();
        for round in 0..2 {
            let since = BEGIN + dice.below((last - BEGIN) as u64) as i64;
            let until = since + [3600, 40_000][round];
            let path = format!("{store}/{name}");
            // Some forms have a fraction, by which a second is not over.
            let (from, to) = (iso(since), format!("{}.5Z", iso(until).trim_end_matches('Z')));
            for (options, pattern) in
                [(&[][..], "user5"), (&["-c"], ""), (&["-n"], "Exception"), (&["-A1"], "Session")]
            {
                let asked =
                    [&["grep", "--since", &from, "--until", &to], options, &[pattern, &path]]
                        .concat();
                let got = command(LMFS, &asked);
                let numbered = lines.iter().enumerate();
                let inside = numbered.filter(|(_, (t, _))| (since..=until).contains(t));
                let all: Vec<_> = inside.map(|(n, (_, l))| (n, l.trim_end_matches('\n'))).collect();
                let hits = all.iter().filter(|(_, l)| l.contains(pattern));
                let want: String = match options.first() {
                    None => hits.map(|(_, l)| format!("{l}\n")).collect(),
                    Some(&"-c") => format!("{}\n", hits.count()),
                    Some(&"-n") => hits.map(|(n, l)| format!("{}:{l}\n", n + 1)).collect(),
                    // As if the file had no other lines.
                    _ => {
                        let kept: String = all.iter().map(|(_, l)| format!("{l}\n")).collect();
                        fs::write(p.path("kept"), kept).unwrap();
                        let gnu = command("grep", &["-A1", pattern, &p.text("kept")]);
                        String::from_utf8(gnu.stdout).unwrap()
                    }
                };
                let got_text = String::from_utf8_lossy(&got.stdout);
                assert!(
                    got_text == want,
                    "{asked:?}: {} bytes, not {}",
                    got_text.len(),
                    want.len()
                );
                assert_eq!(said(&got), "", "{asked:?}");
                let code = i32::from(want.is_empty() || want == "0\n");
                assert_eq!(got.status.code(), Some(code), "{asked:?}");
            }
        }
    }
    // One end is enough; and a file without stamps is not passed over in silence.
    let path = format!("{store}/Iso-straight");
    let whole = command(LMFS, &["grep", "-c", "--until", "2027-01-01", "", &path]);
    let lines = logs.iter().find(|(n, _)| n == "Iso-straight").unwrap().1.len();
    assert_eq!(String::from_utf8_lossy(&whole.stdout), format!("{lines}\n"));
}

/// Changes bytes in the middle of what a store holds.
fn hurt(store: &str) {
    let segments = fs::read_dir(Path::new(store).join("segments")).unwrap().flatten();
    let largest = segments.max_by_key(|e| e.metadata().unwrap().len()).unwrap().path();
    let mut bytes = fs::read(&largest).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle..middle + 64].iter_mut().for_each(|b| *b ^= 0x55);
    fs::write(&largest, bytes).unwrap();
}

#[test]
fn damage_is_named_once_and_passed_over_where_nobody_looks() {
    let p = Place::new();
    let mut dice = Dice(3);
    let lines = log(Form::Iso, 3_000_000, 60, 0, &mut dice);
    let whole = text(&lines);
    let store = store(&p, &[("log", whole.as_bytes())]);
    hurt(&store);
    let path = format!("{store}/log");
    let all: Vec<&str> = whole.lines().filter(|l| l.contains("user5")).collect();
    let got = command(LMFS, &["grep", "user5", &path]);
    let text = String::from_utf8_lossy(&got.stdout).into_owned();
    let left: Vec<&str> = text.lines().collect();
    assert_eq!(got.status.code(), Some(2), "{}", said(&got));
    assert_eq!(said(&got).matches("are left out").count(), 1, "{}", said(&got));
    assert_eq!(said(&got).lines().count(), 1, "{}", said(&got));
    // All but one block of 128 KiB of 3 MB, and in order.
    assert!(
        left.len() < all.len() && left.len() > all.len() * 9 / 10,
        "{} {}",
        left.len(),
        all.len()
    );
    let mut rest = all.iter();
    let whole_lines = left.iter().filter(|l| rest.any(|a| a == *l)).count();
    assert!(whole_lines + 2 >= left.len(), "{whole_lines} {}", left.len());
    assert_eq!(all.first(), left.first());
    assert_eq!(all.last(), left.last());
    // A range of time that ends long before is searched without a word; the damage is in none of the chunks
    // that are looked at on the way.
    let until = iso(lines[lines.len() / 8].0);
    let early = command(LMFS, &["grep", "--until", &until, "user5", &path]);
    assert_eq!((early.status.code(), said(&early).as_str()), (Some(0), ""));
    let silent = command(LMFS, &["grep", "-s", "user5", &path]);
    assert_eq!((silent.status.code(), said(&silent).as_str()), (Some(2), ""));
    if !has_fuse() {
        return;
    }
    let mnt = p.text("mnt");
    works(&["mount", &store, &mnt, "-o", "ro"]);
    let mounted = command(LMFS, &["grep", "-h", "user5", &mnt]);
    works(&["umount", &mnt]);
    assert_eq!(mounted.status.code(), Some(2), "{}", said(&mounted));
    assert_eq!(said(&mounted).matches("are left out").count(), 1, "{}", said(&mounted));
    assert!(mounted.stdout == got.stdout);
}

#[test]
fn files_out_of_order_or_without_times_are_not_passed_over_in_silence() {
    let p = Place::new();
    let mut dice = Dice(4);
    let mut lines = log(Form::Iso, 1_500_000, 30, 0, &mut dice);
    // An hour that comes a day late, in the middle of what is searched.
    let middle = lines.len() / 2;
    let since = lines[middle].0;
    let stray = line(Form::Iso, since - 86_400, "sshd[1]: stray user5");
    lines.insert(middle + 50, (since - 86_400, stray));
    let plain = "session without a time\n".repeat(100);
    let store = store(&p, &[("log", text(&lines).as_bytes()), ("plain", plain.as_bytes())]);
    let (from, to) = (iso(since), iso(since + 7200));
    let path = format!("{store}/log");
    let got = command(LMFS, &["grep", "-c", "--since", &from, "--until", &to, "session", &path]);
    assert!(got.status.code() == Some(2) && said(&got).contains("--whole"), "{}", said(&got));
    let got = command(
        LMFS,
        &["grep", "-c", "--whole", "--since", &from, "--until", &to, "session", &path],
    );
    assert_eq!((got.status.code(), said(&got).as_str()), (Some(0), ""));
    let got = command(LMFS, &["grep", "--since", &from, "session", &format!("{store}/plain")]);
    assert_eq!(got.status.code(), Some(1));
    assert!(got.stdout.is_empty() && said(&got).contains("time stamps"), "{}", said(&got));
}
