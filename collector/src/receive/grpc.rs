//! OTLP over gRPC: three unary calls.
//!
//! The generated tonic services were rejected. They decode a message into its object tree on the connection's thread before
//! anybody may look at it, decompress into memory nobody reserved, and never show the bytes, whose hash recognises a
//! retry. A unary call is five bytes of prefix and a trailer; with these read here, both protocols share one way in.

use std::net::IpAddr;

use bytes::{BufMut, Bytes, BytesMut};
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use lariat_schema::vocabulary::{RefusalReason, Signal};
use opentelemetry_proto::tonic::collector::logs::v1::{ExportLogsPartialSuccess, ExportLogsServiceResponse};
use opentelemetry_proto::tonic::collector::metrics::v1::{ExportMetricsPartialSuccess, ExportMetricsServiceResponse};
use opentelemetry_proto::tonic::collector::trace::v1::{ExportTracePartialSuccess, ExportTraceServiceResponse};
use prost::Message;
use tonic::{Code, Status};

use super::ResponseBody;
use super::body::{Compression, Reader};
use super::intake::{Intake, READ_DEADLINE, Receipt, Sent};
use super::refusal::Refusal;
use super::trust::admit;
use crate::decode::{Encoding, Form};
use crate::forward;

/// What is offered to a client that compresses otherwise.
const ACCEPTED: &str = "identity,gzip,zstd";

/// Answers one request. Never fails: what goes wrong is the call's status.
pub(super) async fn serve(intake: &Intake, request: Request<Incoming>, peer: IpAddr) -> Response<ResponseBody> {
    let is_grpc = request
        .headers()
        .get(CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .is_some_and(|value| value.starts_with("application/grpc") && !value.starts_with("application/grpc-web"));
    if !is_grpc || request.method() != Method::POST {
        intake.counters.refused(0, RefusalReason::Form);
        let mut response = Response::new(ResponseBody::new(Full::from(
            "this port speaks OTLP over gRPC; OTLP over HTTP has a port of its own (4318 by default)\n",
        )));
        *response.status_mut() = StatusCode::UNSUPPORTED_MEDIA_TYPE;
        return response;
    }
    let Some(signal) = signal(request.uri().path()) else {
        intake.counters.refused(0, RefusalReason::Form);
        let known = "the services here are opentelemetry.proto.collector.{trace,metrics,logs}.v1";
        return Status::new(Code::Unimplemented, known).into_http();
    };
    let (parts, body) = request.into_parts();
    let mut reader = Reader::new(body, intake.max_request_bytes);
    match export(intake, signal, &parts.headers, peer, &mut reader).await {
        Ok(receipt) => acknowledge(signal, receipt),
        Err(refusal) => {
            intake.counters.refused(reader.seen(), refusal.reason());
            let mut response = refusal.to_status().into_http();
            if matches!(refusal, Refusal::Compression { .. }) {
                response.headers_mut().insert("grpc-accept-encoding", HeaderValue::from_static(ACCEPTED));
            }
            response
        }
    }
}

fn signal(path: &str) -> Option<Signal> {
    match path {
        "/opentelemetry.proto.collector.trace.v1.TraceService/Export" => Some(Signal::Traces),
        "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export" => Some(Signal::Metrics),
        "/opentelemetry.proto.collector.logs.v1.LogsService/Export" => Some(Signal::Logs),
        _ => None,
    }
}

async fn export(
    intake: &Intake,
    signal: Signal,
    headers: &HeaderMap,
    peer: IpAddr,
    reader: &mut Reader,
) -> Result<Receipt, Refusal> {
    let trusted = admit(peer, headers, intake.token.as_deref())?;
    let named = headers.get("grpc-encoding").map(|value| value.to_str().unwrap_or("?"));
    let offered = Compression::by_name(named)?;
    let (_permit, mut reservation) = intake.begin()?;
    let (compressed, bytes) = tokio::time::timeout(READ_DEADLINE, reader.message(&mut reservation))
        .await
        .map_err(|_| Refusal::Interrupted { reason: format!("it took longer than {READ_DEADLINE:?}") })??;
    let compression = if compressed { offered } else { Compression::Identity };
    if compressed && offered == Compression::Identity {
        return Err(Refusal::Malformed { reason: "a compressed message without grpc-encoding".to_owned() });
    }
    let form = Form { signal, encoding: Encoding::Protobuf, trusted };
    intake.take(Sent { form, hops: forward::hops(headers), compression, bytes, reservation }).await
}

fn acknowledge(signal: Signal, receipt: Receipt) -> Response<ResponseBody> {
    let message = response_message(signal, receipt);
    let mut framed = BytesMut::with_capacity(message.len() + 5);
    framed.put_u8(0);
    framed.put_u32(u32::try_from(message.len()).unwrap_or(u32::MAX));
    framed.extend_from_slice(&message);
    let trailers =
        HeaderMap::from_iter([(http::HeaderName::from_static("grpc-status"), HeaderValue::from_static("0"))]);
    let body = Full::new(framed.freeze()).with_trailers(std::future::ready(Some(Ok(trailers))));
    let mut response = Response::new(ResponseBody::new(body));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    response
}

/// The response of the signal's service in protobuf; without a partial success when all went well.
pub(super) fn response_message(signal: Signal, receipt: Receipt) -> Bytes {
    let partial = receipt.rejected > 0 || receipt.message.is_some();
    let rejected = i64::try_from(receipt.rejected).unwrap_or(i64::MAX);
    let error_message = receipt.message.unwrap_or_default();
    let encoded = match signal {
        Signal::Traces => {
            let partial = partial.then_some(ExportTracePartialSuccess { rejected_spans: rejected, error_message });
            ExportTraceServiceResponse { partial_success: partial }.encode_to_vec()
        }
        Signal::Metrics => {
            let partial =
                partial.then_some(ExportMetricsPartialSuccess { rejected_data_points: rejected, error_message });
            ExportMetricsServiceResponse { partial_success: partial }.encode_to_vec()
        }
        Signal::Logs => {
            let partial = partial.then_some(ExportLogsPartialSuccess { rejected_log_records: rejected, error_message });
            ExportLogsServiceResponse { partial_success: partial }.encode_to_vec()
        }
    };
    Bytes::from(encoded)
}
