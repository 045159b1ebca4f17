//! An answer that is being read: by one statement, or bit by bit by a portal or a cursor. It holds what one wait brought
//! and was not asked for yet, and no more.

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use futures::StreamExt;
use futures::stream::{self, BoxStream};
use lariat_schema::coverage::Coverage;

use super::failure::Problem;
use crate::ask::{AskError, Beside, Part, Rows};

/// An answer on its way.
pub(crate) struct Open {
    pub(crate) schema: SchemaRef,
    /// Whether it outlives its transaction.
    pub(crate) holds: bool,
    parts: BoxStream<'static, Result<Part, AskError>>,
    rest: Option<RecordBatch>,
    notices: Vec<Problem>,
}

impl Open {
    /// An answer of the fleet.
    pub(crate) fn of(Rows { schema, parts }: Rows) -> Self {
        Self { schema, holds: false, parts, rest: None, notices: Vec::new() }
    }

    /// Rows that are all here.
    pub(crate) fn complete(schema: SchemaRef, batches: Vec<RecordBatch>) -> Self {
        let parts = stream::iter(batches.into_iter().map(|batch| Ok(Part::Rows(batch))));
        Self::of(Rows { schema, parts: parts.boxed() })
    }

    /// The next rows, at most so many and at least one; `None` after the last. What is dropped while it waits loses nothing.
    pub(crate) async fn take(&mut self, most: usize) -> Result<Option<RecordBatch>, Problem> {
        loop {
            if let Some(batch) = self.rest.take().filter(|batch| batch.num_rows() > 0) {
                let more = batch.num_rows().saturating_sub(most);
                self.rest = (more > 0).then(|| batch.slice(most, more));
                return Ok(Some(batch.slice(0, batch.num_rows() - more)));
            }
            match self.parts.next().await {
                Some(Ok(Part::Rows(batch))) => self.rest = Some(batch),
                Some(Ok(Part::End(beside))) => self.notices = notices(&beside),
                Some(Err(error)) => return Err(error.into()),
                None => {
                    self.parts = stream::empty().boxed();
                    return Ok(None);
                }
            }
        }
    }

    /// What is to be told before its end, once.
    pub(crate) fn take_notices(&mut self) -> Vec<Problem> {
        std::mem::take(&mut self.notices)
    }
}

/// How much an answer lacks, and what to know about it.
fn notices(beside: &Beside) -> Vec<Problem> {
    let Coverage { complete, ratio, expected, answered, query_id, .. } = &beside.coverage;
    let hint = format!("SELECT * FROM coverage_of('{query_id}') tells what is missing and why");
    let incomplete = (!complete).then(|| {
        let message = format!("coverage is {ratio:.3}: {answered} of {expected} nodes answered");
        Problem::new("01000", message, Some(&hint))
    });
    let advice = beside.hint.as_ref().map(|hint| Problem::new("01000", hint.clone(), None));
    incomplete.into_iter().chain(advice).collect()
}
