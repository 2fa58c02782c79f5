//! The background coder: queue, policy, worker.
//!
//! Rested data are rewritten as coded frames at idle priority. A write that comes in between wins:
//! the swap is a compare-and-swap on the extents that were read, so no lock is held while coding.
//! The age of data is told from content generations: once a second the newest generation is noted
//! beside the clock, and whatever is at or below the note of `rest` seconds ago has rested.

mod command;
mod group;
mod plan;
mod worker;

use crate::block::Primer;
use crate::blocks::{BlockReader, ReadError};
use crate::priority::Idlers;
use crate::store::{Store, StoreError};
use crate::types::{Ino, MODEL_XATTR, OFF};
use group::Group;
use plan::{Rested, Run, Young};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use worker::{Coded, Job, Last, Recipe};

pub use command::Command;

/// The extended attribute that says what a search finds beside a file's blocks.
pub const INDEX_XATTR: &[u8] = b"user.lmfs.index";
/// Its value for a filter of each block's words.
pub const INDEX_WORDS: &[u8] = b"words";
/// How much longer than a whole block a tail must rest.
const TAIL_FACTOR: u32 = 10;
/// How long commands may take to end: some blocks, coded without a language model, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// How the background coder works.
#[derive(Debug, Clone)]
pub struct RecodeOptions {
    /// Time that data must have been left alone.
    pub rest: Duration,
    /// Worker threads.
    pub threads: usize,
    /// False: only `settle` codes.
    pub enabled: bool,
}

/// What a settle did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SettleReport {
    /// Bytes of the store's live frames before.
    pub before_bytes: u64,
    /// The same after.
    pub after_bytes: u64,
    /// Blocks coded.
    pub blocks: u64,
    /// Bytes of the files that these blocks hold.
    pub text_bytes: u64,
    /// Bytes of the frames that they became, with parity and primers.
    pub frame_bytes: u64,
    /// How long it took, in milliseconds.
    pub ms: u64,
    /// It was stopped; the rest still waits.
    pub stopped: bool,
}

/// What waits and how fast it goes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecodeStatus {
    /// Blocks that wait to be coded.
    pub pending_blocks: u64,
    /// Their bytes.
    pub backlog_bytes: u64,
    /// Bytes coded per second of working time, lately; 0 if nothing was coded yet.
    pub coding_bytes_per_s: u64,
    /// Seconds until the backlog is coded, at that rate.
    pub eta_s: Option<u64>,
}

#[derive(Debug, Default)]
struct Queue {
    /// When an inode is to be looked at next.
    due: HashMap<Ino, Instant>,
    order: BTreeSet<(Instant, Ino)>,
    /// (when, newest generation then), oldest first.
    ages: VecDeque<(Instant, u64)>,
}

impl Queue {
    /// Looks at `ino` at `when`, or earlier if it was to be looked at earlier.
    fn put(&mut self, ino: Ino, when: Instant) {
        if let Some(old) = self.due.get(&ino) {
            if *old <= when {
                return;
            }
            self.order.remove(&(*old, ino));
        }
        self.due.insert(ino, when);
        self.order.insert((when, ino));
    }

    fn pop_due(&mut self, now: Instant) -> Option<Ino> {
        let &(when, ino) = self.order.first()?;
        if when > now {
            return None;
        }
        self.order.pop_first();
        self.due.remove(&ino);
        Some(ino)
    }

    /// The newest generation that is at least `age` old.
    fn rested(&self, now: Instant, age: Duration) -> u64 {
        let old = |t: &Instant| now.saturating_duration_since(*t) >= age;
        self.ages.iter().rev().find(|(t, _)| old(t)).map_or(0, |(_, g)| *g)
    }
}

/// The background coder of one open store.
#[derive(Debug)]
pub struct Recoder {
    blocks: Arc<BlockReader>,
    options: RecodeOptions,
    queue: Mutex<Queue>,
    wake: Condvar,
    stop: Arc<AtomicBool>,
    /// The background's workers.
    idlers: Idlers,
    /// Commands that code at somebody's wish: the background waits for them.
    commands: AtomicUsize,
    /// Set once those commands are to end that hold it; those that begin later get another one.
    halt: Mutex<Arc<AtomicBool>>,
    coded_bytes: AtomicU64,
    busy_us: AtomicU64,
    /// The last block found no room.
    no_room: AtomicBool,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// So much later, or never as far as anyone here will know.
fn after(now: Instant, wait: Duration) -> Instant {
    const FAR: Duration = Duration::from_secs(100_000_000);
    now.checked_add(wait).unwrap_or(now + FAR)
}

/// Who codes.
#[derive(Clone, Copy)]
struct How<'a> {
    threads: usize,
    /// Nobody waits for it.
    idle: bool,
    /// Set once it is to end.
    halt: &'a Arc<AtomicBool>,
}

impl Recoder {
    /// Starts the coder's thread; what was left staged by earlier mounts is queued at once.
    pub fn start(blocks: Arc<BlockReader>, options: RecodeOptions) -> Arc<Self> {
        let this = Arc::new(Self {
            blocks,
            options,
            queue: Mutex::default(),
            wake: Condvar::new(),
            stop: Arc::default(),
            idlers: Idlers::default(),
            commands: AtomicUsize::new(0),
            halt: Mutex::default(),
            coded_bytes: AtomicU64::new(0),
            busy_us: AtomicU64::new(0),
            no_room: AtomicBool::new(false),
            thread: Mutex::new(None),
        });
        match this.store().staged_inodes() {
            Ok(inos) => inos.into_iter().for_each(|ino| this.touch(ino)),
            Err(e) => log::error!("cannot list what waits for coding: {e}"),
        }
        if this.options.enabled && !this.store().read_only() {
            let me = Arc::clone(&this);
            let spawned = std::thread::Builder::new().name("recode".into()).spawn(move || me.run());
            match spawned {
                Ok(handle) => {
                    *this.thread.lock().unwrap_or_else(PoisonError::into_inner) = Some(handle);
                }
                Err(e) => log::error!("no background coding: {e}"),
            }
        }
        this
    }

    /// Tells the coder that an inode has new staged extents, or a new model.
    pub fn touch(&self, ino: Ino) {
        self.queue().put(ino, after(Instant::now(), self.options.rest));
    }

    /// Has the coder's thread and all commands end soon; what they have not coded yet stays as it is.
    pub fn cancel(&self) {
        self.stop.store(true, Ordering::SeqCst);
        self.halt.lock().unwrap_or_else(PoisonError::into_inner).store(true, Ordering::SeqCst);
        self.idlers.hurry();
        self.wake.notify_all();
    }

    /// An error once the coder is to end, or whoever holds `halt`.
    fn go_on(&self, halt: &AtomicBool) -> Result<(), ReadError> {
        if self.stop.load(Ordering::SeqCst) {
            return Err(StoreError::Closing.into());
        }
        if halt.load(Ordering::SeqCst) { Err(StoreError::Stopped.into()) } else { Ok(()) }
    }

    /// Ends the coder's thread and all commands, and waits for them.
    pub fn stop(&self) {
        self.cancel();
        // One that cannot be rid of its report is not waited for.
        let began = Instant::now();
        while self.commands.load(Ordering::SeqCst) > 0 && began.elapsed() < PATIENCE {
            std::thread::sleep(Duration::from_millis(2));
        }
        let handle = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(handle) = handle
            && handle.join().is_err()
        {
            log::error!("the background coder panicked");
        }
    }

    /// What waits, how fast it goes.
    pub fn status(&self) -> RecodeStatus {
        let waiting = self.store().waiting();
        let mut s = RecodeStatus {
            pending_blocks: waiting.blocks,
            backlog_bytes: waiting.bytes,
            ..RecodeStatus::default()
        };
        let busy = self.busy_us.load(Ordering::Relaxed);
        if let Some(rate) = (self.coded_bytes.load(Ordering::Relaxed) * 1_000_000).checked_div(busy)
        {
            s.coding_bytes_per_s = rate;
        }
        s.eta_s = if s.backlog_bytes == 0 {
            Some(0)
        } else {
            s.backlog_bytes.checked_div(s.coding_bytes_per_s)
        };
        s
    }

    fn settle_threads(&self) -> usize {
        std::thread::available_parallelism().map_or(1, usize::from).max(self.options.threads)
    }

    fn store(&self) -> &Store {
        self.blocks.store()
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Bytes of live frames. Sidecars, which idle threads renew meanwhile, are none of a report's.
    fn frame_bytes(&self) -> Result<u64, ReadError> {
        let stats = self.store().stats()?;
        Ok(stats.coded_bytes.saturating_add(stats.staged_bytes))
    }

    fn run(&self) {
        let tick = Duration::from_secs(1).min(self.options.rest.max(Duration::from_millis(20)));
        let keep = self.options.rest.saturating_mul(TAIL_FACTOR);
        let mut gathered = Instant::now();
        let mut place = 0;
        while !self.stop.load(Ordering::SeqCst) {
            let mut inos = Vec::new();
            let rested = {
                let mut q = self.queue();
                let now = Instant::now();
                q.ages.push_back((now, self.store().next_generation()));
                // Keep one note that is older than the oldest age asked for.
                while q.ages.len() > 1 && now.duration_since(q.ages[1].0) >= keep {
                    q.ages.pop_front();
                }
                while inos.len() < 256
                    && let Some(ino) = q.pop_due(now)
                {
                    inos.push(ino);
                }
                let rest = self.options.rest;
                Rested { block: q.rested(now, rest), tail: q.rested(now, keep), again: false }
            };
            if self.commands.load(Ordering::SeqCst) > 0 {
                // What they code has not to be looked at twice; the rest can wait.
                let soon = Instant::now() + tick;
                inos.drain(..).for_each(|ino| self.queue().put(ino, soon));
            }
            if inos.is_empty() {
                if gathered.elapsed() > self.options.rest {
                    gathered = Instant::now();
                    self.gather(&mut place);
                }
                let q = self.queue();
                drop(self.wake.wait_timeout(q, tick));
                continue;
            }
            // What failed was named there.
            let how = How { threads: self.options.threads, idle: true, halt: &self.stop };
            let _ = self.code(&inos, rested, how, &mut SettleReport::default(), &mut |_| {});
            for ino in inos {
                let mut ready = false;
                let all = |_| {
                    ready = true;
                    Ok(())
                };
                let Ok(young) = self.plan(ino, rested, all) else { continue };
                let wait = match young {
                    Young::None if !ready => continue,
                    // It has rested as long as a block already. Looking more often would cost much where
                    // there are very many small files.
                    Young::Tail if !ready => keep.saturating_sub(self.options.rest) + 2 * tick,
                    _ => self.options.rest.max(tick),
                };
                self.queue().put(ino, after(Instant::now(), wait));
            }
        }
    }

    /// Codes anew what is left of some shared frames whose files were changed or removed for the greater part: the
    /// rest of the frame goes then. They are those after `place`, which goes on.
    fn gather(&self, place: &mut u64) {
        let how = How { threads: self.options.threads, idle: true, halt: &self.stop };
        let report = &mut SettleReport::default();
        let inos = self.store().thinly_held(place).map_err(ReadError::from);
        let coded = inos.and_then(|inos| self.code(&inos, Rested::AGAIN, how, report, &mut |_| {}));
        // What failed otherwise was named there.
        if let Err(ReadError::Store(StoreError::Index(e))) = coded {
            log::error!("{e}");
        }
    }

    /// The name of the model that governs a file; `None` if it is kept uncoded.
    fn wish(&self, ino: Ino) -> Result<Option<String>, ReadError> {
        let own = self.store().xattr(ino, MODEL_XATTR)?;
        let name = match &own {
            Some(name) => String::from_utf8_lossy(name).into_owned(),
            None => self.store().superblock().model.clone(),
        };
        Ok(Some(name).filter(|n| n.as_bytes() != OFF))
    }

    /// Bytes of the store's blocks.
    fn block(&self) -> u64 {
        u64::from(self.store().superblock().block_size.max(4096))
    }

    /// The same of files with this model. One that is not the store's own may want smaller blocks: those of a
    /// network are, since they take so much longer to decode.
    fn block_of(&self, model: &str) -> u64 {
        if model == self.store().superblock().model {
            return self.block();
        }
        // Where there is no such model, nothing will be coded.
        let own = self.blocks.models().tier(model).map(|(tier, _)| u64::from(tier.unit()));
        own.map_or(self.block(), |own| own.min(self.block()))
    }

    /// Plans an inode: hands the runs to code now to `each`, and says what has to rest. There is nothing to do if it is
    /// no file, or not to be coded.
    fn plan(
        &self,
        ino: Ino,
        rested: Rested,
        each: impl FnMut(Run) -> Result<(), ReadError>,
    ) -> Result<Young, ReadError> {
        let Some(attr) = self.store().inode(ino)?.filter(crate::types::Attr::is_file) else {
            return Ok(Young::None);
        };
        let Some(model) = self.wish(ino)? else { return Ok(Young::None) };
        let extents = self.store().extents(ino).map(|e| e.map_err(ReadError::from));
        plan::plan(extents, attr.size, self.block_of(&model), rested, each)
    }

    /// How an inode's runs are coded; `again`: not as those that are coded already.
    fn recipe(&self, ino: Ino, again: bool, how: How) -> Result<Option<Recipe>, ReadError> {
        let (Some(attr), Some(name)) = (self.store().inode(ino)?, self.wish(ino)?) else {
            return Ok(None);
        };
        let (mut tier, model) = self.blocks.models().tier(&name)?;
        tier.words = self.store().xattr(ino, INDEX_XATTR)?.is_some_and(|v| v == INDEX_WORDS);
        tier.lm = tier.lm.map(|lm| {
            let lm = lm.until(Arc::clone(how.halt));
            Arc::new(if how.idle { lm.in_background() } else { lm })
        });
        let mut primer = 0;
        // A file's blocks have one primer.
        for e in self.store().extents(ino).take_while(|_| !again) {
            primer = e?.meta.primer;
            if primer != 0 {
                break;
            }
        }
        // A file of one block would only pay for its primer.
        let wanted = attr.size > self.block_of(&name) && attr.size > Primer::LEN as u64;
        Ok(Some(Recipe::new(tier, model, primer, wanted)))
    }

    /// True if a run cannot be read as far as is known: it was named then, and the background does
    /// not come back to it until it is repaired.
    fn is_damaged(&self, run: &Run) -> bool {
        let store = self.store();
        let primer = |id: u64| if id == 0 { None } else { store.primer(id).ok().flatten() };
        run.extents.iter().any(|e| {
            store.is_damaged(e.frame) || primer(e.meta.primer).is_some_and(|f| store.is_damaged(f))
        })
    }

    /// Codes one job; says what of it was not coded, and why. Notes in `full` that there is no room.
    fn code_one(
        &self,
        job: &Job,
        idle: bool,
        full: &AtomicBool,
        last: &mut Last,
    ) -> (Coded, Option<ReadError>) {
        let (coded, failed) = match self.store().reserve_to_code(job.len(), !idle) {
            Ok(_room) => worker::code_job(&self.blocks, job, last),
            Err(e) => {
                let first = job.runs.first().map(|(ino, run)| (*ino, run.off, e.into()));
                (Coded::default(), first.into_iter().collect())
            }
        };
        let is_room = |e: &ReadError| matches!(e, ReadError::Store(StoreError::NoSpace { .. }));
        let no_room = failed.iter().any(|(.., e)| is_room(e));
        full.fetch_or(no_room, Ordering::Relaxed);
        // That is said once: the background tries again from time to time.
        let said = self.no_room.swap(no_room, Ordering::Relaxed);
        for (ino, off, e) in &failed {
            if !(said && is_room(e)) {
                log::error!("inode {ino} offset {off}: not coded: {e}");
            }
        }
        (coded, failed.into_iter().next().map(|(.., e)| e))
    }

    /// Codes the ready runs of `inos`; adds to `report` how many were swapped in, and what they came to.
    /// `done` is called once per run, with its length. Fails once it is to end; what was coded by then
    /// stays, and stands in the report.
    fn code(
        &self,
        inos: &[Ino],
        rested: Rested,
        how: How,
        report: &mut SettleReport,
        done: &mut dyn FnMut(u64),
    ) -> Result<(), ReadError> {
        let How { threads, idle, halt } = how;
        let began = Instant::now();
        let (job_tx, job_rx) = mpsc::sync_channel::<Job>(threads * 4);
        let (done_tx, done_rx) = mpsc::channel::<(u64, (Coded, Option<ReadError>))>();
        let job_rx = Mutex::new(job_rx);
        let (mut sum, mut failed) = (Coded::default(), None);
        // Where one block finds no room, the rest need not be tried.
        let full = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for _ in 0..threads.max(1) {
                let done_tx = done_tx.clone();
                let (job_rx, full) = (&job_rx, &full);
                scope.spawn(move || {
                    let _idle = idle.then(|| self.idlers.enter());
                    let mut last = Last::default();
                    loop {
                        let job = job_rx.lock().unwrap_or_else(PoisonError::into_inner).recv();
                        let Ok(job) = job else { break };
                        if self.go_on(halt).is_err() || full.load(Ordering::Relaxed) {
                            continue;
                        }
                        let result = self.code_one(&job, idle, full, &mut last);
                        if done_tx.send((job.len(), result)).is_err() {
                            break;
                        }
                    }
                });
            }
            drop(done_tx);
            let mut take = |(len, (coded, error)): (u64, (Coded, Option<ReadError>))| {
                sum.add(coded);
                failed = error.or(failed.take());
                done(len);
            };
            let mut group = Group::new(self.block());
            for &ino in inos {
                if self.go_on(halt).is_err() {
                    break;
                }
                // The first run waits for a second: a file's only one may share a frame.
                let (mut first, mut recipe) = (None, None);
                let mut send = |job: Job| {
                    done_rx.try_iter().for_each(&mut take);
                    // The workers have gone only after a panic.
                    let _ = job_tx.send(job);
                };
                let planned = self.plan(ino, rested, |run| {
                    self.go_on(halt)?;
                    if idle && self.is_damaged(&run) {
                        return Ok(());
                    }
                    let Some(recipe) = &recipe else {
                        recipe = self.recipe(ino, rested.again, how)?.map(Arc::new);
                        first = recipe.is_some().then_some(run);
                        return Ok(());
                    };
                    for run in first.take().into_iter().chain([run]) {
                        send(Job { runs: vec![(ino, run)], recipe: Arc::clone(recipe) });
                    }
                    Ok(())
                });
                if let (Some(run), Some(recipe)) = (first, &recipe) {
                    let job = if group.admits(&run, recipe) {
                        group.add(ino, run, recipe)
                    } else {
                        Some(Job { runs: vec![(ino, run)], recipe: Arc::clone(recipe) })
                    };
                    job.into_iter().for_each(send);
                }
                if let Err(e) = planned
                    && self.go_on(halt).is_ok()
                {
                    log::error!("inode {ino}: not coded: {e}");
                    take((0, (Coded::default(), Some(e))));
                }
            }
            if let Some(job) = group.finish() {
                // The workers have gone only after a panic.
                let _ = job_tx.send(job);
            }
            drop(job_tx);
            done_rx.iter().for_each(take);
        });
        self.coded_bytes.fetch_add(sum.text, Ordering::Relaxed);
        if sum.text > 0 {
            self.busy_us.fetch_add(began.elapsed().as_micros() as u64, Ordering::Relaxed);
        }
        report.blocks += sum.runs;
        report.text_bytes += sum.text;
        report.frame_bytes += sum.frames;
        self.go_on(halt)?;
        failed.map_or(Ok(()), Err)
    }
}
