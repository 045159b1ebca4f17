//! `cargo run --release --bin lariat-history`: data directories with as much history as a benchmark of queries wants, written
//! in minutes by the collector's own decoder, fold and writer. Decisions are distinct; the cells of `--calls` repeat one
//! slice's cells, since a report costs what its cells cost, whatever stands in them.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use arrow::array::{ArrayRef, RecordBatch, TimestampNanosecondArray};
use clap::Parser;
use lariat_collector::store::history::{History, HistoryError};
use lariat_schema::tables::Table;
use lariat_schema::time_range::{NANOS_PER_SECOND, SLICE_NANOS};
use lariat_tools::load_otlp::SpanSettings;
use lariat_tools::load_otlp::template::{Content, Stamp, Template};
use uuid::Uuid;

const NANOS_PER_HOUR: i64 = 3_600 * NANOS_PER_SECOND;
/// Spans of a request.
const REQUEST_SPANS: u32 = 512;
const REGIONS: [&str; 3] = ["us-east", "eu-west", "ap-south"];

/// Writes history that never happened.
#[derive(Debug, Parser)]
struct Arguments {
    /// Where the data directories `node-0`, `node-1`, … are made; each must be new
    #[arg(long)]
    data_dir: PathBuf,
    /// Nodes that share it
    #[arg(long, default_value_t = 3)]
    nodes: u32,
    /// Days before now that it fills
    #[arg(long, default_value_t = 3)]
    days: u32,
    /// Decisions in all, with their attempts and cells
    #[arg(long, default_value_t = 0)]
    decisions: u64,
    /// Calls in all that only stand in cells; not together with decisions
    #[arg(long, default_value_t = 0, conflicts_with = "decisions")]
    calls: u64,
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments = Arguments::parse();
    let now = i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH)?.as_nanos())?;
    let to = now - now.rem_euclid(NANOS_PER_HOUR);
    let hours = i64::from(arguments.days) * 24;
    for node in 0..arguments.nodes {
        let region = REGIONS[node as usize % REGIONS.len()];
        let mut writer = Writer {
            history: History::open(&arguments.data_dir.join(format!("node-{node}")))?,
            settings: SpanSettings {
                content: Content::Decisions,
                node_id: format!("lariat@10.0.0.{}", node + 1),
                region: region.to_owned(),
                seed: u64::from(node) + 1,
            },
            requests: 0,
        };
        for hour in 0..hours {
            let from = to - (hours - hour) * NANOS_PER_HOUR;
            let share = |all: u64| all / u64::from(arguments.nodes) / hours.unsigned_abs().max(1);
            if arguments.calls > 0 {
                writer.cells_of_hour(from, share(arguments.calls))?;
            } else {
                writer.decisions_of_hour(from, share(arguments.decisions))?;
            }
        }
        let (rows, bytes) = writer.history.finish()?;
        #[allow(clippy::print_stdout, reason = "it is a command")]
        {
            println!("node-{node}: {rows} rows in {bytes} bytes");
        }
    }
    Ok(())
}

struct Writer {
    history: History,
    settings: SpanSettings,
    requests: u64,
}

impl Writer {
    /// Distinct decisions, evenly over an hour, with their cells.
    fn decisions_of_hour(&mut self, from_unix_nanos: i64, decisions: u64) -> Result<(), HistoryError> {
        let template = Template::new(&self.settings, REQUEST_SPANS, Uuid::from_u128(self.settings.seed.into()));
        let requests = decisions.div_ceil(u64::from(template.units()));
        let mut batches = Vec::new();
        for request in 0..requests {
            let step = NANOS_PER_HOUR / i64::try_from(requests).unwrap_or(i64::MAX).max(1);
            let at = from_unix_nanos + step * i64::try_from(request).unwrap_or_default() + step / 2;
            let stamp = Stamp { seed: self.settings.seed, request: self.requests, now_unix_nanos: at.unsigned_abs() };
            self.requests += 1;
            batches.push(self.history.decode(&template.stamp(stamp), at)?);
        }
        self.history.write(Table::Spans, &batches)?;
        let cells = self.history.take_cells()?;
        self.history.write(Table::Rollups, cells.as_slice())
    }

    /// The cells of so many calls, the same in every slice of an hour.
    fn cells_of_hour(&mut self, from_unix_nanos: i64, calls: u64) -> Result<(), HistoryError> {
        let slices = NANOS_PER_HOUR / SLICE_NANOS;
        let per_slice = calls.div_ceil(slices.unsigned_abs()).max(1);
        let spans = u32::try_from(per_slice * 2).unwrap_or(u32::MAX).min(100_000);
        let template = Template::new(&self.settings, spans, Uuid::from_u128(self.settings.seed.into()));
        let at = from_unix_nanos + SLICE_NANOS / 2;
        let stamp = Stamp { seed: self.settings.seed, request: self.requests, now_unix_nanos: at.unsigned_abs() };
        self.requests += 1;
        self.history.decode(&template.stamp(stamp), at)?;
        let Some(cells) = self.history.take_cells()? else { return Ok(()) };
        let shifted: Result<Vec<RecordBatch>, _> =
            (0..slices).map(|slice| moved(&cells, slice * SLICE_NANOS)).collect();
        self.history.write(Table::Rollups, &shifted?)
    }
}

/// The same rows, so much later.
fn moved(cells: &RecordBatch, nanos: i64) -> Result<RecordBatch, arrow::error::ArrowError> {
    let schema = cells.schema();
    let columns = schema.fields().iter().zip(cells.columns()).map(|(field, column)| -> ArrayRef {
        match column.as_any().downcast_ref::<TimestampNanosecondArray>() {
            Some(times) if ["time", "observed_time"].contains(&field.name().as_str()) => Arc::new(
                times.unary::<_, arrow::datatypes::TimestampNanosecondType>(|at| at + nanos).with_timezone("UTC"),
            ),
            _ => Arc::clone(column),
        }
    });
    RecordBatch::try_new(Arc::clone(&schema), columns.collect())
}
