//! Counters of what decisions did beside answering: channels that were passed over, attempts that followed a failed one.
//! They are counted from every decision that reached the recorder, before anything is sampled.

use std::collections::HashMap;
use std::sync::Arc;

use lariat_schema::attributes::split_channel;
use lariat_schema::ids::{ChainName, ProfileName, ProviderId};
use lariat_schema::metrics;
use lariat_schema::vocabulary::{AttemptKind, ExclusionReason, OVERFLOW, Transport};
use opentelemetry_proto::tonic::metrics::v1::Metric;

use super::DecisionRecord;
use super::points::{labels, sum};

/// Series per counter; past it the provider becomes `_OTHER`. Channels times reasons are fewer, unless reloads bring
/// ever new ones.
const MAX_SERIES: usize = 8_192;

type Excluded = (ProfileName, ChainName, Arc<str>, ExclusionReason);
type Retried = (ProfileName, ChainName, ProviderId, Transport);

/// All counters of this boot.
#[derive(Default)]
pub(super) struct Counts {
    excluded: HashMap<Excluded, u64>,
    retried: HashMap<Retried, u64>,
}

impl Counts {
    pub(super) fn note(&mut self, record: &DecisionRecord) {
        let (profile, chain) = (&record.scope.profile, &record.scope.chain);
        for excluded in record.selections.iter().flat_map(|selection| &selection.decision.excluded) {
            let mut series = (profile.clone(), chain.clone(), excluded.name.clone(), excluded.reason);
            if self.excluded.len() >= MAX_SERIES && !self.excluded.contains_key(&series) {
                let transport = split_channel(&series.2).map_or("", |(_, transport)| transport);
                series.2 = format!("{OVERFLOW}:{transport}").into();
            }
            *self.excluded.entry(series).or_insert(0) += 1;
        }
        for attempt in record.attempts.iter().filter(|attempt| attempt.kind == AttemptKind::Failover) {
            let chosen = &attempt.chosen;
            let mut series = (profile.clone(), chain.clone(), chosen.provider_id.clone(), chosen.transport);
            if self.retried.len() >= MAX_SERIES && !self.retried.contains_key(&series) {
                series.2 = ProviderId::from(OVERFLOW);
            }
            *self.retried.entry(series).or_insert(0) += 1;
        }
    }

    /// The counters as of now.
    pub(super) fn collect(&self, start_unix_nanos: u64, now_unix_nanos: u64) -> Vec<Metric> {
        let excluded = self.excluded.iter().map(|((profile, chain, channel, reason), n)| {
            let (provider, transport) = split_channel(channel).unwrap_or((channel, ""));
            let mut out = labels(profile, chain, Some(&ProviderId::from(provider)), transport.parse().ok());
            out.text("reason", reason.as_str());
            (out, *n)
        });
        let retried = self.retried.iter().map(|((profile, chain, provider, transport), n)| {
            (labels(profile, chain, Some(provider), Some(*transport)), *n)
        });
        [(metrics::CANDIDATES_EXCLUDED, excluded.collect::<Vec<_>>()), (metrics::RETRIES, retried.collect())]
            .into_iter()
            .filter(|(_, values)| !values.is_empty())
            .map(|(name, values)| sum(name, values, start_unix_nanos, now_unix_nanos))
            .collect()
    }
}
