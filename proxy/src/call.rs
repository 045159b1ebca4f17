//! One call from its selection to its reply, within one deadline. Whatever happens, even that the client goes away, exactly
//! one record is handed over.

mod affinity;
mod attempts;
mod ending;
mod envelope;
pub(crate) mod hedge;
mod recording;
pub(crate) mod sharing;
pub(crate) mod subscribing;

use std::sync::Arc;
use std::time::Duration;

use lariat_schema::vocabulary::{AnsweredBy, CallResult, ErrorCategory, Origin, Strategy, Transport};
use tokio::time::Instant;
use uuid::Uuid;

use crate::core::Core;
use crate::jsonrpc::{Call, Reply};
use crate::policy::Safety;
use crate::profiles::{Chain, Profile};
use crate::record::{AttemptEnd, Chosen, DecisionRecord, Ending, Scope, Timing, now_unix_nanos};
use crate::refusal::Refusal;
use crate::reply_budget::Charge;
use crate::trace_context::{Trace, TraceContext};
use recording::Recording;
use sharing::Shared;

/// Where a call goes and how, as its request said.
#[derive(Clone, Copy)]
pub(crate) struct Route<'a> {
    pub(crate) profile_at: usize,
    pub(crate) profile: &'a Profile,
    pub(crate) chain_at: usize,
    pub(crate) chain: &'a Chain,
    pub(crate) strategy: Strategy,
    pub(crate) transport: Option<Transport>,
    /// The provider that was pinned, by id.
    pub(crate) pin: Option<&'a str>,
    /// Providers that are not to be used, by id.
    pub(crate) excluded: &'a [String],
    /// Whether providers that limit our rate are left out, too.
    pub(crate) leave_out_limited: bool,
    /// The client's own bound on the time of each call.
    pub(crate) timeout: Option<Duration>,
    /// Whether the client asked for metadata, which cost time to write.
    pub(crate) wants_meta: bool,
}

/// The place of a call in its request.
#[derive(Debug, Clone)]
pub(crate) struct Position {
    pub(crate) request_id: Uuid,
    pub(crate) batch_index: u32,
    pub(crate) batch_size: u32,
    pub(crate) client_transport: Transport,
    pub(crate) origin: Origin,
    /// What the client said of its trace: with this request, or when it opened its WebSocket.
    pub(crate) context: Option<Arc<TraceContext>>,
}

/// The reply to a call, and what the metadata tell of it.
pub(crate) struct Done {
    /// None for a notification.
    pub(crate) body: Option<Vec<u8>>,
    /// None unless the route asks for them.
    pub(crate) meta: Option<serde_json::Value>,
    /// Where the client calls too often: when it may again.
    pub(crate) limited_for_ms: Option<u64>,
    /// What the reply holds of the budget for replies, until the client has taken it.
    pub(crate) charge: Option<Charge>,
}

/// Routes a call.
pub(crate) async fn answer(core: &Core, route: &Route<'_>, call: &Call, position: Position) -> Done {
    let mut run = Run::new(core, route, call, position);
    let ended = match run.without_provider() {
        Some(ended) => ended,
        None => run.answered().await,
    };
    run.finish(ended)
}

/// Refuses a call before any provider is asked, which is a decision too.
pub(crate) fn refuse(core: &Core, route: &Route<'_>, call: &Call, position: Position, refusal: Refusal) -> Done {
    Run::new(core, route, call, position).finish(Ended::Refused(refusal))
}

enum Ended {
    Local(String),
    Refused(Refusal),
    Replied(Box<Answered>),
    Cached(Reply),
    Coalesced(Box<Shared>),
    /// A subscription of that name; the provider where this call opened its stream.
    Subscribed {
        name: String,
        chosen: Option<Chosen>,
    },
}

/// A provider's reply, and whose it is.
#[derive(Debug, Clone)]
struct Answered {
    reply: Reply,
    chosen: Chosen,
    end: AttemptEnd,
}

struct Run<'a> {
    core: &'a Core,
    route: &'a Route<'a>,
    call: &'a Call,
    seq: u64,
    recording: Recording<'a>,
}

impl<'a> Run<'a> {
    fn new(core: &'a Core, route: &'a Route<'a>, call: &'a Call, position: Position) -> Self {
        let seq = core.recorder.next_seq();
        let known = call.policy.name == &*call.method;
        // Every frame of a WebSocket is a request of its own, and its context is older than all of them.
        let trusts = route.profile.trust_trace_context && position.client_transport == Transport::Http;
        let scope = Scope {
            request_id: position.request_id,
            trace: Trace::of(position.context, trusts),
            batch_index: position.batch_index,
            batch_size: position.batch_size,
            profile: route.profile.slug.clone(),
            chain: route.chain.key.clone(),
            chain_id: route.chain.chain_id,
            method: call.policy.name,
            method_original: (!known).then(|| call.method.clone()),
            origin: position.origin,
        };
        let record = Box::new(DecisionRecord {
            scope,
            seq,
            span_id: core.span_ids.of_decision(seq),
            jsonrpc_id: call.id.as_ref().map(|id| String::from_utf8_lossy(&id[..id.len().min(256)]).into()),
            strategy: route.strategy,
            client_transport: position.client_transport,
            policy_hash: core.catalog.policy_hash.clone(),
            bytes_in: call.bytes as u64,
            params_digest: call.params.as_ref().map(|params| core.digest(params)),
            timing: Timing { start_unix_nanos: now_unix_nanos(), ..Timing::default() },
            selections: Vec::with_capacity(1),
            attempts: Vec::with_capacity(1),
            ending: Ending {
                answered_by: AnsweredBy::None,
                cache: None,
                coalesced_with: None,
                result: CallResult::ApplicationError,
                category: Some(ErrorCategory::ClientError),
                code: None,
                provider: None,
                bytes_out: 0,
                response_digest: None,
            },
        });
        Self { core, route, call, seq, recording: Recording::new(&core.recorder, record) }
    }

    /// The answer to a client that calls too often; calls of the proxy's own are not counted.
    fn limited(&self) -> Option<Ended> {
        if self.look().scope.origin == Origin::System {
            return None;
        }
        let charged = self.core.limits.charge(self.route.profile_at, self.route.profile);
        charged.err().map(|retry_after_ms| Ended::Refused(Refusal::RateLimited { retry_after_ms }))
    }

    /// The answer, where no provider is asked.
    fn without_provider(&self) -> Option<Ended> {
        if let Some(limited) = self.limited() {
            return Some(limited);
        }
        let method = || self.call.method.to_string();
        match self.call.policy.safety {
            Safety::Keystore => Some(Ended::Refused(Refusal::Keystore(method()))),
            Safety::Subscription => Some(Ended::Refused(Refusal::NeedsWebSocket(method()))),
            _ if self.call.policy.name == "eth_chainId" && self.route.pin.is_none() => {
                Some(Ended::Local(format!("\"0x{:x}\"", self.route.chain.chain_id)))
            }
            _ => None,
        }
    }

    /// When the call ends at the latest: after its method's time, or the client's if that is shorter.
    fn deadline(&self) -> Instant {
        let most = Duration::from_millis(self.call.policy.timeout_ms);
        self.recording.started + self.route.timeout.map_or(most, |wanted| wanted.min(most))
    }

    fn record(&mut self) -> &mut DecisionRecord {
        self.recording.record()
    }

    fn look(&self) -> &DecisionRecord {
        self.recording.look()
    }
}
