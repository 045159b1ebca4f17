//! What a question may cost, and how many one caller may ask at a time.
//!
//! A service that looks at production must not be brought down by a look: each question has bounds of its own, so that one
//! that is too large fails alone, and each caller has places of its own, so that one who asks much waits for himself. Who
//! finds no place waits a moment first, since a dashboard asks a dozen questions at once, and is then told to come back.
//!
//! A caller is the address that a connection comes from. A token would be the better name, but as long as nobody checks
//! tokens, whoever wants more places would invent some.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::body::Body;
use axum::extract::{ConnectInfo, Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http_body_util::BodyExt;
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::api::ApiError;
use crate::ask::AskError;

/// Default of `query.max_rows`: what a spreadsheet takes.
pub(crate) const DEFAULT_MAX_ROWS: usize = 1_000_000;
/// Default of `query.max_query_bytes`: a quarter of what all questions have.
pub(crate) const DEFAULT_MAX_QUERY_BYTES: usize = 256 * 1024 * 1024;
/// Default of `query.max_scan_bytes`: some weeks of a busy fleet; beyond it a question is rather a mistake.
pub(crate) const DEFAULT_MAX_SCAN_BYTES: u64 = 1 << 40;
/// Default of `query.max_questions_per_caller`: two dashboards at once.
pub(crate) const DEFAULT_MAX_PER_CALLER: usize = 16;

/// Questions of one caller that wait for a place, for each place: a page of panels that all ask at once.
const WAITING_PER_PLACE: usize = 4;
/// How long they wait.
const MAX_WAIT: Duration = Duration::from_secs(2);

/// The bounds of one question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Limits {
    /// Rows of an answer that is complete before its first byte.
    pub(crate) max_rows: usize,
    /// Memory of such an answer, and of everything that is merged for it.
    pub(crate) max_query_bytes: usize,
    /// Bytes of files that it may have read.
    pub(crate) max_scan_bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_rows: DEFAULT_MAX_ROWS,
            max_query_bytes: DEFAULT_MAX_QUERY_BYTES,
            max_scan_bytes: DEFAULT_MAX_SCAN_BYTES,
        }
    }
}

/// The places of all callers. Only those who are asking are remembered.
#[derive(Debug)]
pub struct Callers {
    places: usize,
    asking: Mutex<HashMap<IpAddr, Asking>>,
    refused: AtomicU64,
}

#[derive(Debug)]
struct Asking {
    places: Arc<Semaphore>,
    questions: usize,
}

/// A place, until it is dropped.
#[derive(Debug)]
pub struct Place {
    callers: Arc<Callers>,
    caller: IpAddr,
    permit: Option<OwnedSemaphorePermit>,
}

impl Callers {
    pub(crate) fn new(places: usize) -> Arc<Self> {
        Arc::new(Self { places: places.max(1), asking: Mutex::default(), refused: AtomicU64::new(0) })
    }

    /// Questions refused for want of a place (I-8).
    pub(crate) fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    /// A place for a question of this caller; waits a moment where all are taken.
    ///
    /// # Errors
    /// [`AskError::TooMany`] where none became free.
    pub async fn enter(self: &Arc<Self>, caller: IpAddr) -> Result<Place, AskError> {
        let places = {
            let mut asking = self.asking.lock();
            let places = || Arc::new(Semaphore::new(self.places));
            let of = asking.entry(caller).or_insert_with(|| Asking { places: places(), questions: 0 });
            of.questions += 1;
            (of.questions <= self.places * (1 + WAITING_PER_PLACE)).then(|| Arc::clone(&of.places))
        };
        // From here on the drop of the place counts the question down, also if the wait is given up.
        let mut place = Place { callers: Arc::clone(self), caller, permit: None };
        if let Some(places) = places {
            place.permit = tokio::time::timeout(MAX_WAIT, places.acquire_owned()).await.ok().and_then(Result::ok);
        }
        if place.permit.is_none() {
            self.refused.fetch_add(1, Ordering::Relaxed);
            return Err(AskError::TooMany { limit: self.places });
        }
        Ok(place)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut asking = self.callers.asking.lock();
        if let Some(of) = asking.get_mut(&self.caller) {
            of.questions -= 1;
            if of.questions == 0 {
                asking.remove(&self.caller);
            }
        }
    }
}

/// Lets a request pass when its caller has a place, which it keeps until the last byte of its answer.
pub(crate) async fn by_caller(State(callers): State<Arc<Callers>>, request: Request, next: Next) -> Response {
    // Without an address it does not come over a socket.
    let Some(ConnectInfo(peer)) = request.extensions().get::<ConnectInfo<SocketAddr>>().copied() else {
        return next.run(request).await;
    };
    match callers.enter(peer.ip()).await {
        Ok(place) => next.run(request).await.map(|body| {
            Body::new(body.map_frame(move |frame| {
                let _held = &place;
                frame
            }))
        }),
        Err(refused) => ApiError::from(refused).into_response(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 1));
    const OTHER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 2));

    #[tokio::test(start_paused = true)]
    async fn who_asks_too_much_waits_is_refused_and_holds_nobody_else_up() {
        let callers = Callers::new(2);
        let first = callers.enter(ONE).await.unwrap();
        let _second = callers.enter(ONE).await.unwrap();
        assert!(matches!(callers.enter(ONE).await, Err(AskError::TooMany { limit: 2 })));
        assert_eq!(callers.refused(), 1);
        callers.enter(OTHER).await.unwrap();
        let (third, ()) = tokio::join!(callers.enter(ONE), async { drop(first) });
        third.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn callers_who_no_longer_ask_are_forgotten_also_those_who_gave_up() {
        let callers = Callers::new(1);
        let place = callers.enter(ONE).await.unwrap();
        assert!(tokio::time::timeout(Duration::from_millis(1), callers.enter(ONE)).await.is_err());
        drop(place);
        assert!(callers.asking.lock().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn beyond_those_that_may_wait_a_question_is_refused_at_once() {
        let callers = Callers::new(1);
        let _place = callers.enter(ONE).await.unwrap();
        let waiting: Vec<_> = (0..WAITING_PER_PLACE)
            .map(|_| {
                tokio::spawn({
                    let callers = Arc::clone(&callers);
                    async move { callers.enter(ONE).await }
                })
            })
            .collect();
        tokio::task::yield_now().await;
        let since = tokio::time::Instant::now();
        assert!(callers.enter(ONE).await.is_err());
        assert_eq!(since.elapsed(), Duration::ZERO);
        for waiting in waiting {
            assert!(waiting.await.unwrap().is_err());
        }
    }
}
