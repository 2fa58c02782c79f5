//! Making and opening a store.

use super::api::{Ecc, MkfsOptions, OpenOptions, Result, StoreError, Superblock};
use super::io::Volume;
use super::remote::complete::complete;
use super::remote::{Reached, Tier, View, unfinished};
use super::sweep;
use crate::store::index::base::{Base, NoBase};
use crate::store::index::disk::{self, SledBase};
use crate::store::index::flusher;
use crate::store::index::leaves::Leaves;
use crate::store::index::live::Live;
use crate::store::index::mac;
use crate::store::index::memtable::Table;
use crate::store::index::state::State;
use crate::store::index::totals::Totals;
use crate::store::log::frame::{self, Kind, Stamp, meta_frame, squeeze};
use crate::store::log::record::{In, Out, Record};
use crate::store::log::replay;
use crate::store::log::segments::{Segments, segment_path};
use crate::store::log::superblock::{self, FILES, FORMAT, SEGMENT_HEADER, SegmentHeader};
use crate::store::log::tail;
use crate::store::log::writer::Writer;
use crate::store::repair::parity_writer;
use crate::store::repair::salvage;
use crate::store::settings::{Settings, code};
use crate::store::{Store, lock};
use crate::types::{Attr, Ino};
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, RwLock};

fn io(what: String) -> impl FnOnce(std::io::Error) -> StoreError {
    |source| match source.raw_os_error() {
        Some(libc::ENOSPC | libc::EDQUOT) => {
            StoreError::NoSpace { path: what.clone(), detail: what }
        }
        _ => StoreError::Io { what, source },
    }
}

/// See [`Store::create`].
pub fn create(path: &Path, options: &MkfsOptions) -> Result<()> {
    let shown = path.display().to_string();
    match std::fs::read_dir(path) {
        Ok(mut entries) => {
            if entries.next().is_some() {
                return Err(StoreError::Refused(format!(
                    "{shown} is not empty; name a new or empty directory for the store"
                )));
            }
            let mode = std::os::unix::fs::PermissionsExt::from_mode(0o700);
            std::fs::set_permissions(path, mode).map_err(io(format!("chmod {shown}")))?;
        }
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            let mut b = std::fs::DirBuilder::new();
            b.mode(0o700).create(path).map_err(io(format!("create {shown}")))?;
        }
        Err(e) if e.kind() == std::io::ErrorKind::NotADirectory => {
            return Err(StoreError::Refused(format!(
                "{shown} is not a directory; name a new or empty directory for the store"
            )));
        }
        Err(e) => return Err(io(format!("read {shown}"))(e)),
    }
    let volume = super::io::OsVolume::new(path);
    create_in(&volume, options, &shown)?;
    // The store's own name, so that nothing acknowledged in it can go with it.
    let parent = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let synced = File::open(parent).and_then(|d| d.sync_all());
    synced.map_err(io(format!("fsync {}", parent.display())))
}

/// Makes a store in an empty volume.
pub fn create_in(volume: &dyn Volume, options: &MkfsOptions, shown: &str) -> Result<()> {
    let mut uuid = [0; 16];
    File::open("/dev/urandom")
        .and_then(|mut f| f.read_exact(&mut uuid))
        .map_err(io("read /dev/urandom".into()))?;
    let root = Attr { nlink: 2, ..Attr::made_now(libc::S_IFDIR | 0o755) };
    create_as(volume, options, shown, uuid, root)
}

/// Makes a store in an empty volume, with this UUID and these attributes of the root directory.
pub fn create_as(
    volume: &dyn Volume,
    options: &MkfsOptions,
    shown: &str,
    uuid: [u8; 16],
    root: Attr,
) -> Result<()> {
    let fail = |what: &str| io(format!("{what} in {shown}"));
    volume.mkdir("segments").map_err(fail("create segments"))?;
    volume.mkdir("models").map_err(fail("create models"))?;
    let block_size = options.block_size.unwrap_or(crate::block::FAST_BLOCK);
    let refused = |why: String| StoreError::Refused(format!("{shown}: {why}"));
    superblock::check_block_size(block_size).map_err(refused)?;
    let sb = Superblock {
        format: FORMAT,
        uuid,
        block_size,
        ecc: options.ecc,
        model: options.model.clone(),
    };
    // The first segment is a checkpoint of a root directory and nothing else.
    let header = SegmentHeader { number: 1, uuid, checkpoint: true };
    let table = Table::new(Arc::new(NoBase));
    let mut state = State::new(table, Totals::default(), Settings::of(&sb))?;
    state.apply(&Record::PutInode(Ino::ROOT, root))?;
    let mut o = Out::default();
    for (k, v) in state.table.scan(&[], &[0xff], usize::MAX)? {
        o.bytes(&k).bytes(&v);
    }
    let mut bytes = header.encode();
    let stamp = Stamp { tag: frame::tag(&uuid), code: code(options.ecc) };
    let (encoding, plain_len, payload) = squeeze(o.0);
    bytes.extend(meta_frame(stamp, Kind::Checkpoint, 0, plain_len, encoding, &payload));
    let mut o = Out::default();
    o.u32(1).u64(0).u64(0);
    state.totals.encode(&mut o);
    let (encoding, plain_len, payload) = squeeze(o.0);
    bytes.extend(meta_frame(stamp, Kind::CheckpointEnd, 0, plain_len, encoding, &payload));
    let write = |path: &str, bytes: &[u8]| -> std::io::Result<()> {
        let blob = volume.create(path)?;
        blob.write_at(bytes, 0)?;
        blob.sync()
    };
    write(&segment_path(1), &bytes).map_err(fail("write the first segment"))?;
    volume.sync_dir("segments").map_err(fail("fsync segments"))?;
    // The superblock last: without it there is no store.
    for file in FILES.iter().rev() {
        write(file, &superblock::encode(&sb)).map_err(fail("write the superblock"))?;
    }
    volume.sync_dir(".").map_err(fail("fsync the directory"))
}

/// Takes the store's lock, shared for readers.
pub fn take_lock(path: &Path, read_only: bool) -> Result<File> {
    let file = path.join("lock");
    let shown = file.display().to_string();
    let mut options = std::fs::OpenOptions::new();
    options.read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK);
    if !read_only {
        options.write(true).create(true).truncate(false).mode(0o600);
    }
    let mut f = match options.open(&file) {
        Ok(f) => f,
        // A store that was never opened for writing: its directory will do.
        Err(e) if read_only && e.kind() == std::io::ErrorKind::NotFound => {
            File::open(path).map_err(io(format!("open {}", path.display())))?
        }
        Err(e) if !read_only && e.kind() == std::io::ErrorKind::ReadOnlyFilesystem => {
            return Err(StoreError::ReadOnlyMedium { path: path.display().to_string() });
        }
        Err(e) => return Err(io(format!("open {shown}"))(e)),
    };
    let found = f.metadata().map_err(io(format!("look at {shown}")))?;
    if !found.is_file() && !found.is_dir() {
        return Err(StoreError::Refused(format!("{shown} is not a regular file: remove it")));
    }
    let kind = if read_only { libc::LOCK_SH } else { libc::LOCK_EX };
    // SAFETY: plain system call on an open descriptor.
    if unsafe { libc::flock(f.as_raw_fd(), kind | libc::LOCK_NB) } != 0 {
        let e = std::io::Error::last_os_error();
        if e.raw_os_error() == Some(libc::EWOULDBLOCK) {
            let mut text = String::new();
            let _ = f.read_to_string(&mut text);
            let pid = text.trim().parse().unwrap_or(0);
            return Err(StoreError::InUse { path: path.display().to_string(), pid });
        }
        return Err(io(format!("lock {shown}"))(e));
    }
    if !read_only {
        let write = f.set_len(0).and_then(|()| writeln!(f, "{}", std::process::id()));
        write.map_err(io(format!("write {shown}")))?;
    }
    Ok(f)
}

/// More inodes or generations than can ever be made, one each nanosecond for a century.
const NUMBERS_MAX: u64 = 1 << 62;

/// What an open store starts from.
struct Start {
    state: State,
    writer: Writer,
    index_dir: Option<PathBuf>,
    /// Batch and position up to which the log is known to be durable.
    durable: (u64, u64),
    /// Segment and length of the last checkpoint.
    checkpoint: (u32, u64),
    /// What is missing of the history.
    loss: replay::Loss,
}

/// Where the index comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IndexFrom {
    /// The directory, if the log vouches for it; else the log.
    Directory,
    /// The log, into a fresh directory.
    Log,
    /// The log, and it stays in memory. Nothing happens in the background then.
    Memory,
    /// As `Directory`, but nothing happens in the background.
    #[cfg(test)]
    Alone,
}

impl IndexFrom {
    /// There is a directory, and it may be believed.
    fn is_directory(self) -> bool {
        match self {
            Self::Directory => true,
            #[cfg(test)]
            Self::Alone => true,
            Self::Log | Self::Memory => false,
        }
    }

    /// Threads look after the store.
    fn has_threads(self) -> bool {
        matches!(self, Self::Directory | Self::Log)
    }
}

/// See [`Store::open`].
pub fn open(path: &Path, options: &OpenOptions, volume: Arc<dyn Volume>) -> Result<Arc<Store>> {
    open_with(path, options, volume, IndexFrom::Directory)
}

/// As [`open`], with a choice of index. sled always writes, so a read-only store does without.
pub fn open_with(
    path: &Path,
    options: &OpenOptions,
    volume: Arc<dyn Volume>,
    index: IndexFrom,
) -> Result<Arc<Store>> {
    open_how(path, options, volume, index, false)
}

/// As [`open_with`]. `salvage`: also if the namespace is lost, see [`Store::salvage`].
pub fn open_how(
    path: &Path,
    options: &OpenOptions,
    volume: Arc<dyn Volume>,
    index: IndexFrom,
    salvage: bool,
) -> Result<Arc<Store>> {
    open_from(path, options, volume, index, salvage, None)
}

/// Opens an archive that lies in an object store, for reading; `path` is a directory of its own here.
pub fn open_view(path: &Path, view: Arc<View>) -> Result<Arc<Store>> {
    let options = OpenOptions { read_only: true };
    let volume = Arc::clone(&view) as Arc<dyn Volume>;
    let store =
        open_from(path, &options, volume, IndexFrom::Memory, false, Some(Arc::clone(&view)))?;
    let reached = {
        let w = store.writer();
        let (segment, len) = ((w.position() >> 32) as u32, w.position() & 0xffff_ffff);
        Reached { seq: w.seq, chain: w.chain, segment, len }
    };
    *lock(&view.reached) = reached;
    Ok(store)
}

fn open_from(
    path: &Path,
    options: &OpenOptions,
    volume: Arc<dyn Volume>,
    index: IndexFrom,
    salvage: bool,
    view: Option<Arc<View>>,
) -> Result<Arc<Store>> {
    let index = if options.read_only { IndexFrom::Memory } else { index };
    let shown = path.display().to_string();
    if !path.is_dir() {
        return Err(StoreError::Refused(format!(
            "{shown} is not a directory; make a store with: lmfs mkfs {shown}"
        )));
    }
    if let Some(url) = unfinished(path) {
        return Err(StoreError::Refused(format!(
            "{shown} is an unfinished clone of {url}; continue it with: lmfs clone {url} {shown}"
        )));
    }
    let superblock = superblock::read(&*volume, &shown)?;
    let lock_file = take_lock(path, options.read_only)?;
    let (tier, volume) = if view.is_some() {
        (None, volume)
    } else {
        let tier = Tier::open(path, volume, &superblock, !options.read_only)?;
        (Some(Arc::clone(&tier)), tier as Arc<dyn Volume>)
    };
    let segments = Arc::new(Segments::open(volume, &superblock, !options.read_only)?);
    if let Some(view) = &view {
        view.warm(&segments);
    }
    let old = if index.is_directory() { left(path, &superblock, &segments) } else { Left::Nothing };
    let index_rebuilt = matches!(old, Left::Nothing) && !options.read_only;
    let start = match old {
        Left::Whole(start) => *start,
        Left::Nothing | Left::Foreign => {
            let start = rebuilt(path, index, &superblock, &segments, salvage)?;
            start.ok_or_else(|| salvage::refusal(&shown))?
        }
    };
    let totals = &start.state.totals;
    if let Some(tier) = &tier {
        complete(tier, &segments, &totals.live, &shown)?;
    }
    if !options.read_only {
        segments.drop_stale_sidecars()?;
    }
    if totals.last_ino.max(totals.last_generation) > NUMBERS_MAX {
        return Err(StoreError::Refused(format!(
            "{shown}: numbers of inodes or generations that no store reaches: it is forged"
        )));
    }
    let (last_ino, last_generation) = (totals.last_ino, totals.last_generation);
    let state = Arc::new(RwLock::new(start.state));
    let store = Arc::new(Store {
        path: path.to_owned(),
        read_only: options.read_only,
        last_ino: AtomicU64::new(last_ino),
        last_generation: AtomicU64::new(last_generation),
        superblock,
        segments,
        durable: AtomicU64::new(start.durable.0),
        synced: AtomicU64::new(start.durable.1),
        live: Arc::new(Live::new(Arc::clone(&state))),
        state,
        writer: Mutex::new(start.writer),
        sync: Mutex::new(()),
        promised: Arc::default(),
        free: Mutex::new(None),
        cleaning: Mutex::default(),
        checkpoint: Mutex::new(start.checkpoint),
        loss: Mutex::new(start.loss),
        prune: AtomicBool::new(false),
        winding_up: AtomicBool::new(false),
        closed: AtomicBool::new(false),
        closing: Mutex::new(None),
        flusher: flusher::Flusher::default(),
        parity_writer: super::worker::Worker::default(),
        remote: super::remote::Link::default(),
        view,
        tier,
        sweeper: super::worker::Worker::default(),
        cleaner: super::cleaner::Cleaner::default(),
        opened: std::time::Instant::now(),
        index_rebuilt,
        index_dir: Mutex::new(start.index_dir),
        _lock: lock_file,
    });
    if !options.read_only {
        store.writer().fill_reserve(start.checkpoint.1);
        if index.has_threads() {
            flusher::start(&store);
            parity_writer::start(&store);
            sweep::start(&store);
        }
    }
    Ok(store)
}

/// What the last mount left of the index.
enum Left {
    /// All of it, here.
    Whole(Box<Start>),
    /// An index that somebody else wrote: it is not opened.
    Foreign,
    /// Nothing that could be used.
    Nothing,
}

fn left(path: &Path, superblock: &Superblock, segments: &Arc<Segments>) -> Left {
    let Some((batch, mark, number, len)) = replay::shutdown_record(segments) else {
        return Left::Nothing;
    };
    let Record::Shutdown { index, digest, since_checkpoint, checkpoint, totals } = mark else {
        return Left::Nothing;
    };
    let Some(dir) = disk::place(path, &index) else { return Left::Nothing };
    let unusable = |why: &dyn std::fmt::Display| {
        log::warn!("{}: {why}; rebuilding it from the log", dir.display());
        Left::Nothing
    };
    match disk::digest(&dir) {
        Ok(d) if d == digest => {}
        Ok(_) => return unusable(&"not as it was left"),
        Err(e) => return unusable(&e),
    }
    if !mac::is_ours(&*segments.volume, &superblock.uuid, &digest) {
        log::info!("{}: left by another user or machine; making it anew", dir.display());
        return Left::Foreign;
    }
    let base: Arc<dyn Base> = match SledBase::open(&dir) {
        Ok(base) => Arc::new(Leaves::over(base)),
        Err(e) => return unusable(&e),
    };
    let start = || {
        let totals = Totals::decode(&mut In(&totals))?;
        let lines =
            crate::store::log::footer::summary(segments, number, SEGMENT_HEADER as u64).ok()?.0;
        let mut writer =
            Writer::resume(Arc::clone(segments), superblock.uuid, number, len, lines).ok()?;
        writer.seq = batch.seq;
        writer.chain = batch.chain();
        segments.flow.batches.store(since_checkpoint, Ordering::Relaxed);
        let state = State::new(Table::new(base), totals, segments.settings).ok()?;
        let index_dir = Some(dir.clone());
        let loss = replay::Loss::default();
        let durable = (batch.seq, writer.position());
        Some(Start { state, writer, index_dir, durable, checkpoint, loss })
    };
    let rooted = |s: &Start| !matches!(s.state.inode(Ino::ROOT), Ok(None));
    start().filter(rooted).map_or(Left::Nothing, |start| Left::Whole(Box::new(start)))
}

/// The state from the log alone, and a fresh index to be filled with it. `None` if the namespace is
/// lost and not to be salvaged.
fn rebuilt(
    path: &Path,
    index: IndexFrom,
    superblock: &Superblock,
    segments: &Arc<Segments>,
    salvage: bool,
) -> Result<Option<Start>> {
    let nothing: Arc<dyn Base> = Arc::new(NoBase);
    // Then an old index may be all that is left of the namespace: it stays.
    if !salvage
        && index != IndexFrom::Memory
        && replay::ends_empty(segments)
        && replay::rebuild(segments, &nothing, false)?.is_none()
    {
        return Ok(None);
    }
    let (base, index_dir): (Arc<dyn Base>, _) = match index {
        IndexFrom::Memory => (nothing, None),
        _ => fresh_index(path),
    };
    let began = std::time::Instant::now();
    let Some((mut state, end)) = replay::rebuild(segments, &base, salvage)? else {
        return Ok(None);
    };
    log::info!("replayed the log: {} inodes in {:?}", state.totals.inodes, began.elapsed());
    let doubtful = if segments.write { tail::cut(segments, &end)? } else { None };
    let mut writer =
        Writer::resume(Arc::clone(segments), superblock.uuid, end.segment, end.len, end.lines)?;
    writer.seq = end.seq;
    writer.chain = end.chain;
    segments.flow.batches.store(end.since_checkpoint, Ordering::Relaxed);
    state.table.seq = end.seq + 1;
    let mut durable = (end.seq, writer.position());
    if let Some((number, offset)) = doubtful {
        writer.doubt((number, offset));
        // No batch is known to be.
        durable = (0, u64::from(number) << 32 | offset);
    }
    Ok(Some(Start {
        state,
        writer,
        index_dir,
        durable,
        checkpoint: (end.checkpoint, end.checkpoint_len),
        loss: end.loss,
    }))
}

/// An empty index in a directory that no opener before can still be busy with; the old ones are
/// removed if they can be.
fn fresh_index(path: &Path) -> (Arc<dyn Base>, Option<PathBuf>) {
    let mut newest = None;
    for entry in std::fs::read_dir(path).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let number = match name.to_str().and_then(|n| n.strip_prefix("index")) {
            Some("") => Some(0),
            Some(rest) => rest.strip_prefix('.').and_then(|n| n.parse::<u32>().ok()),
            None => continue,
        };
        newest = newest.max(number);
        let removed = match entry.file_type() {
            Ok(t) if t.is_dir() => std::fs::remove_dir_all(entry.path()),
            _ => std::fs::remove_file(entry.path()),
        };
        if let Err(e) = removed {
            log::warn!("{}: {e}", entry.path().display());
        }
    }
    let first = newest.map_or(0, |n| n.saturating_add(1));
    let Some(dir) = free_name(path, first) else {
        return (Arc::new(NoBase), None);
    };
    match SledBase::open(&dir) {
        Ok(base) => (Arc::new(Leaves::over(base)), Some(dir)),
        Err(e) => {
            log::error!("{}: {e}; the index stays in memory", dir.display());
            (Arc::new(NoBase), None)
        }
    }
}

/// The first name of an index from this number on that nothing has, be it a link to nowhere.
pub(super) fn free_name(path: &Path, first: u32) -> Option<PathBuf> {
    let name = |n: u32| if n == 0 { "index".to_owned() } else { format!("index.{n}") };
    let free = |dir: &PathBuf| dir.symlink_metadata().is_err();
    (first..=u32::MAX).map(|n| path.join(name(n))).find(free)
}

const _: () = assert!(Ecc::Archival as u8 == 2);
