//! `time_bucket`, by which Grafana groups times where TimescaleDB is switched on, as the `date_bin` that it is. Replaced in
//! the parsed question: nodes then never meet a function that they do not know.

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    CastKind, DataType, Expr, Function, FunctionArg, FunctionArgExpr, FunctionArguments, Ident, Interval, ObjectName,
    Statement, TimezoneInfo, Value, visit_expressions_mut,
};

use crate::reports::parameters::parse_duration_nanos;

/// Where TimescaleDB's buckets begin: a Monday, so that weeks are those of the calendar.
const ORIGIN: &str = "2000-01-03T00:00:00Z";
/// Where its months and years begin.
const ORIGIN_OF_MONTHS: &str = "2000-01-01T00:00:00Z";

/// Replaces every call.
pub(crate) fn replace(statement: &mut Statement) {
    let _: ControlFlow<()> = visit_expressions_mut(statement, |expr| {
        if let Expr::Function(function) = expr
            && function.name.to_string().eq_ignore_ascii_case("time_bucket")
        {
            replaced(function);
        }
        ControlFlow::Continue(())
    });
}

fn replaced(function: &mut Function) {
    let FunctionArguments::List(list) = &mut function.args else { return };
    let [FunctionArg::Unnamed(FunctionArgExpr::Expr(width)), rest @ ..] = list.args.as_mut_slice() else { return };
    let alone = rest.len() == 1;
    if let Expr::Value(value) = &width
        && let Value::SingleQuotedString(text) = &value.value
    {
        *width = interval(text);
    }
    let of_months = width.to_string().to_ascii_lowercase();
    let of_months = ["mon", "year", "decade", "centur"].iter().any(|word| of_months.contains(word));
    if alone {
        let origin = Expr::Cast {
            kind: CastKind::Cast,
            expr: Box::new(text(if of_months { ORIGIN_OF_MONTHS } else { ORIGIN })),
            data_type: DataType::Timestamp(Some(9), TimezoneInfo::WithTimeZone),
            array: false,
            format: None,
        };
        list.args.push(FunctionArg::Unnamed(FunctionArgExpr::Expr(origin)));
    }
    function.name = ObjectName::from(vec![Ident::new("date_bin")]);
}

fn text(text: &str) -> Expr {
    Expr::Value(Value::SingleQuotedString(text.to_owned()).into())
}

/// A width as Grafana writes it, `60.000s`, or in the words of an interval.
fn interval(width: &str) -> Expr {
    let seconds = width.trim().strip_suffix('s').filter(|number| number.parse::<f64>().is_ok());
    let words = match (seconds, parse_duration_nanos(width.trim())) {
        (Some(seconds), _) => format!("{seconds} seconds"),
        (None, Some(nanos)) => format!("{nanos} nanoseconds"),
        (None, None) => width.to_owned(),
    };
    Expr::Interval(Interval {
        value: Box::new(text(&words)),
        leading_field: None,
        leading_precision: None,
        last_field: None,
        fractional_seconds_precision: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use datafusion::sql::sqlparser::dialect::GenericDialect;
    use datafusion::sql::sqlparser::parser::Parser;

    #[test]
    fn a_bucket_becomes_a_bin_with_timescales_origin() {
        for (sql, expected) in [
            (
                "SELECT time_bucket('60.000s', time) FROM x",
                "SELECT date_bin(INTERVAL '60.000 seconds', time, CAST('2000-01-03T00:00:00Z' AS TIMESTAMP(9) WITH TIME ZONE)) FROM x",
            ),
            (
                "SELECT time_bucket(INTERVAL '1 month', time) FROM x",
                "SELECT date_bin(INTERVAL '1 month', time, CAST('2000-01-01T00:00:00Z' AS TIMESTAMP(9) WITH TIME ZONE)) FROM x",
            ),
            (
                "SELECT TIME_BUCKET('5 minutes', time, origin) FROM x",
                "SELECT date_bin(INTERVAL '5 minutes', time, origin) FROM x",
            ),
        ] {
            let mut statement = Parser::parse_sql(&GenericDialect {}, sql).unwrap().remove(0);
            replace(&mut statement);
            assert_eq!(statement.to_string(), expected);
        }
    }
}
