//! A tree back to text, for `format_query`. Always on one line: what a person reads is a short expression, and what a
//! program reads does not care.

use std::fmt::{self, Display, Formatter};

use super::super::format::float;
use super::super::labels::NAME;
use super::ast::{Aggregate, At, Binary, Cardinality, Expr, Node, Selector};

impl Display for Expr {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match &self.node {
            Node::Number(number) => f.write_str(&float(*number)),
            Node::Text(text) => write!(f, "{text:?}"),
            Node::Selector(selector) => {
                matchers(f, selector)?;
                shifts(f, selector.offset.as_deref(), selector.at)
            }
            Node::Range(selector, range) => {
                matchers(f, selector)?;
                write!(f, "[{}]", Seconds(range))?;
                shifts(f, selector.offset.as_deref(), selector.at)
            }
            Node::Subquery(subquery) => {
                write!(f, "{}[{}:", subquery.inner, Seconds(&subquery.range))?;
                if let Some(step) = &subquery.step {
                    write!(f, "{}", Seconds(step))?;
                }
                f.write_str("]")?;
                shifts(f, subquery.offset.as_deref(), subquery.at)
            }
            Node::Call(signature, arguments) => {
                write!(f, "{}(", signature.name)?;
                for (at, argument) in arguments.iter().enumerate() {
                    write!(f, "{}{argument}", if at == 0 { "" } else { ", " })?;
                }
                f.write_str(")")
            }
            Node::Aggregate(aggregate) => aggregation(f, aggregate),
            Node::Binary(binary) => operation(f, binary),
            Node::Negate(inner) => write!(f, "-{inner}"),
            Node::Paren(inner) => write!(f, "({inner})"),
        }
    }
}

/// A number inside brackets is a duration.
struct Seconds<'a>(&'a Expr);

impl Display for Seconds<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self.0.node {
            Node::Number(seconds) => write!(f, "{}s", float(seconds)),
            _ => write!(f, "{}", self.0),
        }
    }
}

fn matchers(f: &mut Formatter<'_>, selector: &Selector) -> fmt::Result {
    f.write_str(selector.metric().unwrap_or_default())?;
    let others: Vec<String> = selector
        .matchers
        .iter()
        .filter(|matcher| !(matcher.name == NAME && matcher.is_equal()))
        .map(ToString::to_string)
        .collect();
    if others.is_empty() { Ok(()) } else { write!(f, "{{{}}}", others.join(",")) }
}

fn shifts(f: &mut Formatter<'_>, offset: Option<&Expr>, at: Option<At>) -> fmt::Result {
    match at {
        Some(At::Moment(milliseconds)) => write!(f, " @ {}", float(milliseconds as f64 / 1_000.0))?,
        Some(At::Start) => f.write_str(" @ start()")?,
        Some(At::End) => f.write_str(" @ end()")?,
        None => {}
    }
    match offset {
        Some(offset) => write!(f, " offset {}", Seconds(offset)),
        None => Ok(()),
    }
}

fn aggregation(f: &mut Formatter<'_>, aggregate: &Aggregate) -> fmt::Result {
    f.write_str(aggregate.op)?;
    if aggregate.without || !aggregate.grouping.is_empty() {
        let word = if aggregate.without { "without" } else { "by" };
        write!(f, " {word} ({}) ", aggregate.grouping.join(", "))?;
    }
    match &aggregate.parameter {
        Some(parameter) => write!(f, "({parameter}, {})", aggregate.inner),
        None => write!(f, "({})", aggregate.inner),
    }
}

fn operation(f: &mut Formatter<'_>, binary: &Binary) -> fmt::Result {
    write!(f, "{} {}", binary.left, binary.op.sign())?;
    if binary.returns_bool {
        f.write_str(" bool")?;
    }
    if binary.on || !binary.labels.is_empty() {
        write!(f, " {} ({})", if binary.on { "on" } else { "ignoring" }, binary.labels.join(", "))?;
    }
    match binary.cardinality {
        Cardinality::OneToOne => {}
        Cardinality::ManyToOne => write!(f, " group_left ({})", binary.include.join(", "))?,
        Cardinality::OneToMany => write!(f, " group_right ({})", binary.include.join(", "))?,
    }
    for (word, fill) in [("fill_left", binary.fill_left), ("fill_right", binary.fill_right)] {
        if let Some(value) = fill {
            write!(f, " {word} ({})", float(value))?;
        }
    }
    write!(f, " {}", binary.right)
}
