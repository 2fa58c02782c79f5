//! `lmfs grep`: grep(1) over an archive, decoded on all cores, that passes over what lies outside of a range of
//! time.

mod pattern;
mod place;
mod print;
mod required;
mod scan;
mod search;
mod stamp;
mod syntax;
mod window;

use super::{examples, output};
use crate::types::Time;
use clap::{ArgAction, CommandFactory, FromArgMatches, Parser};
use pattern::{How, Matcher};
use scan::Wanted;
use std::ffi::{CStr, OsString};
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

/// Lines were found.
const FOUND: u8 = 0;
/// None was.
const NOT_FOUND: u8 = 1;
/// Something went wrong, or could not be read.
const TROUBLE: u8 = 2;

/// Arguments. `-v`, `-q` and `-h` are grep's here; they bear the names of the options that all other
/// commands have, which are so kept from this one.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// What is looked for: a basic regular expression, or several, one a line; left out with -e
    #[arg(value_name = "PATTERN")]
    first: Option<OsString>,
    /// Stores, mounts, files and directories in them (default: the directory here)
    #[arg(value_name = "STORE|DIR|PATH")]
    paths: Vec<PathBuf>,
    /// What is looked for; may be given more than once
    #[arg(short = 'e', long = "regexp", value_name = "PATTERN", allow_hyphen_values = true)]
    patterns: Vec<OsString>,
    /// Upper and lower case are the same
    #[arg(short, long)]
    ignore_case: bool,
    /// The pattern is plain text
    #[arg(short = 'F', long, overrides_with_all = ["extended_regexp", "basic_regexp"])]
    fixed_strings: bool,
    /// The pattern is an extended regular expression
    #[arg(short = 'E', long, overrides_with_all = ["fixed_strings", "basic_regexp"])]
    extended_regexp: bool,
    /// The pattern is a basic regular expression (the default)
    #[arg(short = 'G', long, overrides_with_all = ["fixed_strings", "extended_regexp"])]
    basic_regexp: bool,
    /// Matches are whole words
    #[arg(short, long)]
    word_regexp: bool,
    /// Matches are whole lines
    #[arg(short = 'x', long)]
    line_regexp: bool,
    /// Lines that do not match
    #[arg(id = "verbose", short = 'v', long = "invert-match")]
    invert_match: bool,
    /// Only how many lines match in each file
    #[arg(short, long)]
    count: bool,
    /// Only the names of files with lines that match
    #[arg(short = 'l', long)]
    files_with_matches: bool,
    /// Nothing but the exit code; ends with the first match
    #[arg(id = "quiet", short, long = "quiet", visible_alias = "silent")]
    nothing: bool,
    /// Only what matches of each line
    #[arg(short, long)]
    only_matching: bool,
    /// Lines with their numbers; then all of a file before the last is decoded
    #[arg(short = 'n', long)]
    line_number: bool,
    /// Lines with the names of their files
    #[arg(short = 'H', long, overrides_with = "no_filename")]
    with_filename: bool,
    /// Lines without the names of their files
    #[arg(short = 'h', long, overrides_with = "with_filename")]
    no_filename: bool,
    /// Files with NUL bytes, or what is not UTF-8, are text, too
    #[arg(short = 'a', long)]
    text: bool,
    /// Not a word about what cannot be read
    #[arg(short = 's', long)]
    no_messages: bool,
    /// Go into directories (always done)
    #[arg(short, long)]
    recursive: bool,
    /// Also so many lines behind each
    #[arg(short = 'A', long, value_name = "N")]
    after_context: Option<usize>,
    /// Also so many lines before each
    #[arg(short = 'B', long, value_name = "N")]
    before_context: Option<usize>,
    /// Also so many lines around each
    #[arg(short = 'C', long, value_name = "N")]
    context: Option<usize>,
    /// Only lines of this time and later
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    since: Option<String>,
    /// Only lines of this time and before
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    until: Option<String>,
    /// With --since or --until: read all, whether files are in the order of time or not
    #[arg(long)]
    whole: bool,
    /// Print help
    #[arg(long, action = ArgAction::Help)]
    help: Option<bool>,
}

/// What `lmfs grep` takes when it is parsed alone: options of other commands mean something else in it.
#[derive(Debug, Parser)]
#[command(name = "lmfs grep", disable_help_flag = true, disable_version_flag = true)]
struct Alone {
    #[command(flatten)]
    args: Args,
}

/// What is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shown {
    Lines,
    Parts,
    Counts,
    Names,
    Nothing,
}

/// How it is printed.
struct Show {
    what: Shown,
    /// Names of files stand before lines.
    names: bool,
    /// Numbers of lines do.
    numbers: bool,
    /// Lines before and after.
    context: Option<(usize, usize)>,
    /// Lines that are not UTF-8 are no text.
    utf8: bool,
    /// What cannot be read is not mentioned.
    silent: bool,
}

/// Why nothing more can be done.
#[derive(Debug)]
struct Failed(String);

/// The arguments before and behind `grep`, if that is the command.
pub fn asked_for(args: &[OsString]) -> Option<(&[OsString], &[OsString])> {
    let at = args.iter().position(|a| !common(a))?;
    (args[at] == "grep").then(|| (&args[..at], &args[at + 1..]))
}

/// True for an option that all commands have.
fn common(arg: &OsString) -> bool {
    let text = arg.to_string_lossy();
    let short = text.strip_prefix('-').filter(|s| !s.is_empty());
    text == "--verbose"
        || text == "--quiet"
        || short.is_some_and(|s| s.chars().all(|c| matches!(c, 'v' | 'q')))
}

/// Runs it, with the options of all commands and its own arguments; the exit code is that of grep(1).
pub fn main(common: &[OsString], args: &[OsString]) -> u8 {
    let times = |short: char, long: &str| -> usize {
        let in_one = |arg: &OsString| match arg.to_string_lossy() {
            text if text == long => 1,
            text if text.starts_with("--") => 0,
            text => text.matches(short).count(),
        };
        common.iter().map(in_one).sum()
    };
    let (verbose, quiet) = (times('v', "--verbose"), times('q', "--quiet") > 0);
    let name = [OsString::from("lmfs grep")];
    let mut known = Alone::command().after_help(examples::of("grep")).color(output::colour());
    let parsed = known.try_get_matches_from_mut(name.iter().chain(args));
    let parsed = parsed.and_then(|m| Alone::from_arg_matches(&m).map_err(|e| e.format(&mut known)));
    let mut alone = match parsed {
        Ok(alone) => alone.args,
        Err(e) => {
            let printed = e.print();
            if e.use_stderr() {
                return TROUBLE;
            }
            output::written(printed);
            return FOUND;
        }
    };
    // What is damaged is said once, by the search.
    output::log_to_stderr(match verbose {
        0 => log::LevelFilter::Off,
        1 => log::LevelFilter::Info,
        _ => log::LevelFilter::Debug,
    });
    alone.no_messages |= quiet;
    match run(alone) {
        Ok(code) => code,
        Err(Failed(why)) => {
            eprintln!("lmfs: {why}");
            TROUBLE
        }
    }
}

/// True where the user's text is UTF-8.
fn utf8() -> bool {
    // SAFETY: constant strings, before any thread of ours exists; the answer is a C string.
    unsafe {
        libc::setlocale(libc::LC_CTYPE, c"".as_ptr());
        let name = libc::nl_langinfo(libc::CODESET);
        !name.is_null() && CStr::from_ptr(name).to_bytes().eq_ignore_ascii_case(b"UTF-8")
    }
}

fn run(mut a: Args) -> Result<u8, Failed> {
    let mut patterns = std::mem::take(&mut a.patterns);
    if patterns.is_empty() {
        patterns.extend(a.first.take());
    } else {
        a.paths.splice(0..0, a.first.take().map(PathBuf::from));
    }
    if patterns.is_empty() {
        return Err(Failed("grep: a pattern is missing; lmfs grep --help says more".into()));
    }
    let now = Time::now();
    let now = now.sec.saturating_mul(stamp::SECOND) + i64::from(now.nsec / 1000);
    let time = |option: &Option<String>, text: &str| match option {
        None => Ok(None),
        Some(t) => stamp::given(t, now).map(Some).map_err(|e| Failed(format!("--{text}: {e}"))),
    };
    let (since, until) = (time(&a.since, "since")?, time(&a.until, "until")?);
    let span = (since.is_some() || until.is_some())
        .then(|| (since.unwrap_or(i64::MIN), until.unwrap_or(i64::MAX)));
    let utf8 = utf8();
    let how = How {
        ignore_case: a.ignore_case,
        fixed: a.fixed_strings,
        extended: a.extended_regexp,
        word: a.word_regexp,
        line: a.line_regexp,
        invert: a.invert_match,
        utf8,
    };
    let what = match () {
        () if a.nothing => Shown::Nothing,
        () if a.files_with_matches => Shown::Names,
        () if a.count => Shown::Counts,
        () if a.only_matching => Shown::Parts,
        () => Shown::Lines,
    };
    let patterns: Vec<Vec<u8>> = patterns.into_iter().map(OsStringExt::into_vec).collect();
    let matcher = Matcher::new(&patterns, how, what == Shown::Parts).map_err(Failed)?;
    let numbers = a.line_number && matches!(what, Shown::Lines | Shown::Parts);
    // Lines between are of interest for their numbers, as context, and for their times.
    let sparse = !numbers && !a.whole && span.is_none();
    let sparse = sparse && a.context.or(a.after_context).or(a.before_context).is_none();
    let words = if sparse { matcher.words().to_vec() } else { Vec::new() };
    let wanted = Wanted { matcher, span, text: a.text, numbers, words };
    let context = a.context.or(a.after_context).or(a.before_context).map(|_| {
        let around = a.context.unwrap_or(0);
        (a.before_context.unwrap_or(around), a.after_context.unwrap_or(around))
    });
    let show = Show { what, names: false, numbers, context, utf8, silent: a.no_messages };
    let names = (a.with_filename, a.no_filename);
    search::run(&a.paths, show, names, &wanted, a.whole)
}
