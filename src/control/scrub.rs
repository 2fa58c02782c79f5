//! Checking all that files are made of.

use crate::block::Primer;
use crate::fetch::FetchError;
use crate::fs::{Fs, FsError};
use crate::types::Ino;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeSet, HashMap};

/// A frame beyond repair.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Lost {
    /// A path of the file it belongs to; empty if it has none.
    pub path: String,
    /// Inode number.
    pub inode: u64,
    /// Byte offset in the file, in units of the store's block size.
    pub block: u64,
    /// What is wrong.
    pub reason: String,
}

/// What a scrub found.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Scrubbed {
    /// Segments looked at.
    pub segments: u64,
    /// Frames checked.
    pub frames: u64,
    /// Parity pages checked.
    pub pages: u64,
    /// Bytes of the frames checked.
    pub bytes: u64,
    /// Frames repaired.
    pub repaired_frames: u64,
    /// Pages repaired.
    pub repaired_pages: u64,
    /// The index was made anew.
    pub index_rebuilt: bool,
    /// What cannot be read.
    pub unrecoverable: Vec<Lost>,
}

/// Checks every live frame's checksums; with `decode` also that it decodes to what was written.
pub fn scrub(
    fs: &Fs,
    decode: bool,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Scrubbed, FsError> {
    fs.flush_all()?;
    let store = fs.store();
    let frames = store.live_frames()?;
    let total = frames.len() as u64;
    let mut report = Scrubbed::default();
    let (mut segments, mut inodes) = (BTreeSet::new(), BTreeSet::new());
    let mut bad: Vec<(Ino, u64, String)> = Vec::new();
    for (frame, ino, off) in frames {
        match store.read_frame(frame) {
            Ok(_) => inodes.extend(decode.then_some(ino)),
            Err(e) => bad.push((ino, off, e.to_string())),
        }
        segments.insert(frame.segment);
        report.frames += 1;
        report.bytes += u64::from(frame.len);
        progress(report.frames, total);
    }
    report.segments = segments.len() as u64;
    let (all, mut done) = (inodes.len() as u64, 0);
    for ino in inodes {
        decode_all(fs, ino, &mut bad)?;
        done += 1;
        progress(done, all);
    }
    let block = u64::from(store.superblock().block_size.max(1));
    let paths = if bad.is_empty() { HashMap::new() } else { paths(fs)? };
    let lost = bad.into_iter().map(|(ino, off, reason)| Lost {
        path: paths.get(&ino).cloned().unwrap_or_default(),
        inode: ino.0,
        block: off / block,
        reason,
    });
    report.unrecoverable = lost.collect();
    for l in &report.unrecoverable {
        log::error!("{}: inode {} block {}: {}", l.path, l.inode, l.block, l.reason);
    }
    Ok(report)
}

/// Decodes each frame of a file that passes its checksums.
fn decode_all(fs: &Fs, ino: Ino, bad: &mut Vec<(Ino, u64, String)>) -> Result<(), FsError> {
    let (store, fetcher) = (fs.store(), fs.fetcher());
    let mut primers: HashMap<u64, Primer> = HashMap::new();
    let mut seen = BTreeSet::new();
    for e in store.extents_in(ino, 0, u64::MAX)? {
        let unseen = seen.insert((e.frame.segment, e.frame.offset));
        if !unseen || store.read_frame(e.frame).is_err() {
            continue;
        }
        let result = (|| -> Result<(), FetchError> {
            if e.primer != 0 && !primers.contains_key(&e.primer) {
                primers.insert(e.primer, fetcher.primer(e.primer, e.frame)?);
            }
            fetcher.frame(&e, primers.get(&e.primer)).map(drop)
        })();
        if let Err(why) = result {
            bad.push((ino, e.off, why.to_string()));
        }
    }
    Ok(())
}

/// A path of every inode that has one.
fn paths(fs: &Fs) -> Result<HashMap<Ino, String>, FsError> {
    let mut found = HashMap::new();
    let mut stack = vec![(Ino::ROOT, String::new())];
    while let Some((dir, path)) = stack.pop() {
        for entry in fs.readdir(dir, 2, usize::MAX)? {
            let path = format!("{path}/{}", String::from_utf8_lossy(&entry.name));
            if entry.kind == libc::S_IFDIR {
                stack.push((entry.ino, path.clone()));
            }
            found.entry(entry.ino).or_insert(path);
        }
    }
    Ok(found)
}
