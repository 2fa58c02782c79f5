//! The page: a text whose tokens are coloured by their bits. One file, without scripts.

use super::{Line, Report, UNIT};
use crate::block::Cost;
use std::io::{Result, Write};

/// Bits from which a token has the next colour.
const STEPS: [f64; 6] = [0.5, 2.0, 4.0, 7.0, 11.0, 16.0];

const STYLE: &str = "\
:root{color-scheme:light dark}\
body{font:14px/1.5 system-ui,sans-serif;margin:1.5rem}\
pre{font:13px/1.5 ui-monospace,monospace;white-space:pre-wrap;overflow-wrap:anywhere}\
h1{font-size:1.2rem}\
b{font-weight:400;border-radius:2px}\
.a{background:#fdf3d0}.b{background:#fbdfa0}.c{background:#f8bf78}.d{background:#f29a62}\
.e{background:#e56a54;color:#000}.f{background:#b8324a;color:#fff}\
s::before{content:attr(data-b);opacity:.55;display:inline-block;min-width:4.5em;text-align:right;margin-right:1em}\
s{text-decoration:none}\
u{text-decoration:none;opacity:.6}\
@media(prefers-color-scheme:dark){.a{background:#3a3420}.b{background:#5a4718}.c{background:#7d541a}\
.d{background:#a2552a}.e{background:#c94f3c;color:#fff}.f{background:#e8506a;color:#000}}";

fn class(bits: f64) -> Option<char> {
    let step = STEPS.iter().rposition(|s| bits >= *s)?;
    "abcdef".chars().nth(step)
}

/// Text as HTML; what is no character, or none that is seen, by its number.
fn escape(out: &mut impl Write, mut bytes: &[u8]) -> Result<()> {
    while !bytes.is_empty() {
        let (valid, rest) = match std::str::from_utf8(bytes) {
            Ok(text) => (text, &[][..]),
            Err(e) => {
                let (valid, rest) = bytes.split_at(e.valid_up_to());
                (std::str::from_utf8(valid).unwrap_or_default(), rest)
            }
        };
        for c in valid.chars() {
            match c {
                '<' => out.write_all(b"&lt;")?,
                '>' => out.write_all(b"&gt;")?,
                '&' => out.write_all(b"&amp;")?,
                '"' => out.write_all(b"&quot;")?,
                '\n' | '\r' | '\t' => write!(out, "{c}")?,
                c if c.is_control() => write!(out, "<u>\\x{:02x}</u>", c as u32)?,
                c => write!(out, "{c}")?,
            }
        }
        let Some((bad, after)) = rest.split_first() else { break };
        write!(out, "<u>\\x{bad:02x}</u>")?;
        bytes = after;
    }
    Ok(())
}

/// Writes the page.
pub fn page(
    out: &mut impl Write,
    report: &Report,
    text: &[u8],
    costs: &[Cost],
    lines: &[Line],
) -> Result<()> {
    write!(
        out,
        "<!doctype html><html lang=en><meta charset=utf-8>\
         <meta name=viewport content=\"width=device-width\"><title>"
    )?;
    escape(out, report.file.as_bytes())?;
    write!(out, "</title><style>{STYLE}</style><h1>")?;
    escape(out, report.file.as_bytes())?;
    write!(out, "</h1><p>{} bytes, {:.3} bits each by model ", report.bytes, report.bits_per_byte)?;
    escape(out, report.model.as_bytes())?;
    write!(out, ". In front of each line its bits. A token of at least ")?;
    for (step, class) in STEPS.iter().zip("abcdef".chars()) {
        write!(out, "<b class={class}>&nbsp;{step}&nbsp;</b> ")?;
    }
    write!(out, "bits.</p><pre>")?;
    let mut at = 0;
    for line in lines {
        write!(out, "<s data-b={:.0}></s>", line.bits)?;
        let mut open = None;
        let mut token = line.tokens.start;
        while token < line.tokens.end {
            // Tokens that are parts of one character are shown as one.
            let (mut end, mut bits) = (at, 0);
            loop {
                end += costs[token].len as usize;
                bits += costs[token].bits;
                token += 1;
                let inside = text.get(end).is_some_and(|b| b & 0xC0 == 0x80);
                if !inside || token == line.tokens.end {
                    break;
                }
            }
            let wanted = class(bits as f64 / UNIT);
            if wanted != open {
                if open.is_some() {
                    write!(out, "</b>")?;
                }
                if let Some(class) = wanted {
                    write!(out, "<b class={class}>")?;
                }
                open = wanted;
            }
            escape(out, &text[at..end])?;
            at = end;
        }
        if open.is_some() {
            write!(out, "</b>")?;
        }
    }
    write!(out, "</pre></html>")
}
