//! The decision for a subscription: which provider gives the events. It is made once for a stream, by the first client or
//! by the proxy itself after a provider failed; whoever joins a stream that runs is answered without an attempt.
//!
//! Trying again harms nobody here: a subscription that was made and not noticed is one stream too many at a provider,
//! until its connection ends. So every eligible channel may be tried, within the bounds of a call.

use std::time::Duration;

use bytes::Bytes;
use lariat_schema::vocabulary::{AttemptKind, Dispatched, ExclusionReason, Outcome, Transport};
use tokio::time::Instant;

use super::attempts::Aim;
use super::{Done, Ended, Position, Route, Run};
use crate::classify;
use crate::core::Core;
use crate::decide::Tried;
use crate::health::ChannelIndex;
use crate::jsonrpc::Call;
use crate::record::{AttemptEnd, Chosen};
use crate::refusal::Refusal;
use crate::upstream::{Answer, Feed, Socket, SubscribeError};

const SUBSCRIBED: AttemptEnd = AttemptEnd {
    outcome: Outcome::Success,
    category: None,
    code: None,
    http_status: None,
    dispatched: Dispatched::Dispatched,
    failure: None,
};

/// A subscription that stands.
pub(crate) struct Opened {
    pub(crate) feed: Feed,
    /// The heads of the same provider, where the feed is of something else.
    pub(crate) heads: Option<Feed>,
    pub(crate) chosen: Chosen,
    pub(crate) channel: ChannelIndex,
}

/// What is asked of a provider.
pub(crate) struct Wanted<'a> {
    /// The parameters of `eth_subscribe`.
    pub(crate) params: &'a Bytes,
    /// Whether heads are wanted beside it.
    pub(crate) heads: bool,
    /// The channel that has just failed.
    pub(crate) not: Option<ChannelIndex>,
}

/// A decision about a subscription, until it is known how it ends.
pub(crate) struct Subscribing<'a>(Run<'a>);

/// Why nobody could be subscribed to.
pub(crate) struct NotOpened(Ended);

impl<'a> Subscribing<'a> {
    /// Begins the decision.
    ///
    /// # Errors
    /// It has ended already: the client calls too often.
    pub(crate) fn begin(
        core: &'a Core,
        route: &'a Route<'a>,
        call: &'a Call,
        position: Position,
    ) -> Result<Self, Done> {
        let run = Run::new(core, route, call, position);
        match run.limited() {
            Some(ended) => Err(run.finish(ended)),
            None => Ok(Self(run)),
        }
    }

    /// Tries one provider after the other.
    ///
    /// # Errors
    /// No provider took the subscription.
    pub(crate) async fn open(&mut self, wanted: &Wanted<'_>) -> Result<Opened, NotOpened> {
        let run = &mut self.0;
        let aim = run.aim().map_err(|refusal| NotOpened(Ended::Refused(refusal)))?;
        let mut way = run.way(Aim { transport: Some(Transport::Ws), ..aim });
        way.tried.extend(wanted.not.map(|channel| Tried { channel, reason: ExclusionReason::Tried }));
        loop {
            let kind = if run.look().attempts.is_empty() { AttemptKind::Primary } else { AttemptKind::Failover };
            // A subscription is asked for instead of a call, which is never sent.
            let Some((flight, _call)) = run.start(&mut way, kind) else { break };
            let (began, chosen, channel) = (Instant::now(), flight.chosen.clone(), flight.channel);
            let subscribed = match run.core.upstreams.socket(&chosen.instance_id) {
                Some(socket) => subscribe(&socket, wanted, flight.timeout).await,
                None => Err(SubscribeError::Unreadable),
            };
            let mut is_echo = false;
            let (end, reply, opened) = match subscribed {
                Ok(feeds) => (SUBSCRIBED, None, Some(feeds)),
                Err(error) => {
                    is_echo = error.is_echo();
                    let rules = run.route.chain.providers.iter().find(|provider| provider.id == chosen.provider_id);
                    let end = error.end(rules.map_or(&[], |provider| &provider.capabilities.error_rules));
                    (end, if let SubscribeError::Refused(reply) = error { Some(reply) } else { None }, None)
                }
            };
            run.land(flight, Answer { end, reply, retry_after_ms: None, took: began.elapsed(), is_echo }, &mut way);
            if let Some((feed, heads)) = opened {
                return Ok(Opened { feed, heads, chosen, channel });
            }
            // What the provider says of the parameters is true of all.
            if way.pin.is_some() || end.category.is_some_and(classify::is_the_calls_own) {
                break;
            }
        }
        Err(NotOpened(match way.last {
            Some(answered) => Ended::Replied(Box::new(answered)),
            None => Ended::Refused(Refusal::Exhausted { retry_after_ms: run.retry_after_ms(way.pin) }),
        }))
    }

    /// The first client of a stream gets its subscription.
    pub(crate) fn opened(self, name: &str, chosen: Chosen) -> Done {
        self.0.finish(Ended::Subscribed { name: name.to_owned(), chosen: Some(chosen) })
    }

    /// A further client of a stream gets its own.
    pub(crate) fn joined(self, name: &str) -> Done {
        self.0.finish(Ended::Subscribed { name: name.to_owned(), chosen: None })
    }

    /// The proxy itself knows the answer.
    pub(crate) fn local(self, result: &str) -> Done {
        self.0.finish(Ended::Local(result.to_owned()))
    }

    pub(crate) fn refused(self, refusal: Refusal) -> Done {
        self.0.finish(Ended::Refused(refusal))
    }

    pub(crate) fn failed(self, NotOpened(ended): NotOpened) -> Done {
        self.0.finish(ended)
    }
}

async fn subscribe(
    socket: &Socket,
    wanted: &Wanted<'_>,
    timeout: Duration,
) -> Result<(Feed, Option<Feed>), SubscribeError> {
    let feed = socket.subscribe(wanted.params.clone(), timeout);
    if !wanted.heads {
        return Ok((feed.await?, None));
    }
    // The heads come first: what tells that the feed is alive must not be younger than it.
    let heads = socket.heads(timeout).await?;
    Ok((feed.await?, Some(heads)))
}
