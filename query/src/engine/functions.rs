//! Coverage in SQL, as table functions: `coverage(from, to, step[, table])`, a row per node and step, and
//! `coverage_of(query_id)`, a row per node and stretch that an answer of the last ten minutes lacked.
//!
//! They are made from the pins of the very question that calls them. Their tables are filled while the question is planned,
//! so that what they say and the coverage that comes beside it are of one moment.

use std::fmt;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, BooleanArray, Float64Array, RecordBatch, StringArray, TimestampNanosecondArray, UInt64Array,
};
use datafusion::catalog::{TableFunctionArgs, TableFunctionImpl, TableProvider};
use datafusion::common::{Result, ScalarValue, plan_datafusion_err, plan_err};
use datafusion::datasource::MemTable;
use datafusion::execution::SessionState;
use datafusion::logical_expr::Expr;
use lariat_schema::coverage::{Coverage, Missing};
use lariat_schema::tables::Table;
use lariat_schema::time_range::TimeRange;
use parking_lot::Mutex;

use crate::coverage::NodeFacts;
use crate::coverage::recent::Recent;
use crate::coverage::steps::{Step, steps};
use crate::reports::parameters::{moment_of, parse_duration_nanos};
use crate::scan::window::Asked;

/// Name of the function over time.
const COVERAGE: &str = "coverage";
/// Name of the function about an answer.
const COVERAGE_OF: &str = "coverage_of";

/// The functions of one question.
#[derive(Debug, Clone)]
pub(crate) struct Functions(Arc<Shared>);

struct Shared {
    nodes: Vec<NodeFacts>,
    expected_nodes: u32,
    now_unix_nanos: i64,
    recent: Arc<Recent>,
    asked: Mutex<Vec<(Table, Asked)>>,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} nodes", self.nodes.len())
    }
}

#[derive(Debug)]
struct OverTime(Functions);

#[derive(Debug)]
struct OfAnswer(Functions);

impl Functions {
    pub(crate) fn new(nodes: Vec<NodeFacts>, expected_nodes: u32, now_unix_nanos: i64, recent: Arc<Recent>) -> Self {
        Self(Arc::new(Shared { nodes, expected_nodes, now_unix_nanos, recent, asked: Mutex::default() }))
    }

    pub(crate) fn register(&self, session: &mut SessionState) {
        session.register_udtf(COVERAGE, Arc::new(OverTime(self.clone())));
        session.register_udtf(COVERAGE_OF, Arc::new(OfAnswer(self.clone())));
    }

    /// The tables and times that calls asked about.
    pub(crate) fn take_asked(&self) -> Vec<(Table, Asked)> {
        std::mem::take(&mut self.0.asked.lock())
    }

    fn over_time(&self, arguments: &[Expr]) -> Result<RecordBatch> {
        let (from, to, step, table) = match arguments {
            [from, to, step] => (from, to, step, Table::Spans),
            [from, to, step, table] => (from, to, step, table_of(table)?),
            _ => return plan_err!("coverage takes a beginning, an end, a step and, if you like, a table"),
        };
        let (from, to) = (self.moment(from)?, self.moment(to)?);
        if to <= from {
            return plan_err!("coverage: the end must be after the beginning");
        }
        let step = step_of(step)?;
        self.0.asked.lock().push((table, Asked { from_unix_nanos: Some(from), to_unix_nanos: Some(to) }));
        let window = TimeRange::new(from, to);
        let shared = &self.0;
        let steps = steps(Some(table), window, step, shared.now_unix_nanos, &shared.nodes, shared.expected_nodes);
        of_steps(&steps.map_err(|error| plan_datafusion_err!("{error}"))?, table)
    }

    fn of_answer(&self, arguments: &[Expr]) -> Result<RecordBatch> {
        let [Expr::Literal(value, _)] = arguments else { return plan_err!("coverage_of takes the id of a query") };
        let Some(query_id) = text(value) else { return plan_err!("coverage_of takes the id of a query as text") };
        match self.0.recent.find(query_id) {
            Some(coverage) => of_coverage(&coverage),
            None => plan_err!("nothing is known of query `{query_id}`: coverage is kept for ten minutes"),
        }
    }

    /// A moment as text, as reports take it, or as a timestamp.
    fn moment(&self, argument: &Expr) -> Result<i64> {
        let Expr::Literal(value, _) = argument else { return plan_err!("coverage: a moment must be a constant") };
        let found = match value {
            ScalarValue::TimestampNanosecond(at, _) => *at,
            ScalarValue::TimestampMicrosecond(at, _) => at.and_then(|at| at.checked_mul(1_000)),
            ScalarValue::TimestampMillisecond(at, _) => at.and_then(|at| at.checked_mul(1_000_000)),
            ScalarValue::TimestampSecond(at, _) => at.and_then(|at| at.checked_mul(1_000_000_000)),
            ScalarValue::Date32(Some(days)) => i64::from(*days).checked_mul(86_400_000_000_000),
            ScalarValue::Int64(Some(seconds)) => seconds.checked_mul(1_000_000_000),
            other => text(other).and_then(|text| moment_of(text, self.0.now_unix_nanos)),
        };
        found.ok_or_else(|| {
            plan_datafusion_err!("coverage: `{value}` is no moment: a date, RFC 3339, Unix seconds or -1h")
        })
    }
}

impl TableFunctionImpl for OverTime {
    fn call_with_args(&self, args: TableFunctionArgs) -> Result<Arc<dyn TableProvider>> {
        as_table(self.0.over_time(args.exprs())?)
    }
}

impl TableFunctionImpl for OfAnswer {
    fn call_with_args(&self, args: TableFunctionArgs) -> Result<Arc<dyn TableProvider>> {
        as_table(self.0.of_answer(args.exprs())?)
    }
}

fn as_table(batch: RecordBatch) -> Result<Arc<dyn TableProvider>> {
    Ok(Arc::new(MemTable::try_new(batch.schema(), vec![vec![batch]])?))
}

fn text(value: &ScalarValue) -> Option<&str> {
    match value {
        ScalarValue::Utf8(text) | ScalarValue::Utf8View(text) | ScalarValue::LargeUtf8(text) => text.as_deref(),
        _ => None,
    }
}

fn step_of(argument: &Expr) -> Result<i64> {
    let Expr::Literal(value, _) = argument else { return plan_err!("coverage: a step must be a constant") };
    let nanos = match value {
        ScalarValue::IntervalDayTime(Some(step)) => {
            Some(i64::from(step.days) * 86_400_000_000_000 + i64::from(step.milliseconds) * 1_000_000)
        }
        ScalarValue::IntervalMonthDayNano(Some(step)) if step.months == 0 => {
            i64::from(step.days).checked_mul(86_400_000_000_000).and_then(|days| days.checked_add(step.nanoseconds))
        }
        other => text(other).and_then(parse_duration_nanos),
    };
    let positive = nanos.filter(|nanos| *nanos > 0);
    positive.ok_or_else(|| plan_datafusion_err!("coverage: `{value}` is no step: a duration such as '1h'"))
}

fn table_of(argument: &Expr) -> Result<Table> {
    let Expr::Literal(value, _) = argument else { return plan_err!("coverage: a table must be a constant") };
    let table = text(value).and_then(|text| text.parse().ok());
    table.ok_or_else(|| plan_datafusion_err!("coverage: `{value}` is no table; one of: {}", Table::NAMES.join(", ")))
}

fn of_steps(steps: &[Step], table: Table) -> Result<RecordBatch> {
    let moments = |of: fn(&Step) -> i64| -> ArrayRef {
        Arc::new(TimestampNanosecondArray::from_iter_values(steps.iter().map(of)).with_timezone("UTC"))
    };
    let texts = |of: fn(&Step) -> &str| -> ArrayRef { Arc::new(StringArray::from_iter_values(steps.iter().map(of))) };
    let counts = |of: fn(&Step) -> u64| -> ArrayRef { Arc::new(UInt64Array::from_iter_values(steps.iter().map(of))) };
    #[allow(clippy::cast_precision_loss, reason = "counts of slices of at most some years")]
    let ratios = steps.iter().map(|step| step.covered as f64 / step.expected() as f64);
    let tables: ArrayRef = Arc::new(StringArray::from(vec![table.as_str(); steps.len()]));
    Ok(RecordBatch::try_from_iter([
        ("time", moments(|step| step.times.from_unix_nanos)),
        ("until", moments(|step| step.times.to_unix_nanos)),
        ("node_id", texts(|step| &step.node_id)),
        ("region", texts(|step| &step.region)),
        ("table_name", tables),
        ("ratio", Arc::new(Float64Array::from_iter_values(ratios)) as ArrayRef),
        ("expected", counts(Step::expected)),
        ("covered", counts(|step| step.covered)),
        ("down", counts(|step| step.down)),
        ("unreachable", counts(|step| step.unreachable)),
        ("late", counts(|step| step.late)),
        ("lost", counts(|step| step.lost)),
        ("expired", counts(|step| step.expired)),
        ("unknown", counts(|step| step.unknown)),
    ])?)
}

fn of_coverage(coverage: &Coverage) -> Result<RecordBatch> {
    let rows: Vec<_> = coverage
        .nodes
        .iter()
        .flat_map(|node| {
            let whole = node.missing.is_empty().then_some((node, None));
            whole.into_iter().chain(node.missing.iter().map(move |missing| (node, Some(missing))))
        })
        .collect();
    let missing = |of: fn(&Missing) -> &str| -> ArrayRef {
        Arc::new(rows.iter().map(|(_, missing)| missing.map(of)).collect::<StringArray>())
    };
    let texts = |of: &dyn Fn(usize) -> Option<String>| -> ArrayRef {
        Arc::new((0..rows.len()).map(of).collect::<StringArray>())
    };
    Ok(RecordBatch::try_from_iter_with_nullable([
        ("query_id", texts(&|_| Some(coverage.query_id.clone())), true),
        ("complete", Arc::new(BooleanArray::from(vec![coverage.complete; rows.len()])) as ArrayRef, true),
        ("fleet_ratio", Arc::new(Float64Array::from(vec![coverage.ratio; rows.len()])) as ArrayRef, true),
        ("node_id", texts(&|row| Some(rows[row].0.node_id.clone())), true),
        ("region", texts(&|row| Some(rows[row].0.region.clone())), true),
        ("state", texts(&|row| Some(rows[row].0.state.to_string())), true),
        ("answered", Arc::new(rows.iter().map(|(node, _)| Some(node.answered)).collect::<BooleanArray>()), true),
        ("source", texts(&|row| rows[row].0.source.clone()), true),
        ("ratio", Arc::new(rows.iter().map(|(node, _)| Some(node.ratio)).collect::<Float64Array>()), true),
        ("missing_from", missing(|missing| &missing.from), true),
        ("missing_to", missing(|missing| &missing.to), true),
        ("why", missing(|missing| missing.why.as_str()), true),
        ("error", texts(&|row| rows[row].0.error.clone()), true),
    ])?)
}
