//! Language models ready to code, by name or id: embedded ones, the user's, a store's own copies.

use crate::block::{ENGINE, Lm, LmError, ModelId, Tier};
use crate::model::{Registry, RegistryError};
use crate::store::{ModelEntry, Op, Store, StoreError, Txn};
use std::borrow::Cow;
use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

/// The model of a new store, and where none is named.
pub const DEFAULT: &str = "base";
/// Canonical files that are part of the program, by name.
pub const EMBEDDED: &[(&str, &[u8])] = &[("base", include_bytes!("models/base.lmfsmodel"))];

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
        "model '{name}' is needed by {frames} frames or by new files; move them first: lmfs recode --model OTHER"
    )]
    Needed {
        /// Its name.
        name: String,
        /// Frames coded with it.
        frames: u64,
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
fn embedded(name: &str) -> Option<&'static [u8]> {
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
fn ready(bytes: &Cow<'static, [u8]>) -> Result<Arc<Lm>, LmError> {
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

/// The models pinned in one store. Each is loaded when it is first needed, and refused for good
/// where its file is missing, altered, or computes something else on this machine.
#[derive(Debug)]
pub struct Pins {
    store: Arc<Store>,
    lm_gain: f64,
    /// By the store's number. Held while a model loads, so that it is loaded once.
    loaded: Mutex<HashMap<u16, Result<Arc<Lm>, String>>>,
}

impl Pins {
    /// The models of `store`; `lm_gain` as in [`Tier`].
    pub fn new(store: Arc<Store>, lm_gain: f64) -> Self {
        Self { store, lm_gain, loaded: Mutex::default() }
    }

    /// What the store says of its models, and what is wrong with those that were refused.
    pub fn list(&self) -> Result<Vec<(ModelEntry, Option<String>)>, StoreError> {
        let entries = self.store.models()?;
        let loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        let error = |e: &ModelEntry| loaded.get(&e.number).and_then(|l| l.clone().err());
        Ok(entries.into_iter().map(|e| (e.clone(), error(&e))).collect())
    }

    /// The model with this number, checked.
    pub fn lm(&self, number: u16) -> Result<Arc<Lm>, ModelError> {
        let entries = self.store.models()?;
        let Some(entry) = entries.into_iter().find(|m| m.number == number) else {
            let reason = "the store does not list it".into();
            return Err(ModelError::Unusable {
                name: format!("number {number}"),
                id: "unknown".into(),
                reason,
            });
        };
        let mut loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        let found = loaded.entry(number).or_insert_with(|| {
            let made = self.read(&entry);
            if let Err(reason) = &made {
                log::error!(
                    "model '{}', id {}: {reason}; files coded with it cannot be read",
                    entry.name,
                    hex(&entry.id)
                );
            }
            made
        });
        found.clone().map_err(|reason| ModelError::Unusable {
            name: entry.name,
            id: hex(&entry.id),
            reason,
        })
    }

    fn read(&self, entry: &ModelEntry) -> Result<Arc<Lm>, String> {
        if entry.engine != ENGINE {
            return Err(format!(
                "its frames need engine {}, this version has {ENGINE}; use another one",
                entry.engine
            ));
        }
        // Part of the program, the store's copy, or the same file wherever else it is.
        if let Some(bytes) = embedded(&hex(&entry.id)) {
            return ready(&bytes.into()).map_err(|e| e.to_string());
        }
        let bytes = match self.store.model_file(&entry.id) {
            Ok(bytes) => Cow::from(bytes),
            Err(e) => match find(&hex(&entry.id)) {
                Ok(bytes) => {
                    log::warn!("model '{}': {e}; taken from the registry", entry.name);
                    bytes
                }
                Err(_) => {
                    return Err(format!("{e}; get its file and run: lmfs model import FILE"));
                }
            },
        };
        let lm = ready(&bytes).map_err(|e| e.to_string())?;
        if lm.id() == entry.id { Ok(lm) } else { Err("its file is another model's".into()) }
    }

    /// What a model's name stands for in this store, with the model's number; 0 for none. A model
    /// that the store does not have yet is copied into it.
    pub fn tier(&self, name: &str) -> Result<(Tier, u16), ModelError> {
        let fast = Tier { lm: None, lm_gain: self.lm_gain };
        if name == "fast" {
            return Ok((fast, 0));
        }
        let pinned = self.pinned(name)?;
        let whole = match &pinned {
            Some(entry) => self.store.model_files()?.contains(&entry.id),
            None => false,
        };
        let number = match pinned {
            Some(entry) if whole => entry.number,
            // Its file is gone, or it was never here.
            pinned => match (self.adopt(name), pinned) {
                (Ok(number), _) => number,
                (Err(_), Some(entry)) => entry.number,
                (Err(e), None) => return Err(e),
            },
        };
        Ok((Tier { lm: Some(self.lm(number)?), ..fast }, number))
    }

    /// The newest model of this name for this engine.
    fn pinned(&self, name: &str) -> Result<Option<ModelEntry>, StoreError> {
        let fits = |m: &ModelEntry| m.name == name && m.engine == ENGINE;
        Ok(self.store.models()?.into_iter().filter(fits).max_by_key(|m| m.number))
    }

    /// True if the store has the model or could get it.
    pub fn knows(&self, name: &str) -> bool {
        name == "fast" || self.pinned(name).is_ok_and(|m| m.is_some()) || find(name).is_ok()
    }

    /// Removes a model's file from the store, unless frames or new files need it.
    pub fn remove(&self, name: &str) -> Result<(), ModelError> {
        let frames = self.store.frames_by_model()?;
        let mut loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        let mut entries = self.store.models()?;
        entries.retain(|m| m.name == name);
        if entries.is_empty() {
            return Err(ModelError::NotPinned(name.to_owned()));
        }
        // One file serves all versions of the engine.
        let count = entries.iter().filter_map(|m| frames.get(&m.number)).sum();
        if count > 0 || self.store.superblock().model == name {
            return Err(ModelError::Needed { name: name.to_owned(), frames: count });
        }
        let files = self.store.model_files()?;
        let ids: BTreeSet<_> =
            entries.iter().map(|m| m.id).filter(|id| files.contains(id)).collect();
        for id in &ids {
            self.store.remove_model_file(id)?;
        }
        loaded.retain(|number, _| entries.iter().all(|m| m.number != *number));
        if ids.is_empty() { Err(ModelError::NotPinned(name.to_owned())) } else { Ok(()) }
    }

    /// Copies a model into the store; returns its number.
    pub fn adopt(&self, name: &str) -> Result<u16, ModelError> {
        let bytes = find(name)?;
        let refused = |source| ModelError::Refused { name: name.to_owned(), source };
        let lm = ready(&bytes).map_err(refused)?;
        let mut loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        let entries = self.store.models()?;
        self.store.put_model_file(&lm.id(), &bytes)?;
        if let Some(e) = entries.iter().find(|e| e.id == lm.id() && e.engine == ENGINE) {
            loaded.insert(e.number, Ok(lm));
            return Ok(e.number);
        }
        let number = entries.iter().map(|e| e.number).max().unwrap_or(0) + 1;
        let entry = ModelEntry { number, id: lm.id(), engine: ENGINE, name: lm.name().to_owned() };
        self.store.append(Txn { ops: vec![Op::PutModel(entry)], ..Txn::default() })?;
        loaded.insert(number, Ok(lm));
        Ok(number)
    }
}
