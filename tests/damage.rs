//! Damage to a store that was left cleanly: what is hit, what comes back.
//!
//! `cargo test --test damage` runs a few trials of each kind; `LMFS_DAMAGE_TRIALS=150` as many of
//! each, `LMFS_DAMAGE_SEED` chooses others. `-- --nocapture` shows the table.

#![allow(clippy::unwrap_used)]

mod dice;

use dice::Dice;
use lmfs::fs::{Fs, FsOptions, NewInode};
use lmfs::recode::RecodeOptions;
use lmfs::store::{Ecc, MkfsOptions, ModelId, OpenOptions, Store};
use lmfs::types::{Encoding, Ino};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

fn options() -> FsOptions {
    let day = std::time::Duration::from_secs(86_400);
    let recode = RecodeOptions { rest: day, threads: 1, enabled: false };
    FsOptions { commit: day, recode, ..FsOptions::default() }
}

/// Memory if there is a file system in it: trials copy a store each.
fn scratch() -> tempfile::TempDir {
    let shm = Path::new("/dev/shm");
    let made = if shm.is_dir() { tempfile::tempdir_in(shm) } else { tempfile::tempdir() };
    made.unwrap()
}

fn log_text(dice: &mut Dice, len: usize) -> Vec<u8> {
    let words = ["connection", "closed", "by", "peer", "timeout", "retry", "block", "served"];
    let mut out = String::new();
    let mut t = 1_700_000_000;
    while out.len() < len {
        t += dice.below(5);
        let _ = write!(out, "{t} node{:02} ", dice.below(40));
        for _ in 0..3 + dice.below(6) {
            out.push_str(words[dice.below(8) as usize]);
            out.push(' ');
        }
        let _ = writeln!(out, "id={:x}", dice.below(1 << 30));
    }
    out.truncate(len);
    out.into_bytes()
}

fn noise(dice: &mut Dice, len: usize) -> Vec<u8> {
    (0..len).map(|_| dice.next() as u8).collect()
}

/// What a store holds, down to the stored payloads.
#[derive(Debug, PartialEq)]
struct Contents {
    /// Path to inode, size and mode.
    names: BTreeMap<String, (u64, u64, u32)>,
    /// Inode and offset to length and BLAKE3 of the frame's payload.
    extents: BTreeMap<(u64, u64), (u64, [u8; 32])>,
    models: BTreeMap<ModelId, [u8; 32]>,
}

/// What can be read; whatever cannot is told in `errors`.
fn contents(store: &Store, errors: &mut Vec<String>) -> Contents {
    let mut out =
        Contents { names: BTreeMap::new(), extents: BTreeMap::new(), models: BTreeMap::new() };
    let mut stack = vec![(Ino::ROOT, String::new())];
    while let Some((dir, path)) = stack.pop() {
        for d in store.dirents(dir, 0, usize::MAX).unwrap() {
            let path = format!("{path}/{}", String::from_utf8_lossy(&d.name));
            let Some(attr) = store.inode(d.ino).unwrap() else {
                errors.push(format!("{path}: no inode"));
                continue;
            };
            out.names.insert(path.clone(), (d.ino.0, attr.size, attr.mode));
            if attr.is_dir() {
                stack.push((d.ino, path.clone()));
            }
            for e in store.extents_in(d.ino, 0, u64::MAX).unwrap() {
                match store.read_frame(e.frame) {
                    Ok(f) => {
                        let hash = *blake3::hash(&f.payload).as_bytes();
                        out.extents.insert((d.ino.0, e.off), (e.len, hash));
                    }
                    Err(e) => errors.push(format!("{path}: {e}")),
                }
            }
        }
    }
    for id in store.model_files().unwrap() {
        match store.model_file(&id) {
            Ok(bytes) => drop(out.models.insert(id, *blake3::hash(&bytes).as_bytes())),
            Err(e) => errors.push(e.to_string()),
        }
    }
    out
}

/// True if nothing in `now` contradicts what was; parts may be missing.
fn nothing_wrong(was: &Contents, now: &Contents) -> bool {
    now.extents.iter().all(|(k, v)| was.extents.get(k).is_none_or(|w| w == v))
        && now.models.iter().all(|(k, v)| was.models.get(k) == Some(v))
        && now.names.iter().all(|(k, v)| was.names.get(k).is_none_or(|w| w == v))
}

/// Decodes every file and hashes its bytes.
fn plaintexts(fs: &Arc<Fs>, names: &Contents) -> BTreeMap<u64, Option<[u8; 32]>> {
    let files = names.names.values().filter(|(_, _, mode)| mode & libc::S_IFMT == libc::S_IFREG);
    let read = |(ino, size, _): &(u64, u64, u32)| {
        let bytes = fs.read_now(Ino(*ino), 0, *size).ok();
        (*ino, bytes.map(|b| *blake3::hash(&b).as_bytes()))
    };
    files.map(read).collect()
}

/// A store of several segments with coded, staged and incompressible data, a model and a used tail.
fn build(dir: &Path, ecc: Ecc) -> (Contents, BTreeMap<u64, Option<[u8; 32]>>) {
    Store::create(dir, &MkfsOptions { block_size: None, model: "fast".into(), ecc }).unwrap();
    let open = || Store::open(dir, &OpenOptions::default()).unwrap();
    let fs = Fs::open(open(), options()).unwrap();
    let mut dice = Dice(77);
    let reg = NewInode::of(libc::S_IFREG | 0o644);
    let write = |dir: Ino, name: &str, bytes: &[u8]| {
        let ino = fs.make(dir, name.as_bytes(), reg).unwrap().ino;
        fs.write(ino, 0, bytes, false).unwrap();
    };
    let d = NewInode { mode: libc::S_IFDIR | 0o755, ..reg };
    for n in 0..6 {
        let sub = fs.make(Ino::ROOT, format!("dir{n}").as_bytes(), d).unwrap().ino;
        for m in 0..20 {
            let len = 200 + dice.below(2000) as usize;
            write(sub, &format!("small{m}"), &log_text(&mut dice, len));
        }
        write(sub, "log", &log_text(&mut dice, 20_000));
        write(sub, "noise", &noise(&mut dice, 200_000));
    }
    fs.flush_all().unwrap();
    fs.recoder().settle(None, &mut |_, _| {}).unwrap();
    // Seals what there is and begins another segment.
    fs.store().clean(0).unwrap();
    write(Ino::ROOT, "more", &log_text(&mut dice, 30_000));
    write(Ino::ROOT, "more noise", &noise(&mut dice, 500_000));
    fs.flush_all().unwrap();
    fs.store().renew_checkpoint().unwrap();
    write(Ino::ROOT, "tail", &log_text(&mut dice, 60_000));
    write(Ino::ROOT, "tail noise", &noise(&mut dice, 300_000));
    let model = noise(&mut dice, 700_000);
    fs.store().put_model_file(blake3::hash(&model).as_bytes(), &model).unwrap();
    fs.shutdown().unwrap();
    drop(fs);
    let fs = Fs::open(open(), options()).unwrap();
    let mut errors = Vec::new();
    let all = contents(fs.store(), &mut errors);
    assert!(errors.is_empty(), "{errors:?}");
    let coded = all.names.values().any(|(ino, ..)| {
        let extents = fs.store().extents_in(Ino(*ino), 0, u64::MAX).unwrap();
        extents.iter().any(|e| e.meta.encoding == Encoding::Fast)
    });
    assert!(coded && all.names.len() > 130 && all.models.len() == 1);
    let plain = plaintexts(&fs, &all);
    fs.shutdown().unwrap();
    (all, plain)
}

/// All files below a directory, with their lengths.
fn files(dir: &Path, out: &mut Vec<(PathBuf, u64)>) {
    let mut entries: Vec<_> = std::fs::read_dir(dir).unwrap().map(Result::unwrap).collect();
    entries.sort_by_key(std::fs::DirEntry::path);
    for e in entries {
        let m = e.metadata().unwrap();
        if m.is_dir() {
            files(&e.path(), out);
        } else {
            out.push((e.path(), m.len()));
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Damage {
    FlipOne,
    FlipMany,
    Zero(u64),
    /// So many pages of one segment, anywhere in it.
    Pages(usize),
    CutIndex,
    DropIndex,
}

const DAMAGES: [Damage; 9] = [
    Damage::FlipOne,
    Damage::FlipMany,
    Damage::Zero(512),
    Damage::Zero(4096),
    Damage::Zero(64 << 10),
    Damage::Pages(16),
    Damage::Zero(1 << 20),
    Damage::CutIndex,
    Damage::DropIndex,
];

impl Damage {
    /// True if a level promises that nothing is lost.
    fn is_covered(self, ecc: Ecc) -> bool {
        match self {
            Self::CutIndex | Self::DropIndex => true,
            Self::Pages(_) | Self::Zero(0x10_0000) => ecc == Ecc::Archival,
            _ => ecc != Ecc::None,
        }
    }
}

fn change(path: &Path, hit: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = std::fs::read(path).unwrap();
    hit(&mut bytes);
    std::fs::write(path, bytes).unwrap();
}

/// Hits a store somewhere; says where.
fn hurt(store: &Path, damage: Damage, dice: &mut Dice) -> String {
    let mut all = Vec::new();
    files(store, &mut all);
    let index = |p: &Path| p.strip_prefix(store).unwrap().to_str().unwrap().starts_with("index");
    if matches!(damage, Damage::CutIndex | Damage::DropIndex) {
        all.retain(|(p, _)| index(p));
        let (path, len) = all[dice.below(all.len() as u64) as usize].clone();
        if damage == Damage::DropIndex {
            std::fs::remove_file(&path).unwrap();
        } else {
            let keep = dice.below(len) as usize;
            change(&path, |b| b.truncate(keep));
        }
        return format!("{}", path.display());
    }
    if let Damage::Pages(n) = damage {
        all.retain(|(p, _)| p.extension().is_some_and(|e| e == "seg"));
        let (path, len) = all[dice.below(all.len() as u64) as usize].clone();
        let pages: Vec<usize> = (0..n).map(|_| dice.below(len.div_ceil(4096)) as usize).collect();
        change(&path, |b| {
            for p in &pages {
                let end = ((p + 1) * 4096).min(b.len());
                b[p * 4096..end].fill(0);
            }
        });
        return format!("{} pages {pages:?}", path.display());
    }
    let total: u64 = all.iter().map(|(_, n)| n).sum();
    let place = |dice: &mut Dice| {
        let mut at = dice.below(total);
        for (path, len) in &all {
            if at < *len {
                return (path.clone(), at, *len);
            }
            at -= len;
        }
        unreachable!()
    };
    let (path, at, len) = place(dice);
    match damage {
        Damage::FlipMany => {
            for _ in 0..total.div_ceil(1 << 16) {
                let (path, at, _) = place(dice);
                let bit = dice.below(8);
                change(&path, |b| b[at as usize] ^= 1 << bit);
            }
        }
        Damage::Zero(n) => {
            // A page is aligned as the medium has it; other runs begin anywhere.
            let at = if n == 4096 { at / n * n } else { at };
            let end = (at + n).min(len);
            change(&path, |b| b[at as usize..end as usize].fill(0));
        }
        _ => {
            let bit = dice.below(8);
            change(&path, |b| b[at as usize] ^= 1 << bit);
        }
    }
    format!("{} at {at}", path.display())
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir(to).unwrap();
    for e in std::fs::read_dir(from).unwrap().map(Result::unwrap) {
        let to = to.join(e.file_name());
        if e.file_type().unwrap().is_dir() {
            copy(&e.path(), &to);
        } else {
            std::fs::copy(e.path(), to).unwrap();
        }
    }
}

/// Scrubs with repair; true if nothing that lives is beyond repair.
fn scrub(store: &Store) -> bool {
    store.check_superblocks(true).unwrap();
    let models = store.model_files().unwrap();
    let mut whole = models.iter().all(|id| store.check_model_file(id, true).is_ok());
    let mut log_lost = false;
    for number in store.segment_numbers() {
        let c = store.check_segment(number, true).unwrap();
        whole &= c.lost.is_empty();
        log_lost |= c.log_lost;
    }
    if log_lost {
        store.renew_checkpoint().unwrap();
    }
    whole
}

/// True if a scrub finds nothing at all.
fn is_clean(store: &Store) -> bool {
    let models = store.model_files().unwrap();
    let clean = |n: &u32| {
        let c = store.check_segment(*n, false).unwrap();
        !c.checked.damaged && c.lost.is_empty()
    };
    store.check_superblocks(false).unwrap() == 0
        && models.iter().all(|id| store.check_model_file(id, false).is_ok_and(|c| !c.damaged))
        && store.segment_numbers().iter().all(clean)
}

#[derive(Debug, Default, Clone, Copy)]
struct Tally {
    trials: u32,
    restored: u32,
    /// Of the restored, without a scrub.
    at_once: u32,
    wrong: u32,
    decoded: u32,
}

#[test]
fn damage_is_repaired_and_never_returned() {
    let number = |name: &str, default: u64| {
        std::env::var(name).ok().and_then(|v| v.parse().ok()).unwrap_or(default)
    };
    let trials = number("LMFS_DAMAGE_TRIALS", 6);
    let seed = number("LMFS_DAMAGE_SEED", 1);
    let mut table = format!("{trials} trials each, seed {seed}: restored (without a scrub)\n\n");
    table.push_str("| damage | none | standard | archival |\n|---|---|---|---|\n");
    println!("{table}");
    let levels = [Ecc::None, Ecc::Standard, Ecc::Archival];
    let base = scratch();
    let stores: Vec<_> = levels
        .iter()
        .map(|ecc| {
            let dir = base.path().join(format!("{ecc:?}"));
            let expected = build(&dir, *ecc);
            (dir, expected)
        })
        .collect();
    let mut failures = Vec::new();
    let (mut decoded, mut wrong) = (0, 0);
    for damage in DAMAGES {
        let mut row = format!("| {damage:?} |");
        for (ecc, (from, (expected, plain))) in levels.iter().zip(&stores) {
            let mut t = Tally::default();
            for trial in 0..trials {
                let mut dice = Dice((seed << 32 | trial << 8 | *ecc as u64) * 2 + 1);
                for _ in 0..10 {
                    dice.next();
                }
                let place = scratch();
                let dir = place.path().join("s");
                copy(from, &dir);
                let what = hurt(&dir, damage, &mut dice);
                t.trials += 1;
                let Ok(store) = Store::open(&dir, &OpenOptions::default()) else {
                    if damage.is_covered(*ecc) {
                        failures.push(format!("{damage:?} {ecc:?} {what}: does not open"));
                    }
                    continue;
                };
                let mut errors = Vec::new();
                let mut now = contents(&store, &mut errors);
                t.wrong += u32::from(!nothing_wrong(expected, &now));
                let at_once = errors.is_empty() && now == *expected;
                let whole = scrub(&store);
                errors.clear();
                now = contents(&store, &mut errors);
                t.wrong += u32::from(!nothing_wrong(expected, &now));
                let restored = whole && errors.is_empty() && now == *expected;
                if restored && !is_clean(&store) {
                    failures.push(format!("{damage:?} {ecc:?} {what}: not clean after a scrub"));
                }
                // Some are decoded as well.
                if trial % 30 == 0 {
                    let fs = Fs::open(Arc::clone(&store), options()).unwrap();
                    for (ino, hash) in plaintexts(&fs, expected) {
                        let good = hash.is_none() || hash == plain[&ino];
                        t.wrong += u32::from(!good);
                        if restored && hash != plain[&ino] {
                            failures.push(format!("{damage:?} {ecc:?} {what}: {ino} unreadable"));
                        }
                    }
                    t.decoded += 1;
                }
                t.restored += u32::from(restored);
                t.at_once += u32::from(restored && at_once);
                if !restored && damage.is_covered(*ecc) {
                    failures.push(format!("{damage:?} {ecc:?} {what}: {:?}", errors.first()));
                }
                store.close().unwrap();
            }
            let _ = write!(row, " {}/{} ({}) |", t.restored, t.trials, t.at_once);
            if t.wrong > 0 {
                failures.push(format!("{damage:?} {ecc:?}: {} wrong answers", t.wrong));
            }
            decoded += t.decoded;
            wrong += t.wrong;
        }
        println!("{row}");
        table.push_str(&row);
        table.push('\n');
    }
    println!("{decoded} trials decoded all files; {wrong} trials returned wrong bytes");
    assert!(decoded > 0 && failures.is_empty(), "{}\n{table}", failures.join("\n"));
}
