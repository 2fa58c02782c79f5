//! `lmfs ls`.

use super::super::{FAILED, Failure, Outcome};
use super::{Tree, relative, tree};
use crate::types::{Attr, Time};
use std::io::{self, IsTerminal, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// Arguments.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The store, or where it is mounted
    #[arg(value_name = "STORE|DIR", value_hint = clap::ValueHint::DirPath)]
    at: PathBuf,
    /// What to list, relative to the archive's root
    #[arg(value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// Mode, links, owner, group, size and time of last change (UTC) too
    #[arg(short)]
    long: bool,
    /// Directories with all below them
    #[arg(short = 'R')]
    recursive: bool,
}

/// Runs it.
pub fn run(a: &Args) -> Outcome {
    let tree = tree(&a.at)?;
    let out = io::stdout();
    let plain = out.is_terminal();
    let mut list = Listing { tree: &*tree, long: a.long, plain, out: out.lock(), failed: 0 };
    let root = [PathBuf::new()];
    let paths = if a.paths.is_empty() { &root[..] } else { &a.paths };
    let titled = a.recursive || paths.len() > 1;
    for path in paths {
        let listed = relative(path).and_then(|p| list.path(&p, a.recursive, titled));
        list.note(listed);
    }
    list.out.flush().map_err(output)?;
    match list.failed {
        0 => Ok(()),
        n => Err(Failure::new(FAILED, format!("{n} could not be listed"))),
    }
}

fn output(e: io::Error) -> Failure {
    Failure::new(FAILED, format!("output: {e}"))
}

struct Listing<'a> {
    tree: &'a dyn Tree,
    long: bool,
    /// No control characters: a terminal would obey them.
    plain: bool,
    out: io::StdoutLock<'static>,
    failed: u64,
}

impl Listing<'_> {
    /// One thing that goes wrong does not hide the others.
    fn note(&mut self, done: Result<(), Failure>) {
        if let Err(e) = done {
            eprintln!("lmfs: {}", e.message);
            self.failed += 1;
        }
    }

    fn path(&mut self, path: &Path, recursive: bool, titled: bool) -> Outcome {
        let (_, attr) = self.tree.get(path)?;
        if !attr.is_dir() {
            return self.line(path, path, &attr);
        }
        if titled {
            let mut title = b"/".to_vec();
            title.extend(self.shown(path));
            title.extend_from_slice(b":\n");
            self.out.write_all(&title).map_err(output)?;
        }
        let mut below = Vec::new();
        for name in self.tree.names(path)? {
            let at = path.join(&name);
            let listed = self.tree.get(&at).and_then(|(_, attr)| {
                if attr.is_dir() {
                    below.push(at.clone());
                }
                self.line(&at, &name, &attr)
            });
            self.note(listed);
        }
        if recursive {
            for dir in below {
                self.out.write_all(b"\n").map_err(output)?;
                let listed = self.path(&dir, true, true);
                self.note(listed);
            }
        }
        Ok(())
    }

    fn shown(&self, path: &Path) -> Vec<u8> {
        let bytes = path.as_os_str().as_bytes().iter();
        bytes.map(|b| if self.plain && b.is_ascii_control() { b'?' } else { *b }).collect()
    }

    fn line(&mut self, path: &Path, name: &Path, attr: &Attr) -> Outcome {
        let mut line = Vec::new();
        if self.long {
            let size = match attr.file_type() {
                libc::S_IFCHR | libc::S_IFBLK => {
                    let dev = u64::from(attr.rdev);
                    format!("{}, {}", libc::major(dev), libc::minor(dev))
                }
                _ => attr.size.to_string(),
            };
            let (mode, time) = (mode(attr.mode), utc(attr.mtime));
            let (nlink, uid, gid) = (attr.nlink, attr.uid, attr.gid);
            line = format!("{mode} {nlink:>3} {uid:>5} {gid:>5} {size:>12} {time} ").into_bytes();
        }
        line.extend(self.shown(name));
        if self.long && attr.file_type() == libc::S_IFLNK {
            let target = self.tree.link(path)?;
            line.extend_from_slice(b" -> ");
            line.extend(self.shown(&target));
        }
        line.push(b'\n');
        self.out.write_all(&line).map_err(output)
    }
}

/// As ls(1) writes it.
fn mode(mode: u32) -> String {
    let kind = match mode & libc::S_IFMT {
        libc::S_IFDIR => 'd',
        libc::S_IFLNK => 'l',
        libc::S_IFCHR => 'c',
        libc::S_IFBLK => 'b',
        libc::S_IFIFO => 'p',
        libc::S_IFSOCK => 's',
        _ => '-',
    };
    let mut out = String::from(kind);
    for (shift, special, letter) in [(6, 0o4000, 's'), (3, 0o2000, 's'), (0, 0o1000, 't')] {
        let bits = mode >> shift;
        out.push(if bits & 4 != 0 { 'r' } else { '-' });
        out.push(if bits & 2 != 0 { 'w' } else { '-' });
        out.push(match (mode & special != 0, bits & 1 != 0) {
            (true, true) => letter,
            (true, false) => letter.to_ascii_uppercase(),
            (false, true) => 'x',
            (false, false) => '-',
        });
    }
    out
}

/// A time as `2026-11-29 12:00:00`, by the civil calendar (H. Hinnant, chrono-compatible low-level
/// date algorithms).
fn utc(t: Time) -> String {
    let (days, second) = (t.sec.div_euclid(86_400), t.sec.rem_euclid(86_400));
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_those_of_the_calendar() {
        for (sec, text) in [
            (0, "1970-01-01 00:00:00"),
            (-1, "1969-12-31 23:59:59"),
            (951_782_400, "2000-02-29 00:00:00"),
            (1_796_040_000, "2026-11-30 12:00:00"),
            (253_402_300_799, "9999-12-31 23:59:59"),
        ] {
            assert_eq!(utc(Time { sec, nsec: 0 }), text);
        }
    }

    #[test]
    fn modes_are_as_ls_writes_them() {
        assert_eq!(mode(libc::S_IFREG | 0o4755), "-rwsr-xr-x");
        assert_eq!(mode(libc::S_IFDIR | 0o1777), "drwxrwxrwt");
        assert_eq!(mode(libc::S_IFREG | 0o2640), "-rw-r-S---");
        assert_eq!(mode(libc::S_IFLNK | 0o777), "lrwxrwxrwx");
    }
}
