//! `lariat sql`: a table with its coverage for people, the service's own bytes for programs.

use std::io::{Read as _, Write as _};

use serde_json::Value;

use super::{coverage_line, get, table};
use crate::cli::{Failure, Format, SqlArguments};

/// Asks, prints, and says on stderr how much of the fleet the answer covers.
pub(crate) async fn run(arguments: SqlArguments) -> Result<(), Failure> {
    let query = read_query(&arguments.query)?;
    let format = match arguments.format {
        Format::Table | Format::Json => "json",
        Format::Ndjson => "ndjson",
        Format::Csv => "csv",
        Format::Arrow => "arrow",
        Format::Parquet => "parquet",
    };
    let mut parameters = vec![("q", query), ("format", format.to_owned())];
    if let Some(ratio) = arguments.min_coverage {
        parameters.push(("min_coverage", ratio.to_string()));
    }
    if let Some(deadline) = arguments.deadline {
        parameters.push(("deadline", deadline));
    }
    let response = get(&arguments.service.url, "/api/v1/sql", &parameters, None).await?;
    let broken = |error: reqwest::Error| Failure::Failed(format!("the answer broke off: {error}"));
    if arguments.format == Format::Table {
        let text = response.text().await.map_err(broken)?;
        return print(as_table(&text)?.as_bytes());
    }
    let coverage = response.headers().get("x-lariat-coverage").and_then(|value| value.to_str().ok()).map(str::to_owned);
    let body = response.bytes().await.map_err(broken)?;
    print(&body)?;
    if let Some(coverage) = coverage.and_then(|text| serde_json::from_str::<Value>(&text).ok()) {
        say(&coverage_line(&coverage));
    }
    Ok(())
}

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

/// The service's JSON as a table, the number of rows, the coverage, and the hint if there is one.
fn as_table(text: &str) -> Result<String, Failure> {
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
    let mut out = if cells.len() == 1 && header.len() > 8 {
        record(&header, &cells[0])
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

fn print(bytes: &[u8]) -> Result<(), Failure> {
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
    fn a_table_ends_with_its_rows_time_and_coverage() {
        let text = r#"{"columns":[{"name":"n","type":"Int64"}],"rows":[{"n":12345678901234567}],
            "coverage":{"complete":true,"ratio":1.0,"expected":3,"answered":3},"stats":{"elapsed_ms":4.2}}"#;
        let table = as_table(text).unwrap();
        assert!(table.contains("12345678901234567"), "{table}");
        assert!(table.ends_with("1 row in 4 ms\ncoverage: 3 of 3 nodes, 100.0 % of the expected time\n"), "{table}");
    }
}
