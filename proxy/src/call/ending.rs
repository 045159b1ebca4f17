//! The end of a call: its reply, what the record says of how it ended, and the metadata for clients who ask for them.

use lariat_schema::vocabulary::{AnsweredBy, CacheOutcome, CallResult};

use super::recording::nanos;
use super::{Answered, Done, Ended, Run};
use crate::classify;
use crate::jsonrpc;
use crate::refusal::Refusal;

/// When a client may try again who found no room for a shared reply.
const NO_ROOM_RETRY_MS: u64 = 1_000;

impl Run<'_> {
    pub(super) fn finish(mut self, ended: Ended) -> Done {
        let (core, call) = (self.core, self.call);
        let id: &[u8] = call.id.as_deref().unwrap_or(b"null");
        let record = self.record();
        let ending = &mut record.ending;
        let limited_for_ms = match &ended {
            Ended::Refused(Refusal::RateLimited { retry_after_ms }) => Some(*retry_after_ms),
            _ => None,
        };
        // Whoever shares a reply gets a copy of it, which takes its own room.
        let copied = match &ended {
            Ended::Cached(reply) => Some(reply.bytes()),
            Ended::Coalesced(shared) => Some(shared.answered.reply.bytes()),
            _ => None,
        };
        let mut charge = copied.and_then(|bytes| core.upstreams.replies.charge(bytes));
        let no_room = copied.is_some() && charge.is_none();
        let ended = if no_room { Ended::Refused(Refusal::NoRoom { retry_after_ms: NO_ROOM_RETRY_MS }) } else { ended };
        let body = match ended {
            Ended::Local(result) => {
                (ending.answered_by, ending.result, ending.category) = (AnsweredBy::Local, CallResult::Success, None);
                jsonrpc::result_reply(id, &result)
            }
            Ended::Refused(refusal) => {
                let category = match record.attempts.last() {
                    Some(attempt) => attempt.end.category.unwrap_or(refusal.category()),
                    None => refusal.category(),
                };
                ending.result = match refusal {
                    Refusal::Exhausted { .. } | Refusal::TooLate | Refusal::NoRoom { .. } => CallResult::Error,
                    _ => CallResult::ApplicationError,
                };
                (ending.category, ending.code) = (Some(category), Some(refusal.code()));
                refusal.reply(id)
            }
            Ended::Replied(answered) => {
                let Answered { mut reply, chosen, end } = *answered;
                charge = reply.charge.take();
                ending.answered_by = AnsweredBy::Provider;
                ending.result = end.category.map_or(CallResult::Success, classify::result_of);
                (ending.category, ending.code) = (end.category, end.code);
                ending.provider = Some(chosen);
                ending.response_digest = reply.result.as_ref().map(|result| core.digest(result));
                reply.under(id)
            }
            Ended::Subscribed { name, chosen } => {
                (ending.result, ending.category) = (CallResult::Success, None);
                ending.answered_by = if chosen.is_some() { AnsweredBy::Provider } else { AnsweredBy::Coalesced };
                ending.cache = chosen.is_none().then_some(CacheOutcome::Coalesced);
                ending.provider = chosen;
                jsonrpc::result_reply(id, &format!("\"{name}\""))
            }
            Ended::Cached(reply) => {
                (ending.answered_by, ending.result, ending.category) = (AnsweredBy::Cache, CallResult::Success, None);
                ending.cache = Some(CacheOutcome::Hit);
                ending.response_digest = reply.result.as_ref().map(|result| core.digest(result));
                reply.under(id)
            }
            Ended::Coalesced(shared) => {
                let Answered { reply, end, .. } = shared.answered;
                (ending.answered_by, ending.cache) = (AnsweredBy::Coalesced, Some(CacheOutcome::Coalesced));
                ending.result = end.category.map_or(CallResult::Success, classify::result_of);
                (ending.category, ending.code) = (end.category, end.code);
                ending.coalesced_with = Some(shared.from);
                ending.response_digest = reply.result.as_ref().map(|result| core.digest(result));
                reply.under(id)
            }
        };
        ending.bytes_out = if call.id.is_some() { body.len() as u64 } else { 0 };
        let elapsed = nanos(self.recording.started.elapsed());
        let meta = self.route.wants_meta.then(|| self.meta(elapsed));
        Done { body: call.id.is_some().then_some(body), meta, limited_for_ms, charge }
    }

    fn meta(&self, elapsed_ns: u64) -> serde_json::Value {
        let record = self.look();
        #[allow(clippy::cast_precision_loss, reason = "durations for people")]
        let ms = |ns: u64| ns as f64 / 1e6;
        let (timing, chosen) = (&record.timing, record.ending.provider.as_ref());
        let candidates: Vec<&str> = record
            .selections
            .first()
            .map(|selection| selection.decision.eligible.iter().map(|candidate| &*candidate.name).collect())
            .unwrap_or_default();
        serde_json::json!({
            "version": "1.0",
            "request_id": record.scope.request_id.to_string(),
            "strategy": record.strategy,
            "chain_id": record.scope.chain_id,
            "transport": chosen.map(|chosen| chosen.transport),
            "candidate_providers": candidates,
            "selected_provider": chosen.map(|it| serde_json::json!({ "id": it.provider_id, "protocol": it.transport })),
            "selection_latency_ms": ms(timing.selection_ns),
            "upstream_latency_ms": ms(timing.provider_ns),
            "end_to_end_latency_ms": ms(elapsed_ns),
            "lariat_overhead_ms": ms(elapsed_ns.saturating_sub(timing.provider_ns)),
            "retries": record.attempts.len().saturating_sub(1),
            "circuit_breaker_state": record.attempts.last().map(|attempt| attempt.circuit.0),
        })
    }
}
