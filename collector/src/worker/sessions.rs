//! Sessions in which leaves are executed, as copies of one that was made once. A session knows some four hundred functions;
//! registering them for each part of each question cost more than most parts read. What a part is told of its question
//! (settings, who it is among its equals) stands in the configuration that came with it, which takes the place of the copy's.
//!
//! All workers have the functions of the query service, with its names and its bounds, since a filter may run on either.

use std::sync::{Arc, OnceLock};

use datafusion::common::Result;
use datafusion::execution::runtime_env::RuntimeEnv;
use datafusion::execution::{FunctionRegistry, SessionState, SessionStateBuilder};
use datafusion_distributed::{DistributedExt, WorkerPlanRewriteHandler, WorkerQueryContext};
use datafusion_proto::physical_plan::PhysicalExtensionCodec;

use super::{estimates, exclusions, sized, sketches};

/// Registers what plans may call beside the engine's own functions, and bounds some of those.
///
/// # Errors
/// When the registry takes no functions.
pub fn register_functions(registry: &mut dyn FunctionRegistry) -> Result<()> {
    estimates::register(registry)?;
    sized::register(registry)?;
    sketches::register(registry)?;
    exclusions::register(registry)
}

/// What all sessions of a worker have in common, made with the first of them: a node that nobody asks has neither the
/// functions nor the pages of the program that make them in memory.
pub struct LeafSessions {
    runtime: Arc<RuntimeEnv>,
    template: OnceLock<SessionState>,
}

impl LeafSessions {
    /// Over one environment.
    #[must_use]
    pub fn new(runtime: Arc<RuntimeEnv>) -> Self {
        Self { runtime, template: OnceLock::new() }
    }

    fn template(&self) -> Result<&SessionState> {
        if let Some(template) = self.template.get() {
            return Ok(template);
        }
        let builder = SessionStateBuilder::new_with_default_features().with_runtime_env(Arc::clone(&self.runtime));
        let mut template = builder.build();
        register_functions(&mut template)?;
        // Another one may have been made meanwhile, which is like it.
        Ok(self.template.get_or_init(|| template))
    }

    /// The session of one part of a question.
    ///
    /// # Errors
    /// When a function cannot be registered.
    pub fn open<C: PhysicalExtensionCodec + 'static>(
        &self,
        mut context: WorkerQueryContext,
        codec: C,
        check: impl WorkerPlanRewriteHandler,
    ) -> Result<SessionState> {
        let mut state = self.template()?.clone();
        let config = state.config_mut();
        *config = context.builder.config().take().unwrap_or_default();
        config.set_distributed_user_codec(codec);
        config.set_distributed_worker_plan_rewrite_handler(check);
        Ok(state)
    }
}

#[cfg(test)]
mod tests {
    use datafusion::execution::runtime_env::RuntimeEnvBuilder;
    use datafusion::prelude::SessionConfig;

    use super::*;
    use crate::worker::allow::only_known_operators;
    use crate::worker::codec::StoreScanCodec;

    #[test]
    fn sessions_have_the_functions_of_all_and_each_the_settings_that_came_with_its_part() {
        let sessions = LeafSessions::new(RuntimeEnvBuilder::new().build_arc().unwrap());
        let open = |batch_size: usize| {
            let config = SessionConfig::new().with_batch_size(batch_size);
            let builder = SessionStateBuilder::new_with_default_features().with_config(config);
            let context = WorkerQueryContext { builder, ..WorkerQueryContext::default() };
            sessions.open(context, StoreScanCodec::for_coordinator(), only_known_operators).unwrap()
        };
        let (one, other) = (open(17), open(18));
        assert_eq!((one.config().batch_size(), other.config().batch_size()), (17, 18));
        for session in [one, other] {
            for name in ["estimated_count", "merged_sketch", "merged_exclusions", "sum"] {
                assert!(session.udaf(name).is_ok(), "{name}");
            }
            assert!(format!("{:?}", session.udf("repeat").unwrap()).contains("Bounded"));
        }
    }
}
