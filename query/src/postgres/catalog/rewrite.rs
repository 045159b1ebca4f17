//! Makes questions about the catalog plannable: what the planner has no word for becomes what it has one for.

use std::collections::BTreeSet;
use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    ArrayElemTypeDef, BinaryOperator, CastKind, DataType, Expr, Function, FunctionArg, FunctionArgExpr,
    FunctionArgumentList, FunctionArguments, Ident, ObjectName, ObjectNamePart, Query, Select, SelectItem, SetExpr,
    Statement, TableFactor, Value, visit_expressions_mut,
};

use super::{PG_CATALOG, tables};
use crate::ports::relations::SCHEMA;

/// How Grafana's PostgreSQL data source asks whether a schema is on the search path, without its spaces: functions as
/// tables, which the planner cannot join.
const ON_SEARCH_PATH: &str = "selectcasewhentrim(s[i])='\"$user\"'thenuserelsetrim(s[i])endfromgenerate_series(array_lower(string_to_array(current_setting('search_path'),','),1),array_upper(string_to_array(current_setting('search_path'),','),1))asi,string_to_array(current_setting('search_path'),',')ass";

/// Rewrites a statement.
pub(super) fn rewrite(statement: &mut Statement) {
    let _: ControlFlow<()> = visit_expressions_mut(statement, |expr| {
        expression(expr);
        ControlFlow::Continue(())
    });
    if let Statement::Query(query) = statement
        && let SetExpr::Select(select) = query.body.as_mut()
    {
        name_columns(select);
    }
}

/// Columns without a name have that of their function in Postgres, or none, and their whole text in the planner.
fn name_columns(select: &mut Select) {
    let mut taken = BTreeSet::new();
    for item in &mut select.projection {
        if let SelectItem::UnnamedExpr(expr) = item
            && !matches!(expr, Expr::Identifier(_) | Expr::CompoundIdentifier(_))
            && taken.insert(name_of(expr))
        {
            let name = name_of(expr);
            let expr = std::mem::replace(expr, Expr::Value(Value::Null.into()));
            *item = SelectItem::ExprWithAlias { expr, alias: Ident::with_quote('"', name) };
        }
    }
}

/// The name that Postgres gives a column.
fn name_of(expr: &Expr) -> String {
    match expr {
        Expr::Identifier(ident) => ident.value.clone(),
        Expr::CompoundIdentifier(parts) => parts.last().map(|ident| ident.value.clone()).unwrap_or_default(),
        Expr::Function(function) => last(&function.name).unwrap_or_default(),
        Expr::Cast { expr, .. } => name_of(expr),
        _ => "?column?".to_owned(),
    }
}

/// Functions of Postgres that are written like names.
const WITHOUT_PARENTHESES: &[&str] =
    &["current_catalog", "current_role", "current_schema", "current_user", "session_user", "user"];

fn expression(expr: &mut Expr) {
    match expr {
        Expr::Identifier(ident) if ident.quote_style.is_none() => {
            let name = ident.value.to_ascii_lowercase();
            if WITHOUT_PARENTHESES.contains(&name.as_str()) {
                *expr = call(&name, Vec::new());
            }
        }
        Expr::Function(function) => match &function.args {
            // An array of what a subquery gives, which for these is nothing.
            FunctionArguments::Subquery(query) if reads_nothing(query) || unnests(query) => *expr = no_texts(),
            _ => unqualify(&mut function.name),
        },
        Expr::BinaryOp { op, .. } => {
            if let BinaryOperator::PGCustomBinaryOperator(names) = op
                && let Some(plain) = names.last().and_then(|name| operator(name))
            {
                *op = plain;
            }
        }
        Expr::Collate { expr: inner, .. } => {
            let inner = std::mem::replace(inner.as_mut(), null());
            *expr = inner;
            expression(expr);
        }
        Expr::Cast { expr: inner, data_type, .. } => {
            let inner = std::mem::replace(inner.as_mut(), null());
            *expr = converted(inner, data_type.clone());
        }
        Expr::InSubquery { expr: inner, subquery, negated } if is_on_search_path(subquery) => {
            let text = |text: &str| Expr::Value(Value::SingleQuotedString(text.to_owned()).into());
            let list = vec![text(SCHEMA)];
            *expr = Expr::InList { expr: Box::new(std::mem::replace(inner.as_mut(), null())), list, negated: *negated };
        }
        // Of a table without rows there is no value, and nothing exists in it.
        Expr::Subquery(query) if reads_nothing(query) => *expr = null(),
        Expr::Exists { subquery, negated } if reads_nothing(subquery) => {
            *expr = Expr::Value(Value::Boolean(*negated).into());
        }
        _ => {}
    }
}

fn no_texts() -> Expr {
    let element = ArrayElemTypeDef::SquareBracket(Box::new(DataType::Text), None);
    Expr::Cast {
        kind: CastKind::Cast,
        expr: Box::new(null()),
        data_type: DataType::Array(element),
        array: false,
        format: None,
    }
}

/// Whether a query reads the elements of an array: of options and rights, which nothing has.
fn unnests(query: &Query) -> bool {
    let SetExpr::Select(select) = query.body.as_ref() else { return false };
    select.from.first().is_some_and(|from| match &from.relation {
        TableFactor::Table { name, args: Some(_), .. } => last(name).as_deref() == Some("unnest"),
        TableFactor::UNNEST { .. } => true,
        _ => false,
    })
}

fn null() -> Expr {
    Expr::Value(Value::Null.into())
}

fn unqualify(name: &mut ObjectName) {
    if let [schema, function] = name.0.as_slice()
        && schema.as_ident().is_some_and(|ident| ident.value.eq_ignore_ascii_case(PG_CATALOG))
    {
        *name = ObjectName(vec![function.clone()]);
    }
}

fn last(name: &ObjectName) -> Option<String> {
    name.0.last().and_then(ObjectNamePart::as_ident).map(|ident| ident.value.to_ascii_lowercase())
}

fn operator(name: &str) -> Option<BinaryOperator> {
    Some(match name {
        "~" => BinaryOperator::PGRegexMatch,
        "~*" => BinaryOperator::PGRegexIMatch,
        "!~" => BinaryOperator::PGRegexNotMatch,
        "!~*" => BinaryOperator::PGRegexNotIMatch,
        "~~" => BinaryOperator::PGLikeMatch,
        "!~~" => BinaryOperator::PGNotLikeMatch,
        "=" => BinaryOperator::Eq,
        "<>" => BinaryOperator::NotEq,
        "<" => BinaryOperator::Lt,
        "<=" => BinaryOperator::LtEq,
        ">" => BinaryOperator::Gt,
        ">=" => BinaryOperator::GtEq,
        "+" => BinaryOperator::Plus,
        "||" => BinaryOperator::StringConcat,
        _ => return None,
    })
}

/// A conversion to a type that only Postgres has, as a call or to the type beneath it.
fn converted(inner: Expr, data_type: DataType) -> Expr {
    let name = match &data_type {
        DataType::Regclass => "regclass".to_owned(),
        DataType::Custom(name, _) => last(name).unwrap_or_default(),
        _ => String::new(),
    };
    let is_text = matches!(&inner, Expr::Value(value) if matches!(value.value, Value::SingleQuotedString(_)));
    let as_type = |data_type| Expr::Cast {
        kind: CastKind::Cast,
        expr: Box::new(inner.clone()),
        data_type,
        array: false,
        format: None,
    };
    match name.as_str() {
        "regclass" if is_text => call("to_regclass", vec![inner]),
        "regclass" => call("relation_name", vec![inner]),
        "regtype" if is_text => call("to_regtype", vec![inner]),
        "regtype" => call("format_type", vec![inner]),
        "oid" => as_type(DataType::IntUnsigned(None)),
        "name" | "text" | "char" | "regproc" | "regprocedure" | "regrole" | "regnamespace" | "varchar" => {
            as_type(DataType::Text)
        }
        _ => as_type(data_type),
    }
}

fn call(name: &str, arguments: Vec<Expr>) -> Expr {
    let args = arguments.into_iter().map(|argument| FunctionArg::Unnamed(FunctionArgExpr::Expr(argument))).collect();
    Expr::Function(Function {
        name: ObjectName::from(vec![Ident::new(name)]),
        uses_odbc_syntax: false,
        parameters: FunctionArguments::None,
        args: FunctionArguments::List(FunctionArgumentList { duplicate_treatment: None, args, clauses: Vec::new() }),
        filter: None,
        null_treatment: None,
        over: None,
        within_group: Vec::new(),
    })
}

fn is_on_search_path(query: &Query) -> bool {
    let text: String = query.to_string().chars().filter(|c| !c.is_whitespace()).collect();
    // The alias of a table may be written with AS or without, and a call without arguments with parentheses.
    let plain = |text: &str| text.to_ascii_lowercase().replace(")as", ")").replace("user()", "user");
    plain(&text) == plain(ON_SEARCH_PATH)
}

/// Whether a query reads a table that is always empty, and does not count its rows.
fn reads_nothing(query: &Query) -> bool {
    columns_of_nothing(&query.body).is_some()
}

/// The columns of a statement that has no rows because it reads a table that is always empty.
pub(super) fn empty_columns(statement: &Statement) -> Option<Vec<String>> {
    match statement {
        Statement::Query(query) => columns_of_nothing(&query.body),
        _ => None,
    }
}

fn columns_of_nothing(body: &SetExpr) -> Option<Vec<String>> {
    match body {
        SetExpr::Select(select) => select_of_nothing(select),
        SetExpr::Query(query) => columns_of_nothing(&query.body),
        SetExpr::SetOperation { left, right, .. } => {
            columns_of_nothing(right)?;
            columns_of_nothing(left)
        }
        _ => None,
    }
}

fn select_of_nothing(select: &Select) -> Option<Vec<String>> {
    // An outer join that begins with an empty table is as empty as that; an aggregate over nothing is a row.
    let TableFactor::Table { name, args: None, .. } = &select.from.first()?.relation else { return None };
    if !tables::is_empty(&last(name)?) {
        return None;
    }
    let names = select.projection.iter().map(|item| match item {
        SelectItem::UnnamedExpr(expr) if aggregates(expr) => None,
        SelectItem::ExprWithAlias { expr, .. } if aggregates(expr) => None,
        SelectItem::UnnamedExpr(expr) => Some(name_of(expr)),
        SelectItem::ExprWithAlias { alias, .. } => Some(alias.value.clone()),
        _ => Some("?column?".to_owned()),
    });
    names.collect()
}

fn aggregates(expr: &Expr) -> bool {
    match expr {
        Expr::Function(function) => {
            matches!(
                last(&function.name).as_deref(),
                Some("count" | "sum" | "min" | "max" | "avg" | "array_agg" | "string_agg" | "bool_and" | "bool_or")
            )
        }
        Expr::Cast { expr, .. } | Expr::Nested(expr) => aggregates(expr),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use datafusion::sql::sqlparser::dialect::PostgreSqlDialect;
    use datafusion::sql::sqlparser::parser::Parser;

    use super::*;

    fn parsed(sql: &str) -> Statement {
        Parser::parse_sql(&PostgreSqlDialect {}, sql).unwrap().remove(0)
    }

    fn rewritten(sql: &str) -> String {
        let mut statement = parsed(sql);
        rewrite(&mut statement);
        statement.to_string()
    }

    #[test]
    fn what_only_postgres_has_becomes_what_the_planner_knows() {
        for (sql, expected) in [
            (
                "SELECT 1 WHERE a OPERATOR(pg_catalog.~) 'x' COLLATE pg_catalog.default",
                "SELECT 1 AS \"?column?\" WHERE a ~ 'x'",
            ),
            ("SELECT a FROM b WHERE pg_catalog.f(a)", "SELECT a FROM b WHERE f(a)"),
            ("SELECT a FROM b WHERE a = 'x'::regclass", "SELECT a FROM b WHERE a = to_regclass('x')"),
            (
                "SELECT a FROM b WHERE a::regclass::pg_catalog.text = ''",
                "SELECT a FROM b WHERE CAST(relation_name(a) AS TEXT) = ''",
            ),
            ("SELECT (SELECT adbin FROM pg_attrdef d WHERE d.adrelid = a.x) AS d FROM a", "SELECT NULL AS d FROM a"),
            ("SELECT version()", "SELECT version() AS \"version\""),
        ] {
            assert_eq!(rewritten(sql), expected);
        }
    }

    #[test]
    fn tables_without_rows_give_no_rows_unless_they_are_counted() {
        let columns = |sql: &str| empty_columns(&parsed(sql));
        assert_eq!(
            columns("SELECT pol.polname, array(select 1) AS a, 'x' FROM pg_catalog.pg_policy pol, pg_class"),
            Some(vec!["polname".to_owned(), "a".to_owned(), "?column?".to_owned()])
        );
        for sql in [
            "SELECT count(*) FROM pg_policy",
            "SELECT 1 FROM pg_class LEFT JOIN pg_policy ON true",
            "SELECT polname FROM pg_policy UNION SELECT relname FROM pg_class",
        ] {
            assert_eq!(columns(sql), None, "{sql}");
        }
    }
}
