//! Several clients at once on one mount that codes, cleans and scrubs meanwhile. What each does in a tree of its own it
//! does in a local directory as well, and both must answer the same. In a directory where all of them meet, what must
//! hold in any order is checked. Mounted anew, everything is still so. Needs /dev/fuse, and says so.

#![allow(clippy::unwrap_used)]

mod dice;
mod place;
mod program;
mod reference;

use dice::Dice;
use place::Place;
use program::{has_fuse, works};
use reference::{Op, difference};
use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

const CLIENTS: u64 = 4;
/// Files that clients hand to each other by renaming them.
const BALLS: u64 = 3;
/// Bytes of the file that is replaced as a whole.
const WHOLE: usize = 70_000;

fn number(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).ok().and_then(|v| v.parse().ok()).unwrap_or(otherwise)
}

/// The directory where clients meet, and what they count.
struct Meeting<'a> {
    dir: &'a Path,
    /// Names that exactly one client gets to create.
    next_claim: AtomicU64,
    claimed: AtomicU64,
}

impl<'a> Meeting<'a> {
    fn new(dir: &'a Path) -> Self {
        fs::create_dir(dir).unwrap();
        for n in 0..BALLS {
            fs::write(dir.join(format!("ball{n}")), format!("ball {n}")).unwrap();
        }
        fs::write(dir.join("whole"), vec![b'0'; WHOLE]).unwrap();
        Self { dir, next_claim: AtomicU64::new(0), claimed: AtomicU64::new(0) }
    }

    /// A client does something, the `n`-th time. True if it has appended a line.
    fn act(&self, client: u64, n: u64, dice: &mut Dice) -> bool {
        let at = |name: String| self.dir.join(name);
        let what = dice.below(5);
        match what {
            0 => {
                // All of them try the same few names.
                let claim = self.next_claim.load(Ordering::Relaxed);
                match File::create_new(at(format!("claim{claim}"))) {
                    Ok(_) => {
                        self.claimed.fetch_add(1, Ordering::Relaxed);
                        self.next_claim.fetch_max(claim + 1, Ordering::Relaxed);
                    }
                    Err(e) => assert_eq!(e.kind(), ErrorKind::AlreadyExists, "{e}"),
                }
            }
            1 => {
                let (from, to) = (dice.below(BALLS * 3), dice.below(BALLS * 3));
                // Linked and unlinked, it would be there twice for a while; renamed, never.
                if let Err(e) = rename_to_new(&at(format!("ball{from}")), &at(format!("ball{to}")))
                {
                    assert!(
                        matches!(e.kind(), ErrorKind::NotFound | ErrorKind::AlreadyExists),
                        "{e}"
                    );
                }
            }
            2 => {
                let new = at(format!("new{client}"));
                fs::write(&new, vec![b'0' + (n % 10) as u8; WHOLE]).unwrap();
                fs::rename(new, at("whole".into())).unwrap();
            }
            3 => {
                let bytes = fs::read(at("whole".into())).unwrap();
                assert!(bytes.len() == WHOLE && bytes.iter().all(|b| *b == bytes[0]), "torn");
            }
            _ => {
                let mut log =
                    OpenOptions::new().append(true).create(true).open(at("log".into())).unwrap();
                log.write_all(format!("{client} {n:06} of client {client}\n").as_bytes()).unwrap();
            }
        }
        what == 4
    }

    /// What must hold when all are done: `appended` lines of each client, in its order.
    fn check(&self, appended: &[Vec<u64>]) {
        let log = fs::read_to_string(self.dir.join("log")).unwrap_or_default();
        let mut lines: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
        for line in log.lines() {
            let mut words = line.split(' ');
            let mut word = || words.next().unwrap().parse::<u64>().unwrap();
            let (client, n) = (word(), word());
            assert_eq!(line, format!("{client} {n:06} of client {client}"));
            lines.entry(client).or_default().push(n);
        }
        for (client, all) in (0..).zip(appended) {
            assert_eq!(lines.get(&client).unwrap_or(&Vec::new()), all, "client {client}");
        }
        let mut balls: Vec<String> = Vec::new();
        let mut claims = 0;
        for entry in fs::read_dir(self.dir).unwrap().map(Result::unwrap) {
            let name = entry.file_name().into_string().unwrap();
            claims += u64::from(name.starts_with("claim"));
            if name.starts_with("ball") {
                balls.push(fs::read_to_string(entry.path()).unwrap());
            }
        }
        balls.sort_unstable();
        assert_eq!(balls, (0..BALLS).map(|n| format!("ball {n}")).collect::<Vec<_>>());
        assert_eq!(claims, self.claimed.load(Ordering::Relaxed));
    }
}

fn rename_to_new(from: &Path, to: &Path) -> std::io::Result<()> {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    Ok(renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE)?)
}

/// One client: what it does alone, on both sides, and between that what it does among the others. Returns the
/// numbers of the lines it appended.
fn client(c: u64, seed: u64, acts: u64, [here, there]: [&Path; 2], meeting: &Meeting) -> Vec<u64> {
    let mut dice = Dice(seed * 1_000_003 + c * 7919 + 1);
    let mut appended = Vec::new();
    for n in 0..acts {
        let op = Op::any(&mut dice);
        let answers = [here, there].map(|root| op.run(root).map_err(|e| e.raw_os_error()));
        let [ours, theirs] = &answers;
        assert!(ours == theirs, "client {c}, act {n}, {}: {}", short(&op), told(&answers));
        if dice.below(2) == 0 && meeting.act(c, n, &mut dice) {
            appended.push(n);
        }
    }
    appended
}

fn short(op: &Op) -> String {
    format!("{op:?}").chars().take(120).collect()
}

fn told(answers: &[Result<Vec<u8>, Option<i32>>; 2]) -> String {
    let [ours, theirs] = answers.each_ref().map(|a| match a {
        Ok(bytes) if bytes.len() < 200 => String::from_utf8_lossy(bytes).into_owned(),
        Ok(bytes) => format!("{} bytes", bytes.len()),
        Err(e) => format!("error {e:?}"),
    });
    format!("{ours:?} instead of {theirs:?}")
}

fn run(seed: u64, acts: u64) {
    let p = Place::new();
    let (store, mnt) = (p.text("s"), p.text("mnt"));
    works(&["-q", "mkfs", &store, "--model", "fast", "--block-size", "32K"]);
    let mount = || works(&["-q", "mount", &store, &mnt, "-o", "rest=0.2,commit=1,cache=4M"]);
    mount();
    let trees = |c: u64| [p.path(&format!("mnt/{c}")), p.path(&format!("local{c}"))];
    (0..CLIENTS).flat_map(trees).for_each(|tree| fs::create_dir(tree).unwrap());
    let shared = p.path("mnt/shared");
    let meeting = Meeting::new(&shared);
    let over = AtomicBool::new(false);
    let appended = thread::scope(|scope| {
        let host = scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                for command in ["settle", "gc", "scrub"] {
                    works(&["-q", command, &mnt]);
                }
                thread::sleep(Duration::from_millis(100));
            }
        });
        let clients: Vec<_> = (0..CLIENTS)
            .map(|c| {
                let meeting = &meeting;
                let trees = trees(c);
                scope.spawn(move || {
                    client(c, seed, acts, trees.each_ref().map(PathBuf::as_path), meeting)
                })
            })
            .collect();
        let appended = clients.into_iter().map(thread::ScopedJoinHandle::join).collect::<Vec<_>>();
        over.store(true, Ordering::Relaxed);
        host.join().unwrap();
        appended.into_iter().map(Result::unwrap).collect::<Vec<_>>()
    });
    let check = || {
        for c in 0..CLIENTS {
            let [ours, theirs] = trees(c);
            assert_eq!(difference(&ours, &theirs).unwrap(), None, "seed {seed}");
        }
        meeting.check(&appended);
    };
    check();
    works(&["-q", "umount", &mnt]);
    works(&["-q", "fsck", &store]);
    mount();
    check();
    works(&["-q", "umount", &mnt]);
}

/// `LMFS_CLIENTS_SEEDS` so many times, from `LMFS_CLIENTS_FIRST` on.
#[test]
fn clients_at_once_see_what_each_would_see_alone() {
    if has_fuse() {
        let first = number("LMFS_CLIENTS_FIRST", 1);
        for seed in first..first + number("LMFS_CLIENTS_SEEDS", 1) {
            run(seed, number("LMFS_CLIENTS_ACTS", 400));
        }
    }
}
