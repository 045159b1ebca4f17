//! A decision as a reader wants it, from its stored columns: the flat candidate lists become selections, each with its
//! choice, its ranking and its exclusions; attempts are put under the decision that made them. Pure.

use std::collections::BTreeMap;

use arrow::array::RecordBatch;
use lariat_schema::attributes as key;
use lariat_schema::ids::BootId;
use lariat_schema::seeds::selection_seed;
use serde_json::{Map, Value, json};

use crate::reports::encode;

/// Request id and batch index, which name a decision.
type Name = (String, i64);

/// The decisions of an answer, each with its selections and attempts, in the order in which they came.
pub(super) fn decisions(decisions: &[RecordBatch], attempts: &[RecordBatch]) -> Vec<Value> {
    let mut by_decision: BTreeMap<Name, Vec<Value>> = BTreeMap::new();
    for attempt in objects(attempts) {
        by_decision.entry(name(&attempt)).or_default().push(Value::Object(attempt));
    }
    objects(decisions)
        .map(|mut decision| {
            let attempts = by_decision.remove(&name(&decision)).unwrap_or_default();
            let eligible = decision.shift_remove("eligible").unwrap_or_default();
            let excluded = decision.shift_remove("excluded").unwrap_or_default();
            let attributes = decision.get("attributes").cloned().unwrap_or_default();
            let drawn = Drawn::of(&decision);
            let count = attempts.len();
            // `attempts` is the count as the column and the list as the record: the list is what the contract names.
            let counted = decision.insert("attempts".to_owned(), Value::Array(attempts)).unwrap_or_default();
            decision.insert("attempt_count".to_owned(), counted.clone());
            let whole = counted.as_u64().is_none_or(|counted| u64::try_from(count).is_ok_and(|count| count >= counted));
            decision.insert("attempts_complete".to_owned(), Value::Bool(whole));
            decision
                .insert("selections".to_owned(), Value::Array(selections(&eligible, &excluded, &attributes, drawn)));
            Value::Object(decision)
        })
        .collect()
}

fn objects(batches: &[RecordBatch]) -> impl Iterator<Item = Map<String, Value>> {
    batches.iter().flat_map(|batch| (0..batch.num_rows()).map(move |row| encode::object(batch, row)))
}

fn name(record: &Map<String, Value>) -> Name {
    let request_id = record.get("request_id").and_then(Value::as_str).unwrap_or_default().to_owned();
    (request_id, record.get("batch_index").and_then(Value::as_i64).unwrap_or(0))
}

fn channel(candidate: &Value) -> String {
    let part = |name: &str| candidate[name].as_str().unwrap_or_default();
    format!("{}:{}", part("provider_id"), part("transport"))
}

/// `name=value` pairs joined by commas, as an object; a value that reads as a number is one.
fn inputs(text: &Value) -> Value {
    let Some(text) = text.as_str() else {
        return Value::Null;
    };
    let pairs = text.split(',').filter_map(|pair| pair.split_once('='));
    Value::Object(pairs.map(|(name, value)| (name.trim().to_owned(), typed(value.trim()))).collect())
}

/// A number where the text is one. It is read by the standard library: the JSON reader's may differ in its last bit, and
/// a selection that is run again needs all of them.
fn typed(text: &str) -> Value {
    match (text.parse::<i64>(), text.parse::<f64>()) {
        (Ok(whole), _) => json!(whole),
        (_, Ok(number)) => serde_json::Number::from_f64(number).map_or_else(|| json!(text), Value::Number),
        _ => json!(text),
    }
}

/// What the seeds of a decision's selections follow from where their events tell none.
#[derive(Clone, Copy)]
struct Drawn(Option<(BootId, u64)>);

impl Drawn {
    fn of(decision: &Map<String, Value>) -> Self {
        let boot_id = decision.get("boot_id").and_then(Value::as_str).and_then(|text| text.parse().ok());
        Self(boot_id.zip(decision.get("decision_seq").and_then(Value::as_u64)))
    }

    fn seed(self, selection: i64) -> Option<String> {
        let ((boot_id, decision_seq), selection) = (self.0?, u64::try_from(selection).ok()?);
        Some(format!("{:016x}", selection_seed(boot_id, decision_seq, selection)))
    }
}

/// Selections in their order, each with its seed and the number of its snapshot. The chosen channel is the eligible one of
/// the best rank; none where nobody was eligible.
fn selections(eligible: &Value, excluded: &Value, attributes: &Value, drawn: Drawn) -> Vec<Value> {
    let told = |key: &str, ordinal: i64| match ordinal {
        1 => attributes[key].as_str(),
        _ => attributes[&*format!("{key}.{ordinal}")].as_str(),
    };
    let mut selections: BTreeMap<i64, (Vec<Value>, Vec<Value>)> = BTreeMap::new();
    let ordinal = |candidate: &Value| candidate["selection"].as_i64().unwrap_or(1);
    for candidate in eligible.as_array().into_iter().flatten() {
        selections.entry(ordinal(candidate)).or_default().0.push(json!({
            "rank": candidate["rank"],
            "channel": channel(candidate),
            "score": candidate["score"],
            "probability": candidate["probability"],
            "inputs": inputs(&candidate["inputs"]),
        }));
    }
    for candidate in excluded.as_array().into_iter().flatten() {
        let entry = json!({ "channel": channel(candidate), "reason": candidate["reason"] });
        selections.entry(ordinal(candidate)).or_default().1.push(entry);
    }
    selections
        .into_iter()
        .map(|(selection, (mut eligible, excluded))| {
            eligible.sort_by_key(|candidate| candidate["rank"].as_i64().unwrap_or(i64::MAX));
            let chosen = eligible.first().map(|first| first["channel"].clone());
            let snapshot = told(key::SNAPSHOT, selection).and_then(|number| number.parse::<i64>().ok());
            let seed = told(key::SEED, selection).map(str::to_owned).or_else(|| drawn.seed(selection));
            json!({
                "selection": selection, "chosen": chosen, "seed": seed, "snapshot": snapshot,
                "eligible": eligible, "excluded": excluded,
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_that_no_event_told_follows_from_boot_and_number() {
        let boot_id: BootId = "0192f0c4-8a5b-4c3d-9e1f-0123456789ab".parse().unwrap();
        let named = json!({ "boot_id": boot_id, "decision_seq": 7 });
        let eligible = json!([{ "selection": 1, "rank": 1, "provider_id": "a", "transport": "http" }]);
        let seed = |attributes: Value, named: &Value| {
            let drawn = Drawn::of(named.as_object().unwrap());
            selections(&eligible, &Value::Null, &attributes, drawn)[0]["seed"].clone()
        };
        assert_eq!(seed(Value::Null, &named), format!("{:016x}", selection_seed(boot_id, 7, 1)));
        assert_eq!(seed(json!({ "lariat.seed": "ff" }), &named), "ff");
        assert_eq!(seed(Value::Null, &json!({})), Value::Null);
    }

    #[test]
    fn a_number_among_the_inputs_keeps_its_last_bit() {
        for text in ["1234.5678901234567", "0.000012345678901234568", "100", "-3", "9007199254740993"] {
            let told = inputs(&json!(format!("a={text}")))["a"].to_string();
            assert_eq!(told.parse::<f64>(), text.parse::<f64>(), "{told}");
        }
        assert_eq!(inputs(&json!("a=x"))["a"], "x");
    }
}
