//! An engine whose answers are long and whose batches are counted: how much of an answer a port holds at a time.

use std::sync::Weak;
use std::sync::atomic::{AtomicUsize, Ordering};

use arrow::array::{Int64Array, RecordBatch};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use async_trait::async_trait;
use futures::stream;
use lariat_schema::coverage::{Coverage, Sampling, Window};
use parking_lot::Mutex;
use tokio::net::TcpListener;

use super::*;
use crate::ask::{Answer, Beside, Outline, Stats};

/// Rows of each batch.
const BATCH: i64 = 1_000;
/// Most batches of an answer that may be alive at a time, wherever they are: those that are being written and read ahead.
pub(crate) const FEW: usize = 8;

/// Answers everything with so many numbers, from 0.
#[derive(Default)]
pub(crate) struct Numbers {
    rows: i64,
    made: Mutex<Vec<Weak<Int64Array>>>,
    most: AtomicUsize,
}

impl Numbers {
    pub(crate) fn up_to(rows: i64) -> Arc<Self> {
        Arc::new(Self { rows, ..Self::default() })
    }

    /// Most batches that were alive at a time.
    pub(crate) fn most(&self) -> usize {
        self.most.load(Ordering::Acquire)
    }

    fn schema() -> SchemaRef {
        Arc::new(Schema::new(vec![Field::new("n", DataType::Int64, true)]))
    }

    fn batch(&self, from: i64) -> RecordBatch {
        let numbers = Arc::new(Int64Array::from_iter_values(from..(from + BATCH).min(self.rows)));
        let mut made = self.made.lock();
        made.push(Arc::downgrade(&numbers));
        made.retain(|batch| batch.strong_count() > 0);
        self.most.fetch_max(made.len(), Ordering::AcqRel);
        RecordBatch::try_new(Self::schema(), vec![numbers]).unwrap()
    }
}

/// Numbers that are still alive when their stream is.
struct Asked(Arc<Numbers>);

#[async_trait]
impl Ask for Asked {
    async fn ask(&self, _: Question) -> Result<Answer, AskError> {
        Err(AskError::Internal { source: "answers are streamed".into() })
    }

    async fn outline(&self, _: Question) -> Result<Outline, AskError> {
        Ok(Outline { schema: Numbers::schema(), parameters: Vec::new() })
    }

    async fn stream(&self, _: Question) -> Result<Rows, AskError> {
        let numbers = Arc::clone(&self.0);
        let of = usize::try_from(BATCH).unwrap();
        let batches = (0..numbers.rows).step_by(of).map(move |from| Ok(Part::Rows(numbers.batch(from))));
        let parts = stream::iter(batches).chain(stream::iter([Ok(Part::End(Box::new(beside())))]));
        Ok(Rows { schema: Numbers::schema(), parts: parts.boxed() })
    }
}

fn beside() -> Beside {
    let coverage = Coverage {
        complete: true,
        ratio: 1.0,
        expected: 1,
        connected: 1,
        responding: 1,
        answered: 1,
        window: Window { from: None, to: None, open_from: None },
        query_id: "numbers".to_owned(),
        regions: Vec::new(),
        nodes: Vec::new(),
    };
    Beside { coverage, sampling: Sampling::default(), stats: Stats::default(), hint: None }
}

/// A listener, and what a port over these numbers works with.
pub(crate) async fn port(numbers: &Arc<Numbers>) -> (TcpListener, Shared) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let ask = Arc::new(Asked(Arc::clone(numbers)));
    (listener, Shared::new(ask, Access::default(), Callers::new(1)))
}
