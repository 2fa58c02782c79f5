//! Patterns as grep(1) understands them, by way of the regex crate.
//!
//! POSIX wants the leftmost match, and of those the longest; the regex crate gives the leftmost, by the
//! order of alternatives. Which lines match, and where matches begin, is the same for both. Where one
//! ends is of interest for `-o` alone, and then [`Matcher::matches`] looks for the longest.

use super::{required, syntax};
use regex::bytes::{Regex, RegexBuilder};
use regex_automata::nfa::thompson::{self, pikevm::PikeVM};
use regex_automata::util::{primitives::NonMaxUsize, syntax as options};
use regex_automata::{Anchored, Input, MatchKind};

/// Most memory of a compiled pattern, in bytes.
const SIZE_MAX: usize = 64 << 20;

/// How patterns are written and what they are to match.
#[derive(Debug, Clone, Copy, Default)]
pub struct How {
    /// Upper and lower case are the same.
    pub ignore_case: bool,
    /// Patterns are plain text.
    pub fixed: bool,
    /// Patterns are extended regular expressions.
    pub extended: bool,
    /// Matches begin and end where words do.
    pub word: bool,
    /// Matches are whole lines.
    pub line: bool,
    /// Lines that do not match are wanted.
    pub invert: bool,
    /// Text is UTF-8; else each byte is a character.
    pub utf8: bool,
}

/// A line in a text, with its newline if it has one: from, to. A chunk is far smaller than 4 GiB.
pub type Line = (u32, u32);

/// Finds the lines that are wanted.
pub struct Matcher {
    regex: Regex,
    /// As the regular expression, for the longest match.
    longest: Option<PikeVM>,
    invert: bool,
    /// Words that each match has.
    words: Vec<Vec<u8>>,
}

impl Matcher {
    /// A matcher of what any of the patterns matches; `parts` if matches themselves will be asked for.
    pub fn new(patterns: &[Vec<u8>], how: How, parts: bool) -> Result<Self, String> {
        let mut all = Vec::new();
        // Each line of a pattern is a pattern.
        for one in patterns.iter().flat_map(|p| p.split(|b| *b == b'\n')) {
            let text = if how.fixed {
                syntax::literal(one, how.utf8)
            } else {
                syntax::translate(one, how.extended, how.utf8)?
            };
            all.push(format!("(?:{text})"));
        }
        let mut text = format!("(?:{})", all.join("|"));
        if how.line {
            text = format!("^{text}$");
        } else if how.word {
            text = format!(r"\b{{start-half}}{text}\b{{end-half}}");
        }
        let regex = RegexBuilder::new(&text)
            .multi_line(true)
            .unicode(how.utf8)
            .case_insensitive(how.ignore_case)
            .size_limit(SIZE_MAX)
            .build()
            .map_err(|e| format!("pattern: {e}"))?;
        let longest = if parts {
            let syntax = options::Config::new()
                .multi_line(true)
                .unicode(how.utf8)
                .utf8(false)
                .case_insensitive(how.ignore_case);
            let made = PikeVM::builder()
                .syntax(syntax)
                .thompson(thompson::Config::new().utf8(false).nfa_size_limit(Some(SIZE_MAX)))
                .configure(thompson::pikevm::Config::new().match_kind(MatchKind::All))
                .build(&text);
            Some(made.map_err(|e| format!("pattern: {e}"))?)
        } else {
            None
        };
        let words = required::words(&text, how.ignore_case, how.utf8);
        let words = if how.invert { Vec::new() } else { words };
        Ok(Self { regex, longest, invert: how.invert, words })
    }

    /// Words in lower case that each wanted line has.
    pub fn words(&self) -> &[Vec<u8>] {
        &self.words
    }

    /// The wanted lines of a text that begins where a line does.
    pub fn lines(&self, text: &[u8]) -> Vec<Line> {
        let mut out = Vec::new();
        let mut at = 0;
        while at < text.len() {
            let found = self.regex.find_at(text, at).map(|m| m.start());
            // There is no line behind the last newline, though a pattern may match there.
            let found = found.filter(|f| *f < text.len() || text.last() != Some(&b'\n'));
            let (from, to) = match found {
                Some(f) => {
                    let from = memchr::memrchr(b'\n', &text[at..f]).map_or(at, |n| at + n + 1);
                    (from, end(text, f))
                }
                None => (text.len(), text.len()),
            };
            if self.invert {
                let mut other = at;
                while other < from {
                    let next = end(text, other);
                    out.push((other as u32, next as u32));
                    other = next;
                }
            } else if from < to {
                out.push((from as u32, to as u32));
            }
            at = to;
        }
        out
    }

    /// Calls `each` with the parts of a line, without its newline, that match and are not empty.
    pub fn matches(&self, line: &[u8], mut each: impl FnMut(&[u8])) {
        let Some(longest) = self.longest.as_ref().filter(|_| !self.invert) else { return };
        let mut cache = longest.create_cache();
        let mut at = 0;
        while let Some(found) = self.regex.find_at(line, at) {
            let from = found.start();
            let input = Input::new(line).span(from..line.len()).anchored(Anchored::Yes);
            let mut slots: [Option<NonMaxUsize>; 2] = [None; 2];
            longest.search_slots(&mut cache, &input, &mut slots);
            let to = slots[1].map_or(found.end(), |s| s.get().max(found.end()));
            if to > from {
                each(&line[from..to]);
            }
            at = if to > from { to } else { from + 1 };
            if at > line.len() {
                break;
            }
        }
    }
}

/// Where the line ends that a place is in: behind its newline.
fn end(text: &[u8], at: usize) -> usize {
    memchr::memchr(b'\n', &text[at..]).map_or(text.len(), |n| at + n + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matcher(pattern: &str, how: How) -> Matcher {
        Matcher::new(&[pattern.as_bytes().to_vec()], how, true).unwrap()
    }

    fn lines(pattern: &str, how: How, text: &str) -> Vec<String> {
        let found = matcher(pattern, how).lines(text.as_bytes());
        found.iter().map(|l| text[l.0 as usize..l.1 as usize].to_owned()).collect()
    }

    #[test]
    fn lines_are_whole_and_the_last_may_lack_its_newline() {
        let utf8 = How { utf8: true, ..How::default() };
        assert_eq!(lines("b", utf8, "abc\nx\n\nb"), ["abc\n", "b"]);
        assert_eq!(lines("x*", utf8, "a\n\nb\n"), ["a\n", "\n", "b\n"]);
        assert_eq!(lines("^$", utf8, "a\n\nb\n"), ["\n"]);
        assert_eq!(lines("b", How { invert: true, ..utf8 }, "abc\nx\n\nb"), ["x\n", "\n"]);
        assert_eq!(lines("x", How { invert: true, ..utf8 }, "abc\nb"), ["abc\n", "b"]);
        assert_eq!(lines("", utf8, ""), Vec::<String>::new());
    }

    #[test]
    fn parts_are_the_longest() {
        let how = How { extended: true, utf8: true, ..How::default() };
        let parts = |pattern: &str, how, text: &str| {
            let mut out = Vec::new();
            matcher(pattern, how).matches(text.as_bytes(), |m| {
                out.push(String::from_utf8_lossy(m).into_owned());
            });
            out
        };
        assert_eq!(parts("a|ab|abcd", how, "abcd ab"), ["abcd", "ab"]);
        assert_eq!(parts("x*", how, "axxb"), ["xx"]);
        assert_eq!(parts("^a", how, "aaa"), ["a"]);
        assert_eq!(parts("a|ab", How { word: true, ..how }, "ab a abc é"), ["ab", "a"]);
        assert_eq!(parts("[^ ]+", how, "grün é"), ["grün", "é"]);
    }
}
