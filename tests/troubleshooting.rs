//! docs/troubleshooting.md: every command in it is run where its section says that it helps.

#![allow(clippy::unwrap_used)]

mod place;
mod program;

use place::Place;
use program::LMFS;
use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;

const HERE: &str = env!("CARGO_MANIFEST_DIR");

/// A section: how its trouble comes about, and what holds once its commands have been run.
struct Trouble {
    section: &'static str,
    comes: &'static str,
    ends: &'static str,
}

/// Makes a store with two files, mounted.
const MOUNTED: &str = "lmfs -q up archive mnt --model fast; cp app.log mnt/; cp app.log mnt/old.log; lmfs -q settle mnt\n";
const KILLED: &str = "pid=$(lmfs status mnt --json | sed -n 's/.*\"pid\": \\([0-9]*\\).*/\\1/p')\n\
     kill -9 $pid; while [ -e /proc/$pid/exe ] && [ \"$(cut -d' ' -f3 /proc/$pid/stat)\" != Z ]; do sleep 0.05; done\n";
const SAME: &str = "cmp app.log mnt/app.log\n";

const TROUBLES: &[Trouble] = &[
    Trouble { section: "The mount is dead", comes: KILLED, ends: SAME },
    Trouble {
        section: "The mount is busy",
        comes: "exec 9< mnt/app.log",
        ends: "! mountpoint -q mnt; cmp app.log - <&9; exec 9<&-; lmfs -q mount archive mnt",
    },
    Trouble { section: "The store is in use", comes: "", ends: SAME },
    Trouble {
        section: "The disk is full",
        comes: "lmfs umount mnt; mkdir disk; mount -t tmpfs -o size=300M none disk; lmfs -q mkfs disk/s\n\
             lmfs mount disk/s mnt -o gc=off,recode=off; cp app.log mnt/\n\
             ! cat /dev/urandom > mnt/old.log 2>/dev/null; ! head -c 1M /dev/urandom > mnt/more 2>/dev/null",
        ends: "head -c 100M /dev/urandom > mnt/more; cmp app.log mnt/app.log; lmfs umount mnt; umount disk",
    },
    Trouble {
        section: "A model is missing",
        comes: "lmfs -q model tune --corpus corpus --name ours; lmfs model export ours -o ours.lmfsmodel\n\
             lmfs -q mkfs other --model ours; lmfs -q recode mnt -m ours; lmfs umount mnt\n\
             lmfs model rm ours; rm archive/models/*; lmfs mount archive mnt; ! cat mnt/app.log 2>/dev/null >&2",
        ends: "lmfs scrub archive; lmfs mount archive mnt; cmp app.log mnt/app.log",
    },
    // Without parity: the commands for what cannot be repaired are tried as well.
    Trouble {
        section: "Data are damaged",
        comes: "lmfs umount mnt; rm -r archive; lmfs -q mkfs archive --ecc none --model fast --block-size 16K\n\
             lmfs mount archive mnt; cp app.log mnt/; lmfs -q settle mnt; lmfs umount mnt\n\
             n=$(ls -S archive/segments | head -1)\n\
             dd if=/dev/zero of=archive/segments/$n bs=4096 seek=3 count=1 conv=notrunc status=none",
        ends: "! cmp -s app.log mnt/app.log; [ -n \"$(lmfs stat mnt/app.log | grep damaged)\" ]; [ -s saved.tar ]\n\
             lost=$(cmp -l app.log saved.log 2>/dev/null | wc -l || true); all=$(stat -c %s app.log)\n\
             [ $lost -gt 0 ] && [ $lost -lt $((all / 2)) ]",
    },
    Trouble {
        section: "The index is damaged",
        comes: "",
        ends: "lmfs mount archive mnt; cmp app.log mnt/app.log",
    },
    Trouble {
        section: "The archive has lost its namespace",
        comes: "lmfs umount mnt",
        ends: "lmfs mount archive mnt; cmp app.log mnt/app.log",
    },
    Trouble { section: "Moving to another machine", comes: "", ends: SAME },
    Trouble { section: "Reading is slow", comes: "", ends: SAME },
    Trouble { section: "Reporting a fault", comes: "lmfs umount mnt", ends: "" },
];

/// The commands of each section.
fn sections(text: &str) -> Vec<(String, Vec<String>)> {
    let mut out: Vec<(String, Vec<String>)> = Vec::new();
    let mut inside = false;
    for line in text.lines() {
        match line.strip_prefix("## ") {
            Some(heading) => out.push((heading.into(), Vec::new())),
            None if line.starts_with("```") => inside = line == "```sh",
            None if inside => out.last_mut().unwrap().1.push(line.into()),
            None => {}
        }
    }
    out
}

#[test]
fn what_the_page_advises_helps() {
    let private = Command::new("unshare").args(["--mount", "true"]).status();
    if !Path::new("/dev/fuse").exists() || !private.is_ok_and(|s| s.success()) {
        println!("skipped: /dev/fuse is missing, or no mount namespace can be made");
        return;
    }
    let text = std::fs::read_to_string(Path::new(HERE).join("docs/troubleshooting.md")).unwrap();
    let sections = sections(&text);
    assert_eq!(sections.len(), TROUBLES.len(), "each section needs a trouble here, and vice versa");
    let log: String = (0..4000_u64)
        .map(|i| {
            let x = i.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407) >> 33;
            format!(
                "2026-11-29 12:{:02} host app[{}]: request {x} took {} ms\n",
                i / 67,
                x % 9,
                x % 97
            )
        })
        .collect();
    for (heading, commands) in &sections {
        let trouble = TROUBLES.iter().find(|t| t.section == heading);
        let trouble = trouble.unwrap_or_else(|| panic!("nothing is known of {heading}"));
        assert!(!commands.is_empty(), "{heading}");
        let p = Place::new();
        std::fs::create_dir(p.path("bin")).unwrap();
        std::fs::create_dir(p.path("corpus")).unwrap();
        std::os::unix::fs::symlink(LMFS, p.path("bin/lmfs")).unwrap();
        std::fs::write(p.path("app.log"), &log).unwrap();
        std::fs::write(p.path("corpus/app.log"), &log).unwrap();
        let mut script = format!("set -eo pipefail\n{MOUNTED}{}\n", trouble.comes);
        // A command may find something wrong, but it must be one, and be used as it is to be.
        script += "advise() { echo \"+ $1\" >&2; local rc=0; eval \"$1\" || rc=$?\n\
             case $rc in 0|1|4|32) ;; *) echo \"status $rc\" >&2; exit 99 ;; esac; }\n";
        for c in commands {
            writeln!(script, "advise '{c}'").unwrap();
        }
        writeln!(script, "set -x\n{}\n{{ set +x; }} 2>/dev/null", trouble.ends).unwrap();
        script += "if mountpoint -q mnt; then lmfs -q umount mnt; fi\n";
        let path = std::env::var("PATH").unwrap();
        let out = Command::new("unshare")
            .args(["--mount", "--propagation", "private", "bash", "-c", &script])
            .current_dir(p.path(""))
            .env("PATH", format!("{}:{path}", p.text("bin")))
            .env("LMFS_MODELS", p.path("registry"))
            .env("XDG_STATE_HOME", p.path("state"))
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&out.stderr);
        assert!(out.status.success(), "{heading}: {}\n{said}", out.status);
    }
}
