//! Sessions of questions, as copies of one that was made once: functions, rules, settings, tables and views are the same for
//! all of them, and registering and planning these anew took longer than to plan most questions. What differs stands in
//! the copy's configuration: how the stores and query services of the question are reached, and under which type
//! whoever plans keeps what else he must know ([`crate::scan::Participants`]). A table finds that there and has no state.

use std::sync::Arc;

use datafusion::common::Result;
use datafusion::execution::runtime_env::RuntimeEnv;
use datafusion::execution::{FunctionRegistry, SessionState, SessionStateBuilder};
use datafusion::optimizer::Analyzer;
use datafusion::physical_optimizer::optimizer::PhysicalOptimizer;
use datafusion::prelude::SessionConfig;
use datafusion_distributed::{DistributedExt, RouteTasksEvent, SessionStateBuilderExt};
use lariat_collector::worker::register_functions;
use url::Url;

use super::channels::QueryChannels;
use super::{Addresses, PlaceBoundaries, Routes, orders, route};
use crate::bucket::scan::LeafCodec;
use crate::ports::relations::{CATALOG, SCHEMA};
use crate::scan::columns::LeafColumns;
use crate::scan::ids::{IdComparisons, IdLists};
use crate::scan::weights::EstimateWeights;

/// Partitions of the part of a plan that runs on the query service: joins and final aggregates use this many threads.
const TARGET_PARTITIONS: usize = 4;

/// Bytes that a connection to a node holds for whoever reads the answer: enough that a fast reader never waits, and small
/// beside a question's memory with many nodes.
const CONNECTION_BUFFER_BYTES: usize = 4 * 1024 * 1024;

/// What the sessions of all questions have in common.
pub(crate) struct Sessions {
    template: SessionState,
}

impl Sessions {
    /// Over one environment, with the relations that `register` puts in.
    ///
    /// # Errors
    /// When a function or a relation cannot be registered.
    pub(crate) fn new(
        runtime: Arc<RuntimeEnv>,
        register_relations: impl FnOnce(&SessionState) -> Result<()>,
    ) -> Result<Self> {
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

        let mut analyzer = Analyzer::new();
        analyzer.rules.insert(0, Arc::new(IdLists));
        analyzer.rules.insert(1, Arc::new(EstimateWeights));
        let mut physical = PhysicalOptimizer::new();
        physical.rules.insert(0, Arc::new(LeafColumns));
        physical.rules.push(Arc::new(PlaceBoundaries));
        let mut template = SessionStateBuilder::new()
            .with_config(config)
            .with_runtime_env(runtime)
            .with_default_features()
            .with_analyzer_rules(analyzer.rules)
            .with_optimizer_rules(orders::rules())
            .with_physical_optimizer_rules(physical.rules)
            .with_distributed_worker_resolver(Addresses(Vec::new()))
            .with_distributed_user_codec(LeafCodec::default())
            .with_distributed_metrics_collection(false)?
            .with_distributed_worker_connection_buffer_budget_bytes(CONNECTION_BUFFER_BYTES)?
            .with_distributed_children_isolator_unions(false)?
            .with_distributed_planner()
            .build();
        register_functions(&mut template)?;
        template.register_expr_planner(Arc::new(IdComparisons))?;
        register_relations(&template)?;
        Ok(Self { template })
    }

    /// The session of one question, which begins now: it knows the addresses of the pinned stores and of the query services
    /// that read the bucket, and nothing of other questions.
    pub(crate) fn open(&self, routes: Arc<Routes>, services: &[Url], channels: QueryChannels) -> SessionState {
        let mut state = self.template.clone();
        let config = state.config_mut();
        config.set_distributed_worker_resolver(Addresses(routes.values().chain(services).cloned().collect()));
        config.set_distributed_channel_resolver(channels);
        config.set_distributed_route_tasks_handler(move |event: RouteTasksEvent<'_>| Some(route(&event, &routes)));
        state.mark_start_execution();
        state
    }
}
