//! One question of a probe to one channel, and its record: an attempt of `origin=system`, outside any decision.

use std::time::Duration;

use bytes::Bytes;
use lariat_schema::vocabulary::{AttemptKind, ErrorCategory, Origin, Outcome, TransportFailure};
use uuid::Uuid;

use super::course::Failure;
use crate::core::Core;
use crate::health::{Admission, ChannelIndex};
use crate::record::{Attempt, Chosen, Item, Scope, now_unix_nanos};
use crate::trace_context::Trace;
use crate::upstream::{Answer, Outgoing, attempt};

/// What a question got.
pub(super) enum Told {
    Number {
        number: u64,
        took: Duration,
    },
    Failed {
        failure: Failure,
        reason: String,
        retry_after_ms: Option<u64>,
        /// Whether a call told of the same loss of the connection.
        is_echo: bool,
    },
}

/// Asks for a number, and records the probe.
pub(super) async fn ask(
    core: &Core,
    channel: ChannelIndex,
    method: &'static str,
    timeout: Duration,
    admission: &Admission<'_>,
) -> Told {
    let (at, transport) = (channel.instance(), channel.transport());
    let instance = &core.catalog.instances[at];
    let id = core.upstreams.socket(&instance.id).map_or(1, |socket| socket.own_id());
    let call = format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"{method}","params":[]}}"#);
    let outgoing = Outgoing { payload: Bytes::from(call), id, trace: None };
    let start_unix_nanos = now_unix_nanos();
    let answer = attempt(&core.upstreams, (at, instance), transport, &[], outgoing, timeout).await;
    let number = number(&answer);
    let mut end = answer.end;
    if number.is_none() && end.category.is_none() {
        (end.category, end.outcome) = (Some(ErrorCategory::InvalidResponse), Outcome::ServiceFailure);
    }
    let (profile, chain, provider_id) = core.named_by(at).clone();
    let scope = Scope {
        request_id: Uuid::now_v7(),
        trace: Trace::default(),
        batch_index: 0,
        batch_size: 1,
        profile,
        chain,
        chain_id: instance.chain_id,
        method,
        method_original: None,
        origin: Origin::System,
    };
    let record = Attempt {
        span_id: core.span_ids.of_probe(core.recorder.next_probe()),
        ordinal: 1,
        kind: AttemptKind::Probe,
        chosen: Chosen { provider_id, instance_id: instance.id.clone(), transport, head_lag_blocks: None },
        circuit: (admission.lease.state, admission.lease.epoch),
        server: instance.server(transport),
        start_unix_nanos,
        duration_ns: u64::try_from(answer.took.as_nanos()).unwrap_or(u64::MAX),
        end,
    };
    core.recorder.hand_over(Item::Probe(Box::new((scope, record))));
    match number {
        Some(number) => Told::Number { number, took: answer.took },
        None => {
            let category = end.category.unwrap_or(ErrorCategory::InvalidResponse);
            let failure = Failure { category, http_status: end.http_status };
            let (reason, Answer { retry_after_ms, is_echo, .. }) = (reason(category, end.failure), answer);
            Told::Failed { failure, reason, retry_after_ms, is_echo }
        }
    }
}

/// Why a probe failed, for people.
pub(super) fn reason(category: ErrorCategory, failure: Option<TransportFailure>) -> String {
    match failure {
        Some(failure) => format!("{category}: {failure}"),
        None => category.to_string(),
    }
}

fn number(answer: &Answer) -> Option<u64> {
    let text: String = serde_json::from_slice(answer.reply.as_ref()?.result.as_ref()?).ok()?;
    u64::from_str_radix(text.strip_prefix("0x")?, 16).ok()
}
