//! `lmfs surprise`: where the bits of a text went.

mod html;

use super::output::{self, Say};
use super::progress::meanwhile;
use super::{FAILED, Failure, Outcome, mkfs};
use crate::block::{self, Cost};
use crate::models;
use serde::Serialize;
use std::io::Write;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// Bytes at the head of a text in which the model still learns what it looks like: their lines are not ranked.
const HEAD: usize = 8 << 10;
/// Texts of less than so many heads are ranked whole.
const HEADS: usize = 4;
/// Bytes of a line that are shown.
const SHOWN: usize = 500;
/// Tokens of a line that is ranked: what a shorter one costs is chance.
const TOKENS: usize = 3;
/// Units of a cost in a bit.
const UNIT: f64 = 65536.0;

/// Arguments.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// A text, mounted or not
    #[arg(value_hint = clap::ValueHint::FilePath)]
    file: PathBuf,
    /// How many lines to show
    #[arg(long, default_value_t = 10, value_name = "N")]
    lines: usize,
    /// Write a page that shows the whole text, each token coloured by its bits
    #[arg(long, value_name = "OUT", value_hint = clap::ValueHint::FilePath)]
    html: Option<PathBuf>,
    /// Model
    #[arg(short, long, default_value = models::DEFAULT)]
    model: String,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// A line and what it cost.
struct Line {
    /// Its bytes, without the end of the line.
    text: Range<usize>,
    /// Its tokens.
    tokens: Range<usize>,
    bits: f64,
}

impl Line {
    fn per_token(&self) -> f64 {
        self.bits / self.tokens.len().max(1) as f64
    }
}

#[derive(Debug, Serialize)]
struct Shown {
    /// From 1.
    line: usize,
    bits: f64,
    tokens: usize,
    bits_per_token: f64,
    text: String,
}

#[derive(Debug, Serialize)]
struct Report {
    file: String,
    model: String,
    bytes: usize,
    bits: f64,
    bits_per_byte: f64,
    lines: Vec<Shown>,
}

/// The lines of a text. A token that reaches over the end of a line is the line's in which it begins.
fn lines(text: &[u8], costs: &[Cost]) -> Vec<Line> {
    let (mut out, mut at, mut token, mut spent) = (Vec::new(), 0, 0, 0);
    while at < text.len() {
        let end = text[at..].iter().position(|b| *b == b'\n').map_or(text.len(), |n| at + n + 1);
        let (first, mut bits) = (token, 0);
        while spent < end {
            let Some(cost) = costs.get(token) else { break };
            spent += cost.len as usize;
            bits += cost.bits;
            token += 1;
        }
        let shown = end - usize::from(text[end - 1] == b'\n');
        out.push(Line { text: at..shown, tokens: first..token, bits: bits as f64 / UNIT });
        at = end;
    }
    out
}

/// Numbers of the most surprising lines, by bits per token, those first.
fn ranked(all: &[Line], text: usize, most: usize) -> Vec<usize> {
    let from = if text < HEADS * HEAD { 0 } else { HEAD };
    let mut order: Vec<usize> = (0..all.len())
        .filter(|n| all[*n].text.start >= from && all[*n].tokens.len() >= TOKENS)
        .collect();
    order.sort_by(|a, b| all[*b].per_token().total_cmp(&all[*a].per_token()).then(a.cmp(b)));
    order.truncate(most);
    order
}

/// Runs it.
pub fn run(a: &Args, say: Say) -> Outcome {
    let about =
        |path: &Path, e: std::io::Error| Failure::new(FAILED, format!("{}: {e}", path.display()));
    let text = std::fs::read(&a.file).map_err(|e| about(&a.file, e))?;
    let tier = mkfs::tier(&a.model)?;
    if tier.lm.as_ref().is_some_and(|lm| lm.is_slow()) {
        log::warn!("model {}: its network is not asked, only what else it has", a.model);
    }
    let costs = meanwhile(say, "reading", || block::costs(&text, &tier));
    let all = lines(&text, &costs);
    let bits = costs.iter().map(|c| c.bits).sum::<u64>() as f64 / UNIT;
    let shown = |n: usize| {
        let line = &all[n];
        let part = &text[line.text.start..line.text.end.min(line.text.start + SHOWN)];
        Shown {
            line: n + 1,
            bits: line.bits,
            tokens: line.tokens.len(),
            bits_per_token: line.per_token(),
            text: String::from_utf8_lossy(part).into_owned(),
        }
    };
    let report = Report {
        file: a.file.display().to_string(),
        model: a.model.clone(),
        bytes: text.len(),
        bits,
        bits_per_byte: bits / text.len().max(1) as f64,
        lines: ranked(&all, text.len(), a.lines).into_iter().map(shown).collect(),
    };
    if let Some(path) = &a.html {
        let write = || -> std::io::Result<()> {
            let mut out = std::io::BufWriter::new(std::fs::File::create(path)?);
            html::page(&mut out, &report, &text, &costs, &all)?;
            out.flush()
        };
        write().map_err(|e| about(path, e))?;
    }
    if a.json {
        return output::json(&report);
    }
    say.line(&format!(
        "{} in {}: {:.3} bits per byte",
        output::size(report.bytes as u64),
        report.model,
        report.bits_per_byte
    ));
    for line in &report.lines {
        let text: String =
            line.text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        say.line(&format!("{:>8.2} {:>8}: {text}", line.bits_per_token, line.line));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text() -> Vec<u8> {
        let mut text: Vec<u8> = (0..2000)
            .flat_map(|n| {
                format!("12:{:02} node{} session opened\n", n / 60 % 60, n % 7).into_bytes()
            })
            .collect();
        text.extend_from_slice(b"12:00 node3 kernel panic <&> \xff\x01 end of world\n\n12:01 last");
        text
    }

    #[test]
    fn lines_have_all_tokens_and_the_strange_one_comes_first() {
        let text = text();
        let costs = block::costs(&text, &block::Tier::FAST);
        let all = lines(&text, &costs);
        assert_eq!(all.len(), 2003);
        assert!(all.windows(2).all(|w| w[0].tokens.end == w[1].tokens.start));
        assert_eq!(all[2002].tokens.end, costs.len());
        assert_eq!(ranked(&all, text.len(), 3)[0], 2000);
        assert_eq!(lines(b"", &[]).len(), 0);
    }

    #[test]
    fn a_page_is_whole_escaped_and_not_too_long() {
        let text = text();
        let costs = block::costs(&text, &block::Tier::FAST);
        let all = lines(&text, &costs);
        let (file, model) = ("<f>&".to_owned(), "fast".to_owned());
        let report =
            Report { file, model, bytes: 1, bits: 1.0, bits_per_byte: 8.0, lines: Vec::new() };
        let mut page = Vec::new();
        html::page(&mut page, &report, &text, &costs, &all).unwrap();
        assert!(page.len() < 10 * text.len(), "{}", page.len());
        let page = String::from_utf8(page).unwrap();
        assert!(page.contains("&lt;f&gt;&amp;") && page.contains("&lt;") && !page.contains("<&>"));
        assert!(page.contains("\\xff") && page.contains("\\x01"));
        // Without the markup, the text.
        let body = page.split("<pre>").nth(1).unwrap().split("</pre>").next().unwrap();
        let mut plain = String::new();
        let mut inside = false;
        for c in body.chars() {
            match c {
                '<' => inside = true,
                '>' => inside = false,
                c if !inside => plain.push(c),
                _ => {}
            }
        }
        let plain = plain.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&");
        let want = String::from_utf8_lossy(&text[..text.len() - 60]).into_owned();
        assert!(plain.starts_with(&want));
        assert_eq!(body.matches("<b").count(), body.matches("</b>").count());
    }
}
