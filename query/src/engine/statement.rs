//! What a question may be: one statement that only reads. Judged on the parsed statement and not on its text, where a
//! comment or a string could hide the word that matters.

use std::collections::BTreeSet;

use datafusion::sql::parser::{DFParser, Statement};
use datafusion::sql::resolve::resolve_table_references;
use datafusion::sql::sqlparser::ast::Statement as Sql;
use lariat_schema::tables::Table;

use crate::ask::AskError;

/// A statement that may run.
#[derive(Debug, Clone)]
pub(crate) struct Parsed {
    /// The statement, without `EXPLAIN`.
    pub(crate) statement: Statement,
    /// Whether its plan is wanted and not its rows.
    pub(crate) explain: bool,
    /// The fleet's tables that it reads, directly or through views.
    pub(crate) tables: Vec<Table>,
    /// The views that it reads.
    pub(crate) views: Vec<&'static lariat_schema::views::View>,
}

const HINT: &str = "one SELECT, WITH, EXPLAIN, SHOW TABLES, SHOW COLUMNS or DESCRIBE";

fn bad(message: impl Into<String>) -> AskError {
    AskError::BadQuestion { message: message.into(), hint: Some(HINT.to_owned()) }
}

/// Parses and judges.
pub(crate) fn parse(sql: &str) -> Result<Parsed, AskError> {
    let mut statements =
        DFParser::parse_sql(sql).map_err(|error| bad(format!("this is no SQL: {}", error.strip_backtrace())))?;
    let (Some(statement), None) = (statements.pop_front(), statements.pop_front()) else {
        return Err(bad("exactly one statement can be asked"));
    };
    let (statement, explain) = match statement {
        Statement::Explain(explain) => {
            if explain.options.analyze {
                return Err(bad("EXPLAIN ANALYZE cannot be asked"));
            }
            (*explain.statement, true)
        }
        other => (other, false),
    };
    match &statement {
        Statement::Statement(inner) => match inner.as_ref() {
            Sql::Query(_) => {}
            Sql::ShowTables { .. } | Sql::ShowColumns { .. } | Sql::ExplainTable { .. } if !explain => {}
            _ => return Err(bad("only reading is possible")),
        },
        _ => return Err(bad("only reading is possible")),
    }
    let (mut tables, mut views) = (BTreeSet::new(), Vec::new());
    let mut everything = !matches!(&statement, Statement::Statement(inner) if matches!(inner.as_ref(), Sql::Query(_)));
    let (references, _) = resolve_table_references(&statement, true)
        .map_err(|error| bad(format!("the tables cannot be told: {}", error.strip_backtrace())))?;
    for reference in &references {
        everything |= reference.schema() == Some(datafusion::catalog::information_schema::INFORMATION_SCHEMA);
        if let Ok(table) = reference.table().parse::<Table>() {
            tables.insert(table);
        }
        views.extend(lariat_schema::views::ALL.iter().filter(|view| view.name == reference.table()));
    }
    if everything {
        tables.extend(Table::ALL);
        views = lariat_schema::views::ALL.iter().collect();
    }
    tables.extend(views.iter().flat_map(|view| tables_of(view.sql)));
    Ok(Parsed { statement, explain, tables: tables.into_iter().collect(), views })
}

/// The tables under a view.
fn tables_of(sql: &str) -> Vec<Table> {
    let Ok(mut statements) = DFParser::parse_sql(sql) else { return Vec::new() };
    let Some(statement) = statements.pop_front() else { return Vec::new() };
    let Ok((references, _)) = resolve_table_references(&statement, true) else { return Vec::new() };
    references.iter().filter_map(|reference| reference.table().parse().ok()).collect()
}
