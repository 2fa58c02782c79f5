//! Whatever becomes of the index, the store opens with all that the log has, and an index again.

use super::*;
use std::path::PathBuf;

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for e in std::fs::read_dir(from).unwrap().map(std::result::Result::unwrap) {
        let to = to.join(e.file_name());
        if e.file_type().unwrap().is_dir() {
            copy(&e.path(), &to);
        } else {
            std::fs::copy(e.path(), to).unwrap();
        }
    }
}

/// Files below a directory, relative to it.
fn files(dir: &Path, below: &Path, out: &mut Vec<PathBuf>) {
    for e in std::fs::read_dir(dir.join(below)).unwrap().map(std::result::Result::unwrap) {
        let path = below.join(e.file_name());
        if e.file_type().unwrap().is_dir() {
            files(dir, &path, out);
        } else {
            out.push(path);
        }
    }
}

/// A store left cleanly, and its index as it was at an unmount before.
struct Left {
    dir: tempfile::TempDir,
    older: tempfile::TempDir,
}

fn left() -> Left {
    let dir = made();
    let store = open(dir.path());
    for n in 0..200u32 {
        let ino = create(&store, n.to_string().as_bytes()).unwrap();
        write(&store, ino, 0, &[n as u8; 300]).unwrap();
    }
    store.close().unwrap();
    drop(store);
    let older = tempfile::tempdir().unwrap();
    copy(&dir.path().join("index"), older.path());
    let store = open(dir.path());
    let ino = store.dirent(Ino::ROOT, b"7").unwrap().unwrap().ino;
    write(&store, ino, 0, b"newer").unwrap();
    let ops = vec![Record::DelDirent { parent: Ino::ROOT, name: b"8".to_vec() }];
    store.append(ops.into()).unwrap();
    store.close().unwrap();
    Left { dir, older }
}

#[test]
fn an_index_that_has_grown_is_small_again_after_an_unmount() {
    let dir = made();
    let store = open(dir.path());
    let inos: Vec<Ino> =
        (0..100u32).map(|n| create(&store, n.to_string().as_bytes()).unwrap()).collect();
    let size = || {
        let mut all = Vec::new();
        files(dir.path(), Path::new(""), &mut all);
        let index = all.iter().filter(|p| p.starts_with("index") || p.starts_with("index.1"));
        index.map(|p| dir.path().join(p).metadata().unwrap().len()).sum::<u64>()
    };
    for round in 0..200 {
        for (ino, n) in inos.iter().zip(0u8..) {
            let value = blake3::hash(&[round, n]).as_bytes().repeat(20);
            store.append(Record::PutXattr(*ino, b"user.x".to_vec(), value).into()).unwrap();
        }
        store.sync().unwrap();
        while flusher::step(&store) > 0 {}
    }
    for ino in &inos {
        store.append(Record::DelXattr(*ino, b"user.x".to_vec()).into()).unwrap();
    }
    store.sync().unwrap();
    while flusher::step(&store) > 0 {}
    let before = size();
    store.close().unwrap();
    drop(store);
    let after = size();
    assert!(before > 3 << 20 && after < 1 << 20, "{before} {after}");
    let store = open(dir.path());
    assert!(!store.index_was_rebuilt());
    assert_eq!(names(&store).len(), 100);
    assert!(inos.iter().all(|ino| store.inode(*ino).unwrap().is_some()));
    store.close().unwrap();
}

/// Opens and looks; true if the index had to be made anew. The next mount has one.
fn comes_up(dir: &Path, here: &str) -> bool {
    let look = || {
        let store = open(dir);
        assert_eq!(names(&store).len(), 199, "{here}");
        assert_eq!(store.dirent(Ino::ROOT, b"8").unwrap(), None, "{here}");
        let ino = store.dirent(Ino::ROOT, b"7").unwrap().unwrap().ino;
        assert!(contents(&store, ino, 6).unwrap() == *b"newer\x07", "{here}");
        let rebuilt = store.index_was_rebuilt();
        store.close().unwrap();
        rebuilt
    };
    let rebuilt = look();
    assert!(!look(), "{here}: no index at the second mount");
    rebuilt
}

#[test]
fn any_damage_to_the_index_is_noticed_and_it_is_made_anew() {
    let left = left();
    let mut all = Vec::new();
    files(&left.dir.path().join("index"), Path::new(""), &mut all);
    assert!(all.len() >= 2, "{all:?}");
    let mut tried = 0;
    let mut with = |what: &str, noticed: bool, hurt: &dyn Fn(&Path)| {
        let place = tempfile::tempdir().unwrap();
        let dir = place.path().join("s");
        copy(left.dir.path(), &dir);
        hurt(&dir.join("index"));
        assert_eq!(comes_up(&dir, what), noticed, "{what}");
        tried += 1;
    };
    let change = |path: &Path, f: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = std::fs::read(path).unwrap();
        f(&mut bytes);
        std::fs::write(path, bytes).unwrap();
    };
    with("nothing", false, &|_| {});
    for file in &all {
        let name = file.display();
        let older = left.older.path().join(file);
        let at = |index: &Path| index.join(file);
        let len = std::fs::metadata(left.dir.path().join("index").join(file)).unwrap().len();
        with(&format!("{name} deleted"), true, &|i| std::fs::remove_file(at(i)).unwrap());
        if len > 0 {
            with(&format!("{name} cut"), true, &|i| change(&at(i), &|b| b.truncate(b.len() / 2)));
            for place in [0, len as usize / 3, len as usize - 1] {
                let flip = |b: &mut Vec<u8>| b[place] ^= 1;
                with(&format!("{name} flipped at {place}"), true, &|i| change(&at(i), &flip));
            }
        }
        with(&format!("{name} longer"), true, &|i| change(&at(i), &|b| b.push(0)));
        if older.exists()
            && std::fs::read(&older).unwrap()
                != std::fs::read(at(&left.dir.path().join("index"))).unwrap()
        {
            with(&format!("{name} rolled back"), true, &|i| {
                std::fs::copy(&older, at(i)).unwrap();
            });
        }
    }
    with("all rolled back", true, &|i| {
        std::fs::remove_dir_all(i).unwrap();
        copy(left.older.path(), i);
    });
    with("deleted", true, &|i| std::fs::remove_dir_all(i).unwrap());
    with("empty", true, &|i| {
        std::fs::remove_dir_all(i).unwrap();
        std::fs::create_dir(i).unwrap();
    });
    with("a file", true, &|i| {
        std::fs::remove_dir_all(i).unwrap();
        std::fs::write(i, "x").unwrap();
    });
    // A foreign file that nobody writes to: opening it would wait for ever.
    with("a pipe in it", true, &|i| {
        let made = std::process::Command::new("mkfifo").arg(i.join("zz")).status().unwrap();
        assert!(made.success());
    });
    with("a link elsewhere", true, &|i| {
        std::fs::rename(i, i.with_file_name("elsewhere")).unwrap();
        std::os::unix::fs::symlink("elsewhere", i).unwrap();
    });
    assert!(tried > 15, "{tried}");
}

#[test]
fn an_index_whose_opening_hangs_is_left_alone() {
    let left = left();
    let index = left.dir.path().join("index");
    *lock(&crate::store::index::disk::HANGS) = Some(index.clone());
    let began = std::time::Instant::now();
    assert!(comes_up(left.dir.path(), "hanging"));
    assert!(began.elapsed().as_secs() < 60);
    *lock(&crate::store::index::disk::HANGS) = None;
    // Whoever hangs may still wake up: nobody uses its directory again.
    assert!(!index.exists() && left.dir.path().join("index.1").exists());
}

#[test]
fn an_index_from_elsewhere_is_not_opened() {
    let left = left();
    for (len, place) in [(32, 9), (5, 0), (0, 0)] {
        let dir = tempfile::tempdir().unwrap();
        copy(left.dir.path(), dir.path());
        let (index, seal) = (dir.path().join("index"), dir.path().join("index.seal"));
        let mut bytes = std::fs::read(&seal).unwrap();
        assert_eq!(bytes.len(), 32);
        bytes.truncate(len);
        bytes.iter_mut().skip(place).for_each(|b| *b ^= 1);
        std::fs::write(&seal, bytes).unwrap();
        assert!(!comes_up(dir.path(), "foreign"), "it is not damaged");
        assert!(!index.exists() && dir.path().join("index.1").exists());
    }
}
