//! What an answer of the other side means, and how long to wait before the next attempt: pure, so that the table can be
//! read beside OTLP's own.
//!
//! Retried is what OTLP lets a client retry, and what never got an answer. Everything else would be refused again, so
//! it is dropped and counted with the code that it was refused with.

use std::time::{Duration, SystemTime};

use http::header::RETRY_AFTER;
use http::{HeaderMap, StatusCode};
use prost::Message;
use tonic::{Code, Status};

use crate::receive::{RetryInfo, RpcStatus};

/// Pause after the first failure.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
/// Longest pause of our own.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// Longest pause that the other side may ask for: a mistake there must not stop us for a day.
const LONGEST_ASKED: Duration = Duration::from_secs(300);

/// What became of one attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Outcome {
    /// The other side has it; it may have rejected some records.
    Delivered { rejected: u64, message: String },
    /// The same request may succeed later.
    Retry { after: Option<Duration>, why: String },
    /// The same request never succeeds.
    Refused { code: Refused, why: String },
}

/// Why a request is given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Refused {
    /// A status of HTTP.
    Http(u16),
    /// A code of gRPC.
    Grpc(i32),
    /// It cannot be written in the configured form.
    Unwritable,
}

impl std::fmt::Display for Refused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Http(status) => write!(f, "http_{status}"),
            Self::Grpc(code) => write!(f, "grpc_{code}"),
            Self::Unwritable => f.write_str("unwritable"),
        }
    }
}

/// What all three responses look like: `partial_success` with a count and a text.
#[derive(Clone, PartialEq, Message)]
struct Response {
    #[prost(message, optional, tag = "1")]
    partial_success: Option<PartialSuccess>,
}

#[derive(Clone, PartialEq, Message)]
struct PartialSuccess {
    #[prost(int64, tag = "1")]
    rejected: i64,
    #[prost(string, tag = "2")]
    error_message: String,
}

/// A response as protobuf. One that cannot be read acknowledges all the same: its status said so.
pub(super) fn delivered(response: &[u8]) -> Outcome {
    let partial = Response::decode(response).ok().and_then(|response| response.partial_success).unwrap_or_default();
    Outcome::Delivered { rejected: u64::try_from(partial.rejected).unwrap_or(0), message: partial.error_message }
}

/// An answer over HTTP.
pub(super) fn of_http(status: StatusCode, headers: &HeaderMap, body: &[u8], now: SystemTime) -> Outcome {
    if status.is_success() {
        return delivered(body);
    }
    let said = RpcStatus::decode(body).map(|status| status.message).unwrap_or_default();
    let why = format!("{status}: {said}");
    if matches!(status.as_u16(), 429 | 502 | 503 | 504) {
        return Outcome::Retry { after: retry_after(headers, now), why };
    }
    Outcome::Refused { code: Refused::Http(status.as_u16()), why }
}

/// A status over gRPC other than `OK`.
pub(super) fn of_grpc(status: &Status) -> Outcome {
    let why = format!("{:?}: {}", status.code(), status.message());
    let after = retry_info(status.details());
    let retryable = match status.code() {
        Code::Cancelled
        | Code::DeadlineExceeded
        | Code::Aborted
        | Code::OutOfRange
        | Code::Unavailable
        | Code::DataLoss => true,
        Code::ResourceExhausted => after.is_some(),
        _ => false,
    };
    if retryable {
        return Outcome::Retry { after, why };
    }
    Outcome::Refused { code: Refused::Grpc(i32::from(status.code())), why }
}

/// The status that an answer without one of gRPC stands for: what is between us and the other side has spoken.
pub(super) fn grpc_status_of(status: StatusCode) -> Status {
    let code = match status.as_u16() {
        400 => Code::Internal,
        401 => Code::Unauthenticated,
        403 => Code::PermissionDenied,
        404 => Code::Unimplemented,
        429 | 502 | 503 | 504 => Code::Unavailable,
        _ => Code::Unknown,
    };
    Status::new(code, format!("answered {status} and no status of gRPC"))
}

fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse::<u64>() {
        return Some(Duration::from_secs(seconds));
    }
    // A moment that has passed means now.
    Some(httpdate::parse_http_date(text).ok()?.duration_since(now).unwrap_or_default())
}

fn retry_info(details: &[u8]) -> Option<Duration> {
    let status = RpcStatus::decode(details).ok()?;
    let detail = status.details.iter().find(|detail| detail.type_url.ends_with("/google.rpc.RetryInfo"))?;
    let delay = RetryInfo::decode(&detail.value[..]).ok()?.retry_delay.unwrap_or_default();
    Some(Duration::new(u64::try_from(delay.seconds).unwrap_or(0), u32::try_from(delay.nanos).unwrap_or(0)))
}

/// Pauses between the attempts of one request.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    failures: u32,
}

impl Backoff {
    /// The next pause: twice the last, between half and all of it by `random` (0 to 1), and never less than asked for.
    pub(super) fn next(&mut self, asked: Option<Duration>, random: f64) -> Duration {
        let whole = FIRST_PAUSE.saturating_mul(2_u32.saturating_pow(self.failures.min(16))).min(LONGEST_PAUSE);
        self.failures = self.failures.saturating_add(1);
        let own = whole.mul_f64(0.5 + random.clamp(0.0, 1.0) / 2.0);
        own.max(asked.unwrap_or_default().min(LONGEST_ASKED))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::receive::{AnyMessage, DurationMessage};

    const CODES: [(Code, bool); 16] = [
        (Code::Cancelled, true),
        (Code::Unknown, false),
        (Code::InvalidArgument, false),
        (Code::DeadlineExceeded, true),
        (Code::NotFound, false),
        (Code::AlreadyExists, false),
        (Code::PermissionDenied, false),
        (Code::ResourceExhausted, false),
        (Code::FailedPrecondition, false),
        (Code::Aborted, true),
        (Code::OutOfRange, true),
        (Code::Unimplemented, false),
        (Code::Internal, false),
        (Code::Unavailable, true),
        (Code::DataLoss, true),
        (Code::Unauthenticated, false),
    ];

    fn with_retry_info(code: Code, seconds: i64) -> Status {
        let retry_delay = Some(DurationMessage { seconds, nanos: 0 });
        let detail = AnyMessage {
            type_url: "type.googleapis.com/google.rpc.RetryInfo".to_owned(),
            value: RetryInfo { retry_delay }.encode_to_vec(),
        };
        let status = RpcStatus { code: i32::from(code), message: String::new(), details: vec![detail] };
        Status::with_details(code, "", status.encode_to_vec().into())
    }

    #[test]
    fn exactly_the_codes_that_the_specification_lists_are_retried_over_grpc() {
        for (code, retried) in CODES {
            let outcome = of_grpc(&Status::new(code, "x"));
            assert_eq!(matches!(outcome, Outcome::Retry { after: None, .. }), retried, "{code:?}");
            assert_eq!(matches!(outcome, Outcome::Refused { .. }), !retried, "{code:?}");
        }
        for code in [Code::ResourceExhausted, Code::Unavailable] {
            let Outcome::Retry { after, .. } = of_grpc(&with_retry_info(code, 7)) else { panic!("{code:?}") };
            assert_eq!(after, Some(Duration::from_secs(7)));
        }
    }

    #[test]
    fn exactly_the_statuses_that_the_specification_lists_are_retried_over_http() {
        for status in 300..600 {
            let retried = [429, 502, 503, 504].contains(&status);
            let outcome = of_http(StatusCode::from_u16(status).unwrap(), &HeaderMap::new(), b"", SystemTime::now());
            assert_eq!(matches!(outcome, Outcome::Retry { .. }), retried, "{status}");
        }
    }

    #[test]
    fn a_moment_of_return_is_read_as_seconds_and_as_a_date() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
        let date = httpdate::fmt_http_date(now + Duration::from_secs(90));
        for (text, seconds) in [("7", Some(7)), (date.as_str(), Some(90)), ("soon", None)] {
            let headers = HeaderMap::from_iter([(RETRY_AFTER, text.parse().unwrap())]);
            let Outcome::Retry { after, .. } = of_http(StatusCode::SERVICE_UNAVAILABLE, &headers, b"", now) else {
                panic!("{text}")
            };
            assert_eq!(after, seconds.map(Duration::from_secs), "{text}");
        }
    }

    #[test]
    fn a_partial_success_is_a_delivery_with_its_count_and_reason() {
        let partial = Some(PartialSuccess { rejected: 3, error_message: "too old".to_owned() });
        let outcome = delivered(&Response { partial_success: partial }.encode_to_vec());
        assert_eq!(outcome, Outcome::Delivered { rejected: 3, message: "too old".to_owned() });
        assert_eq!(delivered(b"\xff"), Outcome::Delivered { rejected: 0, message: String::new() });
    }

    #[test]
    fn pauses_double_up_to_half_a_minute_and_are_never_shorter_than_asked_for() {
        let mut backoff = Backoff::default();
        let pauses: Vec<_> = (0..9).map(|_| backoff.next(None, 1.0).as_millis()).collect();
        assert_eq!(pauses, [500, 1_000, 2_000, 4_000, 8_000, 16_000, 30_000, 30_000, 30_000]);
        assert_eq!(Backoff::default().next(None, 0.0), Duration::from_millis(250));
        assert_eq!(Backoff::default().next(Some(Duration::from_secs(9)), 1.0), Duration::from_secs(9));
        assert_eq!(Backoff::default().next(Some(Duration::MAX), 1.0), LONGEST_ASKED);
    }
}
