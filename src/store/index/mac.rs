//! Whose index it is. sled was not made for forged files, and whoever makes a store can make a log
//! that vouches for any index. So an index is opened only where it was written: beside it lies a
//! seal, its digest hashed with a key that never leaves this machine's user.

use crate::store::Store;
use crate::store::io::write_file;
use crate::store::io::{Volume, read_up_to};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// The seal's file in the store. Whatever makes an index anew removes all that begins so.
const SEAL: &str = "index.seal";
/// The key's file.
const KEY: &str = "lmfs/index.key";

type Hash = [u8; 32];

/// Where this user keeps a program's state.
fn state_dir() -> io::Result<PathBuf> {
    let set = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    if let Some(dir) = set("XDG_STATE_HOME") {
        return Ok(dir);
    }
    // SAFETY: no arguments, cannot fail.
    if unsafe { libc::geteuid() } == 0 {
        return Ok("/var/lib".into());
    }
    let home = set("HOME").ok_or_else(|| io::Error::other("HOME is not set"))?;
    Ok(home.join(".local/state"))
}

/// The key at `path`, made at the first use.
fn key_at(path: &Path) -> io::Result<Hash> {
    let mut key = [0; 32];
    match std::fs::File::open(path) {
        Ok(mut f) => {
            f.read_exact(&mut key)?;
            return Ok(key);
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        Err(e) => return Err(e),
    }
    std::fs::File::open("/dev/urandom")?.read_exact(&mut key)?;
    let dir = path.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(dir)?;
    // Linked when whole, and only if nobody else was faster.
    let temporary = dir.join(format!("index.key.{}", std::process::id()));
    let mut f = std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&temporary)?;
    let linked = f.write_all(&key).and_then(|()| std::fs::hard_link(&temporary, path));
    std::fs::remove_file(&temporary)?;
    match linked {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
            std::fs::File::open(path)?.read_exact(&mut key)?;
            Ok(key)
        }
        linked => linked.map(|()| key),
    }
}

fn key() -> io::Result<Hash> {
    key_at(&state_dir()?.join(KEY))
}

/// The seal of an index with this digest in the store of this UUID.
fn seal(uuid: &[u8; 16], digest: &Hash) -> io::Result<Hash> {
    let mut h = blake3::Hasher::new_keyed(&key()?);
    h.update(uuid).update(digest);
    Ok(*h.finalize().as_bytes())
}

/// Seals the index that was just written; durable on return.
pub fn put(store: &Store, digest: &Hash) -> io::Result<()> {
    let seal = seal(&store.superblock.uuid, digest)?;
    write_file(&*store.segments.volume, SEAL, &seal)
}

/// True if the index with this digest was written by this user on this machine.
pub fn is_ours(volume: &dyn Volume, uuid: &[u8; 16], digest: &Hash) -> bool {
    let there = volume.open(SEAL, false).and_then(|b| read_up_to(&*b, 0, size_of::<Hash>() + 1));
    // Both sides are hashes, and whoever compares times has the seal before him.
    matches!((there, seal(uuid, digest)), (Ok(a), Ok(b)) if a == b)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_key_is_made_once_and_for_its_user_only() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/b/index.key");
        let first = key_at(&path).unwrap();
        assert_eq!(key_at(&path).unwrap(), first);
        assert_ne!(first, [0; 32]);
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(std::fs::read_dir(dir.path().join("a/b")).unwrap().count(), 1);
        std::fs::write(&path, "short").unwrap();
        assert!(key_at(&path).is_err());
    }
}
