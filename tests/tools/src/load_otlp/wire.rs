//! One OTLP request on the wire and what its answer means: acknowledged, to be sent again, or refused for good. gRPC is
//! framed by hand on HTTP/2, since the bodies are ready and a retry must send the very same bytes; which answers may be
//! retried is OTLP's own table.

use std::io::Write;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use bytes::{BufMut, Bytes, BytesMut};
use flate2::Compression;
use flate2::write::GzEncoder;
use http::{HeaderMap, Request, StatusCode, header};
use http_body_util::Full;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceResponse;
use prost::Message;
use serde::{Deserialize, Serialize};

use crate::link::{Answer, LinkError, Target, Version};

/// Path of the trace service's only method.
const GRPC_PATH: &str = "/opentelemetry.proto.collector.trace.v1.TraceService/Export";
/// Path of traces over HTTP.
const HTTP_PATH: &str = "/v1/traces";
/// Bytes of a gRPC frame's head: a flag and a length.
const FRAME_HEAD_BYTES: usize = 5;
/// Type of the detail that says when to try again.
const RETRY_INFO: &str = "type.googleapis.com/google.rpc.RetryInfo";
/// gRPC codes that OTLP lets a sender retry: cancelled, deadline exceeded, aborted, out of range, unavailable, data loss.
const GRPC_RETRYABLE: [i32; 6] = [1, 4, 10, 11, 14, 15];
/// gRPC's resource exhausted, which may be retried only with retry information.
const GRPC_EXHAUSTED: i32 = 8;
/// HTTP statuses that OTLP lets a sender retry.
const HTTP_RETRYABLE: [u16; 4] = [429, 502, 503, 504];

/// How requests travel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum Protocol {
    /// OTLP/gRPC.
    Grpc,
    /// OTLP/HTTP with protobuf.
    Http,
}

impl Protocol {
    pub(super) fn version(self) -> Version {
        match self {
            Self::Grpc => Version::Http2,
            Self::Http => Version::Http1,
        }
    }
}

/// What an answer means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Taken, save `rejected` spans.
    Acknowledged { rejected: u32 },
    /// Put off: to be sent again, not before `after` where the receiver said so.
    Retry { after: Option<Duration> },
    /// Nobody knows whether it was taken: to be sent again.
    Unanswered,
    /// Never to be sent again.
    Refused { why: String },
}

#[derive(Clone, PartialEq, Message)]
struct RpcStatus {
    #[prost(int32, tag = "1")]
    code: i32,
    #[prost(string, tag = "2")]
    message: String,
    #[prost(message, repeated, tag = "3")]
    details: Vec<Detail>,
}

#[derive(Clone, PartialEq, Message)]
struct Detail {
    #[prost(string, tag = "1")]
    type_url: String,
    #[prost(bytes = "vec", tag = "2")]
    value: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
struct RetryInfo {
    #[prost(message, optional, tag = "1")]
    retry_delay: Option<Delay>,
}

#[derive(Clone, Copy, PartialEq, Message)]
struct Delay {
    #[prost(int64, tag = "1")]
    seconds: i64,
    #[prost(int32, tag = "2")]
    nanos: i32,
}

/// Where and how requests are sent.
#[derive(Debug, Clone)]
pub(super) struct Wire {
    pub(super) protocol: Protocol,
    pub(super) gzip: bool,
    pub(super) target: Target,
    pub(super) token: Option<String>,
}

impl Wire {
    /// The body as it travels, compressed and framed once for all tries.
    pub(super) fn pack(&self, message: &[u8]) -> Bytes {
        let mut body = BytesMut::new();
        if self.protocol == Protocol::Grpc {
            body.put_u8(u8::from(self.gzip));
            body.put_u32(0);
        }
        if self.gzip {
            let mut encoder = GzEncoder::new(body.writer(), Compression::fast());
            // Writing to memory cannot fail.
            let _ = encoder.write_all(message);
            body = encoder.finish().map(bytes::buf::Writer::into_inner).unwrap_or_default();
        } else {
            body.put_slice(message);
        }
        if self.protocol == Protocol::Grpc {
            let length = u32::try_from(body.len() - FRAME_HEAD_BYTES).unwrap_or(u32::MAX);
            body[1..FRAME_HEAD_BYTES].copy_from_slice(&length.to_be_bytes());
        }
        body.freeze()
    }

    /// A request with this body.
    pub(super) fn request(&self, body: Bytes) -> Result<Request<Full<Bytes>>, http::Error> {
        let authority = &self.target.authority;
        let mut builder = match self.protocol {
            Protocol::Grpc => Request::post(format!("http://{authority}{GRPC_PATH}"))
                .header(header::CONTENT_TYPE, "application/grpc")
                .header(header::TE, "trailers"),
            Protocol::Http => Request::post(match self.target.path.as_str() {
                "/" => HTTP_PATH,
                path => path,
            })
            .header(header::HOST, authority)
            .header(header::CONTENT_TYPE, "application/x-protobuf"),
        };
        if self.gzip {
            let name = if self.protocol == Protocol::Grpc { "grpc-encoding" } else { "content-encoding" };
            builder = builder.header(name, "gzip");
        }
        if let Some(token) = &self.token {
            builder = builder.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        builder.body(Full::new(body))
    }

    /// What came of a try.
    pub(super) fn verdict(&self, answer: Result<Answer, LinkError>) -> Verdict {
        let Ok(answer) = answer else { return Verdict::Unanswered };
        match self.protocol {
            Protocol::Grpc => grpc_verdict(&answer),
            Protocol::Http => http_verdict(&answer),
        }
    }
}

fn accepted(message: &[u8]) -> Verdict {
    match ExportTraceServiceResponse::decode(message) {
        Ok(response) => {
            let rejected = response.partial_success.map_or(0, |partial| partial.rejected_spans);
            Verdict::Acknowledged { rejected: u32::try_from(rejected).unwrap_or(0) }
        }
        Err(error) => Verdict::Refused { why: format!("acknowledged with a body that is no OTLP answer: {error}") },
    }
}

fn grpc_verdict(answer: &Answer) -> Verdict {
    // An answer without a body carries its status in the headers.
    let from = if answer.trailers.contains_key("grpc-status") { &answer.trailers } else { &answer.headers };
    let code = from.get("grpc-status").and_then(|code| code.to_str().ok()).and_then(|code| code.parse::<i32>().ok());
    let after = retry_info(from);
    match code {
        Some(0) => accepted(answer.body.get(FRAME_HEAD_BYTES..).unwrap_or_default()),
        Some(code) if GRPC_RETRYABLE.contains(&code) => Verdict::Retry { after },
        Some(GRPC_EXHAUSTED) if after.is_some() => Verdict::Retry { after },
        Some(code) => {
            let message = from.get("grpc-message").and_then(|message| message.to_str().ok()).unwrap_or_default();
            Verdict::Refused { why: format!("grpc-status {code}: {message}") }
        }
        None if HTTP_RETRYABLE.contains(&answer.status.as_u16()) => Verdict::Retry { after: None },
        None => Verdict::Refused { why: format!("HTTP {} without grpc-status", answer.status) },
    }
}

fn retry_info(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get("grpc-status-details-bin")?.as_bytes();
    let bytes = STANDARD_NO_PAD.decode(text).or_else(|_| STANDARD.decode(text)).ok()?;
    let status = RpcStatus::decode(bytes.as_slice()).ok()?;
    let detail = status.details.iter().find(|detail| detail.type_url == RETRY_INFO)?;
    let delay = RetryInfo::decode(detail.value.as_slice()).ok()?.retry_delay.unwrap_or_default();
    Some(Duration::new(u64::try_from(delay.seconds).ok()?, u32::try_from(delay.nanos).ok()?))
}

fn http_verdict(answer: &Answer) -> Verdict {
    if answer.status == StatusCode::OK {
        return accepted(&answer.body);
    }
    if HTTP_RETRYABLE.contains(&answer.status.as_u16()) {
        let after = answer.headers.get(header::RETRY_AFTER).and_then(|after| after.to_str().ok());
        return Verdict::Retry { after: after.and_then(|s| s.parse().ok()).map(Duration::from_secs) };
    }
    Verdict::Refused { why: format!("HTTP {}: {}", answer.status, String::from_utf8_lossy(&answer.body)) }
}
