//! Answering for a mounted store.

use super::{Reply, SOCKET, figures};
use crate::fs::Fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::{Arc, Weak};

/// The listening socket; removed when dropped.
#[derive(Debug)]
pub struct Server {
    path: PathBuf,
}

impl Server {
    /// Listens in the store's directory. A socket left by a crash is replaced: the caller holds
    /// the store's lock, so nobody else can be listening.
    pub fn start(fs: &Arc<Fs>) -> std::io::Result<Self> {
        let path = fs.store().path().join(SOCKET);
        let _ = std::fs::remove_file(&path);
        let listener = UnixListener::bind(&path)?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
        let weak = Arc::downgrade(fs);
        std::thread::Builder::new().name("control".into()).spawn(move || {
            for stream in listener.incoming().flatten() {
                let weak = weak.clone();
                let answer = move || {
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
        Ok(Self { path })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
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
