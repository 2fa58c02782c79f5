//! Checks of a long block's heads, so that whoever reads its beginning need not wait for its end.
//!
//! A block that was modelled in one lane and holds more than [`STEP`] bytes has a check for every whole step but
//! what follows the last: the first four bytes of its BLAKE3. They stand behind the code.

/// Bytes of plaintext from one check to the next.
pub const STEP: usize = 128 << 10;
/// Bytes of a check.
const CHECK: usize = 4;

/// Somebody who can use a block's head, checked, before there is all of the block. Each is longer than the one
/// before.
pub type Show<'a> = &'a mut dyn FnMut(&[u8]);

fn check(step: &[u8]) -> [u8; CHECK] {
    let mut bytes = [0; CHECK];
    bytes.copy_from_slice(&blake3::hash(step).as_bytes()[..CHECK]);
    bytes
}

/// Bytes of all checks of a block of so many bytes.
fn len(plain_len: usize) -> usize {
    plain_len.saturating_sub(1) / STEP * CHECK
}

/// Appends the checks of a block.
pub fn append(payload: &mut Vec<u8>, plain: &[u8]) {
    let steps = plain.chunks_exact(STEP).take(len(plain.len()) / CHECK);
    steps.for_each(|step| payload.extend(check(step)));
}

/// The code and the checks of a payload; `None` if it is too short for both.
pub fn split(payload: &[u8], plain_len: usize) -> Option<(&[u8], &[u8])> {
    payload.split_at_checked(payload.len().checked_sub(len(plain_len))?)
}

/// The heads of one block, as they are decoded.
pub struct Heads<'a> {
    /// Those of the steps that are not there yet.
    checks: &'a [u8],
    /// What the block begins with, without being part of the code.
    before: &'a [u8],
    /// How much is there, and checked.
    done: usize,
    show: Show<'a>,
}

impl<'a> Heads<'a> {
    /// `before` are the block's first bytes, fewer than a step.
    pub fn new(checks: &'a [u8], before: &'a [u8], show: Show<'a>) -> Self {
        Self { checks, before, done: 0, show }
    }

    /// Takes note of the text decoded so far; says how long it must be before that is of use again.
    pub fn seen(&mut self, text: &[u8]) -> usize {
        while let Some((expected, rest)) = self.checks.split_first_chunk() {
            let next = self.done + STEP - self.before.len();
            if text.len() < next {
                return next;
            }
            let head = [self.before, &text[..next]].concat();
            if check(&head[self.done..]) != *expected {
                // The whole block's hash will tell.
                self.checks = &[];
                break;
            }
            (self.checks, self.done) = (rest, head.len());
            (self.show)(&head);
        }
        usize::MAX
    }
}

#[cfg(test)]
mod tests {
    use super::super::primer::tests::text;
    use super::super::{Primer, Tier, decode_showing, encode};
    use super::*;

    #[test]
    fn heads_are_shown_before_the_block_is_whole() {
        let all = text(3 * STEP + 1000);
        let (primer, _) = Primer::make(all[..Primer::LEN].to_vec(), &Tier::FAST).unwrap();
        for (from, len, primer) in [
            (0, all.len(), None),
            (0, all.len(), Some(&primer)),
            (1000, 3 * STEP, Some(&primer)),
            (0, STEP + 1, None),
            (0, STEP, None),
        ] {
            let plain = &all[from..from + len];
            let coded = encode(plain, primer, &Tier::FAST).unwrap();
            let mut shown = Vec::new();
            let mut show = |head: &[u8]| {
                assert!(plain.starts_with(head));
                shown.push(head.len());
            };
            let whole =
                decode_showing(coded.encoding, &coded.payload, len as u32, primer, None, &mut show);
            assert!(whole.unwrap() == plain);
            let steps: Vec<usize> = (1..4).map(|n| n * STEP).filter(|n| *n < len).collect();
            assert_eq!(shown, steps);
        }
    }

    #[test]
    fn a_head_that_is_not_what_was_coded_is_not_shown() {
        let plain = text(2 * STEP + 1000);
        let coded = encode(&plain, None, &Tier::FAST).unwrap();
        let shown = |payload: &[u8]| {
            let mut lengths = Vec::new();
            let mut show = |head: &[u8]| {
                assert!(plain.starts_with(head), "{} wrong bytes", head.len());
                lengths.push(head.len());
            };
            let len = plain.len() as u32;
            let _ = decode_showing(coded.encoding, payload, len, None, None, &mut show);
            lengths
        };
        assert_eq!(shown(&coded.payload), [STEP, 2 * STEP]);
        let n = coded.payload.len();
        for (at, expected) in [(n - 8, vec![]), (n - 1, vec![STEP]), (100, vec![])] {
            let mut payload = coded.payload.clone();
            payload[at] ^= 1;
            assert_eq!(shown(&payload), expected, "byte {at}");
        }
        // The code ends earlier, and the checks are others.
        for n in 0..20 {
            let cut = &coded.payload[..coded.payload.len() - 1 - n];
            assert!(shown(cut).is_empty());
        }
        assert!(shown(&coded.payload[..3]).is_empty());
    }
}
