//! Regular expressions of POSIX, basic and extended, with GNU's additions, as the regex crate writes
//! them. No expression matches a newline.

use std::fmt::Write;

/// Most repetitions.
const REPEATS_MAX: u32 = 32_767;

/// A pattern that is no expression.
pub fn literal(pattern: &[u8], utf8: bool) -> String {
    let mut out = String::new();
    for c in characters(pattern, utf8) {
        push(&mut out, c);
    }
    out
}

/// A character of a pattern, or a byte that is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Char {
    Known(char),
    Byte(u8),
}

fn characters(pattern: &[u8], utf8: bool) -> Vec<Char> {
    let byte = |b: &u8| if b.is_ascii() { Char::Known(char::from(*b)) } else { Char::Byte(*b) };
    if !utf8 {
        return pattern.iter().map(byte).collect();
    }
    let mut out = Vec::new();
    for chunk in pattern.utf8_chunks() {
        out.extend(chunk.valid().chars().map(Char::Known));
        out.extend(chunk.invalid().iter().map(byte));
    }
    out
}

fn push(out: &mut String, c: Char) {
    match c {
        // Of these, letters, digits and angle brackets mean something else behind a backslash.
        Char::Known(c) => {
            if c.is_ascii_punctuation() && !matches!(c, '<' | '>') {
                out.push('\\');
            }
            out.push(c);
        }
        Char::Byte(b) => {
            let _ = write!(out, r"(?-u:\x{b:02X})");
        }
    }
}

/// White space but newlines, for inside brackets.
fn space(utf8: bool) -> &'static str {
    if utf8 { r"\t\x0B\x0C\r \x{85}\p{Z}" } else { r"\t\x0B\x0C\r " }
}

/// A regular expression of grep(1) as one of the regex crate.
pub fn translate(pattern: &[u8], extended: bool, utf8: bool) -> Result<String, String> {
    let input = characters(pattern, utf8);
    // Nobody wants the characters ":", "a", "c", "e", "p" and "s".
    if pattern.len() > 4 && pattern.starts_with(b"[:") && pattern.ends_with(b":]") {
        return Err("character class syntax is [[:space:]], not [:space:]".into());
    }
    Translation { input, at: 0, out: String::new(), atom: None, open: Vec::new(), extended, utf8 }
        .run()
}

struct Translation {
    input: Vec<Char>,
    at: usize,
    out: String,
    /// Where in the output that begins what a repetition would repeat.
    atom: Option<usize>,
    /// Where groups begin that are open.
    open: Vec<usize>,
    extended: bool,
    utf8: bool,
}

/// What the pattern says next.
enum Token {
    Open,
    Close,
    Or,
    Star,
    Plus,
    Maybe,
    Brace,
    Begin,
    End,
    Any,
    Bracket,
    Escaped(Char),
    Plain(Char),
}

impl Translation {
    fn peek(&self, ahead: usize) -> Option<char> {
        match self.input.get(self.at + ahead) {
            Some(Char::Known(c)) => Some(*c),
            _ => None,
        }
    }

    fn token(&mut self) -> Result<Option<Token>, String> {
        let Some(c) = self.input.get(self.at).copied() else { return Ok(None) };
        self.at += 1;
        let Char::Known(known) = c else { return Ok(Some(Token::Plain(c))) };
        let extended = self.extended;
        if known == '\\' {
            let Some(next) = self.input.get(self.at).copied() else {
                return Err("Trailing backslash".into());
            };
            self.at += 1;
            return Ok(Some(match next {
                Char::Known('(') if !extended => Token::Open,
                Char::Known(')') if !extended => Token::Close,
                Char::Known('|') if !extended => Token::Or,
                Char::Known('{') if !extended => Token::Brace,
                Char::Known('+') if !extended && self.atom.is_some() => Token::Plus,
                Char::Known('?') if !extended && self.atom.is_some() => Token::Maybe,
                c => Token::Escaped(c),
            }));
        }
        Ok(Some(match known {
            '(' if extended => Token::Open,
            ')' if extended && !self.open.is_empty() => Token::Close,
            '|' if extended => Token::Or,
            '+' if extended => Token::Plus,
            '?' if extended => Token::Maybe,
            '{' if extended => Token::Brace,
            '*' if extended || self.atom.is_some() => Token::Star,
            '^' if extended || self.begins() => Token::Begin,
            '$' if extended || self.ends() => Token::End,
            '.' => Token::Any,
            '[' => Token::Bracket,
            _ => Token::Plain(c),
        }))
    }

    /// In a basic expression: whether a circumflex that was just taken is an anchor.
    fn begins(&self) -> bool {
        self.out.is_empty() || self.out.ends_with("(?:") || self.out.ends_with('|')
    }

    /// In a basic expression: whether a dollar sign that was just taken is an anchor.
    fn ends(&self) -> bool {
        match (self.peek(0), self.peek(1)) {
            (None, _) => self.at == self.input.len(),
            (Some('\\'), Some(next)) => matches!(next, ')' | '|'),
            _ => false,
        }
    }

    fn run(mut self) -> Result<String, String> {
        while let Some(token) = self.token()? {
            match token {
                Token::Open => {
                    self.open.push(self.out.len());
                    self.out.push_str("(?:");
                    self.atom = None;
                }
                Token::Close => {
                    let Some(begin) = self.open.pop() else {
                        return Err(r"Unmatched ) or \)".into());
                    };
                    self.out.push(')');
                    self.atom = Some(begin);
                }
                Token::Or => {
                    self.out.push('|');
                    self.atom = None;
                }
                Token::Star => self.repeat("*"),
                Token::Plus => self.repeat("+"),
                Token::Maybe => self.repeat("?"),
                Token::Brace => self.brace()?,
                Token::Begin => self.anchor("^"),
                Token::End => self.anchor("$"),
                Token::Any => self.item("."),
                Token::Bracket => self.bracket()?,
                Token::Escaped(c) => self.escaped(c)?,
                Token::Plain(c) => {
                    self.atom = Some(self.out.len());
                    push(&mut self.out, c);
                }
            }
        }
        if self.open.is_empty() { Ok(self.out) } else { Err(r"Unmatched ( or \(".into()) }
    }

    fn item(&mut self, text: &str) {
        self.atom = Some(self.out.len());
        self.out.push_str(text);
    }

    /// A place, which is not repeated: a star behind it is one in a basic expression, and of no effect in
    /// an extended one.
    fn anchor(&mut self, text: &str) {
        let _ = write!(self.out, "(?:{text})");
        self.atom = None;
    }

    /// Repeats what came last; nothing, if nothing came.
    fn repeat(&mut self, how: &str) {
        if let Some(begin) = self.atom {
            self.out.insert_str(begin, "(?:");
            self.out.push(')');
            self.out.push_str(how);
        }
    }

    fn number(&mut self) -> Option<u32> {
        let mut n: Option<u32> = None;
        while let Some(digit) = self.peek(0).and_then(|c| c.to_digit(10)) {
            n = Some(n.unwrap_or(0).saturating_mul(10).saturating_add(digit));
            self.at += 1;
        }
        n
    }

    /// An interval, whose opening brace was taken.
    fn brace(&mut self) -> Result<(), String> {
        let start = self.at;
        if !self.extended && self.atom.is_none() {
            self.item(r"\{");
            return Ok(());
        }
        let least = self.number();
        let comma = self.peek(0) == Some(',');
        let most = if comma {
            self.at += 1;
            self.number()
        } else {
            least
        };
        let closed = if self.extended {
            self.peek(0) == Some('}')
        } else {
            self.peek(0) == Some('\\') && self.peek(1) == Some('}')
        };
        let some = least.is_some() || comma;
        let ordered = most.is_none_or(|m| least.unwrap_or(0) <= m);
        if !(closed && some && ordered) {
            if !self.extended {
                let missing = !self.input[start..].contains(&Char::Known('}'));
                let what = if missing { r"Unmatched \{" } else { r"Invalid content of \{\}" };
                return Err(what.into());
            }
            self.at = start;
            self.item(r"\{");
            return Ok(());
        }
        self.at += if self.extended { 1 } else { 2 };
        if least.max(most).is_some_and(|n| n > REPEATS_MAX) {
            return Err("Regular expression too big".into());
        }
        let least = least.unwrap_or(0);
        self.repeat(&match most {
            Some(most) if !comma || most == least => format!("{{{least}}}"),
            Some(most) => format!("{{{least},{most}}}"),
            None => format!("{{{least},}}"),
        });
        Ok(())
    }

    fn escaped(&mut self, c: Char) -> Result<(), String> {
        let place = match c {
            Char::Known('b') => r"\b",
            Char::Known('B') => r"\B",
            Char::Known('<') => r"\b{start}",
            Char::Known('>') => r"\b{end}",
            Char::Known('`') => "^",
            Char::Known('\'') => "$",
            _ => "",
        };
        if !place.is_empty() {
            self.anchor(place);
            return Ok(());
        }
        let text = match c {
            Char::Known('w') => r"\w".to_owned(),
            Char::Known('W') => r"[^\w\n]".to_owned(),
            Char::Known('s') => format!("[{}]", space(self.utf8)),
            Char::Known('S') => r"[^\s]".to_owned(),
            Char::Known('1'..='9') => {
                return Err("back-references (\\1 to \\9) are not supported".into());
            }
            c => {
                let mut text = String::new();
                push(&mut text, c);
                text
            }
        };
        self.item(&text);
        Ok(())
    }

    /// A bracket expression, whose opening bracket was taken.
    fn bracket(&mut self) -> Result<(), String> {
        let unmatched = || "Unmatched [, [^, [:, [., or [=".to_owned();
        let mut text = String::from("[");
        let negated = self.peek(0) == Some('^');
        if negated {
            self.at += 1;
            text.push_str(r"^\n");
        }
        let first = self.at;
        let mut any = false;
        loop {
            let c = self.input.get(self.at).copied().ok_or_else(unmatched)?;
            if c == Char::Known(']') && self.at > first {
                self.at += 1;
                break;
            }
            if c == Char::Known('[') && self.peek(1) == Some(':') {
                text.push_str(self.class()?);
                any = true;
                continue;
            }
            let from = self.member()?;
            let range = self.peek(0) == Some('-')
                && self.input.get(self.at + 1).is_some_and(|n| *n != Char::Known(']'));
            if range {
                self.at += 1;
                let to = self.member()?;
                if order(from) > order(to) {
                    return Err("Invalid range end".into());
                }
                in_brackets(&mut text, from);
                text.push('-');
                in_brackets(&mut text, to);
            } else {
                in_brackets(&mut text, from);
            }
            any = true;
        }
        if !any {
            return Err(unmatched());
        }
        text.push(']');
        // A byte that is no character is none of UTF-8's.
        let bytes = self.input[first..self.at].iter().any(|c| matches!(c, Char::Byte(_)));
        if self.utf8 && bytes {
            return Err("the pattern is not valid UTF-8".into());
        }
        self.item(&text);
        Ok(())
    }

    /// A character between brackets, which may be written as `[.c.]` or `[=c=]`.
    fn member(&mut self) -> Result<Char, String> {
        let unmatched = || "Unmatched [, [^, [:, [., or [=".to_owned();
        let c = self.input.get(self.at).copied().ok_or_else(unmatched)?;
        if let (Char::Known('['), Some(kind @ ('.' | '='))) = (c, self.peek(1)) {
            let inner = self.input.get(self.at + 2).copied().ok_or_else(unmatched)?;
            if self.peek(3) != Some(kind) || self.peek(4) != Some(']') {
                return Err("Invalid collation character".into());
            }
            self.at += 5;
            return Ok(inner);
        }
        self.at += 1;
        Ok(c)
    }

    /// A class such as `[:alpha:]`.
    fn class(&mut self) -> Result<&'static str, String> {
        let name: String = self.input[self.at + 2..]
            .iter()
            .map_while(|c| match c {
                Char::Known(c) if c.is_ascii_alphabetic() => Some(*c),
                _ => None,
            })
            .collect();
        let end = self.at + 2 + name.len();
        if self.input.get(end..end + 2) != Some(&[Char::Known(':'), Char::Known(']')]) {
            return Err("Unmatched [, [^, [:, [., or [=".into());
        }
        self.at = end + 2;
        let (unicode, ascii) = match name.as_str() {
            "alpha" => (r"\p{Alphabetic}", "a-zA-Z"),
            "digit" => ("0-9", "0-9"),
            "alnum" => (r"\p{Alphabetic}\p{Nd}", "0-9a-zA-Z"),
            "upper" => (r"\p{Uppercase}", "A-Z"),
            "lower" => (r"\p{Lowercase}", "a-z"),
            "space" => (space(true), space(false)),
            "blank" => (r"\t \p{Zs}", r"\t "),
            "punct" => (r"\p{P}\p{S}", r"!-/:-@\[-`{-~"),
            "print" => (r"\P{C}", " -~"),
            "graph" => (r"[\P{C}&&\S]", "!-~"),
            "cntrl" => (r"\x00-\x09\x0B-\x1F\x7F-\x{9F}", r"\x00-\x09\x0B-\x1F\x7F"),
            "xdigit" => ("0-9A-Fa-f", "0-9A-Fa-f"),
            _ => return Err("Invalid character class name".into()),
        };
        Ok(if self.utf8 { unicode } else { ascii })
    }
}

fn order(c: Char) -> u32 {
    match c {
        Char::Known(c) => c.into(),
        Char::Byte(b) => b.into(),
    }
}

fn in_brackets(out: &mut String, c: Char) {
    match c {
        Char::Byte(b) => {
            let _ = write!(out, r"\x{b:02X}");
        }
        known @ Char::Known(_) => push(out, known),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(pattern: &str, extended: bool, text: &str) -> bool {
        let made = translate(pattern.as_bytes(), extended, true).unwrap();
        regex::bytes::RegexBuilder::new(&made)
            .multi_line(true)
            .build()
            .unwrap_or_else(|e| panic!("{pattern}: {made}: {e}"))
            .is_match(text.as_bytes())
    }

    #[test]
    fn basic_expressions_mean_what_grep_says() {
        for (pattern, yes, no) in [
            ("a*b", "b", "a"),
            ("*a", "*a", "a"),
            ("^*a", "*a", "a"),
            (r"\(*a\)", "*a", "a"),
            ("a+", "a+", "aa"),
            (r"ba\+c", "baac", "bc"),
            (r"ba\?c", "bc", "baac"),
            (r"x\(ab\|cd\)y", "xcdy", "xacdy"),
            (r"^a\{2,3\}$", "aaa", "aaaa"),
            ("a{2}", "a{2}", "aa"),
            (r"\{1,2\}", "{1,2}", "{1}"),
            ("a|b", "a|b", "a"),
            ("a^b", "a^b", "ab"),
            ("a$b", "a$b", "ab"),
            (r"a$\|b", "cb", "ax"),
            ("[]a]x", "]x", "bx"),
            ("[^]a]x", "bx", "]x"),
            (r"[\]x", r"\x", "ax"),
            ("[a-]x", "-x", "bx"),
            ("[[:digit:]-]x", "7x", "ax"),
            ("[[:space:]]x", "a\tx", "ax"),
            ("[[.-.]]x", "-x", "ax"),
            (r"\<ab\>", "x ab.", "xab"),
            (r"a\.b", "a.b", "axb"),
            ("grün.$", "grüné", "grün"),
            (r"\w\W\s", "a. ", "a \n"),
        ] {
            assert!(matches(pattern, false, yes), "{pattern} {yes}");
            assert!(!matches(pattern, false, no), "{pattern} {no}");
        }
    }

    #[test]
    fn extended_expressions_mean_what_grep_says() {
        for (pattern, yes, no) in [
            ("^(ab|cd)+$", "abcd", "abc"),
            ("^a{2,}$", "aaa", "a"),
            ("^a{,2}$", "aa", "aaa"),
            ("a{1", "a{1", "a"),
            ("a{x}", "a{x}", "ax"),
            ("a)", "a)", "a"),
            ("^a*?b$", "aab", "c"),
            ("^a+*$", "aaa", "b"),
            ("*a", "a", "b"),
            ("^()x$", "x", "y"),
            (r"a\|b", "a|b", "a"),
            (r"a\+", "a+", "aa"),
            ("[^b]$", "ac", "b\n"),
        ] {
            assert!(matches(pattern, true, yes), "{pattern} {yes}");
            assert!(!matches(pattern, true, no), "{pattern} {no}");
        }
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (pattern, extended, want) in [
            (r"\(a", false, "Unmatched ("),
            (r"a\)", false, "Unmatched )"),
            ("(a", true, "Unmatched ("),
            ("[a", true, "Unmatched ["),
            ("[", true, "Unmatched ["),
            (r"a\", true, "Trailing"),
            (r"a\{1", false, r"Unmatched \{"),
            (r"a\{b\}", false, "Invalid content"),
            ("[b-a]", true, "range"),
            ("[[:alfa:]]", true, "class"),
            ("[:space:]", true, "[[:space:]]"),
            (r"\(a\)\1", false, "back-references"),
            ("a{99999}", true, "too big"),
        ] {
            let e = translate(pattern.as_bytes(), extended, true).unwrap_err();
            assert!(e.contains(want), "{pattern}: {e}");
        }
    }

    #[test]
    fn whatever_comes_is_translated_or_refused() {
        let alphabet: Vec<char> = r"ab*+?{}()|[]^$.\-:,1é".chars().collect();
        let mut state = 1_u64;
        for _ in 0..5_000 {
            let mut pattern = String::new();
            for _ in 0..=state % 9 {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                pattern.push(alphabet[(state >> 33) as usize % alphabet.len()]);
            }
            for (extended, utf8) in [(false, true), (true, true), (false, false), (true, false)] {
                if let Ok(made) = translate(pattern.as_bytes(), extended, utf8) {
                    let built = regex::bytes::RegexBuilder::new(&made).unicode(utf8).build();
                    assert!(built.is_ok(), "{pattern}: {made}: {:?}", built.err());
                }
            }
        }
    }
}
