//! Files are found, cut into chunks, read and searched by a thread for each core, and printed in order.
//!
//! One thread walks the directories and hands out work; the results come back through a queue in the order of that
//! work. The queue is short, so memory is bounded, and a reader of the output who is slow holds all of it up.

use super::place::{Archives, Place, Source, said};
use super::print::{Next, Printer};
use super::scan::{self, Scan, Wanted};
use super::stamp::{Clock, Micros, SECOND};
use super::window;
use super::{FOUND, Failed, NOT_FOUND, Show, Shown, TROUBLE};
use std::collections::HashSet;
use std::io::{self, BufWriter};
use std::ops::{Range, RangeInclusive};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, SyncSender, TryRecvError};
use std::sync::{Arc, Mutex, PoisonError};

/// Chunks on their way for each thread.
const AHEAD: usize = 4;
/// Bytes of output kept until there is nothing else to do.
const OUTPUT: usize = 64 << 10;

/// What a chunk came to: runs of bytes, and what cannot be read between them.
type Searched = Vec<Result<Scan, (u64, u64, String)>>;

/// What is to be printed, in order.
enum Item {
    Trouble(String),
    File {
        name: Vec<u8>,
        clock: Clock,
        from: bool,
        to: bool,
        file: Arc<File>,
    },
    Chunk(Receiver<Searched>),
    /// Chunks that hold nothing that is wanted.
    Skipped,
    End,
}

/// A file that is searched.
struct File {
    source: Source,
    clock: Clock,
    chunk: u64,
    /// The rest of it is of no interest.
    enough: AtomicBool,
}

/// A chunk to be searched.
struct Job {
    file: Arc<File>,
    number: u64,
    answer: SyncSender<Searched>,
}

/// Nobody listens any more.
struct Over;

/// Searches; `names` are `-H` and `-h`.
pub fn run(
    paths: &[PathBuf],
    mut show: Show,
    names: (bool, bool),
    wanted: &Wanted,
    whole: bool,
) -> Result<u8, Failed> {
    let mut archives = Archives::default();
    let here = [PathBuf::from(".")];
    let roots = if paths.is_empty() { &here[..] } else { paths };
    let found: Vec<_> = roots.iter().map(|p| (p, archives.find(p))).collect();
    let directory = |p: &Result<Place, String>| {
        p.as_ref().is_ok_and(|p| p.look(true).is_ok_and(|l| l.kind == libc::S_IFDIR))
    };
    show.names =
        names.0 || (!names.1 && (roots.len() > 1 || found.iter().any(|(_, p)| directory(p))));
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let (items, queue) = mpsc::sync_channel(AHEAD * threads);
    let (jobs, work) = mpsc::channel::<Job>();
    let work = Mutex::new(work);
    let mut printer = Printer::new(BufWriter::with_capacity(OUTPUT, io::stdout()), &show, wanted);
    let over = AtomicBool::new(false);
    let early = std::thread::scope(|s| {
        for _ in 0..threads {
            s.spawn(|| search(&work, wanted, &over));
        }
        s.spawn(|| {
            let plan = Plan { items, jobs, wanted, whole, threads };
            for (path, place) in found {
                let name = path.as_os_str().as_bytes();
                let named = if paths.is_empty() { &b""[..] } else { name };
                let told = match place {
                    Ok(place) => plan.root(named, &place),
                    Err(e) => plan.trouble(e),
                };
                if told.is_err() {
                    break;
                }
            }
        });
        let printed = print(queue, &mut printer, show.what);
        over.store(true, Ordering::Relaxed);
        printed
    })?;
    printer.flush()?;
    if early {
        return Ok(FOUND);
    }
    if printer.untimed > 0 && !show.silent && show.what != Shown::Nothing {
        eprintln!(
            "lmfs: files without time stamps, of which no line is in a range of time: {}",
            printer.untimed
        );
    }
    Ok(match (printer.troubled, printer.matched) {
        (true, _) => TROUBLE,
        (false, true) => FOUND,
        (false, false) => NOT_FOUND,
    })
}

/// A thread that searches chunks until there are no more.
fn search(work: &Mutex<Receiver<Job>>, wanted: &Wanted, over: &AtomicBool) {
    loop {
        let job = work.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(Job { file, number, answer }) = job else { return };
        if over.load(Ordering::Relaxed) || file.enough.load(Ordering::Relaxed) {
            continue;
        }
        let mut clock = file.clock.clone();
        let mut whole = number == 0;
        let parts = file.source.parts(number * file.chunk, file.chunk).into_iter();
        let searched = parts.map(|part| {
            let begins = std::mem::take(&mut whole);
            part.map(|text| scan::scan(text, begins, wanted, &mut clock))
        });
        // Nobody listens if the answer was known before.
        let _ = answer.send(searched.collect());
    }
}

/// Prints in order; true if the answer is known before all was searched.
fn print<W: io::Write>(
    queue: Receiver<Item>,
    printer: &mut Printer<'_, W>,
    what: Shown,
) -> Result<bool, Failed> {
    let mut current: Option<Arc<File>> = None;
    loop {
        let item = match queue.try_recv() {
            Err(TryRecvError::Empty) => {
                printer.flush()?;
                queue.recv().ok()
            }
            item => item.ok(),
        };
        match item {
            None => return Ok(false),
            Some(Item::Trouble(text)) => printer.trouble(&text)?,
            Some(Item::File { name, clock, from, to, file }) => {
                printer.begin(name, clock, from, to);
                current = Some(file);
            }
            Some(Item::Chunk(_))
                if current.as_ref().is_some_and(|f| f.enough.load(Ordering::Relaxed)) => {}
            Some(Item::Chunk(answer)) => {
                let parts = match answer.try_recv() {
                    Err(TryRecvError::Empty) => {
                        printer.flush()?;
                        answer.recv().ok()
                    }
                    parts => parts.ok(),
                };
                for part in parts.into_iter().flatten() {
                    let next = match part {
                        Ok(scan) => printer.text(&scan)?,
                        Err((from, to, why)) => printer.unreadable(from, to, &why)?,
                    };
                    if next == Next::Enough {
                        if what == Shown::Nothing {
                            return Ok(true);
                        }
                        if let Some(file) = &current {
                            file.enough.store(true, Ordering::Relaxed);
                        }
                        break;
                    }
                }
            }
            Some(Item::Skipped) => printer.skip(),
            Some(Item::End) => {
                printer.end()?;
                if what == Shown::Nothing && printer.matched {
                    return Ok(true);
                }
            }
        }
    }
}

/// The thread that finds files and hands out work.
struct Plan<'a> {
    items: SyncSender<Item>,
    jobs: mpsc::Sender<Job>,
    wanted: &'a Wanted,
    whole: bool,
    threads: usize,
}

impl Plan<'_> {
    fn tell(&self, item: Item) -> Result<(), Over> {
        self.items.send(item).map_err(|_| Over)
    }

    fn trouble(&self, text: String) -> Result<(), Over> {
        self.tell(Item::Trouble(text))
    }

    /// What an argument names; no name for the directory here, where none was given.
    fn root(&self, name: &[u8], place: &Place) -> Result<(), Over> {
        let shown = if name.is_empty() { &b"."[..] } else { name };
        let look = match place.look(true) {
            Ok(look) => look,
            Err(e) => return self.about(shown, &e),
        };
        match look.kind {
            libc::S_IFDIR => {
                let mut seen = HashSet::from([look.inode]);
                self.directory(name, place, &mut seen)
            }
            libc::S_IFREG => self.file(name, place, look.size, look.changed),
            _ => self.about(shown, &io::Error::other("not a regular file")),
        }
    }

    fn about(&self, name: &[u8], e: &io::Error) -> Result<(), Over> {
        self.trouble(format!("{}: {}", String::from_utf8_lossy(name), said(e)))
    }

    /// All files below, without those behind symbolic links; a forged store may have directories in a
    /// circle.
    fn directory(&self, name: &[u8], place: &Place, seen: &mut HashSet<u64>) -> Result<(), Over> {
        let below = match place.below() {
            Ok(below) => below,
            Err(e) => return self.about(name, &e),
        };
        for (last, place) in below {
            let mut name = name.to_vec();
            if !name.is_empty() && !name.ends_with(b"/") {
                name.push(b'/');
            }
            name.extend_from_slice(last.as_bytes());
            match place.look(false) {
                // It went meanwhile.
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Err(e) => self.about(&name, &e)?,
                Ok(look) if look.kind == libc::S_IFDIR && seen.insert(look.inode) => {
                    self.directory(&name, &place, seen)?;
                }
                Ok(look) if look.kind == libc::S_IFREG => {
                    self.file(&name, &place, look.size, look.changed)?;
                }
                Ok(_) => {}
            }
        }
        Ok(())
    }

    fn file(&self, name: &[u8], place: &Place, size: u64, changed: i64) -> Result<(), Over> {
        let source = match place.open() {
            Ok(source) => source,
            Err(e) => return self.about(name, &e),
        };
        let clock = Clock::new(changed.saturating_mul(SECOND));
        let enough = AtomicBool::new(false);
        let file = Arc::new(File { source, clock: clock.clone(), chunk: place.chunk(), enough });
        let chunks = size.div_ceil(file.chunk);
        let window = self.wanted.span.and_then(|span| self.window(&file, chunks, span));
        let last = chunks.saturating_sub(1);
        let mut window = window.unwrap_or(0..=last);
        if self.wanted.numbers {
            window = 0..=*window.end();
        }
        let (from, to) = (*window.start() == 0, *window.end() == last);
        self.tell(Item::File { name: name.to_vec(), clock, from, to, file: Arc::clone(&file) })?;
        let held = self.held(&file, chunks);
        let mut skips = false;
        for number in window.filter(|_| chunks > 0) {
            let (start, end) = (number * file.chunk, (number + 1) * file.chunk);
            let holds = |held: &Vec<Range<u64>>| {
                let next = held.partition_point(|r| r.end <= start);
                held.get(next).is_some_and(|r| r.start < end)
            };
            if held.as_ref().is_some_and(|held| !holds(held)) {
                if !std::mem::replace(&mut skips, true) {
                    self.tell(Item::Skipped)?;
                }
                continue;
            }
            skips = false;
            if file.enough.load(Ordering::Relaxed) {
                break;
            }
            let (answer, answered) = mpsc::sync_channel(1);
            self.tell(Item::Chunk(answered))?;
            self.jobs.send(Job { file: Arc::clone(&file), number, answer }).map_err(|_| Over)?;
        }
        self.tell(Item::End)
    }

    /// Where the words may be that each line has which is wanted; `None` for all of the file. A file of a
    /// few chunks is sooner read.
    fn held(&self, file: &File, chunks: u64) -> Option<Vec<Range<u64>>> {
        const LEAST: u64 = 4;
        let asks = !self.wanted.words.is_empty() && chunks >= LEAST;
        asks.then(|| file.source.held(&self.wanted.words)).flatten()
    }

    /// The chunks of a file that may hold lines of a range of time; `None` for all.
    fn window(
        &self,
        file: &File,
        chunks: u64,
        span: (Micros, Micros),
    ) -> Option<RangeInclusive<u64>> {
        if self.whole {
            return None;
        }
        let look = |number: u64| {
            let text = file.source.read(number * file.chunk, file.chunk).ok()?;
            scan::first_time(&text, number == 0, &mut file.clock.clone())
        };
        let samples = window::samples(chunks);
        let share = samples.len().div_ceil(self.threads).max(1);
        let known: Vec<_> = std::thread::scope(|s| {
            let threads: Vec<_> = samples
                .chunks(share)
                .map(|some| s.spawn(|| some.iter().map(|n| (*n, look(*n))).collect::<Vec<_>>()))
                .collect();
            threads.into_iter().flat_map(|t| t.join().unwrap_or_default()).collect()
        });
        window::find(chunks, &known, span, look)
    }
}
