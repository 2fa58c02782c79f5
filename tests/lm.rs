//! Coding with a language model: payloads, containers, stores that carry their models.

#![allow(clippy::unwrap_used)]

mod tiny;

use lmfs::block::container::{self, ContainerError};
use lmfs::block::{self, BlockError, ENGINE, Lm, Primer, Tier};
use lmfs::blocks::StoreModels;
use lmfs::fs::{Fs, FsOptions, NewInode};
use lmfs::models::ModelError;
use lmfs::store::{Ecc, MkfsOptions, ModelEntry, OpenOptions, Record, Store};
use lmfs::types::{Encoding, Ino};
use proptest::prelude::*;
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, LazyLock};

static BYTES: LazyLock<Vec<u8>> = LazyLock::new(|| {
    tiny::model(lmfs::model::network::Hyper { window: 64, ..tiny::HYPER }).to_bytes()
});
static LM: LazyLock<Arc<Lm>> = LazyLock::new(|| Lm::load(&BYTES).unwrap());

/// The model whatever it saves: a random one saves nothing.
fn always() -> Tier {
    Tier { lm: Some(Arc::clone(&LM)), lm_gain: -1e9, ..Tier::FAST }
}

fn text(bytes: usize) -> Vec<u8> {
    let line = |i: u32| format!("{i} the user-{} logged in from 10.0.0.{}\n", i % 7, i * i % 251);
    (0..).flat_map(|i| line(i).into_bytes()).take(bytes).collect()
}

#[test]
fn a_block_comes_back_with_its_model_only() {
    let plain = text(20_000);
    let coded = block::encode(&plain, None, &always()).unwrap();
    assert_eq!(coded.encoding, Encoding::Lm);
    let len = plain.len() as u32;
    let back = block::decode(coded.encoding, &coded.payload, len, None, Some(&LM)).unwrap();
    assert!(back == plain);
    assert!(block::decode(coded.encoding, &coded.payload, len, None, None).is_err());
}

#[test]
fn short_texts_have_few_lanes() {
    // The unit of 4,096 bytes in 4 lanes: a lane for each 1,024 bytes begun.
    for (len, lanes) in [(1, 1), (1024, 1), (1025, 2), (4096, 4), (20_000, 4)] {
        assert_eq!(LM.lanes_of(len), lanes);
        let coded = block::encode(&text(len.max(300)), None, &always()).unwrap();
        assert_eq!(usize::from(coded.payload[0]), LM.lanes_of(len.max(300)));
    }
}

#[test]
fn a_primer_teaches_the_same_from_its_sample_and_its_payload() {
    let (sample, plain) = (text(10_000), text(30_000)[10_000..].to_vec());
    let (made, stored) = Primer::make(sample, &always()).unwrap();
    assert_eq!(stored.encoding, Encoding::Lm);
    let read = Primer::decode(Encoding::Lm, &stored.payload, 10_000, Some(&LM)).unwrap();
    let coded = block::encode(&plain, Some(&made), &always()).unwrap();
    assert!(coded.primed && coded.encoding == Encoding::Lm);
    let len = plain.len() as u32;
    let back = block::decode(Encoding::Lm, &coded.payload, len, Some(&read), Some(&LM)).unwrap();
    assert!(back == plain);
    // A primer of another vocabulary is an error, not garbage.
    let (other, _) = Primer::make(text(10_000), &Tier::FAST).unwrap();
    assert!(block::decode(Encoding::Lm, &coded.payload, len, Some(&other), Some(&LM)).is_err());
}

#[test]
fn a_model_that_does_not_earn_its_time_is_not_used() {
    // The model is random: what is saved at all, the experts beside it save.
    let tier = Tier { lm: Some(Arc::clone(&LM)), lm_gain: 20.0, ..Tier::FAST };
    assert_eq!(block::encode(&text(20_000), None, &tier).unwrap().encoding, Encoding::Fast);
    assert!(Primer::make(text(20_000), &tier).unwrap().0.lm().is_none());
}

#[test]
fn work_that_is_not_wanted_any_more_ends() {
    let stop = Arc::new(std::sync::atomic::AtomicBool::new(true));
    let lm = Arc::new(LM.until(stop));
    let tier = Tier { lm: Some(lm), ..always() };
    assert!(matches!(block::encode(&text(20_000), None, &tier), Err(BlockError::Stopped)));
}

#[test]
fn known_code() {
    // Golden: a change of this is a change of the numerics or of the code.
    let coded = block::encode(&text(5_000), None, &always()).unwrap();
    let known = "3d629703c3f4400eed0e92581e4cf3a7f9d2d59164859ed9ea85463b53e70a0c";
    assert_eq!(blake3::hash(&coded.payload).to_hex().as_str(), known);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn any_bytes_come_back(plain in prop::collection::vec(any::<u8>(), 0..1500)) {
        let coded = block::encode(&plain, None, &always()).unwrap();
        let len = plain.len() as u32;
        let back = block::decode(coded.encoding, &coded.payload, len, None, Some(&LM)).unwrap();
        prop_assert!(back == plain);
    }

    #[test]
    fn any_payload_is_decoded_or_refused(
        payload in prop::collection::vec(any::<u8>(), 0..300), len in 0..2000_u32,
    ) {
        if let Ok(back) = block::decode(Encoding::Lm, &payload, len, None, Some(&LM)) {
            prop_assert_eq!(back.len(), len as usize);
        }
    }
}

#[test]
fn altered_models_are_refused_or_are_others() {
    // Weights that the golden check does not touch do not change it, but they change the id.
    let (mut refused, mut others) = (0, 0);
    for part in 1..40 {
        let mut bad = BYTES.clone();
        let at = bad.len() * part / 40;
        bad[at] ^= 16;
        match Lm::load(&bad) {
            Err(e) => {
                let e = e.to_string();
                assert!(e.contains("golden check") || e.contains("model file"), "{e}");
                refused += 1;
            }
            Ok(lm) => {
                assert_ne!(lm.id(), LM.id());
                others += 1;
            }
        }
    }
    assert!(refused > others, "{refused} {others}");
}

#[test]
fn a_container_names_its_model() {
    let plain = text(9_000);
    let mut packed = Vec::new();
    container::compress(&mut plain.as_slice(), &mut packed, 4096, &always(), 2).unwrap();
    let mut back = Vec::new();
    container::decompress(
        &mut packed.as_slice(),
        &mut back,
        &|id, name| {
            assert_eq!((*id, name), (LM.id(), "tiny"));
            Ok(Arc::clone(&LM))
        },
        2,
    )
    .unwrap();
    assert!(back == plain);
    let absent = |_: &[u8; 32], name: &str| Err(format!("the model '{name}'"));
    let e = container::decompress(&mut packed.as_slice(), &mut Vec::new(), &absent, 1);
    assert!(matches!(e, Err(ContainerError::Missing(m)) if m.contains("tiny")));
}

fn lmfs(models: &Path, args: &[&str]) -> std::process::Output {
    let program = env!("CARGO_BIN_EXE_lmfs");
    Command::new(program).args(args).env("LMFS_MODELS", models).output().unwrap()
}

fn ok(o: &std::process::Output) -> String {
    assert!(o.status.success(), "{}", String::from_utf8_lossy(&o.stderr));
    String::from_utf8_lossy(&o.stdout).into_owned()
}

fn open(store: &Path) -> Arc<Fs> {
    let options = FsOptions { lm_gain: -1e9, ..FsOptions::default() };
    Fs::open(Store::open(store, &OpenOptions::default()).unwrap(), options).unwrap()
}

fn write_file(fs: &Arc<Fs>, name: &[u8], bytes: &[u8]) -> Ino {
    let new = NewInode::of(libc::S_IFREG | 0o644);
    let ino = fs.make(Ino::ROOT, name, new).unwrap().ino;
    fs.write(ino, 0, bytes, false).unwrap();
    ino
}

#[test]
fn a_store_carries_its_model_and_refuses_a_wrong_one() {
    let dir = tempfile::tempdir().unwrap();
    let (models, store) = (dir.path().join("models"), dir.path().join("store"));
    let file = dir.path().join("tiny.file");
    std::fs::write(&file, &*BYTES).unwrap();
    ok(&lmfs(&models, &["model", "import", file.to_str().unwrap()]));
    let listed = ok(&lmfs(&models, &["model", "list", "--json"]));
    assert!(listed.contains("\"tiny\""), "{listed}");
    let s = store.to_str().unwrap();
    ok(&lmfs(&models, &["mkfs", s, "--model", "tiny"]));
    ok(&lmfs(&models, &["model", "rm", "tiny"]));

    let plain = text(60_000);
    let fs = open(&store);
    let ino = write_file(&fs, b"a", &plain);
    let other = write_file(&fs, b"other", b"\0\x01\x02\x03 not text");
    fs.flush_all().unwrap();
    fs.recoder().settle(None, &mut |_, _| {}).unwrap();
    let codecs = fs.coding(ino).unwrap().codecs;
    assert!(codecs.contains_key("tiny"), "{codecs:?}");
    fs.shutdown().unwrap();
    drop(fs);

    let status = ok(&lmfs(&models, &["status", "--json", s]));
    assert!(status.contains("\"name\": \"tiny\"") && !status.contains("\"frames\": 0"), "{status}");
    let rm = lmfs(&models, &["model", "rm", "tiny", "--store", s]);
    assert!(String::from_utf8_lossy(&rm.stderr).contains("is needed by"));
    let fs = open(&store);
    assert!(fs.read_now(ino, 0, 1 << 20).unwrap() == plain);
    fs.shutdown().unwrap();
    drop(fs);

    // Without the model's file: an error for what it coded, the rest reads.
    let hidden = dir.path().join("hidden");
    std::fs::rename(store.join("models"), &hidden).unwrap();
    std::fs::create_dir(store.join("models")).unwrap();
    let fs = open(&store);
    assert!(fs.read_now(ino, 0, 10).is_err());
    assert!(fs.read_now(other, 4, 9).unwrap() == b" not text");
    let (_, error) = &fs.blocks().models().list().unwrap()[0];
    assert!(error.is_some());
    fs.shutdown().unwrap();
    drop(fs);
    std::fs::remove_dir(store.join("models")).unwrap();
    std::fs::rename(&hidden, store.join("models")).unwrap();

    // To another model, and away with this one.
    let moved = ok(&lmfs(&models, &["recode", s, "--model", "fast", "--json"]));
    assert!(moved.contains("\"blocks\""), "{moved}");
    let fs = open(&store);
    assert!(!fs.coding(ino).unwrap().codecs.contains_key("tiny"));
    assert!(fs.read_now(ino, 0, 1 << 20).unwrap() == plain);
    fs.shutdown().unwrap();
}

/// A model that wants smaller blocks than the store's own gets them.
#[test]
fn files_of_another_model_have_its_blocks_where_those_are_smaller() {
    let dir = tempfile::tempdir().unwrap();
    let (models, store) = (dir.path().join("models"), dir.path().join("store"));
    let file = dir.path().join("tiny.file");
    std::fs::write(&file, &*BYTES).unwrap();
    ok(&lmfs(&models, &["model", "import", file.to_str().unwrap()]));
    let s = store.to_str().unwrap();
    ok(&lmfs(&models, &["mkfs", s, "--model", "fast"]));
    let plain = text(60_000);
    let fs = open(&store);
    let ino = write_file(&fs, b"a", &plain);
    fs.shutdown().unwrap();
    drop(fs);
    for (model, block) in [("tiny", 4096), ("fast", 60_000)] {
        ok(&lmfs(&models, &["recode", s, "--model", model]));
        let fs = open(&store);
        let blocks: Vec<u32> = fs.store().extents(ino).map(|e| e.unwrap().meta.plain_len).collect();
        assert_eq!(blocks.iter().max(), Some(&block), "{model}");
        assert_eq!(blocks.len(), plain.len().div_ceil(block as usize), "{model}");
        assert!(fs.read_now(ino, 0, 1 << 20).unwrap() == plain);
        fs.shutdown().unwrap();
    }
}

/// Frames of another version of the engine are not guessed at.
#[test]
fn a_model_serves_its_version_of_the_engine() {
    let dir = tempfile::tempdir().unwrap();
    let options = MkfsOptions { block_size: None, model: "fast".into(), ecc: Ecc::None };
    Store::create(dir.path(), &options).unwrap();
    let store = Store::open(dir.path(), &OpenOptions::default()).unwrap();
    store.put_model_file(&LM.id(), &BYTES).unwrap();
    let pins = StoreModels::new(Arc::clone(&store), Tier::LM_GAIN);
    for (number, engine) in [(1, ENGINE - 1), (2, ENGINE), (3, ENGINE + 1)] {
        let entry = ModelEntry { number, id: LM.id(), engine, name: "tiny".into() };
        store.append(Record::PutModel(entry).into()).unwrap();
    }
    for number in [1, 3] {
        match pins.lm(number) {
            Err(ModelError::Unusable { reason, .. }) => {
                assert!(reason.contains("engine"), "{reason}");
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(pins.tier("tiny").unwrap().1, 2);
    pins.remove("tiny", None).unwrap();
    assert!(store.model_files().unwrap().is_empty());
    assert!(matches!(pins.remove("tiny", None), Err(ModelError::NotPinned(_))));
}

#[test]
fn an_unknown_model_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path().join("s");
    let o = lmfs(dir.path(), &["mkfs", store.to_str().unwrap(), "--model", "huge"]);
    assert_eq!(o.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&o.stderr).contains("'huge'"));
    assert!(!store.exists());
    let options = MkfsOptions { block_size: None, model: "gone".into(), ecc: Ecc::None };
    Store::create(&store, &options).unwrap();
    let fs = open(&store);
    let ino = write_file(&fs, b"a", &text(9_000));
    fs.flush_all().unwrap();
    assert!(fs.recoder().settle(None, &mut |_, _| {}).is_err());
    assert!(fs.read_now(ino, 0, 1 << 20).unwrap() == text(9_000));
    fs.shutdown().unwrap();
}
