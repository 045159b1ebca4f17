//! The live feed: what the nodes tell as it happens, merged, deduplicated and passed to browsers as server-sent events. It
//! shows kept decisions and changes of state; it is not the record. What it leaves out it says (`gap`), and what it showed
//! can be looked up by id afterwards.
//!
//! Every queue on the way is bounded and no node waits for a viewer: a slow one loses events and is told how many.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Instant;

use axum::Router;
use axum::extract::{RawQuery, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use axum::response::sse::{Event, Sse};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use futures::StreamExt as _;
use lariat_schema::coverage::Coverage;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::ask::Ask;
use crate::reports::failure::Failure;

mod backfill;
mod batch;
mod cursor;
mod hub;
mod seen;
mod source;
mod stream;
mod topic;

#[cfg(test)]
mod tests;

pub use hub::FeedFigures;

use hub::Hub;
use topic::{BadSubscription, Subscription};

/// Where a node's live stream is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct NodeAddress {
    /// Its name, as in its own events.
    pub node_id: String,
    /// Its region.
    pub region: String,
    /// Base of its node API, as `http://127.0.0.1:4319`.
    pub base_url: String,
}

/// What the feed needs of the topology.
pub trait NodeDirectory: Send + Sync + 'static {
    /// The nodes to listen to: those that are ready.
    fn nodes(&self) -> Vec<NodeAddress>;
    /// The coverage of this moment.
    fn coverage(&self) -> Coverage;
    /// The cluster token, if there is one.
    fn token(&self) -> Option<Arc<str>>;
    /// Changes its value whenever `nodes` or a node's state in `coverage` may have changed.
    fn changes(&self) -> watch::Receiver<u64>;
}

/// The running feed; dropping the last clone ends the readers.
#[derive(Clone)]
pub struct Feed {
    hub: Arc<Hub>,
    directory: Arc<dyn NodeDirectory>,
    _follower: Arc<AbortOnDropHandle<()>>,
}

impl Feed {
    /// Figures for the service's own metrics.
    #[must_use]
    pub fn figures(&self) -> FeedFigures {
        self.hub.figures()
    }
}

/// Starts to listen to the directory's nodes. Must be called inside a tokio runtime.
pub fn start(directory: Arc<dyn NodeDirectory>) -> Feed {
    let hub = Arc::new(Hub::new(rand::random()));
    let follower = tokio::spawn(source::follow(Arc::clone(&directory), Arc::clone(&hub)));
    Feed { hub, directory, _follower: Arc::new(AbortOnDropHandle::new(follower)) }
}

/// `GET /api/v1/stream`. `ask` is for what happened before this process listened.
/// Streams end with `stop`.
pub fn router(feed: Feed, ask: Arc<dyn Ask>, stop: CancellationToken) -> Router {
    Router::new().route("/api/v1/stream", get(subscribe)).with_state((feed, ask, stop))
}

impl From<BadSubscription> for Failure {
    fn from(error: BadSubscription) -> Self {
        Self::bad_request(error.to_string())
    }
}

async fn subscribe(
    State((feed, ask, stop)): State<(Feed, Arc<dyn Ask>, CancellationToken)>,
    headers: HeaderMap,
    RawQuery(query): RawQuery,
) -> Result<Response, Failure> {
    let subscription = Subscription::parse(&query.unwrap_or_default())?;
    let last = headers.get("last-event-id").and_then(|value| value.to_str().ok());
    let mut joined = feed.hub.join(subscription.clone(), last, Instant::now()).ok_or_else(|| {
        Failure::busy("there are too many live subscribers").with_hint("close another one or try again later")
    })?;
    backfill::backfill(&*ask, &subscription, &mut joined).await;
    let messages = stream::messages(&*feed.directory, joined).take_until(stop.cancelled_owned());
    // The stream holds the feed: it goes on for as long as somebody listens.
    let events = messages.map(move |message| {
        let _held = &feed;
        Ok::<Event, Infallible>(message.into())
    });
    // Buffering proxies would hold events back until their buffer is full.
    let unbuffered = (HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"));
    Ok(([unbuffered], Sse::new(events)).into_response())
}
