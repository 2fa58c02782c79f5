//! `/etc/lmfs.conf`: defaults for mount options, of all stores and of single ones. It may be missing.
//! What is wrong in it is an error that names file and line, whichever store is mounted.

use super::options::{self, Options};
use std::collections::BTreeMap;
use std::fmt::{self, Write};
use std::path::{Path, PathBuf};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// The file, unless `$LMFS_CONF` names another.
const FILE: &str = "/etc/lmfs.conf";
/// Options that have a value.
const VALUED: [&str; 14] = [
    "model",
    "cache",
    "rest",
    "commit",
    "lm_gain",
    "recode",
    "gc",
    "remote",
    "remote_cache",
    "remote_timeout",
    "refresh",
    "recode_threads",
    "decode_threads",
    "log",
];
/// Options that are given or not.
const FLAGS: [&str; 11] = [
    "ro",
    "allow_other",
    "allow_root",
    "default_permissions",
    "noatime",
    "sync",
    "nodev",
    "nosuid",
    "noexec",
    "dirsync",
    "nosymfollow",
];

/// Where a setting comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// Nobody said anything else.
    BuiltIn,
    /// A line of the file.
    Line(PathBuf, usize),
    /// `-o`.
    CommandLine,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::BuiltIn => f.write_str("built in"),
            Self::Line(path, line) => write!(f, "{}:{line}", path.display()),
            Self::CommandLine => f.write_str("command line"),
        }
    }
}

/// An option as the file sets it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Entry {
    line: usize,
    /// As behind `-o`; `None` for a flag that is not to be given.
    option: Option<String>,
}

/// Options by name.
type Section = BTreeMap<&'static str, Entry>;

/// What the file says.
#[derive(Debug, Default)]
struct Config {
    path: PathBuf,
    defaults: Section,
    stores: Vec<(PathBuf, Section)>,
}

/// Number of the line, from 1, in which a byte lies.
fn line_of(text: &[u8], at: usize) -> usize {
    text.split(|b| *b == b'\n')
        .scan(0, |start, line| {
            *start += line.len() + 1;
            Some(*start)
        })
        .take_while(|next| *next <= at)
        .count()
        + 1
}

/// The option that a key and its value stand for.
fn option(key: &str, value: &DeValue) -> Result<(&'static str, Option<String>), String> {
    if let Some(name) = FLAGS.iter().find(|n| **n == key) {
        return match value {
            DeValue::Boolean(false) if *name == "default_permissions" => {
                Err(format!("{name} is always on; leave it out"))
            }
            DeValue::Boolean(on) => Ok((name, on.then(|| (*name).to_owned()))),
            other => Err(format!("{name}: say true or false, not a {}", other.type_str())),
        };
    }
    let Some(name) = VALUED.iter().find(|n| **n == key) else {
        return Err(format!("unknown key '{key}'; lmfs.conf(5) lists those that there are"));
    };
    let value = match value {
        DeValue::String(s) => s.clone().into_owned(),
        DeValue::Integer(n) => n.to_string(),
        DeValue::Float(x) => x.to_string(),
        DeValue::Boolean(on) if *name == "recode" => if *on { "on" } else { "off" }.into(),
        DeValue::Boolean(on) if *name == "gc" => if *on { "auto" } else { "off" }.into(),
        other => return Err(format!("{name}: a {} is no value for it", other.type_str())),
    };
    if value.contains(',') {
        return Err(format!("{name}: '{value}' has a comma, which no option can have"));
    }
    let text = format!("{name}={value}");
    options::parse(&mut Options::default(), &text, false)?;
    Ok((name, Some(text)))
}

impl Config {
    /// Reads the file's text.
    fn parse(path: &Path, text: &str) -> Result<Self, String> {
        let at = |span: std::ops::Range<usize>, what: &dyn fmt::Display| {
            format!("{}:{}: {what}", path.display(), line_of(text.as_bytes(), span.start))
        };
        let table = DeTable::parse(text).map_err(|e| {
            let first = e.message().lines().next().unwrap_or("not TOML").to_owned();
            at(e.span().unwrap_or(0..0), &first)
        })?;
        let section = |value: &Spanned<DeValue>, name: &str| -> Result<Section, String> {
            let Some(table) = value.get_ref().as_table() else {
                return Err(at(value.span(), &format!("{name} is a section: [{name}]")));
            };
            let mut out = Section::new();
            for (key, value) in table {
                let (name, option) =
                    option(key.get_ref(), value.get_ref()).map_err(|e| at(key.span(), &e))?;
                out.insert(
                    name,
                    Entry { line: line_of(text.as_bytes(), key.span().start), option },
                );
            }
            Ok(out)
        };
        let mut config = Self { path: path.into(), ..Self::default() };
        for (key, value) in table.get_ref() {
            match &**key.get_ref() {
                "defaults" => config.defaults = section(value, "defaults")?,
                "store" => {
                    let Some(stores) = value.get_ref().as_table() else {
                        return Err(at(value.span(), &"store is a section: [store.\"/PATH\"]"));
                    };
                    for (store, value) in stores {
                        let dir = PathBuf::from(&**store.get_ref());
                        if !dir.is_absolute() {
                            let text = format!(
                                "a store's section is named by its whole path: [store.\"/PATH/{}\"]",
                                dir.display()
                            );
                            return Err(at(store.span(), &text));
                        }
                        let name = format!("store.\"{}\"", dir.display());
                        config.stores.push((dir, section(value, &name)?));
                    }
                }
                other => {
                    let text = format!(
                        "unknown key '{other}'; there are [defaults] and [store.\"/PATH\"]"
                    );
                    return Err(at(key.span(), &text));
                }
            }
        }
        Ok(config)
    }

    /// Reads the file, if it is there.
    fn read() -> Result<Self, String> {
        let named = std::env::var_os("LMFS_CONF");
        let path = named.as_ref().map_or_else(|| FILE.into(), PathBuf::from);
        match std::fs::read(&path) {
            Ok(bytes) => {
                let text = std::str::from_utf8(&bytes).map_err(|e| {
                    let line = line_of(&bytes, e.valid_up_to());
                    format!("{}:{line}: not UTF-8", path.display())
                })?;
                Self::parse(&path, text)
            }
            Err(e) if e.kind() == std::io::ErrorKind::NotFound && named.is_none() => {
                Ok(Self::default())
            }
            Err(e) => Err(format!("{}: {e}", path.display())),
        }
    }

    /// What it says of a store; of those that have no section, if none is named.
    fn of(&self, store: Option<&Path>) -> Section {
        let whole = |p: &Path| {
            p.canonicalize().or_else(|_| std::path::absolute(p)).unwrap_or_else(|_| p.to_owned())
        };
        let mut section = self.defaults.clone();
        if let Some(store) = store.map(whole) {
            for (_, own) in self.stores.iter().filter(|(dir, _)| whole(dir) == store) {
                section.extend(own.iter().map(|(name, entry)| (*name, entry.clone())));
            }
        }
        section
    }
}

/// The options that a mount has, and where each comes from.
#[derive(Debug, Default)]
pub struct Effective {
    /// The options.
    pub options: Options,
    /// Those that are not as built in.
    origins: BTreeMap<String, Origin>,
}

/// Options that say the opposite of another one.
fn opposite(name: &str) -> &str {
    match name {
        "rw" => "ro",
        "dev" => "nodev",
        "suid" => "nosuid",
        "exec" => "noexec",
        name => name,
    }
}

/// The options of a mount of `store`: as built in, as the file has them, as the command line has them.
pub fn effective(store: Option<&Path>, command_line: &[String]) -> Result<Effective, String> {
    Effective::of(&Config::read()?, store, command_line)
}

impl Effective {
    fn of(config: &Config, store: Option<&Path>, command_line: &[String]) -> Result<Self, String> {
        let mut out = Self::default();
        for (name, entry) in config.of(store) {
            let origin = Origin::Line(config.path.clone(), entry.line);
            if let Some(text) = &entry.option {
                options::parse(&mut out.options, text, false)
                    .map_err(|e| format!("{origin}: {e}"))?;
            }
            out.origins.insert(name.into(), origin);
        }
        for text in command_line {
            options::parse(&mut out.options, text, false)?;
            for option in text.split(',').filter(|t| !t.is_empty()) {
                let name = opposite(option.split('=').next().unwrap_or(option));
                out.origins.insert(name.into(), Origin::CommandLine);
            }
        }
        Ok(out)
    }

    /// The settings as lines of the file, each with where it comes from.
    pub fn print(&self) -> String {
        let o = &self.options;
        let quoted = |s: &str| format!("\"{s}\"");
        let on = |flag: bool, yes: &str| quoted(if flag { yes } else { "off" });
        let seconds = |d: std::time::Duration| d.as_secs_f64().to_string();
        let mut lines: Vec<(&str, String)> = vec![
            ("ro", o.read_only.to_string()),
            ("cache", quoted(&size(o.fs.cache_bytes))),
            ("rest", seconds(o.fs.recode.rest)),
            ("commit", seconds(o.fs.commit)),
            ("lm_gain", o.fs.lm_gain.to_string()),
            ("recode", on(o.fs.recode.enabled, "on")),
            ("gc", on(o.fs.clean, "auto")),
            ("remote", quoted(if o.remote.sync { "sync" } else { "sealed" })),
            ("remote_timeout", seconds(o.remote.timeout)),
            ("refresh", seconds(o.remote.refresh)),
            ("recode_threads", o.fs.recode.threads.to_string()),
            ("decode_threads", o.fs.decode_threads.to_string()),
            ("allow_other", o.allow_other.to_string()),
            ("allow_root", o.allow_root.to_string()),
            ("default_permissions", o.default_permissions.to_string()),
            ("noatime", o.fs.noatime.to_string()),
            ("sync", o.fs.sync.to_string()),
            ("log", quoted(&o.log.to_string().to_lowercase())),
        ];
        match &o.fs.model {
            Some(model) => lines.insert(1, ("model", quoted(model))),
            None => lines.insert(1, ("# model", "as directories say, else the store".into())),
        }
        match o.remote.cache_bytes {
            Some(bytes) => lines.push(("remote_cache", quoted(&size(bytes)))),
            None => lines.push(("# remote_cache", "1G for a URL; a store keeps everything".into())),
        }
        for name in ["nodev", "nosuid", "noexec", "dirsync", "nosymfollow"] {
            let said = o.extra.iter().rev().find(|e| opposite(e) == name);
            lines.push((name, said.is_some_and(|s| s == name).to_string()));
        }
        let mut out = String::new();
        for (name, value) in lines {
            let origin = self.origins.get(name).unwrap_or(&Origin::BuiltIn);
            let setting = format!("{name} = {value}");
            // To a string, which cannot fail.
            let _ = writeln!(out, "{setting:<31} # {origin}");
        }
        out
    }
}

/// A size as options take it, exactly.
fn size(bytes: u64) -> String {
    let units = [(40, "T"), (30, "G"), (20, "M"), (10, "K")];
    let whole = |shift: &u32| bytes > 0 && bytes.is_multiple_of(1 << shift);
    match units.iter().find(|(shift, _)| whole(shift)) {
        Some((shift, unit)) => format!("{}{unit}", bytes >> shift),
        None => bytes.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(text: &str) -> Result<Config, String> {
        Config::parse(Path::new("/etc/lmfs.conf"), text)
    }

    const GOOD: &str = r#"
# of all
[defaults]
cache = "1G"
rest = 60
commit = 2.5
recode = false
gc = false
allow_other = true
noatime = true
nosuid = true

[store."/no/such/store"]
rest = 1_000
recode = "on"
allow_other = false
model = "fast"
"#;

    #[test]
    fn settings_come_from_the_nearest_that_has_them() {
        let config = config(GOOD).unwrap();
        let of = |store: &str, options: &[&str]| {
            let options: Vec<String> = options.iter().map(|o| (*o).to_owned()).collect();
            Effective::of(&config, Some(Path::new(store)), &options).unwrap()
        };
        let all = of("/other", &[]);
        let o = &all.options;
        assert!((o.fs.cache_bytes, o.fs.recode.rest.as_secs()) == (1 << 30, 60));
        assert!(!o.fs.recode.enabled && !o.fs.clean && o.allow_other && o.fs.noatime);
        assert!(o.fs.model.is_none() && o.extra == ["nosuid"]);
        let own = of("/no/such/store/", &["ro,cache=2M", "rw,suid"]);
        let o = &own.options;
        assert!((o.fs.cache_bytes, o.fs.recode.rest.as_secs()) == (2 << 20, 1000));
        assert!(o.fs.recode.enabled && !o.fs.clean && !o.allow_other && !o.read_only);
        let printed = own.print();
        for line in [
            "ro = false                      # command line",
            "model = \"fast\"                  # /etc/lmfs.conf:17",
            "cache = \"2M\"                    # command line",
            "rest = 1000                     # /etc/lmfs.conf:14",
            "commit = 2.5                    # /etc/lmfs.conf:6",
            "recode = \"on\"                   # /etc/lmfs.conf:15",
            "gc = \"off\"                      # /etc/lmfs.conf:8",
            "decode_threads = 2              # built in",
            "allow_other = false             # /etc/lmfs.conf:16",
            "nosuid = false                  # command line",
            "nodev = false                   # built in",
        ] {
            assert!(printed.lines().any(|l| l == line), "{line} in\n{printed}");
        }
        // What is printed is a section.
        let again = config_of(&printed);
        assert_eq!(again.options.fs.cache_bytes, 2 << 20);
        assert_eq!(again.options.fs.recode.rest.as_secs(), 1000);
        assert_eq!(config_of(&all.print()).options.fs.commit.as_millis(), 2500);
    }

    fn config_of(printed: &str) -> Effective {
        let config = config(&format!("[defaults]\n{printed}")).unwrap();
        Effective::of(&config, None, &[]).unwrap()
    }

    #[test]
    fn what_is_wrong_is_named_with_its_line() {
        for (text, line, what) in [
            ("[defaults]\ncolour = \"blue\"\n", 2, "colour"),
            ("[defaults]\nrest = 1\n\n[other]\n", 4, "other"),
            ("cache = \"1G\"\n", 1, "cache"),
            ("[defaults]\ncache = \"lots\"\n", 2, "lots"),
            ("[defaults]\nrest = -1\n", 2, "rest=-1"),
            ("[defaults]\nrest = true\n", 2, "rest"),
            ("[defaults]\nallow_other = \"yes\"\n", 2, "allow_other"),
            ("[defaults]\ndefault_permissions = false\n", 2, "always on"),
            ("[defaults]\nmodel = \"base,ro\"\n", 2, "comma"),
            ("[defaults]\nremount = true\n", 2, "remount"),
            ("[defaults]\nrest = [1]\n", 2, "rest"),
            ("[store.logs]\n", 1, "/PATH/logs"),
            ("[store.\"/a\"]\nrest = 1\nrset = 2\n", 3, "rset"),
            ("store = 3\n", 1, "store"),
            ("defaults = 3\n", 1, "[defaults]"),
            ("[defaults]\nrest = 1\nrest = 2\n", 3, "duplicate"),
            ("[defaults]\nrest = \n", 2, ""),
            ("[defaults\n", 1, ""),
        ] {
            let e = config(text).unwrap_err();
            let at = format!("/etc/lmfs.conf:{line}: ");
            assert!(e.starts_with(&at) && e.contains(what) && e.len() > at.len(), "{text:?}: {e}");
        }
        assert!(config("").unwrap().stores.is_empty());
    }
}
