//! Bytes of one file that were written but not staged yet.

use std::collections::BTreeMap;

/// A piece is not grown beyond this many bytes: it becomes one frame.
pub const PIECE: usize = 512 << 10;

/// Pieces by offset; they never overlap and are never empty.
#[derive(Debug, Default)]
pub struct Dirty {
    pieces: BTreeMap<u64, Vec<u8>>,
    bytes: u64,
}

impl Dirty {
    /// Sum of all pieces.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// True if nothing is dirty.
    pub fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    /// Pieces in order.
    pub fn pieces(&self) -> impl Iterator<Item = (u64, &[u8])> {
        self.pieces.iter().map(|(o, p)| (*o, p.as_slice()))
    }

    /// Writes over whatever is there.
    pub fn write(&mut self, mut off: u64, mut data: &[u8]) {
        self.remove(off, data.len() as u64);
        self.bytes += data.len() as u64;
        // Appending is the common case: grow the piece that ends here.
        if let Some((start, last)) = self.pieces.range_mut(..=off).next_back()
            && start + last.len() as u64 == off
        {
            let room = PIECE.saturating_sub(last.len()).min(data.len());
            if last.capacity() - last.len() < room && last.capacity() >= 64 << 10 {
                last.reserve_exact(PIECE - last.len());
            }
            last.extend_from_slice(&data[..room]);
            data = &data[room..];
            off += room as u64;
        }
        while !data.is_empty() {
            let n = data.len().min(PIECE);
            self.pieces.insert(off, data[..n].to_vec());
            data = &data[n..];
            off += n as u64;
        }
    }

    /// Forgets a range.
    pub fn remove(&mut self, off: u64, len: u64) {
        let end = off.saturating_add(len);
        if len == 0 {
            return;
        }
        if let Some((start, piece)) = self.pieces.range_mut(..off).next_back() {
            let (start, piece_end) = (*start, start + piece.len() as u64);
            if piece_end > off {
                let cut = (off - start) as usize;
                let rest = piece.split_off(cut);
                self.bytes -= rest.len() as u64;
                if piece_end > end {
                    let tail = rest[(end - off) as usize..].to_vec();
                    self.bytes += tail.len() as u64;
                    self.pieces.insert(end, tail);
                }
            }
        }
        let inside: Vec<u64> = self.pieces.range(off..end).map(|(o, _)| *o).collect();
        for start in inside {
            let Some(mut piece) = self.pieces.remove(&start) else { continue };
            self.bytes -= piece.len() as u64;
            if start + piece.len() as u64 > end {
                let tail = piece.split_off((end - start) as usize);
                self.bytes += tail.len() as u64;
                self.pieces.insert(end, tail);
            }
        }
    }

    /// The parts of `[off, off + len)` that are dirty, with their offsets.
    pub fn read(&self, off: u64, len: u64) -> Vec<(u64, Vec<u8>)> {
        let end = off.saturating_add(len);
        let mut out = Vec::new();
        let before = self.pieces.range(..off).next_back();
        for (start, piece) in before.into_iter().chain(self.pieces.range(off..end)) {
            let from = off.max(*start);
            let to = end.min(start + piece.len() as u64);
            if from < to {
                out.push((from, piece[(from - start) as usize..(to - start) as usize].to_vec()));
            }
        }
        out
    }

    /// Ranges that are dirty, from the one that ends after `off` on.
    pub fn ranges_from(&self, off: u64) -> impl Iterator<Item = (u64, u64)> {
        let before = self.pieces.range(..off).next_back();
        before
            .into_iter()
            .chain(self.pieces.range(off..))
            .map(|(o, p)| (*o, o + p.len() as u64))
            .filter(move |(_, end)| *end > off)
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn agrees_with_an_array(ops in proptest::collection::vec((any::<bool>(), 0..300usize, 0..200usize, any::<u8>()), 1..60)) {
            let mut d = Dirty::default();
            let mut model: Vec<Option<u8>> = vec![None; 600];
            for (write, off, len, byte) in ops {
                if write {
                    d.write(off as u64, &vec![byte; len]);
                    model[off..off + len].fill(Some(byte));
                } else {
                    d.remove(off as u64, len as u64);
                    model[off..off + len].fill(None);
                }
                prop_assert_eq!(d.bytes(), model.iter().flatten().count() as u64);
            }
            let mut got = vec![None; 600];
            for (off, bytes) in d.read(0, 600) {
                for (i, b) in bytes.iter().enumerate() {
                    got[off as usize + i] = Some(*b);
                }
            }
            prop_assert_eq!(got, model);
        }
    }

    #[test]
    fn appends_share_a_piece_up_to_its_limit() {
        let mut d = Dirty::default();
        for i in 0..3000 {
            d.write(i * 1000, &[1; 1000]);
        }
        assert!(d.pieces().all(|(_, p)| p.len() <= PIECE));
        assert_eq!(d.pieces().count(), 3_000_000_usize.div_ceil(PIECE));
    }
}
