//! Failures that were answered to the kernel and are no part of ordinary life: each is counted, and
//! named in the log once, at a bounded rate.

use super::{FsError, lock};
use crate::store::StoreError;
use crate::types::Ino;
use std::collections::HashSet;
use std::fmt::Display;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// The log gets so many lines at most in a while of this length, and the same one once.
const LINES: usize = 20;
const WHILE: Duration = Duration::from_secs(60);

/// What was answered, and what was said of it.
#[derive(Debug, Default)]
pub struct Troubles {
    count: AtomicU64,
    said: Mutex<Said>,
}

#[derive(Debug, Default)]
struct Said {
    since: Option<Instant>,
    lines: HashSet<String>,
    /// Lines that found no room.
    left_out: u64,
}

/// True if an operation may end like that on a healthy file system that is used as it should be.
fn is_normal(e: &FsError) -> bool {
    match e {
        FsError::NotFound
        | FsError::Exists
        | FsError::NotDir
        | FsError::IsDir
        | FsError::NotEmpty
        | FsError::NameTooLong
        | FsError::Invalid(_)
        | FsError::NotPermitted(_)
        | FsError::NotSupported
        | FsError::TooManyLinks
        | FsError::TooBig
        | FsError::NoAttr
        | FsError::AttrTooBig
        | FsError::NoData => true,
        // Both are what the mount was asked for.
        FsError::Store(e) => matches!(e, StoreError::ReadOnly | StoreError::Closing),
        FsError::Damaged { .. } => false,
    }
}

impl Troubles {
    /// Failures so far.
    pub fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    /// An operation on an inode, or on a name in it, ended with this error.
    pub fn note(&self, what: &str, ino: Ino, name: Option<&[u8]>, e: &FsError) {
        if is_normal(e) {
            return;
        }
        self.count.fetch_add(1, Ordering::Relaxed);
        // Where bytes are missing has been said by who looked for them.
        if !matches!(e, FsError::Damaged { .. }) {
            self.say(what, ino, name, e);
        }
    }

    /// An operation was given up in the middle; what it panicked with has been logged.
    pub fn note_panic(&self, what: &str, ino: Ino) {
        self.count.fetch_add(1, Ordering::Relaxed);
        self.say(what, ino, None, &"it panicked");
    }

    fn say(&self, what: &str, ino: Ino, name: Option<&[u8]>, why: &dyn Display) {
        let name = name.map(|n| format!(", name {:?}", String::from_utf8_lossy(n)));
        let line = format!("{what} of inode {ino}{}: {why}", name.unwrap_or_default());
        let mut said = lock(&self.said);
        if said.since.is_none_or(|since| since.elapsed() > WHILE) {
            if said.left_out > 0 {
                log::error!("{} more failed operations are not shown", said.left_out);
            }
            *said = Said { since: Some(Instant::now()), ..Said::default() };
        }
        if said.lines.contains(&line) {
            return;
        }
        if said.lines.len() < LINES {
            log::error!("{line}");
            said.lines.insert(line);
        } else {
            said.left_out += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::logged::Watch;

    fn no_space(detail: &str) -> FsError {
        StoreError::NoSpace { path: "/s".into(), detail: detail.into() }.into()
    }

    #[test]
    fn a_failure_is_named_once_and_counted_each_time() {
        let (troubles, watch) = (Troubles::default(), Watch::here("full-1"));
        for _ in 0..5 {
            troubles.note("write", Ino(7), None, &no_space("full-1"));
        }
        assert_eq!((troubles.count(), watch.lines()), (5, 1));
        let named = Watch::here("create of inode 7, name \"a\": ");
        troubles.note("create", Ino(7), Some(b"a"), &no_space("full-1"));
        assert_eq!((troubles.count(), watch.lines(), named.lines()), (6, 2, 1));
    }

    #[test]
    fn the_log_is_not_flooded() {
        let (troubles, watch) = (Troubles::default(), Watch::here("full-2"));
        for n in 0..1000 {
            troubles.note("write", Ino(n), None, &no_space("full-2"));
        }
        assert_eq!((troubles.count(), watch.lines()), (1000, LINES));
    }

    #[test]
    fn what_is_normal_is_not_named() {
        let (troubles, watch) = (Troubles::default(), Watch::here("of inode 88"));
        for e in
            [FsError::NotFound, FsError::NotEmpty, FsError::NoAttr, StoreError::ReadOnly.into()]
        {
            troubles.note("lookup", Ino(88), Some(b"n"), &e);
        }
        assert_eq!((troubles.count(), watch.lines()), (0, 0));
    }
}
