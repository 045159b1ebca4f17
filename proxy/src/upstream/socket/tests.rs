//! A kept connection before simulated providers, before servers that break every rule, and over pipes with waits that are only noted.

use std::future::Future;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Instant;

use futures::{SinkExt, StreamExt};
use lariat_schema::vocabulary::{Outcome, Transport};
use lariat_tools::chain::{Chain, ChainSettings};
use lariat_tools::provider::behaviour::{Behaviour, Fault};
use lariat_tools::provider::{Provider, ProviderHandle, ProviderSettings};
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::net::TcpListener;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::Role;

use super::*;
use crate::profiles::{self, Catalog};
use crate::reply_budget::ReplyBudget;
use crate::upstream::{Trust, Upstreams, attempt};

const SOON: Duration = Duration::from_secs(10);

fn catalog(ws_url: &str) -> Catalog {
    let text = format!(
        "chains:\n  e:\n    chain_id: 1\n    monitoring: {{ probe_interval_ms: 1000 }}\n    providers:\n      - {{ id: a, ws_url: '{ws_url}', headers: {{ x-key: s3cret }} }}\n"
    );
    profiles::parse("public", &text, &|_| None).unwrap()
}

struct Fleet {
    upstreams: Upstreams,
    catalog: Catalog,
}

impl Fleet {
    fn before(ws_url: &str) -> Self {
        let catalog = catalog(ws_url);
        let (replies, stop) = (ReplyBudget::default(), CancellationToken::new());
        Self { upstreams: Upstreams::new(&catalog, Trust::default(), replies, stop).unwrap(), catalog }
    }

    fn socket(&self) -> Socket {
        self.upstreams.socket(&self.catalog.instances[0].id).unwrap()
    }

    async fn state(&self, wanted: impl Fn(&State) -> bool) -> State {
        let mut states = self.socket().link().states();
        tokio::time::timeout(SOON, states.wait_for(wanted)).await.unwrap().unwrap().clone()
    }

    async fn connected(&self) {
        self.state(|state| matches!(state, State::Connected(_))).await;
    }

    async fn call(&self, id: u64, method: &str, timeout: Duration) -> Answer {
        let payload = format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"{method}","params":[]}}"#);
        let outgoing = Outgoing { payload: payload.into(), id, trace: None };
        attempt(&self.upstreams, (0, &self.catalog.instances[0]), Transport::Ws, &[], outgoing, timeout).await
    }
}

async fn provider(faults: Option<Fault>) -> (Arc<Chain>, ProviderHandle) {
    let chain = Arc::new(Chain::manual(ChainSettings::default()));
    let mut settings = ProviderSettings::new("a", chain.clone());
    if let Some(fault) = faults {
        settings = settings.behaving(Behaviour::always(fault));
    }
    (chain, Provider::start(settings).await.unwrap())
}

fn told(answer: &Answer) -> (Option<ErrorCategory>, Dispatched) {
    (answer.end.category, answer.end.dispatched)
}

async fn eventually(what: &str, condition: impl Fn() -> bool) {
    let until = Instant::now() + SOON;
    while !condition() {
        assert!(Instant::now() < until, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn calls_get_their_own_replies_however_many_are_under_way() {
    let (_, provider) = provider(None).await;
    let fleet = Fleet::before(&provider.ws_url());
    fleet.connected().await;
    let calls = (1..=200).map(|id| fleet.call(id, if id % 2 == 0 { "eth_chainId" } else { "net_version" }, SOON));
    for (at, answer) in futures::future::join_all(calls).await.into_iter().enumerate() {
        let result = answer.reply.unwrap().result.unwrap();
        assert_eq!(&*result, if at % 2 == 1 { b"\"0x1\"".as_slice() } else { b"\"1\"".as_slice() });
        assert_eq!((answer.end.outcome, answer.end.http_status), (Outcome::Success, None));
    }
    assert_eq!(provider.stats().connections, 1);
}

#[tokio::test]
async fn a_connection_that_drops_ends_its_calls_at_once_and_says_which_may_have_been_sent() {
    let (_, provider) = provider(Some(Fault::Hang)).await;
    let fleet = Fleet::before(&provider.ws_url());
    fleet.connected().await;
    let calls = futures::future::join_all((1..=5).map(|id| fleet.call(id, "eth_call", SOON)));
    let drop = async {
        eventually("the calls at the provider", || provider.received_of("eth_call") == 5).await;
        provider.go_down();
    };
    let began = Instant::now();
    let (answers, ()) = futures::future::join(calls, drop).await;
    assert!(began.elapsed() < SOON);
    for answer in answers {
        assert_eq!(told(&answer), (Some(ErrorCategory::NetworkError), Dispatched::Indeterminate));
    }
    fleet.state(|state| matches!(state, State::Lost(Lost::Broken | Lost::Closed))).await;
    let answer = fleet.call(6, "eth_call", SOON).await;
    assert_eq!(told(&answer), (Some(ErrorCategory::NetworkError), Dispatched::NotDispatched));
}

#[tokio::test]
async fn a_provider_that_never_answers_costs_its_callers_their_time_and_no_place() {
    let (_, provider) = provider(Some(Fault::Hang)).await;
    let fleet = Fleet::before(&provider.ws_url());
    fleet.connected().await;
    let calls = (0..=MAX_PENDING as u64).map(|id| fleet.call(id, "eth_call", Duration::from_millis(500)));
    let answers = futures::future::join_all(calls).await;
    let refused: Vec<_> = answers.iter().filter(|it| it.end.category == Some(ErrorCategory::LocalCapacity)).collect();
    assert_eq!(refused.len(), 1, "one more than may wait");
    assert_eq!(refused[0].end.dispatched, Dispatched::NotDispatched);
    assert_eq!(answers.iter().filter(|it| it.end.category == Some(ErrorCategory::Timeout)).count(), MAX_PENDING);
    assert_eq!(fleet.socket().link().view(), LinkView { connected: true, full: false });
    assert_eq!(fleet.upstreams.counts.refused.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn garbage_and_replies_to_nobody_have_a_class_and_end_the_connection_in_bounded_time() {
    let (_, garbage) = provider(Some(Fault::Garbage)).await;
    let fleet = Fleet::before(&garbage.ws_url());
    fleet.connected().await;
    let answer = fleet.call(1, "eth_call", SOON).await;
    assert_eq!(told(&answer), (Some(ErrorCategory::InvalidResponse), Dispatched::Indeterminate));

    let (_, foreign) = provider(Some(Fault::WrongId)).await;
    let fleet = Fleet::before(&foreign.ws_url());
    fleet.connected().await;
    let answer = fleet.call(1, "eth_call", Duration::from_millis(100)).await;
    assert_eq!(told(&answer), (Some(ErrorCategory::Timeout), Dispatched::Indeterminate));
    let calls = futures::future::join_all((2..=200).map(|id| fleet.call(id, "eth_call", SOON))).await;
    assert!(calls.iter().all(|it| it.end.category == Some(ErrorCategory::InvalidResponse)));
    fleet.state(|state| *state == State::Lost(Lost::Garbage)).await;
}

#[tokio::test]
async fn a_frame_above_the_bound_is_refused_by_its_header() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("ws://{}", listener.local_addr().unwrap());
    let serving = tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let mut server = tokio_tungstenite::accept_async(stream).await.unwrap();
        server.next().await.unwrap().unwrap();
        let mut stream = server.into_inner();
        // A text frame that says it is a tebibyte long.
        stream.write_all(&[0x81, 127, 0, 0, 1, 0, 0, 0, 0, 0]).await.unwrap();
        let mut rest = Vec::new();
        let _read = stream.read_to_end(&mut rest).await;
    });
    let fleet = Fleet::before(&url);
    fleet.connected().await;
    let answer = fleet.call(1, "eth_call", SOON).await;
    assert_eq!(told(&answer), (Some(ErrorCategory::InvalidResponse), Dispatched::Indeterminate));
    fleet.state(|state| *state == State::Lost(Lost::TooLarge)).await;
    serving.await.unwrap();
}

#[tokio::test]
async fn a_refused_handshake_is_classed_and_the_instances_headers_are_on_it() {
    for (status, category, retry_after_ms) in [
        ("401 Unauthorized", ErrorCategory::AuthError, None),
        ("403 Forbidden", ErrorCategory::AuthError, None),
        ("429 Too Many Requests\r\nRetry-After: 7", ErrorCategory::RateLimit, Some(7_000)),
        ("503 Service Unavailable", ErrorCategory::ServerError, None),
        ("200 OK", ErrorCategory::InvalidResponse, None),
        ("no HTTP at all", ErrorCategory::InvalidResponse, None),
    ] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("ws://{}/v1", listener.local_addr().unwrap());
        let asked = Arc::new(Mutex::new(Vec::new()));
        let seen = asked.clone();
        let serving = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut head = [0; 4_096];
            let read = stream.read(&mut head).await.unwrap();
            seen.lock().extend_from_slice(&head[..read]);
            let reply = format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n");
            stream.write_all(reply.as_bytes()).await.unwrap();
        });
        let fleet = Fleet::before(&url);
        let state = fleet.state(|state| matches!(state, State::Refused(_))).await;
        let State::Refused(error) = state else { panic!("{state:?}") };
        assert_eq!((error.category, error.retry_after_ms), (category, retry_after_ms), "{status}");
        serving.await.unwrap();
        let head = String::from_utf8(asked.lock().clone()).unwrap().to_lowercase();
        assert!(head.contains("x-key: s3cret") && head.starts_with("get /v1 "), "{head}");
    }
}

#[tokio::test]
async fn a_feed_gives_every_event_in_order_and_ends_with_its_connection() {
    let (chain, provider) = provider(None).await;
    let fleet = Fleet::before(&provider.ws_url());
    fleet.connected().await;
    let params = Bytes::from_static(b"[\"newHeads\"]");
    let mut feed = fleet.socket().subscribe(params.clone(), SOON).await.ok().unwrap();
    let dropped = fleet.socket().subscribe(params, SOON).await.ok().unwrap();
    chain.advance(3);
    for above in 1..=3 {
        let event = tokio::time::timeout(SOON, feed.next()).await.unwrap().unwrap();
        let head: serde_json::Value = serde_json::from_slice(&event).unwrap();
        assert_eq!(head["number"], format!("{:#x}", ChainSettings::default().start_height + above));
    }
    drop(dropped);
    eventually("the end of the other subscription", || provider.received_of("eth_unsubscribe") == 1).await;
    provider.go_down();
    assert!(tokio::time::timeout(SOON, feed.next()).await.unwrap().is_none());
}

#[tokio::test]
async fn a_subscription_that_is_refused_says_so_with_the_providers_reply() {
    let (_, provider) = provider(None).await;
    let fleet = Fleet::before(&provider.ws_url());
    fleet.connected().await;
    let refused = fleet.socket().subscribe(Bytes::from_static(b"[\"moons\"]"), SOON).await.err().unwrap();
    assert!(matches!(refused, SubscribeError::Refused(_)), "{refused:?}");
    let end = refused.end(&[]);
    assert_eq!((end.category, end.code), (Some(ErrorCategory::InvalidParams), Some(-32602)));
    provider.go_down();
    fleet.state(|state| matches!(state, State::Lost(_))).await;
    let refused = fleet.socket().subscribe(Bytes::from_static(b"[\"newHeads\"]"), SOON).await.err().unwrap();
    assert_eq!(refused.end(&[]).dispatched, Dispatched::NotDispatched);
}

#[tokio::test]
async fn a_catalog_that_keeps_an_instance_keeps_its_connection_and_one_that_does_not_ends_it() {
    let (_, provider) = provider(None).await;
    let Fleet { upstreams, catalog: same } = Fleet::before(&provider.ws_url());
    let second = Fleet { upstreams: upstreams.succeed(&same), catalog: same };
    drop(upstreams);
    second.connected().await;
    assert!(second.call(1, "eth_call", SOON).await.end.category.is_some(), "no parameters");
    let mut states = second.socket().link().states();
    let other = catalog("ws://127.0.0.1:9");
    let third = second.upstreams.succeed(&other);
    assert!(third.socket(&second.catalog.instances[0].id).is_none());
    drop(second);
    // The task that kept the connection drops its end of the channel.
    while states.changed().await.is_ok() {}
    assert_eq!(provider.stats().connections, 1);
}

/// Connections over pipes, of which so many are `left`; the first `rests` waits are noted and not waited for.
struct Pipes {
    rests: usize,
    waits: Arc<Mutex<Vec<Duration>>>,
    left: AtomicU32,
    servers: mpsc::UnboundedSender<WebSocketStream<DuplexStream>>,
}

impl dial::Dial for Pipes {
    const PING_EVERY: Duration = Duration::from_millis(50);
    type Stream = DuplexStream;

    async fn dial(&self) -> Result<WebSocketStream<DuplexStream>, DialError> {
        if self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_err() {
            let category = ErrorCategory::NetworkError;
            return Err(DialError { category, failure: None, http_status: None, retry_after_ms: None });
        }
        let (ours, theirs) = tokio::io::duplex(64 * 1024);
        let _unread = self.servers.send(WebSocketStream::from_raw_socket(theirs, Role::Server, None).await);
        Ok(WebSocketStream::from_raw_socket(ours, Role::Client, Some(dial::config())).await)
    }

    fn rest(&self, wait: Duration) -> impl Future<Output = ()> + Send {
        let mut waits = self.waits.lock();
        waits.push(wait);
        let enough = waits.len() > self.rests;
        async move {
            if enough {
                std::future::pending::<()>().await;
            }
        }
    }
}

type Servers = mpsc::UnboundedReceiver<WebSocketStream<DuplexStream>>;

fn piped(connections: u32, rests: usize) -> (Socket, Arc<Mutex<Vec<Duration>>>, Servers) {
    let (servers, made) = mpsc::unbounded_channel();
    let waits = Arc::new(Mutex::new(Vec::new()));
    let pipes = Pipes { rests, waits: waits.clone(), left: AtomicU32::new(connections), servers };
    let link = Arc::new(Link::new(Arc::default()));
    let (outbox, frames) = mpsc::channel(OUTBOX);
    tokio::spawn(keep::keep(link.clone(), pipes, frames, Duration::ZERO));
    (Socket { link, outbox, over_tls: false, heads: Arc::default() }, waits, made)
}

#[tokio::test]
async fn a_provider_that_flaps_or_is_away_is_connected_to_ever_later() {
    for connections in [0, 1, 1_000] {
        let (_socket, waits, mut made) = piped(connections, 20);
        let flapping = tokio::spawn(async move {
            while let Some(server) = made.recv().await {
                drop(server);
            }
        });
        eventually("twenty waits", || waits.lock().len() > 20).await;
        let waits = waits.lock().clone();
        for (wait, least) in waits.iter().zip([0, 5, 10, 15, 20, 25, 30, 30, 30]) {
            let least = Duration::from_secs(least);
            assert!(*wait >= least && *wait <= least + Duration::from_secs(1), "{waits:?}");
        }
        flapping.abort();
    }
}

#[tokio::test]
async fn pings_that_are_answered_keep_a_connection_and_a_missed_pong_ends_it() {
    let (socket, _waits, mut made) = piped(1, 1);
    let mut server = made.recv().await.unwrap();
    let mut states = socket.link().states();
    let mut pings = 0;
    while pings < 5 {
        // Reading is what answers a ping.
        let message = tokio::time::timeout(SOON, server.next()).await.unwrap().unwrap().unwrap();
        pings += usize::from(matches!(message, Message::Ping(_)));
        server.flush().await.unwrap();
    }
    assert!(socket.is_connected());
    // The server is held, but neither reads nor answers.
    let lost = tokio::time::timeout(SOON, states.wait_for(|state| matches!(state, State::Lost(_)))).await;
    assert_eq!(*lost.unwrap().unwrap(), State::Lost(Lost::Silent));
    drop(server);
}
