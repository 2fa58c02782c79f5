//! Asking a mounted store.

use super::{Reply, Request, SOCKET};
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

/// Why an answer was not had.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// Nobody listens: the store is not mounted.
    #[error("the store is not mounted")]
    NotMounted,
    /// The daemon refused.
    #[error("{0}")]
    Refused(String),
    /// The connection broke.
    #[error("the daemon does not answer: {0}")]
    Broken(String),
}

/// A store's directory, held open so that its socket has a short name whatever the directory's own
/// name is: an address takes 107 bytes.
#[derive(Debug)]
pub(super) struct Home(File);

impl Home {
    pub(super) fn open(store: &Path) -> std::io::Result<Self> {
        let flags = libc::O_PATH | libc::O_DIRECTORY;
        std::fs::OpenOptions::new().read(true).custom_flags(flags).open(store).map(Self)
    }

    /// The socket's address.
    pub(super) fn socket(&self) -> PathBuf {
        Path::new("/proc/self/fd").join(self.0.as_raw_fd().to_string()).join(SOCKET)
    }
}

fn connect(store: &Path) -> Option<UnixStream> {
    let home = Home::open(store).ok()?;
    let socket = home.socket();
    // Not one that a link leads to: what is asked is for this store's daemon.
    if !socket.symlink_metadata().is_ok_and(|m| m.file_type().is_socket()) {
        return None;
    }
    UnixStream::connect(socket).ok()
}

/// True if a daemon takes requests for this store.
pub fn listens(store: &Path) -> bool {
    connect(store).is_some()
}

/// Sends a request to the daemon of `store` and waits for its answer.
pub fn request(
    store: &Path,
    request: &Request,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<serde_json::Value, ControlError> {
    let broken = |e: &dyn std::fmt::Display| ControlError::Broken(e.to_string());
    let mut stream = connect(store).ok_or(ControlError::NotMounted)?;
    let mut line = serde_json::to_vec(request).map_err(|e| broken(&e))?;
    line.push(b'\n');
    stream.write_all(&line).map_err(|e| broken(&e))?;
    for line in BufReader::new(stream).lines() {
        let line = line.map_err(|e| broken(&e))?;
        match serde_json::from_str(&line).map_err(|e| broken(&e))? {
            Reply::Progress(done, total) => progress(done, total),
            Reply::Done(value) => return Ok(value),
            Reply::Failed(why) => return Err(ControlError::Refused(why)),
        }
    }
    Err(ControlError::Broken("it closed the connection".into()))
}
