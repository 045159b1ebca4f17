//! The load against receivers that take, refuse, stall and forget.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{TraceService, TraceServiceServer};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTracePartialSuccess, ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use parking_lot::Mutex;
use prost::Message;
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::codec::CompressionEncoding;
use tonic::{Request, Response, Status};

use super::*;

/// What a receiver does to a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mood {
    Take,
    RefuseEveryOther,
    RejectTwoSpans,
    Hang,
    Invalid,
}

/// A receiver that remembers every span, and how often it saw each request.
#[derive(Debug)]
struct Receiver {
    mood: Mood,
    calls: AtomicU64,
    spans: Mutex<HashSet<(Vec<u8>, Vec<u8>)>>,
    requests: Mutex<HashMap<Vec<u8>, u64>>,
}

impl Receiver {
    fn new(mood: Mood) -> Arc<Self> {
        Arc::new(Self { mood, calls: AtomicU64::new(0), spans: Mutex::default(), requests: Mutex::default() })
    }

    fn keep(&self, request: &ExportTraceServiceRequest) {
        let spans = request.resource_spans.iter().flat_map(|r| &r.scope_spans).flat_map(|s| &s.spans);
        self.spans.lock().extend(spans.map(|span| (span.trace_id.clone(), span.span_id.clone())));
    }
}

struct Service(Arc<Receiver>);

#[tonic::async_trait]
impl TraceService for Service {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let receiver = &self.0;
        let call = receiver.calls.fetch_add(1, Ordering::SeqCst);
        let request = request.into_inner();
        *receiver.requests.lock().entry(request.encode_to_vec()).or_default() += 1;
        match receiver.mood {
            Mood::RefuseEveryOther if call.is_multiple_of(2) => return Err(Status::unavailable("full")),
            Mood::Hang => std::future::pending().await,
            Mood::Invalid => return Err(Status::invalid_argument("no")),
            _ => {}
        }
        receiver.keep(&request);
        let rejected = ExportTracePartialSuccess { rejected_spans: 2, error_message: "two".to_owned() };
        let partial_success = (receiver.mood == Mood::RejectTwoSpans).then_some(rejected);
        Ok(Response::new(ExportTraceServiceResponse { partial_success }))
    }
}

async fn grpc(mood: Mood) -> (Arc<Receiver>, String) {
    let receiver = Receiver::new(mood);
    let listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let service = TraceServiceServer::new(Service(Arc::clone(&receiver))).accept_compressed(CompressionEncoding::Gzip);
    let serving =
        tonic::transport::Server::builder().add_service(service).serve_with_incoming(TcpListenerStream::new(listener));
    tokio::spawn(serving);
    (receiver, url)
}

/// The same over HTTP: 503 where gRPC is unavailable.
async fn http(mood: Mood) -> (Arc<Receiver>, String) {
    let receiver = Receiver::new(mood);
    let listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let shared = Arc::clone(&receiver);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let receiver = Arc::clone(&shared);
            let service = service_fn(move |request: http::Request<hyper::body::Incoming>| {
                let receiver = Arc::clone(&receiver);
                async move {
                    assert_eq!(request.uri().path(), "/v1/traces");
                    let gzip = request.headers().contains_key("content-encoding");
                    let body = request.into_body().collect().await?.to_bytes();
                    let call = receiver.calls.fetch_add(1, Ordering::SeqCst);
                    if receiver.mood == Mood::RefuseEveryOther && call.is_multiple_of(2) {
                        let answer = http::Response::builder().status(503).body(Full::default()).unwrap();
                        return Ok::<_, hyper::Error>(answer);
                    }
                    let mut plain = Vec::new();
                    if gzip {
                        std::io::Read::read_to_end(&mut flate2::read::GzDecoder::new(&*body), &mut plain).unwrap();
                    } else {
                        plain.extend_from_slice(&body);
                    }
                    receiver.keep(&ExportTraceServiceRequest::decode(plain.as_slice()).unwrap());
                    Ok(http::Response::new(Full::new(Bytes::new())))
                }
            });
            tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service));
        }
    });
    (receiver, url)
}

fn short(url: String) -> LoadOtlpSettings {
    let mut settings = LoadOtlpSettings::new(url, 10_000.0);
    settings.spans_per_request = 20;
    settings.requests_max = Some(40);
    settings.in_flight = 8;
    settings
}

fn expected(settings: &LoadOtlpSettings, lines: &[LedgerLine]) -> HashSet<(Vec<u8>, Vec<u8>)> {
    let ids = |line: &LedgerLine| {
        let request = line.request;
        assert_eq!(line.first_trace_id, ids::trace_id(settings.spans.seed, request, 0));
        (0..line.spans).map(move |i| {
            (
                ids::trace_id(settings.spans.seed, request, i).to_vec(),
                ids::span_id(settings.spans.seed, request, i).to_vec(),
            )
        })
    };
    lines.iter().flat_map(ids).collect()
}

#[tokio::test]
async fn the_ledger_names_exactly_the_spans_that_the_receiver_took() {
    for protocol in [Protocol::Grpc, Protocol::Http] {
        for gzip in [false, true] {
            let (receiver, url) =
                if protocol == Protocol::Grpc { grpc(Mood::Take).await } else { http(Mood::Take).await };
            let directory = tempfile::tempdir().unwrap();
            let ledger = directory.path().join("ledger");
            let settings = LoadOtlpSettings { protocol, gzip, ledger: Some(ledger.clone()), ..short(url) };
            let report = run(settings.clone()).await.unwrap();
            assert_eq!((report.acknowledged, report.spans_acknowledged), (40, 800), "{report:?}");
            let lines = ledger::read(&ledger).unwrap();
            assert_eq!(lines.len(), 40);
            assert_eq!(*receiver.spans.lock(), expected(&settings, &lines), "{protocol:?} gzip {gzip}");
        }
    }
}

#[tokio::test]
async fn a_retry_sends_the_same_bytes_until_they_are_taken() {
    let (receiver, url) = grpc(Mood::RefuseEveryOther).await;
    let report = run(short(url)).await.unwrap();
    assert_eq!((report.acknowledged, report.refused, report.given_up), (40, 0, 0), "{report:?}");
    assert!(report.retries >= 40, "{report:?}");
    // Had a retry differed, there would be more bodies than requests.
    assert_eq!(receiver.requests.lock().len(), 40);
    assert_eq!(receiver.spans.lock().len(), 800);
    let (receiver, url) = http(Mood::RefuseEveryOther).await;
    let report = run(LoadOtlpSettings { protocol: Protocol::Http, ..short(url) }).await.unwrap();
    assert_eq!((report.acknowledged, receiver.spans.lock().len()), (40, 800), "{report:?}");
}

#[tokio::test]
async fn rejected_spans_are_counted_and_an_invalid_request_is_not_sent_again() {
    let (_, url) = grpc(Mood::RejectTwoSpans).await;
    let report = run(short(url)).await.unwrap();
    assert_eq!((report.acknowledged, report.spans_rejected), (40, 80));
    let (receiver, url) = grpc(Mood::Invalid).await;
    let report = run(short(url)).await.unwrap();
    assert_eq!((report.refused, report.retries, receiver.calls.load(Ordering::SeqCst)), (40, 0, 40));
    assert!(report.first_refusal.is_some_and(|why| why.contains("grpc-status 3")));
}

#[tokio::test]
async fn a_receiver_that_hangs_does_not_slow_the_requests_that_follow() {
    let (receiver, url) = grpc(Mood::Hang).await;
    let mut settings = short(url);
    settings.in_flight = 40;
    settings.timeout = Duration::from_secs(20);
    settings.give_up = Duration::from_secs(20);
    let load = tokio::spawn(run(settings));
    let started = Instant::now();
    while receiver.calls.load(Ordering::SeqCst) < 40 {
        assert!(started.elapsed() < Duration::from_secs(15), "only {} came", receiver.calls.load(Ordering::SeqCst));
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    load.abort();
}

#[tokio::test]
async fn a_receiver_that_is_away_for_a_while_gets_everything_in_the_end() {
    let (receiver, url) = grpc(Mood::Take).await;
    let target = Target::parse(&url).unwrap().authority;
    let relay = crate::relay::start(SocketAddr::from(([127, 0, 0, 1], 0)), &target).await.unwrap();
    relay.set_faults(crate::relay::RelayFaults { refuse: true, ..Default::default() });
    let load = tokio::spawn(run(short(format!("http://{}", relay.address()))));
    let started = Instant::now();
    while relay.counts().refused < 8 {
        assert!(started.elapsed() < Duration::from_secs(30));
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    relay.set_faults(crate::relay::RelayFaults::default());
    let report = load.await.unwrap().unwrap();
    assert_eq!((report.acknowledged, receiver.spans.lock().len()), (40, 800), "{report:?}");
    assert!(report.retries >= 8, "{report:?}");
}

#[test]
fn a_token_is_not_printed() {
    let settings = LoadOtlpSettings { token: Some("hush".to_owned()), ..LoadOtlpSettings::new("http://h:1", 1.0) };
    assert!(!format!("{settings:?}").contains("hush"));
}
