//! What the query service itself knows, as tables: the nodes as they are now and the members as they are remembered. Both are
//! shown as of one moment of the question, which its session holds as a [`View`].

use std::sync::Arc;

use arrow::array::{ArrayRef, Float64Array, RecordBatch, StringArray, TimestampNanosecondArray};
use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::datasource::MemTable;
use datafusion::error::Result;
use datafusion::logical_expr::{Expr, TableType};
use datafusion::physical_plan::ExecutionPlan;

use crate::membership::{Member, Tenure};
use crate::topology::View;

/// Name of the table of nodes.
pub(crate) const NODES: &str = "nodes";
/// Name of the table of members.
pub(crate) const MEMBERSHIP: &str = "membership";

/// A table whose rows are made of the session's [`View`].
#[derive(Debug)]
pub(crate) struct SystemTable {
    schema: SchemaRef,
    rows: fn(&View) -> Result<RecordBatch>,
}

impl SystemTable {
    /// All of them, by name.
    ///
    /// # Errors
    /// None that could come from outside.
    pub(crate) fn all() -> Result<[(&'static str, Self); 2]> {
        let of = |rows: fn(&View) -> Result<RecordBatch>| {
            rows(&View::default()).map(|empty| Self { schema: empty.schema(), rows })
        };
        Ok([(NODES, of(nodes)?), (MEMBERSHIP, of(membership)?)])
    }
}

#[async_trait]
impl TableProvider for SystemTable {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    async fn scan(
        &self,
        session: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let view = session.config().get_extension::<View>().unwrap_or_default();
        let rows = MemTable::try_new(self.schema(), vec![vec![(self.rows)(&view)?]])?;
        rows.scan(session, projection, filters, limit).await
    }
}

/// A row per known address.
fn nodes(view: &View) -> Result<RecordBatch> {
    let text = |of: &dyn Fn(&crate::topology::Known) -> Option<String>| -> ArrayRef {
        Arc::new(view.known.iter().map(of).collect::<StringArray>())
    };
    let watermarks = view.known.iter().map(|node| node.info.as_ref().map(|info| info.watermark_unix_nanos));
    #[allow(clippy::cast_precision_loss, reason = "an offset in milliseconds is shown, not computed with")]
    let offsets = view.known.iter().map(|node| node.info.as_ref().map(|_| node.clock.nanos as f64 / 1e6));
    Ok(RecordBatch::try_from_iter_with_nullable([
        ("node_id", text(&|node| node.info.as_ref().map(|info| info.identity.node_id.to_string())), true),
        ("region", text(&|node| node.info.as_ref().map(|info| info.identity.region.to_string())), true),
        ("state", text(&|node| Some(node.progress.state.to_string())), true),
        ("address", text(&|node| Some(node.address.clone())), true),
        ("store_id", text(&|node| node.info.as_ref().map(|info| info.store_id.to_string())), true),
        ("boot_id", text(&|node| node.info.as_ref().map(|info| info.identity.boot_id.to_string())), true),
        ("version", text(&|node| node.info.as_ref().map(|info| info.version.clone())), true),
        ("watermark", moments(watermarks), true),
        ("clock_offset_ms", Arc::new(offsets.collect::<Float64Array>()), true),
        ("error", text(&|node| node.error.clone()), true),
    ])?)
}

/// A row per member and tenure.
fn membership(view: &View) -> Result<RecordBatch> {
    let rows: Vec<(&Member, &Tenure)> =
        view.members.iter().flat_map(|member| member.tenures.iter().map(move |tenure| (member, tenure))).collect();
    let text = |of: &dyn Fn(&Member) -> String| -> ArrayRef {
        Arc::new(StringArray::from_iter_values(rows.iter().map(|(member, _)| of(member))))
    };
    let ends = || rows.iter().map(|(_, tenure)| tenure.end);
    let ended_by: ArrayRef = Arc::new(ends().map(|end| end.map(|end| end.by.as_str())).collect::<StringArray>());
    Ok(RecordBatch::try_from_iter_with_nullable([
        ("store_id", text(&|member| member.store_id.to_string()), true),
        ("node_id", text(&|member| member.node_id.to_string()), true),
        ("region", text(&|member| member.region.to_string()), true),
        ("address", text(&|member| member.address.clone()), true),
        ("since", moments(rows.iter().map(|(_, tenure)| Some(tenure.from_unix_nanos))), true),
        ("last_seen", moments(rows.iter().map(|(member, _)| Some(member.last_seen_unix_nanos))), true),
        ("until", moments(ends().map(|end| end.map(|end| end.at_unix_nanos))), true),
        ("ended_by", ended_by, true),
    ])?)
}

fn moments(unix_nanos: impl Iterator<Item = Option<i64>>) -> ArrayRef {
    Arc::new(unix_nanos.collect::<TimestampNanosecondArray>().with_timezone("UTC"))
}
