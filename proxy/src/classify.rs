//! What an error means: whose fault it is, whether another provider may do better, and whether it counts against the
//! channel. Messages are looked at before codes, since providers reuse codes freely; a provider's own rules come first.

use lariat_schema::vocabulary::{CallResult, ErrorCategory, Outcome};

use crate::jsonrpc::RpcError;
use crate::profiles::ErrorRule;

/// Parts of messages, in lower case, in the order in which they are looked for.
const PATTERNS: &[(ErrorCategory, &[&str])] = &[
    (
        ErrorCategory::RateLimit,
        &[
            "rate limit",
            "rate-limit",
            "ratelimit",
            "too many requests",
            "compute units",
            "quota",
            "throttl",
            "capacity exceeded",
        ],
    ),
    (
        ErrorCategory::AuthError,
        &["unauthorized", "forbidden", "invalid api key", "invalid token", "authentication", "access denied"],
    ),
    (
        ErrorCategory::ServerError,
        &[
            "service unavailable",
            "bad gateway",
            "gateway timeout",
            "temporarily unavailable",
            "upstream",
            "server is busy",
        ],
    ),
    (
        ErrorCategory::InvalidParams,
        &["invalid params", "invalid argument", "missing value for required argument", "cannot unmarshal"],
    ),
    (
        ErrorCategory::ExecutionRevert,
        &["execution reverted", "revert", "out of gas", "insufficient funds", "nonce too low"],
    ),
    (
        ErrorCategory::RequiresArchival,
        &[
            "missing trie node",
            "archive",
            "pruned",
            "state is not available",
            "state not available",
            "historical state",
        ],
    ),
    (ErrorCategory::BlockNotAvailable, &["header not found", "block not found", "unknown block", "not yet available"]),
    (
        ErrorCategory::CapabilityViolation,
        &[
            "block range",
            "range too large",
            "more than",
            "response size",
            "query timeout",
            "too large",
            "exceeds max",
            "limited to",
        ],
    ),
];

/// Selectors of `Error(string)` and `Panic(uint256)`.
const REVERT_SELECTORS: &[&str] = &["\"0x08c379a0", "\"0x4e487b71"];

/// What a JSON-RPC error is.
pub(crate) fn of_error(rules: &[ErrorRule], status: u16, error: &RpcError) -> ErrorCategory {
    let message = error.message.to_lowercase();
    for rule in rules {
        let text = rule.message_contains.is_empty() || rule.message_contains.iter().any(|part| message.contains(part));
        if text && rule.code.is_none_or(|code| code == error.code) {
            return rule.category;
        }
    }
    match error.code {
        -32700 => return ErrorCategory::ParseError,
        -32600 => return ErrorCategory::InvalidRequest,
        -32601 => return ErrorCategory::MethodNotFound,
        _ => {}
    }
    if status == 429 {
        return ErrorCategory::RateLimit;
    }
    if error.code == 3 || error.data.as_ref().is_some_and(|data| REVERT_SELECTORS.iter().any(|it| data.starts_with(it)))
    {
        return ErrorCategory::ExecutionRevert;
    }
    let by_message = PATTERNS.iter().find(|(_, parts)| parts.iter().any(|part| message.contains(part)));
    by_message.map_or_else(|| of_code(error.code), |(category, _)| *category)
}

const fn of_code(code: i64) -> ErrorCategory {
    match code {
        -32010 | -32015 | -32016 => ErrorCategory::ExecutionRevert,
        -32005 | 30 | -32046 => ErrorCategory::RateLimit,
        -32004 | 4901 => ErrorCategory::NetworkError,
        -32003 => ErrorCategory::ClientError,
        -32000 => ErrorCategory::UnclassifiedServerError,
        -32602 => ErrorCategory::InvalidParams,
        -32603 => ErrorCategory::InternalError,
        -32701 | 35 => ErrorCategory::CapabilityViolation,
        -31001 | -31002 | 14 | 23 | -32099..=-32001 => ErrorCategory::ServerError,
        4001 => ErrorCategory::UserError,
        4100 => ErrorCategory::AuthError,
        4200 => ErrorCategory::MethodNotFound,
        4900 => ErrorCategory::ChainError,
        26 => ErrorCategory::BlockNotAvailable,
        _ => ErrorCategory::UnclassifiedServerError,
    }
}

/// What an HTTP status without a JSON-RPC reply is.
pub(crate) const fn of_status(status: u16) -> ErrorCategory {
    match status {
        429 => ErrorCategory::RateLimit,
        401..=403 => ErrorCategory::AuthError,
        408 => ErrorCategory::Timeout,
        400..=499 => ErrorCategory::ClientError,
        500..=599 => ErrorCategory::ServerError,
        _ => ErrorCategory::InvalidResponse,
    }
}

/// True where the error is the call's own and any provider would say the same.
pub(crate) const fn is_the_calls_own(category: ErrorCategory) -> bool {
    matches!(
        category,
        ErrorCategory::ExecutionRevert
            | ErrorCategory::InvalidParams
            | ErrorCategory::InvalidRequest
            | ErrorCategory::ParseError
            | ErrorCategory::UserError
    )
}

/// True where the provider surely did nothing with the call, so that even a transaction may go to another one.
pub(crate) const fn surely_refused(category: ErrorCategory) -> bool {
    matches!(
        category,
        ErrorCategory::RateLimit
            | ErrorCategory::AuthError
            | ErrorCategory::MethodNotFound
            | ErrorCategory::CapabilityViolation
            | ErrorCategory::RequiresArchival
    )
}

/// How the decision ended whose last answer was this error.
pub(crate) const fn result_of(category: ErrorCategory) -> CallResult {
    match category {
        ErrorCategory::MethodNotFound => CallResult::ApplicationError,
        other if is_the_calls_own(other) => CallResult::ApplicationError,
        _ => CallResult::Error,
    }
}

/// How the attempt ended that got this error.
pub(crate) const fn outcome_of(category: ErrorCategory) -> Outcome {
    match category {
        ErrorCategory::RateLimit => Outcome::CapacityRejection,
        ErrorCategory::Timeout => Outcome::Timeout,
        ErrorCategory::MethodNotFound | ErrorCategory::BlockNotAvailable => Outcome::ApplicationError,
        other if is_the_calls_own(other) => Outcome::ApplicationError,
        _ => Outcome::ServiceFailure,
    }
}

/// True where the error counts against the channel's circuit.
pub(crate) const fn is_penalised(category: ErrorCategory) -> bool {
    matches!(
        category,
        ErrorCategory::ServerError
            | ErrorCategory::NetworkError
            | ErrorCategory::Timeout
            | ErrorCategory::AuthError
            | ErrorCategory::InternalError
            | ErrorCategory::InvalidResponse
            | ErrorCategory::ChainError
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(code: i64, message: &str) -> ErrorCategory {
        of_error(&[], 200, &RpcError { code, message: message.to_owned(), data: None })
    }

    #[test]
    fn messages_are_looked_at_before_codes_but_the_protocols_own_codes_stand() {
        assert_eq!(of(-32000, "Your app exceeded its Rate Limit"), ErrorCategory::RateLimit);
        assert_eq!(of(-32000, "execution reverted: nope"), ErrorCategory::ExecutionRevert);
        assert_eq!(of(-32601, "too many requests"), ErrorCategory::MethodNotFound);
        assert_eq!(of(-32000, "hm"), ErrorCategory::UnclassifiedServerError);
        assert_eq!(of(-32005, "hm"), ErrorCategory::RateLimit);
        assert_eq!(of(-32050, "hm"), ErrorCategory::ServerError);
    }

    #[test]
    fn a_providers_own_rule_wins() {
        let rule = ErrorRule { code: Some(-32601), message_contains: vec![], category: ErrorCategory::RateLimit };
        let error = RpcError { code: -32601, message: String::new(), data: None };
        assert_eq!(of_error(&[rule], 200, &error), ErrorCategory::RateLimit);
    }

    #[test]
    fn a_revert_is_known_by_its_data() {
        let error = RpcError { code: -32000, message: String::new(), data: Some("\"0x08c379a0ff\"".to_owned()) };
        assert_eq!(of_error(&[], 200, &error), ErrorCategory::ExecutionRevert);
    }
}
