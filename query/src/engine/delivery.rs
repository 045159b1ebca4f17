//! Where the rows of an answer go: into memory until all of them are there, or to a reader as they come.
//!
//! What has gone to a reader cannot be taken back, so that from the first row on a plan is not repeated; what is in memory
//! can. So rows for a reader are held until they are all there, or [`HELD_BYTES`] of them, or nodes take long: a small answer
//! is as right as one in memory, whatever the protocol. From then on a reader is waited for, and what nodes send waits with
//! it: nothing is buffered beyond [`READ_AHEAD`] batches here and a fixed budget per connection. One that takes nothing for
//! [`READER_PATIENCE`] has its query ended.

use std::time::Duration;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use datafusion::common::utils::memory::RecordBatchMemoryCounter;
use tokio::sync::mpsc;

use super::places::Place;
use crate::ask::{AskError, Beside};
use crate::limits::Limits;

/// Batches that wait for a reader: one that is being written, and the next.
pub(crate) const READ_AHEAD: usize = 2;
/// Rows that are held before the first goes: more than a panel shows, and little for each of many questions.
pub(crate) const HELD_BYTES: usize = 1024 * 1024;
/// How long a reader may take nothing: it holds files on nodes and one of few places.
pub(crate) const READER_PATIENCE: Duration = Duration::from_secs(60);

/// What a reader gets, in this order.
#[derive(Debug)]
pub(crate) enum Piece {
    /// First, before the rows.
    Begin(SchemaRef),
    Rows(RecordBatch),
    /// Last.
    End(Box<Beside>),
    /// Last, where the answer breaks off.
    Failed(AskError),
}

/// Where rows go.
pub(crate) enum Delivery {
    Whole(Whole),
    Parts(Parts),
}

/// Rows in memory.
#[derive(Debug, Default)]
pub(crate) struct Whole {
    pub(crate) batches: Vec<RecordBatch>,
    rows: usize,
    memory: RecordBatchMemoryCounter,
    max_rows: usize,
    max_bytes: usize,
}

/// Rows on their way.
pub(crate) struct Parts {
    reader: mpsc::Sender<Piece>,
    place: Place,
    held: Vec<RecordBatch>,
    memory: RecordBatchMemoryCounter,
    begun: bool,
    rows: u64,
}

impl Delivery {
    /// Into memory, within the limits of an answer.
    pub(crate) fn whole(limits: &Limits) -> Self {
        Self::Whole(Whole { max_rows: limits.max_rows, max_bytes: limits.max_query_bytes, ..Whole::default() })
    }

    /// To a reader; the place is of the question that is answered.
    pub(crate) fn parts(reader: mpsc::Sender<Piece>, place: Place) -> Self {
        Self::Parts(Parts {
            reader,
            place,
            held: Vec::new(),
            memory: RecordBatchMemoryCounter::new(),
            begun: false,
            rows: 0,
        })
    }

    /// Whether rows go out as they come.
    pub(crate) fn streams(&self) -> bool {
        matches!(self, Self::Parts(_))
    }

    /// Whether something has gone that cannot be taken back.
    pub(crate) fn is_under_way(&self) -> bool {
        matches!(self, Self::Parts(parts) if parts.begun)
    }

    /// Rows so far.
    pub(crate) fn rows(&self) -> u64 {
        match self {
            Self::Whole(whole) => whole.rows as u64,
            Self::Parts(parts) => parts.rows,
        }
    }

    /// Forgets what a try brought that is repeated.
    pub(crate) fn discard(&mut self) {
        match self {
            Self::Whole(whole) => {
                whole.rows = 0;
                whole.memory = RecordBatchMemoryCounter::new();
                whole.batches.clear();
            }
            Self::Parts(parts) => {
                parts.rows = 0;
                parts.memory = RecordBatchMemoryCounter::new();
                parts.held.clear();
            }
        }
    }

    /// The rows in memory.
    pub(crate) fn into_batches(self) -> Vec<RecordBatch> {
        match self {
            Self::Whole(whole) => whole.batches,
            Self::Parts(_) => Vec::new(),
        }
    }

    /// Tells a reader of the end.
    pub(crate) async fn end(self, ended: Result<(SchemaRef, Beside), AskError>) {
        if let Self::Parts(parts) = self {
            parts.end(ended).await;
        }
    }

    /// Takes rows, and waits for whoever reads them. Where it is late they are not held.
    pub(crate) async fn take(&mut self, batch: RecordBatch, is_late: bool) -> Result<(), AskError> {
        match self {
            Self::Whole(whole) => whole.take(batch),
            Self::Parts(parts) => parts.take(batch, is_late).await,
        }
    }
}

impl Whole {
    fn take(&mut self, batch: RecordBatch) -> Result<(), AskError> {
        self.rows += batch.num_rows();
        // Columns of one message share its buffer: summed column by column, it would count once for each.
        self.memory.count_batch(&batch);
        if self.rows > self.max_rows || self.memory.memory_usage() > self.max_bytes {
            return Err(AskError::TooLarge {
                message: format!("the answer exceeds {} rows or {} MiB", self.max_rows, self.max_bytes >> 20),
                hint: Some("narrow it by time, aggregate it, add a LIMIT, or ask for format=ndjson".to_owned()),
            });
        }
        self.batches.push(batch);
        Ok(())
    }
}

impl Parts {
    async fn take(&mut self, batch: RecordBatch, is_late: bool) -> Result<(), AskError> {
        if batch.num_rows() == 0 {
            return Ok(());
        }
        self.rows += batch.num_rows() as u64;
        if self.begun {
            return self.send(Piece::Rows(batch)).await;
        }
        let schema = batch.schema();
        self.memory.count_batch(&batch);
        self.held.push(batch);
        if self.memory.memory_usage() > HELD_BYTES || is_late {
            self.place.become_stream().await?;
            self.begin(schema).await?;
        }
        Ok(())
    }

    async fn begin(&mut self, schema: SchemaRef) -> Result<(), AskError> {
        self.begun = true;
        self.send(Piece::Begin(schema)).await?;
        for batch in std::mem::take(&mut self.held) {
            self.send(Piece::Rows(batch)).await?;
        }
        Ok(())
    }

    async fn send(&self, piece: Piece) -> Result<(), AskError> {
        match tokio::time::timeout(READER_PATIENCE, self.reader.send(piece)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) | Err(_) => Err(AskError::Gone),
        }
    }

    async fn end(mut self, ended: Result<(SchemaRef, Beside), AskError>) {
        // An error here says that nobody is there to be told.
        match ended {
            Ok((schema, beside)) => {
                if !self.begun {
                    self.place.become_unread();
                    if self.begin(schema).await.is_err() {
                        return;
                    }
                }
                self.send(Piece::End(Box::new(beside))).await.ok();
            }
            Err(error) => drop(self.send(Piece::Failed(error)).await),
        }
    }
}
