//! `lariat sql`: a table with its coverage for people, the service's own bytes for programs.

use std::io::{IsTerminal as _, Read as _, Write as _};

use serde_json::Value;

use super::{coverage_line, get, progress, table};
use crate::cli::{Failure, Format, SqlArguments};

/// Asks, prints, and says on stderr how much of the fleet the answer covers; without a query, opens a session.
pub(crate) async fn run(arguments: SqlArguments) -> Result<(), Failure> {
    match &arguments.query {
        Some(query) => {
            let query = read_query(query)?;
            ask(&arguments, query).await
        }
        None if std::io::stdin().is_terminal() => super::session::run(&arguments).await,
        None => {
            let query = read_query("-")?;
            ask(&arguments, query).await
        }
    }
}

/// One question and its answer, in the form that was asked for.
pub(super) async fn ask(arguments: &SqlArguments, query: String) -> Result<(), Failure> {
    let parameters = parameters(arguments, query);
    let broken = |error: reqwest::Error| Failure::Failed(format!("the answer broke off: {error}"));
    let response = progress::shown(get(&arguments.service, "/api/v1/sql", &parameters, None)).await?;
    if arguments.format == Format::Table {
        let text = response.text().await.map_err(broken)?;
        return print(as_table(&text, Layout::Automatic)?.as_bytes());
    }
    let coverage = response.headers().get("x-lariat-coverage").and_then(|value| value.to_str().ok()).map(str::to_owned);
    if arguments.format == Format::Ndjson {
        return print_as_it_comes(response).await;
    }
    let body = response.bytes().await.map_err(broken)?;
    print(&body)?;
    if let Some(coverage) = coverage.and_then(|text| serde_json::from_str::<Value>(&text).ok()) {
        say(&coverage_line(&coverage));
    }
    Ok(())
}

/// Prints each part of the body as it arrives, so that a long answer is neither kept nor waited for.
async fn print_as_it_comes(mut response: reqwest::Response) -> Result<(), Failure> {
    loop {
        match response.chunk().await {
            Ok(Some(part)) => print(&part)?,
            Ok(None) => return Ok(()),
            Err(error) => return Err(Failure::Failed(format!("the answer broke off: {error}"))),
        }
    }
}

/// The parameters of a question.
pub(super) fn parameters(arguments: &SqlArguments, query: String) -> Vec<(&'static str, String)> {
    let format = match arguments.format {
        Format::Table | Format::Json => "json",
        Format::Ndjson => "ndjson",
        Format::Csv => "csv",
        Format::Arrow => "arrow",
        Format::Parquet => "parquet",
    };
    let mut parameters = vec![("q", query), ("format", format.to_owned())];
    parameters.extend(arguments.min_coverage.map(|ratio| ("min_coverage", ratio.to_string())));
    parameters.extend(arguments.deadline.clone().map(|deadline| ("deadline", deadline)));
    parameters
}

/// Columns above which a single row is written a line per column.
const WIDE_COLUMNS: usize = 8;

fn read_query(argument: &str) -> Result<String, Failure> {
    if argument != "-" {
        return Ok(argument.to_owned());
    }
    let mut text = String::new();
    std::io::stdin()
        .read_to_string(&mut text)
        .map_err(|error| Failure::Usage(format!("cannot read the query from standard input: {error}")))?;
    Ok(text)
}

/// How rows are laid out for a person.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Layout {
    /// A table, or a record if there is one wide row.
    Automatic,
    /// A record per row: a line per column.
    Records,
}

/// The service's JSON as a table, the number of rows, the coverage, and the hint if there is one.
pub(super) fn as_table(text: &str, layout: Layout) -> Result<String, Failure> {
    let bad =
        |what: &str| Failure::Failed(format!("the service's answer has {what}: is --url a Lariat query service?"));
    let answer: Value = serde_json::from_str(text).map_err(|_| bad("no JSON"))?;
    let columns = answer.get("columns").and_then(Value::as_array).ok_or_else(|| bad("no columns"))?;
    let rows = answer.get("rows").and_then(Value::as_array).ok_or_else(|| bad("no rows"))?;
    let part = |column: &Value, name: &str| column.get(name).and_then(Value::as_str).unwrap_or("").to_owned();
    let header: Vec<String> = columns.iter().map(|column| part(column, "name")).collect();
    let numeric: Vec<bool> = columns
        .iter()
        .map(|column| ["Int", "UInt", "Float", "Decimal"].iter().any(|prefix| part(column, "type").starts_with(prefix)))
        .collect();
    let cells: Vec<Vec<String>> = rows
        .iter()
        .map(|row| header.iter().map(|name| cell(row.get(name).unwrap_or(&Value::Null))).collect())
        .collect();
    // One wide row reads better upside down.
    let records = layout == Layout::Records || (cells.len() == 1 && header.len() > WIDE_COLUMNS);
    let mut out = if records {
        cells.iter().map(|row| record(&header, row)).collect::<Vec<_>>().join("\n")
    } else {
        table::draw(&header, &numeric, &cells)
    };
    let elapsed = answer.pointer("/stats/elapsed_ms").and_then(Value::as_f64).unwrap_or(0.0);
    let count = cells.len();
    out.push_str(&format!("{count} row{} in {elapsed:.0} ms\n", if count == 1 { "" } else { "s" }));
    out.push_str(&coverage_line(answer.get("coverage").unwrap_or(&Value::Null)));
    out.push('\n');
    if answer.pointer("/sampling/weighted").and_then(Value::as_bool) == Some(true) {
        let least = answer.pointer("/sampling/min_probability").and_then(Value::as_f64).unwrap_or(1.0);
        out.push_str(&format!(
            "sampling: rows stand for others, kept with probability {least} or more; count with adjusted_count\n"
        ));
    }
    if let Some(hint) = answer.get("hint").and_then(Value::as_str) {
        out.push_str(&format!("hint: {hint}\n"));
    }
    Ok(out)
}

fn record(header: &[String], cells: &[String]) -> String {
    let width = header.iter().map(|name| name.chars().count()).max().unwrap_or(0);
    header.iter().zip(cells).map(|(name, cell)| format!("{name:<width$}  {cell}\n")).collect()
}

fn cell(value: &Value) -> String {
    match value {
        Value::Null => "∅".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

pub(super) fn print(bytes: &[u8]) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    match out.write_all(bytes).and_then(|()| out.flush()) {
        // The reader had enough, `| head` for example.
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        Err(error) => Err(Failure::Failed(format!("cannot write the answer: {error}"))),
        Ok(()) => Ok(()),
    }
}

#[allow(clippy::print_stderr, reason = "beside an answer that goes to a program, the coverage goes to the person")]
fn say(line: &str) {
    eprintln!("{line}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_have_a_line_per_column_and_a_gap_between_rows() {
        let text = r#"{"columns":[{"name":"a","type":"Int64"},{"name":"bc","type":"Utf8"}],
            "rows":[{"a":1,"bc":"x"},{"a":2,"bc":null}],"coverage":{}}"#;
        let table = as_table(text, Layout::Records).unwrap();
        assert!(table.starts_with("a   1\nbc  x\n\na   2\nbc  ∅\n2 rows"), "{table}");
    }

    #[test]
    fn a_table_ends_with_its_rows_time_and_coverage() {
        let text = r#"{"columns":[{"name":"n","type":"Int64"}],"rows":[{"n":12345678901234567}],
            "coverage":{"complete":true,"ratio":1.0,"expected":3,"answered":3},"stats":{"elapsed_ms":4.2}}"#;
        let table = as_table(text, Layout::Automatic).unwrap();
        assert!(table.contains("12345678901234567"), "{table}");
        assert!(table.ends_with("1 row in 4 ms\ncoverage: 3 of 3 nodes, 100.0 % of the expected time\n"), "{table}");
    }
}
