//! Checking all that files are made of.

use crate::blocks::{LastPrimer, Policy, ReadError};
use crate::fs::{Fs, FsError};
use crate::store::{Checked, StoreError};
use crate::types::{Extent, Ino};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeSet, HashMap};
use std::sync::{Mutex, PoisonError, mpsc};
use std::time::{Duration, Instant};

/// A frame beyond repair.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Lost {
    /// A path of the file it belongs to; empty if it has none.
    pub path: String,
    /// Inode number.
    pub inode: u64,
    /// Byte offset in the file, in units of the store's block size.
    pub block: u64,
    /// Byte offset in the file.
    #[serde(default)]
    pub offset: u64,
    /// What is wrong.
    pub reason: String,
}

/// What a scrub found.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Scrubbed {
    /// Segments looked at.
    pub segments: u64,
    /// Model files looked at.
    pub models: u64,
    /// Frames checked.
    pub frames: u64,
    /// Pages checked.
    pub pages: u64,
    /// Bytes looked at.
    pub bytes: u64,
    /// Frames found damaged that could be corrected.
    pub damaged_frames: u64,
    /// Pages found damaged that could be rebuilt.
    pub damaged_pages: u64,
    /// Files that were not as they should be, sidecars and superblocks included.
    pub damaged_files: u64,
    /// Frames repaired.
    pub repaired_frames: u64,
    /// Pages repaired.
    pub repaired_pages: u64,
    /// The index was made anew.
    pub index_rebuilt: bool,
    /// What was found was put right, where it could be.
    pub repaired: bool,
    /// Segments that were not looked at, since they lie in the object store only.
    #[serde(default)]
    pub evicted_segments: u64,
    /// Their bytes.
    #[serde(default)]
    pub evicted_bytes: u64,
    /// An earlier scrub was interrupted; this one went on where it was.
    pub resumed: bool,
    /// What is wrong with the namespace (fsck).
    pub namespace: Vec<String>,
    /// What cannot be read.
    pub unrecoverable: Vec<Lost>,
}

impl Scrubbed {
    fn add(&mut self, c: Checked) {
        self.frames += c.frames;
        self.pages += c.pages;
        self.bytes += c.bytes;
        self.damaged_frames += c.damaged_frames;
        self.damaged_pages += c.damaged_pages;
        self.damaged_files += u64::from(c.damaged);
    }

    fn lost_model(&mut self, reason: String) {
        self.unrecoverable.push(Lost {
            path: String::new(),
            inode: 0,
            block: 0,
            offset: 0,
            reason,
        });
    }

    /// True if anything was found that is not as it should be.
    pub fn found_any(&self) -> bool {
        self.damaged_frames + self.damaged_pages + self.damaged_files > 0
            || !self.namespace.is_empty()
            || !self.unrecoverable.is_empty()
    }

    /// True if something is still not as it should be.
    pub fn left_any(&self) -> bool {
        !self.unrecoverable.is_empty() || (self.found_any() && !self.repaired)
    }
}

/// How to scrub.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ScrubOptions {
    /// Put right what can be put right.
    pub repair: bool,
    /// Also decode every frame and check what comes out.
    pub decode: bool,
    /// Read at most so many bytes per second; 0 for no limit.
    pub throttle: u64,
    /// Begin at the beginning, even if the last one was interrupted.
    pub restart: bool,
}

/// Keeps a scrub to its rate.
struct Throttle {
    began: Instant,
    rate: u64,
}

impl Throttle {
    fn wait(&self, bytes: u64) {
        if self.rate > 0 {
            let due = Duration::from_secs_f64(bytes as f64 / self.rate as f64);
            std::thread::sleep(due.saturating_sub(self.began.elapsed()));
        }
    }
}

/// Checks every byte under the store but the index, which is checked when it is opened.
pub fn scrub(
    fs: &Fs,
    options: ScrubOptions,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Scrubbed, FsError> {
    fs.flush_all()?;
    let store = fs.store();
    let throttle = Throttle { began: Instant::now(), rate: options.throttle };
    let repair = options.repair && !store.read_only();
    let mut report = Scrubbed { repaired: repair, ..Scrubbed::default() };
    report.damaged_files += store.check_superblocks(repair)?;
    let mut bad: Vec<(Ino, u64, String)> = Vec::new();
    let (numbers, models) = (store.segment_numbers(), store.model_files()?);
    let total = (numbers.len() + models.len()) as u64;
    let pins = fs.blocks().models();
    for id in models {
        match store.check_model_file(&id, repair) {
            Ok(c) => report.add(c),
            // It may be had elsewhere.
            Err(_) if pins.restore(&id, repair)? => report.damaged_files += 1,
            Err(e) => report.lost_model(e.to_string()),
        }
        report.models += 1;
        progress(report.models, total);
        throttle.wait(report.bytes);
    }
    for m in pins.missing(|name| fs.governed_by(name).map(|path| path.is_some()))? {
        let id = super::hex(&m.id);
        log::warn!("model '{}', id {id}: its file is missing", m.name);
        report.models += 1;
        if pins.restore(&m.id, repair)? {
            report.damaged_files += 1;
        } else {
            report.lost_model(format!(
                "model '{}', id {id}: its file is missing; get it, and run: lmfs model import FILE, then \
                 lmfs scrub --repair",
                m.name
            ));
        }
    }
    let from = if options.restart { 0 } else { store.scrub_position() };
    report.resumed = from > 0;
    let mut log_lost = false;
    (report.evicted_segments, report.evicted_bytes) = store.evicted();
    for number in numbers {
        // What is not here is checked where it is.
        if number < from || store.is_evicted(number) {
            report.segments += 1;
            continue;
        }
        if store.is_closing() {
            return Err(StoreError::Closing.into());
        }
        let c = store.check_segment(number, repair)?;
        report.segments += 1;
        report.add(c.checked);
        log_lost |= c.log_lost;
        // Read once more: it may have been moved, coded anew or deleted meanwhile.
        for (frame, ino, off) in c.lost {
            match store.read_frame(frame) {
                Ok(_) | Err(StoreError::Outdated(_)) => {}
                Err(e) => bad.push((ino, off, e.to_string())),
            }
        }
        store.set_scrub_position(Some(number + 1));
        progress(report.models + report.segments, total);
        throttle.wait(report.bytes);
    }
    store.set_scrub_position(None);
    if log_lost {
        report.damaged_files += 1;
        if repair {
            log::warn!("records of the log are lost; what they said goes into a new checkpoint");
            store.renew_checkpoint()?;
        }
    }
    if repair {
        report.repaired_frames = report.damaged_frames;
        report.repaired_pages = report.damaged_pages;
    }
    if options.decode {
        decode_files(fs, &mut bad, progress)?;
    }
    let block = u64::from(store.superblock().block_size.max(1));
    let paths = if bad.is_empty() { HashMap::new() } else { paths(fs)? };
    let lost = bad.into_iter().map(|(ino, off, reason)| Lost {
        path: paths.get(&ino).cloned().unwrap_or_default(),
        inode: ino.0,
        block: off / block,
        offset: off,
        reason,
    });
    report.unrecoverable.extend(lost);
    for l in &report.unrecoverable {
        match l.inode {
            0 => log::error!("{}", l.reason),
            ino => log::error!("{}: inode {ino} offset {}: {}", l.path, l.offset, l.reason),
        }
    }
    Ok(report)
}

/// All that [`scrub`] checks, the index and the namespace. Nobody else may use the file system
/// meanwhile. `anew`: the index was to be made anew, so that it was is no sign of damage.
pub fn fsck(
    fs: &Fs,
    repair: bool,
    anew: bool,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Scrubbed, FsError> {
    let store = fs.store();
    let index_damaged = if store.read_only() {
        !store.index_is_whole()
    } else {
        store.index_was_rebuilt() && !anew
    };
    let before = store.stats()?.repaired;
    // First: nothing may take what is only lost for dead.
    let mut problems = store.salvage(repair && !store.read_only())?;
    let options = ScrubOptions { repair, restart: true, ..ScrubOptions::default() };
    let mut report = scrub(fs, options, progress)?;
    report.note_opening(before, store.index_was_rebuilt());
    report.damaged_files += u64::from(index_damaged);
    problems.append(&mut store.check_namespace(repair && !store.read_only())?);
    report.namespace =
        problems.into_iter().map(|p| format!("inode {}: {}", p.ino, p.reason)).collect();
    Ok(report)
}

impl Scrubbed {
    /// Adds what opening the store had to repair before anything could be checked.
    pub fn note_opening(&mut self, repaired: u64, index_rebuilt: bool) {
        self.damaged_frames += repaired;
        if self.repaired {
            self.repaired_frames += repaired;
        }
        self.index_rebuilt = index_rebuilt;
    }
}

/// Decodes each frame of all files that passes its checksums, a frame on each processor.
fn decode_files(
    fs: &Fs,
    bad: &mut Vec<(Ino, u64, String)>,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<(), FsError> {
    let store = fs.store();
    let frames = store.live_frames()?;
    let inodes: BTreeSet<Ino> = frames.into_iter().map(|(_, ino, _)| ino).collect();
    let all = inodes.len() as u64;
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let (jobs, queue) = mpsc::sync_channel(2 * threads);
    let queue = Mutex::new(queue);
    let found = Mutex::new(std::mem::take(bad));
    let result = std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| decode_frames(fs, &queue, &found));
        }
        // Dropped at the end, whatever it is: that is what ends the threads.
        let jobs = jobs;
        let mut shared = BTreeSet::new();
        for (ino, done) in inodes.into_iter().zip(1..) {
            let mut own = BTreeSet::new();
            for e in store.extents(ino) {
                let e = e?;
                let seen = if e.meta.shared { &mut shared } else { &mut own };
                let here = !store.is_evicted(e.frame.segment);
                let new = here && seen.insert((e.frame.segment, e.frame.offset));
                if new && jobs.send((ino, e)).is_err() {
                    return Ok(());
                }
            }
            progress(done, all);
        }
        Ok(())
    });
    *bad = found.into_inner().unwrap_or_else(PoisonError::into_inner);
    bad.sort();
    result
}

/// One thread's part of [`decode_files`].
fn decode_frames(
    fs: &Fs,
    queue: &Mutex<mpsc::Receiver<(Ino, Extent)>>,
    bad: &Mutex<Vec<(Ino, u64, String)>>,
) {
    let (store, blocks) = (fs.store(), fs.blocks());
    // Frames of a file come one behind the other, and so do the uses of its primer.
    let mut last = LastPrimer::None;
    loop {
        let next = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok((ino, e)) = next else { return };
        let mut todo = vec![e];
        while let Some(e) = todo.pop() {
            match blocks.read(&e, Policy::Once(&mut last)) {
                // What its checksums tell was told where they were checked.
                Ok(_)
                | Err(ReadError::Store(StoreError::Damaged { .. } | StoreError::Io { .. })) => {}
                Err(why) => {
                    let now = store.extents_in(ino, e.off, e.len).unwrap_or_default();
                    if now.contains(&e) {
                        let others =
                            if e.meta.shared { store.begins_in(e.frame) } else { Ok(vec![]) };
                        let mut all = others.unwrap_or_default();
                        all.retain(|other| *other != (ino, e.off));
                        all.push((ino, e.off));
                        let mut bad = bad.lock().unwrap_or_else(PoisonError::into_inner);
                        bad.extend(all.into_iter().map(|(ino, off)| (ino, off, why.to_string())));
                    } else {
                        // Moved or written anew meanwhile.
                        todo.extend(now);
                    }
                }
            }
        }
    }
}

/// A path of every inode that has one.
fn paths(fs: &Fs) -> Result<HashMap<Ino, String>, FsError> {
    let mut found = HashMap::new();
    let mut stack = vec![(Ino::ROOT, String::new())];
    while let Some((dir, path)) = stack.pop() {
        for entry in fs.readdir(dir, 2, usize::MAX)? {
            let path = format!("{path}/{}", String::from_utf8_lossy(&entry.name));
            // A damaged or forged store may have directories in a circle.
            if entry.kind == libc::S_IFDIR && !found.contains_key(&entry.ino) {
                stack.push((entry.ino, path.clone()));
            }
            found.entry(entry.ino).or_insert(path);
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::FsOptions;
    use crate::store::Store;
    use crate::store::tests::lost::without_namespace;

    #[test]
    fn a_frame_that_moved_meanwhile_is_decoded_where_it_is() {
        let (dir, _) = without_namespace();
        let store = Store::open_to_check(dir.path(), false, false).unwrap();
        let fs = Fs::open(store, FsOptions::default()).unwrap();
        fsck(&fs, true, false, &mut |_, _| {}).unwrap();
        let store = fs.store();
        let (frame, ino, off) = store.live_frames().unwrap()[0];
        let e = store.extents_in(ino, off, 1).unwrap()[0];
        assert!(store.clean(0).unwrap().moved_frames > 0);
        let decoded = |e: Extent| {
            let (jobs, queue) = mpsc::channel();
            jobs.send((ino, e)).unwrap();
            drop(jobs);
            let bad = Mutex::default();
            decode_frames(&fs, &Mutex::new(queue), &bad);
            bad.into_inner().unwrap()
        };
        assert_eq!((e.frame, decoded(e)), (frame, vec![]));
        assert_eq!(store.stats().unwrap().unrecoverable, 0);
        assert_ne!(store.extents_in(ino, off, 1).unwrap()[0].frame, frame);
        fs.shutdown().unwrap();
    }

    #[test]
    fn fsck_tells_a_lost_namespace_from_an_empty_archive_and_brings_files_back() {
        let (dir, files) = without_namespace();
        let check = |repair: bool| {
            let store = Store::open_to_check(dir.path(), !repair, false).unwrap();
            let fs = Fs::open(store, FsOptions::default()).unwrap();
            let report = fsck(&fs, repair, false, &mut |_, _| {}).unwrap();
            fs.shutdown().unwrap();
            report
        };
        let told = |r: &Scrubbed| r.namespace.iter().any(|p| p.contains("lost its namespace"));
        for _ in 0..2 {
            let report = check(false);
            assert!(told(&report) && report.left_any());
        }
        let report = check(true);
        assert!(told(&report) && !report.left_any(), "{:?}", report.unrecoverable);
        let report = check(false);
        assert_eq!((report.namespace.len(), report.unrecoverable.len()), (0, 0));
        let store = Store::open(dir.path(), &crate::store::OpenOptions::default()).unwrap();
        let fs = Fs::open(store, FsOptions::default()).unwrap();
        for (ino, plain) in &files {
            let path = format!("/lost+found/#{ino}");
            assert_eq!(fs.resolve(path.as_bytes()).unwrap(), *ino);
            assert_eq!(&fs.read_now(*ino, 0, 1000).unwrap(), plain);
        }
        fs.shutdown().unwrap();
    }
}
