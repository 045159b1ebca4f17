//! Sums for a count, a sum and a mean.

use prost::Message;

use super::interval::{around, of_total, student};
use super::units::Units;
use super::{BadState, Sums, Told};

/// What is made of the sums.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Of {
    Count,
    Sum,
    Avg,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) struct Total {
    of: Of,
    rows: u64,
    unknown_rows: u64,
    /// Sum of weights.
    weight: f64,
    /// Sum of weights times values.
    value: f64,
    /// Rows that were sure to be kept, and the sum of their values.
    certain_rows: u64,
    certain: f64,
    /// Sum of values of all rows, without weights.
    seen: f64,
    /// Whether some value is negative.
    signed: bool,
    units: Units,
}

#[derive(Clone, PartialEq, Message)]
struct TotalProto {
    #[prost(uint64, tag = "1")]
    rows: u64,
    #[prost(uint64, tag = "2")]
    unknown_rows: u64,
    #[prost(double, tag = "3")]
    weight: f64,
    #[prost(double, tag = "4")]
    value: f64,
    #[prost(double, tag = "5")]
    certain: f64,
    #[prost(double, tag = "6")]
    seen: f64,
    #[prost(bool, tag = "7")]
    signed: bool,
    #[prost(fixed64, repeated, tag = "8")]
    units: Vec<u64>,
    #[prost(double, repeated, tag = "9")]
    spreads: Vec<f64>,
    #[prost(uint64, tag = "10")]
    certain_rows: u64,
}

impl Total {
    pub(super) fn new(of: Of) -> Self {
        Self {
            of,
            rows: 0,
            unknown_rows: 0,
            weight: 0.0,
            value: 0.0,
            certain_rows: 0,
            certain: 0.0,
            seen: 0.0,
            signed: false,
            units: Units::default(),
        }
    }

    /// From no row nothing follows on how many were not kept.
    fn total(&self) -> (f64, f64, Option<f64>) {
        if self.rows == 0 {
            return (0.0, 0.0, None);
        }
        let variance = self.units.variance(|[_, value]| value);
        let (lower, upper) = if self.signed {
            around(self.value, variance, student(self.units.count()))
        } else {
            of_total(self.certain, self.value - self.certain, variance, self.seen)
        };
        (self.value, lower, Some(upper))
    }

    /// The ratio of two estimated totals, and its variance by linearisation.
    fn mean(&self) -> Option<(f64, Option<(f64, f64)>)> {
        if self.rows == 0 {
            return None;
        }
        let mean = self.value / self.weight;
        let variance = self.units.variance(|[one, value]| value - mean * one) / self.weight.powi(2);
        let bounds = match self.units.count() {
            Some(0) => Some((mean, mean)),
            // One unit alone agrees with itself, which says nothing.
            Some(1) if self.certain_rows == 0 => None,
            Some(units) => {
                #[allow(clippy::cast_precision_loss, reason = "at most some hundreds")]
                let number = units.max(2) as f64;
                let unbiased = variance * number / (number - 1.0);
                Some(around(mean, unbiased, student(Some(units))))
            }
            None => Some(around(mean, variance, student(None))),
        };
        Some((mean, bounds))
    }
}

impl Sums for Total {
    fn add(&mut self, value: f64, weight: f64, unit: u64) {
        let value = if self.of == Of::Count { 1.0 } else { value };
        self.rows += 1;
        self.weight += weight;
        self.value += weight * value;
        self.seen += value;
        self.signed |= value < 0.0;
        if weight <= 1.0 {
            self.certain_rows += 1;
            self.certain += value;
        }
        self.units.add(unit, weight, value);
    }

    fn add_unknown(&mut self) {
        self.unknown_rows += 1;
    }

    fn merge(&mut self, bytes: &[u8]) -> Result<(), BadState> {
        let other = TotalProto::decode(bytes)?;
        self.rows = self.rows.saturating_add(other.rows);
        self.unknown_rows = self.unknown_rows.saturating_add(other.unknown_rows);
        self.weight += other.weight;
        self.value += other.value;
        self.certain_rows = self.certain_rows.saturating_add(other.certain_rows);
        self.certain += other.certain;
        self.seen += other.seen;
        self.signed |= other.signed;
        self.units.merge(&Units::of_parts(&other.units, &other.spreads).ok_or(BadState::Units)?);
        Ok(())
    }

    fn encode(&self) -> Vec<u8> {
        let (units, spreads) = self.units.parts();
        let proto = TotalProto {
            rows: self.rows,
            unknown_rows: self.unknown_rows,
            weight: self.weight,
            value: self.value,
            certain_rows: self.certain_rows,
            certain: self.certain,
            seen: self.seen,
            signed: self.signed,
            units,
            spreads,
        };
        proto.encode_to_vec()
    }

    fn told(&self) -> Told {
        let rows = Told { rows: self.rows, unknown_rows: self.unknown_rows, ..Told::default() };
        match self.of {
            Of::Sum if self.rows == 0 => rows,
            Of::Count | Of::Sum => {
                let (value, lower, upper) = self.total();
                Told { value: Some(value), lower: Some(lower), upper, ..rows }
            }
            Of::Avg => match self.mean() {
                Some((mean, bounds)) => Told {
                    value: Some(mean),
                    lower: bounds.map(|(low, _)| low),
                    upper: bounds.map(|(_, up)| up),
                    ..rows
                },
                None => rows,
            },
        }
    }

    fn size_bytes(&self) -> usize {
        self.units.size_bytes()
    }
}
