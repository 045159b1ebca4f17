//! OTLP over HTTP: three paths, two encodings. The answer has the encoding of the request, errors included.

use std::net::IpAddr;

use bytes::Bytes;
use http::header::{ACCEPT_ENCODING, ALLOW, CONTENT_ENCODING, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use lariat_schema::vocabulary::{RefusalReason, Signal};
use prost::Message;
use serde_json::json;
use tonic::Code;

use super::ResponseBody;
use super::body::{Compression, Reader};
use super::grpc::response_message;
use super::intake::{Intake, READ_DEADLINE, Receipt, Sent};
use super::refusal::{Refusal, RpcStatus, retry_after_seconds};
use super::trust::admit;
use crate::decode::{Encoding, Form};
use crate::forward;

const PROTOBUF: &str = "application/x-protobuf";
const JSON: &str = "application/json";

/// Answers one request. Never fails: what goes wrong is a status.
pub(super) async fn serve(intake: &Intake, request: Request<Incoming>, peer: IpAddr) -> Response<ResponseBody> {
    let signal = match request.uri().path().trim_end_matches('/') {
        "/v1/traces" => Signal::Traces,
        "/v1/metrics" => Signal::Metrics,
        "/v1/logs" => Signal::Logs,
        _ => {
            intake.counters.refused(0, RefusalReason::Form);
            let hint = "OTLP over HTTP is posted to /v1/traces, /v1/metrics or /v1/logs";
            return no_request(StatusCode::NOT_FOUND, Code::Unimplemented, hint, request.headers());
        }
    };
    if request.method() != Method::POST {
        intake.counters.refused(0, RefusalReason::Form);
        let hint = "OTLP is sent with POST";
        let mut response = no_request(StatusCode::METHOD_NOT_ALLOWED, Code::Unimplemented, hint, request.headers());
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("POST"));
        return response;
    }
    let (parts, body) = request.into_parts();
    let mut reader = Reader::new(body, intake.max_request_bytes);
    let encoding = encoding(&parts.headers);
    let answered_in = *encoding.as_ref().unwrap_or(&Encoding::Json);
    let result = match encoding {
        Ok(encoding) => export(intake, signal, encoding, &parts.headers, peer, &mut reader).await,
        Err(refusal) => Err(refusal),
    };
    match result {
        Ok(receipt) => answer(StatusCode::OK, answered_in, acknowledgement(signal, answered_in, receipt)),
        Err(refusal) => {
            intake.counters.refused(reader.seen(), refusal.reason());
            refuse(&refusal, answered_in)
        }
    }
}

/// The encoding by its content type, parameters such as `charset` aside.
fn encoding(headers: &HeaderMap) -> Result<Encoding, Refusal> {
    let found = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let essence = found.split(';').next().unwrap_or_default().trim();
    if essence.eq_ignore_ascii_case(PROTOBUF) || essence.eq_ignore_ascii_case("application/protobuf") {
        Ok(Encoding::Protobuf)
    } else if essence.eq_ignore_ascii_case(JSON) {
        Ok(Encoding::Json)
    } else {
        Err(Refusal::MediaType { found: found.to_owned() })
    }
}

async fn export(
    intake: &Intake,
    signal: Signal,
    encoding: Encoding,
    headers: &HeaderMap,
    peer: IpAddr,
    reader: &mut Reader,
) -> Result<Receipt, Refusal> {
    let trusted = admit(peer, headers, intake.token.as_deref())?;
    let named = headers.get(CONTENT_ENCODING).map(|value| value.to_str().unwrap_or("?"));
    let compression = Compression::by_name(named)?;
    let (_permit, mut reservation) = intake.begin()?;
    let bytes = tokio::time::timeout(READ_DEADLINE, reader.whole(&mut reservation))
        .await
        .map_err(|_| Refusal::Interrupted { reason: format!("it took longer than {READ_DEADLINE:?}") })??;
    let form = Form { signal, encoding, trusted };
    intake.take(Sent { form, hops: forward::hops(headers), compression, bytes, reservation }).await
}

fn acknowledgement(signal: Signal, encoding: Encoding, receipt: Receipt) -> Bytes {
    if encoding == Encoding::Protobuf {
        return response_message(signal, receipt);
    }
    if receipt.rejected == 0 && receipt.message.is_none() {
        return Bytes::from_static(b"{}");
    }
    let rejected = match signal {
        Signal::Traces => "rejectedSpans",
        Signal::Metrics => "rejectedDataPoints",
        Signal::Logs => "rejectedLogRecords",
    };
    // Protobuf's JSON writes 64-bit integers as text.
    let message = receipt.message.unwrap_or_default();
    let partial = json!({"partialSuccess": {rejected: receipt.rejected.to_string(), "errorMessage": message}});
    Bytes::from(partial.to_string())
}

fn refuse(refusal: &Refusal, encoding: Encoding) -> Response<ResponseBody> {
    let wire = refusal.on_wire();
    let body = match encoding {
        Encoding::Protobuf => Bytes::from(refusal.to_rpc().encode_to_vec()),
        Encoding::Json => Bytes::from(refusal.to_json().to_string()),
    };
    let mut response = answer(wire.http, encoding, body);
    let headers = response.headers_mut();
    if let Some(after) = wire.retry_after {
        headers.insert(RETRY_AFTER, HeaderValue::from(retry_after_seconds(after)));
    }
    match refusal {
        Refusal::Unauthenticated { .. } => {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        Refusal::Compression { .. } => {
            headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("gzip, zstd, identity"));
        }
        _ => {}
    }
    response
}

fn answer(status: StatusCode, encoding: Encoding, body: Bytes) -> Response<ResponseBody> {
    let mut response = Response::new(ResponseBody::new(Full::new(body)));
    *response.status_mut() = status;
    let content_type = match encoding {
        Encoding::Protobuf => PROTOBUF,
        Encoding::Json => JSON,
    };
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

/// What is not even a request: a status in the encoding of whoever speaks one, text for people.
fn no_request(status: StatusCode, code: Code, text: &'static str, headers: &HeaderMap) -> Response<ResponseBody> {
    if let Ok(encoding) = encoding(headers) {
        let rpc = RpcStatus { code: i32::from(code), message: text.to_owned(), details: Vec::new() };
        let body = match encoding {
            Encoding::Protobuf => rpc.encode_to_vec(),
            Encoding::Json => json!({"code": rpc.code, "message": text}).to_string().into_bytes(),
        };
        return answer(status, encoding, Bytes::from(body));
    }
    let mut response = Response::new(ResponseBody::new(Full::from(format!("{text}\n"))));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}
