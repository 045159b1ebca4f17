//! What stands between operators: literals, selectors, calls, parentheses, and the ranges and shifts behind them.

use super::super::super::labels::{Matcher, NAME};
use super::super::ast::{At, Expr, Node, Selector, Subquery, ValueType};
use super::super::lexer::Kind;
use super::{AGGREGATIONS, Parser, SyntaxError, check};

impl Parser {
    pub(super) fn operand(&mut self) -> Result<Expr, SyntaxError> {
        let mut expr = self.primary()?;
        loop {
            if self.is_sign("[") {
                expr = self.range(expr)?;
            } else if self.is_word("offset") {
                self.offset(&mut expr)?;
            } else if self.is_sign("@") {
                self.at_modifier(&mut expr)?;
            } else if self.is_word("anchored") || self.is_word("smoothed") {
                self.range_ends(&mut expr)?;
            } else {
                return Ok(expr);
            }
        }
    }

    fn primary(&mut self) -> Result<Expr, SyntaxError> {
        let start = self.here();
        match self.peek().clone() {
            Kind::Number(number) | Kind::Duration(number) => {
                self.advance();
                Ok(Expr { node: Node::Number(number), start })
            }
            Kind::Text(text) => {
                self.advance();
                Ok(Expr { node: Node::Text(text), start })
            }
            Kind::Sign("(") => {
                self.advance();
                let inner = self.binary(1)?;
                self.expect_sign(")", "expression in parentheses")?;
                Ok(Expr { node: Node::Paren(Box::new(inner)), start })
            }
            Kind::Sign("{") => self.selector(None, start),
            Kind::Word(word) => {
                self.advance();
                self.worded(&word, start)
            }
            other => Err(self.unexpected(&other, "")),
        }
    }

    /// A word has been read: a number, an aggregation, a call or a metric.
    fn worded(&mut self, word: &str, start: usize) -> Result<Expr, SyntaxError> {
        let lower = word.to_ascii_lowercase();
        let called = self.is_sign("(");
        if let Some(op) = AGGREGATIONS.iter().find(|op| **op == lower)
            && (called || self.is_word("by") || self.is_word("without"))
        {
            return self.aggregate(op, start);
        }
        if called {
            return self.call(word, start);
        }
        match lower.as_str() {
            "inf" => return Ok(Expr { node: Node::Number(f64::INFINITY), start }),
            "nan" => return Ok(Expr { node: Node::Number(f64::NAN), start }),
            _ => {}
        }
        self.selector(Some(word), start)
    }

    fn selector(&mut self, name: Option<&str>, start: usize) -> Result<Expr, SyntaxError> {
        let mut matchers: Vec<Matcher> = Vec::new();
        if self.take_sign("{") {
            while !self.take_sign("}") {
                self.matcher(&mut matchers)?;
                if !self.take_sign(",") && !self.is_sign("}") {
                    return Err(self.unexpected(self.peek(), "label matching, expected \",\" or \"}\""));
                }
            }
        }
        if let Some(name) = name {
            if let Some(other) = matchers.iter().find(|matcher| matcher.name == NAME) {
                let message = format!("metric name must not be set twice: {name:?} or {:?}", other.value);
                return Err(SyntaxError::new(start, message));
            }
            matchers.push(Matcher::equal(NAME, name));
        }
        if matchers.iter().all(|matcher| matcher.accepts("")) {
            return Err(SyntaxError::new(start, "vector selector must contain at least one non-empty matcher"));
        }
        Ok(Expr { node: Node::Selector(Selector { matchers, ..Selector::default() }), start })
    }

    fn matcher(&mut self, matchers: &mut Vec<Matcher>) -> Result<(), SyntaxError> {
        let start = self.here();
        let token = self.advance();
        let (name, quoted) = match token.kind {
            Kind::Word(word) if !word.contains(':') => (word, false),
            Kind::Text(text) => (text, true),
            other => return Err(self.unexpected(&other, "label matching")),
        };
        let operator = match self.peek() {
            Kind::Sign(sign @ ("=" | "!=" | "=~" | "!~")) => *sign,
            Kind::Sign("," | "}") if quoted => {
                if let Some(other) = matchers.iter().find(|matcher| matcher.name == NAME) {
                    let message = format!("metric name must not be set twice: {:?} or {name:?}", other.value);
                    return Err(SyntaxError::new(start, message));
                }
                matchers.push(Matcher::equal(NAME, &name));
                return Ok(());
            }
            other => return Err(self.unexpected(other, "label matching, expected label matching operator")),
        };
        self.advance();
        let value_start = self.here();
        let Kind::Text(value) = self.advance().kind else {
            return Err(SyntaxError::new(value_start, "unexpected value in label matching, expected string"));
        };
        let matcher = Matcher::parse(name, operator, value).map_err(|message| SyntaxError::new(start, message))?;
        matchers.push(matcher);
        Ok(())
    }

    /// `[5m]` or `[5m:30s]`.
    fn range(&mut self, inner: Expr) -> Result<Expr, SyntaxError> {
        let (bracket, start) = (self.here(), inner.start);
        self.advance();
        let range = self.duration("range selector")?;
        if self.take_sign(":") {
            let step = if self.is_sign("]") { None } else { Some(self.duration("subquery selector")?) };
            self.expect_sign("]", "subquery selector")?;
            check::subquery(&inner)?;
            let subquery = Subquery { inner, range, step, offset: None, at: None };
            return Ok(Expr { node: Node::Subquery(Box::new(subquery)), start });
        }
        self.expect_sign("]", "range selector")?;
        match inner.node {
            Node::Selector(selector) if selector.offset.is_some() => {
                Err(SyntaxError::new(bracket, "no offset modifiers allowed before range"))
            }
            Node::Selector(selector) if selector.at.is_some() => {
                Err(SyntaxError::new(bracket, "no @ modifiers allowed before range"))
            }
            Node::Selector(selector) => Ok(Expr { node: Node::Range(selector, Box::new(range)), start }),
            _ => Err(SyntaxError::new(bracket, "ranges only allowed for vector selectors")),
        }
    }

    /// A duration, or an expression of durations, in seconds.
    fn duration(&mut self, context: &str) -> Result<Expr, SyntaxError> {
        let expr = self.binary(1)?;
        if expr.value_type() != ValueType::Scalar {
            return Err(SyntaxError::new(expr.start, format!("expected a duration in {context}")));
        }
        if let Node::Number(seconds) = expr.node
            && (seconds <= 0.0 || !seconds.is_finite())
        {
            return Err(SyntaxError::new(expr.start, "duration must be greater than 0"));
        }
        Ok(expr)
    }

    fn offset(&mut self, expr: &mut Expr) -> Result<(), SyntaxError> {
        let start = self.here();
        self.advance();
        // The sign binds to the duration; anything that is computed stands in parentheses or is a call.
        let negative = self.take_sign("-");
        if !negative {
            self.take_sign("+");
        }
        let offset = match self.peek() {
            Kind::Number(_) | Kind::Duration(_) | Kind::Sign("(") => self.primary()?,
            Kind::Word(_) if self.second() == &Kind::Sign("(") => self.primary()?,
            other => return Err(self.unexpected(other, "offset, expected duration")),
        };
        if offset.value_type() != ValueType::Scalar {
            return Err(SyntaxError::new(offset.start, "expected a duration in offset"));
        }
        let offset = if negative { Expr { start: offset.start, node: Node::Negate(Box::new(offset)) } } else { offset };
        let place = match &mut expr.node {
            Node::Selector(selector) | Node::Range(selector, _) => &mut selector.offset,
            Node::Subquery(subquery) => &mut subquery.offset,
            _ => {
                let message = "offset modifier must be preceded by an instant vector selector or range vector selector or a subquery";
                return Err(SyntaxError::new(start, message));
            }
        };
        if place.is_some() {
            return Err(SyntaxError::new(start, "offset may not be set multiple times"));
        }
        *place = Some(Box::new(offset));
        Ok(())
    }

    fn at_modifier(&mut self, expr: &mut Expr) -> Result<(), SyntaxError> {
        let start = self.here();
        self.advance();
        let word = match self.peek() {
            Kind::Word(word) => word.to_ascii_lowercase(),
            _ => String::new(),
        };
        let at = if matches!(word.as_str(), "start" | "end") {
            self.advance();
            self.expect_sign("(", "@ modifier")?;
            self.expect_sign(")", "@ modifier")?;
            if word == "start" { At::Start } else { At::End }
        } else {
            let seconds = self.signed_number("@ modifier, expected timestamp")?;
            let milliseconds = super::super::super::number::to_i64((seconds * 1_000.0).round());
            if !seconds.is_finite() || milliseconds == i64::MAX || milliseconds == i64::MIN {
                return Err(SyntaxError::new(start, "timestamp out of bounds for @ modifier"));
            }
            At::Moment(milliseconds)
        };
        let place = match &mut expr.node {
            Node::Selector(selector) | Node::Range(selector, _) => &mut selector.at,
            Node::Subquery(subquery) => &mut subquery.at,
            _ => {
                let message =
                    "@ modifier must be preceded by an instant vector selector or range vector selector or a subquery";
                return Err(SyntaxError::new(start, message));
            }
        };
        if place.is_some() {
            return Err(SyntaxError::new(start, "@ <timestamp> may not be set multiple times"));
        }
        *place = Some(at);
        Ok(())
    }

    fn range_ends(&mut self, expr: &mut Expr) -> Result<(), SyntaxError> {
        let start = self.here();
        let anchored = self.is_word("anchored");
        self.advance();
        // Interpolated instant vectors are not computed here, and answering without would be wrong.
        let Node::Range(selector, _) = &mut expr.node else {
            let word = if anchored { "anchored" } else { "smoothed" };
            return Err(SyntaxError::new(start, format!("{word} modifier is only implemented for range selectors")));
        };
        selector.anchored |= anchored;
        selector.smoothed |= !anchored;
        if selector.anchored && selector.smoothed {
            return Err(SyntaxError::new(start, "anchored and smoothed modifiers cannot be used together"));
        }
        Ok(())
    }
}
