//! An answer as messages: the schema, the rows, and coverage in the metadata of the last message, whichever that is.
//!
//! A message of its own for coverage would be allowed by the protocol, and some clients fall over a message without a
//! header. Reader and writer are joined by a short queue with a limit of time, so that a client that has stopped reading
//! does not keep an answer in memory for ever.

use std::sync::Arc;
use std::time::Duration;

use arrow::array::RecordBatch;
use arrow::datatypes::{Field, Schema, SchemaRef};
use arrow_flight::FlightData;
use arrow_flight::encode::FlightDataEncoderBuilder;
use futures::{Stream, StreamExt, stream};
use serde_json::json;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use crate::ask::{Answer, AskError};
use crate::flight_sql::failure::status;
use crate::ports::Held;
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

/// The messages of an answer, which gives its room back after the last.
pub(crate) fn messages(
    answer: Answer,
    held: Held,
    tally: Arc<Tally>,
) -> impl Stream<Item = Result<FlightData, Status>> + Send {
    let (sender, receiver) = mpsc::channel(READ_AHEAD);
    tokio::spawn(async move {
        let _held = held;
        if send(answer, &sender).await == Err(Unsent::Stalled) {
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

async fn send(answer: Answer, sender: &mpsc::Sender<Result<FlightData, Status>>) -> Result<(), Unsent> {
    let beside = beside(&answer);
    let schema = told(&answer.schema);
    let batches: Vec<_> = answer
        .batches
        .into_iter()
        .map(|batch| RecordBatch::try_new(Arc::clone(&schema), batch.columns().to_vec()).map_err(Into::into))
        .collect();
    let mut encoded = FlightDataEncoderBuilder::new().with_schema(schema).build(stream::iter(batches));
    let mut held: Option<FlightData> = None;
    while let Some(next) = encoded.next().await {
        match next {
            Ok(data) => {
                if let Some(before) = held.replace(data) {
                    put(sender, Ok(before)).await?;
                }
            }
            Err(error) => return put(sender, Err(status(AskError::Internal { source: Box::new(error) }))).await,
        }
    }
    match held {
        Some(mut last) => {
            last.app_metadata = beside.into();
            put(sender, Ok(last)).await
        }
        None => Ok(()),
    }
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
fn beside(answer: &Answer) -> Vec<u8> {
    let mut beside = json!({"coverage": answer.coverage, "sampling": answer.sampling, "stats": answer.stats});
    if let Some(hint) = &answer.hint {
        beside["hint"] = json!(hint);
    }
    beside.to_string().into_bytes()
}
