//! The language models that a store's frames name, ready to code.

use crate::block::{ENGINE, Lm, ModelId, Tier};
use crate::models::{ModelError, embedded, find, hex, ready};
use crate::store::{ModelEntry, Record, Store, StoreError};
use std::borrow::Cow;
use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

/// A model that was loaded, or why it is refused. Whoever needs it first loads it, and only those who
/// need the same one wait for that.
type Loaded = Arc<OnceLock<Result<Arc<Lm>, Refusal>>>;

/// First pause until a model is tried again that an object store did not give, and the longest.
const PAUSE: (Duration, Duration) =
    (Duration::from_secs(if cfg!(test) { 0 } else { 1 }), Duration::from_secs(60));

/// Why a model is refused.
#[derive(Debug, Clone)]
struct Refusal {
    reason: String,
    /// When it may be tried again, and how long the pause was, if that may change anything.
    again: Option<(Instant, Duration)>,
}

/// The models pinned in one store. Each is loaded when it is first needed, and refused for good
/// where its file is missing, altered, or computes something else on this machine; for a while where
/// an object store does not give it.
///
/// Lock order: `changing` → `loaded`; `loaded` is held for a moment only, never while a file is read
/// or written.
#[derive(Debug)]
pub struct StoreModels {
    store: Arc<Store>,
    lm_gain: f64,
    /// By the store's number.
    loaded: Mutex<HashMap<u16, Loaded>>,
    /// Held while a model is added or removed.
    changing: Mutex<()>,
}

impl StoreModels {
    /// The models of `store`; `lm_gain` as in [`Tier`].
    pub fn new(store: Arc<Store>, lm_gain: f64) -> Self {
        Self { store, lm_gain, loaded: Mutex::default(), changing: Mutex::default() }
    }

    fn loaded(&self) -> MutexGuard<'_, HashMap<u16, Loaded>> {
        self.loaded.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn changing(&self) -> MutexGuard<'_, ()> {
        self.changing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the store says of its models, and what is wrong with those that were refused.
    pub fn list(&self) -> Result<Vec<(ModelEntry, Option<String>)>, StoreError> {
        let entries = self.store.models()?;
        let loaded = self.loaded();
        let error = |e: &ModelEntry| Some(loaded.get(&e.number)?.get()?.clone().err()?.reason);
        Ok(entries.into_iter().map(|e| (e.clone(), error(&e))).collect())
    }

    /// True if the model with this number has a network, or is not loaded yet.
    pub fn is_slow(&self, number: u16) -> bool {
        let loaded = self.loaded();
        match loaded.get(&number).and_then(|l| l.get()) {
            Some(Ok(lm)) => lm.is_slow(),
            Some(Err(_)) => false,
            None => true,
        }
    }

    /// The model with this number, checked.
    pub fn lm(&self, number: u16) -> Result<Arc<Lm>, ModelError> {
        let (cell, pause) = self.cell(number);
        if let Some(Ok(lm)) = cell.get() {
            return Ok(Arc::clone(lm));
        }
        let entries = self.store.models()?;
        let Some(entry) = entries.into_iter().find(|m| m.number == number) else {
            let reason = "the store does not list it".into();
            return Err(ModelError::Unusable {
                name: format!("number {number}"),
                id: "unknown".into(),
                reason,
            });
        };
        let found = cell.get_or_init(|| {
            let made = self.read(&entry);
            if let Err((reason, passing)) = &made {
                let for_now = if *passing { " for now" } else { "" };
                log::error!(
                    "model '{}', id {}: {reason}; files coded with it cannot be read{for_now}",
                    entry.name,
                    hex(&entry.id)
                );
            }
            made.map_err(|(reason, passing)| Refusal {
                reason,
                again: passing.then(|| (Instant::now() + pause, pause)),
            })
        });
        found.clone().map_err(|refusal| ModelError::Unusable {
            name: entry.name,
            id: hex(&entry.id),
            reason: refusal.reason,
        })
    }

    /// Where a model is, or will be; and for how long it is refused if it cannot be had now.
    fn cell(&self, number: u16) -> (Loaded, Duration) {
        let mut loaded = self.loaded();
        let cell = loaded.entry(number).or_default();
        let again = cell.get().and_then(|l| l.as_ref().err()?.again);
        match again {
            Some((at, pause)) if at <= Instant::now() => {
                *cell = Loaded::default();
                (Arc::clone(cell), (pause * 2).min(PAUSE.1))
            }
            _ => (Arc::clone(cell), PAUSE.0),
        }
    }

    /// A model; or why it cannot be had, and whether that may pass.
    fn read(&self, entry: &ModelEntry) -> Result<Arc<Lm>, (String, bool)> {
        let for_good = |reason: String| (reason, false);
        if entry.engine != ENGINE {
            return Err(for_good(format!(
                "its frames need engine {}, this version has {ENGINE}; use another one",
                entry.engine
            )));
        }
        // Part of the program, the store's copy, or the same file wherever else it is.
        if let Some(bytes) = embedded(&hex(&entry.id)) {
            return ready(&bytes.into()).map_err(|e| for_good(e.to_string()));
        }
        let bytes = match self.store.model_file(&entry.id) {
            Ok(bytes) => Cow::from(bytes),
            Err(e) => match find(&hex(&entry.id)) {
                Ok(bytes) => {
                    log::warn!("model '{}': {e}; taken from the registry", entry.name);
                    bytes
                }
                Err(_) if e.is_distant() => return Err((e.to_string(), true)),
                Err(_) => {
                    let remedy = "get its file and run: lmfs model import FILE";
                    return Err(for_good(format!("{e}; {remedy}")));
                }
            },
        };
        let lm = ready(&bytes).map_err(|e| for_good(e.to_string()))?;
        if lm.id() == entry.id {
            Ok(lm)
        } else {
            Err(for_good("its file is another model's".into()))
        }
    }

    /// What a model's name stands for in this store, with the model's number; 0 for none. A model
    /// that the store does not have yet is copied into it.
    pub fn tier(&self, name: &str) -> Result<(Tier, u16), ModelError> {
        let fast = Tier { lm_gain: self.lm_gain, ..Tier::FAST };
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

    /// Removes a model's file from the store, unless live frames need it, or what will be written:
    /// `governs` says what that is. Dead frames do not count: they are never read.
    pub fn remove(&self, name: &str, governs: Option<&str>) -> Result<(), ModelError> {
        let _turn = self.changing();
        let frames = self.store.frames_by_model();
        let mut entries = self.store.models()?;
        entries.retain(|m| m.name == name);
        if entries.is_empty() {
            return Err(ModelError::NotPinned(name.to_owned()));
        }
        // One file serves all versions of the engine.
        let count = entries.iter().filter_map(|m| frames.get(&m.number)).sum();
        let by = match (count, governs) {
            (0, None) => None,
            (0, Some(path)) => Some(format!("what is written to {path}")),
            (n, _) => Some(format!("{n} frames")),
        };
        if let Some(by) = by {
            return Err(ModelError::Needed { name: name.to_owned(), by });
        }
        let files = self.store.model_files()?;
        let ids: BTreeSet<_> =
            entries.iter().map(|m| m.id).filter(|id| files.contains(id)).collect();
        for id in &ids {
            self.store.remove_model_file(id)?;
        }
        self.loaded().retain(|number, _| entries.iter().all(|m| m.number != *number));
        if ids.is_empty() { Err(ModelError::NotPinned(name.to_owned())) } else { Ok(()) }
    }

    /// Models that the store has pinned, that live frames need or `governs` says will be needed, and
    /// whose file is not there.
    pub fn missing<E: From<StoreError>>(
        &self,
        governs: impl Fn(&str) -> Result<bool, E>,
    ) -> Result<Vec<ModelEntry>, E> {
        let there = self.store.model_files()?;
        let mut entries = self.store.models()?;
        entries.retain(|m| !there.contains(&m.id));
        if entries.is_empty() {
            return Ok(entries);
        }
        let frames = self.store.frames_by_model();
        let (mut missing, mut seen) = (Vec::new(), BTreeSet::new());
        for entry in entries {
            let coded = frames.get(&entry.number).is_some_and(|n| *n > 0);
            if (coded || governs(&entry.name)?) && seen.insert(entry.id) {
                missing.push(entry);
            }
        }
        Ok(missing)
    }

    /// True if the program or the user's registry has a model file; with `write`, it is put into the
    /// store, in place of one that is damaged.
    pub fn restore(&self, id: &ModelId, write: bool) -> Result<bool, StoreError> {
        let name = hex(id);
        let bytes = match embedded(&name) {
            Some(bytes) => Cow::from(bytes),
            None => match find(&name) {
                Ok(bytes) => bytes,
                Err(_) => return Ok(false),
            },
        };
        if write {
            let _turn = self.changing();
            self.store.put_model_file(id, &bytes)?;
            log::warn!("model file {name}: put back");
            // Whoever was refused it may try again.
            self.loaded().retain(|_, l| l.get().is_none_or(Result::is_ok));
        }
        Ok(true)
    }

    /// Copies a model into the store; returns its number.
    pub fn adopt(&self, name: &str) -> Result<u16, ModelError> {
        let bytes = find(name)?;
        let refused = |source| ModelError::Refused { name: name.to_owned(), source };
        let lm = ready(&bytes).map_err(refused)?;
        let _turn = self.changing();
        let entries = self.store.models()?;
        self.store.put_model_file(&lm.id(), &bytes)?;
        if let Some(e) = entries.iter().find(|e| e.id == lm.id() && e.engine == ENGINE) {
            self.keep(e.number, lm);
            return Ok(e.number);
        }
        let number = entries.iter().map(|e| e.number).max().unwrap_or(0) + 1;
        let entry = ModelEntry { number, id: lm.id(), engine: ENGINE, name: lm.name().to_owned() };
        self.store.append(Record::PutModel(entry).into())?;
        self.keep(number, lm);
        Ok(number)
    }

    fn keep(&self, number: u16, lm: Arc<Lm>) {
        self.loaded().insert(number, Arc::new(OnceLock::from(Ok(lm))));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Ecc, MkfsOptions, OpenOptions, REMOTE_PATIENCE};

    #[test]
    fn a_model_that_the_object_store_did_not_give_is_tried_again() {
        let dir = tempfile::tempdir().unwrap();
        let (at, objects) = (dir.path().join("store"), dir.path().join("objects"));
        let options = MkfsOptions { block_size: None, model: "fast".into(), ecc: Ecc::None };
        Store::create(&at, &options).unwrap();
        let store = Store::open(&at, &OpenOptions::default()).unwrap();
        let bytes = b"no model at all".to_vec();
        let id = *blake3::hash(&bytes).as_bytes();
        store.put_model_file(&id, &bytes).unwrap();
        let entry = ModelEntry { number: 1, id, engine: ENGINE, name: "mine".into() };
        store.append(vec![Record::PutModel(entry)].into()).unwrap();
        store.sync().unwrap();
        let url = objects.display().to_string();
        store.set_remote(&url, REMOTE_PATIENCE).unwrap();
        store.use_remote(REMOTE_PATIENCE).unwrap();
        store.push(&mut |_, _| true).unwrap();
        let cache = dir.path().join("cache");
        std::fs::create_dir(&cache).unwrap();
        let view = Store::open_url(&url, &cache, 0, REMOTE_PATIENCE).unwrap();
        let models = StoreModels::new(view, 3.0);
        std::fs::rename(objects.join("objects"), objects.join("away")).unwrap();
        for _ in 0..2 {
            let e = models.lm(1).unwrap_err().to_string();
            assert!(e.contains("no such object") && !e.contains("model import"), "{e}");
        }
        std::fs::rename(objects.join("away"), objects.join("objects")).unwrap();
        let e = models.lm(1).unwrap_err().to_string();
        assert!(!e.contains("no such object"), "{e}");
        // What it is will not change.
        std::fs::rename(objects.join("objects"), objects.join("away")).unwrap();
        assert_eq!(models.lm(1).unwrap_err().to_string(), e);
    }
}
