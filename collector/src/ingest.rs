//! What the receiver hands a decoded request to, and gets the acknowledgement from.

pub(crate) mod commit;
mod restore;
pub(crate) mod spine;

pub use spine::OpenError;

use std::time::Duration;

use async_trait::async_trait;

use crate::decode::Decoded;

/// A request that is durable: its answer to the client.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Committed {
    /// Records that were taken in.
    pub accepted: u64,
    /// Records known already, and so left out.
    pub deduplicated: u64,
}

/// Why a request was not taken in. Nothing of it was kept.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Too much is waiting: the same request succeeds later.
    #[error("overloaded: retry after {retry_after:?}")]
    Overloaded {
        /// When to come back.
        retry_after: Duration,
    },
    /// The log cannot be written, the disk is full for example: the same request may succeed later.
    #[error("cannot write the log: {reason}")]
    NotDurable {
        /// What the system said.
        reason: String,
        /// When to come back.
        retry_after: Duration,
    },
    /// The process is ending.
    #[error("shutting down")]
    ShuttingDown,
}

/// Takes a decoded request through dedup and commit. Returns once the request is durable.
#[async_trait]
pub trait Ingest: Send + Sync + 'static {
    /// Whether requests can be taken at the moment, asked before one of so many bytes as it came is decoded: decoding what is
    /// refused afterwards would cost an overloaded node as much as taking it. A refusal is counted as one of [`Self::ingest`].
    fn has_room(&self, body_bytes: usize) -> Result<(), Refused> {
        let _ = body_bytes;
        Ok(())
    }

    /// Deduplicates and commits; on `Ok` the records survive any crash (I-2).
    async fn ingest(&self, decoded: Decoded) -> Result<Committed, Refused>;
}

#[cfg(test)]
mod tests;
