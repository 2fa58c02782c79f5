//! Object stores that fail, lose answers, go away, or do not heed conditions.

use super::*;

/// An object store that fails now and then, as it was told to.
#[derive(Debug)]
pub struct Flaky {
    inner: DirStore,
    asked: AtomicU64,
    /// Each so many requests one fails; 0: all.
    every: u64,
}

impl Flaky {
    /// Of each so many requests on the objects in a directory one fails; 0: all do.
    pub fn new(objects: &Path, every: u64) -> Self {
        Self { inner: DirStore::new(objects), asked: AtomicU64::new(0), every }
    }

    fn fails(&self) -> Option<RemoteError> {
        let n = self.asked.fetch_add(1, Ordering::Relaxed);
        let fails = self.every == 0 || n.is_multiple_of(self.every);
        fails.then(|| RemoteError::Unavailable("on purpose".into()))
    }

    fn ask<T>(&self, f: impl FnOnce() -> remote::error::Result<T>) -> remote::error::Result<T> {
        match self.fails() {
            Some(e) => Err(e),
            None => f(),
        }
    }
}

impl SealedStore for Flaky {
    fn get(&self, name: &str) -> remote::error::Result<Vec<u8>> {
        self.ask(|| self.inner.get(name))
    }
    fn get_range(&self, name: &str, range: Range<u64>) -> remote::error::Result<Vec<u8>> {
        // Too few bytes are a failure, too.
        let short = self.fails().is_some();
        let bytes = self.inner.get_range(name, range)?;
        let n = if short { bytes.len() / 2 } else { bytes.len() };
        Ok(bytes[..n].to_vec())
    }
    fn put(&self, name: &str, bytes: &[u8]) -> remote::error::Result<()> {
        self.ask(|| self.inner.put(name, bytes))
    }
    fn put_if_absent(&self, name: &str, bytes: &[u8]) -> remote::error::Result<()> {
        // It arrives, and the answer does not.
        let put = self.inner.put_if_absent(name, bytes);
        self.fails().map_or(put, Err)
    }
    fn delete(&self, name: &str) -> remote::error::Result<()> {
        self.ask(|| self.inner.delete(name))
    }
    fn list(&self, dir: &str) -> remote::error::Result<Vec<Listed>> {
        self.ask(|| self.inner.list(dir))
    }
    fn url(&self) -> String {
        self.inner.url()
    }
}

fn flaky(p: &Place, every: u64, patience: Duration) -> Arc<Steady> {
    Arc::new(Steady::new(Arc::new(Flaky::new(&p.objects(), every)), patience))
}

#[test]
fn what_fails_now_and_then_is_tried_again() {
    let p = Place::new();
    let store = p.attached();
    let steady = flaky(&p, 3, Duration::from_secs(20));
    lock(&store.remote.attached).as_mut().unwrap().store = Arc::clone(&steady);
    let files = fill(&store, 0..1);
    push(&store).unwrap();
    fill(&store, 1..2);
    assert_eq!(push(&store).unwrap().manifest, 2);
    assert!(steady.requests().retries > 2 && steady.requests().failed == 0);
    let view = remote::View::open(flaky(&p, 3, Duration::from_secs(20)), &p.view_dir("a"), CACHE);
    let view = open::open_view(&p.view_dir("a"), Arc::new(view.unwrap())).unwrap();
    holds(&view, &files);
}

#[test]
fn a_server_that_is_away_stops_nobody_who_does_not_need_it() {
    let p = Place::new();
    let store = p.attached();
    let files = fill(&store, 0..6);
    push(&store).unwrap();
    let patience = Duration::from_millis(300);
    let steady = Arc::new(Steady::new(
        Arc::new(Flaky {
            inner: DirStore::new(&p.objects()),
            asked: AtomicU64::new(1),
            every: 1 << 40,
        }),
        patience,
    ));
    let view = remote::View::open(steady, &p.view_dir("a"), CACHE).unwrap();
    let view = open::open_view(&p.view_dir("a"), Arc::new(view)).unwrap();
    holds(&view, &files);
    std::fs::rename(p.objects(), p.dir.path().join("away")).unwrap();
    std::fs::create_dir(p.objects()).unwrap();
    std::fs::write(p.objects().join("objects"), "in the way").unwrap();
    let began = Instant::now();
    // What is here can be read.
    holds(&view, &files);
    // The rest is an error, soon, and no damage that anybody would note.
    view.view.as_ref().unwrap().forget();
    let failed = files.iter().filter(|(ino, b)| contents(&view, *ino, b.len()).is_err()).count();
    assert!(failed > 0 && began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    // Changes here go on.
    fill(&store, 6..8);
    assert!(push(&store).is_err());
    std::fs::remove_dir_all(p.objects()).unwrap();
    std::fs::rename(p.dir.path().join("away"), p.objects()).unwrap();
    holds(&view, &files);
    push(&store).unwrap();
}

/// An object store that takes conditions and does not heed them.
#[derive(Debug)]
struct Careless(DirStore);

impl SealedStore for Careless {
    fn get(&self, name: &str) -> remote::error::Result<Vec<u8>> {
        self.0.get(name)
    }
    fn get_range(&self, name: &str, range: Range<u64>) -> remote::error::Result<Vec<u8>> {
        self.0.get_range(name, range)
    }
    fn put(&self, name: &str, bytes: &[u8]) -> remote::error::Result<()> {
        self.0.put(name, bytes)
    }
    fn put_if_absent(&self, name: &str, bytes: &[u8]) -> remote::error::Result<()> {
        self.0.put(name, bytes)
    }
    fn delete(&self, name: &str) -> remote::error::Result<()> {
        self.0.delete(name)
    }
    fn list(&self, dir: &str) -> remote::error::Result<Vec<Listed>> {
        self.0.list(dir)
    }
    fn url(&self) -> String {
        "http://careless".into()
    }
}

#[test]
fn a_server_without_conditional_puts_is_refused_with_the_reason() {
    let p = Place::new();
    let e = lineage::check_conditions(&Careless(DirStore::new(&p.objects())), "x").unwrap_err();
    assert!(matches!(&e, RemoteError::NoConditionalPut(url) if url == "http://careless"), "{e}");
    assert!(e.to_string().contains("If-None-Match"));
    lineage::check_conditions(&DirStore::new(&p.objects()), "x").unwrap();
    assert!(!p.objects().join("probe/x").exists());
}

/// An object store that does not answer for a while.
#[derive(Debug)]
struct Slow {
    inner: DirStore,
    away: std::sync::atomic::AtomicBool,
    asked: AtomicU64,
}

impl Slow {
    fn wait(&self) -> remote::error::Result<()> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        if self.away.load(Ordering::SeqCst) {
            std::thread::sleep(Duration::from_millis(50));
            return Err(RemoteError::Timeout("slow".into()));
        }
        Ok(())
    }
}

impl SealedStore for Slow {
    fn get(&self, name: &str) -> remote::error::Result<Vec<u8>> {
        self.wait().and_then(|()| self.inner.get(name))
    }
    fn get_range(&self, name: &str, range: Range<u64>) -> remote::error::Result<Vec<u8>> {
        self.wait().and_then(|()| self.inner.get_range(name, range))
    }
    fn put(&self, name: &str, bytes: &[u8]) -> remote::error::Result<()> {
        self.wait().and_then(|()| self.inner.put(name, bytes))
    }
    fn put_if_absent(&self, name: &str, bytes: &[u8]) -> remote::error::Result<()> {
        self.wait().and_then(|()| self.inner.put_if_absent(name, bytes))
    }
    fn delete(&self, name: &str) -> remote::error::Result<()> {
        self.wait().and_then(|()| self.inner.delete(name))
    }
    fn list(&self, dir: &str) -> remote::error::Result<Vec<Listed>> {
        self.wait().and_then(|()| self.inner.list(dir))
    }
    fn url(&self) -> String {
        "slow".into()
    }
}

#[test]
fn a_server_that_is_away_is_asked_by_one_at_a_time() {
    let dir = tempfile::tempdir().unwrap();
    let slow = Arc::new(Slow {
        inner: DirStore::new(dir.path()),
        away: true.into(),
        asked: AtomicU64::new(0),
    });
    let steady = Steady::new(Arc::clone(&slow) as _, Duration::from_millis(200));
    assert!(steady.put("objects/a", b"a").is_err());
    let before = slow.asked.load(Ordering::SeqCst);
    let began = Instant::now();
    // Each alone would be tried several times.
    std::thread::scope(|scope| {
        for _ in 0..40 {
            scope.spawn(|| {
                let e = steady.get("objects/a").unwrap_err();
                assert!(matches!(e, RemoteError::Timeout(_)), "{e}");
            });
        }
    });
    let asked = slow.asked.load(Ordering::SeqCst) - before;
    assert!(asked < 30 && began.elapsed() < Duration::from_secs(2), "{asked}");
    assert!(steady.requests().failed >= 41);
    slow.away.store(false, Ordering::SeqCst);
    std::thread::sleep(Duration::from_millis(30));
    steady.put("objects/a", b"a").unwrap();
    // From now on nobody is refused.
    std::thread::scope(|scope| {
        for _ in 0..40 {
            scope.spawn(|| assert_eq!(steady.get("objects/a").unwrap(), b"a"));
        }
    });
}
