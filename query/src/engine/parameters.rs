//! Puts values into a parsed question, each as the literal that a person would have written. So whatever is true of
//! literals is true of parameters: ids may be text, windows follow from conditions on `time`, functions see constants.
//! Binding them in the plan instead would need every type to be known beforehand; putting them into the text would let a
//! value become SQL.

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    CastKind, DataType, ExactNumberInfo, Expr, LimitClause, Query, Statement, TimezoneInfo, UnaryOperator, Value,
    VisitMut as _, VisitorMut, visit_expressions_mut,
};

use crate::ask::{AskError, Parameter};
use crate::coverage::rfc3339;

/// Most parameters of a question: as many as the protocol of Postgres can count would be no question any more.
const MAX_PARAMETERS: usize = 1_000;

/// Numbers the parameters of a statement, and gives them these values unless there are none. Returns how many are left.
pub(crate) fn bind(statement: &mut Statement, given: &[Parameter]) -> Result<usize, AskError> {
    let (mut unnumbered, mut highest) = (0, 0);
    let visited = visit_expressions_mut(statement, |expr| {
        let Expr::Value(value) = expr else { return ControlFlow::Continue(()) };
        let Value::Placeholder(name) = &mut value.value else { return ControlFlow::Continue(()) };
        if name == "?" {
            unnumbered += 1;
            *name = format!("${unnumbered}");
        }
        let number = name.strip_prefix('$').and_then(|digits| digits.parse::<usize>().ok());
        let Some(number @ 1..=MAX_PARAMETERS) = number else {
            return ControlFlow::Break(bad(format!("`{name}` is no parameter")));
        };
        highest = highest.max(number);
        match given.get(number - 1) {
            Some(parameter) => *expr = literal(parameter),
            None if given.is_empty() => {}
            None => return ControlFlow::Break(bad(format!("`{name}` has no value: {} were given", given.len()))),
        }
        ControlFlow::Continue(())
    });
    match visited {
        ControlFlow::Break(error) => Err(error),
        ControlFlow::Continue(()) if given.len() > highest => {
            Err(bad(format!("{} values were given for {highest} parameters", given.len())))
        }
        ControlFlow::Continue(()) if given.is_empty() => Ok(highest),
        ControlFlow::Continue(()) => {
            let _: ControlFlow<()> = statement.visit(&mut Limits);
            Ok(0)
        }
    }
}

/// Makes numbers of the texts that limits were given: no plan tells their type.
struct Limits;

impl VisitorMut for Limits {
    type Break = ();

    fn post_visit_query(&mut self, query: &mut Query) -> ControlFlow<()> {
        let (limit, offset) = match &mut query.limit_clause {
            Some(LimitClause::LimitOffset { limit, offset, .. }) => {
                (limit.as_mut(), offset.as_mut().map(|offset| &mut offset.value))
            }
            Some(LimitClause::OffsetCommaLimit { offset, limit }) => (Some(limit), Some(offset)),
            None => (None, None),
        };
        for expr in [limit, offset].into_iter().flatten() {
            if let Expr::Value(value) = expr
                && let Value::SingleQuotedString(text) = &value.value
                && text.parse::<u64>().is_ok()
            {
                value.value = Value::Number(text.clone(), false);
            }
        }
        ControlFlow::Continue(())
    }
}

fn bad(message: String) -> AskError {
    let hint = format!("parameters are written $1, $2 or ?, {MAX_PARAMETERS} at most, and each has a value");
    AskError::BadQuestion { message, hint: Some(hint) }
}

/// The value as SQL.
fn literal(parameter: &Parameter) -> Expr {
    let plain = |value: Value| Expr::Value(value.into());
    let text = |text: &str| plain(Value::SingleQuotedString(text.to_owned()));
    let as_type = |value: &str, data_type| Expr::Cast {
        kind: CastKind::Cast,
        expr: Box::new(text(value)),
        data_type,
        array: false,
        format: None,
    };
    match parameter {
        Parameter::Null => plain(Value::Null),
        Parameter::Boolean(value) => plain(Value::Boolean(*value)),
        Parameter::Integer(i64::MIN) => as_type(&i64::MIN.to_string(), DataType::BigInt(None)),
        Parameter::Integer(value) if *value < 0 => Expr::UnaryOp {
            op: UnaryOperator::Minus,
            expr: Box::new(plain(Value::Number(value.unsigned_abs().to_string(), false))),
        },
        Parameter::Integer(value) => plain(Value::Number(value.to_string(), false)),
        Parameter::Decimal(digits) => as_type(digits, DataType::Double(ExactNumberInfo::None)),
        Parameter::Float(value) => as_type(&value.to_string(), DataType::Double(ExactNumberInfo::None)),
        Parameter::Text(value) => text(value),
        Parameter::Bytes(bytes) => plain(Value::HexStringLiteral(hex::encode(bytes))),
        Parameter::Moment(unix_nanos) => {
            as_type(&rfc3339(*unix_nanos), DataType::Timestamp(Some(9), TimezoneInfo::WithTimeZone))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use datafusion::sql::sqlparser::dialect::GenericDialect;
    use datafusion::sql::sqlparser::parser::Parser;
    use proptest::prelude::*;

    fn bound(sql: &str, given: &[Parameter]) -> Result<(String, usize), AskError> {
        let mut statement = Parser::parse_sql(&GenericDialect {}, sql).unwrap().remove(0);
        let left = bind(&mut statement, given)?;
        Ok((statement.to_string(), left))
    }

    #[test]
    fn a_value_stands_where_its_number_stood() {
        let given = [Parameter::Integer(-3), Parameter::Text("it's".to_owned()), Parameter::Null];
        let (sql, left) = bound("SELECT $2, $1 WHERE x = $3", &given).unwrap();
        assert_eq!((sql.as_str(), left), ("SELECT 'it''s', -3 WHERE x = NULL", 0));
    }

    #[test]
    fn question_marks_are_numbered_in_their_order() {
        let given = [Parameter::Boolean(true), Parameter::Float(0.5)];
        assert_eq!(bound("SELECT ?, ?", &given).unwrap().0, "SELECT true, CAST('0.5' AS DOUBLE)");
        assert_eq!(bound("SELECT ? FROM x LIMIT ?", &[]).unwrap(), ("SELECT $1 FROM x LIMIT $2".to_owned(), 2));
    }

    #[test]
    fn a_limit_that_is_given_as_text_is_a_number() {
        let given = [Parameter::Text("7".to_owned()), Parameter::Text("x".to_owned())];
        assert_eq!(bound("SELECT 1 LIMIT $1 OFFSET $2", &given).unwrap().0, "SELECT 1 LIMIT 7 OFFSET 'x'");
    }

    #[test]
    fn too_few_and_too_many_values_are_refused() {
        for (sql, given) in [("SELECT $2", 1), ("SELECT $1", 2), ("SELECT 1", 1), ("SELECT $0", 1), ("SELECT $a", 1)] {
            let given = vec![Parameter::Integer(1); given];
            assert!(matches!(bound(sql, &given), Err(AskError::BadQuestion { .. })), "{sql}");
        }
    }

    proptest! {
        #[test]
        fn no_text_becomes_more_than_one_literal(value in ".*") {
            let mut statement = Parser::parse_sql(&GenericDialect {}, "SELECT $1").unwrap().remove(0);
            bind(&mut statement, &[Parameter::Text(value.clone())]).unwrap();
            let mut found = Vec::new();
            let _: ControlFlow<()> = visit_expressions_mut(&mut statement, |expr| {
                found.push(expr.clone());
                ControlFlow::Continue(())
            });
            prop_assert_eq!(found, vec![Expr::Value(Value::SingleQuotedString(value).into())]);
        }
    }
}
