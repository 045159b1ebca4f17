//! Errors as gRPC statuses: one table. The hint stands in the message, where every client shows it, and with the code of
//! HTTP in the metadata, where a program finds it.

use tonic::metadata::{AsciiMetadataValue, MetadataMap};
use tonic::{Code, Status};

use crate::api::ApiError;
use crate::ask::AskError;

/// An error as the client sees it. What only operators may see has gone to the log.
pub(crate) fn status(error: AskError) -> Status {
    let code = match &error {
        AskError::BadQuestion { .. } => Code::InvalidArgument,
        AskError::TooLarge { .. } => Code::ResourceExhausted,
        AskError::Busy { .. } | AskError::TooMany { .. } | AskError::NotCovered { .. } => Code::Unavailable,
        AskError::Gone => Code::Cancelled,
        AskError::Deadline { .. } => Code::DeadlineExceeded,
        AskError::Internal { .. } => Code::Internal,
    };
    let ApiError { code: word, message, hint, .. } = ApiError::from(error);
    let mut headers = MetadataMap::new();
    headers.insert("x-lariat-code", AsciiMetadataValue::from_static(word));
    let text = match &hint {
        Some(hint) => {
            if let Ok(value) = AsciiMetadataValue::try_from(hint.as_str()) {
                headers.insert("x-lariat-hint", value);
            }
            format!("{message} ({hint})")
        }
        None => message,
    };
    Status::with_metadata(code, text, headers)
}

/// What is not offered, and what to do instead.
pub(crate) fn read_only() -> Status {
    Status::invalid_argument("only reading is possible")
}

/// The client's own wish.
pub(crate) fn cancelled() -> Status {
    Status::cancelled("the query was cancelled")
}
