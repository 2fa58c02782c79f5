//! Uploading: what the log consists of at one moment, as objects, then a manifest that names them.
//!
//! A manifest covers the log up to a position that is durable. Whatever is live there lies in segments
//! that exist at that moment, and they are kept until the manifest is written: so each manifest is a
//! state that was, whole.

use super::bundle;
use super::error::RemoteError;
use super::home::{Home, Mark};
use super::lineage::{self, Put};
use super::link::{Attached, Known};
use super::manifest::{Manifest, Model, OBJECTS, Object, Part, Place};
use super::sealed::SealedStore;
use crate::store::api::{Result, StoreError};
use crate::store::log::footer::{self, Line};
use crate::store::log::frame::Kind;
use crate::store::log::record::Out;
use crate::store::log::superblock;
use crate::store::{Store, lock};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Objects that no manifest names yet may be taken for orphans after a day. What was found there, or was
/// uploaded, longer ago than this is looked up again before it is named.
const TRUSTED: Duration = Duration::from_secs(12 * 3600);
/// More new segments than this are worth a listing of what is there already.
const WORTH_A_LISTING: usize = 8;

/// What an upload did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Uploaded {
    /// Objects written.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
    /// The newest manifest.
    pub manifest: u64,
}

/// Seconds since 1970.
fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// A name that nobody else uses now.
pub fn unique(store: &Store) -> String {
    let mut o = Out::default();
    o.u64(now()).u32(std::process::id());
    blake3::hash(&[&store.superblock.uuid[..], &o.0].concat()).to_hex()[..16].to_owned()
}

/// Why an archive cannot be gone on with here.
fn elsewhere(url: &str) -> RemoteError {
    RemoteError::Fenced(format!(
        "{url}: the archive went on elsewhere since this store was last in line with it: another writer \
         took over. What is here only is not uploaded; look at both, then continue from the other with \
         lmfs clone"
    ))
}

/// Objects that are there.
struct There {
    hashes: HashSet<[u8; 32]>,
    since: Instant,
}

impl There {
    /// What is known to be there by the newest manifest.
    fn of(newest: Option<&Manifest>) -> Self {
        let mut hashes = HashSet::new();
        for p in newest.iter().flat_map(|m| &m.parts) {
            hashes.extend([p.object.hash, p.sidecar.hash]);
        }
        for m in newest.iter().flat_map(|m| &m.models) {
            hashes.extend([m.object.hash, m.sidecar.hash]);
        }
        Self { hashes, since: Instant::now() }
    }

    /// Adds what a listing shows that is not about to be taken for an orphan.
    fn look(&mut self, store: &dyn SealedStore) -> Result<()> {
        for l in store.list(OBJECTS)? {
            let hash = l.name.rsplit('/').next().and_then(|h| blake3::Hash::from_hex(h).ok());
            let young = l.modified.elapsed().is_ok_and(|age| age < TRUSTED);
            self.hashes.extend(hash.filter(|_| young).map(|h| *h.as_bytes()));
        }
        Ok(())
    }
}

/// Writes objects that are not there.
struct Sender<'a> {
    store: &'a dyn SealedStore,
    there: There,
    report: Uploaded,
}

impl Sender<'_> {
    fn send(&mut self, object: Object, bytes: &[u8]) -> Result<()> {
        if object.len > 0 && self.there.hashes.insert(object.hash) {
            if let Err(e) = self.store.put(&object.name(), bytes) {
                self.there.hashes.remove(&object.hash);
                return Err(e.into());
            }
            self.report.objects += 1;
            self.report.bytes += bytes.len() as u64;
        }
        Ok(())
    }
}

/// Opens the object store that the file `remote` names, if there is one. Nothing is asked of it yet.
pub fn attach(store: &Store, patience: Duration) -> Result<bool> {
    let Some(home) = Home::read(&*store.segments.volume)? else { return Ok(false) };
    let steady = match &store.tier {
        // The same for what is read from there.
        Some(tier) => {
            tier.source.configure(patience, None);
            tier.source.store()?
        }
        None => super::open::open(&home.url, patience)?,
    };
    *lock(&store.remote.known) = Known { store: Some(Arc::clone(&steady)), ..Known::default() };
    *lock(&store.remote.attached) = Some(Attached {
        store: steady,
        home,
        newest: None,
        epoch: None,
        runs: HashMap::new(),
        fenced: None,
    });
    Ok(true)
}

/// Makes sure that the newest manifest is known, and that this store may go on from it.
fn catch_up(store: &Store, a: &mut Attached) -> Result<()> {
    if let Some(e) = &a.fenced {
        return Err(e.clone().into());
    }
    // An attempt of which it is not known how it ended may have been the last word.
    if a.newest.is_some() && a.home.next.is_empty() {
        return Ok(());
    }
    let url = a.store.url();
    let found = match lineage::newest(&*a.store)? {
        Some(found) => found,
        None if a.home.last.is_none() => return Ok(()),
        None => {
            return Err(RemoteError::Refused(format!(
                "{url}: it has no manifest any more. If it is to be filled anew, say so with: lmfs remote \
                 set STORE {url}"
            ))
            .into());
        }
    };
    if a.home.last.is_some_and(|last| found.mark.number < last.number) {
        let text = format!("{url}: its listing lacks manifests that are known to be there");
        return Err(RemoteError::Unavailable(text).into());
    }
    if !a.home.knows(&found.mark) {
        let e = elsewhere(&url);
        a.fenced = Some(e.clone());
        return Err(e.into());
    }
    a.home.reached(found.mark);
    a.home.write(&*store.segments.volume)?;
    let newest = lineage::whole(&*a.store, found.packed, &mut a.runs)?;
    a.newest = Some(newest);
    note(store, a);
    Ok(())
}

/// Makes sure that the newest manifest is known.
pub fn ready(store: &Store) -> Result<()> {
    match lock(&store.remote.attached).as_mut() {
        Some(a) => catch_up(store, a),
        None => Err(none_named(&store.path)),
    }
}

/// What those are told who need an object store and have none.
pub fn none_named(shown: &Path) -> StoreError {
    StoreError::Refused(format!(
        "{}: it has no object store; name one with: lmfs remote set STORE URL",
        shown.display()
    ))
}

/// Has `status` know of the newest manifest.
fn note(store: &Store, a: &Attached) {
    let mut known = lock(&store.remote.known);
    let Some(m) = &a.newest else { return };
    known.manifest = Some((m.number, m.epoch));
    known.lens = m.parts.iter().map(|p| (p.number, p.object.len)).collect();
}

/// Uploads what is durable and not there, then writes a manifest, unless nothing changed. `watch` is told
/// how many bytes of how many are done, and ends it by saying false; what is there by then need not be
/// uploaded again.
pub fn push(store: &Store, watch: &mut dyn FnMut(u64, u64) -> bool) -> Result<Uploaded> {
    let mut attached = lock(&store.remote.attached);
    let Some(a) = attached.as_mut() else {
        return Err(none_named(&store.path));
    };
    let pushed = push_to(store, a, watch);
    store.segments.unpin();
    let mut known = lock(&store.remote.known);
    match &pushed {
        Ok(_) => (known.uploaded, known.error) = (Some(Instant::now()), None),
        Err(e) => known.error = Some(e.to_string()),
    }
    pushed
}

fn push_to(
    store: &Store,
    a: &mut Attached,
    watch: &mut dyn FnMut(u64, u64) -> bool,
) -> Result<Uploaded> {
    catch_up(store, a)?;
    let lens = store.segments.pin(|| store.synced.load(Ordering::Acquire));
    let position = lens.last().map_or(0, |(n, len)| u64::from(*n) << 32 | len);
    let checkpoint = lock(&store.checkpoint).0;
    let old: BTreeMap<u32, Part> =
        a.newest.iter().flat_map(|m| &m.parts).map(|p| (p.number, *p)).collect();
    let same = |n: u32, len: u64| old.get(&n).filter(|p| p.object.len == len).copied();
    let new = lens.iter().filter(|(n, len)| same(*n, *len).is_none());
    let (count, total) = new.fold((0, 0), |(c, t), (_, len)| (c + 1, t + len));
    let mut there = There::of(a.newest.as_ref());
    if count > WORTH_A_LISTING {
        there.look(&*a.store)?;
    }
    let remote = Arc::clone(&a.store);
    let mut sender = Sender { store: &*remote, there, report: Uploaded::default() };
    let mut done = 0;
    let (mut parts, mut models) = (Vec::new(), Vec::new());
    let known: HashMap<[u8; 32], Model> =
        a.newest.iter().flat_map(|m| &m.models).map(|m| (m.id, *m)).collect();
    for id in store.model_files()? {
        if let Some(m) = known.get(&id) {
            models.push(*m);
            continue;
        }
        let (model, bytes, sidecar) = bundle::model(store, &id)?;
        sender.send(model.object, &bytes)?;
        sender.send(model.sidecar, &sidecar)?;
        models.push(model);
    }
    for (number, len) in lens {
        if let Some(part) = same(number, len) {
            parts.push(part);
            continue;
        }
        if !watch(done, total) {
            return Err(StoreError::Stopped);
        }
        if store.segments.is_distant(number) {
            lost_there(store, a, number)?;
            continue;
        }
        let bytes = bundle::verified(&store.segments, number, len)?;
        let b = bundle::bundle(store.segments.ecc, store.segments.stamp, number, bytes)?;
        sender.send(b.part.sidecar, &b.sidecar)?;
        sender.send(b.part.object, &b.bytes)?;
        parts.push(b.part);
        done += len;
    }
    if sender.there.since.elapsed() > TRUSTED {
        check_there(&*remote, &parts)?;
    }
    let tail = parts.last().map_or_else(Vec::new, |p| tail_of(store, p));
    let manifest = Manifest {
        number: a.home.last.map_or(1, |m| m.number + 1),
        epoch: a.epoch.unwrap_or_else(|| a.newest.as_ref().map_or(0, |m| m.epoch) + 1),
        made: now(),
        checkpoint,
        superblock: superblock::encode(&store.superblock),
        models,
        parts,
        tail,
    };
    let unchanged = a.newest.as_ref().is_some_and(|m| {
        (&m.parts, &m.models, &m.superblock)
            == (&manifest.parts, &manifest.models, &manifest.superblock)
    });
    let mut report = sender.report;
    if unchanged {
        report.manifest = a.newest.as_ref().map_or(0, |m| m.number);
    } else {
        report.manifest = manifest.number;
        commit(store, a, manifest)?;
    }
    store.remote.position.fetch_max(position, Ordering::AcqRel);
    Ok(report)
}

/// What readers need to know of the last segment, which has no footer.
fn tail_of(store: &Store, last: &Part) -> Vec<Place> {
    let lines = footer::lines_before(&store.segments, last.number, last.object.len);
    let own = |l: &Line| !matches!(l.kind, Kind::Data | Kind::Primer | Kind::Footer);
    let place = |l: Line| Place { offset: l.frame.offset, len: l.frame.len, kind: l.kind as u8 };
    lines.into_iter().flatten().filter(own).map(place).collect()
}

/// An evicted segment that the newest manifest does not name: fine, if nothing in it lives.
fn lost_there(store: &Store, a: &Attached, number: u32) -> Result<()> {
    let live = store.state().totals.live.get(&number).copied().unwrap_or(0);
    if live == 0 {
        return Ok(());
    }
    let text = format!(
        "{}: its newest manifest lacks {}, which is not in the store any more either",
        a.store.url(),
        crate::store::log::segments::segment_path(number)
    );
    Err(RemoteError::Refused(text).into())
}

/// An upload that took long names objects only if they are still there.
fn check_there(store: &dyn SealedStore, parts: &[Part]) -> Result<()> {
    let listed: HashSet<String> = store.list(OBJECTS)?.into_iter().map(|l| l.name).collect();
    let objects = parts.iter().flat_map(|p| [p.object, p.sidecar]);
    match objects.map(|o| o.name()).find(|n| !listed.contains(n)) {
        Some(n) => {
            let text =
                format!("{n} is gone since it was uploaded; the next upload brings it again");
            Err(RemoteError::Unavailable(text).into())
        }
        None => Ok(()),
    }
}

/// Writes a manifest and what it refers to. It is noted before and after, so that a crash in between
/// leaves no doubt whose it is.
fn commit(store: &Store, a: &mut Attached, manifest: Manifest) -> Result<()> {
    let (bytes, runs) = manifest.pack();
    for (run, bytes) in &runs {
        if !a.runs.contains_key(&run.object.hash) {
            a.store.put(&run.object.name(), bytes)?;
        }
    }
    let mark = Mark::of(manifest.number, &bytes);
    let volume = &*store.segments.volume;
    a.home.expect(mark);
    a.home.write(volume)?;
    match lineage::put(&*a.store, &mark, &bytes)? {
        Put::Done => {}
        // An attempt before, of which nothing was heard, has arrived after all.
        Put::Lost(found) if a.home.knows(&found.mark) => {
            let text = "an earlier manifest arrived late; the next upload goes on from it";
            return Err(RemoteError::Unavailable(text.into()).into());
        }
        Put::Lost(_) => {
            let e = elsewhere(&a.store.url());
            a.fenced = Some(e.clone());
            return Err(e.into());
        }
    }
    a.epoch = Some(manifest.epoch);
    a.newest = Some(manifest);
    a.runs = runs.into_iter().map(|(run, bytes)| (run.object.hash, bytes)).collect();
    a.home.reached(mark);
    note(store, a);
    a.home.write(volume)
}

/// Names the object store that a store belongs to. One that holds this archive already has to be in line
/// with it: the same bytes wherever both have some.
pub fn set(store: &Store, url: &str, patience: Duration) -> Result<()> {
    // An upload under way would write the old name again.
    let _turn = lock(&store.remote.attached);
    let url = super::open::canonical(url)?;
    let remote = super::open::open(&url, patience)?;
    lineage::check_conditions(&*remote, &unique(store))?;
    let evicted = store.tier.as_ref().map_or_else(Vec::new, |t| t.parts());
    let evicts = !evicted.is_empty();
    let mut home = Home { url: url.clone(), evicts, ..Home::default() };
    if let Some(found) = lineage::newest(&*remote)? {
        let theirs = superblock::decode(&found.packed.manifest.superblock, &url)?;
        if theirs.uuid != store.superblock.uuid {
            return Err(RemoteError::Refused(format!(
                "{url} holds another archive; name a place where nothing is yet"
            ))
            .into());
        }
        let mark = found.mark;
        let newest = lineage::whole(&*remote, found.packed, &mut HashMap::new())?;
        in_line(store, &newest, &url)?;
        home.last = Some(mark);
        let there: HashSet<Part> = newest.parts.into_iter().collect();
        if !evicted.iter().all(|p| there.contains(p)) {
            return Err(only_elsewhere(store, &url));
        }
    } else if evicts {
        return Err(only_elsewhere(store, &url));
    }
    home.write(&*store.segments.volume)?;
    if let Some(tier) = &store.tier {
        tier.source.forget();
    }
    Ok(())
}

/// Why a store cannot leave its object store.
fn only_elsewhere(store: &Store, url: &str) -> StoreError {
    let shown = store.path.display();
    StoreError::Refused(format!(
        "segments of {shown} lie in its object store only, and {url} does not have them: bring them back \
         first, with: lmfs remote pull --all {shown}"
    ))
}

/// Fails unless this store goes on from where the manifest ends.
fn in_line(store: &Store, m: &Manifest, url: &str) -> Result<()> {
    let segments = &store.segments;
    let last = segments.lens().last().map_or(0, |(n, _)| *n);
    let ahead = m.parts.last().map_or(0, |p| p.number);
    let mut differs = ahead > last;
    for p in &m.parts {
        // Those that are not here any more have nothing in them that lives.
        let Some(segment) = segments.get(p.number) else { continue };
        differs |= segment.len < p.object.len;
        if differs {
            break;
        }
        // Of one that is not here it is known what it is.
        if let Some(own) = store.tier.as_ref().and_then(|t| t.part(p.number)) {
            differs |= own != *p;
            continue;
        }
        let bytes = bundle::verified(segments, p.number, p.object.len)?;
        differs = !bytes.get(..p.object.len as usize).is_some_and(|b| p.object.is(b));
    }
    if differs { Err(elsewhere(url).into()) } else { Ok(()) }
}
