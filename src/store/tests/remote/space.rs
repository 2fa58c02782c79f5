//! What is deleted in an object store, and what is damaged there.

use super::*;

/// Makes everything in the object store older.
fn age(p: &Place, by: Duration) {
    for dir in ["objects", "manifest"] {
        for entry in std::fs::read_dir(p.objects().join(dir)).unwrap() {
            let file = std::fs::File::open(entry.unwrap().path()).unwrap();
            let old = file.metadata().unwrap().modified().unwrap() - by;
            file.set_modified(old).unwrap();
        }
    }
}

#[test]
fn what_no_reader_can_need_is_deleted_and_nothing_else() {
    const HOUR: Duration = Duration::from_secs(3600);
    let p = Place::new();
    let store = p.attached();
    let count = || std::fs::read_dir(p.objects().join("objects")).unwrap().count();
    let mut files = fill(&store, 0..2);
    push(&store).unwrap();
    age(&p, 20 * HOUR);
    files.extend(fill(&store, 2..3));
    push(&store).unwrap();
    let orphan = p.objects().join("objects").join("ab".repeat(32));
    std::fs::write(&orphan, "of a broken upload").unwrap();
    age(&p, 20 * HOUR);
    files.extend(fill(&store, 3..4));
    push(&store).unwrap();
    // The first manifest is 40 hours old, the second 20, and was the newest one until now.
    let before = count();
    let c = store.collect_remote(remote::GRACE, &mut |_, _| true).unwrap();
    assert_eq!((c.manifests, c.objects, count()), (0, 0, before));
    age(&p, 10 * HOUR);
    // Now the second is 30 hours old: the grace period began with it, and the first one goes. So does what
    // only it names, and the orphan.
    let c = store.collect_remote(remote::GRACE, &mut |_, _| true).unwrap();
    assert_eq!((c.manifests, c.objects), (1, 3), "{c:?}");
    assert!(!orphan.exists() && count() == before - 3);
    holds(&p.view("a"), &files);
    let old = lineage::read(&DirStore::new(&p.objects()), 2).unwrap().unwrap();
    for part in &old.packed.manifest.parts {
        assert!(p.objects().join(part.object.name()).exists());
    }
    // An archive without a manifest is none that anything could be deleted from.
    std::fs::remove_dir_all(p.objects().join("manifest")).unwrap();
    assert!(store.collect_remote(remote::GRACE, &mut |_, _| true).is_err());
}

#[test]
fn what_is_damaged_there_is_replaced() {
    let p = Place::new();
    let store = p.attached();
    let files = fill(&store, 0..6);
    push(&store).unwrap();
    let good = store.scrub_remote(true, &mut |_, _| true).unwrap();
    assert!(good.objects > 8 && good.damaged == 0, "{good:?}");
    let hurt = |n: usize, with: Option<&[u8]>| {
        let mut paths: Vec<_> = std::fs::read_dir(p.objects().join("objects"))
            .unwrap()
            .map(|e| e.unwrap().path())
            .collect();
        paths.sort();
        match with {
            Some(bytes) => std::fs::OpenOptions::new()
                .write(true)
                .open(&paths[n])
                .unwrap()
                .write_all_at(bytes, 5000)
                .unwrap(),
            None => std::fs::remove_file(&paths[n]).unwrap(),
        }
    };
    hurt(0, Some(&[7; 300]));
    hurt(3, Some(&[9; 6000]));
    hurt(6, None);
    let found = store.scrub_remote(false, &mut |_, _| true).unwrap();
    assert_eq!((found.damaged, found.repaired, found.unrecoverable.len()), (3, 0, 0), "{found:?}");
    assert_eq!(store.scrub_remote(true, &mut |_, _| true).unwrap().repaired, 3);
    assert_eq!(store.scrub_remote(false, &mut |_, _| true).unwrap(), good);
    holds(&p.view("a"), &files);
    // Without the bytes here, its sidecar puts a segment right.
    let numbers = store.segment_numbers();
    for n in &numbers[..2] {
        store.segments.drop_sidecar(*n);
        let blob = store.segments.get(*n).unwrap().blob;
        let len = blob.len().unwrap() as usize;
        blob.write_at(&vec![0x55; len - 200], 100).unwrap();
    }
    let newest = lineage::newest(&DirStore::new(&p.objects())).unwrap().unwrap();
    let object = newest.packed.manifest.parts[1].object;
    let file =
        std::fs::OpenOptions::new().write(true).open(p.objects().join(object.name())).unwrap();
    file.write_all_at(&[1; 5000], 6000).unwrap();
    let found = store.scrub_remote(true, &mut |_, _| true).unwrap();
    assert_eq!((found.damaged, found.repaired), (1, 1), "{found:?}");
    // And from there comes what is lost here.
    store.close().unwrap_or_default();
    drop(store);
    let pulled = Store::pull(&p.store(), PATIENCE, false, &mut |_, _| {}).unwrap();
    assert!(pulled.fetched >= 2, "{pulled:?}");
    holds(&open(&p.store()), &files);
    assert_eq!(Store::pull(&p.store(), PATIENCE, false, &mut |_, _| {}).unwrap().fetched, 0);
}
