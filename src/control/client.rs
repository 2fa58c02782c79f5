//! Asking a mounted store.

use super::{Reply, Request, SOCKET};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::UnixStream;
use std::path::Path;

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

/// Sends a request to the daemon of `store` and waits for its answer.
pub fn request(
    store: &Path,
    request: &Request,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<serde_json::Value, ControlError> {
    let broken = |e: &dyn std::fmt::Display| ControlError::Broken(e.to_string());
    let socket = store.join(SOCKET);
    // Not one that a link leads to: what is asked is for this store's daemon.
    if !socket.symlink_metadata().is_ok_and(|m| m.file_type().is_socket()) {
        return Err(ControlError::NotMounted);
    }
    let mut stream = UnixStream::connect(socket).map_err(|_| ControlError::NotMounted)?;
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
