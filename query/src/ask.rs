//! One question and one answer: what every API of the query service asks the engine, and what it gets. An answer
//! never travels without its coverage, so it is part of the type.

use std::sync::Arc;
use std::time::Duration;

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, SchemaRef};
use async_trait::async_trait;
use futures::StreamExt;
use futures::stream::{self, BoxStream};
use lariat_collector::worker::wire::Pruned;
use lariat_schema::coverage::{Coverage, Sampling};
use lariat_schema::ids::StoreId;
use lariat_schema::time_range::TimeRange;

#[cfg(test)]
pub(crate) mod local;

/// A question.
#[derive(Debug, Clone, PartialEq)]
pub struct Question {
    /// One SQL query over the tables and views of `lariat_schema`.
    pub sql: String,
    /// The time that coverage is judged over. `None`: derived from the predicates on `time`, or all that is retained.
    pub window: Option<TimeRange>,
    /// How long to wait for nodes; `None`: the service's default.
    pub deadline: Option<Duration>,
    /// Below this ratio the answer is an error.
    pub min_coverage: Option<f64>,
    /// Which part of a larger question it is.
    pub scope: Scope,
    /// What stands for `$1`, `$2` and so on, or for each `?` in its order.
    pub parameters: Vec<Parameter>,
}

/// A value that a question is asked with. It takes its place in the parsed question, never in its text, so that no value
/// can become a piece of the question.
#[derive(Debug, Clone, PartialEq)]
pub enum Parameter {
    /// No value.
    Null,
    /// True or false.
    Boolean(bool),
    /// A whole number.
    Integer(i64),
    /// A number as its digits.
    Decimal(String),
    /// A number.
    Float(f64),
    /// Text, also that of an id or a moment.
    Text(String),
    /// Bytes.
    Bytes(Vec<u8>),
    /// A moment, in nanoseconds since 1970.
    Moment(i64),
}

/// What an answer will look like, known before it is made.
#[derive(Debug, Clone, PartialEq)]
pub struct Outline {
    /// Its columns.
    pub schema: SchemaRef,
    /// The types of the parameters that have no value yet, in their order; `None` where nothing tells.
    pub parameters: Vec<Option<DataType>>,
}

/// Part of a larger question, whose other parts are answered already.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Scope {
    /// Time inside the window that is not asked about.
    pub without: Option<TimeRange>,
    /// The stores that are asked; `None`: all.
    pub only: Option<Arc<[StoreId]>>,
}

impl Question {
    /// A question with the service's defaults.
    pub fn new(sql: impl Into<String>) -> Self {
        Self {
            sql: sql.into(),
            window: None,
            deadline: None,
            min_coverage: None,
            scope: Scope::default(),
            parameters: Vec::new(),
        }
    }
}

/// A complete answer.
#[derive(Debug, Clone)]
pub struct Answer {
    /// Its columns.
    pub schema: SchemaRef,
    /// Its rows.
    pub batches: Vec<RecordBatch>,
    /// How much of the fleet it covers.
    pub coverage: Coverage,
    /// What sampling did to the rows behind it.
    pub sampling: Sampling,
    /// What it cost.
    pub stats: Stats,
    /// A word of advice beside the rows, as for a plain count over sampled rows.
    pub hint: Option<String>,
    /// Stores whose rows are in it.
    pub stores: Vec<StoreId>,
}

/// An answer whose rows come as they are found.
pub struct Rows {
    /// Its columns.
    pub schema: SchemaRef,
    /// Rows, then once what stands beside them; an error ends it at any time. Dropping it ends the question.
    pub parts: BoxStream<'static, Result<Part, AskError>>,
}

/// A part of an answer.
#[derive(Debug)]
pub enum Part {
    /// Some rows.
    Rows(RecordBatch),
    /// The end.
    End(Box<Beside>),
}

/// What stands beside the rows of an answer.
#[derive(Debug, Clone)]
pub struct Beside {
    /// How much of the fleet it covers.
    pub coverage: Coverage,
    /// What sampling did to the rows behind it.
    pub sampling: Sampling,
    /// What it cost.
    pub stats: Stats,
    /// A word of advice.
    pub hint: Option<String>,
}

impl Answer {
    /// What stands beside its rows.
    #[must_use]
    pub fn beside(&self) -> Beside {
        Beside {
            coverage: self.coverage.clone(),
            sampling: self.sampling.clone(),
            stats: self.stats.clone(),
            hint: self.hint.clone(),
        }
    }
}

/// What an answer cost.
#[derive(Debug, Clone, PartialEq, Default, serde::Serialize)]
pub struct Stats {
    /// Milliseconds from question to answer.
    pub elapsed_ms: f64,
    /// Rows of the answer.
    pub rows: u64,
    /// Bytes read from files and hot batches, over all nodes.
    pub bytes_scanned: u64,
    /// Files read, over all nodes.
    pub files_scanned: u64,
    /// What did not have to be read, over all nodes.
    pub pruned: Pruned,
    /// Bytes of rows that nodes sent here, as they lie in memory.
    pub bytes_received: u64,
    /// True if a part of it was kept from before.
    pub cached: bool,
    /// Age of that part in milliseconds.
    pub age_ms: u64,
}

/// Why there is no answer. `Display` is the client's text; what only operators may see is in the source.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// The question is wrong: the client's fault, no retry.
    #[error("{message}")]
    BadQuestion {
        /// What is wrong.
        message: String,
        /// What to do about it.
        hint: Option<String>,
    },
    /// The question needs more than its limits allow.
    #[error("{message}")]
    TooLarge {
        /// Which limit.
        message: String,
        /// How to narrow it.
        hint: Option<String>,
    },
    /// Too many questions are being answered: the same one succeeds shortly.
    #[error("the service already answers {limit} questions")]
    Busy {
        /// How many it answers at once.
        limit: usize,
    },
    /// The caller asks too much at once: the same question succeeds when one of the others has ended.
    #[error("this caller already asks {limit} questions")]
    TooMany {
        /// How many it may ask at once.
        limit: usize,
    },
    /// Nobody took the rows of a streamed answer.
    #[error("nobody took the answer's rows for a minute")]
    Gone,
    /// Coverage is lower than the caller wants.
    #[error("coverage is {ratio:.3}, below the wanted {wanted:.3}")]
    NotCovered {
        /// What it is.
        ratio: f64,
        /// What was wanted.
        wanted: f64,
        /// The whole of it.
        coverage: Box<Coverage>,
    },
    /// Not even a partial answer came in time.
    #[error("no answer within {deadline:?}")]
    Deadline {
        /// The time allowed.
        deadline: Duration,
    },
    /// A fault of ours.
    #[error("the query failed inside the service")]
    Internal {
        /// What operators see in the log.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// Answers questions: the distributed engine, or one process in tests.
#[async_trait]
pub trait Ask: Send + Sync + 'static {
    /// Plans, distributes, merges and tells the coverage.
    async fn ask(&self, question: Question) -> Result<Answer, AskError>;

    /// Plans without asking anybody: for protocols that tell the columns before the rows.
    async fn outline(&self, _question: Question) -> Result<Outline, AskError> {
        Err(AskError::Internal { source: "only the engine plans".into() })
    }

    /// Stores that would answer now, as far as is known.
    fn present(&self) -> Vec<StoreId> {
        Vec::new()
    }

    /// The same, with rows as they come: the answer may be of any size, and whoever reads slowly slows the question down.
    /// Until the first rows are there, what goes wrong is the error of the call.
    async fn stream(&self, question: Question) -> Result<Rows, AskError> {
        let answer = self.ask(question).await?;
        let end = Part::End(Box::new(answer.beside()));
        let parts = answer.batches.into_iter().map(Part::Rows).chain([end]).map(Ok);
        Ok(Rows { schema: answer.schema, parts: stream::iter(parts).boxed() })
    }
}
