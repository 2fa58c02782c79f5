//! Manifests one after another, each created only if it does not exist: so of two writers one loses, and
//! knows it. Each writer's first manifest has an epoch of its own, above all before; whoever finds a newer
//! epoch than its own has been replaced, and writes no more (as in SlateDB's design).

use super::error::{RemoteError, Result};
use super::fetch;
use super::home::Mark;
use super::manifest::{self, MANIFESTS, Manifest, Packed, Run};
use super::sealed::SealedStore;
use std::collections::HashMap;

/// A manifest that lies in the store.
#[derive(Debug, Clone)]
pub struct Found {
    /// What it says, but for its runs.
    pub packed: Packed,
    /// Which it is.
    pub mark: Mark,
}

/// Runs that were read or written before, by their hashes.
pub type Runs = HashMap<[u8; 32], Vec<u8>>;

/// Reads a manifest; `None` if it is not there.
pub fn read(store: &dyn SealedStore, number: u64) -> Result<Option<Found>> {
    let name = manifest::name(number);
    let what = format!("{}/{name}", store.url());
    let get = || match store.get(&name) {
        Err(RemoteError::NotFound(_)) => Ok(None),
        bytes => {
            let bytes = bytes?;
            Ok(Some((Packed::decode(&what, &bytes)?, bytes)))
        }
    };
    // What is damaged may have been so on its way only.
    let got = match get() {
        Err(RemoteError::Refused(_)) => get()?,
        got => got?,
    };
    let Some((packed, bytes)) = got else { return Ok(None) };
    if packed.manifest.number != number {
        return Err(RemoteError::Refused(format!("{what}: it is another manifest")));
    }
    Ok(Some(Found { packed, mark: Mark::of(number, &bytes) }))
}

/// Numbers of all manifests, in order.
pub fn numbers(store: &dyn SealedStore) -> Result<Vec<u64>> {
    let listed = store.list(MANIFESTS)?;
    let mut numbers: Vec<u64> = listed.iter().filter_map(|l| manifest::number(&l.name)).collect();
    numbers.sort_unstable();
    Ok(numbers)
}

/// The newest manifest; `None` where there is none.
pub fn newest(store: &dyn SealedStore) -> Result<Option<Found>> {
    // One may be deleted between the listing and the reading, for there are newer ones then.
    for _ in 0..8 {
        let Some(last) = numbers(store)?.pop() else { return Ok(None) };
        // A listing may be a little old.
        let next = last.saturating_add(1);
        let mut found = Vec::new();
        for read in fetch::at_once(&[next, last], |n| read(store, *n)) {
            found.push(read?);
        }
        match (found.pop().flatten(), found.pop().flatten()) {
            (_, Some(next)) => return Ok(Some(after(store, next.mark.number)?.unwrap_or(next))),
            (Some(last), None) => return Ok(Some(last)),
            (None, None) => {}
        }
    }
    Err(RemoteError::Unavailable(format!("{}: manifests come and go", store.url())))
}

/// The newest manifest after number `last`, looked for one by one; `None` if there is none yet.
pub fn after(store: &dyn SealedStore, mut last: u64) -> Result<Option<Found>> {
    let mut found = None;
    while let Some(next) = last.checked_add(1).map(|n| read(store, n)).transpose()?.flatten() {
        last = next.mark.number;
        found = Some(next);
    }
    Ok(found)
}

/// The whole of a manifest. Runs that are not among the known ones are fetched; afterwards those of this
/// manifest are known, and no others.
pub fn whole(store: &dyn SealedStore, packed: Packed, known: &mut Runs) -> Result<Manifest> {
    known.retain(|hash, _| packed.runs.iter().any(|r| r.object.hash == *hash));
    let lacking: Vec<Run> =
        packed.runs.iter().filter(|r| !known.contains_key(&r.object.hash)).copied().collect();
    let get = |run: &Run| Ok((*run, fetch::whole(store, &run.object)?));
    for fetched in fetch::at_once(&lacking, get) {
        let (run, bytes): (Run, Vec<u8>) = fetched?;
        known.insert(run.object.hash, bytes);
    }
    packed.unpack(|run: &Run| Ok(known.get(&run.object.hash).cloned().unwrap_or_default()))
}

/// How an attempt to write the next manifest ended.
#[derive(Debug)]
pub enum Put {
    /// It is there.
    Done,
    /// Another one has its number.
    Lost(Box<Found>),
}

/// Creates a manifest whose bytes these are. One that was written by an attempt whose answer got lost
/// counts as written.
pub fn put(store: &dyn SealedStore, mark: &Mark, bytes: &[u8]) -> Result<Put> {
    match store.put_if_absent(&manifest::name(mark.number), bytes) {
        Err(RemoteError::Exists(_)) => match read(store, mark.number)? {
            Some(found) if found.mark == *mark => Ok(Put::Done),
            Some(found) => Ok(Put::Lost(Box::new(found))),
            None => Err(RemoteError::Unavailable("a manifest was there and is not".into())),
        },
        done => done.map(|()| Put::Done),
    }
}

/// Checks that the store keeps one of two objects of the same name, and which: a server that knows no
/// conditions may accept them and overwrite.
pub fn check_conditions(store: &dyn SealedStore, unique: &str) -> Result<()> {
    let name = format!("probe/{unique}");
    match store.put_if_absent(&name, b"first") {
        Err(RemoteError::NoConditionalPut(_)) => {
            return Err(RemoteError::NoConditionalPut(store.url()));
        }
        first => first?,
    }
    let second = store.put_if_absent(&name, b"second");
    let kept = store.get(&name);
    store.delete(&name)?;
    match (second, kept) {
        (Err(RemoteError::Exists(_)), Ok(bytes)) if bytes == b"first" => Ok(()),
        (Ok(()), Ok(_)) => Err(RemoteError::NoConditionalPut(store.url())),
        (Err(e), _) | (_, Err(e)) => Err(e),
    }
}
