//! The views: filters and unnests over the tables, never joins, so that each runs where its rows lie.

/// One view.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct View {
    /// Its name in SQL.
    pub name: &'static str,
    /// What a row is.
    pub doc: &'static str,
    /// Its definition, a query over the tables.
    pub sql: &'static str,
}

/// Every view.
pub const ALL: &[View] = &[
    View {
        name: "routing_decisions",
        doc: "One JSON-RPC call as routed.",
        sql: "SELECT time, request_id, batch_index, batch_size, trace_id, span_id, node_id, region, boot_id, decision_seq, \
              profile, account_id, chain, chain_id, method, method_original, strategy, provider_id, instance_id, transport, \
              client_transport, origin, answered_by, result, error_category, status_code, attempts, failovers, cache, \
              duration_ns, selection_ns, provider_ns, overhead_ns, bytes_in, bytes_out, head_lag_blocks, billable_units, \
              params_digest, response_digest, policy_hash, fail_open, adjusted_count, keep_reason, eligible, excluded, \
              observed_time, service_name, jsonrpc_id, parent_span_id, trace_state, attributes, links, missing_attempts \
              FROM spans WHERE span_kind = 'server' AND request_id IS NOT NULL",
    },
    View {
        name: "attempts",
        doc: "One try of one channel within a decision.",
        sql: "SELECT time, request_id, batch_index, trace_id, span_id, parent_span_id, ordinal, kind, outcome, provider_id, \
              instance_id, transport, circuit_state, circuit_epoch, http_status, status_code, error_category, duration_ns, \
              censored, dispatched, server_address, profile, chain, chain_id, account_id, method, origin, node_id, region, \
              adjusted_count, keep_reason, strategy \
              FROM spans WHERE span_kind = 'client' AND ordinal IS NOT NULL",
    },
    View {
        name: "candidates",
        doc: "One channel as seen by one selection: eligible with a rank and score, or excluded with a reason.",
        sql: "SELECT time, request_id, batch_index, node_id, region, profile, chain, method, strategy, \
              c['selection'] AS selection, c['provider_id'] AS provider_id, c['transport'] AS transport, true AS eligible, \
              c['rank'] AS rank, c['score'] AS score, c['probability'] AS probability, c['inputs'] AS inputs, \
              CAST(NULL AS VARCHAR) AS reason, adjusted_count \
              FROM (SELECT time, request_id, batch_index, node_id, region, profile, chain, method, strategy, adjusted_count, \
                    unnest(eligible) AS c FROM spans WHERE span_kind = 'server' AND request_id IS NOT NULL) \
              UNION ALL \
              SELECT time, request_id, batch_index, node_id, region, profile, chain, method, strategy, \
              c['selection'] AS selection, c['provider_id'] AS provider_id, c['transport'] AS transport, false AS eligible, \
              CAST(NULL AS INT) AS rank, CAST(NULL AS DOUBLE) AS score, CAST(NULL AS DOUBLE) AS probability, \
              CAST(NULL AS VARCHAR) AS inputs, c['reason'] AS reason, adjusted_count \
              FROM (SELECT time, request_id, batch_index, node_id, region, profile, chain, method, strategy, adjusted_count, \
                    unnest(excluded) AS c FROM spans WHERE span_kind = 'server' AND request_id IS NOT NULL)",
    },
    View {
        name: "circuit_events",
        doc: "A circuit breaker changed its state.",
        sql: "SELECT time, node_id, region, profile, chain, provider_id, instance_id, transport, \
              attributes['lariat.circuit.from'] AS \"from\", attributes['lariat.circuit.to'] AS \"to\", \
              attributes['lariat.circuit.reason'] AS reason, observed_time \
              FROM logs WHERE event_name = 'lariat.circuit.transition'",
    },
    View {
        name: "provider_health_events",
        doc: "A provider's health status changed.",
        sql: "SELECT time, node_id, region, profile, chain, provider_id, instance_id, transport, \
              attributes['lariat.health.from'] AS \"from\", attributes['lariat.health.to'] AS \"to\", \
              attributes['lariat.health.reason'] AS reason, observed_time \
              FROM logs WHERE event_name = 'lariat.provider.health'",
    },
    View {
        name: "block_events",
        doc: "A provider reported a new height.",
        sql: "SELECT time, node_id, region, profile, chain, provider_id, instance_id, transport, \
              CAST(attributes['lariat.block.height'] AS BIGINT) AS height, \
              CAST(attributes['lariat.block.lag'] AS BIGINT) AS lag, observed_time \
              FROM logs WHERE event_name = 'lariat.block.head'",
    },
    View {
        name: "ledger",
        doc: "The account of every record received, per node, signal, profile and account; and, in rows of their own, what \
              was lost before the collector: decisions that a boot numbered and that never came.",
        sql: "SELECT time, node_id, region, boot_id, store_id, l['signal'] AS signal, l['profile'] AS profile, \
              l['account_id'] AS account_id, l['received'] AS received, l['stored'] AS stored, \
              l['sampled_out'] AS sampled_out, l['deduplicated'] AS deduplicated, l['rejected'] AS rejected, \
              l['dropped'] AS dropped, l['in_flight'] AS in_flight, CAST(0 AS BIGINT) AS lost \
              FROM (SELECT time, node_id, region, boot_id, store_id, unnest(ledger) AS l FROM node_status) \
              UNION ALL \
              SELECT time, node_id, region, m['boot_id'] AS boot_id, store_id, 'traces' AS signal, '-' AS profile, \
              '-' AS account_id, CAST(0 AS BIGINT) AS received, CAST(0 AS BIGINT) AS stored, \
              CAST(0 AS BIGINT) AS sampled_out, CAST(0 AS BIGINT) AS deduplicated, CAST(0 AS BIGINT) AS rejected, \
              CAST(0 AS BIGINT) AS dropped, CAST(0 AS BIGINT) AS in_flight, m['decisions'] AS lost \
              FROM (SELECT time, node_id, region, store_id, unnest(missing) AS m FROM node_status)",
    },
];
