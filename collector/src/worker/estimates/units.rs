//! What each unit contributes, for the variance: the sum over units of the square of what its rows add up to.
//!
//! Keeping every unit of a group would make the partial state as large as the rows. So the first ones are kept each, which
//! is exact, and beyond [`MAX_EACH`] all are folded into [`CELLS`] sums with random signs, whose squares add up to the same
//! on average (the second moment of Alon, Matias and Szegedy). Both forms are sums and merge exactly; the folded one is off
//! by about 6 % of the variance, which is 3 % of an interval's width.

use std::collections::HashMap;

/// Units kept one by one: as many bytes as the folded form has.
const MAX_EACH: usize = 256;
/// Sums of the folded form: the standard error of a second moment from n of them is sqrt(2 / n).
pub(super) const CELLS: usize = 512;

/// A unit's rows, summed: the spread of each, and the spread times its value. The spread of a row of weight w is
/// sqrt(w (w - 1)), whose square is the variance that it brings.
type Pair = [f64; 2];

/// Contributions by unit.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Units {
    Each(HashMap<u64, Pair>),
    Folded(Box<[Pair; CELLS]>),
}

impl Default for Units {
    fn default() -> Self {
        Self::Each(HashMap::new())
    }
}

impl Units {
    /// Takes in a row of a weight. One that was sure to be kept brings no variance.
    pub(super) fn add(&mut self, unit: u64, weight: f64, value: f64) {
        if weight > 1.0 {
            let spread = (weight * (weight - 1.0)).sqrt();
            self.add_pair(unit, [spread, spread * value]);
        }
    }

    fn add_pair(&mut self, unit: u64, pair: Pair) {
        match self {
            Self::Each(each) => {
                let sum = each.entry(unit).or_default();
                *sum = plus(*sum, pair);
                if each.len() > MAX_EACH {
                    *self = Self::Folded(self.folded());
                }
            }
            Self::Folded(cells) => fold(cells, unit, pair),
        }
    }

    fn folded(&self) -> Box<[Pair; CELLS]> {
        match self {
            Self::Folded(cells) => cells.clone(),
            Self::Each(each) => {
                let mut cells = Box::new([[0.0; 2]; CELLS]);
                for (unit, pair) in each {
                    fold(&mut cells, *unit, *pair);
                }
                cells
            }
        }
    }

    /// Takes in all of another.
    pub(super) fn merge(&mut self, other: &Self) {
        match other {
            Self::Each(each) => {
                for (unit, pair) in each {
                    self.add_pair(*unit, *pair);
                }
            }
            Self::Folded(others) => {
                let mut cells = self.folded();
                for (cell, other) in cells.iter_mut().zip(others.iter()) {
                    *cell = plus(*cell, *other);
                }
                *self = Self::Folded(cells);
            }
        }
    }

    /// The sum over units of the square of `values - ratio * ones`: the variance of what they estimate.
    pub(super) fn variance(&self, of: impl Fn(Pair) -> f64) -> f64 {
        match self {
            Self::Each(each) => each.values().map(|pair| of(*pair).powi(2)).sum(),
            Self::Folded(cells) => cells.iter().map(|pair| of(*pair).powi(2)).sum(),
        }
    }

    /// How many units there are; `None`: more than are counted.
    pub(super) fn count(&self) -> Option<usize> {
        match self {
            Self::Each(each) => Some(each.len()),
            Self::Folded(_) => None,
        }
    }

    pub(super) fn size_bytes(&self) -> usize {
        match self {
            Self::Each(each) => each.capacity() * size_of::<(u64, Pair)>(),
            Self::Folded(_) => size_of::<[Pair; CELLS]>(),
        }
    }

    /// As it travels: keys of the units, or none where they are folded, and the pairs.
    pub(super) fn parts(&self) -> (Vec<u64>, Vec<f64>) {
        match self {
            Self::Each(each) => (each.keys().copied().collect(), each.values().flatten().copied().collect()),
            Self::Folded(cells) => (Vec::new(), cells.iter().flatten().copied().collect()),
        }
    }

    /// Reads [`Self::parts`]; `None` if they fit no form.
    pub(super) fn of_parts(keys: &[u64], numbers: &[f64]) -> Option<Self> {
        let (pairs, rest) = numbers.as_chunks::<2>();
        if !rest.is_empty() {
            return None;
        }
        if keys.is_empty() && pairs.len() == CELLS {
            return Some(Self::Folded(Box::new(pairs.try_into().ok()?)));
        }
        if keys.len() != pairs.len() || keys.len() > MAX_EACH {
            return None;
        }
        Some(Self::Each(keys.iter().copied().zip(pairs.iter().copied()).collect()))
    }
}

fn plus(a: Pair, b: Pair) -> Pair {
    [a[0] + b[0], a[1] + b[1]]
}

/// The cell and the sign are different bits of the unit's hash.
#[allow(clippy::cast_possible_truncation, reason = "the remainder is below the number of cells")]
fn fold(cells: &mut [Pair; CELLS], unit: u64, pair: Pair) {
    let sign = if unit >> 63 == 0 { 1.0 } else { -1.0 };
    let cell = &mut cells[(unit % CELLS as u64) as usize];
    *cell = plus(*cell, [sign * pair[0], sign * pair[1]]);
}
