//! `umount.lmfs`, by which umount(8) does what `lmfs umount` does: `umount DIR` returns once the store
//! is closed.

use super::helper::arguments;
use super::output::Say;
use super::umount;
use std::ffi::OsString;
use std::path::PathBuf;

/// Wrong usage.
const USAGE: u8 = 1;
/// It is still mounted, or not closed cleanly.
const UMOUNT: u8 = 32;

const HELP: &str = "usage: umount.lmfs DIR [-flnrv] [-N NAMESPACE] [-t TYPE]";

#[derive(Debug, Default, PartialEq, Eq)]
struct Call {
    dir: PathBuf,
    lazy: bool,
    verbose: bool,
}

fn parse(args: Vec<OsString>) -> Result<Call, String> {
    let mut call = Call::default();
    let places = arguments(args, "tN", HELP, |c, _| {
        match c {
            'l' => call.lazy = true,
            'v' => call.verbose = true,
            // Forcing would cut what is being written; it is for servers that do not answer.
            'f' | 'n' | 'r' | 't' | 'N' => {}
            _ => return false,
        }
        true
    })?;
    let [dir] = <[OsString; 1]>::try_from(places).map_err(|_| HELP.to_owned())?;
    call.dir = dir.into();
    Ok(call)
}

/// Runs the helper; returns its exit code.
pub fn main(args: Vec<OsString>) -> u8 {
    let call = match parse(args) {
        Ok(c) => c,
        Err(e) => {
            eprintln!("umount.lmfs: {e}");
            return USAGE;
        }
    };
    match umount::unmount(&call.dir, call.lazy, Say { quiet: false }) {
        Ok(()) => {
            if call.verbose {
                eprintln!("umount.lmfs: {} unmounted", call.dir.display());
            }
            0
        }
        Err(f) => {
            eprintln!("umount.lmfs: {}", f.message);
            UMOUNT
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_umount_8_says_is_understood() {
        let call = |args: &[&str]| parse(args.iter().map(Into::into).collect());
        let c = call(&["/mnt", "-v", "-l", "-t", "fuse.lmfs"]).unwrap();
        assert!(c.dir.as_os_str() == "/mnt" && c.lazy && c.verbose);
        assert!(!call(&["-fnr", "/mnt"]).unwrap().lazy);
        assert!(call(&[]).is_err() && call(&["a", "b"]).is_err());
        assert!(call(&["a", "-x"]).unwrap_err().contains("-x"));
        assert!(call(&["a", "-t"]).unwrap_err().contains("-t"));
    }
}
