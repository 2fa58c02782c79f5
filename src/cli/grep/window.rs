//! Which part of a file may hold lines of a range of time, found without decoding the rest of it.
//!
//! Lines of a log stand in the order of their times, or nearly so: a line may be up to [`SLACK`] earlier than one
//! before it. Chunks at regular distances are looked at, and the file must be in order there; if it is not, or one
//! of them has no stamp, all of it is searched. Between two of them, the ends of the range are found by bisection.
//!
//! Be S the range's beginning, and let a chunk have a line of a time before S - SLACK. Then no line before that one
//! is as late as S, for it would be more than SLACK later than a line behind it. So the search begins at the last
//! chunk known to have such a line, and for the same reason ends in the first that has one later than the range's
//! end by more than SLACK. A file that keeps to the order loses no line by it. One that does not is noticed if a
//! chunk that was looked at shows it, and then the user is told; else its lines in chunks that were passed over are
//! not found. `--whole` searches all.

use super::stamp::{Micros, SECOND};
use std::ops::RangeInclusive;

/// How much earlier than one before it a line may be.
pub const SLACK: Micros = 600 * SECOND;
/// Files of fewer chunks are searched as a whole.
const LEAST: u64 = 8;
/// Of how many chunks one is looked at.
const EVERY: u64 = 64;
/// Most chunks looked at before the bisection.
const SAMPLES_MAX: u64 = 48;

/// The chunks to be looked at first, of so many.
pub fn samples(chunks: u64) -> Vec<u64> {
    if chunks < LEAST {
        return Vec::new();
    }
    let n = (chunks / EVERY).clamp(LEAST, SAMPLES_MAX);
    // Not the last one, which may be no more than a piece of a line.
    (0..n).map(|k| k * (chunks - 2) / (n - 1)).collect()
}

/// Those of a file's chunks that may hold lines of a range, from the first stamps of some; `look` gives those of
/// others. `None` if the file is to be searched as a whole.
pub fn find(
    chunks: u64,
    known: &[(u64, Option<Micros>)],
    (since, until): (Micros, Micros),
    mut look: impl FnMut(u64) -> Option<Micros>,
) -> Option<RangeInclusive<u64>> {
    let mut times = Vec::new();
    let mut latest = Micros::MIN;
    for (chunk, time) in known {
        let time = (*time)?;
        if time < latest.saturating_sub(SLACK) {
            return None;
        }
        latest = latest.max(time);
        times.push((*chunk, time));
    }
    let (first, last) = (times.first()?.0, chunks.checked_sub(1)?);
    let (early, late) = (since.saturating_sub(SLACK), until.saturating_add(SLACK));
    let from = match times.iter().rposition(|(_, t)| *t < early) {
        None => first,
        Some(n) => match times.get(n + 1) {
            None => times[n].0,
            Some(next) => bisect(times[n], *next, &mut look, |t| t < early)?.0,
        },
    };
    let to = match times.iter().position(|(_, t)| *t > late) {
        None => last,
        Some(0) => first,
        Some(n) => bisect(times[n - 1], times[n], &mut look, |t| t <= late)?.1,
    };
    Some(from..=to.max(from))
}

/// Two neighbouring chunks of which only the first is `before`.
fn bisect(
    (mut low, low_time): (u64, Micros),
    (mut high, high_time): (u64, Micros),
    look: &mut impl FnMut(u64) -> Option<Micros>,
    before: impl Fn(Micros) -> bool,
) -> Option<(u64, u64)> {
    let (mut least, mut most) = (low_time, high_time);
    while high - low > 1 {
        let middle = low + (high - low) / 2;
        let time = look(middle)?;
        if time < least.saturating_sub(SLACK) || time > most.saturating_add(SLACK) {
            return None;
        }
        if before(time) {
            (low, least) = (middle, time);
        } else {
            (high, most) = (middle, time);
        }
    }
    Some((low, high))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The window of a file whose chunks have these first stamps, in seconds, and how many were looked at.
    fn window(times: &[i64], span: (i64, i64)) -> (Option<RangeInclusive<u64>>, usize) {
        let mut looked = 0;
        let mut look = |n: u64| {
            looked += 1;
            Some(times[n as usize] * SECOND)
        };
        let known: Vec<_> = samples(times.len() as u64).iter().map(|n| (*n, look(*n))).collect();
        let found = find(times.len() as u64, &known, (span.0 * SECOND, span.1 * SECOND), look);
        (found, looked)
    }

    #[test]
    fn a_file_in_order_is_searched_where_the_range_is() {
        let times: Vec<i64> = (0..1000).map(|n| n * 100).collect();
        let (found, looked) = window(&times, (50_000, 53_600));
        let found = found.unwrap();
        assert_eq!(found, 493..=543);
        assert!(looked < 35, "{looked}");
        assert_eq!(window(&times, (-9000, -8000)).0, Some(0..=0));
        assert_eq!(window(&times, (200_000, 300_000)).0, Some(998..=999));
        assert_eq!(window(&times, (i64::MIN / SECOND, 0)).0, Some(0..=7));
        assert_eq!(window(&times, (99_000, i64::MAX / SECOND)).0, Some(983..=999));
        assert_eq!(window(&times[..7], (0, 1)).0, None);
    }

    #[test]
    fn a_file_that_is_nearly_in_order_loses_nothing() {
        let mut state = 7_u64;
        let mut random = |below: u64| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) % below
        };
        for _ in 0..300 {
            // Lines that come up to 600 seconds late, ten to a chunk.
            let lines: Vec<i64> = (0..5000).map(|n| n * 20 - random(600) as i64).collect();
            let times: Vec<i64> = lines.chunks(10).map(|c| c[0]).collect();
            let since = random(110_000) as i64 - 5000;
            let span = (since, since + random(9000) as i64);
            let found = window(&times, span).0.unwrap();
            for (n, time) in lines.iter().enumerate() {
                if (span.0..=span.1).contains(time) {
                    assert!(found.contains(&(n as u64 / 10)), "{span:?} {found:?} {n}");
                }
            }
        }
    }

    #[test]
    fn a_file_out_of_order_is_searched_as_a_whole() {
        let mut times: Vec<i64> = (0..1000).map(|n| n * 100).collect();
        times[500..].fill(10);
        assert_eq!(window(&times, (60_000, 61_000)).0, None);
        let known = [(0, Some(0)), (5, None), (10, Some(SECOND))];
        assert_eq!(find(12, &known, (0, 1), |_| None), None);
    }
}
