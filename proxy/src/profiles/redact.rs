//! The policy in force as it goes into the record: everything that a profile says, with hosts in place of URLs and
//! without any header, since both may hold keys. A whitelist: a setting that is added does not get out by accident. What
//! is left out is part of an instance's id, so that two catalogs of one policy are the same catalog.

use serde_json::{Value, json};

use super::{Chain, ErrorRule, Instance, Profile, Provider};

/// The whole policy.
pub(super) fn redacted(profiles: &[Profile], instances: &[Instance]) -> Value {
    Value::from_iter(profiles.iter().map(|it| {
        let chains: Vec<Value> = it
            .chains
            .iter()
            .map(|it| {
                let providers: Vec<Value> = it.providers.iter().map(|it| provider(it, instances)).collect();
                with(chain(it), "providers", providers)
            })
            .collect();
        with(profile(it), "chains", chains)
    }))
}

fn with(mut value: Value, key: &str, list: Vec<Value>) -> Value {
    value[key] = Value::from(list);
    value
}

/// What a profile says beside its chains.
pub(crate) fn profile(profile: &Profile) -> Value {
    let Profile { sampling, limits, cache, .. } = profile;
    json!({
        "slug": profile.slug, "name": profile.name, "logo": profile.logo, "unlisted": profile.unlisted,
        "default_strategy": profile.default_strategy,
        "rps_limit": limits.rps, "burst_limit": limits.burst,
        "sampling": {
            "rate": sampling.rate, "slow_ms": sampling.slow_ms, "kept_whole_per_second": sampling.kept_whole_per_second,
        },
        "trace_context": if profile.trust_trace_context { "trust" } else { "ignore" },
        "hedging": profile.hedging.map(|hedging| json!({ "quantile": hedging.quantile, "budget": hedging.budget })),
        "cache": { "enabled": cache.enabled, "max_bytes": cache.max_bytes },
    })
}

/// What a chain says beside its providers.
pub(crate) fn chain(chain: &Chain) -> Value {
    let websocket = &chain.websocket;
    json!({
        "key": chain.key, "chain_id": chain.chain_id, "name": chain.name, "aliases": chain.aliases,
        "max_lag_blocks": chain.max_lag_blocks, "archival_threshold": chain.archival_threshold,
        "block_time_ms": chain.block_time_ms, "probe_interval_ms": chain.probe_interval_ms,
        "lag_alert_threshold_blocks": chain.lag_alert_threshold_blocks,
        "websocket": {
            "subscribe_new_heads": websocket.subscribe_new_heads,
            "new_heads_timeout_ms": websocket.new_heads_timeout_ms,
            "max_backfill_blocks": websocket.max_backfill_blocks,
            "backfill_timeout_ms": websocket.backfill_timeout_ms,
        },
        "ui_topology": chain.ui_topology,
    })
}

/// What a provider says.
pub(crate) fn provider(provider: &Provider, instances: &[Instance]) -> Value {
    let (instance, lacks) = (&instances[provider.instance], &provider.capabilities);
    let rule = |rule: &ErrorRule| json!({ "code": rule.code, "message_contains": rule.message_contains, "category": rule.category });
    json!({
        "id": provider.id, "name": provider.name, "priority": provider.priority, "archival": provider.archival,
        "subscribe_new_heads": provider.subscribe_new_heads, "trace_context": provider.trace_context, "instance": instance.id,
        "http": instance.http.as_ref().map(|endpoint| format!("{endpoint:?}")),
        "ws": instance.ws.as_ref().map(|endpoint| format!("{endpoint:?}")),
        "unsupported_categories": lacks.unsupported_categories,
        "unsupported_methods": lacks.unsupported_methods,
        "max_block_range": lacks.max_block_range,
        "max_block_age": lacks.max_block_age,
        "block_age_methods": lacks.block_age_methods,
        "error_rules": lacks.error_rules.iter().map(rule).collect::<Vec<_>>(),
    })
}
