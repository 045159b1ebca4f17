//! Why a request is not taken in, and the one table that says so on the wire.
//!
//! The table keeps to what OTLP lets a client retry: over gRPC `UNAVAILABLE` with a `RetryInfo`, over HTTP 429 and 503
//! with `Retry-After`. A code that an SDK would not retry (`INTERNAL`, 400, 413 …) is given only where the same
//! request can never succeed.

use std::time::Duration;

use http::StatusCode;
use lariat_schema::vocabulary::RefusalReason;
use prost::Message;
use serde_json::json;
use tonic::Code;

use crate::ingest::Refused;

/// Which size was beyond the limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Size {
    /// As sent.
    OnTheWire,
    /// After decompression.
    Decompressed,
}

/// Why a request is not taken in. `Display` is the client's text.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refusal {
    #[error("{reason}")]
    Malformed { reason: String },
    #[error("the request has more than {limit} bytes {}: send fewer records at once", match size { Size::OnTheWire => "on the wire", Size::Decompressed => "after decompression" })]
    TooLarge { size: Size, limit: usize },
    #[error("content type {found:?} is not OTLP: send application/x-protobuf or application/json")]
    MediaType { found: String },
    #[error("compression {found:?} is not known: send gzip, zstd or identity")]
    Compression { found: String },
    #[error("{hint}")]
    Unauthenticated { hint: &'static str },
    #[error("too much is waiting to be stored: the same request succeeds later")]
    Overloaded { retry_after: Duration },
    #[error("the collector cannot store anything at the moment: the same request may succeed later")]
    NotDurable { retry_after: Duration },
    #[error("the collector is shutting down")]
    ShuttingDown,
    #[error("the request did not arrive whole: {reason}")]
    Interrupted { reason: String },
    #[error("the collector failed on this request; its log says why")]
    Failed,
}

/// When to come back after a refusal that only needs a moment.
pub(super) const RETRY_SOON: Duration = Duration::from_secs(1);

/// What stands on the wire for a refusal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct OnWire {
    pub(super) http: StatusCode,
    pub(super) grpc: Code,
    pub(super) retry_after: Option<Duration>,
}

impl Refusal {
    /// The table.
    pub(super) fn on_wire(&self) -> OnWire {
        let (http, grpc, retry_after) = match self {
            Self::Malformed { .. } => (StatusCode::BAD_REQUEST, Code::InvalidArgument, None),
            Self::TooLarge { .. } => (StatusCode::PAYLOAD_TOO_LARGE, Code::ResourceExhausted, None),
            Self::MediaType { .. } => (StatusCode::UNSUPPORTED_MEDIA_TYPE, Code::InvalidArgument, None),
            Self::Compression { .. } => (StatusCode::UNSUPPORTED_MEDIA_TYPE, Code::Unimplemented, None),
            Self::Unauthenticated { .. } => (StatusCode::UNAUTHORIZED, Code::Unauthenticated, None),
            Self::Overloaded { retry_after } => (StatusCode::TOO_MANY_REQUESTS, Code::Unavailable, Some(*retry_after)),
            Self::NotDurable { retry_after } => {
                (StatusCode::SERVICE_UNAVAILABLE, Code::Unavailable, Some(*retry_after))
            }
            Self::ShuttingDown | Self::Interrupted { .. } => {
                (StatusCode::SERVICE_UNAVAILABLE, Code::Unavailable, Some(RETRY_SOON))
            }
            Self::Failed => (StatusCode::INTERNAL_SERVER_ERROR, Code::Internal, None),
        };
        OnWire { http, grpc, retry_after }
    }

    /// Under which reason it is counted.
    pub(super) fn reason(&self) -> RefusalReason {
        match self {
            Self::Malformed { .. } => RefusalReason::Malformed,
            Self::TooLarge { .. } => RefusalReason::TooLarge,
            Self::MediaType { .. } | Self::Compression { .. } => RefusalReason::Form,
            Self::Unauthenticated { .. } => RefusalReason::Unauthenticated,
            Self::Overloaded { .. } => RefusalReason::Overloaded,
            Self::NotDurable { .. } => RefusalReason::NotDurable,
            Self::ShuttingDown => RefusalReason::ShuttingDown,
            Self::Interrupted { .. } => RefusalReason::Interrupted,
            Self::Failed => RefusalReason::Failed,
        }
    }

    /// As a gRPC status, with the moment of return in its details.
    pub(super) fn to_status(&self) -> tonic::Status {
        let wire = self.on_wire();
        if wire.retry_after.is_none() {
            return tonic::Status::new(wire.grpc, self.to_string());
        }
        tonic::Status::with_details(wire.grpc, self.to_string(), self.to_rpc().encode_to_vec().into())
    }

    /// As a `google.rpc.Status`, the body of an HTTP error in protobuf.
    pub(super) fn to_rpc(&self) -> RpcStatus {
        let wire = self.on_wire();
        let details = wire.retry_after.map(retry_info).into_iter().collect();
        RpcStatus { code: i32::from(wire.grpc), message: self.to_string(), details }
    }

    /// The same in JSON.
    pub(super) fn to_json(&self) -> serde_json::Value {
        let wire = self.on_wire();
        let details: Vec<_> = wire
            .retry_after
            .map(|after| json!({"@type": RETRY_INFO_TYPE, "retryDelay": format!("{}s", after.as_secs_f64())}))
            .into_iter()
            .collect();
        json!({"code": i32::from(wire.grpc), "message": self.to_string(), "details": details})
    }
}

impl From<Refused> for Refusal {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::Overloaded { retry_after } => Self::Overloaded { retry_after },
            Refused::NotDurable { retry_after, .. } => Self::NotDurable { retry_after },
            Refused::ShuttingDown => Self::ShuttingDown,
        }
    }
}

impl From<super::budget::Exhausted> for Refusal {
    fn from(_: super::budget::Exhausted) -> Self {
        Self::Overloaded { retry_after: RETRY_SOON }
    }
}

const RETRY_INFO_TYPE: &str = "type.googleapis.com/google.rpc.RetryInfo";

/// `google.rpc.Status`. Source: googleapis, google/rpc/status.proto.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct RpcStatus {
    #[prost(int32, tag = "1")]
    pub(crate) code: i32,
    #[prost(string, tag = "2")]
    pub(crate) message: String,
    #[prost(message, repeated, tag = "3")]
    pub(crate) details: Vec<AnyMessage>,
}

/// `google.protobuf.Any`.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct AnyMessage {
    #[prost(string, tag = "1")]
    pub(crate) type_url: String,
    #[prost(bytes = "vec", tag = "2")]
    pub(crate) value: Vec<u8>,
}

/// `google.rpc.RetryInfo`. Source: googleapis, google/rpc/error_details.proto.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct RetryInfo {
    #[prost(message, optional, tag = "1")]
    pub(crate) retry_delay: Option<DurationMessage>,
}

/// `google.protobuf.Duration`.
#[derive(Clone, Copy, PartialEq, Message)]
pub(crate) struct DurationMessage {
    #[prost(int64, tag = "1")]
    pub(crate) seconds: i64,
    #[prost(int32, tag = "2")]
    pub(crate) nanos: i32,
}

fn retry_info(after: Duration) -> AnyMessage {
    let retry_delay = DurationMessage {
        seconds: i64::try_from(after.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(after.subsec_nanos()).unwrap_or_default(),
    };
    AnyMessage {
        type_url: RETRY_INFO_TYPE.to_owned(),
        value: RetryInfo { retry_delay: Some(retry_delay) }.encode_to_vec(),
    }
}

/// `Retry-After` in whole seconds, at least one.
pub(super) fn retry_after_seconds(after: Duration) -> u64 {
    (after.as_secs() + u64::from(after.subsec_nanos() > 0)).max(1)
}
