//! What an error means: whose fault it is, whether another provider may do better, and whether it counts against the
//! channel. A provider's own rules come first, then the codes that the protocol itself gives a meaning, then what is surely
//! a revert, then the message, then the code, and the HTTP status where all of these say nothing: providers reuse codes
//! freely. Nothing is remembered here: the same error is always of the same category.

mod messages;

use lariat_schema::vocabulary::{CallResult, ErrorCategory, Outcome};

use crate::jsonrpc::RpcError;
use crate::profiles::ErrorRule;

/// Beginnings of what a contract or a node says when it reverts: the selectors of `Error(string)` and `Panic(uint256)`.
const REVERT_DATA: &[&[u8]] = &[b"\"0x08c379a0", b"\"0x4e487b71", b"\"reverted 0x"];
/// Bytes of `error.data` in which they are looked for: some providers wrap them in an object.
const REVERT_DATA_BYTES: usize = 256;

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
    if error.code == 3 || error.data.as_deref().is_some_and(is_revert) {
        return ErrorCategory::ExecutionRevert;
    }
    if let Some(category) = messages::read(&error.message) {
        return category;
    }
    match of_code(error.code) {
        // Neither message nor code says whose fault it is; the status may.
        ErrorCategory::UnclassifiedServerError if matches!(status, 401..=403 | 500..=599) => of_status(status),
        category => category,
    }
}

fn is_revert(data: &[u8]) -> bool {
    let data = &data[..data.len().min(REVERT_DATA_BYTES)];
    REVERT_DATA.iter().any(|start| data.windows(start.len()).any(|part| part.eq_ignore_ascii_case(start)))
}

const fn of_code(code: i64) -> ErrorCategory {
    match code {
        -32010 | -32015 | -32016 => ErrorCategory::ExecutionRevert,
        // Those of `eth_simulateV1`: what the simulated block or its sender cannot do.
        -38025..=-38022 | -38015..=-38010 => ErrorCategory::ExecutionRevert,
        -38021 | -38020 => ErrorCategory::InvalidParams,
        -38026 => ErrorCategory::CapabilityViolation,
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
        // Given up by the proxy, whatever the provider would have said.
        ErrorCategory::LocalCapacity => Outcome::Cancelled,
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
mod tests;
