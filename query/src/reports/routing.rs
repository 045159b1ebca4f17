//! The report `routing`: what the strategies intended against what happened, and why channels were passed over. Intended
//! is the sum of the probabilities with which first selections put a channel first; actual is the first attempts that it
//! got. They differ by chance alone, unless a strategy does not do what it says. What a channel answered in the end
//! stands beside: that part is the providers' doing. Counts are of all decisions, before sampling.

use std::collections::BTreeMap;

use arrow::array::RecordBatch;
use lariat_schema::time_range::TimeRange;
use lariat_schema::vocabulary::ExclusionReason;
use serde::Serialize;

use super::cells::{UNKNOWN_REGION, share};
use super::columns::{BadAnswer, count_at, floats, integers, lists, places_at, text_at, texts};
use super::parameters::Parameters;
use super::sheet::{Column, Sheet};
use super::sql_text;

pub(super) const COLUMNS: &[Column] = &[
    ("profile", "Utf8"),
    ("chain", "Utf8"),
    ("strategy", "Utf8"),
    ("provider_id", "Utf8"),
    ("transport", "Utf8"),
    ("region", "Utf8"),
    ("selections", "Int64"),
    ("intended_share", "Float64"),
    ("actual_share", "Float64"),
    ("first_attempts", "Int64"),
    ("answered_share", "Float64"),
    ("calls", "Int64"),
    ("excluded", "Map(Utf8, Int64)"),
];

const KEYS: &str = "profile, chain, strategy, provider_id, transport, region";

#[derive(Debug, Clone, Default)]
struct Sums {
    eligible: i64,
    probability: f64,
    first_attempts: i64,
    calls: i64,
    excluded: BTreeMap<String, i64>,
}

impl Sums {
    /// Selections that considered the channel. A waived filter is no second consideration.
    fn selections(&self) -> i64 {
        let waived = ExclusionReason::FailOpen.as_str();
        let excluded = self.excluded.iter().filter(|(reason, _)| *reason != waived).map(|(_, count)| count);
        self.eligible + excluded.sum::<i64>()
    }
}

/// What the shares of a group in a region are of.
#[derive(Debug, Clone, Copy, Default)]
struct Totals {
    probability: f64,
    first_attempts: i64,
    calls: i64,
}

/// Profile, chain and strategy: what shares are of.
type Group = [Option<String>; 3];
/// Provider and transport.
type Channel = [Option<String>; 2];
type All = BTreeMap<Group, BTreeMap<Channel, BTreeMap<Option<String>, Sums>>>;

#[derive(Serialize)]
struct Row<'a> {
    profile: &'a Option<String>,
    chain: &'a Option<String>,
    strategy: &'a Option<String>,
    provider_id: &'a Option<String>,
    transport: &'a Option<String>,
    region: &'a Option<String>,
    selections: i64,
    intended_share: Option<f64>,
    actual_share: Option<f64>,
    first_attempts: i64,
    answered_share: Option<f64>,
    calls: i64,
    excluded: &'a BTreeMap<String, i64>,
}

/// The question for sums and, of the same cells, for exclusions by reason.
pub(super) fn question(parameters: &Parameters, times: &[TimeRange]) -> String {
    format!(
        "SELECT {KEYS}, sum(eligible_count) AS eligible, COALESCE(sum(first_probability_sum), 0.0) AS probability, \
         COALESCE(sum(first_attempts), 0) AS first_attempts, sum(calls) AS calls, merged_exclusions(excluded) AS excluded \
         FROM {cells} WHERE family = 'ops' AND provider_id IS NOT NULL AND {}{} GROUP BY {KEYS}",
        sql_text::within_any(times),
        parameters.conditions(),
        cells = sql_text::cells(None),
    )
}

/// Adds the rows of an answer, each to its region and to the sum over all.
fn add(all: &mut All, batch: &RecordBatch) -> Result<(), BadAnswer> {
    let names = ["profile", "chain", "strategy", "provider_id", "transport", "region"];
    let columns = names.iter().map(|name| texts(batch, name)).collect::<Result<Vec<_>, _>>()?;
    let (eligible, calls) = (integers(batch, "eligible")?, integers(batch, "calls")?);
    let (probability, first_attempts) = (floats(batch, "probability")?, integers(batch, "first_attempts")?);
    let (excluded, elements) = lists(batch, "excluded")?;
    let (reasons, counts) = (texts(&elements, "reason")?, integers(&elements, "count")?);
    for row in 0..batch.num_rows() {
        let at = |column: usize| text_at(&columns[column], row);
        let channels = all.entry([at(0), at(1), at(2)]).or_default();
        let regions = channels.entry([at(3), at(4)]).or_default();
        for region in [None, Some(at(5).unwrap_or_else(|| UNKNOWN_REGION.to_owned()))] {
            let sums = regions.entry(region).or_default();
            sums.eligible += count_at(&eligible, row);
            sums.calls += count_at(&calls, row);
            sums.first_attempts += count_at(&first_attempts, row);
            sums.probability += probability.value(row);
            for index in places_at(&excluded, row) {
                *sums.excluded.entry(text_at(&reasons, index).unwrap_or_default()).or_default() +=
                    count_at(&counts, index);
            }
        }
    }
    Ok(())
}

/// Rows by profile, chain, strategy and channel, each over all regions first.
pub(super) fn sheet(batches: &[RecordBatch], limit: usize) -> Result<Sheet, BadAnswer> {
    let mut all = All::new();
    batches.iter().try_for_each(|batch| add(&mut all, batch))?;
    let rows = all.iter().flat_map(|(group, channels)| {
        let mut totals: BTreeMap<&Option<String>, Totals> = BTreeMap::new();
        for (region, sums) in channels.values().flatten() {
            let total = totals.entry(region).or_default();
            total.probability += sums.probability;
            total.first_attempts += sums.first_attempts;
            total.calls += sums.calls;
        }
        let rows = channels.iter().flat_map(move |(channel, regions)| {
            let totals = totals.clone();
            regions.iter().map(move |(region, sums)| row(group, channel, region, sums, totals.get(region).copied()))
        });
        rows.collect::<Vec<_>>()
    });
    Ok(Sheet::new(COLUMNS.to_vec(), rows, limit))
}

fn row<'a>(
    [profile, chain, strategy]: &'a Group,
    [provider_id, transport]: &'a Channel,
    region: &'a Option<String>,
    sums: &'a Sums,
    total: Option<Totals>,
) -> Row<'a> {
    let Totals { probability, first_attempts, calls } = total.unwrap_or_default();
    Row {
        profile,
        chain,
        strategy,
        provider_id,
        transport,
        region,
        selections: sums.selections(),
        intended_share: (probability > 0.0).then(|| sums.probability / probability),
        actual_share: share(sums.first_attempts, first_attempts),
        first_attempts: sums.first_attempts,
        answered_share: share(sums.calls, calls),
        calls: sums.calls,
        excluded: &sums.excluded,
    }
}
