//! Decodes OTLP requests into Arrow.

use arrow::array::RecordBatch;
use lariat_schema::vocabulary::Signal;

/// One OTLP request, decoded. The batch has the whole schema of its signal's table (`spans`, `metrics` or `logs`);
/// `observed_time` holds the time of decoding until the commit replaces it, `adjusted_count` is 1 and `keep_reason` is
/// `undecided` (spans) or `always` until the keeping stage decides.
#[derive(Debug, Clone)]
pub struct Decoded {
    /// Which signal, and so which table.
    pub signal: Signal,
    /// The accepted records, a row each.
    pub batch: RecordBatch,
    /// For each row the key that a duplicate shares: of a span its trace and span id, of a point its series and time,
    /// of a log record its content.
    pub keys: Vec<u128>,
    /// For each row a hash of its content: the same key with other content is a conflict, not a duplicate.
    pub contents: Vec<u64>,
    /// Hash of the request's uncompressed body: a retry resends the same bytes.
    pub fingerprint: u128,
    /// Length of the uncompressed body in bytes.
    pub body_bytes: usize,
    /// Records refused, to be reported as `partial_success`.
    pub rejected: u64,
    /// Why, for the first of them.
    pub reason: Option<String>,
    /// Whether the sender may name `account_id`, `profile`, `decision_seq` and thresholds.
    pub trusted: bool,
}
