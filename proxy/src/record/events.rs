//! Changes of state, heartbeats and reloads as OTLP log records with an event name.

use lariat_schema::{attributes as key, events};
use opentelemetry_proto::tonic::common::v1::{AnyValue, any_value::Value};
use opentelemetry_proto::tonic::logs::v1::{LogRecord, SeverityNumber};

use super::spans::Attributes;
use super::{ChannelEvent, Counters, Happened, SubscriptionEvent, now_unix_nanos};
use crate::profiles::Catalog;

pub(super) fn log(name: &str, at_unix_nanos: u64, severity: SeverityNumber, attributes: Attributes) -> LogRecord {
    LogRecord {
        time_unix_nano: at_unix_nanos,
        observed_time_unix_nano: at_unix_nanos,
        severity_number: severity.into(),
        attributes: attributes.0,
        event_name: name.to_owned(),
        ..Default::default()
    }
}

/// The node lives, and how many decisions it has numbered so far; `farewell` in the last one of a clean end.
pub(super) fn heartbeat(counters: &Counters, farewell: bool) -> LogRecord {
    let mut out = Attributes::default();
    out.int(key::HEARTBEAT_SEQ, counters.seq.load(std::sync::atomic::Ordering::Relaxed));
    out.int(key::HEARTBEAT_DROPPED, counters.dropped());
    if farewell {
        out.bool(key::HEARTBEAT_FAREWELL, true);
    }
    log(events::HEARTBEAT, now_unix_nanos(), SeverityNumber::Info, out)
}

/// The policy in force, as the record's `policy_hash` means it.
pub(super) fn reload(catalog: &Catalog) -> LogRecord {
    let mut out = Attributes::default();
    out.text(key::POLICY_HASH, &*catalog.policy_hash);
    let mut record = log(events::CONFIG_RELOAD, now_unix_nanos(), SeverityNumber::Info, out);
    record.body = Some(AnyValue { value: Some(Value::StringValue(catalog.policy.to_string())) });
    record
}

/// A change of state of a channel.
pub(super) fn of_channel(event: &ChannelEvent) -> LogRecord {
    let mut out = Attributes::default();
    out.text(key::PROFILE, event.profile.as_str());
    out.text(key::CHAIN, event.chain.as_str());
    out.int(key::CHAIN_ID, event.chain_id);
    out.text(key::PROVIDER_ID, event.provider_id.as_str());
    out.text(key::INSTANCE_ID, event.instance_id.as_str());
    out.text(key::TRANSPORT, event.transport.as_str());
    let (name, severity) = match &event.what {
        Happened::Circuit { transition, epoch } => {
            out.text(key::CIRCUIT_FROM, transition.from.as_str());
            out.text(key::CIRCUIT_TO, transition.to.as_str());
            out.text(key::CIRCUIT_REASON, transition.reason);
            out.int(key::CIRCUIT_EPOCH, *epoch);
            (events::CIRCUIT_TRANSITION, SeverityNumber::Warn)
        }
        Happened::Health { from, to, reason } => {
            out.text(key::HEALTH_FROM, *from);
            out.text(key::HEALTH_TO, *to);
            out.text(key::HEALTH_REASON, reason.as_str());
            (events::PROVIDER_HEALTH, SeverityNumber::Warn)
        }
        Happened::Head { height, lag } => {
            out.int(key::BLOCK_HEIGHT, *height);
            if let Some(lag) = lag {
                out.int(key::BLOCK_LAG, *lag);
            }
            (events::BLOCK_HEAD, SeverityNumber::Info)
        }
        Happened::Reorganised { height } => {
            out.int(key::BLOCK_HEIGHT, *height);
            (events::BLOCK_REORGANISED, SeverityNumber::Warn)
        }
        Happened::RateLimit { for_ms } => {
            out.int(key::RATE_LIMIT_MS, *for_ms);
            (events::PROVIDER_RATE_LIMIT, SeverityNumber::Warn)
        }
        Happened::Subscription { kind, event } => {
            out.text(key::SUBSCRIPTION_KIND, *kind);
            match event {
                SubscriptionEvent::Established => (events::SUBSCRIPTION_ESTABLISHED, SeverityNumber::Info),
                SubscriptionEvent::Failed { reason } => {
                    out.text(key::SUBSCRIPTION_REASON, &**reason);
                    (events::SUBSCRIPTION_FAILED, SeverityNumber::Warn)
                }
                SubscriptionEvent::Failover { from } => {
                    out.text(key::SUBSCRIPTION_FROM, from.as_str());
                    (events::SUBSCRIPTION_FAILOVER, SeverityNumber::Warn)
                }
                SubscriptionEvent::Stale { stale_ms } => {
                    out.int(key::SUBSCRIPTION_STALE_MS, *stale_ms);
                    (events::SUBSCRIPTION_STALE, SeverityNumber::Warn)
                }
            }
        }
    };
    log(name, event.at_unix_nanos, severity, out)
}
