//! An answer as messages: the schema, the rows as they come, and coverage in the metadata of the last message, whichever
//! that is.
//!
//! A message of its own for coverage would be allowed by the protocol, and some clients fall over a message without a
//! header; so each message waits until it is known whether another follows. Reader and writer are joined by a short queue
//! with a limit of time, so that a client that has stopped reading ends its question.

use std::future::ready;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use arrow::array::RecordBatch;
use arrow::datatypes::{Field, Schema, SchemaRef};
use arrow_flight::FlightData;
use arrow_flight::encode::FlightDataEncoderBuilder;
use arrow_flight::error::FlightError;
use futures::{Stream, StreamExt};
use serde_json::json;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::failure::{cancelled, status};
use super::running::Run;
use crate::ask::{AskError, Beside, Part, Rows};
use crate::ports::tally::{Protocol, Tally, Turned};

/// Messages made before the client has taken the ones before.
const READ_AHEAD: usize = 2;
/// How long a client may take nothing.
pub(crate) const STALL: Duration = Duration::from_secs(30);

/// The columns as both calls tell them: a plan knows more of what can be null than its optimised form does, and clients
/// compare the two schemas to the letter.
pub(crate) fn told(schema: &Schema) -> SchemaRef {
    let field = |field: &Arc<Field>| Field::new(field.name(), field.data_type().clone(), true);
    Arc::new(Schema::new(schema.fields().iter().map(field).collect::<Vec<_>>()))
}

/// The messages of an answer. Whoever takes no more of them ends the question, as does a word to cancel it.
pub(crate) fn messages(
    rows: Rows,
    run: Run,
    tally: Arc<Tally>,
) -> impl Stream<Item = Result<FlightData, Status>> + Send {
    let (sender, receiver) = mpsc::channel(READ_AHEAD);
    tokio::spawn(async move {
        let sent = tokio::select! {
            sent = send(rows, &sender) => sent,
            () = run.cancelled.cancelled() => put(&sender, Err(cancelled())).await,
            () = sender.closed() => Err(Unsent::Left),
        };
        if sent == Err(Unsent::Stalled) {
            tally.turned(Protocol::FlightSql, Turned::Stalled);
        }
    });
    ReceiverStream::new(receiver)
}

#[derive(Debug, PartialEq)]
enum Unsent {
    Left,
    Stalled,
}

async fn send(rows: Rows, sender: &mpsc::Sender<Result<FlightData, Status>>) -> Result<(), Unsent> {
    let (schema, end) = (told(&rows.schema), Arc::new(OnceLock::new()));
    let batches = {
        let (schema, end) = (Arc::clone(&schema), Arc::clone(&end));
        rows.parts.filter_map(move |part| {
            ready(match part {
                Ok(Part::Rows(batch)) => {
                    Some(RecordBatch::try_new(Arc::clone(&schema), batch.columns().to_vec()).map_err(Into::into))
                }
                Ok(Part::End(found)) => end.set(beside(&found)).err().map(|_| Err(broken())),
                Err(error) => Some(Err(FlightError::Tonic(Box::new(status(error))))),
            })
        })
    };
    let mut encoded = FlightDataEncoderBuilder::new().with_schema(schema).build(batches);
    let mut held: Option<FlightData> = None;
    while let Some(next) = encoded.next().await {
        let (next, error) = match next {
            Ok(data) => (Some(data), None),
            Err(FlightError::Tonic(status)) => (None, Some(*status)),
            Err(error) => (None, Some(status(AskError::Internal { source: Box::new(error) }))),
        };
        if let Some(before) = std::mem::replace(&mut held, next) {
            put(sender, Ok(before)).await?;
        }
        if let Some(error) = error {
            return put(sender, Err(error)).await;
        }
    }
    let last = held.zip(end.get()).map(|(last, beside)| FlightData { app_metadata: beside.clone().into(), ..last });
    put(sender, last.ok_or_else(|| status(AskError::Internal { source: Box::new(broken()) }))).await
}

/// The fault of whoever made the answer.
fn broken() -> FlightError {
    FlightError::protocol("an answer has one end")
}

async fn put(
    sender: &mpsc::Sender<Result<FlightData, Status>>,
    message: Result<FlightData, Status>,
) -> Result<(), Unsent> {
    sender.send_timeout(message, STALL).await.map_err(|error| match error {
        mpsc::error::SendTimeoutError::Timeout(_) => Unsent::Stalled,
        mpsc::error::SendTimeoutError::Closed(_) => Unsent::Left,
    })
}

/// What stands beside the rows, with the names that it has over HTTP.
fn beside(of: &Beside) -> Vec<u8> {
    let mut beside = json!({"coverage": of.coverage, "sampling": of.sampling, "stats": of.stats});
    if let Some(hint) = &of.hint {
        beside["hint"] = json!(hint);
    }
    beside.to_string().into_bytes()
}
