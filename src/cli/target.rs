//! What a DIR|STORE argument means, and asking the daemon or doing it here.

use super::mounts::{self, Mount, Place};
use super::options::RemoteOptions;
use super::{FAILED, Failure, dead, views};
use crate::control::{self, ControlError, FileName, Request};
use crate::fs::Fs;
use crate::store::{OpenOptions, Store};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A store, and the mounted file system through which it was named, if it was. Nothing is held open:
/// that would keep the mount busy as long as a command takes.
#[derive(Debug)]
pub struct Target {
    /// The store's directory.
    pub store: PathBuf,
    /// The mount through which it was named.
    pub mount: Option<Mount>,
}

/// What a DIR|STORE argument names.
pub fn of(path: &Path) -> Result<Target, Failure> {
    if views::url(path).is_some() {
        return Ok(Target { store: path.to_owned(), mount: None });
    }
    Ok(match mounts::of(path)? {
        Some(place) => place.mount.into(),
        None => {
            Target { store: path.canonicalize().unwrap_or_else(|_| path.to_owned()), mount: None }
        }
    })
}

impl From<Mount> for Target {
    fn from(mount: Mount) -> Self {
        Self { store: mount.store.clone(), mount: Some(mount) }
    }
}

impl Target {
    /// Files as the daemon knows them: by their inode numbers, whatever way leads to them. Of a store
    /// that was not named by its mount, a path on its mount, or else inside the store.
    pub fn files(&self, paths: &[PathBuf]) -> Result<Vec<FileName>, Failure> {
        paths.iter().map(|p| self.file(p)).collect()
    }

    fn file(&self, path: &Path) -> Result<FileName, Failure> {
        let shown = path.display();
        match mounts::of(path)? {
            Some(found) if self.holds(&found) => by_inode(&found, path),
            None if self.mount.is_none() => Ok(FileName::Path(path.as_os_str().as_bytes().into())),
            None if path.symlink_metadata().is_err() => {
                Err(Failure::new(FAILED, format!("{shown}: there is no such file")))
            }
            _ => {
                let of = self.mount.as_ref().map_or(&self.store, |m| &m.dir);
                let text = format!("{shown} does not lie in {}", of.display());
                Err(Failure::new(FAILED, text))
            }
        }
    }

    fn holds(&self, found: &Place) -> bool {
        match &self.mount {
            Some(own) => own.device == found.mount.device,
            None => found.mount.store == self.store,
        }
    }

    /// Runs a request on a mounted store through its daemon, on an unmounted one right here.
    pub fn run(
        &self,
        request: &Request,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<serde_json::Value, Failure> {
        match (control::request(&self.store, request, progress), &self.mount) {
            // The mount's source is a path as the daemon sees it.
            (Err(ControlError::NotMounted), Some(mount))
                if !self.store.join("superblock").exists()
                    && views::url_of(&self.store).is_none() =>
            {
                let text = format!(
                    "{}: its store {} cannot be reached from here: it may lie in another mount namespace \
                     or outside this root directory",
                    mount.dir.display(),
                    self.store.display()
                );
                Err(Failure::new(FAILED, text))
            }
            (Err(ControlError::NotMounted), Some(mount)) if dead::is_dead(&mount.dir) => {
                Err(mounts::dead(&mount.dir))
            }
            (Err(ControlError::NotMounted), _) => offline(&self.store, request, progress),
            (r, _) => Ok(r?),
        }
    }
}

/// A file on a mounted lmfs, as its daemon knows it.
pub fn by_inode(found: &Place, named: &Path) -> Result<FileName, Failure> {
    let inode = found.inode().map_err(|e| match e.raw_os_error() {
        Some(libc::ENOTCONN | libc::ECONNABORTED) => mounts::dead(named),
        _ => Failure::new(FAILED, format!("{}: {e}", named.display())),
    })?;
    Ok(FileName::Inode { inode, shown: named.to_string_lossy().into_owned() })
}

/// Runs a request on what a DIR|STORE argument names.
pub fn run(
    path: &Path,
    request: &Request,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<serde_json::Value, Failure> {
    of(path)?.run(request, progress)
}

fn offline(
    path: &Path,
    request: &Request,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<serde_json::Value, Failure> {
    let read_only = match request {
        Request::Status | Request::Stat { .. } | Request::RemoteStatus => true,
        Request::Scrub(o) => !o.repair,
        _ => false,
    };
    let (_view, store) = match views::url(path) {
        Some(url) => {
            let (view, store) = views::open(url, &RemoteOptions::default())?;
            (Some(view), store)
        }
        None => (None, Store::open(path, &OpenOptions { read_only })?),
    };
    let fs: Arc<Fs> = Fs::open(store, super::options::Options::offline())?;
    let answer = control::answer(&fs, request, progress, None);
    let closed = fs.shutdown();
    let value = answer.map_err(|e| Failure::new(FAILED, e))?;
    closed?;
    Ok(value)
}
