//! A ticket: the question as `GetFlightInfo` understood it, sealed into bytes for `DoGet`.
//!
//! It is read from a client's hands again, so nothing in it is believed: it is parsed and judged as if it were new.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use tonic::Status;
use uuid::Uuid;

use super::credentials::Wishes;

/// Longest question, in bytes; as long as over HTTP.
pub(crate) const MAX_QUESTION_BYTES: usize = 256 * 1024;

/// A question that is going to be asked.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Ticket {
    /// Makes two askings of one text two: each can be cancelled alone.
    id: Uuid,
    /// The question.
    pub(crate) sql: String,
    min_coverage: Option<f64>,
    deadline_ms: Option<u64>,
}

impl Ticket {
    pub(crate) fn new(sql: String, wishes: Wishes) -> Self {
        let deadline_ms = wishes.deadline.map(|deadline| u64::try_from(deadline.as_millis()).unwrap_or(u64::MAX));
        Self { id: Uuid::now_v7(), sql, min_coverage: wishes.min_coverage, deadline_ms }
    }

    pub(crate) fn encode(&self) -> Result<Vec<u8>, Status> {
        serde_json::to_vec(self).map_err(|_| Status::internal("the ticket cannot be written"))
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, Status> {
        let ticket: Self = serde_json::from_slice(bytes)
            .map_err(|_| Status::invalid_argument("this is no ticket of this service: ask GetFlightInfo for one"))?;
        bounded(&ticket.sql)?;
        Ok(ticket)
    }

    /// The wishes, those of the second call before those of the first.
    pub(crate) fn wishes(&self, now: Wishes) -> Wishes {
        Wishes {
            min_coverage: now.min_coverage.or(self.min_coverage),
            deadline: now.deadline.or(self.deadline_ms.map(Duration::from_millis)),
        }
    }
}

/// Refuses questions that are too long.
pub(crate) fn bounded(sql: &str) -> Result<(), Status> {
    if sql.len() > MAX_QUESTION_BYTES {
        return Err(Status::invalid_argument(format!("the question is longer than {MAX_QUESTION_BYTES} bytes")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_ticket_is_read_as_it_was_written_and_the_later_wish_counts() {
        let first = Wishes { min_coverage: Some(0.5), deadline: Some(Duration::from_secs(2)) };
        let ticket = Ticket::new("SELECT 1".to_owned(), first);
        let read = Ticket::decode(&ticket.encode().unwrap()).unwrap();
        assert_eq!(read, ticket);
        assert_eq!(read.wishes(Wishes::default()), first);
        assert_eq!(read.wishes(Wishes { min_coverage: Some(0.9), deadline: None }).min_coverage, Some(0.9));
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_are_no_ticket(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(Ticket::decode(&bytes).is_err());
        }
    }
}
