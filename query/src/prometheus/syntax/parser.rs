//! Tokens to a tree, by precedence climbing. Depth is bounded, because every level of parentheses is a level of this
//! program's own stack. Types are checked while the tree grows, so evaluation never meets a wrong one.

mod check;
mod operand;

use super::ast::{Aggregate, Binary, BinaryOp, Cardinality, Expr, Node, Selector};
use super::lexer::{Kind, Token, tokens};
use super::signatures;

/// Deepest nesting of expressions; more than any dashboard writes, less than a thread's stack bears.
const MAX_DEPTH: usize = 128;

/// Most operators in a row on one level: their tree is as deep as the row is long.
const MAX_OPERATORS: usize = 256;

/// The aggregations.
pub(super) const AGGREGATIONS: &[&str] = &[
    "sum",
    "avg",
    "count",
    "min",
    "max",
    "group",
    "stddev",
    "stdvar",
    "topk",
    "bottomk",
    "count_values",
    "quantile",
    "limitk",
    "limit_ratio",
];

/// The aggregations that have a parameter.
const WITH_PARAMETER: &[&str] = &["topk", "bottomk", "count_values", "quantile", "limitk", "limit_ratio"];

/// Why a text is no expression, and where. The client's fault; no retry helps.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("parse error: {message}")]
pub(crate) struct SyntaxError {
    /// Byte offset of what is wrong.
    pub(crate) at: usize,
    /// What is wrong.
    pub(crate) message: String,
}

impl SyntaxError {
    pub(crate) fn new(at: usize, message: impl Into<String>) -> Self {
        Self { at, message: message.into() }
    }
}

/// The tree of a query.
pub(crate) fn parse(query: &str) -> Result<Expr, SyntaxError> {
    let mut parser = Parser::new(query)?;
    if parser.peek() == &Kind::End {
        return Err(SyntaxError::new(0, "no expression found in input"));
    }
    let expr = parser.binary(1)?;
    match parser.peek() {
        Kind::End => Ok(expr),
        other => Err(parser.unexpected(other, "")),
    }
}

/// A selector alone, as in `match[]`.
pub(crate) fn parse_selector(text: &str) -> Result<Selector, SyntaxError> {
    match parse(text)?.node {
        Node::Selector(selector) if selector.offset.is_none() && selector.at.is_none() => Ok(selector),
        _ => Err(SyntaxError::new(0, "expected a series selector")),
    }
}

struct Parser {
    tokens: Vec<Token>,
    at: usize,
    depth: usize,
}

impl Parser {
    fn new(query: &str) -> Result<Self, SyntaxError> {
        Ok(Self { tokens: tokens(query)?, at: 0, depth: 0 })
    }

    fn token(&self) -> &Token {
        // The last token is the end, and nothing moves past it.
        &self.tokens[self.at.min(self.tokens.len() - 1)]
    }

    fn peek(&self) -> &Kind {
        &self.token().kind
    }

    fn second(&self) -> &Kind {
        self.tokens.get(self.at + 1).map_or(&Kind::End, |token| &token.kind)
    }

    fn here(&self) -> usize {
        self.token().start
    }

    fn advance(&mut self) -> Token {
        let token = self.token().clone();
        self.at += 1;
        token
    }

    fn is_sign(&self, sign: &str) -> bool {
        matches!(self.peek(), Kind::Sign(found) if *found == sign)
    }

    fn take_sign(&mut self, sign: &str) -> bool {
        let found = self.is_sign(sign);
        self.at += usize::from(found);
        found
    }

    fn expect_sign(&mut self, sign: &str, context: &str) -> Result<(), SyntaxError> {
        if self.take_sign(sign) { Ok(()) } else { Err(self.unexpected(self.peek(), context)) }
    }

    fn is_word(&self, word: &str) -> bool {
        matches!(self.peek(), Kind::Word(found) if found.eq_ignore_ascii_case(word))
    }

    fn take_word(&mut self, word: &str) -> bool {
        let found = self.is_word(word);
        self.at += usize::from(found);
        found
    }

    fn unexpected(&self, kind: &Kind, context: &str) -> SyntaxError {
        let what = match kind {
            Kind::Word(word) => format!("unexpected identifier {word:?}"),
            Kind::Number(number) => format!("unexpected number {number:?}"),
            Kind::Duration(seconds) => format!("unexpected duration of {seconds} s"),
            Kind::Text(text) => format!("unexpected string {text:?}"),
            Kind::Sign(sign) => format!("unexpected {sign:?}"),
            Kind::End => "unexpected end of input".to_owned(),
        };
        let context = if context.is_empty() { String::new() } else { format!(" in {context}") };
        SyntaxError::new(self.here(), format!("{what}{context}"))
    }

    /// Runs `inner` one level deeper.
    fn deeper<T>(&mut self, inner: impl FnOnce(&mut Self) -> Result<T, SyntaxError>) -> Result<T, SyntaxError> {
        if self.depth >= MAX_DEPTH {
            return Err(SyntaxError::new(self.here(), format!("expression is nested deeper than {MAX_DEPTH} levels")));
        }
        self.depth += 1;
        let result = inner(self);
        self.depth -= 1;
        result
    }

    fn binary_operator(&self) -> Option<BinaryOp> {
        match self.peek() {
            Kind::Sign(sign) if !matches!(*sign, "=" | "=~" | "!~") => BinaryOp::from_sign(sign),
            Kind::Word(word) => BinaryOp::from_sign(word),
            _ => None,
        }
    }

    /// An expression of operators that bind at least as tightly as `lowest`.
    fn binary(&mut self, lowest: u8) -> Result<Expr, SyntaxError> {
        self.deeper(|parser| {
            let mut left = parser.unary()?;
            let mut operators = 0;
            while let Some(op) = parser.binary_operator().filter(|op| op.precedence() >= lowest) {
                operators += 1;
                if operators > MAX_OPERATORS {
                    let message = format!("more than {MAX_OPERATORS} operators in a row");
                    return Err(SyntaxError::new(parser.here(), message));
                }
                parser.advance();
                let modifiers = parser.modifiers()?;
                // Only the power associates to the right.
                let next = if op == BinaryOp::Pow { op.precedence() } else { op.precedence() + 1 };
                let right = parser.binary(next)?;
                let start = left.start;
                let binary = Binary { op, left, right, ..modifiers };
                check::binary(&binary, start)?;
                left = Expr { node: Node::Binary(Box::new(binary)), start };
            }
            Ok(left)
        })
    }

    fn unary(&mut self) -> Result<Expr, SyntaxError> {
        let start = self.here();
        if self.take_sign("+") {
            let mut inner = self.binary(BinaryOp::Pow.precedence())?;
            check::unary(&inner)?;
            inner.start = start;
            return Ok(inner);
        }
        if self.take_sign("-") {
            let inner = self.binary(BinaryOp::Pow.precedence())?;
            check::unary(&inner)?;
            let node = match inner.node {
                Node::Number(number) => Node::Number(-number),
                _ => Node::Negate(Box::new(inner)),
            };
            return Ok(Expr { node, start });
        }
        self.operand()
    }

    /// What stands between an operator and its right side; its operands are placeholders.
    fn modifiers(&mut self) -> Result<Binary, SyntaxError> {
        let hole = || Expr { node: Node::Number(0.0), start: 0 };
        let mut modifiers = Binary {
            op: BinaryOp::Add,
            left: hole(),
            right: hole(),
            returns_bool: self.take_word("bool"),
            on: false,
            labels: Vec::new(),
            cardinality: Cardinality::OneToOne,
            include: Vec::new(),
            fill_left: None,
            fill_right: None,
        };
        let on = self.is_word("on") && self.second() == &Kind::Sign("(");
        let ignoring = self.is_word("ignoring") && self.second() == &Kind::Sign("(");
        if on || ignoring {
            self.advance();
            modifiers.on = on;
            modifiers.labels = self.label_list()?;
            for (word, cardinality) in [("group_left", Cardinality::ManyToOne), ("group_right", Cardinality::OneToMany)]
            {
                if self.take_word(word) {
                    modifiers.cardinality = cardinality;
                    modifiers.include = if self.is_sign("(") { self.label_list()? } else { Vec::new() };
                }
            }
        } else if self.is_word("group_left") || self.is_word("group_right") {
            return Err(self.unexpected(self.peek(), "binary expression"));
        }
        self.fills(&mut modifiers)?;
        Ok(modifiers)
    }

    fn fills(&mut self, modifiers: &mut Binary) -> Result<(), SyntaxError> {
        for _ in 0..2 {
            if self.second() != &Kind::Sign("(") {
                break;
            }
            let (left, right) = match self.peek() {
                Kind::Word(word) if word.eq_ignore_ascii_case("fill") => (true, true),
                Kind::Word(word) if word.eq_ignore_ascii_case("fill_left") => (true, false),
                Kind::Word(word) if word.eq_ignore_ascii_case("fill_right") => (false, true),
                _ => break,
            };
            self.advance();
            self.expect_sign("(", "fill modifier")?;
            let value = self.signed_number("fill modifier")?;
            self.expect_sign(")", "fill modifier")?;
            if left {
                modifiers.fill_left = Some(value);
            }
            if right {
                modifiers.fill_right = Some(value);
            }
        }
        Ok(())
    }

    fn signed_number(&mut self, context: &str) -> Result<f64, SyntaxError> {
        let sign = if self.take_sign("-") { -1.0 } else { 1.0 };
        self.take_sign("+");
        let kind = self.peek().clone();
        let value = match &kind {
            Kind::Number(number) | Kind::Duration(number) => *number,
            Kind::Word(word) if word.eq_ignore_ascii_case("inf") => f64::INFINITY,
            Kind::Word(word) if word.eq_ignore_ascii_case("nan") => f64::NAN,
            _ => return Err(self.unexpected(&kind, context)),
        };
        self.advance();
        Ok(sign * value)
    }

    /// `(a, b, "c d")`.
    fn label_list(&mut self) -> Result<Vec<String>, SyntaxError> {
        self.expect_sign("(", "grouping opts")?;
        let mut labels = Vec::new();
        while !self.take_sign(")") {
            let token = self.advance();
            match token.kind {
                Kind::Word(word) if !word.contains(':') => labels.push(word),
                Kind::Text(text) => labels.push(text),
                other => return Err(self.unexpected(&other, "grouping opts")),
            }
            if !self.take_sign(",") && !self.is_sign(")") {
                return Err(self.unexpected(self.peek(), "grouping opts"));
            }
        }
        Ok(labels)
    }

    fn aggregate(&mut self, op: &'static str, start: usize) -> Result<Expr, SyntaxError> {
        let mut grouping = self.grouping()?;
        let mut arguments = self.arguments()?;
        if grouping.is_none() {
            grouping = self.grouping()?;
        }
        let wanted = if WITH_PARAMETER.contains(&op) { 2 } else { 1 };
        if arguments.is_empty() {
            return Err(SyntaxError::new(start, format!("no arguments for aggregate expression {op:?} provided")));
        }
        if arguments.len() != wanted {
            let got = arguments.len();
            let message =
                format!("wrong number of arguments for aggregate expression provided, expected {wanted}, got {got}");
            return Err(SyntaxError::new(start, message));
        }
        let parameter = (wanted == 2).then(|| arguments.remove(0));
        let inner = arguments.remove(0);
        let (grouping, without) = grouping.unwrap_or_default();
        let aggregate = Aggregate { op, inner, parameter, grouping, without };
        check::aggregate(&aggregate)?;
        Ok(Expr { node: Node::Aggregate(Box::new(aggregate)), start })
    }

    fn grouping(&mut self) -> Result<Option<(Vec<String>, bool)>, SyntaxError> {
        let without = self.is_word("without");
        if !without && !self.is_word("by") {
            return Ok(None);
        }
        self.advance();
        Ok(Some((self.label_list()?, without)))
    }

    /// `(a, b)`.
    fn arguments(&mut self) -> Result<Vec<Expr>, SyntaxError> {
        self.expect_sign("(", "function call")?;
        let mut arguments = Vec::new();
        if self.take_sign(")") {
            return Ok(arguments);
        }
        loop {
            arguments.push(self.binary(1)?);
            if self.take_sign(")") {
                return Ok(arguments);
            }
            self.expect_sign(",", "function call")?;
            if self.is_sign(")") {
                return Err(SyntaxError::new(self.here(), "trailing commas not allowed in function call args"));
            }
        }
    }

    fn call(&mut self, name: &str, start: usize) -> Result<Expr, SyntaxError> {
        let keyword = ["step", "range"].into_iter().find(|word| word.eq_ignore_ascii_case(name));
        let signature = signatures::find(keyword.unwrap_or(name))
            .ok_or_else(|| SyntaxError::new(start, format!("unknown function with name {name:?}")))?;
        let arguments = self.arguments()?;
        check::call(signature, &arguments, start)?;
        Ok(Expr { node: Node::Call(signature, arguments), start })
    }
}

#[cfg(test)]
mod tests;
