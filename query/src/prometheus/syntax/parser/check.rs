//! Which types may stand where. The rules and their words are Prometheus'.

use super::super::ast::{Aggregate, Binary, Cardinality, Expr, Node, ValueType};
use super::super::signatures::Signature;
use super::SyntaxError;

/// Functions that a range with anchored ends may go into.
const ANCHORED: &[&str] = &["changes", "delta", "increase", "rate", "resets"];
/// Functions that a range with smoothed ends may go into.
const SMOOTHED: &[&str] = &["delta", "increase", "rate"];

fn expect(wanted: ValueType, expr: &Expr, context: &str) -> Result<(), SyntaxError> {
    let got = expr.value_type();
    if got == wanted {
        return Ok(());
    }
    let (wanted, got) = (wanted.documented(), got.documented());
    Err(SyntaxError::new(expr.start, format!("expected type {wanted} in {context}, got {got}")))
}

pub(super) fn unary(inner: &Expr) -> Result<(), SyntaxError> {
    match inner.value_type() {
        ValueType::Scalar | ValueType::Vector => Ok(()),
        other => {
            let got = other.documented();
            let message =
                format!("unary expression only allowed on expressions of type scalar or instant vector, got {got:?}");
            Err(SyntaxError::new(inner.start, message))
        }
    }
}

pub(super) fn subquery(inner: &Expr) -> Result<(), SyntaxError> {
    match inner.value_type() {
        ValueType::Vector | ValueType::Scalar => Ok(()),
        other => {
            let got = other.documented();
            Err(SyntaxError::new(inner.start, format!("subquery is only allowed on instant vector, got {got} instead")))
        }
    }
}

pub(super) fn aggregate(aggregate: &Aggregate) -> Result<(), SyntaxError> {
    expect(ValueType::Vector, &aggregate.inner, "aggregation expression")?;
    if let Some(parameter) = &aggregate.parameter {
        let wanted = if aggregate.op == "count_values" { ValueType::Text } else { ValueType::Scalar };
        expect(wanted, parameter, "aggregation parameter")?;
    }
    Ok(())
}

pub(super) fn call(signature: &Signature, arguments: &[Expr], start: usize) -> Result<(), SyntaxError> {
    let (name, wanted, got) = (signature.name, signature.arguments.len(), arguments.len());
    let fail = |how: &str, wanted: usize| {
        Err(SyntaxError::new(start, format!("expected {how}{wanted} argument(s) in call to {name:?}, got {got}")))
    };
    if signature.optional == 0 && got != wanted {
        return fail("", wanted);
    }
    if signature.optional != 0 {
        let least = wanted - 1;
        if got < least {
            return fail("at least ", least);
        }
        if let Ok(more) = usize::try_from(signature.optional)
            && got > least + more
        {
            return fail("at most ", least + more);
        }
    }
    for (at, argument) in arguments.iter().enumerate() {
        expect(signature.arguments[at.min(wanted - 1)], argument, &format!("call to function {name:?}"))?;
        if let Node::Range(selector, _) = &argument.bare().node {
            ends(name, selector.anchored, selector.smoothed, argument.start)?;
        }
    }
    Ok(())
}

fn ends(name: &str, anchored: bool, smoothed: bool, start: usize) -> Result<(), SyntaxError> {
    for (modifier, used, allowed) in [("anchored", anchored, ANCHORED), ("smoothed", smoothed, SMOOTHED)] {
        if used && !allowed.contains(&name) {
            let message =
                format!("{modifier} modifier can only be used with: {} - not with {name}", allowed.join(", "));
            return Err(SyntaxError::new(start, message));
        }
    }
    Ok(())
}

pub(super) fn binary(binary: &Binary, start: usize) -> Result<(), SyntaxError> {
    let fail = |message: String| Err(SyntaxError::new(start, message));
    let (left, right) = (binary.left.value_type(), binary.right.value_type());
    for side in [&binary.left, &binary.right] {
        if !matches!(side.value_type(), ValueType::Scalar | ValueType::Vector) {
            let message = "binary expression must contain only scalar and instant vector types";
            return Err(SyntaxError::new(side.start, message));
        }
    }
    if binary.returns_bool && !binary.op.compares() {
        return fail("bool modifier can only be used on comparison operators".to_owned());
    }
    let scalars = left == ValueType::Scalar && right == ValueType::Scalar;
    if binary.op.compares() && scalars && !binary.returns_bool {
        return fail("comparisons between scalars must use BOOL modifier".to_owned());
    }
    if let Some(label) = binary.include.iter().find(|label| binary.on && binary.labels.contains(label)) {
        return fail(format!("label {label:?} must not occur in ON and GROUP clause at once"));
    }
    let filled = binary.fill_left.is_some() || binary.fill_right.is_some();
    if binary.op.is_set() {
        if left == ValueType::Scalar || right == ValueType::Scalar {
            return fail(format!("set operator {:?} not allowed in binary scalar expression", binary.op.sign()));
        }
        if binary.cardinality != Cardinality::OneToOne {
            return fail(format!("no grouping allowed for {:?} operation", binary.op.sign()));
        }
        if filled {
            return fail("filling in missing series not allowed for set operators".to_owned());
        }
    }
    if (left == ValueType::Scalar || right == ValueType::Scalar) && (!binary.labels.is_empty() || filled) {
        return fail("vector matching only allowed between instant vectors".to_owned());
    }
    Ok(())
}
