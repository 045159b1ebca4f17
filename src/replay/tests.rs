//! Files of every kind that the command takes, right and wrong.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema};
use arrow::json::ReaderBuilder;
use lariat_schema::tables::Table;
use lariat_schema::vocabulary::Strategy;
use parquet::arrow::ArrowWriter;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

/// The order in which the proxy tries these channels under that seed.
fn order(strategy: Strategy, seed: u64, channels: &[(String, String)]) -> Vec<(String, String)> {
    let names = lariat_proxy::strategies::replay(strategy, seed, channels).unwrap();
    let inputs: HashMap<_, _> = channels.iter().cloned().collect();
    names.into_iter().map(|name| (name.clone(), inputs[&name].clone())).collect()
}

fn channels(latencies_ms: &[f64]) -> Vec<(String, String)> {
    let channel = |(at, latency_ms): (usize, &f64)| {
        (format!("p{at}:http"), format!("priority={},latency_ms={latency_ms},qualified=1", at + 1))
    };
    latencies_ms.iter().enumerate().map(channel).collect()
}

fn candidate(selection: i64, rank: usize, (channel, inputs): &(String, String)) -> Value {
    let (provider, transport) = channel.split_once(':').unwrap();
    json!({ "selection": selection, "rank": rank + 1, "provider_id": provider, "transport": transport, "inputs": inputs })
}

/// A row of spans whose selections are these.
fn row(strategy: Strategy, selections: &[(u64, Vec<(String, String)>)]) -> Value {
    let numbered = || (1_i64..).zip(selections);
    let eligible: Vec<Value> = numbered()
        .flat_map(|(n, (_, ranked))| ranked.iter().enumerate().map(move |(rank, it)| candidate(n, rank, it)))
        .collect();
    let attributes: serde_json::Map<String, Value> =
        numbered().map(|(n, (seed, _))| (key_of(key::SEED, n), json!(format!("{seed:016x}")))).collect();
    json!({
        "request_id": "0192f0c4-8a5b-7c3d-9e1f-0123456789ab", "batch_index": 0, "strategy": strategy, "attributes": attributes,
        "eligible": eligible,
        "excluded": [{ "selection": 1, "provider_id": "px", "transport": "ws", "reason": "not_connected" }],
    })
}

/// The same decision as the query service tells it.
fn told(row: &Value) -> Value {
    let of = |list: &str, n: i64| -> Vec<Value> {
        let all = row[list].as_array().unwrap().iter().filter(|it| it["selection"] == n);
        all.map(|it| {
            let channel = format!("{}:{}", it["provider_id"].as_str().unwrap(), it["transport"].as_str().unwrap());
            let pairs = it["inputs"].as_str().unwrap_or_default().split(',').filter_map(|pair| pair.split_once('='));
            let number = |text: &str| match text.parse::<i64>() {
                Ok(whole) => json!(whole),
                Err(_) => json!(text.parse::<f64>().unwrap()),
            };
            let inputs: serde_json::Map<String, Value> =
                pairs.map(|(name, it)| (name.to_owned(), number(it))).collect();
            json!({ "rank": it["rank"], "channel": channel, "inputs": inputs, "reason": it["reason"] })
        })
        .collect()
    };
    let selection = |n: i64| {
        let seed = &row["attributes"][key_of(key::SEED, n)];
        json!({ "selection": n, "chosen": null, "seed": seed, "eligible": of("eligible", n), "excluded": of("excluded", n) })
    };
    json!({
        "request_id": row["request_id"], "boot_id": row["boot_id"], "decision_seq": row["decision_seq"],
        "strategy": row["strategy"], "selections": [selection(1), selection(2)],
    })
}

fn parquet_of(rows: &[Value]) -> Vec<u8> {
    let spans = Table::Spans.schema();
    let field = |name: &str| match name {
        "request_id" => Field::new(name, DataType::Utf8, true),
        _ => spans.field_with_name(name).unwrap().clone(),
    };
    let mut fields: Vec<Field> = COLUMNS.iter().map(|name| field(name)).collect();
    fields.push(Field::new("method", DataType::Utf8, true));
    let schema = Arc::new(Schema::new(fields));
    let mut decoder = ReaderBuilder::new(schema.clone()).build_decoder().unwrap();
    decoder.serialize(rows).unwrap();
    let mut writer = ArrowWriter::try_new(Vec::new(), schema, None).unwrap();
    writer.write(&decoder.flush().unwrap().unwrap()).unwrap();
    writer.into_inner().unwrap()
}

/// Every form of a file with this row and one of an attempt.
fn files(row: &Value) -> Vec<Vec<u8>> {
    let attempt = json!({ "request_id": row["request_id"], "strategy": row["strategy"], "method": "eth_call" });
    vec![
        json!({ "columns": [], "rows": [row, attempt] }).to_string().into(),
        json!({ "decisions": [told(row)], "coverage": {} }).to_string().into(),
        json!([row]).to_string().into(),
        format!("{row}\n{attempt}\n{}\n", json!({ "coverage": {}, "stats": {} })).into(),
        parquet_of(&[row.clone(), attempt]),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn every_strategy_comes_out_as_recorded_from_every_kind_of_file(
        latencies in proptest::collection::vec(0.001_f64..10_000.0, 1..8), seeds: (u64, u64), strategy in 0..Strategy::ALL.len(),
    ) {
        let strategy = Strategy::ALL[strategy];
        let all = channels(&latencies);
        let first = order(strategy, seeds.0, &all);
        let second = order(strategy, seeds.1, &first[1..]);
        let row = row(strategy, &[(seeds.0, first), (seeds.1, second)]);
        for file in files(&row) {
            let decisions = decisions(&file).unwrap();
            prop_assert_eq!(decisions.len(), 1);
            let mut tally = Tally::default();
            let text = tally.replay(&decisions[0]).unwrap();
            prop_assert_eq!(tally.differ, 0, "{}", text);
            prop_assert!(text.contains("px:ws (not_connected)"), "{}", text);
        }
    }
}

#[test]
fn a_seed_that_is_not_recorded_follows_from_boot_and_number() {
    let boot_id = BootId(uuid::Uuid::new_v4());
    for decision_seq in 1..=20 {
        let seed = |selection| selection_seed(boot_id, decision_seq, selection);
        let first = order(Strategy::LoadBalanced, seed(1), &channels(&[1.0, 2.0, 3.0, 4.0]));
        let second = order(Strategy::LoadBalanced, seed(2), &first[1..]);
        let mut row = row(Strategy::LoadBalanced, &[(seed(1), first), (seed(2), second)]);
        row["attributes"] = json!({ "lariat.snapshot": "7" });
        row["boot_id"] = json!(boot_id);
        row["decision_seq"] = json!(decision_seq);
        for file in files(&row) {
            let mut tally = Tally::default();
            let text = tally.replay(&decisions(&file).unwrap()[0]).unwrap();
            assert_eq!((tally.selections, tally.differ), (2, 0), "{text}");
        }
    }
}

#[test]
fn another_order_than_the_recorded_one_is_shown_and_fails() {
    let mut ranked = order(Strategy::Priority, 7, &channels(&[1.0, 2.0]));
    ranked.swap(0, 1);
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), row(Strategy::Priority, &[(7, ranked)]).to_string()).unwrap();
    let arguments = ReplayArguments { file: file.path().display().to_string() };
    assert!(matches!(run(&arguments), Err(Failure::Failed(text)) if text.contains("1 of 1")));
}

#[test]
fn what_cannot_be_read_says_what_is_missing() {
    let mut seedless = row(Strategy::LoadBalanced, &[(7, channels(&[1.0, 2.0]))]);
    seedless["attributes"] = Value::Null;
    let mut foreign = row(Strategy::Priority, &[(7, channels(&[1.0]))]);
    foreign["eligible"][0]["inputs"] = json!("mood=bad");
    for (text, part) in [
        (seedless.to_string(), "has no seed"),
        (foreign.to_string(), "not this program's"),
        ("{}".to_owned(), "holds no decision"),
        ("not json".to_owned(), "line 1"),
        (r#"{"strategy":"luck","eligible":[]}"#.to_owned(), "luck"),
    ] {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), &text).unwrap();
        let failure = run(&ReplayArguments { file: file.path().display().to_string() }).unwrap_err();
        assert!(matches!(&failure, Failure::Usage(told) if told.contains(part)), "{text}: {failure}");
    }
    let nowhere = run(&ReplayArguments { file: "/nowhere/at/all".to_owned() });
    assert!(matches!(nowhere, Err(Failure::Usage(_))));
}
