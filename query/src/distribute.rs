//! Cuts a plan in two: what stands directly above rows and makes less of them runs where they are read, on the store's node
//! or, for files of the bucket, on each of the query services that share them; everything else where the answer is made.
//!
//! The boundaries are placed here and not by the engine's own pass, which distributes the whole plan over all workers:
//! final aggregates and joins would run on the nodes that route, and a union or a single node would pull leaves up to
//! the coordinator. With the boundary directly above the node's share there is no plan in which the query service would
//! have to read a store itself. What the engine then does is what it is good at: it ships stages, streams their rows
//! and ends them.

use std::collections::HashMap;
use std::sync::Arc;

use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::common::{DataFusionError, Result, exec_datafusion_err};
use datafusion::config::ConfigOptions;
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_plan::coalesce_partitions::CoalescePartitionsExec;
use datafusion::physical_plan::{
    ChildrenPropertiesMode, ExecutionPlan, ExecutionPlanProperties, ReplaceChildrenOptions,
};
use datafusion_distributed::{
    DistributedLeafExec, NetworkCoalesceExec, RouteTasksEvent, RouteTasksEventResponse, WorkerResolver,
};
use lariat_collector::worker::runs_on_nodes;
use lariat_collector::worker::scan::StoreScan;
use lariat_schema::ids::StoreId;
use url::Url;

use crate::bucket::scan::BucketScan;
use crate::scan::FleetScan;

pub(crate) mod channels;
mod orders;
pub(crate) mod sessions;

/// Where each store's node is reached.
pub(crate) type Routes = HashMap<StoreId, Url>;

struct Addresses(Vec<Url>);

impl WorkerResolver for Addresses {
    fn get_urls(&self) -> Result<Vec<Url>, DataFusionError> {
        Ok(self.0.clone())
    }
}

/// The address for each task of a stage, by the store or the query service that its leaf names.
fn route(event: &RouteTasksEvent<'_>, routes: &Routes) -> Result<RouteTasksEventResponse> {
    let mut urls = Vec::new();
    event.plan.apply(|node| {
        let Some(leaf) = node.downcast_ref::<DistributedLeafExec>() else { return Ok(TreeNodeRecursion::Continue) };
        for variant in leaf.variants() {
            let of_store = variant.downcast_ref::<StoreScan>().and_then(|scan| routes.get(&scan.spec().store_id));
            let url = of_store.or_else(|| variant.downcast_ref::<BucketScan>()?.service());
            urls.push(url.cloned().ok_or_else(|| exec_datafusion_err!("a leaf names nobody with an address"))?);
        }
        Ok(TreeNodeRecursion::Stop)
    })?;
    Ok(RouteTasksEventResponse::new(urls))
}

#[derive(Debug)]
struct PlaceBoundaries;

impl PhysicalOptimizerRule for PlaceBoundaries {
    fn optimize(&self, plan: Arc<dyn ExecutionPlan>, _: &ConfigOptions) -> Result<Arc<dyn ExecutionPlan>> {
        let plan = bounded(placed(plan)?)?;
        // The engine executes one partition of the whole.
        if plan.output_partitioning().partition_count() > 1 {
            return Ok(Arc::new(CoalescePartitionsExec::new(plan)));
        }
        Ok(plan)
    }

    fn name(&self) -> &'static str {
        "place_boundaries"
    }

    fn schema_check(&self) -> bool {
        true
    }
}

/// A part of a plan, and where it runs.
enum Placed {
    OnNodes { plan: Arc<dyn ExecutionPlan>, tasks: usize },
    Here(Arc<dyn ExecutionPlan>),
}

fn placed(plan: Arc<dyn ExecutionPlan>) -> Result<Placed> {
    if let Some(scan) = plan.downcast_ref::<FleetScan>() {
        let variants = scan.leaves().to_vec();
        let tasks = variants.len();
        let leaf = DistributedLeafExec::try_new(Arc::clone(&plan), variants)?;
        return Ok(Placed::OnNodes { plan: Arc::new(leaf), tasks });
    }
    let children: Vec<_> = plan.children().into_iter().cloned().collect();
    let mut below = children.into_iter().map(placed).collect::<Result<Vec<_>>>()?;
    if below.is_empty() {
        return Ok(Placed::Here(plan));
    }
    if below.len() == 1 && runs_on_nodes(&plan) {
        return match below.swap_remove(0) {
            Placed::OnNodes { plan: child, tasks } => {
                Ok(Placed::OnNodes { plan: with_children(plan, vec![child])?, tasks })
            }
            Placed::Here(child) => Ok(Placed::Here(with_children(plan, vec![child])?)),
        };
    }
    let children = below.into_iter().map(bounded).collect::<Result<Vec<_>>>()?;
    Ok(Placed::Here(with_children(plan, children)?))
}

/// Brings a part's rows to the query service.
fn bounded(part: Placed) -> Result<Arc<dyn ExecutionPlan>> {
    match part {
        Placed::Here(plan) => Ok(plan),
        Placed::OnNodes { plan, tasks } => Ok(Arc::new(NetworkCoalesceExec::try_new(plan, tasks, 1)?)),
    }
}

fn with_children(
    plan: Arc<dyn ExecutionPlan>,
    children: Vec<Arc<dyn ExecutionPlan>>,
) -> Result<Arc<dyn ExecutionPlan>> {
    plan.replace_children(children, ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute))
}
