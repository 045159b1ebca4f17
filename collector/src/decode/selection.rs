//! The decision event inside a SERVER span, as the columns `eligible`, `excluded` and `fail_open`.
//!
//! On the wire a selection is two groups of parallel arrays, since OTLP has no arrays of structs worth the name. Only
//! arrays that match are taken apart: from unequal ones no candidate could be named with certainty, so such an event
//! stays an event.

use std::sync::Arc;

use arrow::array::{Array, ArrayBuilder, Float64Builder, Int32Builder, StringBuilder};
use lariat_schema::attributes as names;
use lariat_schema::tables::{eligible_fields, excluded_fields};

use super::arrays::Flags;
use super::attributes::Entries;
use super::lists::Lists;
use super::rows::Columns;
use super::view::{Attribute, Value};

/// One selection, read from its event.
#[derive(Debug, PartialEq)]
pub(super) struct Selection<'a> {
    ordinal: i32,
    eligible: Vec<Eligible<'a>>,
    excluded: Vec<Excluded<'a>>,
    fail_open: bool,
}

#[derive(Debug, PartialEq)]
struct Eligible<'a> {
    channel: (&'a str, &'a str),
    score: Option<f64>,
    probability: Option<f64>,
    inputs: Option<&'a str>,
}

#[derive(Debug, PartialEq)]
struct Excluded<'a> {
    channel: (&'a str, &'a str),
    reason: &'a str,
}

impl<'a> Selection<'a> {
    /// Reads the attributes of an event, the `nth` of its span (from 1). None if its arrays do not match. Attributes
    /// of the event that no column holds go to `rest`, those of later selections with their ordinal behind the key.
    pub(super) fn read(event: &[Attribute<'a>], nth: i32, rest: &mut Entries<'a>) -> Option<Self> {
        let ordinal = match find(event, names::SELECTION) {
            None | Some(Value::Absent) => nth,
            Some(Value::Int(ordinal)) => i32::try_from(ordinal).ok()?,
            Some(_) => return None,
        };
        let fail_open = match find(event, names::FAIL_OPEN) {
            None | Some(Value::Absent) => false,
            Some(Value::Bool(flag)) => flag,
            Some(_) => return None,
        };
        let selection = Self { ordinal, eligible: eligible(event)?, excluded: excluded(event)?, fail_open };
        for attribute in event.iter().filter(|attribute| !HELD.contains(&attribute.key)) {
            keep(attribute, ordinal, rest);
        }
        Some(selection)
    }
}

/// Attributes of the event that the columns hold.
const HELD: [&str; 8] = [
    names::SELECTION,
    names::ELIGIBLE_CHANNELS,
    names::ELIGIBLE_SCORES,
    names::ELIGIBLE_INPUTS,
    names::ELIGIBLE_PROBABILITIES,
    names::EXCLUDED_CHANNELS,
    names::EXCLUDED_REASONS,
    names::FAIL_OPEN,
];

fn keep<'a>(attribute: &Attribute<'a>, ordinal: i32, rest: &mut Entries<'a>) {
    if ordinal == 1 {
        rest.push(*attribute);
    } else {
        rest.push_as(format!("{}.{ordinal}", attribute.key), attribute.value);
    }
}

fn find<'a>(event: &[Attribute<'a>], key: &str) -> Option<Value<'a>> {
    event.iter().find(|attribute| attribute.key == key).map(|attribute| attribute.value)
}

/// The array under `key`, empty if absent. None if it is no array or has an element that `read` refuses.
fn array<'a, T>(event: &[Attribute<'a>], key: &str, read: impl Fn(Value<'a>) -> Option<T>) -> Option<Vec<T>> {
    match find(event, key) {
        None | Some(Value::Absent) => Some(Vec::new()),
        Some(value) => {
            let mut elements = Vec::new();
            value.elements(|element| {
                elements.push(read(element)?);
                Some(())
            })?;
            Some(elements)
        }
    }
}

fn channels<'a>(event: &[Attribute<'a>], key: &str) -> Option<Vec<(&'a str, &'a str)>> {
    array(event, key, |value| names::split_channel(value.as_text()?))
}

fn eligible<'a>(event: &[Attribute<'a>]) -> Option<Vec<Eligible<'a>>> {
    let channels = channels(event, names::ELIGIBLE_CHANNELS)?;
    let scores = array(event, names::ELIGIBLE_SCORES, Value::as_double)?;
    let probabilities = array(event, names::ELIGIBLE_PROBABILITIES, Value::as_double)?;
    let inputs = array(event, names::ELIGIBLE_INPUTS, Value::as_text)?;
    let matches = |length: usize| length == 0 || length == channels.len();
    if !(matches(scores.len()) && matches(probabilities.len()) && matches(inputs.len())) {
        return None;
    }
    let eligible = |(at, channel)| Eligible {
        channel,
        score: scores.get(at).copied(),
        probability: probabilities.get(at).copied(),
        inputs: inputs.get(at).copied(),
    };
    Some(channels.into_iter().enumerate().map(eligible).collect())
}

fn excluded<'a>(event: &[Attribute<'a>]) -> Option<Vec<Excluded<'a>>> {
    let channels = channels(event, names::EXCLUDED_CHANNELS)?;
    let reasons = array(event, names::EXCLUDED_REASONS, Value::as_text)?;
    if channels.len() != reasons.len() {
        return None;
    }
    Some(channels.into_iter().zip(reasons).map(|(channel, reason)| Excluded { channel, reason }).collect())
}

/// The three columns while they grow. Nothing is made before the first row that has a selection: most senders' spans have none.
#[derive(Debug, Default)]
pub(super) struct Selections {
    columns: Option<Box<Decided>>,
    rows: usize,
}

#[derive(Debug)]
struct Decided {
    eligible: EligibleColumns,
    excluded: ExcludedColumns,
    fail_open: Flags,
}

#[derive(Debug)]
struct EligibleColumns {
    lists: Lists,
    selection: Int32Builder,
    rank: Int32Builder,
    provider_id: StringBuilder,
    transport: StringBuilder,
    score: Float64Builder,
    probability: Float64Builder,
    inputs: StringBuilder,
}

#[derive(Debug)]
struct ExcludedColumns {
    lists: Lists,
    selection: Int32Builder,
    provider_id: StringBuilder,
    transport: StringBuilder,
    reason: StringBuilder,
}

impl Decided {
    /// After so many rows without any.
    fn after(rows: usize) -> Self {
        Self {
            eligible: EligibleColumns {
                lists: Lists::after(rows),
                selection: Int32Builder::new(),
                rank: Int32Builder::new(),
                provider_id: StringBuilder::new(),
                transport: StringBuilder::new(),
                score: Float64Builder::new(),
                probability: Float64Builder::new(),
                inputs: StringBuilder::new(),
            },
            excluded: ExcludedColumns {
                lists: Lists::after(rows),
                selection: Int32Builder::new(),
                provider_id: StringBuilder::new(),
                transport: StringBuilder::new(),
                reason: StringBuilder::new(),
            },
            fail_open: Flags::new(),
        }
    }

    fn append(&mut self, row: usize, selections: &[Selection<'_>]) {
        for selection in selections {
            let columns = &mut self.eligible;
            for (candidate, rank) in selection.eligible.iter().zip(1..) {
                columns.selection.append_value(selection.ordinal);
                columns.rank.append_value(rank);
                columns.provider_id.append_value(candidate.channel.0);
                columns.transport.append_value(candidate.channel.1);
                columns.score.append_option(candidate.score);
                columns.probability.append_option(candidate.probability);
                columns.inputs.append_option(candidate.inputs);
            }
            let columns = &mut self.excluded;
            for candidate in &selection.excluded {
                columns.selection.append_value(selection.ordinal);
                columns.provider_id.append_value(candidate.channel.0);
                columns.transport.append_value(candidate.channel.1);
                columns.reason.append_value(candidate.reason);
            }
        }
        let decided = !selections.is_empty();
        self.eligible.lists.end_row(self.eligible.selection.len(), decided);
        self.excluded.lists.end_row(self.excluded.selection.len(), decided);
        if decided {
            self.fail_open.set(row, selections.iter().any(|selection| selection.fail_open));
        }
    }

    fn finish(self, rows: usize, columns: &mut Columns) {
        let mut eligible = self.eligible;
        let children: Vec<Arc<dyn Array>> = vec![
            Arc::new(eligible.selection.finish()),
            Arc::new(eligible.rank.finish()),
            Arc::new(eligible.provider_id.finish()),
            Arc::new(eligible.transport.finish()),
            Arc::new(eligible.score.finish()),
            Arc::new(eligible.probability.finish()),
            Arc::new(eligible.inputs.finish()),
        ];
        columns.insert("eligible", eligible.lists.finish(eligible_fields(), children));
        let mut excluded = self.excluded;
        let children: Vec<Arc<dyn Array>> = vec![
            Arc::new(excluded.selection.finish()),
            Arc::new(excluded.provider_id.finish()),
            Arc::new(excluded.transport.finish()),
            Arc::new(excluded.reason.finish()),
        ];
        columns.insert("excluded", excluded.lists.finish(excluded_fields(), children));
        columns.insert("fail_open", self.fail_open.finish(rows));
    }
}

impl Selections {
    /// Appends a row; a span without a selection has none of the three.
    pub(super) fn append(&mut self, selections: &[Selection<'_>]) {
        let rows = self.rows;
        if !selections.is_empty() && self.columns.is_none() {
            self.columns = Some(Box::new(Decided::after(rows)));
        }
        if let Some(columns) = &mut self.columns {
            columns.append(rows, selections);
        }
        self.rows += 1;
    }

    /// Puts the three columns in, if any row has a selection.
    pub(super) fn finish(self, columns: &mut Columns) {
        if let Some(decided) = self.columns {
            decided.finish(self.rows, columns);
        }
    }
}
