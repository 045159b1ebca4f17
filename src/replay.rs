//! `lariat replay`: runs the recorded selections again, from the record alone, and says whether the same order comes out.
//! It takes what `lariat explain --json` and `lariat sql --format json` print, rows of spans as JSON lines, or a Parquet
//! file of spans as it lies on a node. Channels that were excluded are shown with their reasons as recorded: why they
//! were depends on a snapshot of health, of which the record holds the number and not the whole.
//!
//! Numbers inside are taken as they are written and never through a JSON number, which may lose the last bit of one.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;
use std::io::Read as _;

use arrow::json::LineDelimitedWriter;
use lariat_schema::attributes as key;
use lariat_schema::ids::BootId;
use lariat_schema::seeds::selection_seed;
use lariat_schema::vocabulary::Strategy;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::cli::{Failure, ReplayArguments};

/// What a Parquet file begins with.
const PARQUET_MAGIC: &[u8] = b"PAR1";
/// The columns that are read of a Parquet file.
const COLUMNS: [&str; 8] =
    ["request_id", "batch_index", "boot_id", "decision_seq", "strategy", "eligible", "excluded", "attributes"];

/// Replays a file, prints every selection, and fails if one comes out otherwise.
#[allow(clippy::print_stdout, reason = "the command's answer")]
pub(crate) fn run(arguments: &ReplayArguments) -> Result<(), Failure> {
    let unreadable = |problem: String| Failure::Usage(format!("{}: {problem}", arguments.file));
    let bytes = read_file(&arguments.file).map_err(|error| unreadable(error.to_string()))?;
    let decisions = decisions(&bytes).map_err(unreadable)?;
    let mut tally = Tally::default();
    for decision in &decisions {
        print!("{}", tally.replay(decision).map_err(unreadable)?);
    }
    println!("{} decision(s), {} selection(s), {} differ", decisions.len(), tally.selections, tally.differ);
    match tally.differ {
        0 => Ok(()),
        n => Err(Failure::Failed(format!("{n} of {} selections come out otherwise", tally.selections))),
    }
}

fn read_file(file: &str) -> std::io::Result<Vec<u8>> {
    if file != "-" {
        return std::fs::read(file);
    }
    let mut bytes = Vec::new();
    std::io::stdin().read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// A decision, as a row of spans or as the query service tells it.
#[derive(Deserialize)]
struct Decision<'a> {
    #[serde(default)]
    request_id: Option<String>,
    #[serde(default)]
    batch_index: Option<i64>,
    #[serde(default)]
    boot_id: Option<String>,
    #[serde(default)]
    decision_seq: Option<u64>,
    #[serde(default)]
    strategy: Option<String>,
    /// Told by the service; a row has the flat lists below.
    #[serde(default, borrow)]
    selections: Vec<Selection<'a>>,
    #[serde(default, borrow)]
    eligible: Option<Vec<Candidate<'a>>>,
    #[serde(default, borrow)]
    excluded: Option<Vec<Candidate<'a>>>,
    #[serde(default)]
    attributes: Option<HashMap<String, Option<String>>>,
}

#[derive(Deserialize)]
struct Selection<'a> {
    selection: i64,
    #[serde(default)]
    seed: Option<String>,
    #[serde(borrow)]
    eligible: Vec<Candidate<'a>>,
    #[serde(borrow)]
    excluded: Vec<Candidate<'a>>,
}

#[derive(Deserialize)]
struct Candidate<'a> {
    #[serde(default)]
    selection: Option<i64>,
    #[serde(default)]
    rank: Option<i64>,
    #[serde(default)]
    channel: Option<String>,
    #[serde(default)]
    provider_id: Option<String>,
    #[serde(default)]
    transport: Option<String>,
    #[serde(default, borrow)]
    inputs: Option<&'a RawValue>,
    #[serde(default)]
    reason: Option<String>,
}

/// What the two commands print.
#[derive(Deserialize)]
struct Answer<'a> {
    #[serde(default, borrow)]
    decisions: Option<Vec<&'a RawValue>>,
    #[serde(default, borrow)]
    rows: Option<Vec<&'a RawValue>>,
}

/// A selection in one form, whatever the file's.
#[derive(Debug, Clone, PartialEq, Default)]
struct Recorded {
    seed: Option<u64>,
    /// Channels and what they were ranked by, in the recorded order.
    eligible: Vec<(String, String)>,
    excluded: Vec<(String, String)>,
}

/// A decision in one form.
#[derive(Debug, Clone, PartialEq)]
struct Whole {
    name: String,
    strategy: Option<Strategy>,
    selections: BTreeMap<i64, Recorded>,
}

/// Every decision of a file; it must hold one at least.
fn decisions(bytes: &[u8]) -> Result<Vec<Whole>, String> {
    let lines;
    let text = if bytes.starts_with(PARQUET_MAGIC) {
        lines = parquet_lines(bytes.to_vec())?;
        lines.as_str()
    } else {
        std::str::from_utf8(bytes).map_err(|_| "is neither text nor Parquet".to_owned())?
    };
    let found = rows(text)?.into_iter().filter_map(|row| whole(row).transpose()).collect::<Result<Vec<_>, _>>()?;
    if found.is_empty() {
        return Err(
            "holds no decision: select boot_id, decision_seq, strategy, eligible, excluded and attributes of routing_decisions".to_owned()
        );
    }
    Ok(found)
}

/// The rows of a text: those of an answer, of an array, or one a line.
fn rows(text: &str) -> Result<Vec<&RawValue>, String> {
    if let Ok(answer) = serde_json::from_str::<Answer<'_>>(text)
        && let Some(rows) = answer.decisions.or(answer.rows)
    {
        return Ok(rows);
    }
    if let Ok(rows) = serde_json::from_str::<Vec<&RawValue>>(text) {
        return Ok(rows);
    }
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    lines.map(|(at, line)| serde_json::from_str(line).map_err(|error| format!("line {}: {error}", at + 1))).collect()
}

/// A row's decision; none where it is something else, such as an attempt.
fn whole(row: &RawValue) -> Result<Option<Whole>, String> {
    let decision: Decision<'_> =
        serde_json::from_str(row.get()).map_err(|error| format!("a row is no decision: {error}"))?;
    let request_id = decision.request_id.unwrap_or_else(|| "?".to_owned());
    let name = format!("{request_id}#{}", decision.batch_index.unwrap_or(0));
    let attributes = decision.attributes.unwrap_or_default();
    let mut selections: BTreeMap<i64, Recorded> = BTreeMap::new();
    let is_row = decision.eligible.is_some() || decision.excluded.is_some();
    if decision.strategy.is_none() || decision.selections.is_empty() && !is_row {
        return Ok(None);
    }
    let mut seeds: HashMap<i64, String> = HashMap::new();
    let (mut eligible, mut excluded) = (decision.eligible.unwrap_or_default(), decision.excluded.unwrap_or_default());
    for mut told in decision.selections {
        for candidate in told.eligible.iter_mut().chain(&mut told.excluded) {
            candidate.selection = Some(told.selection);
        }
        seeds.extend(told.seed.map(|seed| (told.selection, seed)));
        eligible.append(&mut told.eligible);
        excluded.append(&mut told.excluded);
    }
    eligible.sort_by_key(|candidate| candidate.rank);
    for candidate in eligible {
        let entry = (candidate.name(), candidate.inputs.map(inputs).transpose()?.unwrap_or_default());
        selections.entry(candidate.selection.unwrap_or(1)).or_default().eligible.push(entry);
    }
    for candidate in excluded {
        let entry = (candidate.name(), candidate.reason.clone().unwrap_or_default());
        selections.entry(candidate.selection.unwrap_or(1)).or_default().excluded.push(entry);
    }
    let boot_id = decision.boot_id.and_then(|text| text.parse::<BootId>().ok());
    for (ordinal, recorded) in &mut selections {
        let kept = seeds.remove(ordinal).or_else(|| attributes.get(&key_of(key::SEED, *ordinal)).cloned().flatten());
        recorded.seed = match (kept, boot_id, decision.decision_seq, u64::try_from(*ordinal)) {
            (Some(text), ..) => {
                Some(u64::from_str_radix(&text, 16).map_err(|_| format!("{name}: `{text}` is no seed"))?)
            }
            (None, Some(boot_id), Some(seq), Ok(ordinal)) => Some(selection_seed(boot_id, seq, ordinal)),
            _ => None,
        };
    }
    let strategy = decision.strategy.as_deref().map(str::parse).transpose();
    Ok(Some(Whole { strategy: strategy.map_err(|error| format!("{name}: {error}"))?, name, selections }))
}

/// The key in the map of attributes under which a selection's own attribute lies.
fn key_of(attribute: &str, ordinal: i64) -> String {
    if ordinal == 1 { attribute.to_owned() } else { format!("{attribute}.{ordinal}") }
}

impl Candidate<'_> {
    fn name(&self) -> String {
        let part = |part: &Option<String>| part.clone().unwrap_or_default();
        self.channel.clone().unwrap_or_else(|| format!("{}:{}", part(&self.provider_id), part(&self.transport)))
    }
}

/// Inputs as they are recorded, from that very text or from the object that the service makes of it.
fn inputs(raw: &RawValue) -> Result<String, String> {
    let bad = |error: serde_json::Error| format!("the inputs {} are unreadable: {error}", raw.get());
    if !raw.get().starts_with('{') {
        return serde_json::from_str::<Option<String>>(raw.get()).map(Option::unwrap_or_default).map_err(bad);
    }
    let pairs: BTreeMap<String, &RawValue> = serde_json::from_str(raw.get()).map_err(bad)?;
    let pairs = pairs.iter().map(|(name, value)| format!("{name}={}", value.get().trim_matches('"')));
    Ok(pairs.collect::<Vec<_>>().join(","))
}

/// What was replayed so far.
#[derive(Default)]
struct Tally {
    selections: usize,
    differ: usize,
}

impl Tally {
    /// Replays a decision and says what came of it.
    fn replay(&mut self, decision: &Whole) -> Result<String, String> {
        let strategy = decision.strategy.ok_or_else(|| format!("{}: has no strategy", decision.name))?;
        let mut out = format!("decision {}  {strategy}\n", decision.name);
        for (ordinal, recorded) in &decision.selections {
            let drawn = matches!(strategy, Strategy::LoadBalanced | Strategy::LatencyWeighted);
            if drawn && recorded.seed.is_none() && !recorded.eligible.is_empty() {
                return Err(format!(
                    "{}: selection {ordinal} has no seed: select boot_id, decision_seq and attributes too",
                    decision.name
                ));
            }
            let replayed = lariat_proxy::strategies::replay(strategy, recorded.seed.unwrap_or(0), &recorded.eligible)
                .ok_or_else(|| {
                format!("{}: the inputs of selection {ordinal} are not this program's", decision.name)
            })?;
            let order: Vec<&str> = recorded.eligible.iter().map(|(channel, _)| channel.as_str()).collect();
            let is_equal = order == replayed;
            self.selections += 1;
            self.differ += usize::from(!is_equal);
            let list = |channels: &[&str]| if channels.is_empty() { "nobody".to_owned() } else { channels.join(", ") };
            let replayed: Vec<&str> = replayed.iter().map(String::as_str).collect();
            let verdict = if is_equal { "equal" } else { "DIFFERS" };
            // Writing to a String cannot fail.
            let _infallible = write!(
                out,
                "  selection {ordinal}: {verdict}\n    recorded  {}\n    replayed  {}\n",
                list(&order),
                list(&replayed)
            );
            if !recorded.excluded.is_empty() {
                let excluded: Vec<String> =
                    recorded.excluded.iter().map(|(channel, reason)| format!("{channel} ({reason})")).collect();
                let _infallible = writeln!(out, "    excluded  {}", excluded.join(", "));
            }
        }
        Ok(out)
    }
}

/// The rows of a Parquet file of spans as JSON lines.
fn parquet_lines(bytes: Vec<u8>) -> Result<String, String> {
    let bad = |error: &dyn std::fmt::Display| format!("is no Parquet file of spans: {error}");
    let builder = ParquetRecordBatchReaderBuilder::try_new(bytes::Bytes::from(bytes)).map_err(|error| bad(&error))?;
    let mask = ProjectionMask::columns(builder.parquet_schema(), COLUMNS);
    let reader = builder.with_projection(mask).build().map_err(|error| bad(&error))?;
    let mut writer = LineDelimitedWriter::new(Vec::new());
    for batch in reader {
        let batch = batch.map_err(|error| bad(&error))?;
        writer.write(&batch).map_err(|error| bad(&error))?;
    }
    writer.finish().map_err(|error| bad(&error))?;
    String::from_utf8(writer.into_inner()).map_err(|error| bad(&error))
}

#[cfg(test)]
mod tests;
