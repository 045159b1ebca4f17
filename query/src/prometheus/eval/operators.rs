//! Binary operators on two samples.

use std::sync::Arc;

use super::super::histogram::{Hint, Native};
use super::super::notes::Level;
use super::super::syntax::BinaryOp;
use super::super::value::Sample;
use super::Evaluator;

/// What an operator makes of two samples.
pub(super) enum Elementwise {
    /// A value; or, of a comparison, the left side where it holds.
    Kept(Sample),
    /// A comparison that does not hold.
    Filtered,
    /// Nothing: the two do not go together.
    Undefined,
}

/// An operator on two floats; comparisons are 0 or 1.
pub(super) fn floats(op: BinaryOp, left: f64, right: f64) -> f64 {
    let truth = |holds: bool| f64::from(u8::from(holds));
    match op {
        BinaryOp::Add => left + right,
        BinaryOp::Sub => left - right,
        BinaryOp::Mul => left * right,
        BinaryOp::Div => left / right,
        BinaryOp::Mod => left % right,
        BinaryOp::Pow => left.powf(right),
        BinaryOp::Atan2 => left.atan2(right),
        BinaryOp::Equal => truth(left == right),
        BinaryOp::NotEqual => truth(left != right),
        BinaryOp::Less => truth(left < right),
        BinaryOp::LessOrEqual => truth(left <= right),
        BinaryOp::Greater => truth(left > right),
        BinaryOp::GreaterOrEqual => truth(left >= right),
        BinaryOp::And | BinaryOp::Or | BinaryOp::Unless | BinaryOp::TrimUpper | BinaryOp::TrimLower => f64::NAN,
    }
}

impl Evaluator<'_> {
    pub(super) fn elementwise(&self, op: BinaryOp, left: &Sample, right: &Sample, start: usize) -> Elementwise {
        let histogram = |histogram: Native| Elementwise::Kept(Sample::Histogram(Arc::new(histogram.compact())));
        match (left, right) {
            (Sample::Float(a), Sample::Float(b)) => match op {
                BinaryOp::TrimUpper | BinaryOp::TrimLower => self.incompatible(op, "float", "float", start),
                _ if op.compares() => {
                    if floats(op, *a, *b) == 1.0 {
                        Elementwise::Kept(Sample::Float(*a))
                    } else {
                        Elementwise::Filtered
                    }
                }
                _ => Elementwise::Kept(Sample::Float(floats(op, *a, *b))),
            },
            (Sample::Float(a), Sample::Histogram(b)) => match op {
                BinaryOp::Mul => histogram(b.as_ref().clone().scaled(*a)),
                _ => self.incompatible(op, "float", "histogram", start),
            },
            (Sample::Histogram(a), Sample::Float(b)) => match op {
                BinaryOp::Mul => histogram(a.as_ref().clone().scaled(*b)),
                BinaryOp::Div => histogram(a.as_ref().clone().divided(*b)),
                BinaryOp::TrimUpper => Elementwise::Kept(Sample::Histogram(Arc::new(a.trimmed(*b, true)))),
                BinaryOp::TrimLower => Elementwise::Kept(Sample::Histogram(Arc::new(a.trimmed(*b, false)))),
                _ => self.incompatible(op, "histogram", "float", start),
            },
            (Sample::Histogram(a), Sample::Histogram(b)) => match op {
                BinaryOp::Add | BinaryOp::Sub => {
                    self.combined(op, a, b, start).map_or(Elementwise::Undefined, histogram)
                }
                BinaryOp::Equal | BinaryOp::NotEqual => {
                    if a.equals(b) == (op == BinaryOp::Equal) {
                        Elementwise::Kept(left.clone())
                    } else {
                        Elementwise::Filtered
                    }
                }
                _ => self.incompatible(op, "histogram", "histogram", start),
            },
        }
    }

    fn incompatible(&self, op: BinaryOp, left: &str, right: &str, start: usize) -> Elementwise {
        let sign = op.sign();
        let message =
            format!("incompatible sample types encountered for binary operator \"{sign}\": {left} {sign} {right}");
        self.note(Level::Info, start, message);
        Elementwise::Undefined
    }

    fn combined(&self, op: BinaryOp, left: &Native, right: &Native, start: usize) -> Option<Native> {
        let mut result = left.clone();
        let (change, word) =
            if op == BinaryOp::Add { (result.add(right), "addition") } else { (result.subtract(right), "subtraction") };
        let Ok(change) = change else {
            let message = format!("incompatible bucket layout encountered for binary operator {}", op.sign());
            self.note(Level::Warning, start, message);
            return None;
        };
        if change.reset_collision {
            self.note(Level::Warning, start, format!("conflicting counter resets during histogram {word}"));
        }
        if change.bounds_reconciled {
            self.note(Level::Info, start, format!("mismatched custom buckets were reconciled during {word}"));
        }
        if op == BinaryOp::Sub {
            result.hint = Hint::Gauge;
        }
        Some(result)
    }
}
