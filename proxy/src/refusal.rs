//! Everything that the proxy itself says no to, and the one table that puts it on the wire. A refusal says whose fault
//! it is through its code, and when to try again through its data; details for operators go to the log, not here.

use http::StatusCode;
use lariat_schema::vocabulary::ErrorCategory;
use serde_json::{Value, json};

/// Why the proxy answers an error of its own.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refusal {
    #[error("the body is not JSON")]
    NotJson,
    #[error("not a JSON-RPC 2.0 request")]
    InvalidRequest,
    #[error("the batch is empty")]
    EmptyBatch,
    #[error("the batch holds {found} calls; at most {limit} are allowed")]
    BatchTooLarge { found: usize, limit: usize },
    #[error("the body is larger than {limit} bytes")]
    BodyTooLarge { limit: usize },
    #[error("the body did not arrive in time")]
    BodyTimeout,
    #[error("the body could not be read")]
    BodyBroken,
    #[error("too many calls in flight; try again")]
    Overloaded,
    #[error("the rate limit of this profile is reached; try again in {retry_after_ms} ms")]
    RateLimited { retry_after_ms: u64 },
    #[error("too many calls under way; wait for replies before sending more")]
    TooManyUnderWay,
    #[error("unknown profile `{0}`")]
    UnknownProfile(String),
    #[error("unknown chain `{0}`")]
    UnknownChain(String),
    #[error("unknown option: {0}")]
    BadOption(String),
    #[error("unknown provider `{0}` on this chain")]
    UnknownProvider(String),
    #[error("no such subscription: {0}")]
    BadSubscription(String),
    #[error("too many subscriptions; at most {limit} are open {place}")]
    TooManySubscriptions { limit: usize, place: &'static str },
    #[error("the method {0} needs a WebSocket")]
    NeedsWebSocket(String),
    #[error("the method {0} needs keys, which this service does not hold")]
    Keystore(String),
    #[error("replies under way take all the room there is; try again later")]
    NoRoom { retry_after_ms: u64 },
    #[error("no provider could answer; try again later")]
    Exhausted { retry_after_ms: u64 },
    #[error("no answer came in time; try again later")]
    TooLate,
    #[error("filter not found")]
    UnknownFilter,
}

impl Refusal {
    /// JSON-RPC error code.
    pub(crate) const fn code(&self) -> i64 {
        match self {
            Self::NotJson => -32700,
            Self::InvalidRequest | Self::EmptyBatch | Self::BatchTooLarge { .. } => -32600,
            Self::UnknownChain(_) | Self::UnknownProvider(_) | Self::BadOption(_) | Self::BadSubscription(_) => -32602,
            Self::NeedsWebSocket(_) | Self::Keystore(_) => -32601,
            Self::RateLimited { .. } => -32005,
            Self::TooManyUnderWay | Self::TooManySubscriptions { .. } => -32008,
            Self::BodyTooLarge { .. }
            | Self::BodyTimeout
            | Self::BodyBroken
            | Self::Overloaded
            | Self::UnknownProfile(_)
            | Self::NoRoom { .. }
            | Self::Exhausted { .. }
            | Self::TooLate
            | Self::UnknownFilter => -32000,
        }
    }

    /// HTTP status.
    pub(crate) const fn status(&self) -> StatusCode {
        match self {
            Self::BodyTooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            Self::BodyTimeout => StatusCode::REQUEST_TIMEOUT,
            Self::Overloaded => StatusCode::SERVICE_UNAVAILABLE,
            Self::RateLimited { .. } => StatusCode::TOO_MANY_REQUESTS,
            Self::UnknownProfile(_) => StatusCode::NOT_FOUND,
            Self::UnknownChain(_) | Self::BadOption(_) | Self::BodyBroken => StatusCode::BAD_REQUEST,
            _ => StatusCode::OK,
        }
    }

    /// What the record says.
    pub(crate) const fn category(&self) -> ErrorCategory {
        match self {
            Self::NotJson => ErrorCategory::ParseError,
            Self::InvalidRequest | Self::EmptyBatch | Self::BatchTooLarge { .. } => ErrorCategory::InvalidRequest,
            Self::UnknownChain(_) | Self::UnknownProvider(_) | Self::BadOption(_) | Self::BadSubscription(_) => {
                ErrorCategory::InvalidParams
            }
            Self::NeedsWebSocket(_) | Self::Keystore(_) => ErrorCategory::MethodNotFound,
            Self::Overloaded
            | Self::TooManyUnderWay
            | Self::TooManySubscriptions { .. }
            | Self::RateLimited { .. }
            | Self::NoRoom { .. } => ErrorCategory::LocalCapacity,
            Self::BodyTooLarge { .. } | Self::BodyTimeout | Self::BodyBroken | Self::UnknownProfile(_) => {
                ErrorCategory::ClientError
            }
            Self::Exhausted { .. } => ErrorCategory::NoProviders,
            Self::TooLate => ErrorCategory::Timeout,
            Self::UnknownFilter => ErrorCategory::InvalidParams,
        }
    }

    /// `error.data`.
    pub(crate) fn data(&self) -> Option<Value> {
        match self {
            Self::Exhausted { retry_after_ms }
            | Self::RateLimited { retry_after_ms }
            | Self::NoRoom { retry_after_ms } => Some(json!({ "retry_after_ms": retry_after_ms })),
            Self::TooLate => Some(json!({ "retry_after_ms": 1_000 })),
            Self::UnknownProfile(_) => Some(json!({ "error_type": "unknown_profile" })),
            Self::UnknownChain(_) => Some(json!({ "error_type": "unknown_chain" })),
            _ => None,
        }
    }

    /// The reply's body.
    pub(crate) fn reply(&self, id: &[u8]) -> Vec<u8> {
        crate::jsonrpc::error_reply(id, self.code(), &self.to_string(), self.data().as_ref())
    }
}
