//! The manual pages against the program: options in both directions, references, and every example run.
//!
//! A command's options stand below a heading `.SS lmfs COMMAND ...`, each in a `.TP`; a page `lmfs-COMMAND.1`
//! without such a heading is that command's as a whole. In EXAMPLES, a comment `.\" test: KIND` says in what
//! surroundings the lines between `.EX` and `.EE` run: `files` (only files), `store` (a store too, `archive`),
//! `mounted` (which is mounted on `mnt`), `helpers` (where mount(8) finds lmfs), or `systemd`, which is
//! tests/systemd.

#![allow(clippy::unwrap_used)]

mod place;
mod program;

use place::Place;
use program::{LMFS, has_fuse};
use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;

const HERE: &str = env!("CARGO_MANIFEST_DIR");

/// A page as text: its lines without fonts and escapes, macros kept.
struct Page {
    /// Such as `lmfs-store.1`.
    name: String,
    lines: Vec<String>,
}

fn plain(line: &str) -> String {
    let mut line = line.to_owned();
    for font in ["\\fB", "\\fI", "\\fR", "\\fP"] {
        line = line.replace(font, "");
    }
    for (escape, text) in [("\\-", "-"), ("\\(aq", "'"), ("\\(dq", "\""), ("\\e", "\\")] {
        line = line.replace(escape, text);
    }
    line
}

fn pages() -> Vec<Page> {
    let mut names: Vec<_> = std::fs::read_dir(Path::new(HERE).join("man"))
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    let read = |name: String| {
        let text = std::fs::read_to_string(Path::new(HERE).join("man").join(&name)).unwrap();
        Page { name, lines: text.lines().map(plain).collect() }
    };
    names.into_iter().map(read).collect()
}

impl Page {
    /// The lines below a heading, up to the next one of its kind or above.
    fn below(&self, is_heading: impl Fn(&str) -> bool) -> Option<&[String]> {
        let start = self.lines.iter().position(|l| is_heading(l))?;
        let sub = self.lines[start].starts_with(".SS");
        let ends = |l: &String| l.starts_with(".SH") || (sub && l.starts_with(".SS"));
        let rest = &self.lines[start + 1..];
        Some(&rest[..rest.iter().position(ends).unwrap_or(rest.len())])
    }

    fn section(&self, name: &str) -> &[String] {
        let missing = || panic!("{} has no section {name}", self.name);
        self.below(|l| l == format!(".SH {name}")).unwrap_or_else(missing)
    }

    /// Where a command's options stand, and its heading.
    fn of_command(&self, path: &str) -> Option<(&str, &[String])> {
        let heading = format!(".SS lmfs {path}");
        let is_heading =
            |l: &str| l.strip_prefix(&heading).is_some_and(|r| r.is_empty() || r.starts_with(' '));
        if let Some(lines) = self.below(is_heading) {
            let heading = self.lines.iter().find(|l| is_heading(l)).unwrap();
            return Some((heading, lines));
        }
        let own = self.name == format!("lmfs-{path}.1");
        (own && !self.lines.iter().any(|l| l.starts_with(".SS lmfs "))).then_some(("", &self.lines))
    }

    /// Its examples, and their kind.
    fn examples(&self) -> (String, Vec<&str>) {
        let section = self.section("EXAMPLES");
        let kind = section.iter().find_map(|l| l.strip_prefix(".\\\" test: "));
        let kind = kind.unwrap_or_else(|| panic!("{} does not say how to run it", self.name));
        let mut lines = Vec::new();
        let mut inside = false;
        for l in section {
            match l.as_str() {
                ".EX" => inside = true,
                ".EE" => inside = false,
                l if inside => lines.push(l),
                _ => {}
            }
        }
        assert!(!lines.is_empty() && !inside, "{}", self.name);
        (kind.to_owned(), lines)
    }
}

/// What options a piece of a page explains: words that begin with a dash in the lines behind a `.TP`.
fn tagged(lines: &[String]) -> BTreeSet<String> {
    let tags = lines.windows(2).filter(|w| w[0] == ".TP").map(|w| &w[1]);
    let ends = |c: char| c.is_whitespace() || matches!(c, ',' | '"' | '=');
    let words = tags.flat_map(|t| t.split(ends)).filter(|w| w.starts_with('-') && w.len() > 1);
    words.map(String::from).collect()
}

/// All commands that are not groups of others, with their names as they are typed.
fn commands() -> Vec<(String, clap::Command)> {
    fn leaves(at: &clap::Command, path: &str, out: &mut Vec<(String, clap::Command)>) {
        for sub in at.get_subcommands().filter(|s| !s.is_hide_set() && s.get_name() != "help") {
            let path = format!("{path} {}", sub.get_name()).trim_start().to_owned();
            if sub.has_subcommands() {
                leaves(sub, &path, out);
            } else {
                out.push((path, sub.clone()));
            }
        }
    }
    let mut out = Vec::new();
    leaves(&lmfs::cli::command(), "", &mut out);
    out
}

/// The options that a command knows, long and short; global ones are explained in lmfs(1).
fn known(command: &clap::Command) -> BTreeSet<String> {
    let mut out = BTreeSet::new();
    for arg in command.get_arguments().filter(|a| !a.is_hide_set() && !a.is_global_set()) {
        let aliases = arg.get_visible_aliases().unwrap_or_default().into_iter();
        out.extend(arg.get_long().into_iter().chain(aliases).map(|l| format!("--{l}")));
        out.extend(arg.get_short().map(|s| format!("-{s}")));
    }
    out
}

#[test]
fn each_command_is_explained_in_one_page_with_its_options_and_no_others() {
    let pages = pages();
    for (path, command) in commands() {
        let found: Vec<_> =
            pages.iter().filter_map(|p| p.of_command(&path).map(|of| (p, of))).collect();
        let [(page, (heading, lines))] = found[..] else {
            panic!("lmfs {path}: {} pages have a part for it", found.len());
        };
        assert_eq!(tagged(lines), known(&command), "lmfs {path} in {}", page.name);
        if !heading.is_empty() {
            for arg in command.get_positionals() {
                let name = arg.get_value_names().unwrap()[0].to_string();
                assert!(heading.contains(&name), "{}: {heading} without {name}", page.name);
            }
        }
        let synopsis = page.section("SYNOPSIS").join("\n");
        let last = path.rsplit(' ').next().unwrap();
        assert!(synopsis.contains(last), "{}: SYNOPSIS without {path}", page.name);
    }
    let overview = pages.iter().find(|p| p.name == "lmfs.1").unwrap();
    let common: BTreeSet<_> = lmfs::cli::command()
        .get_arguments()
        .flat_map(|a| {
            [a.get_long().map(|l| format!("--{l}")), a.get_short().map(|s| format!("-{s}"))]
        })
        .flatten()
        .chain(["-h".into(), "--help".into()])
        .collect();
    assert_eq!(tagged(overview.section("COMMON OPTIONS")), common);
    let listed = overview.section("COMMANDS").join("\n");
    for (path, _) in commands() {
        let name = path.split(' ').next().unwrap();
        let there = listed.split(|c: char| !c.is_ascii_alphanumeric()).any(|w| w == name);
        assert!(there, "lmfs(1) does not list {name}");
    }
}

#[test]
fn options_that_pages_mention_exist() {
    let mut all: BTreeSet<String> = commands().iter().flat_map(|(_, c)| known(c)).collect();
    all.extend(["--help", "--verbose", "--quiet", "--version"].map(String::from));
    for page in pages() {
        let examples = page.section("EXAMPLES").as_ptr_range();
        for line in page.lines.iter().filter(|l| !examples.contains(&std::ptr::from_ref(*l))) {
            for word in line.split(|c: char| !(c.is_ascii_alphanumeric() || c == '-')) {
                if word.starts_with("--") && word.len() > 2 {
                    assert!(all.contains(word), "{}: {line}: no command has {word}", page.name);
                }
            }
        }
    }
}

#[test]
fn mount_options_are_explained_and_taken() {
    let pages = pages();
    let page = pages.iter().find(|p| p.name == "lmfs-mount.1").unwrap();
    let section = page.section("MOUNT OPTIONS");
    let tags = section.windows(2).filter(|w| w[0] == ".TP").map(|w| &w[1]);
    let p = Place::new();
    let mut seen = BTreeSet::new();
    for tag in tags {
        let words = tag.split([' ', ',', '"']).filter(|w| !w.is_empty() && !w.starts_with('.'));
        let mut words: Vec<_> = words.collect();
        // One with a value has its form behind it, the others of a line are options too.
        if tag.contains('=') {
            words.truncate(1);
        }
        for word in words {
            let (name, value) = word.split_once('=').unwrap_or((word, ""));
            let option = match (name, value) {
                (name, "") => name.to_owned(),
                ("model", _) => "model=fast".into(),
                ("cache", _) => "cache=1M".into(),
                ("log", _) => "log=info".into(),
                (name, value) if value.contains('|') => {
                    format!("{name}={}", value.split('|').next().unwrap())
                }
                (name, _) => format!("{name}=1"),
            };
            // What is wrong is the store, not the option.
            let out = Command::new(LMFS)
                .args(["mount", &p.text("none"), &p.text("mnt"), "-o", &option])
                .output()
                .unwrap();
            let said = String::from_utf8_lossy(&out.stderr).into_owned();
            assert!(!said.contains("option") && said.contains("none"), "{option}: {said}");
            seen.insert(name.to_owned());
        }
    }
    // Those that the program names as it parses them, mount(8)'s aside.
    let source = std::fs::read_to_string(Path::new(HERE).join("src/cli/options.rs")).unwrap();
    for line in source.lines().filter_map(|l| l.trim().strip_prefix('"')) {
        let Some((name, rest)) = line.split_once('"') else { continue };
        if rest.starts_with(" =>") && !["remount", "on", "off", "auto", "sealed"].contains(&name) {
            assert!(seen.contains(name), "lmfs-mount(1) does not explain {name}");
        }
    }
}

#[test]
fn references_lead_to_pages() {
    let pages = pages();
    let names: BTreeSet<_> = pages.iter().map(|p| p.name.clone()).collect();
    for page in &pages {
        for line in &page.lines {
            let Some((name, rest)) =
                line.strip_prefix(".BR ").and_then(|l| l.split_once(" (")).or_else(|| {
                    line.strip_prefix(".SS ").and_then(|l| l.rsplit(' ').next()?.split_once('('))
                })
            else {
                continue;
            };
            if name.starts_with("lmfs") || name.ends_with(".lmfs") {
                let to = format!("{name}.{}", &rest[..1]);
                assert!(names.contains(&to), "{}: {line}", page.name);
            }
        }
    }
    let overview = pages.iter().find(|p| p.name == "lmfs.1").unwrap().section("SEE ALSO");
    for name in names.iter().filter(|n| *n != "lmfs.1") {
        let (name, section) = name.rsplit_once('.').unwrap();
        let line = format!(".BR {name} ({section})");
        assert!(overview.iter().any(|l| l.trim_end_matches(',') == line), "lmfs(1): no {name}");
    }
}

#[test]
fn each_help_has_examples_and_they_are_in_the_page() {
    let pages = pages();
    let program = lmfs::cli::command();
    let groups = program.get_subcommands().filter(|s| s.has_subcommands());
    let groups = groups.map(|g| (g.get_name().to_owned(), g.clone()));
    let all = commands().into_iter().chain(groups).chain([(String::new(), program.clone())]);
    for (path, command) in all {
        let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
        // A group is where its first command is.
        let of = |p: &Page| match &*path {
            "" => p.name == "lmfs.1",
            group if command.has_subcommands() => {
                let first = command.get_subcommands().next().unwrap().get_name();
                p.of_command(&format!("{group} {first}")).is_some()
            }
            path => p.of_command(path).is_some(),
        };
        let page = pages.iter().find(|p| of(p)).unwrap();
        let (_, run) = page.examples();
        let lines: Vec<_> = help.lines().skip(1).map(str::trim).collect();
        assert!(!lines.is_empty(), "lmfs {path} --help has no examples");
        for line in lines {
            assert!(run.contains(&line), "{path}: {line} is not in {}", page.name);
            let own = line.contains(format!("lmfs {path}").trim());
            assert!(own || path.is_empty(), "{path}: {line}");
        }
    }
}

/// A made-up log, always the same.
fn log_of(service: &str, lines: u64) -> String {
    let mut x = service.len() as u64;
    let mut out = String::new();
    for i in 0..lines {
        // Knuth's MMIX generator; its upper bits are good.
        x = x.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        let what = ["accepted", "refused", "closed by peer", "timed out"][(x >> 62) as usize];
        let (minute, second, port) = (i / 60 % 60, i % 60, x >> 48);
        writeln!(
            out,
            "Nov 29 12:{minute:02}:{second:02} host {service}[{}]: connection from 10.0.{}.{} port {port} {what}",
            1000 + (x >> 40) % 7,
            (x >> 56) % 8,
            (x >> 30) % 200,
        )
        .unwrap();
    }
    out
}

/// Runs the examples of all pages of a kind, each page's in a directory of its own.
fn run(kind: &str) {
    let pages = pages();
    let mut ran = 0;
    for page in &pages {
        let (own, lines) = page.examples();
        if own != kind {
            continue;
        }
        ran += 1;
        let p = Place::new();
        std::fs::create_dir_all(p.path("logs")).unwrap();
        std::fs::create_dir(p.path("bin")).unwrap();
        std::os::unix::fs::symlink(LMFS, p.path("bin/lmfs")).unwrap();
        for (name, service, lines) in [
            ("app.log", "app", 2600),
            ("logs/auth.log", "sshd", 1100),
            ("logs/web.log", "httpd", 700),
        ] {
            std::fs::write(p.path(name), log_of(service, lines)).unwrap();
        }
        let mut script = String::from("set -eo pipefail\n");
        if kind == "store" {
            script += "lmfs -q mkfs archive; tar -c app.log logs | lmfs -q import archive\n";
        }
        if kind == "mounted" {
            script += "lmfs -q up archive mnt; cp -r app.log logs mnt\n";
        }
        if kind == "helpers" {
            // A /usr/sbin with the helpers in it, for these processes alone.
            script += "lmfs -q mkfs archive; mkdir real sbin\n\
                 mount --bind \"$(realpath /sbin)\" real; cp -as \"$PWD/real/.\" sbin/\n\
                 for h in mount.lmfs mount.fuse.lmfs umount.lmfs umount.fuse.lmfs; do \
                 ln -sf \"$(realpath bin/lmfs)\" sbin/$h; done\n\
                 mount --bind sbin \"$(realpath /sbin)\"\n";
        }
        script += "set -x\n";
        script += &lines.join("\n");
        script += "\n{ set +x; } 2>/dev/null\nif mountpoint -q mnt; then lmfs -q umount mnt; fi\n";
        let mut shell = match kind {
            "helpers" => {
                let mut c = Command::new("unshare");
                c.args(["--mount", "--propagation", "private", "bash"]);
                c
            }
            _ => Command::new("bash"),
        };
        let path = std::env::var("PATH").unwrap();
        let out = shell
            .args(["-c", &script])
            .current_dir(p.path(""))
            .env("PATH", format!("{}:{path}", p.text("bin")))
            .env("LMFS_MODELS", p.path("models"))
            .env("XDG_STATE_HOME", p.path("state"))
            .env("XDG_CACHE_HOME", p.path("cache"))
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&out.stderr);
        assert!(out.status.success(), "{}: {}\n{said}", page.name, out.status);
    }
    assert!(ran > 0, "no page has examples of the kind {kind}");
}

/// What is staged for packages has all pages, and one for each command by its own name.
#[test]
fn staging_brings_all_pages() {
    let p = Place::new();
    let stage = Path::new(HERE).join("dist/stage");
    let out = Command::new(stage).args([LMFS, &p.text("root"), "--no-licences"]).output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let man = p.path("root/usr/share/man");
    for page in pages() {
        let (_, section) = page.name.rsplit_once('.').unwrap();
        let file = man.join(format!("man{section}/{}.gz", page.name));
        assert!(file.is_file(), "{}", file.display());
    }
    for (path, _) in commands() {
        let name = path.split(' ').next().unwrap();
        let file = man.join(format!("man1/lmfs-{name}.1.gz"));
        assert!(file.is_file() || name == "completions", "{}", file.display());
    }
}

#[test]
fn examples_with_files_run() {
    // Mounts, too.
    if has_fuse() {
        run("files");
    }
}

#[test]
fn examples_with_a_store_run() {
    run("store");
}

#[test]
fn examples_with_a_mount_run() {
    if has_fuse() {
        run("mounted");
    }
}

#[test]
fn examples_of_the_helpers_run() {
    let unshare = Command::new("unshare").args(["--mount", "true"]).status();
    if has_fuse() && unshare.is_ok_and(|s| s.success()) {
        run("helpers");
    }
}

#[test]
fn no_example_is_left_out() {
    for page in pages() {
        let (kind, _) = page.examples();
        if kind == "systemd" {
            let test = std::fs::read_to_string(Path::new(HERE).join("tests/systemd")).unwrap();
            assert!(test.contains(&page.name), "tests/systemd does not run {}", page.name);
        } else {
            assert!(["files", "store", "mounted", "helpers"].contains(&&*kind), "{}", page.name);
        }
    }
}

#[test]
fn pages_are_shown_without_warnings() {
    if !Command::new("man").arg("--version").output().is_ok_and(|o| o.status.success()) {
        println!("skipped: man is missing");
        return;
    }
    for page in pages() {
        let out = Command::new("man")
            .args(["--warnings", "-E", "UTF-8", "-l", "-Tutf8", "-Z"])
            .arg(Path::new(HERE).join("man").join(&page.name))
            .env("LC_ALL", "C.UTF-8")
            .env("MANROFFSEQ", "")
            .env("MANWIDTH", "80")
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&out.stderr);
        assert!(out.status.success() && said.is_empty(), "{}: {said}", page.name);
    }
}

#[test]
fn completions_know_paths() {
    if !Command::new("bash").arg("--version").output().is_ok_and(|o| o.status.success()) {
        println!("skipped: bash is missing");
        return;
    }
    let p = Place::new();
    std::fs::create_dir(p.path("corpora")).unwrap();
    std::fs::write(p.path("corpse.log"), "").unwrap();
    let script = Command::new(LMFS).args(["completions", "bash"]).output().unwrap().stdout;
    std::fs::write(p.path("lmfs.bash"), script).unwrap();
    // What `words` completes to, by the program's function alone; then how bash goes on without an answer.
    let complete = |words: &str| {
        let script = format!(
            "source lmfs.bash; compopt() {{ echo \"$@\"; }}; COMP_WORDS=({words}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1))\n\
             _lmfs lmfs \"${{COMP_WORDS[-1]}}\" \"${{COMP_WORDS[-2]}}\"; echo \"${{COMPREPLY[*]}}\"; complete -p lmfs"
        );
        let out = Command::new("bash").args(["-c", &script]).current_dir(p.path("")).output();
        String::from_utf8(out.unwrap().stdout).unwrap()
    };
    let option = complete("lmfs model train --corpus cor");
    assert_eq!(option.lines().next(), Some("-o plusdirs"), "{option}");
    let file = complete("lmfs compress -o cor");
    assert!(file.contains("corpse.log"), "{file}");
    let place = complete("lmfs status cor");
    assert_eq!(place.lines().next(), Some(""), "{place}");
    assert!(place.contains("-o default") || place.contains("-o bashdefault"), "{place}");
    let zsh = Command::new(LMFS).args(["completions", "zsh"]).output().unwrap().stdout;
    let zsh = String::from_utf8(zsh).unwrap();
    for want in
        [":store -- Directory for the store; must not exist, or be empty:_files -/", ":_files"]
    {
        assert!(zsh.contains(want), "{want}");
    }
}

/// How a heading is named in a link: lower case, blanks as dashes, without what is no letter, digit or dash.
fn anchor(heading: &str) -> String {
    let kept = heading.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
    kept.collect::<String>().trim().to_lowercase().replace(' ', "-")
}

#[test]
fn links_in_documents_lead_somewhere() {
    let mut files: Vec<_> = ["", "docs", "training", "fuzz"]
        .iter()
        .filter_map(|d| std::fs::read_dir(Path::new(HERE).join(d)).ok())
        .flat_map(|dir| dir.map(|e| e.unwrap().path()))
        .filter(|p| p.extension().is_some_and(|e| e == "md"))
        .collect();
    files.sort();
    let mut seen = 0;
    for file in &files {
        let text = std::fs::read_to_string(file).unwrap();
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            if link.starts_with("http") || link.contains(char::is_whitespace) {
                continue;
            }
            let (path, heading) = link.split_once('#').unwrap_or((link, ""));
            let to = match path {
                "" => file.clone(),
                _ => file.parent().unwrap().join(path),
            };
            assert!(to.exists(), "{}: {link} leads nowhere", file.display());
            if !heading.is_empty() {
                let there = std::fs::read_to_string(&to).unwrap();
                let headings = there.lines().filter(|l| l.starts_with('#'));
                let mut anchors = headings.map(|l| anchor(l.trim_start_matches('#')));
                assert!(anchors.any(|a| a == heading), "{}: no heading {link}", file.display());
            }
            seen += 1;
        }
    }
    assert!(seen > 30, "{seen} links were found");
}
