//! The policy in force as it goes into the record: what routing depends on, with hosts in place of URLs and without any
//! header, since both may hold keys. A whitelist: a setting that is added does not get out by accident.

use super::{Chain, Instance, Profile, Provider};

/// The policy for the record: what routing depends on, hosts instead of URLs, no header.
pub(super) fn redacted(profiles: &[Profile], instances: &[Instance]) -> serde_json::Value {
    let provider = |provider: &Provider| {
        let instance = &instances[provider.instance];
        serde_json::json!({
            "id": provider.id, "priority": provider.priority, "archival": provider.archival, "instance": instance.id,
            "http": instance.http.as_ref().map(|endpoint| format!("{endpoint:?}")),
            "ws": instance.ws.as_ref().map(|endpoint| format!("{endpoint:?}")),
            "unsupported_categories": provider.capabilities.unsupported_categories,
            "unsupported_methods": provider.capabilities.unsupported_methods,
            "max_block_range": provider.capabilities.max_block_range,
            "max_block_age": provider.capabilities.max_block_age,
        })
    };
    let chain = |chain: &Chain| {
        serde_json::json!({
            "key": chain.key, "chain_id": chain.chain_id, "max_lag_blocks": chain.max_lag_blocks,
            "archival_threshold": chain.archival_threshold, "block_time_ms": chain.block_time_ms,
            "providers": chain.providers.iter().map(provider).collect::<Vec<_>>(),
        })
    };
    serde_json::Value::from_iter(profiles.iter().map(|profile| {
        serde_json::json!({
            "slug": profile.slug, "default_strategy": profile.default_strategy,
            "chains": profile.chains.iter().map(chain).collect::<Vec<_>>(),
        })
    }))
}
