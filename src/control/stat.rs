//! How files are stored.

use super::FileName;
use crate::fs::{Coding, Fs, FsError};
use crate::types::{Attr, Ino};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashSet};

/// A range of a file that cannot be read.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Damage {
    /// First byte.
    pub offset: u64,
    /// Bytes.
    pub length: u64,
}

/// How one file is stored, or all files below a directory together.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct StatEntry {
    /// The path as it was asked for.
    pub path: String,
    /// Inode number.
    pub inode: u64,
    /// Size in bytes.
    pub size: u64,
    /// Bytes of its frames.
    pub coded_size: u64,
    /// Size over coded size.
    pub ratio: f64,
    /// Model that governs it.
    pub model: String,
    /// Frames by codec.
    pub codecs: BTreeMap<String, u64>,
    /// What cannot be read; not looked for where a directory is summed up.
    pub damaged: Vec<Damage>,
    /// Of a directory: the files below it, each counted once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub files: Option<u64>,
}

fn ratio(size: u64, coded: u64) -> f64 {
    if coded == 0 { 1.0 } else { size as f64 / coded as f64 }
}

fn model(fs: &Fs, ino: Ino) -> Result<String, FsError> {
    Ok(match fs.store().xattr(ino, crate::types::MODEL_XATTR)? {
        Some(m) => String::from_utf8_lossy(&m).into_owned(),
        None => fs.store().superblock().model.clone(),
    })
}

/// Anything but a directory.
fn file(fs: &Fs, ino: Ino, attr: &Attr, path: String) -> Result<StatEntry, FsError> {
    let coding = if attr.is_file() { fs.coding(ino)? } else { Coding::default() };
    let mut codecs = coding.codecs;
    if coding.dirty > 0 {
        codecs.insert("unstaged".into(), 1);
    }
    Ok(StatEntry {
        path,
        inode: ino.0,
        size: attr.size,
        coded_size: coding.coded_size,
        ratio: ratio(attr.size, coding.coded_size),
        model: model(fs, ino)?,
        codecs,
        damaged: Vec::new(),
        files: None,
    })
}

fn damage(fs: &Fs, ino: Ino) -> Result<Vec<Damage>, FsError> {
    let damaged = fs.damaged(ino)?.into_iter();
    Ok(damaged.map(|(offset, length)| Damage { offset, length }).collect())
}

/// All files below a directory, in the order of their paths.
fn below(fs: &Fs, dir: Ino, path: &str) -> Result<Vec<StatEntry>, FsError> {
    let mut found = Vec::new();
    // A forged store may have directories in a circle; a file of several names counts once.
    let (mut stack, mut seen) = (vec![(dir, path.to_owned())], HashSet::from([dir]));
    while let Some((at, path)) = stack.pop() {
        for entry in fs.readdir(at, 2, usize::MAX)? {
            let path = format!("{}/{}", path.trim_end_matches('/'), {
                String::from_utf8_lossy(&entry.name)
            });
            if !seen.insert(entry.ino) {
                continue;
            }
            let attr = match fs.getattr(entry.ino) {
                // It went meanwhile.
                Err(FsError::NotFound) => continue,
                attr => attr?,
            };
            if attr.is_dir() {
                stack.push((entry.ino, path));
            } else if attr.is_file() {
                found.push(file(fs, entry.ino, &attr, path)?);
            }
        }
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(found)
}

/// How files are stored; the error names the path. A directory is summed up; with `recurse`, the
/// files below come before it.
pub fn stat(fs: &Fs, paths: &[FileName], recurse: bool) -> Result<Vec<StatEntry>, String> {
    let mut entries = Vec::new();
    for path in paths {
        one(fs, path, recurse, &mut entries).map_err(|e| format!("{path}: {e}"))?;
    }
    Ok(entries)
}

fn one(fs: &Fs, name: &FileName, recurse: bool, out: &mut Vec<StatEntry>) -> Result<(), FsError> {
    let ino = name.find(fs)?;
    let attr = fs.getattr(ino)?;
    if !attr.is_dir() {
        let entry = file(fs, ino, &attr, name.to_string())?;
        out.push(StatEntry { damaged: damage(fs, ino)?, ..entry });
        return Ok(());
    }
    let mut all = below(fs, ino, &name.to_string())?;
    let mut sum = StatEntry {
        path: name.to_string(),
        inode: ino.0,
        size: 0,
        coded_size: 0,
        ratio: 1.0,
        model: model(fs, ino)?,
        codecs: BTreeMap::new(),
        damaged: Vec::new(),
        files: Some(all.len() as u64),
    };
    for e in &all {
        sum.size += e.size;
        sum.coded_size += e.coded_size;
        for (codec, n) in &e.codecs {
            *sum.codecs.entry(codec.clone()).or_default() += n;
        }
    }
    sum.ratio = ratio(sum.size, sum.coded_size);
    if recurse {
        for e in &mut all {
            e.damaged = damage(fs, Ino(e.inode))?;
        }
        out.append(&mut all);
    }
    out.push(sum);
    Ok(())
}
