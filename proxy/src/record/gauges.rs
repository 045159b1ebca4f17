//! The state of every channel as gauges, read from the latest snapshot when metrics are sent: nothing has to be kept in
//! step with it.

use lariat_schema::metrics;
use lariat_schema::vocabulary::{CircuitState, Transport};
use opentelemetry_proto::tonic::metrics::v1::Metric;

use super::points::{gauge, labels};
use super::{Attributes, Counters};
use crate::health::{Book, ChannelIndex};
use crate::profiles::Catalog;

/// All gauges as of now.
pub(super) fn collect(catalog: &Catalog, book: &Book, counters: &Counters, now: u64) -> Vec<Metric> {
    let snapshot = book.snapshot();
    let now_ms = book.now_ms();
    let (mut circuits, mut heights, mut lags) = (Vec::new(), Vec::new(), Vec::new());
    for profile in &catalog.profiles {
        for chain in &profile.chains {
            let consensus = snapshot.consensus(chain.providers.iter().map(|provider| provider.instance), now_ms);
            for provider in &chain.providers {
                for (transport, has) in [(Transport::Http, provider.has_http), (Transport::Ws, provider.has_ws)] {
                    if has {
                        let state = match snapshot.channel(ChannelIndex::new(provider.instance, transport)).circuit {
                            CircuitState::Closed => 0,
                            CircuitState::HalfOpen => 1,
                            CircuitState::Open => 2,
                        };
                        circuits.push((labels(&profile.slug, &chain.key, Some(&provider.id), Some(transport)), state));
                    }
                }
                let own = || labels(&profile.slug, &chain.key, Some(&provider.id), None);
                if let Some(height) = snapshot.heights[provider.instance] {
                    heights.push((own(), i64::try_from(height.height).unwrap_or(i64::MAX)));
                }
                if let Some(lag) = consensus.and_then(|consensus| snapshot.lag(provider.instance, consensus)) {
                    lags.push((own(), lag));
                }
            }
        }
    }
    let in_flight = counters.in_flight.load(std::sync::atomic::Ordering::Relaxed);
    [
        (metrics::CIRCUIT_STATE, circuits),
        (metrics::BLOCK_HEIGHT, heights),
        (metrics::BLOCK_LAG, lags),
        (metrics::CALLS_IN_FLIGHT, vec![(Attributes::default(), in_flight)]),
    ]
    .into_iter()
    .filter(|(_, values)| !values.is_empty())
    .map(|(name, values)| gauge(name, values, now))
    .collect()
}
