//! What is in a segment: its frames, from the footer or by walking them.

use super::frame::{self, HEADER, Header, Kind, ours};
use super::record::{In, unsqueeze};
use super::segments::{Segment, Segments, io_error, segment_path};
use super::superblock::SEGMENT_HEADER;
use crate::store::api::Result;
use crate::store::io::read_up_to;
use crate::types::FrameRef;

/// One line of a segment's summary: a frame's place and kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Line {
    /// Where it lies.
    pub frame: FrameRef,
    /// What it is for.
    pub kind: Kind,
}

/// The summary of a segment: from its footer, or by walking its frames from `from` on. Also says
/// where the last readable frame ends. Damage is repaired if it can be; stretches that are still no
/// frames are logged and stepped over.
pub fn summary(segments: &Segments, number: u32, from: u64) -> Result<(Vec<Line>, u64)> {
    let (lines, end, gaps) = walk(segments, number, from)?;
    if gaps.is_empty() {
        return Ok((lines, end));
    }
    let (lines, end, gaps) = match segments.heal(number) {
        Ok(true) => walk(segments, number, from)?,
        Ok(false) => (lines, end, gaps),
        Err(e) => {
            log::error!("{e}");
            (lines, end, gaps)
        }
    };
    for gap in gaps {
        log::error!("{}: {gap}", segment_path(number));
    }
    Ok((lines, end))
}

/// The frames in the beginning of a segment, up to where one of them ends; `None` if it cannot be read as such.
pub fn lines_before(segments: &Segments, number: u32, end: u64) -> Option<Vec<Line>> {
    let Segment { blob, .. } = segments.get(number)?;
    let (mut lines, mut at) = (Vec::new(), SEGMENT_HEADER as u64);
    while at < end {
        let header = Header::first(&read_up_to(&*blob, at, HEADER).ok()?)?;
        let len = header.frame_len();
        if !ours(&header, segments.stamp.tag) || at + u64::from(len) > end {
            return None;
        }
        let frame = FrameRef { segment: number, offset: at as u32, len };
        lines.push(Line { frame, kind: header.kind });
        at += u64::from(len);
    }
    Some(lines)
}

/// What a byte of a footer says that a frame is for.
pub fn kind_of(byte: u8) -> Option<Kind> {
    match byte {
        0 => Some(Kind::Data),
        1 => Some(Kind::Primer),
        2 => Some(Kind::Batch),
        3 => Some(Kind::Checkpoint),
        4 => Some(Kind::CheckpointEnd),
        7 => Some(Kind::Addition),
        _ => None,
    }
}

/// Lines, end, and a text for each stretch that is not as it should be.
fn walk(segments: &Segments, number: u32, from: u64) -> Result<(Vec<Line>, u64, Vec<String>)> {
    let Some(Segment { blob, len }) = segments.get(number) else {
        return Ok((Vec::new(), 0, Vec::new()));
    };
    if let Some(lines) = segments.told(number, len) {
        let line = |(frame, kind): (FrameRef, Kind)| Line { frame, kind };
        let lines = lines.into_iter().map(line).filter(|l| u64::from(l.frame.offset) >= from);
        return Ok((lines.collect(), len, Vec::new()));
    }
    let read =
        |at: u64, n: usize| read_up_to(&*blob, at, n).map_err(|e| io_error("read", number, e));
    if let Some(lines) = footer(&read, segments.stamp.tag, number, len)? {
        let lines = lines.into_iter().filter(|l| u64::from(l.frame.offset) >= from).collect();
        return Ok((lines, len, Vec::new()));
    }
    let (mut lines, mut gaps) = (Vec::new(), Vec::new());
    let (mut at, mut end) = (from, from);
    while at + HEADER as u64 <= len {
        let header = Header::first(&read(at, HEADER)?);
        let fits = |h: &Header| at + u64::from(h.frame_len()) <= len && ours(h, segments.stamp.tag);
        if let Some(h) = header.filter(fits) {
            let frame = FrameRef { segment: number, offset: at as u32, len: h.frame_len() };
            lines.push(Line { frame, kind: h.kind });
            at += u64::from(h.frame_len());
            end = at;
            continue;
        }
        let Some(found) = next_frame(&read, segments.stamp.tag, at, len)? else {
            gaps.push(format!("no frame at {at}..{len}"));
            break;
        };
        match found {
            Found::Whole(h) => {
                let frame = FrameRef { segment: number, offset: at as u32, len: h.frame_len() };
                gaps.push(format!("first header at {at} is damaged"));
                lines.push(Line { frame, kind: h.kind });
                at += u64::from(h.frame_len());
                end = at;
            }
            Found::At(next) => {
                gaps.push(format!("no frame at {at}..{next}, stepped over"));
                at = next;
            }
        }
    }
    Ok((lines, end, gaps))
}

type ReadAt<'a> = &'a dyn Fn(u64, usize) -> Result<Vec<u8>>;

/// What follows a place without a readable first header.
enum Found {
    /// The frame that begins there, by its second header.
    Whole(Header),
    /// Where to go on.
    At(u64),
}

/// The next readable header after `from`, first or second.
fn next_frame(read: ReadAt<'_>, tag: u64, from: u64, len: u64) -> Result<Option<Found>> {
    const WINDOW: usize = 1 << 20;
    let mut at = from + 1;
    while at + HEADER as u64 <= len {
        let bytes = read(at, WINDOW)?;
        for i in 0..bytes.len().saturating_sub(HEADER - 1) {
            let here = at + i as u64;
            if Header::first(&bytes[i..]).is_some_and(|h| ours(&h, tag)) {
                return Ok(Some(Found::At(here)));
            }
            if let Some(h) = Header::second(&bytes[i..]).filter(|h| ours(h, tag)) {
                let end = here + HEADER as u64;
                let whole = end.checked_sub(h.frame_len().into()) == Some(from);
                return Ok(Some(if whole { Found::Whole(h) } else { Found::At(end) }));
            }
        }
        at += (bytes.len().saturating_sub(HEADER - 1)).max(1) as u64;
    }
    Ok(None)
}

fn footer(read: ReadAt<'_>, tag: u64, number: u32, len: u64) -> Result<Option<Vec<Line>>> {
    let Some(at) = len.checked_sub(HEADER as u64) else { return Ok(None) };
    let is_footer = |h: &Header| h.kind == Kind::Footer && ours(h, tag);
    let Some(h) = Header::second(&read(at, HEADER)?).filter(is_footer) else { return Ok(None) };
    let Some(start) = len.checked_sub(h.frame_len().into()) else { return Ok(None) };
    let mut bytes = read(start, h.frame_len() as usize)?;
    if frame::repair(&mut bytes).is_err() {
        return Ok(None);
    }
    let parse = || {
        let body = unsqueeze(h.meta.encoding, h.payload(&bytes), h.meta.plain_len)?;
        let mut i = In(&body);
        let mut lines = Vec::new();
        while !i.0.is_empty() {
            let (offset, len) = (i.u32()?, i.u32()?);
            let kind = kind_of(i.u8()?)?;
            lines.push(Line { frame: FrameRef { segment: number, offset, len }, kind });
        }
        Some(lines)
    };
    Ok(parse())
}
