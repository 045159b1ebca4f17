//! Whose fault an error is, and what the client reads about it. DataFusion has one error type for a division by zero, a
//! corrupt file and a lost connection; what to do about each differs, so the difference is made in one place.

use arrow::error::ArrowError;
use datafusion::common::SchemaError;
use datafusion::error::DataFusionError;
use lariat_schema::cells::CellWidth;
use lariat_schema::tables::Table;

use super::statement::Parsed;
use super::system_tables;
use crate::ask::AskError;

/// Who has to do something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The client: the question is wrong. No retry.
    Question,
    /// The client: the question needs too much.
    Limits,
    /// A node: the answer goes on without it.
    Node,
    /// Us.
    Service,
}

/// Whose fault it is.
pub(crate) fn fault(error: &DataFusionError) -> Fault {
    match error.find_root() {
        DataFusionError::Plan(_)
        | DataFusionError::SchemaError(..)
        | DataFusionError::SQL(..)
        | DataFusionError::NotImplemented(_)
        | DataFusionError::Execution(_) => Fault::Question,
        DataFusionError::ArrowError(error, _) => match error.as_ref() {
            ArrowError::DivideByZero
            | ArrowError::ArithmeticOverflow(_)
            | ArrowError::CastError(_)
            | ArrowError::ComputeError(_)
            | ArrowError::ParseError(_)
            | ArrowError::InvalidArgumentError(_) => Fault::Question,
            _ => Fault::Node,
        },
        DataFusionError::ResourcesExhausted(_) => Fault::Limits,
        DataFusionError::ParquetError(_)
        | DataFusionError::IoError(_)
        | DataFusionError::ObjectStore(_)
        | DataFusionError::External(_) => Fault::Node,
        DataFusionError::Collection(errors) => errors.first().map_or(Fault::Service, fault),
        _ => Fault::Service,
    }
}

/// The error as one line without a backtrace.
pub(crate) fn brief(error: &DataFusionError) -> String {
    /// Longest text that goes into an answer.
    const MAX_CHARS: usize = 400;
    let text = error.strip_backtrace();
    let line = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join(" ");
    line.chars().take(MAX_CHARS).collect()
}

/// As the client sees it.
pub(crate) fn ask_error(error: DataFusionError) -> AskError {
    match fault(&error) {
        Fault::Question => {
            let root = error.find_root();
            AskError::BadQuestion { message: brief(root), hint: Some(advice(root).to_owned()) }
        }
        Fault::Limits => AskError::TooLarge {
            message: "the query needs more memory than it may use".to_owned(),
            hint: Some("narrow it by time, or group by fewer values".to_owned()),
        },
        Fault::Node | Fault::Service => AskError::Internal { source: Box::new(error) },
    }
}

/// What helps against an error of its kind.
fn advice(error: &DataFusionError) -> &'static str {
    match error {
        DataFusionError::ArrowError(error, _) => match error.as_ref() {
            ArrowError::DivideByZero => "divide by nullif(x, 0)",
            ArrowError::ArithmeticOverflow(_) => "cast to DOUBLE first",
            _ => "try_cast(x AS type) is null where a value does not fit its type",
        },
        DataFusionError::SQL(..) => "see docs/sql.md for what can be asked",
        _ => "SHOW TABLES and SHOW COLUMNS FROM a table list names and types",
    }
}

/// As [`ask_error`], with the nearest name where one was not found.
pub(crate) fn with_names(error: DataFusionError, parsed: &Parsed) -> AskError {
    let hint = match error.find_root() {
        DataFusionError::SchemaError(inner, _) => match inner.as_ref() {
            SchemaError::FieldNotFound { field, valid_fields } => {
                nearest(&field.name, valid_fields.iter().map(|field| field.name.as_str())).map(str::to_owned)
            }
            _ => None,
        },
        DataFusionError::Plan(message) => missing_table(message)
            .and_then(|name| nearest(name, table_names()))
            .or_else(|| message.split("Did you mean '").nth(1)?.split('\'').next())
            .map(str::to_owned),
        _ => None,
    };
    let hint = hint.map(|name| format!("did you mean `{name}`?"));
    match ask_error(error) {
        AskError::BadQuestion { message, hint: advice } => {
            let tables =
                || format!("it reads: {}", parsed.tables.iter().map(|t| t.as_str()).collect::<Vec<_>>().join(", "));
            let hint = hint.or_else(|| (!parsed.tables.is_empty()).then(tables));
            AskError::BadQuestion { message, hint: hint.or(advice) }
        }
        other => other,
    }
}

fn table_names() -> impl Iterator<Item = &'static str> {
    let tables = Table::NAMES.iter().copied();
    let views = lariat_schema::views::ALL.iter().map(|view| view.name);
    let cells = CellWidth::ALL.iter().map(|width| width.relation());
    tables.chain(cells).chain(views).chain([system_tables::NODES, system_tables::MEMBERSHIP])
}

/// The name in DataFusion's text for a missing table.
fn missing_table(message: &str) -> Option<&str> {
    let name = message.strip_prefix("table '")?.split('\'').next()?;
    name.rsplit('.').next()
}

fn nearest<'a>(wanted: &str, names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let distance = |name: &&str| datafusion::common::utils::datafusion_strsim::levenshtein(wanted, name);
    names.min_by_key(distance).filter(|name| distance(name) <= wanted.len().div_ceil(2))
}
