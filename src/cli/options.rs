//! Mount options: what is known, what is passed on, what is refused.

use crate::fs::FsOptions;
use crate::fuse::MountOptions;
use crate::recode::RecodeOptions;
use crate::store::REMOTE_PATIENCE;
use std::ffi::OsString;
use std::time::Duration;

/// How an object store is used.
#[derive(Debug, Clone)]
pub struct RemoteOptions {
    /// Bytes of the cache on disk, of an archive that is mounted from a URL.
    pub cache_bytes: Option<u64>,
    /// How long an answer is waited for.
    pub timeout: Duration,
    /// How often newer manifests are looked for; never if zero.
    pub refresh: Duration,
    /// What is synced is uploaded, too.
    pub sync: bool,
}

impl Default for RemoteOptions {
    fn default() -> Self {
        Self {
            cache_bytes: None,
            timeout: REMOTE_PATIENCE,
            refresh: Duration::from_secs(60),
            sync: false,
        }
    }
}

/// All mount options, with their defaults.
#[derive(Debug, Clone)]
pub struct Options {
    /// Nothing may be changed.
    pub read_only: bool,
    /// Change a mount that is there.
    pub remount: bool,
    /// Stay in the foreground.
    pub foreground: bool,
    /// Log level.
    pub log: log::LevelFilter,
    /// The file system's options.
    pub fs: FsOptions,
    /// What has to do with an object store.
    pub remote: RemoteOptions,
    /// All users may use the mount.
    pub allow_other: bool,
    /// Root may use it.
    pub allow_root: bool,
    /// The kernel checks permissions.
    pub default_permissions: bool,
    /// Options for the kernel.
    pub extra: Vec<String>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            read_only: false,
            remount: false,
            foreground: false,
            log: log::LevelFilter::Info,
            fs: FsOptions::default(),
            remote: RemoteOptions::default(),
            allow_other: false,
            allow_root: false,
            default_permissions: true,
            extra: Vec::new(),
        }
    }
}

/// A size: digits and an optional K, M, G or T, powers of 1024.
pub fn size(text: &str) -> Result<u64, String> {
    let bad = || format!("'{text}' is not a size; write digits and K, M or G, such as 256M");
    let (digits, shift) = match text.as_bytes().last() {
        Some(b'k' | b'K') => (&text[..text.len() - 1], 10),
        Some(b'm' | b'M') => (&text[..text.len() - 1], 20),
        Some(b'g' | b'G') => (&text[..text.len() - 1], 30),
        Some(b't' | b'T') => (&text[..text.len() - 1], 40),
        _ => (text, 0),
    };
    let n: u64 = digits.parse().map_err(|_| bad())?;
    n.checked_mul(1 << shift).ok_or_else(bad)
}

/// Most seconds that an option takes: about three years. No clock gets anywhere near its end by it.
const SECONDS_MAX: f64 = 1e8;

fn seconds(name: &str, text: &str) -> Result<Duration, String> {
    let s = text.parse().ok().filter(|s| (0.0..=SECONDS_MAX).contains(s));
    s.and_then(|s| Duration::try_from_secs_f64(s).ok()).ok_or_else(|| {
        format!("mount option {name}={text}: not a number of seconds (0 to {SECONDS_MAX})")
    })
}

fn threads(name: &str, text: &str) -> Result<usize, String> {
    text.parse()
        .ok()
        .filter(|n| (1..=256).contains(n))
        .ok_or_else(|| format!("mount option {name}={text}: not a number of threads (1 to 256)"))
}

/// Reads comma-separated options into `o`. With `sloppy`, unknown ones are ignored.
pub fn parse(o: &mut Options, text: &str, sloppy: bool) -> Result<(), String> {
    for option in text.split(',').filter(|t| !t.is_empty()) {
        let (name, value) = match option.split_once('=') {
            Some((n, v)) => (n, Some(v)),
            None => (option, None),
        };
        let need = || value.ok_or_else(|| format!("mount option {name} needs a value"));
        match name {
            "ro" => o.read_only = true,
            "rw" => o.read_only = false,
            "model" => o.fs.model = Some(need()?.into()),
            "cache" => {
                let bytes = size(need()?);
                o.fs.cache_bytes = bytes.map_err(|e| format!("mount option cache: {e}"))?;
            }
            "rest" => o.fs.recode.rest = seconds(name, need()?)?,
            "commit" => o.fs.commit = seconds(name, need()?)?,
            "lm_gain" => {
                let v = need()?;
                o.fs.lm_gain =
                    v.parse().ok().filter(|p| (0.0..=100.0).contains(p)).ok_or_else(|| {
                        format!("mount option lm_gain={v}: not a percentage (0 to 100)")
                    })?;
            }
            "recode" => match need()? {
                "on" => o.fs.recode.enabled = true,
                "off" => o.fs.recode.enabled = false,
                v => return Err(format!("mount option recode={v}: say on or off")),
            },
            "gc" => match need()? {
                "auto" => o.fs.clean = true,
                "off" => o.fs.clean = false,
                v => return Err(format!("mount option gc={v}: say auto or off")),
            },
            "remote" => match need()? {
                "sealed" => o.remote.sync = false,
                "sync" => o.remote.sync = true,
                v => return Err(format!("mount option remote={v}: say sealed or sync")),
            },
            "remote_cache" => {
                let bytes = size(need()?);
                o.remote.cache_bytes =
                    Some(bytes.map_err(|e| format!("mount option remote_cache: {e}"))?);
            }
            "remote_timeout" => o.remote.timeout = seconds(name, need()?)?,
            "refresh" => o.remote.refresh = seconds(name, need()?)?,
            "recode_threads" => o.fs.recode.threads = threads(name, need()?)?,
            "decode_threads" => o.fs.decode_threads = threads(name, need()?)?,
            "allow_other" => o.allow_other = true,
            "allow_root" => o.allow_root = true,
            "default_permissions" => o.default_permissions = true,
            "noatime" => o.fs.noatime = true,
            "sync" => o.fs.sync = true,
            "remount" => o.remount = true,
            "foreground" => o.foreground = true,
            "log" => {
                let v = need()?;
                o.log = v.parse().map_err(|_| {
                    format!("mount option log={v}: say error, warn, info, debug, trace or off")
                })?;
            }
            "nodev" | "dev" | "nosuid" | "suid" | "noexec" | "exec" | "dirsync" | "nosymfollow" => {
                o.extra.push(name.into());
            }
            "defaults" | "auto" | "noauto" | "user" | "users" | "nouser" | "nofail" | "_netdev"
            | "comment" | "relatime" | "strictatime" | "atime" | "diratime" | "nodiratime"
            | "async" | "lazytime" | "nolazytime" | "silent" | "loud" | "iversion"
            | "noiversion" | "symfollow" => {}
            "max_read" if !text.contains("remount") => {
                // Of no effect: how much is read at a time is settled with the kernel.
                size(need()?).map_err(|e| format!("mount option max_read: {e}"))?;
            }
            // Words between mount(8) and its helpers.
            "uhelper" | "helper" => drop(need()?),
            "fsname" | "subtype" => {
                return Err(format!(
                    "mount option {name}= cannot be set: a mount's source names its store, by which \
                     other commands find it; leave the option out"
                ));
            }
            // What mount(8) repeats from /proc/mounts on a remount.
            "user_id" | "group_id" | "rootmode" | "max_read" | "blksize"
                if text.contains("remount") => {}
            _ if name.starts_with("x-") || sloppy => {}
            _ => {
                return Err(format!("unknown mount option '{option}'; lmfs-mount(1) lists them"));
            }
        }
    }
    Ok(())
}

impl Options {
    /// For the FUSE layer; `source` is the store's path.
    pub fn fuse(&self, source: OsString) -> MountOptions {
        MountOptions {
            read_only: self.read_only,
            allow_other: self.allow_other,
            allow_root: self.allow_root,
            default_permissions: self.default_permissions,
            threads: 4,
            source,
            extra: self.extra.clone(),
        }
    }

    /// Options for a look at a store without mounting it: no background work.
    pub fn offline() -> FsOptions {
        let d = FsOptions::default();
        FsOptions {
            clean: false,
            recode: RecodeOptions { enabled: false, ..d.recode.clone() },
            ..d
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Result<Options, String> {
        let mut o = Options::default();
        parse(&mut o, text, false).map(|()| o)
    }

    #[test]
    fn known_options_are_taken() {
        let o =
            parsed("ro,cache=64M,rest=1.5,commit=2,recode=off,decode_threads=3,log=debug,nosuid")
                .unwrap();
        assert!(o.read_only && !o.fs.recode.enabled);
        assert!(o.fs.clean && !parsed("gc=off").unwrap().fs.clean);
        assert!(parsed("gc=off,gc=auto").unwrap().fs.clean);
        assert!(parsed("gc=on").unwrap_err().contains("gc=on"));
        assert_eq!(o.fs.cache_bytes, 64 << 20);
        assert_eq!(o.fs.recode.rest, Duration::from_millis(1500));
        assert_eq!(o.fs.decode_threads, 3);
        assert_eq!(o.extra, ["nosuid"]);
    }

    #[test]
    fn fstab_words_are_ignored_and_others_named() {
        parsed("defaults,noauto,user,nofail,_netdev,x-systemd.automount,comment=a,relatime")
            .unwrap();
        assert!(parsed("rw,colour=blue").unwrap_err().contains("colour=blue"));
        assert!(parsed("cache=lots").unwrap_err().contains("lots"));
        assert!(parsed("cache").unwrap_err().contains("cache"));
        let mut o = Options::default();
        parse(&mut o, "colour=blue", true).unwrap();
        let o = parsed("lazytime,silent,nosymfollow,max_read=131072").unwrap();
        assert_eq!(o.extra, ["nosymfollow"]);
        assert!(parsed("max_read=some").unwrap_err().contains("max_read"));
        for name in ["fsname", "subtype"] {
            let e = parsed(&format!("rw,{name}=archive")).unwrap_err();
            assert!(e.contains(&format!("{name}=")) && e.contains("store"), "{e}");
        }
    }

    #[test]
    fn numbers_out_of_bounds_are_refused_by_name() {
        for name in ["rest", "commit", "remote_timeout", "refresh"] {
            for v in ["1e19", "1e300", "100000001", "-1", "-1e-9", "NaN", "inf", "-inf", "", "3s"] {
                let e = parsed(&format!("{name}={v}")).unwrap_err();
                assert!(e.contains(&format!("{name}={v}")) && e.contains("0 to 100000000"), "{e}");
            }
            parsed(&format!("{name}=0,{name}=0.001,{name}=100000000")).unwrap();
        }
        for (name, bounds) in [
            ("lm_gain", "0 to 100"),
            ("recode_threads", "1 to 256"),
            ("decode_threads", "1 to 256"),
        ] {
            for v in ["-1", "1e19", "257", "NaN", "inf", "18446744073709551616", ""] {
                let e = parsed(&format!("{name}={v}")).unwrap_err();
                assert!(e.contains(&format!("{name}={v}")) && e.contains(bounds), "{e}");
            }
        }
        for v in ["-1", "1e19", "NaN", "inf", "18446744073709551616", "17179869184G", "16777216T"] {
            let e = parsed(&format!("cache={v}")).unwrap_err();
            assert!(e.contains("cache") && e.contains(v), "{e}");
        }
    }

    #[test]
    fn options_of_an_object_store_are_taken() {
        let o =
            parsed("remote=sync,remote_cache=256M,remote_timeout=5,refresh=0.5").unwrap().remote;
        assert!(o.sync && o.cache_bytes == Some(256 << 20) && o.timeout.as_secs() == 5);
        assert_eq!(o.refresh.as_millis(), 500);
        assert!(!parsed("remote=sync,remote=sealed").unwrap().remote.sync);
        assert!(parsed("remote=always").unwrap_err().contains("remote=always"));
        assert!(parsed("remote_cache=lots").unwrap_err().contains("remote_cache"));
    }

    #[test]
    fn sizes_are_powers_of_1024() {
        assert_eq!(size("3K"), Ok(3072));
        assert_eq!(size("2G"), Ok(2 << 30));
        assert!(size("").is_err() && size("99999999999G").is_err());
    }
}
