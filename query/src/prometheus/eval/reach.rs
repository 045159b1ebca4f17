//! Which series an expression reads, and how far back: what has to be loaded before it can be evaluated.

use super::super::labels::Matcher;
use super::super::syntax::{Expr, Node, Selector};
use super::super::value::Grid;
use super::{EvalError, Evaluator, LOOKBACK_MS};

/// What one selector reads: its matchers, and the first and last moment in Unix milliseconds.
pub(crate) type Reach = (Vec<Matcher>, i64, i64);

impl Evaluator<'_> {
    /// What a query reads.
    pub(crate) fn reach(&self, expr: &Expr) -> Result<Vec<Reach>, EvalError> {
        let mut found = Vec::new();
        let last = self.query.time(self.query.count.saturating_sub(1));
        self.reach_into(expr, (self.query.start, last), &mut found)?;
        Ok(found)
    }

    fn reach_into(&self, expr: &Expr, times: (i64, i64), found: &mut Vec<Reach>) -> Result<(), EvalError> {
        match &expr.node {
            Node::Number(_) | Node::Text(_) => {}
            Node::Selector(selector) => self.reach_of(selector, 0, times, found)?,
            Node::Range(selector, range) => {
                let range = self.positive_duration(range)?;
                self.reach_of(selector, range, times, found)?;
            }
            Node::Subquery(subquery) => {
                let offset = self.offset(subquery.offset.as_deref())?;
                let range = self.positive_duration(&subquery.range)?;
                let fixed = self.fixed(subquery.at);
                let (from, to) =
                    (fixed.unwrap_or(times.0).saturating_sub(offset), fixed.unwrap_or(times.1).saturating_sub(offset));
                self.reach_into(&subquery.inner, (from.saturating_sub(range), to), found)?;
            }
            Node::Call(_, arguments) => {
                for argument in arguments {
                    self.reach_into(argument, times, found)?;
                }
            }
            Node::Aggregate(aggregate) => {
                if let Some(parameter) = &aggregate.parameter {
                    self.reach_into(parameter, times, found)?;
                }
                self.reach_into(&aggregate.inner, times, found)?;
            }
            Node::Binary(binary) => {
                self.reach_into(&binary.left, times, found)?;
                self.reach_into(&binary.right, times, found)?;
            }
            Node::Negate(inner) | Node::Paren(inner) => self.reach_into(inner, times, found)?,
        }
        Ok(())
    }

    fn reach_of(
        &self,
        selector: &Selector,
        range: i64,
        times: (i64, i64),
        found: &mut Vec<Reach>,
    ) -> Result<(), EvalError> {
        let offset = self.offset(selector.offset.as_deref())?;
        let fixed = self.fixed(selector.at);
        let looks_back = range == 0 || selector.anchored || selector.smoothed;
        let back = if looks_back { range.saturating_add(LOOKBACK_MS) } else { range };
        let ahead = if selector.smoothed { LOOKBACK_MS } else { 0 };
        let from = fixed.unwrap_or(times.0).saturating_sub(offset).saturating_sub(back);
        let to = fixed.unwrap_or(times.1).saturating_sub(offset).saturating_add(ahead);
        found.push((selector.matchers.clone(), from, to));
        Ok(())
    }
}

/// The grid of an instant query.
pub(crate) const fn instant(time: i64) -> Grid {
    Grid { start: time, step: 1, count: 1 }
}
