//! `lariat explain`: one decision as a story: what was asked, who could have answered, who was chosen and why, what each
//! attempt cost and how it ended.

use reqwest::StatusCode;
use serde_json::Value;

use super::{coverage_line, get, table};
use crate::cli::{ExplainArguments, Failure};

/// Fetches and prints every decision of a request or trace.
#[allow(clippy::print_stdout, reason = "the command's answer")]
pub(crate) async fn run(arguments: ExplainArguments) -> Result<(), Failure> {
    let path = format!("/api/v1/decisions/{}", arguments.id);
    let response = get(&arguments.service, &path, &[], Some(StatusCode::NOT_FOUND)).await?;
    let status = response.status();
    let text = response.text().await.map_err(|error| Failure::Failed(format!("the answer broke off: {error}")))?;
    let answer: Value =
        serde_json::from_str(&text).map_err(|_| Failure::Failed("the service's answer is no JSON".to_owned()))?;
    if status == StatusCode::NOT_FOUND {
        return Err(Failure::Failed(not_found(&arguments.id, &answer)));
    }
    if arguments.json {
        println!("{text}");
        return Ok(());
    }
    let decisions = answer.get("decisions").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    for decision in decisions {
        println!("{}", story(decision));
    }
    println!("{}", coverage_line(answer.get("coverage").unwrap_or(&Value::Null)));
    Ok(())
}

fn not_found(id: &str, answer: &Value) -> String {
    let text = |pointer: &str| answer.pointer(pointer).and_then(Value::as_str).unwrap_or("").to_owned();
    let message = text("/error/message");
    let hint = text("/error/hint");
    let head = if message.is_empty() { format!("no decision {id}") } else { message };
    if hint.is_empty() { head } else { format!("{head}\nhint: {hint}") }
}

/// One decision in words and two tables.
fn story(decision: &Value) -> String {
    let text = |name: &str| shown(decision.get(name));
    let mut out = format!(
        "decision {}#{}  {}\n  {} on {} in profile {}, strategy {}, node {} ({})\n  → {} answered by {} after {}: {} total = {} choosing + {} provider + {} own\n",
        text("request_id"),
        text("batch_index"),
        text("time"),
        text("method"),
        text("chain"),
        text("profile"),
        text("strategy"),
        text("node_id"),
        text("region"),
        outcome(decision),
        who(decision),
        effort(decision),
        duration(decision.get("duration_ns")),
        duration(decision.get("selection_ns")),
        duration(decision.get("provider_ns")),
        duration(decision.get("overhead_ns")),
    );
    out.push_str(&trace(decision));
    for (index, selection) in array(decision.get("selections")).iter().enumerate() {
        out.push_str(&format!("\n  selection {}: chose {}\n", index + 1, shown(selection.get("chosen"))));
        out.push_str(&indented(&candidates(selection)));
    }
    let attempts = array(decision.get("attempts_detail").or_else(|| decision.get("attempts")));
    if !attempts.is_empty() {
        out.push_str("\n  attempts\n");
        out.push_str(&indented(&attempts_table(attempts)));
    }
    let weight = decision.get("adjusted_count").and_then(Value::as_f64);
    let stands = weight.map_or("an unknown number of calls".to_owned(), |weight| format!("{weight} call(s)"));
    out.push_str(&format!("\n  kept: {}, stands for {stands}\n", text("keep_reason")));
    out
}

/// Where the decision stands among the client's own spans, as far as it is anywhere.
fn trace(decision: &Value) -> String {
    let parent = decision.get("parent_span_id").and_then(Value::as_str);
    let mut out = parent.map_or_else(String::new, |parent| {
        format!("  in the client's trace {} below its span {parent}\n", shown(decision.get("trace_id")))
    });
    for link in array(decision.get("links")) {
        let part = |name: &str| shown(link.get(name));
        out.push_str(&format!("  linked to the client's trace {} at its span {}\n", part("trace_id"), part("span_id")));
    }
    out
}

fn outcome(decision: &Value) -> String {
    let category = decision.get("error_category").and_then(Value::as_str);
    match category {
        Some(category) => format!("{} ({category})", shown(decision.get("result"))),
        None => shown(decision.get("result")),
    }
}

fn who(decision: &Value) -> String {
    match (decision.get("answered_by").and_then(Value::as_str), decision.get("provider_id").and_then(Value::as_str)) {
        (Some("provider"), Some(provider)) => format!("provider {provider} over {}", shown(decision.get("transport"))),
        (Some("coalesced"), _) => "an identical call in flight".to_owned(),
        (Some("cache"), _) => "the cache".to_owned(),
        (by, _) => by.unwrap_or("∅").to_owned(),
    }
}

/// How many attempts, and what saved or added one.
fn effort(decision: &Value) -> String {
    let attempts = array(decision.get("attempts"));
    let hedges = attempts.iter().filter(|attempt| attempt.get("kind").and_then(Value::as_str) == Some("hedge")).count();
    let mut out = format!("{} attempt(s)", shown(decision.get("attempts")));
    if hedges > 0 {
        out.push_str(&format!(", {hedges} of them a hedge"));
    }
    if let Some(cache) = decision.get("cache").and_then(Value::as_str) {
        out.push_str(&format!(", cache {cache}"));
    }
    out
}

fn candidates(selection: &Value) -> String {
    let header: Vec<String> = ["", "channel", "score", "probability", "why"].map(String::from).to_vec();
    let mut rows: Vec<Vec<String>> = array(selection.get("eligible"))
        .iter()
        .map(|candidate| {
            vec![
                format!("#{}", shown(candidate.get("rank"))),
                shown(candidate.get("channel")),
                number(candidate.get("score")),
                number(candidate.get("probability")),
                shown(candidate.get("inputs")),
            ]
        })
        .collect();
    rows.extend(array(selection.get("excluded")).iter().map(|candidate| {
        let reason = shown(candidate.get("reason"));
        vec![
            "—".to_owned(),
            shown(candidate.get("channel")),
            String::new(),
            String::new(),
            format!("excluded: {reason}"),
        ]
    }));
    table::draw(&header, &[false, false, true, true, false], &rows)
}

fn attempts_table(attempts: &[Value]) -> String {
    let header: Vec<String> =
        ["#", "kind", "provider", "transport", "outcome", "took", "http", "code", "circuit", "sent"]
            .map(String::from)
            .to_vec();
    let rows: Vec<Vec<String>> = attempts
        .iter()
        .map(|attempt| {
            let text = |name: &str| shown(attempt.get(name));
            vec![
                text("ordinal"),
                text("kind"),
                text("provider_id"),
                text("transport"),
                text("outcome"),
                duration(attempt.get("duration_ns")),
                text("http_status"),
                text("status_code"),
                text("circuit_state"),
                text("dispatched"),
            ]
        })
        .collect();
    table::draw(&header, &[true, false, false, false, false, true, true, true, false, false], &rows)
}

fn array(value: Option<&Value>) -> &[Value] {
    value.and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

fn shown(value: Option<&Value>) -> String {
    match value {
        None | Some(Value::Null) => "∅".to_owned(),
        Some(Value::String(text)) => text.clone(),
        Some(Value::Array(items)) => items.len().to_string(),
        Some(other) => other.to_string(),
    }
}

fn number(value: Option<&Value>) -> String {
    value.and_then(Value::as_f64).map_or("∅".to_owned(), |number| format!("{number:.4}"))
}

/// Nanoseconds in the unit that reads best.
fn duration(value: Option<&Value>) -> String {
    match value.and_then(Value::as_f64) {
        None => "∅".to_owned(),
        Some(ns) if ns >= 1e9 => format!("{:.2} s", ns / 1e9),
        Some(ns) if ns >= 1e6 => format!("{:.1} ms", ns / 1e6),
        Some(ns) => format!("{:.0} µs", ns / 1e3),
    }
}

fn indented(text: &str) -> String {
    text.lines().map(|line| format!("    {line}\n")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_story_names_the_choice_the_excluded_and_every_attempt() {
        let decision = serde_json::json!({
            "request_id": "r", "batch_index": 0, "method": "eth_blockNumber", "chain": "ethereum", "result": "success",
            "answered_by": "provider", "provider_id": "b", "transport": "http", "duration_ns": 12_500_000, "keep_reason": "failover",
            "adjusted_count": 1.0,
            "selections": [{"chosen": "a:http", "eligible": [{"rank": 1, "channel": "a:http", "score": 3.5, "probability": 0.5, "inputs": ""}],
                            "excluded": [{"channel": "c:http", "reason": "circuit_open"}]}],
            "attempts": [{"ordinal": 1, "kind": "primary", "provider_id": "a", "outcome": "timeout", "duration_ns": 10_000_000},
                         {"ordinal": 2, "kind": "hedge", "provider_id": "b", "outcome": "success", "duration_ns": 900_000}],
            "cache": "miss", "links": [{"trace_id": "0af7", "span_id": "b7ad"}],
        });
        let text = story(&decision);
        for part in [
            "chose a:http",
            "excluded: circuit_open",
            "timeout",
            "provider b over http",
            "12.5 ms",
            "900 µs",
            "kept: failover",
            "after 2 attempt(s), 1 of them a hedge, cache miss",
            "linked to the client's trace 0af7 at its span b7ad",
        ] {
            assert!(text.contains(part), "{part} is not in\n{text}");
        }
    }
}
