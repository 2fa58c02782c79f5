//! Fine-tuning: gradients, the loop, and the command as users meet it.

#![allow(clippy::unwrap_used)]

mod tiny;

use lmfs::fs::{Fs, FsOptions, NewInode, SetHow};
use lmfs::model::network::{self, Hyper};
use lmfs::model::tune::{self, Llama, Options, bits_per_byte};
use lmfs::model::{Corpus, Model, Network};
use lmfs::store::{OpenOptions, Store};
use lmfs::types::Ino;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::LazyLock;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};
use tiny::{Random, network};

const PROGRAM: &str = env!("CARGO_BIN_EXE_lmfs");

static BASE: LazyLock<Model> = LazyLock::new(|| {
    let mut m = tiny::model(Hyper { window: 64, ..tiny::HYPER });
    m.manifest.licence = "CC0-1.0".into();
    m
});

/// Lines of a log with something to learn in each.
fn log(bytes: usize, seed: u64) -> Vec<u8> {
    let mut r = Random(seed);
    let mut line = || {
        let (user, port, ms) = (r.next() % 40, r.next() % 60_000, r.next() % 900);
        let what = ["opened", "closed", "refused"][(r.next() % 3) as usize];
        format!("the session of user{user} was {what} from port {port} after {ms} ms\n")
    };
    std::iter::from_fn(|| Some(line())).flat_map(String::into_bytes).take(bytes).collect()
}

fn nats(l: &Llama, tokens: &[u32], start: u32) -> f64 {
    let inputs: Vec<u32> =
        std::iter::once(start).chain(tokens[..tokens.len() - 1].to_vec()).collect();
    let losses = l.losses(&inputs, tokens.to_vec(), tokens.len()).unwrap();
    losses.to_vec1::<f32>().unwrap().iter().map(|v| f64::from(*v)).sum()
}

#[test]
fn the_loss_is_the_exact_engine_s() {
    let text = log(2000, 5);
    let tokens = BASE.vocabulary.tokenizer.encode(&text[..80]);
    let l = Llama::new(&BASE.vocabulary, network(&BASE), tokens.len()).unwrap();
    let float = nats(&l, &tokens, network(&BASE).hyper.start) / std::f64::consts::LN_2 / 80.0;
    let exact = bits_per_byte(&BASE.vocabulary, network(&BASE), &[text[..80].to_vec()], 1).unwrap();
    assert!((float / exact - 1.0).abs() < 0.01, "{float} {exact}");
}

/// The slope of the loss along a direction is the gradient's share of it: along the gradient itself
/// and along a random direction, for every weight.
#[test]
fn gradients_are_slopes() {
    let mut r = Random(9);
    for tied in [false, true] {
        let mut m = network(&BASE).clone();
        if tied {
            m.head = None;
        }
        let (length, start) = (24, m.hyper.start);
        let tokens: Vec<u32> = r.tokens(2 * length);
        let l = Llama::new(&BASE.vocabulary, &m, length).unwrap();
        let inputs: Vec<u32> = tokens
            .chunks(length)
            .flat_map(|c| std::iter::once(start).chain(c[..length - 1].iter().copied()))
            .collect();
        let loss = || -> f64 {
            let losses = l.losses(&inputs, tokens.clone(), length).unwrap();
            losses.to_vec1::<f32>().unwrap().iter().map(|v| f64::from(*v)).sum()
        };
        let sum = l.losses(&inputs, tokens.clone(), length).unwrap().sum_all().unwrap();
        let grads = sum.backward().unwrap();
        for (i, v) in l.vars().iter().enumerate() {
            let g: Vec<f32> = grads.get(v).unwrap().flatten_all().unwrap().to_vec1().unwrap();
            let w: Vec<f32> = v.flatten_all().unwrap().to_vec1().unwrap();
            let norm = g.iter().map(|x| f64::from(x * x)).sum::<f64>().sqrt();
            let own: Vec<f32> = g.iter().map(|x| (f64::from(*x) / norm) as f32).collect();
            let unit = (g.len() as f32).sqrt();
            let random: Vec<f32> = g.iter().map(|_| (r.unit() * 2.0 - 1.0) / unit).collect();
            for d in [&own, &random] {
                let expected: f64 = g.iter().zip(d).map(|(a, b)| f64::from(a * b)).sum();
                let at = |step: f32| {
                    let moved: Vec<f32> = w.iter().zip(d).map(|(w, d)| w + step * d).collect();
                    v.set(&candle_core::Tensor::from_vec(moved, v.shape(), v.device()).unwrap())
                        .unwrap();
                    loss()
                };
                // A change of the loss that is large against its rounding, small against itself.
                let step = (0.02 / norm).min(0.01) as f32;
                let slope = (at(step) - at(-step)) / f64::from(2.0 * step);
                at(0.0);
                assert!(
                    (slope - expected).abs() < 0.03 * norm,
                    "weight {i}, tied {tied}: slope {slope}, gradient {expected} of {norm}"
                );
            }
        }
    }
}

#[test]
fn tuning_learns_what_is_held_out() {
    let dir = tempfile::tempdir().unwrap();
    let corpus = dir.path().join("corpus");
    std::fs::create_dir_all(corpus.join("old")).unwrap();
    std::fs::write(corpus.join("a.log"), log(90_000, 1)).unwrap();
    std::fs::write(corpus.join("old/b.log"), log(60_000, 2)).unwrap();
    let c = Corpus::read(&corpus, 1).unwrap();
    let o = Options {
        seconds: 300.0,
        steps: 60,
        look: 0.5,
        save: 0.5,
        crop: 64,
        batch: 8,
        rate: 4e-3,
        threads: 2,
        seed: 1,
    };
    let state = dir.path().join("state");
    let mut reports = 0;
    let never = AtomicBool::new(false);
    let from = tune::Base { id: [7; 32], vocabulary: &BASE.vocabulary, network: network(&BASE) };
    let out = tune::train(from, &c, &o, &state, &never, &mut |_| reports += 1).unwrap();
    assert!(reports > 2 && out.resumed.is_none() && state.exists());
    let p = out.progress;
    assert!(p.held_out < 0.8 * p.before, "{p:?}");
    // What the file holds is as good as what was trained, and exact.
    let tuned = Model { network: Some(Network::Llama(out.network)), ..BASE.clone() };
    let again = Model::from_bytes(&tuned.to_bytes()).unwrap();
    lmfs::block::Lm::load(&again.to_bytes()).unwrap();
    let exact = |n: &network::Llama| bits_per_byte(&BASE.vocabulary, n, &c.held, 2).unwrap();
    let (before, after) = (exact(network(&BASE)), exact(network(&again)));
    assert!(after < 0.8 * before, "{before} {after}");
    // Lanes are longer than what was trained on, so it costs a little more.
    assert!((after / p.held_out - 1.0).abs() < 0.3, "{after} {p:?}");
}

/// A registry with the base in it, and corpora.
struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        let p = Self { dir: tempfile::tempdir().unwrap() };
        std::fs::write(p.path("tiny.file"), BASE.to_bytes()).unwrap();
        p.works(&["model", "import", &p.text("tiny.file")]);
        p
    }
    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }
    fn text(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }
    fn command(&self, program: &str, args: &[&str]) -> Command {
        let mut c = Command::new(program);
        c.args(args).env("LMFS_MODELS", self.path("models"));
        c
    }
    fn works(&self, args: &[&str]) -> String {
        let o = self.command(PROGRAM, args).output().unwrap();
        assert!(o.status.success(), "{args:?}: {}", said(&o));
        String::from_utf8_lossy(&o.stdout).into_owned()
    }
    /// Fails with 1 and says this.
    fn refuses(&self, args: &[&str], what: &str) {
        let o = self.command(PROGRAM, args).output().unwrap();
        assert_eq!(o.status.code(), Some(1), "{args:?}: {}", said(&o));
        assert!(said(&o).contains(what), "{args:?}: {}", said(&o));
    }
    fn tune<'a>(&self, corpus: &'a str, name: &'a str, minutes: &'a str) -> Vec<&'a str> {
        let mut args = vec!["model", "tune", "--corpus", corpus, "--name", name];
        args.extend(["--minutes", minutes, "--base", "tiny", "--json"]);
        args
    }
    fn models(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.path("models")).unwrap();
        let mut names: Vec<String> =
            entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        // Figures of those that were added.
        names.retain(|n| n != "measured.json");
        names.sort();
        names
    }
}

fn said(o: &Output) -> String {
    String::from_utf8_lossy(&o.stderr).into_owned()
}

#[test]
fn a_tuned_model_is_a_model() {
    let p = Place::new();
    std::fs::create_dir(p.path("corpus")).unwrap();
    std::fs::write(p.path("corpus/a.log"), log(200_000, 1)).unwrap();
    std::fs::write(p.path("corpus/core"), [b"ELF\0".to_vec(), log(5_000, 1)].concat()).unwrap();
    std::os::unix::fs::symlink("/etc/passwd", p.path("corpus/link")).unwrap();
    let corpus = p.text("corpus");
    let mut args = p.tune(&corpus, "mine", "5");
    args.extend(["--steps", "60"]);
    let o = p.command(PROGRAM, &args).output().unwrap();
    assert!(o.status.success(), "{}", said(&o));
    assert!(said(&o).contains("core: binary") && said(&o).contains("link: a symbolic link"));
    let r: serde_json::Value = serde_json::from_slice(&o.stdout).unwrap();
    assert_eq!(r["kept"], true);
    assert_eq!(r["left_out"].as_array().unwrap().len(), 2);
    let alone = |key: &str| r[key]["alone"].as_f64().unwrap();
    assert!(alone("bpb") < 0.8 * alone("bpb_base"), "{r}");
    let listed: serde_json::Value =
        serde_json::from_str(&p.works(&["model", "list", "--json"])).unwrap();
    let mine = listed.as_array().unwrap().iter().find(|m| m["name"] == "mine").unwrap();
    assert_eq!((&mine["id"], &mine["licence"]), (&r["id"], &serde_json::json!("CC0-1.0")));
    let base = r["base_id"].as_str().unwrap();
    assert_eq!(mine["source"], format!("tuned from tiny {base}"));
    p.works(&["model", "verify", "mine"]);
    assert_eq!(p.models(), ["mine.lmfsmodel", "tiny.lmfsmodel"]);
    p.refuses(&args, "there is another model 'mine'");

    // It codes files and stores.
    let plain = log(30_000, 3);
    std::fs::write(p.path("in"), &plain).unwrap();
    let (input, coded, output) = (p.text("in"), p.text("in.lmz"), p.text("out"));
    p.works(&["compress", "-m", "mine", &input, "-o", &coded]);
    p.works(&["decompress", &coded, "-o", &output]);
    assert!(std::fs::read(p.path("out")).unwrap() == plain);
    let open = |store: &str| {
        let options = FsOptions { lm_gain: -1e9, ..FsOptions::default() };
        Fs::open(Store::open(Path::new(store), &OpenOptions::default()).unwrap(), options).unwrap()
    };
    let codecs = |store: &str, attribute: bool| {
        let fs = open(store);
        let new = NewInode::of(libc::S_IFREG | 0o644);
        let ino = fs.make(Ino::ROOT, b"a", new).unwrap().ino;
        if attribute {
            fs.setxattr(ino, b"user.lmfs.model", b"mine", SetHow::Put).unwrap();
        }
        fs.write(ino, 0, &plain, false).unwrap();
        fs.flush_all().unwrap();
        fs.recoder().settle(None, &mut |_, _| {}).unwrap();
        let codecs = fs.coding(ino).unwrap().codecs;
        fs.shutdown().unwrap();
        (ino, codecs)
    };
    let (by_default, by_attribute) = (p.text("store"), p.text("other"));
    p.works(&["mkfs", &by_default, "--model", "mine"]);
    p.works(&["mkfs", &by_attribute, "--model", "fast"]);
    // So that the store has it: this process knows of no registry.
    p.works(&["recode", &by_attribute, "--model", "mine"]);
    p.works(&["recode", &by_attribute, "--model", "fast"]);
    let (ino, found) = codecs(&by_default, false);
    assert!(found.contains_key("mine"), "{found:?}");
    let (_, found) = codecs(&by_attribute, true);
    assert!(found.contains_key("mine"), "{found:?}");
    p.works(&["recode", &by_default, "--model", "tiny"]);
    p.works(&["recode", &by_default, "--model", "mine"]);
    let fs = open(&by_default);
    assert!(fs.read_now(ino, 0, 1 << 20).unwrap() == plain);
    fs.shutdown().unwrap();
    drop(fs);

    // Taught noise, it knows less of what it is judged by: that is not kept.
    let mut r = Random(77);
    let mut noise: Vec<u8> = (0..400_000)
        .map(|i| if i % 60 == 0 { b'\n' } else { b'A' + (r.next() % 26) as u8 })
        .collect();
    noise.extend(log(26_000, 4));
    std::fs::create_dir(p.path("noise")).unwrap();
    std::fs::write(p.path("noise/a"), noise).unwrap();
    let mut args = vec!["model", "tune", "--name", "worse", "--base", "mine", "--steps", "60"];
    let noise = p.text("noise");
    args.extend(["--corpus", &noise]);
    p.refuses(&args, "'worse' is not kept");
    assert_eq!(p.models(), ["mine.lmfsmodel", "tiny.lmfsmodel"]);
}

#[test]
fn bad_input_is_refused_before_time_is_spent() {
    let p = Place::new();
    for dir in ["empty", "small", "binary", "good"] {
        std::fs::create_dir(p.path(dir)).unwrap();
    }
    std::fs::write(p.path("small/a"), &log(100 << 10, 1)[1..]).unwrap();
    std::fs::write(p.path("binary/a"), vec![0; 300_000]).unwrap();
    std::fs::write(p.path("good/a"), log(100 << 10, 1)).unwrap();
    let [empty, small, binary, good, none] =
        ["empty", "small", "binary", "good", "none"].map(|d| p.text(d));
    let began = Instant::now();
    p.refuses(&p.tune(&empty, "mine", "5"), "there is no text in");
    p.refuses(&p.tune(&small, "mine", "5"), "holds 102399 bytes of text");
    p.refuses(&p.tune(&binary, "mine", "5"), "a: binary");
    p.refuses(&p.tune(&none, "mine", "5"), "cannot read the corpus");
    p.refuses(&p.tune(&good, "tiny", "5"), "another model 'tiny'");
    let mut args = p.tune(&good, "mine", "5");
    args[9] = "huge";
    p.refuses(&args, "no model 'huge'");
    for (name, minutes) in
        [("fast", "5"), ("../x", "5"), ("mine", "0"), ("mine", "-1"), ("mine", "nan")]
    {
        let o = p.command(PROGRAM, &p.tune(&good, name, minutes)).output().unwrap();
        assert_eq!(o.status.code(), Some(2), "{name} {minutes}: {}", said(&o));
    }
    assert!(began.elapsed() < Duration::from_secs(60));
    assert_eq!(p.models(), ["tiny.lmfsmodel"]);
}

/// Waits until the file holds something else.
fn changed(path: &Path, old: Option<&[u8]>, child: &mut Child) -> Vec<u8> {
    let until = Instant::now() + Duration::from_secs(60);
    loop {
        match std::fs::read(path) {
            Ok(new) if Some(&new[..]) != old => return new,
            _ => assert!(Instant::now() < until && child.try_wait().unwrap().is_none()),
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn an_interrupted_training_goes_on() {
    let p = Place::new();
    std::fs::create_dir(p.path("corpus")).unwrap();
    std::fs::write(p.path("corpus/a.log"), log(150_000, 1)).unwrap();
    let corpus = p.text("corpus");
    let state = p.path("models/.mine.tuning");
    let start = |minutes: &'static str| {
        let mut c = p.command(PROGRAM, &p.tune(&corpus, "mine", minutes));
        c.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    };
    let send = |child: &Child, signal: i32| {
        // SAFETY: the child has not been waited for, so the id is its own.
        assert_eq!(unsafe { libc::kill(child.id() as i32, signal) }, 0);
    };
    // Told to stop: a checkpoint of that moment.
    let mut child = start("2");
    let first = changed(&state, None, &mut child);
    std::thread::sleep(Duration::from_millis(500));
    send(&child, libc::SIGTERM);
    let o = child.wait_with_output().unwrap();
    assert_eq!(o.status.code(), Some(1));
    assert!(said(&o).contains("interrupted after") && said(&o).contains("go on"), "{}", said(&o));
    let stopped = std::fs::read(&state).unwrap();
    assert!(stopped != first);
    // Killed: the last of those written now and then.
    let mut child = start("0.2");
    let resumed = changed(&state, Some(&stopped), &mut child);
    let last = changed(&state, Some(&resumed), &mut child);
    send(&child, libc::SIGKILL);
    child.wait().unwrap();
    let killed = std::fs::read(&state).unwrap();
    assert_eq!(killed.len(), last.len());
    // No room: the checkpoint stays as it is.
    let mut c = p.command(PROGRAM, &p.tune(&corpus, "mine", "0.2"));
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
    assert_eq!(o.status.code(), Some(1));
    assert!(said(&o).contains("cannot write the checkpoint"), "{}", said(&o));
    assert!(std::fs::read(&state).unwrap() == killed);
    assert_eq!(p.models(), [".mine.tuning", "tiny.lmfsmodel"]);
    // To the end.
    let o = start("0.15").wait_with_output().unwrap();
    assert!(o.status.success(), "{}", said(&o));
    assert!(said(&o).contains("going on from the checkpoint"), "{}", said(&o));
    let r: serde_json::Value = serde_json::from_slice(&o.stdout).unwrap();
    assert!(r["resumed_from_s"].as_f64().unwrap() > 0.0 && r["kept"] == true, "{r}");
    assert_eq!(p.models(), ["mine.lmfsmodel", "tiny.lmfsmodel"]);
}
