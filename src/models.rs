//! Language models by name or id: those that are part of the program, and those in the user's registry.

use crate::block::{Lm, LmError, ModelId};
use crate::model::{Registry, RegistryError};
use crate::store::StoreError;
use std::borrow::Cow;
use std::sync::{Arc, Mutex, PoisonError};

/// The model of a new store, and where none is named.
pub const DEFAULT: &str = "base";
/// Canonical files that are part of the program, by name. No constant: each use would have a copy.
pub static EMBEDDED: &[(&str, &[u8])] = &[("base", lmfs_base::MODEL)];

/// Why a model cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// It is not in the registry.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// It is refused.
    #[error("model '{name}': {source}")]
    Refused {
        /// Its name.
        name: String,
        /// Why.
        #[source]
        source: LmError,
    },
    /// The store cannot hand it out or take it.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// It is not in the store.
    #[error("the store has no model '{0}' (lmfs status shows those it has)")]
    NotPinned(String),
    /// It cannot be removed.
    #[error(
        "model '{name}' is needed by {by}; move all to another first: lmfs recode DIR --model OTHER"
    )]
    Needed {
        /// Its name.
        name: String,
        /// What needs it.
        by: String,
    },
    /// A model that the store needs does not run. It has been logged.
    #[error("model '{name}', id {id}: {reason}")]
    Unusable {
        /// Its name.
        name: String,
        /// Its id in hexadecimal.
        id: String,
        /// What is wrong with it.
        reason: String,
    },
}

/// The canonical file of the model with this name, or whose id begins so. A model that the user has
/// imported goes before an embedded one of the same name.
pub fn find(name: &str) -> Result<Cow<'static, [u8]>, RegistryError> {
    match (Registry::of_user().find(name), embedded(name)) {
        (Err(RegistryError::Unknown { .. }), Some(bytes)) => Ok(bytes.into()),
        (found, _) => Ok(found?.into()),
    }
}

/// The embedded model of this name, or whose id begins so (8 digits at least).
pub fn embedded(name: &str) -> Option<&'static [u8]> {
    let is = |(own, bytes): &&(&str, &'static [u8])| {
        *own == name || name.len() >= 8 && blake3::hash(bytes).to_hex().starts_with(name)
    };
    EMBEDDED.iter().find(is).map(|(_, bytes)| *bytes)
}

/// The same, ready to code.
pub fn load(name: &str) -> Result<Arc<Lm>, ModelError> {
    let bytes = find(name)?;
    ready(&bytes).map_err(|source| ModelError::Refused { name: name.to_owned(), source })
}

/// A model's file ready to code; the embedded ones are made ready once.
#[expect(clippy::ptr_arg, reason = "it matters whether the bytes are part of the program")]
pub fn ready(bytes: &Cow<'static, [u8]>) -> Result<Arc<Lm>, LmError> {
    static LOADED: Mutex<Vec<(usize, Arc<Lm>)>> = Mutex::new(Vec::new());
    let Cow::Borrowed(own) = bytes else { return Lm::load(bytes) };
    let mut loaded = LOADED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((_, lm)) = loaded.iter().find(|(at, _)| *at == own.as_ptr().addr()) {
        return Ok(Arc::clone(lm));
    }
    let lm = Lm::load(own)?;
    loaded.push((own.as_ptr().addr(), Arc::clone(&lm)));
    Ok(lm)
}

/// An id in hexadecimal.
pub fn hex(id: &ModelId) -> String {
    blake3::Hash::from_bytes(*id).to_hex().to_string()
}
