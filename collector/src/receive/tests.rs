//! The receiver over real sockets.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_client::TraceServiceClient;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue, any_value};
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span};
use parking_lot::Mutex;
use prost::Message;
use tonic::Code;
use tonic::codec::CompressionEncoding;
use tonic::transport::Channel;

use super::refusal::{RetryInfo, RpcStatus};
use super::*;
use crate::decode::Decoded;
use crate::held::Part;
use crate::ingest::{Committed, Refused};

mod conformance;
mod ending;
mod json;
mod over_http;
mod windows;

/// Collects what it is given, or refuses as told.
#[derive(Default)]
struct Collecting {
    requests: Mutex<Vec<Decoded>>,
    refusal: Option<Refused>,
    /// Refuses before a request is decoded.
    full: Option<Refused>,
}

#[async_trait]
impl Ingest for Collecting {
    fn has_room(&self, _: usize) -> Result<(), Refused> {
        self.full.clone().map_or(Ok(()), Err)
    }

    async fn ingest(&self, decoded: Decoded) -> Result<Committed, Refused> {
        if let Some(refusal) = &self.refusal {
            return Err(refusal.clone());
        }
        let accepted = decoded.batch.num_rows() as u64;
        self.requests.lock().push(decoded);
        Ok(Committed { accepted, deduplicated: 0 })
    }
}

impl Collecting {
    fn rows(&self) -> usize {
        self.requests.lock().iter().map(|decoded| decoded.batch.num_rows()).sum()
    }
}

fn config() -> Config {
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    Config { otlp_grpc: any, otlp_http: any, ..Config::default() }
}

async fn running(refusal: Option<Refused>) -> (Receiver, Arc<Collecting>) {
    let ingest = Arc::new(Collecting { refusal, ..Collecting::default() });
    let receiver = start(config(), Arc::clone(&ingest) as Arc<dyn Ingest>, None).await.unwrap();
    (receiver, ingest)
}

fn span(nth: u64, text: &str) -> Span {
    Span {
        trace_id: u128::from(nth + 1).to_be_bytes().to_vec(),
        span_id: (nth + 1).to_be_bytes().to_vec(),
        name: "eth_call".to_owned(),
        kind: 2,
        start_time_unix_nano: 1_760_000_000_000_000_000 + nth,
        end_time_unix_nano: 1_760_000_000_001_000_000 + nth,
        attributes: vec![KeyValue {
            key: "text".to_owned(),
            value: Some(AnyValue { value: Some(any_value::Value::StringValue(text.to_owned())) }),
            ..KeyValue::default()
        }],
        ..Span::default()
    }
}

fn request(spans: Vec<Span>) -> ExportTraceServiceRequest {
    let scope_spans = vec![ScopeSpans { spans, ..ScopeSpans::default() }];
    ExportTraceServiceRequest { resource_spans: vec![ResourceSpans { scope_spans, ..ResourceSpans::default() }] }
}

async fn client(receiver: &Receiver) -> TraceServiceClient<Channel> {
    TraceServiceClient::connect(format!("http://{}", receiver.grpc_address())).await.unwrap()
}

#[tokio::test]
async fn spans_over_grpc_are_acknowledged_in_every_compression() {
    let (receiver, ingest) = running(None).await;
    let plain = client(&receiver).await;
    let clients = [
        plain.clone(),
        plain.clone().send_compressed(CompressionEncoding::Gzip),
        plain.send_compressed(CompressionEncoding::Zstd),
    ];
    for (nth, mut client) in clients.into_iter().enumerate() {
        let answer = client.export(request(vec![span(nth as u64, "x")])).await.unwrap();
        assert_eq!(answer.into_inner().partial_success, None);
    }
    assert_eq!(ingest.rows(), 3);
    assert_eq!(receiver.counters().counts().requests, 3);
    assert!(receiver.shutdown(Duration::from_secs(30)).await);
}

#[tokio::test]
async fn a_request_of_a_mebibyte_arrives_whole_over_grpc() {
    let (receiver, ingest) = running(None).await;
    let spans: Vec<_> = (0..2_000).map(|nth| span(nth, &"x".repeat(600))).collect();
    let request = request(spans);
    assert!(request.encoded_len() > 1 << 20);
    for compressed in [false, true] {
        let mut client = client(&receiver).await;
        if compressed {
            client = client.send_compressed(CompressionEncoding::Gzip);
        }
        client.export(request.clone()).await.unwrap();
    }
    assert_eq!(ingest.rows(), 4_000);
    assert_eq!(receiver.in_flight_bytes(), 0);
    let seen = ingest.requests.lock();
    assert_eq!(seen[0].fingerprint, seen[1].fingerprint);
}

#[tokio::test]
async fn each_connection_counts_as_a_frame_until_it_ends() {
    let (receiver, _) = running(None).await;
    let counters = receiver.counters();
    let mut clients = [client(&receiver).await, client(&receiver).await];
    for (nth, client) in (0..).zip(&mut clients) {
        client.export(request(vec![span(nth, "x")])).await.unwrap();
    }
    assert_eq!(counters.held.of(Part::Connections), 2 * (64 << 10));
    assert!(receiver.shutdown(Duration::from_secs(30)).await);
    assert_eq!(counters.held.of(Part::Connections), 0);
}

#[tokio::test]
async fn a_bad_span_costs_itself_and_is_reported() {
    let (receiver, ingest) = running(None).await;
    let mut zero = span(1, "x");
    zero.trace_id = vec![0; 16];
    let answer = client(&receiver).await.export(request(vec![span(0, "x"), zero])).await.unwrap().into_inner();
    let partial = answer.partial_success.unwrap();
    assert_eq!(partial.rejected_spans, 1);
    assert!(partial.error_message.contains("trace id"), "{}", partial.error_message);
    assert_eq!(ingest.rows(), 1);
    assert_eq!(receiver.counters().counts().rejected_spans, 1);
}

#[tokio::test]
async fn what_a_retry_cures_is_unavailable_with_a_moment_of_return() {
    let retry_after = Duration::from_millis(1_500);
    let overloaded = Refused::Overloaded { retry_after };
    let not_durable = Refused::NotDurable { reason: "disk full".to_owned(), retry_after };
    for refusal in [overloaded, not_durable] {
        let (receiver, _) = running(Some(refusal)).await;
        let status = client(&receiver).await.export(request(vec![span(0, "x")])).await.unwrap_err();
        assert_eq!(status.code(), Code::Unavailable);
        let details = RpcStatus::decode(status.details()).unwrap();
        assert_eq!(details.details[0].type_url, "type.googleapis.com/google.rpc.RetryInfo");
        let delay = RetryInfo::decode(&details.details[0].value[..]).unwrap().retry_delay.unwrap();
        assert_eq!((delay.seconds, delay.nanos), (1, 500_000_000));
        let counts = receiver.counters().counts();
        assert_eq!((counts.requests, counts.refused_requests), (0, 1));
        assert!(counts.refused_bytes > 0);
    }
}

#[tokio::test]
async fn a_message_beyond_the_limit_is_refused_for_good_before_it_is_read() {
    let (receiver, ingest) = running(None).await;
    let huge = request(vec![span(0, &"x".repeat(17 << 20))]);
    let status = client(&receiver).await.export(huge).await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted);
    assert!(status.message().contains("on the wire"), "{}", status.message());
    assert!(status.details().is_empty());
    assert_eq!(ingest.rows(), 0);
    assert!(receiver.counters().counts().refused_bytes < 8 << 20);
}

#[tokio::test]
async fn an_unknown_service_is_unimplemented() {
    use opentelemetry_proto::tonic::collector::trace::v1::{ExportTraceServiceRequest, ExportTraceServiceResponse};
    let (receiver, _) = running(None).await;
    let channel = Channel::from_shared(format!("http://{}", receiver.grpc_address())).unwrap().connect().await.unwrap();
    let mut grpc = tonic::client::Grpc::new(channel);
    grpc.ready().await.unwrap();
    let codec = tonic_prost::ProstCodec::<ExportTraceServiceRequest, ExportTraceServiceResponse>::default();
    let path = http_path("/opentelemetry.proto.collector.profiles.v1.ProfilesService/Export");
    let status = grpc.unary(tonic::Request::new(request(vec![])), path, codec).await.unwrap_err();
    assert_eq!(status.code(), Code::Unimplemented);
}

fn http_path(path: &'static str) -> ::http::uri::PathAndQuery {
    ::http::uri::PathAndQuery::from_static(path)
}

#[tokio::test]
async fn a_taken_port_is_named_with_its_listener_and_what_to_do() {
    let (receiver, ingest) = running(None).await;
    let taken = Config { otlp_grpc: receiver.grpc_address(), ..config() };
    let error = start(taken, ingest, None).await.unwrap_err().to_string();
    assert!(error.contains("OTLP over gRPC") && error.contains(&receiver.grpc_address().to_string()), "{error}");
    assert!(error.contains("collector.otlp_grpc"), "{error}");
}

#[tokio::test]
async fn a_killed_receiver_answers_nobody() {
    let (receiver, _) = running(None).await;
    let mut client = client(&receiver).await;
    client.export(request(vec![span(0, "x")])).await.unwrap();
    let address = receiver.grpc_address();
    receiver.kill();
    assert!(client.export(request(vec![span(1, "x")])).await.is_err());
    let mut refused = false;
    for _ in 0..300 {
        refused = tokio::net::TcpStream::connect(address).await.is_err();
        if refused {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(refused, "the port is still open after 30 s");
}
