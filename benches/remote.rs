//! An archive of 10 TB in an object store, read by 50: what it asks for, how long that takes, what it costs.
//! `cargo bench --bench remote`.
//!
//! Manifests, garbage collection, the cache and its read-ahead are the program's own; the object store is
//! simulated: it has latencies, a rate for each connection, and S3's list prices (Standard, us-east-1). Segments
//! hold zeros, so that ten terabytes of them need no room; their checksums are real and are checked. What is
//! assumed stands in the constants.

use lmfs::store::Ecc;
use lmfs::store::remote::bundle::{bundle, stamp};
use lmfs::store::remote::cache::Cache;
use lmfs::store::remote::error::{RemoteError, Result};
use lmfs::store::remote::fetch::{Course, Fetcher};
use lmfs::store::remote::gc;
use lmfs::store::remote::lineage::{self, Runs};
use lmfs::store::remote::manifest::{self, Manifest, OBJECTS, Object, Part};
use lmfs::store::remote::sealed::{Listed, SealedStore};
use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

/// Bytes of the archive, as it is stored.
const ARCHIVE: u64 = 10_000_000_000_000;
/// Bytes of a segment.
const SEGMENT: u64 = 64 << 20;
/// It grew over so many days.
const DAYS: u64 = 365;
/// Machines that read.
const READERS: u64 = 50;
/// Reads of one block by each, and how much of them goes to the newest hundredth.
const READS: u64 = 150;
const RECENT_PERCENT: u64 = 70;
/// Segments that each reads from one end to the other.
const SCANS: u64 = 2;
/// Bytes of a coded block, and of the primer that is read with it.
const BLOCK: u64 = 16 << 10;
const PRIMER: u64 = 8 << 10;
/// Cache of each.
const CACHE: u64 = 256 << 20;
/// Seconds until the first byte: reads, writes, listings (of a thousand names), deletions.
const LATENCY: [f64; 4] = [0.030, 0.060, 0.060, 0.020];
/// Bytes per second of a connection.
const RATE: f64 = 90e6;
/// Dollars for a thousand: reads, writes, listings; and for a GB: to elsewhere, and a month's keeping.
const DOLLARS: [f64; 3] = [0.0004, 0.005, 0.005];
const EGRESS: f64 = 0.09;
const MONTH: f64 = 0.023;

#[derive(Debug, Clone)]
enum Thing {
    Bytes(Arc<Vec<u8>>),
    /// A segment of zeros.
    Zeros,
    /// The sidecar of a segment of zeros: its number.
    Sidecar(u32),
}

#[derive(Debug, Default)]
struct Sim {
    things: Mutex<BTreeMap<String, (Thing, u64, Duration)>>,
    sidecars: Mutex<HashMap<u32, Arc<Vec<u8>>>>,
    zeros: Vec<u8>,
    /// Requests by kind, bytes read and written, simulated microseconds.
    counts: [AtomicU64; 4],
    read: AtomicU64,
    written: AtomicU64,
    micros: AtomicU64,
    /// Seconds since the archive began.
    now: AtomicU64,
    /// Requests take their time, so that those made together do not add up.
    slow: AtomicBool,
}

/// What was asked for since the last time.
struct Bill {
    requests: [u64; 4],
    read: u64,
    written: u64,
    seconds: f64,
}

impl Sim {
    fn charge(&self, kind: usize, requests: u64, bytes: u64) {
        self.counts[kind].fetch_add(requests, Ordering::Relaxed);
        let moved = if kind == 1 { &self.written } else { &self.read };
        moved.fetch_add(bytes, Ordering::Relaxed);
        let seconds = LATENCY[kind] * requests as f64 + bytes as f64 / RATE;
        self.micros.fetch_add((seconds * 1e6) as u64, Ordering::Relaxed);
        if self.slow.load(Ordering::Relaxed) {
            std::thread::sleep(Duration::from_secs_f64(seconds));
        }
    }

    /// Does something with requests that take their time; how long it took.
    fn timed<T>(&self, work: impl FnOnce() -> T) -> (T, f64) {
        self.slow.store(true, Ordering::Relaxed);
        let began = Instant::now();
        let done = work();
        self.slow.store(false, Ordering::Relaxed);
        (done, began.elapsed().as_secs_f64())
    }

    fn bill(&self) -> Bill {
        let take = |n: &AtomicU64| n.swap(0, Ordering::Relaxed);
        Bill {
            requests: [0, 1, 2, 3].map(|k| take(&self.counts[k])),
            read: take(&self.read),
            written: take(&self.written),
            seconds: take(&self.micros) as f64 / 1e6,
        }
    }

    fn enter(&self, name: String, thing: Thing, len: u64) {
        let now = Duration::from_secs(self.now.load(Ordering::Relaxed));
        self.things.lock().expect("no panic").insert(name, (thing, len, now));
    }

    fn sidecar(&self, number: u32) -> Arc<Vec<u8>> {
        let mut sidecars = self.sidecars.lock().expect("no panic");
        let made = || {
            let bytes = self.zeros.clone();
            let made =
                bundle(Ecc::None, stamp(&[7; 16], Ecc::None), number, bytes).expect("no error");
            Arc::new(made.sidecar)
        };
        Arc::clone(sidecars.entry(number).or_insert_with(made))
    }

    fn range(&self, name: &str, range: Option<Range<u64>>) -> Result<Vec<u8>> {
        let found = self.things.lock().expect("no panic").get(name).cloned();
        let Some((thing, len, _)) = found else {
            self.charge(0, 1, 0);
            return Err(RemoteError::NotFound(name.into()));
        };
        let range = range.unwrap_or(0..len);
        self.charge(0, 1, range.end - range.start);
        let (from, to) = (range.start as usize, range.end as usize);
        Ok(match thing {
            Thing::Bytes(bytes) => bytes[from..to].to_vec(),
            Thing::Zeros => vec![0; to - from],
            Thing::Sidecar(number) => self.sidecar(number)[from..to].to_vec(),
        })
    }
}

impl SealedStore for Sim {
    fn get(&self, name: &str) -> Result<Vec<u8>> {
        self.range(name, None)
    }
    fn get_range(&self, name: &str, range: Range<u64>) -> Result<Vec<u8>> {
        self.range(name, Some(range))
    }
    fn put(&self, name: &str, bytes: &[u8]) -> Result<()> {
        self.charge(1, 1, bytes.len() as u64);
        self.enter(name.into(), Thing::Bytes(Arc::new(bytes.to_vec())), bytes.len() as u64);
        Ok(())
    }
    fn put_if_absent(&self, name: &str, bytes: &[u8]) -> Result<()> {
        if self.things.lock().expect("no panic").contains_key(name) {
            return Err(RemoteError::Exists(name.into()));
        }
        self.put(name, bytes)
    }
    fn delete(&self, name: &str) -> Result<()> {
        self.charge(3, 1, 0);
        self.things.lock().expect("no panic").remove(name);
        Ok(())
    }
    fn list(&self, dir: &str) -> Result<Vec<Listed>> {
        let things = self.things.lock().expect("no panic");
        let (from, to) = (format!("{dir}/"), format!("{dir}0"));
        let listed: Vec<Listed> = things
            .range(from..to)
            .map(|(name, (_, bytes, at))| Listed {
                name: name.clone(),
                bytes: *bytes,
                modified: SystemTime::UNIX_EPOCH + *at,
            })
            .collect();
        self.charge(2, (listed.len() as u64).div_ceil(1000).max(1), 0);
        Ok(listed)
    }
    fn url(&self) -> String {
        "sim".into()
    }
}

impl Bill {
    fn dollars(&self) -> f64 {
        (0..3).map(|k| self.requests[k] as f64 * DOLLARS[k] / 1000.0).sum()
    }

    fn print(&self, what: &str) {
        let [gets, puts, lists, deletes] = self.requests;
        println!(
            "{what}: {gets} reads of {:.1} MB, {puts} writes of {:.1} MB, {lists} listings, {deletes} deletions; ${:.4}, \
             {:.1} s one after another",
            self.read as f64 / 1e6,
            self.written as f64 / 1e6,
            self.dollars(),
            self.seconds
        );
    }
}

/// A generator (SplitMix64), so that each run is the same.
struct Dice(u64);

impl Dice {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ x >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ x >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        (x ^ x >> 31) % n
    }
}

fn object(kind: &str, number: u32, len: u64) -> Object {
    Object { hash: *blake3::hash(format!("{kind} {number}").as_bytes()).as_bytes(), len }
}

fn main() -> std::result::Result<(), Box<dyn std::error::Error>> {
    // Of no use to `cargo test --benches`.
    if std::env::args().any(|a| a == "--test") || !std::env::args().any(|a| a == "--bench") {
        return Ok(());
    }
    let sim = Arc::new(Sim { zeros: vec![0; SEGMENT as usize], ..Sim::default() });
    let sample = bundle(Ecc::None, stamp(&[7; 16], Ecc::None), 1, sim.zeros.clone())?.part;
    let count = (ARCHIVE / SEGMENT) as u32;
    let parts: Vec<Part> = (1..=count)
        .map(|number| Part {
            number,
            object: object("segment", number, SEGMENT),
            sidecar: object("sidecar", number, sample.sidecar.len),
            tables: sample.tables,
        })
        .collect();
    let second = |n: u32| u64::from(n) * DAYS * 86_400 / u64::from(count);
    let at = |n: u32| Manifest {
        number: n.into(),
        epoch: 1,
        made: second(n),
        checkpoint: n,
        superblock: vec![0; 128],
        models: Vec::new(),
        parts: parts[..n as usize].to_vec(),
        tail: Vec::new(),
    };
    println!("{count} segments of 64 MiB in {DAYS} days, {} a day", u64::from(count) / DAYS);

    // The writer. Of all manifests some are made, evenly spread.
    const STEP: u32 = 256;
    let (mut bytes, mut packing, mut made) = (0, Duration::ZERO, 0);
    for n in (STEP..=count).step_by(STEP as usize) {
        let began = Instant::now();
        let (manifest, _) = at(n).pack();
        packing += began.elapsed();
        bytes += manifest.len() as u64;
        made += 1;
    }
    let (mean, runs) = (bytes / made, u64::from(count >> 10));
    let puts = u64::from(count) * 3 + runs;
    println!(
        "written in a year: {puts} writes (segments, sidecars, manifests, runs), ${:.2}; a manifest has {:.1} kB, \
         {:.4}% of what it is written for, and takes {:.1} ms to make",
        puts as f64 * DOLLARS[1] / 1000.0,
        mean as f64 / 1e3,
        mean as f64 * 100.0 / SEGMENT as f64,
        packing.as_secs_f64() * 1e3 / made as f64,
    );
    println!("kept: ${:.0} a month", ARCHIVE as f64 / 1e9 * MONTH);

    // What lies there at the end of the year: all segments, and the manifests of three days.
    for p in &parts {
        sim.now.store(second(p.number), Ordering::Relaxed);
        sim.enter(p.object.name(), Thing::Zeros, SEGMENT);
        sim.enter(p.sidecar.name(), Thing::Sidecar(p.number), p.sidecar.len);
    }
    let days_of = |d: u64| (u64::from(count) * d / DAYS) as u32;
    let mut known = Runs::new();
    for n in count - days_of(3)..=count {
        sim.now.store(second(n), Ordering::Relaxed);
        let (bytes, runs) = at(n).pack();
        for (run, bytes) in runs {
            if known.insert(run.object.hash, bytes.clone()).is_none() {
                sim.put(&run.object.name(), &bytes)?;
            }
        }
        // Each upload leaves the end of the log before.
        let tail = object("tail", n, SEGMENT / 16);
        sim.enter(tail.name(), Thing::Zeros, tail.len);
        lineage::put(&*sim, &lineage_mark(n, &bytes), &bytes)?;
    }
    sim.bill();

    // Opening: the newest manifest and its runs.
    let open = || -> Result<Manifest> {
        let found = lineage::newest(&*sim)?.ok_or(RemoteError::NotFound("a manifest".into()))?;
        lineage::whole(&*sim, found.packed, &mut Runs::new())
    };
    let (m, seconds) = sim.timed(open);
    let m = m?;
    assert_eq!(m.parts.len(), count as usize);
    sim.bill().print("opened (without the checkpoint, whose bytes depend on the number of files)");
    println!("  it took {seconds:.2} s, for up to 16 requests are made at a time");

    // Following: a look that finds nothing, for each reader every 60 seconds.
    assert!(lineage::after(&*sim, m.number)?.is_none());
    let look = sim.bill().dollars();
    println!(
        "looking for news: ${:.2} a month for {READERS} readers",
        look * 43_200.0 * READERS as f64
    );

    // Collecting garbage, four times a day.
    sim.now.store(second(count) + 3600, Ordering::Relaxed);
    let began = Instant::now();
    let c = gc::collect(&*sim, gc::GRACE, "probe", &mut |_, _| true)?;
    let bill = sim.bill();
    bill.print("collected");
    println!(
        "  {} manifests, {} objects of {:.1} GB went; {:.1} s of computing here; ${:.2} a month if done every six hours",
        c.manifests,
        c.objects,
        c.bytes as f64 / 1e9,
        began.elapsed().as_secs_f64(),
        bill.dollars() * 120.0
    );
    assert!(sim.list(OBJECTS)?.len() >= 2 * parts.len() && manifest::number("x").is_none());
    sim.bill();

    // Readers.
    let (mut random, mut scanned) = (Vec::new(), Vec::new());
    let (mut hits, mut misses) = (0, 0);
    for reader in 0..READERS {
        let dir = tempfile::tempdir()?;
        let cache = Cache::open(dir.path(), CACHE)?;
        let fetcher = Fetcher::new(Arc::clone(&sim) as _, cache, stamp(&[7; 16], Ecc::None));
        let mut dice = Dice(reader);
        let mut courses: HashMap<u32, Mutex<Course>> = HashMap::new();
        for _ in 0..READS {
            let recent = dice.below(100) < RECENT_PERCENT;
            let span = if recent { u64::from(count) / 100 } else { u64::from(count) };
            let part = &parts[(u64::from(count) - 1 - dice.below(span)) as usize];
            let course = courses.entry(part.number).or_default();
            for len in [PRIMER, BLOCK] {
                fetcher.read(part, course, dice.below(SEGMENT - len), len as usize)?;
            }
        }
        random.push(sim.bill());
        for _ in 0..SCANS {
            let part = &parts[(u64::from(count) - 1 - dice.below(u64::from(count) / 100)) as usize];
            let course = Mutex::default();
            for off in (0..SEGMENT).step_by(1 << 20) {
                fetcher.read(part, &course, off, 1 << 20)?;
            }
        }
        scanned.push(sim.bill());
        let f = fetcher.cache().figures();
        (hits, misses) = (hits + f.hits, misses + f.misses);
    }
    // The time of some, by a reader that has nothing.
    let dir = tempfile::tempdir()?;
    let cold = Fetcher::new(
        Arc::clone(&sim) as _,
        Cache::open(dir.path(), CACHE)?,
        stamp(&[7; 16], Ecc::None),
    );
    const TIMED: u32 = 40;
    let some = || parts.iter().step_by(parts.len() / TIMED as usize).take(TIMED as usize);
    let read_some = || -> Result<()> {
        // A primer and a block, as the reader of blocks asks for them.
        for part in some() {
            cold.prefetch(&[(*part, 0..PRIMER), (*part, SEGMENT / 2..SEGMENT / 2 + BLOCK)]);
            for off in [0, SEGMENT / 2] {
                cold.read(part, &Mutex::default(), off, PRIMER as usize)?;
            }
        }
        Ok(())
    };
    for part in some() {
        sim.sidecar(part.number);
    }
    let (read, cold_seconds) = sim.timed(read_some);
    read?;
    let cold_gets = sim.bill().requests[0];
    let sum = |bills: &[Bill]| {
        let gets: u64 = bills.iter().map(|b| b.requests[0]).sum();
        let read: u64 = bills.iter().map(|b| b.read).sum();
        let seconds: f64 = bills.iter().map(|b| b.seconds).sum();
        (gets, read, seconds)
    };
    let (gets, read, seconds) = sum(&random);
    let all = (READERS * READS) as f64;
    println!(
        "cold blocks: {:.2} requests and {:.0} ms each, with primer and checksums; {:.1} kB fetched for {:.1} kB wanted",
        gets as f64 / all,
        seconds * 1e3 / all,
        read as f64 / all / 1e3,
        (BLOCK + PRIMER) as f64 / 1e3
    );
    println!(
        "of which nothing is cached: {:.2} requests and {:.0} ms each, checksums and primer included",
        cold_gets as f64 / f64::from(TIMED),
        cold_seconds * 1e3 / f64::from(TIMED)
    );
    let (gets, read, seconds) = sum(&scanned);
    println!(
        "reading on: {:.2} requests for each MiB, {:.1} MB/s over one connection of {:.0} MB/s",
        gets as f64 * f64::from(1 << 20) / read as f64,
        read as f64 / seconds / 1e6,
        RATE / 1e6
    );
    println!(
        "cache of {} MiB: {:.1}% of parts were there",
        CACHE >> 20,
        hits as f64 * 100.0 / (hits + misses) as f64
    );
    let (g, r, _) = sum(&random);
    println!(
        "{READERS} readers as above: ${:.3} for requests, ${:.2} for {:.1} GB to elsewhere (nothing within the region)",
        (g + gets) as f64 * DOLLARS[0] / 1000.0,
        (r + read) as f64 / 1e9 * EGRESS,
        (r + read) as f64 / 1e9
    );
    // A clone fetches four objects at a time, each in steps of 8 MiB.
    let per_segment = SEGMENT as f64 / RATE + 9.0 * LATENCY[0] + LATENCY[0];
    let requests = u64::from(count) * 9;
    println!(
        "a clone: {requests} requests, ${:.2}, and ${:.0} for its bytes to elsewhere; {:.1} hours with four connections",
        requests as f64 * DOLLARS[0] / 1000.0,
        ARCHIVE as f64 / 1e9 * EGRESS,
        f64::from(count) * per_segment / 4.0 / 3600.0
    );
    Ok(())
}

fn lineage_mark(n: u32, bytes: &[u8]) -> lmfs::store::remote::home::Mark {
    lmfs::store::remote::home::Mark::of(n.into(), bytes)
}
