//! A JSON-RPC request over HTTP, from its head to its reply: find the route, read the body, answer each call, put the
//! replies together in order. Calls of a batch run a few at a time, each a decision of its own under the request's id.

use std::sync::Arc;

use base64::Engine as _;
use bytes::Bytes;
use futures::StreamExt;
use http::{HeaderName, HeaderValue, Request, StatusCode};
use hyper::body::Incoming;
use lariat_schema::ids::ProfileName;
use lariat_schema::vocabulary::{Origin, Transport};
use uuid::Uuid;

use super::routes::{IncludeMeta, Target, target};
use super::{Reply, Site, body, text};
use crate::admit;
use crate::call::{self, Done, Position, Route};
use crate::core::Core;
use crate::jsonrpc::{self, Body, Call, Invalid};
use crate::refusal::Refusal;
use crate::reply_budget::held;
use crate::trace_context::TraceContext;

/// Calls of one batch that run at once.
const BATCH_AT_ONCE: usize = 4;
/// Metadata longer than this do not go into a header.
const MAX_META_HEADER: usize = 4_096;
const REQUEST_ID: HeaderName = HeaderName::from_static("x-lariat-request-id");
const JSON: &str = "application/json";

/// Serves a POST.
pub(super) async fn serve(site: &Site, request: Request<Incoming>) -> Reply {
    let request_id = Uuid::now_v7();
    let mut reply = match calls(site, request, request_id).await {
        Ok(reply) => reply,
        Err(refusal) => {
            site.gate.count_refusal();
            body(refusal.status(), JSON, Bytes::from(refusal.reply(b"null")))
        }
    };
    let text = &mut Uuid::encode_buffer();
    if let Ok(id) = HeaderValue::from_str(request_id.hyphenated().encode_lower(text)) {
        reply.headers_mut().insert(REQUEST_ID, id);
    }
    reply
}

async fn calls(site: &Site, request: Request<Incoming>, request_id: Uuid) -> Result<Reply, Refusal> {
    let (head, incoming) = request.into_parts();
    let Some(target) = target(&head.uri, &head.headers)? else {
        return Ok(text(StatusCode::NOT_FOUND, "unknown path; calls go to POST /rpc/{chain}\n"));
    };
    let mut inside = site.gate.enter(&head.headers)?;
    let core = site.core();
    let route = route(&core, &target)?;
    let bytes = inside.body(incoming, site.gate.patience.body).await?;
    let position = Position {
        request_id,
        batch_index: 0,
        batch_size: 1,
        client_transport: Transport::Http,
        origin: Origin::Client,
        context: TraceContext::read(&head.headers).map(Arc::new),
    };
    match jsonrpc::read(&bytes).map_err(|_| Refusal::NotJson)? {
        Body::Single(Ok(call)) => Ok(single(call::answer(&core, &route, &call, position).await, target.include_meta)),
        Body::Single(Err(invalid)) => Ok(body(StatusCode::OK, JSON, refused(site, &invalid).into())),
        Body::Batch(items) if items.is_empty() => Err(Refusal::EmptyBatch),
        Body::TooMany(found) => Err(Refusal::BatchTooLarge { found, limit: admit::MAX_BATCH }),
        Body::Batch(items) => Ok(batch(site, &core, &route, items, &position, target.include_meta).await),
    }
}

pub(super) fn route<'a>(core: &'a Core, target: &'a Target) -> Result<Route<'a>, Refusal> {
    let slug = target.profile.as_deref().unwrap_or(ProfileName::DEFAULT);
    let (profile_at, profile) = core.catalog.profile(slug).ok_or_else(|| Refusal::UnknownProfile(slug.to_owned()))?;
    let (chain_at, chain) = profile.chain(&target.chain).ok_or_else(|| Refusal::UnknownChain(target.chain.clone()))?;
    Ok(Route {
        profile_at,
        profile,
        chain_at,
        chain,
        strategy: target.strategy.unwrap_or(profile.default_strategy),
        transport: target.transport,
        pin: target.provider.as_deref(),
        excluded: &target.excluded,
        leave_out_limited: target.leave_out_limited,
        timeout: target.timeout,
        wants_meta: target.include_meta != IncludeMeta::None,
    })
}

fn refused(site: &Site, invalid: &Invalid) -> Vec<u8> {
    site.gate.count_refusal();
    Refusal::InvalidRequest.reply(invalid.id.as_deref().unwrap_or(b"null"))
}

fn single(done: Done, include: IncludeMeta) -> Reply {
    let limited_for_ms = done.limited_for_ms;
    let mut reply = answered(done, include);
    if let Some(wait_ms) = limited_for_ms {
        *reply.status_mut() = StatusCode::TOO_MANY_REQUESTS;
        retry_after(&mut reply, wait_ms);
    }
    reply
}

fn retry_after(reply: &mut Reply, wait_ms: u64) {
    let seconds = admit::rate::retry_after_seconds(wait_ms);
    reply.headers_mut().insert(http::header::RETRY_AFTER, HeaderValue::from(seconds));
}

fn answered(done: Done, include: IncludeMeta) -> Reply {
    let Some(mut bytes) = done.body else { return nothing() };
    if let (IncludeMeta::Body, Some(meta)) = (include, &done.meta) {
        jsonrpc::add_member(&mut bytes, "lariat_meta", &meta.to_string());
    }
    let mut reply = body(StatusCode::OK, JSON, held(bytes, done.charge.into_iter().collect()));
    if let (IncludeMeta::Headers, Some(meta)) = (include, &done.meta) {
        meta_header(&mut reply, meta);
    }
    reply
}

fn nothing() -> Reply {
    let mut reply = text(StatusCode::NO_CONTENT, "");
    reply.headers_mut().remove(http::header::CONTENT_TYPE);
    reply
}

fn meta_header(reply: &mut Reply, meta: &serde_json::Value) {
    let encoded = base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(meta.to_string());
    if encoded.len() <= MAX_META_HEADER
        && let Ok(value) = HeaderValue::try_from(encoded)
    {
        reply.headers_mut().insert("x-lariat-meta", value);
    }
}

async fn batch(
    site: &Site,
    core: &Core,
    route: &Route<'_>,
    items: Vec<Result<Call, Invalid>>,
    position: &Position,
    include: IncludeMeta,
) -> Reply {
    let batch_size = u32::try_from(items.len()).unwrap_or(u32::MAX);
    let done: Vec<Done> = futures::stream::iter(items.into_iter().zip(0u32..))
        .map(|(item, batch_index)| async move {
            match item {
                Ok(call) => {
                    let position = Position { batch_index, batch_size, ..position.clone() };
                    call::answer(core, route, &call, position).await
                }
                Err(invalid) => {
                    Done { body: Some(refused(site, &invalid)), meta: None, limited_for_ms: None, charge: None }
                }
            }
        })
        .buffered(BATCH_AT_ONCE)
        .collect()
        .await;
    let mut out =
        Vec::with_capacity(2 + done.iter().filter_map(|done| Some(done.body.as_ref()?.len() + 1)).sum::<usize>());
    let (mut first_meta, mut limited_for_ms, mut charges) = (None, None, Vec::with_capacity(done.len()));
    let all_limited = done.iter().all(|done| done.limited_for_ms.is_some());
    for Done { body: reply, meta, limited_for_ms: limited, charge } in done {
        limited_for_ms = limited_for_ms.max(limited);
        charges.extend(charge);
        let Some(mut reply) = reply else { continue };
        if let (IncludeMeta::Body, Some(meta)) = (include, &meta) {
            jsonrpc::add_member(&mut reply, "lariat_meta", &meta.to_string());
        }
        out.push(if out.is_empty() { b'[' } else { b',' });
        out.extend_from_slice(&reply);
        first_meta = first_meta.or(meta);
    }
    let mut reply = if out.is_empty() {
        nothing()
    } else {
        out.push(b']');
        body(StatusCode::OK, JSON, held(out, charges))
    };
    // Where some of the batch was answered it is no 429, which clients take to say that nothing was; the advice is the same.
    if let Some(wait_ms) = limited_for_ms {
        if all_limited {
            *reply.status_mut() = StatusCode::TOO_MANY_REQUESTS;
        }
        retry_after(&mut reply, wait_ms);
    }
    if let (IncludeMeta::Headers, Some(meta)) = (include, first_meta) {
        meta_header(&mut reply, &meta);
    }
    reply
}
