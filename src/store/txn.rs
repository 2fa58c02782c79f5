//! From what a transaction asks for to what is written.

use super::api::{NewFrame, Op, Result, StoreError};
use crate::store::log::frame::{Header, Kind, MAX_LEN, MAX_U40, MAX_U48, Stamp};
use crate::store::log::record::Change;
use crate::types::{Extent, FrameRef};

/// The frame of a file's data, or a primer; `primer` is the one it was coded with, or that it is.
pub fn data_frame(stamp: Stamp, kind: Kind, primer: u64, f: &NewFrame) -> Result<Vec<u8>> {
    let fits = f.payload.len() <= MAX_LEN
        && f.plain_len as usize <= MAX_LEN
        && f.ino.0 <= MAX_U40
        && f.generation <= MAX_U40
        && primer <= MAX_U40
        && f.off <= MAX_U48;
    if !fits {
        return Err(StoreError::Refused(format!(
            "inode {} offset {}: beyond the limits of the format",
            f.ino, f.off
        )));
    }
    let header = Header {
        kind,
        form: f.form,
        staged: f.staged,
        model: f.model,
        payload_len: 0,
        plain_len: f.plain_len,
        ino: f.ino.0,
        off: f.off,
        generation: f.generation,
        primer,
        code: stamp.code,
        plain_hash: f.plain_hash,
        payload_crc: 0,
    };
    Ok(header.frame(&f.payload))
}

/// An upper bound on what the changes take in a group, in bytes.
pub fn op_bytes(ops: &[Op]) -> usize {
    let variable = |op: &Op| match op {
        Op::PutSymlink(_, t) => t.len(),
        Op::PutDirent { name, .. } | Op::DelDirent { name, .. } => name.len(),
        Op::PutXattr(_, n, v) => n.len() + v.len(),
        Op::DelXattr(_, n) => n.len(),
        Op::PutModel(m) => m.name.len(),
        _ => 0,
    };
    ops.iter().map(|op| 128 + variable(op)).sum()
}

/// The change that an operation amounts to once its frames lie where `refs` says.
pub fn change(op: &Op, frames: &[NewFrame], refs: &[FrameRef]) -> Change {
    match op {
        Op::PutInode(i, a) => Change::PutInode(*i, *a),
        Op::DelInode(i) => Change::DelInode(*i),
        Op::PutSymlink(i, t) => Change::PutSymlink(*i, t.clone()),
        Op::PutDirent { parent, name, ino, kind } => {
            Change::PutDirent { parent: *parent, name: name.clone(), ino: *ino, kind: *kind }
        }
        Op::DelDirent { parent, name } => Change::DelDirent { parent: *parent, name: name.clone() },
        Op::PutXattr(i, n, v) => Change::PutXattr(*i, n.clone(), v.clone()),
        Op::DelXattr(i, n) => Change::DelXattr(*i, n.clone()),
        Op::PutExtent { frame } => {
            let f = &frames[*frame];
            let extent = Extent {
                off: f.off,
                len: u64::from(f.plain_len),
                frame: refs[*frame],
                frame_off: 0,
                plain_len: f.plain_len,
                form: f.form,
                staged: f.staged,
                generation: f.generation,
                primer: f.primer,
                model: f.model,
            };
            Change::PutExtent(f.ino, extent)
        }
        Op::PutPrimer { id, frame } => {
            Change::PutPrimer { id: *id, ino: frames[*frame].ino, frame: refs[*frame] }
        }
        Op::PutModel(m) => Change::PutModel(m.clone()),
        Op::Punch { ino, off, len } => Change::Punch { ino: *ino, off: *off, len: *len },
    }
}
