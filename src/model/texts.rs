//! The files of a corpus.

use std::path::{Path, PathBuf};

/// A file that is not part of the corpus, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeftOut {
    /// The file.
    pub path: PathBuf,
    /// Why it is left out.
    pub reason: String,
}

/// Regular files below `dir` by name; what is none is noted.
pub fn files(dir: &Path, found: &mut Vec<PathBuf>, left_out: &mut Vec<LeftOut>) {
    let mut skip = |path: &Path, reason: String| {
        left_out.push(LeftOut { path: path.to_owned(), reason });
    };
    let entries = match std::fs::read_dir(dir).and_then(Iterator::collect::<Result<Vec<_>, _>>) {
        Ok(entries) => entries,
        Err(e) => return skip(dir, e.to_string()),
    };
    let mut paths: Vec<PathBuf> = entries.iter().map(std::fs::DirEntry::path).collect();
    paths.sort();
    let mut below = Vec::new();
    for path in paths {
        match std::fs::symlink_metadata(&path).map(|m| m.file_type()) {
            Ok(t) if t.is_file() => found.push(path),
            Ok(t) if t.is_dir() => below.push(path),
            Ok(t) if t.is_symlink() => skip(&path, "a symbolic link".into()),
            Ok(_) => skip(&path, "not a regular file".into()),
            Err(e) => skip(&path, e.to_string()),
        }
    }
    for path in below {
        files(&path, found, left_out);
    }
}
