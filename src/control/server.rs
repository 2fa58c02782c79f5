//! Answering for a mounted store.

use super::client::Home;
use super::{Reply, SOCKET, figures};
use crate::fs::Fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

/// The listening socket; removed when dropped.
#[derive(Debug)]
pub struct Server {
    path: PathBuf,
    /// Nobody is let in any more.
    hung_up: AtomicBool,
    /// Requests that were not answered yet.
    open: Arc<Open>,
}

/// Counts requests that are being answered.
#[derive(Debug, Default)]
struct Open(AtomicUsize);

/// A request that is being answered.
struct Answering(Arc<Open>);

impl Answering {
    fn begin(open: &Arc<Open>) -> Self {
        open.0.fetch_add(1, Ordering::SeqCst);
        Self(Arc::clone(open))
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Server {
    /// Listens in the store's directory. A socket left by a crash is replaced: the caller holds
    /// the store's lock, so nobody else can be listening.
    pub fn start(fs: &Arc<Fs>) -> std::io::Result<Self> {
        let path = fs.store().path().join(SOCKET);
        let _ = std::fs::remove_file(&path);
        let listener = UnixListener::bind(Home::open(fs.store().path())?.socket())?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
        let weak = Arc::downgrade(fs);
        let open = Arc::<Open>::default();
        let counted = Arc::clone(&open);
        std::thread::Builder::new().name("control".into()).spawn(move || {
            for stream in listener.incoming().flatten() {
                let (weak, answering) = (weak.clone(), Answering::begin(&counted));
                let answer = move || {
                    let _answering = answering;
                    if let Err(e) = serve(&weak, stream) {
                        log::debug!("control connection: {e}");
                    }
                };
                let spawned = std::thread::Builder::new().name("control".into()).spawn(answer);
                if let Err(e) = spawned {
                    log::warn!("control connection dropped: {e}");
                }
            }
        })?;
        Ok(Self { path, hung_up: AtomicBool::new(false), open })
    }

    /// Nobody new is let in.
    pub fn hang_up(&self) {
        // Only once: the next daemon's socket has the same name.
        if !self.hung_up.swap(true, Ordering::SeqCst) {
            let _ = std::fs::remove_file(&self.path);
        }
    }

    /// Waits until all who asked have their answers, but not for long: whoever does not listen is
    /// not waited for.
    pub fn finish(&self, patience: Duration) {
        let began = Instant::now();
        while self.open.0.load(Ordering::SeqCst) > 0 && began.elapsed() < patience {
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.hang_up();
    }
}

fn send(stream: &mut UnixStream, reply: &Reply) -> std::io::Result<()> {
    let mut line = serde_json::to_vec(reply)?;
    line.push(b'\n');
    stream.write_all(&line)
}

fn serve(fs: &Weak<Fs>, mut stream: UnixStream) -> std::io::Result<()> {
    let mut line = String::new();
    BufReader::new(stream.try_clone()?).read_line(&mut line)?;
    let reply = match (serde_json::from_str(&line), fs.upgrade()) {
        (Ok(request), Some(fs)) => {
            let mut out = stream.try_clone()?;
            let mut progress = |done, total| {
                // A client that went away does not stop the work.
                let _ = send(&mut out, &Reply::Progress(done, total));
            };
            figures::answer(&fs, &request, &mut progress, Some(std::process::id()))
                .map_or_else(Reply::Failed, Reply::Done)
        }
        (Err(e), _) => Reply::Failed(format!("not understood: {e}; use the daemon's own version")),
        (_, None) => Reply::Failed("the store is being closed".into()),
    };
    send(&mut stream, &reply)
}
