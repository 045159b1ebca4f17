//! Binary expressions by the types of their sides. Vectors against vectors are in `matching`.

use super::super::syntax::{Binary, BinaryOp};
use super::super::value::{Grid, Sample, Track, Value};
use super::operators::{Elementwise, floats};
use super::{EvalError, Evaluator};

/// True for the operators after which a value is no longer the metric's.
pub(super) const fn changes_meaning(op: BinaryOp) -> bool {
    !op.compares() && !op.is_set() && !matches!(op, BinaryOp::TrimUpper | BinaryOp::TrimLower)
}

impl Evaluator<'_> {
    pub(super) fn binary(&self, binary: &Binary, start: usize, grid: Grid) -> Result<Value, EvalError> {
        let left = self.eval(&binary.left, grid)?;
        let right = self.eval(&binary.right, grid)?;
        Ok(match (left, right) {
            (Value::Scalar(left), Value::Scalar(right)) => {
                Value::Scalar(left.iter().zip(&right).map(|(a, b)| floats(binary.op, *a, *b)).collect())
            }
            (Value::Vector(left), Value::Scalar(right)) => {
                Value::Vector(self.with_scalar(binary, left, &right, false, start))
            }
            (Value::Scalar(left), Value::Vector(right)) => {
                Value::Vector(self.with_scalar(binary, right, &left, true, start))
            }
            (Value::Vector(left), Value::Vector(right)) if binary.op.is_set() => {
                Value::Vector(self.set_operation(binary, left, right, grid)?)
            }
            (Value::Vector(left), Value::Vector(right)) => {
                Value::Vector(self.matched(binary, &left, &right, start, grid)?)
            }
            _ => return Self::fail("binary expression must contain only scalar and instant vector types"),
        })
    }

    fn with_scalar(
        &self,
        binary: &Binary,
        mut tracks: Vec<Track>,
        scalars: &[f64],
        swapped: bool,
        start: usize,
    ) -> Vec<Track> {
        let op = binary.op;
        for track in &mut tracks {
            for (place, scalar) in track.samples.iter_mut().zip(scalars) {
                let Some(sample) = place.take() else { continue };
                let scalar = Sample::Float(*scalar);
                let result = if swapped {
                    self.elementwise(op, &scalar, &sample, start)
                } else {
                    self.elementwise(op, &sample, &scalar, start)
                };
                *place = match (result, binary.returns_bool) {
                    (Elementwise::Undefined, _) | (Elementwise::Filtered, false) => None,
                    (Elementwise::Filtered, true) => Some(Sample::Float(0.0)),
                    (Elementwise::Kept(_), true) => Some(Sample::Float(1.0)),
                    // A comparison keeps the vector's value, on whichever side it stands.
                    (Elementwise::Kept(_), false) if op.compares() => Some(sample),
                    (Elementwise::Kept(value), false) => Some(value),
                };
            }
            track.drop_name |= changes_meaning(op) || binary.returns_bool;
        }
        tracks.retain(|track| track.samples.iter().any(Option::is_some));
        tracks
    }
}
