//! The words that every match of a pattern has, for the filters of blocks.
//!
//! Only whole words count: between two characters that words are not made of, or at an edge that `-w`, `-x`,
//! `\<` and their like demand. In `user=root uid=0` that is `root` and `uid`; `user` may be the end of a longer
//! word, and `0` the beginning of one.

use crate::block::words::{WORD_MAX, is_word};
use regex_syntax::ParserBuilder;
use regex_syntax::hir::{Class, Hir, HirKind, Look};

/// Most words that are asked for: the longest, which are rarest.
const WORDS_MAX: usize = 4;

/// What stands in a match, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Byte(u8),
    /// No word goes on here.
    Edge,
    /// Anything.
    Unknown,
}

/// Words in lower case that each line has which an expression of the regex crate matches, without regard to case if
/// `any_case`; `utf8` if text is that.
pub fn words(expression: &str, any_case: bool, utf8: bool) -> Vec<Vec<u8>> {
    let mut parser = ParserBuilder::new().utf8(false).unicode(utf8).multi_line(true).build();
    let Ok(hir) = parser.parse(expression) else { return Vec::new() };
    let mut parts = vec![Part::Unknown];
    add(&hir, &mut parts);
    parts.push(Part::Unknown);
    let mut found = Vec::new();
    let mut word = Vec::new();
    // Whether the run of letters began where a word does.
    let mut begins = false;
    for part in parts {
        match part {
            Part::Byte(b) if is_word(b) => word.push(b.to_ascii_lowercase()),
            other => {
                let ends = other != Part::Unknown;
                let whole = std::mem::take(&mut word);
                if begins && ends && !whole.is_empty() && whole.len() <= WORD_MAX {
                    found.push(whole);
                }
                begins = ends;
            }
        }
    }
    // Without regard to case, these are also written with letters that are not ASCII: U+212A and U+017F.
    found.retain(|w| !(any_case && utf8 && w.iter().any(|b| matches!(b, b'k' | b's'))));
    found.sort_by(|a, b| b.len().cmp(&a.len()).then(a.cmp(b)));
    found.dedup();
    found.truncate(WORDS_MAX);
    found
}

fn add(hir: &Hir, parts: &mut Vec<Part>) {
    match hir.kind() {
        HirKind::Empty => {}
        HirKind::Literal(text) => parts.extend(text.0.iter().map(|b| Part::Byte(*b))),
        HirKind::Capture(group) => add(&group.sub, parts),
        HirKind::Concat(all) => all.iter().for_each(|one| add(one, parts)),
        HirKind::Look(look) => parts.push(match look {
            Look::WordAsciiNegate | Look::WordUnicodeNegate => Part::Unknown,
            _ => Part::Edge,
        }),
        HirKind::Class(class) => parts.push(separators(class)),
        HirKind::Repetition(r) if r.min > 0 => parts.push(match r.sub.kind() {
            HirKind::Class(class) => separators(class),
            HirKind::Literal(text) if !text.0.iter().any(|b| is_word(*b)) => Part::Edge,
            _ => Part::Unknown,
        }),
        HirKind::Repetition(_) | HirKind::Alternation(_) => parts.push(Part::Unknown),
    }
}

/// An edge if words are made of none of the characters.
fn separators(class: &Class) -> Part {
    let has = |b: u8| match class {
        Class::Unicode(c) => {
            c.ranges().iter().any(|r| (r.start()..=r.end()).contains(&char::from(b)))
        }
        Class::Bytes(c) => c.ranges().iter().any(|r| (r.start()..=r.end()).contains(&b)),
    };
    if (0..128).any(|b| is_word(b) && has(b)) { Part::Unknown } else { Part::Edge }
}

#[cfg(test)]
mod tests {
    use super::super::pattern::How;
    use super::super::syntax;
    use super::*;

    fn of(pattern: &str, how: How) -> String {
        let text = if how.fixed {
            syntax::literal(pattern.as_bytes(), how.utf8)
        } else {
            syntax::translate(pattern.as_bytes(), how.extended, how.utf8).unwrap()
        };
        let text = match how {
            How { line: true, .. } => format!("^(?:{text})$"),
            How { word: true, .. } => format!(r"\b{{start-half}}(?:{text})\b{{end-half}}"),
            _ => format!("(?:{text})"),
        };
        let found = words(&text, how.ignore_case, how.utf8)
            .into_iter()
            .map(|w| String::from_utf8(w).unwrap());
        found.collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn words_that_must_be_whole() {
        let basic = How { utf8: true, ..How::default() };
        let extended = How { extended: true, ..basic };
        for (pattern, how, want) in [
            ("root", basic, ""),
            (" root ", basic, "root"),
            ("user=root uid=0", basic, "root uid"),
            ("10.251.43.191:50010", How { fixed: true, ..basic }, "191 251 43"),
            // Any character may stand there.
            ("10.251.43.191", basic, ""),
            (r"\<root\>", basic, "root"),
            ("^Nov 3 .* failed$", basic, "failed nov 3"),
            ("^Nov 3.* failed", basic, "nov"),
            ("root", How { word: true, ..basic }, "root"),
            ("root", How { line: true, ..basic }, "root"),
            ("[a|b] root[ :]", basic, "root"),
            ("a root[^x]", basic, ""),
            (" (root|admin) in", extended, ""),
            (" (root) in", extended, "root"),
            (" root +in +", extended, "root in"),
            (" root *in", extended, ""),
            (" roo(t){2} in", extended, ""),
            (" Root ", How { ignore_case: true, ..basic }, "root"),
            (" session desk port ", How { ignore_case: true, ..basic }, "port"),
            (" session ", How { ignore_case: true, utf8: false, ..basic }, "session"),
            (" caf\u{e9} ", basic, "caf"),
            ("", basic, ""),
        ] {
            assert_eq!(of(pattern, how), want, "{pattern:?}");
        }
    }
}
