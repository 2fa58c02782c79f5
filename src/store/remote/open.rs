//! From a URL to an object store.

use super::error::{RemoteError, Result};
#[cfg(feature = "remote")]
use super::object::UrlStore;
use super::sealed::{DirStore, SealedStore};
use super::steady::Steady;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// How long an answer of the object store is waited for, unless somebody says otherwise.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// True for what names an object store and not a directory: it begins with a scheme.
pub fn is_url(text: &str) -> bool {
    text.split_once("://").is_some_and(|(scheme, _)| {
        let letter = |c: char| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.');
        scheme.starts_with(|c: char| c.is_ascii_alphabetic()) && scheme.chars().all(letter)
    })
}

/// The directory that a URL names, if it is one on this machine.
fn directory(text: &str) -> Option<PathBuf> {
    match text.strip_prefix("file://") {
        Some(path) => Some(path.into()),
        None if is_url(text) => None,
        None => Some(text.into()),
    }
}

/// A URL as it is kept: a directory by its whole path.
pub fn canonical(text: &str) -> Result<String> {
    match directory(text) {
        Some(path) => match std::path::absolute(&path) {
            Ok(path) => Ok(format!("file://{}", path.display())),
            Err(e) => Err(RemoteError::Refused(format!("{text}: {e}"))),
        },
        None => Ok(text.trim_end_matches('/').to_owned()),
    }
}

/// Opens an object store; nothing is asked of it yet. What does not answer within `patience` fails.
pub fn open(text: &str, patience: Duration) -> Result<Arc<Steady>> {
    let store: Arc<dyn SealedStore> = match directory(text) {
        Some(path) if path.is_absolute() => Arc::new(DirStore::new(&path)),
        Some(path) => {
            let text = format!("{}: write file:// and a whole path", path.display());
            return Err(RemoteError::Refused(text));
        }
        None => url_store(text, patience)?,
    };
    Ok(Arc::new(Steady::new(store, patience)))
}

#[cfg(feature = "remote")]
fn url_store(text: &str, patience: Duration) -> Result<Arc<dyn SealedStore>> {
    // Several attempts within the time that all of them have.
    let attempt = (patience / 3).max(Duration::from_secs(1)).min(patience);
    Ok(Arc::new(UrlStore::open(text, attempt)?))
}

#[cfg(not(feature = "remote"))]
fn url_store(text: &str, _: Duration) -> Result<Arc<dyn SealedStore>> {
    Err(RemoteError::Refused(format!(
        "{text}: this lmfs was built without object stores; build it with the feature 'remote'"
    )))
}
