//! Weights in 8 bits.

use super::{FileError, GROUP, In, Out, WEIGHT_MAX};

/// A matrix of 8-bit integers; each run of 64 in a row shares a scale.
#[derive(Debug, Clone, PartialEq)]
pub struct Matrix {
    /// Outputs.
    pub rows: usize,
    /// Inputs.
    pub columns: usize,
    /// Row-major integers within ±[`WEIGHT_MAX`].
    pub values: Vec<i8>,
    /// `columns/64` (rounded up) scales a row.
    pub scales: Vec<f32>,
}

impl Matrix {
    /// Appends it.
    pub(super) fn write(&self, o: &mut Out) {
        o.floats(&self.scales);
        o.0.extend(self.values.iter().map(|v| *v as u8));
    }

    /// Reads one of these sizes.
    pub(super) fn read(i: &mut In<'_>, rows: u32, columns: u32) -> Result<Self, FileError> {
        let (rows, columns) = (rows as usize, columns as usize);
        let scales = i.floats(rows * columns.div_ceil(GROUP))?;
        let values: Vec<i8> = i.take(rows * columns)?.iter().map(|v| *v as i8).collect();
        let most = values.iter().fold(0, |most, v| v.unsigned_abs().max(most));
        if most > WEIGHT_MAX.unsigned_abs() {
            return Err(FileError::Invalid(format!("{} has a weight of ±{most}", i.section)));
        }
        Ok(Self { rows, columns, values, scales })
    }
}
