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
use datafusion::execution::runtime_env::RuntimeEnv;
use datafusion::execution::{SessionState, SessionStateBuilder};
use datafusion::optimizer::Analyzer;
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_plan::coalesce_partitions::CoalescePartitionsExec;
use datafusion::physical_plan::{
    ChildrenPropertiesMode, ExecutionPlan, ExecutionPlanProperties, ReplaceChildrenOptions,
};
use datafusion::prelude::SessionConfig;
use datafusion_distributed::{
    DistributedExt, DistributedLeafExec, NetworkCoalesceExec, RouteTasksEvent, RouteTasksEventResponse,
    SessionStateBuilderExt, WorkerResolver,
};
use lariat_collector::worker::scan::StoreScan;
use lariat_collector::worker::{estimates, exclusions, runs_on_nodes, sized, sketches};
use lariat_schema::ids::StoreId;
use url::Url;

use crate::bucket::scan::{BucketScan, LeafCodec};
use crate::ports::relations::{CATALOG, SCHEMA};
use crate::scan::FleetScan;
use crate::scan::ids::{IdComparisons, IdLists};
use crate::scan::weights::EstimateWeights;
use channels::QueryChannels;

pub(crate) mod channels;

/// Partitions of the part of a plan that runs on the query service: joins and final aggregates use this many threads.
const TARGET_PARTITIONS: usize = 4;

/// Bytes that a connection to a node holds for whoever reads the answer: enough that a fast reader never waits, and small
/// beside a question's memory with many nodes.
const CONNECTION_BUFFER_BYTES: usize = 4 * 1024 * 1024;

/// Where each store's node is reached.
pub(crate) type Routes = HashMap<StoreId, Url>;

/// A session for one query: it knows the addresses of the pinned stores and of the query services that read the bucket,
/// and nothing of earlier queries.
pub(crate) fn session(
    runtime: Arc<RuntimeEnv>,
    routes: Arc<Routes>,
    services: &[Url],
    channels: QueryChannels,
) -> Result<SessionState> {
    let mut config = SessionConfig::new()
        .with_target_partitions(TARGET_PARTITIONS)
        .with_default_catalog_and_schema(CATALOG, SCHEMA)
        .with_information_schema(true)
        .with_round_robin_repartition(false);
    let options = config.options_mut();
    // A filter that a running join or top-k narrows would have to reach the nodes while their stages run.
    options.optimizer.enable_dynamic_filter_pushdown = false;
    options.sql_parser.map_string_types_to_utf8view = false;
    options.execution.time_zone = Some("UTC".to_owned());

    let urls: Vec<Url> = routes.values().chain(services).cloned().collect();
    let mut analyzer = Analyzer::new();
    analyzer.rules.insert(0, Arc::new(IdLists));
    analyzer.rules.insert(1, Arc::new(EstimateWeights));
    let mut state = SessionStateBuilder::new()
        .with_config(config)
        .with_runtime_env(runtime)
        .with_default_features()
        .with_analyzer_rules(analyzer.rules)
        .with_physical_optimizer_rule(Arc::new(PlaceBoundaries))
        .with_distributed_worker_resolver(Addresses(urls))
        .with_distributed_channel_resolver(channels)
        .with_distributed_user_codec(LeafCodec::default())
        .with_distributed_route_tasks_handler(move |event: RouteTasksEvent<'_>| Some(route(&event, &routes)))
        .with_distributed_metrics_collection(false)?
        .with_distributed_worker_connection_buffer_budget_bytes(CONNECTION_BUFFER_BYTES)?
        .with_distributed_children_isolator_unions(false)?
        .with_distributed_planner()
        .build();
    estimates::register(&mut state)?;
    sized::register(&mut state)?;
    sketches::register(&mut state)?;
    exclusions::register(&mut state)?;
    datafusion::execution::FunctionRegistry::register_expr_planner(&mut state, Arc::new(IdComparisons))?;
    Ok(state)
}

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
