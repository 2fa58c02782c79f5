//! What was found is put into words: lines with their context, counts, names, in the order of the files.

use super::scan::{self, Order, Scan, Wanted};
use super::stamp::{self, Clock};
use super::window::SLACK;
use super::{Failed, Show, Shown};
use std::collections::VecDeque;
use std::io::{self, Write};

/// The state of a file that is being searched.
struct File {
    name: Vec<u8>,
    clock: Clock,
    /// Begins behind the file's beginning, and no line has begun yet.
    inside_line: bool,
    /// Ends before the file's end.
    cut: bool,
    /// Parts of the file were passed over.
    passed: bool,
    /// The beginning of a line whose end has not come yet.
    carry: Vec<u8>,
    /// Lines that came before.
    lines: u64,
    /// Whether the last line with a stamp lies in the range of time.
    state: bool,
    order: Option<Order>,
    hits: u64,
    /// Has NUL bytes.
    binary: bool,
    /// A line was not printed, since it is no text.
    withheld: bool,
    /// Lines were left out since the last one that was printed.
    gap: bool,
    /// Lines of context behind a hit that are still to come.
    after: usize,
    /// The last lines, for the context before a hit: number and text.
    recent: VecDeque<(u64, Vec<u8>)>,
    /// What cannot be read: from, to, why.
    damage: Option<(u64, u64, String)>,
}

/// What is to happen with the rest of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// It goes on.
    More,
    /// The answer is known.
    Enough,
}

/// Writes results.
pub struct Printer<'a, W: Write> {
    out: W,
    show: &'a Show,
    wanted: &'a Wanted,
    file: Option<File>,
    /// Something was printed.
    printed: bool,
    /// Something was found.
    pub matched: bool,
    /// Something went wrong.
    pub troubled: bool,
    /// Files in which no time was found.
    pub untimed: u64,
}

impl<'a, W: Write> Printer<'a, W> {
    pub fn new(out: W, show: &'a Show, wanted: &'a Wanted) -> Self {
        Self {
            out,
            show,
            wanted,
            file: None,
            printed: false,
            matched: false,
            troubled: false,
            untimed: 0,
        }
    }

    /// All that was printed goes out.
    pub fn flush(&mut self) -> Result<(), Failed> {
        self.out.flush().map_err(Failed::output)
    }

    /// Says what went wrong, and goes on.
    pub fn trouble(&mut self, text: &str) -> Result<(), Failed> {
        self.troubled = true;
        if !self.show.silent {
            self.flush()?;
            eprintln!("lmfs: {text}");
        }
        Ok(())
    }

    /// Begins a file. `from` is false if its beginning is passed over, `to` if its end is.
    pub fn begin(&mut self, name: Vec<u8>, clock: Clock, from: bool, to: bool) {
        self.file = Some(File {
            name,
            clock,
            inside_line: !from,
            cut: !to,
            passed: !(from && to),
            carry: Vec::new(),
            lines: 0,
            state: false,
            order: None,
            hits: 0,
            binary: false,
            withheld: false,
            gap: true,
            after: 0,
            recent: VecDeque::new(),
            damage: None,
        });
    }

    /// The next run of bytes of the file.
    pub fn text(&mut self, s: &Scan) -> Result<Next, Failed> {
        let Some(mut file) = self.file.take() else { return Ok(Next::Enough) };
        let next = self.run(&mut file, s);
        self.file = Some(file);
        next
    }

    fn run(&mut self, file: &mut File, s: &Scan) -> Result<Next, Failed> {
        self.damage(file)?;
        file.binary |= s.binary;
        file.carry.extend_from_slice(&s.text[..s.head]);
        if s.head > 0 && s.text[s.head - 1] == b'\n' && self.line(file)? == Next::Enough {
            return Ok(Next::Enough);
        }
        for piece in &s.pieces {
            if piece.inherits && self.wanted.span.is_some() && !file.state {
                continue;
            }
            let first = file.lines + piece.before;
            if self.lines(file, &s.text[piece.text.clone()], &piece.hits, first)? == Next::Enough {
                return Ok(Next::Enough);
            }
        }
        file.lines += s.lines;
        file.state = s.last.unwrap_or(file.state);
        file.order = match (file.order, s.order) {
            (Some(a), Some(b)) => Some(a.then(b)),
            (a, b) => a.or(b),
        };
        file.carry.extend_from_slice(&s.text[s.tail..]);
        Ok(Next::More)
    }

    /// The line that was put together from pieces.
    fn line(&mut self, file: &mut File) -> Result<Next, Failed> {
        let line = std::mem::take(&mut file.carry);
        if std::mem::take(&mut file.inside_line) || line.is_empty() {
            return Ok(Next::More);
        }
        let first = file.lines;
        file.lines += 1;
        if let Some(span) = self.wanted.span {
            if let Some(stamp) = stamp::of(&line) {
                let order = Order::of(file.clock.time(stamp));
                file.state = scan::inside(span, order.least);
                file.order = Some(file.order.map_or(order, |o| o.then(order)));
            }
            if !file.state {
                return Ok(Next::More);
            }
        }
        let hits = self.wanted.matcher.lines(&line);
        self.lines(file, &line, &hits, first)
    }

    /// What follows is not looked at: no line that is wanted lies in it, nor begins or ends there.
    pub fn skip(&mut self) {
        if let Some(file) = &mut self.file {
            file.carry.clear();
            file.inside_line = true;
        }
    }

    /// Bytes that cannot be read.
    pub fn unreadable(&mut self, from: u64, to: u64, why: &str) -> Result<Next, Failed> {
        let Some(mut file) = self.file.take() else { return Ok(Next::Enough) };
        let next = match &mut file.damage {
            Some((_, end, said)) if *end == from && said == why => {
                *end = to;
                Ok(Next::More)
            }
            _ => {
                // What is there of the line that breaks off.
                let done = self.line(&mut file);
                self.damage(&mut file)?;
                file.damage = Some((from, to, why.to_owned()));
                done
            }
        };
        self.file = Some(file);
        next
    }

    fn damage(&mut self, file: &mut File) -> Result<(), Failed> {
        let Some((from, to, why)) = file.damage.take() else { return Ok(()) };
        let name = String::from_utf8_lossy(&file.name).into_owned();
        self.trouble(&format!("{name}: bytes {from} to {to} are left out: {why}"))
    }

    /// Lines in a row, all in the range of time, of which `hits` are wanted.
    fn lines(
        &mut self,
        file: &mut File,
        text: &[u8],
        hits: &[(u32, u32)],
        first: u64,
    ) -> Result<Next, Failed> {
        file.hits += hits.len() as u64;
        self.matched |= !hits.is_empty();
        match self.show.what {
            Shown::Counts => return Ok(Next::More),
            Shown::Names | Shown::Nothing if hits.is_empty() => return Ok(Next::More),
            Shown::Names | Shown::Nothing => return Ok(Next::Enough),
            Shown::Lines | Shown::Parts => {}
        }
        if file.binary {
            return Ok(if hits.is_empty() { Next::More } else { Next::Enough });
        }
        let (mut at, mut number) = (0, first);
        for (from, to) in hits {
            let (from, to) = (*from as usize, *to as usize);
            self.between(file, &text[at..from], &mut number)?;
            if self.show.context.is_some() && file.gap && self.printed {
                self.write(b"--\n")?;
            }
            for (n, line) in std::mem::take(&mut file.recent) {
                self.show_line(file, &line, n, b'-')?;
            }
            self.show_line(file, &text[from..to], number, b':')?;
            file.gap = false;
            file.after = self.show.context.unwrap_or_default().1;
            number += 1;
            at = to;
        }
        self.between(file, &text[at..], &mut number)?;
        Ok(Next::More)
    }

    /// Lines that are not wanted, except as context.
    fn between(&mut self, file: &mut File, text: &[u8], number: &mut u64) -> Result<(), Failed> {
        let before = self.show.context.unwrap_or_default().0;
        let mut at = 0;
        while file.after > 0 && at < text.len() {
            let end = memchr::memchr(b'\n', &text[at..]).map_or(text.len(), |n| at + n + 1);
            self.show_line(file, &text[at..end], *number, b'-')?;
            file.after -= 1;
            *number += 1;
            at = end;
        }
        let rest = &text[at..];
        if rest.is_empty() {
            return Ok(());
        }
        // The last lines, and whether any line goes without being printed or kept.
        let mut begins = Vec::new();
        let mut end = rest.len();
        while end > 0 && begins.len() < before {
            let begin = memchr::memrchr(b'\n', &rest[..end - 1]).map_or(0, |n| n + 1);
            begins.push((begin, end));
            end = begin;
        }
        let lines = if self.wanted.numbers { count_lines(rest) } else { 0 };
        let kept = begins.len() as u64;
        if end > 0 {
            file.gap = true;
            file.recent.clear();
        }
        for (n, (begin, end)) in begins.iter().rev().enumerate() {
            let number = (*number + lines).saturating_sub(kept) + n as u64;
            file.recent.push_back((number, rest[*begin..*end].to_vec()));
            if file.recent.len() > before {
                file.recent.pop_front();
                file.gap = true;
            }
        }
        *number += lines;
        Ok(())
    }

    fn show_line(
        &mut self,
        file: &mut File,
        line: &[u8],
        number: u64,
        mark: u8,
    ) -> Result<(), Failed> {
        let line = line.strip_suffix(b"\n").unwrap_or(line);
        self.printed = true;
        if self.show.what == Shown::Parts {
            if mark == b':' {
                let mut parts = Vec::new();
                self.wanted.matcher.matches(line, |part| parts.push(part.to_vec()));
                for part in parts {
                    self.put(file, &part, number, mark)?;
                }
            }
            return Ok(());
        }
        self.put(file, line, number, mark)
    }

    /// A line, or a part of one, behind what is to stand before it.
    fn put(&mut self, file: &mut File, text: &[u8], number: u64, mark: u8) -> Result<(), Failed> {
        if self.show.utf8 && !self.wanted.text && std::str::from_utf8(text).is_err() {
            file.withheld = true;
            return Ok(());
        }
        if self.show.names {
            self.write(&file.name)?;
            self.write(&[mark])?;
        }
        if self.show.numbers {
            let number = format!("{}{}", number + 1, char::from(mark));
            self.write(number.as_bytes())?;
        }
        self.write(text)?;
        self.write(b"\n")
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), Failed> {
        self.out.write_all(bytes).map_err(Failed::output)
    }

    /// The file is over.
    pub fn end(&mut self) -> Result<(), Failed> {
        let Some(mut file) = self.file.take() else { return Ok(()) };
        self.damage(&mut file)?;
        let known = match self.show.what {
            Shown::Names | Shown::Nothing => file.hits > 0,
            Shown::Counts => false,
            Shown::Lines | Shown::Parts => file.binary && file.hits > 0,
        };
        if !known && !file.cut {
            self.line(&mut file)?;
        }
        let name = String::from_utf8_lossy(&file.name).into_owned();
        match self.show.what {
            Shown::Counts => {
                if self.show.names {
                    self.write(&file.name)?;
                    self.write(b":")?;
                }
                let count = format!("{}\n", file.hits);
                self.write(count.as_bytes())?;
            }
            Shown::Names if file.hits > 0 => {
                self.write(&file.name)?;
                self.write(b"\n")?;
            }
            Shown::Lines | Shown::Parts if file.withheld || (file.binary && file.hits > 0) => {
                self.flush()?;
                eprintln!("lmfs: {name}: binary file matches");
            }
            _ => {}
        }
        if self.wanted.span.is_some() && !known {
            match file.order {
                None => self.untimed += 1,
                Some(order) if file.passed && order.back > SLACK => self.trouble(&format!(
                    "{name}: its lines are not in the order of their times, and parts of it were passed over; \
                     --whole searches all"
                ))?,
                Some(_) => {}
            }
        }
        Ok(())
    }
}

/// Lines of a text that may lack its last newline.
fn count_lines(text: &[u8]) -> u64 {
    scan::count(text) + u64::from(!text.ends_with(b"\n"))
}

impl Failed {
    fn output(e: io::Error) -> Self {
        Self(format!("standard output: {e}"))
    }
}
