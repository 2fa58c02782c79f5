//! Models with a prior, as users meet them: counted, measured, tuned to one's own text or to a store.

#![allow(clippy::unwrap_used)]

mod place;

use lmfs::fs::{Fs, FsOptions, NewInode};
use lmfs::store::{OpenOptions, Store};
use lmfs::types::Ino;
use place::Place;
use std::collections::BTreeMap;
use std::fs::{create_dir, write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Output};

const LMFS: &str = env!("CARGO_BIN_EXE_lmfs");

/// Lines of a service that no text of the project is like.
fn log(bytes: usize, from: u64) -> Vec<u8> {
    let line = |i: u64| {
        let r = i.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20;
        let what = ["opened", "closed", "refused"][(r % 3) as usize];
        let (user, port, ms) = (r % 40, r / 64 % 60_000, r / 7 % 900);
        format!("the session of user{user} was {what} from port {port} after {ms} ms\n")
    };
    (from..).flat_map(|i| line(i).into_bytes()).take(bytes).collect()
}

fn said(o: &Output) -> String {
    String::from_utf8_lossy(&o.stderr).into_owned()
}

/// A command with a registry of its own.
fn lmfs(p: &Place, args: &[&str]) -> Command {
    let mut c = Command::new(LMFS);
    c.args(args).env("LMFS_MODELS", p.path("models"));
    c
}

fn works(p: &Place, args: &[&str]) -> String {
    let o = lmfs(p, args).output().unwrap();
    assert!(o.status.success(), "{args:?}: {}", said(&o));
    String::from_utf8_lossy(&o.stdout).into_owned()
}

fn json(p: &Place, args: &[&str]) -> serde_json::Value {
    serde_json::from_str(&works(p, &[args, &["--json"]].concat())).unwrap()
}

fn fails(p: &Place, args: &[&str], code: i32, what: &str) {
    let o = lmfs(p, args).output().unwrap();
    assert_eq!(o.status.code(), Some(code), "{args:?}: {}", said(&o));
    assert!(said(&o).contains(what), "{args:?}: {}", said(&o));
}

/// What the registry's directory holds.
fn models(p: &Place) -> Vec<String> {
    let entries = std::fs::read_dir(p.path("models")).unwrap();
    let mut names: Vec<_> =
        entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// With a small model, counted from the project's documents.
fn place() -> Place {
    let p = Place::new();
    let docs = concat!(env!("CARGO_MANIFEST_DIR"), "/docs");
    works(&p, &["model", "train", "--corpus", docs, "--name", "small", "--memory", "256K"]);
    p
}

#[test]
fn what_models_cost_is_measured_and_listed() {
    let p = place();
    // A model that is added is measured.
    let listed = json(&p, &["model", "list"]);
    let row = |listed: &serde_json::Value, name: &str| {
        listed.as_array().unwrap().iter().find(|m| m["name"] == name).unwrap().clone()
    };
    let small = row(&listed, "small");
    let bits = small["measured"]["bits_per_byte"].as_f64().unwrap();
    assert!((1.0..3.0).contains(&bits), "{small}");
    for speed in ["encode_bytes_per_s", "decode_bytes_per_s"] {
        assert!(small["measured"][speed].as_f64().unwrap() > 1000.0, "{small}");
    }
    // That of the program is measured by a command; fast too, which is no model.
    assert!(row(&listed, "base")["measured"].is_null());
    assert!(works(&p, &["model", "list"]).contains("lmfs model bench"));
    let benched = json(&p, &["model", "bench"]);
    let names: Vec<_> = benched.as_array().unwrap().iter().map(|r| r["name"].clone()).collect();
    assert_eq!(names, ["fast", "base", "small"]);
    let base = row(&json(&p, &["model", "list"]), "base")["measured"].clone();
    assert!(base["bits_per_byte"].as_f64().unwrap() < bits, "{base}");
    let table = works(&p, &["model", "list"]);
    assert!(!table.contains("lmfs model bench") && table.contains("fast"), "{table}");
    assert!(works(&p, &["model", "info", "base"]).contains("bits per byte"));
    // A text of one's own is marked as such.
    write(p.path("text"), log(20_000, 1)).unwrap();
    let text = p.text("text");
    assert!(works(&p, &["model", "bench", "small", "--text", &text]).contains('*'));
    assert!(works(&p, &["model", "list"]).contains("text of one's own"));
    // The model's file is what it was.
    works(&p, &["model", "verify", small["id"].as_str().unwrap()]);

    fails(&p, &["model", "bench", "small", "huge"], 1, "no model 'huge'");
    fails(&p, &["model", "bench", "small", "--text", &p.text("none")], 1, "none: ");
    write(p.path("text"), b"").unwrap();
    fails(&p, &["model", "bench", "small", "--text", &text], 1, "empty");
    // Figures that cannot be kept are shown, and it is said.
    std::fs::remove_file(p.path("models/measured.json")).unwrap();
    create_dir(p.path("models/measured.json")).unwrap();
    let o = lmfs(&p, &["model", "bench", "small"]).output().unwrap();
    assert!(o.status.code() == Some(1) && said(&o).contains("measured.json"), "{}", said(&o));
    assert!(String::from_utf8_lossy(&o.stdout).contains("small"));
    assert_eq!(models(&p), ["measured.json", "small.lmfsmodel"]);
}

#[test]
fn a_prior_stands_beside_a_network() {
    let p = place();
    let tiny = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/tiny.model");
    works(&p, &["model", "import", tiny]);
    create_dir(p.path("corpus")).unwrap();
    write(p.path("corpus/a.log"), log(300_000, 1)).unwrap();
    let corpus = p.text("corpus");
    let train = ["model", "train", "--corpus", &corpus, "--name", "both", "--network"];
    let with = |network| [&train[..], &[network]].concat();
    fails(&p, &with("small"), 1, "model 'small' has no network");
    fails(&p, &with("huge"), 1, "no model 'huge'");
    assert_eq!(models(&p), ["measured.json", "small.lmfsmodel", "tiny.lmfsmodel"]);
    works(&p, &with("tiny"));
    let info = works(&p, &["model", "info", "both"]);
    assert!(
        info.contains("\nprior ")
            && info.contains("\nnetwork ")
            && info.contains("engine        2")
    );
    works(&p, &["model", "verify", "both"]);
    write(p.path("in"), log(20_000, 90_000)).unwrap();
    let input = p.text("in");
    let size = |model: &str, gain: &str| {
        let r = json(&p, &["bench", "codec", "-m", model, gain, &input]);
        assert_eq!(r["total"]["roundtrip"], true);
        r["total"]["coded_bytes"].as_u64().unwrap()
    };
    // Weights are random: the network earns nothing, with or without a prior.
    let (alone, both) = (size("both", "--lm-gain=3"), size("both", "--lm-gain=-1000"));
    assert!(alone < both && both < size("tiny", "--lm-gain=-1000"), "{alone} {both}");
    // Tuning counts, and leaves the network.
    create_dir(p.path("other")).unwrap();
    write(p.path("other/b.log"), log(300_000, 1).to_ascii_uppercase()).unwrap();
    let other = p.text("other");
    let tune = ["model", "tune", "--corpus", &other, "--name", "ours", "--base", "both"];
    assert_eq!(json(&p, &tune)["kept"], true);
    let info = works(&p, &["model", "info", "ours"]);
    assert!(info.contains("\nprior ") && info.contains("\nnetwork "), "{info}");
}

#[test]
fn a_prior_is_tuned_to_a_log() {
    let p = place();
    create_dir(p.path("corpus")).unwrap();
    write(p.path("corpus/a.log"), log(300_000, 1)).unwrap();
    write(p.path("corpus/core"), [b"ELF\0".to_vec(), log(5_000, 1)].concat()).unwrap();
    let corpus = p.text("corpus");
    let tune = ["model", "tune", "--corpus", &corpus, "--name", "ours", "--base", "small"];
    let r = json(&p, &tune);
    assert_eq!((&r["kept"], &r["base"]), (&true.into(), &"small".into()));
    assert!(r["bpb"]["alone"].is_null() && r["resumed_from_s"].is_null());
    let coded = |key: &str| r[key]["coded"].as_f64().unwrap();
    assert!(coded("bpb") < 0.97 * coded("bpb_base"), "{r}");
    assert_eq!(r["left_out"].as_array().unwrap().len(), 1);
    let listed = json(&p, &["model", "list"]);
    let ours = listed.as_array().unwrap().iter().find(|m| m["name"] == "ours").unwrap();
    assert_eq!(ours["id"], r["id"]);
    assert_eq!(ours["source"], format!("tuned from small {}", r["base_id"].as_str().unwrap()));
    assert!(ours["measured"].is_object());
    works(&p, &["model", "verify", "ours"]);
    assert_eq!(models(&p), ["measured.json", "ours.lmfsmodel", "small.lmfsmodel"]);
    // The same text gives the same model.
    works(&p, &["model", "rm", "ours"]);
    assert_eq!(json(&p, &tune)["id"], r["id"]);
    fails(&p, &tune, 1, "another model 'ours'");
    // It codes what tuning has not seen in less.
    write(p.path("in"), log(100_000, 90_000)).unwrap();
    let input = p.text("in");
    let size = |model: &str| {
        let r = json(&p, &["bench", "codec", "-m", model, &input]);
        assert_eq!(r["total"]["roundtrip"], true);
        r["total"]["coded_bytes"].as_u64().unwrap()
    };
    assert!(size("ours") < size("small"));
    // From the model that is part of the program, and from what was tuned.
    let mut again = tune;
    again[5] = "more";
    again[7] = "ours";
    let o = lmfs(&p, &again).output().unwrap();
    assert!(matches!(o.status.code(), Some(0 | 1)), "{}", said(&o));
    again[5] = "default";
    assert_eq!(json(&p, &again[..6])["base"], "base");
}

#[test]
fn what_cannot_be_tuned_on_leaves_nothing() {
    let p = place();
    for dir in ["empty", "little", "binary", "good", "noise"] {
        create_dir(p.path(dir)).unwrap();
    }
    write(p.path("little/a"), &log(100 << 10, 1)[1..]).unwrap();
    write(p.path("binary/a"), vec![0; 300_000]).unwrap();
    write(p.path("good/a"), log(300_000, 1)).unwrap();
    let before = models(&p);
    let tune = |dir: &str| -> Vec<String> {
        let args = ["model", "tune", "--name", "ours", "--base", "small", "--corpus"];
        args.iter().map(|s| (*s).to_owned()).chain([p.text(dir)]).collect()
    };
    let refused = |dir: &str, what: &str| {
        let args = tune(dir);
        fails(&p, &args.iter().map(String::as_str).collect::<Vec<_>>(), 1, what);
    };
    refused("empty", "there is no text in");
    refused("little", "holds 102399 bytes of text");
    refused("binary", "a: binary");
    refused("none", "cannot read the corpus");
    for more in [["--memory", "1"], ["--memory", "9G"], ["--store", "x"]] {
        let args = tune("good");
        let args: Vec<_> = args.iter().map(String::as_str).chain(more).collect();
        let o = lmfs(&p, &args).output().unwrap();
        assert_eq!(o.status.code(), Some(2), "{more:?}: {}", said(&o));
    }
    let o = lmfs(&p, &["model", "tune", "--name", "ours"]).output().unwrap();
    assert!(o.status.code() == Some(2) && said(&o).contains("--store"), "{}", said(&o));
    // Another text before the end that judges: nothing is gained.
    let mut text: Vec<u8> = (0..400_000_u64)
        .map(|i| match i % 60 {
            0 => b'\n',
            _ => b'A' + (i.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40) as u8 % 26,
        })
        .collect();
    text.extend(std::fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/format.md")).unwrap());
    write(p.path("noise/a"), text).unwrap();
    refused("noise", "'ours' is not kept");
    assert_eq!(models(&p), before);
    // No room for what is counted.
    let mut c = lmfs(&p, &tune("good").iter().map(String::as_str).collect::<Vec<_>>());
    // SAFETY: only async-signal-safe calls between fork and exec.
    unsafe {
        c.pre_exec(|| {
            let room = libc::rlimit { rlim_cur: 10_000, rlim_max: 10_000 };
            libc::signal(libc::SIGXFSZ, libc::SIG_IGN);
            assert!(libc::setrlimit(libc::RLIMIT_FSIZE, &raw const room) == 0);
            Ok(())
        });
    }
    let o = c.output().unwrap();
    let dir = p.text("models");
    assert!(o.status.code() == Some(1) && said(&o).contains(&dir), "{}", said(&o));
    assert!(said(&o).contains("make room"), "{}", said(&o));
    assert_eq!(models(&p), before);
    // Killed while it counts.
    write(p.path("good/a"), log(8 << 20, 1)).unwrap();
    let mut c = lmfs(&p, &tune("good").iter().map(String::as_str).collect::<Vec<_>>());
    let mut child = c.spawn().unwrap();
    std::thread::sleep(std::time::Duration::from_millis(500));
    child.kill().unwrap();
    assert_eq!(child.wait().unwrap().code(), None, "it had ended before");
    assert_eq!(models(&p), before);
}

fn open(store: &Path) -> std::sync::Arc<Fs> {
    Fs::open(Store::open(store, &OpenOptions::default()).unwrap(), FsOptions::default()).unwrap()
}

fn contents(dir: &Path) -> BTreeMap<std::path::PathBuf, Vec<u8>> {
    let entries = std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().path());
    entries.map(|p| (p.clone(), std::fs::read(p).unwrap())).collect()
}

#[test]
fn a_store_is_tuned_to_itself() {
    let p = place();
    let (path, store) = (p.path("store"), p.text("store"));
    works(&p, &["mkfs", &store, "--model", "small"]);
    let plain = log(300_000, 1);
    let fs = open(&path);
    let dir = NewInode::of(libc::S_IFDIR | 0o755);
    let file = NewInode::of(libc::S_IFREG | 0o644);
    let below = fs.make(Ino::ROOT, b"logs", dir).unwrap().ino;
    let ino = fs.make(below, b"a", file).unwrap().ino;
    fs.write(ino, 0, &plain, false).unwrap();
    let file = NewInode::of(libc::S_IFREG | 0o644);
    let other = fs.make(Ino::ROOT, b"binary", file).unwrap().ino;
    fs.write(other, 0, &[7, 0, 9], false).unwrap();
    fs.flush_all().unwrap();
    fs.recoder().settle(None, &mut |_, _| {}).unwrap();
    let before = fs.coding(ino).unwrap().coded_size;
    fs.shutdown().unwrap();
    drop(fs);

    let segments = contents(&path.join("segments"));
    let tune = ["model", "tune", "--store", &store, "--name", "ours", "--base", "small"];
    let o = lmfs(&p, &[&tune[..], &["--json"]].concat()).output().unwrap();
    assert!(o.status.success() && said(&o).contains("/binary: binary"), "{}", said(&o));
    let r: serde_json::Value = serde_json::from_slice(&o.stdout).unwrap();
    assert_eq!(r["corpus_bytes"], plain.len());
    assert_eq!(r["left_out"], serde_json::json!(["/binary"]));
    assert!(contents(&path.join("segments")) == segments, "the store has changed");
    let said_so = works(&p, &["recode", &store, "--model", "ours"]);
    assert!(said_so.contains("coded with ours"), "{said_so}");
    let fs = open(&path);
    let coding = fs.coding(ino).unwrap();
    assert!(coding.codecs.contains_key("ours") && coding.coded_size < before, "{coding:?}");
    assert!(fs.read_now(ino, 0, 1 << 20).unwrap() == plain);
    fs.shutdown().unwrap();
    drop(fs);

    works(&p, &["mkfs", &p.text("none"), "--model", "fast"]);
    let none = p.text("none");
    fails(&p, &["model", "tune", "--store", &none, "--name", "b"], 1, "there is no text in");
    let dir = p.text("models");
    fails(&p, &["model", "tune", "--store", &dir, "--name", "b"], 1, "models");
    if !Path::new("/dev/fuse").exists() {
        println!("skipped: /dev/fuse is missing");
        return;
    }
    // Mounted: by either name, and a part of it.
    works(&p, &["model", "rm", "ours"]);
    let mnt = p.text("mnt");
    works(&p, &["mount", &store, &mnt]);
    for (at, bytes) in
        [(mnt.clone(), 300_000), (store.clone(), 300_000), (p.text("mnt/logs"), 300_000)]
    {
        let r = json(&p, &["model", "tune", "--store", &at, "--name", "ours", "--base", "small"]);
        assert_eq!(r["corpus_bytes"], bytes, "{at}");
        works(&p, &["model", "rm", "ours"]);
    }
    works(&p, &["umount", &mnt]);
}
