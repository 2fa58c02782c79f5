//! The model files of a store: removed when nothing needs them, missed when something does, and put
//! back from the program or the registry. And a store that could not be made.

#![allow(clippy::unwrap_used)]

mod place;

use place::Place;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

struct Store {
    place: Place,
}

impl Store {
    fn new(model: &str) -> Self {
        let s = Self { place: Place::new() };
        s.imported();
        s.works(&["-q", "mkfs", &s.path(), "--model", model]);
        s
    }

    fn path(&self) -> String {
        self.place.text("s")
    }

    /// A small model in a registry of this store's own.
    fn imported(&self) {
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/tiny.model");
        self.works(&["-q", "model", "import", file, "--name", "tiny"]);
    }

    fn run(&self, args: &[&str]) -> Output {
        let models = self.place.path("models");
        Command::new(env!("CARGO_BIN_EXE_lmfs"))
            .env("LMFS_MODELS", models)
            .args(args)
            .output()
            .unwrap()
    }

    fn code(&self, args: &[&str]) -> (i32, String) {
        let out = self.run(args);
        let all = [out.stdout, out.stderr].concat();
        (out.status.code().unwrap(), String::from_utf8_lossy(&all).into_owned())
    }

    fn works(&self, args: &[&str]) -> String {
        let (code, said) = self.code(args);
        assert_eq!(code, 0, "{args:?}: {said}");
        said
    }

    /// The store's model files, without their sidecars.
    fn files(&self) -> Vec<PathBuf> {
        let dir = self.place.path("s/models");
        let all = std::fs::read_dir(dir).into_iter().flatten().flatten().map(|e| e.path());
        all.filter(|p| p.extension().is_some_and(|e| e == "lmm")).collect()
    }

    /// Takes a model out of the registry.
    fn forget(&self) {
        std::fs::remove_dir_all(self.place.path("models")).unwrap();
    }
}

#[test]
fn a_model_that_nothing_needs_goes() {
    let s = Store::new("base");
    assert_eq!(s.files().len(), 1);
    let (code, said) = s.code(&["model", "rm", "base", "--store", &s.path()]);
    assert!(code == 1 && said.contains("written to /"), "{said}");
    s.works(&["-q", "recode", &s.path(), "--model", "fast"]);
    s.works(&["model", "rm", "base", "--store", &s.path()]);
    assert!(s.files().is_empty());
    // It is not missed.
    for command in ["scrub", "fsck"] {
        s.works(&[command, &s.path()]);
    }
    let (code, said) = s.code(&["model", "rm", "base", "--store", &s.path()]);
    assert!(code == 1 && said.contains("no model 'base'"), "{said}");
    // And comes back when it is asked for.
    s.works(&["-q", "recode", &s.path(), "--model", "base"]);
    assert_eq!(s.files().len(), 1);
}

#[test]
fn missing_and_damaged_model_files_are_found_and_put_back() {
    for model in ["base", "tiny"] {
        let s = Store::new(model);
        let file = s.files().remove(0);
        let whole = std::fs::read(&file).unwrap();
        let side = file.with_extension("par");
        let spoil: [(&str, &dyn Fn()); 3] = [
            ("missing", &|| {
                std::fs::remove_file(&file).unwrap();
                std::fs::remove_file(&side).unwrap();
            }),
            ("damaged", &|| {
                std::fs::write(&file, vec![7; whole.len()]).unwrap();
                std::fs::write(&side, vec![7; 5000]).unwrap();
            }),
            ("all gone", &|| std::fs::remove_dir_all(s.place.path("s/models")).unwrap()),
        ];
        for (how, spoil) in spoil {
            for command in ["scrub", "fsck"] {
                spoil();
                let here = format!("{model} {how} {command}");
                let (code, said) = s.code(&[command, &s.path()]);
                assert_eq!(code, 4, "{here}: {said}");
                let (code, said) = s.code(&[command, &s.path(), "--repair"]);
                assert_eq!(code, 1, "{here}: {said}");
                assert!(std::fs::read(&file).unwrap() == whole, "{here}");
                let (code, said) = s.code(&[command, &s.path()]);
                assert_eq!(code, 0, "{here}: {said}");
            }
        }
    }
}

#[test]
fn a_model_file_that_is_nowhere_is_named() {
    let s = Store::new("tiny");
    let file = s.files().remove(0);
    s.forget();
    std::fs::remove_file(&file).unwrap();
    let id = file.file_stem().unwrap().to_str().unwrap().to_owned();
    for command in ["scrub", "fsck"] {
        let (code, said) = s.code(&[command, &s.path(), "--repair"]);
        assert_eq!(code, 4, "{said}");
        assert!(said.contains(&id) && said.contains("tiny") && said.contains("import"), "{said}");
    }
    s.imported();
    assert_eq!(s.code(&["scrub", &s.path(), "--repair"]).0, 1);
    assert_eq!(s.code(&["scrub", &s.path()]).0, 0);
}

/// A small disk, until it is dropped.
struct Disk(PathBuf);

impl Disk {
    fn new(dir: &Path, size: &str) -> Option<Self> {
        std::fs::create_dir(dir).unwrap();
        let size = format!("size={size}");
        let mounted =
            Command::new("mount").args(["-t", "tmpfs", "-o", &size, "none"]).arg(dir).output();
        mounted.is_ok_and(|o| o.status.success()).then(|| Self(dir.to_owned()))
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).output();
    }
}

#[test]
fn a_failed_mkfs_leaves_nothing_behind() {
    use std::os::unix::fs::PermissionsExt;
    let s = Store::new("fast");
    let Some(disk) = Disk::new(&s.place.path("disk"), "8M") else {
        println!("skipped: no tmpfs can be mounted");
        return;
    };
    let (new, there) = (disk.0.join("new"), disk.0.join("there"));
    std::fs::create_dir(&there).unwrap();
    std::fs::set_permissions(&there, PermissionsExt::from_mode(0o751)).unwrap();
    for command in ["mkfs", "up"] {
        for store in [&new, &there] {
            let mnt = s.place.text("mnt");
            let mut args = vec![command, store.to_str().unwrap()];
            args.extend((command == "up").then_some(mnt.as_str()));
            let (code, said) = s.code(&args);
            assert!(code == 1 && said.contains("o space"), "{said}");
        }
        assert!(!new.exists());
        assert_eq!(std::fs::read_dir(&there).unwrap().count(), 0);
        assert_eq!(there.metadata().unwrap().permissions().mode() & 0o7777, 0o751);
    }
    // What is not empty is nobody's failure.
    std::fs::create_dir(there.join("segments")).unwrap();
    assert_eq!(s.code(&["mkfs", there.to_str().unwrap()]).0, 1);
    assert!(there.join("segments").exists());
}
