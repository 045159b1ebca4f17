//! One frame: a call or a batch of them, and what goes back for it. The same rules as over HTTP, with two differences.
//! There is no status, so that everything is said as JSON-RPC. And metadata have no header to stand in: they follow the
//! reply as a notification, where the connection or the call itself asks for them.

use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt;
use lariat_schema::vocabulary::{Origin, Transport};
use uuid::Uuid;

use super::Way;
use crate::admit::{Admitted, MAX_BATCH};
use crate::call::{self, Position, Route};
use crate::core::Core;
use crate::jsonrpc::{self, Body, Call, Invalid};
use crate::policy::Safety;
use crate::refusal::Refusal;
use crate::reply_budget::{Charge, held};
use crate::server::routes::IncludeMeta;
use crate::server::{Site, rpc};
use crate::subscribe::{self, Client};

/// Calls of one batch that run at once.
pub(super) const BATCH_AT_ONCE: usize = 4;

/// A frame, from its taking to its replies.
pub(super) struct Frame {
    /// What it counts among the calls of its connection.
    pub(super) items: usize,
    pub(super) bytes: usize,
    /// What goes back: the reply, if there is one, and the metadata.
    pub(super) replies: Vec<Bytes>,
    /// Subscriptions that the replies name.
    pub(super) opened: Vec<Arc<str>>,
}

impl Frame {
    pub(super) const fn new(items: usize, bytes: usize) -> Self {
        Self { items, bytes, replies: Vec::new(), opened: Vec::new() }
    }
}

/// What one call of a frame comes to.
#[derive(Default)]
struct Item {
    reply: Option<Vec<u8>>,
    /// What the reply holds of the budget for replies, until it is written.
    charge: Option<Charge>,
    /// Metadata as a notification.
    meta: Option<Vec<u8>>,
    /// The subscription that it opened.
    opened: Option<Arc<str>>,
}

/// What the calls of a frame have in common.
struct Answering<'a> {
    site: &'a Arc<Site>,
    core: &'a Core,
    /// Not there any more after a reload, maybe.
    route: Result<Route<'a>, Refusal>,
    way: &'a Way,
    request_id: Uuid,
}

/// Answers the calls of a frame, each a decision of its own under the frame's request id.
pub(super) async fn answer(
    site: &Arc<Site>,
    way: &Way,
    client: &Client,
    mut frame: Frame,
    body: Body,
    inside: Admitted,
) -> Frame {
    let core = site.core();
    let answering = Answering::new(site, &core, way);
    frame.replies = match body {
        Body::Single(item) => {
            let mut item = answering.answer(client, item, 0, 1).await;
            frame.opened.extend(item.opened.take());
            single(item)
        }
        Body::Batch(items) if items.is_empty() => refused(site, &Refusal::EmptyBatch),
        Body::Batch(items) => {
            let (size, answering) = (u32::try_from(items.len()).unwrap_or(u32::MAX), &answering);
            let items = futures::stream::iter(items.into_iter().zip(0u32..))
                .map(|(item, index)| answering.answer(client, item, index, size))
                .buffered(BATCH_AT_ONCE);
            let mut items: Vec<Item> = items.collect().await;
            frame.opened.extend(items.iter_mut().filter_map(|item| item.opened.take()));
            batch(items)
        }
        Body::TooMany(found) => refused(site, &Refusal::BatchTooLarge { found, limit: MAX_BATCH }),
    };
    drop(inside);
    frame
}

/// Refuses every call of a frame for one reason.
pub(super) fn refuse(site: &Arc<Site>, way: &Way, body: Body, refusal: &Refusal) -> Vec<Bytes> {
    let core = site.core();
    let answering = Answering::new(site, &core, way);
    match body {
        Body::Single(item) => single(answering.refuse(item, 0, 1, refusal)),
        Body::Batch(items) if items.is_empty() => refused(site, &Refusal::EmptyBatch),
        Body::Batch(items) => {
            let size = u32::try_from(items.len()).unwrap_or(u32::MAX);
            batch(
                items
                    .into_iter()
                    .zip(0u32..)
                    .map(|(item, index)| answering.refuse(item, index, size, refusal))
                    .collect(),
            )
        }
        Body::TooMany(found) => refused(site, &Refusal::BatchTooLarge { found, limit: MAX_BATCH }),
    }
}

fn refused(site: &Site, refusal: &Refusal) -> Vec<Bytes> {
    site.gate.count_refusal();
    vec![refusal.reply(b"null").into()]
}

fn single(item: Item) -> Vec<Bytes> {
    let reply = item.reply.map(|reply| held(reply, item.charge.into_iter().collect()));
    reply.into_iter().chain(item.meta.map(Bytes::from)).collect()
}

/// The replies as one array in the order of their calls, then the metadata.
fn batch(items: Vec<Item>) -> Vec<Bytes> {
    let mut array =
        Vec::with_capacity(2 + items.iter().filter_map(|it| Some(it.reply.as_ref()?.len() + 1)).sum::<usize>());
    let (mut metas, mut charges) = (Vec::new(), Vec::new());
    for item in items {
        metas.extend(item.meta.map(Bytes::from));
        charges.extend(item.charge);
        let Some(reply) = item.reply else { continue };
        array.push(if array.is_empty() { b'[' } else { b',' });
        array.extend_from_slice(&reply);
    }
    if array.is_empty() {
        return metas;
    }
    array.push(b']');
    std::iter::once(held(array, charges)).chain(metas).collect()
}

impl<'a> Answering<'a> {
    fn new(site: &'a Arc<Site>, core: &'a Core, way: &'a Way) -> Self {
        Self { site, core, route: rpc::route(core, &way.target), way, request_id: Uuid::now_v7() }
    }

    async fn answer(&self, client: &Client, item: Result<Call, Invalid>, batch_index: u32, batch_size: u32) -> Item {
        let call = match item {
            Ok(call) => call,
            Err(invalid) => return self.invalid(&invalid),
        };
        let route = match self.route(&call) {
            Ok(route) => route,
            Err(item) => return item,
        };
        let position = self.position(batch_index, batch_size);
        if call.policy.safety == Safety::Subscription {
            if let Err(retry_after_ms) = self.core.limits.charge(route.profile_at, route.profile) {
                let refusal = Refusal::RateLimited { retry_after_ms };
                return self.item(&call, call::refuse(self.core, &route, &call, position, refusal));
            }
            let answered = subscribe::answer(self.site, self.core, &route, client, &call, position).await;
            return Item { opened: answered.opened, ..self.item(&call, answered.done) };
        }
        let done = call::answer(self.core, &route, &call, position).await;
        self.item(&call, done)
    }

    fn refuse(&self, item: Result<Call, Invalid>, batch_index: u32, batch_size: u32, refusal: &Refusal) -> Item {
        let call = match item {
            Ok(call) => call,
            Err(invalid) => return self.invalid(&invalid),
        };
        let route = match self.route(&call) {
            Ok(route) => route,
            Err(item) => return item,
        };
        let position = self.position(batch_index, batch_size);
        self.item(&call, call::refuse(self.core, &route, &call, position, refusal.clone()))
    }

    fn position(&self, batch_index: u32, batch_size: u32) -> Position {
        let (request_id, context) = (self.request_id, self.way.context.clone());
        let (client_transport, origin) = (Transport::Ws, Origin::Client);
        Position { request_id, batch_index, batch_size, client_transport, origin, context }
    }

    fn invalid(&self, invalid: &Invalid) -> Item {
        self.site.gate.count_refusal();
        let reply = Refusal::InvalidRequest.reply(invalid.id.as_deref().unwrap_or(b"null"));
        Item { reply: Some(reply), ..Item::default() }
    }

    /// The route as this call wants it, or what the call is told where the route is gone.
    fn route(&self, call: &Call) -> Result<Route<'a>, Item> {
        match &self.route {
            Ok(route) => Ok(Route { wants_meta: route.wants_meta || call.notify_meta, ..*route }),
            Err(refusal) => {
                self.site.gate.count_refusal();
                Err(Item { reply: call.id.as_ref().map(|id| refusal.reply(id)), ..Item::default() })
            }
        }
    }

    fn item(&self, call: &Call, done: call::Done) -> Item {
        let (Some(mut reply), Some(id)) = (done.body, &call.id) else { return Item::default() };
        let charge = done.charge;
        let Some(meta) = done.meta else { return Item { reply: Some(reply), charge, ..Item::default() } };
        let meta = meta.to_string();
        if self.way.target.include_meta == IncludeMeta::Body {
            jsonrpc::add_member(&mut reply, "lariat_meta", &meta);
        }
        let notify = call.notify_meta || self.way.target.include_meta == IncludeMeta::Headers;
        Item { reply: Some(reply), charge, meta: notify.then(|| notification(id, &meta)), opened: None }
    }
}

/// The metadata of the call of that id; `meta` is an object.
fn notification(id: &[u8], meta: &str) -> Vec<u8> {
    let head: &[u8] = br#"{"jsonrpc":"2.0","method":"lariat_meta","params":{"id":"#;
    let rest = meta.strip_prefix('{').unwrap_or("}");
    [head, id, b",", rest.as_bytes(), b"}"].concat()
}
