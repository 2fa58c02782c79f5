//! The `mount.lmfs` personality: what mount(8) calls for `mount -t lmfs`.

use super::options::{self, Options};
use super::output::outln;
use super::{mount, mounts};
use crate::control::{self, Request};
use crate::fuse;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Wrong usage.
const USAGE: u8 = 1;
/// A system error before mounting could be tried.
const SYSTEM: u8 = 2;
/// The mount failed.
const MOUNT: u8 = 32;

#[derive(Debug, Default, PartialEq, Eq)]
struct Call {
    spec: PathBuf,
    dir: PathBuf,
    fake: bool,
    sloppy: bool,
    verbose: bool,
    options: Vec<String>,
}

const HELP: &str = "usage: mount.lmfs SPEC DIR [-sfnv] [-N NAMESPACE] [-o OPTIONS] [-t TYPE]";

/// Takes a helper's arguments apart as mount(8) and umount(8) pass them: letters behind a dash, those in
/// `valued` with a value of their own. `option` says whether there is such a one. Returns the others.
pub fn arguments(
    args: Vec<OsString>,
    valued: &str,
    help: &str,
    mut option: impl FnMut(char, String) -> bool,
) -> Result<Vec<OsString>, String> {
    let mut places = Vec::new();
    let mut args = args.into_iter();
    while let Some(arg) = args.next() {
        let text = arg.to_string_lossy().into_owned();
        let Some(letters) = text.strip_prefix('-').filter(|l| !l.is_empty()) else {
            places.push(arg);
            continue;
        };
        for (at, c) in letters.char_indices() {
            let takes = valued.contains(c);
            let value = match &letters[at + 1..] {
                _ if !takes => String::new(),
                "" => args
                    .next()
                    .ok_or_else(|| format!("option -{c} needs a value\n{help}"))?
                    .to_string_lossy()
                    .into_owned(),
                joined => joined.to_owned(),
            };
            if !option(c, value) {
                return Err(format!("unknown option -{c}\n{help}"));
            }
            if takes {
                break;
            }
        }
    }
    Ok(places)
}

fn parse(args: Vec<OsString>) -> Result<Call, String> {
    let mut call = Call::default();
    let places = arguments(args, "otN", HELP, |c, value| {
        match c {
            's' => call.sloppy = true,
            'f' => call.fake = true,
            'v' => call.verbose = true,
            'o' => call.options.push(value),
            'n' | 't' | 'N' => {}
            _ => return false,
        }
        true
    })?;
    let [spec, dir] = <[OsString; 2]>::try_from(places).map_err(|_| HELP.to_owned())?;
    (call.spec, call.dir) = (spec.into(), dir.into());
    Ok(call)
}

/// Changes the kernel's flags of a mount. How the daemon opened the store stays as it is.
fn remount(dir: &Path, o: &Options) -> Result<(), String> {
    let shown = dir.display();
    let found = mounts::place(dir, true).map_err(|e| format!("{shown}: {e}"))?;
    if !found.mount.is_lmfs() || !found.is_mount_point() {
        return Err(format!("{shown}: no lmfs is mounted there"));
    }
    let m = found.release();
    let status = control::request(&m.store, &Request::Status, &mut |_, _| {});
    let read_only = status.is_ok_and(|s| s["read_only"] == true);
    if read_only && !o.read_only {
        return Err(format!(
            "{shown}: its store is open for reading only; umount it and mount it with rw"
        ));
    }
    fuse::remount(&m.dir, &o.fuse(m.store.into())).map_err(|e| format!("{shown}: {e}"))
}

/// Has umount(8) call our helper. Of itself it takes a mount of ours for one of any FUSE file system,
/// unless what mount(8) remembers of a mount (`/run/mount/utab`) names the helper. If that cannot be
/// written, umount(8) unmounts without waiting for the store to be closed.
fn register(spec: &Path, dir: &Path) {
    if !Path::new("/sbin/umount.fuse.lmfs").exists() {
        return;
    }
    let mut command = Command::new("mount");
    // Neither mounts nor calls a helper: it only remembers.
    command.args(["--fake", "--internal-only", "--no-canonicalize", "-t", "fuse.lmfs"]);
    command.args(["-o", "uhelper=lmfs"]);
    let whole = |p: &Path| p.canonicalize().unwrap_or_else(|_| p.to_owned());
    command.arg(whole(spec)).arg(whole(dir)).stdin(Stdio::null()).stdout(Stdio::null());
    let _ = command.stderr(Stdio::null()).status();
}

/// Runs the helper; returns its exit code.
pub fn main(args: Vec<OsString>) -> u8 {
    let call = match parse(args) {
        Ok(c) => c,
        Err(e) => {
            eprintln!("mount.lmfs: {e}");
            return USAGE;
        }
    };
    let mut o = Options::default();
    for text in &call.options {
        if let Err(e) = options::parse(&mut o, text, call.sloppy) {
            eprintln!("mount.lmfs: {e}");
            return USAGE;
        }
    }
    if call.fake {
        return 0;
    }
    if o.remount {
        return match remount(&call.dir, &o) {
            Ok(()) => 0,
            Err(e) => {
                eprintln!("mount.lmfs: {e}");
                MOUNT
            }
        };
    }
    if !std::path::Path::new("/proc/self/exe").exists() {
        eprintln!("mount.lmfs: /proc is not mounted; mount it first");
        return SYSTEM;
    }
    // Sloppiness ends here: the daemon is given only what is known.
    let known = |text: &String| {
        let keep = |o: &&str| options::parse(&mut Options::default(), o, false).is_ok();
        text.split(',').filter(keep).collect::<Vec<_>>().join(",")
    };
    let options: Vec<String> = call.options.iter().map(known).collect();
    match mount::daemon(&call.spec, &call.dir, &options) {
        Ok(()) => {
            register(&call.spec, &call.dir);
            if call.verbose {
                outln!("mount.lmfs: {} mounted on {}", call.spec.display(), call.dir.display());
            }
            0
        }
        Err(f) => {
            eprintln!("mount.lmfs: {}", f.message);
            MOUNT
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(args: &[&str]) -> Result<Call, String> {
        parse(args.iter().map(Into::into).collect())
    }

    #[test]
    fn what_mount_8_says_is_understood() {
        let c = call(&["./store", "/mnt", "-sv", "-o", "rw,noatime", "-t", "lmfs"]).unwrap();
        assert_eq!((c.spec, c.dir), ("./store".into(), "/mnt".into()));
        assert!(c.sloppy && c.verbose && !c.fake);
        assert_eq!(c.options, ["rw,noatime"]);
        let c = call(&["-fn", "-oro", "a", "b"]).unwrap();
        assert!(c.fake && c.options == ["ro"]);
    }

    #[test]
    fn wrong_usage_is_told() {
        assert!(call(&["a"]).unwrap_err().contains("usage"));
        assert!(call(&["a", "b", "c"]).is_err());
        assert!(call(&["a", "b", "-x"]).unwrap_err().contains("-x"));
        assert!(call(&["a", "b", "-o"]).unwrap_err().contains("-o"));
    }
}
