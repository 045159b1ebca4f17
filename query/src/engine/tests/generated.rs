//! Generated SQL over the real schema, right and wrong: whatever is asked, there is an answer or an error that is the
//! caller's, of one shape, and the service lives.

use proptest::prelude::*;
use proptest::strategy::BoxedStrategy;

use super::*;
use crate::api::ApiError;

const TABLES: [&str; 13] = [
    "spans",
    "metrics",
    "logs",
    "rollups",
    "node_status",
    "routing_decisions",
    "attempts",
    "candidates",
    "circuit_events",
    "ledger",
    "nodes",
    "membership",
    "spam",
];
const COLUMNS: [&str; 18] = [
    "time",
    "chain",
    "method",
    "region",
    "duration_ns",
    "adjusted_count",
    "trace_id",
    "request_id",
    "attributes",
    "eligible",
    "status_code",
    "batch_index",
    "node_id",
    "sketch_counts",
    "value",
    "family",
    "t.time",
    "\"no such column\"",
];
const LITERALS: [&str; 22] = [
    "0",
    "1",
    "-1",
    "9223372036854775807",
    "-9223372036854775808",
    "99999999999999999999999",
    "1e308",
    "1e-400",
    "0.1",
    "''",
    "'x'",
    "'%_\\'",
    "'2026-01-01'",
    "'00000000000000000000000000000005'",
    "NULL",
    "true",
    "INTERVAL '1 day'",
    "now()",
    "ARRAY[1, NULL]",
    "X'00ff'",
    "TIMESTAMP '9999-12-31'",
    "$1",
];
const FUNCTIONS: [&str; 40] = [
    "abs",
    "sqrt",
    "ln",
    "power",
    "round",
    "length",
    "lower",
    "substr",
    "split_part",
    "replace",
    "lpad",
    "repeat",
    "md5",
    "sha256",
    "date_trunc",
    "date_bin",
    "to_timestamp",
    "date_part",
    "coalesce",
    "nullif",
    "array_length",
    "make_array",
    "cardinality",
    "array_concat",
    "range",
    "generate_series",
    "array_repeat",
    "regexp_like",
    "regexp_replace",
    "encode",
    "arrow_cast",
    "arrow_typeof",
    "named_struct",
    "get_field",
    "levenshtein",
    "chr",
    "factorial",
    "gcd",
    "random",
    "uuid",
];
const AGGREGATES: [&str; 18] = [
    "count",
    "sum",
    "avg",
    "min",
    "max",
    "median",
    "stddev",
    "approx_distinct",
    "approx_percentile_cont",
    "array_agg",
    "string_agg",
    "first_value",
    "bool_and",
    "bit_xor",
    "estimated_count",
    "estimated_sum",
    "estimated_avg",
    "estimated_percentile",
];
const OPERATORS: [&str; 18] = [
    "+",
    "-",
    "*",
    "/",
    "%",
    "=",
    "<>",
    "<",
    ">=",
    "AND",
    "OR",
    "||",
    "LIKE",
    "~",
    "IS DISTINCT FROM",
    "&",
    "<<",
    "@>",
];
const TYPES: [&str; 9] =
    ["BIGINT", "DOUBLE", "VARCHAR", "TIMESTAMP", "DATE", "BOOLEAN", "DECIMAL(38, 10)", "BYTEA", "INTERVAL"];

fn one_of(of: &'static [&'static str]) -> BoxedStrategy<String> {
    prop::sample::select(of).prop_map(str::to_owned).boxed()
}

fn expression() -> BoxedStrategy<String> {
    let leaf = prop_oneof![3 => one_of(&COLUMNS), 2 => one_of(&LITERALS)];
    let grown = leaf.prop_recursive(4, 24, 3, |inner| {
        let several = prop::collection::vec(inner.clone(), 0..3).prop_map(|of| of.join(", "));
        prop_oneof![
            (inner.clone(), one_of(&OPERATORS), inner.clone()).prop_map(|(a, op, b)| format!("({a} {op} {b})")),
            (one_of(&FUNCTIONS), several.clone()).prop_map(|(name, of)| format!("{name}({of})")),
            (one_of(&AGGREGATES), several.clone()).prop_map(|(name, of)| format!("{name}({of})")),
            (inner.clone(), one_of(&TYPES)).prop_map(|(of, to)| format!("CAST({of} AS {to})")),
            (inner.clone(), inner.clone(), inner.clone())
                .prop_map(|(a, b, c)| format!("CASE WHEN {a} THEN {b} ELSE {c} END")),
            (inner.clone(), several).prop_map(|(of, list)| format!("({of} IN ({list}))")),
            (one_of(&AGGREGATES), inner.clone(), inner.clone())
                .prop_map(|(name, of, by)| format!("{name}({of}) OVER (PARTITION BY {by} ORDER BY {of})")),
            inner.clone().prop_map(|of| format!("{of}['value']")),
            inner.prop_map(|of| format!("(SELECT {of} FROM spans t LIMIT 1)")),
        ]
    });
    grown.boxed()
}

fn relation() -> BoxedStrategy<String> {
    prop_oneof![
        4 => one_of(&TABLES).prop_map(|table| format!("{table} t")),
        1 => (one_of(&TABLES), one_of(&TABLES), expression()).prop_map(|(a, b, on)| format!("{a} t JOIN {b} u ON {on}")),
        1 => one_of(&TABLES).prop_map(|table| format!("(SELECT * FROM {table} LIMIT 3) t")),
        1 => expression().prop_map(|of| format!("generate_series(1, {of}) t")),
        1 => expression().prop_map(|of| format!("coverage('-1h', 'now', {of}) t")),
    ]
    .boxed()
}

fn statement() -> BoxedStrategy<String> {
    let clause = |word: &'static str| prop::option::of(expression().prop_map(move |of| format!(" {word} {of}")));
    let select = (
        prop::collection::vec(expression(), 1..3),
        relation(),
        (clause("WHERE"), clause("GROUP BY"), clause("HAVING"), clause("ORDER BY")),
        prop::option::of(one_of(&["1", "0", "-1", "'x'", "100000000000"])),
    )
        .prop_map(|(what, from, (filter, group, having, order), limit)| {
            let clauses = [filter, group, having, order].map(Option::unwrap_or_default).concat();
            let limit = limit.map(|limit| format!(" LIMIT {limit}")).unwrap_or_default();
            format!("SELECT {} FROM {from}{clauses}{limit}", what.join(", "))
        })
        .boxed();
    prop_oneof![
        6 => select.clone(),
        1 => (select.clone(), select.clone()).prop_map(|(a, b)| format!("{a} UNION ALL {b}")),
        1 => (select.clone(), select.clone()).prop_map(|(a, b)| format!("WITH q AS ({a}) {b}")),
        1 => select.clone().prop_map(|of| format!("EXPLAIN {of}")),
        1 => select.prop_map(|of| format!("WITH RECURSIVE r AS ({of} UNION ALL SELECT * FROM r) SELECT * FROM r")),
    ]
    .boxed()
}

/// A statement with words left out, doubled or exchanged.
fn damaged() -> BoxedStrategy<String> {
    (statement(), prop::collection::vec((any::<prop::sample::Index>(), 0..4u8), 1..4))
        .prop_map(|(statement, damages)| {
            let mut words: Vec<&str> = statement.split_inclusive([' ', '(', ')', ',']).collect();
            for (at, how) in damages {
                let at = at.index(words.len().max(1));
                match how {
                    0 if words.len() > 1 => drop(words.remove(at)),
                    1 => words.insert(at, words[at]),
                    2 => words.swap(0, at),
                    _ => words[at] = "\u{1f980}",
                }
            }
            words.concat()
        })
        .boxed()
}

async fn judge(query: &Query, sql: &str) -> Result<(), String> {
    let question = Question { deadline: Some(Duration::from_secs(2)), ..Question::new(sql) };
    let Err(error) = query.engine().ask(question).await else { return Ok(()) };
    let told = format!("{error:?}");
    let error = ApiError::from(error);
    let body = error.body();
    let (code, message) = (body["error"]["code"].as_str(), body["error"]["message"].as_str());
    // A question that takes longer than it may is no fault of the service.
    let expected = error.status.is_client_error() || error.code == "deadline";
    if expected && code.is_some() && message.is_some_and(|message| !message.is_empty()) {
        return Ok(());
    }
    Err(format!("{sql}\n{told}"))
}

async fn run(strategy: BoxedStrategy<String>, cases: usize) {
    let fleet = Fleet::start_with(2, 20, 0).await;
    let query = fleet.query().await;
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let mut faults = Vec::new();
    for _ in 0..cases {
        let sql = strategy.new_tree(&mut runner).unwrap().current();
        faults.extend(judge(&query, &sql).await.err());
    }
    let answer = ask(&query, "SELECT count(*) FROM spans").await;
    assert_eq!((count(&answer), answer.coverage.answered), (40, 2), "the service is not what it was");
    assert!(faults.is_empty(), "{} of {cases}:\n{}", faults.len(), faults.join("\n\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn generated_statements_get_an_answer_or_an_error_that_is_the_callers() {
    run(statement(), 300).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn damaged_statements_get_an_error_that_is_the_callers() {
    run(damaged(), 300).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn statements_of_any_depth_and_length_leave_the_service_alive() {
    let fleet = Fleet::start_with(1, 20, 0).await;
    let query = fleet.query().await;
    let chain = |of: &str, count: usize| format!("SELECT 1{}", of.repeat(count));
    for sql in [
        chain("+1", 100_000),
        chain(" OR 1=1", 30_000),
        chain("||'x'", 40_000),
        format!("SELECT {}1{}", "(".repeat(100_000), ")".repeat(100_000)),
        format!("SELECT {}1", "-".repeat(3)),
        format!("SELECT {}true", "NOT ".repeat(60_000)),
        format!("SELECT {}", vec!["1 AS a"; 20_000].join(", ")),
        format!("SELECT 1 IN ({})", vec!["1"; 100_000].join(",")),
        format!("SELECT {}1{}", "abs(".repeat(20_000), ")".repeat(20_000)),
        format!("SELECT * FROM {}spans{}", "(SELECT * FROM ".repeat(2_000), ")".repeat(2_000)),
        vec!["SELECT 1 AS a"; 5_000].join(" UNION ALL "),
        format!("SELECT {}1{}", "CASE WHEN true THEN ".repeat(5_000), " END".repeat(5_000)),
        "\u{0}".to_owned(),
        "SELECT '".to_owned(),
        "/*".repeat(50_000),
        // As deep as may be.
        chain("+1", 990),
        format!("SELECT count(*) FROM spans WHERE {}", vec!["duration_ns % 7 = 3"; 330].join(" OR ")),
        format!("SELECT {} FROM spans", vec!["duration_ns"; 900].join(" + ")),
        format!("SELECT count(*) FROM spans WHERE {}chain{} <> ''", "lower(".repeat(40), ")".repeat(40)),
        vec!["SELECT 1 AS a"; 300].join(" UNION ALL "),
        format!("SELECT 1{}", "::BIGINT".repeat(900)),
    ] {
        judge(&query, &sql).await.unwrap_or_else(|fault| panic!("{}", fault.chars().take(2_000).collect::<String>()));
    }
    let sql = format!("SELECT count(*) FROM spans WHERE {}", vec!["lower(chain) <> method"; 300].join(" AND "));
    let answer = ask(&query, &sql).await;
    assert_eq!((count(&answer), answer.coverage.answered), (20, 1), "{:?}", answer.coverage);
}
